/**
 * Opening a chunk store: its identity, its log and index, and the open extents that the last run left.
 *
 * Open extents come back with the chunks that reached the disk; sealed extents of which a file is gone or was cut short are
 * quarantined, not forgotten (file-size-check.ts); files of removed extents are unlinked.
 */
import type { ExtentKey } from "../drive/content.ts";
import { utf8 } from "../std/bytes.ts";
import type { Clock } from "../std/clock.ts";
import type { Digester, DigestMemory } from "../std/digest.ts";
import type { Disk } from "../std/disk.ts";
import type { OrderedStore } from "../std/ordered-store.ts";
import type { Prng } from "../std/prng.ts";
import type { MisplacedSegment } from "../segments/misplaced.ts";
import type { LogRecord } from "../segments/record.ts";
import { SEGMENT_SIZE_BYTES_DEFAULT, SYNC_PACE_BYTES_DEFAULT } from "../segments/segment-log.ts";
import type { SegmentFault } from "../segments/segment-error.ts";
import { decodeChunkHead, extentName, KIND_CHUNK, sameExtent } from "./chunk-codec.ts";
import { findCutExtents, isCutOff } from "./file-size-check.ts";
import { OpenExtent, type OpenChunk } from "./open-extent.ts";
import { OwnSegments } from "./own-segments.ts";
import { SpaceGuard } from "./space-guard.ts";
import { finishStoreFormat, openStoreFormat } from "./store-format.ts";
import { StoreLog } from "./store-log.ts";

/** Bytes of chunks that a store holds in memory at most while they are on their way to the disk, unless told otherwise. */
export const BYTES_IN_FLIGHT_MAX_DEFAULT = 64 * 1024 * 1024;

/** Segments of the log that compaction can write while nothing else may. */
export const COMPACTION_RESERVE_SEGMENT_COUNT = 2;

/** How a store is opened. */
export interface DiskChunkStoreOptions {
  readonly disk: Disk;
  readonly clock: Clock;
  readonly prng: Prng;
  readonly digester: Digester;
  /** Digests of bytes that this process hashed itself on their way to the store: those are not checked a second time. */
  readonly hashed?: DigestMemory;
  /** Belongs to this store alone; its parent exists. */
  readonly directory: string;
  /** An ordered store for the index alone; closed by its owner after the chunk store. */
  readonly index: OrderedStore;
  readonly memberId: number;
  /** Called once when a sync, a write or the index failed for good: the process must end. */
  readonly onFatal: (error: Error) => void;
  /** Told when chunks of a sealed extent are found damaged for the first time: repair them. */
  readonly onDamage: (extent: ExtentKey, chunkIndexes: readonly number[]) => void;
  /** Told when an extent with such chunks was read whole, and nothing is wrong with it any more. */
  readonly onMended?: ((extent: ExtentKey) => void) | undefined;
  /**
   * Told of damage found at the start: in the log, whose records there may have been of extents that are now absent (audit), or in
   * the segment of an extent that was not sealed.
   */
  readonly onFault: (fault: SegmentFault) => void;
  /** Told of each file of a segment that is found missing, replaced or cut short while the store runs; see lost-files.ts. */
  readonly onLostFile?: (file: MisplacedSegment) => void;
  /** Told when work in the background failed that is tried again later (an unlink, a removal of empty segments). */
  readonly onTrouble: (error: Error) => void;
  /** Bytes of the disk that stay free; default: defaultReserveBytes() of space-guard.ts. */
  readonly reserveBytes?: number;
  /** Bytes beside them for compaction alone; default two segments. */
  readonly compactionReserveBytes?: number;
  /** At least one chunk; default BYTES_IN_FLIGHT_MAX_DEFAULT. */
  readonly bytesInFlightMax?: number;
  readonly segmentSizeBytesMax?: number;
  readonly syncPaceBytes?: number;
}

/** What a store is made of. */
export interface StoreParts {
  readonly storeIncarnation: string;
  readonly log: StoreLog;
  readonly own: OwnSegments;
  readonly guard: SpaceGuard;
  /** Extents being written, by extentName(). */
  readonly open: Map<string, OpenExtent>;
  readonly bytesInFlightMax: number;
}

