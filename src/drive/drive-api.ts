/**
 * The port that every edge talks to: the whole drive as one node offers it.
 *
 * gateway/ (HTTP), rpc/ (gRPC services) and the tests use nothing else. node/local-drive.ts implements it over transfer/ and
 * metadata/. Every method may fail with the reasons of drive/errors.ts; those that matter are named. Every mutation takes a
 * request id: the same id again, within REQUEST_RETENTION_MS, returns the first answer and changes nothing.
 */
import type { CollectionBrake } from "./collection-brake.ts";
import type { EntryRef, ReadOptions, WriteOptions } from "./call-options.ts";
import type { CatalogApi } from "./catalog.ts";
import type { Change } from "./change.ts";
import type { TaskApi, TaskKind, TaskProgress } from "./task.ts";
import type { PreparedDownloadApi } from "./prepared-download.ts";
import type { Entry, EntryAttributes, OnConflict } from "./entry.ts";

export type { Consistency, EntryRef, ReadOptions, WriteOptions } from "./call-options.ts";

/** Options of a download. */
export interface DownloadOptions extends ReadOptions {
  /** What came with a redirect to this node: it then serves what the ticket says. Nodes that keep the tree need none. */
  readonly ticket?: string | undefined;
}

/** An entry with its absolute path. */
export interface PathEntry {
  readonly entry: Entry;
  readonly path: string;
}

/** One page of a directory in name order. */
export interface EntryPage {
  readonly entries: readonly Entry[];
  /** Absolute path of the directory. */
  readonly path: string;
  /** Pass it to get the next page; undefined on the last. */
  readonly nextCursor: string | undefined;
}

/** The start of an upload. */
export interface UploadRequest {
  /** Absolute path of the file. */
  readonly path: string;
  /** Bytes to come; undefined when unknown. */
  readonly sizeBytes: number | undefined;
  /** Tree hash of the bytes, when the client knows it: checked at the end, and equal stored bytes are shared at once. */
  readonly treeHash?: Uint8Array | undefined;
  readonly onConflict: OnConflict;
  readonly attributes: EntryAttributes;
  /** Makes missing parent folders. */
  readonly createParents: boolean;
  /** Set when the upload is an attempt of a one-shot upload: initUpload() answers the file when another attempt made it. */
  readonly attemptOf?: PutAttempt | undefined;
}

/** A one-shot upload, to which each attempt sends its bytes by an upload of its own. */
export interface PutAttempt {
  /** The id of the one-shot upload, under which completeUpload() makes the file. */
  readonly requestId: string;
  /** The file has at least this many bytes, as far as they were read. */
  readonly sizeBytesMin: number;
}

/** How an upload is completed. */
export interface CompleteOptions {
  /** The size of an upload of unknown length. */
  readonly sizeBytes?: number | undefined;
  /** Takes the place of what initUpload() was told, say after PATH_EXISTS. */
  readonly onConflict?: OnConflict | undefined;
  /** The one-shot upload that this is an attempt of: whichever attempt completes first makes the file, the others get it. */
  readonly put?: UploadRequest | undefined;
}

/** Where and how to send the bytes. */
export interface UploadTicket {
  /** Names the upload; for a new file it becomes the entry's id. */
  readonly uploadId: number;
  readonly chunkSizeBytes: number;
  /** Undefined while the size is unknown. */
  readonly chunkCount: number | undefined;
  readonly targets: readonly { readonly nodeId: string; readonly address: string }[];
  /** True when equal bytes were here already: the upload is complete and `entry` is the file. */
  readonly instant: boolean;
  readonly entry: Entry | undefined;
  /** Wall time, reckoned by the answering node from cluster time, which decides: for display. */
  readonly expireTimeMs: number;
  /**
   * The file that another attempt of `attemptOf` made; then no upload was begun. It answers this attempt only when it is of the same
   * bytes, which the asker has to compare.
   */
  readonly made?: PathEntry | undefined;
}

/** A run of chunk indexes, both ends included. */
export interface ChunkRange {
  readonly first: number;
  readonly last: number;
}

