/**
 * Repair: brings every extent back to REPLICA_COUNT verified copies, by itself.
 *
 *   every node   makes the copies that the tree expects of it (any that is not verified)  --> add-replica
 *   the leader   names members for extents that nobody is making enough copies of        --> assign-replica
 *   the leader   gives up members that are down for longer than a grace                  --> declare-lost
 *
 * Both walk the tree's list of under-replicated extents, which is ordered by copies left, fewest first. Paced: a bounded
 * number of copies at once and a pause between looks, so that users go first. All decisions are taken from the tree, which has
 * the last word; doing one twice is harmless.
 */
import { throwIfCanceled } from "../cluster/deadline.ts";
import type { FailureDetector } from "../cluster/failure-detector-port.ts";
import type { MetadataClient } from "../cluster/metadata-client.ts";
import { PacedLoop } from "../cluster/paced-loop.ts";
import type { Extent, ExtentKey, Replica } from "../drive/content.ts";
import { DriveError, hasReason } from "../drive/errors.ts";
import { CHUNK_SIZE_BYTES, REPLICA_COUNT } from "../drive/limits.ts";
import { getExtent, members, storeOf, underReplicated, type UnderReplicated } from "../metadata/view.ts";
import type { Clock } from "../std/clock.ts";
import type { ExtentLocks } from "./extent-locks.ts";
import type { Placement } from "./placement.ts";
import type { ReplicaCopier } from "./replica-copier.ts";

/** Pause between looks at the list when there was nothing to do: a copy known bad is worked on well within a minute. */
export const REPAIR_IDLE_MS = 2_000;
/** Pause between two pages of the list. */
export const REPAIR_BUSY_MS = 50;
/** Extents looked at in one go. */
export const REPAIR_PAGE_COUNT = 100;
/** Copies made at once at this node: one streams while another seals. */
export const REPAIR_PARALLEL_COUNT = 2;
/** A copy expected of a member that has been down for this long is asked of another: longer than a restart takes. */
export const PENDING_GRACE_MS = 60_000;
/** An extent whose repair failed is left alone for this long. */
export const REPAIR_RETRY_MS = 10_000;
/** A member that has been down for this long is given up, unless told otherwise: all its copies are made anew elsewhere. */
export const LOST_AFTER_MS_DEFAULT = 15 * 60 * 1000;
/** Copies of extents of at most one chunk made at once: each waits for a sync and a commit, not for bytes. */
export const REPAIR_SMALL_PARALLEL_COUNT = 16;
/** Bytes a second that a node copies while users move bytes: it yields, and still ends. */
export const REPAIR_BUSY_BYTES_PER_SECOND = 16 * 1024 * 1024;
/** Failed repairs remembered; beyond, the oldest is tried again early. */
export const REPAIR_FAILURE_COUNT_MAX = 10_000;

/** What Repair needs. */
export interface RepairOptions {
  readonly clock: Clock;
  readonly metadata: MetadataClient;
  readonly detector: FailureDetector;
  readonly placement: Placement;
  readonly copier: ReplicaCopier;
  readonly locks: ExtentLocks;
  /** A member that has been down for this long is given up; default LOST_AFTER_MS_DEFAULT. */
  readonly lostAfterMs?: number | undefined;
  /** Told when this node, leading, gives a member up: for the log. */
  readonly onLost?: ((memberId: number) => void) | undefined;
  readonly onError?: (error: DriveError) => void;
}

/** The repair loop of this node. */
export class Repair {
  readonly #options: RepairOptions;
  readonly #loop: PacedLoop;
  readonly #failedAtMs = new Map<string, number>();
  #after: UnderReplicated | undefined;

