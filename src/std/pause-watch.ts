/**
 * How long the event loop stands still, and whose doing that is.
 *
 * A timer that should come every PAUSE_INTERVAL_MS comes late by as long as one turn of the event loop took. On a busy machine
 * most of that can be time in which the thread was ready and another one had the core: the kernel counts that apart, so that a
 * node's own pauses (running, or blocked by a page that was not in memory or by a lock) can be told from those of the machine.
 */
import { closeSync, openSync, readSync } from "node:fs";
import type { Clock, Timer } from "./clock.ts";

/** How often the timer should come: shorter delays of the event loop are not seen apart. */
export const PAUSE_INTERVAL_MS = 10;

/** Turns that took less than this beyond the interval are not told. */
export const PAUSE_MS_MIN = 5;

/** A turn of the event loop that took long. All times in milliseconds. */
export interface Pause {
  /** How late the timer was. */
  readonly totalMs: number;
  /**
   * Without the time in which the thread waited for a core: what the program took, or what it waited for: a page from the disk, a
   * lock, a helper thread of the garbage collector that had no core.
   */
  readonly ownMs: number;
  /** Of that, what the thread ran. */
  readonly runningMs: number;
}

/** Times of a thread since its start, in milliseconds. */
export interface ThreadTimes {
  readonly runningMs: number;
  /** Ready to run, and not let. */
  readonly waitingMs: number;
}

/** The times of the main thread; undefined where nobody counts them. */
export type ReadThreadTimes = () => ThreadTimes | undefined;

/** Watches the event loop of this process. */
export class PauseWatch {
  readonly #clock: Clock;
  readonly #readTimes: ReadThreadTimes;
  readonly #onPause: (pause: Pause) => void;
  #timer: Timer | undefined;

  constructor(clock: Clock, readTimes: ReadThreadTimes, onPause: (pause: Pause) => void) {
    this.#clock = clock;
    this.#readTimes = readTimes;
    this.#onPause = onPause;
  }

  /** Begins; once. */
  start(): void {
    this.#next();
  }

  #next(): void {
    const lastMs = this.#clock.monotonicMs();
    const last = this.#readTimes();
    this.#timer = this.#clock.setTimer(PAUSE_INTERVAL_MS, () => {
      const totalMs = this.#clock.monotonicMs() - lastMs - PAUSE_INTERVAL_MS;
      if (totalMs >= PAUSE_MS_MIN) {
        const now = this.#readTimes();
        const since = (time: keyof ThreadTimes): number => (now?.[time] ?? 0) - (last?.[time] ?? 0);
        const ownMs = Math.max(0, totalMs - since("waitingMs"));
        const runningMs = now === undefined ? ownMs : Math.min(ownMs, since("runningMs"));
        this.#onPause({ totalMs, ownMs, runningMs });
      }
      this.#next();
    });
  }

  /** Ends. */
  stop(): void {
    this.#timer?.cancel();
  }
}

/** The times of the process's main thread as Linux counts them. Keeps one file open. */
export function mainThreadTimes(): ReadThreadTimes {
  let descriptor: number;
  try {
    // Of the process's first thread, which is the one that runs the event loop.
    descriptor = openSync(`/proc/self/task/${process.pid}/schedstat`, "r");
  } catch {
    return () => undefined;
  }
  const bytes = Buffer.alloc(64);
  let isOpen = true;
  return () => {
    if (!isOpen) return undefined;
    // Running time, waiting time and turns, in nanoseconds.
    const text = bytes.toString("latin1", 0, readSync(descriptor, bytes, 0, bytes.length, 0));
    const [runningNs = NaN, waitingNs = NaN] = text.split(" ").map(Number);
    if (runningNs + waitingNs >= 0) return { runningMs: runningNs / 1e6, waitingMs: waitingNs / 1e6 };
    isOpen = false;
    closeSync(descriptor);
    return undefined;
  };
}