/** The state of an upload, for resuming it. */
export interface UploadStatus {
  readonly uploadId: number;
  /** Empty when the folder was deleted meanwhile: the upload cannot be completed any more. */
  readonly path: string;
  readonly state: "open" | "complete";
  readonly sizeBytes: number | undefined;
  readonly chunkSizeBytes: number;
  readonly chunkCount: number | undefined;
  /** Chunks that fewer than two nodes hold, ascending. Unknown size: those below the highest one received. */
  readonly missing: readonly ChunkRange[];
  /** Bytes from the start without a gap. */
  readonly committedSizeBytes: number;
  readonly entry: Entry | undefined;
  /** Wall time, reckoned by the answering node from cluster time, which decides: for display. */
  readonly expireTimeMs: number;
}

/** Chunk accepted. */
export interface ChunkReceipt {
  readonly chunkIndex: number;
  /** SHA-256 of the bytes received. */
  readonly digest: Uint8Array;
  /** Nodes that took it, at least two unless fewer are up. */
  readonly replicaCount: number;
}

/** Progress of one upload or download as the cluster sees it. Counts never decrease. */
export interface Progress {
  readonly id: string;
  readonly kind: "upload" | "download";
  readonly phase: "receiving" | "sealing" | "committing" | "sending" | "done" | "failed";
  readonly sizeBytes: number | undefined;
  /** Bytes received from, or sent to, the client. */
  readonly transferredBytes: number;
  /** Bytes that 1, 2 and 3 nodes hold. */
  readonly copiedBytes: readonly [number, number, number];
  /** Reason when failed. */
  readonly errorReason: string | undefined;
}

/** A file opened for reading at one version: what is read stays that version whatever happens to the entry. */
export interface Download {
  readonly entry: Entry;
  readonly path: string;
  /**
   * The bytes [offset, offset + length) in pieces of at most CHUNK_SIZE_BYTES, each verified before it is handed out; other
   * replicas are tried when one fails. Errors while reading: CHUNK_LOST; to a client outside the cluster VERSION_MISMATCH when
   * the file was replaced or removed since it was opened.
   */
  read(offset: number, length: number, signal?: AbortSignal): AsyncIterable<Uint8Array>;
  /** Whether this node holds verified copies of all extents. */
  readonly local: boolean;
  /** Names this download for watchProgress() at this node; undefined when its progress is not kept. */
  readonly progressId?: string | undefined;
  /** Public URL of the best node that has one and holds copies; undefined when there is none. */
  readonly redirectUrl: string | undefined;
  /** Ticket that the node at redirectUrl wants to see; absent when it needs none. */
  readonly redirectTicket?: string | undefined;
}

/** How this node judges another: "suspect" and "down" by silence. */
export type NodeHealth = "up" | "suspect" | "down";

/** One node in the cluster's status. */
export interface NodeStatus {
  readonly nodeId: string;
  readonly memberId: number;
  readonly role: "leader" | "voter" | "learner" | "storage";
  readonly health: NodeHealth;
  /** Milliseconds for which it has been up; of one that is not, since it was last heard of. */
  readonly sinceMs: number;
  readonly address: string;
  readonly httpUrl: string;
  readonly publicUrl: string;
  readonly zone: string;
  /** These four as last heard; undefined when nothing was heard of the node since the answering one started. */
  readonly freeBytes: number | undefined;
  readonly totalBytes: number | undefined;
  readonly appliedIndex: number | undefined;
  /** Bytes of live chunks that it holds. */
  readonly liveBytes: number | undefined;
  /** Its disk has reached its reserve, as last heard: it takes no new files. */
  readonly full: boolean;
  /** Its copies were given up: it was away for longer than the grace. */
  readonly lost: boolean;
  /** It gives its copies to others and takes no new ones. */
  readonly draining: boolean;
  /** The newest complete scrub pass over its chunk store; undefined while there is none. */
  readonly scrub: ScrubStatus | undefined;
  /** How much of the pass under way is done, 0 to 1; undefined when none is. */
  readonly scrubProgress: number | undefined;
  /** Extents in quarantine, as last heard. */
  readonly quarantinedCount: number;
  /** Why its collection removes nothing that the tree does not know, as last heard; undefined while it would. */
  readonly collectionBrake: CollectionBrake | undefined;
  /** What the node told of itself in Redis; absent where there is none. All other figures come with heartbeats. */
  readonly report?: NodeReport | undefined;
  /** Highest feature level that it supports, as last heard; absent while that is not known. */
  readonly featureLevelMax?: number | undefined;
}

/** A transfer under way, as its node told. */
export interface ReportedTransfer {
  readonly id: string;
  readonly kind: "upload" | "download";
  /** Undefined while it is not known. */
  readonly sizeBytes: number | undefined;
  readonly transferredBytes: number;
}

