/** The ports and settings of a node without its edges: what every node needs for its chunk store, and what a voter needs beyond. */
import type { RabbitMqLink } from "../tasks/rabbitmq-link.ts";
import type { PostgresClient } from "../catalog/postgres-client.ts";
import type { HeartbeatPort } from "../cluster/failure-detector-port.ts";
import type { MetadataPort } from "../cluster/metadata-port.ts";
import type { PlantedLevelFault } from "../cluster/planted-faults.ts";
import type { ProposalForwarder, RaftTransport } from "../consensus/transport.ts";
import type { ConsensusTuning } from "../consensus/tuning.ts";
import type { DriveError } from "../drive/errors.ts";
import type { FeatureLevels } from "../drive/feature-levels.ts";
import type { DriveApi, ServiceStatus } from "../drive/drive-api.ts";
import type { NodeRegistration } from "../metadata/commands.ts";
import type { PlantedFault } from "../raft/planted-faults.ts";
import type { PlantedChunkFault } from "../replication/planted-faults.ts";
import type { ReplicaPort } from "../replication/replica-port.ts";
import type { Clock } from "../std/clock.ts";
import type { Digester } from "../std/digest.ts";
import type { Disk } from "../std/disk.ts";
import type { OrderedStoreProvider } from "../std/ordered-store.ts";
import type { Prng } from "../std/prng.ts";
import type { NodeReports } from "../transfer/local-drive.ts";
import type { ProgressRelay } from "../transfer/progress-relay.ts";
import type { Logger } from "../telemetry/logger.ts";
import type { Metrics } from "../telemetry/metrics.ts";

/** What the parts that every node has are made from. */
export interface StoreKeeperOptions {
  readonly memberId: number;
  /** What this node says about itself, but for the incarnation of its store, which is found on its disk. */
  readonly registration: Omit<NodeRegistration, "memberId" | "storeIncarnation" | "featureLevelMax">;
  /** The feature levels that this node supports; FEATURE_LEVELS when absent. Others in tests alone. */
  readonly featureLevels?: FeatureLevels | undefined;
  readonly disk: Disk;
  /** The data directory. */
  readonly directory: string;
  /** Where the chunk index lives. */
  readonly indexes: OrderedStoreProvider;
  readonly clock: Clock;
  readonly prng: Prng;
  readonly digester: Digester;
  readonly logger: Logger;
  readonly metrics: Metrics;
  readonly heartbeats: HeartbeatPort;
  /** The chunk store of another member; undefined while its address is not known. */
  readonly peerReplica: (memberId: number) => ReplicaPort | undefined;
  /** Bytes of the disk that stay free. */
  readonly reserveBytes?: number | undefined;
  /** Bytes of uploads that this node holds at once. */
  readonly inFlightBytesMax?: number | undefined;
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
  readonly plantedChunkFault?: PlantedChunkFault | undefined;
  /** Called with what makes it impossible to go on: the process must end. */
  readonly onFatal: (error: Error) => void;
}

/** The ports and settings of a DriveNode. */
export interface DriveNodeOptions extends StoreKeeperOptions {
  readonly clusterId: string;
  /** Members that formed the cluster, also of a node that joined later: the log begins with them. */
  readonly founderIds: readonly number[];
  /** Feature level that all founders support, for a cluster that this node founds; absent for the first one. */
  readonly foundingLevel?: number | undefined;
  /** "refuse" once onCreated() has ended in this data directory: see ConsensusOptions. */
  readonly whenAbsent: "create" | "refuse";
  /** Makes it durable that the Raft log and the state were made; awaited before this node takes part. */
  readonly onCreated: () => Promise<void>;
  /** Where the generations of the replicated store live. */
  readonly stores: OrderedStoreProvider;
  readonly transport: RaftTransport;
  readonly forwarder: ProposalForwarder;
  /** PostgreSQL for the catalog; the caller closes it after stop(). None where it is not configured. */
  readonly postgres?: PostgresClient | undefined;
  /** Tells and hears of uploads at other nodes. */
  readonly relay?: ProgressRelay | undefined;
  /** What nodes told of themselves, for the status. */
  readonly reports?: NodeReports | undefined;
  /** Makes what answers stat() in place of the tree and its reads; nothing does when absent. */
  readonly cached?:
    ((port: MetadataPort, reads: Pick<DriveApi, "stat">) => Pick<DriveApi, "stat"> | undefined) | undefined;
  /** RabbitMQ for tasks, which starts and stops it. None where it is not configured. */
  readonly rabbitmq?: RabbitMqLink | undefined;
  /** Further services outside of the node, for its status. */
  readonly outside?: (() => readonly ServiceStatus[]) | undefined;
  readonly tuning?: Partial<ConsensusTuning> | undefined;
  /** How often a changed tree is snapshotted; TREE_SNAPSHOT_INTERVAL_MS when absent. */
  readonly treeSnapshotIntervalMs?: number | undefined;
  /** A historical bug to show, in tests alone. */
  readonly plantedFault?: PlantedFault | undefined;
  /** A bug of upgrades to show, in tests alone. */
  readonly plantedLevelFault?: PlantedLevelFault | undefined;
  /** How long a member is down until it is given up; default LOST_AFTER_MS_DEFAULT. */
  readonly lostAfterMs?: number | undefined;
  /**
   * Called when the others say that this member was removed, or runs twice, and when the cluster has a feature level that this
   * node does not support; onFatal() when absent. The process must end.
   */
  readonly onRefused?: ((error: DriveError) => void) | undefined;
}
