/**
 * The commands on the tree: make, move, copy, delete and update entries; and the writing of rows for everyone else.
 *
 * Locators are resolved here, inside apply, so an operation by path is atomic. Every change of a row goes through putRow() and
 * removeRow(), which first carry the old value into unfinished copies (copies.ts). Moving a directory, copying it and deleting
 * it are each a bounded number of writes whatever is in it.
 */
import type { Change } from "../drive/change.ts";
import type { Entry, EntryAttributes, Locator, OnConflict, Precondition } from "../drive/entry.ts";
import { MEDIA_TYPE_SIZE_BYTES_MAX } from "../drive/limits.ts";
import { assert } from "../std/assert.ts";
import type { CommandBody, ResultValue } from "./commands.ts";
import { releaseContent, retainContent } from "./contents.ts";
import { hasPrefix, refuse, type ApplyContext } from "./context.ts";
import { findCopy, hasChildren, hasCopiers, markRow, protect, pull, startCopy } from "./copies.ts";
import { findSpot, findSpotAnywhere, isOfSystem, toEntry, type Spot } from "./entries.ts";
import { absentKey, graveyardKey, makeKey, placeKey, rowKey, TABLE } from "./keys.ts";
import { checkNewPath, freeName } from "./names.ts";
import { entryRecordCodec, placeCodec, type EntryRecord } from "./records.ts";

type Body<Kind extends CommandBody["kind"]> = Extract<CommandBody, { readonly kind: Kind }>;

/** Permission bits that an entry may have. */
const MODE_MAX = 0o7777;

/** A spot where something is. */
export type FilledSpot = Spot & { readonly row: EntryRecord };

const shown = (path: readonly string[]): string => `/${path.join("/")}`;

/** Refuses because there is nothing at `path`. */
export function refuseAbsent(path: readonly string[]): never {
  return refuse("PATH_NOT_FOUND", `There is nothing at ${JSON.stringify(shown(path))}.`, {
    path: shown(path),
  });
}

/** The spot of an entry by id, also below the system's root. @throws DriveError PATH_NOT_FOUND */
export function getSpotAnywhere(context: ApplyContext, entryId: number): Spot {
  return findSpotAnywhere(context, entryId) ?? refuseUnknown(entryId);
}

function refuseUnknown(entryId: number): never {
  return refuse("PATH_NOT_FOUND", `There is no entry ${entryId}.`, { entry_id: String(entryId) });
}

/** The spot under a name of the directory at `parent`. */
export function childSpot(context: ApplyContext, parent: Spot, name: string): Spot {
  const { row } = parent;
  if (row === undefined) return refuseAbsent(parent.path);
  if (row.kind !== "directory") {
    refuse("NOT_A_DIRECTORY", `${JSON.stringify(shown(parent.path))} is a file.`, {
      path: shown(parent.path),
    });
  }
  return {
    parentId: row.entryId,
    name,
    row: pull(context, row.entryId, name),
    path: [...parent.path, name],
    ancestorIds: [...parent.ancestorIds, row.entryId],
  };
}

/** Walks a locator. With `createParents` missing directories on the way are made; the last name is not. */
export function locate(context: ApplyContext, locator: Locator, createParents = false): Spot {
  let spot = findSpot(context, locator.baseId) ?? refuseUnknown(locator.baseId);
  for (const name of locator.path) {
    if (spot.row === undefined && createParents) spot = makeDirectory(context, spot, {});
    spot = childSpot(context, spot, name);
  }
  return spot;
}

function getFilled(context: ApplyContext, locator: Locator): FilledSpot {
  const spot = locate(context, locator);
  const { row } = spot;
  return row === undefined ? refuseAbsent(spot.path) : { ...spot, row };
}

/** Refuses unless `precondition` holds for what is, or is not, there. */
export function checkPrecondition(precondition: Precondition, row: EntryRecord | undefined): void {
  const { ifVersions, ifExists, ifAbsent } = precondition;
  const version = row === undefined ? "none" : String(row.version);
  const fail = (what: string): never => refuse("VERSION_MISMATCH", what, { version });
  if (ifAbsent === true && row !== undefined) fail(`There is an entry already, of version ${version}.`);
  if (ifExists === true && row === undefined) fail("There is no entry.");
  if (ifVersions !== undefined && (row === undefined || !ifVersions.includes(row.version))) {
    fail(`The entry's version is ${version}, not ${ifVersions.join(" or ")}.`);
  }
}

