/**
 * Whether this node's tree has caught up with its cluster: a node that is far behind must not be sent users yet.
 *
 * A linearizable read ends once everything that was acknowledged before it is applied here, so one read that ends says it all; no
 * figure of the log does, because a follower far behind is not told the leader's commit index. It is asked for after the start,
 * and again after a time without a leader. Requests are not refused meanwhile: a linearizable one waits by itself, and a stale one
 * was told so.
 */
import { DriveError } from "../drive/errors.ts";
import { sleep, type Clock } from "../std/clock.ts";

/** One read waits this long before it is asked for anew. */
export const CATCH_UP_ATTEMPT_MS = 10_000;

/** Pause after one that failed. */
export const CATCH_UP_RETRY_MS = 250;

/** Dependencies of a CatchUp. */
export interface CatchUpOptions {
  readonly clock: Clock;
  /** As Consensus.linearize(). */
  readonly linearize: (options: {
    readonly timeoutMs: number;
    readonly signal: AbortSignal;
  }) => Promise<void>;
  readonly hasLeader: () => boolean;
  readonly appliedIndex: () => number;
}

/** Finds out whether a node has caught up. */
export class CatchUp {
  readonly #options: CatchUpOptions;
  readonly #stop = new AbortController();
  #isBehind = true;
  #running: Promise<void> | undefined;

  constructor(options: CatchUpOptions) {
    this.#options = options;
  }

  /** Called now and then: begins to ask when there is a leader and something to ask for. */
  look(): void {
    if (!this.#options.hasLeader()) this.#isBehind = true;
    else if (this.#isBehind && !this.#stop.signal.aborted) this.#running ??= this.#run();
  }

  /** Why the node is not ready, in a sentence; undefined once it has caught up. */
  problem(): string | undefined {
    if (!this.#isBehind) return undefined;
    return `The node is behind the others and catching up: it has applied entry ${this.#options.appliedIndex()}.`;
  }

  /** Ends asking. */
  async stop(): Promise<void> {
    this.#stop.abort(new Error("the node is stopping"));
    await this.#running;
  }

  async #run(): Promise<void> {
    const { clock, linearize } = this.#options;
    const { signal } = this.#stop;
    try {
      await linearize({ timeoutMs: CATCH_UP_ATTEMPT_MS, signal });
      this.#isBehind = false;
    } catch (error) {
      if (!(error instanceof DriveError)) throw error;
      if (!signal.aborted) await sleep(clock, CATCH_UP_RETRY_MS);
    } finally {
      this.#running = undefined;
    }
  }
}
