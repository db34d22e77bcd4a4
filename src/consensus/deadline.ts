/** Waiting with an end: for an answer, or for a condition, under a Clock. */
import { DriveError } from "../drive/errors.ts";
import type { Clock, Timer } from "../std/clock.ts";

/** How waitFor() may end otherwise. */
export interface WaitOptions {
  readonly timeoutMs: number;
  readonly signal?: AbortSignal | undefined;
  /** Makes the error when the time is up. */
  readonly onTimeout: () => Error;
  /** Makes the error when the signal aborts; CANCELED when absent. */
  readonly onAbort?: (() => Error) | undefined;
}

/** The outcome of `work`, unless the time is up or the signal aborts first. The work itself goes on. */
export function waitFor<T>(clock: Clock, work: Promise<T>, options: WaitOptions): Promise<T> {
  const { timeoutMs, signal, onTimeout, onAbort } = options;
  return new Promise((resolve, reject) => {
    const abort = (): void => {
      end();
      reject(onAbort?.() ?? new DriveError("CANCELED", "The caller does not wait any longer."));
    };
    const timer = clock.setTimer(timeoutMs, () => {
      end();
      reject(onTimeout());
    });
    const end = (): void => {
      timer.cancel();
      signal?.removeEventListener("abort", abort);
    };
    signal?.addEventListener("abort", abort, { once: true });
    work.then(
      (value) => {
        end();
        resolve(value);
      },
      (error: unknown) => {
        end();
        reject(error as Error);
      },
    );
    if (signal?.aborted === true) abort();
  });
}

/** The outcome of `work`, unless the signal aborts first: then its reason. The work itself goes on. */
export function untilAborted<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const abort = (): void => reject(signal.reason as Error);
    if (signal.aborted) abort();
    else signal.addEventListener("abort", abort, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener("abort", abort));
  });
}

/**
 * Resolves to true once `condition` holds, looked at now and after every change that `subscribe` tells of; to false when the
 * time is up first. Rejects with CANCELED when the signal aborts.
 */
export async function waitUntil(
  clock: Clock,
  timeoutMs: number,
  subscribe: (changed: () => void) => () => void,
  condition: () => boolean,
  signal?: AbortSignal,
): Promise<boolean> {
  if (condition()) return true;
  let unsubscribe: (() => void) | undefined;
  const timedOut = new Error("time is up");
  const change = new Promise<void>((resolve) => {
    unsubscribe = subscribe(() => {
      if (condition()) resolve();
    });
  });
  try {
    await waitFor(clock, change, { timeoutMs, signal, onTimeout: () => timedOut });
    return true;
  } catch (error) {
    if (error === timedOut) return condition();
    throw error;
  } finally {
    unsubscribe?.();
  }
}

/** Hears of progress, and tells once when there was none for a time. */
export class StallWatch {
  readonly #clock: Clock;
  readonly #stallMs: number;
  readonly #onStall: () => void;
  #progressMs: number;
  #timer: Timer;

  /** @param stallMs without progress() after which `onStall` is called, in milliseconds */
  constructor(clock: Clock, stallMs: number, onStall: () => void) {
    this.#clock = clock;
    this.#stallMs = stallMs;
    this.#onStall = onStall;
    this.#progressMs = clock.monotonicMs();
    this.#timer = clock.setTimer(stallMs, () => this.#look());
  }

  /** Work goes on. Cheap. */
  progress(): void {
    this.#progressMs = this.#clock.monotonicMs();
  }

  /** Ends watching. */
  stop(): void {
    this.#timer.cancel();
  }

  #look(): void {
    const leftMs = this.#progressMs + this.#stallMs - this.#clock.monotonicMs();
    if (leftMs <= 0) this.#onStall();
    else this.#timer = this.#clock.setTimer(leftMs, () => this.#look());
  }
}