/** A task that a node works on, as it told. The record of the task is the truth about its state. */
export interface ReportedTask {
  readonly taskId: number;
  readonly kind: TaskKind;
  /** Number of the claim under which it works. */
  readonly fence: number;
  /** When it began: wall time of that node. */
  readonly sinceTimeMs: number;
  readonly progress: TaskProgress;
}

/** What a node told of itself of late, in a service that nodes share. Information alone. */
export interface NodeReport {
  /** Wall time of that node. */
  readonly seenTimeMs: number;
  readonly isReady: boolean;
  readonly inflightBytes: number;
  readonly appliedIndex: number;
  readonly freeBytes: number;
  readonly totalBytes: number;
  readonly transfers: readonly ReportedTransfer[];
  readonly tasks: readonly ReportedTask[];
}

/** A complete scrub pass. Ages are milliseconds of cluster time. */
export interface ScrubStatus {
  readonly pass: number;
  /** What was sealed before then was read whole since. */
  readonly beganAgoMs: number;
  readonly endedAgoMs: number;
  readonly extentCount: number;
  readonly bytes: number;
  readonly damagedCount: number;
}

/** Copies of contents, counted by extent. */
export interface ReplicaSummary {
  readonly extentCount: number;
  /** Extents with three verified copies. */
  readonly fullyReplicatedCount: number;
  readonly underReplicatedCount: number;
  /** Extents with a copy that somebody found wanting; with a damaged copy; with one that is not there. */
  readonly suspectCount: number;
  readonly corruptCount: number;
  readonly lostCount: number;
  /** Extents with a copy that is yet to be made and verified. */
  readonly unverifiedCount: number;
  /** Extents with exactly one verified copy, and with none. */
  readonly singleCopyCount: number;
  readonly noCopyCount: number;
  /** Bytes of verified copies that are wanted and not there. */
  readonly missingCopyBytes: number;
  /** Extents on their way from one node to another with all copies verified. */
  readonly movingCount: number;
  /** The copies of a lost or replaced chunk store, or of a removed member, are still being counted: the other figures are too good. */
  readonly recounting: boolean;
  /** Bytes of copies that the nodes together make a second, over the last half minute; 0 until copies were made for that long. */
  readonly repairBytesPerSecond: number;
  /** Estimate of the milliseconds until no copy is missing; undefined when repair does not get ahead, or not long enough to know its pace. 0 when none is missing. */
  readonly redundantInMs: number | undefined;
}

/** A summary of nothing. */
export const NO_REPLICAS: ReplicaSummary = {
  extentCount: 0,
  fullyReplicatedCount: 0,
  underReplicatedCount: 0,
  suspectCount: 0,
  corruptCount: 0,
  lostCount: 0,
  unverifiedCount: 0,
  singleCopyCount: 0,
  noCopyCount: 0,
  missingCopyBytes: 0,
  movingCount: 0,
  recounting: false,
  repairBytesPerSecond: 0,
  redundantInMs: 0,
};

/** The cluster as one node sees it. */
export interface ClusterStatus {
  readonly clusterId: string;
  readonly nodeId: string;
  readonly leaderId: string | undefined;
  readonly term: number;
  readonly commitIndex: number;
  readonly appliedIndex: number;
  readonly clusterTimeMs: number;
  readonly nodes: readonly NodeStatus[];
  readonly replicas: ReplicaSummary;
  /** Files and folders of users, the root excepted: what prepared downloads keep is counted in preparedDownloads alone. */
  readonly fileCount: number;
  readonly directoryCount: number;
  readonly openUploadCount: number;
  /** Logical bytes of all contents. */
  readonly contentBytes: number;
  /** Services outside of the answering node; absent in answers of older ones. */
  readonly services?: readonly ServiceStatus[] | undefined;
  /** The newest snapshot of the tree; absent while there is none. */
  readonly treeSnapshot?: TreeSnapshotStatus | undefined;
  /** What prepared downloads keep; absent while there are none, and in answers of older nodes. */
  readonly preparedDownloads?: PreparedDownloadsStatus | undefined;
  /** Feature level of the cluster (drive/feature-levels.ts); absent in answers of older nodes. */
  readonly featureLevel?: number | undefined;
}

