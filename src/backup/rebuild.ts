/**
 * Makes the state of a new cluster out of a snapshot of the tree and of what chunk stores hold: offline, beside what is there.
 *
 *   a snapshot that loaded with its hash -> new ids and time -> the copies that were found -> files that came after it
 *
 * Nothing of the chunk stores is changed. What came after the snapshot is known by manifests alone, so it is a guess: it goes into
 * a folder of its own and is reported apart, and so is what is missing. Memory grows with the report alone, which is bounded.
 */
import type { ChunkStore } from "../chunks/chunk-store.ts";
import type { ReplicatedStore } from "../consensus/replicated-store.ts";
import { extentCount, extentSizeBytes, type Manifest, type OriginHint } from "../drive/content.ts";
import { DriveError, hasReason } from "../drive/errors.ts";
import { EXTENT_SIZE_BYTES_MAX } from "../drive/limits.ts";
import { formatPath, parseNewFilePath } from "../drive/path.ts";
import type { CommandResult } from "../metadata/commands.ts";
import {
  adoptFile,
  beginRebuild,
  pathsOfContents,
  placeInTime,
  REBUILD_JUMP,
  rebuildStep,
  setCopies,
  type FoundContent,
} from "../metadata/rebuild.ts";
import { extentsFrom } from "../metadata/stores.ts";
import { counters, type ReplicaCounters } from "../metadata/view.ts";
import { votersOnly } from "../raft/conf-change.ts";
import { must } from "../std/assert.ts";
import { bytesEqual } from "../std/bytes.ts";
import {
  findCopies,
  findManifest,
  listContents,
  type FoundSnapshot,
  type ListedContent,
} from "./found-contents.ts";

/** Findings of each kind that a report names; the others are counted. */
export const REPORT_COUNT_MAX = 100_000;

/** Extents looked at between two flushes of the new state. */
const BATCH_COUNT = 500;

/** A file that came after the snapshot, as far as manifests tell. */
export interface GuessedFile {
  /** Where it was put. */
  readonly path: string;
  /** The path that it was written for; "" when its manifest does not say. */
  readonly writtenFor: string;
  readonly contentId: number;
  readonly sizeBytes: number;
}

/** Bytes that no file was made of. They are kept for UNPLACED_RETENTION_MS. */
export interface UnplacedContent {
  readonly contentId: number;
  /** "incomplete": extents are missing; "damaged": none of its copies is whole; "orphan": no file had it at the snapshot. */
  readonly why: "incomplete" | "damaged" | "orphan";
  readonly writtenFor: string;
}

/** What a rebuild found. */
export interface RebuildReport {
  readonly fileCount: number;
  readonly directoryCount: number;
  readonly guessed: readonly GuessedFile[];
  readonly guessedCount: number;
  readonly unplaced: readonly UnplacedContent[];
  readonly unplacedCount: number;
  /** Files of the snapshot of which no store given has some byte: deleted since, or lost, or at a node that was not given. */
  readonly withoutBytes: readonly string[];
  /** Files of the snapshot with fewer copies than it knew: perhaps deleted since, and here again. */
  readonly perhapsDeleted: readonly string[];
  readonly replicas: ReplicaCounters;
}

/** What rebuildState() works with. */
export interface RebuildOptions {
  /** The state of the snapshot, in the place of the new one. */
  readonly state: ReplicatedStore<CommandResult>;
  readonly snapshot: FoundSnapshot;
  readonly stores: readonly ChunkStore[];
  readonly newClusterId: string;
  readonly voterIds: readonly number[];
  readonly wallTimeMs: number;
}

interface Findings {
  readonly guessed: GuessedFile[];
  guessedCount: number;
  readonly unplaced: UnplacedContent[];
  unplacedCount: number;
  readonly withoutBytes: Set<number>;
  readonly perhapsDeleted: Set<number>;
}

/** What the stores say beyond the snapshot: the first content id and index that nobody knows. */
export interface StoreBounds {
  readonly contentId: number;
  readonly commitIndex: number;
  readonly newestTimeMs: number;
  /** Newest first. */
  readonly snapshots: readonly FoundSnapshot[];
}

