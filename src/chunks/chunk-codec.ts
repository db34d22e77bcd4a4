/**
 * The records of the chunk store and the values of its index, as bytes. src/segments/FORMAT.md has the layouts of records.
 *
 * Integers in records are little-endian; in index keys big-endian, so that keys order by number. Encodes and decodes only:
 * records arrive verified by their checksums, so a length that does not fit is a programmer error, not damage.
 */
import type { ExtentKey, ManifestOrigin, OriginHint } from "../drive/content.ts";
import { ORIGIN_PATH_SIZE_BYTES_MAX } from "../drive/limits.ts";
import { assert, must } from "../std/assert.ts";
import { asBuffer } from "../std/bytes.ts";
import { DIGEST_SIZE_BYTES } from "../std/digest.ts";

/** Kinds of records in the store's log and segments. Format: never change. */
export const KIND_CHUNK = 16;
export const KIND_MANIFEST = 17;
export const KIND_SMALL = 18;
export const KIND_TOMBSTONE = 19;
/** As manifest and small, written by compaction: the extent is sealed so, whatever the records before said of it. */
export const KIND_MOVED_MANIFEST = 20;
export const KIND_MOVED_SMALL = 21;

/** Bytes of a chunk record's head. Format: never change. */
export const CHUNK_HEAD_SIZE_BYTES = 16 + DIGEST_SIZE_BYTES;

/** Bytes per chunk in a manifest's body: digest, segment id, offset. Format: never change. */
export const MANIFEST_ENTRY_SIZE_BYTES = DIGEST_SIZE_BYTES + 8;

const KEY_SIZE_BYTES = 12;
const SHARE_SIZE_BYTES = 8;
const MANIFEST_HEAD_SIZE_BYTES_MIN = 73;
const CLUSTER_ID_SIZE_AT = MANIFEST_HEAD_SIZE_BYTES_MIN - 1;
const CLUSTER_ID_SIZE_BYTES_MAX = 127;
/** In the byte with the size of the cluster id: a hint follows the id. */
const HINT_FOLLOWS = 0x80;
const HINT_SIZE_BYTES_MIN = 19;
/** By number. Format: never change. */
const PURPOSES: readonly OriginHint["purpose"][] = ["file", "tree-snapshot"];

/** Head of a chunk record; its body is the chunk. */
export interface ChunkHead {
  readonly extent: ExtentKey;
  readonly chunkIndex: number;
  readonly digest: Uint8Array;
}

/** Head of a manifest record (body: an entry per chunk) and of a small record (body: the one chunk, whose digest is the root). */
export interface ManifestHead {
  readonly extent: ExtentKey;
  readonly sizeBytes: number;
  readonly root: Uint8Array;
  /** Segment that holds the extent alone, 0 when its chunks are in the log. */
  readonly ownSegmentId: number;
  readonly origin: ManifestOrigin;
}

/** Head of a tombstone; it has no body. */
export interface TombstoneHead {
  readonly extent: ExtentKey;
  readonly ownSegmentId: number;
}

function putExtent(bytes: Buffer, extent: ExtentKey): void {
  bytes.writeBigUInt64LE(BigInt(extent.contentId), 0);
  bytes.writeUInt32LE(extent.extentIndex, 8);
}

function getExtent(bytes: Buffer): ExtentKey {
  return { contentId: safe(bytes.readBigUInt64LE(0)), extentIndex: bytes.readUInt32LE(8) };
}

function safe(value: bigint): number {
  const number = Number(value);
  assert(Number.isSafeInteger(number), `${value} is beyond the safe integers`);
  return number;
}

/** Label of a segment that holds one extent: its key. */
export function encodeLabel(extent: ExtentKey): Uint8Array {
  const bytes = Buffer.alloc(KEY_SIZE_BYTES);
  putExtent(bytes, extent);
  return bytes;
}

/** The extent that a label names. */
export function decodeLabel(label: Uint8Array): ExtentKey {
  assert(label.length === KEY_SIZE_BYTES, `a label of ${label.length} bytes`);
  return getExtent(asBuffer(label));
}

export function encodeChunkHead(head: ChunkHead): Uint8Array {
  const bytes = Buffer.allocUnsafe(CHUNK_HEAD_SIZE_BYTES);
  putExtent(bytes, head.extent);
  bytes.writeUInt32LE(head.chunkIndex, 12);
  bytes.set(head.digest, 16);
  return bytes;
}

