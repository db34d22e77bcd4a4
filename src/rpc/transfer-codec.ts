/**
 * Between the messages of netdisk.v1 about uploads and the cluster and the types of drive/drive-api.ts.
 *
 * The rules are those of codec.ts.
 */
import { decodeBrake, encodeBrake } from "./brake-codec.ts";
import { decodeReport, encodeReport } from "./report-codec.ts";
import type { MessageInitShape } from "@bufbuild/protobuf";
import type {
  InitUploadRequest,
  InitUploadRequestSchema,
  InitUploadResponse,
  InitUploadResponseSchema,
} from "../../gen/netdisk/v1/chunk_service_pb.ts";
import {
  NodeHealth as WireHealth,
  NodeRole,
  type ClusterStatus as WireClusterStatus,
  type ClusterStatusSchema,
  type NodeStatus as WireNodeStatus,
  type ScrubStatus as WireScrubStatus,
  type ScrubStatusSchema,
  type PreparedDownloadsStatus as WirePreparedDownloads,
  type PreparedDownloadsStatusSchema,
  ServiceState,
  type TreeSnapshotStatus as WireTreeSnapshot,
  type TreeSnapshotStatusSchema,
} from "../../gen/netdisk/v1/cluster_pb.ts";
import {
  type OpenUpload as WireOpenUpload,
  type OpenUploadSchema,
  UploadState,
  type UploadStatus as WireUploadStatus,
  type UploadStatusSchema,
} from "../../gen/netdisk/v1/upload_pb.ts";
import type {
  ClusterStatus,
  NodeStatus,
  OpenUpload,
  PreparedDownloadsStatus,
  ScrubStatus,
  TreeSnapshotStatus,
  UploadRequest,
  UploadStatus,
  UploadTicket,
  WriteOptions,
} from "../drive/drive-api.ts";
import {
  decodeAttributes,
  decodeEntry,
  decodeOnConflict,
  decodePathEntry,
  decodeTime,
  encodeAttributes,
  encodeEntry,
  encodeOnConflict,
  encodePathEntry,
  encodePrecondition,
  encodeTime,
  keyOf,
  required,
  toBigint,
  toNumber,
  toOptionalBigint,
  toOptionalNumber,
} from "../contract/codec.ts";

/** The upload that a message asks for. */
export function decodeUploadRequest(request: InitUploadRequest): UploadRequest {
  return {
    path: request.path,
    sizeBytes: toOptionalNumber(request.sizeBytes, "size_bytes"),
    treeHash: request.treeHash.length === 0 ? undefined : request.treeHash,
    onConflict: decodeOnConflict(request.onConflict),
    attributes: decodeAttributes(request.attributes),
    createParents: request.createParents,
    ...(request.attemptOf !== undefined && {
      attemptOf: {
        requestId: request.attemptOf.requestId,
        sizeBytesMin: toNumber(request.attemptOf.sizeBytesMin, "size_bytes_min"),
      },
    }),
  };
}

/** The wire form of decodeUploadRequest(), with the request id and precondition. */
export function encodeUploadRequest(
  request: UploadRequest,
  options: WriteOptions,
): MessageInitShape<typeof InitUploadRequestSchema> {
  const { sizeBytes, treeHash, attemptOf } = request;
  return {
    path: request.path,
    ...(sizeBytes !== undefined && { sizeBytes: toBigint(sizeBytes) }),
    ...(treeHash !== undefined && { treeHash }),
    onConflict: encodeOnConflict(request.onConflict),
    attributes: encodeAttributes(request.attributes),
    createParents: request.createParents,
    requestId: options.requestId ?? "",
    ...encodePrecondition(options.precondition),
    ...(attemptOf !== undefined && {
      attemptOf: { requestId: attemptOf.requestId, sizeBytesMin: toBigint(attemptOf.sizeBytesMin) },
    }),
  };
}

