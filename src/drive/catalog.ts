/**
 * The catalog: answers questions about the whole drive that the tree itself is not ordered for. A port with two
 * implementations: embedded (each node's own, embedded-catalog.ts) and PostgreSQL (postgres-catalog.ts).
 *
 * A catalog follows the tree and may be behind it; `asOfIndex` says how far it was. It is never needed to read or write files.
 */
import type { Entry } from "./entry.ts";
import { DriveError } from "./errors.ts";
import { formatPath, parseName, parsePath } from "./path.ts";

/** Entries on a page of a catalog: default and maximum. */
export const CATALOG_PAGE_SIZE_DEFAULT = 100;
export const CATALOG_PAGE_SIZE_MAX = 1000;

/** Rows of a usage report. */
export const USAGE_ROW_COUNT_MAX = 1000;

/** Entries of a group of equal files that are named; the others are only counted. */
export const DUPLICATE_NAMED_COUNT_MAX = 20;

/** By what entries are ordered: "created" by age, "name" by code points, "size", "modified" by the client's time. */
export type CatalogSort = "created" | "name" | "size" | "modified";

/** Orders that a query may ask for. */
export const CATALOG_SORTS: readonly CatalogSort[] = ["created", "name", "size", "modified"];

/** Which entries, in which order, and which page of them. Absent filters let everything through. */
export interface CatalogQuery {
  /** Part of a name or path; see search-text.ts. */
  readonly text?: string | undefined;
  /** Absolute path of a folder: only what lies below it. */
  readonly under?: string | undefined;
  readonly kind?: Entry["kind"] | undefined;
  /** A media type, or the first half of one with its slash, as in "image/". Only files. */
  readonly mediaType?: string | undefined;
  readonly sizeBytesMin?: number | undefined;
  readonly sizeBytesMax?: number | undefined;
  /** Wall times in milliseconds, both included. */
  readonly modifiedFromMs?: number | undefined;
  readonly modifiedToMs?: number | undefined;
  /** Only files of which an extent has fewer verified copies than it should. */
  readonly underReplicated?: boolean | undefined;
  readonly sort: CatalogSort;
  readonly descending: boolean;
  /** 1 to CATALOG_PAGE_SIZE_MAX. */
  readonly countMax: number;
  readonly cursor?: string | undefined;
}

/** An entry that a catalog found. */
export interface CatalogEntry {
  readonly entryId: number;
  readonly path: string;
  readonly name: string;
  readonly kind: Entry["kind"];
  readonly sizeBytes: number;
  /** Tree hash, 32 bytes; empty for a directory. */
  readonly treeHash: Uint8Array;
  readonly mediaType: string;
  readonly modifyTimeMs: number;
  readonly createTimeMs: number;
  /** Fewest verified copies of any extent; undefined where there are no bytes. */
  readonly copyCount: number | undefined;
}

/** Which catalog answered, and how far it had come. */
export interface CatalogOrigin {
  readonly source: "embedded" | "postgres";
  /** Applied index up to which changes are in the answer. */
  readonly asOfIndex: number;
}

/** One page of entries. */
export interface CatalogPage extends CatalogOrigin {
  readonly entries: readonly CatalogEntry[];
  readonly nextCursor: string | undefined;
}

/** What is counted together: by the folder directly below the one asked about, by media type, by node that holds copies. */
export type UsageGroup = "folder" | "type" | "node";

/** Groups that a report may ask for. */
export const USAGE_GROUPS: readonly UsageGroup[] = ["folder", "type", "node"];

/** One row of a usage report. */
export interface UsageRow {
  /** Path of a folder, a media type ("" when unknown), or a node id. */
  readonly key: string;
  readonly fileCount: number;
  /** Logical bytes. By node: bytes of the verified copies there, each file's counted for itself. */
  readonly sizeBytes: number;
}

/** A usage report: rows with most bytes first, then by key. Files directly in the folder count under its own path. */
export interface UsageReport extends CatalogOrigin {
  readonly rows: readonly UsageRow[];
  /** Whether there are more than USAGE_ROW_COUNT_MAX rows. */
  readonly truncated: boolean;
  readonly fileCount: number;
  readonly directoryCount: number;
  readonly sizeBytes: number;
}

/** Files with equal bytes. */
export interface DuplicateGroup {
  readonly treeHash: Uint8Array;
  readonly sizeBytes: number;
  readonly fileCount: number;
  /** The oldest DUPLICATE_NAMED_COUNT_MAX of them. */
  readonly paths: readonly string[];
}

/** The groups of equal files that take most bytes, the largest sum first. Files without bytes are left out. */
export interface DuplicateReport extends CatalogOrigin {
  readonly groups: readonly DuplicateGroup[];
}

/** A catalog. Every method may fail with CATALOG_UNAVAILABLE, OVERLOADED, ARGUMENT_INVALID and CANCELED. */
export interface Catalog {
  /** Entries in order. Errors: PATH_NOT_FOUND, NOT_A_DIRECTORY (`under`). */
  find(query: CatalogQuery, signal?: AbortSignal): Promise<CatalogPage>;
  /** What is used below the folder at `under`. Errors: PATH_NOT_FOUND, NOT_A_DIRECTORY. */
  usage(by: UsageGroup, under: string, signal?: AbortSignal): Promise<UsageReport>;
  /** At most `countMax` (1 to CATALOG_PAGE_SIZE_MAX) groups. */
  duplicates(countMax: number, signal?: AbortSignal): Promise<DuplicateReport>;
}