/** Refuses attributes out of bounds. */
export function checkAttributes({ mode, mediaType }: EntryAttributes): void {
  if (mode !== undefined && mode > MODE_MAX) {
    refuse("ARGUMENT_INVALID", `A mode is at most ${MODE_MAX.toString(8)} octal.`, { mode: String(mode) });
  }
  if (mediaType !== undefined && Buffer.byteLength(mediaType, "utf8") > MEDIA_TYPE_SIZE_BYTES_MAX) {
    refuse("ARGUMENT_INVALID", `A media type has at most ${MEDIA_TYPE_SIZE_BYTES_MAX} bytes.`);
  }
  // It goes into a header of every download as it is.
  if (mediaType !== undefined && !/^[\x20-\x7e]*$/.test(mediaType)) {
    refuse("ARGUMENT_INVALID", "A media type is printable ASCII.");
  }
}

/** Writes the row of a spot and the way back to it. Counts nothing and tells nobody. */
export function putRow(context: ApplyContext, spot: Spot, row: EntryRecord): void {
  protect(context, spot.parentId, spot.name);
  context.put(rowKey(spot.parentId, spot.name), entryRecordCodec.encode(row));
  if (spot.parentId === 0) return;
  if (spot.row?.entryId !== row.entryId) {
    const place = placeCodec.encode({ parentId: spot.parentId, name: spot.name });
    if (context.isNewEntry(row.entryId)) context.insert(placeKey(row.entryId), place);
    else context.put(placeKey(row.entryId), place);
  }
  markRow(context, spot.parentId, spot.name, true);
}

function removeRow(context: ApplyContext, spot: Spot): void {
  protect(context, spot.parentId, spot.name);
  context.delete(rowKey(spot.parentId, spot.name));
  markRow(context, spot.parentId, spot.name, false);
}

/** The answer with an entry. */
export function entryValue(context: ApplyContext, spot: Spot, row: EntryRecord): ResultValue {
  return { kind: "entry", entry: entryAt(context, spot, row), path: spot.path };
}

/** The entry at a spot, with a row that may differ from the one the spot was found with. */
export function entryAt(context: ApplyContext, spot: Spot, row: EntryRecord): Entry {
  return toEntry(context, spot.parentId, spot.name, row);
}

/** Tells of a change in the tree; of what the system keeps for itself nobody is told. */
function announce(
  context: ApplyContext,
  kind: Change["kind"],
  spot: Spot,
  entry: Entry,
  previous?: { readonly parentId: number; readonly name: string },
): void {
  if (!isOfSystem(spot)) context.emit(kind, entry, previous);
}

function makeDirectory(context: ApplyContext, spot: Spot, attributes: EntryAttributes): FilledSpot {
  checkNewPath(spot.path);
  const row: EntryRecord = {
    entryId: context.newEntryId(),
    kind: "directory",
    version: context.index,
    sizeBytes: 0,
    contentId: 0,
    treeHash: new Uint8Array(0),
    mediaType: attributes.mediaType ?? "",
    mode: attributes.mode,
    modifyTimeMs: attributes.modifyTimeMs ?? context.wallTimeMs,
    createTimeMs: context.wallTimeMs,
  };
  putRow(context, spot, row);
  context.state.directoryCount += 1;
  announce(context, "created", spot, entryAt(context, spot, row));
  return { ...spot, row };
}

/**
 * Where a new entry of `kind` goes when its name may be taken.
 * @returns the spot itself when it is free or `onConflict` is "replace" (then with the row to be replaced), or a free one
 */
export function settleConflict(
  context: ApplyContext,
  spot: Spot,
  kind: "file" | "directory",
  onConflict: OnConflict,
): Spot {
  const { row } = spot;
  if (row === undefined) {
    checkNewPath(spot.path);
    return spot;
  }
  if (onConflict === "fail" || (spot.parentId === 0 && onConflict === "rename")) {
    refuse("PATH_EXISTS", `${JSON.stringify(shown(spot.path))} exists.`, { path: shown(spot.path) });
  }
  if (onConflict === "rename") {
    const isTaken = (name: string): boolean => pull(context, spot.parentId, name) !== undefined;
    const name = freeName(spot.name, kind, isTaken);
    const path = [...spot.path.slice(0, -1), name];
    checkNewPath(path);
    return { ...spot, name, path, row: undefined };
  }
  if (row.kind === kind) return spot;
  const reason = row.kind === "directory" ? "IS_A_DIRECTORY" : "NOT_A_DIRECTORY";
  const shownKind = (each: string): string => (each === "directory" ? "folder" : "file");
  return refuse(
    reason,
    `A ${shownKind(kind)} cannot replace the ${shownKind(row.kind)} ${JSON.stringify(shown(spot.path))}.`,
    {
      path: shown(spot.path),
    },
  );
}

