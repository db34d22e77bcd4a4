/**
 * The chunk store on disk: ChunkStore over segments. DESIGN.md tells how it works and why.
 *
 * Small extents and all manifests go to one log with group commit; large extents, and those of unknown size, get a segment of
 * their own. Sealing costs the sync of what is not durable yet and one commit round of the log, never a second look at the
 * bytes: their digests were checked while they were in memory. At one extent, sealing and removing take turns, and wait for
 * the writes under way. Every byte that leaves was verified by chunk-reader.ts.
 */
import { chunkCount, type ExtentKey, type Manifest, type Seal } from "../drive/content.ts";
import { DriveError } from "../drive/errors.ts";
import {
  CHUNK_SIZE_BYTES,
  DEDICATED_SEGMENT_SIZE_BYTES_MIN,
  EXTENT_CHUNK_COUNT_MAX,
  EXTENT_SIZE_BYTES_MAX,
} from "../drive/limits.ts";
import { assert, must } from "../std/assert.ts";
import { bytesEqual, toHex } from "../std/bytes.ts";
import { foldTreeHash, type Digester } from "../std/digest.ts";
import { Semaphore } from "../std/semaphore.ts";
import { unlessFull } from "../segments/segment-error.ts";
import type { SingleSegment } from "../segments/single-segment.ts";
import {
  encodeChunkHead,
  encodeManifestBody,
  encodeManifestHead,
  encodeTombstoneHead,
  extentName,
  CHUNK_HEAD_SIZE_BYTES,
  KIND_CHUNK,
  KIND_MANIFEST,
  KIND_SMALL,
  KIND_TOMBSTONE,
  compareExtents,
} from "./chunk-codec.ts";
import type { SealedExtent } from "./index-codec.ts";
import { Compaction, type CompactionResult } from "./compaction.ts";
import { corrupt, finished, incomplete, notFound, operatingError, outOfRange } from "./chunk-errors.ts";
import { ChunkReader, DamageError, isSameSeal, type PlacedChunk } from "./chunk-reader.ts";
import type { ChunkStore, ChunkStoreStats, ExtentState, SealRequest, SmallExtent } from "./chunk-store.ts";
import { ExtentCheck, type VerifyOptions } from "./extent-check.ts";
import { ExtentTurns } from "./extent-turns.ts";
import { LostFiles } from "./lost-files.ts";
import { OpenExtent, requireChunks } from "./open-extent.ts";
import { openStoreParts, type StoreParts, type DiskChunkStoreOptions } from "./open-store.ts";
import type { SpaceUse } from "./space-guard.ts";

export type { DiskChunkStoreOptions } from "./open-store.ts";

/** Tries of a read under which compaction moves the extent again and again. */
const READ_TRY_COUNT_MAX = 5;

/** A chunk store on a disk. */
export class DiskChunkStore implements ChunkStore {
  readonly memberId: number;
  readonly storeIncarnation: string;
  readonly #options: DiskChunkStoreOptions;
  readonly #parts: StoreParts;
  readonly #digester: Digester;
  readonly #reader: ChunkReader;
  readonly #check: ExtentCheck;
  readonly #compaction: Compaction;
  readonly #budget: Semaphore;
  /** Seals and removals under way. */
  readonly #turns = new ExtentTurns();
  readonly #lostFiles: LostFiles;
  #closed = false;

