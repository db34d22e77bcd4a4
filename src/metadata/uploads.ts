/**
 * Uploads: from the first word about a file to the command that makes it one; and small files, which are that command alone.
 *
 * An upload keeps the id of its directory, not a path, so it follows the directory when that moves. It expires by cluster time.
 * A finished one is remembered for REQUEST_RETENTION_MS and answers the same again. Nothing is acknowledged with fewer than
 * SEAL_COUNT_MIN equal seals for each extent, of registered members with the chunk store they have now.
 */
import { extentCount, extentSizeBytes, type Seal } from "../drive/content.ts";
import {
  CHUNK_SIZE_BYTES,
  CONTENT_SIZE_BYTES_MAX,
  EXTENT_SIZE_BYTES_MAX,
  REPLICA_COUNT,
  REQUEST_RETENTION_MS,
  SEAL_COUNT_MIN,
  UPLOAD_LEASE_MS,
} from "../drive/limits.ts";
import { assert, must } from "../std/assert.ts";
import { bytesEqual, toHex } from "../std/bytes.ts";
import { DIGEST_SIZE_BYTES, foldTreeHash, sha256 } from "../std/digest.ts";
import type { OrderedReader } from "../std/ordered-store.ts";
import type { CommandBody, ExtentTargets, ResultValue } from "./commands.ts";
import { createContent, dropFrom, findEqualContent, queueDrop, retainContent } from "./contents.ts";
import { findContent } from "./extents.ts";
import { readRecord, refuse, scanPrefix, type ApplyContext } from "./context.ts";
import {
  dropListKey,
  makeKey,
  numberInKey,
  TABLE,
  targetsKey,
  uploadExpiryKey,
  uploadKey,
  uploadOfContentKey,
} from "./keys.ts";
import { findLease, findMember, isLeased } from "./members.ts";
import { targetsCodec, uploadCodec, type ExtentRecord, type UploadRecord } from "./records.ts";
import { CountedCopies, pendingReplica, sealedReplica } from "./replicas.ts";
import {
  checkAttributes,
  checkPrecondition,
  childSpot,
  getSpotAnywhere,
  locate,
  placeFile,
  settleConflict,
  type FileContent,
} from "./tree.ts";

type Body<Kind extends CommandBody["kind"]> = Extract<CommandBody, { readonly kind: Kind }>;

/** SHA-256 of no bytes: the tree hash of an empty content. */
const EMPTY_DIGEST = sha256(new Uint8Array(0));

// A cluster of one has no second node to ask; everybody else needs SEAL_COUNT_MIN.
const sealCountMin = (context: ApplyContext): number =>
  Math.max(1, Math.min(SEAL_COUNT_MIN, context.state.memberCount));

const EXTENT_COUNT_MAX = CONTENT_SIZE_BYTES_MAX / EXTENT_SIZE_BYTES_MAX;

/** An upload, open or remembered. */
export function findUpload(reader: OrderedReader, uploadId: number): UploadRecord | undefined {
  return readRecord(reader, uploadKey(uploadId), uploadCodec);
}

function putUpload(
  context: ApplyContext,
  uploadId: number,
  upload: UploadRecord,
  before?: UploadRecord,
): void {
  if (before !== undefined) context.delete(uploadExpiryKey(before.expireTimeMs, uploadId));
  context.put(uploadKey(uploadId), uploadCodec.encode(upload));
  context.put(uploadExpiryKey(upload.expireTimeMs, uploadId), new Uint8Array([1]));
}

// An upload that still takes bytes.
function getOpen(context: ApplyContext, uploadId: number): UploadRecord {
  const metadata = { upload_id: String(uploadId) };
  const upload = findUpload(context, uploadId);
  if (upload === undefined) return refuse("UPLOAD_NOT_FOUND", `There is no upload ${uploadId}.`, metadata);
  if (upload.state === "complete") refuse("UPLOAD_FINISHED", `Upload ${uploadId} is complete.`, metadata);
  if (upload.state === "expired" || upload.expireTimeMs <= context.state.clusterTimeMs) {
    refuse("UPLOAD_EXPIRED", `Upload ${uploadId} has expired.`, metadata);
  }
  return upload;
}

function checkSize(sizeBytes: number): void {
  if (sizeBytes <= CONTENT_SIZE_BYTES_MAX) return;
  refuse("PAYLOAD_TOO_LARGE", `A file has at most ${CONTENT_SIZE_BYTES_MAX} bytes.`, {
    size_bytes: String(sizeBytes),
    size_bytes_max: String(CONTENT_SIZE_BYTES_MAX),
  });
}

