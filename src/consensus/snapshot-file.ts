/**
 * The file form of a snapshot: a header, the records in key order in blocks, a footer; each block checksummed and chained.
 *
 *   file  = magic(8) block{header} block{records}* block{footer}
 *   block = kind(1) length(4, big endian) crc32(4) payload(length)
 *   records payload = { keyLength(2) valueLength(4) key value }*        big endian
 *
 * The CRC-32 of a block covers its kind, length and payload and is seeded with the one of the block before, so that a
 * block that is missing, doubled or moved is found like a flipped bit. The footer says how many records there are, so that
 * a file cut at a block boundary is found too. The same bytes are streamed to a follower.
 */
import { asBuffer } from "../std/bytes.ts";
import { assert, must } from "../std/assert.ts";
import { crc32 } from "../std/crc32.ts";
import type { DiskFile } from "../std/disk.ts";
import type { KeyValue } from "../std/ordered-store.ts";
import { DriveError } from "../drive/errors.ts";
import {
  decodeSnapshotFooter,
  decodeSnapshotHeader,
  encodeSnapshotFooter,
  encodeSnapshotHeader,
  type SnapshotHeader,
} from "./codec.ts";
import { WireFormatError } from "./wire-format.ts";

/** First bytes of the file. Never change. */
const MAGIC = Buffer.from("NDSNAP01", "latin1");
const BLOCK_HEADER_SIZE_BYTES = 9;
const RECORD_HEADER_SIZE_BYTES = 6;

/** Kinds of blocks. Never change. */
const KIND_HEADER = 1;
const KIND_RECORDS = 2;
const KIND_FOOTER = 3;

/** A block is closed once it holds this much: small enough to be written without a pause that anyone notices. */
export const SNAPSHOT_BLOCK_SIZE_BYTES = 256 * 1024;

/** A length beyond this is damage: a closed block plus the largest record (value 1 MiB, key 1 KiB) stays below. */
const BLOCK_SIZE_BYTES_MAX = 4 * 1024 * 1024;

/** The records of a block, one behind the other as the file holds them. */
export class RecordBlock {
  #bytes = Buffer.allocUnsafe(2 * SNAPSHOT_BLOCK_SIZE_BYTES);
  #sizeBytes = 0;
  #recordCount = 0;

  /** Whether it is time to write it. */
  get isFull(): boolean {
    return this.#sizeBytes >= SNAPSHOT_BLOCK_SIZE_BYTES;
  }

  get recordCount(): number {
    return this.#recordCount;
  }

  /** Takes a record. */
  add({ key, value }: KeyValue): void {
    const start = this.#begin(key.length, value.length);
    this.#bytes.set(key, start);
    this.#bytes.set(value, start + key.length);
  }

  /** Takes the record whose key and value follow each other in `bytes`: from `keyStart`, `valueStart`, up to `end`. */
  addWithin(bytes: Buffer, keyStart: number, valueStart: number, end: number): void {
    const start = this.#begin(valueStart - keyStart, end - valueStart);
    bytes.copy(this.#bytes, start, keyStart, end);
  }

  /** Its bytes, valid until the next record is taken; it is empty then. */
  take(): Uint8Array {
    const taken = this.#bytes.subarray(0, this.#sizeBytes);
    this.#sizeBytes = 0;
    this.#recordCount = 0;
    return taken;
  }

  /** Makes room for a record and writes its head; where its key goes. */
  #begin(keyLength: number, valueLength: number): number {
    const start = this.#sizeBytes + RECORD_HEADER_SIZE_BYTES;
    const end = start + keyLength + valueLength;
    if (end > this.#bytes.length) {
      const larger = Buffer.allocUnsafe(2 * end);
      larger.set(this.#bytes.subarray(0, this.#sizeBytes));
      this.#bytes = larger;
    }
    this.#bytes.writeUInt16BE(keyLength, this.#sizeBytes);
    this.#bytes.writeUInt32BE(valueLength, this.#sizeBytes + 2);
    this.#sizeBytes = end;
    this.#recordCount += 1;
    return start;
  }
}

/** Writes a snapshot file from its start. */
export class SnapshotFileWriter {
  readonly #file: DiskFile;
  #offset = 0;
  #crc = 0;
  #recordCount = 0;
  readonly #block = new RecordBlock();

  /** @param file an empty file, which stays the caller's */
  constructor(file: DiskFile) {
    this.#file = file;
  }

  /** Bytes written so far. */
  get sizeBytes(): number {
    return this.#offset;
  }

