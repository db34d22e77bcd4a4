/**
 * Metrics: what a node counts and measures, in the Prometheus text format. The only user of prom-client.
 *
 * One registry a node, so that several nodes can run in one process. Names start with netdisk_, units are base units
 * (seconds, bytes), labels take few values: never a path, an id or a client's text. Callers pass milliseconds, as Clock gives.
 * Does not measure anything by itself except the process metrics.
 */
import { collectDefaultMetrics, Counter, Gauge, Histogram, Registry } from "prom-client";
import type { Pause } from "../std/pause-watch.ts";
import { noTaskMetrics, PrometheusTaskMetrics, type TaskMetrics } from "./task-metrics.ts";
import { noCacheMetrics, PrometheusCacheMetrics, type CacheMetrics } from "./cache-metrics.ts";

/** A request over HTTP that was answered. */
export interface HttpRequestSample {
  readonly method: string;
  /** The pattern of the route, such as "/api/files/:fileId"; "unmatched" when there is none. */
  readonly route: string;
  readonly status: number;
  readonly durationMs: number;
}

/** A gRPC call that ended. */
export interface GrpcRequestSample {
  readonly service: string;
  readonly method: string;
  /** Canonical status code by name, "ok" for success. */
  readonly code: string;
  readonly durationMs: number;
}

/** Where this node stands in Raft. */
export interface RaftSample {
  readonly term: number;
  readonly commitIndex: number;
  readonly appliedIndex: number;
  readonly leading: boolean;
}

/** What became of a proposal: "unknown" means it may have been committed. */
export type ProposalOutcome = "committed" | "refused" | "unknown";

/** Which log or store waited for the disk. */
export type SyncTarget = "raft_log" | "chunks" | "state";

/** Extents of the cluster by the state of their copies; an extent may be among several. */
export interface ReplicaSample {
  readonly full: number;
  readonly under: number;
  readonly suspect: number;
  readonly corrupt: number;
  readonly lost: number;
  readonly unverified: number;
  /** With exactly one verified copy, and with none. */
  readonly single: number;
  readonly none: number;
  readonly missingBytes: number;
}

/** What the chunk store of this node holds. */
export interface ChunkStoreSample {
  readonly liveBytes: number;
  readonly freeBytes: number;
  /** Files that were found missing or replaced since it was opened. */
  readonly lostFileCount: number;
}

/** How copies are looked after at this node. */
export interface CopyHealthSample {
  readonly repairedBytes: number;
  readonly quarantinedExtents: number;
  /** 0 for none. */
  readonly scrubPass: number;
  /** Since the last complete pass began; undefined while there is none. */
  readonly scrubAgeMs: number | undefined;
  /** How long changes of the tree have not been in a snapshot of it, at most; 0 while the newest shows everything. */
  readonly treeSnapshotBehindMs: number;
  readonly scrubDamaged: number;
  readonly scrubProgress: number;
  readonly disownedCopies: number;
  readonly unansweredQuestions: number;
}

/** How the catalogs of a node do. */
export interface CatalogSample {
  /** Commands that the node's own index of names is behind; undefined while it is being built. */
  readonly embeddedLagCount: number | undefined;
  /** The projection in PostgreSQL; undefined where none is configured. */
  readonly postgres:
    | {
        readonly isUp: boolean;
        readonly lagCount: number | undefined;
        readonly folderCount: number;
        readonly chunkCount: number;
        readonly missingManifestCount: number;
        readonly pool: { readonly busy: number; readonly idle: number; readonly waiting: number };
      }
    | undefined;
}

