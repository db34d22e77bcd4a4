/**
 * The port of a node's chunk store: extents being written, sealed extents, verified reads.
 *
 * Writing is cheap and not durable; sealing makes a whole extent durable at once. Every byte that leaves was verified
 * against its checksum and its identity; damage is CHUNK_CORRUPT, never data and never "absent". Implementations:
 * disk-chunk-store.ts (over segments/).
 */
import type { ExtentKey, Manifest, ManifestOrigin, Seal } from "../drive/content.ts";
import type { SpaceUse } from "./space-guard.ts";

/** What is to become of an extent when it is sealed. */
export interface SealRequest {
  readonly extent: ExtentKey;
  readonly sizeBytes: number;
  readonly origin: ManifestOrigin;
}

/** A small content written and sealed in one go: at most one chunk. */
export interface SmallExtent {
  readonly extent: ExtentKey;
  /** 1 byte to one chunk. Must not change before the promise settles. */
  readonly bytes: Uint8Array;
  readonly digest: Uint8Array;
  readonly origin: ManifestOrigin;
}

/** State of an extent in this store. */
export type ExtentState =
  | { readonly kind: "absent" }
  /** Being written: the chunks that are here, ascending. */
  | { readonly kind: "open"; readonly chunkIndexes: readonly number[] }
  | {
      readonly kind: "sealed";
      readonly sizeBytes: number;
      readonly root: Uint8Array;
      /** Cluster time at which the scrub pass began that last read it; absent when none did or nobody keeps it. */
      readonly checkTimeMs?: number;
    }
  /** Damage was found: the bytes are kept, reads of the damaged chunks are refused until verifyExtent() finds nothing wrong. */
  | { readonly kind: "quarantined"; readonly sizeBytes: number; readonly chunkIndexes: readonly number[] };

/** What the store holds, for status and placement. Sizes in bytes. */
export interface ChunkStoreStats {
  readonly extentCount: number;
  readonly openExtentCount: number;
  readonly quarantinedExtentCount: number;
  readonly liveBytes: number;
  readonly segmentBytes: number;
  readonly freeBytes: number;
  readonly totalBytes: number;
  /** True while writes are refused because the reserve has been reached. */
  readonly writesRefused: boolean;
  /** Files that were found missing or replaced since the store was opened. */
  readonly lostFileCount: number;
}

/** A node's chunk store. */
export interface ChunkStore {
  /** The member this store belongs to. */
  readonly memberId: number;
  /** Identity of this store, made at random when it was formatted. */
  readonly storeIncarnation: string;

  /**
   * Prepares for an extent of an expected size (undefined when unknown), so that large ones get segments of their own.
   * Optional before writeChunk(); idempotent. Chunks of an extent that was opened for "copies" may take space that is refused to
   * users; see SpaceGuard. Errors: NO_SPACE.
   */
  openExtent(extent: ExtentKey, expectedSizeBytes: number | undefined, use?: SpaceUse): Promise<void>;

  /**
   * Takes a chunk (1 byte to CHUNK_SIZE_BYTES; `digest` is its SHA-256, verified on arrival or at the seal). Accepted when
   * the promise resolves, durable only after a seal. Writing the same index again before the seal replaces it; after the
   * seal an equal digest is accepted and another one is UPLOAD_FINISHED. `bytes` must not change before it settles.
   * Errors: NO_SPACE, CHUNK_OUT_OF_RANGE, UPLOAD_FINISHED, DIGEST_MISMATCH (nothing was taken), CHUNK_CORRUPT (the chunk is
   * quarantined: remove the extent first).
   */
  writeChunk(extent: ExtentKey, chunkIndex: number, bytes: Uint8Array, digest: Uint8Array): Promise<void>;

  /**
   * Seals an extent: all chunks are present with the right sizes and their stored bytes equal their digests, the root is
   * folded, the manifest is written and everything is durable. Idempotent: a sealed extent answers the same seal.
   * Errors: UPLOAD_INCOMPLETE (metadata `missing`: chunk indexes like "0,3,7-9", at most 1,000 ranges), CHUNK_CORRUPT, NO_SPACE.
   */
  sealExtent(request: SealRequest): Promise<Seal>;

  /** Writes and seals a small extent: durable, in one group commit, when it resolves. Idempotent. Errors: NO_SPACE,
   * UPLOAD_FINISHED, DIGEST_MISMATCH, CHUNK_OUT_OF_RANGE (size), CHUNK_CORRUPT (quarantined). */
  putSmall(small: SmallExtent): Promise<Seal>;

  /**
   * Reads `length` bytes at `offset` within a chunk, open or sealed; every checksum block touched is verified first. The
   * caller owns the result. Errors: CHUNK_NOT_FOUND, CHUNK_CORRUPT (which also quarantines the chunk), RANGE_NOT_SATISFIABLE.
   */
  readChunk(extent: ExtentKey, chunkIndex: number, offset: number, length: number): Promise<Uint8Array>;

  /** Digest and size of a chunk that is here, open or sealed. Errors: CHUNK_NOT_FOUND. */
  chunkInfo(
    extent: ExtentKey,
    chunkIndex: number,
  ): Promise<{ readonly digest: Uint8Array; readonly sizeBytes: number }>;

  /** The manifest of a sealed extent. Errors: CHUNK_NOT_FOUND (absent or open), CHUNK_CORRUPT. */
  manifest(extent: ExtentKey): Promise<Manifest>;

  /** State of an extent. Absence is not an error. */
  extentState(extent: ExtentKey): Promise<ExtentState>;

  /**
   * Re-reads a sealed extent whole and checks every digest against the manifest; damage quarantines and is CHUNK_CORRUPT. One that is
   * quarantined and reads well as a whole is so no more, durably; what was found bad is read first, and ends the check when it
   * still is.
   * @param beforeChunk awaited before each chunk is read, with its size: paces; what it throws ends the check
   */
  verifyExtent(extent: ExtentKey, beforeChunk?: (sizeBytes: number) => Promise<void>): Promise<Seal>;

  /** Forgets an extent, sealed or open; durable when it resolves. Harmless when absent. */
  removeExtent(extent: ExtentKey): Promise<void>;

  /** Sealed and open extents with keys greater than `after`, ascending by (contentId, extentIndex), at most `countMax`. */
  listExtents(after: ExtentKey | undefined, countMax: number): Promise<readonly ExtentKey[]>;

  /** Figures for status and placement. */
  stats(): ChunkStoreStats;
}
