/**
 * Checks every record of an LMDB file, and the tree that leads to them, without LMDB: whatever the file holds cannot end this
 * process, and it takes a small part of the time that reading through LMDB takes.
 *
 *   meta pages -> branch pages, from the root down -> which page is a leaf, and between which keys
 *   leaf pages, in the order of the file (one sequential read, or a part of it): head, order of keys, bounds, checksums
 *
 * A record that is lost makes the count wrong; one that is wrong fails its checksum; one in the wrong place, or that a lookup
 * would miss, is out of order or out of bounds; an old one in the place of a new one makes the sum of records wrong, which
 * the owner of the store compares. The list of free pages is not looked at.
 *
 * Memory: the branch pages (1 to 2 % of the file) and 6 bytes for each page. It is meant for a process that ends afterwards.
 */
import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { must } from "./assert.ts";
import { crc32 } from "./crc32.ts";
import {
  META_SIZE_BYTES,
  newestTree,
  NODE_FLAG_OVERFLOW,
  NODE_HEAD_SIZE_BYTES,
  PAGE_FLAG,
  PAGE_HEAD_SIZE_BYTES,
  PageFault,
  readBranch,
  readMeta,
  type LmdbTree,
} from "./lmdb-pages.ts";
import { RecordSum, SUM_KEY_END, SUM_KEY_START } from "./record-sum.ts";

/** Bytes of the file read at once. */
const PIECE_SIZE_BYTES = 4 * 1024 * 1024;

/** Bytes of the checksum behind each value of a sealed record; see checked-ordered-store.ts. */
export const SEAL_SIZE_BYTES = 4;

/** Levels that a tree can have: LMDB's own bound. */
const DEPTH_MAX = 32;

/** Times that the meta pages are read until they are the same twice. */
const META_READ_COUNT_MAX = 100;

/** What to check. */
export interface TreeCheckOptions {
  readonly file: string;
  /** Whether each value ends with the checksum of checked-ordered-store.ts. */
  readonly isSealed: boolean;
  /** Which part of the leaf pages, from 0, of how many: the parts can be checked at the same time. */
  readonly part: number;
  readonly partCount: number;
}

/** What a part of the leaf pages holds. */
export interface TreePart {
  readonly recordCount: number;
  readonly leafPageCount: number;
  readonly overflowPageCount: number;
  /** Of the sealed records whose keys count in it. */
  readonly sum: Uint8Array;
  /** What all parts together must hold. */
  readonly expected: LmdbTree;
}

/** A branch page, with the bounds of its own keys. */
interface BranchAt {
  readonly keys: readonly (Uint8Array | undefined)[];
  readonly from: Uint8Array | undefined;
  readonly to: Uint8Array | undefined;
}

/** The leaf pages by number: whose child each is. */
interface Leaves {
  /** Index of the branch in `branches`, from 1; 0 for a page that is no leaf of this tree. */
  readonly owners: Uint32Array;
  readonly positions: Uint16Array;
  readonly branches: readonly BranchAt[];
}

/** Takes a record: its key and value follow each other in `bytes`, which is only to be read during the call. */
export type RecordSink = (bytes: Buffer, keyStart: number, valueStart: number, end: number) => void;

/** Checks one part of a file. @throws PageFault for damage; errors of the file system */
export function checkTree(options: TreeCheckOptions): TreePart {
  const descriptor = openSync(options.file, "r");
  try {
    return new TreeCheck(descriptor, options).run();
  } finally {
    closeSync(descriptor);
  }
}

/**
 * Hands out all records of a file in the order of their keys, checked as checkTree() does, without the checksums behind sealed
 * values. The file may be written to meanwhile, as long as a read transaction of LMDB that began before keeps its pages. Gives
 * its caller a turn after each leaf page.
 * @throws PageFault for damage; errors of the file system
 */
export function* walkRecords(
  options: Pick<TreeCheckOptions, "file" | "isSealed">,
  sink: RecordSink,
): Generator<void> {
  const descriptor = openSync(options.file, "r");
  try {
    yield* new TreeCheck(descriptor, { ...options, part: 0, partCount: 1 }, sink).walk();
  } finally {
    closeSync(descriptor);
  }
}

