/**
 * Moves cluster time: the leader proposes how much of its monotonic time has passed (LogCabin's cluster clock).
 *
 * Time that passed while nobody led, or whose command was lost, is not made up for: cluster time may fall behind but never
 * runs ahead of the time that really passed. One command at a time, each of at most `advanceMsMax`; what one cannot carry
 * is left to the next. What the command looks like is the state machine's matter.
 */
import type { Clock } from "../std/clock.ts";

/** Dependencies of a ClusterClock. */
export interface ClusterClockOptions {
  readonly clock: Clock;
  readonly intervalMs: number;
  /** The most that one command may move cluster time. */
  readonly advanceMsMax: number;
  /** Proposes a command that moves cluster time; resolves when its outcome is known, whatever it is. */
  readonly propose: (elapsedMs: number) => Promise<void>;
}

/** A leader's duty to move cluster time. */
export class ClusterClock {
  readonly #options: ClusterClockOptions;
  /** Up to where time has been proposed; undefined while not leading. */
  #sinceMs: number | undefined;
  #isProposing = false;

  constructor(options: ClusterClockOptions) {
    this.#options = options;
  }

  /** Called now and then. */
  tick(isLeading: boolean): void {
    const { clock, intervalMs, advanceMsMax, propose } = this.#options;
    if (!isLeading) {
      this.#sinceMs = undefined;
      return;
    }
    const nowMs = clock.monotonicMs();
    this.#sinceMs ??= nowMs;
    if (this.#isProposing || nowMs - this.#sinceMs < intervalMs) return;
    const elapsedMs = Math.min(advanceMsMax, Math.floor(nowMs - this.#sinceMs));
    this.#sinceMs += elapsedMs;
    this.#isProposing = true;
    // Whatever becomes of it, the next one goes on from here: a command that was lost only slows cluster time.
    void propose(elapsedMs).finally(() => {
      this.#isProposing = false;
    });
  }
}
