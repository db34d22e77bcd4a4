/**
 * Walks the records of one segment file from a known place, verifying each, and finds its way again behind damage.
 *
 * Reports what it sees; what it means is decided in recovery.ts. Records handed out view a shared window of the file:
 * copy what is kept.
 */
import { asBuffer } from "../std/bytes.ts";
import type { DiskFile } from "../std/disk.ts";
import {
  BODY_SIZE_BYTES_MAX,
  decodePrefix,
  findDamagedBlock,
  HEAD_SIZE_BYTES_MAX,
  peekSizes,
  prefixSizeBytes,
  RECORD_HEADER_SIZE_BYTES,
  RECORD_MAGIC,
  type LogRecord,
  type Position,
  type RecordHeader,
} from "./record.ts";

/** Bytes read at once when bodies are read; a window for prefixes alone is smaller, because bodies are jumped over. */
const WINDOW_SIZE_BYTES = 1024 * 1024;
const PREFIX_WINDOW_SIZE_BYTES = 64 * 1024;

/** What a disk writes as a whole at least: a write that a crash cut off lacks whole parts between multiples of it. */
const SECTOR_SIZE_BYTES = 512;

/** Where a record's header has its two lengths. */
const LENGTHS_OFFSET = 16;
const LENGTHS_SIZE_BYTES = 8;

/** Bytes before the body of a record at most. */
const PREFIX_SIZE_BYTES_MAX = prefixSizeBytes(HEAD_SIZE_BYTES_MAX, BODY_SIZE_BYTES_MAX);

const EMPTY = new Uint8Array(0);
const MAGIC_BYTES = Buffer.alloc(4);
MAGIC_BYTES.writeUInt32LE(RECORD_MAGIC);

/** What lies at one place. */
export type ScanStep =
  | { readonly kind: "record"; readonly record: LogRecord; readonly header: RecordHeader }
  /** Valid by itself, but it does not continue the record before, or lies in the wrong place. */
  | { readonly kind: "broken"; readonly record: LogRecord; readonly header: RecordHeader }
  /** No valid record. `record` tells what it was when its prefix is good and only the body is damaged. */
  | { readonly kind: "bad"; readonly record?: LogRecord; readonly header?: RecordHeader }
  | { readonly kind: "end" };

/** What to scan. */
export interface ScanOptions {
  readonly file: Pick<DiskFile, "read">;
  readonly segmentId: number;
  readonly identitySeed: number;
  /** Size of the file. */
  readonly sizeBytes: number;
  /** Where to start, and the checksum of the record before; undefined accepts any. */
  readonly offset: number;
  readonly previous: number | undefined;
  /** Whether bodies are read, verified and handed out. */
  readonly readBodies: boolean;
}

/** A walk over one segment. */
export class SegmentScanner {
  /** Where the next record starts. */
  offset: number;
  /** What its `previous` must be; undefined accepts any. */
  previous: number | undefined;
  readonly #options: ScanOptions;
  #window: Uint8Array = EMPTY;
  #windowOffset = 0;

  constructor(options: ScanOptions) {
    this.#options = options;
    this.offset = options.offset;
    this.previous = options.previous;
  }

