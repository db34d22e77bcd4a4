/**
 * The look at a sealed extent as a whole, and the marks of what was found damaged.
 *
 *   a read, a check, compaction finds damage --> marked in the index: refused to readers, the bytes are kept
 *   check of an extent with marks            --> a marked chunk is still bad: the marks stay, and nothing more is read
 *                                            --> manifest and all chunks read well: the marks go, durably --> its seal
 *
 * What is bad once need not be for ever: a disk that was unmounted comes back, a read fails in passing. The digests decide, never
 * what was said before; but nothing of a marked chunk is handed out before its extent was read whole.
 */
import { chunkCount, chunkSizeBytes, type ExtentKey } from "../drive/content.ts";
import { must } from "../std/assert.ts";
import { bytesEqual } from "../std/bytes.ts";
import type { Digester } from "../std/digest.ts";
import type { RecordLocation } from "../segments/record.ts";
import { extentName } from "./chunk-codec.ts";
import { corrupt, notFound } from "./chunk-errors.ts";
import { ChunkReader, DamageError, isSameSeal, type PlacedChunk } from "./chunk-reader.ts";
import type { SealedExtent } from "./index-codec.ts";
import type { StoreLog } from "./store-log.ts";

/** What an ExtentCheck needs of the store. */
export interface ExtentCheckOptions {
  readonly log: StoreLog;
  readonly reader: ChunkReader;
  readonly digester: Digester;
  /** Told of chunks that were not known to be damaged. */
  readonly onDamage: (extent: ExtentKey, chunkIndexes: readonly number[]) => void;
  /** Told of an extent whose marks went. */
  readonly onMended: ((extent: ExtentKey) => void) | undefined;
}

/** How an extent is read whole. */
export interface VerifyOptions {
  /** Awaited before each chunk is read, with its size: paces; what it throws ends the check. */
  readonly beforeChunk?: ((sizeBytes: number) => Promise<void>) | undefined;
  /** Reads on behind a chunk that was known to be bad and still is: whoever asks wants to know of every other one. */
  readonly findsAll?: boolean;
}

/** A check under way. */
interface Check {
  readonly name: string;
  /** Whether others found damage meanwhile: what this one read well before may be what they found bad. */
  isOvertaken: boolean;
}

/** Checks of one store, and its marks. */
export class ExtentCheck {
  readonly #options: ExtentCheckOptions;
  readonly #checks = new Set<Check>();

  constructor(options: ExtentCheckOptions) {
    this.#options = options;
  }

  /**
   * Reads a sealed extent whole, and marks what is damaged or takes away the marks when nothing is.
   * Errors: CHUNK_NOT_FOUND, CHUNK_CORRUPT, NO_SPACE (marks that went are not durable); DamageError for the manifest, or when the
   * extent was moved or removed under the check.
   */
  async verify(extent: ExtentKey, options: VerifyOptions): Promise<SealedExtent> {
    const check: Check = { name: extentName(extent), isOvertaken: false };
    this.#checks.add(check);
    try {
      return await this.#verify(extent, options, check);
    } finally {
      this.#checks.delete(check);
    }
  }

  /** As verify(), of the manifest alone; takes no marks away. */
  async verifyManifest(extent: ExtentKey): Promise<void> {
    await this.#options.reader.checkedDigests(extent, this.#sealed(extent));
  }

  /** Marks a chunk of a sealed extent, or all when the manifest itself is damaged; returns which. */
  noteDamage(extent: ExtentKey, chunkIndex: number | undefined): readonly number[] {
    const { sizeBytes = 0 } = this.#options.log.index.findSealed(extent) ?? {};
    const damaged = chunkIndex === undefined ? [...Array(chunkCount(sizeBytes)).keys()] : [chunkIndex];
    this.#mark(extent, damaged);
    return damaged;
  }

  /** Whether the stored bytes of a chunk have its digest. Errors: those that are not damage. */
  async hasDigest(chunk: PlacedChunk): Promise<boolean> {
    const { reader, digester } = this.#options;
    try {
      const bytes = await reader.read(chunk, 0, chunk.sizeBytes);
      return bytesEqual(await digester.sha256(bytes), chunk.digest);
    } catch (error) {
      if (error instanceof DamageError) return false;
      throw error;
    }
  }

