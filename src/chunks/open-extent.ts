/**
 * An extent that is being written, as the store keeps it in memory: which chunks are here and where.
 *
 * Chunks count once they are in a file; nothing of it is promised before the seal. Several writes go on at once; a seal or a
 * removal first waits until none does. Does no I/O.
 */
import { chunkCount, chunkSizeBytes, type ExtentKey } from "../drive/content.ts";
import { incomplete } from "./chunk-errors.ts";
import { bytesEqual } from "../std/bytes.ts";
import { deferred, type Deferred } from "../std/deferred.ts";
import { comparePositions, type RecordLocation } from "../segments/record.ts";
import type { Cursor } from "../segments/recover-log.ts";
import type { SingleSegment } from "../segments/single-segment.ts";
import type { SpaceUse } from "./space-guard.ts";

/** A chunk of an open extent. */
export interface OpenChunk {
  readonly location: RecordLocation;
  readonly sizeBytes: number;
  readonly digest: Uint8Array;
  /** Whether the bytes were seen to have the digest by this process; false for what a restart found. */
  readonly verified: boolean;
}

/** The segment that an open extent has to itself. */
export interface OwnSegment {
  readonly segmentId: number;
  /** Where its good records end, when a restart found it. */
  readonly recoveredEnd: Cursor | undefined;
  /** Opened for writing at the first need. */
  segment: Promise<SingleSegment> | undefined;
}

/** An extent being written. */
export class OpenExtent {
  readonly extent: ExtentKey;
  /** Its own segment; undefined when its chunks go to the log. */
  readonly own: OwnSegment | undefined;
  /** Chunks that the whole extent will have; undefined when unknown. */
  readonly expectedChunkCount: number | undefined;
  readonly chunks = new Map<number, OpenChunk>();
  /** Whose space its chunks may take. */
  use: SpaceUse = "users";
  #writeCount = 0;
  #quiet: Deferred<void> | undefined;

  constructor(extent: ExtentKey, own: OwnSegment | undefined, expectedChunkCount: number | undefined) {
    this.extent = extent;
    this.own = own;
    this.expectedChunkCount = expectedChunkCount;
  }

  /** Whether nothing is here and nothing under way. */
  get isEmpty(): boolean {
    return this.chunks.size === 0 && this.#writeCount === 0;
  }

  /** Bytes of the chunks that are here. */
  get sizeBytes(): number {
    let sum = 0;
    for (const chunk of this.chunks.values()) sum += chunk.sizeBytes;
    return sum;
  }

  /** Runs a write, which quiesce() waits for. */
  async write(work: () => Promise<void>): Promise<void> {
    this.#writeCount += 1;
    try {
      await work();
    } finally {
      this.#writeCount -= 1;
      if (this.#writeCount === 0) this.#quiet?.resolve();
    }
  }

  /** Resolves when no write is under way. The caller sees to it that none begins. */
  async quiesce(): Promise<void> {
    if (this.#writeCount === 0) return;
    this.#quiet = deferred<void>();
    await this.#quiet.promise;
    this.#quiet = undefined;
  }

  /** Whether these very bytes are here already, seen by this process. */
  has(chunkIndex: number, sizeBytes: number, digest: Uint8Array): boolean {
    const chunk = this.chunks.get(chunkIndex);
    return chunk?.verified === true && chunk.sizeBytes === sizeBytes && bytesEqual(chunk.digest, digest);
  }

  /** Takes a chunk that is in a file; of two the later record counts, as it does after a restart. */
  add(chunkIndex: number, chunk: OpenChunk): void {
    const before = this.chunks.get(chunkIndex);
    if (before !== undefined && comparePositions(before.location, chunk.location) > 0) return;
    this.chunks.set(chunkIndex, chunk);
  }
}

/** Errors: UPLOAD_INCOMPLETE when chunks of an extent of `sizeBytes` are missing or have another size. */
export function requireChunks(open: OpenExtent, sizeBytes: number): void {
  const missing: number[] = [];
  for (let i = 0; i < chunkCount(sizeBytes); i += 1) {
    if (open.chunks.get(i)?.sizeBytes !== chunkSizeBytes(sizeBytes, i)) missing.push(i);
  }
  if (missing.length > 0) throw incomplete(missing);
}
