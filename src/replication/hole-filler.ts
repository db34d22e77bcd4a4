/**
 * Copies chunks of an extent that one member lacks from members that have them, before a seal and after a target was replaced.
 *
 * Rule (reliability: K4): a chunk is written to the receiver only after its bytes were hashed here and equal the digest that
 * the source states; the receiver checks them again as they come. Never removes anything.
 */
import { canceledError, throwIfCanceled } from "../cluster/deadline.ts";
import type { FailureDetector } from "../cluster/failure-detector-port.ts";
import type { ExtentKey } from "../drive/content.ts";
import { DriveError, hasReason } from "../drive/errors.ts";
import { CHUNK_SIZE_BYTES } from "../drive/limits.ts";
import { bytesEqual } from "../std/bytes.ts";
import type { Digester } from "../std/digest.ts";
import type { ReplicaPort, ReplicaPorts } from "./replica-port.ts";
import type { WriteBudget } from "./write-budget.ts";

/** Chunks copied at once for one receiver: enough to hide a round trip, little enough to leave room for uploads. */
export const FILL_PARALLEL_COUNT = 4;

/** What a HoleFiller needs. */
export interface HoleFillerOptions {
  readonly ports: ReplicaPorts;
  readonly detector: FailureDetector;
  readonly digester: Digester;
  readonly budget: WriteBudget;
}

/** One piece of work. */
export interface FillRequest {
  readonly extent: ExtentKey;
  /** Member that receives. */
  readonly to: number;
  /** Members that may have the chunks, best first; the receiver among them is skipped. */
  readonly from: readonly number[];
  /** Chunk indexes within the extent. */
  readonly chunkIndexes: readonly number[];
  readonly signal?: AbortSignal | undefined;
}

/** Reads the bytes of a range into one array. @throws DriveError CHUNK_CORRUPT when the source gives another length */
export async function readWhole(
  port: ReplicaPort,
  extent: ExtentKey,
  range: { readonly offset: number; readonly length: number },
  signal?: AbortSignal,
): Promise<Uint8Array> {
  const pieces: Uint8Array[] = [];
  let size = 0;
  for await (const piece of port.read(extent, range.offset, range.length, signal)) {
    pieces.push(piece);
    size += piece.length;
  }
  if (size !== range.length) {
    throw new DriveError("CHUNK_CORRUPT", `Member ${port.memberId} sent ${size} of ${range.length} bytes.`, {
      member_id: String(port.memberId),
    });
  }
  const [only] = pieces;
  return pieces.length === 1 && only !== undefined ? only : Buffer.concat(pieces);
}

/** Copies missing chunks between members. */
export class HoleFiller {
  readonly #options: HoleFillerOptions;

  constructor(options: HoleFillerOptions) {
    this.#options = options;
  }

  /**
   * Copies the chunks to the receiver, each from the first source that has it.
   * @returns the chunk indexes that no source had, ascending
   * @throws DriveError what the receiver answered when it refused a chunk; CANCELED
   */
  async fill(request: FillRequest): Promise<readonly number[]> {
    const missing: number[] = [];
    const waiting = request.chunkIndexes[Symbol.iterator]();
    const work = async (): Promise<void> => {
      for (const chunkIndex of waiting) {
        throwIfCanceled(request.signal);
        if (!(await this.#copy(request, chunkIndex))) missing.push(chunkIndex);
      }
    };
    await Promise.all(Array.from({ length: FILL_PARALLEL_COUNT }, work));
    return missing.sort((a, b) => a - b);
  }

  /** Copies every chunk that some source has and the receiver lacks, as far as can be seen now. */
  async fillAll(request: Omit<FillRequest, "chunkIndexes">): Promise<void> {
    const wanted = new Set<number>();
    for (const memberId of request.from) {
      if (memberId === request.to) continue;
      for (const chunkIndex of await this.#heldBy(memberId, request.extent)) wanted.add(chunkIndex);
    }
    for (const chunkIndex of await this.#heldBy(request.to, request.extent)) wanted.delete(chunkIndex);
    await this.fill({ ...request, chunkIndexes: [...wanted].sort((a, b) => a - b) });
  }

  async #heldBy(memberId: number, extent: ExtentKey): Promise<readonly number[]> {
    const port = this.#options.ports.forMember(memberId);
    if (port === undefined) return [];
    try {
      const state = await port.extentState(extent);
      if (state.kind === "open") return state.chunkIndexes;
      if (state.kind !== "sealed") return [];
      return Array.from({ length: Math.ceil(state.sizeBytes / CHUNK_SIZE_BYTES) }, (_, index) => index);
    } catch (error) {
      this.#noteFailure(memberId, error);
      return [];
    }
  }

  /** Copies one chunk; false when no source had it. */
  async #copy(request: FillRequest, chunkIndex: number): Promise<boolean> {
    const { budget, ports } = this.#options;
    const { extent, to, signal } = request;
    const receiver = ports.forMember(to);
    if (receiver === undefined) {
      throw new DriveError("PEER_UNREACHABLE", `The address of member ${to} is not known.`, {
        member_id: String(to),
      });
    }
    for (const memberId of request.from) {
      if (memberId === to) continue;
      await budget.admit(CHUNK_SIZE_BYTES, signal);
      try {
        const chunk = await this.#readVerified(memberId, extent, chunkIndex, signal);
        if (chunk === undefined) continue;
        await budget.toTarget(to, chunk.bytes.length, signal, () =>
          receiver.writeChunk(extent, chunkIndex, chunk.bytes, chunk.digest, signal),
        );
        return true;
      } finally {
        budget.release(CHUNK_SIZE_BYTES);
      }
    }
    return false;
  }

  async #readVerified(
    memberId: number,
    extent: ExtentKey,
    chunkIndex: number,
    signal: AbortSignal | undefined,
  ): Promise<{ readonly bytes: Uint8Array; readonly digest: Uint8Array } | undefined> {
    const source = this.#options.ports.forMember(memberId);
    if (source === undefined) return undefined;
    try {
      const { digest, sizeBytes } = await source.chunkInfo(extent, chunkIndex);
      const range = { offset: chunkIndex * CHUNK_SIZE_BYTES, length: sizeBytes };
      const bytes = await readWhole(source, extent, range, signal);
      if (bytesEqual(await this.#options.digester.sha256(bytes), digest)) return { bytes, digest };
    } catch (error) {
      if (signal?.aborted === true) throw canceledError(signal);
      this.#noteFailure(memberId, error);
    }
    return undefined;
  }

  /** A source that cannot give a chunk is passed over; only what is not an operating error goes on. */
  #noteFailure(memberId: number, error: unknown): void {
    if (!(error instanceof DriveError)) throw error;
    if (hasReason(error, "PEER_UNREACHABLE")) this.#options.detector.report(memberId, "unreachable");
  }
}
