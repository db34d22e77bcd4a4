/**
 * The log of the chunk store together with its index: records are appended to segments, and applied to the index as soon as
 * they are durable, in the order of the log, all of one commit round in one transaction.
 *
 *   append() ---> SegmentLog ---commit round---> durable ---drain()---> ChunkIndex ---now and then---> flush()
 *
 * Invariant: the index holds durable records only, and exactly those before its checkpoint; so a crash of either leaves an
 * index that is right or lags, and what it lags is replayed. A record that the log takes back for want of space never reaches
 * the index. Also gives segments back in which nothing is live.
 */
import type { Clock } from "../std/clock.ts";
import { assert, must } from "../std/assert.ts";
import { isNoSpace, type Disk } from "../std/disk.ts";
import type { OrderedStore } from "../std/ordered-store.ts";
import { comparePositions, type LogRecord, type Position, type RecordLocation } from "../segments/record.ts";
import type { MisplacedSegment } from "../segments/misplaced.ts";
import type { RecordPart } from "../segments/record-reader.ts";
import { SegmentLog } from "../segments/segment-log.ts";
import { unlessFull, type SegmentFault } from "../segments/segment-error.ts";
import { operatingError } from "./chunk-errors.ts";
import { readTable } from "../segments/segment-table.ts";
import { ChunkIndex, type IndexedRecord } from "./chunk-index.ts";

/** Bytes appended to the log after which the index is flushed: bounds what a start must replay. */
export const INDEX_FLUSH_INTERVAL_BYTES = 64 * 1024 * 1024;

/** Records per transaction while an index is rebuilt. */
const REBUILD_BATCH_COUNT = 1000;

const NO_BODY = new Uint8Array(0);

/** What a StoreLog needs. */
export interface StoreLogOptions {
  readonly disk: Disk;
  readonly clock: Clock;
  readonly directory: string;
  readonly index: OrderedStore;
  readonly identity: Uint8Array;
  readonly storeIncarnation: string;
  /** Whether the log may have to be made. */
  readonly whenAbsent: "create" | "refuse";
  readonly segmentSizeBytesMax: number;
  readonly syncPaceBytes: number;
  readonly onFault: (fault: SegmentFault) => void;
  readonly onFatal: (error: Error) => void;
}

/** The log and index of a chunk store. */
export class StoreLog {
  readonly index: ChunkIndex;
  /** See shortSegments. */
  readonly #shortSegments: Map<number, number>;
  readonly #options: StoreLogOptions;
  readonly #log: SegmentLog;
  /** Records appended and not yet in the index, in the order of the log. */
  #unapplied: IndexedRecord[] = [];
  #bytesSinceFlush = 0;
  #flushing: Promise<void> | undefined;
  #reclaiming: Promise<void> | undefined;

  private constructor(options: StoreLogOptions, log: SegmentLog, index: ChunkIndex) {
    this.#options = options;
    this.#log = log;
    this.index = index;
    const short = log.recovery.faults.filter(({ kind }) => kind === "lost-tail" || kind === "missing");
    this.#shortSegments = new Map(short.map(({ segmentId, offset }) => [segmentId, offset]));
  }

