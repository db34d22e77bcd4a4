/** Prepared downloads on the wire: DownloadService of netdisk.v1 over the drive for any transport, and the way back for clients. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import {
  DownloadState,
  type PreparedDownload,
  type PreparedDownloadSchema,
} from "../../gen/netdisk/v1/download_pb.ts";
import type { DownloadService } from "../../gen/netdisk/v1/download_service_pb.ts";
import type { PreparedDownloadStatus } from "../drive/prepared-download.ts";
import type { TaskState } from "../drive/task.ts";
import {
  decodeRef,
  decodeTime,
  encodeTime,
  keyOf,
  readOptions,
  required,
  toBigint,
  toNumber,
  toOptionalBigint,
  toOptionalNumber,
  writeOptions,
} from "./codec.ts";
import type { DriveSource, Handlers } from "./service-handlers.ts";

const STATES: Readonly<Record<TaskState, DownloadState>> = {
  waiting: DownloadState.WAITING,
  running: DownloadState.RUNNING,
  done: DownloadState.DONE,
  failed: DownloadState.FAILED,
  cancelled: DownloadState.CANCELLED,
};

/** The wire form of a state. */
export function encodeDownload(
  status: PreparedDownloadStatus,
): MessageInitShape<typeof PreparedDownloadSchema> {
  const { sizeBytes, entryCount, expireTimeMs } = status;
  return {
    downloadId: toBigint(status.downloadId),
    state: STATES[status.state],
    name: status.name,
    readBytes: toBigint(status.readBytes),
    totalBytes: toBigint(status.totalBytes),
    etag: status.etag ?? "",
    errorReason: status.error?.reason ?? "",
    errorMessage: status.error?.message ?? "",
    ...(sizeBytes !== undefined && { sizeBytes: toOptionalBigint(sizeBytes) }),
    ...(entryCount !== undefined && { entryCount: toOptionalBigint(entryCount) }),
    ...(expireTimeMs !== undefined && { expireTime: encodeTime(expireTimeMs) }),
  };
}

/** The way back. */
export function decodeDownload(message: PreparedDownload | undefined): PreparedDownloadStatus {
  const download = required(message, "download");
  const { errorReason, errorMessage, expireTime } = download;
  return {
    downloadId: toNumber(download.downloadId, "download_id"),
    state: keyOf(STATES, download.state, "state"),
    name: download.name,
    readBytes: toNumber(download.readBytes, "read_bytes"),
    totalBytes: toNumber(download.totalBytes, "total_bytes"),
    sizeBytes: toOptionalNumber(download.sizeBytes, "size_bytes"),
    entryCount: toOptionalNumber(download.entryCount, "entry_count"),
    etag: download.etag === "" ? undefined : download.etag,
    expireTimeMs: expireTime === undefined ? undefined : decodeTime(expireTime),
    error: errorReason === "" ? undefined : { reason: errorReason, message: errorMessage },
  };
}

/** DownloadService over `drive`. */
export function downloadHandlers(drive: DriveSource): Handlers<typeof DownloadService> {
  return {
    async prepareDownload(request, call) {
      const { name } = request;
      const sources = request.sources.map((ref) => decodeRef(ref));
      const status = await drive().preparedDownloads.prepare(
        { sources, name: name === "" ? undefined : name },
        writeOptions(request, call.signal),
      );
      return { download: encodeDownload(status) };
    },
    async getDownload(request, call) {
      const downloadId = toNumber(request.downloadId, "download_id");
      const status = await drive().preparedDownloads.status(downloadId, readOptions(request, call.signal));
      return { download: encodeDownload(status) };
    },
    async releaseDownload(request, call) {
      const downloadId = toNumber(request.downloadId, "download_id");
      const { requestId, signal } = writeOptions(request, call.signal);
      await drive().preparedDownloads.release(downloadId, { requestId, signal });
      return {};
    },
    async *readDownload(request, call) {
      const downloadId = toNumber(request.downloadId, "download_id");
      const opened = await drive().preparedDownloads.open(downloadId, readOptions(request, call.signal));
      const { sizeBytes, entryCount, etag, name } = opened;
      const offset = toNumber(request.offset, "offset");
      const length = toOptionalNumber(request.length, "length") ?? Math.max(0, sizeBytes - offset);
      // Before the description, so that a range beyond the end is refused by the first answer.
      const pieces = opened.read(offset, length, call.signal)[Symbol.asyncIterator]();
      try {
        let next = await pieces.next();
        yield {
          description: { sizeBytes: toBigint(sizeBytes), entryCount: toBigint(entryCount), etag, name },
        };
        for (let at = offset; next.done !== true; next = await pieces.next()) {
          yield { offset: toBigint(at), data: next.value };
          at += next.value.length;
        }
      } finally {
        await pieces.return?.();
      }
    },
  };
}
