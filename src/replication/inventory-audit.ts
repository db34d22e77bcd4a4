/**
 * The audit of this node's inventory: what the tree believes to be here, compared with what is here.
 *
 *   extents of the tree, page by page --> a verified copy at this member? --> sealed in the store? --> no: report the copy as bad
 *
 * A record that was damaged on the disk may be of an extent that this store then no longer knows, and nothing else would ever
 * notice: nobody reads from a copy that others have too. So a whole pass follows every start, and one comes now and then.
 * Reads no bytes (that is for reads, seals and repair) and removes nothing.
 */
import type { ChunkStore } from "../chunks/chunk-store.ts";
import type { MetadataClient } from "../cluster/metadata-client.ts";
import { PacedLoop } from "../cluster/paced-loop.ts";
import type { ExtentKey } from "../drive/content.ts";
import type { DriveError } from "../drive/errors.ts";
import { getExtent, storeOf, listExtents } from "../metadata/view.ts";
import { bytesEqual } from "../std/bytes.ts";
import type { Clock } from "../std/clock.ts";

/** Pause after a pass, or after a failure. */
export const AUDIT_IDLE_MS = 5_000;
/** Pause between two pages. */
export const AUDIT_BUSY_MS = 20;
/** How often the whole inventory is compared. */
export const AUDIT_INTERVAL_MS = 10 * 60 * 1000;
/** The same while the store holds quarantined extents: the report of one may have been lost. */
export const AUDIT_DAMAGED_INTERVAL_MS = 30_000;
/** Extents compared in one go. */
export const AUDIT_PAGE_COUNT = 500;

/** What an InventoryAudit needs. */
export interface InventoryAuditOptions {
  readonly clock: Clock;
  readonly metadata: MetadataClient;
  readonly store: ChunkStore;
  /** Told of each copy that is missing or quarantined, beside the report to the tree: for the log. */
  readonly onMissing?: ((extent: ExtentKey) => void) | undefined;
  readonly onError?: ((error: DriveError) => void) | undefined;
}

/** The audit loop of this node. */
export class InventoryAudit {
  readonly #options: InventoryAuditOptions;
  readonly #loop: PacedLoop;
  #after: ExtentKey | undefined;
  #passedAtMs: number | undefined;

  constructor(options: InventoryAuditOptions) {
    this.#options = options;
    this.#loop = new PacedLoop({
      clock: options.clock,
      idleMs: AUDIT_IDLE_MS,
      busyMs: AUDIT_BUSY_MS,
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
    const { clock, metadata, store } = this.#options;
    const now = clock.monotonicMs();
    const isDamaged = store.stats().quarantinedExtentCount > 0;
    const intervalMs = isDamaged ? AUDIT_DAMAGED_INTERVAL_MS : AUDIT_INTERVAL_MS;
    const isDue = this.#passedAtMs === undefined || now - this.#passedAtMs >= intervalMs || this.#isLost();
    if (!isDue && this.#after === undefined) return "idle";
    // The first pass must see what was committed before the start, so this node's view must have caught up.
    if (this.#after === undefined) await metadata.port.linearize({ signal });
    const page = listExtents(metadata.port.reader(), this.#after, AUDIT_PAGE_COUNT);
    for (const { contentId, extent } of page) {
      if (signal.aborted) return "idle";
      await this.#compare({ contentId, extentIndex: extent.extentIndex }, signal);
    }
    const last = page.at(-1);
    if (page.length === AUDIT_PAGE_COUNT && last !== undefined) {
      this.#after = { contentId: last.contentId, extentIndex: last.extent.extentIndex };
      return "busy";
    }
    this.#after = undefined;
    this.#passedAtMs = now;
    await this.#return(signal);
    return "idle";
  }

  /** Whether this member was given up while it was away. */
  #isLost(): boolean {
    const { port } = this.#options.metadata;
    return storeOf(port.reader(), port.memberId).lostTimeMs > 0;
  }

  /** A member that was given up comes back once its inventory has been compared. */
  async #return(signal: AbortSignal): Promise<void> {
    if (!this.#isLost()) return;
    const { metadata, store } = this.#options;
    const { memberId, storeIncarnation } = store;
    await metadata.applyIdempotent({ kind: "return-store", memberId, storeIncarnation }, { signal });
  }

  async #compare(extent: ExtentKey, signal: AbortSignal): Promise<void> {
    const { metadata, store, onMissing } = this.#options;
    if (!this.#isOurs(extent)) return;
    const state = await store.extentState(extent);
    const root = getExtent(metadata.port.reader(), extent)?.root;
    const isGood = state.kind === "sealed" && root !== undefined && bytesEqual(state.root, root);
    // What was dropped while the store was asked is no longer ours to have.
    if (isGood || !this.#isOurs(extent)) return;
    const finding = state.kind === "quarantined" || state.kind === "sealed" ? "corrupt" : "lost";
    onMissing?.(extent);
    const { memberId } = metadata.port;
    await metadata.applyIdempotent({ kind: "report-replica", ...extent, memberId, finding }, { signal });
  }

  #isOurs(extent: ExtentKey): boolean {
    const { port } = this.#options.metadata;
    const replicas = getExtent(port.reader(), extent)?.replicas ?? [];
    // While this member is given up its verified copies show as lost; they are the ones to compare before it comes back.
    const counts = this.#isLost() ? ["verified", "lost"] : ["verified"];
    return replicas.some(({ memberId, state }) => memberId === port.memberId && counts.includes(state));
  }
}
