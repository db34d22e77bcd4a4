/**
 * A queue with a limit, between a producer that can be told "full" and a consumer that waits.
 *
 * Invariant: count <= countMax. A full queue refuses; it never drops and never grows.
 */
import { assert } from "./assert.ts";
import { deferred, type Deferred } from "./deferred.ts";

/** A first-in first-out queue of at most `countMax` values, consumed as an async iterable by one consumer. */
export class BoundedQueue<T> implements AsyncIterable<T> {
  readonly #values: T[] = [];
  readonly #countMax: number;
  #waiting: Deferred<void> | undefined;
  #space: Deferred<void> | undefined;
  #end: { error?: Error } | undefined;

  /** @param countMax how many values may wait, at least 1 */
  constructor(countMax: number) {
    assert(countMax >= 1, `a queue holds at least one value, got ${countMax}`);
    this.#countMax = countMax;
  }

  /** How many values wait. */
  get count(): number {
    return this.#values.length;
  }

  /** Appends `value`; returns false, and keeps nothing, when the queue is full or ended. */
  offer(value: T): boolean {
    if (this.#end !== undefined || this.#values.length >= this.#countMax) return false;
    this.#values.push(value);
    this.#waiting?.resolve();
    return true;
  }

  /** Appends `value`, waiting for space; resolves to false when the queue has ended. One producer at a time. */
  async push(value: T): Promise<boolean> {
    while (!this.offer(value)) {
      if (this.#end !== undefined) return false;
      this.#space = deferred<void>();
      await this.#space.promise;
    }
    return true;
  }

  /** Ends the queue: values that wait are still delivered, then the consumer ends, or throws `error`. */
  end(error?: Error): void {
    if (this.#end !== undefined) return;
    this.#end = error === undefined ? {} : { error };
    this.#waiting?.resolve();
    this.#space?.resolve();
  }

  async *[Symbol.asyncIterator](): AsyncIterator<T> {
    try {
      for (;;) {
        while (this.#values.length > 0) {
          const value = this.#values.shift() as T;
          this.#space?.resolve();
          this.#space = undefined;
          yield value;
        }
        if (this.#end !== undefined) {
          if (this.#end.error !== undefined) throw this.#end.error;
          return;
        }
        this.#waiting = deferred<void>();
        await this.#waiting.promise;
        this.#waiting = undefined;
      }
    } finally {
      this.end();
      this.#values.length = 0;
    }
  }
}
