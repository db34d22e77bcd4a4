/** What the process needs of a node without its edges, whichever kind it is: a voter (drive-node.ts) or a storage-only node. */
import type { FoundingMember } from "../cluster/bootstrap-identity.ts";
import type { NodeLoad } from "../cluster/failure-detector-port.ts";
import type { ClusterAdmin } from "../drive/cluster-admin.ts";
import type { DriveApi, ReportedTask, ServiceStatus } from "../drive/drive-api.ts";
import type { ReplicaPort } from "../replication/replica-port.ts";
import type { LocalDrive } from "../transfer/local-drive.ts";
import type { VoterFeed } from "../transfer/voter-feed.ts";

/** A node without its edges. What it gives throws NODE_STARTING before start() has ended, unless it says otherwise. */
export interface ServingNode {
  start(): Promise<void>;
  /** Idempotent. */
  stop(): Promise<void>;
  readonly drive: DriveApi & Pick<LocalDrive, "runningTransfers">;
  /** What an operator may do to the cluster at this node. */
  readonly admin: ClusterAdmin;
  /** This node's own chunk store. */
  readonly replica: ReplicaPort;
  load(): NodeLoad;
  /** The answers to a storage-only member. Throws NOT_LEADER where the tree is not kept. */
  feedFor(memberId: number): VoterFeed;
  /** Tasks that it works on, at most `countMax` of those that were begun last; at any time. */
  runningTasks(countMax: number): readonly ReportedTask[];
  /** What keeps it from serving; at any time. */
  problems(): readonly string[];
  /** What an operator should look at, though it serves; at any time. */
  warnings(): readonly string[];
  /** Services outside of the node; at any time. */
  services(): readonly ServiceStatus[];
  /** host:port of a member; undefined while it is not known. At any time. */
  addressOf(memberId: number): string | undefined;
  /** Whether the cluster removed a member, as this node knows it; at any time. */
  isRemoved(memberId: number): boolean;
  /** Registered members and where they are. */
  memberAddresses(): readonly FoundingMember[];
  /** Other members that should be reachable and are not; at any time. */
  missingMembers(): readonly number[];
  /** Takes the figures of this moment into the metrics; at any time. */
  observe(): void;
}
