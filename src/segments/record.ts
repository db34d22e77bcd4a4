/**
 * The record: the unit in which segments are written, checked and read. FORMAT.md has the layout with an example.
 *
 * A record is a prefix (header, head, one checksum per 64 KiB of body) and a body. The record's checksum covers the
 * identity of the log, the prefix and with it the checksums of the body; so one pass over the bytes protects the whole,
 * and a part of a body can be verified alone. The header names the record before it (the chain), its own place (a
 * misdirected write is noticed) and how far the log was durable when it was written (a lost promise is noticed).
 * Encodes and decodes only; never change what is here without a new format version.
 */
import { assert } from "../std/assert.ts";
import { asBuffer } from "../std/bytes.ts";
import { crc32 } from "../std/crc32.ts";

/** First four bytes of every record, "NDR1" read as a little-endian integer. Format: never change. */
export const RECORD_MAGIC = 0x3152444e;

/** Bytes of the fixed part of a record. Format: never change. */
export const RECORD_HEADER_SIZE_BYTES = 40;

/** Bytes of body covered by one checksum. Format: never change. */
export const BLOCK_SIZE_BYTES = 64 * 1024;

/** Bytes of a head at most: heads are read whole and kept small, bulk goes into the body. */
export const HEAD_SIZE_BYTES_MAX = 64 * 1024;

/** Bytes of a body at most; bounds what one damaged length can make recovery read. */
export const BODY_SIZE_BYTES_MAX = 8 * 1024 * 1024;

/** Kinds below this belong to the segments themselves; the owner of a log numbers its own from here to 65,535. */
export const RECORD_KIND_MIN = 16;

/** Kind of the last record of a sealed segment. Format: never change. */
export const KIND_FOOTER = 1;

/** Kind of a record that only carries the durable mark, written when the log falls idle. Format: never change. */
export const KIND_MARK = 2;

/** A place between records: everything before `offset` in the segment, and all earlier segments. */
export interface Position {
  readonly segmentId: number;
  readonly offset: number;
}

/** Where a record lies. */
export interface RecordLocation extends Position {
  /** Bytes of the whole record, prefix and body. */
  readonly sizeBytes: number;
}

/** The header of a record, checked against its checksum. */
export interface RecordHeader {
  readonly location: RecordLocation;
  readonly kind: number;
  readonly checksum: number;
  /** Checksum of the record before this one, or the chain seed of the segment. */
  readonly previous: number;
  /** How far the log was durable when this was written. */
  readonly durable: Position;
  readonly headSizeBytes: number;
  readonly bodySizeBytes: number;
}

/** A record as recovery and reads hand it out. */
export interface LogRecord {
  readonly kind: number;
  readonly location: RecordLocation;
  readonly head: Uint8Array;
  /** Empty when a scan was asked not to read bodies. */
  readonly body: Uint8Array;
  readonly bodySizeBytes: number;
}

/** Orders positions: negative when `a` comes first. */
export function comparePositions(a: Position, b: Position): number {
  return a.segmentId === b.segmentId ? a.offset - b.offset : a.segmentId - b.segmentId;
}

/** Bytes before the body of a record. */
export function prefixSizeBytes(headSizeBytes: number, bodySizeBytes: number): number {
  return RECORD_HEADER_SIZE_BYTES + headSizeBytes + 4 * Math.ceil(bodySizeBytes / BLOCK_SIZE_BYTES);
}

/** Bytes of a whole record. */
export function recordSizeBytes(headSizeBytes: number, bodySizeBytes: number): number {
  return prefixSizeBytes(headSizeBytes, bodySizeBytes) + bodySizeBytes;
}

/** What encodeRecord() needs to know beside the contents. */
export interface RecordContext {
  /** CRC-32 of the identity of the log; see identitySeed(). */
  readonly identitySeed: number;
  readonly at: Position;
  readonly previous: number;
  readonly durable: Position;
}

/** The checksum that records of a log start from, so that a record of another log never passes. */
export function identitySeed(identity: Uint8Array, label: Uint8Array): number {
  return crc32(label, crc32(identity));
}

/**
 * Encodes the prefix of a record; the body follows it unchanged.
 * @param head at most HEAD_SIZE_BYTES_MAX bytes, copied
 * @param body at most BODY_SIZE_BYTES_MAX bytes, not copied
 */
