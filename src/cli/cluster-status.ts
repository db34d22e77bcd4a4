/**
 * `netdisk cluster status`: who leads, which nodes are well, and whether every file has its three verified copies.
 *
 * "Every file has three verified copies" is said only when the counts say so and no node is away: copies on a node that is
 * down were verified once, and cannot be read now.
 */
import type { MemberPart, MembershipStatus } from "../drive/cluster-admin.ts";
import type { ClusterStatus, NodeStatus, ReplicaSummary } from "../drive/drive-api.ts";
import { REPLICA_COUNT } from "../drive/limits.ts";
import { describeChange } from "./cluster-commands.ts";
import type { CommandContext } from "./command-context.ts";
import { EXIT_FAILURE, EXIT_OK } from "./exit-code.ts";
import {
  formatBytes,
  formatCount,
  formatDuration,
  formatQuantity,
  formatTable,
  formatTime,
} from "./format.ts";
import { isPassing } from "./patience.ts";

/** How long a leader is waited for before any node is asked for what it knows: longer than an election. */
export const LEADER_WAIT_MS = 5000;

/** A pass over all copies should begin every seven days; a node that has not for longer is named. */
const SCRUB_OVERDUE_MS = 7 * 24 * 60 * 60 * 1000;

/** Shows the state of the cluster; what one node knows, and EXIT_FAILURE, when no leader answers. */
export async function clusterStatus(context: CommandContext): Promise<number> {
  const { drive, admin, patience } = context;
  let status: ClusterStatus;
  let membership: MembershipStatus;
  try {
    status = await patience.within(LEADER_WAIT_MS).read((signal) => drive.cluster({ signal }));
    membership = await patience.within(LEADER_WAIT_MS).read((signal) => admin.membership({ signal }));
  } catch (error) {
    patience.signal.throwIfAborted();
    if (!isPassing(error)) throw error;
    const seen = await patience.read((signal) => drive.cluster({ consistency: "stale", signal }));
    const known = await patience.read((signal) => admin.membership({ consistency: "stale", signal }));
    await show(context, { ...seen, leaderId: undefined }, known);
    const down = seen.nodes.filter(({ health }) => health !== "up").length;
    context.output.note(`no leader; ${down} of ${formatQuantity(seen.nodes.length, "node")} down`);
    return EXIT_FAILURE;
  }
  return show(context, status, membership);
}

async function show(
  { output }: CommandContext,
  status: ClusterStatus,
  membership: MembershipStatus,
): Promise<number> {
  if (output.json) {
    const { fully, sentence } = judgeCopies(status);
    await output.record({
      ...status,
      leaderId: status.leaderId ?? null,
      fullyReplicated: fully,
      summary: sentence,
      membership,
    });
    return EXIT_OK;
  }
  for (const line of [...describeCluster(status), ...describeMembership(membership)]) await output.line(line);
  return EXIT_OK;
}

/** What is unusual about the membership, as lines for people: none when all is as it should be. */
export function describeMembership({ members, isJoint, change }: MembershipStatus): readonly string[] {
  const lines: string[] = [];
  if (change !== undefined && change.phase !== "done") lines.push(`Membership: ${describeChange(change)}.`);
  if (!isJoint) return lines;
  const named = (part: MemberPart): string =>
    members
      .filter((member) => member.part === part)
      .map(({ nodeId }) => nodeId)
      .join(", ");
  return [
    ...lines,
    `Two configurations hold (joint): coming ${named("incoming")}; going ${named("outgoing")}.`,
  ];
}

