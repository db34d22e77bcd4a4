/**
 * Reads of the replicated state: pure functions over a reader, for every layer above.
 *
 * A copied folder is filled in the background (copies.ts). Where a read touches what is not there yet the answer is
 * {kind: "needs-materialise", directoryId, path}: propose a materialise command with these two and read again, until the answer
 * is another. Only reads of unfinished copies ever cost a commit. Nothing here changes anything.
 */
import type { Change } from "../drive/change.ts";
import type { Extent, ExtentKey, Replica } from "../drive/content.ts";
import type { ReplicaSummary } from "../drive/drive-api.ts";
import { type Entry, type EntryAttributes, type Locator, type OnConflict } from "../drive/entry.ts";
import type { Precondition } from "../drive/entry.ts";
import { DriveError } from "../drive/errors.ts";
import { compareBytes, utf8 } from "../std/bytes.ts";
import type { OrderedReader } from "../std/ordered-store.ts";
import { isExpiryDue } from "./clock.ts";
import { isEvictionDue } from "./evict.ts";
import type { ExtentTargets } from "./commands.ts";
import { extentScanStart } from "./contents.ts";
import { hasPrefix, readRecord, readState, scanPrefix } from "./context.ts";
import { findCopy, findVirtualRow } from "./copies.ts";
import { findRow, findSpot, findSpotAnywhere, toEntry, type Spot } from "./entries.ts";
import {
  afterPrefix,
  changeKey,
  CLUSTER_KEY,
  makeKey,
  numberInKey,
  rowKey,
  successor,
  TABLE,
  textInKey,
  uploadOfContentKey,
} from "./keys.ts";
import { findContent, findExtent } from "./extents.ts";
import { checkTimeOf, findStore, isVoid, KnownStores } from "./known-stores.ts";
import { findLease, isLeased, UNPLACED_OWNER_ID } from "./members.ts";
import {
  clusterCodec,
  contentCodec,
  entryRecordCodec,
  extentCodec,
  feedCodec,
  memberCodec,
  targetsCodec,
  type ClusterRecord,
  type ContentRecord,
  type ExtentRecord,
  type MemberRecord,
  type StoreRecord,
} from "./records.ts";
import { isRecounting } from "./stores.ts";
import { findUpload } from "./uploads.ts";

/** The read touched a part of a copied folder that is not there yet; see the head of this file. */
export interface NeedsMaterialise {
  readonly kind: "needs-materialise";
  readonly directoryId: number;
  readonly path: readonly string[];
}

/** An entry and its names from the root. */
export interface FoundEntry {
  readonly kind: "entry";
  readonly entry: Entry;
  readonly path: readonly string[];
}

function found(reader: OrderedReader, spot: Spot): FoundEntry | undefined {
  if (spot.row === undefined) return undefined;
  return { kind: "entry", entry: toEntry(reader, spot.parentId, spot.name, spot.row), path: spot.path };
}

/** An entry by id; undefined when it is not in the tree (any more). @throws DriveError PATH_TOO_DEEP */
export function getEntry(reader: OrderedReader, entryId: number): Entry | undefined {
  const spot = findSpot(reader, entryId);
  return spot === undefined ? undefined : found(reader, spot)?.entry;
}

/** Whether there is an entry with this id, also below the system's root, where nothing has a path. */
export function hasEntry(reader: OrderedReader, entryId: number): boolean {
  return findSpotAnywhere(reader, entryId)?.row !== undefined;
}

/** The names from the root to an entry; undefined when it is not in the tree. @throws DriveError PATH_TOO_DEEP */
export function pathOf(reader: OrderedReader, entryId: number): readonly string[] | undefined {
  return findSpot(reader, entryId)?.path;
}

/**
 * Walks a locator.
 * @throws DriveError PATH_NOT_FOUND or NOT_A_DIRECTORY; PATH_TOO_DEEP
 */