  #sealed(extent: ExtentKey): SealedExtent {
    const sealed = this.#options.log.index.findSealed(extent);
    if (sealed === undefined) throw notFound(extent);
    return sealed;
  }

  async #verify(extent: ExtentKey, options: VerifyOptions, check: Check): Promise<SealedExtent> {
    const { log, reader } = this.#options;
    const sealed = this.#sealed(extent);
    const marked = new Set(sealed.damagedChunks);
    // A manifest in memory says nothing of the one on the disk.
    if (marked.size > 0) reader.forget(extent);
    const digests = await reader.checkedDigests(extent, sealed);
    const damaged: number[] = [];
    // What is marked comes first: a look at what is still bad, of which there may be many, costs one chunk and not the extent.
    for (const chunkIndex of new Set([...marked, ...digests.keys()])) {
      await options.beforeChunk?.(chunkSizeBytes(sealed.sizeBytes, chunkIndex));
      if (await this.#isIntact(extent, sealed, chunkIndex, must(digests[chunkIndex], "a digest"))) continue;
      damaged.push(chunkIndex);
      if (marked.has(chunkIndex) && options.findsAll !== true) break;
    }
    if ((damaged.length > 0 || marked.size > 0) && !isSameSeal(sealed, log.index.findSealed(extent))) {
      throw new DamageError(damaged[0], "the extent was moved or removed under the check");
    }
    this.#mark(
      extent,
      damaged.sort((a, b) => a - b),
    );
    if (marked.size > 0 && damaged.length === 0) await this.#clear(extent, sealed, check);
    const known = log.index.findSealed(extent)?.damagedChunks ?? damaged;
    if (known.length > 0) throw corrupt(extent, known);
    return sealed;
  }

  async #isIntact(
    extent: ExtentKey,
    sealed: SealedExtent,
    chunkIndex: number,
    digest: Uint8Array,
  ): Promise<boolean> {
    const { reader } = this.#options;
    const placed = must(await reader.placeSealed(extent, sealed, chunkIndex), "a chunk of the manifest");
    return bytesEqual(placed.digest, digest) && (await this.hasDigest(placed));
  }

  /** Takes the marks of an extent away that was just read well, unless something came between: then the next check does. */
  async #clear(extent: ExtentKey, sealed: SealedExtent, check: Check): Promise<void> {
    const { log, onMended } = this.#options;
    const places = await this.#placesInLog(extent, sealed);
    const uses = sealed.moved ? sealed.uses : usesOf(places);
    let isCleared = false;
    await log.settle(() => {
      const isHere = isSameSeal(sealed, log.index.findSealed(extent));
      if (check.isOvertaken || !isHere || !uses.every(({ segmentId }) => log.has(segmentId))) return;
      for (const place of places) log.noteRead(place);
      log.index.clearDamage(extent, uses);
      isCleared = true;
    });
    if (isCleared) onMended?.(extent);
  }

  /** Where the seal of an extent lies, and those of its chunks that are in the log. */
  async #placesInLog(extent: ExtentKey, sealed: SealedExtent): Promise<readonly RecordLocation[]> {
    const places = [sealed.location];
    if (sealed.small || sealed.ownSegmentId !== 0) return places;
    for (let chunkIndex = 0; chunkIndex < chunkCount(sealed.sizeBytes); chunkIndex += 1) {
      const placed = await this.#options.reader.placeSealed(extent, sealed, chunkIndex);
      places.push(must(placed, "a chunk of the manifest").location);
    }
    return places;
  }

  #mark(extent: ExtentKey, chunkIndexes: readonly number[]): void {
    if (chunkIndexes.length === 0) return;
    const name = extentName(extent);
    for (const check of this.#checks) if (check.name === name) check.isOvertaken = true;
    if (this.#options.log.index.markDamaged(extent, chunkIndexes)) {
      this.#options.onDamage(extent, chunkIndexes);
    }
  }
}

/**
 * Bytes of records by segment. The index counts them at the seal; but one that was rebuilt while a chunk could not be read does not
 * know of that chunk, and would let its segment go.
 */
function usesOf(places: readonly RecordLocation[]): SealedExtent["uses"] {
  const uses = new Map<number, number>();
  for (const { segmentId, sizeBytes } of places) uses.set(segmentId, (uses.get(segmentId) ?? 0) + sizeBytes);
  return [...uses].map(([segmentId, sizeBytes]) => ({ segmentId, sizeBytes }));
}