/** Reads every manifest once: finds the snapshots, and how far ids, indexes and time went. */
export async function surveyStores(stores: readonly ChunkStore[]): Promise<StoreBounds> {
  const snapshots: FoundSnapshot[] = [];
  const bounds = { contentId: 0, commitIndex: 0, newestTimeMs: 0 };
  for await (const { contentId, extentIndexes } of listContents(stores)) {
    bounds.contentId = Math.max(bounds.contentId, contentId);
    const manifest = await findManifest(stores, { contentId, extentIndex: extentIndexes[0] ?? 0 });
    if (manifest === undefined) continue;
    const { clusterId, commitIndex, hint } = manifest.origin;
    bounds.commitIndex = Math.max(bounds.commitIndex, commitIndex);
    if (hint?.purpose !== "tree-snapshot") continue;
    bounds.newestTimeMs = Math.max(bounds.newestTimeMs, hint.modifyTimeMs);
    const { contentSizeBytes: sizeBytes, modifyTimeMs: madeTimeMs } = hint;
    snapshots.push({ contentId, clusterId, index: commitIndex, sizeBytes, madeTimeMs });
  }
  return { ...bounds, snapshots: snapshots.sort((a, b) => b.index - a.index) };
}

/**
 * Turns the state of a snapshot into that of the new cluster; flushed when it resolves.
 * @throws DriveError DATA_CORRUPT when it is not what its hash says, which is a bug; errors of the disk
 */
export async function rebuildState(options: RebuildOptions, bounds: StoreBounds): Promise<RebuildReport> {
  const { state, stores, newClusterId, voterIds, wallTimeMs } = options;
  let index = Math.max(state.state.appliedIndex, bounds.commitIndex) + REBUILD_JUMP;
  const edit = <T>(work: Parameters<typeof rebuildStep<T>>[2]): T => {
    const results: T[] = [];
    // As of a command: the keys of what a step tells the feed have its index in them, and are never given twice.
    index += 1;
    const at = { index, wallTimeMs };
    const step = (transaction: Parameters<typeof rebuildStep<T>>[0]): void => {
      results.push(rebuildStep(transaction, at, work));
    };
    state.refound(newClusterId, votersOnly(voterIds), step, index);
    return results[0] as T;
  };
  const found: Findings = {
    ...{ guessed: [], guessedCount: 0, unplaced: [], unplacedCount: 0 },
    ...{ withoutBytes: new Set<number>(), perhapsDeleted: new Set<number>() },
  };
  // Looked up before ids jump: what the snapshot says of them is what counts.
  const later = await findLater(options, found);
  edit((context) =>
    beginRebuild(context, {
      clusterId: newClusterId,
      stores,
      elapsedMs: Math.max(0, bounds.newestTimeMs - options.snapshot.madeTimeMs),
      contentIdMin: bounds.contentId,
    }),
  );
  await takeCopies(options, edit, found);
  const folder = `recovered-${new Date(wallTimeMs).toISOString().slice(0, 10)}`;
  for (const content of later) await place(options, edit, content, folder, found);
  await state.flush();
  state.verify();
  const reader = state.reader();
  const { fileCount, directoryCount, replicas } = counters(reader);
  const { guessed, guessedCount, unplaced, unplacedCount } = found;
  return {
    ...{ fileCount, directoryCount, replicas, guessed, guessedCount, unplaced, unplacedCount },
    withoutBytes: pathsOfContents(reader, found.withoutBytes, REPORT_COUNT_MAX),
    perhapsDeleted: pathsOfContents(reader, found.perhapsDeleted, REPORT_COUNT_MAX),
  };
}

type Edit = <T>(work: Parameters<typeof rebuildStep<T>>[2]) => T;

/** Contents that came after the snapshot; notes those that had lost their claim before it. */
async function findLater(
  { state, stores }: RebuildOptions,
  found: Findings,
): Promise<readonly ListedContent[]> {
  const memberIds = stores.map(({ memberId }) => memberId);
  const later: ListedContent[] = [];
  for await (const content of listContents(stores)) {
    const { contentId, extentIndexes } = content;
    const when = placeInTime(state.reader(), contentId, memberIds);
    if (when === "later") later.push(content);
    if (when !== "orphan") continue;
    const manifest = await findManifest(stores, { contentId, extentIndex: extentIndexes[0] ?? 0 });
    if (manifest?.origin.hint?.purpose === "tree-snapshot") continue;
    noteUnplaced(found, { contentId, why: "orphan", writtenFor: manifest?.origin.hint?.path ?? "" });
  }
  return later;
}

/** Puts the copies that were found in the place of those that the snapshot knew, for every extent. */
async function takeCopies({ state, stores }: RebuildOptions, edit: Edit, found: Findings): Promise<void> {
  let from: { readonly contentId: number; readonly extentIndex: number } | undefined = {
    contentId: 0,
    extentIndex: 0,
  };
  while (from !== undefined) {
    const page: ReturnType<typeof extentsFrom> = extentsFrom(state.reader(), from, BATCH_COUNT);
    const looked = await Promise.all(
      page.extents.map(async ({ contentId, extentIndex }) => {
        const extent = { contentId, extentIndex };
        return { extent, copies: await findCopies(stores, extent) };
      }),
    );
    edit((context) => {
      for (const { extent, copies } of looked) {
        const { wholeCount, isMissed } = setCopies(context, extent, stores, copies);
        if (wholeCount === 0) found.withoutBytes.add(extent.contentId);
        else if (isMissed) found.perhapsDeleted.add(extent.contentId);
      }
    });
    await state.flush();
    from = page.next;
  }
}

