/**
 * A segment that stands alone: one file of records with a label, for something large that is removed as a whole.
 *
 * Nothing in it is promised by itself: its owner syncs it and then promises it by a record in a log. So recovery keeps the
 * run of good records from the start and cuts off the rest, also where a page cannot be read; an owner that promised more
 * finds it missing by what its log says. Making the file is not durable until the first sync() has resolved.
 */
import { bytesEqual } from "../std/bytes.ts";
import type { Clock } from "../std/clock.ts";
import type { Disk, DiskFile } from "../std/disk.ts";
import { comparePositions, identitySeed, type LogRecord, type RecordLocation } from "./record.ts";
import type { Cursor } from "./recover-log.ts";
import { SegmentScanner } from "./scan.ts";
import { FOOTER_SIZE_BYTES, SegmentAppender } from "./segment-appender.ts";
import { SalvagedFile } from "./salvaged-file.ts";
import type { SegmentFault } from "./segment-error.ts";
import { segmentPath } from "./segment-log.ts";
import {
  decodeSegmentHeader,
  encodeSegmentHeader,
  SEGMENT_HEADER_SIZE_BYTES_MAX,
  segmentHeaderSizeBytes,
} from "./segment-header.ts";
import { syncDirectory, syncFile } from "./segment-table.ts";

/** Bytes of such a segment at most: offsets have 32 bits. */
export const SINGLE_SEGMENT_SIZE_BYTES_MAX = 2 ** 32 - 1 - FOOTER_SIZE_BYTES;

/** What a single segment needs. */
export interface SingleSegmentOptions {
  readonly disk: Disk;
  readonly clock: Clock;
  readonly directory: string;
  readonly segmentId: number;
  readonly identity: Uint8Array;
  /** What it holds; part of the checksums. */
  readonly label: Uint8Array;
  readonly syncPaceBytes: number;
  readonly onFatal: (error: Error) => void;
  /** Told once when the file has lost bytes at its end under the writer. */
  readonly onCut: () => void;
  /** Told how much was written when the file is closed. */
  readonly onClosed: (sizeBytes: number) => void;
}

/** One file of records, being written. */
export class SingleSegment {
  readonly segmentId: number;
  readonly #options: SingleSegmentOptions;
  readonly #appender: SegmentAppender;
  #directorySync: Promise<void> | undefined;

