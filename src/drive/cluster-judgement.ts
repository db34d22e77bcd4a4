/**
 * What the cluster's status means, in sentences for people: the same wherever they are shown (`netdisk cluster status`, a
 * node's page).
 *
 * "Every file has three verified copies" is said only when the counts say so and no node is away, but for one that was given
 * up: copies on a node that is down were verified once, and cannot be read now.
 */
import { formatBytes, formatCount, formatDuration, formatQuantity, formatTime } from "../std/format.ts";
import type { ClusterStatus, NodeStatus, ReplicaSummary } from "./drive-api.ts";
import { REPLICA_COUNT } from "./limits.ts";

/** How a node is judged, and for how long it has been away: "up", "down 18 s". */
export function describeHealth({ health, sinceMs }: Pick<NodeStatus, "health" | "sinceMs">): string {
  return health === "up" ? "up" : `${health} ${formatDuration(sinceMs)}`;
}

/** The room on a node's disk, as far as it is known. */
export function describeFree({
  freeBytes,
  totalBytes,
}: Pick<NodeStatus, "freeBytes" | "totalBytes">): string {
  if (freeBytes === undefined || totalBytes === undefined) return "unknown";
  return `${formatBytes(freeBytes)} of ${formatBytes(totalBytes)}`;
}

/** One line a service outside of the node that is configured, and whether it is well. */
export function describeServices(
  status: ClusterStatus,
): readonly { readonly text: string; readonly isWell: boolean }[] {
  return (status.services ?? [])
    .filter((service) => service.state !== "off")
    .map(({ name, state, sinceTimeMs, detail }) => {
      const since = `since ${formatTime(sinceTimeMs)} UTC`;
      return {
        text: `${name}: ${state} ${since}${detail === "" ? "" : `: ${detail}`}`,
        isWell: state === "up",
      };
    });
}

/** What is kept beside the files of users. */
export function describePrepared({ preparedDownloads }: ClusterStatus): readonly string[] {
  if (preparedDownloads === undefined) return [];
  const { downloadCount, sizeBytes, expireTimeMs } = preparedDownloads;
  const downloads = formatQuantity(downloadCount, "prepared download");
  return [
    `Beside them ${formatBytes(sizeBytes)} held by ${downloads} until ${formatTime(expireTimeMs)} UTC, also of files deleted since.`,
  ];
}

/** Whether every file has three verified copies that can be read now, and the sentence that says how it stands. */
export function judgeCopies(status: ClusterStatus): { readonly fully: boolean; readonly sentence: string } {
  const { extentCount, fullyReplicatedCount, underReplicatedCount, suspectCount } = status.replicas;
  const extents = formatQuantity(extentCount, "extent");
  const away = status.nodes.filter((node) => node.health !== "up");
  // What a node had that was given up counts no more, and is made elsewhere.
  const missed = away.filter(({ lost }) => !lost);
  const { replicas } = status;
  const bad = Math.max(suspectCount, replicas.corruptCount, replicas.lostCount);
  if (fullyReplicatedCount < extentCount || underReplicatedCount > 0 || bad > 0) {
    const fewer = Math.max(extentCount - fullyReplicatedCount, underReplicatedCount, bad);
    // Each copy is on a node of its own: with fewer nodes than copies no repair can help. Nor can it where no good copy is left,
    // and then a node that is put in the place of one that is away would be the end of the bytes.
    const remedy =
      replicas.noCopyCount > 0
        ? `${withoutCopy(status, away)}${fewer > replicas.noCopyCount ? "; repair makes the others" : ""}`
        : status.nodes.length < REPLICA_COUNT
          ? `the cluster has only ${formatQuantity(status.nodes.length, "node")}, "netdisk cluster add" lets one more in`
          : status.nodes.length - away.length < REPLICA_COUNT
            ? `${awayNodes(away)}, and no other node can take their copies: start it again, or put another in its place with "netdisk cluster replace"`
            : `repair makes the others${timeLeft(replicas)}${waitFor(status.nodes)}${unreadable(missed)}`;
    return {
      fully: false,
      sentence: `${formatCount(fewer)} of ${extents} have fewer than three verified copies; ${remedy}.${kinds(replicas)}`,
    };
  }
  if (replicas.recounting) {
    return {
      fully: false,
      sentence:
        "The copies of a node that lost its store, was given up or was removed are being counted; ask again.",
    };
  }
  if (extentCount === 0 && status.contentBytes > 0) {
    return { fully: false, sentence: `${status.nodeId} does not know the copies yet; ask again.` };
  }
  if (extentCount === 0 && status.fileCount === 0 && missed.length === 0 && status.leaderId !== undefined) {
    return { fully: true, sentence: "There are no files yet." };
  }
  if (missed.length > 0) {
    return {
      fully: false,
      sentence: `Three copies of every file were verified, but ${awayNodes(missed)}: the copies there cannot be read now.`,
    };
  }
  if (status.leaderId === undefined) {
    return {
      fully: false,
      sentence: "Three copies of every file were verified, but no leader is known: this may be out of date.",
    };
  }
  const gone = away.map(({ nodeId }) => nodeId).join(", ");
  const without = gone === "" ? "" : `, none of them counted on ${gone}, given up`;
  return {
    fully: true,
    sentence: `Every file has three verified copies (${formatCount(fullyReplicatedCount)} of ${extents})${without}.`,
  };
}

/** What can be done for extents of which no copy is verified: their bytes are on a node that is away, in quarantine, or nowhere. */
function withoutCopy({ nodes, replicas }: ClusterStatus, away: readonly NodeStatus[]): string {
  const cannot = `repair cannot make copies of ${formatCount(replicas.noCopyCount)} without any`;
  if (away.length > 0) {
    const them = away.map(({ nodeId }) => nodeId).join(", ");
    return `${cannot}, and ${awayNodes(away)}: bring ${them} back with the same disk`;
  }
  const keepers = nodes.filter(({ quarantinedCount }) => quarantinedCount > 0).map(({ nodeId }) => nodeId);
  if (keepers.length > 0) {
    return `${cannot}: see to the disks of ${keepers.join(", ")}, which keep damaged ones; what reads well again is taken back`;
  }
  return `${cannot}: bring a node back that had one, or write their files anew`;
}

/** What repair waits for, when a node that some copies can only go to has no room. */
function waitFor(nodes: readonly NodeStatus[]): string {
  const takers = nodes.filter(
    ({ health, full, lost, draining }) => health === "up" && !full && !lost && !draining,
  );
  const filled = nodes.filter(({ health, full }) => health === "up" && full).map(({ nodeId }) => nodeId);
  if (takers.length >= REPLICA_COUNT || filled.length === 0) return "";
  const [are, they] = filled.length === 1 ? ["is", "it has"] : ["are", "they have"];
  return `; ${filled.join(", ")} ${are} full: copies that can go nowhere else wait until ${they} room`;
}

/** What counts as verified and cannot be had now, beside the copies that are missing. */
function unreadable(missed: readonly NodeStatus[]): string {
  return missed.length === 0 ? "" : `; ${awayNodes(missed)}: the copies there count and cannot be read now`;
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
