/** A projector of PostgreSQL over a drive in memory, driven by hand; and the tables, compared with the tree row by row. */
import { expect } from "chai";
import pg from "pg";
import { PostgresClient } from "../../src/catalog/postgres-client.ts";
import { PostgresProjector, type PostgresProjectorOptions } from "../../src/catalog/postgres-projector.ts";
import { chunkCount, chunkSizeBytes, type ExtentKey } from "../../src/drive/content.ts";
import { DriveError } from "../../src/drive/errors.ts";
import { CHUNK_SIZE_BYTES, EXTENT_CHUNK_COUNT_MAX, REPLICA_COUNT } from "../../src/drive/limits.ts";
import type { Entry } from "../../src/drive/entry.ts";
import { formatPath } from "../../src/drive/path.ts";
import { scanRows } from "../../src/metadata/feed.ts";
import { extentsOf, members, pathOf } from "../../src/metadata/view.ts";
import { toHex } from "../../src/std/bytes.ts";
import { SystemClock } from "../../src/std/clock.ts";
import type { OrderedReader } from "../../src/std/ordered-store.ts";
import type { CatalogDrive } from "../contract/catalog.contract.ts";

/** A projector that runs when it is told to. */
export interface TestProjector {
  readonly projector: PostgresProjector;
  readonly client: PostgresClient;
  readonly rebuilds: string[];
  term: number | undefined;
  /** Rounds until nothing is left to do. */
  caughtUp(): Promise<void>;
  stop(): Promise<void>;
}

/** Makes a projector of member 1 of a drive; it leads with term 1. */
export function projectorOf(
  drive: CatalogDrive,
  url: string,
  overrides: Partial<PostgresProjectorOptions> = {},
): TestProjector {
  const { tree, replicas } = drive.drives;
  return projectorOver({ port: tree.port(1), replicas }, url, overrides);
}

/** Makes a projector of any tree; it leads with term 1. */
export function projectorOver(
  source: Pick<PostgresProjectorOptions, "port" | "replicas">,
  url: string,
  overrides: Partial<PostgresProjectorOptions> = {},
): TestProjector {
  const clock = new SystemClock();
  const client = new PostgresClient({ clock, url });
  const rebuilds: string[] = [];
  const tested: TestProjector = {
    client,
    rebuilds,
    term: 1,
    projector: new PostgresProjector({
      clock,
      client,
      ...source,
      leadingTerm: () => tested.term,
      onRebuild: (why) => rebuilds.push(why),
      ...overrides,
    }),
    caughtUp: async () => {
      for (;;) {
        const feed = await tested.projector.round();
        const chunks = await tested.projector.chunkRound();
        if (feed === "idle" && chunks === "idle") return;
      }
    },
    stop: async () => {
      await tested.projector.stop();
      await client.stop();
    },
  };
  return tested;
}

const iso = (ms: number): string => new Date(ms).toISOString();

/** What the tables must equal. */
export interface ProjectedTruth {
  /** The state machine's state. */
  readonly reader: OrderedReader;
  /** Digests of the chunks of an extent, from the manifest that a member holds; undefined when it is not asked. */
  readonly chunkDigests: (memberId: number, extent: ExtentKey) => Promise<readonly Uint8Array[] | undefined>;
}

/** Everything that is in the tree, by path. */
export function entriesOf(reader: OrderedReader): ReadonlyMap<string, Entry> {
  const found = new Map<string, Entry>();
  let cursor: Uint8Array | undefined;
  do {
    const slice = scanRows(reader, cursor, 100);
    for (const row of slice.rows) {
      const path = pathOf(reader, row.entryId);
      if (path !== undefined) found.set(formatPath(path), row);
    }
    cursor = slice.next;
  } while (cursor !== undefined);
  return found;
}

/** Compares every row of files, replicas and chunks with the tree and the manifests of a drive in memory. */
export async function expectProjectionEquals(drive: CatalogDrive, url: string, context = ""): Promise<void> {
  const { tree, replicas } = drive.drives;
  const chunkDigests: ProjectedTruth["chunkDigests"] = async (memberId, extent) =>
    (await replicas.forMember(memberId)?.manifest(extent))?.chunkDigests;
  await expectProjectionEqualsTruth({ reader: tree.store, chunkDigests }, url, context);
}

