/**
 * Makes this node's copy of an extent good again: from a verified source to a verified target.
 *
 *   own copy whole after a re-read? --> its seal
 *   else: manifest from a source, checked against the tree's root --> chunks that are absent or damaged here, each checked
 *   against the manifest --> seal (syncs, and folds what was checked as it came) --> its seal
 *   no source can give it? --> what is quarantined here is read again: whole by now --> its seal
 *
 * Rule (reliability: K4): a good copy is never replaced by a bad or shorter one. A damaged copy here is removed only when every
 * chunk was found good elsewhere. Bytes count only after the tree's own root was reproduced.
 */
import { throwIfCanceled } from "../cluster/deadline.ts";
import type { FailureDetector } from "../cluster/failure-detector-port.ts";
import {
  chunkCount,
  chunkSizeBytes,
  type ExtentKey,
  type Manifest,
  type ReplicaFinding,
  type Seal,
} from "../drive/content.ts";
import { DriveError, hasReason } from "../drive/errors.ts";
import { CHUNK_SIZE_BYTES } from "../drive/limits.ts";
import { must } from "../std/assert.ts";
import { bytesEqual } from "../std/bytes.ts";
import { foldTreeHash, type Digester, type DigestMemory } from "../std/digest.ts";
import type { BackgroundPace } from "./background-pace.ts";
import { readWhole } from "./hole-filler.ts";
import type { PlantedChunkFault } from "./planted-faults.ts";
import type { RateMeter } from "./rate-meter.ts";
import type { ReplicaPort, ReplicaPorts } from "./replica-port.ts";
import { findingOf } from "./replica-reports.ts";
import type { WriteBudget } from "./write-budget.ts";

/** Chunks of one extent copied at once: hides the round trip, leaves most of the node's budget to uploads. */
export const COPY_PARALLEL_COUNT = 4;

/** What a chunk costs the pace at least: a small one takes calls, a sync and a commit from users, and not bytes. */
export const COPY_COST_BYTES_MIN = 64 * 1024;

/** What a ReplicaCopier needs. */
export interface ReplicaCopierOptions {
  readonly ports: ReplicaPorts;
  readonly detector: FailureDetector;
  readonly digester: Digester;
  /** Where the store of this node looks up what was hashed here already. */
  readonly hashed?: DigestMemory | undefined;
  readonly budget: WriteBudget;
  /** This node. */
  readonly memberId: number;
  /** A historical bug to show, in tests alone. */
  readonly plantedFault?: PlantedChunkFault | undefined;
  readonly onBadReplica: (extent: ExtentKey, memberId: number, finding: ReplicaFinding) => void;
  /** The pace of copying: awaited before each chunk. */
  readonly pace: BackgroundPace;
  /** Counts the bytes that were copied. */
  readonly meter: RateMeter;
}

/** An extent as the tree knows it. */
export interface CopyRequest {
  readonly extent: ExtentKey;
  readonly sizeBytes: number;
  readonly root: Uint8Array;
  /** Other members with copies, best first. */
  readonly sources: readonly number[];
  readonly signal: AbortSignal;
}

/** Makes copies at this node. */
export class ReplicaCopier {
  readonly #options: ReplicaCopierOptions;
  #heldBytes = 0;

  constructor(options: ReplicaCopierOptions) {
    this.#options = options;
  }

  /** Bytes of the node's budget that copying holds now; the rest is of users. */
  get heldBytes(): number {
    return this.#heldBytes;
  }

  /**
   * Makes or checks this node's copy.
   * @throws DriveError CHUNK_LOST when no source could give what is missing, NO_SPACE, CANCELED
   */
  async copy(request: CopyRequest): Promise<Seal> {
    const own = this.#ownPort();
    const isHasty = this.#options.plantedFault === "repair-unverified";
    if (isHasty) return this.#copyFromOthers(own, request, { isHasty });
    const kept = await this.#verifyOwn(own, request, "sealed");
    if (kept !== undefined) return kept;
    try {
      return await this.#copyFromOthers(own, request, { isHasty });
    } catch (error) {
      if (!hasReason(error, "CHUNK_LOST")) throw error;
      // Nobody else can give it now, so what was found damaged here is looked at again: a disk may have come back.
      await this.#options.pace.take(Math.min(request.sizeBytes, CHUNK_SIZE_BYTES), request.signal);
      const mended = await this.#verifyOwn(own, request, "quarantined");
      if (mended === undefined) throw error;
      return mended;
    }
  }

