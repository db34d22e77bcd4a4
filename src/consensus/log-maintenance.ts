/**
 * Keeps the log short and the replicated store flushed.
 *
 * The store is flushed every so often while it changes, which bounds what a restart replays, and whenever the log is too
 * long: then it is cut below what is flushed, keeping some entries for followers that are a little behind, and everything
 * behind a snapshot that is being sent. Only an absurdly long log breaks that last rule: the follower then starts again.
 */
import { DriveError } from "../drive/errors.ts";
import { withTimeout, type Clock } from "../std/clock.ts";
import { isNoSpace } from "../std/disk.ts";
import type { Logger } from "../telemetry/logger.ts";
import type { Metrics } from "../telemetry/metrics.ts";
import type { LogWriter } from "./log-writer.ts";
import type { ReplicatedStore } from "./replicated-store.ts";
import type { SegmentRaftLog } from "./segment-raft-log.ts";
import type { Snapshots } from "./snapshots.ts";
import type { ConsensusTuning } from "./tuning.ts";

/** A log this many times its bound is cut even while a snapshot is being sent. */
const PINNED_LOG_FACTOR = 8;

/**
 * With less free space than this the store is not flushed: the log holds everything, and the space is the log's. Twice the
 * bytes that wait in a store whose disk keeps up: eight layers of 1 MiB.
 */
export const FLUSH_FREE_BYTES_MIN = 16 * 1024 * 1024;

/** Dependencies of LogMaintenance. */
export interface LogMaintenanceOptions {
  readonly clock: Clock;
  readonly metrics: Metrics;
  readonly tuning: ConsensusTuning;
  readonly log: SegmentRaftLog;
  readonly store: ReplicatedStore<unknown>;
  readonly writer: LogWriter;
  readonly snapshots: Snapshots;
  /** Free space of the disk. */
  readonly freeBytes: () => Promise<number>;
  readonly logger: Logger;
  readonly onFatal: (error: Error) => void;
}

/** Flushes and cuts. */
export class LogMaintenance {
  readonly #options: LogMaintenanceOptions;
  #working: Promise<void> | undefined;
  #flushedMs: number;
  /** When a flush was put off for want of space; the next try comes an interval later, however long the log is. */
  #fullMs: number | undefined;
  #isStopped = false;

  constructor(options: LogMaintenanceOptions) {
    this.#options = options;
    this.#flushedMs = options.clock.monotonicMs();
  }

  /** Called now and then. */
  tick(): void {
    if (this.#working !== undefined || this.#isStopped) return;
    const { clock, tuning, store } = this.#options;
    if (this.#fullMs !== undefined && clock.monotonicMs() - this.#fullMs < tuning.storeFlushIntervalMs)
      return;
    const isDue = clock.monotonicMs() - this.#flushedMs >= tuning.storeFlushIntervalMs;
    const isDirty = store.state.appliedIndex > store.flushedIndex;
    const cutTo = this.#cutTo();
    if (cutTo === undefined && !(isDue && isDirty)) return;
    this.#working = this.#work(cutTo).finally(() => {
      this.#working = undefined;
    });
  }

  /** Waits for the work under way. */
  async stop(): Promise<void> {
    this.#isStopped = true;
    await this.#working;
  }

  /** The index up to which the log should be cut, or undefined when it is short enough or nothing can be cut. */
  #cutTo(): number | undefined {
    const { log, store, tuning, snapshots } = this.#options;
    const count = log.lastIndex() - log.start.index;
    const isTooLong = (factor: number): boolean =>
      count > factor * tuning.logEntryCountMax || log.sizeBytes > factor * tuning.logSizeBytesMax;
    if (!isTooLong(1)) return undefined;
    const keepFrom = log.findTail(tuning.logKeepEntryCount, tuning.logKeepSizeBytes);
    let cutTo = Math.min(store.state.appliedIndex, keepFrom - 1);
    const pinned = snapshots.keepFromIndex();
    if (pinned !== undefined && !isTooLong(PINNED_LOG_FACTOR)) cutTo = Math.min(cutTo, pinned);
    return cutTo > log.start.index ? cutTo : undefined;
  }

  async #work(cutTo: number | undefined): Promise<void> {
    const { clock, tuning, store, writer, metrics, onFatal } = this.#options;
    const startMs = clock.monotonicMs();
    try {
      if (cutTo === undefined || store.flushedIndex < cutTo) {
        const freeBytes = await this.#options.freeBytes();
        if (freeBytes < FLUSH_FREE_BYTES_MIN) {
          this.#putOff(freeBytes);
          return;
        }
        await withTimeout(clock, tuning.storeFlushTimeoutMs, store.flush(), () => {
          const limit = String(tuning.storeFlushTimeoutMs);
          return new DriveError("INTERNAL", `Flushing the replicated store took longer than ${limit} ms.`);
        });
        metrics.synced("state", clock.monotonicMs() - startMs);
      }
      this.#flushedMs = clock.monotonicMs();
      this.#fullMs = undefined;
      if (cutTo !== undefined) writer.compact(Math.min(cutTo, store.flushedIndex));
    } catch (error) {
      // Somebody else has taken the space meanwhile.
      if (isNoSpace(error)) this.#putOff(0);
      else if (!this.#isStopped) onFatal(error as Error);
    }
  }

  #putOff(freeBytes: number): void {
    this.#fullMs = this.#options.clock.monotonicMs();
    this.#options.logger.warn("state_not_flushed", { free_bytes: freeBytes });
  }
}
