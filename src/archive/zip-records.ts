/**
 * The records of a ZIP archive, byte for byte: PKWARE APPNOTE 6.3.10, sections 4.3 to 4.5, and the extended timestamp of
 * Info-ZIP (extra field 0x5455).
 *
 * Files are stored, not compressed, so that every size is known before a byte is read. Names are UTF-8 (flag bit 11), sizes and
 * offsets take the ZIP64 form exactly where they do not fit 32 bits. Equal entries give equal bytes: there is no time of making
 * and no chance in here. Pure.
 */
import { assert } from "../std/assert.ts";
import { utf8 } from "../std/bytes.ts";

/** A file or folder in an archive. */
export interface ArchiveEntry {
  /** Names joined by "/", relative, without a slash at the end; no name is empty, "." or "..". At most 16 KiB of UTF-8. */
  readonly path: string;
  readonly kind: "file" | "directory";
  /** Bytes of a file, 0 for a folder. */
  readonly sizeBytes: number;
  /** CRC-32 of the bytes of a file, 0 for a folder. */
  readonly crc32: number;
  /** Wall time. */
  readonly modifyTimeMs: number;
  /** Permission bits; undefined when none are known. */
  readonly mode: number | undefined;
  /** Where the bytes are; 0 for a folder. Not part of the archive. */
  readonly contentId: number;
}

/** What 32 bits cannot say: the mark in a field whose value stands in the ZIP64 extra field. */
const MARK_32 = 0xffffffff;
const MARK_16 = 0xffff;

const LOCAL_SIZE_BYTES = 30;
const CENTRAL_SIZE_BYTES = 46;
const END_SIZE_BYTES = 22;
const END_64_SIZE_BYTES = 56;
const LOCATOR_64_SIZE_BYTES = 20;
const TIMESTAMP_SIZE_BYTES = 9;
const EXTRA_HEADER_SIZE_BYTES = 4;

/** UTF-8 names. */
const FLAGS = 1 << 11;
/** Unix, APPNOTE 6.3: says how the external attributes are to be read. */
const MADE_BY = (3 << 8) | 63;
const VERSION_FILE = 10;
const VERSION_DIRECTORY = 20;
const VERSION_64 = 45;

const MODE_FILE = 0o100000;
const MODE_DIRECTORY = 0o040000;
const FILE_MODE_DEFAULT = 0o644;
const DIRECTORY_MODE_DEFAULT = 0o755;
/** The bit that says "directory" to DOS. */
const DOS_DIRECTORY = 0x10;

const INT32_MAX = 0x7fffffff;

class Writer {
  readonly bytes: Uint8Array;
  readonly #view: DataView;
  #at = 0;

  constructor(sizeBytes: number) {
    this.bytes = new Uint8Array(sizeBytes);
    this.#view = new DataView(this.bytes.buffer);
  }

  u16(...values: readonly number[]): void {
    for (const value of values) {
      this.#view.setUint16(this.#at, value, true);
      this.#at += 2;
    }
  }

  u32(...values: readonly number[]): void {
    for (const value of values) {
      this.#view.setUint32(this.#at, value, true);
      this.#at += 4;
    }
  }

  u64(...values: readonly number[]): void {
    for (const value of values) this.u32(value % 0x1_0000_0000, Math.floor(value / 0x1_0000_0000));
  }

