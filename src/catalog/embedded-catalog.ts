/**
 * The catalog that every node has: names from its own index, everything else from its own tree.
 *
 * Searches in the order of age read the index from one end and stop when the page is full. Everything else walks: the folder
 * asked about is read whole, in slices, and only the best are kept, so memory does not grow with the drive. That costs about a
 * second for a million entries, beside other work; WALK_COUNT_MAX of them may run at once. Answers are exact for what does
 * not change meanwhile. A drive that is asked such things all day should have PostgreSQL.
 */
import { throwIfCanceled } from "../cluster/deadline.ts";
import type { MetadataPort } from "../cluster/metadata-port.ts";
import { ROOT_ENTRY_ID, type Entry } from "../drive/entry.ts";
import { DriveError } from "../drive/errors.ts";
import { REPLICA_COUNT } from "../drive/limits.ts";
import { formatPath, parsePath } from "../drive/path.ts";
import { findById, scanChildren } from "../metadata/feed.ts";
import {
  extentsOf,
  members,
  pathOf,
  resolve,
  underReplicated,
  type UnderReplicated,
} from "../metadata/view.ts";
import { compareBytes, toHex, utf8 } from "../std/bytes.ts";
import { sleep, type Clock } from "../std/clock.ts";
import {
  checkCount,
  checkQuery,
  DUPLICATE_NAMED_COUNT_MAX,
  formatCursor,
  parseCursor,
  sortValue,
  USAGE_ROW_COUNT_MAX,
  type Catalog,
  type CatalogCursor,
  type CatalogEntry,
  type CatalogPage,
  type CatalogQuery,
  type CatalogSort,
  type DuplicateReport,
  type UsageGroup,
  type UsageReport,
} from "../drive/catalog.ts";
import type { NameFollower } from "./name-follower.ts";
import { gramsToFind, signatureBit } from "./name-grams.ts";
import { BLOCK_ID_COUNT } from "./name-index.ts";
import { matchesPath, parseSearchText, type SearchPattern } from "./search-text.ts";
import { TopList } from "./top-list.ts";

/** Walks over the tree that may run at once; more are OVERLOADED. */
export const WALK_COUNT_MAX = 2;
/** Different rows of a report, and hashes, that a walk remembers; more are OVERLOADED. */
export const WALK_KEY_COUNT_MAX = 1_000_000;
/** Files among which equal ones are looked for: each costs some 50 bytes of memory while that lasts. */
export const DUPLICATE_FILE_COUNT_MAX = 2_000_000;
/** Rows read at a time. */
const SLICE_ROW_COUNT = 500;
/** Blocks of signatures read at a time. */
const SLICE_BLOCK_COUNT = 1024;
/** A walk lets other work through after this long. */
const SLICE_MS = 4;

/** What an EmbeddedCatalog needs. */
export interface EmbeddedCatalogOptions {
  readonly clock: Clock;
  readonly port: MetadataPort;
  readonly names: NameFollower;
}

/** The catalog of this node. */
export class EmbeddedCatalog implements Catalog {
  readonly #options: EmbeddedCatalogOptions;
  #walkCount = 0;

  constructor(options: EmbeddedCatalogOptions) {
    this.#options = options;
  }

  async find(query: CatalogQuery, signal?: AbortSignal): Promise<CatalogPage> {
    checkQuery(query);
    const after = parseCursor(query);
    const pattern = query.text === undefined ? undefined : parseSearchText(query.text);
    const folder = this.#folder(query.under);
    const accepts = this.#filter(query, pattern, folder);
    const byAge = query.sort === "created" && folder.id === ROOT_ENTRY_ID;
    if (pattern === undefined && !byAge) return this.#walkedPage(query, after, folder, accepts, signal);
    const { asOfIndex } = this.#options.names.ready();
    const page = { source: "embedded", asOfIndex } as const;
    if (query.sort === "created") {
      const found: Entry[] = [];
      for await (const entry of this.#candidates(query, pattern, after?.entryId, signal)) {
        if (!accepts(entry)) continue;
        found.push(entry);
        if (found.length > query.countMax) break;
      }
      return { ...page, ...this.#paged(query, found) };
    }
    const top = topOf(query, after);
    await this.#walking(async () => {
      for await (const entry of this.#candidates(query, pattern, undefined, signal)) {
        if (accepts(entry)) top.offer(entry);
      }
    });
    return { ...page, ...this.#paged(query, top.list.items) };
  }

