/**
 * Questions to the catalog in PostgreSQL. Text goes to the index of grams and is compared with the folded name after; a text
 * that many names hold is found sooner by reading along the order asked for. So that is tried first, for a bounded number of rows.
 * In the order of ids the index of grams is then asked for the nearest ages of rows, and for more only while the page is not full.
 */
import { DriveError } from "../drive/errors.ts";
import { fromHex } from "../std/bytes.ts";
import {
  checkCount,
  checkQuery,
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
import { AGE_ID_COUNT, AGE_SQL, INDEXED_PATH_LENGTH } from "./postgres-schema.ts";
import { matchesPath, parseSearchText, type SearchPattern } from "./search-text.ts";

/**
 * Rows read along the order of a query before the index of grams is asked. In the order of ids fewer do: their index holds the names,
 * and what is frequent is found among them, what is not costs little in the nearest ages.
 */
const WINDOW_ROW_COUNT = 10_000;
export const NEAR_ROW_COUNT = 4000;
/** Ages that one statement asks for, when nothing is known of how many rows match, and at most. */
const AGE_COUNT_UNKNOWN = 8;
const AGE_COUNT_MAX = 128;
/** Each statement asks for so many times the ages of the one before. */
const AGE_COUNT_FACTOR = 4;
/** Rows read at a time where names above decide, too: those are compared here, and may let few through. */
const COMPARED_ROW_COUNT = 1000;

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
  readonly values: unknown[];
  readonly #parts: string[] = [];

  /** @param values those of the statement so far, shared with its other conditions */
  constructor(values: unknown[] = []) {
    this.values = values;
  }

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

function addFilters(
  conditions: Conditions,
  query: CatalogQuery,
  folder: string,
  pattern: SearchPattern | undefined,
): void {
  addFolder(conditions, folder);
  if (pattern?.foldersOnly === true) conditions.add("is_directory");
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

function addText(conditions: Conditions, { own, atStart, atEnd }: SearchPattern): void {
  if (atStart && atEnd) conditions.add("folded = ?", own);
  else if (atStart) conditions.add("starts_with(folded, ?)", own);
  else if (atEnd) conditions.add("right(folded, length(?)) = ?", own, own);
  else conditions.add("strpos(folded, ?) > 0", own);
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
    checkQuery(query);
    const pattern = query.text === undefined ? undefined : parseSearchText(query.text);
    const folder = folderPath(query.under);
    return this.#client.query(async (connection) => {
      const { asOfIndex, ...ids } = await stateOf(connection);
      await checkFolder(connection, folder);
      const found: CatalogEntry[] = [];
      let { cursor } = query;
      let more = true;
      const hasAbove = pattern !== undefined && pattern.above.length > 0;
      const countMax = hasAbove ? COMPARED_ROW_COUNT : query.countMax;
      // Names above the one that is found are compared here: most texts have none, so one round does.
      while (more && found.length <= query.countMax) {
        const rows = await selectEntries(
          connection,
          { ...query, cursor, countMax },
          { folder, pattern, ids },
        );
        more = rows.length > countMax;
        const page = rows.slice(0, more ? countMax : undefined);
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
      const { asOfIndex } = await stateOf(connection);
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
      const { asOfIndex } = await stateOf(connection);
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

/** The ids of the oldest and the newest row; the first is higher when there is none. */
interface IdRange {
  readonly lowId: number;
  readonly highId: number;
}

async function stateOf(connection: Connection): Promise<IdRange & { readonly asOfIndex: number }> {
  const { rows } = await connection.query<{ as_of: string; low: string | null; high: string | null }>(
    `SELECT applied_index AS as_of, (SELECT min(entry_id) FROM files) AS low, (SELECT max(entry_id) FROM files) AS high
     FROM catalog_checkpoint WHERE scan_cursor IS NULL`,
  );
  const [row] = rows;
  if (row === undefined) {
    throw new DriveError("CATALOG_UNAVAILABLE", "The catalog in PostgreSQL is being built.");
  }
  return { asOfIndex: Number(row.as_of), lowId: Number(row.low ?? 0), highId: Number(row.high ?? -1) };
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
  about: { readonly folder: string; readonly pattern: SearchPattern | undefined; readonly ids: IdRange },
): Promise<readonly CatalogEntry[]> {
  const { folder, pattern, ids } = about;
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
  const run = async (conditions: Conditions, sql: string): Promise<CatalogEntry[]> => {
    const { rows } = await connection.query<FoundRow>(sql, conditions.values);
    return rows.map(entryOf);
  };
  if (pattern === undefined) {
    const conditions = addCursor(new Conditions());
    addFilters(conditions, query, folder, pattern);
    return run(
      conditions,
      `SELECT ${COLUMNS} FROM files WHERE ${conditions.sql} ORDER BY ${order} LIMIT ${limit}`,
    );
  }
  const lookNear = (rowCount: number): Promise<CatalogEntry[]> => {
    const conditions = addCursor(new Conditions());
    const isById = query.sort === "created";
    const window = `SELECT entry_id AS near_id, folded${isById ? "" : `, ${column} AS near_value`}
      FROM files WHERE ${conditions.sql} ORDER BY ${order} LIMIT ${rowCount}`;
    const nearOrder = `${isById ? "" : `near_value ${direction}, `}near_id ${direction}`;
    const named = new Conditions(conditions.values);
    addText(named, pattern);
    const filtered = new Conditions(conditions.values);
    addFilters(filtered, query, folder, pattern);
    // Rows are read whole once their names fit: the index of ids holds names, and the window is read from it alone. OFFSET 0 has
    // them read one by one in the order of the window, so that reading ends with the last row that is wanted.
    return run(
      conditions,
      `SELECT whole.* FROM (SELECT * FROM (${window}) AS near WHERE ${named.sql}) AS named
       CROSS JOIN LATERAL (SELECT ${COLUMNS} FROM files
         WHERE entry_id = near_id AND ${filtered.sql} OFFSET 0) AS whole
       ORDER BY ${nearOrder} LIMIT ${limit}`,
    );
  };
  const near = await lookNear(query.sort === "created" ? NEAR_ROW_COUNT : WINDOW_ROW_COUNT);
  if (near.length === limit) return near;
  const lookUp = (some: (conditions: Conditions) => void, countMax: number): Promise<CatalogEntry[]> => {
    const conditions = addCursor(new Conditions());
    conditions.add("grams @> ?::text[]", gramsToFind(pattern.own));
    some(conditions);
    addFilters(conditions, query, folder, pattern);
    addText(conditions, pattern);
    return run(
      conditions,
      `WITH found AS MATERIALIZED (SELECT ${COLUMNS} FROM files WHERE ${conditions.sql})
       SELECT * FROM found ORDER BY ${order} LIMIT ${countMax}`,
    );
  };
  if (query.sort !== "created") return lookUp(() => undefined, limit);
  const { descending } = query;
  return findByAge({ descending, afterId: after?.entryId, ids, foundCount: near.length, limit, lookUp });
}

interface AgeSearch {
  readonly descending: boolean;
  readonly afterId: number | undefined;
  readonly ids: IdRange;
  /** How many of the first NEAR_ROW_COUNT rows match. */
  readonly foundCount: number;
  readonly limit: number;
  /** Rows in the order of ids that the index of grams gives for a further condition. */
  readonly lookUp: (
    some: (conditions: Conditions) => void,
    countMax: number,
  ) => Promise<readonly CatalogEntry[]>;
}

/** Rows of a page in the order of ids: of the nearest ages first, of all others at once when those hold too few. */
async function findByAge(search: AgeSearch): Promise<readonly CatalogEntry[]> {
  const { descending, afterId, ids, foundCount, limit, lookUp } = search;
  const { lowId: low, highId: high } = ids;
  const firstId = descending ? Math.min(high, (afterId ?? Infinity) - 1) : Math.max(low, (afterId ?? -1) + 1);
  if (firstId < low || firstId > high) return [];
  const found: CatalogEntry[] = [];
  let age = ageOf(firstId);
  const isPast = (): boolean => (descending ? age < ageOf(low) : age > ageOf(high));
  for (const count of ageCounts(foundCount, limit)) {
    const ages: number[] = [];
    for (; ages.length < count && !isPast(); age += descending ? -1 : 1) ages.push(age);
    found.push(
      ...(await lookUp(
        (conditions) => conditions.add(`${AGE_SQL} && ?::bigint[]`, ages),
        limit - found.length,
      )),
    );
    if (found.length === limit || isPast()) return found;
  }
  const bound = descending ? (age + 1) * AGE_ID_COUNT : age * AGE_ID_COUNT;
  const rest = await lookUp(
    (conditions) => conditions.add(`entry_id ${descending ? "<" : ">="} ?`, bound),
    limit - found.length,
  );
  return [...found, ...rest];
}

const ageOf = (entryId: number): number => Math.floor(entryId / AGE_ID_COUNT);

/**
 * How many ages to ask for, statement by statement, until `limit` rows are found, when `foundCount` were in the first
 * NEAR_ROW_COUNT: with half as many again for luck, then AGE_COUNT_FACTOR times as many each time, at most AGE_COUNT_MAX.
 */
export function ageCounts(foundCount: number, limit: number): readonly number[] {
  const rowCount = (limit / foundCount) * NEAR_ROW_COUNT * 1.5;
  const first = foundCount === 0 ? AGE_COUNT_UNKNOWN : Math.ceil(rowCount / AGE_ID_COUNT);
  const counts: number[] = [];
  for (let count = Math.min(first, AGE_COUNT_MAX); count <= AGE_COUNT_MAX; count *= AGE_COUNT_FACTOR) {
    counts.push(count);
  }
  return counts;
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
