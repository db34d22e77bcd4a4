/**
 * The projection of the tree into PostgreSQL: every function is one transaction that first compares and sets the checkpoint.
 *
 * The checkpoint is {cluster, epoch, applied index}. A projector claims it with its Raft term as the epoch; from then on the
 * transactions of a projector with a lower one change nothing (FencedError), and each command of the feed is applied once.
 *
 *   rows of files      what the tree said at the checkpoint's index, but for the two below
 *   path               that of the parent and the name, unless the parent is in catalog_jobs ("paths")
 *   rows under a deleted folder   are gone, or an ancestor is in catalog_jobs ("delete")
 *
 * So a moved or deleted folder costs the feed one row, whatever is in it; the jobs work through the rest in batches. While a
 * scan runs, and until the feed has passed its end, rows may be newer than the checkpoint; the version of an entry decides then.
 */
import type { Change } from "../drive/change.ts";
import { CHUNK_SIZE_BYTES } from "../drive/limits.ts";
import { ROOT_ENTRY_ID, type Entry } from "../drive/entry.ts";
import type { FeedSlice } from "../metadata/feed.ts";
import type { OrderedReader } from "../std/ordered-store.ts";
import { FencedError, type Connection, type PostgresClient } from "./postgres-client.ts";
import {
  fileId,
  insertChunks,
  replaceReplicas,
  replicaRows,
  upsertFiles,
  type ChunkRow,
  type FileRow,
  type NodeName,
  type ReplicaRow,
} from "./postgres-rows.ts";

/** How far the projection is. */
export interface Checkpoint {
  readonly clusterId: string;
  readonly epoch: number;
  readonly appliedIndex: number;
  /** "" before the first slice of a scan; undefined when the scan is done. */
  readonly scanCursor: string | undefined;
  readonly scanEndIndex: number;
}

interface CheckpointRow {
  readonly cluster_id: string;
  readonly epoch: string;
  readonly applied_index: string;
  readonly scan_cursor: string | null;
  readonly scan_end_index: string;
}

/** The checkpoint; undefined in a new database. */
export async function readCheckpoint(connection: Connection): Promise<Checkpoint | undefined> {
  const { rows } = await connection.query<CheckpointRow>("SELECT * FROM catalog_checkpoint");
  const [row] = rows;
  if (row === undefined) return undefined;
  return {
    clusterId: row.cluster_id,
    epoch: Number(row.epoch),
    appliedIndex: Number(row.applied_index),
    scanCursor: row.scan_cursor ?? undefined,
    scanEndIndex: Number(row.scan_end_index),
  };
}

/** Compares the checkpoint with `from` and sets it to `to`; holds its row until the transaction ends. @throws FencedError */
async function advance(connection: Connection, from: Checkpoint, to: Checkpoint): Promise<void> {
  const { rowCount } = await connection.query(
    `UPDATE catalog_checkpoint
     SET epoch = $5, applied_index = $6, scan_cursor = $7, scan_end_index = $8, updated_at = now()
     WHERE cluster_id = $1 AND epoch = $2 AND applied_index = $3 AND scan_cursor IS NOT DISTINCT FROM $4`,
    [
      ...[from.clusterId, from.epoch, from.appliedIndex, from.scanCursor ?? null],
      ...[to.epoch, to.appliedIndex, to.scanCursor ?? null, to.scanEndIndex],
    ],
  );
  if (rowCount !== 1) throw new FencedError("Another projector has the checkpoint.");
}

/**
 * Claims the checkpoint for `epoch`, making it when there is none.
 * @returns the checkpoint as claimed; undefined when a later epoch has it
 */
export function claim(
  client: PostgresClient,
  clusterId: string,
  epoch: number,
): Promise<Checkpoint | undefined> {
  return client.project(async (connection) => {
    await connection.query(
      `INSERT INTO catalog_checkpoint (cluster_id, epoch, applied_index, scan_cursor, scan_end_index, updated_at)
       VALUES ($1, 0, 0, '', 0, now()) ON CONFLICT DO NOTHING`,
      [clusterId],
    );
    await connection.query("UPDATE catalog_checkpoint SET epoch = $2 WHERE cluster_id = $1 AND epoch <= $2", [
      clusterId,
      epoch,
    ]);
    const checkpoint = await readCheckpoint(connection);
    if (checkpoint?.clusterId !== clusterId) return checkpoint;
    return checkpoint.epoch === epoch ? checkpoint : undefined;
  });
}