  async #copyFromOthers(
    own: ReplicaPort,
    request: CopyRequest,
    { isHasty }: { readonly isHasty: boolean },
  ): Promise<Seal> {
    const { manifest, from } = await this.#findManifest(request);
    const state = await own.extentState(request.extent);
    if (state.kind === "sealed" || state.kind === "quarantined") {
      // A damaged copy may hold the last good bytes of some chunk: it makes room only when every chunk is to be had elsewhere.
      if (!isHasty) await this.#checkSupply(request, manifest, from);
      await own.removeExtent(request.extent);
    }
    await own.openExtent(request.extent, request.sizeBytes, request.signal);
    const present =
      state.kind === "open" ? await this.#presentChunks(own, request, state.chunkIndexes, manifest) : [];
    await this.#copyChunks(own, request, manifest, { from, present: new Set(present) });
    const seal = await own.sealExtent(
      { extent: request.extent, sizeBytes: request.sizeBytes, origin: manifest.origin },
      request.signal,
    );
    if (bytesEqual(seal.root, request.root)) return seal;
    throw new DriveError("CHUNK_CORRUPT", "The copied extent folded to another root than the tree's.");
  }

  /** The seal of this node's copy when it is in `state`, reads well as a whole and has the tree's root. */
  async #verifyOwn(
    own: ReplicaPort,
    request: CopyRequest,
    state: "sealed" | "quarantined",
  ): Promise<Seal | undefined> {
    const found = await own.extentState(request.extent);
    if (found.kind !== state) return undefined;
    if (found.kind === "sealed" && !bytesEqual(found.root, request.root)) return undefined;
    try {
      const seal = await own.verifyExtent(request.extent, request.signal);
      return bytesEqual(seal.root, request.root) ? seal : undefined;
    } catch (error) {
      if (hasReason(error, "CHUNK_CORRUPT", "CHUNK_NOT_FOUND")) return undefined;
      throw error;
    }
  }

  /** The manifest from the first source whose manifest has the tree's root; the sources from it on. */
  async #findManifest(
    request: CopyRequest,
  ): Promise<{ readonly manifest: Manifest; readonly from: readonly number[] }> {
    for (const [position, memberId] of request.sources.entries()) {
      throwIfCanceled(request.signal);
      const port = this.#options.ports.forMember(memberId);
      if (port === undefined) continue;
      try {
        const manifest = await port.manifest(request.extent);
        if (isManifestOf(manifest, request)) return { manifest, from: request.sources.slice(position) };
        this.#options.onBadReplica(request.extent, memberId, "corrupt");
      } catch (error) {
        this.#noteFailure(request.extent, memberId, error);
      }
    }
    throw lost(request);
  }

  /** Chunks of an unfinished copy that are here already with the right digest. */
  async #presentChunks(
    own: ReplicaPort,
    request: CopyRequest,
    chunkIndexes: readonly number[],
    manifest: Manifest,
  ): Promise<readonly number[]> {
    const present: number[] = [];
    for (const index of chunkIndexes) {
      const wanted = manifest.chunkDigests[index];
      if (wanted === undefined) continue;
      const { digest } = await own.chunkInfo(request.extent, index);
      if (bytesEqual(digest, wanted)) present.push(index);
    }
    return present;
  }

  /** Checks that the sources together hold every chunk: one that verifies as a whole will do, else each chunk is read. */
  async #checkSupply(request: CopyRequest, manifest: Manifest, from: readonly number[]): Promise<void> {
    for (const memberId of from) {
      throwIfCanceled(request.signal);
      const port = this.#options.ports.forMember(memberId);
      if (port === undefined) continue;
      try {
        const seal = await port.verifyExtent(request.extent, request.signal);
        if (bytesEqual(seal.root, request.root)) return;
      } catch (error) {
        throwIfCanceled(request.signal);
        this.#noteFailure(request.extent, memberId, error);
      }
    }
    await this.#eachChunk(request, manifest, from, () => Promise.resolve());
  }

  async #copyChunks(
    own: ReplicaPort,
    request: CopyRequest,
    manifest: Manifest,
    how: { readonly from: readonly number[]; readonly present: ReadonlySet<number> },
  ): Promise<void> {
    const { extent, signal } = request;
    const write = async (chunkIndex: number, bytes: Uint8Array, digest: Uint8Array): Promise<void> => {
      await own.writeChunk(extent, chunkIndex, bytes, digest, signal);
      this.#options.meter.add(bytes.length);
    };
    await this.#eachChunk(request, manifest, how.from, write, how.present);
  }

  /** Reads and checks every chunk that is not `present`, a few at once, and hands it on. */
  async #eachChunk(
    request: CopyRequest,
    manifest: Manifest,
    from: readonly number[],
    use: (chunkIndex: number, bytes: Uint8Array, digest: Uint8Array) => Promise<void>,
    present: ReadonlySet<number> = new Set(),
  ): Promise<void> {
    const count = chunkCount(request.sizeBytes);
    let next = 0;
    const work = async (): Promise<void> => {
      while (next < count) {
        const index = next;
        next += 1;
        if (present.has(index)) continue;
        throwIfCanceled(request.signal);
        const length = chunkSizeBytes(request.sizeBytes, index);
        const digest = must(manifest.chunkDigests[index], "a digest for each chunk");
        await this.#options.pace.take(Math.max(length, COPY_COST_BYTES_MIN), request.signal);
        await this.#options.budget.admit(length, request.signal);
        this.#heldBytes += length;
        try {
          await use(index, await this.#fetch(request, index, digest, from), digest);
        } catch (error) {
          // The others need not begin another.
          next = count;
          throw error;
        } finally {
          this.#heldBytes -= length;
          this.#options.budget.release(length);
        }
      }
    };
    const outcomes = await Promise.allSettled(Array.from({ length: COPY_PARALLEL_COUNT }, work));
    const failed = outcomes.find((outcome) => outcome.status === "rejected");
    if (failed !== undefined) throw failed.reason;
  }

  /** The bytes of a chunk from the first source that has them right. */
  async #fetch(
    request: CopyRequest,
    chunkIndex: number,
    digest: Uint8Array,
    from: readonly number[],
  ): Promise<Uint8Array> {
    const { ports, digester, hashed } = this.#options;
    const { extent, signal } = request;
    const range = {
      offset: chunkIndex * CHUNK_SIZE_BYTES,
      length: chunkSizeBytes(request.sizeBytes, chunkIndex),
    };
    for (const memberId of from) {
      const source = ports.forMember(memberId);
      if (source === undefined) continue;
      try {
        const bytes = await readWhole(source, extent, range, signal);
        if (bytesEqual(await digester.sha256(bytes), digest)) {
          hashed?.remember(bytes, digest);
          return bytes;
        }
        this.#options.onBadReplica(extent, memberId, "corrupt");
      } catch (error) {
        throwIfCanceled(signal);
        this.#noteFailure(extent, memberId, error);
      }
    }
    throw lost(request);
  }

  #noteFailure(extent: ExtentKey, memberId: number, error: unknown): void {
    if (!(error instanceof DriveError)) throw error;
    if (hasReason(error, "CHUNK_CORRUPT", "CHUNK_NOT_FOUND"))
      this.#options.onBadReplica(extent, memberId, findingOf(error));
    if (hasReason(error, "PEER_UNREACHABLE")) this.#options.detector.report(memberId, "unreachable");
  }

  #ownPort(): ReplicaPort {
    return must(this.#options.ports.forMember(this.#options.memberId), "this node's own chunk store");
  }
}

function isManifestOf(manifest: Manifest, request: CopyRequest): boolean {
  return (
    manifest.sizeBytes === request.sizeBytes &&
    manifest.chunkDigests.length === chunkCount(request.sizeBytes) &&
    bytesEqual(foldTreeHash(manifest.chunkDigests), request.root)
  );
}

function lost(request: CopyRequest): DriveError {
  const { contentId, extentIndex } = request.extent;
  return new DriveError(
    "CHUNK_LOST",
    `No source can give extent ${extentIndex} of content ${contentId} at present.`,
    { content_id: String(contentId), extent_index: String(extentIndex) },
  );
}