/** The status as lines for people. */
export function describeCluster(status: ClusterStatus): readonly string[] {
  const leader = status.leaderId === undefined ? "no leader is known" : `${status.leaderId} leads`;
  const header = ["NODE", "ROLE", "HEALTH", "GRPC", "HTTP", "ZONE", "FREE", "STORED", "APPLIED", "SCRUBBED"];
  const nodes = status.nodes.toSorted((a, b) => (a.nodeId < b.nodeId ? -1 : 1));
  const rows = nodes.map((node) => [
    node.nodeId,
    node.role,
    healthOf(node),
    node.address,
    node.publicUrl === "" ? node.httpUrl : node.publicUrl,
    node.zone === "" ? "-" : node.zone,
    `${formatBytes(node.freeBytes)} of ${formatBytes(node.totalBytes)}`,
    formatBytes(node.liveBytes),
    formatCount(node.appliedIndex),
    scrubOf(node),
  ]);
  const uploads =
    status.openUploadCount === 0 ? "" : `; ${formatQuantity(status.openUploadCount, "upload")} in progress`;
  return [
    `Cluster ${status.clusterId}: ${leader}, term ${status.term}, commit index ${formatCount(status.commitIndex)}; as ${status.nodeId} sees it`,
    "",
    ...formatTable([header, ...rows], [7, 8]),
    "",
    `${formatQuantity(status.fileCount, "file")} in ${formatQuantity(status.directoryCount, "folder")}, ${formatBytes(status.contentBytes)}${uploads}.`,
    judgeCopies(status).sentence,
    ...notes(status),
    describeTreeSnapshot(status),
    ...describeServices(status),
  ];
}

function healthOf(node: NodeStatus): string {
  const health = node.health === "up" ? "up" : `${node.health} ${formatDuration(node.sinceMs)}`;
  return [health, ...(node.lost ? ["given up"] : []), ...(node.draining ? ["draining"] : [])].join(", ");
}

function scrubOf({ scrub, scrubProgress }: NodeStatus): string {
  const last = scrub === undefined ? "never" : `${formatDuration(scrub.endedAgoMs)} ago`;
  return scrubProgress === undefined ? last : `${last}, now ${Math.floor(scrubProgress * 100)}%`;
}

/** What an operator should know beside the sentence. */
function notes(status: ClusterStatus): readonly string[] {
  const lines: string[] = [];
  for (const { nodeId, scrub, quarantinedCount, draining, liveBytes } of status.nodes) {
    if (scrub !== undefined && scrub.damagedCount > 0) {
      lines.push(
        `The last scrub of ${nodeId} found ${formatQuantity(scrub.damagedCount, "damaged extent")}.`,
      );
    }
    if (quarantinedCount > 0) {
      lines.push(`${nodeId} keeps ${formatQuantity(quarantinedCount, "extent")} in quarantine.`);
    }
    if (scrub !== undefined && scrub.beganAgoMs > SCRUB_OVERDUE_MS) {
      lines.push(`${nodeId} has not read all its copies for ${formatDuration(scrub.beganAgoMs)}.`);
    }
    if (draining) lines.push(`${nodeId} gives its copies away: ${formatBytes(liveBytes)} left.`);
  }
  const { movingCount } = status.replicas;
  if (movingCount > 0) lines.push(`${formatQuantity(movingCount, "extent")} on the way to another node.`);
  return lines;
}

/** How much of the tree a snapshot shows. */
function describeTreeSnapshot({ treeSnapshot }: ClusterStatus): string {
  if (treeSnapshot === undefined) return "There is no snapshot of the tree yet.";
  const { behindMs, sizeBytes, madeTimeMs } = treeSnapshot;
  const how = behindMs === 0 ? "shows everything" : `is ${formatDuration(behindMs)} behind`;
  return `The newest snapshot of the tree, of ${formatTime(madeTimeMs)} UTC (${formatBytes(sizeBytes)}), ${how}.`;
}

/** One line a service outside of the node that is configured. */
function describeServices(status: ClusterStatus): readonly string[] {
  return (status.services ?? [])
    .filter((service) => service.state !== "off")
    .map(({ name, state, sinceTimeMs, detail }) => {
      const since = `since ${formatTime(sinceTimeMs)} UTC`;
      return `${name}: ${state} ${since}${detail === "" ? "" : `: ${detail}`}`;
    });
}