/** Empties everything and begins a scan that the feed after `appliedIndex` is to follow. @throws FencedError */
export function startOver(
  client: PostgresClient,
  from: Checkpoint,
  appliedIndex: number,
): Promise<Checkpoint> {
  const next: Checkpoint = { ...from, appliedIndex, scanCursor: "", scanEndIndex: appliedIndex };
  return client.project(async (connection) => {
    await advance(connection, from, next);
    await connection.query(
      "TRUNCATE files, replicas, chunks, catalog_jobs, catalog_chunk_jobs, catalog_nodes",
    );
    return next;
  });
}

/** What the projection needs of the tree. */
export interface ProjectionSource {
  readonly reader: OrderedReader;
  readonly nodes: ReadonlyMap<number, NodeName>;
  readonly nowMs: number;
}

interface KnownRow {
  readonly entryId: number;
  readonly version: number;
  readonly contentId: number;
  readonly path: string;
}

async function knownRows(
  connection: Connection,
  entryIds: Iterable<number>,
): Promise<ReadonlyMap<number, KnownRow>> {
  const { rows } = await connection.query<{
    entry_id: string;
    version: string;
    content_id: string;
    path: string;
  }>("SELECT entry_id, version, content_id, path FROM files WHERE entry_id = ANY($1)", [[...entryIds]]);
  return new Map(
    rows.map((row) => [
      Number(row.entry_id),
      {
        entryId: Number(row.entry_id),
        version: Number(row.version),
        contentId: Number(row.content_id),
        path: row.path,
      },
    ]),
  );
}

/** Writes entries with their paths: rows, copies, and what is to be done about their chunks. */
async function writeEntries(
  connection: Connection,
  source: ProjectionSource,
  entries: readonly { readonly entry: Entry; readonly path: string }[],
  known: ReadonlyMap<number, KnownRow>,
): Promise<void> {
  const files: FileRow[] = [];
  const replicas: ReplicaRow[] = [];
  const chunks: ChunkRow[] = [];
  const replaced: number[] = [];
  const jobs: Entry[] = [];
  for (const { entry, path } of entries) {
    const copies = replicaRows(source.reader, entry.entryId, entry.contentId);
    files.push({ entry, path, copyCount: copies.copyCount });
    const before = known.get(entry.entryId);
    if (before?.contentId === entry.contentId) continue;
    if (before !== undefined) replaced.push(entry.entryId);
    replicas.push(...copies.rows);
    if (entry.sizeBytes === 0) continue;
    if (entry.sizeBytes > CHUNK_SIZE_BYTES) jobs.push(entry);
    else {
      // The tree hash of one chunk is the digest of that chunk: nobody needs to be asked.
      const { entryId, sizeBytes, treeHash } = entry;
      chunks.push({ entryId, chunkIndex: 0, sizeBytes, digest: treeHash, offset: 0 });
    }
  }
  await upsertFiles(connection, files);
  if (replaced.length > 0) {
    // First the jobs: whoever writes chunks of the former bytes holds one, and what it wrote is seen by what comes after.
    await connection.query("DELETE FROM catalog_chunk_jobs WHERE file_id = ANY($1)", [replaced.map(fileId)]);
    await connection.query("DELETE FROM chunks WHERE file_id = ANY($1)", [replaced.map(fileId)]);
  }
  await replaceReplicas(connection, replaced, replicas, source.nodes, source.nowMs);
  await insertChunks(connection, chunks);
  if (jobs.length > 0) {
    await connection.query(
      `INSERT INTO catalog_chunk_jobs (file_id, content_id) SELECT * FROM unnest($1::text[], $2::bigint[])
       ON CONFLICT (file_id) DO UPDATE
         SET content_id = excluded.content_id, next_extent = 0, attempt_count = 0, due_at = now()`,
      [jobs.map((entry) => fileId(entry.entryId)), jobs.map((entry) => entry.contentId)],
    );
  }
}

/** Queues folders for a job, or moves them to the end of its queue to be done from their first child. */
export async function queueJobs(
  connection: Connection,
  kind: "paths" | "delete",
  directoryIds: readonly number[],
): Promise<void> {
  if (directoryIds.length === 0) return;
  await connection.query(
    `INSERT INTO catalog_jobs (kind, directory_id) SELECT $1, * FROM unnest($2::bigint[])
     ON CONFLICT (kind, directory_id) DO UPDATE SET seq = nextval('catalog_job_seq'), after_id = 0`,
    [kind, directoryIds],
  );
}

const joined = (parentPath: string, name: string): string => `${parentPath}/${name}`;

