/** What a node told of itself, in the status of the cluster. The rules are those of contract/codec.ts. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { NodeReport as WireReport, NodeReportSchema } from "../../gen/netdisk/v1/cluster_pb.ts";
import { TaskKind as WireTaskKind } from "../../gen/netdisk/v1/task_pb.ts";
import { ProgressKind } from "../../gen/netdisk/v1/upload_pb.ts";
import { keyOf, toBigint, toNumber, toOptionalBigint, toOptionalNumber } from "../contract/codec.ts";
import type { NodeReport, ReportedTransfer } from "../drive/drive-api.ts";
import type { TaskKind } from "../drive/task.ts";

const KINDS: Readonly<Record<ReportedTransfer["kind"], ProgressKind>> = {
  upload: ProgressKind.UPLOAD,
  download: ProgressKind.DOWNLOAD,
};

const TASK_KINDS: Readonly<Record<TaskKind, WireTaskKind>> = {
  upload: WireTaskKind.UPLOAD,
  download: WireTaskKind.DOWNLOAD,
  replication: WireTaskKind.REPLICATION,
};

/** As a message; absent for undefined. */
export function encodeReport(
  report: NodeReport | undefined,
): MessageInitShape<typeof NodeReportSchema> | undefined {
  if (report === undefined) return undefined;
  return {
    seenTimeMs: toBigint(report.seenTimeMs),
    ready: report.isReady,
    inflightBytes: toBigint(report.inflightBytes),
    appliedIndex: toBigint(report.appliedIndex),
    freeBytes: toBigint(report.freeBytes),
    totalBytes: toBigint(report.totalBytes),
    transfers: report.transfers.map(({ id, kind, sizeBytes, transferredBytes }) => ({
      ...{ id, kind: KINDS[kind] },
      sizeBytes: toOptionalBigint(sizeBytes),
      transferredBytes: toBigint(transferredBytes),
    })),
    tasks: report.tasks.map(({ taskId, kind, fence, sinceTimeMs, progress }) => ({
      ...{ taskId: toBigint(taskId), kind: TASK_KINDS[kind], fence: toBigint(fence) },
      sinceTimeMs: toBigint(sinceTimeMs),
      ...{ doneCount: toBigint(progress.doneCount), totalCount: toBigint(progress.totalCount) },
    })),
  };
}

/** From a message. */
export function decodeReport(report: WireReport | undefined): NodeReport | undefined {
  if (report === undefined) return undefined;
  return {
    seenTimeMs: toNumber(report.seenTimeMs, "seen_time_ms"),
    isReady: report.ready,
    inflightBytes: toNumber(report.inflightBytes, "inflight_bytes"),
    appliedIndex: toNumber(report.appliedIndex, "applied_index"),
    freeBytes: toNumber(report.freeBytes, "free_bytes"),
    totalBytes: toNumber(report.totalBytes, "total_bytes"),
    transfers: report.transfers.map(({ id, kind, sizeBytes, transferredBytes }) => ({
      ...{ id, kind: keyOf(KINDS, kind, "kind") },
      sizeBytes: toOptionalNumber(sizeBytes, "size_bytes"),
      transferredBytes: toNumber(transferredBytes, "transferred_bytes"),
    })),
    tasks: report.tasks.map(({ taskId, kind, fence, sinceTimeMs, doneCount, totalCount }) => ({
      taskId: toNumber(taskId, "task_id"),
      kind: keyOf(TASK_KINDS, kind, "kind"),
      fence: toNumber(fence, "fence"),
      sinceTimeMs: toNumber(sinceTimeMs, "since_time_ms"),
      progress: {
        doneCount: toNumber(doneCount, "done_count"),
        totalCount: toNumber(totalCount, "total_count"),
      },
    })),
  };
}
