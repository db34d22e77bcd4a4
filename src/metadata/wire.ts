/**
 * Protocol Buffers wire format from a table of fields, for the records, commands and results of the state machine.
 *
 * The schemas are proto/netdisk/storage/v1/metadata*.proto; a test compares what is written here with the generated code in
 * both directions. The generated code is not used itself because its numbers are bigint and its oneofs have another shape: a
 * second copy of every message would be made on a path that runs once for each small file. (A put-small: 6.1 us to decode and
 * 3.4 us to encode here; 3.6 us and 5.9 us with the generated code, before that conversion.) The tables are checked against
 * the types, so a field cannot be forgotten.
 * Zero, false and empty values are left out, as proto3 prescribes; unknown fields are skipped; damage is an AssertionError,
 * because what is decoded here was committed, and a replica that cannot read it must not go on.
 */
import { assert, AssertionError, must } from "../std/assert.ts";
import { asBuffer, copyOfStart } from "../std/bytes.ts";

const VARINT = 0;
const FIXED64 = 1;
const LENGTH_DELIMITED = 2;
const FIXED32 = 5;

/** Writes fields into a growing buffer. */
class WireWriter {
  #bytes: Buffer = Buffer.allocUnsafe(1024);
  #at = 0;

  reset(): void {
    this.#at = 0;
  }

