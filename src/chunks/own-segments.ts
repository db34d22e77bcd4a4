/**
 * The segments that hold one extent each, so that removing the extent is an unlink: made, read back after a restart, read
 * from and unlinked here. What they mean is in the log: an extent is sealed by a manifest there, removed by a tombstone there.
 */
import { chunkCount, chunkSizeBytes, type ExtentKey } from "../drive/content.ts";
import type { Clock } from "../std/clock.ts";
import type { Disk } from "../std/disk.ts";
import { FileCache } from "../segments/file-cache.ts";
import { FileWatch, type MisplacedSegment } from "../segments/misplaced.ts";
import { identitySeed, recordSizeBytes, type LogRecord, type RecordLocation } from "../segments/record.ts";
import { readRecordPart, type RecordPart } from "../segments/record-reader.ts";
import type { Cursor } from "../segments/recover-log.ts";
import type { SegmentFault } from "../segments/segment-error.ts";
import { parseSegmentName, segmentPath } from "../segments/segment-log.ts";
import { segmentHeaderSizeBytes } from "../segments/segment-header.ts";
import { syncDirectory } from "../segments/segment-table.ts";
import {
  recoverSingleSegment,
  SingleSegment,
  type SingleSegmentOptions,
} from "../segments/single-segment.ts";
import { CHUNK_HEAD_SIZE_BYTES, decodeLabel, encodeLabel } from "./chunk-codec.ts";

/** Files kept open for reading. */
const OPEN_FILE_COUNT_MAX = 128;

/** What OwnSegments needs. */
export interface OwnSegmentsOptions {
  readonly disk: Disk;
  readonly clock: Clock;
  readonly directory: string;
  readonly identity: Uint8Array;
  readonly syncPaceBytes: number;
  readonly onFatal: (error: Error) => void;
}

/** The segments of one extent each. */
export class OwnSegments {
  readonly #options: OwnSegmentsOptions;
  readonly #files: FileCache;
  readonly #watch: FileWatch;

  constructor(options: OwnSegmentsOptions) {
    this.#options = options;
    this.#files = new FileCache(options.disk, OPEN_FILE_COUNT_MAX);
    this.#watch = new FileWatch(options.disk, (segmentId) => segmentPath(options.directory, segmentId));
  }

  /** Makes the directory and lists the ids of the segments in it, ascending. */
  async list(): Promise<number[]> {
    const { disk, directory } = this.#options;
    await disk.makeDirectory(directory);
    const ids = (await disk.list(directory)).map((name) => parseSegmentName(name));
    return ids.filter((id) => id !== undefined).sort((a, b) => a - b);
  }

  /** Takes the file of a segment for the right one, and returns its size; undefined when there is none. Errors: those of the disk. */
  rememberFile(segmentId: number): Promise<number | undefined> {
    return this.#watch.remember(segmentId);
  }

  /** Size of the file of a sealed extent in which no chunk was written twice; idle marks add to it. */
  plainSizeBytes(extent: ExtentKey, extentSizeBytes: number): number {
    let sum = segmentHeaderSizeBytes(this.#options.identity.length, encodeLabel(extent).length);
    for (let i = 0; i < chunkCount(extentSizeBytes); i += 1) {
      sum += recordSizeBytes(CHUNK_HEAD_SIZE_BYTES, chunkSizeBytes(extentSizeBytes, i));
    }
    return sum;
  }

  /** Makes the segment of an extent. Errors: those of the disk. */
  async create(segmentId: number, extent: ExtentKey): Promise<SingleSegment> {
    const segment = await SingleSegment.create(this.#singleOptions(segmentId, extent));
    try {
      await this.#watch.remember(segmentId);
    } catch (error) {
      await segment.abandon(error as Error);
      throw error;
    }
    return segment;
  }

  /** Opens the segment of an extent again, behind the good records. Errors: those of the disk. */
  reopen(segmentId: number, extent: ExtentKey, end: Cursor): Promise<SingleSegment> {
    return SingleSegment.reopen(this.#singleOptions(segmentId, extent), end);
  }

  /** Reads back a segment of an extent that was not sealed; undefined when there is nothing of it. See recoverSingleSegment(). */
  async recover(
    segmentId: number,
    onRecord: (record: LogRecord) => void,
    onDamage: (fault: SegmentFault) => void,
  ): Promise<{ readonly extent: ExtentKey; readonly end: Cursor } | undefined> {
    const found = await recoverSingleSegment({ ...this.#options, segmentId, onDamage }, onRecord);
    if (found === undefined) return undefined;
    await this.#watch.remember(segmentId, found.end.offset);
    return { extent: decodeLabel(found.label), end: found.end };
  }

  /** Reads part of a record; see readRecordPart(). Errors: DATA_CORRUPT; those of the disk. */
  readPart(
    extent: ExtentKey,
    location: RecordLocation,
    part: {
      readonly headSizeBytes: number;
      readonly bodySizeBytes: number;
      readonly offset: number;
      readonly length: number;
    },
  ): Promise<RecordPart> {
    const seed = identitySeed(this.#options.identity, encodeLabel(extent));
    return this.#files.use(segmentPath(this.#options.directory, location.segmentId), (file) =>
      readRecordPart(file, seed, location, part),
    );
  }

  /** Removes segments; durable when it resolves. Errors: those of the disk; a failed sync is final. */
  async unlink(segmentIds: readonly number[]): Promise<void> {
    const { disk, directory, onFatal } = this.#options;
    for (const segmentId of segmentIds) {
      const path = segmentPath(directory, segmentId);
      await this.#files.drop(path);
      await disk.remove(path);
      this.#watch.forget(segmentId);
    }
    try {
      await syncDirectory(disk, directory);
    } catch (error) {
      onFatal(error as Error);
      throw error;
    }
  }

  /**
   * Those of `segmentIds` whose files are gone from the directory, were replaced there or cut short; what was open for reading of those
   * that are not in their places is closed. Each is found again by the next call until settleMisplaced(). Errors: those of the disk and
   * of `pause`.
   * @param writing those of them that are open for writing
   */
  findMisplaced(
    segmentIds: readonly number[],
    writing: readonly SingleSegment[],
    pause: () => Promise<void>,
  ): Promise<readonly MisplacedSegment[]> {
    return this.#watch.find({
      ...{ segmentIds, files: this.#files, pause },
      writing: writing.map((segment) => ({
        segmentId: segment.segmentId,
        file: segment.file,
        writtenBytes: () => segment.writtenBytes,
      })),
    });
  }

  /** What was in a segment that findMisplaced() found was looked at, or nothing needs it. */
  settleMisplaced(segmentId: number): void {
    this.#watch.settle(segmentId);
  }

  /** Closes the files open for reading. */
  async close(): Promise<void> {
    await this.#files.close();
  }

  #singleOptions(segmentId: number, extent: ExtentKey): SingleSegmentOptions {
    return {
      ...this.#options,
      segmentId,
      label: encodeLabel(extent),
      onCut: () => this.#watch.noteCut(segmentId),
      onClosed: (sizeBytes) => this.#watch.finish(segmentId, sizeBytes),
    };
  }
}
