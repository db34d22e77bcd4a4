/**
 * Compaction: gives back the space of segments of the log that are partly dead, by writing what is live in one of them anew at
 * the head of the log and removing the file.
 *
 *   choose the segment with most dead bytes --> read its records
 *     extent that lives here   --> its chunks of this segment anew, each checked against its SHA-256 --> a moved manifest
 *     tombstone                --> anew, when an older segment may hold what it forgets
 *   all durable and nothing live left --> index flushed --> file removed
 *
 * A crash at any step loses nothing: until the moved manifest is durable the old records count, afterwards the new ones, and the
 * file goes only when nothing in it counts. Copies that a crash left without their manifest are dead bytes of a later segment.
 * An extent with damage, or being written, keeps its segment until it is repaired, removed or sealed.
 */
import type { ExtentKey } from "../drive/content.ts";
import { chunkCount, chunkSizeBytes } from "../drive/content.ts";
import { hasReason } from "../drive/errors.ts";
import { CHUNK_SIZE_BYTES } from "../drive/limits.ts";
import { must } from "../std/assert.ts";
import { bytesEqual } from "../std/bytes.ts";
import type { Digester } from "../std/digest.ts";
import { errnoOf } from "../std/disk.ts";
import { Semaphore } from "../std/semaphore.ts";
import { recordSizeBytes } from "../segments/record.ts";
import {
  CHUNK_HEAD_SIZE_BYTES,
  decodeManifestEntry,
  decodeTombstoneHead,
  encodeChunkHead,
  encodeManifestBody,
  encodeManifestHead,
  encodeMovedHead,
  encodeTombstoneHead,
  extentName,
  extentOfHead,
  KIND_CHUNK,
  KIND_MOVED_MANIFEST,
  KIND_MOVED_SMALL,
  KIND_TOMBSTONE,
  type ManifestEntry,
} from "./chunk-codec.ts";
import type { SealedExtent } from "./index-codec.ts";
import { DamageError, type ChunkReader } from "./chunk-reader.ts";
import type { StoreParts } from "./open-store.ts";

/** A segment is compacted when at least this share of it is dead: bounds the garbage, and what moving costs, at once. */
export const COMPACTION_DEAD_SHARE_MIN = 0.3;
/** The same while the disk has reached its reserve: space counts for more than work. */
export const COMPACTION_DEAD_SHARE_FULL_MIN = 0.05;
/** Bytes of the extents that are moved at once, as they are weighed. */
export const COMPACTION_BYTES_IN_FLIGHT_MAX = 16 * CHUNK_SIZE_BYTES;
/** An extent weighs no less: bounds how many are under way, whose commits are shared. A small file costs 1/256 of a sync. */
export const COMPACTION_WEIGHT_BYTES_MIN = 64 * 1024;

/**
 * An extent counts for no less towards the pace: moving a small one costs 0.1 ms of processor time, however few bytes it has. So at
 * the 8 MiB/s beside users 512 of them are moved a second, a twentieth of a core.
 */
export const COMPACTION_PACE_BYTES_MIN = 16 * 1024;

const COMPACTION_PARALLEL_COUNT = COMPACTION_BYTES_IN_FLIGHT_MAX / COMPACTION_WEIGHT_BYTES_MIN;

/** Runs that find nothing to do after which segments that something kept are looked at again. */
export const COMPACTION_LOOK_AGAIN_COUNT = 60;

const TOMBSTONE_SIZE_BYTES = recordSizeBytes(16, 0);

/** What Compaction needs of the store. */
export interface CompactionOptions {
  readonly parts: StoreParts;
  readonly reader: ChunkReader;
  readonly digester: Digester;
  /** Runs work on an extent while nothing else seals or removes it. */
  readonly inTurn: (extent: ExtentKey, work: () => Promise<void>) => Promise<void>;
  /** Told that the manifest itself (undefined) or a chunk of a sealed extent is damaged. */
  readonly onDamage: (extent: ExtentKey, chunkIndex: number | undefined) => void;
}

/** What one run did. */
export interface CompactionResult {
  readonly segmentId: number;
  /** Bytes of the file that was removed; 0 when something kept it. */
  readonly freedBytes: number;
  /** Bytes that were written anew. */
  readonly movedBytes: number;
}