  async usage(by: UsageGroup, under: string, signal?: AbortSignal): Promise<UsageReport> {
    const folder = this.#folder(under);
    const asOfIndex = this.#options.port.appliedIndex();
    const sums = new Map<string, { fileCount: number; sizeBytes: number }>();
    const add = (key: string, sizeBytes: number): void => {
      const sum = sums.get(key);
      if (sum === undefined) {
        if (sums.size >= WALK_KEY_COUNT_MAX) throw overloaded("There are too many different rows.");
        sums.set(key, { fileCount: 1, sizeBytes });
      } else {
        sum.fileCount += 1;
        sum.sizeBytes += sizeBytes;
      }
    };
    const total = { fileCount: 0, directoryCount: 0, sizeBytes: 0 };
    const nodeIds = new Map(members(this.#options.port.reader()).map((each) => [each.memberId, each.nodeId]));
    await this.#walking(async () => {
      for await (const { entry, top } of this.#walk(folder.id, signal)) {
        if (entry.kind === "directory") {
          total.directoryCount += 1;
          continue;
        }
        total.fileCount += 1;
        total.sizeBytes += entry.sizeBytes;
        if (by === "type") add(entry.mediaType, entry.sizeBytes);
        else if (by === "folder")
          add(top === undefined ? folder.path : joined(folder.path, top), entry.sizeBytes);
        else
          for (const [memberId, sizeBytes] of this.#bytesByMember(entry)) {
            add(nodeIds.get(memberId) ?? `member-${memberId}`, sizeBytes);
          }
      }
    });
    const rows = new TopList<{ key: string; fileCount: number; sizeBytes: number }>(
      USAGE_ROW_COUNT_MAX,
      (a, b) => b.sizeBytes - a.sizeBytes || compareText(a.key, b.key),
    );
    for (const [key, sum] of sums) rows.offer({ key, ...sum });
    const truncated = sums.size > USAGE_ROW_COUNT_MAX;
    return { source: "embedded", asOfIndex, rows: rows.items, truncated, ...total };
  }

