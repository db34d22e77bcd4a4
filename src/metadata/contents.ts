/**
 * Contents, their extents and replicas: reference counts, copies, the index of equal bytes and the lists of what to drop.
 *
 * A content lives while a row refers to it. At the last release it leaves the index of equal bytes at once and is queued;
 * after a grace its extents go, a bounded number per command, onto the drop list of every member that may hold a copy, and
 * stay there until that member confirms. The counters and the index of under-replicated extents follow every change of an
 * extent. Chooses no members: routing/ does.
 */
import type { ExtentKey, Seal } from "../drive/content.ts";
import { DROP_GRACE_MS, REPLICA_COUNT, SEAL_COUNT_MIN } from "../drive/limits.ts";
import { assert, must } from "../std/assert.ts";
import { bytesEqual } from "../std/bytes.ts";
import { DIGEST_SIZE_BYTES } from "../std/digest.ts";
import type { OrderedReader } from "../std/ordered-store.ts";
import type { CommandBody } from "./commands.ts";
import { readRecord, refuse, scanPrefix, type ApplyContext } from "./context.ts";
import {
  afterPrefix,
  contentKey,
  dropListKey,
  dropQueueKey,
  equalBytesKey,
  extentKey,
  makeKey,
  NOTHING,
  numberInKey,
  TABLE,
  underReplicatedKey,
  uploadOfContentKey,
} from "./keys.ts";
import { findMember } from "./members.ts";
import {
  contentCodec,
  dropCodec,
  extentCodec,
  targetsCodec,
  type ContentRecord,
  type ExtentRecord,
  type ReplicaRecord,
} from "./records.ts";

type Body<Kind extends CommandBody["kind"]> = Extract<CommandBody, { readonly kind: Kind }>;

/** A content by id. */
export function findContent(reader: OrderedReader, contentId: number): ContentRecord | undefined {
  return readRecord(reader, contentKey(contentId), contentCodec);
}

/** One extent of a content. */
export function findExtent(
  reader: OrderedReader,
  contentId: number,
  extentIndex: number,
  content: ContentRecord | undefined = findContent(reader, contentId),
): ExtentRecord | undefined {
  if (content === undefined) return undefined;
  if (content.extent !== undefined) return extentIndex === 0 ? content.extent : undefined;
  return readRecord(reader, extentKey(contentId, extentIndex), extentCodec);
}

/** How many copies of an extent are verified. */
export function verifiedCount(extent: ExtentRecord): number {
  let count = 0;
  for (const replica of extent.replicas) if (replica.state === "verified") count += 1;
  return count;
}

const isSuspect = (extent: ExtentRecord): boolean =>
  extent.replicas.some((replica) => replica.state === "suspect");

// Adds an extent to the counters and the index of under-replicated ones, or takes it out again.
function countExtent(context: ApplyContext, key: ExtentKey, extent: ExtentRecord, sign: 1 | -1): void {
  const { state } = context;
  const copyCount = verifiedCount(extent);
  state.extentCount += sign;
  if (isSuspect(extent)) state.suspectExtentCount += sign;
  if (copyCount >= REPLICA_COUNT) {
    state.fullExtentCount += sign;
    return;
  }
  state.underExtentCount += sign;
  const indexKey = underReplicatedKey(copyCount, key.contentId, key.extentIndex);
  if (sign === 1) context.put(indexKey, NOTHING);
  else context.delete(indexKey);
}

/** A content to be created. */
export interface NewContent {
  readonly contentId: number;
  readonly sizeBytes: number;
  readonly treeHash: Uint8Array;
  readonly sha256: Uint8Array;
  readonly extents: readonly ExtentRecord[];
}