export function resolve(reader: OrderedReader, locator: Locator): FoundEntry | NeedsMaterialise {
  const absent = (path: readonly string[]): never => {
    const shown = `/${path.join("/")}`;
    throw new DriveError("PATH_NOT_FOUND", `There is nothing at ${JSON.stringify(shown)}.`, { path: shown });
  };
  const base = findSpot(reader, locator.baseId);
  if (base?.row === undefined) {
    throw new DriveError("PATH_NOT_FOUND", `There is no entry ${locator.baseId}.`, {
      entry_id: String(locator.baseId),
    });
  }
  let { row, parentId, name } = { ...base, row: base.row };
  const path = [...base.path];
  for (const [i, next] of locator.path.entries()) {
    if (row.kind !== "directory") {
      const shown = `/${path.join("/")}`;
      throw new DriveError("NOT_A_DIRECTORY", `${JSON.stringify(shown)} is a file.`, { path: shown });
    }
    parentId = row.entryId;
    name = next;
    path.push(next);
    const below = findRow(reader, parentId, name);
    if (below === undefined) {
      if (findVirtualRow(reader, parentId, name) === undefined) return absent(path);
      return { kind: "needs-materialise", directoryId: parentId, path: locator.path.slice(i) };
    }
    row = below;
  }
  return { kind: "entry", entry: toEntry(reader, parentId, name, row), path };
}

/** A page of a directory. */
export interface ListPage {
  readonly kind: "page";
  readonly entries: readonly Entry[];
  /** Whether there are names after the last one here. */
  readonly more: boolean;
}

/**
 * At most `countMax` entries of a directory that was found before, in name order, with names after `afterName`.
 * @throws DriveError PATH_NOT_FOUND or NOT_A_DIRECTORY
 */
export function list(
  reader: OrderedReader,
  directoryId: number,
  page: { readonly afterName?: string | undefined; readonly countMax: number },
): ListPage | NeedsMaterialise {
  const spot = findSpotAnywhere(reader, directoryId);
  const metadata = { entry_id: String(directoryId) };
  if (spot?.row === undefined)
    throw new DriveError("PATH_NOT_FOUND", `There is no entry ${directoryId}.`, metadata);
  if (spot.row.kind !== "directory")
    throw new DriveError("NOT_A_DIRECTORY", "The entry is a file.", metadata);
  const prefix = makeKey(TABLE.row, [directoryId]);
  const from = page.afterName === undefined ? prefix : successor(rowKey(directoryId, page.afterName));
  const records = [...reader.range({ from, to: afterPrefix(prefix), countMax: page.countMax + 1 })];
  const copy = findCopy(reader, directoryId);
  if (copy !== undefined) {
    // Names from the cursor on are not all there; a full page below it needs none of them.
    const last = records[page.countMax];
    const isBelow = last !== undefined && compareBytes(utf8(textInKey(last.key, 1)), copy.cursor) < 0;
    if (!isBelow) return { kind: "needs-materialise", directoryId, path: [] };
  }
  const entries = records
    .slice(0, page.countMax)
    .map(({ key, value }) => toEntry(reader, directoryId, textInKey(key, 1), entryRecordCodec.decode(value)));
  return { kind: "page", entries, more: records.length > page.countMax };
}

/** A content without its extents. */
export interface ContentInfo {
  readonly contentId: number;
  readonly sizeBytes: number;
  readonly treeHash: Uint8Array;
  /** Empty when unknown. */
  readonly sha256: Uint8Array;
  readonly extentCount: number;
  /** Entries that point to it; 0 while it waits to be dropped. */
  readonly referenceCount: number;
}

function toExtent(stores: KnownStores, extentIndex: number, extent: ExtentRecord): Extent {
  const replicas = extent.replicas.map((replica): Replica => {
    const known = stores.of(replica.memberId);
    const state = isVoid(replica, known) ? "lost" : replica.state;
    return { memberId: replica.memberId, state, checkTimeMs: checkTimeOf(replica, known) };
  });
  return { extentIndex, sizeBytes: extent.sizeBytes, root: extent.root, replicas };
}

/** A content by id, or undefined. */
export function getContent(reader: OrderedReader, contentId: number): ContentInfo | undefined {
  const content = findContent(reader, contentId);
  if (content === undefined) return undefined;
  const { sizeBytes, treeHash, sha256, extentCount, referenceCount } = content;
  return { contentId, sizeBytes, treeHash, sha256, extentCount, referenceCount };
}

/** All extents of a content in order; empty for an empty or unknown one. */
export function extentsOf(reader: OrderedReader, contentId: number): readonly Extent[] {
  const content = findContent(reader, contentId);
  if (content === undefined) return [];
  const stores = new KnownStores(reader);
  if (content.extent !== undefined) return [toExtent(stores, 0, content.extent)];
  return scanPrefix(reader, makeKey(TABLE.extent, [contentId]), Number.POSITIVE_INFINITY).map(
    ({ key, value }) => toExtent(stores, numberInKey(key, 1), extentCodec.decode(value)),
  );
}

