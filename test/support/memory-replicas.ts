/**
 * Chunk stores in memory, one per member, behind ReplicaPorts with faults: members that are down, hang, are slow, are full, or
 * hold damaged chunks.
 *
 * The stores keep the rules of the ChunkStore port (idempotent writes, seals that verify, quarantine). Bytes are kept as given,
 * so that sparse tests can share one array for many chunks. `onCall` sees every call before it happens and may throw or wait.
 */
import type {
  ChunkStore,
  ChunkStoreStats,
  ExtentState,
  SealRequest,
  SmallExtent,
} from "../../src/chunks/chunk-store.ts";
import {
  chunkCount,
  chunkSizeBytes,
  type ExtentKey,
  type Manifest,
  type Seal,
} from "../../src/drive/content.ts";
import { DriveError } from "../../src/drive/errors.ts";
import { CHUNK_SIZE_BYTES } from "../../src/drive/limits.ts";
import { formatRanges } from "../../src/drive/chunk-ranges.ts";
import { LocalReplica } from "../../src/replication/local-replica.ts";
import type { ReplicaPort, ReplicaPorts } from "../../src/replication/replica-port.ts";
import { must } from "../../src/std/assert.ts";
import { bytesEqual } from "../../src/std/bytes.ts";
import { sleep, type Clock } from "../../src/std/clock.ts";
import { foldTreeHash, sha256 } from "../../src/std/digest.ts";

interface StoredExtent {
  chunks: Map<number, { bytes: Uint8Array; digest: Uint8Array }>;
  manifest: Manifest | undefined;
  /** Found damaged, and refused until the extent was verified. */
  damaged: Set<number>;
  /** Damaged, noticed or not. */
  rotten: Set<number>;
}

function keyOf(extent: ExtentKey): string {
  return `${extent.contentId}/${extent.extentIndex}`;
}

/** A ChunkStore in memory. */
export class MemoryChunkStore implements ChunkStore {
  readonly memberId: number;
  readonly storeIncarnation: string;
  readonly extents = new Map<string, StoredExtent>();
  readonly opened: ExtentKey[] = [];
  /** Set to hash nothing at seals: for tests that write gigabytes of one shared array. */
  trusting = false;

  constructor(memberId: number, storeIncarnation = `store-${memberId}`) {
    this.memberId = memberId;
    this.storeIncarnation = storeIncarnation;
  }

  openExtent(extent: ExtentKey): Promise<void> {
    this.opened.push(extent);
    return Promise.resolve();
  }

  async writeChunk(
    extent: ExtentKey,
    chunkIndex: number,
    bytes: Uint8Array,
    digest: Uint8Array,
  ): Promise<void> {
    const stored = this.#extent(extent);
    if (stored.manifest !== undefined) {
      const present = stored.manifest.chunkDigests[chunkIndex];
      if (present !== undefined && bytesEqual(present, digest)) return;
      throw new DriveError("UPLOAD_FINISHED", "The extent is sealed.");
    }
    stored.chunks.set(chunkIndex, { bytes, digest });
  }

  async sealExtent(request: SealRequest): Promise<Seal> {
    const stored = this.#extent(request.extent);
    if (stored.manifest === undefined) {
      const count = chunkCount(request.sizeBytes);
      const missing: number[] = [];
      for (let index = 0; index < count; index += 1) {
        const size = chunkSizeBytes(request.sizeBytes, index);
        if (stored.chunks.get(index)?.bytes.length !== size) missing.push(index);
      }
      if (missing.length > 0) {
        throw new DriveError("UPLOAD_INCOMPLETE", "Chunks are missing.", { missing: formatRanges(missing) });
      }
      const chunkDigests: Uint8Array[] = [];
      for (let index = 0; index < count; index += 1) {
        const chunk = must(stored.chunks.get(index), "checked above");
        if (stored.damaged.has(index) || (!this.trusting && !bytesEqual(sha256(chunk.bytes), chunk.digest))) {
          throw new DriveError("CHUNK_CORRUPT", `Chunk ${index} is damaged.`);
        }
        chunkDigests.push(chunk.digest);
      }
      const { extent, sizeBytes, origin } = request;
      stored.manifest = { extent, sizeBytes, root: foldTreeHash(chunkDigests), chunkDigests, origin };
    }
    return this.#seal(stored.manifest);
  }

  async putSmall(small: SmallExtent): Promise<Seal> {
    await this.writeChunk(small.extent, 0, small.bytes, small.digest);
    return this.sealExtent({ extent: small.extent, sizeBytes: small.bytes.length, origin: small.origin });
  }

