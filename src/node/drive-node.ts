/**
 * A voter without its edges: consensus, the tree, the chunk store, replication and transfer, put together from ports. What every
 * node runs for the bytes it holds is in store-keeper.ts; here is what the tree adds.
 *
 * The process (node.ts) hands in the machine's clock, disk and network; the simulator hands in its own. Nothing in here knows
 * the difference. Order of start: the chunk store, then consensus, then the loops; stop() goes the other way round.
 */
import type { FoundingMember } from "../cluster/bootstrap-identity.ts";
import type { FailureDetector, NodeLoad } from "../cluster/failure-detector-port.ts";
import { Housekeeping } from "../cluster/housekeeping.ts";
import { raisableLevel } from "../cluster/level-raiser.ts";
import { Membership } from "../cluster/membership.ts";
import { MembershipDriver } from "../cluster/membership-driver.ts";
import { Refusals } from "../cluster/refusals.ts";
import { Consensus } from "../consensus/consensus.ts";
import type { ClusterAdmin } from "../drive/cluster-admin.ts";
import type { ReportedTask, ServiceStatus } from "../drive/drive-api.ts";
import { DriveError, hasReason } from "../drive/errors.ts";
import { FEATURE_LEVELS, type FeatureLevels } from "../drive/feature-levels.ts";
import { SEAL_COUNT_MIN } from "../drive/limits.ts";
import { decodeResult, encodeResult } from "../metadata/codec.ts";
import type { CommandResult } from "../metadata/commands.ts";
import { checkSupported } from "../metadata/feature-level.ts";
import { isRemoved } from "../metadata/members.ts";
import { MetadataStateMachine } from "../metadata/state-machine.ts";
import { TreeAssignments } from "../replication/assignments.ts";
import { CopyAudit } from "../replication/copy-audit.ts";
import { Repair } from "../replication/repair.ts";
import type { ReplicaPort } from "../replication/replica-port.ts";
import type { Timer } from "../std/clock.ts";
import type { Logger } from "../telemetry/logger.ts";
import { LocalDrive } from "../transfer/local-drive.ts";
import { TreeReads } from "../transfer/tree-reads.ts";
import { TreeFeed, type VoterFeed } from "../transfer/voter-feed.ts";
import { observe } from "./observation.ts";
import type { TreeBackups } from "../backup/tree-backup.ts";
import { clusterAdmin, treeBackups } from "./tree-backups.ts";
import { Catalogs } from "./catalogs.ts";
import { ClusterFounder } from "./cluster-founder.ts";
import { ConsensusMembershipPort, ConsensusMetadataPort } from "./consensus-port.ts";
import type { DriveNodeOptions } from "./drive-node-options.ts";
import { DownloadKeeper } from "./download-keeper.ts";
import type { ServingNode } from "./serving-node.ts";
import { TaskRunner } from "./task-runner.ts";
import { openChunkStore, StoreKeeper, type NodeLoop, type OpenedStore } from "./store-keeper.ts";

export type { DriveNodeOptions } from "./drive-node-options.ts";

/** Names inside the data directory that hold data; without an identity none may exist. */
export const DATA_NAMES = ["raft", "stores", "chunks", "index"] as const;

/** How often it is looked at whether a state that is made anew is complete. */
const REBUILD_POLL_MS = 100;

interface Running {
  readonly keeper: StoreKeeper;
  readonly consensus: Consensus<CommandResult>;
  readonly drive: LocalDrive;
  readonly copyAudit: CopyAudit;
  readonly membership: Membership;
  readonly catalogs: Catalogs;
  readonly backups: TreeBackups;
  readonly tasks: TaskRunner;
  /** All but the failure detector. */
  readonly loops: readonly NodeLoop[];
}

/** A node without its edges. start() once, stop() any number of times. */
export class DriveNode implements ServingNode {
  /** Consensus at this node, for what comes from the network; refuses with NODE_STARTING before start() has ended. */
  readonly consensus: Consensus<CommandResult>;
  readonly #options: DriveNodeOptions;
  readonly #logger: Logger;
  readonly #refusals: Refusals;
  readonly #levels: FeatureLevels;
  #running: Running | undefined;
  #stopping: Promise<void> | undefined;
  #rebuildTimer: Timer | undefined;
  #isRefused = false;

