/**
 * Metrics: what a node counts and measures, in the Prometheus text format. The only user of prom-client.
 *
 * One registry a node, so that several nodes can run in one process. Names start with netdisk_, units are base units
 * (seconds, bytes), labels take few values: never a path, an id or a client's text. Callers pass milliseconds, as Clock gives.
 * Does not measure anything by itself except the process metrics.
 */
import { collectDefaultMetrics, Counter, Gauge, Histogram, Registry } from "prom-client";

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
  chunkStore(sample: { readonly liveBytes: number; readonly freeBytes: number }): void;
  /** Extents by the state of their copies. */
  replicas(sample: { readonly full: number; readonly under: number; readonly suspect: number }): void;
  /** Other nodes by their health. */
  peers(sample: { readonly up: number; readonly suspect: number; readonly down: number }): void;
  synced(target: SyncTarget, durationMs: number): void;
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

const seconds = (durationMs: number): number => Math.max(0, durationMs) / 1000;

/** Metrics kept in a Prometheus registry of their own. */
export class PrometheusMetrics implements Metrics {
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
  readonly #peers: Gauge<"health">;
  readonly #syncDuration: Histogram<"target">;

  constructor(options: MetricsOptions) {
    this.#registry.setDefaultLabels({ node: options.nodeId });
    if (options.process) collectDefaultMetrics({ register: this.#registry, prefix: "netdisk_" });
    this.#gauge("build_info", "Always 1; the label says which version runs.", ["version"]).set(
      { version: options.version },
      1,
    );
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
    this.#peers = this.#gauge("peers", "Other nodes by health, as this node judges.", ["health"]);
    this.#syncDuration = this.#histogram(
      "fsync_duration_seconds",
      "Waiting for the disk to make writes durable.",
      ["target"],
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

  chunkStore(sample: { readonly liveBytes: number; readonly freeBytes: number }): void {
    this.#chunkStoreLiveBytes.set(sample.liveBytes);
    this.#chunkStoreFreeBytes.set(sample.freeBytes);
  }

  replicas(sample: { readonly full: number; readonly under: number; readonly suspect: number }): void {
    this.#extents.set({ copies: "full" }, sample.full);
    this.#extents.set({ copies: "under" }, sample.under);
    this.#extents.set({ copies: "suspect" }, sample.suspect);
  }

  peers(sample: { readonly up: number; readonly suspect: number; readonly down: number }): void {
    this.#peers.set({ health: "up" }, sample.up);
    this.#peers.set({ health: "suspect" }, sample.suspect);
    this.#peers.set({ health: "down" }, sample.down);
  }

  synced(target: SyncTarget, durationMs: number): void {
    this.#syncDuration.observe({ target }, seconds(durationMs));
  }

  async render(): Promise<{ readonly contentType: string; readonly text: string }> {
    return { contentType: this.#registry.contentType, text: await this.#registry.metrics() };
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
  peers: () => undefined,
  synced: () => undefined,
  render: () => Promise.resolve({ contentType: "text/plain", text: "" }),
};