  async duplicates(countMax: number, signal?: AbortSignal): Promise<DuplicateReport> {
    checkCount(countMax);
    const asOfIndex = this.#options.port.appliedIndex();
    // First how often each hash occurs, by its first 48 bits, which costs little; then the files of those that occur twice.
    const seen = new Map<number, number>();
    const groups = new Map<string, { entry: Entry; fileCount: number; oldest: TopList<number> }>();
    await this.#walking(async () => {
      for await (const { entry } of this.#walk(ROOT_ENTRY_ID, signal)) {
        if (entry.sizeBytes === 0) continue;
        const prefix = prefixOf(entry);
        const count = seen.get(prefix);
        if (count === undefined && seen.size >= DUPLICATE_FILE_COUNT_MAX)
          throw overloaded("There are too many files.");
        seen.set(prefix, (count ?? 0) + 1);
      }
      for (const [prefix, count] of seen) if (count < 2) seen.delete(prefix);
      for await (const { entry } of this.#walk(ROOT_ENTRY_ID, signal)) {
        if (entry.sizeBytes === 0 || !seen.has(prefixOf(entry))) continue;
        const key = toHex(entry.treeHash);
        let group = groups.get(key);
        if (group === undefined) {
          if (groups.size >= WALK_KEY_COUNT_MAX) throw overloaded("There are too many equal files.");
          group = { entry, fileCount: 0, oldest: new TopList(DUPLICATE_NAMED_COUNT_MAX, (a, b) => a - b) };
          groups.set(key, group);
        }
        group.fileCount += 1;
        group.oldest.offer(entry.entryId);
      }
    });
    const best = new TopList<{ entry: Entry; fileCount: number; oldest: TopList<number> }>(
      countMax,
      (a, b) =>
        b.fileCount * b.entry.sizeBytes - a.fileCount * a.entry.sizeBytes ||
        compareBytes(a.entry.treeHash, b.entry.treeHash),
    );
    for (const group of groups.values()) if (group.fileCount > 1) best.offer(group);
    const reader = this.#options.port.reader();
    return {
      source: "embedded",
      asOfIndex,
      groups: best.items.map(({ entry, fileCount, oldest }) => ({
        treeHash: entry.treeHash,
        sizeBytes: entry.sizeBytes,
        fileCount,
        paths: oldest.items.flatMap((entryId) => {
          const path = pathOf(reader, entryId);
          return path === undefined ? [] : [formatPath(path)];
        }),
      })),
    };
  }

  #folder(under: string | undefined): { readonly id: number; readonly path: string } {
    const path = parsePath(under ?? "/");
    if (path.length === 0) return { id: ROOT_ENTRY_ID, path: "/" };
    const found = resolve(this.#options.port.reader(), { baseId: ROOT_ENTRY_ID, path });
    const shown = formatPath(path);
    if (found.kind !== "entry") {
      throw new DriveError("PATH_NOT_FOUND", `${JSON.stringify(shown)} is in a copy that is being filled.`, {
        path: shown,
      });
    }
    if (found.entry.kind !== "directory") {
      throw new DriveError("NOT_A_DIRECTORY", `${JSON.stringify(shown)} is a file.`, { path: shown });
    }
    return { id: found.entry.entryId, path: shown };
  }

  #filter(
    query: CatalogQuery,
    pattern: SearchPattern | undefined,
    folder: { readonly id: number; readonly path: string },
  ): (entry: Entry) => boolean {
    const { mediaType, sizeBytesMin, sizeBytesMax, modifiedFromMs, modifiedToMs } = query;
    const lacking = query.underReplicated === true ? this.#lackingContents() : undefined;
    const filesOnly =
      mediaType !== undefined ||
      sizeBytesMin !== undefined ||
      sizeBytesMax !== undefined ||
      lacking !== undefined;
    const reader = this.#options.port.reader();
    const isPlaced = (entry: Entry): boolean => {
      if (pattern === undefined) return true;
      const path = pathOf(reader, entry.entryId);
      if (path === undefined || !matchesPath(pattern, path, entry.kind === "directory")) return false;
      return folder.id === ROOT_ENTRY_ID || formatPath(path).startsWith(`${folder.path}/`);
    };
    return (entry) =>
      (query.kind === undefined || entry.kind === query.kind) &&
      (!filesOnly || entry.kind === "file") &&
      (mediaType === undefined ||
        (mediaType.endsWith("/") ? entry.mediaType.startsWith(mediaType) : entry.mediaType === mediaType)) &&
      (sizeBytesMin === undefined || entry.sizeBytes >= sizeBytesMin) &&
      (sizeBytesMax === undefined || entry.sizeBytes <= sizeBytesMax) &&
      (modifiedFromMs === undefined || entry.modifyTimeMs >= modifiedFromMs) &&
      (modifiedToMs === undefined || entry.modifyTimeMs <= modifiedToMs) &&
      (lacking === undefined || lacking.has(entry.contentId)) &&
      isPlaced(entry);
  }

  /** Contents of which an extent has too few verified copies. */
  #lackingContents(): ReadonlySet<number> {
    const found = new Set<number>();
    let after: UnderReplicated | undefined;
    for (;;) {
      const extents = underReplicated(this.#options.port.reader(), after, SLICE_ROW_COUNT);
      for (const { contentId, verifiedCount } of extents) {
        // After those that lack copies come those that have all and of which one is on the move.
        if (verifiedCount >= REPLICA_COUNT) return found;
        found.add(contentId);
      }
      if (found.size > WALK_KEY_COUNT_MAX) throw overloaded("Too many files lack copies.");
      after = extents.at(-1);
      if (extents.length < SLICE_ROW_COUNT) return found;
    }
  }

  /** Entries of the tree whose name may fit, in the order of ids, beginning after `afterId`. */
  async *#candidates(
    query: CatalogQuery,
    pattern: SearchPattern | undefined,
    afterId: number | undefined,
    signal: AbortSignal | undefined,
  ): AsyncGenerator<Entry> {
    const { index } = this.#options.names.ready();
    const descending = query.sort === "created" && query.descending;
    const needle = utf8(pattern?.own ?? "");
    const bits = pattern === undefined ? [] : gramsToFind(pattern.own).map(signatureBit);
    let from = afterId === undefined ? undefined : Math.floor(afterId / BLOCK_ID_COUNT);
    const breath = this.#breath(signal);
    for (;;) {
      const { blocks, examinedTo } = index.blocks({ bits, from, descending, countMax: SLICE_BLOCK_COUNT });
      for (const block of blocks) {
        await breath();
        const ids = index.idsIn(block, needle);
        for (const entryId of descending ? [...ids].reverse() : ids) {
          if (afterId !== undefined && (descending ? entryId >= afterId : entryId <= afterId)) continue;
          const found = findById(this.#options.port.reader(), entryId);
          if (found !== undefined) yield found.entry;
        }
      }
      if (examinedTo === undefined || (descending && examinedTo === 0)) return;
      from = descending ? examinedTo - 1 : examinedTo + 1;
      await breath();
    }
  }

  async #walkedPage(
    query: CatalogQuery,
    after: CatalogCursor | undefined,
    folder: { readonly id: number; readonly path: string },
    accepts: (entry: Entry) => boolean,
    signal: AbortSignal | undefined,
  ): Promise<CatalogPage> {
    const asOfIndex = this.#options.port.appliedIndex();
    const top = topOf(query, after);
    await this.#walking(async () => {
      for await (const { entry } of this.#walk(folder.id, signal)) if (accepts(entry)) top.offer(entry);
    });
    return { source: "embedded", asOfIndex, ...this.#paged(query, top.list.items) };
  }

  #paged(query: CatalogQuery, found: readonly Entry[]): Pick<CatalogPage, "entries" | "nextCursor"> {
    const page = found.slice(0, query.countMax);
    const last = page.at(-1);
    const reader = this.#options.port.reader();
    const entries = page.flatMap((entry): CatalogEntry[] => {
      const path = pathOf(reader, entry.entryId);
      if (path === undefined) return [];
      const { entryId, name, kind, sizeBytes, treeHash, mediaType, modifyTimeMs, createTimeMs } = entry;
      const found = { entryId, name, kind, sizeBytes, treeHash, mediaType, modifyTimeMs, createTimeMs };
      return [{ ...found, path: formatPath(path), copyCount: this.#copyCount(entry) }];
    });
    const more = found.length > query.countMax && last !== undefined;
    const nextCursor = more
      ? formatCursor(query, { value: sortValue(query.sort, last), entryId: last.entryId })
      : undefined;
    return { entries, nextCursor };
  }

  #copyCount(entry: Entry): number | undefined {
    if (entry.sizeBytes === 0) return undefined;
    const counts = extentsOf(this.#options.port.reader(), entry.contentId).map(
      (extent) => extent.replicas.filter((replica) => replica.state === "verified").length,
    );
    return counts.length === 0 ? undefined : Math.min(REPLICA_COUNT, ...counts);
  }

  #bytesByMember(entry: Entry): ReadonlyMap<number, number> {
    const bytes = new Map<number, number>();
    if (entry.sizeBytes === 0) return bytes;
    for (const { sizeBytes, replicas } of extentsOf(this.#options.port.reader(), entry.contentId)) {
      for (const { memberId, state } of replicas) {
        if (state === "verified") bytes.set(memberId, (bytes.get(memberId) ?? 0) + sizeBytes);
      }
    }
    return bytes;
  }

  /** Everything below a folder, with the name of the folder directly below it that it lies in. */
  async *#walk(
    folderId: number,
    signal: AbortSignal | undefined,
  ): AsyncGenerator<{ readonly entry: Entry; readonly top: string | undefined }> {
    const open: { readonly id: number; readonly top: string | undefined }[] = [
      { id: folderId, top: undefined },
    ];
    const breath = this.#breath(signal);
    for (let folder = open.pop(); folder !== undefined; folder = open.pop()) {
      let cursor: Uint8Array | undefined;
      do {
        await breath();
        const slice = scanChildren(this.#options.port.reader(), folder.id, cursor, SLICE_ROW_COUNT);
        for (const entry of slice.rows) {
          const inside = folder.top ?? (entry.kind === "directory" ? entry.name : undefined);
          if (entry.kind === "directory") open.push({ id: entry.entryId, top: inside });
          yield { entry, top: folder.top };
        }
        cursor = slice.next;
      } while (cursor !== undefined);
    }
  }

  /** A function to be awaited between slices: lets other work through when this one took its share. */
  #breath(signal: AbortSignal | undefined): () => Promise<void> | undefined {
    const { clock } = this.#options;
    let sinceMs = clock.monotonicMs();
    return () => {
      throwIfCanceled(signal);
      if (clock.monotonicMs() - sinceMs < SLICE_MS) return undefined;
      return sleep(clock, 1, signal).then(() => {
        sinceMs = clock.monotonicMs();
      });
    };
  }

  async #walking(work: () => Promise<void>): Promise<void> {
    if (this.#walkCount >= WALK_COUNT_MAX)
      throw overloaded("Other questions to the catalog are being answered.");
    this.#walkCount += 1;
    try {
      await work();
    } finally {
      this.#walkCount -= 1;
    }
  }
}

