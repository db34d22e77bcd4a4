/**
 * Prepared downloads for users: asking for one, its state, and opening it at any node.
 *
 * The task table says what is to be done and how far it is; what was made lies below the system's root (snapshot.ts). Where both
 * are gone nobody knows the download any more; where only the second is, its time is over.
 */
import type { EntryRef, PathEntry, ReadOptions, WriteOptions } from "../drive/drive-api.ts";
import { ROOT_ENTRY_ID } from "../drive/entry.ts";
import { DriveError, hasReason } from "../drive/errors.ts";
import { PREPARED_DOWNLOAD_COUNT_MAX, PREPARED_DOWNLOAD_SOURCE_COUNT_MAX } from "../drive/limits.ts";
import { parseNewName } from "../drive/path.ts";
import type {
  OpenedDownload,
  PreparedDownloadApi,
  PreparedDownloadRequest,
  PreparedDownloadStatus,
} from "../drive/prepared-download.ts";
import { ENDED_TASK_STATES, type Task, type TaskRequest, type TaskWriteOptions } from "../drive/task.ts";
import { clusterTime } from "../metadata/view.ts";
import { utf8 } from "../std/bytes.ts";
import { ArchiveDownload } from "./archive-download.ts";
import type { DataPlane } from "./data-plane.ts";
import type { DownloadMaker, DownloadOrder } from "./download-maker.ts";
import { LayoutStore } from "./layout-store.ts";
import { locatorOf } from "./locators.ts";
import { Snapshots, type KeptDownload } from "./snapshot.ts";
import type { TreeReads } from "./tree-reads.ts";

const SUFFIX = ".zip";
/** Name of an archive of several files or folders, and of one whose own name does not do. */
const NAME_DEFAULT = `netdisk${SUFFIX}`;

/** What prepared downloads need of the table of tasks. */
export interface DownloadTasks {
  create(request: TaskRequest, options?: WriteOptions): Promise<Task>;
  /** Errors: TASK_NOT_FOUND. */
  get(taskId: number, options?: ReadOptions): Promise<Task>;
  /** Errors: TASK_NOT_FOUND, TASK_STATE_CONFLICT. */
  cancel(taskId: number, options?: TaskWriteOptions): Promise<Task>;
}

/** What a PreparedDownloads needs. */
export interface PreparedDownloadsOptions {
  readonly plane: DataPlane;
  readonly reads: TreeReads;
  readonly tasks: DownloadTasks;
  /** Downloads kept at once; PREPARED_DOWNLOAD_COUNT_MAX when absent. */
  readonly downloadCountMax?: number | undefined;
}

/** Prepared downloads at this node. */
export class PreparedDownloads implements PreparedDownloadApi {
  readonly #options: PreparedDownloadsOptions;
  readonly #snapshots: Snapshots;
  readonly #layouts: LayoutStore;

  constructor(options: PreparedDownloadsOptions) {
    this.#options = options;
    this.#snapshots = new Snapshots(options.plane.metadata, options.reads);
    this.#layouts = new LayoutStore(options.plane);
  }

  async prepare(
    request: PreparedDownloadRequest,
    options: WriteOptions = {},
  ): Promise<PreparedDownloadStatus> {
    const { signal } = options;
    const sources = await this.#find(request.sources, signal);
    const name = request.name === undefined ? nameOf(sources) : withSuffix(request.name);
    const countMax = this.#options.downloadCountMax ?? PREPARED_DOWNLOAD_COUNT_MAX;
    if ((await this.#snapshots.list(countMax, { signal })).length >= countMax) {
      throw new DriveError("OVERLOADED", `${countMax} prepared downloads are kept; wait until one expires.`, {
        download_count_max: String(countMax),
      });
    }
    const entryIds = sources.map(({ entry }) => entry.entryId);
    const parameters = encodeJson({ entryIds, name });
    const task = await this.#options.tasks.create(
      { kind: "download", key: "", parameters },
      { requestId: options.requestId, signal },
    );
    return this.#statusOf(task, undefined);
  }

