/**
 * The port that every edge talks to: the whole drive as one node offers it.
 *
 * gateway/ (HTTP), rpc/ (gRPC services) and the tests use nothing else. node/local-drive.ts implements it over transfer/ and
 * metadata/. Every method may fail with the reasons of drive/errors.ts; those that matter are named. Every mutation takes a
 * request id: the same id again, within REQUEST_RETENTION_MS, returns the first answer and changes nothing.
 */
import type { Change } from "./change.ts";
import type { Entry, EntryAttributes, OnConflict, Precondition } from "./entry.ts";

/** An entry by id or by absolute path. */
export type EntryRef = { readonly entryId: number } | { readonly path: string };

/** How fresh a read must be. "linearizable" sees every change acknowledged before it; "stale" answers from this node alone. */
export type Consistency = "linearizable" | "stale";

/** Options of every read. */
export interface ReadOptions {
  readonly consistency?: Consistency | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** Options of every mutation. */
export interface WriteOptions {
  /** 1 to REQUEST_ID_SIZE_BYTES_MAX printable ASCII characters without spaces; one is made when absent. */
  readonly requestId?: string | undefined;
  readonly precondition?: Precondition | undefined;
  readonly signal?: AbortSignal | undefined;
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
}

/** A run of chunk indexes, both ends included. */
export interface ChunkRange {
  readonly first: number;
  readonly last: number;
}

/** The state of an upload, for resuming it. */
export interface UploadStatus {
  readonly uploadId: number;
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
   * replicas are tried when one fails. Errors while reading: CHUNK_LOST.
   */
  read(offset: number, length: number, signal?: AbortSignal): AsyncIterable<Uint8Array>;
  /** Whether this node holds verified copies of all extents. */
  readonly local: boolean;
  /** Names this download for watchProgress() at this node; undefined when its progress is not kept. */
  readonly progressId?: string | undefined;
  /** Public URL of the best node that has one and holds copies; undefined when there is none. */
  readonly redirectUrl: string | undefined;
}

/** How this node judges another: "suspect" and "down" by silence. */
export type NodeHealth = "up" | "suspect" | "down";

/** One node in the cluster's status. */
export interface NodeStatus {
  readonly nodeId: string;
  readonly memberId: number;
  readonly role: "leader" | "voter" | "learner" | "storage";
  readonly health: NodeHealth;
  readonly sinceMs: number;
  readonly address: string;
  readonly httpUrl: string;
  readonly publicUrl: string;
  readonly zone: string;
  readonly freeBytes: number;
  readonly totalBytes: number;
  readonly appliedIndex: number;
  readonly liveBytes: number;
}

/** Copies of contents, counted by extent. */
export interface ReplicaSummary {
  readonly extentCount: number;
  /** Extents with three verified copies. */
  readonly fullyReplicatedCount: number;
  readonly underReplicatedCount: number;
  readonly suspectCount: number;
}

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
  readonly fileCount: number;
  readonly directoryCount: number;
  readonly openUploadCount: number;
  /** Logical bytes of all contents. */
  readonly contentBytes: number;
}

/** Copies of one file. */
export interface Durability {
  /** Fewest verified copies of any extent; REPLICA_COUNT when the file is empty. */
  readonly verifiedCount: number;
  readonly nodeIds: readonly string[];
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

  initUpload(request: UploadRequest, options?: WriteOptions): Promise<UploadTicket>;
  /**
   * Takes one chunk; any order, in parallel, idempotent. `digest`, when given, must be its SHA-256 (DIGEST_MISMATCH).
   * Errors: UPLOAD_NOT_FOUND, UPLOAD_EXPIRED, UPLOAD_FINISHED, CHUNK_OUT_OF_RANGE, PAYLOAD_TOO_LARGE, PAYLOAD_TRUNCATED,
   * QUORUM_NOT_REACHED, NO_SPACE, OVERLOADED.
   */
  writeChunk(
    uploadId: number,
    chunkIndex: number,
    bytes: Uint8Array,
    digest: Uint8Array | undefined,
    signal?: AbortSignal,
  ): Promise<ChunkReceipt>;
  /**
   * Seals and commits. `sizeBytes` states the size of an upload of unknown length. Idempotent: a finished upload answers its
   * file. `onConflict` takes the place of what initUpload() was told, say after PATH_EXISTS. Errors: UPLOAD_INCOMPLETE (metadata `missing`), DIGEST_MISMATCH (tree hash), PATH_EXISTS, VERSION_MISMATCH...
   */
  completeUpload(
    uploadId: number,
    settings: { sizeBytes?: number | undefined; onConflict?: OnConflict | undefined },
    options?: WriteOptions,
  ): Promise<PathEntry>;
  uploadStatus(uploadId: number, options?: ReadOptions): Promise<UploadStatus>;
  abortUpload(uploadId: number, options?: WriteOptions): Promise<void>;
  /** One-shot upload of a stream; nothing of it remains when the stream fails. */
  putFile(
    request: UploadRequest,
    body: AsyncIterable<Uint8Array>,
    options?: WriteOptions,
  ): Promise<PathEntry>;

  /** Errors: PATH_NOT_FOUND, IS_A_DIRECTORY. */
  openDownload(ref: EntryRef, options?: ReadOptions): Promise<Download>;

  /** Progress of an upload or download by its id, now and on every change (at most ten a second), until it is done or failed. */
  watchProgress(id: string, signal?: AbortSignal): AsyncIterable<Progress>;
  /** Changes after the command at `afterIndex` (0: from the oldest kept). Errors: RANGE_NOT_SATISFIABLE when it was trimmed. */
  watchChanges(afterIndex: number, signal?: AbortSignal): AsyncIterable<readonly Change[]>;

  cluster(options?: ReadOptions): Promise<ClusterStatus>;
  /** Whether this node can serve: its own Raft and disk. `problems` names what cannot. */
  readiness(): { readonly ready: boolean; readonly problems: readonly string[] };
}