  constructor(options: DriveNodeOptions) {
    this.#options = options;
    this.#levels = options.featureLevels ?? FEATURE_LEVELS;
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
      stateMachine: new MetadataStateMachine({}, this.#levels),
      encodeResult,
      decodeResult,
      onFatal: (error) => this.#end(error),
      tuning: options.tuning,
      plantedFault: options.plantedFault,
    });
  }

  /**
   * Opens what is on disk, joins consensus and starts the loops. Ready to serve when readiness() says so.
   * @throws DriveError DATA_CORRUPT, WRONG_CLUSTER, VERSION_UNSUPPORTED; errors of the disk
   */
  async start(): Promise<void> {
    const opened = await openChunkStore(this.#options, this.#logger);
    await this.consensus.start();
    try {
      checkSupported(this.consensus.reader(), this.#levels);
    } catch (error) {
      await this.consensus.stop();
      await opened.store.close();
      await opened.index.close();
      throw error;
    }
    this.consensus.onApplied(() => this.#checkLevel());
    this.#running = this.#build(opened, this.consensus);
    this.#running.keeper.detector.start();
    // A state that is being made anew says nothing about what this node's files are for.
    this.#whenWhole(() => {
      for (const loop of this.#running?.loops ?? []) loop.start();
    });
  }

  /** A snapshot may have brought a level that the commands before it did not show. */
  #checkLevel(): void {
    if (this.#stopping !== undefined || this.#isRefused) return;
    try {
      checkSupported(this.consensus.reader(), this.#levels);
    } catch (error) {
      if (!(error instanceof DriveError)) throw error;
      this.#end(error);
    }
  }

  /** The process must end: of a version that does not support the cluster's level with a word to whoever runs it. */
  #end(error: Error): void {
    const { onRefused, onFatal } = this.#options;
    if (!hasReason(error, "VERSION_UNSUPPORTED") || onRefused === undefined) {
      onFatal(error);
      return;
    }
    if (this.#isRefused) return;
    this.#isRefused = true;
    onRefused(error);
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

  #build(opened: OpenedStore, consensus: Consensus<CommandResult>): Running {
    const { clock, memberId, logger } = this.#options;
    const port = new ConsensusMetadataPort({ consensus, clock, memberId });
    const keeper = new StoreKeeper(
      this.#options,
      opened,
      {
        port,
        assignments: new TreeAssignments(port, memberId),
        expectedMemberCount: () => consensus.confState().voters.length,
        refusals: this.#refusals,
      },
      this.#logger,
    );
    const { plane, detector, replicas } = keeper;
    const { metadata, placement } = plane;
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
      logger,
      metrics: this.#options.metrics,
    });
    const downloads = new DownloadKeeper(clock, keeper);
    const tasks = new TaskRunner({
      ...{ clock, metadata, keeper, clusterId: this.#options.clusterId },
      workerIds: () =>
        consensus.confState().voters.filter((id) => id === memberId || detector.state(id).health === "up"),
      rabbitmq: this.#options.rabbitmq,
      handlers: [downloads.handler],
      logger,
      metrics: this.#options.metrics,
    });
    const drive = new LocalDrive({
      plane,
      catalog: catalogs.api,
      relay: this.#options.relay,
      reports: this.#options.reports,
      cached: this.#options.cached?.(port, new TreeReads(metadata)),
      tasks: tasks.api,
      preparedDownloads: downloads.api,
      services: () => this.services(),
      consensus: {
        term: () => consensus.status().term,
        commitIndex: () => consensus.status().commitIndex,
        roleOf: (id) => roleOf(consensus, id),
      },
      problems: () => this.problems(),
    });
    const changes = { metadata, detector, consensus: new ConsensusMembershipPort(consensus) };
    const membership = new Membership({
      ...{ ...changes, clock },
      clusterId: this.#options.clusterId,
      directory: plane.directory,
    });
    const driver = new MembershipDriver({
      ...changes,
      clock,
      logger: this.#logger,
      onError: keeper.onError("membership"),
    });
    const copyAudit = new CopyAudit({
      clock,
      metadata,
      ports: replicas,
      onDisowned: (extent, id, finding) =>
        this.#logger.error("copy_disowned", { ...extent, member: id, finding }),
      onError: keeper.onError("copy audit"),
    });
    const backups = treeBackups(this.#options, keeper, consensus, this.#logger);
    const loops: readonly NodeLoop[] = [
      catalogs,
      backups,
      new ClusterFounder({
        clock,
        metadata,
        clusterId: this.#options.clusterId,
        foundingLevel: this.#options.foundingLevel,
        onFatal: this.#options.onFatal,
      }),
      { start: () => undefined, stop: () => driver.stop() },
      new Housekeeping({
        ...{ clock, metadata, prng: this.#options.prng },
        onLeading: () => driver.look(),
        raisableLevel: () => this.#raisableLevel(keeper),
        onRaised: (level) => this.#logger.info("feature_level_raised", { feature_level: level }),
        onError: keeper.onError("housekeeping"),
      }),
      new Repair({
        ...{ clock, metadata, detector, placement, copies: keeper.copies, tasks: tasks.replication },
        lostAfterMs: this.#options.lostAfterMs,
        onLost: (id) => this.#logger.warn("member_given_up", { member: id }),
        onError: keeper.onError("repair"),
      }),
      copyAudit,
      ...keeper.loops,
      tasks,
      downloads.sweeper,
    ];
    return { keeper, consensus, drive, copyAudit, membership, catalogs, backups, tasks, loops };
  }

  #raisableLevel({ detector }: StoreKeeper): number | undefined {
    const { voters, votersOutgoing, learners } = this.consensus.confState();
    return raisableLevel({
      reader: this.consensus.reader(),
      consensusIds: [...voters, ...votersOutgoing, ...learners],
      detector,
      own: this.#levels,
      plantedLevelFault: this.#options.plantedLevelFault,
    });
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

  /** What an operator may do to the cluster at this node. @throws DriveError NODE_STARTING before start() has ended */
  get admin(): ClusterAdmin {
    return clusterAdmin(this.#active());
  }

  /** Snapshots of the tree. @throws DriveError NODE_STARTING before start() has ended */
  get backups(): TreeBackups {
    return this.#active().backups;
  }

  /** The answers of this voter to a storage-only member. @throws DriveError NODE_STARTING before start() has ended, and while the state is made anew */
  feedFor(memberId: number): VoterFeed {
    const { drive, consensus } = this;
    return new TreeFeed(
      {
        port: this.#active().keeper.plane.metadata.port,
        consensus: {
          voterIds: () => consensus.confState().voters,
          term: () => consensus.status().term,
        },
        openFile: (caller, ref, options) => drive.openFor(caller, ref, options),
        propose: async (command, options) => encodeResult((await consensus.propose(command, options)).result),
      },
      memberId,
    );
  }

  /** This node's own chunk store. @throws DriveError NODE_STARTING before start() has ended */
  get replica(): ReplicaPort {
    return this.#active().keeper.replica;
  }

  /** Judgement of the peers. @throws DriveError NODE_STARTING before start() has ended */
  get detector(): FailureDetector {
    return this.#active().keeper.detector;
  }

  /** host:port of a member as the tree knows it; undefined before it registered. */
  addressOf(memberId: number): string | undefined {
    return this.#running?.keeper.plane.directory.addressOf(memberId);
  }

  /** Whether the cluster removed a member, as this node knows it. */
  isRemoved(memberId: number): boolean {
    return this.#running !== undefined && isRemoved(this.#running.consensus.reader(), memberId);
  }

  /** Registered members and where they are. @throws DriveError NODE_STARTING before start() has ended */
  memberAddresses(): readonly FoundingMember[] {
    return this.#active()
      .keeper.plane.directory.members()
      .map(({ memberId, address }) => ({ memberId, address }));
  }

  /** Other members that should be reachable and are not, as far as this node can tell; all of them while no leader is known. */
  missingMembers(): readonly number[] {
    if (this.#running === undefined) return [];
    const { consensus, keeper } = this.#running;
    const { detector, plane } = keeper;
    const { voters, votersOutgoing, learners } = consensus.confState();
    const others = new Set([...voters, ...votersOutgoing, ...learners, ...plane.directory.memberIds()]);
    others.delete(this.#options.memberId);
    if (consensus.leaderId() === undefined) return [...others];
    return [...others].filter((memberId) => detector.state(memberId).health !== "up");
  }

  /** Figures about this node for its peers. @throws DriveError NODE_STARTING before start() has ended */
  load(): NodeLoad {
    return this.#active().keeper.load();
  }

  /** What keeps this node from serving; empty when nothing does. */
  problems(): readonly string[] {
    const running = this.#running;
    if (running === undefined) return ["The node is starting."];
    if (this.#stopping !== undefined) return ["The node is stopping."];
    const { consensus, keeper } = running;
    const { plane } = keeper;
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

  warnings(): readonly string[] {
    return this.#running?.keeper.warnings() ?? [];
  }

  /** Tasks that it works on, at most `countMax` of those that were begun last. */
  runningTasks(countMax: number): readonly ReportedTask[] {
    return this.#running?.tasks.running(countMax) ?? [];
  }

  /** Services outside of the node; those of the drive itself once it has started. */
  services(): readonly ServiceStatus[] {
    const { catalogs, tasks } = this.#running ?? {};
    const own = catalogs === undefined || tasks === undefined ? [] : [catalogs.service(), tasks.service()];
    return [...own, ...(this.#options.outside?.() ?? [])];
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
    running.keeper.detector.stop();
    await running.drive.stop();
    await this.#handOver(running);
    await running.consensus.stop();
    await running.keeper.close();
  }

  /** A leader that leaves names the member that is furthest along, so that nobody has to wait for an election. */
  async #handOver({ consensus, keeper }: Running): Promise<void> {
    const { role, config, progress } = consensus.status();
    if (role !== "leader") return;
    const { memberId } = this.#options;
    const heirs = config.voters
      .filter((id) => id !== memberId && keeper.detector.state(id).health === "up")
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
