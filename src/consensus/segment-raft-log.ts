/**
 * The durable Raft log: entries and hard state as records in segment files, one group commit per append.
 *
 * Segments only grow. An entry at an index that exists replaces it and everything behind it, so that cutting a conflicting
 * suffix is the append itself and a crash leaves the old log or a prefix of the new one, never a hole (Raft 5.3). Memory
 * holds the place of every entry and the newest entries themselves, up to a bound; older ones are read back from the file,
 * synchronously, because the core reads synchronously and only a lagging follower needs them.
 *
 *   records:  entry (16)   hard state (17)   compacted (18)   reset (19)
 *
 * Cutting the front writes "compacted" with the hard state behind it, and only then removes whole segments: what is left
 * always says where the log starts. Damage in the middle is DATA_CORRUPT; a torn tail that nobody was promised is cut by
 * the segments. One append(), compact() or reset() at a time; what memory shows changes only once it is durable.
 */
import { hasReason } from "../drive/errors.ts";
import { CompactedError, UnavailableError, type HardState, type LogEntry } from "../raft/types.ts";
import { identitySeed, type Position, type RecordLocation } from "../segments/record.ts";
import { readRecordSync } from "../segments/record-reader.ts";
import { SegmentLog, segmentPath } from "../segments/segment-log.ts";
import { TABLE_NAME } from "../segments/segment-table.ts";
import { assert, must } from "../std/assert.ts";
import { utf8 } from "../std/bytes.ts";
import type { Clock } from "../std/clock.ts";
import { errnoOf, type Disk, type DiskFile } from "../std/disk.ts";
import { encodeHardState, encodeLogEntry, encodePosition, ownLogEntry, type LogPosition } from "./codec.ts";
import { LogIndex } from "./log-index.ts";
import {
  beginRun,
  cachedSize,
  corrupt,
  damageOf,
  emptyRecovery,
  evict,
  KIND_COMPACTED,
  KIND_ENTRY,
  KIND_HARD_STATE,
  KIND_RESET,
  parseEntry,
  recover,
  type LogDamage,
  type Recovered,
} from "./log-recovery.ts";

/**
 * Bytes of entries kept in memory, newest first: some 15,000 small commands, seconds of the fastest writing. A follower that is further
 * behind is sent what the files have, and those are in the page cache. What is kept here counts more than once: the engine lets its
 * heap grow to more than twice what is alive (std/heap-growth.ts).
 */
export const LOG_CACHE_SIZE_BYTES_MAX = 8 * 1024 * 1024;

/** Size of a segment: what the log can exceed its bound by, as only whole segments are removed. */
export const LOG_SEGMENT_SIZE_BYTES = 16 * 1024 * 1024;

/** Entries read at once at most: those that are not in memory take some 5 us each, and the event loop waits. */
export const LOG_READ_ENTRY_COUNT_MAX = 1024;

/** Entries up to this size go into the head of a record, which is copied, and are written in one part with it. */
const HEAD_ENTRY_SIZE_BYTES_MAX = 4 * 1024;

const EMPTY = new Uint8Array(0);
const NO_LABEL = new Uint8Array(0);

/** Settings and dependencies of a SegmentRaftLog. */
export interface SegmentRaftLogOptions {
  readonly disk: Disk;
  readonly clock: Clock;
  /** Belongs to this log alone; its parent exists. */
  readonly directory: string;
  readonly clusterId: string;
  readonly memberId: number;
  /** Whether a log that is not there is made, or is DATA_CORRUPT because it must exist. */
  readonly whenAbsent: "create" | "refuse";
  /** How far the log was durable at the latest note of that, outside of it. */
  readonly durable?: Position | undefined;
  /** Makes a term and a vote durable outside the log, before the log says them; see promises.ts. */
  readonly keepPromise: (hardState: HardState) => Promise<void>;
  /** Highest index that the replicated store holds durably: those entries may be given up. */
  readonly heldIndex: () => number;
  /** Told of an entry that cannot be read any more and is given up: the log is to be cut behind it. */
  readonly onUnreadable: (index: number, error: Error) => void;
  /** Called once when a write or sync failed for another reason than space. */
  readonly onFatal: (error: Error) => void;
  readonly cacheSizeBytesMax?: number | undefined;
  readonly segmentSizeBytes?: number | undefined;
}

