/** Rows of the tables in PostgreSQL, as the tree gives them, and the statements that write many at once. */
import { chunkCount } from "../drive/content.ts";
import type { Entry } from "../drive/entry.ts";
import { REPLICA_COUNT } from "../drive/limits.ts";
import { extentsOf } from "../metadata/view.ts";
import { toHex } from "../std/bytes.ts";
import type { OrderedReader } from "../std/ordered-store.ts";
import { foldName, gramsOf } from "./name-grams.ts";
import type { Connection } from "./postgres-client.ts";

/** Between the grams of a name on their way to the server: no name holds it. */
const GRAM_SEPARATOR = "\u0001";

/** What timestamptz can hold, in milliseconds since 1970, a day inside its ends. */
const TIMESTAMP_MS_MIN = -210_866_000_000_000;
const TIMESTAMP_MS_MAX = 9_224_318_000_000_000;

/** The value of files.id. */
export const fileId = (entryId: number): string => String(entryId);

/** A file or folder with its path. */
export interface FileRow {
  readonly entry: Entry;
  readonly path: string;
  /** Fewest verified copies of any extent; undefined where there are no bytes. */
  readonly copyCount: number | undefined;
}

const clampTime = (ms: number): number => Math.min(TIMESTAMP_MS_MAX, Math.max(TIMESTAMP_MS_MIN, ms));

const UPSERT_FILES = `
  INSERT INTO files (id, name, path, size, hash, chunk_count, created_at, updated_at, is_directory, entry_id, parent_id,
    content_id, version, created_ms, modified_ms, media_type, copy_count, folded, grams)
  SELECT r.entry_id::text, r.name, r.path, r.size, r.hash, r.chunk_count,
    'epoch'::timestamptz + r.created * interval '1 millisecond', 'epoch'::timestamptz + r.modified * interval '1 millisecond',
    r.is_directory, r.entry_id, r.parent_id, r.content_id, r.version, r.created_ms, r.modified_ms, r.media_type, r.copy_count,
    r.folded, string_to_array(r.grams, E'\\x01')
  FROM unnest($1::bigint[], $2::text[], $3::text[], $4::bigint[], $5::text[], $6::int[], $7::float8[], $8::float8[],
    $9::boolean[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[], $15::text[], $16::int[],
    $17::text[], $18::text[])
    AS r(entry_id, name, path, size, hash, chunk_count, created, modified, is_directory, parent_id, content_id, version,
      created_ms, modified_ms, media_type, copy_count, folded, grams)
  ON CONFLICT (id) DO UPDATE SET
    name = excluded.name, path = excluded.path, size = excluded.size, hash = excluded.hash,
    chunk_count = excluded.chunk_count, created_at = excluded.created_at, updated_at = excluded.updated_at,
    parent_id = excluded.parent_id, content_id = excluded.content_id, version = excluded.version,
    created_ms = excluded.created_ms, modified_ms = excluded.modified_ms, media_type = excluded.media_type,
    copy_count = excluded.copy_count, folded = excluded.folded, grams = excluded.grams`;

/** Writes rows of files, new ones and changed ones. */
export async function upsertFiles(connection: Connection, rows: readonly FileRow[]): Promise<void> {
  if (rows.length === 0) return;
  const entries = rows.map((row) => row.entry);
  const folded = entries.map((entry) => foldName(entry.name));
  await connection.query(UPSERT_FILES, [
    entries.map((entry) => entry.entryId),
    entries.map((entry) => entry.name),
    rows.map((row) => row.path),
    entries.map((entry) => entry.sizeBytes),
    entries.map((entry) => toHex(entry.treeHash)),
    entries.map((entry) => chunkCount(entry.sizeBytes)),
    entries.map((entry) => clampTime(entry.createTimeMs)),
    entries.map((entry) => clampTime(entry.modifyTimeMs)),
    entries.map((entry) => entry.kind === "directory"),
    entries.map((entry) => entry.parentId),
    entries.map((entry) => entry.contentId),
    entries.map((entry) => entry.version),
    entries.map((entry) => entry.createTimeMs),
    entries.map((entry) => entry.modifyTimeMs),
    entries.map((entry) => entry.mediaType),
    rows.map((row) => row.copyCount ?? null),
    folded,
    folded.map((name) => gramsOf(name).join(GRAM_SEPARATOR)),
  ]);
}