/** What a node tells the outside about itself. No method throws on any figure. */
export interface Metrics {
  httpRequest(sample: HttpRequestSample): void;
  /** Requests over HTTP that are being served now. */
  httpInFlight(kind: "upload" | "download" | "watch", count: number): void;
  grpcRequest(sample: GrpcRequestSample): void;
  raft(sample: RaftSample): void;
  leaderChanged(): void;
  proposal(outcome: ProposalOutcome, durationMs: number): void;
  /** One batch of commands was applied to the state machine. */
  applied(commandCount: number, durationMs: number): void;
  /** Bytes of files taken from clients. */
  uploaded(sizeBytes: number): void;
  /** Bytes of files given to clients. */
  downloaded(sizeBytes: number): void;
  chunkStore(sample: ChunkStoreSample): void;
  /** Extents by the state of their copies. */
  replicas(sample: ReplicaSample): void;
  /** Scrub, repair and audit at this node. */
  copyHealth(sample: CopyHealthSample): void;
  /** Collection at this node: extents that the last sweep refused to remove; zeros while it refuses nothing. */
  collectionBrake(sample: { readonly orphanCount: number; readonly futureCount: number }): void;
  /** Feature level of the cluster, and the highest that this node supports. */
  featureLevel(sample: { readonly level: number; readonly supportedMax: number }): void;
  /** Other nodes by their health. */
  peers(sample: { readonly up: number; readonly suspect: number; readonly down: number }): void;
  synced(target: SyncTarget, durationMs: number): void;
  /** A turn of the event loop took long; see std/pause-watch.ts. */
  paused(pause: Pause): void;
  catalog(sample: CatalogSample): void;
  /** A transaction with PostgreSQL ended. */
  postgresCall(call: "query" | "project", durationMs: number, failed: boolean): void;
  /** Rows or events went over into PostgreSQL. */
  projected(rowCount: number): void;
  /** A catalog began to be built anew. */
  catalogRebuilt(catalog: "embedded" | "postgres"): void;
  /** The embedded catalog answered because PostgreSQL could not. */
  catalogFellBack(): void;
  /** Redis, and what is kept in it. */
  readonly cache: CacheMetrics;
  readonly tasks: TaskMetrics;
  /** Everything now, as a scrape wants it. */
  render(): Promise<{ readonly contentType: string; readonly text: string }>;
}

/** Settings of PrometheusMetrics. */
export interface MetricsOptions {
  readonly nodeId: string;
  readonly version: string;
  /** Also collect CPU, memory, event-loop lag and open files of the process. Off in tests: it hooks the garbage collector. */
  readonly process: boolean;
}

// From 100 microseconds (a page in the cache) to 30 s (longer than any deadline inside the cluster).
const LATENCY_BUCKETS_SECONDS = [
  0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30,
];

const NO_PAUSE: Pause = { totalMs: 0, ownMs: 0, runningMs: 0 };

const seconds = (durationMs: number): number => Math.max(0, durationMs) / 1000;

/** Metrics kept in a Prometheus registry of their own. */
export class PrometheusMetrics implements Metrics {
  readonly cache: CacheMetrics;
  readonly tasks: TaskMetrics;
  readonly #registry = new Registry();
  readonly #httpDuration: Histogram<"method" | "route" | "status">;
  readonly #httpInFlight: Gauge<"kind">;
  readonly #grpcDuration: Histogram<"service" | "method" | "code">;
  readonly #raftTerm: Gauge;
  readonly #raftCommitIndex: Gauge;
  readonly #raftAppliedIndex: Gauge;
  readonly #raftLeading: Gauge;
  readonly #leaderChanges: Counter;
  readonly #proposalDuration: Histogram<"outcome">;
  readonly #appliedCommands: Counter;
  readonly #applyDuration: Histogram;
  readonly #uploadBytes: Counter;
  readonly #downloadBytes: Counter;
  readonly #chunkStoreLiveBytes: Gauge;
  readonly #chunkStoreFreeBytes: Gauge;
  readonly #extents: Gauge<"copies">;
  readonly #missingCopyBytes: Gauge;
  readonly #repairedBytes: Gauge;
  readonly #quarantinedExtents: Gauge;
  readonly #lostFiles: Gauge;
  readonly #brakedExtents: Gauge<"kind">;
  readonly #scrubPass: Gauge;
  readonly #scrubAge: Gauge;
  readonly #treeSnapshotBehind: Gauge;
  readonly #featureLevel: Gauge;
  readonly #featureLevelSupported: Gauge;
  readonly #scrubDamaged: Gauge;
  readonly #scrubProgress: Gauge;
  readonly #disownedCopies: Gauge;
  readonly #unansweredQuestions: Gauge;
  readonly #peers: Gauge<"health">;
  readonly #syncDuration: Histogram<"target">;
  readonly #pauseDuration: Histogram;
  readonly #pauseMax: Gauge<"counting">;
  #longestPause = NO_PAUSE;
  readonly #catalogLag: Gauge<"catalog">;
  readonly #postgresUp: Gauge;
  readonly #postgresConnections: Gauge<"state">;
  readonly #catalogWaiting: Gauge<"work">;
  readonly #postgresDuration: Histogram<"call" | "outcome">;
  readonly #projectedRows: Counter;
  readonly #catalogRebuilds: Counter<"catalog">;
  readonly #catalogFallbacks: Counter;

