/**
 * Makes the copies that the tree expects of this node: a few at once, each under the lock of its extent, each told to the tree by
 * its seal. An extent whose copy failed is left alone for a while.
 */
import type { MetadataClient } from "../cluster/metadata-client.ts";
import type { ExtentKey } from "../drive/content.ts";
import { DriveError, hasReason } from "../drive/errors.ts";
import { CHUNK_SIZE_BYTES } from "../drive/limits.ts";
import { storeOf } from "../metadata/view.ts";
import type { Clock } from "../std/clock.ts";
import { isWantedOf, type Assignments } from "./assignments.ts";
import type { ExtentLocks } from "./extent-locks.ts";
import type { Placement } from "./placement.ts";
import type { ReplicaCopier } from "./replica-copier.ts";
import { SealRecorder } from "./seal-recorder.ts";

/** Copies made at once at this node: one streams while another seals. */
export const REPAIR_PARALLEL_COUNT = 2;
/** Copies of extents of at most one chunk made at once: each waits for a sync and a commit, not for bytes, and they share both. */
export const REPAIR_SMALL_PARALLEL_COUNT = 64;
/** An extent whose repair failed is left alone for this long. */
export const REPAIR_RETRY_MS = 10_000;
/** Failed repairs remembered; beyond, the oldest is tried again early. */
export const REPAIR_FAILURE_COUNT_MAX = 10_000;

/** What a CopyMaker needs. */
export interface CopyMakerOptions {
  readonly clock: Clock;
  readonly metadata: MetadataClient;
  readonly assignments: Assignments;
  readonly placement: Placement;
  readonly copier: ReplicaCopier;
  readonly locks: ExtentLocks;
  readonly onError?: ((error: DriveError) => void) | undefined;
}

/** An extent of which this node is to make a copy. */
export interface WantedCopy {
  readonly key: ExtentKey;
  readonly sizeBytes: number;
}

/** Makes copies at this node. */
export class CopyMaker {
  readonly #options: CopyMakerOptions;
  readonly #failedAtMs = new Map<string, number>();
  readonly #recorder: SealRecorder;

  constructor(options: CopyMakerOptions) {
    this.#options = options;
    this.#recorder = new SealRecorder(options.metadata);
  }

  /** Whether a copy of the extent failed of late. */
  failedLately({ contentId, extentIndex }: ExtentKey): boolean {
    const failedAtMs = this.#failedAtMs.get(`${contentId}/${extentIndex}`);
    return failedAtMs !== undefined && this.#options.clock.monotonicMs() - failedAtMs < REPAIR_RETRY_MS;
  }

  /**
   * Makes copies, a few at once; true when one was made. Failures are told to onError. Does nothing while this member is given up:
   * its seals count again once it has compared what it holds.
   */
  async makeAll(wanted: readonly WantedCopy[], signal: AbortSignal): Promise<boolean> {
    const { port } = this.#options.metadata;
    if (storeOf(port.reader(), port.memberId).lostTimeMs > 0) return false;
    let made = false;
    const work = async (waiting: Iterable<WantedCopy>): Promise<void> => {
      for (const { key } of waiting) {
        if (signal.aborted) return;
        if (await this.#make(key, signal)) made = true;
      }
    };
    const large = wanted.filter(({ sizeBytes }) => sizeBytes > CHUNK_SIZE_BYTES)[Symbol.iterator]();
    const small = wanted.filter(({ sizeBytes }) => sizeBytes <= CHUNK_SIZE_BYTES)[Symbol.iterator]();
    await Promise.all([
      ...Array.from({ length: REPAIR_PARALLEL_COUNT }, () => work(large)),
      ...Array.from({ length: REPAIR_SMALL_PARALLEL_COUNT }, () => work(small)),
    ]);
    return made;
  }

  async #make(key: ExtentKey, signal: AbortSignal): Promise<boolean> {
    const { metadata, assignments, locks, copier, placement } = this.#options;
    const { memberId } = metadata.port;
    try {
      return await locks.withLock(key, async () => {
        const [look] = await assignments.look([key], { fresh: false, signal });
        const extent = look?.extent;
        if (extent === undefined || !isWantedOf(memberId, extent)) return false;
        // Suspect copies come last: what is good in them is as good as anything, since every chunk is checked.
        const others = extent.replicas.filter((replica) => replica.memberId !== memberId);
        const { sizeBytes, root } = extent;
        const sources = placement.rankReaders(others);
        const seal = await copier.copy({ extent: key, sizeBytes, root, sources, signal });
        await this.#recorder.record(seal, signal);
        return true;
      });
    } catch (error) {
      if (!(error instanceof DriveError) || hasReason(error, "NODE_STOPPING")) throw error;
      this.#noteFailed(key);
      this.#options.onError?.(error);
      return false;
    }
  }

  #noteFailed({ contentId, extentIndex }: ExtentKey): void {
    const key = `${contentId}/${extentIndex}`;
    this.#failedAtMs.delete(key);
    this.#failedAtMs.set(key, this.#options.clock.monotonicMs());
    if (this.#failedAtMs.size <= REPAIR_FAILURE_COUNT_MAX) return;
    const [oldest] = this.#failedAtMs.keys();
    if (oldest !== undefined) this.#failedAtMs.delete(oldest);
  }
}