/** The wire form of an upload's ticket. */
export function encodeTicket(ticket: UploadTicket): MessageInitShape<typeof InitUploadResponseSchema> {
  const chunkCount = toOptionalBigint(ticket.chunkCount);
  return {
    uploadId: toBigint(ticket.uploadId),
    chunkSizeBytes: toBigint(ticket.chunkSizeBytes),
    ...(chunkCount !== undefined && { chunkCount }),
    targets: ticket.targets.map(({ nodeId, address }) => ({ nodeId, address })),
    instant: ticket.instant,
    ...(ticket.entry && { entry: encodeEntry(ticket.entry) }),
    expireTime: encodeTime(ticket.expireTimeMs),
    ...(ticket.made && { made: encodePathEntry(ticket.made) }),
  };
}

/** The ticket in a message. */
export function decodeTicket(response: InitUploadResponse): UploadTicket {
  return {
    uploadId: toNumber(response.uploadId, "upload_id"),
    chunkSizeBytes: toNumber(response.chunkSizeBytes, "chunk_size_bytes"),
    chunkCount: toOptionalNumber(response.chunkCount, "chunk_count"),
    targets: response.targets.map(({ nodeId, address }) => ({ nodeId, address })),
    instant: response.instant,
    entry: response.entry && decodeEntry(response.entry),
    expireTimeMs: decodeTime(response.expireTime),
    made: response.made && decodePathEntry(response.made),
  };
}

/** The wire form of an upload's status. */
export function encodeUploadStatus(status: UploadStatus): MessageInitShape<typeof UploadStatusSchema> {
  const sizeBytes = toOptionalBigint(status.sizeBytes);
  const chunkCount = toOptionalBigint(status.chunkCount);
  return {
    uploadId: toBigint(status.uploadId),
    path: status.path,
    state: status.state === "open" ? UploadState.OPEN : UploadState.COMPLETE,
    ...(sizeBytes !== undefined && { sizeBytes }),
    chunkSizeBytes: toBigint(status.chunkSizeBytes),
    ...(chunkCount !== undefined && { chunkCount }),
    missing: status.missing.map(({ first, last }) => ({ first: toBigint(first), last: toBigint(last) })),
    committedSizeBytes: toBigint(status.committedSizeBytes),
    ...(status.entry && { entry: encodeEntry(status.entry) }),
    expireTime: encodeTime(status.expireTimeMs),
  };
}

/** The wire form of an upload that is not finished. */
export function encodeOpenUpload(upload: OpenUpload): MessageInitShape<typeof OpenUploadSchema> {
  const sizeBytes = toOptionalBigint(upload.sizeBytes);
  return {
    uploadId: toBigint(upload.uploadId),
    path: upload.path,
    ...(sizeBytes !== undefined && { sizeBytes }),
    idleMs: toBigint(Math.round(upload.idleMs)),
    expireTime: encodeTime(upload.expireTimeMs),
  };
}

/** The way back. */
export function decodeOpenUpload(wire: WireOpenUpload): OpenUpload {
  return {
    uploadId: toNumber(wire.uploadId, "upload_id"),
    path: wire.path,
    sizeBytes: toOptionalNumber(wire.sizeBytes, "size_bytes"),
    idleMs: toNumber(wire.idleMs, "idle_ms"),
    expireTimeMs: decodeTime(required(wire.expireTime, "expire_time")),
  };
}

/** The status in a message. */
export function decodeUploadStatus(status: WireUploadStatus | undefined): UploadStatus {
  const wire = required(status, "status");
  const states = { open: UploadState.OPEN, complete: UploadState.COMPLETE };
  return {
    uploadId: toNumber(wire.uploadId, "upload_id"),
    path: wire.path,
    state: keyOf(states, wire.state, "state"),
    sizeBytes: toOptionalNumber(wire.sizeBytes, "size_bytes"),
    chunkSizeBytes: toNumber(wire.chunkSizeBytes, "chunk_size_bytes"),
    chunkCount: toOptionalNumber(wire.chunkCount, "chunk_count"),
    missing: wire.missing.map(({ first, last }) => ({
      first: toNumber(first, "first"),
      last: toNumber(last, "last"),
    })),
    committedSizeBytes: toNumber(wire.committedSizeBytes, "committed_size_bytes"),
    entry: wire.entry && decodeEntry(wire.entry),
    expireTimeMs: decodeTime(wire.expireTime),
  };
}

