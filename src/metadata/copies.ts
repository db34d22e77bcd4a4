/**
 * Copies of directories in O(1): the copy is made name by name afterwards, and looks complete from the first moment.
 *
 * A directory C that copies S and is not finished has a CopyRecord {sourceId: S, cursor}. A name of C is decided when it lies
 * below the cursor, when C has a row for it, or when it is marked absent; every other name has the value that S has for it
 * now. So that this stays what S had when it was copied, protect() carries a name from S into every unfinished copy of S
 * before that name changes in S (pull()); a directory carried over becomes itself an unfinished copy of its source. A change
 * deep below S first carries the path down to it into the copies of every directory on the way from the root.
 *
 *        S ── a ── x          C ─ (cursor "b")        C copies S; "a" is decided: a' copies a, of which nothing is decided;
 *        ├── b                ├── a' ─ (cursor "")    "b" of C is decided by the row b'; "c" of C is whatever S has there.
 *        └── c                └── b'
 *
 * pull() changes nothing that anybody can see, so it protects nothing itself. A source always has a lower id than its copy,
 * hence chains end. See DESIGN.md for why this is right.
 */
import { ROOT_ENTRY_ID } from "../drive/entry.ts";
import { BATCH_ITEM_COUNT_MAX, COPY_CHAIN_COUNT_MAX } from "../drive/limits.ts";
import { assert, must } from "../std/assert.ts";
import { compareBytes, utf8 } from "../std/bytes.ts";
import type { OrderedReader } from "../std/ordered-store.ts";
import { retainContent } from "./contents.ts";
import { hasPrefix, readRecord, refuse, scanPrefix, type ApplyContext } from "./context.ts";
import { findAncestors, findRow, toEntry } from "./entries.ts";
import {
  absentKey,
  afterPrefix,
  copierKey,
  copyKey,
  makeKey,
  NOTHING,
  numberInKey,
  placeKey,
  rowKey,
  successor,
  TABLE,
  tailOfKey,
  textInKey,
} from "./keys.ts";
import { copyCodec, entryRecordCodec, placeCodec, type CopyRecord, type EntryRecord } from "./records.ts";

/** Times the bound of copy commands, the copiers that a directory may get while copies are gone on with. */
const HARD_FACTOR = 4;

const copierCountHardMax = (context: ApplyContext): number => HARD_FACTOR * context.limits.copierCountMax;

/** Sources that one name may be pulled through. */
const PULL_DEPTH_MAX = HARD_FACTOR * COPY_CHAIN_COUNT_MAX;

/** The unfinished copy that a directory is, or undefined. */
export function findCopy(reader: OrderedReader, directoryId: number): CopyRecord | undefined {
  return readRecord(reader, copyKey(directoryId), copyCodec);
}

/** At most `countMax` unfinished copies of a directory, by id. */
export function listCopiers(reader: OrderedReader, sourceId: number, countMax: number): number[] {
  return scanPrefix(reader, makeKey(TABLE.copier, [sourceId]), countMax).map(({ key }) =>
    numberInKey(key, 1),
  );
}

/** Whether a name of an unfinished copy has got its value. */
export function isDecided(
  reader: OrderedReader,
  directoryId: number,
  copy: CopyRecord,
  name: Uint8Array,
): boolean {
  if (compareBytes(name, copy.cursor) < 0) return true;
  if (reader.get(makeKey(TABLE.row, [directoryId], name)) !== undefined) return true;
  return reader.get(absentKey(directoryId, name)) !== undefined;
}

/** A row of a directory as it will be when every copy is finished, and the directory that holds it now. */
export interface VirtualRow {
  readonly name: Uint8Array;
  readonly holderId: number;
  readonly row: EntryRecord;
}

/**
 * All rows of a directory with names from `from` on, those of unfinished copies included, in name order.
 * @throws DriveError OVERLOADED after `budget` rows that only serve to be skipped
 */
export function* virtualRows(
  reader: OrderedReader,
  directoryId: number,
  from: Uint8Array = new Uint8Array(0),
  budget: { left: number } = { left: Number.POSITIVE_INFINITY },
): Generator<VirtualRow> {
  const own = ownRows(reader, directoryId, from);
  const copy = findCopy(reader, directoryId);
  if (copy === undefined) {
    yield* own;
    return;
  }
  const start = compareBytes(from, copy.cursor) < 0 ? copy.cursor : from;
  const source = virtualRows(reader, copy.sourceId, start, budget);
  let mine = own.next();
  let theirs = source.next();
  while (mine.done !== true || theirs.done !== true) {
    let order: number;
    if (theirs.done === true) order = -1;
    else order = mine.done === true ? 1 : compareBytes(mine.value.name, theirs.value.name);
    if (order <= 0) yield must(mine.value as VirtualRow | undefined, "a row of the copy");
    else {
      const row = must(theirs.value as VirtualRow | undefined, "a row of the source");
      if (reader.get(absentKey(directoryId, row.name)) === undefined) yield row;
      else budget.left -= 1;
      if (budget.left < 0) refuse("OVERLOADED", "The copy of the folder is not finished yet; try again.");
    }
    if (order <= 0) mine = own.next();
    if (order >= 0) theirs = source.next();
  }
}