class TreeCheck {
  readonly #descriptor: number;
  readonly #options: TreeCheckOptions;
  readonly #tree: LmdbTree;
  readonly #sum = new RecordSum();
  readonly #sink: RecordSink | undefined;
  #recordCount = 0;
  #leafPageCount = 0;
  #overflowPageCount = 0;

  constructor(descriptor: number, options: TreeCheckOptions, sink?: RecordSink) {
    this.#descriptor = descriptor;
    this.#options = options;
    this.#sink = sink;
    const { pageSizeBytes } = readMeta(this.#read(0, META_SIZE_BYTES), 0).tree;
    this.#tree = this.#readTree(pageSizeBytes);
    if (this.#tree.pageSizeBytes !== pageSizeBytes) throw new PageFault("the sizes of pages differ");
  }

  /** The newest tree. A meta page that is being written while it is read would be half old: it is read until it stands. */
  #readTree(pageSizeBytes: number): LmdbTree {
    const read = (): Buffer =>
      Buffer.concat([this.#read(0, META_SIZE_BYTES), this.#read(pageSizeBytes, META_SIZE_BYTES)]);
    let metas = read();
    for (let attempt = 0; attempt < META_READ_COUNT_MAX; attempt += 1) {
      const again = read();
      if (again.equals(metas))
        return newestTree(metas.subarray(0, META_SIZE_BYTES), metas.subarray(META_SIZE_BYTES));
      metas = again;
    }
    throw new PageFault("the meta pages never stand still");
  }

  run(): TreePart {
    const { root, depth, recordCount } = this.#tree;
    if (root === undefined) {
      if (recordCount > 0) throw new PageFault("there is no root for the records");
    } else {
      if (depth < 1 || depth > DEPTH_MAX) throw new PageFault(`the tree has ${depth} levels`);
      this.#checkLeaves(this.#findLeaves(root, depth));
    }
    return {
      recordCount: this.#recordCount,
      leafPageCount: this.#leafPageCount,
      overflowPageCount: this.#overflowPageCount,
      sum: this.#sum.toBytes(),
      expected: this.#tree,
    };
  }

  /** All leaf pages in the order of keys. */
  *walk(): Generator<void> {
    const { root, depth, recordCount } = this.#tree;
    if (depth > DEPTH_MAX) throw new PageFault(`the tree has ${depth} levels`);
    if (root !== undefined) yield* this.#walkPage(root, 1, { from: undefined, to: undefined });
    if (this.#recordCount !== recordCount)
      throw new PageFault(`there are ${this.#recordCount} records, not ${recordCount}`);
  }

  *#walkPage(pageNumber: number, level: number, bounds: Omit<BranchAt, "keys">): Generator<void> {
    const { depth, pageSizeBytes } = this.#tree;
    const page = this.#read(pageNumber * pageSizeBytes, pageSizeBytes);
    if (level === depth) {
      const shorts = new Uint16Array(page.buffer, page.byteOffset, page.length >>> 1);
      this.#checkLeaf(page, shorts, 0, pageNumber, bounds);
      yield;
      return;
    }
    const { children, keys } = readBranch(page, pageNumber, bounds);
    for (const [position, child] of children.entries())
      yield* this.#walkPage(child, level + 1, childBounds({ ...bounds, keys }, position));
  }

  /** Reads the branch pages, from the root down. */
  #findLeaves(root: number, depth: number): Leaves {
    const { pageCount, pageSizeBytes, branchPageCount } = this.#tree;
    if (pageCount > fstatSync(this.#descriptor).size / pageSizeBytes + 1)
      throw new PageFault("the file is cut off");
    const owners = new Uint32Array(pageCount);
    const positions = new Uint16Array(pageCount);
    const branches: BranchAt[] = [];
    let branchCount = 0;
    const own = (child: number, branch: number, position: number): void => {
      if (child < 2 || child >= pageCount) throw new PageFault(`there is no page ${child}`);
      if (owners[child] !== 0) throw new PageFault(`two pages lead to page ${child}`);
      owners[child] = branch;
      positions[child] = position;
    };
    const visit = (pageNumber: number, level: number, bounds: Omit<BranchAt, "keys">): void => {
      branchCount += 1;
      if (branchCount > branchPageCount) throw new PageFault("there are too many branch pages");
      const page = this.#read(pageNumber * pageSizeBytes, pageSizeBytes);
      const { children, keys } = readBranch(page, pageNumber, bounds);
      if (level + 1 === depth) branches.push({ ...bounds, keys });
      for (const [position, child] of children.entries()) {
        if (level + 1 === depth) own(child, branches.length, position);
        else visit(child, level + 1, childBounds({ ...bounds, keys }, position));
      }
    };
    const bounds = { from: undefined, to: undefined };
    if (depth === 1) {
      branches.push({ ...bounds, keys: [undefined] });
      own(root, 1, 0);
    } else visit(root, 1, bounds);
    if (branchCount !== branchPageCount) throw new PageFault("branch pages are missing");
    return { owners, positions, branches };
  }

  #checkLeaves({ owners, positions, branches }: Leaves): void {
    const { pageCount, pageSizeBytes } = this.#tree;
    const { part, partCount } = this.#options;
    const pagesAtOnce = Math.floor(PIECE_SIZE_BYTES / pageSizeBytes);
    const end = Math.floor((pageCount * (part + 1)) / partCount);
    for (let next = Math.floor((pageCount * part) / partCount); next < end; next += pagesAtOnce) {
      const count = Math.min(pagesAtOnce, end - next);
      // The pages at the end may never have been written: they are free.
      const piece = this.#read(next * pageSizeBytes, count * pageSizeBytes, "shorter");
      const shorts = new Uint16Array(piece.buffer, piece.byteOffset, piece.length >>> 1);
      for (let at = 0; at < count; at += 1) {
        const owner = must(owners[next + at], "inside the pages");
        if (owner === 0) continue;
        const branch = must(branches[owner - 1], "a branch that was read");
        if ((at + 1) * pageSizeBytes > piece.length) throw new PageFault(`page ${next + at} is cut off`);
        this.#checkLeaf(
          piece,
          shorts,
          at * pageSizeBytes,
          next + at,
          childBounds(branch, positions[next + at] ?? 0),
        );
      }
    }
  }

  /** Checks the leaf page that starts at byte `base` of a piece. Runs for every record of the store. */
  #checkLeaf(
    piece: Buffer,
    shorts: Uint16Array,
    base: number,
    pageNumber: number,
    { from, to }: { readonly from: Uint8Array | undefined; readonly to: Uint8Array | undefined },
  ): void {
    const fail = (what: string): never => {
      throw new PageFault(`page ${pageNumber} ${what}`);
    };
    const head = base >>> 1;
    const short = (at: number): number => shorts[at] ?? 0;
    if (piece.readUInt32LE(base) + piece.readUInt32LE(base + 4) * 0x1_0000_0000 !== pageNumber)
      fail("has another number");
    if (short(head + 9) !== PAGE_FLAG.leaf) fail("is no leaf");
    const lower = short(head + 10);
    const upper = short(head + 11);
    const { pageSizeBytes } = this.#tree;
    if (lower < 2 || (lower & 1) !== 0 || lower > upper || upper > pageSizeBytes - PAGE_HEAD_SIZE_BYTES)
      fail("has no sound head");
    const firstNode = base + PAGE_HEAD_SIZE_BYTES + upper;
    const end = base + pageSizeBytes;
    let lastKeyStart = 0;
    let lastKeyEnd = 0;
    const count = lower >>> 1;
    for (let at = 0; at < count; at += 1) {
      const place = short(head + PAGE_HEAD_SIZE_BYTES / 2 + at);
      const start = base + PAGE_HEAD_SIZE_BYTES + place;
      if ((place & 1) !== 0 || start < firstNode || start + NODE_HEAD_SIZE_BYTES > end)
        fail("has a node outside of it");
      const node = start >>> 1;
      const valueSize = short(node) + short(node + 1) * 0x1_0000;
      const flags = short(node + 2);
      const keyStart = start + NODE_HEAD_SIZE_BYTES;
      const keyEnd = keyStart + short(node + 3);
      if (keyEnd > end || keyEnd === keyStart) fail("has a key outside of it");
      if (at > 0 && !isBefore(piece, lastKeyStart, lastKeyEnd, keyStart, keyEnd))
        fail("has keys out of order");
      if (at === 0 && from !== undefined && piece.compare(from, 0, from.length, keyStart, keyEnd) < 0)
        fail("holds a key below its bounds");
      lastKeyStart = keyStart;
      lastKeyEnd = keyEnd;
      if (flags === 0) {
        if (keyEnd + valueSize > end) fail("has a value outside of it");
        this.#checkRecord(piece, keyStart, keyEnd, keyEnd + valueSize, pageNumber);
      } else if (flags === NODE_FLAG_OVERFLOW)
        this.#checkLarge(piece, keyStart, keyEnd, valueSize, pageNumber);
      else fail("has a node of another kind");
    }
    if (to !== undefined && piece.compare(to, 0, to.length, lastKeyStart, lastKeyEnd) >= 0)
      fail("holds a key above its bounds");
    this.#recordCount += count;
    this.#leafPageCount += 1;
  }

  #checkRecord(bytes: Buffer, keyStart: number, valueStart: number, end: number, pageNumber: number): void {
    if (!this.#options.isSealed) {
      this.#sink?.(bytes, keyStart, valueStart, end);
      return;
    }
    const sealed = end - SEAL_SIZE_BYTES;
    if (sealed < valueStart || crc32(bytes.subarray(keyStart, sealed)) !== bytes.readUInt32LE(sealed))
      throw new PageFault(`a record of page ${pageNumber} fails its checksum`);
    if (this.#sink !== undefined) {
      this.#sink(bytes, keyStart, valueStart, sealed);
      return;
    }
    const first = bytes[keyStart] ?? 0;
    if (first >= SUM_KEY_START && first < SUM_KEY_END)
      this.#sum.addWithin(bytes, keyStart, valueStart, sealed);
  }

