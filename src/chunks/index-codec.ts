/** Entries of the chunk store's index as bytes: sealed extents, and chunks of open ones. See chunk-index.ts for the keys. */
import { asBuffer } from "../std/bytes.ts";
import { DIGEST_SIZE_BYTES } from "../std/digest.ts";
import type { RecordLocation } from "../segments/record.ts";

/** A sealed extent. */
export interface SealedExtent {
  /** Whether the record is a small one (its body is the chunk) or a manifest. */
  readonly small: boolean;
  /** Whether compaction wrote it: then no record before it counts for the extent. */
  readonly moved: boolean;
  readonly sizeBytes: number;
  readonly root: Uint8Array;
  readonly ownSegmentId: number;
  readonly location: RecordLocation;
  readonly headSizeBytes: number;
  readonly bodySizeBytes: number;
  /** Live bytes by segment of the log, to be given back on removal. */
  readonly uses: readonly { readonly segmentId: number; readonly sizeBytes: number }[];
  /** Chunks found damaged, ascending. */
  readonly damagedChunks: readonly number[];
}

/** A chunk in the log whose extent is open. */
export interface IndexedChunk {
  readonly location: RecordLocation;
  readonly sizeBytes: number;
  readonly digest: Uint8Array;
}

function encodeLocation(bytes: Buffer, at: number, location: RecordLocation): void {
  bytes.writeUInt32LE(location.segmentId, at);
  bytes.writeUInt32LE(location.offset, at + 4);
  bytes.writeUInt32LE(location.sizeBytes, at + 8);
}

function decodeLocation(bytes: Buffer, at: number): RecordLocation {
  return {
    segmentId: bytes.readUInt32LE(at),
    offset: bytes.readUInt32LE(at + 4),
    sizeBytes: bytes.readUInt32LE(at + 8),
  };
}

/** The value of a sealed extent. */
export function encodeSealed(extent: SealedExtent): Uint8Array {
  const { uses, damagedChunks } = extent;
  const bytes = Buffer.alloc(75 + 12 * uses.length + 4 * damagedChunks.length);
  bytes.writeUInt8((extent.small ? 1 : 0) + (extent.moved ? 2 : 0), 0);
  bytes.writeDoubleLE(extent.sizeBytes, 1);
  bytes.set(extent.root, 9);
  bytes.writeUInt32LE(extent.ownSegmentId, 41);
  encodeLocation(bytes, 45, extent.location);
  bytes.writeUInt32LE(extent.headSizeBytes, 57);
  bytes.writeUInt32LE(extent.bodySizeBytes, 61);
  bytes.writeUInt32LE(uses.length, 65);
  bytes.writeUInt32LE(damagedChunks.length, 69);
  let at = 75;
  for (const use of uses) {
    bytes.writeUInt32LE(use.segmentId, at);
    bytes.writeDoubleLE(use.sizeBytes, at + 4);
    at += 12;
  }
  for (const chunkIndex of damagedChunks) {
    bytes.writeUInt32LE(chunkIndex, at);
    at += 4;
  }
  return bytes;
}

/** Back from encodeSealed(). */
export function decodeSealed(value: Uint8Array): SealedExtent {
  const bytes = asBuffer(value);
  const useCount = bytes.readUInt32LE(65);
  const damagedCount = bytes.readUInt32LE(69);
  const damagedAt = 75 + 12 * useCount;
  return {
    small: (bytes.readUInt8(0) & 1) !== 0,
    moved: (bytes.readUInt8(0) & 2) !== 0,
    sizeBytes: bytes.readDoubleLE(1),
    root: Uint8Array.from(bytes.subarray(9, 41)),
    ownSegmentId: bytes.readUInt32LE(41),
    location: decodeLocation(bytes, 45),
    headSizeBytes: bytes.readUInt32LE(57),
    bodySizeBytes: bytes.readUInt32LE(61),
    uses: Array.from({ length: useCount }, (_, i) => ({
      segmentId: bytes.readUInt32LE(75 + 12 * i),
      sizeBytes: bytes.readDoubleLE(79 + 12 * i),
    })),
    damagedChunks: Array.from({ length: damagedCount }, (_, i) => bytes.readUInt32LE(damagedAt + 4 * i)),
  };
}

/** The value of a chunk in the log whose extent is open. */
export function encodeChunk(chunk: IndexedChunk): Uint8Array {
  const bytes = Buffer.alloc(16 + DIGEST_SIZE_BYTES);
  encodeLocation(bytes, 0, chunk.location);
  bytes.writeUInt32LE(chunk.sizeBytes, 12);
  bytes.set(chunk.digest, 16);
  return bytes;
}

/** Back from encodeChunk(). */
export function decodeChunk(value: Uint8Array): IndexedChunk {
  const bytes = asBuffer(value);
  return {
    location: decodeLocation(bytes, 0),
    sizeBytes: bytes.readUInt32LE(12),
    digest: Uint8Array.from(bytes.subarray(16)),
  };
}