  private constructor(options: DiskChunkStoreOptions, parts: StoreParts) {
    this.memberId = options.memberId;
    this.storeIncarnation = parts.storeIncarnation;
    this.#options = options;
    this.#parts = parts;
    this.#digester = options.digester;
    this.#reader = new ChunkReader(parts.log, parts.own);
    this.#check = new ExtentCheck({
      ...{ log: parts.log, reader: this.#reader, digester: this.#digester },
      ...{ onDamage: options.onDamage, onMended: options.onMended },
    });
    this.#compaction = new Compaction({
      parts,
      reader: this.#reader,
      digester: this.#digester,
      inTurn: (extent, work) => this.#inTurn(extent, work),
      onDamage: (extent, chunkIndex) => this.#check.noteDamage(extent, chunkIndex),
    });
    this.#lostFiles = new LostFiles({
      parts,
      reader: this.#reader,
      inTurn: (extent, work) => this.#inTurn(extent, work),
      verify: (extent, beforeChunk) => this.#verify(extent, { beforeChunk, findsAll: true }),
      verifyManifest: (extent) => this.#reading(extent, () => this.#check.verifyManifest(extent)),
      close: (open) => this.#closeOpen(open, { unlink: false }),
      onLost: options.onLostFile,
    });
    this.#budget = new Semaphore(parts.bytesInFlightMax);
    assert(parts.bytesInFlightMax >= CHUNK_SIZE_BYTES, "a store takes at least one chunk at a time");
  }

  /**
   * Opens a store, or formats one in an empty directory. Errors: DATA_CORRUPT (the identity or the table of the log is
   * damaged, lost, or of another member); those of the disk. Damage to records is reported and does not keep it closed.
   */
  static async open(options: DiskChunkStoreOptions): Promise<DiskChunkStore> {
    const store = new DiskChunkStore(options, await openStoreParts(options));
    // On a full disk it opens all the same: it serves reads, and reclaims at the next removal that finds space.
    await unlessFull(store.#parts.log.reclaim("all"));
    return store;
  }

  /** Syncs of the log so far, for tests and metrics. */
  get syncCount(): number {
    return this.#parts.log.syncCount;
  }

  async openExtent(
    extent: ExtentKey,
    expectedSizeBytes: number | undefined,
    use: SpaceUse = "users",
  ): Promise<void> {
    await this.#turns.over(extent);
    const isKnown = this.#findOpen(extent) !== undefined || this.#index.findSealed(extent) !== undefined;
    if (!isKnown) await this.#parts.guard.require(expectedSizeBytes ?? 1, use);
    if (this.#index.findSealed(extent) !== undefined) return;
    const open = this.#findOpen(extent) ?? this.#makeOpen(extent, expectedSizeBytes);
    if (use === "copies") open.use = use;
  }

  async writeChunk(
    extent: ExtentKey,
    chunkIndex: number,
    bytes: Uint8Array,
    digest: Uint8Array,
  ): Promise<void> {
    if (!Number.isInteger(chunkIndex) || chunkIndex < 0 || chunkIndex >= EXTENT_CHUNK_COUNT_MAX) {
      throw outOfRange(`An extent has chunks 0 to ${EXTENT_CHUNK_COUNT_MAX - 1}.`, chunkIndex);
    }
    if (bytes.length < 1 || bytes.length > CHUNK_SIZE_BYTES) {
      throw outOfRange(`A chunk has 1 to ${CHUNK_SIZE_BYTES} bytes, not ${bytes.length}.`, chunkIndex);
    }
    await this.#budget.acquire(bytes.length);
    try {
      await this.#turns.over(extent);
      const sealed = this.#index.findSealed(extent);
      if (sealed !== undefined) {
        await this.#acceptAgain(extent, sealed, chunkIndex, digest);
        return;
      }
      const open = this.#findOpen(extent) ?? this.#makeOpen(extent, undefined);
      await open.write(() => this.#writeOpen(open, chunkIndex, bytes, digest));
    } catch (error) {
      const open = this.#findOpen(extent);
      // Nothing of it is here: an extent that could not be begun is absent.
      if (open?.isEmpty === true && open.own?.segment === undefined)
        this.#parts.open.delete(extentName(extent));
      throw operatingError(error);
    } finally {
      this.#budget.release(bytes.length);
    }
  }

  async sealExtent(request: SealRequest): Promise<Seal> {
    const { extent, sizeBytes } = request;
    assert(sizeBytes >= 1 && sizeBytes <= EXTENT_SIZE_BYTES_MAX, `an extent of ${sizeBytes} bytes`);
    return await this.#inTurn(extent, async () => {
      const sealed = this.#index.findSealed(extent);
      if (sealed !== undefined) return this.#sealAgain(extent, sealed, sizeBytes);
      const open = this.#findOpen(extent);
      if (open === undefined) throw incomplete([...Array(chunkCount(sizeBytes)).keys()]);
      await open.quiesce();
      requireChunks(open, sizeBytes);
      await this.#verifyRecovered(open, sizeBytes);
      return await this.#writeManifest(open, request);
    });
  }

  async putSmall(small: SmallExtent): Promise<Seal> {
    const { extent, bytes, digest, origin } = small;
    if (bytes.length < 1 || bytes.length > CHUNK_SIZE_BYTES) {
      throw outOfRange(`A small extent has 1 to ${CHUNK_SIZE_BYTES} bytes, not ${bytes.length}.`, 0);
    }
    await this.#budget.acquire(bytes.length);
    try {
      await this.#requireDigest(bytes, digest);
      return await this.#inTurn(extent, async () => {
        const sealed = this.#index.findSealed(extent);
        if (sealed !== undefined) {
          if (!bytesEqual(sealed.root, digest)) throw finished(extent);
          return this.#sealAgain(extent, sealed, bytes.length);
        }
        return await this.#parts.guard.hold(bytes.length, async () => {
          const open = this.#findOpen(extent);
          await open?.quiesce();
          const head = { extent, sizeBytes: bytes.length, root: digest, ownSegmentId: 0, origin };
          this.#parts.log.append(KIND_SMALL, encodeManifestHead(head), bytes);
          await this.#parts.log.commit();
          if (open !== undefined) await this.#closeOpen(open, { unlink: true });
          return this.#sealOf(extent, bytes.length, digest);
        });
      });
    } finally {
      this.#budget.release(bytes.length);
    }
  }

  async readChunk(
    extent: ExtentKey,
    chunkIndex: number,
    offset: number,
    length: number,
  ): Promise<Uint8Array> {
    return await this.#reading(extent, async () => {
      const chunk = await this.#place(extent, chunkIndex);
      if (offset < 0 || length < 0 || offset + length > chunk.sizeBytes) {
        throw new DriveError(
          "RANGE_NOT_SATISFIABLE",
          `Bytes ${offset}+${length} lie outside the chunk of ${chunk.sizeBytes} bytes.`,
          { offset: String(offset), length: String(length), size_bytes: String(chunk.sizeBytes) },
        );
      }
      return await this.#reader.read(chunk, offset, length);
    });
  }

  async chunkInfo(
    extent: ExtentKey,
    chunkIndex: number,
  ): Promise<{ readonly digest: Uint8Array; readonly sizeBytes: number }> {
    return await this.#reading(extent, async () => {
      const { digest, sizeBytes } = await this.#place(extent, chunkIndex);
      return { digest: Uint8Array.from(digest), sizeBytes };
    });
  }

  async manifest(extent: ExtentKey): Promise<Manifest> {
    return await this.#reading(extent, async () => {
      const sealed = this.#index.findSealed(extent);
      if (sealed === undefined) throw notFound(extent);
      const { origin } = await this.#reader.sealHead(extent, sealed);
      const { sizeBytes, root } = sealed;
      return { extent, sizeBytes, root, chunkDigests: await this.#reader.digests(extent, sealed), origin };
    });
  }

  async extentState(extent: ExtentKey): Promise<ExtentState> {
    const sealed = this.#index.findSealed(extent);
    if (sealed !== undefined) {
      const { sizeBytes, root, damagedChunks } = sealed;
      if (damagedChunks.length === 0) return { kind: "sealed", sizeBytes, root };
      return { kind: "quarantined", sizeBytes, chunkIndexes: damagedChunks };
    }
    const open = this.#findOpen(extent);
    if (open === undefined) return { kind: "absent" };
    return { kind: "open", chunkIndexes: [...open.chunks.keys()].sort((a, b) => a - b) };
  }

  verifyExtent(extent: ExtentKey, beforeChunk?: (sizeBytes: number) => Promise<void>): Promise<Seal> {
    return this.#verify(extent, { beforeChunk });
  }

  async removeExtent(extent: ExtentKey): Promise<void> {
    await this.#inTurn(extent, async () => {
      const sealed = this.#index.findSealed(extent);
      const open = this.#findOpen(extent);
      if (sealed === undefined && open === undefined) return;
      await open?.quiesce();
      const ownSegmentId = sealed?.ownSegmentId ?? open?.own?.segmentId ?? 0;
      this.#parts.log.append(KIND_TOMBSTONE, encodeTombstoneHead({ extent, ownSegmentId }));
      await this.#parts.log.commit();
      this.#reader.forget(extent);
      if (open !== undefined) await this.#closeOpen(open, { unlink: false });
      if (ownSegmentId !== 0) await this.#unlinkRemoved(ownSegmentId);
      this.#parts.log.reclaim("emptied").catch((error: unknown) => this.#options.onTrouble(error as Error));
    });
  }

  async listExtents(after: ExtentKey | undefined, countMax: number): Promise<readonly ExtentKey[]> {
    const keys = this.#index.listSealed(after, countMax);
    for (const { extent } of this.#parts.open.values()) {
      if (after === undefined || compareExtents(extent, after) > 0) keys.push(extent);
    }
    return keys.sort(compareExtents).slice(0, countMax);
  }

  /** Gives back the space of one segment that is partly dead; undefined when none is worth it. See Compaction.run(). */
  compact(beforeBytes: (sizeBytes: number) => Promise<void>): Promise<CompactionResult | undefined> {
    return this.#compaction.run(beforeBytes).catch((error: unknown) => {
      throw operatingError(error);
    });
  }

  /** Looks for files that were removed, replaced or cut short under the store; see LostFiles.check(). */
  checkFiles(pause: (sizeBytes: number) => Promise<void>): Promise<void> {
    return this.#lostFiles.check(pause).catch((error: unknown) => {
      throw operatingError(error);
    });
  }

  /** Asks the file system how much space is left, so that stats() tells what others did to the disk. */
  refreshSpace(): Promise<void> {
    return this.#parts.guard.refresh();
  }

  stats(): ChunkStoreStats {
    const { meta } = this.#index;
    const { freeBytes, totalBytes } = this.#parts.guard.space;
    let openBytes = 0;
    for (const open of this.#parts.open.values()) openBytes += open.sizeBytes;
    return {
      extentCount: meta.extentCount,
      openExtentCount: this.#parts.open.size,
      quarantinedExtentCount: meta.quarantinedExtentCount,
      liveBytes: meta.liveBytes + openBytes,
      segmentBytes: this.#parts.log.sizeBytes + meta.ownBytes + openBytes,
      freeBytes,
      totalBytes,
      writesRefused: this.#parts.guard.refused,
      lostFileCount: this.#lostFiles.count,
    };
  }

  /** Waits for what is under way, makes the log and the index durable and closes the files. Open extents stay open. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#turns.allOver();
    for (const open of this.#parts.open.values()) {
      await open.quiesce();
      const segment = await open.own?.segment?.catch(() => undefined);
      if (segment !== undefined) await unlessFull(segment.flush());
      await segment?.abandon(new Error("the store was closed"));
    }
    await this.#parts.log.close();
    await this.#parts.own.close();
  }

  get #index(): StoreParts["log"]["index"] {
    return this.#parts.log.index;
  }

  #findOpen(extent: ExtentKey): OpenExtent | undefined {
    return this.#parts.open.get(extentName(extent));
  }

  #makeOpen(extent: ExtentKey, expectedSizeBytes: number | undefined): OpenExtent {
    const large = expectedSizeBytes === undefined || expectedSizeBytes >= DEDICATED_SEGMENT_SIZE_BYTES_MIN;
    const segmentId = large ? this.#index.takeOwnSegmentId() : 0;
    const own = large ? { segmentId, recoveredEnd: undefined, segment: undefined } : undefined;
    const count = expectedSizeBytes === undefined ? undefined : chunkCount(expectedSizeBytes);
    const open = new OpenExtent(extent, own, count);
    this.#parts.open.set(extentName(extent), open);
    return open;
  }

  /** Runs seals and removals of one extent one after another. */
  #inTurn<T>(extent: ExtentKey, work: () => Promise<T>): Promise<T> {
    return this.#turns.run(extent, work).catch((error: unknown) => {
      throw operatingError(error);
    });
  }

  async #writeOpen(
    open: OpenExtent,
    chunkIndex: number,
    bytes: Uint8Array,
    digest: Uint8Array,
  ): Promise<void> {
    if (open.has(chunkIndex, bytes.length, digest)) return;
    const { guard } = this.#parts;
    const write = async (): Promise<void> => {
      const head = encodeChunkHead({ extent: open.extent, chunkIndex, digest });
      const taken = { sizeBytes: bytes.length, digest: Uint8Array.from(digest), verified: true };
      if (open.own === undefined) {
        // Checked first: a record of the log counts as soon as it is durable, and a wrong one must not replace a good one.
        await this.#requireDigest(bytes, digest);
        const location = this.#parts.log.append(KIND_CHUNK, head, bytes);
        await this.#parts.log.flush();
        open.add(chunkIndex, { location, ...taken });
        return;
      }
      const segment = await this.#ownSegment(open);
      if (!segment.fits(CHUNK_HEAD_SIZE_BYTES, bytes.length)) {
        throw new DriveError(
          "NO_SPACE",
          "The chunks of this extent were replaced too often; start a new upload.",
        );
      }
      const location = segment.append(KIND_CHUNK, head, bytes);
      const [written, checked] = await Promise.allSettled([
        segment.flush(),
        this.#requireDigest(bytes, digest),
      ]);
      if (written.status === "rejected") throw written.reason as Error;
      if (checked.status === "rejected") throw checked.reason as Error;
      open.add(chunkIndex, { location, ...taken });
      // The last chunk is here, so the seal is near: what it must wait for starts now.
      if (open.chunks.size === open.expectedChunkCount) segment.requestSync();
    };
    await guard.hold(bytes.length, write, open.use);
  }

  #ownSegment(open: OpenExtent): Promise<SingleSegment> {
    const own = must(open.own, "asked for the segment of an extent that has one");
    const { segmentId, recoveredEnd } = own;
    own.segment ??= (
      recoveredEnd === undefined
        ? this.#parts.own.create(segmentId, open.extent)
        : this.#parts.own.reopen(segmentId, open.extent, recoveredEnd)
    ).catch((error: unknown) => {
      own.segment = undefined;
      throw error;
    });
    return own.segment;
  }

  async #requireDigest(bytes: Uint8Array, digest: Uint8Array): Promise<void> {
    if (this.#options.hashed?.knows(bytes, digest) === true) return;
    const found = await this.#digester.sha256(bytes);
    if (bytesEqual(found, digest)) return;
    throw new DriveError("DIGEST_MISMATCH", "The bytes do not have the digest they came with.", {
      declared: toHex(digest),
      found: toHex(found),
    });
  }

  /** A chunk of an extent that is sealed: the same one is fine, another one comes too late. */
  async #acceptAgain(
    extent: ExtentKey,
    sealed: SealedExtent,
    chunkIndex: number,
    digest: Uint8Array,
  ): Promise<void> {
    if (sealed.damagedChunks.includes(chunkIndex)) throw corrupt(extent, sealed.damagedChunks);
    const chunk = await this.#reading(extent, () =>
      this.#reader.placeSealed(extent, this.#index.findSealed(extent) ?? sealed, chunkIndex),
    );
    if (chunk === undefined || !bytesEqual(chunk.digest, digest)) throw finished(extent);
  }

  #sealAgain(extent: ExtentKey, sealed: SealedExtent, sizeBytes: number): Seal {
    if (sealed.sizeBytes !== sizeBytes) throw finished(extent);
    if (sealed.damagedChunks.length > 0) throw corrupt(extent, sealed.damagedChunks);
    return this.#sealOf(extent, sizeBytes, sealed.root);
  }

  #sealOf(extent: ExtentKey, sizeBytes: number, root: Uint8Array): Seal {
    const { memberId, storeIncarnation } = this;
    return { extent, sizeBytes, root: Uint8Array.from(root), memberId, storeIncarnation };
  }

  /** Checks chunks that a restart found, which this process has not seen in memory. Errors: CHUNK_CORRUPT; then they are gone. */
  async #verifyRecovered(open: OpenExtent, sizeBytes: number): Promise<void> {
    const damaged: number[] = [];
    for (let chunkIndex = 0; chunkIndex < chunkCount(sizeBytes); chunkIndex += 1) {
      const chunk = must(open.chunks.get(chunkIndex), "all chunks are present");
      if (chunk.verified) continue;
      const placed = this.#reader.placeOpen(open.extent, chunkIndex, chunk, open.own !== undefined);
      if (await this.#check.hasDigest(placed)) open.chunks.set(chunkIndex, { ...chunk, verified: true });
      else damaged.push(chunkIndex);
    }
    if (damaged.length === 0) return;
    for (const chunkIndex of damaged) open.chunks.delete(chunkIndex);
    throw corrupt(open.extent, damaged);
  }

  async #writeManifest(open: OpenExtent, request: SealRequest): Promise<Seal> {
    const { extent, sizeBytes, origin } = request;
    const entries = Array.from({ length: chunkCount(sizeBytes) }, (_, chunkIndex) => {
      const { digest, location } = must(open.chunks.get(chunkIndex), "all chunks are present");
      return { digest, segmentId: location.segmentId, offset: location.offset };
    });
    const root = foldTreeHash(entries.map((entry) => entry.digest));
    // The bytes first: a manifest in the log promises them.
    if (open.own !== undefined) await (await this.#ownSegment(open)).sync();
    const ownSegmentId = open.own?.segmentId ?? 0;
    const head = encodeManifestHead({ extent, sizeBytes, root, ownSegmentId, origin });
    this.#parts.log.append(KIND_MANIFEST, head, encodeManifestBody(entries));
    await this.#parts.log.commit();
    await this.#closeOpen(open, { unlink: false });
    return this.#sealOf(extent, sizeBytes, root);
  }

  /** Ends an open extent that was sealed or removed; `unlink`: its own segment holds nothing that counts. */
  async #closeOpen(open: OpenExtent, { unlink }: { readonly unlink: boolean }): Promise<void> {
    this.#parts.open.delete(extentName(open.extent));
    if (open.own?.segment === undefined && open.own?.recoveredEnd === undefined) return;
    const segment = await open.own.segment?.catch(() => undefined);
    await segment?.abandon(new Error("the extent is closed"));
    if (!unlink) return;
    try {
      await this.#parts.own.unlink([open.own.segmentId]);
    } catch (error) {
      // The next start removes it: nothing names it any more.
      this.#options.onTrouble(error as Error);
    }
  }

  async #unlinkRemoved(segmentId: number): Promise<void> {
    try {
      await this.#parts.own.unlink([segmentId]);
      this.#index.unlinked(segmentId);
    } catch (error) {
      // The removal is durable by its tombstone; the next start unlinks the file.
      this.#options.onTrouble(error as Error);
    }
  }

  async #place(extent: ExtentKey, chunkIndex: number): Promise<PlacedChunk> {
    const sealed = this.#index.findSealed(extent);
    if (sealed !== undefined) {
      if (sealed.damagedChunks.includes(chunkIndex)) throw corrupt(extent, sealed.damagedChunks);
      const placed = await this.#reader.placeSealed(extent, sealed, chunkIndex);
      if (placed === undefined) throw notFound(extent, chunkIndex);
      return placed;
    }
    const open = this.#findOpen(extent);
    const chunk = open?.chunks.get(chunkIndex);
    if (open === undefined || chunk === undefined) throw notFound(extent, chunkIndex);
    return this.#reader.placeOpen(extent, chunkIndex, chunk, open.own !== undefined);
  }

  async #verify(extent: ExtentKey, options: VerifyOptions): Promise<Seal> {
    return await this.#reading(extent, async () => {
      const { sizeBytes, root } = await this.#check.verify(extent, options);
      return this.#sealOf(extent, sizeBytes, root);
    });
  }

  /** Runs a read; damage found on the way is kept in mind and becomes CHUNK_CORRUPT. */
  async #reading<T>(extent: ExtentKey, work: () => Promise<T>, tryCount = 1): Promise<T> {
    const before = this.#index.findSealed(extent);
    try {
      return await work();
    } catch (error) {
      if (!(error instanceof DamageError)) throw operatingError(error);
      const later = this.#index.findSealed(extent);
      const isMoved = before !== undefined && later?.moved === true && !isSameSeal(before, later);
      // Compaction moved it under the reader: what is there now is read.
      if (isMoved && tryCount < READ_TRY_COUNT_MAX) return await this.#reading(extent, work, tryCount + 1);
      // Removed, and perhaps written anew, under the reader: what it missed was not damage.
      const now = this.#index.findSealed(extent);
      const open = this.#findOpen(extent);
      const gone = before === undefined ? (open ?? now) === undefined : !isSameSeal(before, now);
      if (gone) throw notFound(extent, error.chunkIndex);
      if (error.chunkIndex !== undefined) open?.chunks.delete(error.chunkIndex);
      throw corrupt(extent, this.#check.noteDamage(extent, error.chunkIndex), error);
    }
  }
}
