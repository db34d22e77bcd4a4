/**
 * Which file each segment had when it was last known to be right, and how long that was: 16 bytes a segment, for as many as there are.
 *
 * Rows of four 32-bit numbers in the order of the segments, and a few newer ones beside them until they are worth merging. Does no I/O.
 */
import { assert } from "../std/assert.ts";
import type { FileStat } from "../std/disk.ts";

/** Numbers of a row: segment, file number, time of making, size. */
const ROW_LENGTH = 4;

/** Newer entries are merged when there are so many, and an eighth of the rows. */
const RECENT_COUNT_MIN = 1024;

/** The files of the segments of one directory. */
export class FileRegister {
  #rows = new Uint32Array(0);
  /** Changes since the rows were made; undefined: forgotten. */
  #recent = new Map<number, FileStat | undefined>();

  /** Bytes that the rows take. */
  get sizeBytes(): number {
    return this.#rows.byteLength;
  }

  /** What was kept of a segment. */
  find(segmentId: number): FileStat | undefined {
    if (this.#recent.has(segmentId)) return this.#recent.get(segmentId);
    const row = this.#rowOf(segmentId);
    return row === undefined ? undefined : this.#statAt(row);
  }

  /** Keeps what is so of a segment below 2^32, whose file is below 4 GiB. */
  set(segmentId: number, stat: FileStat): void {
    assert(segmentId < 2 ** 32, `segment ${segmentId} does not fit in a row`);
    this.#recent.set(segmentId, { ...stat, sizeBytes: Math.min(stat.sizeBytes, 2 ** 32 - 1) });
    if (this.#recent.size >= RECENT_COUNT_MIN + this.#rows.length / ROW_LENGTH / 8) this.#merge();
  }

  /** Forgets a segment. */
  forget(segmentId: number): void {
    if (this.#rowOf(segmentId) === undefined) this.#recent.delete(segmentId);
    else this.#recent.set(segmentId, undefined);
  }

  #statAt(row: number): FileStat {
    const [, fileNumber = 0, madeAt = 0, sizeBytes = 0] = this.#rows.subarray(row, row + ROW_LENGTH);
    return { fileNumber, madeAt, sizeBytes };
  }

  /** Where the row of a segment begins. */
  #rowOf(segmentId: number): number | undefined {
    let low = 0;
    let high = this.#rows.length / ROW_LENGTH;
    while (low < high) {
      const middle = (low + high) >>> 1;
      const found = this.#rows[middle * ROW_LENGTH] ?? 0;
      if (found === segmentId) return middle * ROW_LENGTH;
      if (found < segmentId) low = middle + 1;
      else high = middle;
    }
    return undefined;
  }

  #merge(): void {
    const recent = [...this.#recent].sort(([a], [b]) => a - b);
    const rows = new Uint32Array(this.#rows.length + recent.length * ROW_LENGTH);
    let length = 0;
    let at = 0;
    const keepBelow = (segmentId: number): void => {
      for (; at < this.#rows.length && (this.#rows[at] ?? 0) < segmentId; at += ROW_LENGTH) {
        rows.set(this.#rows.subarray(at, at + ROW_LENGTH), length);
        length += ROW_LENGTH;
      }
    };
    for (const [segmentId, stat] of recent) {
      keepBelow(segmentId);
      if (this.#rows[at] === segmentId) at += ROW_LENGTH;
      if (stat === undefined) continue;
      rows.set([segmentId, stat.fileNumber, stat.madeAt, stat.sizeBytes], length);
      length += ROW_LENGTH;
    }
    keepBelow(Infinity);
    this.#rows = rows.slice(0, length);
    this.#recent = new Map();
  }
}