  constructor(options: MetricsOptions) {
    this.#registry.setDefaultLabels({ node: options.nodeId });
    if (options.process) collectDefaultMetrics({ register: this.#registry, prefix: "netdisk_" });
    this.#gauge("build_info", "Always 1; the label says which version runs.", ["version"]).set(
      { version: options.version },
      1,
    );
    this.cache = new PrometheusCacheMetrics(this.#registry);
    this.tasks = new PrometheusTaskMetrics(this.#registry);
    this.#httpDuration = this.#histogram(
      "http_request_duration_seconds",
      "HTTP requests by route and status.",
      ["method", "route", "status"],
    );
    this.#httpInFlight = this.#gauge("http_requests_in_flight", "HTTP requests that move bytes or watch.", [
      "kind",
    ]);
    this.#grpcDuration = this.#histogram(
      "grpc_request_duration_seconds",
      "gRPC calls by method and status code.",
      ["service", "method", "code"],
    );
    this.#raftTerm = this.#gauge("raft_term", "Current Raft term.");
    this.#raftCommitIndex = this.#gauge("raft_commit_index", "Highest log index known to be committed.");
    this.#raftAppliedIndex = this.#gauge(
      "raft_applied_index",
      "Highest log index applied to the state machine.",
    );
    this.#raftLeading = this.#gauge("raft_leading", "1 while this node is the leader, else 0.");
    this.#leaderChanges = this.#counter(
      "raft_leader_changes_total",
      "How often this node saw another leader.",
    );
    this.#proposalDuration = this.#histogram(
      "raft_proposal_duration_seconds",
      "Proposals from call to answer.",
      ["outcome"],
    );
    this.#appliedCommands = this.#counter("applied_commands_total", "Commands applied to the state machine.");
    this.#applyDuration = this.#histogram("apply_duration_seconds", "Applying one batch of commands.");
    this.#uploadBytes = this.#counter("upload_bytes_total", "Bytes of files taken from clients.");
    this.#downloadBytes = this.#counter("download_bytes_total", "Bytes of files given to clients.");
    this.#chunkStoreLiveBytes = this.#gauge("chunk_store_live_bytes", "Bytes of live chunks on this node.");
    this.#chunkStoreFreeBytes = this.#gauge(
      "chunk_store_free_bytes",
      "Free bytes of the disk under the chunks.",
    );
    this.#extents = this.#gauge("extents", "Extents by the state of their copies.", ["copies"]);
    this.#missingCopyBytes = this.#gauge(
      "missing_copy_bytes",
      "Bytes of verified copies that are wanted and not there, in the whole cluster.",
    );
    this.#repairedBytes = this.#gauge(
      "repaired_bytes",
      "Bytes of copies that this node made since it started.",
    );
    this.#quarantinedExtents = this.#gauge(
      "quarantined_extents",
      "Extents of this node's store in quarantine.",
    );
    this.#lostFiles = this.#gauge(
      "lost_files",
      'Segment files of this node\'s chunk store that were removed, replaced or cut short under it since it started. Counts no files of users: those without any copy are in netdisk_extents{copies="none"}.',
    );
    this.#brakedExtents = this.#gauge(
      "collection_braked_extents",
      "Extents that the tree does not know, or has not given out yet, and that collection refuses to remove until somebody has looked.",
      ["kind"],
    );
    this.#scrubPass = this.#gauge(
      "scrub_pass",
      "Number of this node's last complete scrub pass; 0 for none.",
    );
    this.#featureLevel = this.#gauge(
      "feature_level",
      "Feature level of the cluster; raised when every node supports a newer one.",
    );
    this.#featureLevelSupported = this.#gauge(
      "feature_level_supported",
      "Highest feature level that this node supports.",
    );
    this.#treeSnapshotBehind = this.#gauge(
      "tree_snapshot_behind_seconds",
      "How long changes of the tree have not been in a snapshot of it, at most; 0 while the newest shows everything.",
    );
    this.#scrubAge = this.#gauge(
      "scrub_age_seconds",
      "How long ago the last complete scrub pass began: every older copy was read whole since.",
    );
    this.#scrubDamaged = this.#gauge(
      "scrub_damaged_extents",
      "Extents that the last complete scrub pass found damaged.",
    );
    this.#scrubProgress = this.#gauge(
      "scrub_progress",
      "How much of the scrub pass under way is done, 0 to 1.",
    );
    this.#disownedCopies = this.#gauge(
      "copy_audit_disowned",
      "Copies that the tree said to be verified and their node said not to have, since this node started.",
    );
    this.#unansweredQuestions = this.#gauge(
      "copy_audit_unanswered",
      "Questions of the audit of copies that no node answered, since this node started.",
    );
    this.#peers = this.#gauge("peers", "Other nodes by health, as this node judges.", ["health"]);
    this.#syncDuration = this.#histogram(
      "fsync_duration_seconds",
      "Waiting for the disk to make writes durable.",
      ["target"],
    );
    this.#pauseDuration = this.#histogram(
      "event_loop_pause_seconds",
      "Long turns of the event loop, without the time that the thread waited for a core.",
    );
    this.#pauseMax = this.#gauge(
      "event_loop_pause_max_seconds",
      "The longest turn of the event loop since the last scrape: all of it, without the time that the thread waited for a core, or what it ran.",
      ["counting"],
    );
    this.#keepLongest(NO_PAUSE);
    this.#catalogLag = this.#gauge("catalog_lag_commands", "Commands that a catalog is behind the tree.", [
      "catalog",
    ]);
    this.#postgresUp = this.#gauge("postgres_up", "1 while PostgreSQL answers, 0 while it does not.");
    this.#postgresConnections = this.#gauge(
      "postgres_connections",
      "Connections to PostgreSQL in use and idle, and transactions that wait for one.",
      ["state"],
    );
    this.#catalogWaiting = this.#gauge("catalog_waiting", "Work that the projection left for later.", [
      "work",
    ]);
    this.#postgresDuration = this.#histogram(
      "postgres_transaction_duration_seconds",
      "Transactions with PostgreSQL.",
      ["call", "outcome"],
    );
    this.#projectedRows = this.#counter(
      "catalog_projected_rows_total",
      "Rows and events taken to PostgreSQL.",
    );
    this.#catalogRebuilds = this.#counter("catalog_rebuilds_total", "Catalogs built anew.", ["catalog"]);
    this.#catalogFallbacks = this.#counter(
      "catalog_fallbacks_total",
      "Answers of the embedded catalog because PostgreSQL could not give them.",
    );
  }

  httpRequest(sample: HttpRequestSample): void {
    this.#httpDuration.observe(
      { method: sample.method, route: sample.route, status: sample.status },
      seconds(sample.durationMs),
    );
  }

  httpInFlight(kind: "upload" | "download" | "watch", count: number): void {
    this.#httpInFlight.set({ kind }, count);
  }

  grpcRequest(sample: GrpcRequestSample): void {
    this.#grpcDuration.observe(
      { service: sample.service, method: sample.method, code: sample.code },
      seconds(sample.durationMs),
    );
  }

  raft(sample: RaftSample): void {
    this.#raftTerm.set(sample.term);
    this.#raftCommitIndex.set(sample.commitIndex);
    this.#raftAppliedIndex.set(sample.appliedIndex);
    this.#raftLeading.set(sample.leading ? 1 : 0);
  }

  leaderChanged(): void {
    this.#leaderChanges.inc();
  }

  proposal(outcome: ProposalOutcome, durationMs: number): void {
    this.#proposalDuration.observe({ outcome }, seconds(durationMs));
  }

  applied(commandCount: number, durationMs: number): void {
    this.#appliedCommands.inc(commandCount);
    this.#applyDuration.observe(seconds(durationMs));
  }

  uploaded(sizeBytes: number): void {
    this.#uploadBytes.inc(sizeBytes);
  }

  downloaded(sizeBytes: number): void {
    this.#downloadBytes.inc(sizeBytes);
  }

  chunkStore(sample: ChunkStoreSample): void {
    this.#lostFiles.set(sample.lostFileCount);
    this.#chunkStoreLiveBytes.set(sample.liveBytes);
    this.#chunkStoreFreeBytes.set(sample.freeBytes);
  }

  replicas(sample: ReplicaSample): void {
    const { missingBytes, ...extents } = sample;
    for (const [copies, count] of Object.entries(extents)) this.#extents.set({ copies }, count);
    this.#missingCopyBytes.set(missingBytes);
  }

  copyHealth(sample: CopyHealthSample): void {
    this.#repairedBytes.set(sample.repairedBytes);
    this.#quarantinedExtents.set(sample.quarantinedExtents);
    this.#scrubPass.set(sample.scrubPass);
    if (sample.scrubAgeMs !== undefined) this.#scrubAge.set(seconds(sample.scrubAgeMs));
    this.#treeSnapshotBehind.set(seconds(sample.treeSnapshotBehindMs));
    this.#scrubDamaged.set(sample.scrubDamaged);
    this.#scrubProgress.set(sample.scrubProgress);
    this.#disownedCopies.set(sample.disownedCopies);
    this.#unansweredQuestions.set(sample.unansweredQuestions);
  }

  featureLevel({ level, supportedMax }: { readonly level: number; readonly supportedMax: number }): void {
    this.#featureLevel.set(level);
    this.#featureLevelSupported.set(supportedMax);
  }

  collectionBrake({
    orphanCount,
    futureCount,
  }: {
    readonly orphanCount: number;
    readonly futureCount: number;
  }): void {
    this.#brakedExtents.set({ kind: "unknown" }, orphanCount);
    this.#brakedExtents.set({ kind: "future" }, futureCount);
  }

  peers(sample: { readonly up: number; readonly suspect: number; readonly down: number }): void {
    this.#peers.set({ health: "up" }, sample.up);
    this.#peers.set({ health: "suspect" }, sample.suspect);
    this.#peers.set({ health: "down" }, sample.down);
  }

  synced(target: SyncTarget, durationMs: number): void {
    this.#syncDuration.observe({ target }, seconds(durationMs));
  }

  catalog({ embeddedLagCount, postgres }: CatalogSample): void {
    if (embeddedLagCount !== undefined) this.#catalogLag.set({ catalog: "embedded" }, embeddedLagCount);
    if (postgres === undefined) return;
    this.#postgresUp.set(postgres.isUp ? 1 : 0);
    for (const state of ["busy", "idle", "waiting"] as const)
      this.#postgresConnections.set({ state }, postgres.pool[state]);
    if (postgres.lagCount !== undefined) this.#catalogLag.set({ catalog: "postgres" }, postgres.lagCount);
    this.#catalogWaiting.set({ work: "folders" }, postgres.folderCount);
    this.#catalogWaiting.set({ work: "chunks" }, postgres.chunkCount);
    this.#catalogWaiting.set({ work: "missing_manifests" }, postgres.missingManifestCount);
  }

  postgresCall(call: "query" | "project", durationMs: number, failed: boolean): void {
    this.#postgresDuration.observe({ call, outcome: failed ? "failed" : "done" }, seconds(durationMs));
  }

  projected(rowCount: number): void {
    this.#projectedRows.inc(rowCount);
  }

  paused({ totalMs, ownMs, runningMs }: Pause): void {
    this.#pauseDuration.observe(seconds(ownMs));
    const longest = this.#longestPause;
    this.#keepLongest({
      totalMs: Math.max(longest.totalMs, totalMs),
      ownMs: Math.max(longest.ownMs, ownMs),
      runningMs: Math.max(longest.runningMs, runningMs),
    });
  }

  #keepLongest(pause: Pause): void {
    this.#longestPause = pause;
    this.#pauseMax.set({ counting: "all" }, seconds(pause.totalMs));
    this.#pauseMax.set({ counting: "own" }, seconds(pause.ownMs));
    this.#pauseMax.set({ counting: "running" }, seconds(pause.runningMs));
  }

  catalogRebuilt(catalog: "embedded" | "postgres"): void {
    this.#catalogRebuilds.inc({ catalog });
  }

  catalogFellBack(): void {
    this.#catalogFallbacks.inc();
  }

  async render(): Promise<{ readonly contentType: string; readonly text: string }> {
    const text = await this.#registry.metrics();
    this.#keepLongest(NO_PAUSE);
    return { contentType: this.#registry.contentType, text };
  }

  #gauge<T extends string>(name: string, help: string, labelNames: readonly T[] = []): Gauge<T> {
    return new Gauge({ name: `netdisk_${name}`, help, labelNames, registers: [this.#registry] });
  }

  #counter<T extends string>(name: string, help: string, labelNames: readonly T[] = []): Counter<T> {
    return new Counter({ name: `netdisk_${name}`, help, labelNames, registers: [this.#registry] });
  }

  #histogram<T extends string>(name: string, help: string, labelNames: readonly T[] = []): Histogram<T> {
    return new Histogram({
      name: `netdisk_${name}`,
      help,
      labelNames,
      buckets: LATENCY_BUCKETS_SECONDS,
      registers: [this.#registry],
    });
  }
}

/** Metrics that nobody reads, for tests, the simulator and benchmarks. */
export const noMetrics: Metrics = {
  httpRequest: () => undefined,
  httpInFlight: () => undefined,
  grpcRequest: () => undefined,
  raft: () => undefined,
  leaderChanged: () => undefined,
  proposal: () => undefined,
  applied: () => undefined,
  uploaded: () => undefined,
  downloaded: () => undefined,
  chunkStore: () => undefined,
  replicas: () => undefined,
  copyHealth: () => undefined,
  collectionBrake: () => undefined,
  featureLevel: () => undefined,
  peers: () => undefined,
  synced: () => undefined,
  paused: () => undefined,
  catalog: () => undefined,
  postgresCall: () => undefined,
  projected: () => undefined,
  catalogRebuilt: () => undefined,
  catalogFellBack: () => undefined,
  cache: noCacheMetrics,
  tasks: noTaskMetrics,
  render: () => Promise.resolve({ contentType: "text/plain", text: "" }),
};
