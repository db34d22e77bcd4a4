/** Snapshots of the tree at a voter, put together from its consensus and its data plane. */
import { TREE_SNAPSHOT_BUSY_BYTES_PER_SECOND, TreeBackups } from "../backup/tree-backup.ts";
import type { Membership } from "../cluster/membership.ts";
import type { Consensus } from "../consensus/consensus.ts";
import type { ClusterAdmin } from "../drive/cluster-admin.ts";
import type { CommandResult } from "../metadata/commands.ts";
import { BackgroundPace } from "../replication/background-pace.ts";
import type { Logger } from "../telemetry/logger.ts";
import type { DriveNodeOptions } from "./drive-node-options.ts";
import type { StoreKeeper } from "./store-keeper.ts";

/** See the file's comment. */
export function treeBackups(
  options: DriveNodeOptions,
  keeper: StoreKeeper,
  consensus: Consensus<CommandResult>,
  logger: Logger,
): TreeBackups {
  const { clock, disk, directory } = options;
  const { plane } = keeper;
  const pace = new BackgroundPace({
    clock,
    bytesPerSecond: () => Infinity,
    busyBytesPerSecond: TREE_SNAPSHOT_BUSY_BYTES_PER_SECOND,
    isBusy: () => plane.pins.isAnyPinned,
  });
  return new TreeBackups({
    ...{ plane, disk, pace },
    directory: `${directory}/backup`,
    dump: (path, look, signal) => consensus.snapshots.dumpTo(path, look, signal),
    isLeading: () => consensus.role() === "leader",
    intervalMs: options.treeSnapshotIntervalMs,
    onMade: ({ index, sizeBytes }) => logger.info("tree_snapshot_made", { index, size_bytes: sizeBytes }),
    onError: (error) => logger.warn("tree_snapshot_failed", { reason: error.reason, detail: error.message }),
  });
}

/** What an operator may do to the cluster at this node. */
export function clusterAdmin(node: {
  readonly membership: Membership;
  readonly backups: TreeBackups;
}): ClusterAdmin {
  const { membership, backups } = node;
  return {
    createJoinToken: (request, options) => membership.createJoinToken(request, options),
    removeNode: (node, settings, options) => membership.removeNode(node, settings, options),
    transferLeadership: (node, options) => membership.transferLeadership(node, options),
    membership: (options) => membership.membership(options),
    backUpTree: (options) => backups.backUp(options?.signal),
  };
}
