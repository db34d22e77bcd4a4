/**
 * The pace of work that a node does by itself: so many bytes a second, fewer while users move bytes.
 *
 * take() is called before each piece and waits until it is that piece's turn; pieces of several workers share one pace. Work
 * that yields still goes on, at a trickle: a cluster that is never idle must become whole all the same.
 */
import { throwIfCanceled } from "../cluster/deadline.ts";
import { assert } from "../std/assert.ts";
import { sleep, type Clock } from "../std/clock.ts";

/** A pace never waits longer than this for one piece, however slow: the answer to "may I" changes meanwhile. */
export const PACE_WAIT_MS_MAX = 5_000;

/** What a BackgroundPace needs. */
export interface BackgroundPaceOptions {
  readonly clock: Clock;
  /** Bytes a second while nobody else needs the node; Infinity: as fast as it goes. Asked for each piece. */
  readonly bytesPerSecond: () => number;
  /** Bytes a second while users move bytes. */
  readonly busyBytesPerSecond: number;
  /** Whether users move bytes now. */
  readonly isBusy: () => boolean;
}

/** A pace that any number of workers share. */
export class BackgroundPace {
  readonly #options: BackgroundPaceOptions;
  #freeAtMs = -Infinity;

  constructor(options: BackgroundPaceOptions) {
    assert(options.busyBytesPerSecond > 0, "work that yields goes on");
    this.#options = options;
  }

  /** Waits for the turn of a piece of `sizeBytes`. @throws DriveError CANCELED, or the reason of the signal */
  async take(sizeBytes: number, signal?: AbortSignal): Promise<void> {
    throwIfCanceled(signal);
    const { clock, isBusy, busyBytesPerSecond } = this.#options;
    const full = this.#options.bytesPerSecond();
    const rate = isBusy() ? Math.min(full, busyBytesPerSecond) : full;
    const now = clock.monotonicMs();
    const turnMs = Math.max(now, this.#freeAtMs);
    this.#freeAtMs = turnMs + (rate === Infinity ? 0 : (sizeBytes * 1000) / rate);
    const waitMs = Math.ceil(Math.min(turnMs - now, PACE_WAIT_MS_MAX));
    if (waitMs <= 0) return;
    // Held up by at most the bound: a debt from a busy time is not carried into an idle one.
    if (turnMs - now > PACE_WAIT_MS_MAX) this.#freeAtMs = now + PACE_WAIT_MS_MAX;
    try {
      await sleep(clock, waitMs, signal);
    } catch (error) {
      throwIfCanceled(signal);
      throw error;
    }
  }
}
