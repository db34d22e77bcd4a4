/**
 * The vocabulary of the consensus core in bytes, and back: netdisk.storage.v1 of proto/netdisk/storage/v1/raft.proto.
 *
 * Log entries and messages between members are encoded by hand (see wire-format.ts) so that the bytes of an entry are made
 * once and shared by the disk and all followers; what is rare goes through the generated code. Nothing else in this folder
 * knows the schema. Decoding checks everything that the core takes for granted and throws WireFormatError.
 */
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import {
  ConfStateSchema,
  LogPositionSchema,
  PromisesSchema,
  SnapshotFooterSchema,
  SnapshotHeaderSchema,
  StateHashSchema,
  StoreCurrentSchema,
  StoreStateSchema,
  type ConfState as ConfStateForm,
} from "../../gen/netdisk/storage/v1/raft_pb.ts";
import { makeMessage, NO_BYTES } from "../raft/message.ts";
import type {
  ConfState,
  HardState,
  LogEntry,
  MemberId,
  Message,
  MessageKind,
  Snapshot,
  SnapshotMetadata,
} from "../raft/types.ts";
import { assert, must } from "../std/assert.ts";
import { utf8 } from "../std/bytes.ts";
import { varintSize, WireFormatError, WireReader, WireWriter } from "./wire-format.ts";

/** Kinds that travel, at the position of their number in RaftMessageKind. Append only. */
const MESSAGE_KINDS: readonly (MessageKind | undefined)[] = [
  undefined,
  "propose",
  "append",
  "append-response",
  "vote",
  "vote-response",
  "pre-vote",
  "pre-vote-response",
  "snapshot",
  "heartbeat",
  "heartbeat-response",
  "transfer-leader",
  "timeout-now",
  "read-index",
  "read-index-response",
  "mend",
  "mend-response",
];

const KIND_NUMBERS: ReadonlyMap<MessageKind, number> = new Map(
  MESSAGE_KINDS.flatMap((kind, number) => (kind === undefined ? [] : [[kind, number] as const])),
);

/** A position in the log. */
export interface LogPosition {
  readonly index: number;
  readonly term: number;
}

/** A member's state hash after applying `index`. */
export interface StateHash {
  readonly from: MemberId;
  readonly index: number;
  readonly term: number;
  /** 8 bytes. */
  readonly hash: Uint8Array;
  /** Whether the receiver shall answer with its own. */
  readonly request: boolean;
}

/** What consensus keeps inside the replicated store. */
export interface StoreState {
  readonly clusterId: string;
  readonly appliedIndex: number;
  readonly appliedTerm: number;
  readonly confState: ConfState;
  /** 8 bytes. */
  readonly stateHash: Uint8Array;
}

/** What the file PROMISES holds. */
export interface PromiseRecord {
  readonly term: number;
  readonly votedFor: MemberId;
  /** Whether entries that were acknowledged may be missing from the log. */
  readonly isMending: boolean;
  /** While mending, the last entry that the log ever had; undefined when that is not certain. */
  readonly lastKnown: LogPosition | undefined;
  /** How far the segments of the log were durable at the latest note; segment 0 for nowhere. */
  readonly durable: { readonly segmentId: number; readonly offset: number };
}

/** Which generation of the replicated store is in use, and the snapshot it came from (index 0: none). */
export interface StoreCurrent {
  readonly generation: number;
  readonly snapshot: LogPosition;
}

/** First block of a snapshot file. */
export interface SnapshotHeader {
  readonly clusterId: string;
  readonly metadata: SnapshotMetadata;
  /** 8 bytes. */
  readonly stateHash: Uint8Array;
}

/** Last block of a snapshot file. */
export interface SnapshotFooter {
  readonly recordCount: number;
  /** Bytes of the file before the block. */
  readonly sizeBytes: number;
}

/** Version of the formats of CURRENT and of snapshot files. */
const FORMAT_VERSION = 1;

/** Encoded bytes by entry. Entries are immutable, so the bytes stay true; they go when the entry goes. */
const encodedEntries = new WeakMap<LogEntry, Uint8Array>();

