/** The cluster's status as this node sees it: members of the tree, the failure detector's judgement, the tree's counters. */
import type {
  ClusterStatus,
  NodeStatus,
  PreparedDownloadsStatus,
  ReplicaSummary,
  ScrubStatus,
  ServiceStatus,
  TreeSnapshotStatus,
} from "../drive/drive-api.ts";
import { FEATURE_LEVELS_UNSAID } from "../drive/feature-levels.ts";
import { featureLevel } from "../metadata/feature-level.ts";
import { countDeleted } from "../metadata/feed.ts";
import { snapshotAge } from "../metadata/tree-snapshots.ts";
import { clusterInfo, clusterTime, counters, storeOf, type ReplicaCounters } from "../metadata/view.ts";
import type { OrderedReader } from "../std/ordered-store.ts";
import type { DataPlane } from "./data-plane.ts";
import type { PreparedFigures } from "./prepared-tally.ts";

/** Deleted rows not yet reclaimed that a status looks at, some ten milliseconds; more count as files until they are reclaimed. */
const DELETED_ROW_COUNT_MAX = 5000;

/** What consensus knows and the tree does not. */
export interface ConsensusView {
  term(): number;
  commitIndex(): number;
  /** Part of a member in consensus; "storage" for one that has none. */
  roleOf(memberId: number): "voter" | "learner" | "storage";
}

/** The status now; reads the local store only. @param prepared what of the tree's figures are no files of users */
export function clusterStatus(
  plane: DataPlane,
  consensus: ConsensusView,
  prepared: PreparedFigures,
  services: readonly ServiceStatus[] = [],
): ClusterStatus {
  const { port } = plane.metadata;
  const reader = port.reader();
  const leader = port.leaderId();
  const figures = counters(reader);
  const deleted = countDeleted(reader, DELETED_ROW_COUNT_MAX);
  return {
    clusterId: clusterInfo(reader)?.clusterId ?? "",
    nodeId: plane.directory.nodeIdOf(port.memberId),
    leaderId: leader === undefined ? undefined : plane.directory.nodeIdOf(leader),
    term: consensus.term(),
    commitIndex: consensus.commitIndex(),
    appliedIndex: port.appliedIndex(),
    clusterTimeMs: clusterTime(reader),
    nodes: plane.directory.members().map((member) => nodeStatus(plane, consensus, member.memberId)),
    replicas: summary(plane, figures.replicas),
    // The tree may have changed since the others were counted.
    fileCount: Math.max(0, figures.fileCount - prepared.fileCount - deleted.fileCount),
    directoryCount: Math.max(0, figures.directoryCount - prepared.directoryCount - deleted.directoryCount),
    openUploadCount: figures.openUploadCount,
    contentBytes: figures.contentBytes,
    services,
    treeSnapshot: snapshotStatus(reader),
    preparedDownloads: preparedStatus(plane, prepared),
    featureLevel: featureLevel(reader),
  };
}

function preparedStatus(
  { clock, metadata }: DataPlane,
  { downloadCount, fileCount, sizeBytes, expireTimeMs }: PreparedFigures,
): PreparedDownloadsStatus | undefined {
  if (expireTimeMs === undefined) return undefined;
  const leftMs = expireTimeMs - clusterTime(metadata.port.reader());
  return { downloadCount, fileCount, sizeBytes, expireTimeMs: clock.wallMs() + leftMs };
}

function snapshotStatus(reader: OrderedReader): TreeSnapshotStatus | undefined {
  const { newest, ageMs } = snapshotAge(reader);
  if (newest === undefined) return undefined;
  const { index, sizeBytes, wallTimeMs } = newest;
  return { index, sizeBytes, madeTimeMs: wallTimeMs, behindMs: ageMs };
}

function summary(plane: DataPlane, counted: ReplicaCounters): ReplicaSummary {
  let repairBytesPerSecond = 0;
  for (const { health, load } of plane.detector.states()) {
    if (health !== "down") repairBytesPerSecond += load?.repairBytesPerSecond ?? 0;
  }
  const { missingCopyBytes } = counted;
  return {
    ...counted,
    repairBytesPerSecond,
    redundantInMs: estimateMs(missingCopyBytes, repairBytesPerSecond),
  };
}

function estimateMs(missingBytes: number, bytesPerSecond: number): number | undefined {
  if (missingBytes === 0) return 0;
  return bytesPerSecond > 0 ? (missingBytes / bytesPerSecond) * 1000 : undefined;
}

function scrubStatus(plane: DataPlane, memberId: number): ScrubStatus | undefined {
  const reader = plane.metadata.port.reader();
  const store = storeOf(reader, memberId);
  const incarnation = plane.directory.find(memberId)?.storeIncarnation;
  if (store.scrubPass === 0 || store.scrubbedIncarnation !== incarnation) return undefined;
  const nowMs = clusterTime(reader);
  return {
    pass: store.scrubPass,
    beganAgoMs: Math.max(0, nowMs - store.scrubStartTimeMs),
    endedAgoMs: Math.max(0, nowMs - store.scrubEndTimeMs),
    extentCount: store.scrubExtentCount,
    bytes: store.scrubBytes,
    damagedCount: store.scrubDamagedCount,
  };
}

function nodeStatus(plane: DataPlane, consensus: ConsensusView, memberId: number): NodeStatus {
  const member = plane.directory.find(memberId);
  const { health, sinceMs, load } = plane.detector.state(memberId);
  const store = storeOf(plane.metadata.port.reader(), memberId);
  return {
    nodeId: plane.directory.nodeIdOf(memberId),
    memberId,
    role: plane.metadata.port.leaderId() === memberId ? "leader" : consensus.roleOf(memberId),
    health,
    sinceMs: Math.round(sinceMs),
    address: member?.address ?? "",
    httpUrl: member?.httpUrl ?? "",
    publicUrl: member?.publicUrl ?? "",
    zone: member?.zone ?? "",
    // No 0 stands for what is not known: an operator removes a node of which nothing is left.
    freeBytes: load?.freeBytes,
    totalBytes: load?.totalBytes,
    appliedIndex: load?.appliedIndex,
    liveBytes: load?.liveBytes,
    full: load?.writesRefused ?? false,
    lost: store.lostTimeMs > 0,
    draining: store.drainTimeMs > 0,
    scrub: scrubStatus(plane, memberId),
    scrubProgress: load?.scrubProgress,
    quarantinedCount: load?.quarantinedCount ?? 0,
    collectionBrake: load?.collectionBrake,
    featureLevelMax:
      load === undefined ? member?.featureLevelMax : (load.featureLevels ?? FEATURE_LEVELS_UNSAID).max,
  };
}