/** Compares every row of files, replicas and chunks with the state and the manifests, and expects no work left. */
export async function expectProjectionEqualsTruth(
  { reader, chunkDigests }: ProjectedTruth,
  url: string,
  context = "",
): Promise<void> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    const nodes = new Map(members(reader).map((each) => [each.memberId, each]));
    const files: unknown[] = [];
    const replicas: unknown[] = [];
    const chunks: unknown[] = [];
    const tree = [...entriesOf(reader)].sort(([, a], [, b]) => a.entryId - b.entryId);
    for (const [path, entry] of tree) {
      const id = String(entry.entryId);
      const extents = entry.contentId === 0 ? [] : extentsOf(reader, entry.contentId);
      const counts = extents.map(
        (each) => each.replicas.filter((replica) => replica.state === "verified").length,
      );
      files.push({
        id,
        name: entry.name,
        path,
        size: String(entry.sizeBytes),
        hash: toHex(entry.treeHash),
        chunk_count: chunkCount(entry.sizeBytes),
        created_at: iso(entry.createTimeMs),
        updated_at: iso(entry.modifyTimeMs),
        is_directory: entry.kind === "directory",
        parent_id: String(entry.parentId),
        content_id: String(entry.contentId),
        version: String(entry.version),
        media_type: entry.mediaType,
        copy_count: counts.length === 0 ? null : Math.min(REPLICA_COUNT, ...counts),
      });
      for (const extent of extents) {
        const byMember = [...extent.replicas].sort((a, b) => a.memberId - b.memberId);
        for (const { memberId, state } of byMember) {
          const node = nodes.get(memberId);
          replicas.push({
            file_id: id,
            extent_index: extent.extentIndex,
            node_id: node?.nodeId,
            node_address: node?.address,
            status: state,
          });
        }
        const holder = byMember.find((each) => each.state === "verified");
        const digests = await chunkDigests(holder?.memberId ?? 0, {
          contentId: entry.contentId,
          extentIndex: extent.extentIndex,
        });
        for (const [i, digest] of (digests ?? []).entries()) {
          const index = extent.extentIndex * EXTENT_CHUNK_COUNT_MAX + i;
          chunks.push({
            file_id: id,
            chunk_index: index,
            size: chunkSizeBytes(entry.sizeBytes, index),
            hash: toHex(digest),
            offset: String(index * CHUNK_SIZE_BYTES),
          });
        }
      }
    }
    const rows = async (sql: string): Promise<unknown[]> =>
      (await client.query<Record<string, unknown>>(sql)).rows.map((row) =>
        Object.fromEntries(
          Object.entries(row).map(([name, value]) => [
            name,
            value instanceof Date ? value.toISOString() : value,
          ]),
        ),
      );
    expect(
      await rows(
        `SELECT id, name, path, size, hash, chunk_count, created_at, updated_at, is_directory, parent_id, content_id,
           version, media_type, copy_count FROM files ORDER BY entry_id`,
      ),
      `files ${context}`,
    ).to.deep.equal(files);
    expect(
      await rows(
        `SELECT file_id, extent_index, node_id, node_address, status FROM replicas
         ORDER BY file_id::bigint, extent_index, member_id`,
      ),
      `replicas ${context}`,
    ).to.deep.equal(replicas);
    expect(
      await rows(
        `SELECT file_id, chunk_index, size, hash, "offset" FROM chunks ORDER BY file_id::bigint, chunk_index`,
      ),
      `chunks ${context}`,
    ).to.deep.equal(chunks);
    expect(await rows("SELECT kind FROM catalog_jobs"), `jobs ${context}`).to.deep.equal([]);
  } finally {
    await client.end();
  }
}

/** Runs `work` until it does not fail with CATALOG_UNAVAILABLE any more. */
export async function untilAvailable(work: () => Promise<void>, countMax = 1000): Promise<number> {
  for (let count = 0; ; count += 1) {
    try {
      await work();
      return count;
    } catch (error) {
      if (!(error instanceof DriveError) || error.reason !== "CATALOG_UNAVAILABLE" || count >= countMax)
        throw error;
    }
  }
}
