/**
 * `netdisk cluster status`: who leads, which nodes are well, and whether every file has its three verified copies.
 */
import { describeBrake } from "../drive/collection-brake.ts";
import type { MemberPart, MembershipStatus } from "../drive/cluster-admin.ts";
import {
  describeFree,
  describeHealth,
  describePrepared,
  describeServices,
  judgeCopies,
} from "../drive/cluster-judgement.ts";
import type { ClusterStatus, OpenUpload, NodeReport, NodeStatus } from "../drive/drive-api.ts";
import { DriveError } from "../drive/errors.ts";
import { HIGH_WATER_SHARE, PAGE_SIZE_DEFAULT, REPLICA_COUNT } from "../drive/limits.ts";
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
} from "../std/format.ts";
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
    const voters = known.members.filter(({ part }) => part === "voter").length;
    context.output.note(
      `Changes need ${Math.floor(voters / 2) + 1} of the ${formatQuantity(voters, "voter")} up. Start those that are down; docs/RUNBOOK.md says what to do when their disks are gone ("The majority is gone for good").`,
    );
    return EXIT_FAILURE;
  }
  return show(context, status, membership, await findUploads(context, status));
}

/** The unfinished uploads, as far as a page shows them; undefined when there are none, or nobody tells. */
async function findUploads(
  { drive, patience, output }: CommandContext,
  { openUploadCount }: ClusterStatus,
): Promise<readonly OpenUpload[] | undefined> {
  if (openUploadCount === 0 || output.json) return undefined;
  const page = { countMax: Math.min(openUploadCount, PAGE_SIZE_DEFAULT) };
  try {
    const wait = patience.within(LEADER_WAIT_MS);
    return (await wait.read((signal) => drive.openUploads(page, { consistency: "stale", signal }))).uploads;
  } catch (error) {
    patience.signal.throwIfAborted();
    // A node of an earlier version does not tell, and the status is worth showing without it.
    if (!(error instanceof DriveError)) throw error;
    return undefined;
  }
}

async function show(
  { output }: CommandContext,
  status: ClusterStatus,
  membership: MembershipStatus,
  uploads?: readonly OpenUpload[],
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
  for (const line of [...describeCluster(status, uploads), ...describeMembership(membership)])
    await output.line(line);
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
export function describeCluster(status: ClusterStatus, uploads?: readonly OpenUpload[]): readonly string[] {
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
    describeFree(node),
    node.liveBytes === undefined ? "unknown" : formatBytes(node.liveBytes),
    node.appliedIndex === undefined ? "unknown" : formatCount(node.appliedIndex),
    scrubOf(node),
  ]);
  return [
    `Cluster ${status.clusterId}: ${leader}, term ${status.term}, commit index ${formatCount(status.commitIndex)}; as ${status.nodeId} sees it`,
    "",
    ...formatTable([header, ...rows], [6, 7, 8]),
    "",
    `${formatQuantity(status.fileCount, "file")} in ${formatQuantity(status.directoryCount, "folder")}, ${formatBytes(status.contentBytes)} (bytes that files share count once).`,
    ...describePrepared(status),
    ...(status.preparedDownloads === undefined
      ? []
      : ['"netdisk tasks ls --kind download" lists them, "netdisk tasks cancel" releases one.']),
    ...describeUploads(status, uploads),
    judgeCopies(status).sentence,
    ...describeLevel(status),
    ...notes(status),
    describeTreeSnapshot(status),
    ...describeServices(status).map(({ text }) => text),
  ];
}

/** What takes space and is no file yet. */
function describeUploads(
  { openUploadCount }: ClusterStatus,
  uploads: readonly OpenUpload[] = [],
): readonly string[] {
  if (openUploadCount === 0) return [];
  const what = formatQuantity(openUploadCount, "unfinished upload");
  if (uploads.length === 0) return [`${what}.`];
  const bytes = uploads.reduce((sum, { sizeBytes }) => sum + (sizeBytes ?? 0), 0);
  const idleMs = Math.min(...uploads.map((upload) => upload.idleMs));
  const expireTimeMs = Math.max(...uploads.map((upload) => upload.expireTimeMs));
  const how = `${formatBytes(bytes)} announced, idle for ${formatDuration(idleMs)} at most, kept until ${formatTime(expireTimeMs)} UTC`;
  return [`${what} (${how}); "netdisk uploads ls" lists them, "netdisk uploads discard" discards one.`];
}

function healthOf(node: NodeStatus): string {
  const full = node.full ? ["full"] : [];
  return [
    describeHealth(node),
    ...full,
    ...(node.lost ? ["given up"] : []),
    ...(node.draining ? ["draining"] : []),
  ].join(", ");
}

function scrubOf({ scrub, scrubProgress }: NodeStatus): string {
  const last = scrub === undefined ? "never" : `${formatDuration(scrub.endedAgoMs)} ago`;
  return scrubProgress === undefined ? last : `${last}, now ${Math.floor(scrubProgress * 100)}%`;
}

