/**
 * A log of checksummed, chained records in segment files of one directory, with group commit: the Raft log is one, the
 * small extents and manifests of the chunk store are another.
 *
 * Append-only for ever: nothing that was promised is cut or overwritten in place. Who must take back a suffix (Raft, when a
 * new leader's log conflicts) appends records that supersede it: a log entry whose index is not above the last one replaces
 * all entries from that index on, as recovery hands records out in the order they were appended. Whole segments are removed
 * when their owner says that nothing in them is needed. FORMAT.md describes what is on disk and how it is read back.
 */
import { hasReason } from "../drive/errors.ts";
import { assert, must } from "../std/assert.ts";
import { bytesEqual } from "../std/bytes.ts";
import type { Clock } from "../std/clock.ts";
import { errnoOf, type Disk, type DiskFile } from "../std/disk.ts";
import { FileCache } from "./file-cache.ts";
import {
  comparePositions,
  identitySeed,
  RECORD_KIND_MIN,
  type LogRecord,
  type Position,
  type RecordLocation,
} from "./record.ts";
import { FileWatch, type MisplacedSegment } from "./misplaced.ts";
import { readRecord, readRecordPart, readRecordSync, type RecordPart } from "./record-reader.ts";
import { recoverLog, type Cursor, type RecoveryResult } from "./recover-log.ts";
import { SegmentScanner } from "./scan.ts";
import { SegmentAppender } from "./segment-appender.ts";
import { corruptError, type SegmentFault } from "./segment-error.ts";
import {
  decodeSegmentHeader,
  encodeSegmentHeader,
  IDENTITY_SIZE_BYTES_MAX,
  SEGMENT_HEADER_SIZE_BYTES_MAX,
  segmentHeaderSizeBytes,
  type SegmentHeader,
} from "./segment-header.ts";
import {
  readTable,
  syncDirectory,
  syncFile,
  TABLE_NAME,
  writeTable,
  type SegmentTable,
} from "./segment-table.ts";

/** Size at which a log goes on in a new segment, unless told otherwise. */
export const SEGMENT_SIZE_BYTES_DEFAULT = 64 * 1024 * 1024;

/** Bytes written since the last sync at which one is started in the background, unless told otherwise. */
export const SYNC_PACE_BYTES_DEFAULT = 8 * 1024 * 1024;

/** Segment files kept open for reading. */
const OPEN_FILE_COUNT_MAX = 64;

const NO_LABEL = new Uint8Array(0);
const NO_BODY = new Uint8Array(0);

/** How a log is opened. */
export interface SegmentLogOptions {
  readonly disk: Disk;
  readonly clock: Clock;
  /** Belongs to this log alone; its parent exists. */
  readonly directory: string;
  /** Bytes that differ between clusters, members and stores; at most IDENTITY_SIZE_BYTES_MAX. Checked at every start. */
  readonly identity: Uint8Array;
  /** Whether a log that is not there is made ("create") or is DATA_CORRUPT ("refuse"), because it must exist. */
  readonly whenAbsent: "create" | "refuse";
  /** What damage does to open(): "refuse" rejects with DATA_CORRUPT, "report" lists it and goes on behind it. */
  readonly onFault: "refuse" | "report";
  /**
   * What a table that is damaged does to open(): "refuse" (default), or "rebuild" to take the segments that are there, when
   * `onFault` is "report". Which of them may be missing is not known then; see RecoveryReport.isTableLost.
   */
  readonly whenTableDamaged?: "refuse" | "rebuild";
  /** How far the owner knows that the log was durable, as `durable` said once; what is missing before it is damage. */
  readonly durable?: Position | undefined;
  /** Each record of the owner's kinds, in order. Its arrays view a shared window: copy what is kept. */
  readonly onRecord: (record: LogRecord) => void | Promise<void>;
  /** Each fault when `onFault` is "report", with the record when only its body (then empty here) is damaged. */
  readonly onDamage?: (fault: SegmentFault, record: LogRecord | undefined) => void;
  /** Called when a write without space took back all places from `from` on; see AppenderOptions. */
  readonly onTakenBack?: (from: Position) => void;
  /** Called once when a sync or write failed for another reason than space: the process must end, nothing is retried. */
  readonly onFatal: (error: Error) => void;
  /** Recovery starts here instead of at the first record; earlier segments are only checked for being there whole. */
  readonly from?: Cursor;
  /** Whether recovery verifies all bodies (default) or only those of the last segment, the only one that can be torn. */
  readonly bodies?: "all" | "last-segment";
  /** Whether checkFiles() is going to be called: then it is kept in mind which file each segment has, and how long. Default: no. */
  readonly watchesFiles?: boolean;
  readonly segmentSizeBytesMax?: number;
  readonly syncPaceBytes?: number;
}

