/**
 * Listens to what peers and the tree say about this member, and decides when that means that its process must end.
 *
 * That it was removed is final at once. That another process runs as this member is said to every node that is restarted, until its
 * predecessor has been silent for a few heartbeats; only when it is said for longer is this process the second one.
 */
import { DriveError, hasReason } from "../drive/errors.ts";
import type { Clock } from "../std/clock.ts";
import type { HeartbeatPort } from "./failure-detector-port.ts";

/** A node that is told for this long that another process runs as its member is the second one, and stops. */
export const DUPLICATE_STOP_MS = 10_000;
/** After this long without being told so, it counts from the beginning. */
export const DUPLICATE_FORGIVE_MS = 5_000;

/** What Refusals needs. */
export interface RefusalsOptions {
  readonly clock: Clock;
  readonly memberId: number;
  /** Called once, with what was said: the process must end. */
  readonly onRefused: (error: DriveError) => void;
}

/** What was said about this member. */
export class Refusals {
  readonly #options: RefusalsOptions;
  #firstMs = -Infinity;
  #lastMs = -Infinity;
  #isRefused = false;

  constructor(options: RefusalsOptions) {
    this.#options = options;
  }

  /** Takes the error of a call to a peer, or of a command. */
  note(error: DriveError): void {
    if (this.#isRefused || error.metadata["member_id"] !== String(this.#options.memberId)) return;
    const isFinal = hasReason(error, "MEMBER_REMOVED");
    if (!isFinal && !(hasReason(error, "MEMBER_DUPLICATED") && this.#isForLong())) return;
    this.#isRefused = true;
    this.#options.onRefused(error);
  }

  /** The same heartbeats, whose errors are heard. */
  listenTo(heartbeats: HeartbeatPort): HeartbeatPort {
    return {
      ping: async (memberId, signal) => {
        try {
          return await heartbeats.ping(memberId, signal);
        } catch (error) {
          if (error instanceof DriveError) this.note(error);
          throw error;
        }
      },
    };
  }

  #isForLong(): boolean {
    const nowMs = this.#options.clock.monotonicMs();
    if (nowMs - this.#lastMs > DUPLICATE_FORGIVE_MS) this.#firstMs = nowMs;
    this.#lastMs = nowMs;
    return nowMs - this.#firstMs >= DUPLICATE_STOP_MS;
  }
}
