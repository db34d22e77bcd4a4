/** The cluster's status as this node sees it: members of the tree, the failure detector's judgement, the tree's counters. */
import type { ClusterStatus, NodeStatus } from "../drive/drive-api.ts";
import { clusterInfo, clusterTime, counters } from "../metadata/view.ts";
import type { DataPlane } from "./data-plane.ts";

/** What consensus knows and the tree does not. */
export interface ConsensusView {
  term(): number;
  commitIndex(): number;
  /** Part of a member in consensus; "storage" for one that has none. */
  roleOf(memberId: number): "voter" | "learner" | "storage";
}

/** The status now; reads the local store only. */
export function clusterStatus(plane: DataPlane, consensus: ConsensusView): ClusterStatus {
  const { port } = plane.metadata;
  const reader = port.reader();
  const leader = port.leaderId();
  const figures = counters(reader);
  return {
    clusterId: clusterInfo(reader)?.clusterId ?? "",
    nodeId: plane.directory.nodeIdOf(port.memberId),
    leaderId: leader === undefined ? undefined : plane.directory.nodeIdOf(leader),
    term: consensus.term(),
    commitIndex: consensus.commitIndex(),
    appliedIndex: port.appliedIndex(),
    clusterTimeMs: clusterTime(reader),
    nodes: plane.directory.members().map((member) => nodeStatus(plane, consensus, member.memberId)),
    replicas: figures.replicas,
    fileCount: figures.fileCount,
    directoryCount: figures.directoryCount,
    openUploadCount: figures.openUploadCount,
    contentBytes: figures.contentBytes,
  };
}

function nodeStatus(plane: DataPlane, consensus: ConsensusView, memberId: number): NodeStatus {
  const member = plane.directory.find(memberId);
  const { health, sinceMs, load } = plane.detector.state(memberId);
  return {
    nodeId: plane.directory.nodeIdOf(memberId),
    memberId,
    role: plane.metadata.port.leaderId() === memberId ? "leader" : consensus.roleOf(memberId),
    health,
    sinceMs,
    address: member?.address ?? "",
    httpUrl: member?.httpUrl ?? "",
    publicUrl: member?.publicUrl ?? "",
    zone: member?.zone ?? "",
    freeBytes: load?.freeBytes ?? 0,
    totalBytes: load?.totalBytes ?? 0,
    appliedIndex: load?.appliedIndex ?? 0,
    liveBytes: load?.liveBytes ?? 0,
  };
}
