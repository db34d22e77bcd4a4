/**
 * Time as a dependency. Nothing outside std/ reads a clock or sets a timer; everyone is handed a Clock, so that the
 * simulator can run a whole cluster under virtual time.
 */

/** A pending timer. */
export interface Timer {
  /** Prevents the callback from running. Harmless when it already ran or was cancelled. */
  cancel(): void;
}

/** The passage of time, as one process sees it. */
export interface Clock {
  /** Milliseconds since an arbitrary start; never goes back; unaffected by changes of the wall clock. */
  monotonicMs(): number;
  /** Milliseconds since 1970 UTC. Display data only: may jump in either direction. */
  wallMs(): number;
  /** Runs `callback` once after at least `delayMs` (0 to 2^31-1). A pending timer does not keep the process alive. */
  setTimer(delayMs: number, callback: () => void): Timer;
}

/** The clock of the machine. */
export class SystemClock implements Clock {
  monotonicMs(): number {
    return performance.now();
  }

  wallMs(): number {
    return Date.now();
  }

  setTimer(delayMs: number, callback: () => void): Timer {
    const handle = setTimeout(callback, delayMs);
    handle.unref();
    return { cancel: () => clearTimeout(handle) };
  }
}

/** Resolves after `delayMs`; rejects with the signal's reason as soon as `signal` aborts. */
export function sleep(clock: Clock, delayMs: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted === true) {
      reject(signal.reason as Error);
      return;
    }
    const onAbort = (): void => {
      timer.cancel();
      reject(signal?.reason as Error);
    };
    const timer = clock.setTimer(delayMs, () => {
      signal?.removeEventListener("abort", onAbort);
      resolve();
    });
    signal?.addEventListener("abort", onAbort, { once: true });
  });
}

/**
 * A timer that comes later than this says that the process stood still: it was stopped, or had no core. What it waited for did
 * not get its chance to answer.
 */
export const STOOD_STILL_MS = 1000;

/**
 * Runs `work` and rejects with `onTimeout()` when it has not settled after `timeoutMs`; time in which this process stood still
 * does not count. The work itself goes on; pass it an AbortSignal if it must stop.
 */
export function withTimeout<T>(
  clock: Clock,
  timeoutMs: number,
  work: Promise<T>,
  onTimeout: () => Error,
): Promise<T> {
  return new Promise((resolve, reject) => {
    let timer: Timer;
    const begin = (): void => {
      const dueMs = clock.monotonicMs() + timeoutMs;
      timer = clock.setTimer(timeoutMs, () => {
        if (clock.monotonicMs() - dueMs > STOOD_STILL_MS) begin();
        else reject(onTimeout());
      });
    };
    begin();
    work.then(
      (value) => {
        timer.cancel();
        resolve(value);
      },
      (error: unknown) => {
        timer.cancel();
        reject(error as Error);
      },
    );
  });
}