/** The catalog as a node offers it to clients. */
export interface CatalogApi extends Catalog {
  /** Throws what this node and PostgreSQL know away and lets it be built anew from the tree. Errors: CATALOG_UNAVAILABLE. */
  rebuild(signal?: AbortSignal): Promise<void>;
}

/** Stands where a drive has no catalog: refuses everything with CATALOG_UNAVAILABLE. */
export const noCatalog: CatalogApi = {
  find: refuseAll,
  usage: refuseAll,
  duplicates: refuseAll,
  rebuild: refuseAll,
};

function refuseAll(): Promise<never> {
  return Promise.reject(new DriveError("CATALOG_UNAVAILABLE", "This drive has no catalog."));
}

/** How an external catalog does. */
export interface CatalogStatus {
  /** "off": none is configured. "degraded": it does not answer, or is being built. */
  readonly state: "up" | "degraded" | "off";
  /** Wall time since when. */
  readonly sinceMs: number;
  /** What is wrong; empty when nothing is. */
  readonly detail: string;
  /** Commands behind this node's state; undefined when unknown. */
  readonly lagCount: number | undefined;
}

function refuse(message: string, metadata: Readonly<Record<string, string>> = {}): never {
  throw new DriveError("ARGUMENT_INVALID", message, metadata);
}

/** Checks the numbers of a query. @throws DriveError ARGUMENT_INVALID */
export function checkCount(countMax: number): void {
  if (Number.isSafeInteger(countMax) && countMax >= 1 && countMax <= CATALOG_PAGE_SIZE_MAX) return;
  refuse(`A page has 1 to ${CATALOG_PAGE_SIZE_MAX} entries, not ${countMax}.`, { count: String(countMax) });
}

/** Checks everything of a query but its text and folder. @throws DriveError ARGUMENT_INVALID */
export function checkQuery(query: CatalogQuery): void {
  checkCount(query.countMax);
  parseCursor(query);
  const { mediaType, sizeBytesMin, sizeBytesMax, modifiedFromMs, modifiedToMs } = query;
  // What no media type holds, the tables could not be asked for either.
  if (mediaType !== undefined && !/^[\x20-\x7e]*$/.test(mediaType)) {
    refuse("A media type has printable ASCII characters only.");
  }
  for (const value of [sizeBytesMin, sizeBytesMax, modifiedFromMs, modifiedToMs]) {
    if (value !== undefined && !Number.isSafeInteger(value)) refuse(`${value} is no size and no time.`);
  }
}

/** The folder of a query in normal form, "/" for the root. @throws DriveError PATH_INVALID and the like */
export function folderPath(under: string | undefined): string {
  return formatPath(parsePath(under ?? "/"));
}

/** Where a page ended: the value it was ordered by, and the entry. */
export interface CatalogCursor {
  readonly value: string | number;
  readonly entryId: number;
}

/** The value an entry is ordered by. */
export function sortValue(
  sort: CatalogSort,
  entry: Pick<Entry, "entryId" | "name" | "sizeBytes" | "modifyTimeMs">,
): string | number {
  if (sort === "name") return entry.name;
  if (sort === "size") return entry.sizeBytes;
  return sort === "modified" ? entry.modifyTimeMs : entry.entryId;
}

/** The text of a cursor. */
export function formatCursor(
  query: Pick<CatalogQuery, "sort" | "descending">,
  cursor: CatalogCursor,
): string {
  const parts = [query.sort, query.descending ? 1 : 0, cursor.value, cursor.entryId];
  return Buffer.from(JSON.stringify(parts), "utf8").toString("base64url");
}

/** The cursor of a query; undefined for the first page. @throws DriveError ARGUMENT_INVALID when it is not one of this order */
export function parseCursor(
  query: Pick<CatalogQuery, "sort" | "descending" | "cursor">,
): CatalogCursor | undefined {
  if (query.cursor === undefined || query.cursor === "") return undefined;
  let parts: unknown;
  try {
    parts = JSON.parse(Buffer.from(query.cursor, "base64url").toString("utf8"));
  } catch {
    parts = undefined;
  }
  if (Array.isArray(parts) && parts.length === 4) {
    const [sort, descending, value, entryId] = parts as readonly unknown[];
    const fits = query.sort === "name" ? isName(value) : Number.isSafeInteger(value);
    if (
      sort === query.sort &&
      descending === (query.descending ? 1 : 0) &&
      fits &&
      Number.isSafeInteger(entryId)
    ) {
      return { value: value as string | number, entryId: entryId as number };
    }
  }
  return refuse("The cursor is not one that this query gave.");
}

function isName(value: unknown): boolean {
  try {
    return typeof value === "string" && parseName(value) === value;
  } catch {
    return false;
  }
}
