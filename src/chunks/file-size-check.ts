/**
 * The check of file sizes at the start of a store: what the index says must lie beyond the end of a file is damaged.
 *
 *   segment of the log that lost its end --> extents that use it ----.
 *   own segment of another size than its extent makes it ------------+--> places from the manifest --> chunks beyond the end
 *
 * A file that was cut short while no process had the store open is otherwise noticed by nobody until someone reads there; while one
 * has, lost-files.ts sees it. Costs one stat() per own segment, and reads manifests only where a size looks wrong. Reads no chunk: bytes that are there are verified by reads.
 */
import { chunkCount, type ExtentKey } from "../drive/content.ts";
import type { RecordLocation } from "../segments/record.ts";
import type { SealedExtent } from "./index-codec.ts";
import { ChunkReader, DamageError } from "./chunk-reader.ts";
import type { OwnSegments } from "./own-segments.ts";
import type { StoreLog } from "./store-log.ts";

/** Extents looked up in one go. */
const PAGE_COUNT = 1000;

/** Chunks of a sealed extent that lie, wholly or in part, beyond the end of their file. */
export interface CutExtent {
  readonly extent: ExtentKey;
  /** Ascending, never empty. */
  readonly chunkIndexes: readonly number[];
}

/** Whether a record of the log lies beyond the end of its file. */
export function isCutOff(log: StoreLog, location: RecordLocation): boolean {
  const sizeBytes = log.shortSegments.get(location.segmentId);
  return sizeBytes !== undefined && endOf(location) > sizeBytes;
}

/**
 * Finds the sealed extents of which a file lost something.
 * @param ownIds own segments whose files are there; an extent whose file is missing is damaged whole
 * Errors: those of the disk.
 */
export async function findCutExtents(
  log: StoreLog,
  own: OwnSegments,
  ownIds: readonly number[],
): Promise<readonly CutExtent[]> {
  return [...(await cutInLog(log, own)), ...(await cutInOwn(log, own, ownIds))];
}

async function cutInLog(log: StoreLog, own: OwnSegments): Promise<CutExtent[]> {
  const found: CutExtent[] = [];
  if (log.shortSegments.size === 0) return found;
  const reader = new ChunkReader(log, own);
  let page = log.index.listSealed(undefined, PAGE_COUNT);
  while (page.length > 0) {
    for (const extent of page) {
      const sealed = log.index.findSealed(extent);
      if (sealed?.uses.some(({ segmentId }) => log.shortSegments.has(segmentId)) !== true) continue;
      const chunkIndexes = isCutOff(log, sealed.location)
        ? allChunks(sealed)
        : await chunksWhere(reader, extent, sealed, (location, isOwn) => !isOwn && isCutOff(log, location));
      if (chunkIndexes.length > 0) found.push({ extent, chunkIndexes });
    }
    page = log.index.listSealed(page.at(-1), PAGE_COUNT);
  }
  return found;
}

async function cutInOwn(log: StoreLog, own: OwnSegments, ownIds: readonly number[]): Promise<CutExtent[]> {
  const found: CutExtent[] = [];
  const present = new Set(ownIds);
  const reader = new ChunkReader(log, own);
  for (const { segmentId, extent } of log.index.ownSegments()) {
    const sealed = log.index.findSealed(extent);
    // A tombstone that a crash let through keeps the extent away, and its segment is unlinked.
    if (sealed?.ownSegmentId !== segmentId) continue;
    const sizeBytes = present.has(segmentId) ? await own.rememberFile(segmentId) : undefined;
    if (sizeBytes === undefined) {
      found.push({ extent, chunkIndexes: allChunks(sealed) });
      continue;
    }
    if (sizeBytes === own.plainSizeBytes(extent, sealed.sizeBytes)) continue;
    const isBeyond = (location: RecordLocation, isOwn: boolean): boolean =>
      isOwn && endOf(location) > sizeBytes;
    const chunkIndexes = await chunksWhere(reader, extent, sealed, isBeyond);
    if (chunkIndexes.length > 0) found.push({ extent, chunkIndexes });
  }
  return found;
}

/** Chunks whose place meets a condition; all of them when the manifest that has the places is damaged. */
async function chunksWhere(
  reader: ChunkReader,
  extent: ExtentKey,
  sealed: SealedExtent,
  condition: (location: RecordLocation, isOwn: boolean) => boolean,
): Promise<readonly number[]> {
  const chunkIndexes: number[] = [];
  // Damaged already, so that no chunk of it is promised, and a manifest that may be gone is not asked.
  if (sealed.damagedChunks.length === chunkCount(sealed.sizeBytes)) return chunkIndexes;
  for (const chunkIndex of allChunks(sealed)) {
    try {
      const placed = await reader.placeSealed(extent, sealed, chunkIndex);
      if (placed !== undefined && condition(placed.location, placed.own)) chunkIndexes.push(chunkIndex);
    } catch (error) {
      if (!(error instanceof DamageError)) throw error;
      return allChunks(sealed);
    }
  }
  return chunkIndexes;
}

function allChunks(sealed: SealedExtent): readonly number[] {
  return [...Array(chunkCount(sealed.sizeBytes)).keys()];
}

function endOf(location: RecordLocation): number {
  return location.offset + location.sizeBytes;
}
