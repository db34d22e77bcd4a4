/**
 * When to stop asking a service that fails, and when to try it again. Decides only; who calls reports what happened.
 *
 * Closed, calls are let through; some failures within a short time open it. Open, no call is let through, so none can be held
 * up: trying again is the business of a probe in the background, never of a caller. A service that fails again soon after it
 * was taken back is left alone for longer each time.
 *
 * Invariant: from the failure that opens it until a probe that succeeded, admits() is false.
 */
import type { Clock } from "../std/clock.ts";

/** So many failures within FAILURE_WINDOW_MS open it. Fewer are a hiccup of the network. */
export const FAILURE_COUNT_MAX = 5;
/** See FAILURE_COUNT_MAX. */
export const FAILURE_WINDOW_MS = 10_000;
/** How long it stays open before the first probe counts. */
export const OPEN_MS_MIN = 250;
/** The same, at most, when it opens again and again. */
export const OPEN_MS_MAX = 8000;

/** A circuit breaker. It begins open: nothing is known of the service before its first probe. */
export class CircuitBreaker {
  readonly #clock: Clock;
  /** When the newest failures were, oldest first; at most FAILURE_COUNT_MAX. */
  readonly #failures: number[] = [];
  #isOpen = true;
  #openedMs: number;
  #closedMs: number | undefined;
  #openMs = 0;

  constructor(clock: Clock) {
    this.#clock = clock;
    this.#openedMs = clock.monotonicMs();
  }

  /** Whether a call may go to the service. */
  admits(): boolean {
    return !this.#isOpen;
  }

  /** Counts a call that failed. @returns whether this opened the breaker */
  failed(): boolean {
    if (this.#isOpen) return false;
    const nowMs = this.#clock.monotonicMs();
    this.#failures.push(nowMs);
    if (this.#failures.length > FAILURE_COUNT_MAX) this.#failures.shift();
    const [oldestMs] = this.#failures;
    if (this.#failures.length < FAILURE_COUNT_MAX || oldestMs === undefined) return false;
    return nowMs - oldestMs <= FAILURE_WINDOW_MS && this.trip();
  }

  /** Opens it at once: the connection is gone, or a probe failed. @returns whether it was closed */
  trip(): boolean {
    if (this.#isOpen) return false;
    const nowMs = this.#clock.monotonicMs();
    const wasShort = this.#closedMs !== undefined && nowMs - this.#closedMs <= FAILURE_WINDOW_MS;
    this.#openMs = wasShort ? Math.min(OPEN_MS_MAX, Math.max(OPEN_MS_MIN, this.#openMs * 2)) : OPEN_MS_MIN;
    this.#isOpen = true;
    this.#openedMs = nowMs;
    this.#failures.length = 0;
    return true;
  }

  /** Whether a probe may be sent now. */
  mayProbe(): boolean {
    return !this.#isOpen || this.#clock.monotonicMs() - this.#openedMs >= this.#openMs;
  }

  /** A probe was answered as it should be: closes. @returns whether it was open */
  probeSucceeded(): boolean {
    if (!this.#isOpen) return false;
    this.#isOpen = false;
    this.#closedMs = this.#clock.monotonicMs();
    return true;
  }
}