/** One extent of a content, or undefined. */
export function getExtent(reader: OrderedReader, key: ExtentKey): Extent | undefined {
  const extent = findExtent(reader, key.contentId, key.extentIndex);
  return extent === undefined ? undefined : toExtent(new KnownStores(reader), key.extentIndex, extent);
}

/** An extent with its content's id. */
export interface KeyedExtent {
  readonly contentId: number;
  readonly extent: Extent;
}

/** Extents of all contents in order of (contentId, extentIndex) after `after`, at most `countMax`: for repair of a lost member. */
export function listExtents(
  reader: OrderedReader,
  after: ExtentKey | undefined,
  countMax: number,
): KeyedExtent[] {
  const from = makeKey(TABLE.content, [after?.contentId ?? 0]);
  const result: KeyedExtent[] = [];
  const stores = new KnownStores(reader);
  for (const { key, value } of reader.range({
    from,
    to: afterPrefix(makeKey(TABLE.content, [])),
    countMax: countMax + 1,
  })) {
    const contentId = numberInKey(key, 0);
    const start = contentId === after?.contentId ? after.extentIndex + 1 : 0;
    const content = contentCodec.decode(value);
    for (const { extentIndex, extent } of extentsFrom(
      reader,
      contentId,
      content,
      start,
      countMax - result.length,
    )) {
      result.push({ contentId, extent: toExtent(stores, extentIndex, extent) });
    }
    if (result.length >= countMax) break;
  }
  return result;
}

function extentsFrom(
  reader: OrderedReader,
  contentId: number,
  content: ContentRecord,
  start: number,
  countMax: number,
): { readonly extentIndex: number; readonly extent: ExtentRecord }[] {
  if (content.extent !== undefined) {
    return start === 0 && countMax > 0 ? [{ extentIndex: 0, extent: content.extent }] : [];
  }
  if (content.extentCount === 0) return [];
  const prefix = makeKey(TABLE.extent, [contentId]);
  const range = { from: makeKey(TABLE.extent, [contentId, start]), to: afterPrefix(prefix), countMax };
  return [...reader.range(range)].map(({ key, value }) => ({
    extentIndex: numberInKey(key, 1),
    extent: extentCodec.decode(value),
  }));
}

/** An upload. */
export interface UploadInfo {
  readonly uploadId: number;
  readonly state: "open" | "complete" | "expired";
  readonly contentId: number;
  readonly parentId: number;
  readonly name: string;
  /** Undefined when unknown. */
  readonly sizeBytes: number | undefined;
  /** Empty when unknown. */
  readonly treeHash: Uint8Array;
  readonly onConflict: OnConflict;
  readonly attributes: EntryAttributes;
  readonly precondition: Precondition;
  readonly expireTimeMs: number;
  /** Targets of the extents assigned so far, by extent index; empty once it is not open any more. */
  readonly extents: readonly ExtentTargets[];
  /** Of a complete upload. */
  readonly entry: Entry | undefined;
  readonly path: readonly string[];
}

/** An upload by id, or undefined when there never was one or it is forgotten. */
export function getUpload(reader: OrderedReader, uploadId: number): UploadInfo | undefined {
  const upload = findUpload(reader, uploadId);
  if (upload === undefined) return undefined;
  const assigned = scanPrefix(reader, makeKey(TABLE.targets, [uploadId]), Number.POSITIVE_INFINITY);
  const extents = assigned.map(({ key, value }) => ({
    extentIndex: numberInKey(key, 1),
    memberIds: targetsCodec.decode(value).memberIds,
  }));
  return { uploadId, ...upload, extents: upload.state === "open" ? extents : [] };
}

/** At most `countMax` open uploads, in the order of their contents, after `afterContentId` (0: all), and where to go on. */
export function openUploadsAfter(
  reader: OrderedReader,
  afterContentId: number,
  countMax: number,
): { readonly uploads: readonly UploadInfo[]; readonly next: number | undefined } {
  const from = uploadOfContentKey(afterContentId + 1);
  const to = afterPrefix(makeKey(TABLE.uploadOfContent, []));
  const records = [...reader.range({ from, to, countMax })];
  const last = records.at(-1);
  const uploads = records.flatMap(({ value }) => {
    // One that was discarded stays in this table until its copies are told to go.
    const upload = getUpload(reader, numberInKey(value, 0));
    return upload?.state === "open" ? [upload] : [];
  });
  const isMore = last !== undefined && records.length === countMax;
  return { uploads, next: isMore ? numberInKey(last.key, 0) : undefined };
}