/** create-directory. */
export function createDirectory(context: ApplyContext, body: Body<"create-directory">): ResultValue {
  checkAttributes(body.attributes);
  const spot = locate(context, body.at, body.createParents);
  checkPrecondition(body.precondition, spot.row);
  if (spot.row !== undefined) {
    if (body.existOk && spot.row.kind === "directory") return entryValue(context, spot, spot.row);
    refuse("PATH_EXISTS", `${JSON.stringify(shown(spot.path))} exists.`, { path: shown(spot.path) });
  }
  const made = makeDirectory(context, spot, body.attributes);
  return entryValue(context, made, made.row);
}

function refuseIntoSelf(spot: Spot): never {
  return refuse("MOVE_INTO_SELF", `${JSON.stringify(shown(spot.path))} cannot go into itself.`, {
    path: shown(spot.path),
  });
}

/** Takes away what a move or copy of a directory, or a move of a file, replaces. A directory must be empty. */
function removeReplaced(context: ApplyContext, spot: Spot): Spot {
  const { row } = spot;
  if (row === undefined) return spot;
  if (row.kind === "directory" && hasChildren(context, row.entryId)) {
    refuse("DIRECTORY_NOT_EMPTY", `The folder ${JSON.stringify(shown(spot.path))} is not empty.`, {
      path: shown(spot.path),
    });
  }
  removeEntry(context, { ...spot, row });
  return { ...spot, row: undefined };
}

/** move-entry. */
export function moveEntry(context: ApplyContext, body: Body<"move-entry">): ResultValue {
  const source = getFilled(context, body.source);
  checkPrecondition(body.precondition, source.row);
  const to = locate(context, body.to);
  if (to.ancestorIds.includes(source.row.entryId) || source.parentId === 0) refuseIntoSelf(source);
  if (to.row?.entryId === source.row.entryId) return entryValue(context, source, source.row);
  const target = removeReplaced(context, settleConflict(context, to, source.row.kind, body.onConflict));
  removeRow(context, source);
  const row: EntryRecord = { ...source.row, version: context.index };
  putRow(context, target, row);
  announce(context, "moved", target, entryAt(context, target, row), {
    parentId: source.parentId,
    name: source.name,
  });
  return entryValue(context, target, row);
}

/** copy-entry. */
export function copyEntry(context: ApplyContext, body: Body<"copy-entry">): ResultValue {
  const source = getFilled(context, body.source);
  const to = locate(context, body.to);
  checkPrecondition(body.precondition, to.row);
  if (source.row.kind === "file") {
    const { contentId, sizeBytes, treeHash } = source.row;
    const { mediaType, mode, modifyTimeMs } = source.row;
    retainContent(context, contentId);
    const content = { contentId, sizeBytes, treeHash };
    return placeFile(context, to, body.onConflict, { mediaType, mode, modifyTimeMs }, content, undefined);
  }
  const intoSelf = to.ancestorIds.includes(source.row.entryId) || source.parentId === 0;
  const ontoSelf = to.row?.entryId === source.row.entryId && body.onConflict === "replace";
  if (intoSelf || ontoSelf) refuseIntoSelf(source);
  const target = removeReplaced(context, settleConflict(context, to, "directory", body.onConflict));
  const entryId = context.newEntryId();
  const row: EntryRecord = {
    ...source.row,
    entryId,
    version: context.index,
    createTimeMs: context.wallTimeMs,
  };
  putRow(context, target, row);
  startCopy(context, source.row.entryId, entryId);
  context.state.directoryCount += 1;
  announce(context, "created", target, entryAt(context, target, row));
  return entryValue(context, target, row);
}