/** What open() found. */
export interface RecoveryReport {
  readonly recordCount: number;
  /** Bytes cut off the end: a tail that nobody was promised. */
  readonly tornBytes: number;
  readonly faults: readonly SegmentFault[];
  /** Whether the table was damaged, so that segments may be missing from either end. */
  readonly isTableLost: boolean;
  /** Whether the log was made anew. */
  readonly created: boolean;
}

/** An append-only log in segment files. */
export class SegmentLog {
  readonly #options: SegmentLogOptions;
  readonly #seed: number;
  readonly #appender: SegmentAppender;
  readonly #files: FileCache;
  readonly #watch: FileWatch;
  #segmentIds: readonly number[];
  #tableWork: Promise<void> = Promise.resolve();
  readonly recovery: RecoveryReport;

  private constructor(
    options: SegmentLogOptions,
    opened: { readonly file: DiskFile; readonly end: Cursor; readonly segmentIds: readonly number[] },
    recovery: RecoveryReport,
  ) {
    this.#options = options;
    this.#seed = identitySeed(options.identity, NO_LABEL);
    this.#segmentIds = opened.segmentIds;
    this.#files = new FileCache(options.disk, OPEN_FILE_COUNT_MAX);
    this.#watch = new FileWatch(options.disk, (segmentId) => segmentPath(options.directory, segmentId));
    this.recovery = recovery;
    this.#appender = new SegmentAppender({
      clock: options.clock,
      file: opened.file,
      identitySeed: this.#seed,
      headerSizeBytes: segmentHeaderSizeBytes(options.identity.length, 0),
      start: opened.end,
      segmentSizeBytesMax: options.segmentSizeBytesMax ?? SEGMENT_SIZE_BYTES_DEFAULT,
      syncPaceBytes: options.syncPaceBytes ?? SYNC_PACE_BYTES_DEFAULT,
      openNext: (segmentId, chainSeed, durable) => this.#openNext(segmentId, chainSeed, durable),
      onTakenBack: options.onTakenBack,
      onCut: options.watchesFiles === true ? (segmentId) => this.#watch.noteCut(segmentId) : undefined,
      onFatal: options.onFatal,
    });
  }

  /**
   * Opens a log: makes it when absent and allowed, else recovers it, cuts off a torn tail, and makes what is left durable.
   * Errors: DATA_CORRUPT (damage with `onFault: "refuse"`; a lost table or another store's in any case); NO_SPACE and
   * others of the disk as they come.
   */
  static async open(options: SegmentLogOptions): Promise<SegmentLog> {
    const { disk, directory, identity } = options;
    assert(identity.length <= IDENTITY_SIZE_BYTES_MAX, "the identity is too long");
    await disk.makeDirectory(directory);
    const read = await readTableOrNone(options);
    const isTableLost = read === "damaged";
    const table = isTableLost ? await rebuildTable(options) : read;
    if (table === undefined) {
      await refuseLeftovers(options);
      const created = await createLog(options, (opened) => {
        const report = { recordCount: 0, tornBytes: 0, faults: [], isTableLost: false, created: true };
        return new SegmentLog(options, opened, report);
      });
      await created.#rememberFiles();
      return created;
    }
    const { from } = options;
    if (from !== undefined && !table.segmentIds.includes(from.segmentId)) {
      throw corruptError(`segment ${from.segmentId} of the checkpoint is gone`, directory, from.offset);
    }
    await removeLeftovers(options, table.segmentIds);
    const result = await recoverLog({
      disk,
      pathOf: (segmentId) => segmentPath(directory, segmentId),
      segmentIds: table.segmentIds,
      identity,
      identitySeed: identitySeed(identity, NO_LABEL),
      from,
      durable: furthest(table.durable, options.durable),
      bodies: options.bodies ?? "all",
      onFault: options.onFault,
      onRecord: options.onRecord,
      onDamage: (fault, record) => options.onDamage?.(fault, record),
    });
    const file = await openEnd(options, result);
    const { recordCount, tornBytes, faults } = result;
    const log = new SegmentLog(
      options,
      { file, end: result.end, segmentIds: table.segmentIds },
      { recordCount, tornBytes, faults, isTableLost, created: false },
    );
    await log.#rememberFiles();
    return log;
  }

  /** How far everything is durable; a start for a later recovery (`from`). */
  get durable(): Cursor {
    return this.#appender.durable;
  }

  /** Where the next record goes. */
  get head(): Position {
    return this.#appender.head;
  }

  /** Segments that exist, ascending. */
  get segmentIds(): readonly number[] {
    return this.#segmentIds;
  }

  /** Syncs of segment files so far. */
  get syncCount(): number {
    return this.#appender.syncCount;
  }

  /** Bytes appended and not yet in a file: what back-pressure is to bound. */
  get pendingBytes(): number {
    return this.#appender.pendingBytes;
  }

  /**
   * Queues a record and assigns its place at once; buffered until flush() or commit(). Call one of them before the next
   * await: it says whether the record stayed. Throws the failure of a log that has failed.
   * @param kind RECORD_KIND_MIN to 65,535
   * @param head at most HEAD_SIZE_BYTES_MAX bytes, copied; read whole with every read of the record
   * @param body at most BODY_SIZE_BYTES_MAX bytes, not copied: must not change until the call above settles
   */
  append(kind: number, head: Uint8Array, body: Uint8Array = NO_BODY): RecordLocation {
    assert(kind >= RECORD_KIND_MIN, `kinds below ${RECORD_KIND_MIN} belong to the segments, got ${kind}`);
    return this.#appender.append(kind, head, body);
  }

  /**
   * Group commit: resolves when everything appended before is durable. One write and one fdatasync serve all calls that come
   * while a round is under way. Errors: NO_SPACE (what was appended since the last success of flush() or commit() is not in
   * the log, and the log goes on when there is space); any other error is final and was handed to `onFatal`.
   */
  commit(): Promise<void> {
    return this.#appender.commit();
  }

  /** Resolves when everything appended before is in a file: readable, not durable. Errors: as commit(). */
  flush(): Promise<void> {
    return this.#appender.flush();
  }

  /** Reads a record that is in a file. Errors: DATA_CORRUPT; those of the disk. The caller owns the result. */
  read(location: RecordLocation): Promise<LogRecord> {
    return this.#files.use(this.#path(location.segmentId), (file) => readRecord(file, this.#seed, location));
  }

  /** As read(), on the calling thread, and only for the segment being written; undefined for others. */
  readSync(location: RecordLocation): LogRecord | undefined {
    if (location.segmentId !== this.#appender.written.segmentId) return undefined;
    return readRecordSync(this.#appender.file, this.#seed, location);
  }

  /** Reads part of a body, verifying the blocks it lies in; see readRecordPart(). Errors: DATA_CORRUPT; those of the disk. */
  readPart(
    location: RecordLocation,
    part: {
      readonly headSizeBytes: number;
      readonly bodySizeBytes: number;
      readonly offset: number;
      readonly length: number;
    },
  ): Promise<RecordPart> {
    return this.#files.use(this.#path(location.segmentId), (file) =>
      readRecordPart(file, this.#seed, location, part),
    );
  }

  /** Bytes of a segment's file now. Errors: those of the disk. */
  sizeOf(segmentId: number): Promise<number> {
    return this.#files.use(this.#path(segmentId), (file) => file.size());
  }

  /**
   * Hands out the records of one segment in order, bodies included, up to what is in the file now. Views shared windows.
   * Errors: DATA_CORRUPT at the first damage; those of the disk.
   */
  async scanSegment(segmentId: number, onRecord: (record: LogRecord) => void | Promise<void>): Promise<void> {
    const { written } = this.#appender;
    await this.#files.use(this.#path(segmentId), async (file) => {
      const header = decodeSegmentHeader(await file.read(0, SEGMENT_HEADER_SIZE_BYTES_MAX));
      if (header === undefined) throw corruptError("a damaged segment header", file.path, 0);
      const scanner = new SegmentScanner({
        file,
        segmentId,
        identitySeed: this.#seed,
        sizeBytes: segmentId === written.segmentId ? written.offset : await file.size(),
        offset: segmentHeaderSizeBytes(header.identity.length, header.label.length),
        previous: header.chainSeed,
        readBodies: true,
      });
      for (let step = await scanner.look(); step.kind !== "end"; step = await scanner.look()) {
        if (step.kind !== "record") throw corruptError("a damaged record", file.path, scanner.offset);
        scanner.pass(step.header);
        if (step.record.kind >= RECORD_KIND_MIN) await onRecord(step.record);
      }
    });
  }

  /**
   * Finds segments whose files are gone from the directory, were replaced there or cut short. When the one being written is among
   * them, the log goes on in a new one: everything appended from then on is where a restart finds it. Each is found again by the next
   * call until settleMisplaced(). Only of a log with `watchesFiles`. Errors: as commit(); those of the disk and of `pause`.
   * @param pause awaited now and then, so that others get on
   */
  async checkFiles(pause: () => Promise<void>): Promise<readonly MisplacedSegment[]> {
    assert(this.#options.watchesFiles === true, "the files of this log are not watched");
    const { file, written } = this.#appender;
    const found = await this.#watch.find({
      segmentIds: this.#segmentIds,
      files: this.#files,
      // What was written so far of this segment, also when it is left while the look goes on.
      writing: [{ segmentId: written.segmentId, file, writtenBytes: () => written.offset }],
      pause,
    });
    const known = new Set(this.#segmentIds);
    const misplaced = found.filter(({ segmentId }) => known.has(segmentId));
    // The log itself removed the others.
    for (const { segmentId } of found) if (!known.has(segmentId)) this.settleMisplaced(segmentId);
    const { head } = this.#appender;
    if (misplaced.some(({ segmentId }) => segmentId === head.segmentId)) await this.#appender.rollOver();
    else if (misplaced.length > 0) await this.#appender.commit();
    // Leaving a segment writes its footer behind what it has lost.
    return misplaced.map((each) => (each.segmentId >= written.segmentId ? withoutLeftBytes(each) : each));
  }

  /** What was in a segment that checkFiles() found was looked at: it is found anew only when its file changes again, or is missing. */
  settleMisplaced(segmentId: number): void {
    this.#watch.settle(segmentId);
  }

  /**
   * Removes whole segments that nothing needs any more; the one being written is refused by assertion. Durable when it
   * resolves. Errors: those of the disk before anything changed; a failed sync is final.
   */
  async removeSegments(segmentIds: readonly number[]): Promise<void> {
    const gone = new Set(segmentIds);
    assert(!gone.has(this.#appender.head.segmentId), "the segment being written cannot be removed");
    assert(!gone.has(this.#appender.written.segmentId), "the segment being written cannot be removed");
    await this.#exclusively(async () => {
      const left = this.#segmentIds.filter((id) => !gone.has(id));
      if (left.length === this.#segmentIds.length) return;
      await this.#writeTable(left, this.#appender.durable);
      this.#segmentIds = left;
      for (const id of gone) {
        await this.#files.drop(this.#path(id));
        await this.#options.disk.remove(this.#path(id));
        this.#watch.forget(id);
      }
      try {
        await syncDirectory(this.#options.disk, this.#options.directory);
      } catch (error) {
        this.#options.onFatal(error as Error);
        throw error;
      }
    });
  }

  /**
   * Replaces the table by one of the segments that the log goes on with. After isTableLost, once the owner has made it durable
   * that records may be missing. Errors: those of the disk.
   */
  async storeTable(): Promise<void> {
    await this.#exclusively(() => this.#writeTable(this.#segmentIds, this.#appender.durable));
  }

  /** Makes everything durable, marks it as promised and closes the files. */
  async close(): Promise<void> {
    await this.#appender.close();
    await this.#tableWork;
    await this.#files.close();
    await this.#appender.file.close();
  }

  #path(segmentId: number): string {
    return segmentPath(this.#options.directory, segmentId);
  }

  async #rememberFiles(): Promise<void> {
    if (this.#options.watchesFiles !== true) return;
    for (const segmentId of this.#segmentIds) await this.#watch.remember(segmentId);
  }

  async #openNext(segmentId: number, chainSeed: number, durable: Position): Promise<DiskFile> {
    const { disk, directory, identity } = this.#options;
    const file = await createSegmentFile(disk, directory, {
      segmentId,
      chainSeed,
      identity,
      label: NO_LABEL,
    });
    try {
      await this.#exclusively(async () => {
        const segmentIds = [...this.#segmentIds, segmentId];
        if (this.#options.watchesFiles === true) {
          this.#watch.finish(durable.segmentId, durable.offset);
          await this.#watch.remember(segmentId);
        }
        await this.#writeTable(segmentIds, durable);
        this.#segmentIds = segmentIds;
      });
    } catch (error) {
      await file.close();
      throw error;
    }
    return file;
  }

  async #writeTable(segmentIds: readonly number[], durable: Position): Promise<void> {
    const { disk, directory, identity } = this.#options;
    await writeTable(disk, directory, { identity, durable, segmentIds });
  }

  /** One change of the table at a time. */
  async #exclusively(work: () => Promise<void>): Promise<void> {
    const turn = this.#tableWork.then(work);
    this.#tableWork = turn.catch(() => undefined);
    await turn;
  }
}

