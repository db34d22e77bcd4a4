/**
 * A node without its edges: consensus, the tree, the chunk store, replication and transfer, put together from ports.
 *
 * The process (node.ts) hands in the machine's clock, disk and network; the simulator hands in its own. Nothing in here knows
 * the difference. Order of start: the chunk store, then consensus, then the loops; stop() goes the other way round.
 */
import { DiskChunkStore } from "../chunks/disk-chunk-store.ts";
import type { FoundingMember } from "../cluster/bootstrap-identity.ts";
import type { FailureDetector, HeartbeatPort, NodeLoad } from "../cluster/failure-detector-port.ts";
import { HeartbeatFailureDetector } from "../cluster/failure-detector.ts";
import { Housekeeping } from "../cluster/housekeeping.ts";
import { Refusals } from "../cluster/refusals.ts";
import { Membership } from "../cluster/membership.ts";
import { MembershipDriver } from "../cluster/membership-driver.ts";
import { NodeRegistrar } from "../cluster/node-registrar.ts";
import { PacedLoop } from "../cluster/paced-loop.ts";
import { Consensus } from "../consensus/consensus.ts";
import type { ProposalForwarder, RaftTransport } from "../consensus/transport.ts";
import type { ConsensusTuning } from "../consensus/tuning.ts";
import type { PostgresClient } from "../catalog/postgres-client.ts";
import type { ServiceStatus } from "../drive/drive-api.ts";
import { DriveError } from "../drive/errors.ts";
import { SEAL_COUNT_MIN } from "../drive/limits.ts";
import { decodeResult, encodeResult } from "../metadata/codec.ts";
import type { CommandResult, NodeRegistration } from "../metadata/commands.ts";
import { isRemoved } from "../metadata/members.ts";
import { MetadataStateMachine } from "../metadata/state-machine.ts";
import type { PlantedFault } from "../raft/planted-faults.ts";
import { BackgroundPace } from "../replication/background-pace.ts";
import { Compactor } from "../replication/compactor.ts";
import { CopyAudit } from "../replication/copy-audit.ts";
import { DropCollector } from "../replication/drop-collector.ts";
import { ExtentLocks } from "../replication/extent-locks.ts";
import { InventoryAudit } from "../replication/inventory-audit.ts";
import { LocalReplica } from "../replication/local-replica.ts";
import type { PlantedChunkFault } from "../replication/planted-faults.ts";
import { RateMeter } from "../replication/rate-meter.ts";
import { Rebalancer } from "../replication/rebalancer.ts";
import { Repair, REPAIR_BUSY_BYTES_PER_SECOND } from "../replication/repair.ts";
import { ReplicaCopier } from "../replication/replica-copier.ts";
import type { ReplicaPort } from "../replication/replica-port.ts";
import { ScrubProgressFile } from "../replication/scrub-progress.ts";
import { Scrubber } from "../replication/scrubber.ts";
import type { Clock, Timer } from "../std/clock.ts";
import { DigestMemory, type Digester } from "../std/digest.ts";
import type { Disk } from "../std/disk.ts";
import type { OrderedStore, OrderedStoreProvider } from "../std/ordered-store.ts";
import type { Prng } from "../std/prng.ts";
import type { Logger } from "../telemetry/logger.ts";
import type { Metrics } from "../telemetry/metrics.ts";
import { DataPlane } from "../transfer/data-plane.ts";
import { LocalDrive } from "../transfer/local-drive.ts";
import { observe } from "./observation.ts";
import { Catalogs } from "./catalogs.ts";
import { ClusterFounder } from "./cluster-founder.ts";
import { ConsensusMembershipPort, ConsensusMetadataPort } from "./consensus-port.ts";

/** Names inside the data directory that hold data; without an identity none may exist. */
export const DATA_NAMES = ["raft", "stores", "chunks", "index"] as const;

/** Name of the chunk index among the indexes. */
const INDEX_NAME = "chunks";

/** How often it is looked at whether a state that is made anew is complete. */
const REBUILD_POLL_MS = 100;

/** How often the file system is asked for its free space: a full disk is known, and so is the end of it, this soon. */
const SPACE_INTERVAL_MS = 1000;

