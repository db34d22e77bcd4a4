/**
 * What one command wants to write, by key: a few records nearly always, a thousand for a piece of a folder's copy.
 *
 * Few records are found by looking at all of them, which costs less than keeping them in order; beyond LINEAR_COUNT_MAX a sorted
 * index finds them. Iteration is in the order in which keys were first written, the same on every member.
 */
import { must } from "../std/assert.ts";
import { REMOVED, type Overlaid } from "../std/layers.ts";
import type { OrderedTransaction } from "../std/ordered-store.ts";
import { SortedMap, type SortedView } from "../std/sorted-map.ts";

/** With more records than this there is a sorted index of them. */
export const LINEAR_COUNT_MAX = 16;

interface Write {
  readonly key: Uint8Array;
  value: Overlaid;
  /** Whether the record is certainly not in the store yet. */
  isInsertion: boolean;
}

/** The writes of one command. */
export class Overlay implements SortedView<Overlaid> {
  readonly #writes: Write[] = [];
  #index: SortedMap<Write> | undefined;

  /** How many keys are written. */
  get size(): number {
    return this.#writes.length;
  }

  get(key: Uint8Array): Overlaid | undefined {
    return this.#find(key)?.value;
  }

  /** @param isInsertion whether the record certainly is not in the store; a later write of the key does not change that */
  set(key: Uint8Array, value: Overlaid, isInsertion: boolean): void {
    const known = this.#find(key);
    if (known !== undefined) {
      known.value = value;
      known.isInsertion ||= isInsertion;
      return;
    }
    const write: Write = { key, value, isInsertion };
    this.#writes.push(write);
    if (this.#index !== undefined) this.#index.set(key, write);
    else if (this.#writes.length > LINEAR_COUNT_MAX) this.#index = indexOf(this.#writes);
  }

  *range(from: Uint8Array, to: Uint8Array | undefined, reverse: boolean): Iterable<[Uint8Array, Overlaid]> {
    // An index made for one scan: scans are rare, and mostly of what is below.
    const index = this.#index ?? indexOf(this.#writes);
    for (const [key, { value }] of index.range(from, to, reverse)) yield [key, value];
  }

  /** Writes everything into `transaction`. */
  writeTo(transaction: OrderedTransaction): void {
    for (const { key, value, isInsertion } of this.#writes) {
      if (value === REMOVED) transaction.delete(key);
      else if (isInsertion) transaction.insert(key, value);
      else transaction.put(key, value);
    }
  }

  #find(key: Uint8Array): Write | undefined {
    if (this.#index !== undefined) return this.#index.get(key);
    const writes = this.#writes;
    for (let at = 0; at < writes.length; at += 1) {
      const write = must(writes[at], "inside the writes");
      if (isSame(write.key, key)) return write;
    }
    return undefined;
  }
}

function indexOf(writes: readonly Write[]): SortedMap<Write> {
  const index = new SortedMap<Write>();
  for (const write of writes) index.set(write.key, write);
  return index;
}

function isSame(a: Uint8Array, b: Uint8Array): boolean {
  if (a.length !== b.length) return false;
  // From the end: keys of one table begin alike.
  for (let at = a.length - 1; at >= 0; at -= 1) if (a[at] !== b[at]) return false;
  return true;
}