  async readChunk(
    extent: ExtentKey,
    chunkIndex: number,
    offset: number,
    length: number,
  ): Promise<Uint8Array> {
    const stored = this.extents.get(keyOf(extent));
    const chunk = stored?.chunks.get(chunkIndex);
    if (stored === undefined || chunk === undefined) {
      throw new DriveError("CHUNK_NOT_FOUND", `Member ${this.memberId} has no chunk ${chunkIndex}.`);
    }
    if (stored.damaged.has(chunkIndex))
      throw new DriveError("CHUNK_CORRUPT", `Chunk ${chunkIndex} is damaged.`);
    if (offset + length > chunk.bytes.length)
      throw new DriveError("RANGE_NOT_SATISFIABLE", "Beyond the chunk.");
    return chunk.bytes.subarray(offset, offset + length);
  }

  async chunkInfo(
    extent: ExtentKey,
    chunkIndex: number,
  ): Promise<{ readonly digest: Uint8Array; readonly sizeBytes: number }> {
    const chunk = this.extents.get(keyOf(extent))?.chunks.get(chunkIndex);
    if (chunk === undefined) throw new DriveError("CHUNK_NOT_FOUND", `No chunk ${chunkIndex}.`);
    return { digest: chunk.digest, sizeBytes: chunk.bytes.length };
  }

  async manifest(extent: ExtentKey): Promise<Manifest> {
    const manifest = this.extents.get(keyOf(extent))?.manifest;
    if (manifest === undefined) throw new DriveError("CHUNK_NOT_FOUND", "No manifest.");
    return manifest;
  }

  async extentState(extent: ExtentKey): Promise<ExtentState> {
    const stored = this.extents.get(keyOf(extent));
    if (stored === undefined) return { kind: "absent" };
    if (stored.manifest === undefined) {
      return { kind: "open", chunkIndexes: [...stored.chunks.keys()].sort((a, b) => a - b) };
    }
    const { sizeBytes, root } = stored.manifest;
    if (stored.damaged.size > 0) {
      return { kind: "quarantined", sizeBytes, chunkIndexes: [...stored.damaged].sort((a, b) => a - b) };
    }
    return { kind: "sealed", sizeBytes, root };
  }

  async verifyExtent(extent: ExtentKey, beforeChunk?: (sizeBytes: number) => Promise<void>): Promise<Seal> {
    const stored = this.extents.get(keyOf(extent));
    if (stored?.manifest === undefined) throw new DriveError("CHUNK_NOT_FOUND", "Not sealed here.");
    for (const [chunkIndex, { bytes }] of stored.chunks) {
      await beforeChunk?.(bytes.length);
      if (stored.rotten.has(chunkIndex)) stored.damaged.add(chunkIndex);
    }
    if (stored.rotten.size > 0) throw new DriveError("CHUNK_CORRUPT", "Damaged.");
    stored.damaged.clear();
    return this.#seal(stored.manifest);
  }

  async removeExtent(extent: ExtentKey): Promise<void> {
    this.extents.delete(keyOf(extent));
  }

  async listExtents(after: ExtentKey | undefined, countMax: number): Promise<readonly ExtentKey[]> {
    const keys = [...this.extents.keys()]
      .map((key) => key.split("/").map(Number))
      .map(([contentId = 0, extentIndex = 0]) => ({ contentId, extentIndex }))
      .sort((a, b) => a.contentId - b.contentId || a.extentIndex - b.extentIndex);
    const later = keys.filter(
      (key) =>
        after === undefined ||
        key.contentId > after.contentId ||
        (key.contentId === after.contentId && key.extentIndex > after.extentIndex),
    );
    return later.slice(0, countMax);
  }

  stats(): ChunkStoreStats {
    let liveBytes = 0;
    let open = 0;
    for (const stored of this.extents.values()) {
      if (stored.manifest === undefined) open += 1;
      else liveBytes += stored.manifest.sizeBytes;
    }
    return {
      extentCount: this.extents.size,
      openExtentCount: open,
      quarantinedExtentCount: 0,
      liveBytes,
      segmentBytes: liveBytes,
      freeBytes: 1e12,
      totalBytes: 2e12,
      lostFileCount: 0,
      writesRefused: false,
    };
  }

  /** Damages a chunk so that only a check of the whole extent finds it. */
  rot(extent: ExtentKey, chunkIndex: number): void {
    this.#extent(extent).rotten.add(chunkIndex);
  }

  /** Damages a chunk: reads of it say CHUNK_CORRUPT from now on. */
  damage(extent: ExtentKey, chunkIndex: number): void {
    this.#extent(extent).damaged.add(chunkIndex);
    this.#extent(extent).rotten.add(chunkIndex);
  }

  /** Brings the bytes of a chunk back; if its damage was noticed, reads are refused until it was verified. */
  restore(extent: ExtentKey, chunkIndex: number): void {
    this.#extent(extent).rotten.delete(chunkIndex);
  }

  /** Chunk indexes that are here, ascending. */
  chunkIndexes(extent: ExtentKey): number[] {
    return [...(this.extents.get(keyOf(extent))?.chunks.keys() ?? [])].sort((a, b) => a - b);
  }