/** Compaction of one store. */
export class Compaction {
  readonly #options: CompactionOptions;
  /** Segments that something keeps, with their live bytes then: looked at again when that has changed. */
  readonly #kept = new Map<number, number>();
  readonly #inFlight = new Semaphore(COMPACTION_BYTES_IN_FLIGHT_MAX);
  #idleCount = 0;

  constructor(options: CompactionOptions) {
    this.#options = options;
  }

  /**
   * Compacts one segment, if one is worth it.
   * @param beforeBytes awaited before bytes are moved: paces; what it throws ends the run, harmlessly
   * Errors: NO_SPACE when even the reserve of compaction is used up; those of the disk.
   */
  async run(beforeBytes: (sizeBytes: number) => Promise<void>): Promise<CompactionResult | undefined> {
    const victim = await this.#choose();
    if (victim === undefined) {
      this.#idleCount += 1;
      // What kept a segment may have ended without a trace in its figures.
      if (this.#idleCount % COMPACTION_LOOK_AGAIN_COUNT === 0) this.#kept.clear();
      return undefined;
    }
    const { segmentId, sizeBytes } = victim;
    const { log } = this.#options.parts;
    const work = await this.#scan(segmentId);
    if (work === undefined) return this.#keep(segmentId, 0);
    const moved = await this.#each(work.extents, (extent) => this.#move(extent, segmentId, beforeBytes));
    // Tombstones of the oldest segment forget nothing that is left.
    const isOldest = log.oldestSegmentId === segmentId;
    const carried = isOldest
      ? { isClear: true, bytes: 0 }
      : await this.#each(work.tombstones, (extent) => this.#carry(extent, work.ownSegments));
    const movedBytes = moved.bytes + carried.bytes;
    const isClear =
      moved.isClear &&
      carried.isClear &&
      log.index.segmentUse(segmentId).liveBytes === 0 &&
      // A file that a tombstone names would be taken for an open extent once the tombstone is gone.
      (work.tombstones.length === 0 || log.index.segmentsToUnlink().length === 0);
    if (!isClear || !(await log.removeMoved(segmentId))) return this.#keep(segmentId, movedBytes);
    this.#kept.delete(segmentId);
    return { segmentId, freedBytes: sizeBytes, movedBytes };
  }

  #keep(segmentId: number, movedBytes: number): CompactionResult {
    this.#kept.set(segmentId, this.#options.parts.log.index.segmentUse(segmentId).liveBytes);
    return { segmentId, freedBytes: 0, movedBytes };
  }

  /** The closed segment with the greatest share of dead bytes, when that is enough. */
  async #choose(): Promise<{ readonly segmentId: number; readonly sizeBytes: number } | undefined> {
    const { log, guard } = this.#options.parts;
    let best: { readonly segmentId: number; readonly sizeBytes: number } | undefined;
    let bestShare = guard.refused ? COMPACTION_DEAD_SHARE_FULL_MIN : COMPACTION_DEAD_SHARE_MIN;
    // The index as it is at one moment; the sizes of closed files do not change.
    const uses = log.closedSegmentIds.map((segmentId) => ({ segmentId, ...log.index.segmentUse(segmentId) }));
    for (const { segmentId, liveBytes, tombstoneCount } of uses) {
      if (this.#kept.get(segmentId) === liveBytes) continue;
      // A file that was cut short, or is gone, is found damaged at every start until the log forgets it.
      const leftBytes = log.shortSegments.get(segmentId);
      if (leftBytes !== undefined) return { segmentId, sizeBytes: leftBytes };
      const sizeBytes = await log.segmentSizeBytes(segmentId);
      // Tombstones would have to be written anew: moving them wins nothing.
      const share = (sizeBytes - liveBytes - tombstoneCount * TOMBSTONE_SIZE_BYTES) / Math.max(1, sizeBytes);
      if (share < bestShare) continue;
      bestShare = share;
      best = { segmentId, sizeBytes };
    }
    return best;
  }

