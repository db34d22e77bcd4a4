/**
 * Reads for catalogs: everything that was changed after an index, and all rows of the tree in slices. Pure, as view.ts.
 *
 * A catalog follows two feeds at once: what happened to entries, and of which contents the copies changed. Both are kept for as
 * long as the limits say; a catalog that is behind either starts over with a scan.
 */
import type { Change } from "../drive/change.ts";
import type { Entry } from "../drive/entry.ts";
import { DriveError } from "../drive/errors.ts";
import { must } from "../std/assert.ts";
import { asBuffer, compareBytes } from "../std/bytes.ts";
import type { OrderedReader } from "../std/ordered-store.ts";
import { readState } from "./context.ts";
import { findRow, findSpot, toEntry } from "./entries.ts";
import {
  afterPrefix,
  changeKey,
  copiesChangeKey,
  makeKey,
  numberInKey,
  rowKey,
  successor,
  TABLE,
  textInKey,
} from "./keys.ts";
import { entryRecordCodec, feedCodec, placeCodec, type PlaceRecord } from "./records.ts";
import type { FoundEntry } from "./view.ts";

/** A run of the feed. */
export interface FeedSlice {
  /** Events of the commands after the index asked for, up to `throughIndex`. */
  readonly changes: readonly Change[];
  /** Contents whose copies those commands changed, each once, ascending. */
  readonly contentIds: readonly number[];
  /** Everything up to this command is in here: where to go on. */
  readonly throughIndex: number;
  /** Whether there is more already. */
  readonly more: boolean;
}

/**
 * The feed after the command at `afterIndex`, at most about `countMax` of either kind; the last command is complete.
 * @param appliedIndex the applied index of `reader`
 * @throws DriveError RANGE_NOT_SATISFIABLE when something after `afterIndex` was trimmed
 */
export function feedAfter(
  reader: OrderedReader,
  afterIndex: number,
  appliedIndex: number,
  countMax: number,
): FeedSlice {
  const { changesTrimmedIndex, copiesTrimmedIndex } = readState(reader);
  const oldestIndex = Math.max(changesTrimmedIndex, copiesTrimmedIndex);
  if (afterIndex < oldestIndex) {
    throw new DriveError(
      "RANGE_NOT_SATISFIABLE",
      `Changes up to index ${oldestIndex} are not kept any more.`,
      {
        after_index: String(afterIndex),
        oldest_index: String(oldestIndex),
      },
    );
  }
  let throughIndex = Math.max(appliedIndex, afterIndex);
  const changes: Change[] = [];
  for (const { value } of reader.range({
    from: changeKey(afterIndex + 1, 0),
    to: afterPrefix(makeKey(TABLE.change, [])),
  })) {
    const change = feedCodec.decode(value);
    const last = changes.at(-1);
    if (last !== undefined && changes.length >= countMax && change.index !== last.index) {
      throughIndex = last.index;
      break;
    }
    changes.push(change);
  }
  const contentIds = new Set<number>();
  let lastIndex = 0;
  for (const { key } of reader.range({
    from: copiesChangeKey(afterIndex + 1, 0),
    to: copiesChangeKey(throughIndex + 1, 0),
  })) {
    const index = numberInKey(key, 0);
    if (contentIds.size >= countMax && index !== lastIndex) {
      throughIndex = lastIndex;
      break;
    }
    lastIndex = index;
    contentIds.add(numberInKey(key, 1));
  }
  return {
    changes: changes.filter((change) => change.index <= throughIndex),
    contentIds: [...contentIds].sort((a, b) => a - b),
    throughIndex,
    more: throughIndex < appliedIndex,
  };
}

/** A slice of rows of the tree. */
export interface RowSlice {
  readonly rows: readonly Entry[];
  /** Pass it to get the next slice; undefined at the end. */
  readonly next: Uint8Array | undefined;
}

function sliceOf(reader: OrderedReader, from: Uint8Array, to: Uint8Array, countMax: number): RowSlice {
  const records = [...reader.range({ from, to, countMax })];
  const last = records.at(-1);
  return {
    rows: records.map(({ key, value }) =>
      toEntry(reader, numberInKey(key, 0), textInKey(key, 1), entryRecordCodec.decode(value)),
    ),
    next: last !== undefined && records.length === countMax ? successor(last.key) : undefined,
  };
}

