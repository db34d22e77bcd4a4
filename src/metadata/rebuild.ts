/**
 * What a tree that is rebuilt from a snapshot gets besides: a new cluster's identity, ids and a time that nobody has seen, the
 * copies that were really found, and the files that came after the snapshot.
 *
 * Run offline, by backup/rebuild.ts, through the same context as commands, so that counters and indexes follow. Everything that
 * the lost tree may have given out behind the snapshot (entry ids, content ids, indexes, leases) is never given again: numbers jump.
 */
import type { ExtentKey } from "../drive/content.ts";
import { ROOT_ENTRY_ID, type EntryAttributes } from "../drive/entry.ts";
import { FEATURE_LEVELS } from "../drive/feature-levels.ts";
import { REQUEST_RETENTION_MS, UNPLACED_RETENTION_MS } from "../drive/limits.ts";
import { must } from "../std/assert.ts";
import { bytesEqual } from "../std/bytes.ts";
import { foldTreeHash } from "../std/digest.ts";
import { formatPath } from "../drive/path.ts";
import type { OrderedReader, OrderedTransaction } from "../std/ordered-store.ts";
import { createContent } from "./contents.ts";
import { ApplyContext, DEFAULT_LIMITS, hasPrefix, readRecord, scanPrefix } from "./context.ts";
import { findContent, findExtent, replaceExtent } from "./extents.ts";
import {
  afterPrefix,
  CLUSTER_KEY,
  leaseKey,
  makeKey,
  MEMBERSHIP_CHANGE_KEY,
  memberKey,
  numberInKey,
  storeKey,
  TABLE,
  targetsKey,
  uploadExpiryKey,
  uploadKey,
  uploadOfContentKey,
} from "./keys.ts";
import { checkSupported } from "./feature-level.ts";
import { findStore } from "./known-stores.ts";
import { findMember, UNPLACED_OWNER_ID } from "./members.ts";
import {
  clusterCodec,
  entryRecordCodec,
  leaseCodec,
  memberCodec,
  storeCodec,
  type ExtentRecord,
  type ReplicaRecord,
} from "./records.ts";
import { locate, placeFile } from "./tree.ts";
import { findUpload } from "./uploads.ts";
import { contentState, nextContentId, pathOf } from "./view.ts";

/** Ids and indexes jump by this much: more than a lost tree can have given out behind its last snapshot. */
export const REBUILD_JUMP = 2 ** 32;

/** A chunk store that was found. */
export interface FoundStore {
  readonly memberId: number;
  readonly storeIncarnation: string;
}

/** What a found store says of an extent. */
export interface FoundCopy {
  readonly memberId: number;
  /** "sealed" with these bytes; "damaged": some of them cannot be read. */
  readonly state: "sealed" | "damaged";
  readonly sizeBytes: number;
  /** Empty when damaged. */
  readonly root: Uint8Array;
}

/** Works on the state as a command at `index` would. */
export function rebuildStep<T>(
  transaction: OrderedTransaction,
  at: { readonly index: number; readonly wallTimeMs: number },
  work: (context: ApplyContext) => T,
): T {
  const context = new ApplyContext(transaction, { ...at, limits: DEFAULT_LIMITS });
  const result = work(context);
  context.finish();
  return result;
}

/**
 * Makes it the tree of a new cluster.
 * @param elapsedMs how long the lost tree lived on behind the snapshot, as far as is known
 * @throws DriveError VERSION_UNSUPPORTED for a tree of a feature level that this version does not support
 */