/** Creates a content with one reference. */
export function createContent(context: ApplyContext, content: NewContent): void {
  const { contentId, sizeBytes, treeHash, sha256, extents } = content;
  let weakExtentCount = 0;
  for (const [extentIndex, extent] of extents.entries()) {
    countExtent(context, { contentId, extentIndex }, extent, 1);
    if (verifiedCount(extent) < SEAL_COUNT_MIN) weakExtentCount += 1;
    if (extents.length > 1) context.put(extentKey(contentId, extentIndex), extentCodec.encode(extent));
  }
  const record: ContentRecord = {
    sizeBytes,
    treeHash,
    sha256,
    referenceCount: 1,
    extentCount: extents.length,
    weakExtentCount,
    extent: extents.length === 1 ? extents[0] : undefined,
  };
  context.put(contentKey(contentId), contentCodec.encode(record));
  context.state.contentBytes += sizeBytes;
  const indexKey = equalBytesKey(treeHash, sizeBytes);
  if (context.get(indexKey) === undefined) context.put(indexKey, makeKey(0, [contentId]));
}

/** Adds a reference. */
export function retainContent(context: ApplyContext, contentId: number): void {
  const content = must(findContent(context, contentId), `content ${contentId} that a row refers to`);
  assert(content.referenceCount > 0, `content ${contentId} was released`);
  context.put(
    contentKey(contentId),
    contentCodec.encode({ ...content, referenceCount: content.referenceCount + 1 }),
  );
}

/** Takes a reference away; the last one queues the content to be dropped. */
export function releaseContent(context: ApplyContext, contentId: number): void {
  const content = must(findContent(context, contentId), `content ${contentId} that a row refers to`);
  assert(content.referenceCount > 0, `content ${contentId} was released`);
  const referenceCount = content.referenceCount - 1;
  context.put(contentKey(contentId), contentCodec.encode({ ...content, referenceCount }));
  if (referenceCount > 0) return;
  context.state.contentBytes -= content.sizeBytes;
  const indexKey = equalBytesKey(content.treeHash, content.sizeBytes);
  const indexed = context.get(indexKey);
  if (indexed !== undefined && numberInKey(indexed, 0) === contentId) context.delete(indexKey);
  queueDrop(context, contentId, 0);
}

/** Queues a content, or with `uploadId` what was assigned to an upload's targets, to be dropped after the grace. */
export function queueDrop(context: ApplyContext, contentId: number, uploadId: number): void {
  const timeMs = context.state.clusterTimeMs + DROP_GRACE_MS;
  context.put(dropQueueKey(timeMs, contentId), dropCodec.encode({ uploadId }));
}

/** A content with these very bytes, well kept, that a new file may share. */
export function findEqualContent(
  reader: OrderedReader,
  treeHash: Uint8Array,
  sizeBytes: number,
): { readonly contentId: number; readonly content: ContentRecord } | undefined {
  const indexed = reader.get(equalBytesKey(treeHash, sizeBytes));
  if (indexed === undefined) return undefined;
  const contentId = numberInKey(indexed, 0);
  const content = must(findContent(reader, contentId), "a content in the index of equal bytes");
  return content.weakExtentCount > 0 ? undefined : { contentId, content };
}

/** Moves what is due in the drop queue to the drop lists, at most `countMax` extents. Returns how many it took. */
export function dropDue(context: ApplyContext, countMax: number): number {
  const to = makeKey(TABLE.dropQueue, [context.state.clusterTimeMs + 1]);
  const due = [...context.range({ from: makeKey(TABLE.dropQueue, []), to, countMax })];
  let itemCount = 0;
  for (const { key, value } of due) {
    if (itemCount >= countMax) break;
    const contentId = numberInKey(key, 1);
    const { uploadId } = dropCodec.decode(value);
    const left = countMax - itemCount;
    const taken =
      uploadId === 0
        ? dropExtents(context, contentId, left)
        : dropTargets(context, contentId, uploadId, left);
    itemCount += Math.max(1, taken.itemCount);
    if (taken.done) context.delete(key);
  }
  return itemCount;
}