/** What an operator should know beside the sentence. */
function notes(status: ClusterStatus): readonly string[] {
  const lines: string[] = [];
  for (const node of status.nodes) {
    const { nodeId, scrub, quarantinedCount, draining, collectionBrake, report } = node;
    if (report !== undefined) lines.push(...describeReport(nodeId, report));
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
    if (collectionBrake !== undefined) lines.push(describeBrake(nodeId, collectionBrake));
    if (draining) lines.push(describeDrain(node, status.nodes));
  }
  const { movingCount } = status.replicas;
  if (movingCount > 0) lines.push(`${formatQuantity(movingCount, "extent")} on the way to another node.`);
  return lines;
}

/** What is left on a node that is drained, and whom it waits for: a file has copies at as many other nodes as it has copies. */
function describeDrain(node: NodeStatus, nodes: readonly NodeStatus[]): string {
  const left = `${node.nodeId} gives its copies away: ${describeLeft(node)}.`;
  const takers = nodes.filter(
    ({ health, full, lost, draining, freeBytes = 0, totalBytes = 0 }) =>
      health === "up" && !full && !lost && !draining && freeBytes >= totalBytes * (1 - HIGH_WATER_SHARE),
  );
  if (isEmptied(node) || takers.length >= REPLICA_COUNT) return left;
  const condition = `up, not drained, and less than ${HIGH_WATER_SHARE * 100}% full`;
  return `${left} What has no other place waits: ${takers.length} of the ${REPLICA_COUNT} nodes needed are ${condition}; add a node or free space.`;
}

/** Whether a node has nothing left, for certain: what one said before it fell silent may be out of date. */
function isEmptied({ health, liveBytes }: NodeStatus): boolean {
  return health === "up" && liveBytes === 0;
}

/** How much a node has left. Says "0 B left" of one that is up alone, because that is the sign to remove it. */
function describeLeft({ health, sinceMs, liveBytes }: NodeStatus): string {
  const isHeard = health === "up";
  if (isHeard && liveBytes !== undefined) return `${formatBytes(liveBytes)} left`;
  const since = isHeard ? "" : `, not heard of for ${formatDuration(sinceMs)}`;
  const last = liveBytes === undefined ? "" : ` (it said ${formatBytes(liveBytes)} last)`;
  return `what is left is unknown${since}${last}`;
}

/** What a node told of itself that the table does not show: nothing of one that is ready and at rest. */
function describeReport(nodeId: string, report: NodeReport): readonly string[] {
  const lines: string[] = [];
  if (!report.isReady)
    lines.push(
      `${nodeId} said at ${formatTime(report.seenTimeMs)} UTC that it is not ready; its /readyz says why.`,
    );
  const { transfers, inflightBytes } = report;
  if (transfers.length > 0) {
    const uploadCount = transfers.filter(({ kind }) => kind === "upload").length;
    const kinds = [
      formatQuantity(uploadCount, "upload"),
      formatQuantity(transfers.length - uploadCount, "download"),
    ].join(" and ");
    lines.push(`${nodeId} works on ${kinds}, ${formatBytes(inflightBytes)} in flight.`);
  }
  for (const { taskId, kind, sinceTimeMs, progress } of report.tasks) {
    const { doneCount, totalCount } = progress;
    const share = totalCount === 0 ? "" : `, ${doneCount} of ${totalCount} done`;
    lines.push(`${nodeId} works on ${kind} task ${taskId} since ${formatTime(sinceTimeMs)} UTC${share}.`);
  }
  return lines;
}

/** The feature level, and who keeps it from being raised. */
function describeLevel({ featureLevel, nodes }: ClusterStatus): readonly string[] {
  if (featureLevel === undefined) return [];
  const newest = Math.max(featureLevel, ...nodes.map((node) => node.featureLevelMax ?? featureLevel));
  const level = `Feature level ${featureLevel}`;
  if (newest === featureLevel) return [`${level}.`];
  const older = nodes.filter(
    ({ featureLevelMax, health }) => health !== "up" || (featureLevelMax ?? 0) < newest,
  );
  if (older.length === 0) return [`${level}; it is being raised to ${newest}.`];
  const names = older.map(({ nodeId }) => nodeId).join(", ");
  return [`${level}; it is raised to ${newest} once these are up with a version that supports it: ${names}.`];
}

/** How much of the tree a snapshot shows. */
function describeTreeSnapshot({ treeSnapshot }: ClusterStatus): string {
  if (treeSnapshot === undefined) return "There is no snapshot of the tree yet.";
  const { behindMs, sizeBytes, madeTimeMs } = treeSnapshot;
  const how = behindMs === 0 ? "shows everything" : `is ${formatDuration(behindMs)} behind`;
  return `The newest snapshot of the tree, of ${formatTime(madeTimeMs)} UTC (${formatBytes(sizeBytes)}), ${how}.`;
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
