/**
 * A node without its edges: consensus, the tree, the chunk store, replication and transfer, put together from ports.
 *
 * The process (node.ts) hands in the machine's clock, disk and network; the simulator hands in its own. Nothing in here knows
 * the difference. Order of start: the chunk store, then consensus, then the loops; stop() goes the other way round.
 */
import { DiskChunkStore } from "../chunks/disk-chunk-store.ts";
import type { FailureDetector, HeartbeatPort, NodeLoad } from "../cluster/failure-detector-port.ts";
import { HeartbeatFailureDetector } from "../cluster/failure-detector.ts";
import { Housekeeping } from "../cluster/housekeeping.ts";
import { NodeRegistrar } from "../cluster/node-registrar.ts";
import { PacedLoop } from "../cluster/paced-loop.ts";
import { Consensus } from "../consensus/consensus.ts";
import type { ProposalForwarder, RaftTransport } from "../consensus/transport.ts";
import type { ConsensusTuning } from "../consensus/tuning.ts";
import { DriveError } from "../drive/errors.ts";
import { SEAL_COUNT_MIN } from "../drive/limits.ts";
import { decodeResult, encodeResult } from "../metadata/codec.ts";
import type { CommandResult, NodeRegistration } from "../metadata/commands.ts";
import { MetadataStateMachine } from "../metadata/state-machine.ts";
import { clusterInfo, counters } from "../metadata/view.ts";
import { DropCollector } from "../replication/drop-collector.ts";
import { ExtentLocks } from "../replication/extent-locks.ts";
import { InventoryAudit } from "../replication/inventory-audit.ts";
import { LocalReplica } from "../replication/local-replica.ts";
import { Repair } from "../replication/repair.ts";
import { ReplicaCopier } from "../replication/replica-copier.ts";
import type { ReplicaPort } from "../replication/replica-port.ts";
import type { Clock } from "../std/clock.ts";
import { DigestMemory, type Digester } from "../std/digest.ts";
import type { Disk } from "../std/disk.ts";
import type { OrderedStore, OrderedStoreProvider } from "../std/ordered-store.ts";
import type { Prng } from "../std/prng.ts";
import type { Logger } from "../telemetry/logger.ts";
import type { Metrics } from "../telemetry/metrics.ts";
import { DataPlane } from "../transfer/data-plane.ts";
import { LocalDrive } from "../transfer/local-drive.ts";
import { ClusterFounder } from "./cluster-founder.ts";
import { ConsensusMetadataPort } from "./consensus-port.ts";

/** Names inside the data directory that hold data; without an identity none may exist. */
export const DATA_NAMES = ["raft", "stores", "chunks", "index"] as const;

/** How often the file system is asked for its free space: a full disk is known, and so is the end of it, this soon. */
const SPACE_INTERVAL_MS = 1000;

/** The ports and settings of a DriveNode. */
export interface DriveNodeOptions {
  readonly clusterId: string;
  readonly memberId: number;
  /** Members that formed the cluster. */
  readonly founderIds: readonly number[];
  /** What this node says about itself, but for the incarnation of its store, which is found on its disk. */
  readonly registration: Omit<NodeRegistration, "memberId" | "storeIncarnation">;
  readonly disk: Disk;
  /** The data directory. */
  readonly directory: string;
  /** "refuse" once onCreated() has ended in this data directory: see ConsensusOptions. */
  readonly whenAbsent: "create" | "refuse";
  /** Makes it durable that the Raft log and the state were made; awaited before this node takes part. */
  readonly onCreated: () => Promise<void>;
  /** Where the generations of the replicated store live. */
  readonly stores: OrderedStoreProvider;
  /** Where the chunk index lives. */
  readonly indexes: OrderedStoreProvider;
  readonly clock: Clock;
  readonly prng: Prng;
  readonly digester: Digester;
  readonly logger: Logger;
  readonly metrics: Metrics;
  readonly transport: RaftTransport;
  readonly forwarder: ProposalForwarder;
  readonly heartbeats: HeartbeatPort;
  /** The chunk store of another member; undefined while its address is not known. */
  readonly peerReplica: (memberId: number) => ReplicaPort | undefined;
  /** Bytes of the disk that stay free. */
  readonly reserveBytes?: number | undefined;
  /** Bytes of uploads that this node holds at once. */
  readonly inFlightBytesMax?: number | undefined;
  readonly tuning?: Partial<ConsensusTuning> | undefined;
  readonly detection?:
    | { readonly intervalMs: number; readonly suspectAfterMs: number; readonly downAfterMs: number }
    | undefined;
  /** Called with what makes it impossible to go on: the process must end. */
  readonly onFatal: (error: Error) => void;
}

interface Running {
  readonly index: OrderedStore;
  readonly store: DiskChunkStore;
  readonly consensus: Consensus<CommandResult>;
  readonly replica: ReplicaPort;
  readonly plane: DataPlane;
  readonly detector: HeartbeatFailureDetector;
  readonly drive: LocalDrive;
  readonly loops: readonly { start(): void; stop(): Promise<void> | void }[];
}

