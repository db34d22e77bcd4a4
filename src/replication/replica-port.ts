/**
 * The port to the chunk stores of the cluster: the same verbs for this node's own store and for a peer's over the network.
 *
 * Implementations: local-replica.ts (the own ChunkStore), rpc/replica-client.ts (gRPC), and the simulator's network. Every call
 * has a deadline inside; a peer that does not answer is PEER_UNREACHABLE. Back-pressure is in the promise: a writer that
 * awaits each writeChunk(), with a bounded number in flight, never fills memory anywhere.
 */
import type { ExtentState, SealRequest, SmallExtent } from "../chunks/chunk-store.ts";
import type { ExtentKey, Manifest, Seal } from "../drive/content.ts";
import type { DriveError } from "../drive/errors.ts";

/** Extents of one verifyExtents() at most. */
export const VERIFY_EXTENTS_COUNT_MAX = 256;

/** One node's chunk store. Errors are those of ChunkStore, and PEER_UNREACHABLE. */
export interface ReplicaPort {
  readonly memberId: number;
  openExtent(extent: ExtentKey, expectedSizeBytes: number | undefined, signal?: AbortSignal): Promise<void>;
  /** Accepted by the node when it resolves; durable after a seal. */
  writeChunk(
    extent: ExtentKey,
    chunkIndex: number,
    bytes: Uint8Array,
    digest: Uint8Array,
    signal?: AbortSignal,
  ): Promise<void>;
  sealExtent(request: SealRequest, signal?: AbortSignal): Promise<Seal>;
  putSmall(small: SmallExtent, signal?: AbortSignal): Promise<Seal>;
  /** The bytes [offset, offset + length) of an extent, open or sealed, verified by the node, in pieces that end at chunk boundaries. */
  read(extent: ExtentKey, offset: number, length: number, signal?: AbortSignal): AsyncIterable<Uint8Array>;
  chunkInfo(
    extent: ExtentKey,
    chunkIndex: number,
  ): Promise<{ readonly digest: Uint8Array; readonly sizeBytes: number }>;
  manifest(extent: ExtentKey): Promise<Manifest>;
  extentState(extent: ExtentKey): Promise<ExtentState>;
  /** Re-reads the extent whole at the node and checks every digest. */
  verifyExtent(extent: ExtentKey, signal?: AbortSignal): Promise<Seal>;
  /**
   * verifyExtent() of each of 1 to VERIFY_EXTENTS_COUNT_MAX extents in one call: meant for small ones, where the call costs more
   * than the check. Answers in the same order, with CHUNK_CORRUPT or CHUNK_NOT_FOUND in the place of a seal.
   *
   * @throws DriveError ARGUMENT_INVALID for none or too many, and whatever else keeps the node from looking
   */
  verifyExtents(extents: readonly ExtentKey[], signal?: AbortSignal): Promise<readonly (Seal | DriveError)[]>;
  removeExtent(extent: ExtentKey): Promise<void>;
}

/** Finds the store of a member: its own for this node, a client otherwise. Undefined for a member whose address is unknown. */
export interface ReplicaPorts {
  forMember(memberId: number): ReplicaPort | undefined;
}