export function decodeChunkHead(head: Uint8Array): ChunkHead {
  assert(head.length === CHUNK_HEAD_SIZE_BYTES, `a chunk head of ${head.length} bytes`);
  const bytes = asBuffer(head);
  return {
    extent: getExtent(bytes),
    chunkIndex: bytes.readUInt32LE(12),
    digest: Uint8Array.from(bytes.subarray(16)),
  };
}

export function encodeManifestHead(head: ManifestHead): Uint8Array {
  const clusterId = Buffer.from(head.origin.clusterId, "utf8");
  assert(clusterId.length <= CLUSTER_ID_SIZE_BYTES_MAX, "the cluster id is too long");
  const { hint } = head.origin;
  const bytes = Buffer.alloc(MANIFEST_HEAD_SIZE_BYTES_MIN);
  putExtent(bytes, head.extent);
  bytes.writeUInt32LE(head.ownSegmentId, 12);
  bytes.writeBigUInt64LE(BigInt(head.sizeBytes), 16);
  bytes.set(head.root, 24);
  bytes.writeBigUInt64LE(BigInt(head.origin.entryId), 56);
  bytes.writeBigUInt64LE(BigInt(head.origin.commitIndex), 64);
  bytes.writeUInt8(clusterId.length | (hint === undefined ? 0 : HINT_FOLLOWS), CLUSTER_ID_SIZE_AT);
  return Buffer.concat(hint === undefined ? [bytes, clusterId] : [bytes, clusterId, encodeHint(hint)]);
}

function encodeHint(hint: OriginHint): Uint8Array {
  const path = Buffer.from(hint.path, "utf8");
  assert(path.length <= ORIGIN_PATH_SIZE_BYTES_MAX, "the path of a hint is too long");
  const bytes = Buffer.alloc(HINT_SIZE_BYTES_MIN + path.length);
  bytes.writeUInt8(PURPOSES.indexOf(hint.purpose), 0);
  bytes.writeBigUInt64LE(BigInt(hint.contentSizeBytes), 1);
  bytes.writeBigUInt64LE(BigInt(hint.modifyTimeMs), 9);
  bytes.writeUInt16LE(path.length, 17);
  bytes.set(path, HINT_SIZE_BYTES_MIN);
  return bytes;
}

function decodeHint(bytes: Buffer): OriginHint {
  return {
    purpose: must(PURPOSES[bytes.readUInt8(0)], "a known purpose"),
    contentSizeBytes: safe(bytes.readBigUInt64LE(1)),
    modifyTimeMs: safe(bytes.readBigUInt64LE(9)),
    path: bytes.toString("utf8", HINT_SIZE_BYTES_MIN),
  };
}

export function decodeManifestHead(head: Uint8Array): ManifestHead {
  const bytes = asBuffer(head);
  assert(
    bytes.length >= MANIFEST_HEAD_SIZE_BYTES_MIN && bytes.length === manifestHeadSize(head),
    "a manifest head of another length",
  );
  const hintAt = hintOffset(bytes);
  return {
    extent: getExtent(bytes),
    ownSegmentId: bytes.readUInt32LE(12),
    sizeBytes: safe(bytes.readBigUInt64LE(16)),
    root: Uint8Array.from(bytes.subarray(24, 56)),
    origin: {
      clusterId: bytes.toString("utf8", MANIFEST_HEAD_SIZE_BYTES_MIN, hintAt),
      entryId: safe(bytes.readBigUInt64LE(56)),
      commitIndex: safe(bytes.readBigUInt64LE(64)),
      ...(hintAt < bytes.length && { hint: decodeHint(bytes.subarray(hintAt)) }),
    },
  };
}

/** Live bytes of an extent in a segment of the log. */
export interface SegmentShare {
  readonly segmentId: number;
  readonly sizeBytes: number;
}

/** Head of a moved manifest: that of a manifest, and where its chunks in the log lie, the record itself left out. */
export function encodeMovedHead(head: ManifestHead, shares: readonly SegmentShare[]): Uint8Array {
  const bytes = Buffer.alloc(shares.length * SHARE_SIZE_BYTES);
  shares.forEach(({ segmentId, sizeBytes }, i) => {
    bytes.writeUInt32LE(segmentId, i * SHARE_SIZE_BYTES);
    bytes.writeUInt32LE(sizeBytes, i * SHARE_SIZE_BYTES + 4);
  });
  return Buffer.concat([encodeManifestHead(head), bytes]);
}