function withoutLeftBytes({ segmentId, path, kind }: MisplacedSegment): MisplacedSegment {
  return { segmentId, path, kind };
}

function furthest(a: Position, b: Position | undefined): Position {
  return b !== undefined && comparePositions(b, a) > 0 ? b : a;
}

/** Path of a segment of a log. */
export function segmentPath(directory: string, segmentId: number): string {
  return `${directory}/${String(segmentId).padStart(10, "0")}.seg`;
}

/** The segment that a file name in a log's directory names; undefined for other files. */
export function parseSegmentName(name: string): number | undefined {
  const match = /^(\d{10})\.seg$/.exec(name);
  return match === null ? undefined : Number(match[1]);
}

/**
 * Makes the file of a segment durably: header, sync, sync of the directory. Takes over what an attempt that failed left.
 * Errors: those of the disk before anything counts; SyncError, which is final.
 */
export async function createSegmentFile(
  disk: Disk,
  directory: string,
  header: SegmentHeader,
): Promise<DiskFile> {
  const file = await disk.open(segmentPath(directory, header.segmentId), "open-or-create");
  try {
    const bytes = encodeSegmentHeader(header);
    // A table that names the segment may already be there, so a header that is right is not taken away, even for a moment.
    if (!bytesEqual(await file.read(0, bytes.length + 1), bytes)) {
      await file.truncate(0);
      await file.write(0, [bytes]);
    }
    await syncFile(file);
    await syncDirectory(disk, directory);
    return file;
  } catch (error) {
    await file.close();
    throw error;
  }
}

