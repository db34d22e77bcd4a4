/**
 * The pages of an LMDB file (data version 2, as lmdb 3 writes it), read without LMDB: for those who cannot trust the file yet.
 *
 *   page   = number(8) transaction(8) pad(2) flags(2) lower(2) upper(2), then the places of the nodes(2 each), counted from byte 24
 *   node   = low(2) high(2) flags(2) keySize(2) key value      low and high: size of the value, or number of the child page
 *   meta   = the head of a page, then magic(4) version(4) address(8) mapSize(8) trees(48 each: free pages, records)
 *            lastPage(8) transaction(8)
 *   tree   = pad(4; of the first: size of a page) flags(2) depth(2) branchPages(8) leafPages(8) overflowPages(8) records(8) root(8)
 *
 * Integers are in the order of the machine, as LMDB writes them; the magic does not fit on another one.
 */
import { compareBytes } from "./bytes.ts";

/** Bytes of the head of a page; places of nodes count from here. */
export const PAGE_HEAD_SIZE_BYTES = 24;

/** Bytes of the head of a node. */
export const NODE_HEAD_SIZE_BYTES = 8;

/** Flags of pages; each page has one of them. */
export const PAGE_FLAG = { branch: 1, leaf: 2, overflow: 4, meta: 8 } as const;

/** Flag of a node whose value lies in pages of its own. */
export const NODE_FLAG_OVERFLOW = 1;

const MAGIC = 0xbeefc0de;
const VERSION = 2;

/** Bytes at the start of a page that hold its meta record. */
export const META_SIZE_BYTES = 168;

/** Sizes that a page can have: LMDB's own bounds. */
const PAGE_SIZE_BYTES_MIN = 256;
const PAGE_SIZE_BYTES_MAX = 65_536;

/** Where the records of a file are, by its newest meta page. */
export interface LmdbTree {
  readonly pageSizeBytes: number;
  /** Number of the root page; undefined for no records. */
  readonly root: number | undefined;
  /** Levels, leaves included. */
  readonly depth: number;
  readonly branchPageCount: number;
  readonly leafPageCount: number;
  readonly overflowPageCount: number;
  readonly recordCount: number;
  /** Pages of the file that were ever used. */
  readonly pageCount: number;
}

/** Thrown for a page that LMDB did not write. */
export class PageFault extends Error {
  override readonly name = "PageFault";
}

interface Meta {
  readonly tree: LmdbTree;
  readonly transaction: bigint;
}

/** Reads one of the first two pages. @param pageNumber 0 or 1 @throws PageFault */
export function readMeta(bytes: Buffer, pageNumber: number): Meta {
  const fail = (what: string): never => {
    throw new PageFault(`page ${pageNumber} ${what}`);
  };
  if (bytes.length < META_SIZE_BYTES) fail("is cut off");
  if (bytes.readUInt16LE(18) !== PAGE_FLAG.meta) fail("is no meta page");
  if (bytes.readBigUInt64LE(0) !== BigInt(pageNumber)) fail("has another number");
  if (bytes.readUInt32LE(24) !== MAGIC || bytes.readUInt32LE(28) !== VERSION)
    fail("is not of this version of LMDB");
  const pageSizeBytes = bytes.readUInt32LE(48);
  const isSize =
    pageSizeBytes >= PAGE_SIZE_BYTES_MIN &&
    pageSizeBytes <= PAGE_SIZE_BYTES_MAX &&
    (pageSizeBytes & (pageSizeBytes - 1)) === 0;
  if (!isSize) fail(`says that pages have ${pageSizeBytes} bytes`);
  const integer = (at: number): number => {
    const value = bytes.readBigUInt64LE(at);
    return value <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(value) : fail("holds a number that cannot be");
  };
  const NO_PAGE = 0xffff_ffff_ffff_ffffn;
  const tree: LmdbTree = {
    pageSizeBytes,
    root: bytes.readBigUInt64LE(136) === NO_PAGE ? undefined : integer(136),
    depth: bytes.readUInt16LE(102),
    branchPageCount: integer(104),
    leafPageCount: integer(112),
    overflowPageCount: integer(120),
    recordCount: integer(128),
    pageCount: integer(144) + 1,
  };
  return { tree, transaction: bytes.readBigUInt64LE(152) };
}

