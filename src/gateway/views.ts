/**
 * What the drive returns, as JSON shows it: the one place that turns entries, uploads and progress into the bodies of
 * schemas.ts. Pure.
 */
import type { z } from "zod";
import { describeDurability } from "../drive/durability.ts";
import type {
  ClusterStatus,
  Durability,
  PathEntry,
  PreparedDownloadsStatus,
  Progress,
  ServiceStatus,
  TreeSnapshotStatus,
  UploadStatus,
  UploadTicket,
  NodeReport,
} from "../drive/drive-api.ts";
import type { Entry } from "../drive/entry.ts";
import { toHex } from "../std/bytes.ts";
import { etagOf } from "./conditions.ts";
import type {
  clusterViewSchema,
  durabilityViewSchema,
  fileViewSchema,
  progressViewSchema,
  ServiceView,
  ticketViewSchema,
  uploadViewSchema,
} from "./schemas.ts";

/** Times that a JavaScript Date, and so RFC 3339 text, can hold. */
export const DATE_MS_MAX = 8_640_000_000_000_000;

/** `timeMs` as RFC 3339 text; times outside what it can say are moved to its ends. */
export function timeText(timeMs: number): string {
  return new Date(Math.max(-DATE_MS_MAX, Math.min(DATE_MS_MAX, timeMs))).toISOString();
}

function snapshotView(
  snapshot: TreeSnapshotStatus | undefined,
): z.output<typeof clusterViewSchema>["treeSnapshot"] {
  if (snapshot === undefined) return null;
  const { index, sizeBytes, madeTimeMs, behindMs } = snapshot;
  return { index, sizeBytes, madeTime: timeText(madeTimeMs), behindMs };
}

function preparedView(
  prepared: PreparedDownloadsStatus | undefined,
): z.output<typeof clusterViewSchema>["preparedDownloads"] {
  if (prepared === undefined) return null;
  const { downloadCount, fileCount, sizeBytes, expireTimeMs } = prepared;
  return { downloadCount, fileCount, sizeBytes, expireTime: timeText(expireTimeMs) };
}

/** An entry; `path` is included when it is known. */
export function fileView(entry: Entry, path?: string): z.output<typeof fileViewSchema> {
  return {
    fileId: String(entry.entryId),
    parentId: String(entry.parentId),
    name: entry.name,
    ...(path === undefined ? {} : { path }),
    kind: entry.kind,
    size: entry.sizeBytes,
    version: String(entry.version),
    etag: etagOf(entry),
    ...(entry.treeHash.length === 0 ? {} : { treeHash: toHex(entry.treeHash) }),
    ...(entry.sha256.length === 0 ? {} : { sha256: toHex(entry.sha256) }),
    mediaType: entry.mediaType,
    ...(entry.mode === undefined ? {} : { mode: entry.mode.toString(8).padStart(4, "0") }),
    modifyTime: timeText(entry.modifyTimeMs),
    createTime: timeText(entry.createTimeMs),
  };
}

/** Copies of a file. */
export function durabilityView(durability: Durability): z.output<typeof durabilityViewSchema> {
  const { verifiedCount, nodeIds, oldestCheckAgeMs } = durability;
  return {
    verifiedCount,
    nodeIds: [...nodeIds],
    oldestCheckAgeMs: oldestCheckAgeMs ?? null,
    text: describeDurability(durability),
  };
}

/** An entry with its path. */
export function pathEntryView(pathEntry: PathEntry): z.output<typeof fileViewSchema> {
  return fileView(pathEntry.entry, pathEntry.path);
}

/** The start of an upload; everything is missing unless it was instant. */
export function ticketView(ticket: UploadTicket): z.output<typeof ticketViewSchema> {
  const { chunkCount } = ticket;
  const allMissing = !ticket.instant && chunkCount !== undefined && chunkCount > 0;
  return {
    fileId: String(ticket.uploadId),
    chunkSize: ticket.chunkSizeBytes,
    chunkCount: chunkCount ?? null,
    targets: ticket.targets.map(({ nodeId, address }) => ({ nodeId, address })),
    missing: allMissing ? [{ first: 0, last: chunkCount - 1 }] : [],
    instant: ticket.instant,
    ...(ticket.entry === undefined ? {} : { file: fileView(ticket.entry) }),
    expiresAt: timeText(ticket.expireTimeMs),
  };
}