  /** What the records of a segment are about; undefined when the segment is damaged. */
  async #scan(segmentId: number): Promise<
    | {
        readonly extents: readonly ExtentKey[];
        readonly tombstones: readonly ExtentKey[];
        readonly ownSegments: ReadonlyMap<string, ReadonlySet<number>>;
      }
    | undefined
  > {
    const extents = new Map<string, ExtentKey>();
    const tombstones = new Map<string, ExtentKey>();
    const ownSegments = new Map<string, Set<number>>();
    try {
      await this.#options.parts.log.scanSegment(segmentId, (record) => {
        const extent = extentOfHead(record.head);
        const name = extentName(extent);
        if (record.kind !== KIND_TOMBSTONE) {
          extents.set(name, extent);
          return;
        }
        tombstones.set(name, extent);
        const ids = ownSegments.get(name) ?? new Set<number>();
        ids.add(decodeTombstoneHead(record.head).ownSegmentId);
        ownSegments.set(name, ids);
      });
    } catch (error) {
      // A page that cannot be read, or a file that is gone, is damage like any other: it keeps this segment, and no other one waits.
      const code = errnoOf(error);
      if (!hasReason(error, "DATA_CORRUPT") && code !== "EIO" && code !== "ENOENT") throw error;
      // What lay behind a cut is gone, its tombstones with it; what still uses the segment keeps it, seen here or not.
      if (!this.#options.parts.log.shortSegments.has(segmentId)) return undefined;
    }
    return { extents: [...extents.values()], tombstones: [...tombstones.values()], ownSegments };
  }

  /** Runs `work` for each extent, many at once as long as they are small; it returns the bytes it wrote, undefined when the extent keeps the segment. */
  async #each(
    extents: readonly ExtentKey[],
    work: (extent: ExtentKey) => Promise<number | undefined>,
  ): Promise<{ readonly isClear: boolean; readonly bytes: number }> {
    const waiting = extents[Symbol.iterator]();
    let isClear = true;
    let bytes = 0;
    const run = async (): Promise<void> => {
      for (const extent of waiting) {
        const weight = this.#weigh(extent);
        await this.#inFlight.acquire(weight);
        try {
          const written = await this.#inTurn(extent, () => work(extent));
          if (written === undefined) isClear = false;
          else bytes += written;
        } finally {
          this.#inFlight.release(weight);
        }
      }
    };
    const outcomes = await Promise.allSettled(Array.from({ length: COMPACTION_PARALLEL_COUNT }, run));
    const failed = outcomes.find((outcome) => outcome.status === "rejected");
    if (failed !== undefined) throw failed.reason;
    return { isClear, bytes };
  }

  /** Bytes that moving an extent holds in memory at a time: a chunk of it. */
  #weigh(extent: ExtentKey): number {
    const sizeBytes = this.#options.parts.log.index.findSealed(extent)?.sizeBytes ?? 0;
    return Math.max(COMPACTION_WEIGHT_BYTES_MIN, Math.min(sizeBytes, CHUNK_SIZE_BYTES));
  }

  async #inTurn(extent: ExtentKey, work: () => Promise<number | undefined>): Promise<number | undefined> {
    let result: number | undefined;
    await this.#options.inTurn(extent, async () => {
      result = await work();
    });
    return result;
  }

  #isOpen(extent: ExtentKey): boolean {
    const { open, log } = this.#options.parts;
    return open.has(extentName(extent)) || log.index.isOpen(extent);
  }

  /** Moves what an extent has in a segment; undefined when it must stay. */
  async #move(
    extent: ExtentKey,
    segmentId: number,
    beforeBytes: (sizeBytes: number) => Promise<void>,
  ): Promise<number | undefined> {
    const sealed = this.#options.parts.log.index.findSealed(extent);
    if (sealed === undefined) return this.#isOpen(extent) ? undefined : 0;
    if (!sealed.uses.some((use) => use.segmentId === segmentId)) return 0;
    return this.#rewrite(extent, sealed, segmentId, beforeBytes);
  }

  /** Writes the seal of an extent anew, with its chunks that lie in `segmentId`; undefined when there is damage. */
  async #rewrite(
    extent: ExtentKey,
    sealed: SealedExtent,
    segmentId: number,
    beforeBytes: (sizeBytes: number) => Promise<void>,
  ): Promise<number | undefined> {
    if (sealed.damagedChunks.length > 0) return undefined;
    const { reader, onDamage } = this.#options;
    try {
      const written = sealed.small
        ? await this.#rewriteSmall(extent, sealed, beforeBytes)
        : await this.#rewriteManifest(extent, sealed, segmentId, beforeBytes);
      reader.forget(extent);
      return written;
    } catch (error) {
      if (!(error instanceof DamageError)) throw error;
      onDamage(extent, error.chunkIndex);
      return undefined;
    }
  }

  async #rewriteSmall(
    extent: ExtentKey,
    sealed: SealedExtent,
    beforeBytes: (sizeBytes: number) => Promise<void>,
  ): Promise<number> {
    const { parts, reader } = this.#options;
    await beforeBytes(Math.max(sealed.sizeBytes, COMPACTION_PACE_BYTES_MIN));
    const head = await reader.sealHead(extent, sealed);
    const bytes = await this.#readChunk(extent, sealed, 0);
    await parts.guard.takeForCompaction(bytes.length);
    const location = parts.log.append(KIND_MOVED_SMALL, encodeManifestHead(head), bytes);
    await parts.log.commit();
    return location.sizeBytes;
  }

  async #rewriteManifest(
    extent: ExtentKey,
    sealed: SealedExtent,
    segmentId: number,
    beforeBytes: (sizeBytes: number) => Promise<void>,
  ): Promise<number> {
    const { parts, reader } = this.#options;
    const { head, body } = await reader.manifest(extent, sealed);
    const isOwn = sealed.ownSegmentId !== 0;
    const entries: ManifestEntry[] = [];
    const shares = new Map<number, number>();
    let written = 0;
    for (let chunkIndex = 0; chunkIndex < chunkCount(sealed.sizeBytes); chunkIndex += 1) {
      const sizeBytes = chunkSizeBytes(sealed.sizeBytes, chunkIndex);
      let entry = decodeManifestEntry(body, chunkIndex);
      if (!isOwn && entry.segmentId === segmentId) {
        await beforeBytes(sizeBytes);
        const bytes = await this.#readChunk(extent, sealed, chunkIndex);
        await parts.guard.takeForCompaction(bytes.length);
        const chunkHead = encodeChunkHead({ extent, chunkIndex, digest: entry.digest });
        const location = parts.log.append(KIND_CHUNK, chunkHead, bytes);
        await parts.log.flush();
        entry = { digest: entry.digest, segmentId: location.segmentId, offset: location.offset };
        written += location.sizeBytes;
      }
      entries.push(entry);
      if (isOwn) continue;
      const recordBytes = recordSizeBytes(CHUNK_HEAD_SIZE_BYTES, sizeBytes);
      shares.set(entry.segmentId, (shares.get(entry.segmentId) ?? 0) + recordBytes);
    }
    const moved = [...shares].map(([id, sizeBytes]) => ({ segmentId: id, sizeBytes }));
    const movedBody = encodeManifestBody(entries);
    const location = parts.log.append(KIND_MOVED_MANIFEST, encodeMovedHead(head, moved), movedBody);
    await parts.log.commit();
    return written + location.sizeBytes;
  }

  /** A whole chunk, with its SHA-256 checked: nothing wrong is ever written anew. */
  async #readChunk(extent: ExtentKey, sealed: SealedExtent, chunkIndex: number): Promise<Uint8Array> {
    const { reader, digester } = this.#options;
    const placed = must(await reader.placeSealed(extent, sealed, chunkIndex), "a chunk of the extent");
    const bytes = await reader.read(placed, 0, placed.sizeBytes);
    if (bytesEqual(await digester.sha256(bytes), placed.digest)) return bytes;
    throw new DamageError(chunkIndex, "the bytes do not have the digest of the manifest");
  }

  /** Sees to it that an extent stays forgotten without its tombstone in this segment; undefined when that is not possible now. */
  async #carry(
    extent: ExtentKey,
    ownSegments: ReadonlyMap<string, ReadonlySet<number>>,
  ): Promise<number | undefined> {
    const { log } = this.#options.parts;
    const sealed = log.index.findSealed(extent);
    if (sealed === undefined) {
      // A tombstone behind chunks that were written since would take them away.
      if (this.#isOpen(extent)) return undefined;
      let written = 0;
      for (const ownSegmentId of ownSegments.get(extentName(extent)) ?? []) {
        written += log.append(KIND_TOMBSTONE, encodeTombstoneHead({ extent, ownSegmentId })).sizeBytes;
      }
      await log.commit();
      return written;
    }
    // It came back since. A moved seal stands whatever was before, so it needs no tombstone; any other is made one.
    if (sealed.moved) return 0;
    return this.#rewrite(extent, sealed, 0, () => Promise.resolve());
  }
}