function* ownRows(reader: OrderedReader, directoryId: number, from: Uint8Array): Generator<VirtualRow> {
  const to = afterPrefix(makeKey(TABLE.row, [directoryId]));
  for (const { key, value } of reader.range({ from: makeKey(TABLE.row, [directoryId], from), to })) {
    yield { name: tailOfKey(key, 1), holderId: directoryId, row: entryRecordCodec.decode(value) };
  }
}

/** The row that a name of a directory has or will have. */
export function findVirtualRow(
  reader: OrderedReader,
  directoryId: number,
  name: string,
): EntryRecord | undefined {
  let id = directoryId;
  const bytes = utf8(name);
  for (;;) {
    const row = findRow(reader, id, name);
    const copy = findCopy(reader, id);
    if (row !== undefined || copy === undefined || isDecided(reader, id, copy, bytes)) return row;
    id = copy.sourceId;
  }
}

/** Whether a directory has or will have anything in it. */
export function hasChildren(reader: OrderedReader, directoryId: number): boolean {
  if (hasPrefix(reader, makeKey(TABLE.row, [directoryId]))) return true;
  if (findCopy(reader, directoryId) === undefined) return false;
  const budget = { left: BATCH_ITEM_COUNT_MAX };
  return virtualRows(reader, directoryId, new Uint8Array(0), budget).next().done !== true;
}

/** How many unfinished copies lie between a directory and rows that are all its own. */
function chainLength(reader: OrderedReader, directoryId: number): number {
  let length = 0;
  for (let copy = findCopy(reader, directoryId); copy !== undefined; copy = findCopy(reader, copy.sourceId))
    length += 1;
  return length;
}

/**
 * Makes the new directory `directoryId` a copy of `sourceId`, to be finished later.
 * @throws DriveError OVERLOADED when the source has too many unfinished copies or is one of too long a chain
 */
export function startCopy(context: ApplyContext, sourceId: number, directoryId: number): void {
  if (chainLength(context, sourceId) >= context.limits.copyChainCountMax) {
    refuse(
      "OVERLOADED",
      "The folder is an unfinished copy of unfinished copies; wait until some are finished.",
      {
        copy_chain_count_max: String(context.limits.copyChainCountMax),
      },
    );
  }
  const times = { copyIndex: context.index, copyTimeMs: context.wallTimeMs };
  attachCopy(context, sourceId, directoryId, context.limits.copierCountMax, times);
}

function attachCopy(
  context: ApplyContext,
  sourceId: number,
  directoryId: number,
  copierCountMax: number,
  times: { readonly copyIndex: number; readonly copyTimeMs: number },
): void {
  assert(sourceId < directoryId, `directory ${directoryId} cannot copy ${sourceId}, which is newer`);
  // Nothing in it: the copy is finished as it is.
  if (!hasPrefix(context, makeKey(TABLE.row, [sourceId])) && findCopy(context, sourceId) === undefined)
    return;
  if (listCopiers(context, sourceId, copierCountMax).length >= copierCountMax) {
    refuse(
      "OVERLOADED",
      "The folder is being copied too often at once; wait until some copies are finished.",
      {
        copier_count_max: String(copierCountMax),
        source_id: String(sourceId),
      },
    );
  }
  const { copyIndex, copyTimeMs } = times;
  const copy: CopyRecord = { sourceId, cursor: new Uint8Array(0), copyIndex, copyTimeMs };
  context.put(copyKey(directoryId), copyCodec.encode(copy));
  context.put(copierKey(sourceId, directoryId), NOTHING);
  context.state.pendingCopyCount += 1;
}

/** Ends the unfinished copy that `directoryId` is; its names are then what it has rows for. */
export function detachCopy(context: ApplyContext, directoryId: number, copy: CopyRecord): void {
  context.delete(copyKey(directoryId));
  context.delete(copierKey(copy.sourceId, directoryId));
  context.state.pendingCopyCount -= 1;
}

/**
 * Decides a name of a directory that may be an unfinished copy, and returns its row.
 * @throws DriveError OVERLOADED when that takes too much at once
 */