  #extent(extent: ExtentKey): StoredExtent {
    let stored = this.extents.get(keyOf(extent));
    if (stored === undefined) {
      stored = { chunks: new Map(), manifest: undefined, damaged: new Set(), rotten: new Set() };
      this.extents.set(keyOf(extent), stored);
    }
    return stored;
  }

  #seal(manifest: Manifest): Seal {
    return {
      extent: manifest.extent,
      sizeBytes: manifest.sizeBytes,
      root: manifest.root,
      memberId: this.memberId,
      storeIncarnation: this.storeIncarnation,
    };
  }
}

/** A call to a member's store, as onCall sees it. */
export interface ReplicaCall {
  readonly memberId: number;
  readonly method: keyof Omit<ReplicaPort, "memberId">;
  readonly extent: ExtentKey;
  readonly chunkIndex: number | undefined;
}

/** The stores of a cluster, reached with faults. */
export class MemoryReplicas implements ReplicaPorts {
  readonly stores = new Map<number, MemoryChunkStore>();
  /** Members that refuse connections. */
  readonly down = new Set<number>();
  /** Members that accept a call and never answer. */
  readonly hanging = new Set<number>();
  /** Members whose disk is full. */
  readonly full = new Set<number>();
  /** How long each call to a member takes. */
  readonly delayMs = new Map<number, number>();
  /** Sees every call before it happens; may throw, wait or change the faults. */
  onCall: ((call: ReplicaCall) => void | Promise<void>) | undefined;
  readonly #clock: Clock;

  constructor(clock: Clock, memberIds: readonly number[]) {
    this.#clock = clock;
    for (const memberId of memberIds) this.stores.set(memberId, new MemoryChunkStore(memberId));
  }

  /** The store of a member, for a look inside. */
  store(memberId: number): MemoryChunkStore {
    return must(this.stores.get(memberId), `store of member ${memberId}`);
  }

  forMember(memberId: number): ReplicaPort | undefined {
    return this.stores.has(memberId) ? this.#port(memberId) : undefined;
  }

  async #enter(call: ReplicaCall, signal?: AbortSignal): Promise<void> {
    const { memberId, method } = call;
    await this.onCall?.(call);
    if (this.down.has(memberId)) {
      throw new DriveError("PEER_UNREACHABLE", `Member ${memberId} refused the connection.`);
    }
    if (this.hanging.has(memberId)) {
      await new Promise<void>((_resolve, reject) => {
        signal?.addEventListener("abort", () => reject(signal.reason as Error));
      });
    }
    const delayMs = this.delayMs.get(memberId) ?? 0;
    if (delayMs > 0) await sleep(this.#clock, delayMs, signal);
    if (this.full.has(memberId) && (method === "writeChunk" || method === "putSmall")) {
      throw new DriveError("NO_SPACE", `The disk of member ${memberId} is full.`);
    }
  }

  #port(memberId: number): ReplicaPort {
    const inner = new LocalReplica(this.store(memberId));
    const enter = (
      method: ReplicaCall["method"],
      extent: ExtentKey,
      chunkIndex?: number,
      signal?: AbortSignal,
    ): Promise<void> => this.#enter({ memberId, method, extent, chunkIndex }, signal);
    return {
      memberId,
      async openExtent(extent, expected, signal) {
        await enter("openExtent", extent, undefined, signal);
        await inner.openExtent(extent, expected, signal);
      },
      async writeChunk(extent, chunkIndex, bytes, digest, signal) {
        await enter("writeChunk", extent, chunkIndex, signal);
        await inner.writeChunk(extent, chunkIndex, bytes, digest, signal);
      },
      async sealExtent(request, signal) {
        await enter("sealExtent", request.extent, undefined, signal);
        return inner.sealExtent(request, signal);
      },
      async putSmall(small, signal) {
        await enter("putSmall", small.extent, 0, signal);
        return inner.putSmall(small, signal);
      },
      async *read(extent, offset, length, signal) {
        let at = offset;
        for await (const piece of inner.read(extent, offset, length, signal)) {
          await enter("read", extent, Math.floor(at / CHUNK_SIZE_BYTES), signal);
          at += piece.length;
          yield piece;
        }
      },
      async chunkInfo(extent, chunkIndex) {
        await enter("chunkInfo", extent, chunkIndex);
        return inner.chunkInfo(extent, chunkIndex);
      },
      async manifest(extent) {
        await enter("manifest", extent);
        return inner.manifest(extent);
      },
      async extentState(extent) {
        await enter("extentState", extent);
        return inner.extentState(extent);
      },
      async verifyExtent(extent, signal) {
        await enter("verifyExtent", extent, undefined, signal);
        return inner.verifyExtent(extent, signal);
      },
      async verifyExtents(extents, signal) {
        const [first] = extents;
        if (first !== undefined) await enter("verifyExtents", first, undefined, signal);
        return inner.verifyExtents(extents, signal);
      },
      async removeExtent(extent) {
        await enter("removeExtent", extent);
        await inner.removeExtent(extent);
      },
    };
  }
}