/** The bytes of a LogEntry. Made once per entry object and shared: never write to them. */
export function encodeLogEntry(entry: LogEntry): Uint8Array {
  const known = encodedEntries.get(entry);
  if (known !== undefined) return known;
  const size = entry.data.length + varintSize(entry.index) + varintSize(entry.term) + 16;
  const writer = new WireWriter(size);
  writer.uint(1, entry.index);
  writer.uint(2, entry.term);
  writer.uint(3, entry.kind === "conf-change" ? 1 : 0);
  writer.bytes(4, entry.data);
  const bytes = writer.finish();
  encodedEntries.set(entry, bytes);
  return bytes;
}

/** The entry in `bytes`, whose data is a view of them: they must not change. Throws WireFormatError. */
export function decodeLogEntry(bytes: Uint8Array): LogEntry {
  const reader = new WireReader(bytes);
  let index = 0;
  let term = 0;
  let kind = 0;
  let data = NO_BYTES;
  let known = true;
  while (reader.next()) {
    if (reader.field === 1) index = reader.uint();
    else if (reader.field === 2) term = reader.uint();
    else if (reader.field === 3) kind = reader.uint();
    else if (reader.field === 4) data = reader.bytes();
    else {
      reader.skip();
      known = false;
    }
  }
  if (index === 0 || term === 0) throw new WireFormatError(`a log entry has index ${index} and term ${term}`);
  if (kind > 1) throw new WireFormatError(`log entry ${index} has unknown kind ${kind}`);
  const entry: LogEntry = { index, term, kind: kind === 1 ? "conf-change" : "normal", data };
  if (known) encodedEntries.set(entry, bytes);
  return entry;
}

/** The same entry in memory of its own, which its data and its encoding share: for entries that are kept. */
export function ownLogEntry(entry: LogEntry): LogEntry {
  return decodeLogEntry(new Uint8Array(encodeLogEntry(entry)));
}

function prefixOf(field: number, sizeBytes: number): Uint8Array {
  const writer = new WireWriter(11);
  writer.prefix(field, sizeBytes);
  return writer.finish();
}

/** The bytes of a HardState; empty for the state of a node that has seen nothing. */
export function encodeHardState(state: HardState): Uint8Array {
  const writer = new WireWriter(32);
  writer.uint(1, state.term);
  writer.uint(2, state.votedFor);
  writer.uint(3, state.commitIndex);
  return writer.finish();
}

/** The hard state in `bytes`. Throws WireFormatError. */
export function decodeHardState(bytes: Uint8Array): HardState {
  const reader = new WireReader(bytes);
  const values = [0, 0, 0, 0];
  while (reader.next()) {
    if (reader.field <= 3) values[reader.field] = reader.uint();
    else reader.skip();
  }
  const [, term = 0, votedFor = 0, commitIndex = 0] = values;
  return { term, votedFor, commitIndex };
}

/** The bytes of a LogPosition. */
export function encodePosition(position: LogPosition): Uint8Array {
  const writer = new WireWriter(24);
  writer.uint(1, position.index);
  writer.uint(2, position.term);
  return writer.finish();
}

/** The position in `bytes`. Throws WireFormatError. */
export function decodePosition(bytes: Uint8Array): LogPosition {
  const reader = new WireReader(bytes);
  const values = [0, 0, 0];
  while (reader.next()) {
    if (reader.field <= 2) values[reader.field] = reader.uint();
    else reader.skip();
  }
  const [, index = 0, term = 0] = values;
  return { index, term };
}

/**
 * The bytes of a message between members, in parts to be sent one after another: the fixed fields, then each entry with
 * the bytes of encodeLogEntry(), shared. `votedFor` and `responses` are local and are not encoded.
 */
export function encodeMessageParts(message: Message): Uint8Array[] {
  const kind = must(KIND_NUMBERS.get(message.kind), `${message.kind} messages never leave the node`);
  const writer = new WireWriter(96 + message.context.length);
  writer.uint(1, kind);
  writer.uint(2, message.from);
  writer.uint(3, message.to);
  writer.uint(4, message.term);
  writer.uint(5, message.logTerm);
  writer.uint(6, message.index);
  writer.uint(8, message.commitIndex);
  writer.bool(9, message.reject);
  writer.uint(10, message.rejectHint);
  writer.bytes(11, message.context);
  if (message.snapshot !== undefined) writer.message(12, encodeSnapshot(message.snapshot));
  writer.uint(13, message.commitTerm);
  const parts = [writer.finish()];
  for (const entry of message.entries) {
    const bytes = encodeLogEntry(entry);
    parts.push(prefixOf(7, bytes.length), bytes);
  }
  return parts;
}

