/**
 * Scrub: reads every sealed extent of this node's store again and again and compares it with its manifest, so that damage is
 * found while there are other copies.
 *
 *   pass due or asked for --> extents in order, chunk by chunk, paced --> damage: quarantined by the store, reported to the tree
 *                         --> all read: one command for the whole pass
 *
 * Quarantined extents are read too: one whose bytes have come back is sealed again, and repair, which looks at each copy that the
 * tree calls damaged and still wants, tells the tree so by its seal.
 *
 * Order matters: each damaged extent is in the tree before the pass is reported, because the report says that everything else
 * is good. A pass that cannot report damage does not go on. The place is kept over restarts (scrub-progress.ts). Reads go
 * through the page cache: rot on the disk under a page that is still cached is found by a later pass.
 */
import type { ChunkStore } from "../chunks/chunk-store.ts";
import type { MetadataClient } from "../cluster/metadata-client.ts";
import { PacedWork } from "../cluster/paced-loop.ts";
import type { ExtentKey } from "../drive/content.ts";
import { DriveError, hasReason } from "../drive/errors.ts";
import { clusterTime, scrubRequestTime, storeOf } from "../metadata/view.ts";
import type { Clock } from "../std/clock.ts";
import { errnoOf } from "../std/disk.ts";
import { BackgroundPace } from "./background-pace.ts";
import type { ScrubProgress, ScrubProgressStore } from "./scrub-progress.ts";

const DAY_MS = 24 * 60 * 60 * 1000;

/** A pass takes this long when nothing holds it up, and the next one begins this long after the last began: two days of slack to seven. */
export const SCRUB_PASS_MS = 5 * DAY_MS;
/** A pass reads at least this much a second, so that small stores are done soon. */
export const SCRUB_BYTES_PER_SECOND_MIN = 8 * 1024 * 1024;
/** A pass that somebody asked for reads this much a second while no user needs the node. */
export const SCRUB_REQUESTED_BYTES_PER_SECOND = 200 * 1024 * 1024;
/** The first pass of a store waits this long: a start has other things to do. */
export const SCRUB_FIRST_WAIT_MS = 60_000;
/** Pause between looks whether a pass is due. */
export const SCRUB_IDLE_MS = 5_000;
/** Pause between extents, beside the pace. */
export const SCRUB_BUSY_MS = 1;
/** Extents read in one round: bounds how long a stop waits, together with the pace. */
export const SCRUB_ROUND_COUNT = 16;
/** Bytes read after which the place is kept. */
export const SCRUB_SAVE_BYTES = 256 * 1024 * 1024;

/** What a Scrubber needs. */
export interface ScrubberOptions {
  readonly clock: Clock;
  readonly metadata: MetadataClient;
  readonly store: ChunkStore;
  readonly progress: ScrubProgressStore;
  /** Whether users move bytes at this node now. */
  readonly isBusy: () => boolean;
  /** How long the first pass of a store waits; SCRUB_FIRST_WAIT_MS when absent. */
  readonly firstWaitMs?: number | undefined;
  /** Looks for files that were removed, replaced or cut short under the store: before a pass, which would read those that are open. */
  readonly checkFiles?: ((signal: AbortSignal) => Promise<void>) | undefined;
  /** Told of each extent found damaged: for the log. */
  readonly onDamaged?: ((extent: ExtentKey) => void) | undefined;
  readonly onError?: ((error: DriveError) => void) | undefined;
  /** Called when the disk failed for good: the process must end. */
  readonly onFatal?: ((error: Error) => void) | undefined;
}

/** The scrub loop of this node. */
export class Scrubber extends PacedWork {
  readonly #options: ScrubberOptions;
  readonly #pace: BackgroundPace;
  readonly #startedAtMs: number;
  #pass: ScrubProgress | undefined;
  #isRequested = false;
  #isLoaded = false;
  #unsavedBytes = 0;