/** What append() makes durable. */
export interface LogAppend {
  /** Contiguous; the first one replaces whatever is at its index and behind. */
  readonly entries: readonly LogEntry[];
  readonly hardState?: HardState | undefined;
}

/** The log of one member. */
export class SegmentRaftLog {
  readonly #options: SegmentRaftLogOptions;
  readonly #segments: SegmentLog;
  readonly #seed: number;
  readonly #cacheSizeBytesMax: number;
  /** Open files of all segments that hold entries, for synchronous reads. */
  readonly #files = new Map<number, DiskFile>();
  #index: LogIndex;
  #start: LogPosition;
  #hardState: HardState;
  #cache: LogEntry[];
  #cacheSizeBytes: number;
  #isBusy = false;
  #damage: LogDamage | undefined;
  /** Entries up to here cannot be read any more, and the state has them. */
  #unreadableIndex = 0;

  private constructor(options: SegmentRaftLogOptions, segments: SegmentLog, recovered: Recovered) {
    this.#damage = damageOf(segments.recovery.isTableLost, recovered);
    this.#options = options;
    this.#segments = segments;
    this.#seed = identitySeed(identityOf(options), NO_LABEL);
    this.#cacheSizeBytesMax = options.cacheSizeBytesMax ?? LOG_CACHE_SIZE_BYTES_MAX;
    this.#index = recovered.index;
    this.#start = recovered.start;
    this.#hardState = recovered.hardState;
    this.#cache = recovered.tail;
    this.#cacheSizeBytes = recovered.tailSizeBytes;
  }

  /**
   * Opens the log and reads it back. When `damage` says what is missing, nothing but mendBehind() and reset() may follow.
   * @throws DriveError DATA_CORRUPT for what no repair can begin with: the log of another member, a log without its table and
   *   segments; errors of the disk as they come
   */
  static async open(options: SegmentRaftLogOptions): Promise<SegmentRaftLog> {
    const recovered = emptyRecovery();
    const cacheSizeBytesMax = options.cacheSizeBytesMax ?? LOG_CACHE_SIZE_BYTES_MAX;
    const segments = await SegmentLog.open({
      disk: options.disk,
      clock: options.clock,
      directory: options.directory,
      identity: identityOf(options),
      whenAbsent: options.whenAbsent,
      onFault: "report",
      durable: options.durable,
      whenTableDamaged: "rebuild",
      onDamage: (fault) => {
        beginRun(recovered, fault);
      },
      onFatal: options.onFatal,
      segmentSizeBytesMax: options.segmentSizeBytes ?? LOG_SEGMENT_SIZE_BYTES,
      onRecord: (record) => {
        recover(recovered, record, { cacheSizeBytesMax, directory: options.directory });
      },
    });
    if (!recovered.isRun && recovered.start.index > 0 && recovered.start.term === 0) {
      await segments.close();
      const first = String(recovered.index.firstIndex);
      throw corrupt(options.directory, `the log starts at entry ${first} and does not say what came before`);
    }
    const { hardState, index } = recovered;
    recovered.hardState = { ...hardState, commitIndex: Math.min(hardState.commitIndex, index.lastIndex) };
    const log = new SegmentRaftLog(options, segments, recovered);
    await log.#openFiles();
    return log;
  }

  /** Whether there is a log in the directory, whole or damaged; false also after a crash in the middle of making one. */
  static exists(options: { readonly disk: Disk; readonly directory: string }): Promise<boolean> {
    return options.disk.exists(`${options.directory}/${TABLE_NAME}`);
  }

  /** Whether the log was made by open(). */
  get isNew(): boolean {
    return this.#segments.recovery.created;
  }

