/**
 * Contents, extents, manifests and seals: what the bytes of a file are, and what a node promises about its copy.
 *
 * A content is an immutable run of bytes, cut into extents of at most EXTENT_SIZE_BYTES_MAX; an extent is a run of chunks of
 * CHUNK_SIZE_BYTES (the last may be smaller). Raft carries one record per extent; the manifest, the list of chunk digests,
 * lies beside the bytes on each node that holds a replica.
 */
import { CHUNK_SIZE_BYTES, EXTENT_SIZE_BYTES_MAX } from "./limits.ts";

/** Identity of an extent: the content's id (a positive safe integer, never reused) and its position in it, from 0. */
export interface ExtentKey {
  readonly contentId: number;
  readonly extentIndex: number;
}

/** What a node holds about a sealed extent beside its bytes. */
export interface Manifest {
  readonly extent: ExtentKey;
  readonly sizeBytes: number;
  /** Root of the tree hash over `chunkDigests`. */
  readonly root: Uint8Array;
  /** SHA-256 of each chunk, in order. */
  readonly chunkDigests: readonly Uint8Array[];
  /** Where the bytes belong, so that the tree can be rebuilt from the chunk stores. */
  readonly origin: ManifestOrigin;
}

/** The cluster, entry and state of the tree that an extent was written for. */
export interface ManifestOrigin {
  readonly clusterId: string;
  readonly entryId: number;
  /** Applied index of the writing node when the extent was sealed. */
  readonly commitIndex: number;
  /** Absent in manifests of nodes that did not write it yet. */
  readonly hint?: OriginHint | undefined;
}

/** What a manifest says about a content beside its bytes, for when the tree that knew better is gone. Never trusted otherwise. */
export interface OriginHint {
  /** A file's bytes, or a snapshot of the tree (backup/). */
  readonly purpose: "file" | "tree-snapshot";
  /** Absolute path that the content was written for; its last name alone when longer than ORIGIN_PATH_SIZE_BYTES_MAX; "" when unknown. */
  readonly path: string;
  /** When the client's file was modified, or when it was sent. Milliseconds since 1970, not negative. */
  readonly modifyTimeMs: number;
  /** Bytes of the whole content; 0 when that was not known yet. */
  readonly contentSizeBytes: number;
}

/** A node's promise that its copy of an extent is whole, verified and durable. */
export interface Seal {
  readonly extent: ExtentKey;
  readonly sizeBytes: number;
  readonly root: Uint8Array;
  /** The member that holds the copy. */
  readonly memberId: number;
  /** Identity of its chunk store, new whenever the store was made anew. */
  readonly storeIncarnation: string;
}

/** One extent of a committed content. */
export interface Extent {
  readonly extentIndex: number;
  readonly sizeBytes: number;
  readonly root: Uint8Array;
  /** Members that hold, or should hold, a copy. */
  readonly replicas: readonly Replica[];
}

/**
 * What is known of a copy. "verified": sealed by that member for the chunk store that it has now. "pending": to be made by
 * repair. "suspect": something is wrong with it, nobody knows yet what. "corrupt": bytes of it were found damaged. "lost": its
 * member does not have it, has another chunk store since, or has been away for too long.
 */
export type ReplicaState = "verified" | "pending" | "suspect" | "corrupt" | "lost";

/** What somebody found wrong with a copy. */
export type ReplicaFinding = "suspect" | "corrupt" | "lost";

/** A node's copy of an extent. */
export interface Replica {
  readonly memberId: number;
  readonly state: ReplicaState;
  /** Cluster time of its last whole check (seal, repair or scrub); 0 when none is known. Meant for verified copies. */
  readonly checkTimeMs: number;
}

/** How many extents a content of `sizeBytes` has; none when it is empty. */
export function extentCount(sizeBytes: number): number {
  return Math.ceil(sizeBytes / EXTENT_SIZE_BYTES_MAX);
}

/** Bytes in extent `extentIndex` of a content of `sizeBytes`. */
export function extentSizeBytes(sizeBytes: number, extentIndex: number): number {
  return Math.min(EXTENT_SIZE_BYTES_MAX, sizeBytes - extentIndex * EXTENT_SIZE_BYTES_MAX);
}

/** How many chunks `sizeBytes` take; none when there are no bytes. */
export function chunkCount(sizeBytes: number): number {
  return Math.ceil(sizeBytes / CHUNK_SIZE_BYTES);
}

/** Bytes in chunk `chunkIndex` of a run of `sizeBytes`. */
export function chunkSizeBytes(sizeBytes: number, chunkIndex: number): number {
  return Math.min(CHUNK_SIZE_BYTES, sizeBytes - chunkIndex * CHUNK_SIZE_BYTES);
}