/** The shares in the head of a moved manifest. */
export function decodeShares(head: Uint8Array): readonly SegmentShare[] {
  const bytes = asBuffer(head).subarray(manifestHeadSize(head));
  assert(bytes.length % SHARE_SIZE_BYTES === 0, "shares of another length");
  return Array.from({ length: bytes.length / SHARE_SIZE_BYTES }, (_, i) => ({
    segmentId: bytes.readUInt32LE(i * SHARE_SIZE_BYTES),
    sizeBytes: bytes.readUInt32LE(i * SHARE_SIZE_BYTES + 4),
  }));
}

/** The head of any record that seals an extent: manifest or small, moved or not. */
export function decodeSealHead(kind: number, head: Uint8Array): ManifestHead {
  return decodeManifestHead(kind === KIND_MOVED_MANIFEST ? head.subarray(0, manifestHeadSize(head)) : head);
}

/** Where the hint begins, or would. */
function hintOffset(bytes: Buffer): number {
  return MANIFEST_HEAD_SIZE_BYTES_MIN + (bytes.readUInt8(CLUSTER_ID_SIZE_AT) & ~HINT_FOLLOWS);
}

function manifestHeadSize(head: Uint8Array): number {
  const bytes = asBuffer(head);
  const hintAt = hintOffset(bytes);
  if ((bytes.readUInt8(CLUSTER_ID_SIZE_AT) & HINT_FOLLOWS) === 0) return hintAt;
  return hintAt + HINT_SIZE_BYTES_MIN + bytes.readUInt16LE(hintAt + 17);
}

/** One chunk in a manifest's body. */
export interface ManifestEntry {
  readonly digest: Uint8Array;
  readonly segmentId: number;
  readonly offset: number;
}

export function encodeManifestBody(entries: readonly ManifestEntry[]): Uint8Array {
  const bytes = Buffer.allocUnsafe(entries.length * MANIFEST_ENTRY_SIZE_BYTES);
  entries.forEach((entry, i) => {
    const at = i * MANIFEST_ENTRY_SIZE_BYTES;
    bytes.set(entry.digest, at);
    bytes.writeUInt32LE(entry.segmentId, at + DIGEST_SIZE_BYTES);
    bytes.writeUInt32LE(entry.offset, at + DIGEST_SIZE_BYTES + 4);
  });
  return bytes;
}

/** Entry `chunkIndex` of a manifest's body; the digest views `body`. */
export function decodeManifestEntry(body: Uint8Array, chunkIndex: number): ManifestEntry {
  const at = chunkIndex * MANIFEST_ENTRY_SIZE_BYTES;
  assert(at + MANIFEST_ENTRY_SIZE_BYTES <= body.length, `the manifest has no chunk ${chunkIndex}`);
  const bytes = asBuffer(body);
  return {
    digest: body.subarray(at, at + DIGEST_SIZE_BYTES),
    segmentId: bytes.readUInt32LE(at + DIGEST_SIZE_BYTES),
    offset: bytes.readUInt32LE(at + DIGEST_SIZE_BYTES + 4),
  };
}

export function encodeTombstoneHead(head: TombstoneHead): Uint8Array {
  const bytes = Buffer.alloc(16);
  putExtent(bytes, head.extent);
  bytes.writeUInt32LE(head.ownSegmentId, 12);
  return bytes;
}

export function decodeTombstoneHead(head: Uint8Array): TombstoneHead {
  assert(head.length === 16, `a tombstone of ${head.length} bytes`);
  const bytes = asBuffer(head);
  return { extent: getExtent(bytes), ownSegmentId: bytes.readUInt32LE(12) };
}

/** The extent that a record is about, whatever its kind: every head starts with it. */
export function extentOfHead(head: Uint8Array): ExtentKey {
  assert(head.length >= KEY_SIZE_BYTES, `a head of ${head.length} bytes`);
  return getExtent(asBuffer(head));
}

/** A key for maps in memory. */
export function extentName(extent: ExtentKey): string {
  return `${extent.contentId}/${extent.extentIndex}`;
}

/** Whether two keys name the same extent. */
export function sameExtent(a: ExtentKey, b: ExtentKey): boolean {
  return a.contentId === b.contentId && a.extentIndex === b.extentIndex;
}

/** Orders extents by content, then by position in it. */
export function compareExtents(a: ExtentKey, b: ExtentKey): number {
  return a.contentId - b.contentId || a.extentIndex - b.extentIndex;
}