/** An upload that is not finished, as the tree knows it. */
export interface OpenUpload {
  readonly uploadId: number;
  /** Empty when the folder was deleted meanwhile: the upload cannot be completed any more. */
  readonly path: string;
  /** As announced; undefined while unknown. */
  readonly sizeBytes: number | undefined;
  /** Time since its last recorded sign of life. Signs are recorded once an hour, so it may have received bytes since. */
  readonly idleMs: number;
  /** Wall time, reckoned by the answering node from cluster time, which decides: for display. */
  readonly expireTimeMs: number;
}

/** A page of unfinished uploads; it may be short, or empty, before the last one. */
export interface OpenUploadPage {
  readonly uploads: readonly OpenUpload[];
  /** Asks for the next page; undefined on the last. */
  readonly nextCursor: string | undefined;
}

/** What prepared downloads keep: copies of files and folders as they were, whose bytes stay when the files themselves are deleted. */
export interface PreparedDownloadsStatus {
  readonly downloadCount: number;
  readonly fileCount: number;
  /** Bytes of these files, also of those that users still have. */
  readonly sizeBytes: number;
  /** Wall time at which the last of them is given back. */
  readonly expireTimeMs: number;
}

/** The newest snapshot of the tree, kept for when every voter loses it. */
export interface TreeSnapshotStatus {
  /** It shows the tree after the command at this index. */
  readonly index: number;
  readonly sizeBytes: number;
  /** Wall time at which it was made. */
  readonly madeTimeMs: number;
  /** How long changes have not been in any, at most, in milliseconds; 0 while it shows everything. */
  readonly behindMs: number;
}

/** How a service outside of the node does, as this node sees it: it serves without them. */
export interface ServiceStatus {
  readonly name: "postgres" | "redis" | "rabbitmq";
  /** "off": none is configured. "degraded": it does not answer as it should. */
  readonly state: "up" | "degraded" | "off";
  /** Wall time since when. */
  readonly sinceTimeMs: number;
  /** What is wrong; empty when nothing is. */
  readonly detail: string;
}

/** Whether a node can serve. */
export interface Readiness {
  readonly ready: boolean;
  /** What keeps it from serving. */
  readonly problems: readonly string[];
  /** Services outside of it, which never make it unready; absent where they are not known. */
  readonly services?: readonly ServiceStatus[] | undefined;
  /** What an operator should look at, and what never makes the node unready; absent where it is not known. */
  readonly warnings?: readonly string[] | undefined;
}

/** Copies of one file. */
export interface Durability {
  /** Fewest verified copies of any extent; REPLICA_COUNT when the file is empty. */
  readonly verifiedCount: number;
  readonly nodeIds: readonly string[];
  /** How long ago, in milliseconds of cluster time, the copy that waits longest was last read whole; undefined when unknown. */
  readonly oldestCheckAgeMs: number | undefined;
}

/** The drive. */
export interface DriveApi {
  stat(ref: EntryRef, options?: ReadOptions): Promise<PathEntry>;
  /** How many verified copies a file has and where. Errors: PATH_NOT_FOUND, IS_A_DIRECTORY. */
  durability(ref: EntryRef, options?: ReadOptions): Promise<Durability>;
  /** A page of at most `countMax` (1 to PAGE_SIZE_MAX) entries. Errors: PATH_NOT_FOUND, NOT_A_DIRECTORY, ARGUMENT_INVALID (cursor). */
  list(
    ref: EntryRef,
    page: { cursor?: string | undefined; countMax: number },
    options?: ReadOptions,
  ): Promise<EntryPage>;

  /** Errors: PATH_EXISTS unless `existOk` and it is a directory. */
  createDirectory(
    path: string,
    settings: { createParents: boolean; existOk: boolean; attributes: EntryAttributes },
    options?: WriteOptions,
  ): Promise<PathEntry>;
  /** Moves or renames. `to` is the new absolute path. Errors: MOVE_INTO_SELF, PATH_EXISTS, NOT_A_DIRECTORY... */
  move(ref: EntryRef, to: string, onConflict: OnConflict, options?: WriteOptions): Promise<PathEntry>;
  /** Copies a file or a whole folder at once; bytes are shared. */
  copy(ref: EntryRef, to: string, onConflict: OnConflict, options?: WriteOptions): Promise<PathEntry>;
  /** Deletes. Errors: DIRECTORY_NOT_EMPTY unless `recursive`. */
  remove(ref: EntryRef, settings: { recursive: boolean }, options?: WriteOptions): Promise<void>;
  update(ref: EntryRef, attributes: EntryAttributes, options?: WriteOptions): Promise<PathEntry>;

