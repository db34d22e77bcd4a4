/**
 * A clock that moves only when a test says so.
 *
 * advance() runs due timers in order of their time (then of their making), and lets promises settle after each: a promise
 * chain of any length without real asynchrony is followed to its end, because a turn of the event loop comes only after
 * all microtasks. So a test awaits advance() and then looks at the outcome.
 */
import type { Clock, Timer } from "../../src/std/clock.ts";

interface PendingTimer {
  readonly atMs: number;
  readonly order: number;
  readonly callback: () => void;
}

/** Lets everything that can go on without time passing go on. */
export function settle(): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(resolve);
  });
}

/** A Clock for tests. Starts at 0 ms; the wall clock starts at `wallStartMs`. */
export class FakeClock implements Clock {
  readonly #wallStartMs: number;
  #nowMs = 0;
  #made = 0;
  readonly #timers = new Set<PendingTimer>();

  constructor(wallStartMs = Date.UTC(2026, 0, 1)) {
    this.#wallStartMs = wallStartMs;
  }

  monotonicMs(): number {
    return this.#nowMs;
  }

  wallMs(): number {
    return this.#wallStartMs + this.#nowMs;
  }

  setTimer(delayMs: number, callback: () => void): Timer {
    this.#made += 1;
    const timer: PendingTimer = { atMs: this.#nowMs + Math.max(0, delayMs), order: this.#made, callback };
    this.#timers.add(timer);
    return { cancel: () => this.#timers.delete(timer) };
  }

  /** How many timers are pending. */
  get timerCount(): number {
    return this.#timers.size;
  }

  /** Moves time forward by `ms`, running what becomes due on the way. */
  async advance(ms: number): Promise<void> {
    const endMs = this.#nowMs + ms;
    await settle();
    for (let next = this.#nextBefore(endMs); next !== undefined; next = this.#nextBefore(endMs)) {
      this.#timers.delete(next);
      this.#nowMs = Math.max(this.#nowMs, next.atMs);
      next.callback();
      await settle();
    }
    this.#nowMs = endMs;
  }

  /** Advances in steps of `stepMs` until `condition` holds; throws after `withinMs`. */
  async advanceUntil(what: string, condition: () => boolean, withinMs = 10_000, stepMs = 10): Promise<void> {
    await settle();
    for (let passedMs = 0; !condition(); passedMs += stepMs) {
      if (passedMs >= withinMs) throw new Error(`not within ${withinMs} ms: ${what}`);
      await this.advance(stepMs);
    }
  }

  #nextBefore(endMs: number): PendingTimer | undefined {
    let first: PendingTimer | undefined;
    for (const timer of this.#timers) {
      if (timer.atMs > endMs) continue;
      if (
        first === undefined ||
        timer.atMs < first.atMs ||
        (timer.atMs === first.atMs && timer.order < first.order)
      ) {
        first = timer;
      }
    }
    return first;
  }
}
