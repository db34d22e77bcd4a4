/**
 * The quorum writer: takes the chunks of one extent and sends each to all targets of the extent in parallel.
 *
 * A chunk is accepted when quorum() targets took it; the others follow behind, within a bound, while the caller goes on.
 * A target that fails is replaced by another member through `reassign` (and gets the earlier chunks copied in the
 * background), a target that stays behind is dropped and left to repair. Without a spare the upload goes on with what is
 * there, as long as a quorum is. Holds no state that matters: another node's writer for the same extent goes on from what
 * the targets hold.
 */
import { canceledError, sharedAbortController, throwIfCanceled } from "../cluster/deadline.ts";
import type { FailureDetector } from "../cluster/failure-detector-port.ts";
import type { ExtentKey } from "../drive/content.ts";
import { DriveError, hasReason } from "../drive/errors.ts";
import { assert } from "../std/assert.ts";
import type { Clock } from "../std/clock.ts";
import { deferred, type Deferred } from "../std/deferred.ts";
import type { HoleFiller } from "./hole-filler.ts";
import type { ReplicaPorts } from "./replica-port.ts";
import { isRequestError, TargetLane } from "./target-lane.ts";
import type { WriteBudget } from "./write-budget.ts";

/** A target that has held the upload up this long while a quorum kept up is dropped from it. */
export const LANE_LAG_WAIT_MS = 5_000;
/** After no spare member was found, the next search waits this long. */
export const NO_SPARE_WAIT_MS = 2_000;
/** How often one chunk is offered to the targets, replaced ones included, before QUORUM_NOT_REACHED. */
export const CHUNK_ATTEMPT_COUNT_MAX = 3;

/** What an ExtentWriter needs. */
export interface ExtentWriterOptions {
  readonly clock: Clock;
  readonly ports: ReplicaPorts;
  readonly detector: FailureDetector;
  readonly budget: WriteBudget;
  readonly filler: HoleFiller;
  readonly extent: ExtentKey;
  /** Undefined when unknown. */
  readonly expectedSizeBytes: number | undefined;
  /** The targets, at least one. */
  readonly memberIds: readonly number[];
  /** How many targets must take a chunk: 2, or 1 in a cluster of one. */
  readonly quorum: () => number;
  /**
   * Puts other members in the place of those that failed and returns all targets then; undefined when there is no spare.
   * May return a failed member again when it has come back.
   */
  readonly reassign: (failed: readonly number[]) => Promise<readonly number[] | undefined>;
  /** Told of each copy that a target took: the how-manieth copy of that chunk it was in this sending of it, from 1. */
  readonly onCopy?: (sizeBytes: number, copyNumber: number, chunkIndex: number) => void;
}

/** One chunk under way. */
interface Flight {
  readonly chunkIndex: number;
  readonly bytes: Uint8Array;
  readonly digest: Uint8Array;
  readonly taken: Set<number>;
  readonly underWay: Map<number, Promise<void>>;
  readonly errors: unknown[];
  settled: Deferred<void>;
}

/** Writes the chunks of one extent. */
export class ExtentWriter {
  readonly extent: ExtentKey;
  readonly #options: ExtentWriterOptions;
  readonly #lanes = new Map<number, TargetLane>();
  readonly #stopping = sharedAbortController();
  readonly #background = new Set<Promise<void>>();
  #replacing: Promise<boolean> | undefined;
  #noSpareUntilMs = -Infinity;

  constructor(options: ExtentWriterOptions) {
    assert(options.memberIds.length >= 1, "an extent is written to at least one target");
    this.extent = options.extent;
    this.#options = options;
    for (const memberId of options.memberIds) this.#addLane(memberId);
  }