/** The ports and settings of a DriveNode. */
export interface DriveNodeOptions {
  readonly clusterId: string;
  readonly memberId: number;
  /** Members that formed the cluster, also of a node that joined later: the log begins with them. */
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
  /** PostgreSQL for the catalog; the caller closes it after stop(). None where it is not configured. */
  readonly postgres?: PostgresClient | undefined;
  /** Bytes of the disk that stay free. */
  readonly reserveBytes?: number | undefined;
  /** Bytes of uploads that this node holds at once. */
  readonly inFlightBytesMax?: number | undefined;
  readonly tuning?: Partial<ConsensusTuning> | undefined;
  readonly detection?:
    | { readonly intervalMs: number; readonly suspectAfterMs: number; readonly downAfterMs: number }
    | undefined;
  /** How often the whole chunk store is compared with the tree; ORPHAN_SWEEP_INTERVAL_MS when absent. */
  readonly sweepIntervalMs?: number | undefined;
  /** Share of the chunk store that one sweep may remove as unknown; ORPHAN_SHARE_MAX_DEFAULT when absent. */
  readonly orphanShareMax?: number | undefined;
  /** Bytes of a segment of the chunk store; the store's default when absent. */
  readonly chunkSegmentSizeBytesMax?: number | undefined;
  /** Pause between looks whether a segment is worth compaction; COMPACTION_IDLE_MS when absent. */
  readonly compactionIdleMs?: number | undefined;
  /** How long the first scrub pass of a store waits; SCRUB_FIRST_WAIT_MS when absent. */
  readonly scrubFirstWaitMs?: number | undefined;
  /** A historical bug to show, in tests alone. */
  readonly plantedFault?: PlantedFault | undefined;
  /** The same for chunks. */
  readonly plantedChunkFault?: PlantedChunkFault | undefined;
  /** How long a member is down until it is given up; default LOST_AFTER_MS_DEFAULT. */
  readonly lostAfterMs?: number | undefined;
  /** Called when the others say that this member was removed, or runs twice; onFatal() when absent. The process must end. */
  readonly onRefused?: ((error: DriveError) => void) | undefined;
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
  readonly copier: ReplicaCopier;
  readonly meter: RateMeter;
  readonly scrubber: Scrubber;
  readonly copyAudit: CopyAudit;
  readonly membership: Membership;
  readonly catalogs: Catalogs;
  readonly loops: readonly { start(): void; stop(): Promise<void> | void }[];
}

/** A node without its edges. start() once, stop() any number of times. */
export class DriveNode {
  /** Consensus at this node, for what comes from the network; refuses with NODE_STARTING before start() has ended. */
  readonly consensus: Consensus<CommandResult>;
  readonly #options: DriveNodeOptions;
  readonly #logger: Logger;
  readonly #hashed = new DigestMemory();
  readonly #refusals: Refusals;
  readonly #madeAtMs: number;
  #running: Running | undefined;
  #stopping: Promise<void> | undefined;
  #rebuildTimer: Timer | undefined;

