/** Waiting for real processes: polls a named condition instead of sleeping and hoping. */
import { SystemClock, sleep } from "../../src/std/clock.ts";

const clock = new SystemClock();

/**
 * Polls `condition` until it returns something other than undefined or false, and returns that.
 * @throws an error with `what` and the last failure when `withinMs` has passed
 */
export async function eventually<T>(
  what: string,
  condition: () => Promise<T | undefined | false> | T | undefined | false,
  options: { readonly withinMs: number; readonly everyMs?: number },
): Promise<T> {
  const deadlineMs = clock.monotonicMs() + options.withinMs;
  let last: unknown;
  for (;;) {
    try {
      const value = await condition();
      if (value !== undefined && value !== false) return value;
      last = undefined;
    } catch (error) {
      last = error;
    }
    if (clock.monotonicMs() > deadlineMs) {
      throw new Error(`not within ${options.withinMs} ms: ${what}`, { cause: last });
    }
    await keepAlive(sleep(clock, options.everyMs ?? 50));
  }
}

/** Timers of the clock do not keep the process alive; a test that waits must. */
async function keepAlive(work: Promise<void>): Promise<void> {
  const handle = setInterval(() => undefined, 1000);
  try {
    await work;
  } finally {
    clearInterval(handle);
  }
}
