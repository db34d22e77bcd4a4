/**
 * Waits out what passes by itself: an election, a node that restarts, a full queue.
 *
 * The client of the drive already goes on to another node and waits for a while; this is for what it gives up on, and for
 * clients that never answer. A change is repeated with the request id of the first try, so it happens once however often it
 * is sent. Time spent on one step is bounded; what cannot pass by itself is thrown at once.
 */
import { DriveError, hasReason } from "../drive/errors.ts";
import { toHex } from "../std/bytes.ts";
import { sleep, withTimeout, type Clock } from "../std/clock.ts";
import type { Prng } from "../std/prng.ts";

/** First pause between tries, and the longest. */
const PAUSE_MS_MIN = 50;
const PAUSE_MS_MAX = 2000;

/** A try may take this many times the timeout of the client, which should have given up before and knows more. */
const BACKSTOP_FACTOR = 1.25;

/** A step that takes longer than this is worth a word. Elections and restarts of a leader are usually over by then. */
export const SLOW_MS = 3000;

/** Whether waiting and sending the same again can help. */
export function isPassing(error: unknown): error is DriveError {
  if (hasReason(error, "NOT_LEADER", "OVERLOADED", "COMMIT_OUTCOME_UNKNOWN")) return true;
  return error instanceof DriveError && error.spec.code === "unavailable";
}

/** What failed changed nothing, so nothing may have happened unseen. */
function readFailure(error: unknown): unknown {
  if (!(error instanceof DriveError) || error.reason !== "COMMIT_OUTCOME_UNKNOWN") return error;
  return new DriveError("NO_LEADER", error.message, error.metadata, error);
}

/** What Patience needs. */
export interface PatienceOptions {
  readonly clock: Clock;
  readonly prng: Prng;
  /** Longest time without success of one step, give or take a try that is under way. */
  readonly timeoutMs: number;
  /** Ends everything: the user interrupted. */
  readonly signal: AbortSignal;
  /** Called once, when a step has taken SLOW_MS without success: the user should know what is waited for. */
  readonly onSlow?: (() => void) | undefined;
}

/** Repeats steps that fail for passing reasons. */
export class Patience {
  readonly signal: AbortSignal;
  readonly #clock: Clock;
  readonly #prng: Prng;
  readonly #timeoutMs: number;
  readonly #options: PatienceOptions;
  #onSlow: (() => void) | undefined;

  constructor(options: PatienceOptions) {
    this.#options = options;
    this.#clock = options.clock;
    this.#prng = options.prng;
    this.#timeoutMs = options.timeoutMs;
    this.signal = options.signal;
    this.#onSlow = options.onSlow;
  }

  /** A request id that no other request has: 128 random bits. */
  requestId(): string {
    return toHex(this.#prng.bytes(16));
  }

  /** The same with less patience: at most `timeoutMs` for a step, and no word about slow ones. */
  within(timeoutMs: number): Patience {
    const least = Math.min(timeoutMs, this.#timeoutMs);
    return new Patience({ ...this.#options, timeoutMs: least, onSlow: undefined });
  }

  /** As run(), for a step that changes nothing. @throws NO_LEADER where run() would say COMMIT_OUTCOME_UNKNOWN */
  async read<T>(step: (signal: AbortSignal) => Promise<T>): Promise<T> {
    try {
      return await this.run(step);
    } catch (error) {
      throw readFailure(error);
    }
  }

  /**
   * Runs `step` until it succeeds, fails for good, or the timeout is over. The signal it gets ends with this try.
   * @throws the error of the last try; COMMIT_OUTCOME_UNKNOWN when a try got no answer at all in time
   */
  async run<T>(step: (signal: AbortSignal) => Promise<T>): Promise<T> {
    if (this.#onSlow === undefined) return this.#repeat(step);
    const timer = this.#clock.setTimer(SLOW_MS, () => {
      this.#onSlow?.();
      this.#onSlow = undefined;
    });
    try {
      return await this.#repeat(step);
    } finally {
      timer.cancel();
    }
  }

  async #repeat<T>(step: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const startMs = this.#clock.monotonicMs();
    for (let tryCount = 1; ; tryCount += 1) {
      this.signal.throwIfAborted();
      try {
        return await this.#tryOnce(step);
      } catch (error) {
        if (this.signal.aborted) throw this.signal.reason;
        const pauseMs = this.#pauseMs(tryCount);
        const spentMs = this.#clock.monotonicMs() - startMs;
        if (!isPassing(error) || spentMs + pauseMs >= this.#timeoutMs) throw error;
        await sleep(this.#clock, pauseMs, this.signal);
      }
    }
  }

  /**
   * Waits for `work`, longer than the client of the drive should take to give up.
   * @param reason what to throw then: COMMIT_OUTCOME_UNKNOWN for what may have changed something, else NO_LEADER
   */
  bounded<T>(
    work: Promise<T>,
    reason: "COMMIT_OUTCOME_UNKNOWN" | "NO_LEADER" = "COMMIT_OUTCOME_UNKNOWN",
  ): Promise<T> {
    return withTimeout(this.#clock, this.#timeoutMs * BACKSTOP_FACTOR, work, () => {
      const message = `No node answered within ${Math.round(this.#timeoutMs / 1000)} s.`;
      return new DriveError(reason, message, { timeout_ms: String(this.#timeoutMs) });
    });
  }

  /** Waits the pause that belongs after the `tryCount`-th failure in a row. */
  async pause(tryCount: number): Promise<void> {
    await sleep(this.#clock, this.#pauseMs(tryCount), this.signal);
  }

  /** Half of a pause that doubles with each try, and up to as much again by chance. */
  #pauseMs(tryCount: number): number {
    const half = Math.min(PAUSE_MS_MAX, PAUSE_MS_MIN * 2 ** Math.min(tryCount - 1, 10)) / 2;
    return half + half * this.#prng.float();
  }

  async #tryOnce<T>(step: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const attempt = new AbortController();
    const onAbort = (): void => attempt.abort(this.signal.reason);
    this.signal.addEventListener("abort", onAbort, { once: true });
    try {
      return await this.bounded(step(attempt.signal));
    } catch (error) {
      // Only a failed try is ended: what a successful one opened (a download) is still in use.
      attempt.abort(error);
      throw error;
    } finally {
      this.signal.removeEventListener("abort", onAbort);
    }
  }
}