  /** Opens log and index; the index is brought up to the log, or rebuilt from it. Errors: DATA_CORRUPT; those of the disk. */
  static async open(options: StoreLogOptions): Promise<StoreLog> {
    const index = await openIndex(options);
    const { checkpoint } = index.meta;
    let replayed: IndexedRecord[] = [];
    const add = (record: LogRecord, damaged: boolean): void => {
      const { kind, location, head, bodySizeBytes } = record;
      replayed.push({ kind, location, head: Uint8Array.from(head), bodySizeBytes, damaged });
      // Only a rebuild may be applied in parts: it starts anew when it is cut short, a replay continues from its checkpoint.
      if (checkpoint !== undefined || replayed.length < REBUILD_BATCH_COUNT) return;
      index.apply(replayed, undefined);
      replayed = [];
    };
    const unread = new Set<number>();
    // Nothing is appended before the store is made.
    let forget = (_from: Position): void => undefined;
    const log = await SegmentLog.open({
      disk: options.disk,
      clock: options.clock,
      directory: options.directory,
      identity: options.identity,
      whenAbsent: options.whenAbsent,
      onFault: "report",
      watchesFiles: true,
      bodies: checkpoint === undefined ? "last-segment" : "all",
      segmentSizeBytesMax: options.segmentSizeBytesMax,
      syncPaceBytes: options.syncPaceBytes,
      onTakenBack: (from) => forget(from),
      onFatal: options.onFatal,
      onRecord: (record) => add(record, false),
      onDamage: (fault, record) => {
        if (record !== undefined) add(record, true);
        else if (fault.kind === "damaged") unread.add(fault.segmentId);
        options.onFault(fault);
      },
      ...(checkpoint === undefined ? {} : { from: checkpoint }),
    });
    index.noteUnread(unread);
    index.apply(replayed, log.durable);
    const store = new StoreLog(options, log, index);
    forget = (from): void => store.#forget(from);
    return store;
  }

  /** Segments whose files were found shorter than the log made them, or gone, with the bytes that are left. */
  get shortSegments(): ReadonlyMap<number, number> {
    return this.#shortSegments;
  }

  /** Bytes of the log's files, about. */
  get sizeBytes(): number {
    const full = this.#log.segmentIds.length - 1;
    return full * this.#options.segmentSizeBytesMax + this.#log.head.offset;
  }

  /** Syncs of the log's files so far. */
  get syncCount(): number {
    return this.#log.syncCount;
  }

  /** As SegmentLog.append(); the record reaches the index once it is durable. */
  append(kind: number, head: Uint8Array, body: Uint8Array = NO_BODY): RecordLocation {
    const location = this.#log.append(kind, head, body);
    this.#unapplied.push({ kind, location, head, bodySizeBytes: body.length, damaged: false });
    return location;
  }

  /** Group commit: durable and in the index when it resolves. Errors: NO_SPACE; the failure of the log. */
  async commit(): Promise<void> {
    await this.#log.commit();
    this.drain();
  }

  /** Readable when it resolves, neither durable nor in the index. Errors: as commit(). */
  async flush(): Promise<void> {
    await this.#log.flush();
    this.drain();
  }

  /** Reads part of a record of the log; see SegmentLog.readPart(). */
  readPart(
    location: RecordLocation,
    part: {
      readonly headSizeBytes: number;
      readonly bodySizeBytes: number;
      readonly offset: number;
      readonly length: number;
    },
  ): Promise<RecordPart> {
    return this.#log.readPart(location, part);
  }

  /** Applies what has become durable to the index. A failure of the index is final. */
  drain(): void {
    const { durable } = this.#log;
    let count = 0;
    let bytes = 0;
    for (const record of this.#unapplied) {
      const end = { ...record.location, offset: record.location.offset + record.location.sizeBytes };
      if (comparePositions(end, durable) > 0) break;
      count += 1;
      bytes += record.location.sizeBytes;
    }
    if (count === 0) return;
    const records = this.#unapplied.slice(0, count);
    this.#unapplied = this.#unapplied.slice(count);
    try {
      this.index.apply(records, durable);
    } catch (error) {
      this.#options.onFatal(error as Error);
      throw error;
    }
    this.#bytesSinceFlush += bytes;
    if (this.#bytesSinceFlush >= INDEX_FLUSH_INTERVAL_BYTES && this.#flushing === undefined) {
      // A failure has been handed to onFatal, or the disk is full and a later one does it; nobody waits for this one.
      this.flushIndex().catch(() => undefined);
    }
  }