async function createLog<T>(
  options: SegmentLogOptions,
  make: (opened: { file: DiskFile; end: Cursor; segmentIds: readonly number[] }) => T,
): Promise<T> {
  const { disk, directory, identity } = options;
  const header = { segmentId: 1, chainSeed: 0, identity, label: NO_LABEL };
  const file = await createSegmentFile(disk, directory, header);
  const offset = segmentHeaderSizeBytes(identity.length, 0);
  const end: Cursor = { segmentId: 1, offset, chain: 0, sealed: false };
  await writeTable(disk, directory, { identity, durable: end, segmentIds: [1] });
  await syncDirectory(disk, parentOf(directory));
  return make({ file, end, segmentIds: [1] });
}

/** Opens the last segment for appending: cuts the torn tail and makes everything before it durable. */
async function openEnd(options: SegmentLogOptions, result: RecoveryResult): Promise<DiskFile> {
  const { end, tornBytes } = result;
  const path = segmentPath(options.directory, end.segmentId);
  // A segment that was reported missing takes no records; the file made in its place stays empty and damaged.
  const file = await options.disk.open(path, end.offset === 0 ? "open-or-create" : "existing");
  if (tornBytes > 0) await file.truncate(end.offset);
  // What a killed process had written but not synced was just read back and counts from here on: make it durable first.
  await syncFile(file);
  return file;
}

