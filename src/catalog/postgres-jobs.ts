/**
 * Work that the feed leaves for later: new paths below moved folders, rows below deleted ones, chunks from manifests. Each batch
 * is a transaction under the checkpoint with its own place to go on, so a million descendants never hold up the feed for long.
 */
import type { Extent } from "../drive/content.ts";
import { extentCount } from "../drive/content.ts";
import { CHUNK_SIZE_BYTES, EXTENT_CHUNK_COUNT_MAX } from "../drive/limits.ts";
import { assert } from "../std/assert.ts";
import type { Connection, PostgresClient } from "./postgres-client.ts";
import { checkClaim, holdCheckpoint, queueJobs, type Checkpoint } from "./postgres-projection.ts";
import { insertChunks, type ChunkRow } from "./postgres-rows.ts";

/** Rows that one batch of new paths writes at most: the feed waits for it, about a second on a busy machine. */
export const PATH_BATCH_COUNT = 2500;
/** Rows that one batch of deletions takes out at most; copies and chunks go with each. */
export const DELETE_BATCH_COUNT = 2000;
/** Rows of chunks that one batch writes at most. */
export const CHUNK_BATCH_COUNT = 10_000;
/** Folders of the queue that one batch looks at. */
const JOB_BATCH_COUNT = 1000;
/** A file whose manifest cannot be had is tried again after this, doubled each time up to the second. */
const RETRY_MS_MIN = 1000;
const RETRY_MS_MAX = 300_000;

interface Child {
  readonly seq: string;
  readonly entry_id: string;
  readonly is_directory: boolean;
}

/** Runs one batch of a queue. Returns whether there was anything to do. @throws FencedError */
export function runJobs(client: PostgresClient, at: Checkpoint, kind: "paths" | "delete"): Promise<boolean> {
  const countMax = kind === "paths" ? PATH_BATCH_COUNT : DELETE_BATCH_COUNT;
  return client.project(async (connection) => {
    const { rows: jobs } = await connection.query<{ seq: string; directory_id: string; after_id: string }>(
      "SELECT seq, directory_id, after_id FROM catalog_jobs WHERE kind = $1 ORDER BY seq LIMIT $2",
      [kind, JOB_BATCH_COUNT],
    );
    if (jobs.length === 0) return false;
    await holdCheckpoint(connection, at);
    // The folders come in the order of the queue and their children in that of ids: a full batch ends where it was cut off.
    const { rows: children } = await connection.query<Child>(
      `SELECT j.seq, f.entry_id, f.is_directory
       FROM (SELECT seq, directory_id, after_id FROM catalog_jobs WHERE kind = $1 ORDER BY seq LIMIT $2) j
       CROSS JOIN LATERAL (
         SELECT entry_id, is_directory FROM files WHERE parent_id = j.directory_id AND entry_id > j.after_id
         ORDER BY entry_id LIMIT $3) f
       LIMIT $3`,
      [kind, JOB_BATCH_COUNT, countMax],
    );
    assert(isInOrder(children), "rows of the queue come in its order");
    // A full batch may have cut off the folder of its last child; all before that are done.
    const last = children.length === countMax ? children.at(-1) : undefined;
    const done =
      last === undefined
        ? jobs
        : jobs.slice(
            0,
            jobs.findIndex((job) => job.seq === last.seq),
          );
    await connection.query("DELETE FROM catalog_jobs WHERE kind = $1 AND seq = ANY($2)", [
      kind,
      done.map((job) => job.seq),
    ]);
    if (last !== undefined) {
      await connection.query("UPDATE catalog_jobs SET after_id = $3 WHERE kind = $1 AND seq = $2", [
        kind,
        last.seq,
        last.entry_id,
      ]);
    }
    const folders =
      kind === "paths" ? await rewritePaths(connection, children) : await deleteRows(connection, children);
    await queueJobs(connection, kind, folders);
    return true;
  });
}

function isInOrder(children: readonly Child[]): boolean {
  return children.every((child, i) => {
    const before = children[i - 1];
    if (before === undefined) return true;
    const [seq, beforeSeq] = [BigInt(child.seq), BigInt(before.seq)];
    return seq > beforeSeq || (seq === beforeSeq && BigInt(child.entry_id) > BigInt(before.entry_id));
  });
}

/** Returns the folders among the children whose path changed. */
async function rewritePaths(connection: Connection, children: readonly Child[]): Promise<readonly number[]> {
  const { rows } = await connection.query<{ entry_id: string; is_directory: boolean }>(
    `UPDATE files f SET path = p.path || '/' || f.name FROM files p
     WHERE f.entry_id = ANY($1) AND p.entry_id = f.parent_id AND f.path <> p.path || '/' || f.name
     RETURNING f.entry_id, f.is_directory`,
    [children.map((child) => child.entry_id)],
  );
  return rows.filter((row) => row.is_directory).map((row) => Number(row.entry_id));
}