function checkTargets(context: ApplyContext, targets: ExtentTargets): void {
  const { extentIndex, memberIds } = targets;
  const metadata = { extent_index: String(extentIndex) };
  if (extentIndex >= EXTENT_COUNT_MAX) {
    refuse("ARGUMENT_INVALID", `A content has at most ${EXTENT_COUNT_MAX} extents.`, metadata);
  }
  const distinct = new Set(memberIds);
  if (
    distinct.size !== memberIds.length ||
    distinct.size < sealCountMin(context) ||
    distinct.size > REPLICA_COUNT
  ) {
    refuse(
      "ARGUMENT_INVALID",
      `An extent has ${sealCountMin(context)} to ${REPLICA_COUNT} different targets.`,
      metadata,
    );
  }
  for (const memberId of memberIds) {
    if (findMember(context, memberId) !== undefined) continue;
    refuse("ARGUMENT_INVALID", `Member ${memberId} is not registered.`, { member_id: String(memberId) });
  }
}

function checkAllTargets(
  context: ApplyContext,
  sizeBytes: number | undefined,
  extents: readonly ExtentTargets[],
): void {
  const wanted = sizeBytes === undefined ? 1 : extentCount(sizeBytes);
  if (extents.length !== wanted || extents.some((each, i) => each.extentIndex !== i)) {
    refuse("ARGUMENT_INVALID", `Targets for extents 0 to ${wanted - 1} are needed, in order.`, {
      extent_count: String(wanted),
    });
  }
  for (const targets of extents) checkTargets(context, targets);
}

/** init-upload. */
export function initUpload(context: ApplyContext, body: Body<"init-upload">): ResultValue {
  const { sizeBytes, treeHash, onConflict, attributes, precondition } = body;
  if (sizeBytes !== undefined) checkSize(sizeBytes);
  if (treeHash.length !== 0 && treeHash.length !== DIGEST_SIZE_BYTES) {
    refuse("ARGUMENT_INVALID", "A tree hash has 32 bytes.");
  }
  checkAttributes(attributes);
  const spot = locate(context, body.at, body.createParents);
  checkPrecondition(precondition, spot.row);
  // Also refuses what complete would refuse as things stand; "rename" finds its name only then.
  settleConflict(context, spot, "file", onConflict);
  const uploadId = context.newEntryId();
  const { parentId, name } = spot;
  const upload = { parentId, name, sizeBytes, treeHash, onConflict, attributes, precondition };
  if (sizeBytes !== undefined && treeHash.length > 0) {
    const equal = findEqualContent(context, treeHash, sizeBytes);
    if (equal !== undefined) {
      retainContent(context, equal.contentId);
      const content: FileContent = { contentId: equal.contentId, sizeBytes, treeHash };
      const value = placeFile(context, spot, onConflict, attributes, content, uploadId);
      const expireTimeMs = context.state.clusterTimeMs + REQUEST_RETENTION_MS;
      const { entry, path } = value;
      const done: UploadRecord = {
        ...upload,
        state: "complete",
        contentId: equal.contentId,
        expireTimeMs,
        entry,
        path,
      };
      putUpload(context, uploadId, done);
      return { kind: "upload", uploadId, contentId: equal.contentId, expireTimeMs, entry };
    }
  }
  if (context.state.openUploadCount >= context.limits.uploadCountMax) {
    refuse(
      "OVERLOADED",
      `There are ${context.limits.uploadCountMax} open uploads, as many as there may be.`,
      {
        upload_count_max: String(context.limits.uploadCountMax),
      },
    );
  }
  checkAllTargets(context, sizeBytes, body.extents);
  const contentId = context.state.nextContentId;
  context.state.nextContentId += 1;
  context.state.openUploadCount += 1;
  const expireTimeMs = context.state.clusterTimeMs + UPLOAD_LEASE_MS;
  putUpload(context, uploadId, {
    ...upload,
    state: "open",
    contentId,
    expireTimeMs,
    entry: undefined,
    path: [],
  });
  context.put(uploadOfContentKey(contentId), makeKey(0, [uploadId]));
  for (const { extentIndex, memberIds } of body.extents) {
    context.put(targetsKey(uploadId, extentIndex), targetsCodec.encode({ memberIds, formerMemberIds: [] }));
  }
  return { kind: "upload", uploadId, contentId, expireTimeMs, entry: undefined };
}