/** Where an open upload's file is to be: the names from the root, or undefined when its folder was deleted. */
export function uploadPath(reader: OrderedReader, upload: UploadInfo): readonly string[] | undefined {
  if (upload.state === "complete") return upload.path;
  const parent = pathOf(reader, upload.parentId);
  return parent === undefined ? undefined : [...parent, upload.name];
}

/** All registered members, by id. */
export function members(reader: OrderedReader): readonly MemberRecord[] {
  return scanPrefix(reader, makeKey(TABLE.member, []), Number.POSITIVE_INFINITY).map(({ value }) =>
    memberCodec.decode(value),
  );
}

/** Cluster time at which a scrub of every store was asked for last; 0 for never. */
export function scrubRequestTime(reader: OrderedReader): number {
  return readState(reader).scrubRequestTimeMs;
}

/** What is known of a member's chunk store: given up, being emptied, scrubbed. */
export function storeOf(reader: OrderedReader, memberId: number): StoreRecord {
  return findStore(reader, memberId);
}

/** A member's lease for small writes. */
export interface WriteLease {
  readonly storeIncarnation: string;
  readonly expireTimeMs: number;
  readonly blocks: readonly { readonly firstContentId: number; readonly idCount: number }[];
}

/** The lease of a member, expired or not; undefined when it never had one. */
export function writeLease(reader: OrderedReader, memberId: number): WriteLease | undefined {
  return findLease(reader, memberId);
}

/** Cluster time in milliseconds. */
export function clusterTime(reader: OrderedReader): number {
  return readState(reader).clusterTimeMs;
}

/** Identity and settings of the cluster; undefined before bootstrap. */
export function clusterInfo(reader: OrderedReader): ClusterRecord | undefined {
  return readRecord(reader, CLUSTER_KEY, clusterCodec);
}

/**
 * Events of commands after the one at `afterIndex` (0: from the oldest kept), at most about `countMax`: those of the last
 * command are always complete, so the last event's index is where to go on.
 * @throws DriveError RANGE_NOT_SATISFIABLE when events after `afterIndex` were trimmed
 */
export function changesAfter(reader: OrderedReader, afterIndex: number, countMax: number): readonly Change[] {
  const { changesTrimmedIndex } = readState(reader);
  if (afterIndex > 0 && afterIndex < changesTrimmedIndex) {
    throw new DriveError(
      "RANGE_NOT_SATISFIABLE",
      `Changes up to index ${changesTrimmedIndex} are not kept any more.`,
      {
        after_index: String(afterIndex),
        oldest_index: String(changesTrimmedIndex),
      },
    );
  }
  // A command whose first events were trimmed is left out whole.
  const first = Math.max(afterIndex, changesTrimmedIndex) + 1;
  const to = afterPrefix(makeKey(TABLE.change, []));
  const changes: Change[] = [];
  for (const { value } of reader.range({ from: changeKey(first, 0), to })) {
    const change = feedCodec.decode(value);
    if (changes.length >= countMax && change.index !== changes.at(-1)?.index) break;
    changes.push(change);
  }
  return changes;
}

/** An extent that lacks copies. */
export interface UnderReplicated extends ExtentKey {
  readonly verifiedCount: number;
}

/** Extents with fewer than REPLICA_COUNT verified copies, fewest copies first, then those with a copy on the move; after `after`; at most `countMax`. */
export function underReplicated(
  reader: OrderedReader,
  after: UnderReplicated | undefined,
  countMax: number,
): readonly UnderReplicated[] {
  const table = TABLE.underReplicated;
  const from =
    after === undefined ? makeKey(table, []) : extentScanStart(table, [after.verifiedCount], after);
  return [...reader.range({ from, to: afterPrefix(makeKey(table, [])), countMax })].map(({ key }) => ({
    verifiedCount: numberInKey(key, 0),
    contentId: numberInKey(key, 1),
    extentIndex: numberInKey(key, 2),
  }));
}