/** Returns the folders among the children. */
async function deleteRows(connection: Connection, children: readonly Child[]): Promise<readonly number[]> {
  await connection.query("DELETE FROM files WHERE entry_id = ANY($1)", [
    children.map((child) => child.entry_id),
  ]);
  return children.filter((child) => child.is_directory).map((child) => Number(child.entry_id));
}

/** A file whose chunks are to be fetched. */
export interface ChunkJob {
  readonly entryId: number;
  readonly contentId: number;
  readonly sizeBytes: number;
  readonly nextExtent: number;
}

/** Files whose chunks are due, the longest waiting first. */
export function dueChunkJobs(client: PostgresClient, countMax: number): Promise<readonly ChunkJob[]> {
  return client.project(async (connection) => {
    const { rows } = await connection.query<{
      entry_id: string;
      content_id: string;
      size: string;
      next_extent: number;
    }>(
      `SELECT f.entry_id, j.content_id, f.size, j.next_extent FROM catalog_chunk_jobs j JOIN files f ON f.id = j.file_id
       WHERE j.due_at <= now() ORDER BY j.due_at LIMIT $1`,
      [countMax],
    );
    return rows.map((row) => ({
      entryId: Number(row.entry_id),
      contentId: Number(row.content_id),
      sizeBytes: Number(row.size),
      nextExtent: row.next_extent,
    }));
  });
}

/** How many extents of a job one batch takes. */
export const CHUNK_BATCH_EXTENT_COUNT = Math.floor(CHUNK_BATCH_COUNT / EXTENT_CHUNK_COUNT_MAX);

/** Writes the chunks of the next extents of a file, given the digests of each. @throws FencedError */
export function writeChunks(
  client: PostgresClient,
  at: Checkpoint,
  job: ChunkJob,
  extents: readonly { readonly extent: Extent; readonly chunkDigests: readonly Uint8Array[] }[],
): Promise<void> {
  return client.project(async (connection) => {
    await checkClaim(connection, at);
    // In this order, as when a file is deleted: its row, then its job.
    await connection.query("SELECT 1 FROM files WHERE id = $1 FOR KEY SHARE", [String(job.entryId)]);
    const { rowCount } = await connection.query(
      "SELECT 1 FROM catalog_chunk_jobs WHERE file_id = $1 AND content_id = $2 AND next_extent = $3 FOR UPDATE",
      [String(job.entryId), job.contentId, job.nextExtent],
    );
    // The file got other bytes, or went, while the manifests were fetched.
    if (rowCount !== 1) return;
    const rows = extents.flatMap(({ extent, chunkDigests }) =>
      chunkDigests.map((digest, i): ChunkRow => {
        const chunkIndex = extent.extentIndex * EXTENT_CHUNK_COUNT_MAX + i;
        const offset = chunkIndex * CHUNK_SIZE_BYTES;
        const sizeBytes = Math.min(CHUNK_SIZE_BYTES, job.sizeBytes - offset);
        return { entryId: job.entryId, chunkIndex, sizeBytes, digest, offset };
      }),
    );
    await insertChunks(connection, rows);
    const nextExtent = job.nextExtent + extents.length;
    await connection.query(
      nextExtent >= extentCount(job.sizeBytes)
        ? "DELETE FROM catalog_chunk_jobs WHERE file_id = $1 AND $2::int >= 0"
        : "UPDATE catalog_chunk_jobs SET next_extent = $2, attempt_count = 0 WHERE file_id = $1",
      [String(job.entryId), nextExtent],
    );
  });
}

/** Puts a file whose manifest could not be had off. @throws FencedError */
export function putOffChunks(client: PostgresClient, at: Checkpoint, job: ChunkJob): Promise<void> {
  return client.project(async (connection) => {
    await checkClaim(connection, at);
    await connection.query(
      `UPDATE catalog_chunk_jobs SET attempt_count = attempt_count + 1,
         due_at = now() + least($3::float8, $2::float8 * power(2, least(attempt_count, 20))) * interval '1 millisecond'
       WHERE file_id = $1`,
      [String(job.entryId), RETRY_MS_MIN, RETRY_MS_MAX],
    );
  });
}

/** How much is waiting. */
export interface JobCounts {
  /** Folders whose children are to be rewritten or taken out. */
  readonly folderCount: number;
  /** Files whose chunks are not there yet, and those among them whose manifest could not be had so far. */
  readonly chunkCount: number;
  readonly missingManifestCount: number;
}

/** Counts what is waiting. */
export function countJobs(client: PostgresClient): Promise<JobCounts> {
  return client.project(async (connection) => {
    const { rows } = await connection.query<{ folders: string; files: string; missing: string }>(
      `SELECT (SELECT count(*) FROM catalog_jobs) AS folders, count(*) AS files,
         count(*) FILTER (WHERE attempt_count > 0) AS missing FROM catalog_chunk_jobs`,
    );
    const [row] = rows;
    return {
      folderCount: Number(row?.folders ?? 0),
      chunkCount: Number(row?.files ?? 0),
      missingManifestCount: Number(row?.missing ?? 0),
    };
  });
}
