/**
 * A wire-compatible encoder that copies byte fields once, for the messages that carry file bytes.
 *
 * The generic writer of the protobuf library copies a 1 MiB field twice; this one measures first and writes into one buffer.
 * Its output equals toBinary() byte for byte (a property test compares them). It knows the kinds of fields that bulk messages
 * have: uint32, uint64, bool, string, bytes, messages, and lists of bytes and of messages. Other kinds are refused when it is built.
 */
import { ScalarType, toBinary, type DescField, type DescMessage, type Message } from "@bufbuild/protobuf";
import { AssertionError, assert } from "../std/assert.ts";

/**
 * Turns a message of one type into its bytes, for grpc-js alone: of a large one, only `length`, `byteLength` and `copy(target, at)`
 * can be used, and its byte fields must not change before the copy.
 */
export type FrameEncoder = (message: Message) => Buffer;

type Fields = Readonly<Record<string, unknown>>;

/** A field ready to be written: its size with tag and length, and the writer. */
interface Part {
  readonly sizeBytes: number;
  write(target: Buffer, at: number): number;
}

type FieldEncoder = (message: Fields, parts: Part[]) => void;

/** Smaller frames are made at once: another copy costs less than the detour. */
const MEASURED_FRAME_SIZE_BYTES_MIN = 64 * 1024;

const WIRE_VARINT = 0;
const WIRE_LENGTH_DELIMITED = 2;
const SAFE_BITS = 0x20000000000000n;

function varintSize(value: number): number {
  let size = 1;
  for (let rest = value; rest >= 128; rest = Math.floor(rest / 128)) size += 1;
  return size;
}

function writeVarint(target: Buffer, at: number, value: number): number {
  let rest = value;
  let position = at;
  while (rest >= 128) {
    target[position] = (rest % 128) | 128;
    position += 1;
    rest = Math.floor(rest / 128);
  }
  target[position] = rest;
  return position + 1;
}

function varintPart(tag: number, value: number): Part {
  return {
    sizeBytes: varintSize(tag) + varintSize(value),
    write: (target, at) => writeVarint(target, writeVarint(target, at, tag), value),
  };
}

function bytesPart(tag: number, bytes: Uint8Array): Part {
  return {
    sizeBytes: varintSize(tag) + varintSize(bytes.length) + bytes.length,
    write: (target, at) => {
      const start = writeVarint(target, writeVarint(target, at, tag), bytes.length);
      target.set(bytes, start);
      return start + bytes.length;
    },
  };
}

function refuse(field: DescField): never {
  throw new AssertionError(
    `the frame encoder does not know the kind of ${field.parent.typeName}.${field.name}`,
  );
}

function numberOf(field: DescField): (value: unknown) => number {
  assert(field.fieldKind === "scalar", "a scalar field");
  if (field.scalar === ScalarType.UINT32) return (value) => value as number;
  if (field.scalar === ScalarType.BOOL) return (value) => (value === true ? 1 : 0);
  if (field.scalar !== ScalarType.UINT64) return refuse(field);
  return (value) => {
    assert((value as bigint) < SAFE_BITS, `${field.name} is a safe integer`);
    return Number(value);
  };
}

function bytesOf(field: DescField): ((value: unknown) => Uint8Array) | undefined {
  if (field.fieldKind === "message") {
    const { message } = field;
    return (value) => toBinary(message, value as Message);
  }
  if (field.fieldKind !== "scalar") return undefined;
  if (field.scalar === ScalarType.BYTES) return (value) => value as Uint8Array;
  if (field.scalar === ScalarType.STRING) return (value) => Buffer.from(value as string, "utf8");
  return undefined;
}

