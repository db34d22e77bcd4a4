/**
 * A layout as bytes: everything about an archive but the bytes of its files, in a form that is read in small parts.
 *
 *   layout   = page* index trailer
 *   page     = entry*                                    about PAGE_ENTRY_COUNT of them, in the order of the archive
 *   entry    = kind:u8 size:varint crc:u32 content:varint time:zigzag varint (s) mode:varint (+1; 0 none) length:varint name
 *   index    = (data:u64 directory:u64 place:u64)*       for each page: where its first entry's header and its first record
 *                                                        in the central directory begin, and where the page itself does
 *   trailer  = magic:8 entries:u64 pages:u64 data:u64 directory:u64
 *
 * Integers are little-endian. Whoever serves a range reads trailer and index (24 bytes for 256 entries) and then only the pages
 * it needs; whoever writes holds the index and one page. A layout is stored as a content of the drive, whose digests guard it.
 */
import { assert, must } from "../std/assert.ts";
import { asBuffer, utf8 } from "../std/bytes.ts";
import type { ArchiveEntry } from "./zip-records.ts";

/** Entries of a page at most. */
export const PAGE_ENTRY_COUNT = 256;

/** A page ends behind the entry that reaches this many bytes. */
export const PAGE_SIZE_BYTES_MIN = 64 * 1024;

/** Bytes of the trailer. */
export const TRAILER_SIZE_BYTES = 40;

/** Bytes of the index for each page. */
export const INDEX_ITEM_SIZE_BYTES = 24;

const MAGIC = "NDARCH01";
const NO_MODE = 0;

/** The end of a layout. */
export interface LayoutTrailer {
  readonly entryCount: number;
  readonly pageCount: number;
  readonly dataSizeBytes: number;
  readonly directorySizeBytes: number;
}

/** Where a page and what it describes begin. */
export interface PageStart {
  /** Of its first entry's header, in the archive. */
  readonly dataOffset: number;
  /** Of its first entry's record, in the central directory. */
  readonly directoryOffset: number;
  /** Of the page, in the layout. */
  readonly place: number;
}

function writeVarint(target: number[], value: number): void {
  assert(Number.isSafeInteger(value) && value >= 0, `a varint holds ${value}`);
  let rest = value;
  while (rest >= 0x80) {
    target.push((rest % 0x80) | 0x80);
    rest = Math.floor(rest / 0x80);
  }
  target.push(rest);
}

/** One entry as bytes. Times are kept to the second. */
export function encodeEntry(entry: ArchiveEntry): Uint8Array {
  const seconds = Math.floor(entry.modifyTimeMs / 1000);
  const name = utf8(entry.path);
  const head: number[] = [entry.kind === "directory" ? 1 : 0];
  writeVarint(head, entry.sizeBytes);
  for (let shift = 0; shift < 32; shift += 8) head.push((entry.crc32 >>> shift) & 0xff);
  writeVarint(head, entry.contentId);
  writeVarint(head, seconds >= 0 ? seconds * 2 : -seconds * 2 - 1);
  writeVarint(head, entry.mode === undefined ? NO_MODE : entry.mode + 1);
  writeVarint(head, name.length);
  const bytes = new Uint8Array(head.length + name.length);
  bytes.set(head);
  bytes.set(name, head.length);
  return bytes;
}

/** The entries of a page. */
export function decodePage(page: Uint8Array): ArchiveEntry[] {
  const buffer = asBuffer(page);
  const entries: ArchiveEntry[] = [];
  let at = 0;
  const varint = (): number => {
    let value = 0;
    let factor = 1;
    for (;;) {
      const byte = must(buffer[at], "a byte of a varint");
      at += 1;
      value += (byte & 0x7f) * factor;
      if (byte < 0x80) return value;
      factor *= 0x80;
    }
  };
  while (at < buffer.length) {
    const kind = buffer[at] === 1 ? "directory" : "file";
    at += 1;
    const sizeBytes = varint();
    const crc32 = buffer.readUInt32LE(at);
    at += 4;
    const contentId = varint();
    const zigzag = varint();
    const seconds = zigzag % 2 === 0 ? zigzag / 2 : -(zigzag + 1) / 2;
    const mode = varint();
    const length = varint();
    const path = buffer.toString("utf8", at, at + length);
    at += length;
    const modifyTimeMs = seconds * 1000;
    entries.push({
      path,
      kind,
      sizeBytes,
      crc32,
      modifyTimeMs,
      mode: mode === NO_MODE ? undefined : mode - 1,
      contentId,
    });
  }
  return entries;
}

function writeU64s(target: Buffer, offset: number, values: readonly number[]): void {
  for (const [i, value] of values.entries()) target.writeBigUInt64LE(BigInt(value), offset + i * 8);
}

function readU64(source: Buffer, offset: number): number {
  const value = Number(source.readBigUInt64LE(offset));
  assert(Number.isSafeInteger(value), "a layout holds a number beyond 2^53-1");
  return value;
}

/** Index and trailer of a layout. */
export function encodeIndex(pages: readonly PageStart[], trailer: LayoutTrailer): Uint8Array {
  const bytes = Buffer.alloc(pages.length * INDEX_ITEM_SIZE_BYTES + TRAILER_SIZE_BYTES);
  for (const [i, page] of pages.entries()) {
    writeU64s(bytes, i * INDEX_ITEM_SIZE_BYTES, [page.dataOffset, page.directoryOffset, page.place]);
  }
  const at = pages.length * INDEX_ITEM_SIZE_BYTES;
  bytes.write(MAGIC, at, "latin1");
  const { entryCount, pageCount, dataSizeBytes, directorySizeBytes } = trailer;
  writeU64s(bytes, at + MAGIC.length, [entryCount, pageCount, dataSizeBytes, directorySizeBytes]);
  return bytes;
}

/** The trailer in the last TRAILER_SIZE_BYTES of a layout; undefined when they are not one of this version. */
export function decodeTrailer(bytes: Uint8Array): LayoutTrailer | undefined {
  const buffer = asBuffer(bytes);
  if (buffer.length !== TRAILER_SIZE_BYTES) return undefined;
  if (buffer.toString("latin1", 0, MAGIC.length) !== MAGIC) return undefined;
  const number = (position: number): number => readU64(buffer, MAGIC.length + position * 8);
  return {
    entryCount: number(0),
    pageCount: number(1),
    dataSizeBytes: number(2),
    directorySizeBytes: number(3),
  };
}

/** The pages that an index, without the trailer, lists; as flat arrays, because there may be thousands. */
export function decodeIndex(bytes: Uint8Array): {
  readonly data: Float64Array;
  readonly directory: Float64Array;
  readonly place: Float64Array;
} {
  const buffer = asBuffer(bytes);
  const count = buffer.length / INDEX_ITEM_SIZE_BYTES;
  assert(Number.isInteger(count), `an index has ${buffer.length} bytes`);
  const column = (position: number): Float64Array =>
    Float64Array.from({ length: count }, (_, i) => readU64(buffer, i * INDEX_ITEM_SIZE_BYTES + position * 8));
  return { data: column(0), directory: column(1), place: column(2) };
}
