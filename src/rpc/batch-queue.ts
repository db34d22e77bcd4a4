/**
 * A queue with a limit whose consumer takes what has gathered as one batch: many small messages of a stream become one.
 *
 * A batch holds what was offered until the end of the turn of the event loop in which its first value came, and what came while
 * the consumer was busy with the one before it. Invariants: no more than countMax values wait; a batch has 1 to batchCountMax
 * values, whose sizes come to batchBytesMax at most unless it has only one. A full queue refuses; it never drops.
 */
import { assert } from "../std/assert.ts";
import { deferred, type Deferred } from "../std/deferred.ts";
import { endOfTurn } from "../std/turn.ts";

/** Bounds of a BatchQueue. */
export interface BatchOptions<T> {
  /** How many values may wait, at least 1. */
  readonly countMax: number;
  /** Values in one batch at most, at least 1. */
  readonly batchCountMax: number;
  readonly batchBytesMax: number;
  /** Bytes that a value counts for. */
  readonly sizeOf: (value: T) => number;
}

/** Values from any number of producers, in order, in batches for one consumer. */
export class BatchQueue<T> implements AsyncIterable<readonly T[]> {
  readonly #options: BatchOptions<T>;
  #values: T[] = [];
  #waiting: Deferred<void> | undefined;
  #end: { readonly error?: Error } | undefined;

  constructor(options: BatchOptions<T>) {
    assert(
      options.countMax >= 1 && options.batchCountMax >= 1,
      "a queue and a batch hold at least one value",
    );
    this.#options = options;
  }

  /** Appends `value`; returns false, and keeps nothing, when the queue is full or ended. */
  offer(value: T): boolean {
    if (this.#end !== undefined || this.#values.length >= this.#options.countMax) return false;
    this.#values.push(value);
    this.#waiting?.resolve();
    return true;
  }

  /** Ends the queue: values that wait are still delivered, then the consumer ends, or throws `error`. */
  end(error?: Error): void {
    if (this.#end !== undefined) return;
    this.#end = error === undefined ? {} : { error };
    this.#waiting?.resolve();
  }

  async *[Symbol.asyncIterator](): AsyncIterator<readonly T[]> {
    try {
      for (;;) {
        while (this.#values.length > 0) yield this.#take();
        if (this.#end !== undefined) {
          if (this.#end.error !== undefined) throw this.#end.error;
          return;
        }
        this.#waiting = deferred<void>();
        await this.#waiting.promise;
        this.#waiting = undefined;
        // Those who came with the first one go along.
        if (this.#end === undefined && this.#options.batchCountMax > 1) await endOfTurn();
      }
    } finally {
      this.end();
      this.#values = [];
    }
  }

  #take(): readonly T[] {
    const { batchCountMax, batchBytesMax, sizeOf } = this.#options;
    let count = 0;
    let sizeBytes = 0;
    for (const value of this.#values) {
      sizeBytes += sizeOf(value);
      if (count > 0 && (count === batchCountMax || sizeBytes > batchBytesMax)) break;
      count += 1;
    }
    const batch = this.#values.slice(0, count);
    this.#values = this.#values.slice(count);
    return batch;
  }
}
