/**
 * Collection: removes from this node's store what the tree has dropped, and what the tree never knew.
 *
 *   drop list of this member --> lock the extent, look again, remove, confirm
 *   now and then: extents here --> a linearizable look at the tree --> in no content, no upload, no live lease, in this sweep
 *   and the one before --> not suspiciously many: remove
 *
 * Rules (reliability: G-01 to G-09, K3): what is here is listed before the tree is asked, so whatever was registered before
 * its bytes came is seen; a look that failed removes nothing; an empty tree removes nothing. Contents that are read from here
 * are left until the readers have gone.
 */
import type { ChunkStore } from "../chunks/chunk-store.ts";
import type { MetadataClient } from "../cluster/metadata-client.ts";
import { PacedWork } from "../cluster/paced-loop.ts";
import type { CollectionBrake } from "../drive/collection-brake.ts";
import type { ExtentKey } from "../drive/content.ts";
import type { DriveError } from "../drive/errors.ts";
import { must } from "../std/assert.ts";
import type { Clock } from "../std/clock.ts";
import { DROP_PAGE_COUNT, type Assignments, type ExtentLook } from "./assignments.ts";
import type { ExtentLocks } from "./extent-locks.ts";
import type { PlantedChunkFault } from "./planted-faults.ts";

/** Pause between looks at the drop list. */
export const DROP_IDLE_MS = 5_000;
/** Pause between two batches. */
export const DROP_BUSY_MS = 20;
/** Extents removed at once: each is locked and looked up on its own, and their tombstones share syncs. */
export const DROP_PARALLEL_COUNT = 64;
/** How often the whole store is compared with the tree. */
export const ORPHAN_SWEEP_INTERVAL_MS = 10 * 60 * 1000;
/** Extents compared in one go. */
export const ORPHAN_PAGE_COUNT = 500;

/** Unknown extents remembered from one sweep to the next; the rest waits for a later one. */
export const ORPHAN_COUNT_MAX = 100_000;
/** A sweep that finds more than this share of the store unknown removes nothing, unless told otherwise... */
export const ORPHAN_SHARE_MAX_DEFAULT = 0.05;
/** ...and more than this many. */
export const ORPHAN_BRAKE_COUNT_MIN = 100;

/** What a DropCollector needs. */
export interface DropCollectorOptions {
  readonly clock: Clock;
  readonly metadata: MetadataClient;
  readonly assignments: Assignments;
  readonly store: ChunkStore;
  readonly locks: ExtentLocks;
  /** Whether a content is being read from this node now. */
  readonly isPinned: (contentId: number) => boolean;
  readonly onError?: (error: DriveError) => void;
  /** Share of the store, 0 to 1, that a sweep may remove; ORPHAN_SHARE_MAX_DEFAULT when absent. */
  readonly orphanShareMax?: number | undefined;
  /** Told when a sweep removed nothing because too much was unknown. */
  readonly onBrake?: ((found: CollectionBrake) => void) | undefined;
  /** How often the whole store is compared with the tree; ORPHAN_SWEEP_INTERVAL_MS when absent. */
  readonly sweepIntervalMs?: number | undefined;
  /** A historical bug to show, in tests alone. */
  readonly plantedFault?: PlantedChunkFault | undefined;
}

interface Seen {
  extentCount: number;
  orphanCount: number;
  futureCount: number;
  readonly orphans: Map<string, ExtentKey>;
}

function noneSeen(): Seen {
  return { extentCount: 0, orphanCount: 0, futureCount: 0, orphans: new Map() };
}

function extentName({ contentId, extentIndex }: ExtentKey): string {
  return `${contentId}/${extentIndex}`;
}

/** The collection loop of this node. */
export class DropCollector extends PacedWork {
  readonly #options: DropCollectorOptions;
  #sweepAfter: ExtentKey | undefined;
  #sweptAtMs: number;
  #plantedKnown: ReadonlySet<number> | undefined;
  #seen = noneSeen();
  /** What the last sweep found unknown, by extentName(). */
  #candidates: ReadonlySet<string> = new Set();
  #brake: CollectionBrake | undefined;

  constructor(options: DropCollectorOptions) {
    super({
      clock: options.clock,
      idleMs: DROP_IDLE_MS,
      busyMs: DROP_BUSY_MS,
      onError: options.onError,
    });
    this.#options = options;
    this.#sweptAtMs = options.clock.monotonicMs();
  }

  /** What the last sweep found when it was so much that it removed nothing and an operator has to look; undefined otherwise. */
  get brake(): CollectionBrake | undefined {
    return this.#brake;
  }

  protected async round(signal: AbortSignal): Promise<"busy" | "idle"> {
    const dropped = await this.#dropListed(signal);
    const swept = await this.#sweep(signal);
    return dropped || swept ? "busy" : "idle";
  }

  /** Removes a batch of what is listed for this member; true when there may be more. */
  async #dropListed(signal: AbortSignal): Promise<boolean> {
    const { metadata, assignments, isPinned } = this.#options;
    const listed = await assignments.dropped(signal);
    const waiting = listed[Symbol.iterator]();
    const removed: ExtentKey[] = [];
    const work = async (): Promise<void> => {
      for (const extent of waiting) {
        if (signal.aborted) return;
        if (isPinned(extent.contentId)) continue;
        if (await this.#remove(extent, () => this.#isListed(extent))) removed.push(extent);
      }
    };
    await Promise.all(Array.from({ length: DROP_PARALLEL_COUNT }, work));
    if (removed.length === 0) return false;
    const { memberId } = metadata.port;
    await metadata.applyIdempotent({ kind: "confirm-dropped", memberId, extents: removed }, { signal });
    return listed.length === DROP_PAGE_COUNT;
  }