/** renew-upload. */
export function renewUpload(context: ApplyContext, { uploadId }: Body<"renew-upload">): ResultValue {
  const before = getOpen(context, uploadId);
  const expireTimeMs = context.state.clusterTimeMs + UPLOAD_LEASE_MS;
  putUpload(context, uploadId, { ...before, expireTimeMs }, before);
  return { kind: "upload", uploadId, contentId: before.contentId, expireTimeMs, entry: undefined };
}

/** assign-extent. */
export function assignExtent(
  context: ApplyContext,
  { uploadId, targets }: Body<"assign-extent">,
): ResultValue {
  const upload = getOpen(context, uploadId);
  checkTargets(context, targets);
  const { extentIndex, memberIds } = targets;
  if (upload.sizeBytes !== undefined && extentIndex >= extentCount(upload.sizeBytes)) {
    refuse("ARGUMENT_INVALID", `The upload has ${extentCount(upload.sizeBytes)} extents.`, {
      extent_index: String(extentIndex),
    });
  }
  const key = targetsKey(uploadId, extentIndex);
  const old = readRecord(context, key, targetsCodec);
  const ever = new Set([...(old?.formerMemberIds ?? []), ...(old?.memberIds ?? [])]);
  const formerMemberIds = [...ever].filter((memberId) => !memberIds.includes(memberId));
  context.put(key, targetsCodec.encode({ memberIds, formerMemberIds }));
  return { kind: "none" };
}

/** abort-upload. */
export function abortUpload(context: ApplyContext, { uploadId }: Body<"abort-upload">): ResultValue {
  const upload = getOpen(context, uploadId);
  context.delete(uploadExpiryKey(upload.expireTimeMs, uploadId));
  context.delete(uploadKey(uploadId));
  endOpen(context, uploadId, upload);
  return { kind: "none" };
}

function endOpen(context: ApplyContext, uploadId: number, upload: UploadRecord): void {
  context.state.openUploadCount -= 1;
  queueDrop(context, upload.contentId, uploadId);
}

/** Ends uploads whose time has come and forgets remembered ones, at most `countMax`. Returns how many. */
export function expireUploads(context: ApplyContext, countMax: number): number {
  const to = makeKey(TABLE.uploadExpiry, [context.state.clusterTimeMs + 1]);
  const due = [...context.range({ from: makeKey(TABLE.uploadExpiry, []), to, countMax })];
  for (const { key } of due) {
    const uploadId = numberInKey(key, 1);
    const upload = must(findUpload(context, uploadId), "an upload that expires");
    if (upload.state !== "open") {
      context.delete(key);
      context.delete(uploadKey(uploadId));
      continue;
    }
    const expireTimeMs = context.state.clusterTimeMs + REQUEST_RETENTION_MS;
    putUpload(context, uploadId, { ...upload, state: "expired", expireTimeMs }, upload);
    endOpen(context, uploadId, upload);
  }
  return due.length;
}

// The largest group of equal seals of an extent, in the order of the command.
function equalSeals(seals: readonly Seal[]): readonly Seal[] {
  const groups = new Map<string, Map<number, Seal>>();
  for (const seal of seals) {
    const name = `${seal.sizeBytes} ${toHex(seal.root)}`;
    const group = groups.get(name) ?? new Map<number, Seal>();
    group.set(seal.memberId, seal);
    groups.set(name, group);
  }
  let best: readonly Seal[] = [];
  for (const group of groups.values()) if (group.size > best.length) best = [...group.values()];
  return best;
}

// Checks the seals of one extent; returns its record with the sealing members as verified copies, or as lost ones where their
// stores were given up meanwhile.
function sealedExtent(
  context: ApplyContext,
  seals: readonly Seal[],
  extent: { readonly contentId: number; readonly extentIndex: number; readonly sizeBytes: number },
  counted: CountedCopies,
): ExtentRecord {
  const replicas = new Map(seals.map((seal) => [seal, sealedReplica(context, seal, counted)]));
  const isCounted = (seal: Seal): boolean => replicas.get(seal)?.state === "verified";
  const [first] = equalSeals(seals.filter(isCounted));
  const isEqual = (seal: Seal): boolean =>
    first !== undefined && seal.sizeBytes === first.sizeBytes && bytesEqual(seal.root, first.root);
  const equal = equalSeals(seals.filter(isEqual));
  const sealCount = equal.filter(isCounted).length;
  if (first === undefined || sealCount < sealCountMin(context) || first.root.length !== DIGEST_SIZE_BYTES) {
    return refuse("SEAL_REJECTED", `Extent ${extent.extentIndex} has ${sealCount} equal seals.`, {
      extent_index: String(extent.extentIndex),
      seal_count: String(sealCount),
      seal_count_min: String(sealCountMin(context)),
    });
  }
  if (first.sizeBytes !== extent.sizeBytes) {
    refuse("SEAL_REJECTED", `Extent ${extent.extentIndex} was sealed with ${first.sizeBytes} bytes.`, {
      extent_index: String(extent.extentIndex),
      size_bytes: String(first.sizeBytes),
    });
  }
  return {
    sizeBytes: extent.sizeBytes,
    root: first.root,
    replicas: equal.map((seal) => must(replicas.get(seal), "a seal that was checked")),
  };
}