const joined = (folder: string, name: string): string => (folder === "/" ? `/${name}` : `${folder}/${name}`);

/** The first 48 bits of a hash: collisions cost a second look, nothing else. */
const prefixOf = (entry: Entry): number => Buffer.from(entry.treeHash.subarray(0, 6)).readUIntBE(0, 6);

const compareText = (a: string, b: string): number => compareBytes(utf8(a), utf8(b));

function compareValues(a: string | number, b: string | number): number {
  return typeof a === "number" && typeof b === "number" ? a - b : compareText(String(a), String(b));
}

/** Keeps the page after `after` in the order of the query, and one more. */
function topOf(
  query: { readonly sort: CatalogSort; readonly descending: boolean; readonly countMax: number },
  after: CatalogCursor | undefined,
): { offer(entry: Entry): void; readonly list: TopList<Entry> } {
  const sign = query.descending ? -1 : 1;
  const compare = (a: CatalogCursor, b: CatalogCursor): number =>
    sign * (compareValues(a.value, b.value) || a.entryId - b.entryId);
  const placeOf = (entry: Entry): CatalogCursor => ({
    value: sortValue(query.sort, entry),
    entryId: entry.entryId,
  });
  const list = new TopList<Entry>(query.countMax + 1, (a, b) => compare(placeOf(a), placeOf(b)));
  return {
    list,
    offer: (entry) => {
      if (after === undefined || compare(placeOf(entry), after) > 0) list.offer(entry);
    },
  };
}

function overloaded(message: string): DriveError {
  return new DriveError("OVERLOADED", message);
}
