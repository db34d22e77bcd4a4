/**
 * Follows the tree into PostgreSQL, on the leader alone, and keeps book of how far it is on every node.
 *
 * Two loops. The first one takes the feed over, slice by slice, and works through the jobs of folders when the feed leaves time.
 * The second one fetches manifests and writes chunks, so that a slow node never holds up the feed. A leader claims the
 * checkpoint with its term; when it is deposed, its transactions change nothing any more and it stops by itself. PostgreSQL
 * failing is nothing to end a loop over: the next round tries again, and whatever was missed is still in the feed, or everything
 * is scanned anew.
 */
import { sharedAbortController } from "../cluster/deadline.ts";
import type { MetadataPort } from "../cluster/metadata-port.ts";
import { PacedLoop } from "../cluster/paced-loop.ts";
import type { Change } from "../drive/change.ts";
import { extentSizeBytes, type Extent } from "../drive/content.ts";
import { DriveError } from "../drive/errors.ts";
import { formatPath } from "../drive/path.ts";
import { cursorOfText, cursorText, feedAfter, scanRows } from "../metadata/feed.ts";
import { clusterInfo, extentsOf, members, pathOf } from "../metadata/view.ts";
import type { ReplicaPorts } from "../replication/replica-port.ts";
import { bytesEqual } from "../std/bytes.ts";
import type { Clock } from "../std/clock.ts";
import { foldTreeHash } from "../std/digest.ts";
import type { CatalogStatus } from "../drive/catalog.ts";
import { FencedError, type PostgresClient } from "./postgres-client.ts";
import {
  CHUNK_BATCH_EXTENT_COUNT,
  countJobs,
  dueChunkJobs,
  putOffChunks,
  runJobs,
  writeChunks,
  type ChunkJob,
  type JobCounts,
} from "./postgres-jobs.ts";
import {
  applyNodes,
  applyScan,
  applySlice,
  claim,
  readCheckpoint,
  startOver,
  type Checkpoint,
  type ProjectionSource,
} from "./postgres-projection.ts";
import type { NodeName } from "./postgres-rows.ts";
import { migrate } from "./postgres-schema.ts";

/** Events that one transaction takes over at most. */
export const SLICE_COUNT = 2000;
/** Rows that one transaction of a scan takes over at most. */
export const SCAN_COUNT = 2000;
/** Pause of the feed when it has caught up: what comes meanwhile goes over in one transaction. */
const FEED_IDLE_MS = 100;
const FEED_BUSY_MS = 1;
/** How often the checkpoint moves when nothing but commands without events came. */
const CHECKPOINT_INTERVAL_MS = 2000;
/** How often a node that does not lead asks how far the projection is, and the leader counts what waits. */
const WATCH_INTERVAL_MS = 1000;
/** Files whose chunks are fetched at the same time. */
const CHUNK_JOB_COUNT = 16;
const CHUNKS_IDLE_MS = 500;
const CHUNKS_BUSY_MS = 1;
/** Commands behind the tree with which PostgreSQL still answers; beyond them the embedded catalog is nearer. */
export const LAG_COUNT_MAX = 20_000;

/** Figures of the projection. */
export interface ProjectionStats extends JobCounts {
  readonly rowCount: number;
  readonly lagCount: number | undefined;
  readonly rebuildCount: number;
}

/** What a PostgresProjector needs. */
export interface PostgresProjectorOptions {
  readonly clock: Clock;
  readonly client: PostgresClient;
  readonly port: MetadataPort;
  readonly replicas: ReplicaPorts;
  /** The Raft term while this node leads; undefined otherwise. */
  readonly leadingTerm: () => number | undefined;
  readonly onError?: ((error: DriveError) => void) | undefined;
  readonly onRebuild?: ((why: string) => void) | undefined;
  /** Told how many rows or events a transaction took over. */
  readonly onProjected?: ((rowCount: number) => void) | undefined;
}

interface FetchedExtent {
  readonly extent: Extent;
  readonly chunkDigests: readonly Uint8Array[];
}

const NO_JOBS: JobCounts = { folderCount: 0, chunkCount: 0, missingManifestCount: 0 };

const leavesJob = ({ kind, entry }: Change): boolean =>
  entry.kind === "directory" && (kind === "moved" || kind === "deleted");

/** The projector of one node. */
export class PostgresProjector {
  readonly #options: PostgresProjectorOptions;
  readonly #feed: PacedLoop;
  readonly #chunks: PacedLoop;
  readonly #stopping = sharedAbortController();
  #isMigrated = false;
  #claimed: Checkpoint | undefined;
  /** What this node last saw of the checkpoint, its own or another's. */
  #seen: Checkpoint | undefined;
  #seenAtMs = -Infinity;
  #movedAtMs = -Infinity;
  #countedAtMs = -Infinity;
  #jobs = NO_JOBS;
  #rowCount = 0;
  #rebuildCount = 0;
  /** What status() said last, and when it was asked. */
  #judged: Pick<CatalogStatus, "state" | "sinceMs"> | undefined;
  #judgedAtMs = 0;
  #nodesKey = "";
  /** Whether folders may be queued; asking costs two transactions. */
  #hasJobs = true;