function checkTreeHash(extents: readonly ExtentRecord[], treeHash: Uint8Array): void {
  const folded = extents.length === 0 ? EMPTY_DIGEST : foldTreeHash(extents.map((extent) => extent.root));
  if (bytesEqual(folded, treeHash)) return;
  refuse("DIGEST_MISMATCH", "The sealed bytes have another tree hash than was stated.", {
    tree_hash: toHex(folded),
  });
}

function sealsByExtent(seals: readonly Seal[], contentId: number, count: number): Seal[][] {
  const lists = Array.from({ length: count }, (): Seal[] => []);
  for (const seal of seals) {
    const list = seal.extent.contentId === contentId ? lists[seal.extent.extentIndex] : undefined;
    if (list === undefined) {
      refuse("SEAL_REJECTED", "A seal is for another extent.", {
        content_id: String(seal.extent.contentId),
        extent_index: String(seal.extent.extentIndex),
      });
    }
    list.push(seal);
  }
  return lists;
}

/** complete-upload. */
export function completeUpload(context: ApplyContext, body: Body<"complete-upload">): ResultValue {
  const { uploadId, sizeBytes, treeHash, sha256: plain } = body;
  const finished = findUpload(context, uploadId);
  if (finished?.state === "complete") {
    return {
      kind: "entry",
      entry: must(finished.entry, "the entry of a complete upload"),
      path: finished.path,
    };
  }
  const upload = getOpen(context, uploadId);
  checkStated(body, upload);
  const { contentId } = upload;
  const count = extentCount(sizeBytes);
  const lists = sealsByExtent(body.seals, contentId, count);
  const counted = new CountedCopies(context);
  const extents = lists.map((seals, extentIndex) => {
    const extent = { contentId, extentIndex, sizeBytes: extentSizeBytes(sizeBytes, extentIndex) };
    return sealedExtent(context, seals, extent, counted);
  });
  checkTreeHash(extents, treeHash);
  const spot = childSpot(context, getSpotAnywhere(context, upload.parentId), upload.name);
  checkPrecondition(upload.precondition, spot.row);
  checkPrecondition(body.precondition, spot.row);
  const placed = { contentId, sizeBytes, treeHash: new Uint8Array(treeHash) };
  createContent(context, {
    ...placed,
    sha256: plain,
    extents: withTargets(context, uploadId, contentId, extents),
  });
  const value = placeFile(
    context,
    spot,
    body.onConflict ?? upload.onConflict,
    upload.attributes,
    placed,
    uploadId,
  );
  const expireTimeMs = context.state.clusterTimeMs + REQUEST_RETENTION_MS;
  const { entry, path } = value;
  putUpload(context, uploadId, { ...upload, state: "complete", expireTimeMs, entry, path }, upload);
  context.delete(uploadOfContentKey(contentId));
  context.state.openUploadCount -= 1;
  return value;
}

function checkStated(body: Body<"complete-upload">, upload: UploadRecord): void {
  const { sizeBytes, treeHash, sha256: plain } = body;
  checkSize(sizeBytes);
  if (upload.sizeBytes !== undefined && upload.sizeBytes !== sizeBytes) {
    refuse("ARGUMENT_INVALID", `The upload was announced with ${upload.sizeBytes} bytes, not ${sizeBytes}.`, {
      size_bytes: String(sizeBytes),
      announced_size_bytes: String(upload.sizeBytes),
    });
  }
  if (treeHash.length !== DIGEST_SIZE_BYTES) refuse("ARGUMENT_INVALID", "A tree hash has 32 bytes.");
  if (plain.length !== 0 && plain.length !== DIGEST_SIZE_BYTES)
    refuse("ARGUMENT_INVALID", "A SHA-256 has 32 bytes.");
  if (upload.treeHash.length > 0 && !bytesEqual(upload.treeHash, treeHash)) {
    refuse("DIGEST_MISMATCH", "The bytes have another tree hash than was announced.", {
      tree_hash: toHex(treeHash),
      announced_tree_hash: toHex(upload.treeHash),
    });
  }
}

