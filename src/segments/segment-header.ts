/**
 * The first bytes of a segment file: whose it is, which one it is, and where its chain starts. FORMAT.md has the layout.
 * Encodes and decodes only.
 */
import { assert } from "../std/assert.ts";
import { asBuffer } from "../std/bytes.ts";
import { crc32 } from "../std/crc32.ts";

/** First eight bytes of every segment. Format: never change. */
export const SEGMENT_MAGIC = "NDSEGMT\n";

/** Version of the format of segments and records. A reader refuses any other. */
export const FORMAT_VERSION = 1;

/** Bytes of an identity at most. */
export const IDENTITY_SIZE_BYTES_MAX = 256;

/** Bytes of a label at most. */
export const LABEL_SIZE_BYTES_MAX = 256;

const FIXED_SIZE_BYTES = 24;

/** What a segment says of itself. */
export interface SegmentHeader {
  readonly segmentId: number;
  /** Checksum of the last record of the segment before, 0 for the first: what its first record's `previous` must be. */
  readonly chainSeed: number;
  /** Whose log it belongs to: bytes that differ between clusters, members and stores. */
  readonly identity: Uint8Array;
  /** What a segment that stands alone holds; empty in a log. */
  readonly label: Uint8Array;
}

/** Bytes of a segment header. */
export function segmentHeaderSizeBytes(identitySizeBytes: number, labelSizeBytes: number): number {
  return FIXED_SIZE_BYTES + identitySizeBytes + labelSizeBytes + 4;
}

/** Encodes a segment header. */
export function encodeSegmentHeader(header: SegmentHeader): Uint8Array {
  assert(header.identity.length <= IDENTITY_SIZE_BYTES_MAX, "the identity is too long");
  assert(header.label.length <= LABEL_SIZE_BYTES_MAX, "the label is too long");
  const bytes = Buffer.alloc(segmentHeaderSizeBytes(header.identity.length, header.label.length));
  bytes.write(SEGMENT_MAGIC, 0, "latin1");
  bytes.writeUInt32LE(FORMAT_VERSION, 8);
  bytes.writeUInt32LE(header.segmentId, 12);
  bytes.writeUInt32LE(header.chainSeed, 16);
  bytes.writeUInt16LE(header.identity.length, 20);
  bytes.writeUInt16LE(header.label.length, 22);
  bytes.set(header.identity, FIXED_SIZE_BYTES);
  bytes.set(header.label, FIXED_SIZE_BYTES + header.identity.length);
  bytes.writeUInt32LE(crc32(bytes.subarray(0, -4)), bytes.length - 4);
  return bytes;
}

/** Decodes the header at the start of `bytes`; undefined when it is cut short, of another version or damaged. */
export function decodeSegmentHeader(bytes: Uint8Array): SegmentHeader | undefined {
  const buffer = asBuffer(bytes);
  if (buffer.length < FIXED_SIZE_BYTES || buffer.toString("latin1", 0, 8) !== SEGMENT_MAGIC) return undefined;
  if (buffer.readUInt32LE(8) !== FORMAT_VERSION) return undefined;
  const identitySize = buffer.readUInt16LE(20);
  const labelSize = buffer.readUInt16LE(22);
  const size = segmentHeaderSizeBytes(identitySize, labelSize);
  if (buffer.length < size || crc32(buffer.subarray(0, size - 4)) !== buffer.readUInt32LE(size - 4)) {
    return undefined;
  }
  const labelAt = FIXED_SIZE_BYTES + identitySize;
  return {
    segmentId: buffer.readUInt32LE(12),
    chainSeed: buffer.readUInt32LE(16),
    identity: Uint8Array.from(buffer.subarray(FIXED_SIZE_BYTES, labelAt)),
    label: Uint8Array.from(buffer.subarray(labelAt, labelAt + labelSize)),
  };
}

/** Bytes to read so that any header is contained. */
export const SEGMENT_HEADER_SIZE_BYTES_MAX = segmentHeaderSizeBytes(
  IDENTITY_SIZE_BYTES_MAX,
  LABEL_SIZE_BYTES_MAX,
);