  constructor(options: PostgresProjectorOptions) {
    this.#options = options;
    const { clock } = options;
    const onError = (error: DriveError): void => options.onError?.(error);
    this.#feed = new PacedLoop({
      clock,
      idleMs: FEED_IDLE_MS,
      busyMs: FEED_BUSY_MS,
      work: () => this.round(),
      onError,
    });
    this.#chunks = new PacedLoop({
      clock,
      idleMs: CHUNKS_IDLE_MS,
      busyMs: CHUNKS_BUSY_MS,
      work: () => this.chunkRound(),
      onError,
    });
  }

  /** Begins to follow. */
  start(): void {
    this.#feed.start();
    this.#chunks.start();
  }

  /** Ends both loops, and gives up a schema that is being brought up to date: an index may take longer than a node may to stop. */
  async stop(): Promise<void> {
    this.#stopping.abort(new DriveError("NODE_STOPPING", "The node stops."));
    await Promise.all([this.#feed.stop(), this.#chunks.stop()]);
  }

  /**
   * Lets the projection be built anew, also when it was another cluster's; at any node: without its checkpoint the leader's next
   * transaction changes nothing, and it begins from the start. Errors: CATALOG_UNAVAILABLE, NODE_STOPPING.
   */
  async rebuild(): Promise<void> {
    await this.#migrateOnce();
    await this.#options.client.project((connection) => connection.query("DELETE FROM catalog_checkpoint"));
    this.#feed.wake();
  }

  /** How PostgreSQL does, as this node sees it. */
  status(): CatalogStatus {
    const { health } = this.#options.client;
    const lagCount = this.lagCount();
    const detail = health.isUp ? this.#whyUnfit(lagCount) : health.detail;
    const state = health.isUp && detail === "" ? "up" : "degraded";
    let sinceMs = this.#judged?.sinceMs ?? health.sinceMs;
    if (state !== this.#judged?.state) {
      // What the server did begins when it did it; that the projection fell behind or caught up begins when it is seen.
      const isServers = this.#judged === undefined || health.sinceMs >= this.#judgedAtMs;
      sinceMs = isServers ? health.sinceMs : this.#options.clock.wallMs();
    } else if (state === "up") {
      // It was away between two looks.
      sinceMs = Math.max(sinceMs, health.sinceMs);
    }
    this.#judged = { state, sinceMs };
    this.#judgedAtMs = this.#options.clock.wallMs();
    return { ...this.#judged, detail, lagCount };
  }

  /** Whether questions are best asked there: it answers, it is built, and it is not far behind. */
  isFit(): boolean {
    return this.#options.client.health.isUp && this.#whyUnfit(this.lagCount()) === "";
  }

  /** Commands that the projection is behind this node's tree. */
  lagCount(): number | undefined {
    if (this.#seen === undefined) return undefined;
    return Math.max(0, this.#options.port.appliedIndex() - this.#seen.appliedIndex);
  }

  /** Figures for metrics. */
  stats(): ProjectionStats {
    return {
      ...this.#jobs,
      rowCount: this.#rowCount,
      lagCount: this.lagCount(),
      rebuildCount: this.#rebuildCount,
    };
  }

  /** One slice of the feed, of a scan, or of the jobs; for the loop and for tests. */
  async round(): Promise<"busy" | "idle"> {
    this.status();
    const term = this.#options.leadingTerm();
    try {
      if (term === undefined) {
        this.#claimed = undefined;
        return await this.#watch();
      }
      const checkpoint = await this.#claim(term);
      if (checkpoint === undefined) return "idle";
      return await this.#project(checkpoint);
    } catch (error) {
      if (!(error instanceof FencedError)) throw error;
      // Another leader goes on from here; this one finds out how far when it is asked again.
      this.#claimed = undefined;
      return "idle";
    }
  }

  /** Chunks of a few files; for the loop and for tests. */
  async chunkRound(): Promise<"busy" | "idle"> {
    const at = this.#claimed;
    if (at === undefined || at.scanCursor !== undefined || !this.#options.client.health.isUp) return "idle";
    const jobs = await dueChunkJobs(this.#options.client, CHUNK_JOB_COUNT);
    try {
      // Manifests come side by side; what is written takes one connection, so that questions find the others free.
      const fetched = await Promise.all(jobs.map((job) => this.#fetchChunks(job)));
      for (const [i, job] of jobs.entries()) await this.#writeChunks(at, job, fetched[i] ?? []);
    } catch (error) {
      if (!(error instanceof FencedError)) throw error;
      return "idle";
    }
    return jobs.length > 0 ? "busy" : "idle";
  }

  #whyUnfit(lagCount: number | undefined): string {
    const seen = this.#seen;
    if (seen === undefined) return "Nothing is projected yet.";
    const clusterId = clusterInfo(this.#options.port.reader())?.clusterId;
    if (seen.clusterId !== clusterId) return "The database belongs to another cluster.";
    if (seen.scanCursor !== undefined) return "The catalog is being built.";
    if (seen.appliedIndex < seen.scanEndIndex) return "The catalog is being built.";
    return (lagCount ?? 0) > LAG_COUNT_MAX ? `The catalog is ${lagCount} commands behind.` : "";
  }

  async #migrateOnce(): Promise<void> {
    if (this.#isMigrated) return;
    await this.#options.client.migrate(migrate, this.#stopping.signal);
    this.#isMigrated = true;
  }

  #saw(checkpoint: Checkpoint | undefined): void {
    this.#seen = checkpoint;
    this.#seenAtMs = this.#options.clock.monotonicMs();
  }

  async #watch(): Promise<"idle"> {
    if (this.#options.clock.monotonicMs() - this.#seenAtMs < WATCH_INTERVAL_MS) return "idle";
    this.#seenAtMs = this.#options.clock.monotonicMs();
    await this.#migrateOnce();
    this.#saw(await this.#options.client.project(readCheckpoint));
    return "idle";
  }

  async #claim(term: number): Promise<Checkpoint | undefined> {
    if (this.#claimed?.epoch === term) return this.#claimed;
    const { port, client } = this.#options;
    // What the leader before committed must be applied here before anything is compared with it.
    await port.linearize();
    const clusterId = clusterInfo(port.reader())?.clusterId;
    if (clusterId === undefined) return undefined;
    await this.#migrateOnce();
    const found = await claim(client, clusterId, term);
    this.#saw(found);
    if (found === undefined) return undefined;
    if (found.clusterId !== clusterId) {
      throw new DriveError(
        "CATALOG_UNAVAILABLE",
        "The database of the catalog belongs to another cluster; `netdisk catalog rebuild` takes it over.",
        { cluster_id: found.clusterId },
      );
    }
    this.#claimed = found;
    this.#hasJobs = true;
    if (found.appliedIndex === 0) return this.#startOver(found, "there is none yet");
    return found;
  }

  async #startOver(from: Checkpoint, why: string): Promise<Checkpoint> {
    const { port, client } = this.#options;
    this.#options.onRebuild?.(why);
    this.#rebuildCount += 1;
    const appliedIndex = Math.max(1, port.appliedIndex());
    const next = await startOver(client, from, appliedIndex);
    this.#nodesKey = "";
    this.#claimed = next;
    this.#saw(next);
    return next;
  }

  #projected(rowCount: number): void {
    this.#rowCount += rowCount;
    this.#options.onProjected?.(rowCount);
  }

  #source(): ProjectionSource {
    const reader = this.#options.port.reader();
    const nodes = new Map<number, NodeName>(
      members(reader).map(({ memberId, nodeId, address }) => [memberId, { nodeId, address }]),
    );
    return { reader, nodes, nowMs: this.#options.clock.wallMs() };
  }

  async #project(checkpoint: Checkpoint): Promise<"busy" | "idle"> {
    const { port, client } = this.#options;
    if (checkpoint.appliedIndex > port.appliedIndex()) {
      await this.#startOver(checkpoint, "it is ahead of the tree");
      return "busy";
    }
    if (checkpoint.scanCursor !== undefined) return this.#scan(checkpoint, checkpoint.scanCursor);
    const fed = await this.#follow(checkpoint);
    if (fed === "busy") return "busy";
    const at = this.#claimed ?? checkpoint;
    await this.#followNodes(at);
    if (this.#hasJobs) {
      const worked = [await runJobs(client, at, "paths"), await runJobs(client, at, "delete")];
      this.#hasJobs = worked.includes(true);
    }
    await this.#count();
    return this.#hasJobs ? "busy" : "idle";
  }

  async #follow(checkpoint: Checkpoint): Promise<"busy" | "idle"> {
    const { port, client, clock } = this.#options;
    const appliedIndex = port.appliedIndex();
    if (checkpoint.appliedIndex >= appliedIndex) return "idle";
    let slice;
    try {
      slice = feedAfter(port.reader(), checkpoint.appliedIndex, appliedIndex, SLICE_COUNT);
    } catch (error) {
      if (!(error instanceof DriveError) || error.reason !== "RANGE_NOT_SATISFIABLE") throw error;
      await this.#startOver(checkpoint, "changes it needs are not kept any more");
      return "busy";
    }
    const now = clock.monotonicMs();
    const isEmpty = slice.changes.length === 0 && slice.contentIds.length === 0;
    const isSettling = checkpoint.appliedIndex < checkpoint.scanEndIndex;
    if (isEmpty && !isSettling && now - this.#movedAtMs < CHECKPOINT_INTERVAL_MS) {
      // Nothing to write: what has been seen is up to here all the same.
      this.#saw({ ...checkpoint, appliedIndex: slice.throughIndex });
      return "idle";
    }
    this.#movedAtMs = now;
    if (isSettling || slice.changes.some(leavesJob)) this.#hasJobs = true;
    const next = await applySlice(client, checkpoint, slice, this.#source());
    this.#projected(slice.changes.length + slice.contentIds.length);
    this.#claimed = next;
    this.#saw(next);
    return slice.more ? "busy" : "idle";
  }

  async #scan(checkpoint: Checkpoint, scanCursor: string): Promise<"busy"> {
    const { port, client } = this.#options;
    const reader = port.reader();
    const { rows, next } = scanRows(
      reader,
      scanCursor === "" ? undefined : cursorOfText(scanCursor),
      SCAN_COUNT,
    );
    const parents = new Map<number, readonly string[] | undefined>();
    const entries = rows.flatMap((entry) => {
      if (!parents.has(entry.parentId)) parents.set(entry.parentId, pathOf(reader, entry.parentId));
      const parent = parents.get(entry.parentId);
      // Below a deleted folder: the rows of the tree are taken apart later.
      return parent === undefined ? [] : [{ entry, path: formatPath([...parent, entry.name]) }];
    });
    const slice = {
      entries,
      scanCursor: next === undefined ? undefined : cursorText(next),
      readIndex: port.appliedIndex(),
    };
    const claimed = await applyScan(client, checkpoint, slice, this.#source());
    this.#projected(entries.length);
    this.#claimed = claimed;
    this.#hasJobs = true;
    this.#saw(claimed);
    return "busy";
  }

  async #followNodes(at: Checkpoint): Promise<void> {
    const { nodes } = this.#source();
    const key = JSON.stringify([...nodes]);
    if (key === this.#nodesKey) return;
    await applyNodes(this.#options.client, at, nodes);
    this.#nodesKey = key;
  }

  async #count(): Promise<void> {
    const now = this.#options.clock.monotonicMs();
    if (now - this.#countedAtMs < WATCH_INTERVAL_MS) return;
    this.#countedAtMs = now;
    this.#jobs = await countJobs(this.#options.client);
  }

  /** The digests of a file's next extents, as many as one batch takes and some copy gives. */
  async #fetchChunks(job: ChunkJob): Promise<readonly FetchedExtent[]> {
    const last = job.nextExtent + CHUNK_BATCH_EXTENT_COUNT;
    const extents = extentsOf(this.#options.port.reader(), job.contentId).slice(job.nextExtent, last);
    const fetched: FetchedExtent[] = [];
    for (const extent of extents) {
      const chunkDigests = await this.#manifest(job, extent);
      if (chunkDigests === undefined) break;
      fetched.push({ extent, chunkDigests });
    }
    return fetched;
  }

  async #writeChunks(at: Checkpoint, job: ChunkJob, fetched: readonly FetchedExtent[]): Promise<void> {
    const { client } = this.#options;
    if (fetched.length === 0) await putOffChunks(client, at, job);
    else await writeChunks(client, at, job, fetched);
    this.#projected(fetched.reduce((sum, each) => sum + each.chunkDigests.length, 0));
  }

  /** The digests of an extent's chunks from the first verified copy that has them right; undefined when none answers. */
  async #manifest(
    job: ChunkJob,
    extent: ReturnType<typeof extentsOf>[number],
  ): Promise<readonly Uint8Array[] | undefined> {
    const { port, replicas } = this.#options;
    const holders = extent.replicas
      .filter((replica) => replica.state === "verified")
      .map((each) => each.memberId);
    // The own copy first: it costs no message.
    holders.sort((a, b) => Number(b === port.memberId) - Number(a === port.memberId));
    for (const memberId of holders) {
      const replica = replicas.forMember(memberId);
      if (replica === undefined) continue;
      try {
        const { contentId } = job;
        const { chunkDigests } = await replica.manifest({ contentId, extentIndex: extent.extentIndex });
        const isWhole =
          chunkDigests.length > 0 &&
          extent.sizeBytes === extentSizeBytes(job.sizeBytes, extent.extentIndex) &&
          bytesEqual(foldTreeHash(chunkDigests), extent.root);
        if (isWhole) return chunkDigests;
      } catch (error) {
        // The next copy may have it; when none has, the file is put off and counted.
        if (!(error instanceof DriveError)) throw error;
      }
    }
    return undefined;
  }
}