/** Whether every file has three verified copies that can be read now, and the sentence that says how it stands. */
export function judgeCopies(status: ClusterStatus): { readonly fully: boolean; readonly sentence: string } {
  const { extentCount, fullyReplicatedCount, underReplicatedCount, suspectCount } = status.replicas;
  const extents = formatQuantity(extentCount, "extent");
  const away = status.nodes.filter((node) => node.health !== "up");
  const { replicas } = status;
  const bad = Math.max(suspectCount, replicas.corruptCount, replicas.lostCount);
  if (fullyReplicatedCount < extentCount || underReplicatedCount > 0 || bad > 0) {
    const fewer = Math.max(extentCount - fullyReplicatedCount, underReplicatedCount, bad);
    // Each copy is on a node of its own: with fewer nodes than copies no repair can help.
    const remedy =
      status.nodes.length < REPLICA_COUNT
        ? `the cluster has only ${formatQuantity(status.nodes.length, "node")}, "netdisk cluster add" lets one more in`
        : `repair makes the others${timeLeft(replicas)}`;
    return {
      fully: false,
      sentence: `${formatCount(fewer)} of ${extents} have fewer than three verified copies; ${remedy}.${kinds(replicas)}`,
    };
  }
  if (replicas.recounting) {
    return {
      fully: false,
      sentence: "The copies of a node that lost its store or was given up are being counted; ask again.",
    };
  }
  if (extentCount === 0 && status.contentBytes > 0) {
    return { fully: false, sentence: `${status.nodeId} does not know the copies yet; ask again.` };
  }
  if (extentCount === 0 && status.fileCount === 0 && away.length === 0 && status.leaderId !== undefined) {
    return { fully: true, sentence: "There are no files yet." };
  }
  if (away.length > 0) {
    return {
      fully: false,
      sentence: `Three copies of every file were verified, but ${awayNodes(away)}: the copies there cannot be read now.`,
    };
  }
  if (status.leaderId === undefined) {
    return {
      fully: false,
      sentence: "Three copies of every file were verified, but no leader is known: this may be out of date.",
    };
  }
  return {
    fully: true,
    sentence: `Every file has three verified copies (${formatCount(fullyReplicatedCount)} of ${extents}).`,
  };
}

function timeLeft({ missingCopyBytes, repairBytesPerSecond, redundantInMs }: ReplicaSummary): string {
  if (missingCopyBytes === 0) return "";
  const missing = `${formatBytes(missingCopyBytes)} to copy`;
  if (redundantInMs === undefined) return ` (${missing})`;
  return ` (${missing} at ${formatBytes(repairBytesPerSecond)}/s: about ${formatDuration(redundantInMs)})`;
}

/** What is wrong with the copies, as far as there is something. */
function kinds(replicas: ReplicaSummary): string {
  const parts = (
    [
      [replicas.noCopyCount, "without any"],
      [replicas.singleCopyCount, "with only one"],
      [replicas.corruptCount, "with a damaged copy"],
      [replicas.lostCount, "with a missing copy"],
      [replicas.suspectCount, "with a copy that may be damaged or missing"],
      [replicas.unverifiedCount, "with a copy not yet made and verified"],
    ] as const
  ).filter(([count]) => count > 0);
  if (parts.length === 0) return "";
  return ` Among them: ${parts.map(([count, what]) => `${formatCount(count)} ${what}`).join(", ")}.`;
}

function awayNodes(nodes: readonly NodeStatus[]): string {
  return nodes.map((node) => `${node.nodeId} is ${node.health}`).join(", ");
}

/** Asks every node to read and verify all its copies now. */
export async function clusterScrub({ drive, patience, output }: CommandContext): Promise<number> {
  await patience.run((signal) => drive.startScrub({ signal }));
  if (output.json) await output.record({ asked: true });
  else
    await output.line(
      'Every node reads all its copies now; "netdisk cluster status" shows how far they are.',
    );
  return EXIT_OK;
}

/** Has a node give its copies to others and take no new ones, or with `draining` false ends that. */
export async function clusterDrain(
  { drive, patience, output }: CommandContext,
  nodeId: string,
  draining: boolean,
): Promise<number> {
  await patience.run((signal) => drive.setDraining(nodeId, draining, { signal }));
  if (output.json) await output.record({ nodeId, draining });
  else if (draining) {
    await output.line(
      `${nodeId} gives its copies to other nodes; "netdisk cluster status" shows what is left.`,
    );
  } else await output.line(`${nodeId} takes copies again.`);
  return EXIT_OK;
}
