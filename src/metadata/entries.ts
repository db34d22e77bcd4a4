/**
 * Reading the tree: rows, places, the way up to the root, and entries as callers see them.
 *
 * Pure functions over a reader, shared by commands (tree.ts) and by reads (view.ts). They see materialised rows only; what an
 * unfinished copy does not hold yet is the business of copies.ts.
 */
import { ROOT_ENTRY_ID, SYSTEM_ROOT_ENTRY_ID, type Entry } from "../drive/entry.ts";
import { DriveError } from "../drive/errors.ts";
import { ANCESTOR_COUNT_MAX, CHUNK_SIZE_BYTES } from "../drive/limits.ts";
import { must } from "../std/assert.ts";
import type { OrderedReader } from "../std/ordered-store.ts";
import { readRecord } from "./context.ts";
import { contentKey, placeKey, rowKey } from "./keys.ts";
import { contentCodec, entryRecordCodec, placeCodec, type EntryRecord, type PlaceRecord } from "./records.ts";

/** The root before anybody changed its attributes. */
const FIRST_ROOT: EntryRecord = {
  entryId: ROOT_ENTRY_ID,
  kind: "directory",
  version: 0,
  sizeBytes: 0,
  contentId: 0,
  treeHash: new Uint8Array(0),
  mediaType: "",
  mode: undefined,
  modifyTimeMs: 0,
  createTimeMs: 0,
};

/** The name of the system's root beside the root, which has the empty one. */
const SYSTEM_ROOT_NAME = "system";

/** A place in the tree and what is there. */
export interface Spot {
  /** 0 for the root. */
  readonly parentId: number;
  /** "" for the root. */
  readonly name: string;
  readonly row: EntryRecord | undefined;
  /** Names from the root. */
  readonly path: readonly string[];
  /** Directories from the root to the parent, both included; empty for the root. */
  readonly ancestorIds: readonly number[];
}

/** The row under (parentId, name); (0, "") is the root. */
export function findRow(reader: OrderedReader, parentId: number, name: string): EntryRecord | undefined {
  const row = readRecord(reader, rowKey(parentId, name), entryRecordCodec);
  if (row !== undefined || parentId !== 0) return row;
  return name === SYSTEM_ROOT_NAME ? { ...FIRST_ROOT, entryId: SYSTEM_ROOT_ENTRY_ID } : FIRST_ROOT;
}

/** The root's place. */
export function rootSpot(reader: OrderedReader): Spot {
  return { parentId: 0, name: "", row: findRow(reader, 0, ""), path: [], ancestorIds: [] };
}

function systemRootSpot(reader: OrderedReader): Spot {
  const row = findRow(reader, 0, SYSTEM_ROOT_NAME);
  return { parentId: 0, name: SYSTEM_ROOT_NAME, row, path: [], ancestorIds: [] };
}

/** Where an entry is, or was before something above it was deleted. */
export function findPlace(reader: OrderedReader, entryId: number): PlaceRecord | undefined {
  return readRecord(reader, placeKey(entryId), placeCodec);
}

/**
 * The directories from the root down to `directoryId`, each with its name; undefined when the walk up does not end at a
 * root, because something on it was deleted. The root may be the system's.
 * @throws DriveError PATH_TOO_DEEP beyond ANCESTOR_COUNT_MAX
 */
export function findAncestors(
  reader: OrderedReader,
  directoryId: number,
): { readonly id: number; readonly name: string }[] | undefined {
  const chain: { readonly id: number; readonly name: string }[] = [];
  let id = directoryId;
  while (id !== ROOT_ENTRY_ID && id !== SYSTEM_ROOT_ENTRY_ID) {
    const place = findPlace(reader, id);
    if (place === undefined) return undefined;
    chain.push({ id, name: place.name });
    id = place.parentId;
    if (chain.length > ANCESTOR_COUNT_MAX) {
      throw new DriveError("PATH_TOO_DEEP", `The entry lies more than ${ANCESTOR_COUNT_MAX} folders deep.`, {
        depth_max: String(ANCESTOR_COUNT_MAX),
      });
    }
  }
  chain.push({ id, name: "" });
  return chain.reverse();
}

/**
 * Where a locator begins: the place of an entry of the tree by its id, or the system's root; undefined when it is neither.
 * @throws DriveError PATH_TOO_DEEP
 */
export function findSpot(reader: OrderedReader, entryId: number): Spot | undefined {
  const spot = findSpotAnywhere(reader, entryId);
  // What lies below the system's root is found by its path alone, so that no id that a user tries leads there.
  return spot !== undefined && isOfSystem(spot) ? undefined : spot;
}

/** Whether a place lies below the system's root. */
export function isOfSystem({ ancestorIds }: Pick<Spot, "ancestorIds">): boolean {
  return ancestorIds[0] === SYSTEM_ROOT_ENTRY_ID;
}

/** As findSpot(), also of what lies below the system's root: for what was found there before. */
export function findSpotAnywhere(reader: OrderedReader, entryId: number): Spot | undefined {
  if (entryId === ROOT_ENTRY_ID) return rootSpot(reader);
  if (entryId === SYSTEM_ROOT_ENTRY_ID) return systemRootSpot(reader);
  const place = findPlace(reader, entryId);
  if (place === undefined) return undefined;
  const ancestors = findAncestors(reader, place.parentId);
  if (ancestors === undefined) return undefined;
  return {
    parentId: place.parentId,
    name: place.name,
    row: must(findRow(reader, place.parentId, place.name), "the row that a place points to"),
    path: [...ancestors.slice(1).map((each) => each.name), place.name],
    ancestorIds: ancestors.map((each) => each.id),
  };
}

/** An entry as callers see it. */
export function toEntry(reader: OrderedReader, parentId: number, name: string, row: EntryRecord): Entry {
  return {
    entryId: row.entryId,
    parentId,
    name,
    kind: row.kind,
    version: row.version,
    sizeBytes: row.sizeBytes,
    contentId: row.contentId,
    treeHash: row.treeHash,
    sha256: sha256Of(reader, row),
    mediaType: row.mediaType,
    mode: row.mode,
    modifyTimeMs: row.modifyTimeMs,
    createTimeMs: row.createTimeMs,
  };
}

// Up to one chunk the tree hash is the plain SHA-256; beyond that the content knows it or nobody does.
function sha256Of(reader: OrderedReader, row: EntryRecord): Uint8Array {
  if (row.kind === "directory" || row.sizeBytes <= CHUNK_SIZE_BYTES) return row.treeHash;
  return readRecord(reader, contentKey(row.contentId), contentCodec)?.sha256 ?? new Uint8Array(0);
}
