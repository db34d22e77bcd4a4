/**
 * The tables of the catalog in PostgreSQL, as numbered steps, and the runner that brings a database up to date.
 *
 * Steps only ever get added. All that are missing run in one transaction under an advisory lock, so nodes that start together
 * wait for one another, and a step that fails leaves the database as it was. Schema changes of a later version that this one
 * does not know are refused, not guessed at.
 */
import type { ClientBase } from "pg";
import { DriveError } from "../drive/errors.ts";

/** Any number that nothing else in the database locks: "netdisk" as bytes. */
const LOCK_KEY = "31069370223850347";

/** Characters of a path that its index holds: 2,400 bytes at most, below what a page of the index takes. */
export const INDEXED_PATH_LENGTH = 600;

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
];

/**
 * Brings the database of `client` up to date; waits for a node that is doing it. Returns how many steps it ran.
 * @throws DriveError CATALOG_UNAVAILABLE when the database is of a later version of the program; errors of pg
 */
export async function migrate(client: ClientBase): Promise<number> {
  await client.query("BEGIN");
  try {
    await client.query("SELECT pg_advisory_xact_lock($1)", [LOCK_KEY]);
    await client.query(
      "CREATE TABLE IF NOT EXISTS catalog_migrations (step int PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())",
    );
    const { rows } = await client.query<{ step: number | null }>(
      "SELECT max(step) AS step FROM catalog_migrations",
    );
    const done = rows[0]?.step ?? 0;
    if (done > STEPS.length) {
      throw new DriveError(
        "CATALOG_UNAVAILABLE",
        "The database of the catalog was made by a later version.",
        {
          step: String(done),
          known_step: String(STEPS.length),
        },
      );
    }
    for (const [i, step] of STEPS.entries()) {
      if (i < done) continue;
      await client.query(step);
      await client.query("INSERT INTO catalog_migrations (step) VALUES ($1)", [i + 1]);
    }
    await client.query("COMMIT");
    return STEPS.length - done;
  } catch (error) {
    await client.query("ROLLBACK").catch(() => undefined);
    throw error;
  }
}