export function beginRebuild(
  context: ApplyContext,
  rebuilt: {
    readonly clusterId: string;
    readonly stores: readonly FoundStore[];
    readonly elapsedMs: number;
    /** Above every content id that was found. */
    readonly contentIdMin: number;
  },
): void {
  const { state } = context;
  checkSupported(context, FEATURE_LEVELS);
  const cluster = must(readRecord(context, CLUSTER_KEY, clusterCodec), "a snapshot is of a cluster");
  context.put(CLUSTER_KEY, clusterCodec.encode({ ...cluster, clusterId: rebuilt.clusterId }));
  context.delete(MEMBERSHIP_CHANGE_KEY);
  state.nextEntryId += REBUILD_JUMP;
  state.nextContentId = Math.max(state.nextContentId, rebuilt.contentIdMin) + REBUILD_JUMP;
  // A request from before must be too late, not unknown.
  state.clusterTimeMs += rebuilt.elapsedMs + 2 * REQUEST_RETENTION_MS;
  for (const { key } of scanPrefix(context, makeKey(TABLE.lease, []), Number.POSITIVE_INFINITY))
    context.delete(key);
  const unplaced = {
    storeIncarnation: "",
    expireTimeMs: state.clusterTimeMs + UNPLACED_RETENTION_MS,
    blocks: [{ firstContentId: 0, idCount: state.nextContentId }],
  };
  context.put(leaseKey(UNPLACED_OWNER_ID), leaseCodec.encode(unplaced));
  const found = new Map(rebuilt.stores.map((store) => [store.memberId, store.storeIncarnation]));
  for (const { key, value } of scanPrefix(context, makeKey(TABLE.member, []), Number.POSITIVE_INFINITY)) {
    const memberId = numberInKey(key, 0);
    const member = memberCodec.decode(value);
    const storeIncarnation = found.get(memberId);
    const lostTimeMs = storeIncarnation === undefined ? state.clusterTimeMs : 0;
    context.put(storeKey(memberId), storeCodec.encode({ ...findStore(context, memberId), lostTimeMs }));
    if (storeIncarnation === undefined || storeIncarnation === member.storeIncarnation) continue;
    const storeGeneration = member.storeGeneration + 1;
    context.put(memberKey(memberId), memberCodec.encode({ ...member, storeIncarnation, storeGeneration }));
  }
}

/**
 * Puts the copies that were found in the place of those that the snapshot knew.
 * @returns how many copies are whole, and whether a store that was found lacks one that the snapshot had there
 */
export function setCopies(
  context: ApplyContext,
  key: ExtentKey,
  stores: readonly FoundStore[],
  copies: readonly FoundCopy[],
): { readonly wholeCount: number; readonly isMissed: boolean } {
  const before = must(findExtent(context, key.contentId, key.extentIndex), "an extent of the snapshot");
  const given = new Set(stores.map(({ memberId }) => memberId));
  const isWhole = (copy: FoundCopy): boolean =>
    copy.state === "sealed" && copy.sizeBytes === before.sizeBytes && bytesEqual(copy.root, before.root);
  const known = new Map(before.replicas.map((replica) => [replica.memberId, replica]));
  const replicas = copies.map((copy): ReplicaRecord => {
    const verifyTimeMs = known.get(copy.memberId)?.verifyTimeMs ?? 0;
    return replicaOf(context, copy.memberId, isWhole(copy) ? "verified" : "corrupt", verifyTimeMs);
  });
  const here = new Set(copies.map(({ memberId }) => memberId));
  let isMissed = false;
  for (const replica of before.replicas) {
    if (here.has(replica.memberId) || replica.state === "pending") continue;
    if (given.has(replica.memberId) && replica.state === "verified") isMissed = true;
    replicas.push({ ...replica, state: "lost" });
  }
  if (!sameReplicas(before.replicas, replicas)) replaceExtent(context, key, before, { ...before, replicas });
  return { wholeCount: copies.filter(isWhole).length, isMissed };
}

function replicaOf(
  context: ApplyContext,
  memberId: number,
  state: ReplicaRecord["state"],
  verifyTimeMs: number,
): ReplicaRecord {
  const storeGeneration = findMember(context, memberId)?.storeGeneration ?? 0;
  return { memberId, state, replacesMemberId: 0, storeGeneration, verifyTimeMs };
}

