/**
 * Between the messages of netdisk.v1 and the types of drive/.
 *
 * Shared by every edge that speaks these messages: gRPC and Connect. Here bigint becomes number: a value beyond the safe
 * integers is refused with ARGUMENT_INVALID. Unknown enum values are refused, unspecified ones mean the default that the protos
 * name. Decoding checks form alone; whether a path or a page size is acceptable is for the drive.
 */
import { timestampFromMs, timestampMs, type Timestamp } from "@bufbuild/protobuf/wkt";
import type { MessageInitShape } from "@bufbuild/protobuf";
import {
  ChangeKind,
  type ChangeSchema,
  Consistency as WireConsistency,
  EntryKind,
  OnConflict as WireOnConflict,
  type Change as WireChange,
  type Entry as WireEntry,
  type EntryAttributes as WireAttributes,
  type EntryAttributesSchema,
  type EntryRef as WireRef,
  type EntryRefSchema,
  type EntrySchema,
  type PathEntry as WirePathEntry,
  type PathEntrySchema,
  type Precondition as WirePrecondition,
  type PreconditionSchema,
} from "../../gen/netdisk/v1/entry_pb.ts";
import type { Change } from "../drive/change.ts";
import type { Consistency, EntryRef, PathEntry, ReadOptions, WriteOptions } from "../drive/drive-api.ts";
import type { Entry, EntryAttributes, OnConflict, Precondition } from "../drive/entry.ts";
import { DriveError } from "../drive/errors.ts";

/** The number that a uint64 holds. `name` is said in the error. Throws DriveError ARGUMENT_INVALID beyond 2^53-1. */
export function toNumber(value: bigint, name: string): number {
  const number = Number(value);
  if (Number.isSafeInteger(number)) return number;
  throw new DriveError("ARGUMENT_INVALID", `${name} is ${value}; at most 2^53-1 is allowed.`, {
    field: name,
    value: String(value),
  });
}

/** As toNumber(), for a field that may be absent. */
export function toOptionalNumber(value: bigint | undefined, name: string): number | undefined {
  return value === undefined ? undefined : toNumber(value, name);
}

/** The uint64 of a non-negative safe integer. */
export function toBigint(value: number): bigint {
  return BigInt(value);
}

/** As toBigint(), for a value that may be undefined. */
export function toOptionalBigint(value: number | undefined): bigint | undefined {
  return value === undefined ? undefined : BigInt(value);
}

/** Refuses a request with ARGUMENT_INVALID, naming the field. */
export function refuseField(field: string, problem: string): never {
  throw new DriveError("ARGUMENT_INVALID", `The field ${field} ${problem}.`, { field });
}

/** The value of a required message field. Throws ARGUMENT_INVALID when it is absent. */
export function required<T>(value: T | undefined, field: string): T {
  return value ?? refuseField(field, "is required");
}

/** The key of `table` that has `value`. Throws ARGUMENT_INVALID for one that this version does not know. */
export function keyOf<K extends string>(table: Readonly<Record<K, number>>, value: number, field: string): K {
  const keys = Object.keys(table) as K[];
  return keys.find((key) => table[key] === value) ?? refuseField(field, `has the unknown value ${value}`);
}

/** Milliseconds since 1970 of a timestamp; 0 when absent. Sub-millisecond parts are cut off. */
export function decodeTime(time: Timestamp | undefined): number {
  return time === undefined ? 0 : Math.floor(timestampMs(time));
}

/** The timestamp of milliseconds since 1970. */
export function encodeTime(timeMs: number): Timestamp {
  return timestampFromMs(timeMs);
}

/** Turns keys whose value is undefined into absent ones. */
export function present<T extends object>(value: T): { [K in keyof T]: Exclude<T[K], undefined> } {
  const entries = Object.entries(value).filter(([, each]) => each !== undefined);
  return Object.fromEntries(entries) as { [K in keyof T]: Exclude<T[K], undefined> };
}