/** Progress travels in parts of a million. */
const PROGRESS_PARTS = 1_000_000;

const ROLES: Readonly<Record<NodeStatus["role"], NodeRole>> = {
  leader: NodeRole.LEADER,
  voter: NodeRole.VOTER,
  learner: NodeRole.LEARNER,
  storage: NodeRole.STORAGE,
};

const SERVICE_STATES = {
  up: ServiceState.UP,
  degraded: ServiceState.DEGRADED,
  off: ServiceState.OFF,
} as const;

const HEALTHS: Readonly<Record<NodeStatus["health"], WireHealth>> = {
  up: WireHealth.UP,
  suspect: WireHealth.SUSPECT,
  down: WireHealth.DOWN,
};

/** The wire form of the cluster's status. */
export function encodeClusterStatus(status: ClusterStatus): MessageInitShape<typeof ClusterStatusSchema> {
  const { replicas } = status;
  return {
    clusterId: status.clusterId,
    nodeId: status.nodeId,
    leaderId: status.leaderId ?? "",
    term: toBigint(status.term),
    commitIndex: toBigint(status.commitIndex),
    appliedIndex: toBigint(status.appliedIndex),
    clusterTimeMs: toBigint(status.clusterTimeMs),
    nodes: status.nodes.map((node) => ({
      ...node,
      memberId: toBigint(node.memberId),
      role: ROLES[node.role],
      health: HEALTHS[node.health],
      sinceMs: toBigint(node.sinceMs),
      freeBytes: toBigint(node.freeBytes ?? 0),
      totalBytes: toBigint(node.totalBytes ?? 0),
      appliedIndex: toBigint(node.appliedIndex ?? 0),
      liveBytes: toBigint(node.liveBytes ?? 0),
      loadUnknown: node.liveBytes === undefined,
      scrub: encodeScrub(node.scrub),
      scrubProgressPpm:
        node.scrubProgress === undefined ? undefined : Math.round(node.scrubProgress * PROGRESS_PARTS),
      quarantinedCount: toBigint(node.quarantinedCount),
      collectionBrake: encodeBrake(node.collectionBrake),
      report: encodeReport(node.report),
      ...(node.featureLevelMax !== undefined && { featureLevelMax: node.featureLevelMax }),
    })),
    replicas: {
      extentCount: toBigint(replicas.extentCount),
      fullyReplicatedCount: toBigint(replicas.fullyReplicatedCount),
      underReplicatedCount: toBigint(replicas.underReplicatedCount),
      suspectCount: toBigint(replicas.suspectCount),
      corruptCount: toBigint(replicas.corruptCount),
      lostCount: toBigint(replicas.lostCount),
      unverifiedCount: toBigint(replicas.unverifiedCount),
      singleCopyCount: toBigint(replicas.singleCopyCount),
      noCopyCount: toBigint(replicas.noCopyCount),
      missingCopyBytes: toBigint(replicas.missingCopyBytes),
      movingCount: toBigint(replicas.movingCount),
      recounting: replicas.recounting,
      repairBytesPerSecond: toBigint(Math.round(replicas.repairBytesPerSecond)),
      redundantInMs: toOptionalBigint(
        replicas.redundantInMs === undefined ? undefined : Math.round(replicas.redundantInMs),
      ),
    },
    fileCount: toBigint(status.fileCount),
    directoryCount: toBigint(status.directoryCount),
    openUploadCount: toBigint(status.openUploadCount),
    contentBytes: toBigint(status.contentBytes),
    services: (status.services ?? []).map(({ name, state, sinceTimeMs, detail }) => ({
      name,
      state: SERVICE_STATES[state],
      sinceTimeMs: toBigint(sinceTimeMs),
      detail,
    })),
    ...(status.treeSnapshot !== undefined && { treeSnapshot: encodeTreeSnapshot(status.treeSnapshot) }),
    ...(status.preparedDownloads !== undefined && {
      preparedDownloads: encodePreparedDownloads(status.preparedDownloads),
    }),
    featureLevel: status.featureLevel ?? 0,
  };
}