export function pull(
  context: ApplyContext,
  directoryId: number,
  name: string,
  depth = 0,
): EntryRecord | undefined {
  const row = findRow(context, directoryId, name);
  if (row !== undefined || context.state.pendingCopyCount === 0) return row;
  const copy = findCopy(context, directoryId);
  if (copy === undefined || isDecided(context, directoryId, copy, utf8(name))) return undefined;
  context.pushCount += 1;
  if (context.pushCount > context.limits.copyPushCountMax || depth >= PULL_DEPTH_MAX) {
    refuse("OVERLOADED", "The change concerns too many unfinished copies; wait until some are finished.", {
      copy_push_count_max: String(context.limits.copyPushCountMax),
    });
  }
  const source = pull(context, copy.sourceId, name, depth + 1);
  if (source === undefined) {
    context.put(absentKey(directoryId, utf8(name)), NOTHING);
    return undefined;
  }
  return materialiseRow(context, directoryId, name, copy, source);
}

// Gives the copy a row of its own for a name; visible contents stay the same.
function materialiseRow(
  context: ApplyContext,
  directoryId: number,
  name: string,
  copy: CopyRecord,
  source: EntryRecord,
): EntryRecord {
  const entryId = context.newEntryId();
  const row: EntryRecord = { ...source, entryId, version: copy.copyIndex, createTimeMs: copy.copyTimeMs };
  if (row.kind === "file") {
    retainContent(context, row.contentId);
    context.state.fileCount += 1;
  } else {
    attachCopy(context, source.entryId, entryId, copierCountHardMax(context), copy);
    context.state.directoryCount += 1;
  }
  context.put(rowKey(directoryId, name), entryRecordCodec.encode(row));
  context.put(placeKey(entryId), placeCodec.encode({ parentId: directoryId, name }));
  // What the system keeps for itself is nobody's news.
  if (rootOf(context, directoryId) === ROOT_ENTRY_ID) {
    context.emit("created", toEntry(context, directoryId, name, row));
  }
  return row;
}

/** The root that a directory lies below, 0 for none; remembered within the command, whose moves and deletions must forget it. */
function rootOf(context: ApplyContext, directoryId: number): number {
  let known = context.roots.get(directoryId);
  if (known === undefined) {
    known = findAncestors(context, directoryId)?.[0]?.id ?? 0;
    context.roots.set(directoryId, known);
  }
  return known;
}

/** Carries (parentId, name) as it is now into every unfinished copy that would otherwise see it change. */
export function protect(context: ApplyContext, parentId: number, name: string): void {
  if (context.state.pendingCopyCount === 0 || parentId === 0) return;
  const chain = must(findAncestors(context, parentId), "only what is in the tree changes");
  for (const [i, { id }] of chain.entries()) {
    const below = chain[i + 1]?.name ?? name;
    for (const copierId of listCopiers(context, id, copierCountHardMax(context)))
      pull(context, copierId, below);
  }
}

/** Keeps the marks right when a row of an unfinished copy is written (`present`) or removed. */
export function markRow(context: ApplyContext, parentId: number, name: string, present: boolean): void {
  if (context.state.pendingCopyCount === 0) return;
  const copy = findCopy(context, parentId);
  const bytes = utf8(name);
  if (copy === undefined || compareBytes(bytes, copy.cursor) < 0) return;
  if (present) context.delete(absentKey(parentId, bytes));
  else context.put(absentKey(parentId, bytes), NOTHING);
}

interface BatchOutcome {
  readonly itemCount: number;
  /** A directory that cannot take another copier before one of its copies is finished. */
  readonly blockedBy: number | undefined;
}

// Decides the next names of one unfinished copy, after those that its source itself still lacks.
function materialiseBatch(
  context: ApplyContext,
  directoryId: number,
  countMax: number,
  depth = 0,
): BatchOutcome {
  const copy = findCopy(context, directoryId);
  if (copy === undefined || countMax <= 0) return { itemCount: 0, blockedBy: undefined };
  let itemCount = 0;
  let sourceCopy = findCopy(context, copy.sourceId);
  if (sourceCopy !== undefined && compareBytes(sourceCopy.cursor, copy.cursor) <= 0) {
    assert(depth < PULL_DEPTH_MAX, `copies are chained ${depth} deep`);
    const outcome = materialiseBatch(context, copy.sourceId, countMax, depth + 1);
    itemCount += outcome.itemCount;
    sourceCopy = findCopy(context, copy.sourceId);
    const behind = sourceCopy !== undefined && compareBytes(sourceCopy.cursor, copy.cursor) <= 0;
    if (behind || outcome.blockedBy !== undefined) return { itemCount, blockedBy: outcome.blockedBy };
  }
  return decideNames(context, directoryId, copy, sourceCopy?.cursor, { itemCount, countMax });
}