  put(bytes: Uint8Array): void {
    this.bytes.set(bytes, this.#at);
    this.#at += bytes.length;
  }

  finish(): Uint8Array {
    assert(this.#at === this.bytes.length, `a record of ${this.bytes.length} bytes has ${this.#at}`);
    return this.bytes;
  }
}

const or32 = (value: number): number => (value >= MARK_32 ? MARK_32 : value);

/** Asserts that a path leads nowhere but down: relative, and no name in it is empty, "." or "..". */
export function checkSafePath(path: string): void {
  const isSafe = !/(^|\/)(\.{0,2})(\/|$)/.test(path);
  assert(isSafe, `${JSON.stringify(path)} is no safe name in an archive`);
}

/**
 * The name of an entry as it stands in the archive; a folder's ends in "/".
 *
 * A backslash parts names on Windows only, so it stays, except where a program that takes it for a slash would leave the folder
 * it unpacks to; the same with the letter of a drive.
 */
export function archivedName({ path, kind }: Pick<ArchiveEntry, "path" | "kind">): string {
  checkSafePath(path);
  const hasDrive = /^[A-Za-z]:/.test(path);
  let safe = path;
  if (hasDrive || path.startsWith("\\") || path.split(/[\\/]/).includes("..")) {
    safe = safe.replaceAll("\\", "_");
    if (hasDrive) safe = safe.replace(":", "_");
  }
  return kind === "directory" ? `${safe}/` : safe;
}

/** Seconds since 1970 as the timestamp field takes them; undefined when they do not fit. */
function timestampSeconds({ modifyTimeMs }: ArchiveEntry): number | undefined {
  const seconds = Math.floor(modifyTimeMs / 1000);
  return seconds >= -INT32_MAX - 1 && seconds <= INT32_MAX ? seconds : undefined;
}

/** Date and time of DOS, in UTC, to two seconds, from 1980 to 2107; what lies outside takes the nearest. */
export function dosTime(timeMs: number): { readonly date: number; readonly time: number } {
  const from = Date.UTC(1980, 0, 1);
  const to = Date.UTC(2107, 11, 31, 23, 59, 58);
  const at = new Date(Math.min(Math.max(timeMs, from), to));
  return {
    date: ((at.getUTCFullYear() - 1980) << 9) | ((at.getUTCMonth() + 1) << 5) | at.getUTCDate(),
    time: (at.getUTCHours() << 11) | (at.getUTCMinutes() << 5) | (at.getUTCSeconds() >> 1),
  };
}

// As long as archivedName() makes it, which puts one ASCII character in the place of another.
const nameSizeBytes = ({ path, kind }: ArchiveEntry): number =>
  Buffer.byteLength(path, "utf8") + (kind === "directory" ? 1 : 0);
const isLarge = (entry: ArchiveEntry): boolean => entry.sizeBytes >= MARK_32;
const timestampSizeBytes = (entry: ArchiveEntry): number =>
  timestampSeconds(entry) === undefined ? 0 : TIMESTAMP_SIZE_BYTES;

function localExtraSizeBytes(entry: ArchiveEntry): number {
  return timestampSizeBytes(entry) + (isLarge(entry) ? EXTRA_HEADER_SIZE_BYTES + 16 : 0);
}

function central64SizeBytes(entry: ArchiveEntry, offset: number): number {
  const dataBytes = (isLarge(entry) ? 16 : 0) + (offset >= MARK_32 ? 8 : 0);
  return dataBytes === 0 ? 0 : EXTRA_HEADER_SIZE_BYTES + dataBytes;
}

/** Bytes of the header before an entry's own bytes. */
export function localHeaderSizeBytes(entry: ArchiveEntry): number {
  return LOCAL_SIZE_BYTES + nameSizeBytes(entry) + localExtraSizeBytes(entry);
}

/** Bytes of an entry's record in the central directory. @param offset where its local header begins */
export function centralRecordSizeBytes(entry: ArchiveEntry, offset: number): number {
  const extra = timestampSizeBytes(entry) + central64SizeBytes(entry, offset);
  return CENTRAL_SIZE_BYTES + nameSizeBytes(entry) + extra;
}

function versionNeeded(entry: ArchiveEntry, offset: number): number {
  if (isLarge(entry) || offset >= MARK_32) return VERSION_64;
  return entry.kind === "directory" ? VERSION_DIRECTORY : VERSION_FILE;
}

function putTimestamp(writer: Writer, entry: ArchiveEntry): void {
  const seconds = timestampSeconds(entry);
  if (seconds === undefined) return;
  writer.u16(0x5455, TIMESTAMP_SIZE_BYTES - EXTRA_HEADER_SIZE_BYTES);
  // Bit 0: the time of modification follows.
  writer.put(new Uint8Array([1]));
  writer.u32(seconds >>> 0);
}

/** The header before an entry's own bytes (section 4.3.7). */
export function localHeader(entry: ArchiveEntry): Uint8Array {
  const name = utf8(archivedName(entry));
  const writer = new Writer(localHeaderSizeBytes(entry));
  const { date, time } = dosTime(entry.modifyTimeMs);
  const size = or32(entry.sizeBytes);
  writer.u32(0x04034b50);
  writer.u16(versionNeeded(entry, 0), FLAGS, 0, time, date);
  writer.u32(entry.crc32, size, size);
  writer.u16(name.length, localExtraSizeBytes(entry));
  writer.put(name);
  putTimestamp(writer, entry);
  if (isLarge(entry)) {
    // A local header has both sizes or none (section 4.5.3).
    writer.u16(1, 16);
    writer.u64(entry.sizeBytes, entry.sizeBytes);
  }
  return writer.finish();
}

/** An entry's record in the central directory (section 4.3.12). @param offset where its local header begins */
export function centralRecord(entry: ArchiveEntry, offset: number): Uint8Array {
  const name = utf8(archivedName(entry));
  const writer = new Writer(centralRecordSizeBytes(entry, offset));
  const { date, time } = dosTime(entry.modifyTimeMs);
  const size = or32(entry.sizeBytes);
  const isDirectory = entry.kind === "directory";
  // Set-user-id and its kin are not given away: who unpacks is somebody else.
  const bits = (entry.mode ?? (isDirectory ? DIRECTORY_MODE_DEFAULT : FILE_MODE_DEFAULT)) & 0o777;
  const unixMode = (isDirectory ? MODE_DIRECTORY : MODE_FILE) | bits;
  const extra64 = central64SizeBytes(entry, offset);
  writer.u32(0x02014b50);
  writer.u16(MADE_BY, versionNeeded(entry, offset), FLAGS, 0, time, date);
  writer.u32(entry.crc32, size, size);
  // No comment, first disk, no internal attributes.
  writer.u16(name.length, timestampSizeBytes(entry) + extra64, 0, 0, 0);
  writer.u32(unixMode * 0x10000 + (isDirectory ? DOS_DIRECTORY : 0), or32(offset));
  writer.put(name);
  putTimestamp(writer, entry);
  if (extra64 > 0) {
    writer.u16(1, extra64 - EXTRA_HEADER_SIZE_BYTES);
    if (isLarge(entry)) writer.u64(entry.sizeBytes, entry.sizeBytes);
    if (offset >= MARK_32) writer.u64(offset);
  }
  return writer.finish();
}

/** How much there is before the end of an archive. */
export interface ArchiveExtent {
  readonly entryCount: number;
  /** Bytes of headers and files, which is where the central directory begins. */
  readonly dataSizeBytes: number;
  /** Bytes of the central directory. */
  readonly directorySizeBytes: number;
}

function endNeeds64({ entryCount, dataSizeBytes, directorySizeBytes }: ArchiveExtent): boolean {
  return entryCount >= MARK_16 || dataSizeBytes >= MARK_32 || directorySizeBytes >= MARK_32;
}

/** Bytes of endRecords(). */
export function endSizeBytes(extent: ArchiveExtent): number {
  return END_SIZE_BYTES + (endNeeds64(extent) ? END_64_SIZE_BYTES + LOCATOR_64_SIZE_BYTES : 0);
}

/** The end of an archive (sections 4.3.14 to 4.3.16). */
export function endRecords(extent: ArchiveExtent): Uint8Array {
  const { entryCount, dataSizeBytes, directorySizeBytes } = extent;
  const writer = new Writer(endSizeBytes(extent));
  if (endNeeds64(extent)) {
    writer.u32(0x06064b50);
    // Its size without what stands before here.
    writer.u64(END_64_SIZE_BYTES - 12);
    writer.u16(MADE_BY, VERSION_64);
    writer.u32(0, 0);
    writer.u64(entryCount, entryCount, directorySizeBytes, dataSizeBytes);
    writer.u32(0x07064b50, 0);
    writer.u64(dataSizeBytes + directorySizeBytes);
    writer.u32(1);
  }
  const count = Math.min(entryCount, MARK_16);
  writer.u32(0x06054b50);
  writer.u16(0, 0, count, count);
  writer.u32(or32(directorySizeBytes), or32(dataSizeBytes));
  writer.u16(0);
  return writer.finish();
}