function sameReplicas(a: readonly ReplicaRecord[], b: readonly ReplicaRecord[]): boolean {
  return JSON.stringify(a) === JSON.stringify(b);
}

/** A content that the snapshot does not know, and where its whole extents are. */
export interface FoundContent {
  readonly contentId: number;
  readonly extents: readonly {
    readonly sizeBytes: number;
    readonly root: Uint8Array;
    readonly memberIds: readonly number[];
  }[];
}

/**
 * Makes a file of a content that came after the snapshot, under a name that is free there.
 * @returns the names from the root
 * @throws DriveError what the tree says of the path
 */
export function adoptFile(
  context: ApplyContext,
  content: FoundContent,
  path: readonly string[],
  attributes: EntryAttributes,
): readonly string[] {
  const { contentId } = content;
  forgetUpload(context, contentId);
  const verifyTimeMs = context.state.clusterTimeMs;
  const extents = content.extents.map(({ sizeBytes, root, memberIds }): ExtentRecord => {
    const replicas = memberIds.map((memberId) => replicaOf(context, memberId, "verified", verifyTimeMs));
    return { sizeBytes, root, replicas };
  });
  const sizeBytes = extents.reduce((sum, extent) => sum + extent.sizeBytes, 0);
  const treeHash = foldTreeHash(extents.map(({ root }) => root));
  const spot = locate(context, { baseId: ROOT_ENTRY_ID, path }, true);
  createContent(context, { contentId, sizeBytes, treeHash, sha256: new Uint8Array(0), extents });
  return placeFile(context, spot, "rename", attributes, { contentId, sizeBytes, treeHash }, undefined).path;
}

/** The upload that wrote a content is complete with it. */
function forgetUpload(context: ApplyContext, contentId: number): void {
  const pointer = context.get(uploadOfContentKey(contentId));
  if (pointer === undefined) return;
  const uploadId = numberInKey(pointer, 0);
  context.delete(uploadOfContentKey(contentId));
  const upload = findUpload(context, uploadId);
  for (const { key } of scanPrefix(context, makeKey(TABLE.targets, [uploadId]), Number.POSITIVE_INFINITY)) {
    context.delete(targetsKey(uploadId, numberInKey(key, 1)));
  }
  if (upload === undefined || upload.contentId !== contentId) return;
  context.delete(uploadKey(uploadId));
  context.delete(uploadExpiryKey(upload.expireTimeMs, uploadId));
  if (upload.state === "open") context.state.openUploadCount -= 1;
}

/** What the snapshot says of a content that is found beside it. */
export type UnknownContent = "known" | "dropped" | "orphan" | "later";

/** Whether a content that was found is one of the snapshot, was about to be removed, had lost its claim, or may have come later. */
export function placeInTime(
  reader: OrderedReader,
  contentId: number,
  memberIds: readonly number[],
): UnknownContent {
  if (findContent(reader, contentId) !== undefined) return "known";
  if (memberIds.some((memberId) => hasPrefix(reader, makeKey(TABLE.dropList, [memberId, contentId]))))
    return "dropped";
  if (contentId >= nextContentId(reader)) return "later";
  return contentState(reader, contentId) === "unknown" ? "orphan" : "later";
}

/** Paths of the files that have one of these contents, at most `countMax`. Reads all rows. */
export function pathsOfContents(
  reader: OrderedReader,
  contentIds: ReadonlySet<number>,
  countMax: number,
): readonly string[] {
  const paths: string[] = [];
  if (contentIds.size === 0) return paths;
  const range = { from: makeKey(TABLE.row, []), to: afterPrefix(makeKey(TABLE.row, [])) };
  for (const { value } of reader.range(range)) {
    const row = entryRecordCodec.decode(value);
    if (row.kind !== "file" || !contentIds.has(row.contentId)) continue;
    const path = pathOf(reader, row.entryId);
    if (path !== undefined) paths.push(formatPath(path));
    if (paths.length >= countMax) break;
  }
  return paths;
}
