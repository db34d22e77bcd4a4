/**
 * Protocol Buffers encoding by hand, for the few messages on the hot path.
 *
 * The generated code goes through bigint and a message object for every entry; a log entry is encoded once for the disk
 * and for all followers instead, and its bytes are shared. What is written here is plain proto3 wire format of the schema
 * in proto/netdisk/storage/v1/raft.proto; a test compares it with the generated code in both directions.
 * Reading is strict where corruption could hide: numbers beyond 2^53-1, lengths beyond the end and groups are refused.
 */
import { assert, must } from "../std/assert.ts";

/** Thrown for bytes that are not the message they should be. Callers translate: damage on disk, or a bad peer. */
export class WireFormatError extends Error {
  override readonly name = "WireFormatError";
}

/** Bytes that a varint of `value` (a safe integer, not negative) takes. */
export function varintSize(value: number): number {
  let size = 1;
  for (let rest = value; rest >= 0x80; rest = Math.floor(rest / 0x80)) size += 1;
  return size;
}

/** Writes fields one after another. Zero, false and empty values are left out, as proto3 prescribes. */
export class WireWriter {
  #bytes: Buffer;
  #at = 0;

  /** @param sizeBytes a guess at the size, at least 1; the buffer grows when it was too small */
  constructor(sizeBytes: number) {
    this.#bytes = Buffer.allocUnsafe(Math.max(1, sizeBytes));
  }

  /** A numeric field; nothing when `value` is 0. */
  uint(field: number, value: number): void {
    if (value === 0) return;
    assert(Number.isSafeInteger(value) && value > 0, `field ${field} holds ${value}`);
    this.#varint(field << 3);
    this.#varint(value);
  }

  /** A boolean field; nothing when false. */
  bool(field: number, value: boolean): void {
    if (value) this.uint(field, 1);
  }

  /** A bytes, string or message field; nothing when it is empty. */
  bytes(field: number, value: Uint8Array): void {
    if (value.length > 0) this.message(field, value);
  }

  /** A message field that is present even when it is empty. */
  message(field: number, value: Uint8Array): void {
    this.prefix(field, value.length);
    this.#reserve(value.length);
    this.#bytes.set(value, this.#at);
    this.#at += value.length;
  }

  /** Only the tag and the length of a field whose bytes follow elsewhere. */
  prefix(field: number, sizeBytes: number): void {
    this.#varint((field << 3) | 2);
    this.#varint(sizeBytes);
  }

  /** What was written. The writer must not be used afterwards. */
  finish(): Uint8Array {
    return this.#bytes.subarray(0, this.#at);
  }

  #varint(value: number): void {
    this.#reserve(10);
    let rest = value;
    while (rest >= 0x80) {
      this.#bytes[this.#at] = (rest % 0x80) | 0x80;
      this.#at += 1;
      rest = Math.floor(rest / 0x80);
    }
    this.#bytes[this.#at] = rest;
    this.#at += 1;
  }

  #reserve(sizeBytes: number): void {
    if (this.#at + sizeBytes <= this.#bytes.length) return;
    const grown = Buffer.allocUnsafe(Math.max(this.#bytes.length * 2, this.#at + sizeBytes));
    grown.set(this.#bytes.subarray(0, this.#at));
    this.#bytes = grown;
  }
}

/** Reads fields one after another: `while (reader.next()) switch (reader.field) ...`, each value read or skipped. */
export class WireReader {
  readonly #bytes: Uint8Array;
  #at = 0;
  #field = 0;
  #wireType = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  /** The field that next() found. */
  get field(): number {
    return this.#field;
  }

  /** Moves to the next field; false at the end. */
  next(): boolean {
    if (this.#at >= this.#bytes.length) return false;
    const tag = this.#varint();
    this.#field = Math.floor(tag / 8);
    this.#wireType = tag % 8;
    if (this.#field === 0) throw new WireFormatError("field number 0");
    return true;
  }

  /** The value of a numeric field. */
  uint(): number {
    this.#expect(0);
    return this.#varint();
  }

  /** The value of a boolean field. */
  bool(): boolean {
    return this.uint() !== 0;
  }

  /** The value of a bytes, string or message field: a view, not a copy. */
  bytes(): Uint8Array {
    this.#expect(2);
    const length = this.#varint();
    if (this.#at + length > this.#bytes.length) {
      throw new WireFormatError(`field ${this.#field} of ${length} bytes ends beyond the message`);
    }
    const value = this.#bytes.subarray(this.#at, this.#at + length);
    this.#at += length;
    return value;
  }

  /** Passes over a field that this version does not know. */
  skip(): void {
    if (this.#wireType === 0) this.#varint();
    else if (this.#wireType === 2) this.bytes();
    else if (this.#wireType === 1) this.#advance(8);
    else if (this.#wireType === 5) this.#advance(4);
    else throw new WireFormatError(`wire type ${this.#wireType}`);
  }

  #advance(sizeBytes: number): void {
    this.#at += sizeBytes;
    if (this.#at > this.#bytes.length) throw new WireFormatError("a field ends beyond the message");
  }

  #expect(wireType: number): void {
    if (this.#wireType !== wireType) {
      throw new WireFormatError(`field ${this.#field} has wire type ${this.#wireType}, not ${wireType}`);
    }
  }

  #varint(): number {
    let value = 0;
    let scale = 1;
    for (let count = 0; count < 8; count += 1) {
      if (this.#at >= this.#bytes.length) throw new WireFormatError("a number ends beyond the message");
      const byte = must(this.#bytes[this.#at], "inside the bytes");
      this.#at += 1;
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) {
        if (!Number.isSafeInteger(value)) throw new WireFormatError("a number is larger than 2^53-1");
        return value;
      }
      scale *= 0x80;
    }
    throw new WireFormatError("a number is larger than 2^53-1");
  }
}