/** The table, or that it is damaged where the owner can live with that. Errors: as readTable(). */
async function readTableOrNone(options: SegmentLogOptions): Promise<SegmentTable | "damaged" | undefined> {
  try {
    const table = await readTable(options.disk, options.directory, options.identity);
    const mustExist = options.whenAbsent === "refuse" && options.whenTableDamaged === "rebuild";
    return table ?? (mustExist ? "damaged" : undefined);
  } catch (error) {
    const isDamage = hasReason(error, "DATA_CORRUPT") || errnoOf(error) === "EIO";
    if (!isDamage || options.whenTableDamaged !== "rebuild") throw error;
    return "damaged";
  }
}

/** A table of the segments from the first to the last that are there; storeTable() puts it in place of the damaged one. Errors: DATA_CORRUPT when there are none. */
async function rebuildTable(options: SegmentLogOptions): Promise<SegmentTable> {
  const { disk, directory, identity } = options;
  const path = `${directory}/${TABLE_NAME}`;
  const names = await disk.list(directory);
  const found = names.map((name) => parseSegmentName(name)).filter((id) => id !== undefined);
  if (found.length === 0) throw corruptError("no segments beside a damaged table", path, 0);
  const first = Math.min(...found);
  // One that is not there in between is found missing.
  const segmentIds = Array.from({ length: Math.max(...found) - first + 1 }, (_, at) => first + at);
  const durable: Position = { segmentId: first, offset: 0 };
  options.onDamage?.({ kind: "damaged", path, segmentId: first, offset: 0, sizeBytes: 0 }, undefined);
  return { identity, durable, segmentIds };
}