function dropExtents(
  context: ApplyContext,
  contentId: number,
  countMax: number,
): { readonly itemCount: number; readonly done: boolean } {
  const content = must(findContent(context, contentId), "a content in the drop queue");
  const extents: { readonly extentIndex: number; readonly extent: ExtentRecord }[] =
    content.extent !== undefined
      ? [{ extentIndex: 0, extent: content.extent }]
      : scanPrefix(context, makeKey(TABLE.extent, [contentId]), countMax).map(({ key, value }) => ({
          extentIndex: numberInKey(key, 1),
          extent: extentCodec.decode(value),
        }));
  for (const { extentIndex, extent } of extents) {
    for (const replica of extent.replicas)
      context.put(dropListKey(replica.memberId, contentId, extentIndex), NOTHING);
    countExtent(context, { contentId, extentIndex }, extent, -1);
    if (content.extent === undefined) context.delete(extentKey(contentId, extentIndex));
  }
  const done = content.extent !== undefined || extents.length < countMax;
  if (done) context.delete(contentKey(contentId));
  return { itemCount: extents.length, done };
}

function dropTargets(
  context: ApplyContext,
  contentId: number,
  uploadId: number,
  countMax: number,
): { readonly itemCount: number; readonly done: boolean } {
  const assigned = scanPrefix(context, makeKey(TABLE.targets, [uploadId]), countMax);
  for (const { key, value } of assigned) {
    const { memberIds, formerMemberIds } = targetsCodec.decode(value);
    for (const memberId of [...memberIds, ...formerMemberIds]) {
      context.put(dropListKey(memberId, contentId, numberInKey(key, 1)), NOTHING);
    }
    context.delete(key);
  }
  const done = assigned.length < countMax;
  if (done) context.delete(uploadOfContentKey(contentId));
  return { itemCount: assigned.length, done };
}

/** Puts single extents on the drop list of members, at once. */
export function dropFrom(context: ApplyContext, key: ExtentKey, memberIds: Iterable<number>): void {
  for (const memberId of memberIds)
    context.put(dropListKey(memberId, key.contentId, key.extentIndex), NOTHING);
}

function replaceExtent(
  context: ApplyContext,
  key: ExtentKey,
  before: ExtentRecord,
  after: ExtentRecord,
): void {
  const { contentId, extentIndex } = key;
  countExtent(context, key, before, -1);
  countExtent(context, key, after, 1);
  const content = must(findContent(context, contentId), "the content of an extent");
  const weak = (extent: ExtentRecord): number => (verifiedCount(extent) < SEAL_COUNT_MIN ? 1 : 0);
  const weakExtentCount = content.weakExtentCount + weak(after) - weak(before);
  const inline = content.extent !== undefined;
  if (!inline) context.put(extentKey(contentId, extentIndex), extentCodec.encode(after));
  if (!inline && weakExtentCount === content.weakExtentCount) return;
  const record = { ...content, weakExtentCount, extent: inline ? after : undefined };
  context.put(contentKey(contentId), contentCodec.encode(record));
}

function getExtent(context: ApplyContext, key: ExtentKey): ExtentRecord {
  const extent = findExtent(context, key.contentId, key.extentIndex);
  if (extent !== undefined) return extent;
  return refuse("CHUNK_NOT_FOUND", `There is no extent ${key.extentIndex} of content ${key.contentId}.`, {
    content_id: String(key.contentId),
    extent_index: String(key.extentIndex),
  });
}

/** Refuses a seal of a member that is not registered, or of a chunk store that the member no longer has. */
export function checkSealer(context: ApplyContext, seal: Seal): void {
  const member = findMember(context, seal.memberId);
  if (member?.storeIncarnation === seal.storeIncarnation) return;
  const known = member === undefined ? "is not registered" : "has a new chunk store";
  refuse("SEAL_REJECTED", `Member ${seal.memberId} ${known}.`, { member_id: String(seal.memberId) });
}

