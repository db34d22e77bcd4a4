/**
 * Questions to the catalog in PostgreSQL. Text goes to the index of grams and is compared with the folded name after; a text
 * that many names hold is found sooner by reading along the order asked for. So that is tried first, for a bounded number of rows;
 * how many of them had it says how to go on.
 */
import { DriveError } from "../drive/errors.ts";
import { fromHex } from "../std/bytes.ts";
import {
  checkCount,
  DUPLICATE_NAMED_COUNT_MAX,
  folderPath,
  formatCursor,
  parseCursor,
  sortValue,
  USAGE_ROW_COUNT_MAX,
  type Catalog,
  type CatalogEntry,
  type CatalogPage,
  type CatalogQuery,
  type CatalogSort,
  type DuplicateReport,
  type UsageGroup,
  type UsageReport,
} from "../drive/catalog.ts";
import { gramsToFind } from "./name-grams.ts";
import type { Connection, PostgresClient } from "./postgres-client.ts";
import { readCheckpoint } from "./postgres-projection.ts";
import { INDEXED_PATH_LENGTH } from "./postgres-schema.ts";
import { matchesPath, parseSearchText, type SearchPattern } from "./search-text.ts";

/** Rows read along the order of a query before the index of grams is asked; and when what was found says that it pays. */
const WINDOW_ROW_COUNT = 10_000;
const WINDOW_ROW_COUNT_MAX = 100_000;

/**
 * A row found by the index of grams is read from anywhere in the table, and costs as much as this many along the order of ids, in
 * which they lie. Along any other order each is read from anywhere, too, and nothing is won.
 */
const FOUND_ROW_COST = 12;

const SORT_COLUMNS: Readonly<Record<CatalogSort, string>> = {
  created: "entry_id",
  name: 'name COLLATE "C"',
  size: "size",
  modified: "modified_ms",
};

const COLUMNS =
  "entry_id, path, name, is_directory, size, hash, media_type, modified_ms, created_ms, copy_count, folded";

interface FoundRow {
  readonly entry_id: string;
  readonly path: string;
  readonly name: string;
  readonly is_directory: boolean;
  readonly size: string;
  readonly hash: string;
  readonly media_type: string;
  readonly modified_ms: string;
  readonly created_ms: string;
  readonly copy_count: number | null;
}

/** Conditions of a statement with their values. */
class Conditions {
  readonly values: unknown[] = [];
  readonly #parts: string[] = [];

  /** Adds a condition; each "?" in it stands for the next value. */
  add(condition: string, ...values: readonly unknown[]): this {
    let i = 0;
    this.#parts.push(condition.replaceAll("?", () => this.value(values[i++])));
    return this;
  }

  /** Adds a value; returns how a statement names it. */
  value(value: unknown): string {
    this.values.push(value);
    return `$${this.values.length}`;
  }

  /** All of them, "true" when there is none. */
  get sql(): string {
    return this.#parts.length === 0 ? "true" : this.#parts.join(" AND ");
  }
}

function addFolder(conditions: Conditions, folder: string): void {
  if (folder === "/") return;
  const prefix = `${folder}/`;
  const indexed = `left(path, ${INDEXED_PATH_LENGTH}) COLLATE "C"`;
  const characters = Array.from(prefix);
  if (characters.length <= INDEXED_PATH_LENGTH)
    conditions.add(`${indexed} >= ? AND ${indexed} < ?`, prefix, `${folder}0`);
  else conditions.add(`${indexed} = ?`, characters.slice(0, INDEXED_PATH_LENGTH).join(""));
  conditions.add("starts_with(path, ?)", prefix);
}

