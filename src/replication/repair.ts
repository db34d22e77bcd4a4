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
import type { DriveError } from "../drive/errors.ts";
import { REPLICA_COUNT } from "../drive/limits.ts";
import { getExtent, members, storeOf, underReplicated, type UnderReplicated } from "../metadata/view.ts";
import type { Clock } from "../std/clock.ts";
import { isWantedOf } from "./assignments.ts";
import type { CopyMaker, WantedCopy } from "./copy-maker.ts";
import type { Placement } from "./placement.ts";

/** Pause between looks at the list when there was nothing to do: a copy known bad is worked on well within a minute. */
export const REPAIR_IDLE_MS = 2_000;
/** Pause between two pages of the list. */
export const REPAIR_BUSY_MS = 50;
/** Extents looked at in one go. */
export const REPAIR_PAGE_COUNT = 100;
/** A copy expected of a member that has been down for this long is asked of another: longer than a restart takes. */
export const PENDING_GRACE_MS = 60_000;
/** A member that has been down for this long is given up, unless told otherwise: all its copies are made anew elsewhere. */
export const LOST_AFTER_MS_DEFAULT = 15 * 60 * 1000;
/** Bytes a second that a node copies while users move bytes: it yields, and still ends. */
export const REPAIR_BUSY_BYTES_PER_SECOND = 16 * 1024 * 1024;
/** What Repair needs. */
export interface RepairOptions {
  readonly clock: Clock;
  readonly metadata: MetadataClient;
  readonly detector: FailureDetector;
  readonly placement: Placement;
  readonly copies: CopyMaker;
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
    const { metadata, copies } = this.#options;
    const { port } = metadata;
    await port.linearize({ signal });
    await this.#giveUpLost(signal);
    const { page, more } = this.#nextPage();
    const own: WantedCopy[] = [];
    let workedOn = false;
    for (const key of page) {
      throwIfCanceled(signal);
      const extent = getExtent(port.reader(), key);
      if (extent === undefined || copies.failedLately(key)) continue;
      if (isWantedOf(port.memberId, extent)) own.push({ key, sizeBytes: extent.sizeBytes });
      else if (port.leaderId() === port.memberId && (await this.#assign(key, extent, signal)))
        workedOn = true;
    }
    if (await copies.makeAll(own, signal)) workedOn = true;
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
}