  constructor(options: RepairOptions) {
    this.#options = options;
    this.#loop = new PacedLoop({
      clock: options.clock,
      idleMs: REPAIR_IDLE_MS,
      busyMs: REPAIR_BUSY_MS,
      work: (signal) => this.#round(signal),
      onError: options.onError,
    });
  }

  start(): void {
    this.#loop.start();
  }

  stop(): Promise<void> {
    return this.#loop.stop();
  }

  /** Looks at once: a copy was just found bad. */
  wake(): void {
    this.#loop.wake();
  }

  async #round(signal: AbortSignal): Promise<"busy" | "idle"> {
    const { port } = this.#options.metadata;
    await port.linearize({ signal });
    await this.#giveUpLost(signal);
    const { page, more } = this.#nextPage();
    const own: { readonly key: ExtentKey; readonly sizeBytes: number }[] = [];
    let workedOn = false;
    for (const key of page) {
      throwIfCanceled(signal);
      const extent = getExtent(port.reader(), key);
      if (extent === undefined || this.#failedLately(key)) continue;
      if (this.#isExpectedHere(extent)) own.push({ key, sizeBytes: extent.sizeBytes });
      else if (port.leaderId() === port.memberId && (await this.#assign(key, extent, signal)))
        workedOn = true;
    }
    if (await this.#copyAll(own, signal)) workedOn = true;
    return more || workedOn ? "busy" : "idle";
  }

  /** The next part of the list; what became more urgent than the place where it goes on comes first. */
  #nextPage(): { readonly page: readonly UnderReplicated[]; readonly more: boolean } {
    const reader = this.#options.metadata.port.reader();
    const after = this.#after;
    const urgent =
      after === undefined
        ? []
        : underReplicated(reader, undefined, REPAIR_PAGE_COUNT).filter(
            (key) => key.verifiedCount < after.verifiedCount,
          );
    const rest = underReplicated(reader, after, REPAIR_PAGE_COUNT);
    const more = rest.length === REPAIR_PAGE_COUNT;
    this.#after = more ? rest.at(-1) : undefined;
    return { page: [...urgent, ...rest], more };
  }

  /** The leader gives up members that have been down for longer than the grace: their copies are lost until they return. */
  async #giveUpLost(signal: AbortSignal): Promise<void> {
    const { metadata, detector, onLost, lostAfterMs = LOST_AFTER_MS_DEFAULT } = this.#options;
    const { port } = metadata;
    if (port.leaderId() !== port.memberId) return;
    for (const { memberId, storeIncarnation } of members(port.reader())) {
      const { health, sinceMs } = detector.state(memberId);
      if (health !== "down" || sinceMs < lostAfterMs) continue;
      if (storeOf(port.reader(), memberId).lostTimeMs > 0) continue;
      onLost?.(memberId);
      await metadata.applyIdempotent({ kind: "declare-lost", memberId, storeIncarnation }, { signal });
    }
  }

  #isExpectedHere(extent: Extent): boolean {
    const own = this.#options.metadata.port.memberId;
    return extent.replicas.some((replica) => replica.memberId === own && replica.state !== "verified");
  }

  /** Names one more member for an extent that too few are expected to hold; true when it did. */
  async #assign(key: ExtentKey, extent: Extent, signal: AbortSignal): Promise<boolean> {
    const expected = extent.replicas.filter((replica) => this.#isExpected(replica));
    if (expected.length >= REPLICA_COUNT) return false;
    const memberId = this.#options.placement.chooseSpare(extent.replicas.map((replica) => replica.memberId));
    if (memberId === undefined) return false;
    const { contentId, extentIndex } = key;
    const given = extent.replicas.find((replica) => !expected.includes(replica));
    await this.#options.metadata.applyIdempotent(
      { kind: "assign-replica", contentId, extentIndex, memberId, replacesMemberId: given?.memberId ?? 0 },
      { signal },
    );
    return true;
  }

  /** Whether a replica counts as a copy, or as one that its member is going to make. */
  #isExpected(replica: Replica): boolean {
    if (replica.state === "verified") return true;
    const { health, sinceMs } = this.#options.detector.state(replica.memberId);
    return health !== "down" || sinceMs < PENDING_GRACE_MS;
  }

  /** Makes this node's copies, a few at once; true when one was made. */
  async #copyAll(
    wanted: readonly { readonly key: ExtentKey; readonly sizeBytes: number }[],
    signal: AbortSignal,
  ): Promise<boolean> {
    let made = false;
    const work = async (waiting: Iterable<{ readonly key: ExtentKey }>): Promise<void> => {
      for (const { key } of waiting) {
        if (signal.aborted) return;
        if (await this.#copy(key, signal)) made = true;
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

  async #copy(key: ExtentKey, signal: AbortSignal): Promise<boolean> {
    const { metadata, locks, copier, placement } = this.#options;
    try {
      return await locks.withLock(key, async () => {
        const extent = getExtent(metadata.port.reader(), key);
        if (extent === undefined || !this.#isExpectedHere(extent)) return false;
        // Suspect copies come last: what is good in them is as good as anything, since every chunk is checked.
        const others = extent.replicas.filter((replica) => replica.memberId !== metadata.port.memberId);
        const { sizeBytes, root } = extent;
        const sources = placement.rankReaders(others);
        const seal = await copier.copy({ extent: key, sizeBytes, root, sources, signal });
        await metadata.applyIdempotent({ kind: "add-replica", seal }, { signal });
        return true;
      });
    } catch (error) {
      if (!(error instanceof DriveError) || hasReason(error, "NODE_STOPPING")) throw error;
      this.#noteFailed(key);
      this.#options.onError?.(error);
      return false;
    }
  }

  #failedLately({ contentId, extentIndex }: ExtentKey): boolean {
    const failedAtMs = this.#failedAtMs.get(`${contentId}/${extentIndex}`);
    return failedAtMs !== undefined && this.#options.clock.monotonicMs() - failedAtMs < REPAIR_RETRY_MS;
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