function addFilters(conditions: Conditions, query: CatalogQuery, folder: string): void {
  addFolder(conditions, folder);
  const { kind, mediaType, sizeBytesMin, sizeBytesMax, modifiedFromMs, modifiedToMs, underReplicated } =
    query;
  if (kind !== undefined) conditions.add("is_directory = ?", kind === "directory");
  if (mediaType !== undefined || sizeBytesMin !== undefined || sizeBytesMax !== undefined) {
    conditions.add("NOT is_directory");
  }
  if (mediaType?.endsWith("/") === true) conditions.add("starts_with(media_type, ?)", mediaType);
  else if (mediaType !== undefined) conditions.add("media_type = ?", mediaType);
  if (sizeBytesMin !== undefined) conditions.add("size >= ?", sizeBytesMin);
  if (sizeBytesMax !== undefined) conditions.add("size <= ?", sizeBytesMax);
  if (modifiedFromMs !== undefined) conditions.add("modified_ms >= ?", modifiedFromMs);
  if (modifiedToMs !== undefined) conditions.add("modified_ms <= ?", modifiedToMs);
  if (underReplicated === true) conditions.add("copy_count < 3");
}

function addText(conditions: Conditions, pattern: SearchPattern): void {
  const { own, atStart, atEnd, foldersOnly } = pattern;
  if (atStart && atEnd) conditions.add("folded = ?", own);
  else if (atStart) conditions.add("starts_with(folded, ?)", own);
  else if (atEnd) conditions.add("right(folded, length(?)) = ?", own, own);
  else conditions.add("strpos(folded, ?) > 0", own);
  if (foldersOnly) conditions.add("is_directory");
}

function entryOf(row: FoundRow): CatalogEntry {
  return {
    entryId: Number(row.entry_id),
    path: row.path,
    name: row.name,
    kind: row.is_directory ? "directory" : "file",
    sizeBytes: Number(row.size),
    treeHash: fromHex(row.hash) ?? new Uint8Array(0),
    mediaType: row.media_type,
    modifyTimeMs: Number(row.modified_ms),
    createTimeMs: Number(row.created_ms),
    copyCount: row.copy_count ?? undefined,
  };
}

/** The catalog in PostgreSQL. */
export class PostgresCatalog implements Catalog {
  readonly #client: PostgresClient;

  constructor(client: PostgresClient) {
    this.#client = client;
  }

  async find(query: CatalogQuery): Promise<CatalogPage> {
    checkCount(query.countMax);
    parseCursor(query);
    const pattern = query.text === undefined ? undefined : parseSearchText(query.text);
    const folder = folderPath(query.under);
    return this.#client.query(async (connection) => {
      const asOfIndex = await appliedIndex(connection);
      await checkFolder(connection, folder);
      const found: CatalogEntry[] = [];
      let { cursor } = query;
      let more = true;
      // Names above the one that is found are compared here: most texts have none, so one round does.
      while (more && found.length <= query.countMax) {
        const rows = await selectEntries(connection, { ...query, cursor }, folder, pattern);
        more = rows.length > query.countMax;
        const page = rows.slice(0, more ? query.countMax : undefined);
        const last = page.at(-1);
        if (last !== undefined) cursor = cursorAt(query, last);
        found.push(...page.filter((entry) => pattern === undefined || fits(pattern, entry)));
      }
      const entries = found.slice(0, query.countMax);
      const last = entries.at(-1);
      const isCut = found.length > query.countMax;
      let nextCursor: string | undefined;
      if (isCut && last !== undefined) nextCursor = cursorAt(query, last);
      else if (more) nextCursor = cursor;
      return { source: "postgres", asOfIndex, entries, nextCursor };
    });
  }

  async usage(by: UsageGroup, under: string): Promise<UsageReport> {
    const folder = folderPath(under);
    return this.#client.report(async (connection) => {
      const asOfIndex = await appliedIndex(connection);
      await checkFolder(connection, folder);
      const conditions = new Conditions();
      addFolder(conditions, folder);
      const total = await connection.query<{ files: string; folders: string; bytes: string }>(
        `SELECT count(*) FILTER (WHERE NOT is_directory) AS files, count(*) FILTER (WHERE is_directory) AS folders,
           coalesce(sum(size), 0) AS bytes FROM files WHERE ${conditions.sql}`,
        conditions.values,
      );
      const { rows } = await connection.query<{ key: string; files: string; bytes: string }>(
        `SELECT key, files, bytes FROM (${usageSql(by, folder, conditions)}) AS sums
         ORDER BY bytes DESC, key COLLATE "C" LIMIT ${USAGE_ROW_COUNT_MAX + 1}`,
        conditions.values,
      );
      const [sums] = total.rows;
      return {
        source: "postgres",
        asOfIndex,
        rows: rows.slice(0, USAGE_ROW_COUNT_MAX).map((row) => ({
          key: row.key,
          fileCount: Number(row.files),
          sizeBytes: Number(row.bytes),
        })),
        truncated: rows.length > USAGE_ROW_COUNT_MAX,
        fileCount: Number(sums?.files ?? 0),
        directoryCount: Number(sums?.folders ?? 0),
        sizeBytes: Number(sums?.bytes ?? 0),
      };
    });
  }

  async duplicates(countMax: number): Promise<DuplicateReport> {
    checkCount(countMax);
    return this.#client.report(async (connection) => {
      const asOfIndex = await appliedIndex(connection);
      const { rows } = await connection.query<{ hash: string; size: string; files: string; paths: string[] }>(
        `SELECT g.hash, g.size, g.files, p.paths
         FROM (SELECT hash, size, count(*) AS files FROM files WHERE size > 0 GROUP BY hash, size HAVING count(*) > 1
               ORDER BY count(*) * size DESC, hash LIMIT $1) g
         CROSS JOIN LATERAL (SELECT array_agg(path ORDER BY entry_id) AS paths FROM (
           SELECT path, entry_id FROM files f WHERE f.hash = g.hash AND f.size > 0 ORDER BY entry_id LIMIT $2) named) p
         ORDER BY g.files * g.size DESC, g.hash`,
        [countMax, DUPLICATE_NAMED_COUNT_MAX],
      );
      const groups = rows.map((row) => ({
        treeHash: fromHex(row.hash) ?? new Uint8Array(0),
        sizeBytes: Number(row.size),
        fileCount: Number(row.files),
        paths: row.paths,
      }));
      return { source: "postgres", asOfIndex, groups };
    });
  }
}