/** Opens the parts of a store. Errors: DATA_CORRUPT; those of the disk. */
export async function openStoreParts(options: DiskChunkStoreOptions): Promise<StoreParts> {
  const { disk, clock, directory, onFatal } = options;
  const format = await openStoreFormat(options);
  const { storeIncarnation } = format;
  const syncPaceBytes = options.syncPaceBytes ?? SYNC_PACE_BYTES_DEFAULT;
  const identity = utf8(`netdisk chunks ${storeIncarnation}`);
  const own = new OwnSegments({
    disk,
    clock,
    directory: `${directory}/extents`,
    identity,
    syncPaceBytes,
    onFatal,
  });
  const ownIds = await own.list();
  await disk.syncDirectory(directory);
  const log = await StoreLog.open({
    disk,
    clock,
    directory: `${directory}/log`,
    index: options.index,
    identity,
    storeIncarnation,
    whenAbsent: format.state === "formatting" ? "create" : "refuse",
    segmentSizeBytesMax: options.segmentSizeBytesMax ?? SEGMENT_SIZE_BYTES_DEFAULT,
    syncPaceBytes,
    onFault: options.onFault,
    onFatal,
  });
  await finishStoreFormat(disk, directory, format);
  const open = openExtentsOfLog(log);
  await recoverOwnSegments(options, { log, own, open, ownIds });
  const segmentSizeBytesMax = options.segmentSizeBytesMax ?? SEGMENT_SIZE_BYTES_DEFAULT;
  const guard = await SpaceGuard.open(
    disk,
    directory,
    options.reserveBytes,
    options.compactionReserveBytes ?? COMPACTION_RESERVE_SEGMENT_COUNT * segmentSizeBytesMax,
  );
  const bytesInFlightMax = options.bytesInFlightMax ?? BYTES_IN_FLIGHT_MAX_DEFAULT;
  return { storeIncarnation, log, own, guard, open, bytesInFlightMax };
}

/** Open extents whose chunks are in the log, from the index. */
function openExtentsOfLog(log: StoreLog): Map<string, OpenExtent> {
  const open = new Map<string, OpenExtent>();
  for (const { extent, chunkIndex, chunk } of log.index.openChunks()) {
    // Lost with the end of its file: it is missing again, as if it had never come.
    if (isCutOff(log, chunk.location)) continue;
    const name = extentName(extent);
    const found = open.get(name) ?? new OpenExtent(extent, undefined, undefined);
    open.set(name, found);
    found.add(chunkIndex, { ...chunk, verified: false });
  }
  return open;
}

async function recoverOwnSegments(
  options: DiskChunkStoreOptions,
  parts: Pick<StoreParts, "log" | "own" | "open"> & { readonly ownIds: readonly number[] },
): Promise<void> {
  const { log, own, open, ownIds } = parts;
  const sealed = new Map(log.index.ownSegments().map((each) => [each.segmentId, each.extent]));
  for (const { extent, chunkIndexes } of await findCutExtents(log, own, ownIds)) {
    if (log.index.markDamaged(extent, chunkIndexes)) options.onDamage(extent, chunkIndexes);
  }
  const removed = new Set(log.index.segmentsToUnlink());
  const unneeded: number[] = [...removed];
  for (const segmentId of ownIds) {
    log.index.sawOwnSegmentId(segmentId);
    if (sealed.has(segmentId) || removed.has(segmentId)) continue;
    const found = await recoverOpen(own, segmentId, options.onFault);
    const taken = found !== undefined && isTaken(log, open, found.extent);
    if (found === undefined || taken) unneeded.push(segmentId);
    else open.set(extentName(found.extent), found);
  }
  if (unneeded.length === 0) return;
  await own.unlink(unneeded);
  for (const segmentId of removed) log.index.unlinked(segmentId);
}

/** Whether an extent is sealed, or open, elsewhere: then a segment that a crash left of it is not needed. */
function isTaken(log: StoreLog, open: ReadonlyMap<string, OpenExtent>, extent: ExtentKey): boolean {
  return log.index.findSealed(extent) !== undefined || open.has(extentName(extent));
}

async function recoverOpen(
  own: OwnSegments,
  segmentId: number,
  onFault: (fault: SegmentFault) => void,
): Promise<OpenExtent | undefined> {
  const chunks: { readonly extent: ExtentKey; readonly chunkIndex: number; readonly chunk: OpenChunk }[] = [];
  const take = (record: LogRecord): void => {
    if (record.kind !== KIND_CHUNK) return;
    const { extent, chunkIndex, digest } = decodeChunkHead(record.head);
    const { location, bodySizeBytes } = record;
    chunks.push({
      extent,
      chunkIndex,
      chunk: { location, sizeBytes: bodySizeBytes, digest, verified: false },
    });
  };
  const found = await own.recover(segmentId, take, onFault);
  if (found === undefined || chunks.length === 0) return undefined;
  const recovered = new OpenExtent(
    found.extent,
    { segmentId, recoveredEnd: found.end, segment: undefined },
    undefined,
  );
  for (const { extent, chunkIndex, chunk } of chunks) {
    if (sameExtent(extent, found.extent)) recovered.add(chunkIndex, chunk);
  }
  return recovered;
}
