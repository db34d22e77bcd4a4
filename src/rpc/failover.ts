/**
 * Calls to any of several nodes: the same call goes to the next node when one cannot be reached or cannot serve.
 *
 * What may be repeated: reads, and changes that carry a request id, after which the cluster gives the first answer again. Errors
 * about the request itself are final. When every attempt failed within the time, the caller gets COMMIT_OUTCOME_UNKNOWN if any
 * attempt may have arrived, else what a living node answered in the last round (NO_LEADER from one says more than the silence of
 * another), else the last error. The node that answered last is asked first next time.
 */
import { DriveError, hasReason, type ErrorReason } from "../drive/errors.ts";
import { assert, must } from "../std/assert.ts";
import { sleep, type Clock } from "../std/clock.ts";
import type { Prng } from "../std/prng.ts";
import { CatalogService } from "../../gen/netdisk/v1/catalog_service_pb.ts";
import { TaskService } from "../../gen/netdisk/v1/task_service_pb.ts";
import { ChunkService } from "../../gen/netdisk/v1/chunk_service_pb.ts";
import { ClusterService } from "../../gen/netdisk/v1/cluster_service_pb.ts";
import { DownloadService } from "../../gen/netdisk/v1/download_service_pb.ts";
import { MetadataService } from "../../gen/netdisk/v1/metadata_service_pb.ts";
import { ProgressService } from "../../gen/netdisk/v1/progress_service_pb.ts";
import type { ChannelPool } from "./channel-pool.ts";
import { createGrpcClient, type GrpcClient } from "./client-adapter.ts";

/** How long one operation is tried over all nodes: longer than an election and the restart of a node take. */
export const FAILOVER_TIMEOUT_MS = 60_000;

/** Pause after every node failed once: first and longest; doubled in between, and a random half of it is left out. */
const ROUND_PAUSE_MS_MIN = 100;
const ROUND_PAUSE_MS_MAX = 2_000;

/** Reasons that say nothing about the request: the same call may succeed at another node, or later. */
const PASSING_REASONS: readonly ErrorReason[] = [
  "NOT_LEADER",
  "NO_LEADER",
  "NODE_STARTING",
  "NODE_STOPPING",
  "QUORUM_NOT_REACHED",
  "PEER_UNREACHABLE",
  "OVERLOADED",
  "CATALOG_UNAVAILABLE",
];

/** The clients of one node. */
export interface NodeClients {
  readonly address: string;
  readonly metadata: GrpcClient<typeof MetadataService>;
  readonly chunks: GrpcClient<typeof ChunkService>;
  readonly progress: GrpcClient<typeof ProgressService>;
  readonly cluster: GrpcClient<typeof ClusterService>;
  readonly catalog: GrpcClient<typeof CatalogService>;
  readonly tasks: GrpcClient<typeof TaskService>;
  readonly downloads: GrpcClient<typeof DownloadService>;
}

/** Settings of Failover. */
export interface FailoverOptions {
  /** host:port of the nodes, at least one. */
  readonly addresses: readonly string[];
  readonly pool: ChannelPool;
  readonly clock: Clock;
  readonly prng: Prng;
  /** FAILOVER_TIMEOUT_MS when absent. */
  readonly timeoutMs?: number | undefined;
}

/** Whether `error` may pass, and whether the call may have taken effect nevertheless. */
export function judge(error: unknown, signal: AbortSignal | undefined): "final" | "passing" | "indefinite" {
  if (!(error instanceof DriveError) || signal?.aborted === true) return "final";
  if (hasReason(error, ...PASSING_REASONS)) return "passing";
  // A node that dies in mid-call answers "canceled", or nothing.
  return hasReason(error, "COMMIT_OUTCOME_UNKNOWN", "CANCELED") ? "indefinite" : "final";
}

/** The attempts of one operation: which node is next, how long to pause, and when to give up. */
export class Attempts {
  readonly #failover: Failover;
  readonly #signal: AbortSignal | undefined;
  #deadlineMs: number;
  #failures = 0;
  #indefinite: DriveError | undefined;
  /** What a node said last, and which failure that was: a node that answered may be gone a round later. */
  #answer: { readonly error: unknown; readonly failure: number } | undefined;

  constructor(failover: Failover, signal: AbortSignal | undefined) {
    this.#failover = failover;
    this.#signal = signal;
    this.#deadlineMs = failover.clock.monotonicMs() + failover.timeoutMs;
  }

  /** Progress was made: the time starts anew. */
  succeeded(): void {
    this.#failures = 0;
    this.#answer = undefined;
    this.#deadlineMs = this.#failover.clock.monotonicMs() + this.#failover.timeoutMs;
  }