  /** Begins an upload. Errors: PATH_EXISTS, PATH_NOT_FOUND...; REQUEST_ID_REUSED when `attemptOf` names another change. */
  initUpload(request: UploadRequest, options?: WriteOptions): Promise<UploadTicket>;
  /**
   * Takes one chunk; any order, in parallel, idempotent. `digest`, when given, must be its SHA-256 (DIGEST_MISMATCH).
   * Errors: UPLOAD_NOT_FOUND, UPLOAD_EXPIRED, UPLOAD_FINISHED, CHUNK_OUT_OF_RANGE, PAYLOAD_TOO_LARGE, PAYLOAD_TRUNCATED,
   * QUORUM_NOT_REACHED, NO_SPACE, OVERLOADED; PATH_NOT_FOUND when its folder was deleted meanwhile.
   */
  writeChunk(
    uploadId: number,
    chunkIndex: number,
    bytes: Uint8Array,
    digest: Uint8Array | undefined,
    signal?: AbortSignal,
  ): Promise<ChunkReceipt>;
  /**
   * Seals and commits. Idempotent: a finished upload answers its file.
   * Errors: PATH_NOT_FOUND when the folder was deleted meanwhile, UPLOAD_INCOMPLETE (metadata `missing`), DIGEST_MISMATCH (sealed
   * bytes are not those stated, or differ from copy to copy: the upload is discarded), PATH_EXISTS, VERSION_MISMATCH...
   */
  completeUpload(uploadId: number, settings: CompleteOptions, options?: WriteOptions): Promise<PathEntry>;
  /** Errors: UPLOAD_NOT_FOUND, UPLOAD_EXPIRED, DIGEST_MISMATCH when its copies differ, so that it can never be completed. */
  uploadStatus(uploadId: number, options?: ReadOptions): Promise<UploadStatus>;
  abortUpload(uploadId: number, options?: WriteOptions): Promise<void>;
  /** At most `countMax` (1 to PAGE_SIZE_MAX) uploads that are not finished, oldest first. Errors: ARGUMENT_INVALID. */
  openUploads(
    page: { readonly cursor?: string | undefined; readonly countMax: number },
    options?: ReadOptions,
  ): Promise<OpenUploadPage>;
  /**
   * One-shot upload of a stream; nothing of it remains when the stream fails. A repeat of the same bytes gets the first answer. They
   * are read to their end and compared, unless the stated tree hash is that of the file; others are REQUEST_ID_REUSED.
   */
  putFile(
    request: UploadRequest,
    body: AsyncIterable<Uint8Array>,
    options?: WriteOptions,
  ): Promise<PathEntry>;

  /** Errors: PATH_NOT_FOUND, IS_A_DIRECTORY, TICKET_INVALID. */
  openDownload(ref: EntryRef, options?: DownloadOptions): Promise<Download>;

  /** Progress of an upload or download by its id, now and on every change (at most ten a second), until it is done or failed. */
  watchProgress(id: string, signal?: AbortSignal): AsyncIterable<Progress>;
  /** Changes after the command at `afterIndex` (0: from the oldest kept). Errors: RANGE_NOT_SATISFIABLE when it was trimmed. */
  watchChanges(afterIndex: number, signal?: AbortSignal): AsyncIterable<readonly Change[]>;

  cluster(options?: ReadOptions): Promise<ClusterStatus>;
  /** Asks every node to read all its copies now; returns once it is asked for. */
  startScrub(options?: WriteOptions): Promise<void>;
  /** Has a node give its copies to others and take no new ones, or ends that; `nodeId` may be a member id too. Errors: MEMBER_NOT_FOUND. */
  setDraining(nodeId: string, draining: boolean, options?: WriteOptions): Promise<void>;
  /** Whether this node can serve: its own Raft and disk. `problems` names what cannot. */
  readiness(): Readiness;

  /** Search and reports over the whole drive. Reading it fails as methods do while there is no drive. */
  readonly catalog: CatalogApi;

  /** Work in the background. Reading it fails as methods do while there is no drive. */
  readonly tasks: TaskApi;

  /** Folders and files as one archive. Reading it fails as methods do while there is no drive. */
  readonly preparedDownloads: PreparedDownloadApi;
}
