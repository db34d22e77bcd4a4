/**
 * Entries by id or path through a cache, for reads that must be linearizable: a decorator of stat().
 *
 * Every read takes its read index first, cached or not. What is cached answers only if the change window says that nothing it
 * shows was changed since it was read, up to that index; otherwise the tree is read, and what was found is kept for the next.
 * Errors are not cached, nor entries that may change without an event: a large file whose plain SHA-256 is not known yet.
 */
import type { EntryRef, PathEntry, ReadOptions } from "../drive/drive-api.ts";
import type { Entry } from "../drive/entry.ts";
import { CHUNK_SIZE_BYTES } from "../drive/limits.ts";
import { fromHex, toHex } from "../std/bytes.ts";
import type { ChangeWindow } from "./change-window.ts";
import type { VersionedCache } from "./entry-cache.ts";

/** An entry as it was found. */
export interface FoundEntry {
  readonly found: PathEntry;
  /** An applied index that everything in `found` is at least as new as. */
  readonly version: number;
  /** The folders above it, the root included; undefined when the source does not know them. */
  readonly ancestorIds: readonly number[] | undefined;
}

/** Where entries come from. */
export interface EntrySource {
  /**
   * Resolves once the change window has everything that was acknowledged before the call.
   * @returns the read index: what is read from now on shows at least everything up to it
   */
  readIndex(options: ReadOptions): Promise<number>;
  /** Reads an entry at the present state, or a later one. Errors: as DriveApi.stat(). */
  read(ref: EntryRef, options: ReadOptions): Promise<FoundEntry>;
}

/** What became of a question to the cache. */
export type CacheOutcome = "hit" | "miss" | "outdated";

/** What CachedStat needs. */
export interface CachedStatOptions {
  readonly cache: VersionedCache;
  readonly source: EntrySource;
  readonly window: ChangeWindow;
  readonly onRead?: ((outcome: CacheOutcome) => void) | undefined;
}

/** See the file's comment. */
export class CachedStat {
  readonly #options: CachedStatOptions;

  constructor(options: CachedStatOptions) {
    this.#options = options;
  }

  /** As DriveApi.stat(), linearizable. */
  async stat(ref: EntryRef, options: ReadOptions = {}): Promise<PathEntry> {
    const { cache, source, window, onRead } = this.#options;
    const key = "path" in ref ? `path:${ref.path}` : `id:${ref.entryId}`;
    const readIndex = await source.readIndex(options);
    const held = await cache.get(key);
    const known = held === undefined ? undefined : decodeFound(held.version, held.value);
    if (known !== undefined && isAbout(known, ref)) {
      const { entry } = known.found;
      const shown = { entryId: entry.entryId, ancestorIds: known.ancestorIds };
      if (window.isUnchanged(shown, known.version, readIndex)) {
        onRead?.("hit");
        return known.found;
      }
      onRead?.("outdated");
    } else onRead?.("miss");
    const fresh = await source.read(ref, options);
    if (isSettled(fresh.found.entry)) {
      // Nobody waits for it: the next read finds it, or not.
      void cache.putNewer(key, { version: fresh.version, value: encodeFound(fresh) });
    }
    return fresh.found;
  }
}

/** Whether what was found is an answer to `ref` at all: whoever else writes to a shared cache is not trusted that far. */
function isAbout({ found }: FoundEntry, ref: EntryRef): boolean {
  return "path" in ref ? found.path === ref.path : found.entry.entryId === ref.entryId;
}

function isSettled(entry: Entry): boolean {
  return entry.kind === "directory" || entry.sizeBytes <= CHUNK_SIZE_BYTES || entry.sha256.length > 0;
}

/** The text that decodeFound() reads. */
export function encodeFound({ found, ancestorIds }: FoundEntry): string {
  const { entry, path } = found;
  const treeHash = toHex(entry.treeHash);
  const sha256 = toHex(entry.sha256);
  return JSON.stringify({ path, ancestorIds, entry: { ...entry, treeHash, sha256 } });
}

/** What encodeFound() wrote; undefined for anything else. */
export function decodeFound(version: number, text: string): FoundEntry | undefined {
  let document: unknown;
  try {
    document = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (!isRecord(document) || typeof document["path"] !== "string") return undefined;
  const { ancestorIds } = document;
  if (ancestorIds !== undefined && !isIdList(ancestorIds)) return undefined;
  const entry = isRecord(document["entry"]) ? decodeEntry(document["entry"]) : undefined;
  return entry === undefined ? undefined : { found: { entry, path: document["path"] }, version, ancestorIds };
}

const COUNTS = [
  "entryId",
  "parentId",
  "version",
  "sizeBytes",
  "contentId",
  "modifyTimeMs",
  "createTimeMs",
] as const;

function decodeEntry(record: Readonly<Record<string, unknown>>): Entry | undefined {
  const { name, kind, mediaType, mode, treeHash, sha256 } = record;
  if (typeof name !== "string" || typeof mediaType !== "string") return undefined;
  if (kind !== "file" && kind !== "directory") return undefined;
  if (mode !== undefined && typeof mode !== "number") return undefined;
  const digests = [treeHash, sha256].flatMap((text) => decodeDigest(text) ?? []);
  const counts = COUNTS.map((field) => record[field]).filter((value) => typeof value === "number");
  const [entryId, parentId, version, sizeBytes, contentId, modifyTimeMs, createTimeMs] = counts;
  if (entryId === undefined || parentId === undefined || version === undefined || sizeBytes === undefined)
    return undefined;
  if (contentId === undefined || modifyTimeMs === undefined || createTimeMs === undefined) return undefined;
  const [tree, plain] = digests;
  if (tree === undefined || plain === undefined) return undefined;
  return {
    ...{ entryId, parentId, name, kind, version, sizeBytes, contentId },
    ...{ treeHash: tree, sha256: plain },
    ...{ mediaType, mode, modifyTimeMs, createTimeMs },
  };
}

function decodeDigest(text: unknown): Uint8Array | undefined {
  return typeof text === "string" && (text === "" || text.length === 64) ? fromHex(text) : undefined;
}

function isIdList(value: unknown): value is readonly number[] {
  return Array.isArray(value) && value.every((id) => Number.isSafeInteger(id));
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