  /** Takes a failure: returns when the next attempt may start, or throws what the caller should get. */
  async failed(error: unknown, address: string): Promise<void> {
    const verdict = judge(error, this.#signal);
    if (verdict === "final")
      throw this.#indefinite !== undefined && isExpired(error) ? this.#indefinite : error;
    if (verdict === "indefinite") this.#indefinite ??= error as DriveError;
    this.#failover.avoid(address);
    this.#failures += 1;
    if (!hasReason(error, "PEER_UNREACHABLE")) this.#answer = { error, failure: this.#failures };
    if (this.#failover.clock.monotonicMs() >= this.#deadlineMs) {
      throw this.#indefinite ?? this.#answerOfLastRound() ?? error;
    }
    const rounds = this.#failures / this.#failover.nodeCount;
    if (!Number.isInteger(rounds)) return;
    const pauseMs = Math.min(ROUND_PAUSE_MS_MAX, ROUND_PAUSE_MS_MIN * 2 ** (rounds - 1));
    const { clock, prng } = this.#failover;
    try {
      await sleep(clock, pauseMs * (1 - prng.float() / 2), this.#signal);
    } catch {
      throw new DriveError("CANCELED", "The caller gave up.", {}, this.#signal?.reason);
    }
  }

  /** What a node answered within the last attempt at each; undefined when none did. */
  #answerOfLastRound(): unknown {
    if (this.#answer === undefined) return undefined;
    const age = this.#failures - this.#answer.failure;
    return age < this.#failover.nodeCount ? this.#answer.error : undefined;
  }
}

/** After an attempt that may have arrived, "expired" does not say whether that one took effect. */
function isExpired(error: unknown): boolean {
  return hasReason(error, "REQUEST_EXPIRED");
}

/** A list of nodes of which any will do. */
export class Failover {
  readonly clock: Clock;
  readonly prng: Prng;
  readonly timeoutMs: number;
  readonly #pool: ChannelPool;
  #nodes: readonly NodeClients[];
  #current = 0;

  constructor(options: FailoverOptions) {
    assert(options.addresses.length > 0, "there is at least one node");
    const { pool } = options;
    this.clock = options.clock;
    this.prng = options.prng;
    this.timeoutMs = options.timeoutMs ?? FAILOVER_TIMEOUT_MS;
    this.#pool = pool;
    this.#nodes = options.addresses.map((address) => this.#clientsOf(address));
  }

  #clientsOf(address: string): NodeClients {
    const adapter = { channel: this.#pool.channel(address, "bulk"), clock: this.clock, address };
    return {
      address,
      metadata: createGrpcClient(MetadataService, adapter),
      chunks: createGrpcClient(ChunkService, adapter),
      progress: createGrpcClient(ProgressService, adapter),
      cluster: createGrpcClient(ClusterService, adapter),
      catalog: createGrpcClient(CatalogService, adapter),
      tasks: createGrpcClient(TaskService, adapter),
      downloads: createGrpcClient(DownloadService, adapter),
    };
  }

  /** From now on these nodes are asked; calls under way at others end there. */
  setAddresses(addresses: readonly string[]): void {
    assert(addresses.length > 0, "there is at least one node");
    const before = this.#nodes;
    const { address: current } = this.node;
    this.#nodes = addresses.map(
      (address) => before.find((node) => node.address === address) ?? this.#clientsOf(address),
    );
    this.#current = Math.max(0, addresses.indexOf(current));
  }

  get nodeCount(): number {
    return this.#nodes.length;
  }

  /** The node to ask next. */
  get node(): NodeClients {
    return must(this.#nodes[this.#current], "the index is in range");
  }

  /** The next call goes to another node, unless another call has moved on already. */
  avoid(address: string): void {
    if (this.node.address === address) this.#current = (this.#current + 1) % this.#nodes.length;
  }

  /** Resolves when there is a connection to `node`. Throws PEER_UNREACHABLE: nothing was sent. */
  async connect(node: NodeClients): Promise<void> {
    await this.#pool.connect(node.address, "bulk");
  }

  /** Runs `work` against one node after another until it succeeds or fails for good. */
  async run<T>(signal: AbortSignal | undefined, work: (node: NodeClients) => Promise<T>): Promise<T> {
    const attempts = new Attempts(this, signal);
    for (;;) {
      const { node } = this;
      try {
        await this.connect(node);
        return await work(node);
      } catch (error) {
        await attempts.failed(error, node.address);
      }
    }
  }

  /**
   * Runs a stream against one node after another: `open` is called again after a break and goes on where it stopped, by what it
   * remembers itself.
   */
  async *stream<T>(
    signal: AbortSignal | undefined,
    open: (node: NodeClients) => AsyncIterable<T>,
  ): AsyncIterable<T> {
    const attempts = new Attempts(this, signal);
    for (;;) {
      const { node } = this;
      try {
        await this.connect(node);
        for await (const each of open(node)) {
          attempts.succeeded();
          yield each;
        }
        return;
      } catch (error) {
        await attempts.failed(error, node.address);
      }
    }
  }
}