/**
 * Applies a slice of the feed.
 * @returns the checkpoint after it @throws FencedError
 */
export function applySlice(
  client: PostgresClient,
  from: Checkpoint,
  slice: FeedSlice,
  source: ProjectionSource,
): Promise<Checkpoint> {
  const to = { ...from, appliedIndex: slice.throughIndex };
  return client.project(async (connection) => {
    await advance(connection, from, to);
    // Only the last state of each entry counts: whoever reads sees the slice as a whole or not at all.
    const last = new Map<number, Change>();
    const moved = new Set<number>();
    for (const change of slice.changes) {
      last.set(change.entry.entryId, change);
      if (change.kind === "moved" && change.entry.kind === "directory") moved.add(change.entry.entryId);
    }
    last.delete(ROOT_ENTRY_ID);
    const changes = [...last.values()];
    const deleted = changes.filter((change) => change.kind === "deleted").map((change) => change.entry);
    const kept = changes.filter((change) => change.kind !== "deleted").map((change) => change.entry);
    await deleteEntries(connection, deleted);
    const known =
      kept.length === 0
        ? new Map<number, KnownRow>()
        : await knownRows(connection, new Set(kept.flatMap((entry) => [entry.entryId, entry.parentId])));
    const fresh = kept.filter((entry) => (known.get(entry.entryId)?.version ?? -1) < entry.version);
    const isSettled = from.appliedIndex >= from.scanEndIndex;
    const paths = pathsOf(fresh, known);
    // A folder that went with the same slice takes along what was moved into it before. While a scan is caught up with, the
    // folder may also be one that the scan missed: then the path is made right when it comes.
    const lost = isSettled ? fresh.filter((entry) => !paths.has(entry.entryId)) : [];
    await deleteEntries(connection, lost);
    await writeEntries(
      connection,
      source,
      fresh
        .filter((entry) => !lost.includes(entry))
        .map((entry) => ({
          entry,
          path: paths.get(entry.entryId) ?? known.get(entry.entryId)?.path ?? joined("", entry.name),
        })),
      known,
    );
    const changed = fresh.filter((entry) => {
      const before = known.get(entry.entryId);
      return moved.has(entry.entryId) && before !== undefined && before.path !== paths.get(entry.entryId);
    });
    await queueJobs(
      connection,
      "paths",
      changed.map((entry) => entry.entryId),
    );
    if (!isSettled && to.appliedIndex >= to.scanEndIndex) await settle(connection);
    await refreshCopies(connection, source, slice.contentIds);
    return to;
  });
}

/** Takes rows out; what lies below folders goes with a job. */
async function deleteEntries(connection: Connection, entries: readonly Entry[]): Promise<void> {
  if (entries.length === 0) return;
  await connection.query("DELETE FROM files WHERE entry_id = ANY($1)", [
    entries.map((entry) => entry.entryId),
  ]);
  const folders = entries.filter((entry) => entry.kind === "directory");
  await queueJobs(
    connection,
    "delete",
    folders.map((entry) => entry.entryId),
  );
}

/**
 * The end of a rebuild: rows that the scan saw before something above them moved or went are found by what is between them and
 * their parents, and left to the jobs.
 */
async function settle(connection: Connection): Promise<void> {
  await connection.query(
    `INSERT INTO catalog_jobs (kind, directory_id)
     SELECT DISTINCT 'delete', f.parent_id FROM files f
     WHERE f.parent_id <> $1 AND NOT EXISTS (SELECT FROM files p WHERE p.entry_id = f.parent_id)
     ON CONFLICT DO NOTHING`,
    [ROOT_ENTRY_ID],
  );
  await connection.query(
    `INSERT INTO catalog_jobs (kind, directory_id)
     SELECT DISTINCT 'paths', p.entry_id FROM files f JOIN files p ON p.entry_id = f.parent_id
     WHERE f.path <> p.path || '/' || f.name
     ON CONFLICT DO NOTHING`,
  );
}

/** The paths of entries, from those of their parents, which may be among them; none where no parent is known. */
function pathsOf(
  entries: readonly Entry[],
  known: ReadonlyMap<number, KnownRow>,
): ReadonlyMap<number, string> {
  const byId = new Map(entries.map((entry) => [entry.entryId, entry]));
  const paths = new Map<number, string>([[ROOT_ENTRY_ID, ""]]);
  for (const entry of entries) {
    const chain: Entry[] = [];
    let id = entry.entryId;
    for (let next = byId.get(id); next !== undefined && !paths.has(id); next = byId.get(id)) {
      chain.push(next);
      id = next.parentId;
    }
    let path = paths.get(id) ?? known.get(id)?.path;
    if (path === undefined) continue;
    for (const each of chain.reverse()) {
      path = joined(path, each.name);
      paths.set(each.entryId, path);
    }
  }
  return paths;
}

