/**
 * Repair: brings every extent back to REPLICA_COUNT verified copies, by itself.
 *
 *   every node   makes the copies that the tree expects of it (any that is not verified)  --> add-replica
 *   the leader   names members for extents that nobody is making enough copies of        --> a task, or assign-replica
 *   the leader   gives up members that are down for longer than a grace                  --> declare-lost
 *
 * Both walk the tree's list of under-replicated extents, which is ordered by copies left, fewest first. Paced: a bounded
 * number of copies at once and a pause between looks, so that users go first. All decisions are taken from the tree, which has
 * the last word; doing one twice is harmless.
 */
import { throwIfCanceled } from "../cluster/deadline.ts";
import type { FailureDetector } from "../cluster/failure-detector-port.ts";
import type { MetadataClient } from "../cluster/metadata-client.ts";
import { PacedWork } from "../cluster/paced-loop.ts";
import type { Extent, ExtentKey } from "../drive/content.ts";
import type { DriveError } from "../drive/errors.ts";
import { REPLICA_COUNT } from "../drive/limits.ts";
import { getExtent, members, storeOf, underReplicated, type UnderReplicated } from "../metadata/view.ts";
import type { Clock } from "../std/clock.ts";
import { missingCopy } from "./assigning.ts";
import { isWantedOf } from "./assignments.ts";
import type { CopyMaker, WantedCopy } from "./copy-maker.ts";
import type { Placement } from "./placement.ts";

/** Pause between looks at the list when there was nothing to do: a copy known bad is worked on well within a minute. */
export const REPAIR_IDLE_MS = 2_000;
/** Pause between two pages of the list. */
export const REPAIR_BUSY_MS = 50;
/** Extents looked at in one go. */
export const REPAIR_PAGE_COUNT = 500;
/** Copies of this node made in one go, and their bytes: what is more urgent waits for them. */
export const REPAIR_OWN_COUNT_MAX = 128;
export const REPAIR_OWN_BYTES_MAX = 1024 ** 3;
/** An extent that lacks a copy for so long gets a task: most of those that an upload leaves behind have it earlier. */
export const PLAN_AFTER_MS = 3_000;
/** An extent with so few verified copies, or fewer, is not made to wait for a task. */
export const URGENT_COPY_COUNT = 1;
/** Extents of which is remembered since when they lack a copy; beyond, the oldest begin anew. */
export const LACKING_COUNT_MAX = 10_000;
/** A member that has been down for this long is given up, unless told otherwise: all its copies are made anew elsewhere. */
export const LOST_AFTER_MS_DEFAULT = 15 * 60 * 1000;
/** Bytes a second that a node copies while users move bytes: it yields, and still ends. */
export const REPAIR_BUSY_BYTES_PER_SECOND = 16 * 1024 * 1024;
/** An extent with too few verified copies. */
export interface LackingExtent {
  readonly key: UnderReplicated;
  readonly extent: Extent;
}

/** The port to the tasks that have copies made for many extents at once (tasks/replication-planner.ts). */
export interface RepairTasks {
  /** Whether a task works on the extent now, or is about to. */
  covers(key: ExtentKey): boolean;
  /** Makes tasks of extents, in their order; answers those that have one now. The others have to do without. */
  plan(extents: readonly LackingExtent[], signal: AbortSignal): Promise<ReadonlySet<LackingExtent>>;
}

/** What Repair needs. */
export interface RepairOptions {
  readonly clock: Clock;
  readonly metadata: MetadataClient;
  readonly detector: FailureDetector;
  readonly placement: Placement;
  readonly copies: CopyMaker;
  /** Tasks for what lacks copies; without them members are named one by one. */
  readonly tasks?: RepairTasks | undefined;
  /** A member that has been down for this long is given up; default LOST_AFTER_MS_DEFAULT. */
  readonly lostAfterMs?: number | undefined;
  /** Told when this node, leading, gives a member up: for the log. */
  readonly onLost?: ((memberId: number) => void) | undefined;
  readonly onError?: (error: DriveError) => void;
}

/** The repair loop of this node. */
export class Repair extends PacedWork {
  readonly #options: RepairOptions;
  /** Since when extents lack a copy, as far as this leader saw it. */
  readonly #lackingSinceMs = new Map<string, number>();
  #after: UnderReplicated | undefined;

  constructor(options: RepairOptions) {
    super({
      clock: options.clock,
      idleMs: REPAIR_IDLE_MS,
      busyMs: REPAIR_BUSY_MS,
      onError: options.onError,
    });
    this.#options = options;
  }

