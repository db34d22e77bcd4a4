/**
 * Rebuilds the Raft log from its records, in the order they were appended, and says what damage has left of it.
 *
 * Behind damage everything starts anew: what was lost may have been an entry that replaced others, so nothing before it is
 * known to continue in what follows. What follows is exact by itself: an entry replaces all that are at its index and behind,
 * so from the lowest index in it on, the log is what was written there. A record that says where the log starts, with all
 * entries from there on behind the damage, makes the damage a thing of the past.
 */
import { DriveError } from "../drive/errors.ts";
import type { HardState, LogEntry } from "../raft/types.ts";
import type { LogRecord } from "../segments/record.ts";
import type { SegmentFault } from "../segments/segment-error.ts";
import { must } from "../std/assert.ts";
import { decodeHardState, decodeLogEntry, decodePosition, type LogPosition } from "./codec.ts";
import { LogIndex } from "./log-index.ts";
import { WireFormatError } from "./wire-format.ts";

/** Kinds of records in the segments. On disk: never change. */
export const KIND_ENTRY = 16;
export const KIND_HARD_STATE = 17;
export const KIND_COMPACTED = 18;
export const KIND_RESET = 19;

/** What damage has left of a log. */
export interface LogDamage {
  readonly faults: readonly SegmentFault[];
  /** Whether the hard state is certainly the newest one. */
  readonly isHardStateKnown: boolean;
  /**
   * The end of the log behind the damage, when that is certain: entries from `firstIndex` to `last`, exactly as they were.
   * Undefined when the damage reaches the end of the log.
   */
  readonly run: { readonly firstIndex: number; readonly last: LogPosition } | undefined;
}

/** What recovery rebuilds: the log, or what follows the last damage in it. */
export interface Recovered {
  index: LogIndex;
  /** Entry before the first; term 0 means that it is not known yet. */
  start: LogPosition;
  /** Whether damage lies before what is here, and nothing since says where the log starts. */
  isRun: boolean;
  /** Whether the hard state was read after the last damage. */
  hasHardState: boolean;
  faults: SegmentFault[];
  hardState: HardState;
  /** Newest entries, ending with the last of `index`. */
  tail: LogEntry[];
  tailSizeBytes: number;
}

/** The state of a recovery that has read nothing yet. */
export function emptyRecovery(): Recovered {
  return {
    index: new LogIndex(1),
    start: { index: 0, term: 0 },
    isRun: false,
    hasHardState: false,
    faults: [],
    hardState: { term: 0, votedFor: 0, commitIndex: 0 },
    tail: [],
    tailSizeBytes: 0,
  };
}

/** What an entry costs in the cache: its encoded form, which its data is a part of, and the objects over them. */
export function cachedSize(entry: LogEntry): number {
  return entry.data.length + 400;
}

/** Goes on behind damage: what came before it is not known to continue in what follows. */
export function beginRun(log: Recovered, fault: SegmentFault): void {
  log.faults.push(fault);
  log.index = new LogIndex(1);
  log.start = { index: 0, term: 0 };
  log.isRun = true;
  log.hasHardState = false;
  log.tail = [];
  log.tailSizeBytes = 0;
}

/** What is missing from the log; undefined when all damage lies before its start. */
export function damageOf(isTableLost: boolean, log: Recovered): LogDamage | undefined {
  if (!log.isRun && !isTableLost) return undefined;
  const { firstIndex, lastIndex } = log.index;
  // Without its table, segments may be missing from the end.
  const hasEnd = !isTableLost && lastIndex >= firstIndex;
  return {
    faults: log.faults,
    isHardStateKnown: log.hasHardState && !isTableLost,
    run: hasEnd ? { firstIndex, last: { index: lastIndex, term: log.index.term(lastIndex) } } : undefined,
  };
}

export function recover(
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
      log.hasHardState = true;
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
      log.isRun = false;
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
export function evict(entries: LogEntry[], sizeBytes: number, sizeBytesMax: number): number {
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
  if (log.isRun) {
    // Only entries that are all here show that nothing behind the position is missing.
    const { firstIndex, lastIndex } = log.index;
    const isCovered =
      lastIndex >= firstIndex && position.index >= firstIndex - 1 && position.index <= lastIndex;
    if (!isCovered) return;
    log.isRun = false;
  }
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
export function parseEntry(directory: string, record: LogRecord): LogEntry {
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

export function corrupt(directory: string, what: string): DriveError {
  return new DriveError("DATA_CORRUPT", `The Raft log in ${directory} is damaged: ${what}.`, {
    directory,
    what,
  });
}