  async #isListed(extent: ExtentKey): Promise<boolean> {
    const [look] = await this.#options.assignments.look([extent], { fresh: false });
    return look?.isDropped === true;
  }

  /** Compares a page of the store with the tree; true while a sweep is under way. */
  async #sweep(signal: AbortSignal): Promise<boolean> {
    const { clock, store, assignments, isPinned } = this.#options;
    const now = clock.monotonicMs();
    if (this.#sweepAfter === undefined && now - this.#sweptAtMs < this.#sweepIntervalMs) return false;
    const planted = await this.#plantedLook(signal);
    const page = await store.listExtents(this.#sweepAfter, ORPHAN_PAGE_COUNT);
    const looks = planted === undefined ? await assignments.look(page, { fresh: true, signal }) : [];
    for (const [at, extent] of page.entries()) {
      if (signal.aborted) return false;
      if (planted === undefined) this.#note(extent, must(looks[at], "an answer for each extent").state);
      else if (!isPinned(extent.contentId)) await this.#remove(extent, planted(extent));
    }
    this.#sweepAfter = page.length === ORPHAN_PAGE_COUNT ? page.at(-1) : undefined;
    if (this.#sweepAfter !== undefined) return true;
    this.#sweptAtMs = now;
    await this.#endSweep(signal);
    return false;
  }

  async #isOrphan(extent: ExtentKey): Promise<boolean> {
    const [look] = await this.#options.assignments.look([extent], { fresh: false });
    return look?.state === "unknown";
  }

  #note(extent: ExtentKey, state: ExtentLook["state"]): void {
    this.#seen.extentCount += 1;
    if (state === "future") this.#seen.futureCount += 1;
    if (state !== "unknown") return;
    this.#seen.orphanCount += 1;
    if (this.#seen.orphans.size < ORPHAN_COUNT_MAX) this.#seen.orphans.set(extentName(extent), extent);
  }

  /** Removes what this sweep and the one before found to be unknown, unless the brake holds. */
  async #endSweep(signal: AbortSignal): Promise<void> {
    const { onBrake, isPinned, orphanShareMax = ORPHAN_SHARE_MAX_DEFAULT } = this.#options;
    const { extentCount, orphanCount, futureCount, orphans } = this.#seen;
    const before = this.#candidates;
    this.#candidates = new Set(orphans.keys());
    this.#seen = noneSeen();
    const isTooMany = orphanCount > Math.max(ORPHAN_BRAKE_COUNT_MIN, extentCount * orphanShareMax);
    const isBraked = futureCount > 0 || isTooMany;
    this.#brake = isBraked ? { extentCount, orphanCount, futureCount } : undefined;
    if (this.#brake !== undefined) {
      onBrake?.(this.#brake);
      return;
    }
    for (const [name, extent] of orphans) {
      if (signal.aborted) return;
      if (!before.has(name) || isPinned(extent.contentId)) continue;
      await this.#remove(extent, () => this.#isOrphan(extent));
    }
  }

  get #sweepIntervalMs(): number {
    return this.#options.sweepIntervalMs ?? ORPHAN_SWEEP_INTERVAL_MS;
  }

  /** The planted faults' idea of what is an orphan; undefined when none is planted, or it does not matter now. */
  async #plantedLook(
    signal: AbortSignal,
  ): Promise<((extent: ExtentKey) => () => Promise<boolean>) | undefined> {
    const { metadata, assignments, store, plantedFault } = this.#options;
    if (plantedFault === "sweep-asks-first") {
      await metadata.port.linearize({ signal });
      const extents = await store.listExtents(this.#sweepAfter, ORPHAN_PAGE_COUNT);
      const looks = await assignments.look(extents, { fresh: false, signal });
      const known = extents.filter((_, at) => looks[at]?.state === "known");
      // What is removed in one round was looked up in the round before.
      const before = this.#plantedKnown;
      this.#plantedKnown = new Set(known.map(({ contentId }) => contentId));
      return before === undefined
        ? undefined
        : (extent) => () => Promise.resolve(!before.has(extent.contentId));
    }
    if (plantedFault === "sweep-outruns-uploads") {
      const extents = await store.listExtents(this.#sweepAfter, ORPHAN_PAGE_COUNT);
      const looks = await assignments.look(extents, { fresh: true, signal });
      const unfinished = new Set(
        extents.filter((_, at) => looks[at]?.extent === undefined).map((extent) => extentName(extent)),
      );
      return (extent) => () => Promise.resolve(unfinished.has(extentName(extent)));
    }
    if (plantedFault !== "sweep-ignores-failure") return undefined;
    try {
      await metadata.port.linearize({ signal });
      return undefined;
    } catch {
      return () => () => Promise.resolve(true);
    }
  }

  /** Removes an extent when, with the lock held, it still may be; returns whether it did. */
  #remove(extent: ExtentKey, mayRemove: () => Promise<boolean>): Promise<boolean> {
    return this.#options.locks.withLock(extent, async () => {
      if (!(await mayRemove())) return false;
      await this.#options.store.removeExtent(extent);
      return true;
    });
  }
}
