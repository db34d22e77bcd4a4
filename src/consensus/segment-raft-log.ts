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
import { DriveError } from "../drive/errors.ts";
import { CompactedError, UnavailableError, type HardState, type LogEntry } from "../raft/types.ts";
import { identitySeed, type LogRecord, type RecordLocation } from "../segments/record.ts";
import { readRecordSync } from "../segments/record-reader.ts";
import { SegmentLog, segmentPath } from "../segments/segment-log.ts";
import { TABLE_NAME } from "../segments/segment-table.ts";
import { assert, must } from "../std/assert.ts";
import { utf8 } from "../std/bytes.ts";
import type { Clock } from "../std/clock.ts";
import type { Disk, DiskFile } from "../std/disk.ts";
import {
  decodeHardState,
  decodeLogEntry,
  decodePosition,
  encodeHardState,
  encodeLogEntry,
  encodePosition,
  type LogPosition,
} from "./codec.ts";
import { LogIndex } from "./log-index.ts";
import { WireFormatError } from "./wire-format.ts";

/** Kinds of records in the segments. On disk: never change. */
const KIND_ENTRY = 16;
const KIND_HARD_STATE = 17;
const KIND_COMPACTED = 18;
const KIND_RESET = 19;

/** Bytes of entries kept in memory, newest first. */
export const LOG_CACHE_SIZE_BYTES_MAX = 64 * 1024 * 1024;

/** Size of a segment: what the log can exceed its bound by, as only whole segments are removed. */
export const LOG_SEGMENT_SIZE_BYTES = 16 * 1024 * 1024;

/** Entries up to this size go into the head of a record, which is copied, and are written in one part with it. */
const HEAD_ENTRY_SIZE_BYTES_MAX = 4 * 1024;

const EMPTY = new Uint8Array(0);
const NO_LABEL = new Uint8Array(0);
const INITIAL_HARD_STATE: HardState = { term: 0, votedFor: 0, commitIndex: 0 };

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

/** What recovery rebuilds. */
interface Recovered {
  index: LogIndex;
  /** Entry before the first; term 0 means that it is not known yet. */
  start: LogPosition;
  hardState: HardState;
  /** Newest entries, ending with the last of `index`. */
  tail: LogEntry[];
  tailSizeBytes: number;
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