/** delete-entry. */
export function deleteEntry(context: ApplyContext, body: Body<"delete-entry">): ResultValue {
  const spot = getFilled(context, body.at);
  checkPrecondition(body.precondition, spot.row);
  if (spot.parentId === 0) refuse("ARGUMENT_INVALID", "The root cannot be deleted.");
  if (!body.recursive && spot.row.kind === "directory" && hasChildren(context, spot.row.entryId)) {
    refuse("DIRECTORY_NOT_EMPTY", `The folder ${JSON.stringify(shown(spot.path))} is not empty.`, {
      path: shown(spot.path),
    });
  }
  const value = entryValue(context, spot, spot.row);
  removeEntry(context, spot);
  return value;
}

/** Takes an entry out of the tree; a directory with anything to it goes to the graveyard. */
function removeEntry(context: ApplyContext, spot: FilledSpot): void {
  const entry = entryAt(context, spot, spot.row);
  removeRow(context, spot);
  buryRow(context, spot.row);
  announce(context, "deleted", spot, entry);
}

/** What becomes of a row that has been removed: a file releases its content, a directory is done or waits to be reclaimed. */
export function buryRow(context: ApplyContext, row: EntryRecord): void {
  const { entryId, kind } = row;
  context.delete(placeKey(entryId));
  if (kind === "file") {
    releaseContent(context, row.contentId);
    context.state.fileCount -= 1;
    return;
  }
  const isBare =
    !hasPrefix(context, makeKey(TABLE.row, [entryId])) &&
    findCopy(context, entryId) === undefined &&
    !hasPrefix(context, absentKey(entryId, new Uint8Array(0))) &&
    !hasCopiers(context, entryId);
  if (isBare) context.state.directoryCount -= 1;
  else context.put(graveyardKey(entryId), entryRecordCodec.encode(row));
}

/** update-entry. */
export function updateEntry(context: ApplyContext, body: Body<"update-entry">): ResultValue {
  checkAttributes(body.attributes);
  const spot = getFilled(context, body.at);
  checkPrecondition(body.precondition, spot.row);
  const { mode, mediaType, modifyTimeMs } = body.attributes;
  const row: EntryRecord = {
    ...spot.row,
    version: context.index,
    mode: mode ?? spot.row.mode,
    mediaType: mediaType ?? spot.row.mediaType,
    modifyTimeMs: modifyTimeMs ?? spot.row.modifyTimeMs,
  };
  putRow(context, spot, row);
  announce(context, "updated", spot, entryAt(context, spot, row));
  return entryValue(context, spot, row);
}

/** What a file row says of its content. */
export interface FileContent {
  readonly contentId: number;
  readonly sizeBytes: number;
  readonly treeHash: Uint8Array;
}

/**
 * Puts a file with a content that is already counted for it at a spot. What it replaces keeps its entry id, creation time and
 * the attributes not given.
 * @param entryId id of a new entry; one is made when undefined
 */
export function placeFile(
  context: ApplyContext,
  at: Spot,
  onConflict: OnConflict,
  attributes: EntryAttributes,
  content: FileContent,
  entryId: number | undefined,
): ResultValue & { readonly kind: "entry" } {
  const spot = settleConflict(context, at, "file", onConflict);
  const old = spot.row;
  const row: EntryRecord = {
    entryId: old?.entryId ?? entryId ?? context.newEntryId(),
    kind: "file",
    version: context.index,
    sizeBytes: content.sizeBytes,
    contentId: content.contentId,
    treeHash: content.treeHash,
    mediaType: attributes.mediaType ?? old?.mediaType ?? "",
    mode: attributes.mode ?? old?.mode,
    modifyTimeMs: attributes.modifyTimeMs ?? context.wallTimeMs,
    createTimeMs: old?.createTimeMs ?? context.wallTimeMs,
  };
  assert(spot.parentId > 0, "the root is no file");
  putRow(context, spot, row);
  if (old === undefined) context.state.fileCount += 1;
  else releaseContent(context, old.contentId);
  const entry = entryAt(context, spot, row);
  announce(context, old === undefined ? "created" : "updated", spot, entry);
  return { kind: "entry", entry, path: spot.path };
}

/** A directory that a path from an entry leads to, each name on the way pulled; undefined when it leads to a file. */
export function pullPath(context: ApplyContext, baseId: number, path: readonly string[]): number | undefined {
  let spot = getSpotAnywhere(context, baseId);
  for (const name of path) spot = childSpot(context, spot, name);
  const { row } = spot;
  if (row === undefined) return refuseAbsent(spot.path);
  return row.kind === "directory" ? row.entryId : undefined;
}
