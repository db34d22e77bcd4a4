/**
 * Lines to standard output, at once and in order. It neither throws, waits nor ends the process: what the other side does
 * not take (a full disk, a reader that went away or is slow) is dropped and counted, and the count is told once it takes lines again.
 *
 * pino's own destination ends the process by an uncaught error when a write fails, and sleeps and tries again for ever while it does.
 */
import { writeSync } from "node:fs";
import { errnoOf } from "./disk.ts";
import { utf8 } from "./bytes.ts";

/** Bytes of lines that wait for a slow reader; lines beyond are dropped. */
export const WAITING_SIZE_BYTES_MAX = 1024 * 1024;

const NEWLINE = utf8("\n");

/** What a LineOutput needs. */
export interface LineOutputOptions {
  /** As node:fs has it: returns the bytes it took, throws errors of the operating system. */
  readonly write?: (bytes: Uint8Array) => number;
  /** Told how many lines were dropped, when the first one is taken again; may write a line itself. */
  readonly onResumed: (droppedCount: number) => void;
}

/** Standard output as a destination; see the head of this file. */
export class LineOutput {
  readonly #writeSome: (bytes: Uint8Array) => number;
  readonly #onResumed: (droppedCount: number) => void;
  #waiting: Uint8Array[] = [];
  #waitingSizeBytes = 0;
  #droppedCount = 0;
  /** A part of the first line that waits is out. */
  #isPartial = false;
  /** A part of a line is out and its rest is dropped: what comes next must not follow on the same line. */
  #isTorn = false;

  constructor({ write = (bytes) => writeSync(1, bytes), onResumed }: LineOutputOptions) {
    this.#writeSome = write;
    this.#onResumed = onResumed;
  }

  /** Bytes that wait; at most WAITING_SIZE_BYTES_MAX. */
  get waitingSizeBytes(): number {
    return this.#waitingSizeBytes;
  }

  write(line: string): void {
    const bytes = utf8(line);
    // What waits is tried first, so that lines stay in order.
    this.#flush();
    if (this.#waitingSizeBytes + bytes.length > WAITING_SIZE_BYTES_MAX) {
      this.#droppedCount += 1;
      return;
    }
    this.#waiting.push(bytes);
    this.#waitingSizeBytes += bytes.length;
    if (!this.#flush() || this.#droppedCount === 0) return;
    const droppedCount = this.#droppedCount;
    this.#droppedCount = 0;
    this.#onResumed(droppedCount);
  }

  /** Whether all that waited is out. */
  #flush(): boolean {
    try {
      if (this.#isTorn) {
        this.#writeSome(NEWLINE);
        this.#isTorn = false;
      }
      for (let first = this.#waiting[0]; first !== undefined; first = this.#waiting[0]) {
        const taken = this.#writeSome(first);
        this.#waitingSizeBytes -= taken;
        this.#isPartial = taken < first.length;
        if (this.#isPartial) this.#waiting[0] = first.subarray(taken);
        else this.#waiting.shift();
        if (taken === 0) return false;
      }
      return true;
    } catch (error) {
      // A slow reader: the lines wait for the next one.
      if (errnoOf(error) !== "EAGAIN") this.#drop();
      return false;
    }
  }

  #drop(): void {
    this.#isTorn ||= this.#isPartial;
    this.#isPartial = false;
    this.#droppedCount += this.#waiting.length;
    this.#waiting = [];
    this.#waitingSizeBytes = 0;
  }
}