function encodePreparedDownloads(
  prepared: PreparedDownloadsStatus,
): MessageInitShape<typeof PreparedDownloadsStatusSchema> {
  return {
    downloadCount: toBigint(prepared.downloadCount),
    fileCount: toBigint(prepared.fileCount),
    sizeBytes: toBigint(prepared.sizeBytes),
    expireTimeMs: toBigint(Math.round(prepared.expireTimeMs)),
  };
}

function decodePreparedDownloads(wire: WirePreparedDownloads): PreparedDownloadsStatus {
  return {
    downloadCount: toNumber(wire.downloadCount, "download_count"),
    fileCount: toNumber(wire.fileCount, "file_count"),
    sizeBytes: toNumber(wire.sizeBytes, "size_bytes"),
    expireTimeMs: toNumber(wire.expireTimeMs, "expire_time_ms"),
  };
}

function encodeTreeSnapshot(snapshot: TreeSnapshotStatus): MessageInitShape<typeof TreeSnapshotStatusSchema> {
  return {
    index: toBigint(snapshot.index),
    sizeBytes: toBigint(snapshot.sizeBytes),
    madeTimeMs: toBigint(snapshot.madeTimeMs),
    behindMs: toBigint(Math.round(snapshot.behindMs)),
  };
}

function decodeTreeSnapshot(wire: WireTreeSnapshot): TreeSnapshotStatus {
  return {
    index: toNumber(wire.index, "index"),
    sizeBytes: toNumber(wire.sizeBytes, "size_bytes"),
    madeTimeMs: toNumber(wire.madeTimeMs, "made_time_ms"),
    behindMs: toNumber(wire.behindMs, "behind_ms"),
  };
}

function encodeScrub(scrub: ScrubStatus | undefined): MessageInitShape<typeof ScrubStatusSchema> | undefined {
  if (scrub === undefined) return undefined;
  return {
    pass: toBigint(scrub.pass),
    beganAgoMs: toBigint(Math.round(scrub.beganAgoMs)),
    endedAgoMs: toBigint(Math.round(scrub.endedAgoMs)),
    extentCount: toBigint(scrub.extentCount),
    bytes: toBigint(scrub.bytes),
    damagedCount: toBigint(scrub.damagedCount),
  };
}

function decodeScrub(scrub: WireScrubStatus): ScrubStatus {
  return {
    pass: toNumber(scrub.pass, "pass"),
    beganAgoMs: toNumber(scrub.beganAgoMs, "began_ago_ms"),
    endedAgoMs: toNumber(scrub.endedAgoMs, "ended_ago_ms"),
    extentCount: toNumber(scrub.extentCount, "extent_count"),
    bytes: toNumber(scrub.bytes, "bytes"),
    damagedCount: toNumber(scrub.damagedCount, "damaged_count"),
  };
}