  /**
   * Runs `work` while no segment is on its way out, which would take along what `work` begins to count on; the index that it
   * leaves is durable when this resolves. Errors: as flushIndex(); those of `work`.
   */
  async settle(work: () => void): Promise<void> {
    while (this.#reclaiming !== undefined) await this.#reclaiming.catch(() => undefined);
    work();
    await this.#flushing?.catch(() => undefined);
    await this.flushIndex();
  }

  /** Whether a segment is a part of the log. */
  has(segmentId: number): boolean {
    return this.#log.segmentIds.includes(segmentId);
  }

  /** A record was read well: what lies behind the end that its file was found to have has come back. */
  noteRead({ segmentId, offset, sizeBytes }: RecordLocation): void {
    const leftBytes = this.#shortSegments.get(segmentId);
    if (leftBytes !== undefined && offset + sizeBytes > leftBytes) this.#shortSegments.delete(segmentId);
  }

  /** Makes the index durable as it is. Errors: NO_SPACE, with the log as the one that has it all; any other is final. */
  async flushIndex(): Promise<void> {
    this.#flushing ??= this.#flushIndex();
    await this.#flushing;
  }

  /**
   * Removes segments of the log in which nothing is live, as far as all their records are in the index; tombstones in them are live until every older segment is gone and
   * every segment that they name is unlinked. One run at a time. Errors: those of the disk.
   * @param scope "emptied": only segments that fell empty since the last run, and the oldest; "all" at a start
   */
  async reclaim(scope: "emptied" | "all"): Promise<void> {
    this.#reclaiming ??= this.#reclaim(scope).finally(() => {
      this.#reclaiming = undefined;
    });
    await this.#reclaiming;
  }

  /**
   * Finds segments whose files are gone, were replaced or cut short since the store was opened; see SegmentLog.checkFiles(). What was in them is
   * in the index when it resolves, durably, so that a restart knows what is lost. Each is found again until settleMisplaced(). Errors:
   * as commit(); those of the disk.
   */
  async checkFiles(pause: () => Promise<void>): Promise<readonly MisplacedSegment[]> {
    const found = await this.#log.checkFiles(pause);
    const news = found.filter(({ segmentId, kind }) => kind !== "missing" || !this.#isGone(segmentId));
    for (const each of found) if (!news.includes(each)) this.#log.settleMisplaced(each.segmentId);
    if (news.length === 0) return news;
    this.drain();
    this.index.apply([], this.#log.durable);
    await this.flushIndex();
    return news;
  }

  /** Keeps in mind that what used a misplaced segment was looked at, and how much of its file is left. */
  settleMisplaced({ segmentId, kind, leftBytes }: MisplacedSegment): void {
    this.#log.settleMisplaced(segmentId);
    const left = kind === "missing" ? 0 : leftBytes;
    if (left !== undefined) this.#shortSegments.set(segmentId, left);
  }

  /** Segments that take no more records, ascending, without those that the index does not know whole: all that compaction may look at. */
  get closedSegmentIds(): readonly number[] {
    const checkpoint = must(this.index.meta.checkpoint, "a log that is open has a checkpoint");
    const isClosed = (segmentId: number): boolean => segmentId < checkpoint.segmentId;
    return this.#log.segmentIds.filter((segmentId) => isClosed(segmentId) && !this.index.isUnread(segmentId));
  }

  /** The oldest segment. */
  get oldestSegmentId(): number {
    return must(this.#log.segmentIds[0], "a log has a segment");
  }

  /** Bytes of a segment's file. Errors: those of the disk. */
  segmentSizeBytes(segmentId: number): Promise<number> {
    return this.#log.sizeOf(segmentId);
  }

  /** Hands out the records of a closed segment; see SegmentLog.scanSegment(). Errors: DATA_CORRUPT; those of the disk. */
  scanSegment(segmentId: number, onRecord: (record: LogRecord) => void): Promise<void> {
    return this.#log.scanSegment(segmentId, onRecord);
  }

  /**
   * Removes a closed segment from which everything that counts was moved: nothing in it is live, and each tombstone in it is
   * repeated behind it or not needed. False when something in it counts again by the time it would go. Errors: those of the disk.
   */
  async removeMoved(segmentId: number): Promise<boolean> {
    assert(this.index.segmentUse(segmentId).liveBytes === 0, `segment ${segmentId} is in use`);
    while (this.#reclaiming !== undefined) await this.#reclaiming.catch(() => undefined);
    // Damage that turned out to be none may have come back meanwhile; see settle().
    if (this.index.segmentUse(segmentId).liveBytes > 0) return false;
    this.#reclaiming = this.#removeSegments([segmentId]).finally(() => {
      this.#reclaiming = undefined;
    });
    await this.#reclaiming;
    return true;
  }

  /** Commits, flushes the index and closes the log. The index store stays open for its owner to close. */
  async close(): Promise<void> {
    await this.#reclaiming?.catch(() => undefined);
    await unlessFull(this.#log.commit());
    this.drain();
    await this.#flushing?.catch(() => undefined);
    await this.#log.close();
    this.index.apply([], this.#log.durable);
    // What the index lacks then is read from the log at the next start.
    await unlessFull(this.flushIndex());
  }

  /**
   * Forgets the records that a failed write took back. At once: the log puts marks and footers in their places by itself, and
   * when those are durable the records would count as durable too.
   */
  #forget(from: Position): void {
    this.#unapplied = this.#unapplied.filter(({ location }) => comparePositions(location, from) < 0);
  }

  async #flushIndex(): Promise<void> {
    this.#bytesSinceFlush = 0;
    try {
      await this.index.flush();
    } catch (error) {
      if (isNoSpace(error)) throw operatingError(error);
      this.#options.onFatal(error as Error);
      throw error;
    } finally {
      this.#flushing = undefined;
    }
  }

  #isGone(segmentId: number): boolean {
    return this.#shortSegments.get(segmentId) === 0;
  }

  async #reclaim(scope: "emptied" | "all"): Promise<void> {
    const removable = this.#removableSegments(scope);
    if (removable.length > 0) await this.#removeSegments(removable);
  }

  async #removeSegments(removable: readonly number[]): Promise<void> {
    try {
      // The index must never fall back to a checkpoint in a segment that is gone.
      await this.#flushing;
      await this.flushIndex();
      await this.#log.removeSegments(removable);
    } catch (error) {
      // For the next run: a full disk has no room for the index, or for the table of the log.
      for (const segmentId of removable) this.index.emptiedSegments.add(segmentId);
      throw error;
    }
    this.index.forgetSegments(removable);
  }

  #removableSegments(scope: "emptied" | "all"): number[] {
    const checkpoint = must(this.index.meta.checkpoint, "a log that is open has a checkpoint");
    const { emptiedSegments } = this.index;
    const tombstonesDone = this.index.segmentsToUnlink().length === 0;
    const removable: number[] = [];
    let isOldest = true;
    for (const segmentId of this.#log.segmentIds) {
      if (segmentId >= checkpoint.segmentId) break;
      if (this.index.isUnread(segmentId)) {
        isOldest = false;
        continue;
      }
      if (scope === "all" || isOldest || emptiedSegments.has(segmentId)) {
        const { liveBytes, tombstoneCount } = this.index.segmentUse(segmentId);
        if (liveBytes === 0 && (tombstoneCount === 0 || (isOldest && tombstonesDone))) {
          removable.push(segmentId);
          emptiedSegments.delete(segmentId);
          continue;
        }
      }
      isOldest = false;
    }
    return removable;
  }
}

/**
 * The index; a new one instead of an old copy, which says that it holds everything up to a segment that is gone. A copy is that old
 * only when the disk, or somebody, put it there: segments are removed after the index was flushed behind them.
 */
async function openIndex(options: StoreLogOptions): Promise<ChunkIndex> {
  const index = ChunkIndex.open(options.index, options.storeIncarnation);
  const { checkpoint } = index.meta;
  if (checkpoint === undefined) return index;
  const table = await readTable(options.disk, options.directory, options.identity);
  if (table === undefined || table.segmentIds.includes(checkpoint.segmentId)) return index;
  return ChunkIndex.anew(options.index, options.storeIncarnation);
}
