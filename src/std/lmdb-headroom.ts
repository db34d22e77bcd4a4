/**
 * Room on the disk behind what an LMDB file uses, taken before LMDB is asked to write there.
 *
 * LMDB must not be the first to learn that a disk is full: its build in lmdb-js 3.5.6 describes a failed write in a buffer that is
 * too small for the description (mdb_page_flush in mdb.c: 100 bytes, some 70 of them fixed text, then six numbers of which two can
 * be anything), so the heap of the process is damaged, which ended nodes now and then at their next free(). So a page of zeros is
 * written behind the last page in use before each flush, and where the disk has little space left, as many as the flush can need at
 * most: a disk, a quota or a limit that refuses does so to this file, in order.
 *
 *   0 .. used pages .. | room: zeros, on the disk, overwritten by LMDB's next pages | end of the file
 *
 * Not covered, since zeros cost as much as what is written after them: who takes more than PLENTY_BYTES of the disk while LMDB commits,
 * a quota that the free space of the file system does not show, and file systems that copy on write and refuse a page that exists.
 * The store goes on handling what LMDB reports.
 */
import { withTimeout, type Clock } from "./clock.ts";
import type { DiskFile } from "./disk.ts";
import { META_SIZE_BYTES, newestTree, readMeta, type LmdbTree } from "./lmdb-pages.ts";

/** Pages that a commit of a single record may add: its path from the root, splits of it, and the list of free pages. */
const PAGE_COUNT_MIN = 64;

/** Children of a branch page that was split, at least: keys of 1,024 bytes. */
const BRANCH_FANOUT_MIN = 2;

/** With this much free space beyond what a flush can need, LMDB is left to take it by itself. */
export const PLENTY_BYTES = 1024 ** 3;

/** What a record takes in a page beside its key and value, at most: its head and its place. */
const RECORD_EXTRA_SIZE_BYTES = 32;

/** Zeros that the watchdog's time is for; more get it as many times. */
const PIECE_SIZE_BYTES = 1024 * 1024;

const ZEROS = new Uint8Array(PIECE_SIZE_BYTES);

/** What a flush is going to write. */
export interface FlushSize {
  readonly recordCount: number;
  /** Of keys and values together. */
  readonly sizeBytes: number;
}

/** Pages that a commit may add to the end of a file, at most. @param tree before it */
export function pagesAddedMax(tree: LmdbTree, { recordCount, sizeBytes }: FlushSize): number {
  // Each page that is changed is written anew, elsewhere while somebody reads the old one: for each record its path, or all there are.
  const changed = Math.min(recordCount * tree.depth, tree.branchPageCount + tree.leafPageCount);
  // A record of more than a third of a page may end in a page of its own, so records take at most three times their size.
  const added = Math.ceil((3 * (sizeBytes + RECORD_EXTRA_SIZE_BYTES * recordCount)) / tree.pageSizeBytes);
  const freed = Math.ceil((changed * 8) / tree.pageSizeBytes) * 2;
  // Branches over the pages that are added: those of long keys lead to few.
  return PAGE_COUNT_MIN + changed + added + Math.ceil(added / BRANCH_FANOUT_MIN) + freed;
}

/** What LmdbHeadroom needs. */
export interface LmdbHeadroomOptions {
  /** The store's own file, opened for writing. */
  readonly file: DiskFile;
  /** Free bytes of the disk that it is on. */
  readonly freeBytes: () => Promise<number>;
  readonly clock: Clock;
  /** For each piece that is read or written: a disk that takes longer is taken for dead. */
  readonly timeoutMs: number;
}

/** The room of one file; see the head of this file. Nobody may be writing the file during ensure(). */
export class LmdbHeadroom {
  readonly #options: LmdbHeadroomOptions;
  /** Up to where the file is known to be on the disk; undefined: not looked at yet. */
  #endBytes: number | undefined;

  constructor(options: LmdbHeadroomOptions) {
    this.#options = options;
  }

  /**
   * Returns when the disk holds room for a flush, or has plenty. Writes a page in any case, so that a disk that takes nothing at all
   * is found out.
   * Errors: ENOSPC, EDQUOT or EFBIG when there is no space, others of the file system; PageFault for a damaged file.
   */
  async ensure(flush: FlushSize): Promise<void> {
    const { file, freeBytes } = this.#options;
    const [tree, free] = await Promise.all([this.#tree(), this.#inTime(1, freeBytes())]);
    const { pageSizeBytes } = tree;
    const usedBytes = tree.pageCount * pageSizeBytes;
    const neededBytes = pagesAddedMax(tree, flush) * pageSizeBytes;
    this.#endBytes = Math.max(usedBytes, this.#endBytes ?? (await this.#inTime(1, file.size())));
    const isScarce = free < neededBytes + PLENTY_BYTES;
    const aimBytes = usedBytes + (isScarce ? neededBytes : pageSizeBytes);
    await this.#writeZeros(Math.min(this.#endBytes, aimBytes - pageSizeBytes), aimBytes);
    this.#endBytes = Math.max(this.#endBytes, aimBytes);
  }

  /** Closes its descriptor; harmless when closed. */
  async close(): Promise<void> {
    await this.#options.file.close();
  }

  async #tree(): Promise<LmdbTree> {
    const { file } = this.#options;
    const first = Buffer.from(await this.#inTime(1, file.read(0, META_SIZE_BYTES)));
    const { pageSizeBytes } = readMeta(first, 0).tree;
    const second = Buffer.from(await this.#inTime(1, file.read(pageSizeBytes, META_SIZE_BYTES)));
    return newestTree(first, second);
  }

  /** Writes many at once: each step waits for a turn of the event loop, which is busy when much is to be flushed. */
  async #writeZeros(from: number, to: number): Promise<void> {
    const { file } = this.#options;
    const parts: Uint8Array[] = [];
    for (let at = from; at < to; at += PIECE_SIZE_BYTES)
      parts.push(ZEROS.subarray(0, Math.min(PIECE_SIZE_BYTES, to - at)));
    await this.#inTime(parts.length, file.write(from, parts));
    // What LMDB's own commit has to bring to the disk in its time stays what it was.
    if (parts.length > 1) await this.#inTime(parts.length, file.sync());
  }

  #inTime<T>(pieceCount: number, work: Promise<T>): Promise<T> {
    const timeoutMs = pieceCount * this.#options.timeoutMs;
    const onTimeout = (): Error => new Error(`the disk did not answer within ${timeoutMs} ms`);
    return withTimeout(this.#options.clock, timeoutMs, work, onTimeout);
  }
}
