/**
 * The node as a process runs it: the machine's clock, disk and network under a DriveNode, gRPC and HTTP on top of it.
 *
 * Order of start: lock the data directory, listen for peers (so that they can ask who we are), find or form the cluster, open
 * the data, then listen for clients. Readiness is for those who ask; a request that comes too early gets NODE_STARTING.
 * stop() goes the other way round: readiness off, clients' requests finish, leadership is handed over, files are closed.
 */
import type { PostgresClient } from "../catalog/postgres-client.ts";
import type { RabbitMqLink } from "../tasks/rabbitmq-link.ts";
import { taskService } from "../rpc/task-service.ts";
import { Bootstrap, type BootstrapExchange, type ClusterMembership } from "../cluster/bootstrap.ts";
import type { JoinAnswer, JoinOptions } from "../cluster/join.ts";
import type { JoinRequest } from "../cluster/membership.ts";
import { PeerFinder } from "../cluster/peer-finder.ts";
import { PeerGuard } from "../cluster/peer-guard.ts";
import { peerAddresses, selfAddress, type Config } from "../config/config.ts";
import type { ServiceStatus } from "../drive/drive-api.ts";
import { DriveError, hasReason } from "../drive/errors.ts";
import type { FeatureLevels } from "../drive/feature-levels.ts";
import { Gateway } from "../gateway/gateway.ts";
import { grpcVoterFeed } from "../rpc/assignment-client.ts";
import { assignmentService } from "../rpc/assignment-service.ts";
import { ChannelPool } from "../rpc/channel-pool.ts";
import { catalogService } from "../rpc/catalog-service.ts";
import { downloadService } from "../rpc/download-service.ts";
import { chunkService } from "../rpc/chunk-service.ts";
import { clusterService } from "../rpc/cluster-service.ts";
import { RpcServer } from "../rpc/grpc-server.ts";
import { metadataService } from "../rpc/metadata-service.ts";
import { describeNode, GrpcHeartbeat, joinCluster } from "../rpc/node-client.ts";
import { nodeService } from "../rpc/node-service.ts";
import { PeerClients } from "../rpc/peer-clients.ts";
import type { OwnIdentity, PeerIdentity } from "../rpc/peer-identity.ts";
import { progressService } from "../rpc/progress-service.ts";
import { GrpcProposalForwarder } from "../rpc/proposal-forwarder.ts";
import { raftService, type RaftStatus } from "../rpc/raft-service.ts";
import { GrpcRaftTransport } from "../rpc/raft-transport.ts";
import { ReplicaClient } from "../rpc/replica-client.ts";
import { replicaService } from "../rpc/replica-service.ts";
import type { ReplicaPort } from "../replication/replica-port.ts";
import { toHex } from "../std/bytes.ts";
import { SystemClock, type Timer } from "../std/clock.ts";
import { deferred } from "../std/deferred.ts";
import { threadPoolDigester } from "../std/digest.ts";
import { CheckedOrderedStoreProvider } from "../std/checked-ordered-store.ts";
import { LmdbOrderedStoreProvider } from "../std/lmdb-ordered-store.ts";
import { removeStaleLocks } from "../std/lmdb-lock-file.ts";
import { mainThreadTimes, PauseWatch } from "../std/pause-watch.ts";
import { SystemPrng } from "../std/prng.ts";
import { SystemDisk } from "../std/system-disk.ts";
import type { Logger } from "../telemetry/logger.ts";
import type { VoterFeed } from "../transfer/voter-feed.ts";
import { PrometheusMetrics } from "../telemetry/metrics.ts";
import { CatchUp } from "./catch-up.ts";
import { Caches, redisSettings, requestLimits } from "./caches.ts";
import { lockDataDirectory, type DataLock } from "./data-lock.ts";
import type { StoreKeeperOptions } from "./drive-node-options.ts";
import { DATA_NAMES, DriveNode } from "./drive-node.ts";
import { LateDrive } from "./late-drive.ts";
import { connectPostgres } from "./postgres.ts";
import { rabbitmqLink } from "./rabbitmq.ts";
import { resolvePeers } from "./resolve-peers.ts";
import type { ServingNode } from "./serving-node.ts";
import { StorageNode, type StorageNodeOptions } from "./storage-node.ts";
import { makeVoterClients } from "./voter-clients.ts";