/** A node without its edges. start() once, stop() any number of times. */
export class DriveNode {
  /** Consensus at this node, for what comes from the network; refuses with NODE_STARTING before start() has ended. */
  readonly consensus: Consensus<CommandResult>;
  readonly #options: DriveNodeOptions;
  readonly #logger: Logger;
  readonly #hashed = new DigestMemory();
  #running: Running | undefined;
  #stopping: Promise<void> | undefined;

  constructor(options: DriveNodeOptions) {
    this.#options = options;
    this.#logger = options.logger.child("node");
    this.consensus = new Consensus<CommandResult>({
      clusterId: options.clusterId,
      memberId: options.memberId,
      initialVoters: options.founderIds,
      disk: options.disk,
      directory: `${options.directory}/raft`,
      whenAbsent: options.whenAbsent,
      onCreated: options.onCreated,
      stores: options.stores,
      clock: options.clock,
      prng: options.prng,
      logger: options.logger,
      metrics: options.metrics,
      transport: options.transport,
      forwarder: options.forwarder,
      stateMachine: new MetadataStateMachine(),
      encodeResult,
      decodeResult,
      onFatal: options.onFatal,
      tuning: options.tuning,
    });
  }

  /**
   * Opens what is on disk, joins consensus and starts the loops. Ready to serve when readiness() says so.
   * @throws DriveError DATA_CORRUPT, WRONG_CLUSTER; errors of the disk
   */
  async start(): Promise<void> {
    const { disk, directory, indexes, clock, memberId, onFatal } = this.#options;
    const index = await indexes.open("chunks");
    const store = await DiskChunkStore.open({
      disk,
      clock,
      prng: this.#options.prng,
      digester: this.#options.digester,
      hashed: this.#hashed,
      directory: `${directory}/chunks`,
      index,
      memberId,
      onFatal,
      onDamage: (extent, chunkIndexes) => {
        this.#logger.error("chunks_damaged", { ...extent, chunk_indexes: chunkIndexes.slice(0, 100) });
        this.#running?.plane.reports.reportBad(extent, memberId);
      },
      onFault: (fault) => this.#logger.error("segment_damaged", { fault }),
      onTrouble: (error) => this.#logger.warn("segment_chore_failed", { error }),
      ...(this.#options.reserveBytes !== undefined && { reserveBytes: this.#options.reserveBytes }),
    });
    await this.consensus.start();
    this.#running = this.#build(index, store, this.consensus);
    for (const loop of this.#running.loops) loop.start();
  }

  #build(index: OrderedStore, store: DiskChunkStore, consensus: Consensus<CommandResult>): Running {
    const { clock, digester, memberId, prng } = this.#options;
    const port = new ConsensusMetadataPort({ consensus, clock, memberId });
    const replica = new LocalReplica(store);
    const onError =
      (loop: string) =>
      (error: DriveError): void =>
        this.#logger.debug("round_failed", { loop, reason: error.reason, detail: error.message });
    const detector = new HeartbeatFailureDetector({
      clock,
      heartbeats: this.#options.heartbeats,
      memberId,
      memberIds: () => plane.directory.memberIds(),
      ownLoad: () => this.load(),
      ...this.#options.detection,
    });
    const replicas = {
      forMember: (id: number): ReplicaPort | undefined =>
        id === memberId ? replica : this.#options.peerReplica(id),
    };
    const plane = new DataPlane({
      clock,
      prng,
      digester,
      hashed: this.#hashed,
      metadata: port,
      replicas,
      detector,
      inFlightBytesMax: this.#options.inFlightBytesMax,
      expectedMemberCount: () => this.#options.founderIds.length,
    });
    const { metadata, reports, lease } = plane;
    const drive = new LocalDrive({
      plane,
      consensus: {
        term: () => consensus.status().term,
        commitIndex: () => consensus.status().commitIndex,
        roleOf: (id) => roleOf(consensus, id),
      },
      problems: () => this.problems(),
    });
    const self = (): NodeRegistration => ({
      ...this.#options.registration,
      memberId,
      storeIncarnation: store.storeIncarnation,
    });
    const locks = new ExtentLocks();
    const copier = new ReplicaCopier({
      ports: replicas,
      detector,
      digester,
      budget: plane.budget,
      memberId,
      onBadReplica: (extent, id) => reports.reportBad(extent, id),
    });
    const isPinned = (contentId: number): boolean => plane.pins.isPinned(contentId);
    const loops = [
      detector,
      new PacedLoop({
        clock,
        idleMs: SPACE_INTERVAL_MS,
        busyMs: SPACE_INTERVAL_MS,
        work: () => store.refreshSpace().then(() => "idle" as const),
      }),
      new ClusterFounder({
        clock,
        metadata,
        clusterId: this.#options.clusterId,
        onFatal: this.#options.onFatal,
      }),
      new NodeRegistrar({ clock, metadata, lease, self, onError: onError("registration") }),
      new Housekeeping({ clock, metadata, onError: onError("housekeeping") }),
      new Repair({
        clock,
        metadata,
        detector,
        placement: plane.placement,
        copier,
        locks,
        onError: onError("repair"),
      }),
      new DropCollector({ clock, metadata, store, locks, isPinned, onError: onError("collection") }),
      new InventoryAudit({
        clock,
        metadata,
        store,
        onMissing: (extent) => this.#logger.error("copy_missing", { ...extent }),
        onError: onError("audit"),
      }),
    ];
    return { index, store, consensus, replica, plane, detector, drive, loops };
  }

  /** The drive. @throws DriveError NODE_STARTING before start() has ended */
  get drive(): LocalDrive {
    return this.#active().drive;
  }

  /** This node's own chunk store. @throws DriveError NODE_STARTING before start() has ended */
  get replica(): ReplicaPort {
    return this.#active().replica;
  }

  /** Judgement of the peers. @throws DriveError NODE_STARTING before start() has ended */
  get detector(): FailureDetector {
    return this.#active().detector;
  }

  /** host:port of a member as the tree knows it; undefined before it registered. */
  addressOf(memberId: number): string | undefined {
    return this.#running?.plane.directory.addressOf(memberId);
  }

  /** Figures about this node for its peers. @throws DriveError NODE_STARTING before start() has ended */
  load(): NodeLoad {
    const { store, plane, consensus } = this.#active();
    const { freeBytes, totalBytes, liveBytes, writesRefused } = store.stats();
    return {
      freeBytes,
      totalBytes,
      liveBytes,
      writesRefused,
      inflightBytes: plane.budget.heldBytes,
      appliedIndex: consensus.appliedIndex(),
    };
  }

  /** What keeps this node from serving; empty when nothing does. */
  problems(): readonly string[] {
    const running = this.#running;
    if (running === undefined) return ["The node is starting."];
    if (this.#stopping !== undefined) return ["The node is stopping."];
    const { consensus, plane } = running;
    const problems: string[] = [];
    if (consensus.leaderId() === undefined) problems.push("No leader is known.");
    if (plane.directory.find(this.#options.memberId) === undefined) {
      problems.push("The node is not registered yet.");
    }
    // Matters while the cluster is being formed: an upload needs places for its copies.
    const needed = Math.min(SEAL_COUNT_MIN, this.#options.founderIds.length);
    if (plane.directory.members().length < needed) problems.push("Too few nodes are registered yet.");
    return problems;
  }

  /** Takes the figures of this moment into the metrics. */
  observe(): void {
    const running = this.#running;
    if (running === undefined) return;
    const { consensus, store, detector } = running;
    const { metrics } = this.#options;
    const { term, commitIndex, appliedIndex, role } = consensus.status();
    metrics.raft({ term, commitIndex, appliedIndex, leading: role === "leader" });
    metrics.chunkStore(store.stats());
    const reader = consensus.reader();
    if (clusterInfo(reader) !== undefined) {
      const { replicas } = counters(reader);
      metrics.replicas({
        full: replicas.fullyReplicatedCount,
        under: replicas.underReplicatedCount,
        suspect: replicas.suspectCount,
      });
    }
    const peers = { up: 0, suspect: 0, down: 0 };
    for (const peer of detector.states()) {
      if (peer.memberId !== this.#options.memberId) peers[peer.health] += 1;
    }
    metrics.peers(peers);
  }

  /** Ends the loops and transfers, hands leadership over, and closes everything. Idempotent. */
  stop(): Promise<void> {
    this.#stopping ??= this.#stop();
    return this.#stopping;
  }

  async #stop(): Promise<void> {
    const running = this.#running;
    if (running === undefined) return;
    for (const loop of [...running.loops].reverse()) await loop.stop();
    await running.drive.stop();
    await this.#handOver(running);
    await running.consensus.stop();
    await running.store.close();
    await running.index.close();
  }

  /** A leader that leaves names the member that is furthest along, so that nobody has to wait for an election. */
  async #handOver({ consensus, detector }: Running): Promise<void> {
    const { role, config, progress } = consensus.status();
    if (role !== "leader") return;
    const { memberId } = this.#options;
    const heirs = config.voters
      .filter((id) => id !== memberId && detector.state(id).health === "up")
      .sort((a, b) => (progress.get(b)?.matchIndex ?? 0) - (progress.get(a)?.matchIndex ?? 0));
    const [heir] = heirs;
    if (heir === undefined) return;
    try {
      await consensus.transferLeadership(heir);
    } catch (error) {
      if (!(error instanceof DriveError)) throw error;
      this.#logger.warn("leadership_not_handed_over", { to: heir, reason: error.reason });
    }
  }

  #active(): Running {
    if (this.#running !== undefined) return this.#running;
    throw new DriveError("NODE_STARTING", "The node is starting.");
  }
}

function roleOf(consensus: Consensus<CommandResult>, memberId: number): "voter" | "learner" | "storage" {
  const { config } = consensus.status();
  if (config.voters.includes(memberId) || config.votersOutgoing.includes(memberId)) return "voter";
  return config.learners.includes(memberId) ? "learner" : "storage";
}