async function appliedIndex(connection: Connection): Promise<number> {
  const checkpoint = await readCheckpoint(connection);
  if (checkpoint !== undefined && checkpoint.scanCursor === undefined) return checkpoint.appliedIndex;
  throw new DriveError("CATALOG_UNAVAILABLE", "The catalog in PostgreSQL is being built.");
}

async function checkFolder(connection: Connection, folder: string): Promise<void> {
  if (folder === "/") return;
  const start = Array.from(folder).slice(0, INDEXED_PATH_LENGTH).join("");
  const { rows } = await connection.query<{ is_directory: boolean }>(
    `SELECT is_directory FROM files WHERE left(path, ${INDEXED_PATH_LENGTH}) COLLATE "C" = $1 AND path = $2`,
    [start, folder],
  );
  const metadata = { path: folder };
  const shown = JSON.stringify(folder);
  if (rows[0] === undefined)
    throw new DriveError("PATH_NOT_FOUND", `There is nothing at ${shown}.`, metadata);
  if (!rows[0].is_directory) throw new DriveError("NOT_A_DIRECTORY", `${shown} is a file.`, metadata);
}

const fits = (pattern: SearchPattern, entry: CatalogEntry): boolean =>
  matchesPath(pattern, entry.path.slice(1).split("/"), entry.kind === "directory");

const cursorAt = (query: CatalogQuery, entry: CatalogEntry): string =>
  formatCursor(query, { value: sortValue(query.sort, entry), entryId: entry.entryId });

