/**
 * Where the entries of the Raft log lie on disk: term, segment, offset and size by index, for a contiguous range of indexes.
 *
 * Kept in one flat array of numbers, 32 bytes an entry, so that a log of a million entries costs 32 MB and no work for the
 * garbage collector. Invariant: the range is [firstIndex, lastIndex]; empty when lastIndex = firstIndex - 1.
 */
import { assert, must } from "../std/assert.ts";

/** Place of one entry. */
export interface EntryPlace {
  readonly term: number;
  readonly segmentId: number;
  readonly offset: number;
  /** Bytes of the whole record. */
  readonly sizeBytes: number;
}

const FIELD_COUNT = 4;
const CAPACITY_MIN = 1024;

/** Places by index. */
export class LogIndex {
  #fields = new Float64Array(CAPACITY_MIN * FIELD_COUNT);
  /** Slot of the first entry: grows as the front is cut. */
  #start = 0;
  #firstIndex: number;
  #count = 0;
  #sizeBytes = 0;

  /** @param firstIndex index that the first entry will have */
  constructor(firstIndex: number) {
    this.#firstIndex = firstIndex;
  }

  get firstIndex(): number {
    return this.#firstIndex;
  }

  get lastIndex(): number {
    return this.#firstIndex + this.#count - 1;
  }

  /** Bytes of all records in the range. */
  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  /** Adds the entry behind the last one. */
  push(place: EntryPlace): void {
    const end = (this.#start + this.#count) * FIELD_COUNT;
    if (end === this.#fields.length) this.#makeRoom();
    const at = (this.#start + this.#count) * FIELD_COUNT;
    this.#fields[at] = place.term;
    this.#fields[at + 1] = place.segmentId;
    this.#fields[at + 2] = place.offset;
    this.#fields[at + 3] = place.sizeBytes;
    this.#count += 1;
    this.#sizeBytes += place.sizeBytes;
  }

  /** Term of the entry at `index`, which must be in the range. */
  term(index: number): number {
    return this.#field(index, 0);
  }

  /** Place of the entry at `index`, which must be in the range. */
  place(index: number): EntryPlace {
    return {
      term: this.#field(index, 0),
      segmentId: this.#field(index, 1),
      offset: this.#field(index, 2),
      sizeBytes: this.#field(index, 3),
    };
  }

  /** Drops entries from `index` on. */
  cutEnd(index: number): void {
    assert(index >= this.#firstIndex, `cannot cut from ${index} below ${this.#firstIndex}`);
    for (let last = this.lastIndex; last >= index; last -= 1) {
      this.#sizeBytes -= this.#field(last, 3);
      this.#count -= 1;
    }
  }

  /** Drops entries below `index`, which becomes the first; may lie one beyond the last. */
  cutFront(index: number): void {
    assert(index <= this.lastIndex + 1, `cannot cut to ${index} beyond ${this.lastIndex}`);
    while (this.#firstIndex < index) {
      this.#sizeBytes -= this.#field(this.#firstIndex, 3);
      this.#start += 1;
      this.#count -= 1;
      this.#firstIndex += 1;
    }
  }

  /** The lowest index from which on there are at most `countMax` entries of at most `sizeBytesMax`; lastIndex + 1 for none. */
  findTail(countMax: number, sizeBytesMax: number): number {
    let index = this.lastIndex + 1;
    let sizeBytes = 0;
    while (index > this.#firstIndex && this.lastIndex + 1 - index < countMax) {
      sizeBytes += this.#field(index - 1, 3);
      if (sizeBytes > sizeBytesMax) break;
      index -= 1;
    }
    return index;
  }

  #field(index: number, field: number): number {
    assert(index >= this.#firstIndex && index <= this.lastIndex, `index ${index} is not in the log`);
    const slot = this.#start + index - this.#firstIndex;
    return must(this.#fields[slot * FIELD_COUNT + field], "inside the array");
  }

  /** Moves what is there to the front, into an array twice as large as it needs. */
  #makeRoom(): void {
    const used = this.#fields.subarray(this.#start * FIELD_COUNT, (this.#start + this.#count) * FIELD_COUNT);
    const fields = new Float64Array(Math.max(CAPACITY_MIN, this.#count * 2) * FIELD_COUNT);
    fields.set(used);
    this.#fields = fields;
    this.#start = 0;
  }
}