function decideNames(
  context: ApplyContext,
  directoryId: number,
  copy: CopyRecord,
  limit: Uint8Array | undefined,
  budget: { readonly itemCount: number; readonly countMax: number },
): BatchOutcome {
  const left = budget.countMax - budget.itemCount;
  if (left <= 0) return { itemCount: budget.itemCount, blockedBy: undefined };
  const scan = (table: number, id: number): { key: Uint8Array; value: Uint8Array }[] => {
    const to = limit === undefined ? afterPrefix(makeKey(table, [id])) : makeKey(table, [id], limit);
    return [...context.range({ from: makeKey(table, [id], copy.cursor), to, countMax: left })];
  };
  const rows = scan(TABLE.row, copy.sourceId);
  const marks = scan(TABLE.absent, directoryId);
  // Where the scans were cut short there may be more names; the cursor stops behind the first of these places.
  let end = limit;
  for (const cut of [rows, marks]) {
    const last = cut.length < left ? undefined : cut.at(-1);
    if (last === undefined) continue;
    const behind = successor(tailOfKey(last.key, 1));
    if (end === undefined || compareBytes(behind, end) < 0) end = behind;
  }
  let itemCount = budget.itemCount;
  let blockedBy: number | undefined;
  for (const { key, value } of rows) {
    const name = tailOfKey(key, 1);
    if (end !== undefined && compareBytes(name, end) >= 0) break;
    itemCount += 1;
    if (isDecided(context, directoryId, copy, name)) continue;
    const source = entryRecordCodec.decode(value);
    const full =
      source.kind === "directory" &&
      listCopiers(context, source.entryId, copierCountHardMax(context)).length >= copierCountHardMax(context);
    if (full) {
      [blockedBy, end] = [source.entryId, name];
      itemCount -= 1;
      break;
    }
    materialiseRow(context, directoryId, textInKey(key, 1), copy, source);
  }
  for (const { key } of marks) {
    if (end !== undefined && compareBytes(tailOfKey(key, 1), end) >= 0) break;
    context.delete(key);
    itemCount += 1;
  }
  if (end === undefined) detachCopy(context, directoryId, copy);
  else context.put(copyKey(directoryId), copyCodec.encode({ ...copy, cursor: end.slice() }));
  return { itemCount, blockedBy };
}

/** Goes on with the copy that `directoryId` is, or with what stands in its way. Returns how many names were looked at. */
export function materialiseDirectory(context: ApplyContext, directoryId: number, countMax: number): number {
  let target = directoryId;
  let itemCount = 0;
  for (;;) {
    const outcome = materialiseBatch(context, target, countMax - itemCount);
    itemCount += outcome.itemCount;
    if (outcome.blockedBy === undefined || itemCount >= countMax) return itemCount;
    // Each step goes to a copy of a directory further down, so this ends.
    target = must(listCopiers(context, outcome.blockedBy, 1)[0], "a copier of a directory that has too many");
  }
}

/** Goes on with any unfinished copy. Returns how many names were looked at, at least 1 while there is any. */
export function materialiseAny(context: ApplyContext, countMax = context.limits.batchItemCountMax): number {
  const first = scanPrefix(context, makeKey(TABLE.copy, []), 1)[0];
  if (first === undefined) return 0;
  let directoryId = numberInKey(first.key, 0);
  let copy = copyCodec.decode(first.value);
  for (
    let below = findCopy(context, copy.sourceId);
    below !== undefined;
    below = findCopy(context, copy.sourceId)
  ) {
    directoryId = copy.sourceId;
    copy = below;
  }
  return advanceCopy(context, directoryId, countMax);
}

/**
 * Goes on with an unfinished copy; one that was deleted is given up as soon as nobody copies from it, because what it does not
 * hold yet nobody will ever see. Returns how many names were looked at, at least 1.
 */
export function advanceCopy(context: ApplyContext, directoryId: number, countMax: number): number {
  let target = directoryId;
  while (rootOf(context, target) === 0) {
    const copierId = listCopiers(context, target, 1)[0];
    if (copierId === undefined) {
      const copy = findCopy(context, target);
      if (copy !== undefined) detachCopy(context, target, copy);
      return 1;
    }
    target = copierId;
  }
  return Math.max(1, materialiseDirectory(context, target, countMax));
}

/** Whether a directory has unfinished copies. */
export function hasCopiers(reader: OrderedReader, directoryId: number): boolean {
  return hasPrefix(reader, makeKey(TABLE.copier, [directoryId]));
}