// Targets that did not seal owe a copy; members that were replaced, and extents never filled, are dropped.
function withTargets(
  context: ApplyContext,
  uploadId: number,
  contentId: number,
  extents: readonly ExtentRecord[],
): ExtentRecord[] {
  const result = [...extents];
  for (const { key, value } of scanPrefix(context, makeKey(TABLE.targets, [uploadId]), EXTENT_COUNT_MAX)) {
    const extentIndex = numberInKey(key, 1);
    const { memberIds, formerMemberIds } = targetsCodec.decode(value);
    context.delete(key);
    const extent = extents[extentIndex];
    const holds = (memberId: number): boolean =>
      extent?.replicas.some((replica) => replica.memberId === memberId) === true;
    dropFrom(
      context,
      { contentId, extentIndex },
      formerMemberIds.filter((memberId) => !holds(memberId)),
    );
    if (extent === undefined) {
      dropFrom(context, { contentId, extentIndex }, memberIds);
      continue;
    }
    const pending = memberIds
      // A target may have been removed from the cluster meanwhile: nobody would make its copy.
      .filter((memberId) => !holds(memberId) && findMember(context, memberId) !== undefined)
      .map((memberId) => pendingReplica(memberId, 0));
    result[extentIndex] = { ...extent, replicas: [...extent.replicas, ...pending] };
  }
  return result;
}

/** put-small. */
export function putSmall(context: ApplyContext, body: Body<"put-small">): ResultValue {
  const { contentId, sizeBytes, treeHash } = body;
  if (sizeBytes > CHUNK_SIZE_BYTES) {
    refuse("PAYLOAD_TOO_LARGE", `A small file has at most ${CHUNK_SIZE_BYTES} bytes.`, {
      size_bytes: String(sizeBytes),
      size_bytes_max: String(CHUNK_SIZE_BYTES),
    });
  }
  checkAttributes(body.attributes);
  const extents = leasedExtents(context, body);
  const spot = locate(context, body.at, body.createParents);
  checkPrecondition(body.precondition, spot.row);
  // The plain SHA-256 of at most one chunk is its tree hash.
  createContent(context, { contentId, sizeBytes, treeHash, sha256: new Uint8Array(0), extents });
  return placeFile(
    context,
    spot,
    body.onConflict,
    body.attributes,
    { contentId, sizeBytes, treeHash },
    undefined,
  );
}

/**
 * The extents of a content that was sealed under a write lease, with the copies that its seals stand for.
 * @throws DriveError SEAL_REJECTED, DIGEST_MISMATCH
 */
export function leasedExtents(
  context: ApplyContext,
  body: Pick<Body<"put-small">, "memberId" | "contentId" | "sizeBytes" | "treeHash" | "seals">,
): readonly ExtentRecord[] {
  const { memberId, contentId, sizeBytes } = body;
  checkLease(context, memberId, contentId);
  const lists = sealsByExtent(body.seals, contentId, extentCount(sizeBytes));
  const counted = new CountedCopies(context);
  const extents = lists.map((seals, extentIndex) => {
    const extent = { contentId, extentIndex, sizeBytes: extentSizeBytes(sizeBytes, extentIndex) };
    return sealedExtent(context, seals, extent, counted);
  });
  checkTreeHash(extents, body.treeHash);
  return extents;
}

function checkLease(context: ApplyContext, memberId: number, contentId: number): void {
  const metadata = { member_id: String(memberId), content_id: String(contentId) };
  const lease = findLease(context, memberId);
  if (lease === undefined || !isLeased(lease, context.state.clusterTimeMs, contentId)) {
    return refuse("SEAL_REJECTED", `Member ${memberId} has no lease on content ${contentId}.`, metadata);
  }
  if (findMember(context, memberId)?.storeIncarnation !== lease.storeIncarnation) {
    refuse("SEAL_REJECTED", `Member ${memberId} has a new chunk store.`, metadata);
  }
  const isUsed =
    findContent(context, contentId) !== undefined ||
    context.get(dropListKey(memberId, contentId, 0)) !== undefined;
  if (isUsed) refuse("SEAL_REJECTED", `Content ${contentId} is there already.`, metadata);
  assert(contentId < context.state.nextContentId, "a leased id was handed out");
}