function decodeNodeStatus(node: WireNodeStatus): NodeStatus {
  const known = (figure: bigint, name: string): number | undefined =>
    node.loadUnknown ? undefined : toNumber(figure, name);
  return {
    nodeId: node.nodeId,
    memberId: toNumber(node.memberId, "member_id"),
    role: keyOf(ROLES, node.role, "role"),
    health: keyOf(HEALTHS, node.health, "health"),
    sinceMs: toNumber(node.sinceMs, "since_ms"),
    address: node.address,
    httpUrl: node.httpUrl,
    publicUrl: node.publicUrl,
    zone: node.zone,
    freeBytes: known(node.freeBytes, "free_bytes"),
    totalBytes: known(node.totalBytes, "total_bytes"),
    appliedIndex: known(node.appliedIndex, "applied_index"),
    liveBytes: known(node.liveBytes, "live_bytes"),
    full: node.full,
    lost: node.lost,
    draining: node.draining,
    scrub: node.scrub === undefined ? undefined : decodeScrub(node.scrub),
    scrubProgress: node.scrubProgressPpm === undefined ? undefined : node.scrubProgressPpm / PROGRESS_PARTS,
    quarantinedCount: toNumber(node.quarantinedCount, "quarantined_count"),
    collectionBrake: decodeBrake(node.collectionBrake),
    ...(node.report !== undefined && { report: decodeReport(node.report) }),
    ...(node.featureLevelMax !== undefined && { featureLevelMax: node.featureLevelMax }),
  };
}

/** The cluster's status in a message. */
export function decodeClusterStatus(status: WireClusterStatus | undefined): ClusterStatus {
  const wire = required(status, "status");
  const replicas = required(wire.replicas, "replicas");
  return {
    clusterId: wire.clusterId,
    nodeId: wire.nodeId,
    leaderId: wire.leaderId === "" ? undefined : wire.leaderId,
    term: toNumber(wire.term, "term"),
    commitIndex: toNumber(wire.commitIndex, "commit_index"),
    appliedIndex: toNumber(wire.appliedIndex, "applied_index"),
    clusterTimeMs: toNumber(wire.clusterTimeMs, "cluster_time_ms"),
    nodes: wire.nodes.map(decodeNodeStatus),
    replicas: {
      extentCount: toNumber(replicas.extentCount, "extent_count"),
      fullyReplicatedCount: toNumber(replicas.fullyReplicatedCount, "fully_replicated_count"),
      underReplicatedCount: toNumber(replicas.underReplicatedCount, "under_replicated_count"),
      suspectCount: toNumber(replicas.suspectCount, "suspect_count"),
      corruptCount: toNumber(replicas.corruptCount, "corrupt_count"),
      lostCount: toNumber(replicas.lostCount, "lost_count"),
      unverifiedCount: toNumber(replicas.unverifiedCount, "unverified_count"),
      singleCopyCount: toNumber(replicas.singleCopyCount, "single_copy_count"),
      noCopyCount: toNumber(replicas.noCopyCount, "no_copy_count"),
      missingCopyBytes: toNumber(replicas.missingCopyBytes, "missing_copy_bytes"),
      movingCount: toNumber(replicas.movingCount, "moving_count"),
      recounting: replicas.recounting,
      repairBytesPerSecond: toNumber(replicas.repairBytesPerSecond, "repair_bytes_per_second"),
      redundantInMs: toOptionalNumber(replicas.redundantInMs, "redundant_in_ms"),
    },
    fileCount: toNumber(wire.fileCount, "file_count"),
    directoryCount: toNumber(wire.directoryCount, "directory_count"),
    openUploadCount: toNumber(wire.openUploadCount, "open_upload_count"),
    contentBytes: toNumber(wire.contentBytes, "content_bytes"),
    services: wire.services.flatMap(({ name, state, sinceTimeMs, detail }) => {
      // A service that this version does not know is left out.
      if (name !== "postgres" && name !== "redis" && name !== "rabbitmq") return [];
      const sinceMs = toNumber(sinceTimeMs, "since_time_ms");
      return [{ name, state: keyOf(SERVICE_STATES, state, "state"), sinceTimeMs: sinceMs, detail }];
    }),
    ...(wire.treeSnapshot !== undefined && { treeSnapshot: decodeTreeSnapshot(wire.treeSnapshot) }),
    ...(wire.preparedDownloads !== undefined && {
      preparedDownloads: decodePreparedDownloads(wire.preparedDownloads),
    }),
    ...(wire.featureLevel > 0 && { featureLevel: wire.featureLevel }),
  };
}