const ON_CONFLICT: ReadonlyMap<number, OnConflict> = new Map<number, OnConflict>([
  [WireOnConflict.UNSPECIFIED, "fail"],
  [WireOnConflict.FAIL, "fail"],
  [WireOnConflict.RENAME, "rename"],
  [WireOnConflict.REPLACE, "replace"],
]);

/** What to do when the name is taken. */
export function decodeOnConflict(value: number): OnConflict {
  return ON_CONFLICT.get(value) ?? refuseField("on_conflict", `has the unknown value ${value}`);
}

/** As decodeOnConflict(), where unspecified means undefined. */
export function decodeOptionalOnConflict(value: number): OnConflict | undefined {
  return value === WireOnConflict.UNSPECIFIED ? undefined : decodeOnConflict(value);
}

/** The wire form of decodeOnConflict(). */
export function encodeOnConflict(value: OnConflict): WireOnConflict {
  const wire = { fail: WireOnConflict.FAIL, rename: WireOnConflict.RENAME, replace: WireOnConflict.REPLACE };
  return wire[value];
}

/** How fresh a read must be. */
export function decodeConsistency(value: number): Consistency {
  if (value === WireConsistency.STALE) return "stale";
  if (value === WireConsistency.LINEARIZABLE || value === WireConsistency.UNSPECIFIED) return "linearizable";
  return refuseField("consistency", `has the unknown value ${value}`);
}

/** The wire form of decodeConsistency(). */
export function encodeConsistency(value: Consistency | undefined): WireConsistency {
  return value === "stale" ? WireConsistency.STALE : WireConsistency.LINEARIZABLE;
}

/** Which entry is meant. */
export function decodeRef(ref: WireRef | undefined): EntryRef {
  const { ref: named } = required(ref, "ref");
  switch (named.case) {
    case "entryId":
      return { entryId: toNumber(named.value, "ref.entry_id") };
    case "path":
      return { path: named.value };
    case undefined:
      return refuseField("ref", "names neither an id nor a path");
  }
}

/** The wire form of decodeRef(). */
export function encodeRef(ref: EntryRef): MessageInitShape<typeof EntryRefSchema> {
  if ("entryId" in ref) return { ref: { case: "entryId", value: toBigint(ref.entryId) } };
  return { ref: { case: "path", value: ref.path } };
}

/** Attributes to set. */
export function decodeAttributes(attributes: WireAttributes | undefined): EntryAttributes {
  if (attributes === undefined) return {};
  const { modifyTime, mode, mediaType } = attributes;
  return present({ modifyTimeMs: modifyTime && decodeTime(modifyTime), mode, mediaType });
}

/** The wire form of decodeAttributes(). */
export function encodeAttributes(
  attributes: EntryAttributes,
): MessageInitShape<typeof EntryAttributesSchema> {
  const { modifyTimeMs, mode, mediaType } = attributes;
  const modifyTime = modifyTimeMs === undefined ? undefined : encodeTime(modifyTimeMs);
  return present({ modifyTime, mode, mediaType });
}

/** What must hold. */
export function decodePrecondition(precondition: WirePrecondition | undefined): Precondition | undefined {
  if (precondition === undefined) return undefined;
  const { ifVersions, ifExists, ifAbsent } = precondition;
  const versions = ifVersions?.versions.map((version) => toNumber(version, "if_versions"));
  return present({ ifVersions: versions, ifExists: ifExists || undefined, ifAbsent: ifAbsent || undefined });
}

/** The wire form of decodePrecondition(). */
export function encodePrecondition(precondition: Precondition | undefined): {
  precondition?: MessageInitShape<typeof PreconditionSchema>;
} {
  if (precondition === undefined) return {};
  const { ifVersions, ifExists = false, ifAbsent = false } = precondition;
  const versions = ifVersions === undefined ? {} : { ifVersions: { versions: ifVersions.map(toBigint) } };
  return { precondition: { ...versions, ifExists, ifAbsent } };
}