  private constructor(options: SegmentRaftLogOptions, segments: SegmentLog, recovered: Recovered) {
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
   * Opens the log and reads it back.
   * @throws DriveError DATA_CORRUPT; errors of the disk as they come
   */
  static async open(options: SegmentRaftLogOptions): Promise<SegmentRaftLog> {
    const recovered: Recovered = {
      index: new LogIndex(1),
      start: { index: 0, term: 0 },
      hardState: INITIAL_HARD_STATE,
      tail: [],
      tailSizeBytes: 0,
    };
    const cacheSizeBytesMax = options.cacheSizeBytesMax ?? LOG_CACHE_SIZE_BYTES_MAX;
    const segments = await SegmentLog.open({
      disk: options.disk,
      clock: options.clock,
      directory: options.directory,
      identity: identityOf(options),
      whenAbsent: options.whenAbsent,
      onFault: "refuse",
      onFatal: options.onFatal,
      segmentSizeBytesMax: options.segmentSizeBytes ?? LOG_SEGMENT_SIZE_BYTES,
      onRecord: (record) => {
        recover(recovered, record, { cacheSizeBytesMax, directory: options.directory });
      },
    });
    if (recovered.start.index > 0 && recovered.start.term === 0) {
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

  /** The hard state stored last. */
  get hardState(): HardState {
    return this.#hardState;
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
    return this.#start.index + 1;
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

  /** See LogStorage.entries(). Throws DriveError DATA_CORRUPT when an old entry is read back damaged. */
  entries(low: number, high: number, sizeBytesMax: number): readonly LogEntry[] {
    if (low < this.firstIndex()) throw new CompactedError(`entry ${low} was cut off`);
    if (high > this.lastIndex() + 1)
      throw new UnavailableError(`entry ${high - 1} is beyond ${this.lastIndex()}`);
    const entries: LogEntry[] = [];
    let sizeBytes = 0;
    for (let index = low; index < high; index += 1) {
      const entry = this.#entry(index);
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
   * Empties the log, which goes on behind `position`, where a snapshot was installed.
   * @throws as append()
   */
  async reset(position: LogPosition, hardState: HardState): Promise<void> {
    await this.#exclusively(async () => {
      const { segmentId } = this.#write(KIND_RESET, encodePosition(position));
      this.#write(KIND_HARD_STATE, encodeHardState(hardState));
      await this.#segments.commit();
      this.#hardState = hardState;
      this.#start = position;
      this.#index = new LogIndex(position.index + 1);
      this.#cache = [];
      this.#cacheSizeBytes = 0;
      await this.#openFiles();
      await this.#removeSegments(segmentId);
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
    this.#cache.push(entry);
    this.#cacheSizeBytes += cachedSize(entry);
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

/** What an entry costs in the cache: its data, and its encoded form, which shares the data's bytes on followers only. */
function cachedSize(entry: LogEntry): number {
  return 2 * entry.data.length + 128;
}

function identityOf(options: SegmentRaftLogOptions): Uint8Array {
  return utf8(`raft-log ${options.clusterId} ${options.memberId}`);
}

function recover(
  log: Recovered,
  record: LogRecord,
  context: { readonly cacheSizeBytesMax: number; readonly directory: string },
): void {
  const { directory } = context;
  const bytes = record.head.length > 0 ? record.head : record.body;
  switch (record.kind) {
    case KIND_ENTRY:
      recoverEntry(log, record, context);
      return;
    case KIND_HARD_STATE:
      log.hardState = parse(directory, () => decodeHardState(bytes));
      return;
    case KIND_COMPACTED:
      recoverCompacted(
        log,
        parse(directory, () => decodePosition(bytes)),
        directory,
      );
      return;
    case KIND_RESET:
      log.start = parse(directory, () => decodePosition(bytes));
      log.index = new LogIndex(log.start.index + 1);
      log.tail = [];
      log.tailSizeBytes = 0;
      return;
    default:
      throw corrupt(directory, `a record of unknown kind ${record.kind}`);
  }
}

function recoverEntry(
  log: Recovered,
  record: LogRecord,
  context: { readonly cacheSizeBytesMax: number; readonly directory: string },
): void {
  const entry = parseEntry(context.directory, record);
  const { segmentId, offset, sizeBytes } = record.location;
  const isEmpty = log.index.lastIndex < log.index.firstIndex;
  if (isEmpty && log.start.term === 0 && entry.index !== log.index.firstIndex) {
    // The front was cut: a "compacted" record that follows says where the log really starts.
    log.start = { index: entry.index - 1, term: 0 };
    log.index = new LogIndex(entry.index);
  }
  if (entry.index > log.index.lastIndex + 1) {
    throw corrupt(context.directory, `entry ${entry.index} follows entry ${log.index.lastIndex}`);
  }
  if (entry.index < log.index.firstIndex) {
    // Only a log whose front was cut before that is known can be taken back below where it seems to start.
    if (log.start.term !== 0) throw corrupt(context.directory, `entry ${entry.index} is below the log`);
    log.start = { index: entry.index - 1, term: 0 };
    log.index = new LogIndex(entry.index);
    log.tail = [];
    log.tailSizeBytes = 0;
  }
  const cut = log.index.lastIndex + 1 - entry.index;
  for (const gone of log.tail.splice(Math.max(0, log.tail.length - cut)))
    log.tailSizeBytes -= cachedSize(gone);
  log.index.cutEnd(entry.index);
  log.index.push({ term: entry.term, segmentId, offset, sizeBytes });
  log.tail.push(entry);
  log.tailSizeBytes += cachedSize(entry);
  log.tailSizeBytes -= evict(log.tail, log.tailSizeBytes, context.cacheSizeBytesMax);
}

/**
 * Drops the oldest entries of `entries`, of `sizeBytes` in all, once they are a quarter above the bound, down to the bound:
 * not at every entry, because the front of an array is cut at the cost of its length. Returns the bytes dropped.
 */
function evict(entries: LogEntry[], sizeBytes: number, sizeBytesMax: number): number {
  if (sizeBytes <= sizeBytesMax * 1.25) return 0;
  let goneCount = 0;
  let goneBytes = 0;
  while (sizeBytes - goneBytes > sizeBytesMax && goneCount < entries.length) {
    goneBytes += cachedSize(must(entries[goneCount], "inside the entries"));
    goneCount += 1;
  }
  entries.splice(0, goneCount);
  return goneBytes;
}

function recoverCompacted(log: Recovered, position: LogPosition, directory: string): void {
  if (position.index < log.start.index) {
    // What comes before a reset may have lost its front with the segments that the reset removed; the reset follows.
    if (log.start.term === 0) return;
    throw corrupt(directory, `entries up to ${log.start.index} are missing`);
  }
  if (position.index > log.index.lastIndex) {
    // All entries before this record were in segments that are gone.
    log.index = new LogIndex(position.index + 1);
  } else {
    log.index.cutFront(position.index + 1);
  }
  log.start = position;
  const count = log.index.lastIndex - position.index;
  for (const gone of log.tail.splice(0, Math.max(0, log.tail.length - count)))
    log.tailSizeBytes -= cachedSize(gone);
}

/** The entry of a record, in memory of its own. */
function parseEntry(directory: string, record: LogRecord): LogEntry {
  const bytes = record.head.length > 0 ? record.head : record.body;
  return parse(directory, () => decodeLogEntry(new Uint8Array(bytes)));
}

function parse<T>(directory: string, decode: () => T): T {
  try {
    return decode();
  } catch (error) {
    if (error instanceof WireFormatError) throw corrupt(directory, error.message);
    throw error;
  }
}

function corrupt(directory: string, what: string): DriveError {
  return new DriveError("DATA_CORRUPT", `The Raft log in ${directory} is damaged: ${what}.`, {
    directory,
    what,
  });
}