/** How often the figures of this moment are taken into the metrics and readiness into the health service. */
const OBSERVE_INTERVAL_MS = 500;

/** A process counts as running for this many heartbeats after its last one: another of the same member is refused as long. */
const HEARTBEATS_HEARD = 3;

/** Random bytes of a process id. */
const PROCESS_ID_SIZE_BYTES = 8;

/** Settings of a Node beside its configuration. */
export interface NodeOptions {
  readonly config: Config;
  readonly logger: Logger;
  /** Version of the program. */
  readonly version: string;
  /** The feature levels that the node supports; FEATURE_LEVELS when absent. Others in tests alone: nothing in configuration reaches it. */
  readonly featureLevels?: FeatureLevels | undefined;
  /** Called with what makes it impossible to go on; the process must end soon after. */
  readonly onFatal: (error: Error) => void;
}

/** A node of a cluster in this process. start() once; stop() any number of times, at any time. */
export class Node {
  readonly #config: Config;
  readonly #options: NodeOptions;
  readonly #clock = new SystemClock();
  readonly #prng = new SystemPrng();
  readonly #disk = new SystemDisk();
  readonly #logger: Logger;
  readonly #metrics: PrometheusMetrics;
  readonly #pauses: PauseWatch;
  readonly #pool: ChannelPool;
  readonly #stopSignal = new AbortController();
  readonly #replicas = new Map<number, ReplicaClient>();
  readonly #processId: string;
  readonly #guard: PeerGuard;
  readonly #refused = deferred<DriveError>();
  #finder: PeerFinder | undefined;
  #lock: DataLock | undefined;
  #bootstrap: Bootstrap | undefined;
  #membership: ClusterMembership | undefined;
  #drive: ServingNode | undefined;
  #voter: DriveNode | undefined;
  #catchUp: CatchUp | undefined;
  #postgres: PostgresClient | undefined;
  #rabbitmq: RabbitMqLink | undefined;
  #caches: Caches | undefined;
  #server: RpcServer | undefined;
  #gateway: Gateway | undefined;
  #transport: GrpcRaftTransport | undefined;
  #forwarder: GrpcProposalForwarder | undefined;
  #observer: Timer | undefined;
  #stopping: Promise<void> | undefined;