/** Options of a read, with the call's signal. */
export function readOptions(request: { consistency: number }, signal: AbortSignal): ReadOptions {
  return { consistency: decodeConsistency(request.consistency), signal };
}

/** Options of a mutation, with the call's signal. */
export function writeOptions(
  request: { readonly requestId: string; readonly precondition?: WirePrecondition | undefined },
  signal: AbortSignal,
): WriteOptions {
  const precondition = decodePrecondition(request.precondition);
  return {
    signal,
    ...(request.requestId !== "" && { requestId: request.requestId }),
    ...(precondition !== undefined && { precondition }),
  };
}

/** The wire form of an entry. */
export function encodeEntry(entry: Entry): MessageInitShape<typeof EntrySchema> {
  return {
    entryId: toBigint(entry.entryId),
    parentId: toBigint(entry.parentId),
    name: entry.name,
    kind: entry.kind === "file" ? EntryKind.FILE : EntryKind.DIRECTORY,
    version: toBigint(entry.version),
    sizeBytes: toBigint(entry.sizeBytes),
    contentId: toBigint(entry.contentId),
    treeHash: entry.treeHash,
    sha256: entry.sha256,
    mediaType: entry.mediaType,
    ...(entry.mode !== undefined && { mode: entry.mode }),
    modifyTime: encodeTime(entry.modifyTimeMs),
    createTime: encodeTime(entry.createTimeMs),
  };
}

/** The entry in a message. */
export function decodeEntry(entry: WireEntry | undefined): Entry {
  const wire = required(entry, "entry");
  return {
    entryId: toNumber(wire.entryId, "entry_id"),
    parentId: toNumber(wire.parentId, "parent_id"),
    name: wire.name,
    kind: wire.kind === EntryKind.DIRECTORY ? "directory" : "file",
    version: toNumber(wire.version, "version"),
    sizeBytes: toNumber(wire.sizeBytes, "size_bytes"),
    contentId: toNumber(wire.contentId, "content_id"),
    treeHash: wire.treeHash,
    sha256: wire.sha256,
    mediaType: wire.mediaType,
    mode: wire.mode,
    modifyTimeMs: decodeTime(wire.modifyTime),
    createTimeMs: decodeTime(wire.createTime),
  };
}

/** The wire form of an entry with its path. */
export function encodePathEntry(pathEntry: PathEntry): MessageInitShape<typeof PathEntrySchema> {
  return { entry: encodeEntry(pathEntry.entry), path: pathEntry.path };
}

/** The entry with its path in a message. */
export function decodePathEntry(pathEntry: WirePathEntry | undefined): PathEntry {
  const { entry, path } = required(pathEntry, "path_entry");
  return { entry: decodeEntry(entry), path };
}

const CHANGE_KINDS: Readonly<Record<Change["kind"], ChangeKind>> = {
  created: ChangeKind.CREATED,
  updated: ChangeKind.UPDATED,
  moved: ChangeKind.MOVED,
  deleted: ChangeKind.DELETED,
};

/** The wire form of a change. */
export function encodeChange(change: Change): MessageInitShape<typeof ChangeSchema> {
  const { previous } = change;
  return {
    index: toBigint(change.index),
    position: change.position,
    kind: CHANGE_KINDS[change.kind],
    entry: encodeEntry(change.entry),
    ...(previous && { previous: { parentId: toBigint(previous.parentId), name: previous.name } }),
  };
}

/** The change in a message. */
export function decodeChange(change: WireChange): Change {
  const { previous } = change;
  return {
    index: toNumber(change.index, "index"),
    position: change.position,
    kind: keyOf(CHANGE_KINDS, change.kind, "kind"),
    entry: decodeEntry(change.entry),
    previous: previous && { parentId: toNumber(previous.parentId, "parent_id"), name: previous.name },
  };
}