  /** A record whose value lies in pages of its own, one behind the other. */
  #checkLarge(piece: Buffer, keyStart: number, keyEnd: number, valueSize: number, pageNumber: number): void {
    const { pageSizeBytes, pageCount } = this.#tree;
    const fail = (what: string): never => {
      throw new PageFault(`a large value of page ${pageNumber} ${what}`);
    };
    if (keyEnd + 24 > piece.length) fail("has no place");
    const number = piece.readUInt32LE(keyEnd) + piece.readUInt32LE(keyEnd + 4) * 0x1_0000_0000;
    const count = Math.floor((PAGE_HEAD_SIZE_BYTES - 1 + valueSize) / pageSizeBytes) + 1;
    if (number < 2 || number + count > pageCount) fail("is outside of the file");
    const pages = this.#read(number * pageSizeBytes, PAGE_HEAD_SIZE_BYTES + valueSize);
    const isSound =
      pages.readUInt32LE(0) + pages.readUInt32LE(4) * 0x1_0000_0000 === number &&
      pages.readUInt16LE(18) === PAGE_FLAG.overflow &&
      pages.readUInt32LE(20) === count;
    if (!isSound) fail("is not where it should be");
    const record = Buffer.concat([piece.subarray(keyStart, keyEnd), pages.subarray(PAGE_HEAD_SIZE_BYTES)]);
    this.#checkRecord(record, 0, keyEnd - keyStart, record.length, pageNumber);
    this.#overflowPageCount += count;
  }

  /** Bytes of the file in memory of their own. */
  #read(offset: number, length: number, atEnd: "whole" | "shorter" = "whole"): Buffer {
    const bytes = Buffer.from(new ArrayBuffer(length));
    let done = 0;
    while (done < length) {
      const count = readSync(this.#descriptor, bytes, done, length - done, offset + done);
      if (count === 0) break;
      done += count;
    }
    if (done < length && atEnd === "whole")
      throw new PageFault(`the file ends before byte ${offset + length}`);
    return bytes.subarray(0, done);
  }
}

/** Between which keys the child at `position` lies. */
function childBounds(branch: BranchAt, position: number): Omit<BranchAt, "keys"> {
  const { keys, from, to } = branch;
  return {
    from: position === 0 ? from : keys[position],
    to: position + 1 < keys.length ? keys[position + 1] : to,
  };
}

/** Whether one key in `bytes` orders before another. */
function isBefore(bytes: Buffer, aStart: number, aEnd: number, bStart: number, bEnd: number): boolean {
  const length = Math.min(aEnd - aStart, bEnd - bStart);
  for (let at = 0; at < length; at += 1) {
    const difference = (bytes[aStart + at] ?? 0) - (bytes[bStart + at] ?? 0);
    if (difference !== 0) return difference < 0;
  }
  return aEnd - aStart < bEnd - bStart;
}
