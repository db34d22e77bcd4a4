/**
 * Collection: removes from this node's store what the tree has dropped, and what the tree never knew.
 *
 *   drop list of this member --> lock the extent, look again, remove, confirm
 *   now and then: extents here --> a linearizable look at the tree --> in no content, no upload, no live lease: remove
 *
 * Rules (reliability: G-01 to G-09, K3): what is here is listed before the tree is asked, so whatever was registered before
 * its bytes came is seen; a look that failed removes nothing; an empty tree removes nothing. Contents that are read from here
 * are left until the readers have gone.
 */
import type { ChunkStore } from "../chunks/chunk-store.ts";
import type { MetadataClient } from "../cluster/metadata-client.ts";
import { PacedLoop } from "../cluster/paced-loop.ts";
import type { ExtentKey } from "../drive/content.ts";
import type { DriveError } from "../drive/errors.ts";
import { contentState, dropList } from "../metadata/view.ts";
import type { Clock } from "../std/clock.ts";
import type { ExtentLocks } from "./extent-locks.ts";

/** Pause between looks at the drop list. */
export const DROP_IDLE_MS = 5_000;
/** Pause between two batches. */
export const DROP_BUSY_MS = 20;
/** Extents removed and confirmed with one command. */
export const DROP_BATCH_COUNT = 256;
/** How often the whole store is compared with the tree. */
export const ORPHAN_SWEEP_INTERVAL_MS = 10 * 60 * 1000;
/** Extents compared in one go. */
export const ORPHAN_PAGE_COUNT = 500;

/** What a DropCollector needs. */
export interface DropCollectorOptions {
  readonly clock: Clock;
  readonly metadata: MetadataClient;
  readonly store: ChunkStore;
  readonly locks: ExtentLocks;
  /** Whether a content is being read from this node now. */
  readonly isPinned: (contentId: number) => boolean;
  readonly onError?: (error: DriveError) => void;
}

/** The collection loop of this node. */
export class DropCollector {
  readonly #options: DropCollectorOptions;
  readonly #loop: PacedLoop;
  #sweepAfter: ExtentKey | undefined;
  #sweptAtMs: number;

  constructor(options: DropCollectorOptions) {
    this.#options = options;
    this.#sweptAtMs = options.clock.monotonicMs();
    this.#loop = new PacedLoop({
      clock: options.clock,
      idleMs: DROP_IDLE_MS,
      busyMs: DROP_BUSY_MS,
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
    const dropped = await this.#dropListed(signal);
    const swept = await this.#sweep(signal);
    return dropped || swept ? "busy" : "idle";
  }

  /** Removes a batch of what is listed for this member; true when there may be more. */
  async #dropListed(signal: AbortSignal): Promise<boolean> {
    const { metadata, isPinned } = this.#options;
    const { port } = metadata;
    const listed = dropList(port.reader(), port.memberId, DROP_BATCH_COUNT);
    const removed: ExtentKey[] = [];
    for (const extent of listed) {
      if (signal.aborted) break;
      if (isPinned(extent.contentId)) continue;
      if (await this.#remove(extent, () => this.#isListed(extent))) {
        removed.push(extent);
      }
    }
    if (removed.length === 0) return false;
    const { memberId } = port;
    await metadata.applyIdempotent({ kind: "confirm-dropped", memberId, extents: removed }, { signal });
    return listed.length === DROP_BATCH_COUNT;
  }

  #isListed({ contentId, extentIndex }: ExtentKey): boolean {
    const { port } = this.#options.metadata;
    const before =
      extentIndex > 0
        ? { contentId, extentIndex: extentIndex - 1 }
        : { contentId: contentId - 1, extentIndex: Number.MAX_SAFE_INTEGER };
    const [first] = dropList(port.reader(), port.memberId, 1, before);
    return first?.contentId === contentId && first.extentIndex === extentIndex;
  }

  /** Compares a page of the store with the tree; true while a sweep is under way. */
  async #sweep(signal: AbortSignal): Promise<boolean> {
    const { clock, store, metadata, isPinned } = this.#options;
    const now = clock.monotonicMs();
    if (this.#sweepAfter === undefined && now - this.#sweptAtMs < ORPHAN_SWEEP_INTERVAL_MS) return false;
    const page = await store.listExtents(this.#sweepAfter, ORPHAN_PAGE_COUNT);
    await metadata.port.linearize({ signal });
    for (const extent of page) {
      if (signal.aborted) return false;
      const isOrphan = (): boolean => contentState(metadata.port.reader(), extent.contentId) === "unknown";
      if (isOrphan() && !isPinned(extent.contentId)) await this.#remove(extent, isOrphan);
    }
    this.#sweepAfter = page.length === ORPHAN_PAGE_COUNT ? page.at(-1) : undefined;
    if (this.#sweepAfter === undefined) this.#sweptAtMs = now;
    return this.#sweepAfter !== undefined;
  }

  /** Removes an extent when, with the lock held, it still may be; returns whether it did. */
  #remove(extent: ExtentKey, mayRemove: () => boolean): Promise<boolean> {
    return this.#options.locks.withLock(extent, async () => {
      if (!mayRemove()) return false;
      await this.#options.store.removeExtent(extent);
      return true;
    });
  }
}
