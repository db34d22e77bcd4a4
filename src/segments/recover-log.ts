/**
 * Reads a segment log back after a restart: walks its segments in order, hands out the records, and decides at every place
 * that is not a good record whether it is a torn tail or damage.
 *
 * Cuts nothing itself: says where the log ends and whether the file must be cut there. With `onFault: "refuse"` the first
 * damage ends recovery with DATA_CORRUPT; with "report" it goes on behind the damage and lists what it found.
 */
import { bytesEqual } from "../std/bytes.ts";
import { errnoOf, type Disk, type DiskFile } from "../std/disk.ts";
import {
  comparePositions,
  decodePrefix,
  KIND_FOOTER,
  RECORD_HEADER_SIZE_BYTES,
  RECORD_KIND_MIN,
  type LogRecord,
  type Position,
} from "./record.ts";
import { decide } from "./recovery.ts";
import { SegmentScanner, type ScanStep } from "./scan.ts";
import { SalvagedFile } from "./salvaged-file.ts";
import { corruptError, type SegmentFault } from "./segment-error.ts";
import {
  decodeSegmentHeader,
  SEGMENT_HEADER_SIZE_BYTES_MAX,
  segmentHeaderSizeBytes,
} from "./segment-header.ts";

/** The end of a run of records: enough to go on from there, appending or scanning. */
export interface Cursor extends Position {
  /** Checksum of the last record before it, or the chain seed. */
  readonly chain: number;
  /** Whether the segment takes no more records: the next one opens the segment after it. */
  readonly sealed: boolean;
}

/** What to recover. */
export interface RecoverOptions {
  readonly disk: Disk;
  readonly pathOf: (segmentId: number) => string;
  readonly segmentIds: readonly number[];
  readonly identity: Uint8Array;
  readonly identitySeed: number;
  /** Scan from here; segments before it are only checked for being there whole. Undefined: from the beginning. */
  readonly from: Cursor | undefined;
  /** How far the table says that the log was durable. */
  readonly durable: Position;
  /** "all": every body is read and verified. "last-segment": only in the last segment, where a torn one can be. */
  readonly bodies: "all" | "last-segment";
  readonly onFault: "refuse" | "report";
  readonly onRecord: (record: LogRecord) => void | Promise<void>;
  /** Told of each fault, with the record when its head is good and only its body is damaged. */
  readonly onDamage: (fault: SegmentFault, record: LogRecord | undefined) => void;
}

/** What recovery found. */
export interface RecoveryResult {
  /** Where the log ends. */
  readonly end: Cursor;
  /** Bytes behind the end that were never promised and must be cut off. */
  readonly tornBytes: number;
  readonly recordCount: number;
  readonly faults: readonly SegmentFault[];
}

/** Recovers a log. Errors: DATA_CORRUPT as told; those of the disk. */
export async function recoverLog(options: RecoverOptions): Promise<RecoveryResult> {
  return await new LogRecovery(options).run();
}

class LogRecovery {
  readonly #options: RecoverOptions;
  readonly #faults: SegmentFault[] = [];
  #recordCount = 0;
  #tornBytes = 0;
  /** The furthest position that anything says was durable. */
  #mark: Position;
  /** Checksum that the next record must name; undefined behind damage. */
  #chain: number | undefined;
  #end: Cursor;

  constructor(options: RecoverOptions) {
    this.#options = options;
    const { from, durable } = options;
    this.#mark = from !== undefined && comparePositions(from, durable) > 0 ? from : durable;
    this.#end = from ?? { segmentId: options.segmentIds[0] ?? 1, offset: 0, chain: 0, sealed: false };
  }

  async run(): Promise<RecoveryResult> {
    const { segmentIds, from } = this.#options;
    if (from !== undefined) this.#chain = from.chain;
    for (const segmentId of segmentIds) {
      const isLast = segmentId === segmentIds.at(-1);
      const skip = from !== undefined && segmentId < from.segmentId;
      await this.#segment(segmentId, isLast, skip);
    }
    return {
      end: this.#end,
      tornBytes: this.#tornBytes,
      recordCount: this.#recordCount,
      faults: this.#faults,
    };
  }