  /** Members that chunks go to now. */
  get memberIds(): readonly number[] {
    return [...this.#lanes.keys()];
  }

  /** Members among them that take chunks. */
  get activeMemberIds(): readonly number[] {
    return this.#active().map((lane) => lane.memberId);
  }

  /**
   * Writes one chunk (its index within the extent); `bytes` must not change before settled() resolves.
   * @returns how many targets have taken it
   * @throws DriveError QUORUM_NOT_REACHED, NO_SPACE, UPLOAD_FINISHED, CHUNK_OUT_OF_RANGE, CANCELED
   */
  async writeChunk(
    chunkIndex: number,
    bytes: Uint8Array,
    digest: Uint8Array,
    signal?: AbortSignal,
  ): Promise<number> {
    await this.#waitForRoom(bytes.length, signal);
    await this.#options.budget.admit(bytes.length, signal);
    const flight: Flight = {
      chunkIndex,
      bytes,
      digest,
      taken: new Set(),
      underWay: new Map(),
      errors: [],
      settled: deferred<void>(),
    };
    try {
      return await this.#reachQuorum(flight, signal);
    } finally {
      this.#afterwards(
        Promise.all(flight.underWay.values()).then(() => this.#options.budget.release(bytes.length)),
      );
    }
  }

  /** Takes over targets that were assigned elsewhere; new ones get the chunks that are there copied in the background. */
  retarget(memberIds: readonly number[]): void {
    for (const [memberId, lane] of this.#lanes) {
      if (memberIds.includes(memberId)) continue;
      lane.end("failed");
      this.#lanes.delete(memberId);
    }
    for (const memberId of memberIds) {
      const lane = this.#lanes.get(memberId);
      if (lane !== undefined && lane.state !== "failed") continue;
      const sources = this.activeMemberIds;
      this.#addLane(memberId);
      this.#afterwards(this.#catchUp(memberId, sources));
    }
  }

  /** Resolves when every copy under way and every background copy has settled. */
  async settled(): Promise<void> {
    while (this.#background.size > 0) await Promise.all(this.#background);
  }

  /** Gives up everything under way. */
  stop(): void {
    this.#stopping.abort(new DriveError("CANCELED", "The upload ended."));
    for (const lane of this.#lanes.values()) lane.end("failed");
  }

  async #reachQuorum(flight: Flight, signal: AbortSignal | undefined): Promise<number> {
    for (let attempt = 0; attempt < CHUNK_ATTEMPT_COUNT_MAX; attempt += 1) {
      flight.settled = deferred<void>();
      for (const lane of this.#active()) this.#send(flight, lane);
      await this.#quorumOrEnd(flight, signal);
      const refusal = flight.errors.find(isRequestError);
      if (refusal !== undefined) throw refusal;
      if (flight.taken.size >= this.#options.quorum()) {
        if (this.#lanesFailed().length > 0) this.#afterwards(this.#replace().then(() => undefined));
        return flight.taken.size;
      }
      await this.#replace();
      if (this.#active().every((lane) => flight.taken.has(lane.memberId))) break;
    }
    throw this.#quorumError(flight);
  }

  #send(flight: Flight, lane: TargetLane): void {
    const { memberId } = lane;
    if (flight.taken.has(memberId) || flight.underWay.has(memberId)) return;
    const sent = lane
      .send(flight.chunkIndex, flight.bytes, flight.digest)
      .then(
        () => {
          flight.taken.add(memberId);
          this.#options.onCopy?.(flight.bytes.length, flight.taken.size, flight.chunkIndex);
        },
        (error: unknown) => {
          flight.errors.push(error);
        },
      )
      .finally(() => {
        flight.underWay.delete(memberId);
        flight.settled.resolve();
      });
    flight.underWay.set(memberId, sent);
  }

  /** Waits until a quorum took the chunk, a target refused the request itself, or nobody is under way any more. */
  async #quorumOrEnd(flight: Flight, signal: AbortSignal | undefined): Promise<void> {
    const onAbort = (): void => flight.settled.resolve();
    signal?.addEventListener("abort", onAbort);
    try {
      for (;;) {
        throwIfCanceled(signal);
        if (flight.taken.size >= this.#options.quorum() || flight.underWay.size === 0) return;
        if (flight.errors.some(isRequestError)) return;
        await flight.settled.promise;
        flight.settled = deferred<void>();
      }
    } finally {
      signal?.removeEventListener("abort", onAbort);
    }
  }

  /** Holds the caller back while a target is behind by the bound; drops one that stays so while a quorum keeps up. */
  async #waitForRoom(sizeBytes: number, signal: AbortSignal | undefined): Promise<void> {
    for (;;) {
      throwIfCanceled(signal);
      throwIfCanceled(this.#stopping.signal);
      const full = this.#active().filter((lane) => lane.isFull(sizeBytes));
      if (full.length === 0) return;
      const keepingUp = this.#active().filter((lane) => lane.keepsUp).length;
      const late = full.find((lane) => lane.behindMs >= LANE_LAG_WAIT_MS);
      if (late !== undefined && keepingUp >= this.#options.quorum()) {
        late.end("dropped");
        continue;
      }
      await this.#anyRoom(full, signal);
    }
  }

  async #anyRoom(full: readonly TargetLane[], signal: AbortSignal | undefined): Promise<void> {
    const woken = deferred<void>();
    const wake = (): void => woken.resolve();
    for (const lane of full) void lane.room().then(wake);
    const longestMs = Math.max(...full.map((lane) => lane.behindMs));
    const waitMs = longestMs < LANE_LAG_WAIT_MS ? LANE_LAG_WAIT_MS - longestMs : LANE_LAG_WAIT_MS;
    const timer = this.#options.clock.setTimer(waitMs, wake);
    signal?.addEventListener("abort", wake);
    try {
      await woken.promise;
    } finally {
      timer.cancel();
      signal?.removeEventListener("abort", wake);
    }
  }

  /** Replaces failed targets; true when the targets changed. One search at a time. */
  #replace(): Promise<boolean> {
    this.#replacing ??= this.#searchSpare().finally(() => {
      this.#replacing = undefined;
    });
    return this.#replacing;
  }

