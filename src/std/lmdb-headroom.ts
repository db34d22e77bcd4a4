/**
 * Room on the disk behind what an LMDB file uses, taken before LMDB is asked to write there.
 *
 * LMDB must not be the first to learn that a disk is full: its build in lmdb-js 3.5.6 describes a failed write in a buffer that is
 * too small for the description (mdb_page_flush in mdb.c: 100 bytes, some 70 of them fixed text, then up to six numbers of which
 * two can be anything), so the heap of the process is damaged, which ended nodes now and then at their next free(). What is asked
 * for here is written as zeros behind the last page in use; a disk, a quota or a limit that refuses does so to this file, in order.
 *
 *   0 .. used pages .. | room: zeros, on the disk, overwritten by LMDB's next pages | end of the file
 *
 * Pages in use are rewritten nowhere: LMDB writes free pages and those behind the last one, which is what the room is for. File
 * systems that copy on write may still refuse a page that exists, so the store goes on handling what LMDB reports.
 */
import { withTimeout, type Clock } from "./clock.ts";
import type { DiskFile } from "./disk.ts";
import { META_SIZE_BYTES, newestTree, readMeta, type LmdbTree } from "./lmdb-pages.ts";

/** Pages that a commit of a single record may add: its path from the root, splits of it, and the list of free pages. */
const PAGE_COUNT_MIN = 64;

/** Beyond what is needed now, so that not every flush has to ask: pages. */
const STEP_PAGE_COUNT = 64;

/** What a record takes in a page beside its key and value, at most: its head and its place. */
const RECORD_EXTRA_SIZE_BYTES = 32;

/** Zeros written at once: as much as the watchdog's time is for. */
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
  // Each page that is changed is written anew elsewhere: for each record its leaf and the branch over it, or all there are.
  const changed = Math.min(2 * recordCount, tree.branchPageCount + tree.leafPageCount);
  // Pages that split are half full, and values in pages of their own take less than twice their size.
  const added = Math.ceil((2 * (sizeBytes + RECORD_EXTRA_SIZE_BYTES * recordCount)) / tree.pageSizeBytes);
  const freed = Math.ceil((changed * 8) / tree.pageSizeBytes) * 2;
  return PAGE_COUNT_MIN + changed + added + freed;
}

/** The room of one file; see the head of this file. Nobody may be writing the file during ensure(). */
export class LmdbHeadroom {
  readonly #file: DiskFile;
  readonly #clock: Clock;
  readonly #timeoutMs: number;
  /** Where the file ends: LMDB stays within what was asked for. Undefined: not looked at yet. */
  #endBytes: number | undefined;

  /** @param timeoutMs for each read or write: a disk that takes longer is taken for dead */
  constructor(file: DiskFile, clock: Clock, timeoutMs: number) {
    this.#file = file;
    this.#clock = clock;
    this.#timeoutMs = timeoutMs;
  }

  /**
   * Returns when the disk holds room for a flush. Writes a page even when there is enough, so that a disk that takes nothing at all
   * is found out.
   * Errors: ENOSPC, EDQUOT or EFBIG when there is no space, others of the file system; PageFault for a damaged file.
   */
  async ensure(flush: FlushSize): Promise<void> {
    const tree = await this.#tree();
    const { pageSizeBytes } = tree;
    const usedBytes = tree.pageCount * pageSizeBytes;
    const neededBytes = usedBytes + pagesAddedMax(tree, flush) * pageSizeBytes;
    this.#endBytes = Math.max(usedBytes, this.#endBytes ?? (await this.#inTime(this.#file.size())));
    if (this.#endBytes >= neededBytes) {
      await this.#writeZeros(neededBytes - pageSizeBytes, pageSizeBytes);
      return;
    }
    const aimBytes = neededBytes + STEP_PAGE_COUNT * pageSizeBytes;
    while (this.#endBytes < aimBytes) {
      const sizeBytes = Math.min(PIECE_SIZE_BYTES, aimBytes - this.#endBytes);
      await this.#writeZeros(this.#endBytes, sizeBytes);
      this.#endBytes += sizeBytes;
    }
  }

  /** Closes its descriptor; harmless when closed. */
  async close(): Promise<void> {
    await this.#file.close();
  }

  async #tree(): Promise<LmdbTree> {
    const first = Buffer.from(await this.#inTime(this.#file.read(0, META_SIZE_BYTES)));
    const { pageSizeBytes } = readMeta(first, 0).tree;
    const second = Buffer.from(await this.#inTime(this.#file.read(pageSizeBytes, META_SIZE_BYTES)));
    return newestTree(first, second);
  }

  async #writeZeros(offset: number, sizeBytes: number): Promise<void> {
    await this.#inTime(this.#file.write(offset, [ZEROS.subarray(0, sizeBytes)]));
  }

  #inTime<T>(work: Promise<T>): Promise<T> {
    return withTimeout(
      this.#clock,
      this.#timeoutMs,
      work,
      () => new Error(`the disk did not answer within ${this.#timeoutMs} ms`),
    );
  }
}