export function encodeRecord(
  context: RecordContext,
  kind: number,
  head: Uint8Array,
  body: Uint8Array,
): { readonly prefix: Uint8Array; readonly checksum: number; readonly sizeBytes: number } {
  assert(kind >= 0 && kind <= 0xffff, `a record kind has 16 bits, got ${kind}`);
  assert(head.length <= HEAD_SIZE_BYTES_MAX, `a head of ${head.length} bytes is too long`);
  assert(body.length <= BODY_SIZE_BYTES_MAX, `a body of ${body.length} bytes is too long`);
  const prefixSize = prefixSizeBytes(head.length, body.length);
  const prefix = Buffer.allocUnsafe(prefixSize);
  prefix.writeUInt32LE(RECORD_MAGIC, 0);
  prefix.writeUInt32LE(context.previous, 8);
  prefix.writeUInt32LE(kind, 12);
  prefix.writeUInt32LE(head.length, 16);
  prefix.writeUInt32LE(body.length, 20);
  prefix.writeUInt32LE(context.at.segmentId, 24);
  prefix.writeUInt32LE(context.at.offset, 28);
  prefix.writeUInt32LE(context.durable.segmentId, 32);
  prefix.writeUInt32LE(context.durable.offset, 36);
  prefix.set(head, RECORD_HEADER_SIZE_BYTES);
  let at = RECORD_HEADER_SIZE_BYTES + head.length;
  for (let from = 0; from < body.length; from += BLOCK_SIZE_BYTES) {
    prefix.writeUInt32LE(crc32(body.subarray(from, from + BLOCK_SIZE_BYTES)), at);
    at += 4;
  }
  const checksum = crc32(prefix.subarray(8), context.identitySeed);
  prefix.writeUInt32LE(checksum, 4);
  return { prefix, checksum, sizeBytes: prefixSize + body.length };
}

/**
 * The size of the prefix that a header announces, or undefined when the 40 bytes cannot be a header. The answer is
 * unchecked until decodePrefix() has seen the checksum.
 */
export function peekSizes(
  header: Uint8Array,
): { readonly prefixSizeBytes: number; readonly sizeBytes: number } | undefined {
  if (header.length < RECORD_HEADER_SIZE_BYTES) return undefined;
  const bytes = asBuffer(header);
  if (bytes.readUInt32LE(0) !== RECORD_MAGIC) return undefined;
  const headSize = bytes.readUInt32LE(16);
  const bodySize = bytes.readUInt32LE(20);
  if (headSize > HEAD_SIZE_BYTES_MAX || bodySize > BODY_SIZE_BYTES_MAX) return undefined;
  return {
    prefixSizeBytes: prefixSizeBytes(headSize, bodySize),
    sizeBytes: recordSizeBytes(headSize, bodySize),
  };
}

/**
 * Decodes and verifies the prefix at the start of `bytes`; undefined when it is cut short or its checksum fails. Whether
 * the record lies where it says is for the caller to compare.
 */
export function decodePrefix(bytes: Uint8Array, seed: number): RecordHeader | undefined {
  const sizes = peekSizes(bytes);
  if (sizes === undefined || bytes.length < sizes.prefixSizeBytes) return undefined;
  const buffer = asBuffer(bytes);
  const checksum = buffer.readUInt32LE(4);
  if (crc32(buffer.subarray(8, sizes.prefixSizeBytes), seed) !== checksum) return undefined;
  return {
    location: {
      segmentId: buffer.readUInt32LE(24),
      offset: buffer.readUInt32LE(28),
      sizeBytes: sizes.sizeBytes,
    },
    kind: buffer.readUInt32LE(12),
    checksum,
    previous: buffer.readUInt32LE(8),
    durable: { segmentId: buffer.readUInt32LE(32), offset: buffer.readUInt32LE(36) },
    headSizeBytes: buffer.readUInt32LE(16),
    bodySizeBytes: buffer.readUInt32LE(20),
  };
}

/**
 * Verifies blocks of a body against the checksums in a verified prefix.
 * @param blocks body bytes that start at block `firstBlock` and end at a block's end or the body's
 * @returns the index of the first block that fails, or undefined when all hold
 */
export function findDamagedBlock(
  prefix: Uint8Array,
  header: RecordHeader,
  firstBlock: number,
  blocks: Uint8Array,
): number | undefined {
  const table = asBuffer(prefix);
  let at = RECORD_HEADER_SIZE_BYTES + header.headSizeBytes + 4 * firstBlock;
  let block = firstBlock;
  for (let from = 0; from < blocks.length; from += BLOCK_SIZE_BYTES) {
    if (crc32(blocks.subarray(from, from + BLOCK_SIZE_BYTES)) !== table.readUInt32LE(at)) return block;
    at += 4;
    block += 1;
  }
  return undefined;
}