/** What both meta pages say: LMDB goes by the one of the later transaction. @throws PageFault */
export function newestTree(first: Buffer, second: Buffer): LmdbTree {
  const [a, b] = [readMeta(first, 0), readMeta(second, 1)];
  return a.transaction > b.transaction ? a.tree : b.tree;
}

/** A page that may be anything: the places of its nodes, checked. */
export interface PageNodes {
  readonly count: number;
  /** Where node `at` starts in the page. @throws PageFault when its head is not inside the page */
  start(at: number): number;
}

/** Checks the head of a branch or leaf page. @throws PageFault */
export function pageNodes(page: Buffer, pageNumber: number, flag: number): PageNodes {
  if (page.readUInt32LE(0) + page.readUInt32LE(4) * 0x1_0000_0000 !== pageNumber)
    throw new PageFault(`page ${pageNumber} has another number`);
  if (page.readUInt16LE(18) !== flag) throw new PageFault(`page ${pageNumber} is of another kind`);
  const lower = page.readUInt16LE(20);
  const upper = page.readUInt16LE(22);
  const count = lower >>> 1;
  if (count === 0 || (lower & 1) !== 0 || lower > upper || upper > page.length - PAGE_HEAD_SIZE_BYTES)
    throw new PageFault(`page ${pageNumber} has no sound head`);
  return {
    count,
    start: (at) => {
      const start = page.readUInt16LE(PAGE_HEAD_SIZE_BYTES + 2 * at) + PAGE_HEAD_SIZE_BYTES;
      if (start < upper + PAGE_HEAD_SIZE_BYTES || start + NODE_HEAD_SIZE_BYTES > page.length)
        throw new PageFault(`a node of page ${pageNumber} is outside of it`);
      return start;
    },
  };
}

/** The child pages of a branch page and the keys that bound them. */
export interface Branch {
  readonly children: readonly number[];
  /** The smallest key that child `at` may hold is at `at`; the first is undefined: that of the branch itself. */
  readonly keys: readonly (Uint8Array | undefined)[];
}

/**
 * Reads a branch page.
 * @param from lower bound of its keys, inclusive @param to upper bound, exclusive; undefined for none
 * @throws PageFault
 */
export function readBranch(
  page: Buffer,
  pageNumber: number,
  { from, to }: { readonly from: Uint8Array | undefined; readonly to: Uint8Array | undefined },
): Branch {
  const nodes = pageNodes(page, pageNumber, PAGE_FLAG.branch);
  const children: number[] = [];
  const keys: (Uint8Array | undefined)[] = [];
  let last = from;
  for (let at = 0; at < nodes.count; at += 1) {
    const start = nodes.start(at);
    const high = page.readUInt16LE(start + 4);
    children.push(page.readUInt32LE(start) + high * 0x1_0000_0000);
    if (at === 0) {
      keys.push(undefined);
      continue;
    }
    const keyStart = start + NODE_HEAD_SIZE_BYTES;
    const keyEnd = keyStart + page.readUInt16LE(start + 6);
    if (keyEnd > page.length) throw new PageFault(`a key of page ${pageNumber} is outside of it`);
    const key = page.subarray(keyStart, keyEnd);
    const isInOrder =
      (last === undefined || compareBytes(last, key) < (at === 1 ? 1 : 0)) &&
      (to === undefined || compareBytes(key, to) < 0);
    if (!isInOrder) throw new PageFault(`the keys of page ${pageNumber} are out of order`);
    keys.push(key);
    last = key;
  }
  return { children, keys };
}