/** A slice of all places of the tree: which entry has which name in which folder. */
function placesOf(
  reader: OrderedReader,
  cursor: Uint8Array | undefined,
  countMax: number,
): {
  readonly places: readonly (PlaceRecord & { readonly entryId: number })[];
  readonly next: Uint8Array | undefined;
} {
  const first = makeKey(TABLE.place, []);
  // A cursor of another kind of scan, of an earlier version, lies before them all or after.
  const from = cursor !== undefined && compareBytes(cursor, first) > 0 ? cursor : first;
  const records = [...reader.range({ from, to: afterPrefix(first), countMax })];
  const last = records.at(-1);
  return {
    places: records.map(({ key, value }) => ({ entryId: numberInKey(key, 0), ...placeCodec.decode(value) })),
    next: last !== undefined && records.length === countMax ? successor(last.key) : undefined,
  };
}

/**
 * At most `countMax` rows of the whole tree in the order of ids, the roots' excepted, from `cursor` (undefined: the first) on. Also
 * those below a deleted folder that is not taken apart yet, and below the system's root.
 */
export function scanRows(reader: OrderedReader, cursor: Uint8Array | undefined, countMax: number): RowSlice {
  const { places, next } = placesOf(reader, cursor, countMax);
  const rows = places.map(({ parentId, name }) =>
    toEntry(reader, parentId, name, must(findRow(reader, parentId, name), "the row that a place points to")),
  );
  return { rows, next };
}

/** A slice of all names of the tree. */
export interface NameSlice {
  /** Ascending by entry id. Also those below a deleted folder that is not taken apart yet. */
  readonly names: readonly { readonly entryId: number; readonly name: string }[];
  /** Pass it to get the next slice; undefined at the end. */
  readonly next: Uint8Array | undefined;
}

/** As scanRows(), names alone: at most `countMax` from `cursor` (undefined: the first) on. */
export function scanNames(
  reader: OrderedReader,
  cursor: Uint8Array | undefined,
  countMax: number,
): NameSlice {
  const { places, next } = placesOf(reader, cursor, countMax);
  return { names: places.map(({ entryId, name }) => ({ entryId, name })), next };
}

/** At most `countMax` rows of one directory, from `cursor` (undefined: the first) on. Rows of an unfinished copy that are not made yet are missing. */
export function scanChildren(
  reader: OrderedReader,
  directoryId: number,
  cursor: Uint8Array | undefined,
  countMax: number,
): RowSlice {
  const prefix = makeKey(TABLE.row, [directoryId]);
  return sliceOf(reader, cursor ?? rowKey(directoryId, ""), afterPrefix(prefix), countMax);
}

/** Deleted rows that the counters count until they are reclaimed; when there are more than `countMax`, so many of them. */
export function countDeleted(
  reader: OrderedReader,
  countMax: number,
): { readonly fileCount: number; readonly directoryCount: number } {
  const graveyard = makeKey(TABLE.graveyard, []);
  const buried = reader.range({ from: graveyard, to: afterPrefix(graveyard), countMax });
  const open = [...buried].map(({ key }) => numberInKey(key, 0));
  let [fileCount, directoryCount] = [0, open.length];
  for (let id = open.pop(); id !== undefined; id = open.pop()) {
    const left = countMax - fileCount - directoryCount;
    if (left <= 0) break;
    const prefix = makeKey(TABLE.row, [id]);
    for (const { value } of reader.range({ from: prefix, to: afterPrefix(prefix), countMax: left })) {
      const { kind, entryId } = entryRecordCodec.decode(value);
      if (kind === "file") fileCount += 1;
      else {
        directoryCount += 1;
        open.push(entryId);
      }
    }
  }
  return { fileCount, directoryCount };
}

/** The text of a cursor of scanRows(), to be kept. */
export function cursorText(cursor: Uint8Array): string {
  return asBuffer(cursor).toString("base64url");
}

/** The cursor of cursorText(). */
export function cursorOfText(text: string): Uint8Array {
  return new Uint8Array(Buffer.from(text, "base64url"));
}

/** An entry by id with the names from the root; undefined when it is not in the tree. @throws DriveError PATH_TOO_DEEP */
export function findById(reader: OrderedReader, entryId: number): FoundEntry | undefined {
  const spot = findSpot(reader, entryId);
  if (spot?.row === undefined) return undefined;
  return { kind: "entry", entry: toEntry(reader, spot.parentId, spot.name, spot.row), path: spot.path };
}