  async status(downloadId: number, options: ReadOptions = {}): Promise<PreparedDownloadStatus> {
    const task = await this.#task(downloadId, options);
    return this.#statusOf(task, await this.#snapshots.find(downloadId, options));
  }

  async open(downloadId: number, options: ReadOptions = {}): Promise<OpenedDownload> {
    const kept = await this.#snapshots.find(downloadId, options);
    const file = kept?.layout;
    if (kept === undefined || file === undefined) return this.#refuse(downloadId, options);
    const { expireTimeMs } = kept;
    if (this.#now() > expireTimeMs) throw expired(downloadId);
    const stored = await this.#layouts.open(file, options.signal);
    return new ArchiveDownload(this.#options.plane, { downloadId, expireTimeMs, file }, stored);
  }

  async release(downloadId: number, options: TaskWriteOptions = {}): Promise<void> {
    const { signal } = options;
    const kept = await this.#snapshots.find(downloadId, { signal });
    try {
      const { state } = await this.#task(downloadId, { signal });
      if (!ENDED_TASK_STATES.has(state)) await this.#options.tasks.cancel(downloadId, options);
    } catch (error) {
      // The task may have ended by itself just now, and tasks are forgotten before long, also while what they made is kept.
      const isOver =
        hasReason(error, "TASK_STATE_CONFLICT") || (hasReason(error, "TASK_NOT_FOUND") && kept !== undefined);
      if (!isOver) throw error;
    }
    // What a worker that has not heard of it yet makes after this is given back by the sweeper, as its task was cancelled.
    await this.#snapshots.remove(downloadId, signal);
  }

  /** Says why there is nothing to open. */
  async #refuse(downloadId: number, options: ReadOptions): Promise<never> {
    const { state, error } = await this.#task(downloadId, options);
    const metadata = { download_id: String(downloadId), state };
    switch (state) {
      case "waiting":
      case "running":
        throw new DriveError("DOWNLOAD_NOT_READY", `Download ${downloadId} is being prepared.`, metadata);
      case "done":
        throw expired(downloadId);
      case "cancelled":
        throw new DriveError("DOWNLOAD_FAILED", `Preparing download ${downloadId} was cancelled.`, metadata);
      case "failed":
        throw new DriveError(
          "DOWNLOAD_FAILED",
          `Download ${downloadId} could not be prepared: ${error?.message ?? "no reason is known."}`,
          { ...metadata, ...(error === undefined ? {} : { task_reason: error.reason }) },
        );
    }
  }

  async #task(downloadId: number, options: ReadOptions): Promise<Task> {
    const task = await this.#options.tasks.get(downloadId, options);
    if (task.kind === "download") return task;
    throw new DriveError("TASK_NOT_FOUND", `Task ${downloadId} prepares no download.`, {
      task_id: String(downloadId),
    });
  }

  #now(): number {
    return clusterTime(this.#options.plane.metadata.port.reader());
  }

  #statusOf(task: Task, kept: KeptDownload | undefined): PreparedDownloadStatus {
    const { name } = decodeOrder(task);
    const result = task.state === "done" ? decodeResult(task.result) : undefined;
    const leftMs = kept?.layout === undefined ? undefined : kept.expireTimeMs - this.#now();
    return {
      downloadId: task.taskId,
      state: task.state,
      name,
      readBytes: task.progress.doneCount,
      totalBytes: task.progress.totalCount,
      sizeBytes: result?.sizeBytes,
      entryCount: result?.entryCount,
      etag: result?.etag,
      expireTimeMs:
        result === undefined || leftMs === undefined
          ? undefined
          : this.#options.plane.clock.wallMs() + leftMs,
      error: task.error,
    };
  }

  async #find(refs: readonly EntryRef[], signal: AbortSignal | undefined): Promise<readonly PathEntry[]> {
    if (refs.length < 1 || refs.length > PREPARED_DOWNLOAD_SOURCE_COUNT_MAX) {
      throw new DriveError(
        "ARGUMENT_INVALID",
        `A prepared download is made of 1 to ${PREPARED_DOWNLOAD_SOURCE_COUNT_MAX} files and folders, not ${refs.length}.`,
        { source_count: String(refs.length), source_count_max: String(PREPARED_DOWNLOAD_SOURCE_COUNT_MAX) },
      );
    }
    const sources: PathEntry[] = [];
    for (const [i, ref] of refs.entries()) {
      // One question to the quorum is enough for all.
      const consistency = i === 0 ? "linearizable" : "stale";
      const { entry, path } = await this.#options.reads.find(locatorOf(ref), { consistency, signal });
      sources.push({ entry, path: `/${path.join("/")}` });
    }
    return sources;
  }
}