  async #segment(segmentId: number, isLast: boolean, skip: boolean): Promise<void> {
    const path = this.#options.pathOf(segmentId);
    let file: DiskFile;
    try {
      file = await this.#options.disk.open(path, "read");
    } catch (error) {
      if (errnoOf(error) !== "ENOENT") throw error;
      this.#absent(segmentId, skip);
      return;
    }
    const salvaged = new SalvagedFile(file, this.#options.onFault === "report");
    try {
      if (skip) await this.#checkEnd(salvaged, segmentId);
      else await this.#scan(salvaged, segmentId, isLast);
    } finally {
      await file.close();
    }
  }

  /** A segment has no file. */
  #absent(segmentId: number, skip: boolean): void {
    this.#fault("missing", segmentId, 0, 0);
    if (skip) return;
    this.#chain = undefined;
    this.#end = { segmentId, offset: 0, chain: 0, sealed: true };
  }

  /** Checks that a segment that is not scanned still ends with its footer: a file that was cut short does not. */
  async #checkEnd(file: SalvagedFile, segmentId: number): Promise<void> {
    const sizeBytes = await file.size();
    const offset = sizeBytes - RECORD_HEADER_SIZE_BYTES;
    if (offset > 0) {
      const last = decodePrefix(
        await file.read(offset, RECORD_HEADER_SIZE_BYTES),
        this.#options.identitySeed,
      );
      const inPlace = last?.location.segmentId === segmentId && last.location.offset === offset;
      if (inPlace && last.kind === KIND_FOOTER) return;
    }
    this.#fault("lost-tail", segmentId, sizeBytes, 0);
  }

  async #scan(file: SalvagedFile, segmentId: number, isLast: boolean): Promise<void> {
    const { from, bodies, identitySeed } = this.#options;
    const sizeBytes = await file.size();
    const headerOffset = await this.#header(file, segmentId);
    if (headerOffset === undefined) {
      this.#absent(segmentId, false);
      return;
    }
    const resumed = from !== undefined && segmentId === from.segmentId;
    const offset = resumed ? Math.max(from.offset, headerOffset) : headerOffset;
    const scanner = new SegmentScanner({
      file,
      segmentId,
      identitySeed,
      sizeBytes,
      offset,
      previous: resumed ? from.chain : this.#chain,
      readBodies: isLast || bodies === "all",
    });
    let sealed = resumed && from.sealed;
    if (resumed && sizeBytes < from.offset) {
      // Everything before the checkpoint was durable. The file stays as it is, and takes no more records.
      this.#fault("lost-tail", segmentId, sizeBytes, 0);
      scanner.previous = undefined;
    }
    const at = { file, segmentId, isLast, sizeBytes };
    for (;;) {
      const step = await scanner.look();
      if (step.kind === "end") break;
      if (step.kind === "bad") {
        if (!(await this.#bad(scanner, step, at))) break;
        continue;
      }
      if (step.kind === "broken") {
        // decide() says fault for every broken chain: report it, and believe the record's own word from here on.
        this.#fault("misdirected", segmentId, scanner.offset, step.header.location.sizeBytes);
      }
      this.#advanceMark(step.header.durable);
      scanner.pass(step.header);
      if (step.record.kind === KIND_FOOTER) sealed = true;
      else if (step.record.kind >= RECORD_KIND_MIN && step.kind === "record") {
        this.#recordCount += 1;
        await this.#options.onRecord(step.record);
      }
    }
    this.#finish(scanner, { segmentId, isLast, sealed });
  }

  /**
   * Checks the header of a segment; returns where its records start, 0 when the header is damaged, undefined when the file is that of
   * another segment of this log, which somebody has put in the place of this one.
   */
  async #header(file: SalvagedFile, segmentId: number): Promise<number | undefined> {
    const { identity } = this.#options;
    const header = decodeSegmentHeader(await file.read(0, SEGMENT_HEADER_SIZE_BYTES_MAX));
    if (header === undefined) {
      this.#fault("damaged", segmentId, 0, segmentHeaderSizeBytes(identity.length, 0));
      this.#chain = undefined;
      return 0;
    }
    if (!bytesEqual(header.identity, identity)) {
      throw corruptError("the segment belongs to another store", file.path, 0);
    }
    if (header.segmentId !== segmentId) return undefined;
    if (this.#chain === undefined) this.#chain = header.chainSeed;
    else if (this.#chain !== header.chainSeed && this.#options.from?.segmentId !== segmentId) {
      if (!this.#afterGap(segmentId)) this.#fault("misdirected", segmentId, 0, 0);
      this.#chain = header.chainSeed;
    }
    return segmentHeaderSizeBytes(header.identity.length, header.label.length);
  }

  /** Whether the segment before `segmentId` was removed, so that its last checksum is not known. */
  #afterGap(segmentId: number): boolean {
    return segmentId !== this.#options.segmentIds[0] && this.#end.segmentId !== segmentId - 1;
  }

  /** Decides about a bad place; returns whether the scan goes on behind it. */
  async #bad(
    scanner: SegmentScanner,
    step: ScanStep & { readonly kind: "bad" },
    at: {
      readonly file: SalvagedFile;
      readonly segmentId: number;
      readonly isLast: boolean;
      readonly sizeBytes: number;
    },
  ): Promise<boolean> {
    const here: Position = { segmentId: at.segmentId, offset: scanner.offset };
    if (step.header !== undefined) this.#advanceMark(step.header.durable);
    const { firstOffset, mark } = await scanner.survey(here.offset + 1);
    const laterRound = mark !== undefined && comparePositions(mark, here) > 0;
    if (mark !== undefined) this.#advanceMark(mark);
    const next = firstOffset ?? at.sizeBytes;
    const action = decide({
      checksum: "bad",
      chain: "broken",
      lastSegment: at.isLast,
      laterRound,
      promised: comparePositions(this.#mark, here) > 0,
      // A sector that the disk cannot give back was written once: nobody knows what, so it is not taken for a torn tail, nor cut
      // off with one. Sectors before this place say nothing of it: they stay damage of their own.
      torn: (await scanner.isTorn(next)) && at.file.unreadableEnd <= here.offset,
    });
    if (action === "cut") {
      this.#tornBytes = at.sizeBytes - here.offset;
      return false;
    }
    this.#fault("damaged", at.segmentId, here.offset, next - here.offset, step.record);
    scanner.offset = next;
    scanner.previous = undefined;
    return true;
  }

  #finish(
    scanner: SegmentScanner,
    at: { readonly segmentId: number; readonly isLast: boolean; readonly sealed: boolean },
  ): void {
    const end: Position = { segmentId: at.segmentId, offset: scanner.offset };
    const damagedTail = scanner.previous === undefined;
    const lost = at.isLast ? comparePositions(this.#mark, end) > 0 : !at.sealed && !damagedTail;
    if (lost) this.#fault("lost-tail", at.segmentId, end.offset, 0);
    this.#chain = scanner.previous;
    // A segment whose end was damaged takes no more records: they would stand behind a gap that must stay visible.
    this.#end = { ...end, chain: scanner.previous ?? 0, sealed: at.sealed || lost || damagedTail };
  }

  #advanceMark(mark: Position): void {
    if (comparePositions(mark, this.#mark) > 0) this.#mark = mark;
  }

  #fault(
    kind: SegmentFault["kind"],
    segmentId: number,
    offset: number,
    sizeBytes: number,
    record?: LogRecord,
  ): void {
    const path = this.#options.pathOf(segmentId);
    if (this.#options.onFault === "refuse") throw corruptError(`${kind} segment`, path, offset);
    const fault: SegmentFault = { kind, path, segmentId, offset, sizeBytes };
    this.#faults.push(fault);
    this.#options.onDamage(fault, record);
  }
}