/** Makes a file of a content that came after the snapshot, when it is whole and can be read. */
async function place(
  { state, stores, wallTimeMs }: RebuildOptions,
  edit: Edit,
  { contentId, extentIndexes }: ListedContent,
  folder: string,
  found: Findings,
): Promise<void> {
  const manifests: Manifest[] = [];
  for (const extentIndex of extentIndexes) {
    const manifest = await findManifest(stores, { contentId, extentIndex });
    if (manifest !== undefined) manifests.push(manifest);
  }
  const [first] = manifests;
  const hint = first?.origin.hint;
  if (hint?.purpose === "tree-snapshot") return;
  const writtenFor = hint?.path ?? "";
  if (first === undefined || !isWhole(manifests, hint)) {
    noteUnplaced(found, { contentId, why: "incomplete", writtenFor });
    return;
  }
  const content = await verified(stores, contentId, manifests);
  if (content === undefined) {
    noteUnplaced(found, { contentId, why: "damaged", writtenFor });
    return;
  }
  const attributes = { modifyTimeMs: hint?.modifyTimeMs ?? wallTimeMs };
  let names: readonly string[] | undefined;
  for (const path of pathsFor(writtenFor, contentId)) {
    try {
      names ??= edit((context) => adoptFile(context, content, [folder, ...path], attributes));
    } catch (error) {
      // Something else has that path, or it is too deep there: then the plain name is tried.
      if (!(error instanceof DriveError)) throw error;
    }
  }
  await state.flush();
  found.guessedCount += 1;
  const sizeBytes = manifests.reduce((sum, manifest) => sum + manifest.sizeBytes, 0);
  if (found.guessed.length >= REPORT_COUNT_MAX) return;
  found.guessed.push({
    path: formatPath(must(names, "a plain name is free")),
    writtenFor,
    contentId,
    sizeBytes,
  });
}

/** Where to try to put a file: as its path was, else by its number. */
function pathsFor(writtenFor: string, contentId: number): readonly (readonly string[])[] {
  const plain = [`content-${contentId}`];
  try {
    const names = parseNewFilePath(writtenFor.startsWith("/") ? writtenFor : `/${writtenFor}`);
    return names.length === 0 ? [plain] : [names, plain];
  } catch (error) {
    if (error instanceof DriveError) return [plain];
    throw error;
  }
}

/** Whether the extents make a whole content. Without its size: all but the last are full. */
function isWhole(manifests: readonly Manifest[], hint: OriginHint | undefined): boolean {
  const sum = manifests.reduce((bytes, { sizeBytes }) => bytes + sizeBytes, 0);
  const stated = hint === undefined || hint.contentSizeBytes === 0 ? sum : hint.contentSizeBytes;
  if (manifests.length !== extentCount(stated) || sum !== stated) return false;
  return manifests.every(({ extent, sizeBytes }, at) => {
    const isFull = at === manifests.length - 1 || sizeBytes === EXTENT_SIZE_BYTES_MAX;
    return extent.extentIndex === at && isFull && sizeBytes === extentSizeBytes(stated, at);
  });
}

/** Reads every copy whole; undefined when some extent has no good one. */
async function verified(
  stores: readonly ChunkStore[],
  contentId: number,
  manifests: readonly Manifest[],
): Promise<FoundContent | undefined> {
  const extents: {
    readonly sizeBytes: number;
    readonly root: Uint8Array;
    readonly memberIds: readonly number[];
  }[] = [];
  for (const { extent, sizeBytes, root } of manifests) {
    const memberIds: number[] = [];
    for (const store of stores) {
      try {
        const seal = await store.verifyExtent(extent);
        if (bytesEqual(seal.root, root)) memberIds.push(store.memberId);
      } catch (error) {
        if (!hasReason(error, "CHUNK_NOT_FOUND", "CHUNK_CORRUPT")) throw error;
      }
    }
    if (memberIds.length === 0) return undefined;
    extents.push({ sizeBytes, root, memberIds });
  }
  return { contentId, extents };
}

function noteUnplaced(found: Findings, unplaced: UnplacedContent): void {
  found.unplacedCount += 1;
  if (found.unplaced.length < REPORT_COUNT_MAX) found.unplaced.push(unplaced);
}