  /** Bytes that recovery cut off the end. */
  get tornBytes(): number {
    return this.#segments.recovery.tornBytes;
  }

  /** What is missing, until mendBehind() or reset(); undefined for a whole log. */
  get damage(): LogDamage | undefined {
    return this.#damage;
  }

  /** The hard state stored last. */
  get hardState(): HardState {
    return this.#hardState;
  }

  /** How far it is durable, as a place in its segments. */
  get durable(): Position {
    return this.#segments.durable;
  }

  /** Takes over a hard state that is durable elsewhere: a vote kept by keepPromise() right before a crash. */
  adopt(hardState: HardState): void {
    this.#hardState = hardState;
  }

  /** Position of the entry before the first one. */
  get start(): LogPosition {
    return this.#start;
  }

  /** Bytes of the records of all entries that the log holds. */
  get sizeBytes(): number {
    return this.#index.sizeBytes;
  }

  /** Syncs so far. */
  get syncCount(): number {
    return this.#segments.syncCount;
  }

  /** See LogStorage.firstIndex(). */
  firstIndex(): number {
    return Math.max(this.#start.index, this.#unreadableIndex) + 1;
  }

  /** See LogStorage.lastIndex(). */
  lastIndex(): number {
    return this.#index.lastIndex;
  }

  /** See LogStorage.term(). */
  term(index: number): number {
    if (index === this.#start.index) return this.#start.term;
    if (index < this.#start.index) throw new CompactedError(`entry ${index} was cut off`);
    if (index > this.lastIndex()) throw new UnavailableError(`entry ${index} is beyond ${this.lastIndex()}`);
    return this.#index.term(index);
  }

  /**
   * See LogStorage.entries(). An entry that the state holds, and that is found damaged now, counts as cut off.
   * Throws DriveError DATA_CORRUPT for any other.
   */
  entries(low: number, high: number, sizeBytesMax: number): readonly LogEntry[] {
    assert(this.#damage === undefined, "the log is whole");
    if (low < this.firstIndex()) throw new CompactedError(`entry ${low} was cut off`);
    if (high > this.lastIndex() + 1)
      throw new UnavailableError(`entry ${high - 1} is beyond ${this.lastIndex()}`);
    const entries: LogEntry[] = [];
    let sizeBytes = 0;
    for (let index = low; index < Math.min(high, low + LOG_READ_ENTRY_COUNT_MAX); index += 1) {
      const entry = this.#readable(index);
      sizeBytes += entry.data.length;
      if (entries.length > 0 && sizeBytes > sizeBytesMax) break;
      entries.push(entry);
    }
    return entries;
  }

  /** The lowest index from which on there are at most so many entries and bytes; lastIndex() + 1 for none. */
  findTail(countMax: number, sizeBytesMax: number): number {
    return this.#index.findTail(countMax, sizeBytesMax);
  }

  /**
   * Makes all appends and the hard state durable together, in one group commit; the last hard state given counts.
   * @throws DriveError NO_SPACE: nothing of it is in the log, and it may be tried again; anything else is final
   */
  async append(appends: readonly LogAppend[]): Promise<void> {
    await this.#exclusively(async () => {
      const hardState = appends.findLast((append) => append.hardState !== undefined)?.hardState;
      if (hardState !== undefined) await this.#options.keepPromise(hardState);
      // The hard state first: of a torn tail its front survives, and that must never hold entries of a term that the node
      // does not know. A commit index beyond the surviving entries is cut back by recovery: it promises nothing.
      if (hardState !== undefined) this.#write(KIND_HARD_STATE, encodeHardState(hardState));
      const locations: RecordLocation[][] = [];
      for (const { entries } of appends) {
        locations.push(entries.map((entry) => this.#write(KIND_ENTRY, encodeLogEntry(entry))));
      }
      await this.#segments.commit();
      if (hardState !== undefined) this.#hardState = hardState;
      for (const [at, { entries }] of appends.entries()) {
        this.#show(entries, must(locations[at], "one list of locations per append"));
      }
      // Entries leave the cache only once their segment is open: from then on they can be read back.
      await this.#openFiles();
      this.#cacheSizeBytes -= evict(this.#cache, this.#cacheSizeBytes, this.#cacheSizeBytesMax);
    });
  }

  /**
   * Drops the entries up to `index`, which the replicated store must hold durably, and removes the segments that are not
   * needed any more. Harmless when they are gone already.
   * @throws as append()
   */
  async compact(index: number): Promise<void> {
    if (index <= this.#start.index) return;
    assert(index <= this.lastIndex(), `cannot cut up to ${index} beyond ${this.lastIndex()}`);
    await this.#exclusively(async () => {
      const position = { index, term: this.term(index) };
      const { segmentId } = this.#write(KIND_COMPACTED, encodePosition(position));
      this.#write(KIND_HARD_STATE, encodeHardState(this.#hardState));
      await this.#segments.commit();
      this.#start = position;
      this.#index.cutFront(index + 1);
      this.#trimCache();
      await this.#removeSegments(segmentId);
    });
  }

  /**
   * Starts a damaged log behind `position`, which the replicated store holds durably, with the entries that follow it: all
   * damage lies before it.
   * @throws as append()
   */
  async mendBehind(position: LogPosition, hardState: HardState): Promise<void> {
    const run = must(this.#damage?.run, "the log has a certain end");
    assert(position.index + 1 >= run.firstIndex && position.index <= run.last.index, "nothing is missing");
    await this.#exclusively(async () => {
      await this.#options.keepPromise(hardState);
      this.#write(KIND_COMPACTED, encodePosition(position));
      this.#write(KIND_HARD_STATE, encodeHardState(hardState));
      await this.#segments.commit();
      this.#damage = undefined;
      this.#hardState = hardState;
      this.#start = position;
      this.#index.cutFront(position.index + 1);
      this.#trimCache();
      await this.#openFiles();
    });
  }

  /**
   * Empties the log, which goes on behind `position`, where a snapshot was installed.
   * @param keepsSegments whether the old segments stay until the log is cut next, as evidence of what was damaged
   * @throws as append()
   */
  async reset(position: LogPosition, hardState: HardState, keepsSegments = false): Promise<void> {
    await this.#exclusively(async () => {
      await this.#options.keepPromise(hardState);
      const { segmentId } = this.#write(KIND_RESET, encodePosition(position));
      this.#write(KIND_HARD_STATE, encodeHardState(hardState));
      await this.#segments.commit();
      this.#hardState = hardState;
      this.#start = position;
      this.#index = new LogIndex(position.index + 1);
      this.#cache = [];
      this.#cacheSizeBytes = 0;
      this.#damage = undefined;
      await this.#openFiles();
      if (keepsSegments) await this.#segments.storeTable();
      else await this.#removeSegments(segmentId);
    });
  }

