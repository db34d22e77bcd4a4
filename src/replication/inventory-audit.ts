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
import { PacedWork } from "../cluster/paced-loop.ts";
import type { ExtentKey } from "../drive/content.ts";
import type { DriveError } from "../drive/errors.ts";
import { storeOf, type KeyedExtent } from "../metadata/view.ts";
import { bytesEqual } from "../std/bytes.ts";
import type { Clock } from "../std/clock.ts";
import { isHeldBy, type Assignments } from "./assignments.ts";

/** Pause after a pass, or after a failure. */
export const AUDIT_IDLE_MS = 5_000;
/** Pause between two pages. */
export const AUDIT_BUSY_MS = 20;
/** How often the whole inventory is compared. */
export const AUDIT_INTERVAL_MS = 10 * 60 * 1000;
/** The same while the store holds quarantined extents: the report of one may have been lost. */
export const AUDIT_DAMAGED_INTERVAL_MS = 30_000;
/** What an InventoryAudit needs. */
export interface InventoryAuditOptions {
  readonly clock: Clock;
  readonly metadata: MetadataClient;
  readonly assignments: Assignments;
  readonly store: ChunkStore;
  /** Told of each copy that is missing or quarantined, beside the report to the tree: for the log. */
  readonly onMissing?: ((extent: ExtentKey) => void) | undefined;
  readonly onError?: ((error: DriveError) => void) | undefined;
}

/** The audit loop of this node. */
export class InventoryAudit extends PacedWork {
  readonly #options: InventoryAuditOptions;
  #after: ExtentKey | undefined;
  #passedAtMs: number | undefined;

  constructor(options: InventoryAuditOptions) {
    super({
      clock: options.clock,
      idleMs: AUDIT_IDLE_MS,
      busyMs: AUDIT_BUSY_MS,
      onError: options.onError,
    });
    this.#options = options;
  }

  protected async round(signal: AbortSignal): Promise<"busy" | "idle"> {
    const { clock, assignments, store } = this.#options;
    const now = clock.monotonicMs();
    const isDamaged = store.stats().quarantinedExtentCount > 0;
    const intervalMs = isDamaged ? AUDIT_DAMAGED_INTERVAL_MS : AUDIT_INTERVAL_MS;
    const isDue = this.#passedAtMs === undefined || now - this.#passedAtMs >= intervalMs || this.#isLost();
    if (!isDue && this.#after === undefined) return "idle";
    // The first page is fresh, so that the first pass sees what was committed before the start.
    const { extents, next } = await assignments.held(this.#after, signal);
    for (const each of extents) {
      if (signal.aborted) return "idle";
      await this.#compare(each, signal);
    }
    if (next !== undefined) {
      this.#after = next;
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

  async #compare({ contentId, extent: said }: KeyedExtent, signal: AbortSignal): Promise<void> {
    const { metadata, assignments, store, onMissing } = this.#options;
    const { memberId } = metadata.port;
    const extent = { contentId, extentIndex: said.extentIndex };
    const state = await store.extentState(extent);
    if (state.kind === "sealed" && bytesEqual(state.root, said.root)) return;
    // What was dropped while the store was asked is no longer ours to have.
    const [now] = await assignments.look([extent], { fresh: false, signal });
    if (now?.extent === undefined || !isHeldBy(memberId, now.extent, this.#isLost())) return;
    const finding = state.kind === "quarantined" || state.kind === "sealed" ? "corrupt" : "lost";
    onMissing?.(extent);
    await metadata.applyIdempotent({ kind: "report-replica", ...extent, memberId, finding }, { signal });
  }
}