/** Without a table there must be no log: only what a crash in the middle of making one leaves behind. */
async function refuseLeftovers(options: SegmentLogOptions): Promise<void> {
  const { disk, directory } = options;
  if (options.whenAbsent === "refuse") {
    throw corruptError("the table of segments is gone", `${directory}/${TABLE_NAME}`, 0);
  }
  for (const name of await disk.list(directory)) {
    const segmentId = parseSegmentName(name);
    if (segmentId === undefined) continue;
    if (segmentId !== 1 || (await hasRecords(options, `${directory}/${name}`))) {
      throw corruptError("segments without their table", `${directory}/${name}`, 0);
    }
  }
}

/** Removes files that the table does not name: a removal or a roll-over that a crash cut short. */
async function removeLeftovers(options: SegmentLogOptions, segmentIds: readonly number[]): Promise<void> {
  const { disk, directory } = options;
  const known = new Set(segmentIds);
  const last = must(segmentIds.at(-1), "a table names at least one segment");
  for (const name of await disk.list(directory)) {
    const path = `${directory}/${name}`;
    const segmentId = parseSegmentName(name);
    if (segmentId === undefined) {
      if (name.endsWith(".tmp")) await disk.remove(path);
      continue;
    }
    if (known.has(segmentId)) continue;
    // The table is written before the first record of a new segment: records here mean that the table is an old one.
    if (segmentId > last && (await hasRecords(options, path))) {
      throw corruptError("a segment that the table does not know", path, 0);
    }
    await disk.remove(path);
  }
}

/** Whether a file is longer than the header of a segment. It is not read: what cannot be read is not taken for absent. */
async function hasRecords({ disk, identity }: SegmentLogOptions, path: string): Promise<boolean> {
  const file = await disk.open(path, "read");
  try {
    return (await file.size()) > segmentHeaderSizeBytes(identity.length, NO_LABEL.length);
  } finally {
    await file.close();
  }
}

function parentOf(path: string): string {
  const at = path.lastIndexOf("/");
  if (at < 0) return ".";
  return at === 0 ? "/" : path.slice(0, at);
}