  /** Makes everything durable and closes the files. */
  async close(): Promise<void> {
    for (const file of this.#files.values()) await file.close();
    this.#files.clear();
    await this.#segments.close();
  }

  async #exclusively(work: () => Promise<void>): Promise<void> {
    assert(!this.#isBusy, "the log does one thing at a time");
    this.#isBusy = true;
    try {
      await work();
    } finally {
      this.#isBusy = false;
    }
  }

  #write(kind: number, bytes: Uint8Array): RecordLocation {
    if (bytes.length <= HEAD_ENTRY_SIZE_BYTES_MAX) return this.#segments.append(kind, bytes);
    return this.#segments.append(kind, EMPTY, bytes);
  }

  /** Makes durable entries visible to readers. */
  #show(entries: readonly LogEntry[], locations: readonly RecordLocation[]): void {
    const first = entries[0];
    if (first === undefined) return;
    assert(first.index >= this.firstIndex(), `entry ${first.index} is below the log`);
    assert(
      first.index <= this.lastIndex() + 1,
      `entry ${first.index} leaves a hole after ${this.lastIndex()}`,
    );
    this.#cutEnd(first.index);
    for (const [at, entry] of entries.entries())
      this.#push(entry, must(locations[at], "one location per entry"));
  }

  #push(entry: LogEntry, location: RecordLocation): void {
    const { segmentId, offset, sizeBytes } = location;
    this.#index.push({ term: entry.term, segmentId, offset, sizeBytes });
    // As it came, it holds on to the piece of 8 KiB, or the message, that it was cut from: 50 MB and more for entries that came slowly.
    const kept = ownLogEntry(entry);
    this.#cache.push(kept);
    this.#cacheSizeBytes += cachedSize(kept);
  }

  #cutEnd(index: number): void {
    const keep = Math.max(
      0,
      this.#cache.length - (this.lastIndex() + 1 - Math.min(index, this.lastIndex() + 1)),
    );
    for (const entry of this.#cache.splice(keep)) this.#cacheSizeBytes -= cachedSize(entry);
    this.#index.cutEnd(index);
  }

  /** Drops cached entries that were cut off the front. */
  #trimCache(): void {
    const count = this.lastIndex() - this.#start.index;
    const gone = this.#cache.splice(0, Math.max(0, this.#cache.length - count));
    for (const entry of gone) this.#cacheSizeBytes -= cachedSize(entry);
  }

  #readable(index: number): LogEntry {
    try {
      return this.#entry(index);
    } catch (error) {
      // An entry that cannot be read is damaged, whatever the disk calls it.
      const isDamage = hasReason(error, "DATA_CORRUPT") || errnoOf(error) === "EIO";
      if (!isDamage || index > this.#options.heldIndex()) throw error;
      this.#unreadableIndex = Math.max(this.#unreadableIndex, index);
      this.#options.onUnreadable(index, error as Error);
      throw new CompactedError(`entry ${index} cannot be read any more`);
    }
  }

  #entry(index: number): LogEntry {
    const cached = this.#cache[index - (this.lastIndex() + 1 - this.#cache.length)];
    if (cached !== undefined) return cached;
    const place = this.#index.place(index);
    const file = must(this.#files.get(place.segmentId), `segment ${place.segmentId} is open`);
    const entry = parseEntry(this.#options.directory, readRecordSync(file, this.#seed, place));
    if (entry.index !== index || entry.term !== place.term) {
      throw corrupt(this.#options.directory, `entry ${entry.index} lies where entry ${index} should be`);
    }
    return entry;
  }

  /** Opens the files of segments that came up since the last call. */
  async #openFiles(): Promise<void> {
    for (const segmentId of this.#segments.segmentIds) {
      if (this.#files.has(segmentId)) continue;
      const path = segmentPath(this.#options.directory, segmentId);
      // A segment that is gone was reported by recovery, and no entry is looked for in it.
      if (!(await this.#options.disk.exists(path))) continue;
      this.#files.set(segmentId, await this.#options.disk.open(path, "read"));
    }
  }

  /**
   * Removes the segments before the one that holds the first entry, or all when there is none, but never one from
   * `positionSegmentId` on: there is written where the log starts, and behind it the hard state.
   */
  async #removeSegments(positionSegmentId: number): Promise<void> {
    await this.#openFiles();
    const first = this.#index.firstIndex;
    const needed = first <= this.#index.lastIndex ? this.#index.place(first).segmentId : positionSegmentId;
    const keepFrom = Math.min(needed, positionSegmentId);
    const gone = this.#segments.segmentIds.filter((id) => id < keepFrom);
    if (gone.length === 0) return;
    for (const segmentId of gone) {
      await this.#files.get(segmentId)?.close();
      this.#files.delete(segmentId);
    }
    await this.#segments.removeSegments(gone);
  }
}

function identityOf(options: SegmentRaftLogOptions): Uint8Array {
  return utf8(`raft-log ${options.clusterId} ${options.memberId}`);
}