/** The bytes of a RaftMessage: encodeMessageParts() in one piece. */
export function encodeMessage(message: Message): Uint8Array {
  const parts = encodeMessageParts(message);
  const first = parts[0];
  return parts.length === 1 && first !== undefined ? first : Buffer.concat(parts);
}

/** The message in `bytes`, whose entries and context are views of them: they must not change. Throws WireFormatError. */
export function decodeMessage(bytes: Uint8Array): Message {
  const reader = new WireReader(bytes);
  const numbers = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
  const entries: LogEntry[] = [];
  let context = NO_BYTES;
  let snapshot: Snapshot | undefined;
  let commitTerm = 0;
  while (reader.next()) {
    if (reader.field === 7) entries.push(decodeLogEntry(reader.bytes()));
    else if (reader.field <= 10) numbers[reader.field] = reader.uint();
    else if (reader.field === 11) context = reader.bytes();
    else if (reader.field === 12) snapshot = decodeSnapshot(reader.bytes());
    else if (reader.field === 13) commitTerm = reader.uint();
    else reader.skip();
  }
  const at = (field: number): number => must(numbers[field], "a field up to 10");
  const kind = MESSAGE_KINDS[at(1)];
  if (kind === undefined) throw new WireFormatError(`a message of unknown kind ${at(1)}`);
  if (at(2) === 0 || at(3) === 0) throw new WireFormatError(`a ${kind} message from ${at(2)} to ${at(3)}`);
  if ((kind === "snapshot") !== (snapshot !== undefined)) {
    throw new WireFormatError(`a ${kind} message ${snapshot === undefined ? "without" : "with"} a snapshot`);
  }
  checkContiguous(kind, at(6), entries);
  return makeMessage({
    kind,
    from: at(2),
    to: at(3),
    term: at(4),
    logTerm: at(5),
    index: at(6),
    entries,
    commitIndex: at(8),
    commitTerm,
    reject: at(9) !== 0,
    rejectHint: at(10),
    context,
    snapshot,
  });
}

/** The core takes for granted that the entries of an append message follow its index without a gap. */
function checkContiguous(kind: MessageKind, index: number, entries: readonly LogEntry[]): void {
  if (kind !== "append") return;
  for (const [at, entry] of entries.entries()) {
    if (entry.index !== index + 1 + at) {
      throw new WireFormatError(`append after ${index} holds entry ${entry.index} at place ${at}`);
    }
  }
}

function encodeSnapshot(snapshot: Snapshot): Uint8Array {
  const writer = new WireWriter(128 + snapshot.data.length);
  writer.message(1, encodeSnapshotMetadata(snapshot.metadata));
  writer.bytes(2, snapshot.data);
  return writer.finish();
}

function decodeSnapshot(bytes: Uint8Array): Snapshot {
  const reader = new WireReader(bytes);
  let metadata: SnapshotMetadata | undefined;
  let data = NO_BYTES;
  while (reader.next()) {
    if (reader.field === 1) metadata = decodeSnapshotMetadata(reader.bytes());
    else if (reader.field === 2) data = reader.bytes();
    else reader.skip();
  }
  if (metadata === undefined) throw new WireFormatError("a snapshot without metadata");
  return { metadata, data };
}

function encodeSnapshotMetadata(metadata: SnapshotMetadata): Uint8Array {
  const writer = new WireWriter(128);
  writer.uint(1, metadata.index);
  writer.uint(2, metadata.term);
  writer.message(3, encodeConfState(metadata.confState));
  return writer.finish();
}

function decodeSnapshotMetadata(bytes: Uint8Array): SnapshotMetadata {
  const reader = new WireReader(bytes);
  let index = 0;
  let term = 0;
  let confState: ConfState | undefined;
  while (reader.next()) {
    if (reader.field === 1) index = reader.uint();
    else if (reader.field === 2) term = reader.uint();
    else if (reader.field === 3) confState = decodeConfState(reader.bytes());
    else reader.skip();
  }
  if (index === 0 || term === 0 || confState === undefined) {
    throw new WireFormatError(`a snapshot of index ${index} and term ${term}`);
  }
  return { index, term, confState };
}