/** Writes anew which copies there are of the contents given. */
async function refreshCopies(
  connection: Connection,
  source: ProjectionSource,
  contentIds: readonly number[],
): Promise<void> {
  if (contentIds.length === 0) return;
  const { rows } = await connection.query<{ entry_id: string; content_id: string }>(
    "SELECT entry_id, content_id FROM files WHERE content_id > 0 AND content_id = ANY($1)",
    [contentIds],
  );
  const ids = rows.map((row) => Number(row.entry_id));
  const copies = rows.map((row) => replicaRows(source.reader, Number(row.entry_id), Number(row.content_id)));
  await replaceReplicas(
    connection,
    ids,
    copies.flatMap((each) => each.rows),
    source.nodes,
    source.nowMs,
  );
  await connection.query(
    `UPDATE files SET copy_count = r.copy_count FROM unnest($1::bigint[], $2::int[]) AS r(entry_id, copy_count)
     WHERE files.entry_id = r.entry_id AND files.copy_count IS DISTINCT FROM r.copy_count`,
    [ids, copies.map((each) => each.copyCount ?? null)],
  );
}

/** Takes a slice of a scan in. `scanCursor` undefined: it was the last. @throws FencedError */
export function applyScan(
  client: PostgresClient,
  from: Checkpoint,
  slice: {
    readonly entries: readonly { readonly entry: Entry; readonly path: string }[];
    readonly scanCursor: string | undefined;
    /** The applied index of the tree after the slice was read. */
    readonly readIndex: number;
  },
  source: ProjectionSource,
): Promise<Checkpoint> {
  const to = {
    ...from,
    scanCursor: slice.scanCursor,
    scanEndIndex: Math.max(from.scanEndIndex, slice.readIndex),
  };
  return client.project(async (connection) => {
    await advance(connection, from, to);
    const known = await knownRows(
      connection,
      slice.entries.map(({ entry }) => entry.entryId),
    );
    const fresh = slice.entries.filter(
      ({ entry }) => (known.get(entry.entryId)?.version ?? -1) < entry.version,
    );
    await writeEntries(connection, source, fresh, known);
    if (to.scanCursor === undefined && to.appliedIndex >= to.scanEndIndex) await settle(connection);
    return to;
  });
}

/** Takes over new names and addresses of nodes. Returns whether there were any. @throws FencedError */
export function applyNodes(
  client: PostgresClient,
  at: Checkpoint,
  nodes: ReadonlyMap<number, NodeName>,
): Promise<boolean> {
  return client.project(async (connection) => {
    await advance(connection, at, at);
    const ids = [...nodes.keys()];
    const names = [...nodes.values()];
    const { rows } = await connection.query<{ member_id: string }>(
      `INSERT INTO catalog_nodes (member_id, node_id, node_address)
       SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[])
       ON CONFLICT (member_id) DO UPDATE SET node_id = excluded.node_id, node_address = excluded.node_address
         WHERE (catalog_nodes.node_id, catalog_nodes.node_address) <> (excluded.node_id, excluded.node_address)
       RETURNING member_id`,
      [ids, names.map((name) => name.nodeId), names.map((name) => name.address)],
    );
    const changed = rows.map((row) => row.member_id);
    if (changed.length === 0) return false;
    await connection.query(
      `UPDATE replicas r SET node_id = n.node_id, node_address = n.node_address FROM catalog_nodes n
       WHERE r.member_id = ANY($1) AND n.member_id = r.member_id
         AND (r.node_id, r.node_address) <> (n.node_id, n.node_address)`,
      [changed],
    );
    return true;
  });
}

/** Checks that the checkpoint still is this projector's, without keeping the feed from going on. @throws FencedError */
export async function checkClaim(connection: Connection, at: Checkpoint): Promise<void> {
  const { rowCount } = await connection.query(
    "SELECT 1 FROM catalog_checkpoint WHERE cluster_id = $1 AND epoch = $2 FOR KEY SHARE",
    [at.clusterId, at.epoch],
  );
  if (rowCount !== 1) throw new FencedError("Another projector has the checkpoint.");
}

/** Locks the checkpoint as it is. @throws FencedError */
export async function holdCheckpoint(connection: Connection, at: Checkpoint): Promise<void> {
  await advance(connection, at, at);
}
