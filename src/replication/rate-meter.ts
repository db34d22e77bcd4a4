/** How many bytes a second something moved of late: a sum over whole seconds of the last half minute. */
import type { Clock } from "../std/clock.ts";

/** Seconds that a rate looks back. */
export const RATE_WINDOW_SECONDS = 30;

/** A rate over the last RATE_WINDOW_SECONDS. */
export class RateMeter {
  readonly #clock: Clock;
  /** Bytes by second. */
  readonly #seconds = new Map<number, number>();
  #totalBytes = 0;
  /** The second of the first bytes after a pause of a whole window. */
  #since = 0;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Bytes since the start of the process. */
  get totalBytes(): number {
    return this.#totalBytes;
  }

  /** Counts bytes that were moved now. */
  add(sizeBytes: number): void {
    const second = this.#second();
    this.#forget(second);
    if (this.#seconds.size === 0) this.#since = second;
    this.#seconds.set(second, (this.#seconds.get(second) ?? 0) + sizeBytes);
    this.#totalBytes += sizeBytes;
  }

  /**
   * Bytes a second over the window. 0, for "not known yet", until bytes were moved for a whole window: the first seconds are of
   * whatever comes first, often small files, and what is extrapolated from them is wrong by orders of magnitude.
   */
  bytesPerSecond(): number {
    const now = this.#second();
    this.#forget(now);
    if (this.#seconds.size === 0 || now - this.#since < RATE_WINDOW_SECONDS) return 0;
    let sum = 0;
    for (const sizeBytes of this.#seconds.values()) sum += sizeBytes;
    return sum / RATE_WINDOW_SECONDS;
  }

  #second(): number {
    return Math.floor(this.#clock.monotonicMs() / 1000);
  }

  #forget(now: number): void {
    for (const second of this.#seconds.keys()) {
      if (second > now - RATE_WINDOW_SECONDS) break;
      this.#seconds.delete(second);
    }
  }
}