/** The bytes of a ConfState. */
export function encodeConfState(state: ConfState): Uint8Array {
  return toBinary(ConfStateSchema, confStateForm(state));
}

/** The configuration in `bytes`. Throws WireFormatError. */
export function decodeConfState(bytes: Uint8Array): ConfState {
  return parse(() => confStateOf(fromBinary(ConfStateSchema, bytes)));
}

function confStateForm(state: ConfState): ConfStateForm {
  return create(ConfStateSchema, {
    voters: state.voters.map(BigInt),
    votersOutgoing: state.votersOutgoing.map(BigInt),
    learners: state.learners.map(BigInt),
    learnersNext: state.learnersNext.map(BigInt),
    autoLeave: state.autoLeave,
  });
}

function confStateOf(form: ConfStateForm | undefined): ConfState {
  if (form === undefined) throw new WireFormatError("no configuration");
  return {
    voters: form.voters.map(safe),
    votersOutgoing: form.votersOutgoing.map(safe),
    learners: form.learners.map(safe),
    learnersNext: form.learnersNext.map(safe),
    autoLeave: form.autoLeave,
  };
}

/** The bytes of a StateHash. */
export function encodeStateHash(stateHash: StateHash): Uint8Array {
  return toBinary(
    StateHashSchema,
    create(StateHashSchema, {
      from: BigInt(stateHash.from),
      index: BigInt(stateHash.index),
      term: BigInt(stateHash.term),
      hash: stateHash.hash,
      request: stateHash.request,
    }),
  );
}

/** The state hash in `bytes`. Throws WireFormatError. */
export function decodeStateHash(bytes: Uint8Array): StateHash {
  return parse(() => {
    const form = fromBinary(StateHashSchema, bytes);
    return {
      from: safe(form.from),
      index: safe(form.index),
      term: safe(form.term),
      hash: hashOf(form.hash),
      request: form.request,
    };
  });
}

/** The configuration encoded last, which hardly ever changes, while every batch of entries writes a StoreState. */
let encodedConfState: { readonly of: ConfState; readonly bytes: Uint8Array } | undefined;

/** The bytes of a StoreState. Its configuration must not change afterwards. */
export function encodeStoreState(state: StoreState): Uint8Array {
  const { confState } = state;
  if (encodedConfState?.of !== confState) {
    encodedConfState = { of: confState, bytes: encodeConfState(confState) };
  }
  const clusterId = utf8(state.clusterId);
  const writer = new WireWriter(64 + clusterId.length + encodedConfState.bytes.length);
  writer.bytes(1, clusterId);
  writer.uint(2, state.appliedIndex);
  writer.uint(3, state.appliedTerm);
  writer.message(4, encodedConfState.bytes);
  writer.bytes(5, state.stateHash);
  return writer.finish();
}

/** The store state in `bytes`. Throws WireFormatError. */
export function decodeStoreState(bytes: Uint8Array): StoreState {
  return parse(() => {
    const form = fromBinary(StoreStateSchema, bytes);
    return {
      clusterId: form.clusterId,
      appliedIndex: safe(form.appliedIndex),
      appliedTerm: safe(form.appliedTerm),
      confState: confStateOf(form.confState),
      stateHash: hashOf(form.stateHash),
    };
  });
}

/** The bytes of a PromiseRecord. */
export function encodePromises(record: PromiseRecord): Uint8Array {
  const { term, votedFor, isMending, lastKnown, durable } = record;
  const form = create(PromisesSchema, {
    formatVersion: FORMAT_VERSION,
    term: BigInt(term),
    votedFor: BigInt(votedFor),
    mending: isMending,
    durableSegmentId: durable.segmentId,
    durableOffset: durable.offset,
  });
  if (lastKnown !== undefined) {
    const { index, term: lastTerm } = lastKnown;
    form.lastKnown = create(LogPositionSchema, { index: BigInt(index), term: BigInt(lastTerm) });
  }
  return toBinary(PromisesSchema, form);
}