/** The state of an upload. */
export function uploadView(status: UploadStatus): z.output<typeof uploadViewSchema> {
  return {
    fileId: String(status.uploadId),
    path: status.path,
    state: status.state,
    size: status.sizeBytes ?? null,
    chunkSize: status.chunkSizeBytes,
    chunkCount: status.chunkCount ?? null,
    missing: status.missing.map(({ first, last }) => ({ first, last })),
    committedSize: status.committedSizeBytes,
    ...(status.entry === undefined ? {} : { file: fileView(status.entry, status.path) }),
    expiresAt: timeText(status.expireTimeMs),
  };
}

/** The progress of a transfer. */
export function progressView(progress: Progress): z.output<typeof progressViewSchema> {
  return {
    id: progress.id,
    kind: progress.kind,
    phase: progress.phase,
    size: progress.sizeBytes ?? null,
    transferredBytes: progress.transferredBytes,
    copiedBytes: [...progress.copiedBytes],
    ...(progress.errorReason === undefined ? {} : { errorReason: progress.errorReason }),
  };
}

/** A service outside of the node. */
export function serviceView({ name, state, sinceTimeMs, detail }: ServiceStatus): ServiceView {
  return { name, state, since: timeText(sinceTimeMs), detail };
}

function reportView(
  report: NodeReport,
): NonNullable<z.output<typeof clusterViewSchema>["nodes"][number]["report"]> {
  const { seenTimeMs, isReady, inflightBytes, appliedIndex, freeBytes, totalBytes, transfers, tasks } =
    report;
  return {
    ...{ source: "redis", seenTime: timeText(seenTimeMs), ready: isReady },
    ...{ inflightBytes, appliedIndex, freeBytes, totalBytes },
    transfers: transfers.map(({ id, kind, sizeBytes, transferredBytes }) => ({
      ...{ id, kind, transferredBytes },
      ...(sizeBytes !== undefined && { size: sizeBytes }),
    })),
    tasks: tasks.map(({ taskId, kind, sinceTimeMs, progress }) => ({
      ...{ taskId: String(taskId), kind, since: timeText(sinceTimeMs), ...progress },
    })),
  };
}

/** The cluster. */
export function clusterView(status: ClusterStatus): z.output<typeof clusterViewSchema> {
  return {
    clusterId: status.clusterId,
    nodeId: status.nodeId,
    leaderId: status.leaderId ?? null,
    term: status.term,
    commitIndex: status.commitIndex,
    appliedIndex: status.appliedIndex,
    clusterTimeMs: status.clusterTimeMs,
    nodes: status.nodes.map((node) => ({
      nodeId: node.nodeId,
      memberId: String(node.memberId),
      role: node.role,
      health: node.health,
      sinceMs: node.sinceMs,
      address: node.address,
      httpUrl: node.httpUrl,
      publicUrl: node.publicUrl,
      zone: node.zone,
      freeBytes: node.freeBytes ?? null,
      totalBytes: node.totalBytes ?? null,
      appliedIndex: node.appliedIndex ?? null,
      liveBytes: node.liveBytes ?? null,
      full: node.full,
      lost: node.lost,
      draining: node.draining,
      scrub: node.scrub === undefined ? null : { ...node.scrub },
      scrubProgress: node.scrubProgress ?? null,
      quarantinedCount: node.quarantinedCount,
      collectionBrake: node.collectionBrake === undefined ? null : { ...node.collectionBrake },
      ...(node.report !== undefined && { report: reportView(node.report) }),
      featureLevelMax: node.featureLevelMax ?? null,
    })),
    replicas: { ...status.replicas, redundantInMs: status.replicas.redundantInMs ?? null },
    fileCount: status.fileCount,
    directoryCount: status.directoryCount,
    openUploadCount: status.openUploadCount,
    contentBytes: status.contentBytes,
    services: (status.services ?? []).map(serviceView),
    treeSnapshot: snapshotView(status.treeSnapshot),
    preparedDownloads: preparedView(status.preparedDownloads),
    featureLevel: status.featureLevel ?? null,
  };
}
