/**
 * Contents: reference counts, the index of equal bytes and the lists of what to drop.
 *
 * A content lives while a row refers to it. At the last release it leaves the index of equal bytes at once and is queued;
 * after a grace its extents go, a bounded number per command, onto the drop list of every member that may hold a copy, and
 * stay there until that member confirms. Extents and their counters are in extents.ts, copies in
 * replicas.ts.
 */
import type { ExtentKey } from "../drive/content.ts";
import { DROP_GRACE_MS, SEAL_COUNT_MIN } from "../drive/limits.ts";
import { assert, must } from "../std/assert.ts";
import { bytesEqual } from "../std/bytes.ts";
import { DIGEST_SIZE_BYTES } from "../std/digest.ts";
import type { OrderedReader } from "../std/ordered-store.ts";
import type { CommandBody } from "./commands.ts";
import { refuse, scanPrefix, type ApplyContext } from "./context.ts";
import { countExtent, findContent, replaceExtent, verifiedCount } from "./extents.ts";
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
  uploadOfContentKey,
} from "./keys.ts";
import { isRemoved } from "./members.ts";
import {
  contentCodec,
  dropCodec,
  extentCodec,
  targetsCodec,
  type ContentRecord,
  type ExtentRecord,
} from "./records.ts";

type Body<Kind extends CommandBody["kind"]> = Extract<CommandBody, { readonly kind: Kind }>;

/** A content to be created. */
export interface NewContent {
  readonly contentId: number;
  readonly sizeBytes: number;
  readonly treeHash: Uint8Array;
  readonly sha256: Uint8Array;
  readonly extents: readonly ExtentRecord[];
  /** False when no file may come to share it; absent means true. */
  readonly isShareable?: boolean;
}

/** Creates a content with one reference. */
export function createContent(context: ApplyContext, content: NewContent): void {
  const { contentId, sizeBytes, treeHash, sha256, extents, isShareable = true } = content;
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
  if (!isShareable) return;
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
    dropFrom(
      context,
      { contentId, extentIndex },
      extent.replicas.map((replica) => replica.memberId),
    );
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
    const extentIndex = numberInKey(key, 1);
    dropFrom(context, { contentId, extentIndex }, [...memberIds, ...formerMemberIds]);
    context.delete(key);
  }
  const done = assigned.length < countMax;
  if (done) context.delete(uploadOfContentKey(contentId));
  return { itemCount: assigned.length, done };
}

/** Puts single extents on the drop list of members, at once; one that was removed would never confirm. */
export function dropFrom(context: ApplyContext, key: ExtentKey, memberIds: Iterable<number>): void {
  for (const memberId of memberIds) {
    if (context.state.removedMemberCount > 0 && isRemoved(context, memberId)) continue;
    context.put(dropListKey(memberId, key.contentId, key.extentIndex), NOTHING);
  }
}

/** Forgets the copy of an extent at a removed member; true when there was one. */
export function forgetReplica(
  context: ApplyContext,
  key: ExtentKey,
  before: ExtentRecord,
  memberId: number,
): boolean {
  const replicas = before.replicas.filter((replica) => replica.memberId !== memberId);
  if (replicas.length === before.replicas.length) return false;
  replaceExtent(context, key, before, { ...before, replicas });
  return true;
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
