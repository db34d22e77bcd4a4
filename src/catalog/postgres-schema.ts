/**
 * The tables of the catalog in PostgreSQL, as numbered steps. umzug finds those that a database lacks, and takes them.
 *
 * Steps only ever get added. All that are missing run in one transaction under an advisory lock, so of nodes that start together
 * one takes them, and a step that fails leaves the database as it was. umzug knows neither locks nor transactions, so
 * both are here. Schema changes of a later version that this one does not know are refused, not guessed at.
 */
import type { ClientBase } from "pg";
import type { Umzug, UmzugStorage } from "umzug";
import { DriveError } from "../drive/errors.ts";
import { AssertionError } from "../std/assert.ts";

/** Any number that nothing else in the database locks: "netdisk" as bytes. */
const LOCK_KEY = "31069370223850347";

/** Characters of a path that its index holds: 2,400 bytes at most, below what a page of the index takes. */
export const INDEXED_PATH_LENGTH = 600;

/** Ids of entries in one age: rows that were made one after the other. Fixed, since an index is made of it. */
export const AGE_ID_COUNT = 16_384;
/** The age of a row as the index of grams holds it. */
export const AGE_SQL = "ARRAY[entry_id >> 14]";

/** The schema, step by step: a step's number in the database is its place here, from 1. */
const STEPS: readonly string[] = [
  `
  -- Everything in the tree but the root. The first nine columns are for other programs; times outside of what
  -- timestamptz can hold are its ends there, and exact in the *_ms columns.
  CREATE TABLE files (
    id varchar(64) PRIMARY KEY,
    name varchar(255) NOT NULL,
    path text NOT NULL,
    size bigint NOT NULL,
    hash varchar(64) NOT NULL,
    chunk_count int NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    is_directory boolean NOT NULL,
    entry_id bigint NOT NULL,
    parent_id bigint NOT NULL,
    content_id bigint NOT NULL,
    version bigint NOT NULL,
    created_ms bigint NOT NULL,
    modified_ms bigint NOT NULL,
    media_type text NOT NULL,
    copy_count int,
    folded text NOT NULL,
    grams text[] NOT NULL
  );
  CREATE UNIQUE INDEX files_entry ON files (entry_id);
  CREATE INDEX files_parent ON files (parent_id, entry_id);
  CREATE INDEX files_content ON files (content_id) WHERE content_id > 0;
  CREATE INDEX files_path ON files (left(path, ${INDEXED_PATH_LENGTH}) COLLATE "C");
  CREATE INDEX files_name ON files (name COLLATE "C", entry_id);
  CREATE INDEX files_size ON files (size, entry_id);
  CREATE INDEX files_modified ON files (modified_ms, entry_id);
  CREATE INDEX files_hash ON files (hash) WHERE size > 0;
  CREATE INDEX files_lacking ON files (entry_id) WHERE copy_count < 3;
  CREATE INDEX files_grams ON files USING gin (grams);

  -- Copies, one row an extent and node.
  CREATE TABLE replicas (
    id bigserial PRIMARY KEY,
    file_id varchar(64) NOT NULL REFERENCES files ON DELETE CASCADE,
    extent_index int NOT NULL,
    member_id bigint NOT NULL,
    node_id varchar(64) NOT NULL,
    -- 253 of a host name, brackets, a colon and a port.
    node_address varchar(261) NOT NULL,
    status varchar(20) NOT NULL,
    size bigint NOT NULL,
    updated_at timestamptz NOT NULL,
    UNIQUE (file_id, extent_index, member_id)
  );

  CREATE TABLE chunks (
    id bigserial PRIMARY KEY,
    file_id varchar(64) NOT NULL REFERENCES files ON DELETE CASCADE,
    chunk_index int NOT NULL,
    size int NOT NULL,
    hash varchar(64) NOT NULL,
    "offset" bigint NOT NULL,
    UNIQUE (file_id, chunk_index)
  );

  -- How far the projection is: one row. A projector changes tables only while this row is as it left it.
  CREATE TABLE catalog_checkpoint (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    cluster_id text NOT NULL,
    epoch bigint NOT NULL,
    applied_index bigint NOT NULL,
    -- Where the scan of the tree goes on; null when it is done.
    scan_cursor text,
    -- The index at the end of the scan: until it is reached rows may be ahead of the checkpoint.
    scan_end_index bigint NOT NULL,
    updated_at timestamptz NOT NULL
  );

  -- Folders whose children are to get a new path, or to go.
  CREATE SEQUENCE catalog_job_seq;
  CREATE TABLE catalog_jobs (
    kind varchar(10) NOT NULL,
    directory_id bigint NOT NULL,
    seq bigint NOT NULL DEFAULT nextval('catalog_job_seq'),
    -- Children up to this entry are done.
    after_id bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (kind, directory_id)
  );
  CREATE INDEX catalog_jobs_seq ON catalog_jobs (kind, seq);

  -- Files whose chunks are to be fetched from manifests.
  CREATE TABLE catalog_chunk_jobs (
    file_id varchar(64) PRIMARY KEY REFERENCES files ON DELETE CASCADE,
    content_id bigint NOT NULL,
    next_extent int NOT NULL DEFAULT 0,
    attempt_count int NOT NULL DEFAULT 0,
    due_at timestamptz NOT NULL DEFAULT now()
  );
  CREATE INDEX catalog_chunk_jobs_due ON catalog_chunk_jobs (due_at);

  -- Nodes as rows of replicas name them.
  CREATE TABLE catalog_nodes (
    member_id bigint PRIMARY KEY,
    node_id varchar(64) NOT NULL,
    node_address varchar(261) NOT NULL
  );
  `,
  `
  -- Searches read names along the order of ids from this index alone, where pages are known to be visible to all: so new rows are
  -- looked after by their number, not by their share of the table.
  DROP INDEX files_entry;
  CREATE UNIQUE INDEX files_entry ON files (entry_id) INCLUDE (folded);
  ALTER TABLE files SET (autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 20000);
  `,
  `
  -- What a search reads from the table is most of its cost. With ages in the index of grams the newest rows that have a gram are
  -- found without looking at the others. Grams that wait to be sorted into the index are read whole by each search: so few wait.
  -- The old index goes last: from DROP on searches of other nodes wait until the transaction ends, and to make the new one takes long.
  CREATE INDEX files_grams_by_age ON files USING gin (grams, (${AGE_SQL})) WITH (gin_pending_list_limit = 1024);
  ANALYZE files;
  DROP INDEX files_grams;
  ALTER INDEX files_grams_by_age RENAME TO files_grams;
  `,
];

