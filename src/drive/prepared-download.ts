/**
 * Prepared downloads: folders and files as one ZIP archive whose every byte is settled before the first one is sent.
 *
 * Preparing takes a snapshot of what was named, reads each file once for its checksum and stores the layout of the archive in the
 * drive. From then on any node serves any range of it, the same bytes whatever happens to the files, until its time is over.
 */
import type { EntryRef, ReadOptions, WriteOptions } from "./call-options.ts";
import { DriveError } from "./errors.ts";
import type { TaskError, TaskState } from "./task.ts";

/** What a prepared download is to hold. */
export interface PreparedDownloadRequest {
  /** 1 to PREPARED_DOWNLOAD_SOURCE_COUNT_MAX files and folders; the root stands for what is in it. */
  readonly sources: readonly EntryRef[];
  /** Name of the archive; made from the only source's when absent. ".zip" is added where it does not end so. */
  readonly name?: string | undefined;
}

/** How far a prepared download is. */
export interface PreparedDownloadStatus {
  /** Names it; also the id of the task that prepares it. */
  readonly downloadId: number;
  readonly state: TaskState;
  /** Name of the archive. */
  readonly name: string;
  /** Bytes of files read so far, and in all; both 0 until they are known. */
  readonly readBytes: number;
  readonly totalBytes: number;
  /** Once it is done: what openPrepared() gives. */
  readonly sizeBytes: number | undefined;
  readonly entryCount: number | undefined;
  readonly etag: string | undefined;
  /** Once it is done: wall time, reckoned by the answering node from cluster time, which decides. */
  readonly expireTimeMs: number | undefined;
  /** Why the last attempt failed. */
  readonly error: TaskError | undefined;
}

/** A prepared download opened for reading. */
export interface OpenedDownload {
  readonly downloadId: number;
  readonly name: string;
  readonly sizeBytes: number;
  readonly entryCount: number;
  /** Opaque; equal for equal bytes only. */
  readonly etag: string;
  /** Cluster time. */
  readonly expireTimeMs: number;
  /**
   * The bytes [offset, offset + length) of the archive, in pieces, each verified before it is handed out; other copies are tried
   * where one fails. Errors while reading: CHUNK_LOST, CANCELED.
   */
  read(offset: number, length: number, signal?: AbortSignal): AsyncIterable<Uint8Array>;
}

/** Prepares downloads. */
export interface PreparedDownloadApi {
  /**
   * Asks for a download; it is prepared in the background. The same request id again answers the first one.
   * Errors: PATH_NOT_FOUND, PATH_INVALID, ARGUMENT_INVALID (sources), OVERLOADED.
   */
  prepare(request: PreparedDownloadRequest, options?: WriteOptions): Promise<PreparedDownloadStatus>;
  /** How far it is. Errors: TASK_NOT_FOUND. */
  status(downloadId: number, options?: ReadOptions): Promise<PreparedDownloadStatus>;
  /** Opens it for reading. Errors: TASK_NOT_FOUND, DOWNLOAD_NOT_READY, DOWNLOAD_FAILED, DOWNLOAD_EXPIRED. */
  open(downloadId: number, options?: ReadOptions): Promise<OpenedDownload>;
  /**
   * Gives back what it keeps, now, and ends preparing it; harmless twice. Who reads it is told DOWNLOAD_EXPIRED within minutes, if
   * reading takes longer than that.
   * Errors: TASK_NOT_FOUND.
   */
  release(downloadId: number, options?: Omit<WriteOptions, "precondition">): Promise<void>;
}

/** For a drive that prepares no downloads. */
export const noPreparedDownloads: PreparedDownloadApi = {
  prepare: refuse,
  status: refuse,
  open: refuse,
  release: refuse,
};

function refuse(): Promise<never> {
  return Promise.reject(new DriveError("NODE_STARTING", "There is nobody yet who prepares downloads."));
}
