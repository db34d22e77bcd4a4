/**
 * The append messages that were sent to one follower and not yet acknowledged: a queue bounded by count and by bytes.
 *
 * Each message is remembered by the index of its last entry; acknowledging an index frees every message up to it.
 * Invariant: indexes are strictly increasing, and `count <= countMax`. The byte limit is soft by one message: the message
 * that crosses it is let through, and the queue is full from then on.
 */
import { assert, must } from "../std/assert.ts";

/** A first-in first-out window of sent messages. */
export class Inflights {
  readonly #countMax: number;
  readonly #bytesMax: number;
  #indexes: number[] = [];
  #sizes: number[] = [];
  #head = 0;
  #bytes = 0;

  /**
   * @param countMax how many messages may be in flight, at least 1
   * @param bytesMax how many bytes of payload make it full; 0 for no limit
   */
  constructor(countMax: number, bytesMax: number) {
    assert(countMax >= 1, `at least one message may be in flight, got ${countMax}`);
    this.#countMax = countMax;
    this.#bytesMax = bytesMax;
  }

  /** How many messages are in flight. */
  get count(): number {
    return this.#indexes.length - this.#head;
  }

  /** Payload bytes in flight. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Whether no further message with entries may be sent. */
  get isFull(): boolean {
    return this.count >= this.#countMax || (this.#bytesMax > 0 && this.#bytes >= this.#bytesMax);
  }

  /** Notes a message whose last entry is `index` and whose payload is `sizeBytes`. The window must not be full. */
  add(index: number, sizeBytes: number): void {
    assert(!this.isFull, `cannot add index ${index} to a full window of ${this.count} messages`);
    const last = this.#indexes.at(-1);
    assert(this.count === 0 || last === undefined || last < index, `index ${index} is not above ${last}`);
    this.#indexes.push(index);
    this.#sizes.push(sizeBytes);
    this.#bytes += sizeBytes;
  }

  /** Forgets the messages whose last entry is at or below `index`. */
  freeTo(index: number): void {
    while (this.#head < this.#indexes.length && must(this.#indexes[this.#head], "in range") <= index) {
      this.#bytes -= must(this.#sizes[this.#head], "in range");
      this.#head += 1;
    }
    // Cut off only when at least half is freed: O(1) amortized.
    if (this.#head > 0 && this.#head >= this.count) {
      this.#indexes = this.#indexes.slice(this.#head);
      this.#sizes = this.#sizes.slice(this.#head);
      this.#head = 0;
    }
  }

  /** Forgets everything. */
  reset(): void {
    this.#indexes = [];
    this.#sizes = [];
    this.#head = 0;
    this.#bytes = 0;
  }
}
