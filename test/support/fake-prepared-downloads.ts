/** Prepared downloads as a test wants them: the states it put there, one after the other, and the bytes it gave. */
import { DriveError } from "../../src/drive/errors.ts";
import type { EntryRef, WriteOptions } from "../../src/drive/drive-api.ts";
import type {
  OpenedDownload,
  PreparedDownloadApi,
  PreparedDownloadRequest,
  PreparedDownloadStatus,
} from "../../src/drive/prepared-download.ts";

/** A state with defaults. */
export function downloadStatus(overrides: Partial<PreparedDownloadStatus> = {}): PreparedDownloadStatus {
  return {
    downloadId: 12,
    state: "waiting",
    name: "照片.zip",
    readBytes: 0,
    totalBytes: 0,
    sizeBytes: undefined,
    entryCount: undefined,
    etag: undefined,
    expireTimeMs: undefined,
    error: undefined,
    ...overrides,
  };
}

/** A state of one that can be read. */
export const readyStatus = (sizeBytes: number): PreparedDownloadStatus =>
  downloadStatus({
    state: "done",
    readBytes: 90,
    totalBytes: 90,
    sizeBytes,
    entryCount: 3,
    etag: "abc",
    expireTimeMs: Date.UTC(2026, 10, 23),
  });

/** See the file's comment. */
export class FakePreparedDownloads implements PreparedDownloadApi {
  /** What is read. */
  bytes: Uint8Array;
  /** States that status() tells, the last one for ever. */
  states: PreparedDownloadStatus[];
  readonly asked: { readonly sources: readonly EntryRef[]; readonly name?: string | undefined }[] = [];
  readonly requestIds: (string | undefined)[] = [];
  /** Ranges that were read, as [offset, length]. */
  readonly ranges: [number, number][] = [];
  /** Reads deliver this many bytes, then fail with it. */
  breakAfter: { readonly sizeBytes: number; readonly error: DriveError } | undefined;
  failure: DriveError | undefined;
  /** Downloads that were released. */
  readonly released: number[] = [];
  releaseFailure: DriveError | undefined;

  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
    this.states = [readyStatus(bytes.length)];
  }

  prepare(request: PreparedDownloadRequest, options: WriteOptions = {}): Promise<PreparedDownloadStatus> {
    if (this.failure !== undefined) return Promise.reject(this.failure);
    this.asked.push(request);
    this.requestIds.push(options.requestId);
    return Promise.resolve(downloadStatus());
  }

  status(): Promise<PreparedDownloadStatus> {
    if (this.failure !== undefined) return Promise.reject(this.failure);
    const [next] = this.states;
    if (this.states.length > 1) this.states.shift();
    return Promise.resolve(next ?? downloadStatus());
  }

  open(downloadId: number): Promise<OpenedDownload> {
    if (this.failure !== undefined) return Promise.reject(this.failure);
    const { name } = downloadStatus();
    const about = { downloadId, name, sizeBytes: this.bytes.length, entryCount: 3 };
    const read = (offset: number, length: number): AsyncIterable<Uint8Array> => this.#read(offset, length);
    return Promise.resolve({ ...about, etag: "abc", expireTimeMs: 0, read });
  }

  release(downloadId: number): Promise<void> {
    const failure = this.releaseFailure ?? this.failure;
    if (failure !== undefined) return Promise.reject(failure);
    this.released.push(downloadId);
    return Promise.resolve();
  }

  async *#read(offset: number, length: number): AsyncGenerator<Uint8Array, void, undefined> {
    this.ranges.push([offset, length]);
    if (offset + length > this.bytes.length) {
      throw new DriveError("RANGE_NOT_SATISFIABLE", `There are ${this.bytes.length} bytes.`);
    }
    const broken = this.breakAfter;
    this.breakAfter = undefined;
    const end = offset + Math.min(length, broken?.sizeBytes ?? length);
    for (let at = offset; at < end; at += 1000) {
      await Promise.resolve();
      yield this.bytes.subarray(at, Math.min(end, at + 1000));
    }
    if (broken !== undefined) throw broken.error;
  }
}
