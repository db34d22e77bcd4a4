/**
 * Moving copies between members that are all well: away from one that is drained before it is removed, and from one that holds
 * much more than the others, as when a node has joined.
 *
 *   the leader: extents with all copies verified, one of them at a source --> name a member with room in its place
 *   that member: repair makes the copy, verified --> the tree drops the old one
 *
 * The old copy goes only when three others are verified, so a move never weakens anything; an extent that lacks copies is left
 * to repair, which comes first. A bounded number of extents is on the way at once, and no member is filled beyond its mark.
 */
import type { FailureDetector } from "../cluster/failure-detector-port.ts";
import type { MetadataClient } from "../cluster/metadata-client.ts";
import { PacedLoop } from "../cluster/paced-loop.ts";
import type { Extent, ExtentKey } from "../drive/content.ts";
import type { DriveError } from "../drive/errors.ts";
import { REPLICA_COUNT } from "../drive/limits.ts";
import { counters, listExtents, members, storeOf } from "../metadata/view.ts";
import type { Clock } from "../std/clock.ts";
import type { Placement } from "./placement.ts";

/** Pause between looks. */
export const REBALANCE_IDLE_MS = 5_000;
/** Pause between pages while there are sources. */
export const REBALANCE_BUSY_MS = 200;
/** Extents looked at in one go. */
export const REBALANCE_PAGE_COUNT = 200;
/** Extents on the way at once. */
export const MOVING_COUNT_MAX = 64;
/** A member gives copies away when it holds more than the mean by this share and by this many bytes. */
export const IMBALANCE_SHARE = 0.2;
export const IMBALANCE_BYTES_MIN = 1024 ** 3;

/** What a Rebalancer needs. */
export interface RebalancerOptions {
  readonly clock: Clock;
  readonly metadata: MetadataClient;
  readonly detector: FailureDetector;
  readonly placement: Placement;
  readonly onError?: ((error: DriveError) => void) | undefined;
}

interface Sources {
  /** Members that give everything away. */
  readonly drained: ReadonlySet<number>;
  /** Members that hold much more than the mean, and those that hold less. */
  readonly heavy: ReadonlySet<number>;
  readonly light: ReadonlySet<number>;
}

/** The rebalancing loop. start() on every node; it works where the node leads. */
export class Rebalancer {
  readonly #options: RebalancerOptions;
  readonly #loop: PacedLoop;
  #after: ExtentKey | undefined;

  constructor(options: RebalancerOptions) {
    this.#options = options;
    this.#loop = new PacedLoop({
      clock: options.clock,
      idleMs: REBALANCE_IDLE_MS,
      busyMs: REBALANCE_BUSY_MS,
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

  async #round(signal: AbortSignal): Promise<"busy" | "idle"> {
    const { port } = this.#options.metadata;
    if (port.leaderId() !== port.memberId) return "idle";
    const sources = this.#sources();
    if (sources.drained.size === 0 && sources.heavy.size === 0) {
      this.#after = undefined;
      return "idle";
    }
    const page = listExtents(port.reader(), this.#after, REBALANCE_PAGE_COUNT);
    for (const { contentId, extent } of page) {
      // What is on the way is made and verified first; the page is looked at again from here.
      if (signal.aborted || counters(port.reader()).replicas.movingCount >= MOVING_COUNT_MAX) return "idle";
      const key = { contentId, extentIndex: extent.extentIndex };
      await this.#move(key, extent, sources, signal);
      this.#after = key;
    }
    if (page.length === REBALANCE_PAGE_COUNT) return "busy";
    this.#after = undefined;
    return "idle";
  }

  async #move(key: ExtentKey, extent: Extent, sources: Sources, signal: AbortSignal): Promise<void> {
    const { metadata, placement } = this.#options;
    const verified = extent.replicas.filter(({ state }) => state === "verified");
    if (verified.length < REPLICA_COUNT || extent.replicas.some(({ state }) => state === "pending")) return;
    const isOf = (ids: ReadonlySet<number>): number | undefined =>
      verified.find(({ memberId }) => ids.has(memberId))?.memberId;
    const drained = isOf(sources.drained);
    const replacesMemberId = drained ?? isOf(sources.heavy);
    if (replacesMemberId === undefined) return;
    const holders = extent.replicas.map(({ memberId }) => memberId);
    const memberId = placement.chooseSpare(holders);
    if (memberId === undefined) return;
    // Balance is worth a move only towards a member that has less than its share.
    if (drained === undefined && !sources.light.has(memberId)) return;
    const { contentId, extentIndex } = key;
    await metadata.applyIdempotent(
      { kind: "assign-replica", contentId, extentIndex, memberId, replacesMemberId },
      { signal },
    );
  }

  #sources(): Sources {
    const { metadata, detector } = this.#options;
    const reader = metadata.port.reader();
    const ids = members(reader).map(({ memberId }) => memberId);
    const drained = new Set(ids.filter((memberId) => storeOf(reader, memberId).drainTimeMs > 0));
    const held = ids
      .filter((memberId) => !drained.has(memberId) && detector.state(memberId).health === "up")
      .map((memberId) => ({ memberId, liveBytes: detector.state(memberId).load?.liveBytes }));
    // Without a word from everyone the mean is a guess.
    if (held.some(({ liveBytes }) => liveBytes === undefined)) {
      return { drained, heavy: new Set(), light: new Set() };
    }
    const meanBytes = held.reduce((sum, { liveBytes = 0 }) => sum + liveBytes, 0) / Math.max(1, held.length);
    const marginBytes = Math.max(IMBALANCE_BYTES_MIN, meanBytes * IMBALANCE_SHARE);
    const heavy = held.filter(({ liveBytes = 0 }) => liveBytes > meanBytes + marginBytes);
    const light = held.filter(({ liveBytes = 0 }) => liveBytes < meanBytes);
    return {
      drained,
      heavy: new Set(heavy.map(({ memberId }) => memberId)),
      light: new Set(light.map(({ memberId }) => memberId)),
    };
  }
}