  async #searchSpare(): Promise<boolean> {
    const failed = this.#lanesFailed();
    const now = this.#options.clock.monotonicMs();
    if (failed.length === 0 || now < this.#noSpareUntilMs || this.#stopping.signal.aborted) return false;
    // A burst of failing chunks asks once.
    this.#noSpareUntilMs = now + NO_SPARE_WAIT_MS;
    try {
      const memberIds = await this.#options.reassign(failed);
      if (memberIds === undefined || this.#stopping.signal.aborted) return false;
      this.#noSpareUntilMs = -Infinity;
      this.retarget(memberIds);
      return true;
    } catch (error) {
      // Without a leader, or when it refuses, the upload goes on with the targets it has.
      if (error instanceof DriveError) return false;
      throw error;
    }
  }

  /** Copies what the other targets hold to a new one. What is still missing at the seal is filled then. */
  async #catchUp(memberId: number, sources: readonly number[]): Promise<void> {
    const { extent } = this;
    try {
      await this.#options.filler.fillAll({
        extent,
        to: memberId,
        from: sources,
        signal: this.#stopping.signal,
      });
    } catch (error) {
      if (!(error instanceof DriveError)) throw error;
    }
  }

  #addLane(memberId: number): void {
    const { clock, ports, detector, budget, extent, expectedSizeBytes } = this.#options;
    const lane = new TargetLane({ clock, ports, detector, budget, extent, expectedSizeBytes, memberId });
    if (detector.state(memberId).health === "down") lane.end("failed");
    this.#lanes.set(memberId, lane);
  }

  #active(): TargetLane[] {
    return [...this.#lanes.values()].filter((lane) => lane.state === "active");
  }

  #lanesFailed(): readonly number[] {
    return [...this.#lanes.values()].filter((lane) => lane.state === "failed").map((lane) => lane.memberId);
  }

  #afterwards(work: Promise<void>): void {
    const tracked = work.finally(() => this.#background.delete(tracked));
    this.#background.add(tracked);
  }

  #quorumError(flight: Flight): DriveError {
    const full =
      flight.errors.find((error) => hasReason(error, "NO_SPACE")) ??
      [...this.#lanes.values()].find((lane) => lane.noSpace !== undefined)?.noSpace;
    if (full instanceof DriveError) return full;
    if (this.#stopping.signal.aborted) return canceledError(this.#stopping.signal);
    const wanted = this.#options.quorum();
    return new DriveError(
      "QUORUM_NOT_REACHED",
      `Only ${flight.taken.size} of ${wanted} nodes needed took the chunk.`,
      { taken_count: String(flight.taken.size), needed_count: String(wanted) },
      flight.errors[0],
    );
  }
}
