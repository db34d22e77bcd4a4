/** The best of many in an order, with memory for no more than are wanted. */

/** Keeps the `countMax` smallest of what was offered, in order. */
export class TopList<T> {
  readonly #items: T[] = [];
  readonly #countMax: number;
  readonly #compare: (a: T, b: T) => number;

  constructor(countMax: number, compare: (a: T, b: T) => number) {
    this.#countMax = countMax;
    this.#compare = compare;
  }

  /** Takes an item in if it belongs to the best so far. */
  offer(item: T): void {
    const items = this.#items;
    const last = items.at(-1);
    if (items.length === this.#countMax && last !== undefined && this.#compare(item, last) >= 0) return;
    let low = 0;
    let high = items.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#compare(items[middle] as T, item) <= 0) low = middle + 1;
      else high = middle;
    }
    items.splice(low, 0, item);
    if (items.length > this.#countMax) items.pop();
  }

  /** The best, in order. */
  get items(): readonly T[] {
    return this.#items;
  }
}