/** The record in `bytes`. Throws WireFormatError, also for a format of a later version. */
export function decodePromises(bytes: Uint8Array): PromiseRecord {
  return parse(() => {
    const form = fromBinary(PromisesSchema, bytes);
    checkVersion(form.formatVersion);
    const { lastKnown: last } = form;
    return {
      term: safe(form.term),
      votedFor: safe(form.votedFor),
      isMending: form.mending,
      lastKnown: last === undefined ? undefined : { index: safe(last.index), term: safe(last.term) },
      durable: { segmentId: form.durableSegmentId, offset: form.durableOffset },
    };
  });
}

/** The bytes of a StoreCurrent. */
export function encodeStoreCurrent(current: StoreCurrent): Uint8Array {
  return toBinary(
    StoreCurrentSchema,
    create(StoreCurrentSchema, {
      formatVersion: FORMAT_VERSION,
      generation: BigInt(current.generation),
      snapshot: { index: BigInt(current.snapshot.index), term: BigInt(current.snapshot.term) },
    }),
  );
}

/** The pointer in `bytes`. Throws WireFormatError, also for a format of a later version. */
export function decodeStoreCurrent(bytes: Uint8Array): StoreCurrent {
  return parse(() => {
    const form = fromBinary(StoreCurrentSchema, bytes);
    checkVersion(form.formatVersion);
    const snapshot = { index: safe(form.snapshot?.index ?? 0n), term: safe(form.snapshot?.term ?? 0n) };
    return { generation: safe(form.generation), snapshot };
  });
}

/** The bytes of a SnapshotHeader. */
export function encodeSnapshotHeader(header: SnapshotHeader): Uint8Array {
  return toBinary(
    SnapshotHeaderSchema,
    create(SnapshotHeaderSchema, {
      formatVersion: FORMAT_VERSION,
      clusterId: header.clusterId,
      metadata: {
        index: BigInt(header.metadata.index),
        term: BigInt(header.metadata.term),
        confState: confStateForm(header.metadata.confState),
      },
      stateHash: header.stateHash,
    }),
  );
}

/** The header in `bytes`. Throws WireFormatError, also for a format of a later version. */
export function decodeSnapshotHeader(bytes: Uint8Array): SnapshotHeader {
  return parse(() => {
    const form = fromBinary(SnapshotHeaderSchema, bytes);
    checkVersion(form.formatVersion);
    const metadata = form.metadata;
    if (metadata === undefined) throw new WireFormatError("a snapshot header without metadata");
    return {
      clusterId: form.clusterId,
      metadata: {
        index: safe(metadata.index),
        term: safe(metadata.term),
        confState: confStateOf(metadata.confState),
      },
      stateHash: hashOf(form.stateHash),
    };
  });
}

/** The bytes of a SnapshotFooter. */
export function encodeSnapshotFooter(footer: SnapshotFooter): Uint8Array {
  const form = { recordCount: BigInt(footer.recordCount), sizeBytes: BigInt(footer.sizeBytes) };
  return toBinary(SnapshotFooterSchema, create(SnapshotFooterSchema, form));
}

/** The footer in `bytes`. Throws WireFormatError. */
export function decodeSnapshotFooter(bytes: Uint8Array): SnapshotFooter {
  return parse(() => {
    const form = fromBinary(SnapshotFooterSchema, bytes);
    return { recordCount: safe(form.recordCount), sizeBytes: safe(form.sizeBytes) };
  });
}

function checkVersion(version: number): void {
  if (version !== FORMAT_VERSION) {
    throw new WireFormatError(`format version ${version}; this program knows ${FORMAT_VERSION}`);
  }
}

function safe(value: bigint): number {
  const number = Number(value);
  if (!Number.isSafeInteger(number)) throw new WireFormatError(`${value} is larger than 2^53-1`);
  return number;
}

function hashOf(bytes: Uint8Array): Uint8Array {
  if (bytes.length !== 8) throw new WireFormatError(`a state hash of ${bytes.length} bytes`);
  return bytes;
}

/** Runs a decoder; whatever the generated code throws about bad bytes becomes a WireFormatError. */
function parse<T>(decode: () => T): T {
  try {
    return decode();
  } catch (error) {
    if (error instanceof WireFormatError) throw error;
    throw new WireFormatError(error instanceof Error ? error.message : String(error));
  }
}

assert(MESSAGE_KINDS.length === KIND_NUMBERS.size + 1, "each kind of message has one number");