  constructor(options: DriveNodeOptions) {
    this.#options = options;
    this.#madeAtMs = options.clock.wallMs();
    this.#logger = options.logger.child("node");
    this.#refusals = new Refusals({
      clock: options.clock,
      memberId: options.memberId,
      onRefused: (error) => {
        this.#logger.error("member_refused", { reason: error.reason, detail: error.message });
        (options.onRefused ?? options.onFatal)(error);
      },
    });
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
      plantedFault: options.plantedFault,
    });
  }

  /**
   * Opens what is on disk, joins consensus and starts the loops. Ready to serve when readiness() says so.
   * @throws DriveError DATA_CORRUPT, WRONG_CLUSTER; errors of the disk
   */
  async start(): Promise<void> {
    const { disk, directory, indexes, clock, memberId, onFatal } = this.#options;
    const condition = await indexes.check(INDEX_NAME);
    if (condition.kind === "damaged") {
      // Everything in it is in the segments too.
      this.#logger.error("chunk_index_damaged", { reason: condition.reason });
      await indexes.remove(INDEX_NAME);
    }
    const index = await indexes.open(INDEX_NAME);
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
        this.#running?.plane.reports.reportBad(extent, memberId, "corrupt");
      },
      onFault: (fault) => this.#logger.error("segment_damaged", { fault }),
      onTrouble: (error) => this.#logger.warn("segment_chore_failed", { error }),
      ...(this.#options.chunkSegmentSizeBytesMax !== undefined && {
        segmentSizeBytesMax: this.#options.chunkSegmentSizeBytesMax,
      }),
      ...(this.#options.reserveBytes !== undefined && { reserveBytes: this.#options.reserveBytes }),
    });
    await this.consensus.start();
    this.#running = this.#build(index, store, this.consensus);
    const [detector, ...rest] = this.#running.loops;
    detector?.start();
    // A state that is being made anew says nothing about what this node's files are for.
    this.#whenWhole(() => {
      for (const loop of rest) loop.start();
    });
  }

  /** Runs `work` now, or as soon as the state is not being made anew any more; never once the node is stopping. */
  #whenWhole(work: () => void): void {
    if (this.#stopping !== undefined) return;
    if (!this.consensus.isRebuilding()) {
      work();
      return;
    }
    this.#rebuildTimer = this.#options.clock.setTimer(REBUILD_POLL_MS, () => this.#whenWhole(work));
  }

  #build(index: OrderedStore, store: DiskChunkStore, consensus: Consensus<CommandResult>): Running {
    const { clock, digester, memberId, prng, plantedChunkFault, sweepIntervalMs } = this.#options;
    const port = new ConsensusMetadataPort({ consensus, clock, memberId });
    const replica = new LocalReplica(store, (extent) => scrubber.checkTimeOf(extent));
    const onError =
      (loop: string) =>
      (error: DriveError): void => {
        this.#refusals.note(error);
        this.#logger.debug("round_failed", { loop, reason: error.reason, detail: error.message });
      };
    const detector = new HeartbeatFailureDetector({
      clock,
      heartbeats: this.#refusals.listenTo(this.#options.heartbeats),
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
      expectedMemberCount: () => consensus.confState().voters.length,
    });
    const { metadata, reports, lease } = plane;
    const catalogs = new Catalogs({
      clock,
      port,
      indexes: this.#options.indexes,
      replicas,
      leadingTerm: () => {
        const { role, term } = consensus.status();
        return role === "leader" ? term : undefined;
      },
      postgres: this.#options.postgres,
      logger: this.#options.logger,
      metrics: this.#options.metrics,
    });
    const drive = new LocalDrive({
      plane,
      catalog: catalogs.api,
      services: () => this.services(),
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
    const changes = { metadata, detector, consensus: new ConsensusMembershipPort(consensus) };
    const membership = new Membership({
      ...changes,
      clusterId: this.#options.clusterId,
      directory: plane.directory,
    });
    const driver = new MembershipDriver({
      ...changes,
      clock,
      logger: this.#logger,
      onError: onError("membership"),
    });
    const locks = new ExtentLocks();
    const meter = new RateMeter(clock);
    // Users come first: their bytes at this node, and those that other nodes tell of with their heartbeats.
    const isUsed = (): boolean =>
      plane.pins.isAnyPinned ||
      plane.budget.heldBytes > copier.heldBytes ||
      detector.states().some((peer) => peer.memberId !== memberId && (peer.load?.inflightBytes ?? 0) > 0);
    const copier = new ReplicaCopier({
      pace: new BackgroundPace({
        clock,
        bytesPerSecond: () => Infinity,
        busyBytesPerSecond: REPAIR_BUSY_BYTES_PER_SECOND,
        isBusy: isUsed,
      }),
      meter,
      ports: replicas,
      detector,
      digester,
      budget: plane.budget,
      memberId,
      plantedFault: plantedChunkFault,
      onBadReplica: (extent, id, finding) => reports.reportBad(extent, id, finding),
    });
    const isPinned = (contentId: number): boolean => plane.pins.isPinned(contentId);
    const scrubber = new Scrubber({
      clock,
      metadata,
      store,
      progress: new ScrubProgressFile(this.#options.disk, `${this.#options.directory}/chunks`),
      isBusy: isUsed,
      firstWaitMs: this.#options.scrubFirstWaitMs,
      onDamaged: (extent) => this.#logger.error("scrub_found_damage", { ...extent }),
      onError: onError("scrub"),
      onFatal: this.#options.onFatal,
    });
    const compactor = new Compactor({
      clock,
      store,
      isBusy: isUsed,
      idleMs: this.#options.compactionIdleMs,
      onCompacted: (result) => this.#logger.debug("segment_compacted", { ...result }),
      onError: onError("compaction"),
    });
    const copyAudit = new CopyAudit({
      clock,
      metadata,
      ports: replicas,
      onDisowned: (extent, id, finding) =>
        this.#logger.error("copy_disowned", { ...extent, member: id, finding }),
      onError: onError("copy audit"),
    });
    const loops = [
      detector,
      catalogs,
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
      { start: () => undefined, stop: () => driver.stop() },
      new Housekeeping({
        clock,
        metadata,
        onLeading: () => driver.look(),
        onError: onError("housekeeping"),
      }),
      new Repair({
        clock,
        metadata,
        detector,
        placement: plane.placement,
        copier,
        locks,
        lostAfterMs: this.#options.lostAfterMs,
        onLost: (id) => this.#logger.warn("member_given_up", { member: id }),
        onError: onError("repair"),
      }),
      new Rebalancer({
        ...{ clock, metadata, detector },
        placement: plane.placement,
        onError: onError("rebalancing"),
      }),
      new DropCollector({
        ...{ clock, metadata, store, locks, isPinned, sweepIntervalMs },
        orphanShareMax: this.#options.orphanShareMax,
        onBrake: (found) => this.#logger.error("collection_braked", { ...found }),
        onError: onError("collection"),
        plantedFault: plantedChunkFault,
      }),
      new InventoryAudit({
        clock,
        metadata,
        store,
        onMissing: (extent) => this.#logger.error("copy_missing", { ...extent }),
        onError: onError("audit"),
      }),
      scrubber,
      copyAudit,
      compactor,
    ];
    return {
      index,
      store,
      consensus,
      replica,
      plane,
      detector,
      drive,
      membership,
      catalogs,
      loops,
      copier,
      meter,
      scrubber,
      copyAudit,
    };
  }

  /** The drive. @throws DriveError NODE_STARTING before start() has ended, and while the state is made anew */
  get drive(): LocalDrive {
    if (this.#running !== undefined && this.consensus.isRebuilding()) {
      throw new DriveError("NODE_STARTING", this.consensus.problems().join(" "));
    }
    return this.#active().drive;
  }

  /** Changing and seeing who belongs to the cluster. @throws DriveError NODE_STARTING before start() has ended */
  get membership(): Membership {
    return this.#active().membership;
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

  /** Whether the cluster removed a member, as this node knows it. */
  isRemoved(memberId: number): boolean {
    return this.#running !== undefined && isRemoved(this.#running.consensus.reader(), memberId);
  }

  /** Registered members and where they are. @throws DriveError NODE_STARTING before start() has ended */
  memberAddresses(): readonly FoundingMember[] {
    return this.#active()
      .plane.directory.members()
      .map(({ memberId, address }) => ({ memberId, address }));
  }

  /** Other members that should be reachable and are not, as far as this node can tell; all of them while no leader is known. */
  missingMembers(): readonly number[] {
    if (this.#running === undefined) return [];
    const { consensus, detector, plane } = this.#running;
    const { voters, votersOutgoing, learners } = consensus.confState();
    const others = new Set([...voters, ...votersOutgoing, ...learners, ...plane.directory.memberIds()]);
    others.delete(this.#options.memberId);
    if (consensus.leaderId() === undefined) return [...others];
    return [...others].filter((memberId) => detector.state(memberId).health !== "up");
  }

  /** Figures about this node for its peers. @throws DriveError NODE_STARTING before start() has ended */
  load(): NodeLoad {
    const { store, plane, consensus, copier, meter, scrubber } = this.#active();
    const { freeBytes, totalBytes, liveBytes, writesRefused, quarantinedExtentCount } = store.stats();
    return {
      freeBytes,
      totalBytes,
      liveBytes,
      writesRefused,
      // Of users: what repair holds must not make other nodes' repair yield.
      inflightBytes: plane.budget.heldBytes - copier.heldBytes,
      appliedIndex: consensus.appliedIndex(),
      repairBytesPerSecond: meter.bytesPerSecond(),
      quarantinedCount: quarantinedExtentCount,
      scrubProgress: scrubber.progress(),
    };
  }

  /** What keeps this node from serving; empty when nothing does. */
  problems(): readonly string[] {
    const running = this.#running;
    if (running === undefined) return ["The node is starting."];
    if (this.#stopping !== undefined) return ["The node is stopping."];
    const { consensus, plane } = running;
    const problems: string[] = [];
    problems.push(...consensus.problems());
    if (consensus.leaderId() === undefined) problems.push("No leader is known.");
    if (plane.directory.find(this.#options.memberId) === undefined) {
      problems.push("The node is not registered yet.");
    }
    // Matters while the cluster is being formed: an upload needs places for its copies.
    const needed = Math.min(SEAL_COUNT_MIN, consensus.confState().voters.length);
    if (plane.directory.members().length < needed) problems.push("Too few nodes are registered yet.");
    return problems;
  }

  /** Services outside of the node; those that are not configured are "off" since it started. */
  services(): readonly ServiceStatus[] {
    const postgres = this.#running?.catalogs.service();
    return [postgres ?? { name: "postgres", state: "off", sinceTimeMs: this.#madeAtMs, detail: "" }];
  }

  /** Takes the figures of this moment into the metrics. */
  observe(): void {
    const running = this.#running;
    if (running !== undefined) observe(running, this.#options.memberId, this.#options.metrics);
  }

  /** Ends the loops and transfers, hands leadership over, and closes everything. Idempotent. */
  stop(): Promise<void> {
    this.#stopping ??= this.#stop();
    return this.#stopping;
  }

  async #stop(): Promise<void> {
    const running = this.#running;
    if (running === undefined) return;
    this.#rebuildTimer?.cancel();
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
