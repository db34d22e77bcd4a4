/**
 * One upload's way to one target of an extent: sends chunks, counts what is under way, and knows when to give up.
 *
 *   active --(failuresMax failures in a row, or known to be down)--> failed    another member takes its place
 *   active --(behind by the bound for too long)--> dropped                     left to repair
 *
 * A single failure is only a hole, filled before the seal. Invariant: pendingBytes counts exactly the chunks that send() was
 * called with and that have not settled. Leaving "active" aborts them, so their memory is free at once.
 */
import { sharedAbortController, unreachableError, withDeadline } from "../cluster/deadline.ts";
import type { FailureDetector } from "../cluster/failure-detector-port.ts";
import type { ExtentKey } from "../drive/content.ts";
import { DriveError, hasReason } from "../drive/errors.ts";
import { CHUNK_SIZE_BYTES, DEDICATED_SEGMENT_SIZE_BYTES_MIN } from "../drive/limits.ts";
import type { Clock } from "../std/clock.ts";
import { deferred, type Deferred } from "../std/deferred.ts";
import type { ReplicaPort, ReplicaPorts } from "./replica-port.ts";
import type { WriteBudget } from "./write-budget.ts";

/** A target that has not taken a chunk after this long has failed it. */
export const CHUNK_WRITE_TIMEOUT_MS = 10_000;
/** Failures in a row after which a target counts as failed: one may be a lost connection. */
export const LANE_FAILURE_COUNT_MAX = 2;
/** Bytes that a target may be behind before the upload waits for it. */
export const LANE_LAG_BYTES_MAX = 8 * CHUNK_SIZE_BYTES;

/** What a lane needs. */
export interface TargetLaneOptions {
  readonly clock: Clock;
  readonly ports: ReplicaPorts;
  readonly detector: FailureDetector;
  readonly budget: WriteBudget;
  readonly extent: ExtentKey;
  /** Expected bytes of the extent; undefined when unknown. */
  readonly expectedSizeBytes: number | undefined;
  readonly memberId: number;
}

/** Errors that say something about the request, not about the target. */
export function isRequestError(error: unknown): boolean {
  return hasReason(error, "UPLOAD_FINISHED", "CHUNK_OUT_OF_RANGE", "PAYLOAD_TOO_LARGE", "CANCELED");
}

/** The way to one target. */
export class TargetLane {
  readonly memberId: number;
  readonly #options: TargetLaneOptions;
  readonly #stopping = sharedAbortController();
  #state: "active" | "failed" | "dropped" = "active";
  #pendingBytes = 0;
  #failuresInARow = 0;
  #lastFailure: unknown;
  #behindSinceMs: number | undefined;
  #room: Deferred<void> | undefined;
  #opened: Promise<void> | undefined;

  constructor(options: TargetLaneOptions) {
    this.memberId = options.memberId;
    this.#options = options;
  }

  get state(): "active" | "failed" | "dropped" {
    return this.#state;
  }

  /** Whether it ended because the target's disk is full: what came after that failed for no reason of its own. */
  get noSpace(): DriveError | undefined {
    return this.#state === "failed" && hasReason(this.#lastFailure, "NO_SPACE")
      ? this.#lastFailure
      : undefined;
  }

  /** Bytes sent and not yet taken. */
  get pendingBytes(): number {
    return this.#pendingBytes;
  }

  /** How long callers have had to wait for this target without it catching up; 0 while it keeps up. */
  get behindMs(): number {
    return this.#behindSinceMs === undefined ? 0 : this.#options.clock.monotonicMs() - this.#behindSinceMs;
  }

  /** Whether `sizeBytes` more would put it behind by more than the bound. */
  isFull(sizeBytes: number): boolean {
    return this.#state === "active" && this.#pendingBytes + sizeBytes > LANE_LAG_BYTES_MAX;
  }

  /** Whether it is well within the bound. */
  get keepsUp(): boolean {
    return this.#state === "active" && this.#pendingBytes * 2 <= LANE_LAG_BYTES_MAX;
  }

  /** Resolves when something that was pending has settled, or the lane has ended; marks the lane as behind meanwhile. */
  room(): Promise<void> {
    this.#behindSinceMs ??= this.#options.clock.monotonicMs();
    this.#room ??= deferred<void>();
    return this.#room.promise;
  }

  /**
   * Sends one chunk; resolves when the target took it.
   * @throws DriveError what the target answered, PEER_UNREACHABLE when it did not
   */
  async send(chunkIndex: number, bytes: Uint8Array, digest: Uint8Array): Promise<void> {
    const { budget, extent, detector } = this.#options;
    const { signal } = this.#stopping;
    this.#pendingBytes += bytes.length;
    try {
      await budget.toTarget(this.memberId, bytes.length, signal, () =>
        this.#withTimeout(async (inner) => {
          await this.#open(inner);
          await this.#port().writeChunk(extent, chunkIndex, bytes, digest, inner);
        }),
      );
      this.#failuresInARow = 0;
    } catch (error) {
      if (!isRequestError(error)) this.#countFailure(error);
      if (hasReason(error, "PEER_UNREACHABLE")) detector.report(this.memberId, "unreachable");
      throw error;
    } finally {
      this.#pendingBytes -= bytes.length;
      if (this.#pendingBytes * 2 <= LANE_LAG_BYTES_MAX) this.#behindSinceMs = undefined;
      this.#room?.resolve();
      this.#room = undefined;
    }
  }

  /** Ends the lane as failed (to be replaced) or dropped (left to repair); chunks under way are given up. */
  end(state: "failed" | "dropped"): void {
    if (this.#state !== "active") return;
    this.#state = state;
    this.#stopping.abort(
      new DriveError("PEER_UNREACHABLE", `Member ${this.memberId} was given up for this upload.`, {
        member_id: String(this.memberId),
      }),
    );
    this.#room?.resolve();
    this.#room = undefined;
  }

  /** Large extents, and those that may become large, are announced, so that the target gives them segments of their own. */
  async #open(signal: AbortSignal): Promise<void> {
    const { extent, expectedSizeBytes } = this.#options;
    if (expectedSizeBytes !== undefined && expectedSizeBytes < DEDICATED_SEGMENT_SIZE_BYTES_MIN) return;
    this.#opened ??= this.#port().openExtent(extent, expectedSizeBytes, signal);
    try {
      await this.#opened;
    } catch (error) {
      this.#opened = undefined;
      throw error;
    }
  }

  #countFailure(error: unknown): void {
    if (this.#state !== "active") return;
    this.#failuresInARow += 1;
    this.#lastFailure = error;
    const down = this.#options.detector.state(this.memberId).health === "down";
    // A full disk does not get better by asking again.
    if (down || hasReason(error, "NO_SPACE") || this.#failuresInARow >= LANE_FAILURE_COUNT_MAX) {
      this.end("failed");
    }
  }

  #port(): ReplicaPort {
    const port = this.#options.ports.forMember(this.memberId);
    if (port !== undefined) return port;
    throw new DriveError("PEER_UNREACHABLE", `The address of member ${this.memberId} is not known.`, {
      member_id: String(this.memberId),
    });
  }

  #withTimeout(work: (signal: AbortSignal) => Promise<void>): Promise<void> {
    const onTimeout = () => unreachableError(this.memberId, "a chunk", CHUNK_WRITE_TIMEOUT_MS);
    const { clock } = this.#options;
    return withDeadline(
      { clock, timeoutMs: CHUNK_WRITE_TIMEOUT_MS, signal: this.#stopping.signal, onTimeout },
      work,
    );
  }
}
