/**
 * Reads one record, or part of its body, from a file and verifies every byte before handing it out.
 *
 * A record that fails its checksum, or is not the one the location names, is DATA_CORRUPT; nothing is ever returned
 * unverified, and a short file is damage, not absence.
 */
import { assert } from "../std/assert.ts";
import type { DiskFile } from "../std/disk.ts";
import {
  BLOCK_SIZE_BYTES,
  decodePrefix,
  findDamagedBlock,
  prefixSizeBytes,
  RECORD_HEADER_SIZE_BYTES,
  type LogRecord,
  type RecordHeader,
  type RecordLocation,
} from "./record.ts";
import { corruptError } from "./segment-error.ts";

/** Below this, a record is read whole even when less was asked for: one read is cheaper than two. */
const WHOLE_READ_SIZE_BYTES = 128 * 1024;

/** A part of a record that was verified. */
export interface RecordPart {
  readonly kind: number;
  readonly head: Uint8Array;
  /** The bytes that were asked for; views a buffer that nobody else has. */
  readonly bytes: Uint8Array;
}

/** Reads a record whole. Errors: DATA_CORRUPT; those of the disk. */
export async function readRecord(file: DiskFile, seed: number, location: RecordLocation): Promise<LogRecord> {
  return parseRecord(file.path, await file.read(location.offset, location.sizeBytes), seed, location);
}

/** As readRecord(), on the calling thread. */
export function readRecordSync(file: DiskFile, seed: number, location: RecordLocation): LogRecord {
  return parseRecord(file.path, file.readSync(location.offset, location.sizeBytes), seed, location);
}

/**
 * Reads `length` bytes at `offset` of a body, verifying the blocks they lie in: one read for most of a record, two for a
 * small part of a large one. Sizes as they were when the record was appended. Errors: DATA_CORRUPT; those of the disk.
 */
export async function readRecordPart(
  file: DiskFile,
  seed: number,
  location: RecordLocation,
  part: { readonly headSizeBytes: number; readonly bodySizeBytes: number; offset: number; length: number },
): Promise<RecordPart> {
  const { offset, length, headSizeBytes, bodySizeBytes } = part;
  assert(
    offset + length <= bodySizeBytes,
    `asked for bytes ${offset}+${length} of a body of ${bodySizeBytes}`,
  );
  const firstBlock = Math.floor(offset / BLOCK_SIZE_BYTES);
  const from = firstBlock * BLOCK_SIZE_BYTES;
  const to = Math.min(bodySizeBytes, Math.ceil((offset + length) / BLOCK_SIZE_BYTES) * BLOCK_SIZE_BYTES);
  const prefixSize = prefixSizeBytes(headSizeBytes, bodySizeBytes);
  let prefix: Uint8Array;
  let blocks: Uint8Array;
  if (prefixSize + to <= WHOLE_READ_SIZE_BYTES || (to - from) * 2 > bodySizeBytes) {
    const bytes = await file.read(location.offset, prefixSize + to);
    prefix = bytes.subarray(0, prefixSize);
    blocks = bytes.subarray(prefixSize + from);
  } else {
    [prefix, blocks] = await Promise.all([
      file.read(location.offset, prefixSize),
      file.read(location.offset + prefixSize + from, to - from),
    ]);
  }
  const header = verifiedHeader(file.path, prefix, seed, location);
  const expected = header.headSizeBytes === headSizeBytes && header.bodySizeBytes === bodySizeBytes;
  if (!expected || blocks.length !== to - from) {
    throw corruptError("a record of another size", file.path, location.offset);
  }
  if (findDamagedBlock(prefix, header, firstBlock, blocks) !== undefined) {
    throw corruptError("a body that fails its checksum", file.path, location.offset);
  }
  return {
    kind: header.kind,
    head: prefix.subarray(RECORD_HEADER_SIZE_BYTES, RECORD_HEADER_SIZE_BYTES + headSizeBytes),
    bytes: blocks.subarray(offset - from, offset - from + length),
  };
}

function verifiedHeader(
  path: string,
  prefix: Uint8Array,
  seed: number,
  location: RecordLocation,
): RecordHeader {
  const header = decodePrefix(prefix, seed);
  if (header === undefined) throw corruptError("a record that fails its checksum", path, location.offset);
  const found = header.location;
  if (found.segmentId !== location.segmentId || found.offset !== location.offset) {
    throw corruptError("a record that belongs elsewhere", path, location.offset);
  }
  return header;
}

function parseRecord(path: string, bytes: Uint8Array, seed: number, location: RecordLocation): LogRecord {
  const header = verifiedHeader(path, bytes, seed, location);
  const prefixSize = prefixSizeBytes(header.headSizeBytes, header.bodySizeBytes);
  const body = bytes.subarray(prefixSize, prefixSize + header.bodySizeBytes);
  if (body.length !== header.bodySizeBytes || findDamagedBlock(bytes, header, 0, body) !== undefined) {
    throw corruptError("a body that fails its checksum", path, location.offset);
  }
  return {
    kind: header.kind,
    location: header.location,
    head: bytes.subarray(RECORD_HEADER_SIZE_BYTES, RECORD_HEADER_SIZE_BYTES + header.headSizeBytes),
    body,
    bodySizeBytes: header.bodySizeBytes,
  };
}