  constructor(options: ScrubberOptions) {
    super({
      clock: options.clock,
      idleMs: SCRUB_IDLE_MS,
      busyMs: SCRUB_BUSY_MS,
      onError: options.onError,
    });
    this.#options = options;
    this.#startedAtMs = options.clock.monotonicMs();
    this.#pace = new BackgroundPace({
      clock: options.clock,
      bytesPerSecond: () => this.#bytesPerSecond(),
      // The rate that a pass needs to end in time is kept to in any case; what was asked for yields.
      busyBytesPerSecond: Math.max(
        SCRUB_BYTES_PER_SECOND_MIN,
        options.store.stats().liveBytes / (SCRUB_PASS_MS / 1000),
      ),
      isBusy: options.isBusy,
    });
  }

  /** Ends the loop and keeps the place. */
  override async stop(): Promise<void> {
    await super.stop();
    if (this.#unsavedBytes > 0) await this.#save();
  }

  /** How much of the pass under way is done, 0 to 1; undefined when none is. An estimate by bytes. */
  progress(): number | undefined {
    if (this.#pass === undefined) return undefined;
    const { liveBytes } = this.#options.store.stats();
    return liveBytes === 0 ? 0 : Math.min(1, this.#pass.bytes / liveBytes);
  }

  /** Cluster time at which the pass began that last read an extent of this store; 0 when none did. */
  checkTimeOf(extent: ExtentKey): number {
    const { metadata, store } = this.#options;
    const pass = this.#pass;
    const isRead =
      pass?.after !== undefined &&
      (extent.contentId < pass.after.contentId ||
        (extent.contentId === pass.after.contentId && extent.extentIndex <= pass.after.extentIndex));
    if (isRead) return pass.startTimeMs;
    const known = storeOf(metadata.port.reader(), store.memberId);
    return known.scrubbedIncarnation === store.storeIncarnation ? known.scrubStartTimeMs : 0;
  }

  protected async round(signal: AbortSignal): Promise<"busy" | "idle"> {
    if (!this.#isLoaded) await this.#load();
    if (this.#pass === undefined) {
      if (!this.#isDue()) return "idle";
      await this.#begin(signal);
    }
    return this.#goOn(signal);
  }

  async #load(): Promise<void> {
    const found = await this.#options.progress.load();
    const { storeIncarnation, memberId } = this.#options.store;
    const { scrubPass, scrubbedIncarnation } = storeOf(this.#options.metadata.port.reader(), memberId);
    const isOver = scrubbedIncarnation === storeIncarnation && (found?.pass ?? 0) <= scrubPass;
    if (found?.storeIncarnation === storeIncarnation && !isOver) this.#pass = found;
    this.#isLoaded = true;
  }

  #isDue(): boolean {
    const { metadata, store, clock } = this.#options;
    const reader = metadata.port.reader();
    const known = storeOf(reader, store.memberId);
    const isOfStore = known.scrubbedIncarnation === store.storeIncarnation && known.scrubPass > 0;
    const beganMs = isOfStore ? known.scrubStartTimeMs : -Infinity;
    const requestedMs = scrubRequestTime(reader);
    // A pass that begins at the time of the request or later answers it.
    this.#isRequested = requestedMs > Math.max(0, beganMs) && clusterTime(reader) >= requestedMs;
    if (this.#isRequested) return true;
    if (isOfStore) return clusterTime(reader) - beganMs >= SCRUB_PASS_MS;
    return clock.monotonicMs() - this.#startedAtMs >= (this.#options.firstWaitMs ?? SCRUB_FIRST_WAIT_MS);
  }

  async #begin(signal: AbortSignal): Promise<void> {
    const { metadata, store, checkFiles } = this.#options;
    await checkFiles?.(signal);
    // Whatever a reader of the tree knows to be sealed by then is read by this pass.
    await metadata.port.linearize({ signal });
    const reader = metadata.port.reader();
    const known = storeOf(reader, store.memberId);
    const isOfStore = known.scrubbedIncarnation === store.storeIncarnation;
    this.#pass = {
      storeIncarnation: store.storeIncarnation,
      pass: (isOfStore ? known.scrubPass : 0) + 1,
      startTimeMs: clusterTime(reader),
      after: undefined,
      extentCount: 0,
      bytes: 0,
      damagedCount: 0,
    };
    await this.#save();
  }

  async #goOn(signal: AbortSignal): Promise<"busy" | "idle"> {
    const { store } = this.#options;
    const page = await store.listExtents(this.#pass?.after, SCRUB_ROUND_COUNT);
    for (const extent of page) {
      if (signal.aborted) return "idle";
      await this.#check(extent, signal);
      if (this.#unsavedBytes >= SCRUB_SAVE_BYTES) await this.#save();
    }
    if (page.length === SCRUB_ROUND_COUNT) return "busy";
    await this.#finish(signal);
    return "idle";
  }

  async #check(extent: ExtentKey, signal: AbortSignal): Promise<void> {
    const { store } = this.#options;
    const state = await store.extentState(extent);
    if (state.kind !== "sealed" && state.kind !== "quarantined") {
      this.#move(extent, 0, false);
      return;
    }
    let isDamaged = false;
    try {
      await store.verifyExtent(extent, (sizeBytes) => this.#pace.take(sizeBytes, signal));
    } catch (error) {
      // Removed under the scrub: nothing to check.
      if (hasReason(error, "CHUNK_CORRUPT")) isDamaged = true;
      else if (!hasReason(error, "CHUNK_NOT_FOUND")) throw error;
    }
    if (isDamaged) await this.#report(extent, signal);
    // Of one that was quarantined before and stays so, next to nothing was read.
    this.#move(extent, isDamaged && state.kind === "quarantined" ? 0 : state.sizeBytes, isDamaged);
  }

  async #report(extent: ExtentKey, signal: AbortSignal): Promise<void> {
    const { metadata, store, onDamaged } = this.#options;
    onDamaged?.(extent);
    const { memberId } = store;
    try {
      await metadata.applyIdempotent(
        { kind: "report-replica", ...extent, memberId, finding: "corrupt" },
        { signal },
      );
    } catch (error) {
      // The tree does not know the extent (any more): collection removes it.
      if (!hasReason(error, "CHUNK_NOT_FOUND")) throw error;
    }
  }

  #move(after: ExtentKey, sizeBytes: number, isDamaged: boolean): void {
    if (this.#pass === undefined) return;
    const { extentCount, bytes, damagedCount } = this.#pass;
    this.#pass = {
      ...this.#pass,
      after,
      extentCount: extentCount + (sizeBytes > 0 ? 1 : 0),
      bytes: bytes + sizeBytes,
      damagedCount: damagedCount + (isDamaged ? 1 : 0),
    };
    this.#unsavedBytes += sizeBytes;
  }

  async #finish(signal: AbortSignal): Promise<void> {
    const pass = this.#pass;
    if (pass === undefined) return;
    const { metadata, store } = this.#options;
    const { startTimeMs, extentCount, bytes, damagedCount } = pass;
    const { memberId, storeIncarnation } = store;
    await metadata.applyIdempotent(
      {
        kind: "report-scrub",
        memberId,
        storeIncarnation,
        pass: pass.pass,
        startTimeMs,
        extentCount,
        bytes,
        damagedCount,
      },
      { signal },
    );
    await metadata.port.linearize({ signal });
    this.#pass = undefined;
    this.#unsavedBytes = 0;
  }

  async #save(): Promise<void> {
    this.#unsavedBytes = 0;
    if (this.#pass === undefined) return;
    try {
      await this.#options.progress.save(this.#pass);
    } catch (error) {
      const code = errnoOf(error);
      if (code === undefined) throw error;
      // A disk that fails to sync is not trusted with anything, be it disposable.
      if (code === "EIO") this.#options.onFatal?.(error as Error);
      // The place is disposable: a restart begins this pass anew.
      this.#options.onError?.(new DriveError("INTERNAL", `The place of the scrub was not kept: ${code}.`));
    }
  }

  #bytesPerSecond(): number {
    if (this.#isRequested) return SCRUB_REQUESTED_BYTES_PER_SECOND;
    const { liveBytes } = this.#options.store.stats();
    return Math.max(SCRUB_BYTES_PER_SECOND_MIN, liveBytes / (SCRUB_PASS_MS / 1000));
  }
}