/** Extents whose copies a member is to remove and confirm, after `after`; at most `countMax`. */
export function dropList(
  reader: OrderedReader,
  memberId: number,
  countMax: number,
  after?: ExtentKey,
): readonly ExtentKey[] {
  const from = extentScanStart(TABLE.dropList, [memberId], after);
  const to = afterPrefix(makeKey(TABLE.dropList, [memberId]));
  return [...reader.range({ from, to, countMax })].map(({ key }) => ({
    contentId: numberInKey(key, 1),
    extentIndex: numberInKey(key, 2),
  }));
}

/** Copies as the state counts them. */
export type ReplicaCounters = Omit<ReplicaSummary, "repairBytesPerSecond" | "redundantInMs">;

/** Figures of the whole drive. */
export interface Counters {
  /** Entries by kind, the root excepted. Deleted ones count until they are reclaimed, copied ones once they are made. */
  readonly fileCount: number;
  readonly directoryCount: number;
  readonly openUploadCount: number;
  /** Bytes of all contents that an entry refers to, each counted once. */
  readonly contentBytes: number;
  readonly requestCount: number;
  readonly changeCount: number;
  readonly replicas: ReplicaCounters;
}

/** The counters; one read. */
export function counters(reader: OrderedReader): Counters {
  const state = readState(reader);
  const { fileCount, directoryCount, openUploadCount, contentBytes, requestCount, changeCount } = state;
  const replicas: ReplicaCounters = {
    extentCount: state.extentCount,
    fullyReplicatedCount: state.fullExtentCount,
    underReplicatedCount: state.underExtentCount,
    suspectCount: state.suspectExtentCount,
    corruptCount: state.corruptExtentCount,
    lostCount: state.lostExtentCount,
    unverifiedCount: state.pendingExtentCount,
    singleCopyCount: state.singleExtentCount,
    noCopyCount: state.uncopiedExtentCount,
    missingCopyBytes: state.missingCopyBytes,
    movingCount: state.movingExtentCount,
    recounting: isRecounting(reader) || isEvictionDue(reader),
  };
  return { fileCount, directoryCount, openUploadCount, contentBytes, requestCount, changeCount, replicas };
}

/** What the leader's housekeeping should propose. */
export interface PendingWork {
  /** An expire command has something to do. */
  readonly expirable: boolean;
  /** A reclaim command has something to do. */
  readonly reclaimable: boolean;
  /** A materialise command with directoryId 0 has something to do. */
  readonly materialisable: boolean;
  /** An evict command has something to do. */
  readonly evictable: boolean;
  /** A recount command has something to do. */
  readonly recountable: boolean;
}

/** What is waiting for housekeeping. A few reads. */
export function pendingWork(reader: OrderedReader): PendingWork {
  const { clusterTimeMs, pendingCopyCount } = readState(reader);
  return {
    expirable: isExpiryDue(reader, clusterTimeMs),
    reclaimable: hasPrefix(reader, makeKey(TABLE.graveyard, [])),
    materialisable: pendingCopyCount > 0,
    evictable: isEvictionDue(reader),
    recountable: isRecounting(reader),
  };
}

/** The first content id that was not given out yet: bytes under this id or a greater one are younger than this state. */
export function nextContentId(reader: OrderedReader): number {
  return readState(reader).nextContentId;
}

/** What the state knows of a content id, for collecting extents that nobody claims. */
export type ContentState =
  /** Entries refer to it. */
  | "committed"
  /** Nothing refers to it any more; its copies will appear on drop lists. */
  | "dropping"
  /** An upload writes it, or wrote it and was ended less than the grace ago. */
  | "uploading"
  /** It lies in a block of a write lease that has not expired. */
  | "leased"
  /** Nobody knows it, and nothing can come to refer to it: copies may be removed. */
  | "unknown";

/** What the state knows of a content id. Reads every lease when the id is none of the others. */
export function contentState(reader: OrderedReader, contentId: number): ContentState {
  const content = findContent(reader, contentId);
  if (content !== undefined) return content.referenceCount > 0 ? "committed" : "dropping";
  if (reader.get(uploadOfContentKey(contentId)) !== undefined) return "uploading";
  const { clusterTimeMs } = readState(reader);
  if (isLeased(findLease(reader, UNPLACED_OWNER_ID), clusterTimeMs, contentId)) return "leased";
  for (const { memberId } of members(reader)) {
    if (isLeased(findLease(reader, memberId), clusterTimeMs, contentId)) return "leased";
  }
  return "unknown";
}