  /** A copy of what was written. */
  finish(): Uint8Array {
    return copyOfStart(this.#bytes, this.#at);
  }

  get position(): number {
    return this.#at;
  }

  varint(value: number): void {
    this.#reserve(10);
    let rest = value;
    while (rest >= 0x80) {
      this.#bytes[this.#at++] = (rest % 0x80) | 0x80;
      rest = Math.floor(rest / 0x80);
    }
    this.#bytes[this.#at++] = rest;
  }

  tag(field: number, type: number): void {
    this.varint(field * 8 + type);
  }

  bytes(value: Uint8Array): void {
    this.varint(value.length);
    this.#reserve(value.length);
    this.#bytes.set(value, this.#at);
    this.#at += value.length;
  }

  text(value: string): void {
    const start = this.begin();
    this.#reserve(value.length * 3);
    this.#at += this.#bytes.write(value, this.#at, "utf8");
    this.end(start);
  }

  /** Opens a length-delimited value: leaves one byte for its length. */
  begin(): number {
    this.#reserve(1);
    this.#at += 1;
    return this.#at;
  }

  /** Closes a value opened by begin(), moving it when its length needs more than the byte left for it. */
  end(start: number): void {
    const length = this.#at - start;
    if (length < 0x80) {
      this.#bytes[start - 1] = length;
      return;
    }
    let extra = 0;
    for (let rest = length; rest >= 0x80; rest = Math.floor(rest / 0x80)) extra += 1;
    this.#reserve(extra);
    this.#bytes.copyWithin(start + extra, start, start + length);
    this.#at = start - 1;
    this.varint(length);
    this.#at = start + extra + length;
  }

  #reserve(length: number): void {
    if (this.#at + length <= this.#bytes.length) return;
    const larger = Buffer.allocUnsafe(Math.max(this.#bytes.length * 2, this.#at + length));
    larger.set(this.#bytes.subarray(0, this.#at));
    this.#bytes = larger;
  }
}

/** Reads fields of one message. */
class WireReader {
  readonly #bytes: Uint8Array;
  #at: number;
  readonly #end: number;

  constructor(bytes: Uint8Array, start: number, end: number) {
    this.#bytes = bytes;
    this.#at = start;
    this.#end = end;
  }

  get done(): boolean {
    return this.#at >= this.#end;
  }

  varint(): number {
    let value = 0;
    let scale = 1;
    for (let i = 0; i < 10; i += 1) {
      assert(this.#at < this.#end, "a varint runs beyond its message");
      const byte = this.#bytes[this.#at++] as number;
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) {
        assert(Number.isSafeInteger(value), "a number is beyond 2^53-1");
        return value;
      }
      scale *= 0x80;
    }
    throw new AssertionError("a varint has more than ten bytes");
  }

  /** The bounds of a length-delimited value, which is then behind the reader. */
  span(): { readonly start: number; readonly end: number } {
    const length = this.varint();
    const start = this.#at;
    assert(length <= this.#end - start, "a value runs beyond its message");
    this.#at = start + length;
    return { start, end: this.#at };
  }

  bytes(): Uint8Array {
    const { start, end } = this.span();
    return this.#bytes.subarray(start, end);
  }

  text(): string {
    const { start, end } = this.span();
    const bytes = this.#bytes;
    return (Buffer.isBuffer(bytes) ? bytes : asBuffer(bytes)).toString("utf8", start, end);
  }

  message(): WireReader {
    const { start, end } = this.span();
    return new WireReader(this.#bytes, start, end);
  }

  skip(type: number): void {
    if (type === VARINT) this.varint();
    else if (type === FIXED64) this.#at += 8;
    else if (type === LENGTH_DELIMITED) this.span();
    else if (type === FIXED32) this.#at += 4;
    else throw new AssertionError(`wire type ${type} is not used`);
    assert(this.#at <= this.#end, "a field runs beyond its message");
  }
}

/** One field of a message: its number and how its value is written and read. */
export interface Field<T> {
  readonly number: number;
  write(writer: WireWriter, value: T): void;
  /** @param before the value read so far, for repeated fields */
  read(reader: WireReader, type: number, before: T): T;
  initial(): T;
  /** Whether initial() is asked only for a message that does not have the field, because it costs. */
  readonly isLate?: boolean;
}

/** Encodes and decodes one kind of message. */
export interface Codec<T> {
  encode(value: T): Uint8Array;
  decode(bytes: Uint8Array): T;
  /** For messages inside messages. */
  readonly inner: {
    write(writer: WireWriter, value: T): void;
    read(reader: WireReader): T;
  };
}

// Encoding is synchronous and does not nest, so one buffer serves all of it.
const scratch = new WireWriter();

/**
 * A codec of the message with these fields.
 * @param sparse leaves absent optional fields out of what is decoded, for messages with many of which few are there
 */
export function message<T extends object>(
  fields: { readonly [K in keyof T]-?: Field<T[K]> },
  { sparse = false }: { readonly sparse?: boolean } = {},
): Codec<T> {
  const names = Object.keys(fields) as (keyof T & string)[];
  const list = names.map((name) => ({ name, field: fields[name] as Field<unknown> }));
  const byNumber: ({ readonly name: keyof T & string; readonly field: Field<unknown> } | undefined)[] = [];
  for (const each of list) {
    assert(byNumber[each.field.number] === undefined, `field number ${each.field.number} is used twice`);
    byNumber[each.field.number] = each;
  }
  const started = list.filter(({ field }) => !sparse || field.initial() !== undefined);
  const late = started.filter(({ field }) => field.isLate === true);
  const isFresh = ({ field }: (typeof list)[number]): boolean =>
    field.isLate !== true && typeof field.initial() === "object" && field.initial() !== field.initial();
  /** Fields that start with a value of their own, which reading adds to. */
  const fresh = started.filter(isFresh);
  const blank = Object.fromEntries(
    started.map((each) => [
      each.name,
      each.field.isLate === true || isFresh(each) ? undefined : each.field.initial(),
    ]),
  );
  const write = (writer: WireWriter, value: T): void => {
    for (const { name, field } of list) field.write(writer, value[name]);
  };
  const read = (reader: WireReader): T => {
    // One shape for all messages of a kind, made at once: adding field by field costs a multiple.
    const result: Record<string, unknown> = { ...blank };
    for (const { name, field } of fresh) result[name] = field.initial();
    while (!reader.done) {
      const tag = reader.varint();
      const known = byNumber[Math.floor(tag / 8)];
      if (known === undefined) reader.skip(tag % 8);
      else result[known.name] = known.field.read(reader, tag % 8, result[known.name]);
    }
    for (const { name, field } of late) result[name] ??= field.initial();
    return result as T;
  };
  return {
    encode: (value) => {
      scratch.reset();
      write(scratch, value);
      return scratch.finish();
    },
    decode: (bytes) => read(new WireReader(bytes, 0, bytes.length)),
    inner: { write, read },
  };
}

function expectType(type: number, wanted: number): void {
  assert(type === wanted, `a field has wire type ${type}, not ${wanted}`);
}

function writeUint(writer: WireWriter, number: number, value: number): void {
  assert(Number.isSafeInteger(value) && value >= 0, `field ${number} holds ${value}`);
  writer.tag(number, VARINT);
  writer.varint(value);
}

const readUint = (reader: WireReader, type: number): number => {
  expectType(type, VARINT);
  return reader.varint();
};

/** A safe integer that is not negative. */
export function uint(number: number): Field<number> {
  return {
    number,
    write: (writer, value) => {
      if (value !== 0) writeUint(writer, number, value);
    },
    read: readUint,
    initial: () => 0,
  };
}

const zigzag = (value: number): number => (value < 0 ? -value * 2 - 1 : value * 2);
const unzigzag = (value: number): number => (value % 2 === 0 ? value / 2 : -(value + 1) / 2);

/** An integer of either sign, up to 2^52 (sint64). */
export function sint(number: number): Field<number> {
  return {
    number,
    write: (writer, value) => {
      if (value !== 0) writeUint(writer, number, zigzag(value));
    },
    read: (reader, type) => unzigzag(readUint(reader, type)),
    initial: () => 0,
  };
}

/** A truth value. */
export function bool(number: number): Field<boolean> {
  return {
    number,
    write: (writer, value) => {
      if (value) writeUint(writer, number, 1);
    },
    read: (reader, type) => readUint(reader, type) !== 0,
    initial: () => false,
  };
}

/** One of `names`; the first has the enum number 1. Absence is an error. */
export function oneOf<T extends string>(number: number, names: readonly T[]): Field<T> {
  return {
    number,
    write: (writer, value) => writeUint(writer, number, names.indexOf(value) + 1),
    read: (reader, type) => must(names[readUint(reader, type) - 1], `a known value of enum field ${number}`),
    // A required enum always follows on the wire; the first value stands in until it has been read.
    initial: () => must(names[0], "an enum has values"),
  };
}

/** Text. */
export function text(number: number): Field<string> {
  return {
    number,
    write: (writer, value) => {
      if (value === "") return;
      writer.tag(number, LENGTH_DELIMITED);
      writer.text(value);
    },
    read: (reader, type) => {
      expectType(type, LENGTH_DELIMITED);
      return reader.text();
    },
    initial: () => "",
  };
}

const EMPTY = new Uint8Array(0);

/** Bytes. What is read is a view of the decoded message. */
export function bytes(number: number): Field<Uint8Array> {
  return {
    number,
    write: (writer, value) => {
      if (value.length === 0) return;
      writer.tag(number, LENGTH_DELIMITED);
      writer.bytes(value);
    },
    read: (reader, type) => {
      expectType(type, LENGTH_DELIMITED);
      return reader.bytes();
    },
    initial: () => EMPTY,
  };
}

/** An integer of either sign that may be absent. */
export function optionalSint(number: number): Field<number | undefined> {
  return {
    number,
    write: (writer, value) => {
      if (value !== undefined) writeUint(writer, number, zigzag(value));
    },
    read: (reader, type) => unzigzag(readUint(reader, type)),
    initial: () => undefined,
  };
}

/** An integer that may be absent; zero is written. */
export function optionalUint(number: number): Field<number | undefined> {
  return {
    number,
    write: (writer, value) => {
      if (value !== undefined) writeUint(writer, number, value);
    },
    read: readUint,
    initial: () => undefined,
  };
}

/** A truth value that may be absent. */
export function optionalBool(number: number): Field<boolean | undefined> {
  return {
    number,
    write: (writer, value) => {
      if (value !== undefined) writeUint(writer, number, value ? 1 : 0);
    },
    read: (reader, type) => readUint(reader, type) !== 0,
    initial: () => undefined,
  };
}

/** Text that may be absent; empty text is written. */
export function optionalText(number: number): Field<string | undefined> {
  return {
    number,
    write: (writer, value) => {
      if (value === undefined) return;
      writer.tag(number, LENGTH_DELIMITED);
      writer.text(value);
    },
    read: (reader, type) => {
      expectType(type, LENGTH_DELIMITED);
      return reader.text();
    },
    initial: () => undefined,
  };
}

function writeMessage<T>(writer: WireWriter, number: number, codec: Codec<T>, value: T): void {
  writer.tag(number, LENGTH_DELIMITED);
  const start = writer.begin();
  codec.inner.write(writer, value);
  writer.end(start);
}

function readMessage<T>(reader: WireReader, type: number, codec: Codec<T>): T {
  expectType(type, LENGTH_DELIMITED);
  return codec.inner.read(reader.message());
}

/** A message that is always there. */
export function inner<T extends object>(number: number, codec: Codec<T>): Field<T> {
  return {
    number,
    write: (writer, value) => writeMessage(writer, number, codec, value),
    read: (reader, type) => readMessage(reader, type, codec),
    initial: () => codec.decode(EMPTY),
    isLate: true,
  };
}

/** A message that may be absent. */
export function optionalInner<T extends object>(number: number, codec: Codec<T>): Field<T | undefined> {
  return {
    number,
    write: (writer, value) => {
      if (value !== undefined) writeMessage(writer, number, codec, value);
    },
    read: (reader, type) => readMessage(reader, type, codec),
    initial: () => undefined,
  };
}

/** Messages in order. */
export function repeatedInner<T extends object>(number: number, codec: Codec<T>): Field<readonly T[]> {
  return {
    number,
    write: (writer, value) => {
      for (const each of value) writeMessage(writer, number, codec, each);
    },
    read: (reader, type, before) => {
      (before as T[]).push(readMessage(reader, type, codec));
      return before;
    },
    initial: () => [],
  };
}

/** Texts in order. */
export function repeatedText(number: number): Field<readonly string[]> {
  return {
    number,
    write: (writer, value) => {
      for (const each of value) {
        writer.tag(number, LENGTH_DELIMITED);
        writer.text(each);
      }
    },
    read: (reader, type, before) => {
      expectType(type, LENGTH_DELIMITED);
      (before as string[]).push(reader.text());
      return before;
    },
    initial: () => [],
  };
}

/** Integers in order (packed). */
export function repeatedUint(number: number): Field<readonly number[]> {
  return {
    number,
    write: (writer, value) => {
      if (value.length === 0) return;
      writer.tag(number, LENGTH_DELIMITED);
      const start = writer.begin();
      for (const each of value) {
        assert(Number.isSafeInteger(each) && each >= 0, `field ${number} holds ${each}`);
        writer.varint(each);
      }
      writer.end(start);
    },
    read: (reader, type, before) => {
      const list = before as number[];
      if (type === VARINT) {
        list.push(reader.varint());
        return before;
      }
      expectType(type, LENGTH_DELIMITED);
      const packed = reader.message();
      while (!packed.done) list.push(packed.varint());
      return before;
    },
    initial: () => [],
  };
}

const mapEntry = message<{ readonly key: string; readonly value: string }>({ key: text(1), value: text(2) });

/** A map from text to text, written in key order so that equal maps have equal bytes. */
export function textMap(number: number): Field<Readonly<Record<string, string>>> {
  return {
    number,
    write: (writer, value) => {
      for (const key of Object.keys(value).sort()) {
        writeMessage(writer, number, mapEntry, { key, value: must(value[key], "a key of the map") });
      }
    },
    read: (reader, type, before) => {
      const { key, value } = readMessage(reader, type, mapEntry);
      return { ...before, [key]: value };
    },
    initial: () => ({}),
  };
}

/** A field whose value has another form on the wire. */
export function mapped<T, U>(field: Field<U>, to: (value: T) => U, from: (value: U) => T): Field<T> {
  return {
    number: field.number,
    write: (writer, value) => field.write(writer, to(value)),
    read: (reader, type, before) => from(field.read(reader, type, to(before))),
    initial: () => from(field.initial()),
  };
}
