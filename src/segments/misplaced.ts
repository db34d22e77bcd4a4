/**
 * Finds segments whose files are gone from their directory, were replaced there, or cut short.
 *
 * An open file is read and written on after its name is gone, and all of it goes with the process; and a file that nobody has open says
 * nothing at all. So of each segment it is remembered which file it had when this process first met it, and how long that was: a look
 * compares what its name leads to now. What was exchanged before the process began cannot be told from the file; reads and the scrub
 * find it by the checksums. Costs one stat() a segment, and two more for each that is open.
 */
import { errnoOf, type Disk, type DiskFile, type FileStat } from "../std/disk.ts";
import type { FileCache } from "./file-cache.ts";
import { FileRegister } from "./file-register.ts";

/** Segments looked at between two pauses. */
const PAGE_COUNT = 200;

/**
 * What became of a file. "missing": there is none of its name. "replaced": there is another one than there was, with any bytes.
 * "cut-short": it is the same, and has lost bytes at its end, though others may have been written behind them since.
 */
export type LossKind = "missing" | "replaced" | "cut-short";

/** A segment whose file is not as this process left it. */
export interface MisplacedSegment {
  readonly segmentId: number;
  readonly path: string;
  readonly kind: LossKind;
  /** Bytes that are left of a file that was cut short and has not been written since. */
  readonly leftBytes?: number;
}

/** What a look looks at. */
export interface LookOptions {
  /** Segments that had files before the call. */
  readonly segmentIds: readonly number[];
  /** Files open for reading; those that are misplaced are closed. */
  readonly files: FileCache;
  /** Segments open for writing; they stay open. */
  readonly writing: readonly WrittenFile[];
  /** Awaited now and then, so that others get on; what it throws ends the look. */
  readonly pause: () => Promise<void>;
}

/** A file that is being written. */
export interface WrittenFile {
  readonly segmentId: number;
  readonly file: DiskFile;
  /** How far it has been written now: never less later. */
  readonly writtenBytes: () => number;
}

/** What was found of a segment, and what was in its place. */
interface Loss {
  readonly kind: LossKind;
  readonly stat: FileStat | undefined;
}

/** Watches over the files of the segments of one directory. */
export class FileWatch {
  readonly #disk: Disk;
  readonly #pathOf: (segmentId: number) => string;
  readonly #register = new FileRegister();
  /** What was found and its owner has not dealt with: found again, because a file that was closed then cannot be compared any more. */
  readonly #unsettled = new Map<number, Loss>();

  constructor(disk: Disk, pathOf: (segmentId: number) => string) {
    this.#disk = disk;
    this.#pathOf = pathOf;
  }

  /**
   * Takes the file of a segment as it is for the right one; returns its size, undefined when there is none. Errors: those of the disk.
   * @param sizeBytes how much of it counts, when that is not all
   */
  async remember(segmentId: number, sizeBytes?: number): Promise<number | undefined> {
    const stat = await this.#disk.stat(this.#pathOf(segmentId));
    if (stat !== undefined)
      this.#register.set(segmentId, { ...stat, sizeBytes: sizeBytes ?? stat.sizeBytes });
    return stat?.sizeBytes;
  }

  /** Nothing more is written to a segment: so much of it is to be there. */
  finish(segmentId: number, sizeBytes: number): void {
    const known = this.#register.find(segmentId);
    if (known !== undefined) this.#register.set(segmentId, { ...known, sizeBytes });
  }

  /** A segment was found cut short when it was to be written on, which hides it from the next look at its size. */
  noteCut(segmentId: number): void {
    if (!this.#unsettled.has(segmentId))
      this.#unsettled.set(segmentId, { kind: "cut-short", stat: undefined });
  }

  /** A segment was removed by its owner. */
  forget(segmentId: number): void {
    this.#unsettled.delete(segmentId);
    this.#register.forget(segmentId);
  }

  /** What was in a segment that find() named was looked at: what was in its place then is the right file from now on. */
  settle(segmentId: number): void {
    const stat = this.#unsettled.get(segmentId)?.stat;
    this.forget(segmentId);
    if (stat !== undefined) this.#register.set(segmentId, stat);
  }

  /**
   * The segments whose files are not as they were, in the order of `segmentIds`, each until it is settled. One that its owner removed
   * meanwhile is among them: the owner knows. Errors: those of the disk and of `pause`.
   */
  async find({ segmentIds, files, writing, pause }: LookOptions): Promise<readonly MisplacedSegment[]> {
    const paths = new Map(segmentIds.map((segmentId) => [this.#pathOf(segmentId), segmentId]));
    const moved: number[] = [];
    for (const { segmentId, file } of writing) {
      if (paths.has(file.path) && !(await isNamed(file))) moved.push(segmentId);
    }
    for (const path of await files.dropMisplaced((candidate) => paths.has(candidate))) {
      const segmentId = paths.get(path);
      if (segmentId !== undefined) moved.push(segmentId);
    }
    for (const segmentId of moved) this.#unsettled.set(segmentId, { kind: "replaced", stat: undefined });
    const written = new Map(writing.map((each) => [each.segmentId, each.writtenBytes]));
    const found: MisplacedSegment[] = [];
    let count = 0;
    for (const [path, segmentId] of paths) {
      count += 1;
      if (count % PAGE_COUNT === 0) await pause();
      // Before the file is asked: it only grows.
      const known = this.#register.find(segmentId);
      const sizeBytes = written.get(segmentId)?.() ?? known?.sizeBytes ?? 0;
      const stat = await this.#disk.stat(path);
      const kind = this.#lossOf(segmentId, known, sizeBytes, stat);
      if (kind === undefined) continue;
      this.#unsettled.set(segmentId, { kind, stat });
      const isShort = kind === "cut-short" && stat !== undefined && stat.sizeBytes < sizeBytes;
      found.push({ segmentId, path, kind, ...(isShort && { leftBytes: stat.sizeBytes }) });
    }
    return found;
  }

  #lossOf(
    segmentId: number,
    known: FileStat | undefined,
    sizeBytes: number,
    stat: FileStat | undefined,
  ): LossKind | undefined {
    if (stat === undefined) return "missing";
    const before = this.#unsettled.get(segmentId)?.kind;
    if (known !== undefined && !isSameFile(known, stat)) return "replaced";
    // Back after it was missing: what is there now may be another file of the same number.
    if (before !== undefined) return before === "missing" ? "replaced" : before;
    if (known === undefined) this.#register.set(segmentId, stat);
    else if (stat.sizeBytes < sizeBytes) return "cut-short";
    else if (known.madeAt !== stat.madeAt && stat.madeAt !== 0) {
      const latest = this.#register.find(segmentId);
      if (latest !== undefined) this.#register.set(segmentId, { ...latest, madeAt: stat.madeAt });
    }
    return undefined;
  }
}

/** File numbers are given out again; the time of making, where it is known of both, tells such files apart. */
function isSameFile(a: FileStat, b: FileStat): boolean {
  return a.fileNumber === b.fileNumber && (a.madeAt === 0 || b.madeAt === 0 || a.madeAt === b.madeAt);
}

/** What its owner has closed since it was named is not asked. */
async function isNamed(file: DiskFile): Promise<boolean> {
  try {
    return await file.isNamed();
  } catch (error) {
    if (errnoOf(error) !== "EBADF") throw error;
    return true;
  }
}
