/**
 * The whole drive as this node offers it: DriveApi over the replicated tree and the chunk stores of the cluster.
 *
 * Holds no rules of its own: reads are tree-reads.ts, changes are commands, bytes are uploads and downloads. Reads are
 * linearizable unless they say "stale". Every change carries a request id; one is made where the caller gave none. Paths are
 * parsed here, so nothing below sees an unchecked name.
 */
import { noCatalog, type CatalogApi } from "../drive/catalog.ts";
import { noTasks, type TaskApi } from "../drive/task.ts";
import type { Change } from "../drive/change.ts";
import type {
  ChunkReceipt,
  ClusterStatus,
  CompleteOptions,
  Download,
  DriveApi,
  Durability,
  EntryPage,
  EntryRef,
  NodeReport,
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
import type { EntryAttributes, Locator, OnConflict } from "../drive/entry.ts";
import { DriveError } from "../drive/errors.ts";
import { formatPath } from "../drive/path.ts";
import { noPreparedDownloads, type PreparedDownloadApi } from "../drive/prepared-download.ts";
import type { CommandBody } from "../metadata/commands.ts";
import { ticketKeys } from "../metadata/ticket-keys.ts";
import { clusterTime } from "../metadata/view.ts";
import { deferred } from "../std/deferred.ts";
import { watchChanges } from "./change-watch.ts";
import { clusterStatus, type ConsensusView } from "./cluster-status.ts";
import type { DataPlane } from "./data-plane.ts";
import { ContentDownload, checkExtents } from "./download.ts";
import { locatorOf, newPathLocator } from "./locators.ts";
import { openUploads } from "./open-uploads.ts";
import { PreparedTally } from "./prepared-tally.ts";
import { PutAttempts } from "./put-attempts.ts";
import { FilePutter } from "./put-file.ts";
import type { ProgressRelay } from "./progress-relay.ts";
import { ticketFor } from "./ticket.ts";
import { TreeReads } from "./tree-reads.ts";
import { UploadManager } from "./upload-manager.ts";
import { settleUpload, watchUpload } from "./upload-watch.ts";
import type { OpenedFile } from "./voter-feed.ts";

/** How long stop() waits for background work, such as a third seal that is late. */
export const STOP_WAIT_MS = 2000;

/** What nodes tell of themselves in a service that they share. */
export interface NodeReports {
  /** The reports that are there. Never fails, and never takes long. */
  read(memberIds: readonly number[]): Promise<ReadonlyMap<number, NodeReport>>;
}

/** What a LocalDrive needs beside the data plane. */
export interface LocalDriveOptions {
  readonly plane: DataPlane;
  /** Term and commit index for status; consensus/ knows them. */
  readonly consensus: ConsensusView;
  /** What keeps this node from serving; empty when nothing does. */
  readonly problems: () => readonly string[];
  /** The catalog; none when absent. */
  readonly catalog?: CatalogApi | undefined;
  /** Answers linearizable stat() in place of the tree; see cache/cached-stat.ts. */
  readonly cached?: Pick<DriveApi, "stat"> | undefined;
  /** Hears of uploads at other nodes; they are asked when absent. */
  readonly relay?: ProgressRelay | undefined;
  /** What nodes told of themselves, for the status. */
  readonly reports?: NodeReports | undefined;
  /** The tasks; none when absent. */
  readonly tasks?: TaskApi | undefined;
  /** Prepared downloads; none when absent. */
  readonly preparedDownloads?: PreparedDownloadApi | undefined;
  /** Services outside of the node. */
  readonly services?: (() => readonly ServiceStatus[]) | undefined;
}

/** The drive at this node. */
export class LocalDrive implements DriveApi {
  readonly #plane: DataPlane;
  readonly #options: LocalDriveOptions;
  readonly #reads: TreeReads;
  readonly #uploads: UploadManager;
  readonly #attempts: PutAttempts;
  readonly #putter: FilePutter;
  readonly #tally: PreparedTally;
  #downloadCount = 0;

  constructor(options: LocalDriveOptions) {
    this.#options = options;
    this.#plane = options.plane;
    const { relay } = options;
    if (relay !== undefined) options.plane.progress.tell((transfer) => relay.changed(transfer));
    this.#reads = new TreeReads(options.plane.metadata);
    this.#tally = new PreparedTally(options.plane.clock, options.plane.metadata.port);
    this.#uploads = new UploadManager(options.plane);
    this.#attempts = new PutAttempts(options.plane, this.#uploads);
    this.#putter = new FilePutter(options.plane, this.#uploads, this.#attempts);
  }

  /** Gives up uploads under way and waits, not for long, for background work: the loops of other nodes find it again. */
  async stop(): Promise<void> {
    this.#uploads.stop();
    const over = deferred<void>();
    const timer = this.#plane.clock.setTimer(STOP_WAIT_MS, () => over.resolve());
    await Promise.race([this.#plane.chores.idle(), over.promise]);
    timer.cancel();
  }

  stat(ref: EntryRef, options?: ReadOptions): Promise<PathEntry> {
    const { cached } = this.#options;
    if (cached !== undefined && options?.consistency !== "stale") return cached.stat(ref, options);
    return this.#reads.stat(ref, options);
  }

  async durability(ref: EntryRef, options?: ReadOptions): Promise<Durability> {
    const { entry } = await this.#reads.statFile(ref, options);
    const { verifiedCount, memberIds, oldestCheckAgeMs } = this.#reads.durability(entry);
    const nodeIds = memberIds.map((memberId) => this.#plane.directory.nodeIdOf(memberId));
    return { verifiedCount, nodeIds, oldestCheckAgeMs };
  }

  list(
    ref: EntryRef,
    page: { cursor?: string | undefined; countMax: number },
    options?: ReadOptions,
  ): Promise<EntryPage> {
    return this.#reads.list(ref, page, options);
  }

  createDirectory(
    path: string,
    settings: { createParents: boolean; existOk: boolean; attributes: EntryAttributes },
    options: WriteOptions = {},
  ): Promise<PathEntry> {
    const precondition = options.precondition ?? {};
    return this.#change(
      { kind: "create-directory", at: newPathLocator(path), ...settings, precondition },
      options,
    );
  }

  move(ref: EntryRef, to: string, onConflict: OnConflict, options: WriteOptions = {}): Promise<PathEntry> {
    const where = this.#fromTo(ref, to);
    const precondition = options.precondition ?? {};
    return this.#change({ kind: "move-entry", ...where, onConflict, precondition }, options);
  }

  copy(ref: EntryRef, to: string, onConflict: OnConflict, options: WriteOptions = {}): Promise<PathEntry> {
    const where = this.#fromTo(ref, to);
    const precondition = options.precondition ?? {};
    return this.#change({ kind: "copy-entry", ...where, onConflict, precondition }, options);
  }

  async remove(ref: EntryRef, settings: { recursive: boolean }, options: WriteOptions = {}): Promise<void> {
    const precondition = options.precondition ?? {};
    const { recursive } = settings;
    await this.#plane.metadata.applyAny(
      { kind: "delete-entry", at: locatorOf(ref), recursive, precondition },
      options,
    );
  }

  update(ref: EntryRef, attributes: EntryAttributes, options: WriteOptions = {}): Promise<PathEntry> {
    const precondition = options.precondition ?? {};
    return this.#change({ kind: "update-entry", at: locatorOf(ref), attributes, precondition }, options);
  }

  initUpload(request: UploadRequest, options?: WriteOptions): Promise<UploadTicket> {
    return this.#attempts.init(request, options);
  }

  writeChunk(
    uploadId: number,
    chunkIndex: number,
    bytes: Uint8Array,
    digest: Uint8Array | undefined,
    signal?: AbortSignal,
  ): Promise<ChunkReceipt> {
    return this.#uploads.writeChunk(uploadId, chunkIndex, bytes, digest, signal);
  }

  completeUpload(uploadId: number, settings: CompleteOptions, options?: WriteOptions): Promise<PathEntry> {
    return this.#uploads.complete(uploadId, settings, options);
  }

  uploadStatus(uploadId: number, options?: ReadOptions): Promise<UploadStatus> {
    return this.#uploads.status(uploadId, options);
  }

  abortUpload(uploadId: number, options?: WriteOptions): Promise<void> {
    return this.#uploads.abort(uploadId, options);
  }

  openUploads(
    page: { readonly cursor?: string | undefined; readonly countMax: number },
    options?: ReadOptions,
  ): Promise<OpenUploadPage> {
    return openUploads(this.#plane, page, options);
  }

  putFile(
    request: UploadRequest,
    body: AsyncIterable<Uint8Array>,
    options?: WriteOptions,
  ): Promise<PathEntry> {
    return this.#putter.put(request, body, options);
  }

  async openDownload(ref: EntryRef, options?: ReadOptions): Promise<Download> {
    const file = await this.#reads.statFile(ref, options);
    const extents = this.#reads.extentsOf(file.entry);
    checkExtents(file.entry, extents);
    this.#downloadCount += 1;
    return new ContentDownload(
      this.#plane,
      file,
      () => extents,
      `download-${file.entry.entryId}-${this.#downloadCount}`,
    );
  }

  /** Opens a file for a storage-only member to serve: a ticket for it alone, and where the bytes are. Errors as openDownload(). */
  async openFor(memberId: number, ref: EntryRef, options?: ReadOptions): Promise<OpenedFile> {
    const { entry, path } = await this.#reads.statFile(ref, options);
    const extents = this.#reads.extentsOf(entry);
    checkExtents(entry, extents);
    const reader = this.#plane.metadata.port.reader();
    const [key] = ticketKeys(reader);
    if (key === undefined) throw new DriveError("NODE_STARTING", "The cluster has no key for tickets yet.");
    return { ticket: ticketFor(entry, memberId, clusterTime(reader), key), path, extents };
  }

  watchProgress(id: string, signal?: AbortSignal): AsyncIterable<Progress> {
    const { progress } = this.#plane;
    if (progress.find(id)?.kind === "download") return progress.watch(id, signal);
    return watchUpload(this.#plane, id, signal, this.#options.relay);
  }

  watchChanges(afterIndex: number, signal?: AbortSignal): AsyncIterable<readonly Change[]> {
    return watchChanges(this.#plane.metadata.port, afterIndex, signal);
  }

  async cluster(options: ReadOptions = {}): Promise<ClusterStatus> {
    if (options.consistency === "linearizable") {
      await this.#plane.metadata.port.linearize({ signal: options.signal });
    }
    const prepared = await this.#tally.count(options.signal);
    const status = clusterStatus(this.#plane, this.#options.consensus, prepared, this.#options.services?.());
    const { reports } = this.#options;
    if (reports === undefined) return status;
    const found = await reports.read(status.nodes.map(({ memberId }) => memberId));
    const nodes = status.nodes.map((node) => ({ ...node, report: found.get(node.memberId) }));
    return { ...status, nodes };
  }

  /** Transfers under way at this node, at most `countMax` of the newest. */
  runningTransfers(countMax: number): readonly Progress[] {
    const { progress } = this.#plane;
    for (const { id, kind } of progress.running(countMax)) {
      const own = progress.find(id);
      if (kind === "upload" && own !== undefined) settleUpload(this.#plane, own);
    }
    return progress.running(countMax);
  }

  async startScrub(options: WriteOptions = {}): Promise<void> {
    await this.#plane.metadata.applyIdempotent({ kind: "request-scrub" }, { signal: options.signal });
  }

  async setDraining(nodeId: string, draining: boolean, options: WriteOptions = {}): Promise<void> {
    const { signal } = options;
    const { directory, metadata } = this.#plane;
    await metadata.port.linearize({ signal });
    const member =
      directory.named(nodeId) ?? directory.members().find(({ memberId }) => String(memberId) === nodeId);
    if (member === undefined) {
      throw new DriveError("MEMBER_NOT_FOUND", `There is no node ${JSON.stringify(nodeId)} in the cluster.`, {
        node: nodeId,
      });
    }
    const { memberId } = member;
    await metadata.applyIdempotent({ kind: "set-draining", memberId, draining }, { signal });
  }

  readiness(): Readiness {
    const problems = this.#options.problems();
    return { ready: problems.length === 0, problems, services: this.#options.services?.() };
  }

  get tasks(): TaskApi {
    return this.#options.tasks ?? noTasks;
  }

  get catalog(): CatalogApi {
    return this.#options.catalog ?? noCatalog;
  }

  get preparedDownloads(): PreparedDownloadApi {
    return this.#options.preparedDownloads ?? noPreparedDownloads;
  }

  async #change(body: CommandBody, options: WriteOptions): Promise<PathEntry> {
    const { entry, path } = await this.#plane.metadata.applyEntry(body, options);
    return { entry, path: formatPath(path) };
  }

  #fromTo(ref: EntryRef, to: string): { readonly source: Locator; readonly to: Locator } {
    const target = newPathLocator(to);
    if (target.path.length === 0) {
      throw new DriveError("PATH_EXISTS", "The root is there already.", { path: "/" });
    }
    return { source: locatorOf(ref), to: target };
  }
}