  protected async round(signal: AbortSignal): Promise<"busy" | "idle"> {
    const { metadata, copies } = this.#options;
    const { port } = metadata;
    await port.linearize({ signal });
    await this.#giveUpLost(signal);
    const { page, more: morePages } = this.#nextPage();
    const own: WantedCopy[] = [];
    let ownBytes = 0;
    const lacking: LackingExtent[] = [];
    const leads = port.leaderId() === port.memberId;
    let more = morePages;
    let workedOn = false;
    for (const key of page) {
      throwIfCanceled(signal);
      if (own.length >= REPAIR_OWN_COUNT_MAX || ownBytes >= REPAIR_OWN_BYTES_MAX) {
        more = true;
        break;
      }
      this.#after = key;
      const extent = getExtent(port.reader(), key);
      if (extent === undefined || copies.failedLately(key)) continue;
      if (isWantedOf(port.memberId, extent)) {
        own.push({ key, sizeBytes: extent.sizeBytes });
        ownBytes += extent.sizeBytes;
      }
      if (leads && key.verifiedCount < REPLICA_COUNT) lacking.push({ key, extent });
    }
    if (leads && (await this.#seeTo(lacking, signal))) workedOn = true;
    if (!more) this.#after = undefined;
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
    return { page: [...urgent, ...rest], more: rest.length === REPAIR_PAGE_COUNT };
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

  /** Has tasks made for what lacks copies, and names members at once where that cannot wait; true when it did something. */
  async #seeTo(lacking: readonly LackingExtent[], signal: AbortSignal): Promise<boolean> {
    const { tasks } = this.#options;
    const open = lacking.filter(({ key }) => tasks?.covers(key) !== true);
    const lasting =
      tasks === undefined
        ? []
        : open.filter((one) => one.key.verifiedCount > URGENT_COPY_COUNT && this.#canBeMade(one));
    const overdue = new Set(lasting.filter(({ key }) => this.#lackingForMs(key) >= PLAN_AFTER_MS));
    const due = lasting.filter((one) => overdue.has(one) || this.#isGivenUp(one));
    const planned = due.length === 0 ? undefined : await tasks?.plan(due, signal);
    const waiting = new Set(lasting.filter((one) => !overdue.has(one)));
    let workedOn = (planned?.size ?? 0) > 0;
    for (const one of open) {
      throwIfCanceled(signal);
      if (planned?.has(one) === true || waiting.has(one)) continue;
      if (await this.#assign(one, signal)) workedOn = true;
    }
    return workedOn;
  }

  /** Whether a copy was at a member that was given up: nobody is about to make that one. */
  #isGivenUp({ extent }: LackingExtent): boolean {
    const reader = this.#options.metadata.port.reader();
    return extent.replicas.some(({ memberId }) => storeOf(reader, memberId).lostTimeMs > 0);
  }

  #lackingForMs({ contentId, extentIndex }: ExtentKey): number {
    const name = `${contentId}/${extentIndex}`;
    const nowMs = this.#options.clock.monotonicMs();
    const sinceMs = this.#lackingSinceMs.get(name);
    if (sinceMs !== undefined) return nowMs - sinceMs;
    this.#lackingSinceMs.set(name, nowMs);
    if (this.#lackingSinceMs.size > LACKING_COUNT_MAX) {
      const [oldest] = this.#lackingSinceMs.keys();
      if (oldest !== undefined) this.#lackingSinceMs.delete(oldest);
    }
    return 0;
  }

  /** Whether somebody could make a copy now; a task for anything else would only fail. */
  #canBeMade({ key, extent }: LackingExtent): boolean {
    const { metadata, detector } = this.#options;
    const isAwaited = extent.replicas.some(
      (replica) => replica.state !== "verified" && detector.state(replica.memberId).health === "up",
    );
    return isAwaited || missingCopy(metadata.port.reader(), key, extent, this.#options) !== undefined;
  }

  /** Names one more member for an extent that too few are expected to hold; true when it did. */
  async #assign({ key }: LackingExtent, signal: AbortSignal): Promise<boolean> {
    const { metadata } = this.#options;
    // It may have changed since the list was read.
    const reader = metadata.port.reader();
    const extent = getExtent(reader, key);
    const assignment = extent === undefined ? undefined : missingCopy(reader, key, extent, this.#options);
    if (assignment === undefined) return false;
    await metadata.applyIdempotent({ kind: "assign-replica", ...assignment }, { signal });
    return true;
  }
}