  /** Looks at the record at `offset` without moving. */
  async look(readBody = this.#options.readBodies): Promise<ScanStep> {
    const { sizeBytes, identitySeed, segmentId } = this.#options;
    const left = sizeBytes - this.offset;
    if (left <= 0) return { kind: "end" };
    const sizes = peekSizes(await this.#bytes(this.offset, Math.min(left, RECORD_HEADER_SIZE_BYTES)));
    if (sizes === undefined || sizes.prefixSizeBytes > left) return { kind: "bad" };
    const prefix = await this.#bytes(this.offset, sizes.prefixSizeBytes);
    const header = decodePrefix(prefix, identitySeed);
    if (header === undefined) return { kind: "bad" };
    const head = prefix.subarray(RECORD_HEADER_SIZE_BYTES, RECORD_HEADER_SIZE_BYTES + header.headSizeBytes);
    let record: LogRecord = {
      kind: header.kind,
      location: header.location,
      head,
      body: EMPTY,
      bodySizeBytes: header.bodySizeBytes,
    };
    if (sizes.sizeBytes > left) return { kind: "bad", record, header };
    if (readBody) {
      const body = await this.#bytes(this.offset + sizes.prefixSizeBytes, header.bodySizeBytes);
      if (findDamagedBlock(prefix, header, 0, body) !== undefined) return { kind: "bad", record, header };
      record = { ...record, body };
    }
    const inPlace = header.location.segmentId === segmentId && header.location.offset === this.offset;
    const chained = this.previous === undefined || header.previous === this.previous;
    return { kind: inPlace && chained ? "record" : "broken", record, header };
  }

  /** Moves behind a record that was looked at. */
  pass(header: RecordHeader): void {
    this.offset += header.location.sizeBytes;
    this.previous = header.checksum;
  }

  /**
   * Searches behind damage at `from` for valid records that lie where they say.
   * @returns where the first starts (undefined: none), and the furthest durable mark among all of them
   */
  async survey(
    from: number,
  ): Promise<{ readonly firstOffset: number | undefined; readonly mark: Position | undefined }> {
    const saved = { offset: this.offset, previous: this.previous };
    let firstOffset: number | undefined;
    let mark: Position | undefined;
    let at = await this.#findMagic(from);
    while (at !== undefined) {
      this.offset = at;
      this.previous = undefined;
      const step = await this.look(false);
      if (step.kind === "record") {
        firstOffset ??= at;
        // Marks never move back along a log, so the last one seen is the furthest.
        mark = step.header.durable;
        at = await this.#findMagic(at + step.header.location.sizeBytes);
      } else {
        at = await this.#findMagic(at + 1);
      }
    }
    this.offset = saved.offset;
    this.previous = saved.previous;
    return { firstOffset, mark };
  }

  /**
   * Whether the damage from `offset` to `end` lacks bytes, as a write leaves that a crash cut off: a sector of it was never written
   * and reads as zeros, or it announces to go on behind the end of the file. What lacks nothing was written as a whole.
   * @param end where a valid record follows, or the end of the file
   */
  async isTorn(end: number): Promise<boolean> {
    if (end === this.#options.sizeBytes && (await this.#isCutByEnd())) return true;
    for (let from = this.offset; from < end;) {
      const to = Math.min(end, (Math.floor(from / SECTOR_SIZE_BYTES) + 1) * SECTOR_SIZE_BYTES);
      if ((await this.#bytes(from, to - from)).every((byte) => byte === 0)) return true;
      from = to;
    }
    return false;
  }

  /** Whether the record at `offset` ends behind the file, and not only because a bit of its lengths was flipped. */
  async #isCutByEnd(): Promise<boolean> {
    const left = this.#options.sizeBytes - this.offset;
    if (left < RECORD_HEADER_SIZE_BYTES) return true;
    const announced = peekSizes(await this.#bytes(this.offset, RECORD_HEADER_SIZE_BYTES));
    if (announced === undefined || announced.sizeBytes <= left) return false;
    const lengthMax = Math.min(left, PREFIX_SIZE_BYTES_MAX);
    const prefix = (await this.#bytes(this.offset, lengthMax)).slice();
    if (decodePrefix(prefix, this.#options.identitySeed) !== undefined) return true;
    for (let bit = 0; bit < 8 * LENGTHS_SIZE_BYTES; bit += 1) {
      const at = LENGTHS_OFFSET + (bit >> 3);
      prefix[at] = (prefix[at] ?? 0) ^ (1 << (bit & 7));
      const header = decodePrefix(prefix, this.#options.identitySeed);
      if (header !== undefined && header.location.sizeBytes <= left) return false;
      prefix[at] = (prefix[at] ?? 0) ^ (1 << (bit & 7));
    }
    return true;
  }

  async #findMagic(from: number): Promise<number | undefined> {
    const { sizeBytes } = this.#options;
    let at = from;
    if (at + RECORD_HEADER_SIZE_BYTES <= sizeBytes) {
      // Nearly always the next record starts right here, and there is no need to read its body to see that.
      const start = asBuffer(await this.#bytes(at, MAGIC_BYTES.length));
      if (start.equals(MAGIC_BYTES)) return at;
    }
    while (at + RECORD_HEADER_SIZE_BYTES <= sizeBytes) {
      const window = asBuffer(await this.#bytes(at, Math.min(WINDOW_SIZE_BYTES, sizeBytes - at)));
      const found = window.indexOf(MAGIC_BYTES);
      if (found >= 0) return at + found;
      at += Math.max(1, window.length - (MAGIC_BYTES.length - 1));
    }
    return undefined;
  }

  /** `length` bytes at `offset`, which lie within the file. */
  async #bytes(offset: number, length: number): Promise<Uint8Array> {
    const at = offset - this.#windowOffset;
    if (at < 0 || at + length > this.#window.length) {
      const windowSize = this.#options.readBodies ? WINDOW_SIZE_BYTES : PREFIX_WINDOW_SIZE_BYTES;
      const wanted = Math.min(Math.max(length, windowSize), this.#options.sizeBytes - offset);
      this.#window = await this.#options.file.read(offset, wanted);
      this.#windowOffset = offset;
      return this.#window.subarray(0, length);
    }
    return this.#window.subarray(at, at + length);
  }
}