/** Rows of one page and one more, in order. */
async function selectEntries(
  connection: Connection,
  query: CatalogQuery,
  folder: string,
  pattern: SearchPattern | undefined,
): Promise<readonly CatalogEntry[]> {
  const direction = query.descending ? "DESC" : "ASC";
  const column = SORT_COLUMNS[query.sort];
  const order =
    query.sort === "created" ? `entry_id ${direction}` : `${column} ${direction}, entry_id ${direction}`;
  const after = parseCursor(query);
  const addCursor = (conditions: Conditions): Conditions => {
    const sign = query.descending ? "<" : ">";
    if (after === undefined) return conditions;
    if (query.sort === "created") return conditions.add(`entry_id ${sign} ?`, after.entryId);
    return conditions.add(`(${column}, entry_id) ${sign} (?, ?)`, after.value, after.entryId);
  };
  const limit = query.countMax + 1;
  const run = async (conditions: Conditions, sql: string): Promise<readonly CatalogEntry[]> => {
    const { rows } = await connection.query<FoundRow>(sql, conditions.values);
    return rows.map(entryOf);
  };
  if (pattern === undefined) {
    const conditions = addCursor(new Conditions());
    addFilters(conditions, query, folder);
    return run(
      conditions,
      `SELECT ${COLUMNS} FROM files WHERE ${conditions.sql} ORDER BY ${order} LIMIT ${limit}`,
    );
  }
  const lookNear = (rowCount: number): Promise<readonly CatalogEntry[]> => {
    const window = addCursor(new Conditions());
    const windowSql = `SELECT ${COLUMNS} FROM files WHERE ${window.sql} ORDER BY ${order} LIMIT ${rowCount}`;
    const inWindow = new Conditions();
    inWindow.values.push(...window.values);
    addFilters(inWindow, query, folder);
    addText(inWindow, pattern);
    return run(
      inWindow,
      `SELECT * FROM (${windowSql}) AS near WHERE ${inWindow.sql} ORDER BY ${order} LIMIT ${limit}`,
    );
  };
  let near = await lookNear(WINDOW_ROW_COUNT);
  if (near.length === limit) return near;
  const widerCount =
    query.sort === "created" ? wideWindow(near.length, limit, await rowCountOf(connection)) : undefined;
  if (widerCount !== undefined) near = await lookNear(widerCount);
  if (near.length === limit) return near;
  const conditions = addCursor(new Conditions());
  conditions.add("grams @> ?::text[]", gramsToFind(pattern.own));
  addFilters(conditions, query, folder);
  addText(conditions, pattern);
  return run(
    conditions,
    `WITH found AS MATERIALIZED (SELECT ${COLUMNS} FROM files WHERE ${conditions.sql})
     SELECT * FROM found ORDER BY ${order} LIMIT ${limit}`,
  );
}

/** Rows of the table, as its last analysis reckoned. */
async function rowCountOf(connection: Connection): Promise<number> {
  const { rows } = await connection.query<{ count: number }>(
    "SELECT reltuples AS count FROM pg_class WHERE oid = 'files'::regclass",
  );
  return Math.max(0, rows[0]?.count ?? 0);
}

/**
 * How many rows to read along the order, with half as many again for luck, until `limit` are found, when `foundCount` were in the
 * first WINDOW_ROW_COUNT; undefined when the index of grams gives all of them for less.
 */
export function wideWindow(foundCount: number, limit: number, rowCount: number): number | undefined {
  if (foundCount === 0) return undefined;
  const density = foundCount / WINDOW_ROW_COUNT;
  const neededCount = Math.ceil((limit / density) * 1.5);
  const pays = neededCount < density * rowCount * FOUND_ROW_COST;
  return pays && neededCount <= WINDOW_ROW_COUNT_MAX ? neededCount : undefined;
}

function usageSql(by: UsageGroup, folder: string, conditions: Conditions): string {
  const files = `SELECT * FROM files WHERE NOT is_directory AND ${conditions.sql}`;
  if (by === "type") {
    return `SELECT media_type AS key, count(*) AS files, sum(size) AS bytes FROM (${files}) f GROUP BY media_type`;
  }
  if (by === "node") {
    return `SELECT r.node_id AS key, count(DISTINCT r.file_id) AS files, sum(r.size) AS bytes
      FROM (${files}) f JOIN replicas r ON r.file_id = f.id WHERE r.status = 'verified' GROUP BY r.node_id`;
  }
  const prefix = folder === "/" ? "/" : `${folder}/`;
  const given = conditions.value(prefix);
  const own = conditions.value(folder);
  return `SELECT CASE WHEN strpos(rest, '/') = 0 THEN ${own} ELSE ${given} || split_part(rest, '/', 1) END AS key,
      count(*) AS files, sum(size) AS bytes
    FROM (SELECT substr(path, length(${given}::text) + 1) AS rest, size FROM (${files}) f) inside GROUP BY 1`;
}