/** add-replica. */
export function addReplica(context: ApplyContext, { seal }: Body<"add-replica">): void {
  const before = getExtent(context, seal.extent);
  checkSealer(context, seal);
  if (seal.sizeBytes !== before.sizeBytes || !bytesEqual(seal.root, before.root)) {
    refuse("SEAL_REJECTED", "The sealed copy has other bytes than the extent.", {
      member_id: String(seal.memberId),
    });
  }
  const old = before.replicas.find((replica) => replica.memberId === seal.memberId);
  if (old?.state === "verified") return;
  const verified: ReplicaRecord = { memberId: seal.memberId, state: "verified", replacesMemberId: 0 };
  const others = before.replicas.filter((replica) => replica.memberId !== seal.memberId);
  let replicas = [...others, verified];
  const replaced = old === undefined || old.replacesMemberId === 0 ? undefined : old.replacesMemberId;
  const kept = replicas.filter((replica) => replica.memberId !== replaced);
  // A copy goes only when enough verified ones stay.
  if (replaced !== undefined && verifiedCount({ ...before, replicas: kept }) >= REPLICA_COUNT) {
    if (kept.length < replicas.length) dropFrom(context, seal.extent, [replaced]);
    replicas = kept;
  }
  // A member that gets its copy back must not be told to drop it.
  context.delete(dropListKey(seal.memberId, seal.extent.contentId, seal.extent.extentIndex));
  replaceExtent(context, seal.extent, before, { ...before, replicas });
}

/** assign-replica. */
export function assignReplica(context: ApplyContext, body: Body<"assign-replica">): void {
  const { contentId, extentIndex, memberId, replacesMemberId } = body;
  const before = getExtent(context, body);
  if (findMember(context, memberId) === undefined) {
    refuse("ARGUMENT_INVALID", `Member ${memberId} is not registered.`, { member_id: String(memberId) });
  }
  const old = before.replicas.find((replica) => replica.memberId === memberId);
  if (old?.state === "verified") return;
  const pending: ReplicaRecord = { memberId, state: "pending", replacesMemberId };
  let replicas = [...before.replicas.filter((replica) => replica.memberId !== memberId), pending];
  const replaced = replicas.find((replica) => replica.memberId === replacesMemberId && replica !== pending);
  // A copy that is not verified goes at once, unless it may be the last one there is.
  if (replaced !== undefined && replaced.state !== "verified" && verifiedCount(before) > 0) {
    replicas = replicas.filter((replica) => replica !== replaced);
    dropFrom(context, { contentId, extentIndex }, [replacesMemberId]);
  }
  context.delete(dropListKey(memberId, contentId, extentIndex));
  replaceExtent(context, { contentId, extentIndex }, before, { ...before, replicas });
}

/** report-replica. */
export function reportReplica(context: ApplyContext, body: Body<"report-replica">): void {
  const before = getExtent(context, body);
  const old = before.replicas.find((replica) => replica.memberId === body.memberId);
  if (old === undefined || old.state === "suspect") return;
  const replicas = before.replicas.map((replica): ReplicaRecord =>
    replica === old ? { ...replica, state: "suspect" } : replica,
  );
  replaceExtent(context, body, before, { ...before, replicas });
}

/** record-sha256. */
export function recordSha256(context: ApplyContext, { contentId, sha256 }: Body<"record-sha256">): void {
  const content = findContent(context, contentId);
  if (content === undefined) {
    refuse("CHUNK_NOT_FOUND", `There is no content ${contentId}.`, { content_id: String(contentId) });
  }
  if (sha256.length !== DIGEST_SIZE_BYTES) refuse("ARGUMENT_INVALID", "A SHA-256 has 32 bytes.");
  if (content.sha256.length > 0 && !bytesEqual(content.sha256, sha256)) {
    refuse("DIGEST_MISMATCH", `Content ${contentId} has another SHA-256.`, { content_id: String(contentId) });
  }
  context.put(contentKey(contentId), contentCodec.encode({ ...content, sha256 }));
}

/** confirm-dropped. */
export function confirmDropped(context: ApplyContext, body: Body<"confirm-dropped">): void {
  for (const { contentId, extentIndex } of body.extents) {
    context.delete(dropListKey(body.memberId, contentId, extentIndex));
  }
}

/** Where the scan of a table of extents goes on after `after`. */
export function extentScanStart(
  table: number,
  numbers: readonly number[],
  after: ExtentKey | undefined,
): Uint8Array {
  if (after === undefined) return makeKey(table, numbers);
  return afterPrefix(makeKey(table, [...numbers, after.contentId, after.extentIndex]));
}
