/**
 * This node's own chunk store behind the port that peers have too, so that the data plane treats all copies alike.
 *
 * Adds to the store only what the port asks for beyond it: reading a range across chunks. Errors are the store's.
 */
import type { ChunkStore, ExtentState, SealRequest, SmallExtent } from "../chunks/chunk-store.ts";
import type { SpaceUse } from "../chunks/space-guard.ts";
import { throwIfCanceled } from "../cluster/deadline.ts";
import type { ExtentKey, Manifest, Seal } from "../drive/content.ts";
import { DriveError, hasReason } from "../drive/errors.ts";
import { CHUNK_SIZE_BYTES } from "../drive/limits.ts";
import { VERIFY_EXTENTS_COUNT_MAX, type ReplicaPort } from "./replica-port.ts";

/** ReplicaPort over the ChunkStore of this node. */
export class LocalReplica implements ReplicaPort {
  readonly #store: ChunkStore;
  readonly #checkTimeOf: ((extent: ExtentKey) => number) | undefined;
  readonly #use: SpaceUse;

  /**
   * @param checkTimeOf cluster time at which an extent was last read whole, 0 for never: told to who asks for its state
   * @param use whose space the extents take that are opened through this port
   */
  constructor(store: ChunkStore, checkTimeOf?: (extent: ExtentKey) => number, use: SpaceUse = "users") {
    this.#store = store;
    this.#checkTimeOf = checkTimeOf;
    this.#use = use;
  }

  get memberId(): number {
    return this.#store.memberId;
  }

  async openExtent(
    extent: ExtentKey,
    expectedSizeBytes: number | undefined,
    signal?: AbortSignal,
  ): Promise<void> {
    throwIfCanceled(signal);
    await this.#store.openExtent(extent, expectedSizeBytes, this.#use);
  }

  async writeChunk(
    extent: ExtentKey,
    chunkIndex: number,
    bytes: Uint8Array,
    digest: Uint8Array,
    signal?: AbortSignal,
  ): Promise<void> {
    throwIfCanceled(signal);
    await this.#store.writeChunk(extent, chunkIndex, bytes, digest);
  }

  async sealExtent(request: SealRequest, signal?: AbortSignal): Promise<Seal> {
    throwIfCanceled(signal);
    return this.#store.sealExtent(request);
  }

  async putSmall(small: SmallExtent, signal?: AbortSignal): Promise<Seal> {
    throwIfCanceled(signal);
    return this.#store.putSmall(small);
  }

  async *read(
    extent: ExtentKey,
    offset: number,
    length: number,
    signal?: AbortSignal,
  ): AsyncIterable<Uint8Array> {
    const end = offset + length;
    for (let at = offset; at < end;) {
      throwIfCanceled(signal);
      const chunkIndex = Math.floor(at / CHUNK_SIZE_BYTES);
      const inChunk = at - chunkIndex * CHUNK_SIZE_BYTES;
      const size = Math.min(CHUNK_SIZE_BYTES - inChunk, end - at);
      yield await this.#store.readChunk(extent, chunkIndex, inChunk, size);
      at += size;
    }
  }

  chunkInfo(
    extent: ExtentKey,
    chunkIndex: number,
  ): Promise<{ readonly digest: Uint8Array; readonly sizeBytes: number }> {
    return this.#store.chunkInfo(extent, chunkIndex);
  }

  manifest(extent: ExtentKey): Promise<Manifest> {
    return this.#store.manifest(extent);
  }

  async extentState(extent: ExtentKey): Promise<ExtentState> {
    const state = await this.#store.extentState(extent);
    const checkTimeMs = state.kind === "sealed" ? (this.#checkTimeOf?.(extent) ?? 0) : 0;
    return state.kind === "sealed" && checkTimeMs > 0 ? { ...state, checkTimeMs } : state;
  }

  async verifyExtent(extent: ExtentKey, signal?: AbortSignal): Promise<Seal> {
    throwIfCanceled(signal);
    return this.#store.verifyExtent(extent);
  }

  async verifyExtents(
    extents: readonly ExtentKey[],
    signal?: AbortSignal,
  ): Promise<readonly (Seal | DriveError)[]> {
    if (extents.length === 0 || extents.length > VERIFY_EXTENTS_COUNT_MAX) {
      const bound = `1 to ${VERIFY_EXTENTS_COUNT_MAX}`;
      throw new DriveError("ARGUMENT_INVALID", `${extents.length} extents to verify; a call takes ${bound}.`);
    }
    const verdicts: (Seal | DriveError)[] = [];
    for (const extent of extents) {
      throwIfCanceled(signal);
      try {
        verdicts.push(await this.#store.verifyExtent(extent));
      } catch (error) {
        if (!hasReason(error, "CHUNK_CORRUPT") && !hasReason(error, "CHUNK_NOT_FOUND")) throw error;
        verdicts.push(error);
      }
    }
    return verdicts;
  }

  removeExtent(extent: ExtentKey): Promise<void> {
    return this.#store.removeExtent(extent);
  }
}