  private constructor(options: SingleSegmentOptions, file: DiskFile, start: Cursor) {
    this.segmentId = options.segmentId;
    this.#options = options;
    this.#appender = new SegmentAppender({
      clock: options.clock,
      file,
      identitySeed: identitySeed(options.identity, options.label),
      headerSizeBytes: segmentHeaderSizeBytes(options.identity.length, options.label.length),
      start,
      segmentSizeBytesMax: SINGLE_SEGMENT_SIZE_BYTES_MAX,
      syncPaceBytes: options.syncPaceBytes,
      openNext: undefined,
      onCut: options.onCut,
      onFatal: options.onFatal,
    });
  }

  /** Makes the file; a file of the same id that a crash left is replaced. Errors: those of the disk. */
  static async create(options: SingleSegmentOptions): Promise<SingleSegment> {
    const { disk, directory, segmentId, identity, label } = options;
    const file = await disk.open(segmentPath(directory, segmentId), "open-or-create");
    try {
      await file.truncate(0);
      const header = encodeSegmentHeader({ segmentId, chainSeed: 0, identity, label });
      await file.write(0, [header]);
      const start: Cursor = { segmentId, offset: header.length, chain: 0, sealed: false };
      return new SingleSegment(options, file, start);
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  /**
   * Opens a file again for appending behind the good records that recoverSingleSegment() found; the rest is cut off, and
   * what is left is made durable. Errors: those of the disk.
   */
  static async reopen(options: SingleSegmentOptions, end: Cursor): Promise<SingleSegment> {
    const file = await options.disk.open(segmentPath(options.directory, options.segmentId), "existing");
    try {
      if ((await file.size()) < end.offset) options.onCut();
      await file.truncate(end.offset);
      await syncFile(file);
      return new SingleSegment(options, file, end);
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  /** The file that is being written. */
  get file(): DiskFile {
    return this.#appender.file;
  }

  /** Bytes in the file. */
  get writtenBytes(): number {
    return this.#appender.written.offset;
  }

  /** Bytes in the file and on the way to it. */
  get sizeBytes(): number {
    return this.#appender.head.offset;
  }

  /** Whether a record of these sizes still fits. */
  fits(headSizeBytes: number, bodySizeBytes: number): boolean {
    return this.#appender.fits(headSizeBytes, bodySizeBytes);
  }

  /** As SegmentLog.append(); the record must fit. */
  append(kind: number, head: Uint8Array, body: Uint8Array): RecordLocation {
    return this.#appender.append(kind, head, body);
  }

  /** As SegmentLog.flush(). */
  flush(): Promise<void> {
    return this.#appender.flush();
  }

  /** Starts a sync in the background if anything is not durable. */
  requestSync(): void {
    this.#appender.requestSync();
  }

  /** Resolves when everything appended before is durable, and the file under its name. Errors: as SegmentLog.commit(). */
  async sync(): Promise<void> {
    const { disk, directory, onFatal } = this.#options;
    this.#directorySync ??= syncDirectory(disk, directory).catch((error: unknown) => {
      onFatal(error as Error);
      throw error;
    });
    await Promise.all([this.#appender.commit(), this.#directorySync]);
  }

  /** Stops writing and closes the file; what waits to be written is dropped, and those who wait for it hear `error`. */
  async abandon(error: Error): Promise<void> {
    await this.#appender.abandon(error);
    this.#options.onClosed(this.writtenBytes);
    await this.#appender.file.close();
  }
}

/** What recoverSingleSegment() found. */
export interface SingleSegmentRecovery {
  readonly label: Uint8Array;
  /** Where the good records end. */
  readonly end: Cursor;
}

/**
 * Reads a single segment back: hands out the good records from the start, bodies verified unless a later record says that
 * they were durable, and says where they end, at the latest at the first page that cannot be read: nothing can be appended to
 * such a page either. Undefined when not even the header is good: nothing was ever synced, or it cannot be read.
 * Errors: those of the disk but for EIO, of which `onDamage` is told.
 */
export async function recoverSingleSegment(
  options: {
    readonly disk: Disk;
    readonly directory: string;
    readonly segmentId: number;
    readonly identity: Uint8Array;
    readonly onDamage: (fault: SegmentFault) => void;
  },
  onRecord: (record: LogRecord) => void,
): Promise<SingleSegmentRecovery | undefined> {
  const { disk, directory, segmentId, onDamage } = options;
  const path = segmentPath(directory, segmentId);
  const opened = await disk.open(path, "read");
  try {
    const file = new SalvagedFile(opened, true);
    const found = await recoverFrom(file, options, onRecord);
    const { unreadableStart: offset, unreadableEnd } = file;
    if (unreadableEnd > 0)
      onDamage({ kind: "damaged", path, segmentId, offset, sizeBytes: unreadableEnd - offset });
    return found;
  } finally {
    await opened.close();
  }
}

async function recoverFrom(
  file: SalvagedFile,
  { segmentId, identity }: { readonly segmentId: number; readonly identity: Uint8Array },
  onRecord: (record: LogRecord) => void,
): Promise<SingleSegmentRecovery | undefined> {
  const header = decodeSegmentHeader(await file.read(0, SEGMENT_HEADER_SIZE_BYTES_MAX));
  if (header === undefined || header.segmentId !== segmentId || !bytesEqual(header.identity, identity)) {
    return undefined;
  }
  const start = segmentHeaderSizeBytes(header.identity.length, header.label.length);
  const scanner = new SegmentScanner({
    file,
    segmentId,
    identitySeed: identitySeed(identity, header.label),
    sizeBytes: await file.size(),
    offset: start,
    previous: header.chainSeed,
    readBodies: false,
  });
  const { mark } = await scanner.survey(start);
  for (;;) {
    // What was durable when the last good record was written is not torn; its bodies are verified when they are read.
    const wasDurable =
      mark !== undefined && comparePositions({ segmentId, offset: scanner.offset }, mark) < 0;
    const step = await scanner.look(!wasDurable);
    if (step.kind !== "record") break;
    if (scanner.offset + step.header.location.sizeBytes > file.unreadableStart) break;
    scanner.pass(step.header);
    onRecord(step.record);
  }
  const chain = scanner.previous ?? 0;
  return { label: header.label, end: { segmentId, offset: scanner.offset, chain, sealed: false } };
}