  /** Writes the header; first. */
  async writeHeader(header: SnapshotHeader): Promise<void> {
    assert(this.#offset === 0, "the header comes first");
    await this.#file.write(0, [MAGIC]);
    this.#offset = MAGIC.length;
    await this.#writeBlock(KIND_HEADER, [encodeSnapshotHeader(header)]);
  }

  /** Takes a record; writes a block now and then. */
  async writeRecord(record: KeyValue): Promise<void> {
    this.#block.add(record);
    if (this.#block.isFull) await this.writeRecords(this.#block);
  }

  /** Writes the records of a block, which is empty then. Its next record must wait for that. */
  async writeRecords(block: RecordBlock): Promise<void> {
    if (block.recordCount === 0) return;
    this.#recordCount += block.recordCount;
    await this.#writeBlock(KIND_RECORDS, [block.take()]);
  }

  /** Writes the rest and the footer, and makes the file durable. */
  async finish(): Promise<void> {
    await this.writeRecords(this.#block);
    const footer = encodeSnapshotFooter({ recordCount: this.#recordCount, sizeBytes: this.#offset });
    await this.#writeBlock(KIND_FOOTER, [footer]);
    await this.#file.sync();
  }

  async #writeBlock(kind: number, payload: readonly [Uint8Array]): Promise<void> {
    const header = blockHeader(kind, payload[0], this.#crc);
    this.#crc = header.readUInt32BE(5);
    await this.#file.write(this.#offset, [header, payload[0]]);
    this.#offset += header.length + payload[0].length;
  }
}

function blockHeader(kind: number, payload: Uint8Array, previousCrc: number): Buffer {
  const header = Buffer.allocUnsafe(BLOCK_HEADER_SIZE_BYTES);
  header.writeUInt8(kind, 0);
  header.writeUInt32BE(payload.length, 1);
  header.writeUInt32BE(crc32(payload, crc32(header.subarray(0, 5), previousCrc)), 5);
  return header;
}

interface Block {
  readonly kind: number;
  readonly payload: Uint8Array;
}

/** Reads a snapshot file, checking everything. Every method throws DriveError DATA_CORRUPT for damage. */
export class SnapshotFileReader {
  readonly #file: DiskFile;
  #offset = 0;
  #crc = 0;

  constructor(file: DiskFile) {
    this.#file = file;
  }

  /** Reads the header; first. */
  async readHeader(): Promise<SnapshotHeader> {
    const magic = await this.#file.read(0, MAGIC.length);
    if (!MAGIC.equals(magic)) throw this.#damage("it does not start like a snapshot file");
    this.#offset = MAGIC.length;
    const block = await this.#readBlock();
    if (block.kind !== KIND_HEADER) throw this.#damage("there is no header");
    return this.#decode(() => decodeSnapshotHeader(block.payload));
  }

  /** The records, a block at a time, in key order. Ends only after the footer confirmed that nothing is missing. */
  async *readRecords(): AsyncGenerator<readonly KeyValue[]> {
    let recordCount = 0;
    for (;;) {
      const blockOffset = this.#offset;
      const block = await this.#readBlock();
      if (block.kind === KIND_RECORDS) {
        const records = this.#parseRecords(block.payload);
        recordCount += records.length;
        yield records;
        continue;
      }
      if (block.kind !== KIND_FOOTER) throw this.#damage(`there is a block of kind ${block.kind}`);
      const footer = this.#decode(() => decodeSnapshotFooter(block.payload));
      if (footer.recordCount !== recordCount || footer.sizeBytes !== blockOffset) {
        throw this.#damage(`it has ${recordCount} records, not ${footer.recordCount}`);
      }
      if ((await this.#file.size()) !== this.#offset) throw this.#damage("there are bytes behind the footer");
      return;
    }
  }

  async #readBlock(): Promise<Block> {
    const header = asBuffer(await this.#file.read(this.#offset, BLOCK_HEADER_SIZE_BYTES));
    if (header.length < BLOCK_HEADER_SIZE_BYTES) throw this.#damage("it is cut off");
    const length = header.readUInt32BE(1);
    if (length > BLOCK_SIZE_BYTES_MAX) throw this.#damage(`a block claims ${length} bytes`);
    const payload = await this.#file.read(this.#offset + BLOCK_HEADER_SIZE_BYTES, length);
    if (payload.length < length) throw this.#damage("it is cut off");
    const kind = header.readUInt8(0);
    const expected = blockHeader(kind, payload, this.#crc);
    if (!expected.equals(header)) throw this.#damage("a checksum does not match");
    this.#crc = header.readUInt32BE(5);
    this.#offset += BLOCK_HEADER_SIZE_BYTES + length;
    return { kind, payload };
  }

  #parseRecords(payload: Uint8Array): KeyValue[] {
    const buffer = asBuffer(payload);
    const records: KeyValue[] = [];
    let at = 0;
    while (at < buffer.length) {
      if (at + RECORD_HEADER_SIZE_BYTES > buffer.length) throw this.#damage("a record is cut off");
      const keyEnd = at + RECORD_HEADER_SIZE_BYTES + buffer.readUInt16BE(at);
      const end = keyEnd + buffer.readUInt32BE(at + 2);
      if (end > buffer.length) throw this.#damage("a record is cut off");
      records.push({
        key: payload.subarray(at + RECORD_HEADER_SIZE_BYTES, keyEnd),
        value: payload.subarray(keyEnd, end),
      });
      at = end;
    }
    return records;
  }

  #decode<T>(decode: () => T): T {
    try {
      return decode();
    } catch (error) {
      if (error instanceof WireFormatError) throw this.#damage(error.message);
      throw error;
    }
  }

  #damage(reason: string): DriveError {
    const path = this.#file.path;
    return new DriveError(
      "DATA_CORRUPT",
      `The snapshot ${path} is damaged: ${reason} (offset ${this.#offset}).`,
      {
        path,
        offset: String(this.#offset),
      },
    );
  }
}

/** The bytes of a file in pieces of at most `pieceSizeBytes`; one read at a time, so the taker sets the pace. */
export async function* readPieces(file: DiskFile, pieceSizeBytes: number): AsyncGenerator<Uint8Array> {
  const sizeBytes = await file.size();
  for (let offset = 0; offset < sizeBytes; offset += pieceSizeBytes) {
    const piece = await file.read(offset, Math.min(pieceSizeBytes, sizeBytes - offset));
    yield must(piece.length > 0 ? piece : undefined, "the file does not shrink while it is read");
  }
}