  constructor(options: NodeOptions) {
    this.#options = options;
    this.#config = options.config;
    const { id } = this.#config.node;
    this.#logger = options.logger;
    this.#metrics = new PrometheusMetrics({ nodeId: id, version: options.version, process: true });
    this.#pauses = new PauseWatch(this.#clock, mainThreadTimes(), (pause) => this.#metrics.paused(pause));
    this.#pool = new ChannelPool({ clock: this.#clock });
    this.#processId = toHex(this.#prng.bytes(PROCESS_ID_SIZE_BYTES));
    this.#guard = new PeerGuard({
      clock: this.#clock,
      windowMs: HEARTBEATS_HEARD * this.#config.cluster.heartbeatMs,
      isRemoved: (memberId) => this.#drive?.isRemoved(memberId) === true,
    });
  }

  /** Resolves when the cluster says that this member was removed, or runs twice: the node must be stopped. */
  get refused(): Promise<DriveError> {
    return this.#refused.promise;
  }

  /**
   * Starts to serve. Waits, for as long as it takes, until the cluster is formed or found.
   * @throws DriveError DATA_DIRECTORY_IN_USE, ADDRESS_IN_USE, DATA_CORRUPT, WRONG_CLUSTER, MEMBER_REMOVED, JOIN_TOKEN_INVALID
   */
  async start(): Promise<void> {
    const config = this.#config;
    this.#pauses.start();
    this.#lock = await lockDataDirectory(config.data.directory);
    const count = await removeStaleLocks();
    if (count > 0) this.#logger.info("stale_locks_removed", { count });
    this.#bootstrap = new Bootstrap({
      disk: this.#disk,
      directory: config.data.directory,
      dataNames: DATA_NAMES,
      nodeId: config.node.id,
      address: selfAddress(config),
      peers: peerAddresses(config),
      exchange: this.#exchange(),
      join: this.#join(),
      featureLevels: this.#options.featureLevels,
      clock: this.#clock,
      prng: this.#prng,
      logger: this.#logger,
    });
    await this.#bootstrap.open();
    const redis = await redisSettings(config.services);
    this.#caches = new Caches({
      clock: this.#clock,
      logger: this.#logger,
      metrics: this.#metrics,
      redis,
      requestLimits: requestLimits(config.http),
      entries: config.cache.entries,
    });
    this.#server = this.#makeServer();
    await this.#server.start();
    this.#gateway = this.#makeGateway();
    const { url } = await this.#gateway.start();
    this.#logger.info("listening", { grpc: config.node.address, http: url });
    const membership = await this.#bootstrap.run(this.#stopSignal.signal);
    this.#membership = membership;
    this.#finder = this.#makeFinder(membership);
    if (!membership.isStorageOnly) {
      this.#postgres = await connectPostgres(this.#config.services, this.#clock, this.#metrics);
      this.#rabbitmq = await rabbitmqLink(config.services, this.#clock);
    }
    this.#caches.join(membership.clusterId);
    this.#drive = this.#makeServingNode(this.#bootstrap, membership, url);
    await this.#drive.start();
    this.#caches.tell(membership.memberId, this.#drive, () => this.#problems());
    this.#finder.start();
    this.#observe();
    this.#logger.info("node_started", { member_id: membership.memberId, cluster_id: membership.clusterId });
    await this.#bootstrap.checkPeers();
  }

  /** Stops in order; idempotent. */
  stop(): Promise<void> {
    this.#stopping ??= this.#stop();
    return this.#stopping;
  }

  async #stop(): Promise<void> {
    this.#logger.info("node_stopping");
    this.#observer?.cancel();
    this.#pauses.stop();
    this.#stopSignal.abort(new DriveError("NODE_STOPPING", "The node is stopping."));
    this.#server?.setServing(false);
    await this.#gateway?.stop();
    await this.#finder?.stop();
    await this.#catchUp?.stop();
    await this.#caches?.stop();
    await this.#drive?.stop();
    await this.#postgres?.stop();
    this.#transport?.stop();
    this.#forwarder?.stop();
    for (const replica of this.#replicas.values()) replica.stop();
    await this.#server?.stop();
    this.#pool.close();
    await this.#lock?.release();
    this.#logger.info("node_stopped");
  }

  #makeServer(): RpcServer {
    const { host, port } = parseAddress(this.#config.node.address);
    const identity = (): OwnIdentity => this.#identity();
    const drive = (): ServingNode["drive"] => this.#started().drive;
    return new RpcServer({
      clock: this.#clock,
      prng: this.#prng,
      logger: this.#logger,
      host,
      port,
      stopGraceMs: this.#config.node.stopGraceMs,
      services: [
        metadataService(drive),
        catalogService(drive),
        taskService(drive),
        downloadService(drive),
        chunkService(drive),
        progressService(drive),
        clusterService(drive, () => this.#started().admin),
        raftService({ identity, handler: () => this.#consensus(), status: () => this.#raftStatus() }),
        assignmentService({ identity, feedFor: (memberId) => this.#started().feedFor(memberId) }),
        replicaService({ identity, replica: () => this.#started().replica }),
        nodeService({
          identity,
          load: () => this.#started().load(),
          describe: () => {
            if (this.#bootstrap === undefined) throw new DriveError("NODE_STARTING", "The node is starting.");
            return this.#bootstrap.answer();
          },
          join: (request, signal) => this.#admit(request, signal),
        }),
      ],
    });
  }

  #makeGateway(): Gateway {
    const { http, node } = this.#config;
    return new Gateway({
      drive: new LateDrive(
        () => this.#started().drive,
        () => this.#problems(),
        () => this.#drive?.services() ?? this.#outside(),
        () => this.#drive?.warnings() ?? [],
      ),
      logger: this.#logger,
      metrics: this.#metrics,
      clock: this.#clock,
      prng: this.#prng,
      nodeId: node.id,
      version: this.#options.version,
      host: http.host,
      port: http.port,
      requestLimiter: this.#caches?.requestLimiter,
      onAssertion: (error) => this.#options.onFatal(error),
    });
  }

  #makeServingNode(bootstrap: Bootstrap, membership: ClusterMembership, httpUrl: string): ServingNode {
    const config = this.#config;
    const clients = new PeerClients({
      pool: this.#pool,
      // A founder is reached before it has registered, at the address it was found at.
      directory: { addressOf: (memberId) => this.#addressOf(memberId) },
      identity: () => this.#identity(),
      clock: this.#clock,
    });
    const stores = (name: string): CheckedOrderedStoreProvider => {
      const directory = `${config.data.directory}/${name}`;
      const provider = new LmdbOrderedStoreProvider({ directory, clock: this.#clock, isSealed: true });
      return new CheckedOrderedStoreProvider(provider, (error) =>
        this.#options.onFatal(storeDamaged(directory, error)),
      );
    };
    const common: StoreKeeperOptions & Pick<StorageNodeOptions, "onRefused"> = {
      memberId: membership.memberId,
      registration: {
        nodeId: config.node.id,
        address: selfAddress(config),
        httpUrl,
        publicUrl: config.http.publicUrl ?? "",
        zone: config.node.zone,
        isStorageOnly: membership.isStorageOnly,
      },
      disk: this.#disk,
      directory: config.data.directory,
      indexes: stores("index"),
      clock: this.#clock,
      prng: this.#prng,
      digester: threadPoolDigester,
      logger: this.#logger,
      metrics: this.#metrics,
      heartbeats: new GrpcHeartbeat(clients),
      peerReplica: (memberId) => this.#peerReplica(memberId, clients),
      featureLevels: this.#options.featureLevels,
      reserveBytes: config.data.reserveBytes,
      inFlightBytesMax: config.transfer.inFlightBytesMax,
      detection: {
        intervalMs: config.cluster.heartbeatMs,
        suspectAfterMs: config.cluster.suspectAfterMs,
        downAfterMs: config.cluster.downAfterMs,
      },
      orphanShareMax: config.data.orphanPercentMax / 100,
      onRefused: (error) => void this.#stopRefused(bootstrap, error),
      onFatal: this.#options.onFatal,
    };
    if (membership.isStorageOnly) return this.#makeStorageNode(common, bootstrap, membership, clients);
    this.#transport = new GrpcRaftTransport({ clients, clock: this.#clock, logger: this.#logger });
    this.#forwarder = new GrpcProposalForwarder({ clients, clock: this.#clock });
    this.#voter = new DriveNode({
      ...common,
      clusterId: membership.clusterId,
      founderIds: membership.founders.map((founder) => founder.memberId),
      foundingLevel: membership.foundingLevel,
      whenAbsent: membership.isStarted ? "refuse" : "create",
      onCreated: () => bootstrap.markStarted(),
      stores: stores("stores"),
      transport: this.#transport,
      forwarder: this.#forwarder,
      postgres: this.#postgres,
      rabbitmq: this.#rabbitmq,
      outside: () => this.#outside(),
      relay: this.#caches?.relay,
      reports: this.#caches?.reports,
      cached: (port, reads) => this.#caches?.cachedStat(port, reads),
      tuning: {
        tickMs: config.raft.tickMs,
        electionTicks: config.raft.electionTicks,
        heartbeatTicks: config.raft.heartbeatTicks,
        logEntryCountMax: config.raft.snapshotLogEntryCount,
        logKeepEntryCount: Math.floor(config.raft.snapshotLogEntryCount / 5),
      },
      lostAfterMs: config.cluster.lostAfterMs,
    });
    this.#transport.attach(this.#voter.consensus);
    const { consensus } = this.#voter;
    this.#catchUp = new CatchUp({
      clock: this.#clock,
      linearize: (options) => consensus.linearize(options),
      hasLeader: () => consensus.leaderId() !== undefined,
      appliedIndex: () => consensus.appliedIndex(),
    });
    return this.#voter;
  }

  #makeStorageNode(
    common: StoreKeeperOptions,
    bootstrap: Bootstrap,
    { contacts }: ClusterMembership,
    clients: PeerClients,
  ): StorageNode {
    const voterClients = makeVoterClients(contacts, { clock: this.#clock, prng: this.#prng });
    const voterFeed = (memberId: number): VoterFeed => grpcVoterFeed(clients, memberId);
    return new StorageNode({
      ...common,
      ...{ contacts, voterFeed, voterClients },
      saveContacts: (voters) => bootstrap.saveContacts(voters),
      foundIds: () => this.#finder?.foundIds() ?? [],
      outside: () => this.#outside(),
    });
  }

  #peerReplica(memberId: number, clients: PeerClients): ReplicaPort | undefined {
    const known = this.#replicas.get(memberId);
    if (known !== undefined) return known;
    if (this.#addressOf(memberId) === undefined) return undefined;
    const replica = new ReplicaClient(memberId, { clients, clock: this.#clock });
    this.#replicas.set(memberId, replica);
    return replica;
  }

  #addressOf(memberId: number): string | undefined {
    return this.#finder?.addressOf(memberId);
  }

  #makeFinder({ clusterId, memberId: ownId, contacts }: ClusterMembership): PeerFinder {
    const contactOf = (memberId: number): string | undefined =>
      contacts.findLast((contact) => contact.memberId === memberId)?.address;
    return new PeerFinder({
      clock: this.#clock,
      logger: this.#logger,
      ...{ clusterId, memberId: ownId },
      exchange: this.#exchange(),
      addresses: () => this.#peers(),
      missing: () => this.#drive?.missingMembers() ?? [],
      knownAddress: (memberId) => this.#drive?.addressOf(memberId) ?? contactOf(memberId),
    });
  }

  #exchange(): BootstrapExchange {
    return { ask: (address) => describeNode(address, { pool: this.#pool, clock: this.#clock }) };
  }

  async #peers(): Promise<readonly string[]> {
    const self = selfAddress(this.#config);
    const peers = await resolvePeers(peerAddresses(this.#config));
    return peers.filter((address) => address !== self);
  }

  #join(): JoinOptions | undefined {
    const { joinToken } = this.#config.cluster;
    if (joinToken === undefined) return undefined;
    const { signal } = this.#stopSignal;
    const options = { pool: this.#pool, clock: this.#clock, signal };
    return {
      token: joinToken,
      ask: (address, request) => joinCluster(address, request, options),
      addresses: () => this.#peers(),
    };
  }

  /** Admits a node that has a token. */
  async #admit(request: JoinRequest, signal: AbortSignal): Promise<JoinAnswer> {
    const drive = this.#started();
    if (this.#voter === undefined) return this.#admitAtVoter(request, signal);
    await this.#voter.membership.admit(request, signal);
    const { clusterId, founders } = this.#ownMembership();
    return { cluster: { clusterId, members: founders }, members: drive.memberAddresses() };
  }

  /** A storage-only node has no tree to record an admission in: it asks the members that it knows. */
  async #admitAtVoter(request: JoinRequest, signal: AbortSignal): Promise<JoinAnswer> {
    let failure = new DriveError("NO_LEADER", "No voter of the cluster can be reached.");
    for (const { memberId, address } of this.#started().memberAddresses()) {
      if (memberId === this.#ownMembership().memberId) continue;
      try {
        return await joinCluster(address, request, { pool: this.#pool, clock: this.#clock, signal });
      } catch (error) {
        if (!hasReason(error, "PEER_UNREACHABLE", "NOT_LEADER", "NO_LEADER", "NODE_STARTING")) throw error;
        failure = error;
      }
    }
    throw failure;
  }

  /** The cluster does not want this process: a member that was removed never starts again. */
  async #stopRefused(bootstrap: Bootstrap, error: DriveError): Promise<void> {
    if (error.reason === "MEMBER_REMOVED") await bootstrap.markRemoved();
    this.#refused.resolve(error);
  }

  #identity(): OwnIdentity {
    const { clusterId, memberId } = this.#ownMembership();
    const address = selfAddress(this.#config);
    return { clusterId, memberId, processId: this.#processId, address, checkCaller: this.#checkCaller };
  }

  readonly #checkCaller = ({ memberId, processId = "", address }: PeerIdentity): void => {
    this.#guard.check(memberId, processId);
    if (address !== undefined) this.#finder?.heard(memberId, address);
  };

  #ownMembership(): ClusterMembership {
    if (this.#membership !== undefined) return this.#membership;
    throw new DriveError("NODE_STARTING", "The node does not belong to a cluster yet.");
  }

  #consensus(): DriveNode["consensus"] {
    this.#started();
    if (this.#voter !== undefined) return this.#voter.consensus;
    throw new DriveError("NOT_LEADER", "This is a storage-only node: it takes no part in consensus.");
  }

  #started(): ServingNode {
    if (this.#stopSignal.signal.aborted) throw new DriveError("NODE_STOPPING", "The node is stopping.");
    if (this.#drive !== undefined) return this.#drive;
    throw new DriveError("NODE_STARTING", this.#bootstrap?.waitingReason ?? "The node is starting.");
  }

  #problems(): readonly string[] {
    if (this.#drive !== undefined) {
      const problems = this.#drive.problems();
      const behind = this.#catchUp?.problem();
      // Without a leader, or while it starts, that is what is said.
      return problems.length > 0 || behind === undefined ? problems : [behind];
    }
    return [this.#bootstrap?.waitingReason ?? "The node is starting."];
  }

  /** Services that belong to the process rather than to the drive. */
  #outside(): readonly ServiceStatus[] {
    return this.#caches === undefined ? [] : [this.#caches.service()];
  }

  #raftStatus(): RaftStatus {
    const consensus = this.#consensus();
    const status = consensus.status();
    return {
      ...status,
      stateHashAt: (index) => consensus.stateHashAt(index),
      voterIds: [...status.config.voters, ...status.config.votersOutgoing],
      learnerIds: status.config.learners,
      progress: [...status.progress].map(([memberId, progress]) => ({
        memberId,
        matchIndex: progress.matchIndex,
        nextIndex: progress.nextIndex,
        state: progress.state,
        recentlyActive: progress.recentActive,
      })),
    };
  }

  #observe(): void {
    this.#drive?.observe();
    this.#catchUp?.look();
    this.#server?.setServing(this.#problems().length === 0);
    this.#observer = this.#clock.setTimer(OBSERVE_INTERVAL_MS, () => this.#observe());
  }
}

/** The end of a node that found a record of its store damaged: at the next start the store is made anew. */
function storeDamaged(directory: string, error: Error): DriveError {
  const message = `The store in ${directory} is damaged: ${error.message}. Start the node again: it makes the store anew.`;
  return new DriveError("DATA_CORRUPT", message, { directory }, error);
}

/** host and port of "host:port" or "[host]:port". */
function parseAddress(address: string): { readonly host: string; readonly port: number } {
  const at = address.lastIndexOf(":");
  return { host: address.slice(0, at).replace(/^\[|\]$/g, ""), port: Number(address.slice(at + 1)) };
}
