/**
 * A DriveApi that stands in front of one which is still being started: calls that come too early fail with the reason.
 *
 * The gateway listens before the cluster is formed, so that health checks and people get an answer from the first moment on.
 */
import type { CatalogApi } from "../drive/catalog.ts";
import type { Change } from "../drive/change.ts";
import type {
  ChunkReceipt,
  ClusterStatus,
  CompleteOptions,
  Download,
  DownloadOptions,
  DriveApi,
  Durability,
  EntryPage,
  EntryRef,
  OpenUploadPage,
  PathEntry,
  Progress,
  Readiness,
  ReadOptions,
  ServiceStatus,
  UploadRequest,
  UploadStatus,
  UploadTicket,
  WriteOptions,
} from "../drive/drive-api.ts";
import type { PreparedDownloadApi } from "../drive/prepared-download.ts";
import type { EntryAttributes, OnConflict } from "../drive/entry.ts";
import type { TaskApi } from "../drive/task.ts";

/** Hands every call on to the drive, once there is one. */
export class LateDrive implements DriveApi {
  readonly #drive: () => DriveApi;
  readonly #problems: () => readonly string[];
  readonly #services: () => readonly ServiceStatus[];
  readonly #warnings: () => readonly string[];

  /**
   * @param drive the drive; throws NODE_STARTING or NODE_STOPPING while there is none
   * @param problems what keeps the node from serving, at any time
   * @param services services outside of the node, at any time
   * @param warnings what an operator should look at, at any time
   */
  constructor(
    drive: () => DriveApi,
    problems: () => readonly string[],
    services: () => readonly ServiceStatus[],
    warnings: () => readonly string[],
  ) {
    this.#warnings = warnings;
    this.#services = services;
    this.#drive = drive;
    this.#problems = problems;
  }

  async stat(ref: EntryRef, options?: ReadOptions): Promise<PathEntry> {
    return this.#drive().stat(ref, options);
  }

  async durability(ref: EntryRef, options?: ReadOptions): Promise<Durability> {
    return this.#drive().durability(ref, options);
  }

  async list(
    ref: EntryRef,
    page: { cursor?: string | undefined; countMax: number },
    options?: ReadOptions,
  ): Promise<EntryPage> {
    return this.#drive().list(ref, page, options);
  }

  async createDirectory(
    path: string,
    settings: { createParents: boolean; existOk: boolean; attributes: EntryAttributes },
    options?: WriteOptions,
  ): Promise<PathEntry> {
    return this.#drive().createDirectory(path, settings, options);
  }

  async move(ref: EntryRef, to: string, onConflict: OnConflict, options?: WriteOptions): Promise<PathEntry> {
    return this.#drive().move(ref, to, onConflict, options);
  }

  async copy(ref: EntryRef, to: string, onConflict: OnConflict, options?: WriteOptions): Promise<PathEntry> {
    return this.#drive().copy(ref, to, onConflict, options);
  }

  async remove(ref: EntryRef, settings: { recursive: boolean }, options?: WriteOptions): Promise<void> {
    return this.#drive().remove(ref, settings, options);
  }

  async update(ref: EntryRef, attributes: EntryAttributes, options?: WriteOptions): Promise<PathEntry> {
    return this.#drive().update(ref, attributes, options);
  }

  async initUpload(request: UploadRequest, options?: WriteOptions): Promise<UploadTicket> {
    return this.#drive().initUpload(request, options);
  }

  async writeChunk(
    uploadId: number,
    chunkIndex: number,
    bytes: Uint8Array,
    digest: Uint8Array | undefined,
    signal?: AbortSignal,
  ): Promise<ChunkReceipt> {
    return this.#drive().writeChunk(uploadId, chunkIndex, bytes, digest, signal);
  }

  async completeUpload(
    uploadId: number,
    settings: CompleteOptions,
    options?: WriteOptions,
  ): Promise<PathEntry> {
    return this.#drive().completeUpload(uploadId, settings, options);
  }

  async uploadStatus(uploadId: number, options?: ReadOptions): Promise<UploadStatus> {
    return this.#drive().uploadStatus(uploadId, options);
  }

  async abortUpload(uploadId: number, options?: WriteOptions): Promise<void> {
    return this.#drive().abortUpload(uploadId, options);
  }

  async openUploads(
    page: { readonly cursor?: string | undefined; readonly countMax: number },
    options?: ReadOptions,
  ): Promise<OpenUploadPage> {
    return this.#drive().openUploads(page, options);
  }

  async putFile(
    request: UploadRequest,
    body: AsyncIterable<Uint8Array>,
    options?: WriteOptions,
  ): Promise<PathEntry> {
    return this.#drive().putFile(request, body, options);
  }

  async openDownload(ref: EntryRef, options?: DownloadOptions): Promise<Download> {
    return this.#drive().openDownload(ref, options);
  }

  watchProgress(id: string, signal?: AbortSignal): AsyncIterable<Progress> {
    return this.#drive().watchProgress(id, signal);
  }

  watchChanges(afterIndex: number, signal?: AbortSignal): AsyncIterable<readonly Change[]> {
    return this.#drive().watchChanges(afterIndex, signal);
  }

  async cluster(options?: ReadOptions): Promise<ClusterStatus> {
    return this.#drive().cluster(options);
  }

  async startScrub(options?: WriteOptions): Promise<void> {
    return this.#drive().startScrub(options);
  }

  async setDraining(nodeId: string, draining: boolean, options?: WriteOptions): Promise<void> {
    return this.#drive().setDraining(nodeId, draining, options);
  }

  /** @throws DriveError NODE_STARTING or NODE_STOPPING */
  get catalog(): CatalogApi {
    return this.#drive().catalog;
  }

  /** @throws DriveError NODE_STARTING or NODE_STOPPING */
  get tasks(): TaskApi {
    return this.#drive().tasks;
  }

  /** @throws DriveError NODE_STARTING or NODE_STOPPING */
  get preparedDownloads(): PreparedDownloadApi {
    return this.#drive().preparedDownloads;
  }

  readiness(): Readiness {
    const problems = this.#problems();
    return { ready: problems.length === 0, problems, services: this.#services(), warnings: this.#warnings() };
  }
}