/**
 * A server notices that its client is gone when it has something to say, so after a whole index; with this it looks each second, and
 * a node that stops does not keep others from taking the steps. Servers before version 14 do not know it, those on Windows cannot.
 */
const NOTICE_GONE_CLIENT = `
  DO $$ BEGIN
    PERFORM set_config('client_connection_check_interval', '1s', true);
  EXCEPTION WHEN undefined_object OR invalid_parameter_value THEN
    RAISE DEBUG 'this server does not look for clients that are gone';
  END $$`;

/** The table of the steps that were taken, which every version of the program reads and writes alike. */
const TAKEN_STEPS: UmzugStorage<ClientBase> = {
  executed: async ({ context: client }) => {
    const { rows } = await client.query<{ step: number }>(
      "SELECT step FROM catalog_migrations ORDER BY step",
    );
    const latest = rows.at(-1)?.step ?? 0;
    if (latest > STEPS.length) {
      throw new DriveError(
        "CATALOG_UNAVAILABLE",
        "The database of the catalog was made by a later version.",
        { step: String(latest), known_step: String(STEPS.length) },
      );
    }
    return rows.map(({ step }) => String(step));
  },
  logMigration: async ({ name, context: client }) => {
    await client.query("INSERT INTO catalog_migrations (step) VALUES ($1)", [name]);
  },
  unlogMigration: ({ name }) => {
    throw new AssertionError(`step ${name} of the schema is being taken back`);
  },
};

/**
 * Loads the library that takes the steps, so that `migrate()` need not: a tenth of a second in which the process does nothing
 * else, and 22 MB that a node without PostgreSQL and the command line do without.
 */
export async function loadMigrations(): Promise<typeof Umzug> {
  return (await import("umzug")).Umzug;
}

/**
 * Brings the database of `client` up to date; waits for a node that is doing it no longer than the connection's lock_timeout.
 * Returns how many steps it ran.
 * @throws DriveError CATALOG_UNAVAILABLE when the database is of a later version of the program; errors of pg, one that says
 *   that the lock was not to be had included
 */
export async function migrate(client: ClientBase): Promise<number> {
  const Migrations = await loadMigrations();
  await client.query("BEGIN");
  try {
    await client.query(NOTICE_GONE_CLIENT);
    await client.query("SELECT pg_advisory_xact_lock($1)", [LOCK_KEY]);
    await client.query(
      "CREATE TABLE IF NOT EXISTS catalog_migrations (step int PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())",
    );
    const migrations = new Migrations<ClientBase>({
      context: client,
      logger: undefined,
      storage: TAKEN_STEPS,
      migrations: STEPS.map((sql, i) => ({ name: String(i + 1), up: () => client.query(sql) })),
    });
    const taken = await migrations.up();
    await client.query("COMMIT");
    return taken.length;
  } catch (error) {
    await client.query("ROLLBACK").catch(() => undefined);
    throw failureOf(error);
  }
}

/** What a step failed with, as pg said it: the library wraps it in an error of its own. */
function failureOf(error: unknown): unknown {
  return error instanceof Error && error.name === "MigrationError" ? (error.cause ?? error) : error;
}
