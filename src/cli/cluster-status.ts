/**
 * `netdisk cluster status`: who leads, which nodes are well, and whether every file has its three verified copies.
 *
 * "Every file has three verified copies" is said only when the counts say so and no node is away: copies on a node that is
 * down were verified once, and cannot be read now.
 */
import type { ClusterStatus, NodeStatus } from "../drive/drive-api.ts";
import type { CommandContext } from "./command-context.ts";
import { EXIT_FAILURE, EXIT_OK } from "./exit-code.ts";
import { formatBytes, formatCount, formatDuration, formatQuantity, formatTable } from "./format.ts";
import { isPassing } from "./patience.ts";

/** How long a leader is waited for before any node is asked for what it knows: longer than an election. */
export const LEADER_WAIT_MS = 5000;

/** Shows the state of the cluster; what one node knows, and EXIT_FAILURE, when no leader answers. */
export async function clusterStatus(context: CommandContext): Promise<number> {
  const { drive, patience } = context;
  let status: ClusterStatus;
  try {
    status = await patience.within(LEADER_WAIT_MS).read((signal) => drive.cluster({ signal }));
  } catch (error) {
    patience.signal.throwIfAborted();
    if (!isPassing(error)) throw error;
    const seen = await patience.read((signal) => drive.cluster({ consistency: "stale", signal }));
    await show(context, { ...seen, leaderId: undefined });
    const down = seen.nodes.filter(({ health }) => health !== "up").length;
    context.output.note(`no leader; ${down} of ${formatQuantity(seen.nodes.length, "node")} down`);
    return EXIT_FAILURE;
  }
  return show(context, status);
}

async function show({ output }: CommandContext, status: ClusterStatus): Promise<number> {
  if (output.json) {
    const { fully, sentence } = judgeCopies(status);
    await output.record({
      ...status,
      leaderId: status.leaderId ?? null,
      fullyReplicated: fully,
      summary: sentence,
    });
    return EXIT_OK;
  }
  for (const line of describeCluster(status)) await output.line(line);
  return EXIT_OK;
}

/** The status as lines for people. */
export function describeCluster(status: ClusterStatus): readonly string[] {
  const leader = status.leaderId === undefined ? "no leader is known" : `${status.leaderId} leads`;
  const header = ["NODE", "ROLE", "HEALTH", "GRPC", "HTTP", "ZONE", "FREE", "STORED", "APPLIED"];
  const nodes = status.nodes.toSorted((a, b) => (a.nodeId < b.nodeId ? -1 : 1));
  const rows = nodes.map((node) => [
    node.nodeId,
    node.role,
    node.health === "up" ? "up" : `${node.health} ${formatDuration(node.sinceMs)}`,
    node.address,
    node.publicUrl === "" ? node.httpUrl : node.publicUrl,
    node.zone === "" ? "-" : node.zone,
    `${formatBytes(node.freeBytes)} of ${formatBytes(node.totalBytes)}`,
    formatBytes(node.liveBytes),
    formatCount(node.appliedIndex),
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
  ];
}

/** Whether every file has three verified copies that can be read now, and the sentence that says how it stands. */
export function judgeCopies(status: ClusterStatus): { readonly fully: boolean; readonly sentence: string } {
  const { extentCount, fullyReplicatedCount, underReplicatedCount, suspectCount } = status.replicas;
  const extents = formatQuantity(extentCount, "extent");
  const away = status.nodes.filter((node) => node.health !== "up");
  if (fullyReplicatedCount < extentCount || underReplicatedCount > 0 || suspectCount > 0) {
    const suspect =
      suspectCount === 0
        ? ""
        : ` ${formatCount(suspectCount)} of them have a copy that is damaged or missing.`;
    const fewer = Math.max(extentCount - fullyReplicatedCount, underReplicatedCount, suspectCount);
    return {
      fully: false,
      sentence: `${formatCount(fewer)} of ${extents} have fewer than three verified copies; repair makes the others.${suspect}`,
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

function awayNodes(nodes: readonly NodeStatus[]): string {
  return nodes.map((node) => `${node.nodeId} is ${node.health}`).join(", ");
}