/** A list of messages, each measured first, so that their bytes are not gathered in between. */
function messageListEncoder(field: DescField & { fieldKind: "list"; listKind: "message" }): FieldEncoder {
  const tag = field.number * 8 + WIRE_LENGTH_DELIMITED;
  const encoders = fieldEncoders(field.message);
  return (message, parts) => {
    for (const item of message[field.localName] as readonly Message[]) {
      if (item.$unknown !== undefined && item.$unknown.length > 0) {
        parts.push(bytesPart(tag, toBinary(field.message, item)));
        continue;
      }
      const inner: Part[] = [];
      for (const encode of encoders) encode(item as unknown as Fields, inner);
      parts.push(varintPart(tag, sizeOf(inner)), ...inner);
    }
  };
}

function sizeOf(parts: readonly Part[]): number {
  let sizeBytes = 0;
  for (const part of parts) sizeBytes += part.sizeBytes;
  return sizeBytes;
}

function fieldEncoders(schema: DescMessage): readonly FieldEncoder[] {
  return schema.fields.toSorted((a, b) => a.number - b.number).map(fieldEncoder);
}

function fieldEncoder(field: DescField): FieldEncoder {
  if (field.oneof !== undefined) return refuse(field);
  const { localName } = field;
  if (field.fieldKind === "list" && field.listKind === "message") return messageListEncoder(field);
  if (field.fieldKind === "list") {
    if (field.listKind !== "scalar" || field.scalar !== ScalarType.BYTES) return refuse(field);
    const tag = field.number * 8 + WIRE_LENGTH_DELIMITED;
    return (message, parts) => {
      for (const bytes of message[localName] as readonly Uint8Array[]) parts.push(bytesPart(tag, bytes));
    };
  }
  const explicit = field.presence !== 2;
  const toBytes = bytesOf(field);
  if (toBytes !== undefined) {
    const tag = field.number * 8 + WIRE_LENGTH_DELIMITED;
    return (message, parts) => {
      const value = message[localName];
      if (value === undefined) return;
      const bytes = toBytes(value);
      if (explicit || bytes.length > 0) parts.push(bytesPart(tag, bytes));
    };
  }
  if (field.fieldKind !== "scalar") return refuse(field);
  const tag = field.number * 8 + WIRE_VARINT;
  const toNumber = numberOf(field);
  return (message, parts) => {
    const value = message[localName];
    if (value === undefined) return;
    const number = toNumber(value);
    if (explicit || number !== 0) parts.push(varintPart(tag, number));
  };
}

/**
 * A frame that is written straight into the buffer of the library, which puts five bytes before each message and copies it behind
 * them: so the bytes of a chunk are copied once in all, and one buffer of that size less is made.
 *
 * It stands in for a Buffer with the three members that grpc-js uses of one; the bytes must not change before they are copied.
 */
class MeasuredFrame implements Pick<Buffer, "length" | "byteLength"> {
  readonly length: number;
  readonly byteLength: number;
  readonly #parts: readonly Part[];

  constructor(parts: readonly Part[]) {
    this.#parts = parts;
    this.length = sizeOf(parts);
    this.byteLength = this.length;
  }

  /** Writes the frame into `target` from `at` on; returns how many bytes that were. */
  copy(target: Buffer, at = 0): number {
    let end = at;
    for (const part of this.#parts) end = part.write(target, end);
    assert(end === at + this.length, "wrote what was measured");
    return this.length;
  }

  toBuffer(): Buffer {
    const buffer = Buffer.allocUnsafe(this.length);
    this.copy(buffer);
    return buffer;
  }
}

/** Makes the encoder of messages of type `schema`. Throws AssertionError for kinds of fields it does not know. */
export function createFrameEncoder(schema: DescMessage): FrameEncoder {
  const encoders = fieldEncoders(schema);
  return (message) => {
    assert(message.$typeName === schema.typeName, `a ${schema.typeName}, got a ${message.$typeName}`);
    if (message.$unknown !== undefined && message.$unknown.length > 0) {
      return Buffer.from(toBinary(schema, message));
    }
    const parts: Part[] = [];
    for (const encode of encoders) encode(message as unknown as Fields, parts);
    const frame = new MeasuredFrame(parts);
    return frame.length < MEASURED_FRAME_SIZE_BYTES_MIN ? frame.toBuffer() : (frame as unknown as Buffer);
  };
}
