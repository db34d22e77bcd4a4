/**
 * The loop of compaction at this node: one segment after another while any is worth it, paced, yielding to users.
 *
 * How a segment is compacted is chunks/compaction.ts; when, and how fast, is decided here. A disk that has reached its reserve is
 * cleaned as fast as it goes: users wait for space then, not for the disk.
 */
import type { CompactionResult } from "../chunks/compaction.ts";
import { PacedWork } from "../cluster/paced-loop.ts";
import type { DriveError } from "../drive/errors.ts";
import type { Clock } from "../std/clock.ts";
import { BackgroundPace } from "./background-pace.ts";

/** Pause between looks when no segment was worth it. */
export const COMPACTION_IDLE_MS = 10_000;
/** Pause between segments. */
export const COMPACTION_BUSY_MS = 20;
/** Bytes a second that are written anew. */
export const COMPACTION_BYTES_PER_SECOND = 64 * 1024 * 1024;
/** The same while users move bytes. */
export const COMPACTION_BUSY_BYTES_PER_SECOND = 8 * 1024 * 1024;

/** The part of a chunk store that compaction needs. */
export interface CompactableStore {
  compact(beforeBytes: (sizeBytes: number) => Promise<void>): Promise<CompactionResult | undefined>;
  stats(): { readonly writesRefused: boolean };
}

/** What a Compactor needs. */
export interface CompactorOptions {
  readonly clock: Clock;
  readonly store: CompactableStore;
  /** Whether users move bytes at this node now. */
  readonly isBusy: () => boolean;
  /** Pause between looks when no segment was worth it; COMPACTION_IDLE_MS when absent. */
  readonly idleMs?: number | undefined;
  readonly onCompacted?: ((result: CompactionResult) => void) | undefined;
  readonly onError?: ((error: DriveError) => void) | undefined;
}

/** The compaction loop of this node. */
export class Compactor extends PacedWork {
  readonly #options: CompactorOptions;
  readonly #pace: BackgroundPace;
  #freedBytes = 0;
  #movedBytes = 0;

  constructor(options: CompactorOptions) {
    super({
      clock: options.clock,
      idleMs: options.idleMs ?? COMPACTION_IDLE_MS,
      busyMs: COMPACTION_BUSY_MS,
      onError: options.onError,
    });
    this.#options = options;
    const isFull = (): boolean => options.store.stats().writesRefused;
    this.#pace = new BackgroundPace({
      clock: options.clock,
      bytesPerSecond: () => (isFull() ? Infinity : COMPACTION_BYTES_PER_SECOND),
      busyBytesPerSecond: COMPACTION_BUSY_BYTES_PER_SECOND,
      isBusy: () => !isFull() && options.isBusy(),
    });
  }

  /** Bytes of files removed, and bytes written anew for that, since the start. */
  stats(): { readonly freedBytes: number; readonly movedBytes: number } {
    return { freedBytes: this.#freedBytes, movedBytes: this.#movedBytes };
  }

  protected async round(signal: AbortSignal): Promise<"busy" | "idle"> {
    const result = await this.#options.store.compact((sizeBytes) => this.#pace.take(sizeBytes, signal));
    if (result === undefined) return "idle";
    this.#freedBytes += result.freedBytes;
    this.#movedBytes += result.movedBytes;
    this.#options.onCompacted?.(result);
    return "busy";
  }
}