/** What runs a task that prepares a download. */
export class DownloadTaskHandler {
  readonly #maker: DownloadMaker;
  readonly #downloads: PreparedDownloads;

  constructor(maker: DownloadMaker, downloads: PreparedDownloads) {
    this.#maker = maker;
    this.#downloads = downloads;
  }

  /**
   * Prepares what the task says; returns what the task is to keep as its result.
   * @throws DriveError as DownloadMaker.make(), and ARGUMENT_INVALID for parameters that are none
   */
  async run(
    task: Task,
    work: {
      readonly signal: AbortSignal;
      progress(doneCount: number, totalCount: number): void;
    },
  ): Promise<Uint8Array> {
    await this.#maker.make(decodeOrder(task), work.signal, (read, total) => work.progress(read, total));
    const { sizeBytes, entryCount, etag } = await this.#downloads.open(task.taskId, { signal: work.signal });
    return encodeJson({ sizeBytes, entryCount, etag });
  }
}

function expired(downloadId: number): DriveError {
  return new DriveError("DOWNLOAD_EXPIRED", `Download ${downloadId} is no longer kept.`, {
    download_id: String(downloadId),
  });
}

function nameOf(sources: readonly PathEntry[]): string {
  const [only] = sources;
  if (sources.length > 1 || only === undefined || only.entry.entryId === ROOT_ENTRY_ID) return NAME_DEFAULT;
  try {
    return parseNewName(`${only.entry.name}${SUFFIX}`);
  } catch (error) {
    // Too long with the suffix, or stored before the rules for names were as they are.
    if (hasReason(error, "NAME_TOO_LONG", "PATH_INVALID")) return NAME_DEFAULT;
    throw error;
  }
}

function withSuffix(name: string): string {
  return parseNewName(name.toLowerCase().endsWith(SUFFIX) ? name : `${name}${SUFFIX}`);
}

function encodeJson(value: unknown): Uint8Array {
  return utf8(JSON.stringify(value));
}

function decodeJson(bytes: Uint8Array): Readonly<Record<string, unknown>> {
  try {
    const value: unknown = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
    if (typeof value === "object" && value !== null) return value as Record<string, unknown>;
  } catch (error) {
    throw new DriveError("ARGUMENT_INVALID", "What the task says is not JSON.", {}, error);
  }
  throw new DriveError("ARGUMENT_INVALID", "What the task says is no object.");
}

function decodeOrder({ taskId, parameters }: Pick<Task, "taskId" | "parameters">): DownloadOrder {
  const { entryIds, name } = decodeJson(parameters);
  const isId = (id: unknown): id is number => Number.isSafeInteger(id) && (id as number) > 0;
  const isGood =
    Array.isArray(entryIds) && entryIds.length > 0 && entryIds.every(isId) && typeof name === "string";
  if (!isGood) throw new DriveError("ARGUMENT_INVALID", "The task does not say what to download.");
  return { downloadId: taskId, entryIds, name: parseNewName(name) };
}

function decodeResult(bytes: Uint8Array): {
  readonly sizeBytes: number;
  readonly entryCount: number;
  readonly etag: string;
} {
  const { sizeBytes, entryCount, etag } = decodeJson(bytes);
  return { sizeBytes: Number(sizeBytes), entryCount: Number(entryCount), etag: String(etag) };
}