/** A copy of an extent of a file. */
export interface ReplicaRow {
  readonly entryId: number;
  readonly extentIndex: number;
  readonly memberId: number;
  readonly status: string;
  readonly sizeBytes: number;
}

/** The copies of a file's content as the tree has them now, and the fewest verified ones of any extent. */
export function replicaRows(
  reader: OrderedReader,
  entryId: number,
  contentId: number,
): { readonly rows: readonly ReplicaRow[]; readonly copyCount: number | undefined } {
  if (contentId === 0) return { rows: [], copyCount: undefined };
  const rows: ReplicaRow[] = [];
  let copyCount: number | undefined;
  for (const { extentIndex, sizeBytes, replicas } of extentsOf(reader, contentId)) {
    let verifiedCount = 0;
    for (const { memberId, state } of replicas) {
      if (state === "verified") verifiedCount += 1;
      rows.push({ entryId, extentIndex, memberId, status: state, sizeBytes });
    }
    copyCount = Math.min(REPLICA_COUNT, copyCount ?? REPLICA_COUNT, verifiedCount);
  }
  return { rows, copyCount };
}

/** How a node is named in rows of replicas. */
export interface NodeName {
  readonly nodeId: string;
  readonly address: string;
}

/** Puts `rows` in place of all copies of the files `entryIds`. */
export async function replaceReplicas(
  connection: Connection,
  entryIds: readonly number[],
  rows: readonly ReplicaRow[],
  nodes: ReadonlyMap<number, NodeName>,
  nowMs: number,
): Promise<void> {
  if (entryIds.length > 0) {
    await connection.query("DELETE FROM replicas WHERE file_id = ANY($1)", [entryIds.map(fileId)]);
  }
  if (rows.length === 0) return;
  // A member that the tree does not know by name (any more) is still one that holds copies.
  const nameOf = (row: ReplicaRow): NodeName =>
    nodes.get(row.memberId) ?? { nodeId: `member-${row.memberId}`, address: "" };
  await connection.query(
    `INSERT INTO replicas (file_id, extent_index, member_id, node_id, node_address, status, size, updated_at)
     SELECT r.file_id, r.extent_index, r.member_id, r.node_id, r.node_address, r.status, r.size,
       'epoch'::timestamptz + $8::float8 * interval '1 millisecond'
     FROM unnest($1::text[], $2::int[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::bigint[])
       AS r(file_id, extent_index, member_id, node_id, node_address, status, size)`,
    [
      rows.map((row) => fileId(row.entryId)),
      rows.map((row) => row.extentIndex),
      rows.map((row) => row.memberId),
      rows.map((row) => nameOf(row).nodeId),
      rows.map((row) => nameOf(row).address),
      rows.map((row) => row.status),
      rows.map((row) => row.sizeBytes),
      nowMs,
    ],
  );
}

/** A chunk of a file. */
export interface ChunkRow {
  readonly entryId: number;
  readonly chunkIndex: number;
  readonly sizeBytes: number;
  readonly digest: Uint8Array;
  readonly offset: number;
}

/** Adds chunks; those that are there already stay. */
export async function insertChunks(connection: Connection, rows: readonly ChunkRow[]): Promise<void> {
  if (rows.length === 0) return;
  await connection.query(
    `INSERT INTO chunks (file_id, chunk_index, size, hash, "offset")
     SELECT * FROM unnest($1::text[], $2::int[], $3::int[], $4::text[], $5::bigint[])
     ON CONFLICT (file_id, chunk_index) DO NOTHING`,
    [
      rows.map((row) => fileId(row.entryId)),
      rows.map((row) => row.chunkIndex),
      rows.map((row) => row.sizeBytes),
      rows.map((row) => toHex(row.digest)),
      rows.map((row) => row.offset),
    ],
  );
}
