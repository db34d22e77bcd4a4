/**
 * The index of names of a node's own catalog: folded names by entry id, in blocks, each with a signature of its grams.
 *
 *   01                 how far it is: {version, clusterId, appliedIndex, scan}, JSON
 *   02 block           the names of 256 ids: count u16, then (id & 255 u8, size u16) each, then the names with a line feed between
 *   03 block           which grams may be in the block, 8,192 bits
 *
 * A search reads signatures from the newest block down (those of the newest blocks from memory) and only looks into blocks that may hold the text. What it finds are
 * candidates: the tree decides. So the index may lag and may keep names of what is gone; a sweep takes those out.
 */
import { assert } from "../std/assert.ts";
import { asBuffer } from "../std/bytes.ts";
import type { KeyValue, OrderedStore } from "../std/ordered-store.ts";
import { gramsOf, SIGNATURE_SIZE_BYTES, signatureBit } from "./name-grams.ts";
import {
  CACHED_BLOCK_COUNT,
  mayHold,
  SignatureCache,
  type BlockRange,
  type ExaminedBlocks,
} from "./signature-cache.ts";

const FORMAT_VERSION = 2;

/** Ids of one block. */
export const BLOCK_ID_COUNT = 256;

const TABLE_STATE = 1;
const TABLE_NAMES = 2;
const TABLE_SIGNATURE = 3;
const HEADER_ENTRY_SIZE_BYTES = 3;
const LINE_FEED = 0x0a;

/** How far an index is. */
export interface NameIndexState {
  readonly clusterId: string;
  /** Everything up to this command is in it, once the scan is done. */
  readonly appliedIndex: number;
  /** Where the scan of the tree goes on; "" before its start, undefined when it is done. */
  readonly scan: string | undefined;
}

/** A name that was found. */
export interface NameHit {
  readonly entryId: number;
}

function key(table: number, block: number): Uint8Array {
  const bytes = Buffer.alloc(9);
  bytes[0] = table;
  bytes.writeBigUInt64BE(BigInt(block), 1);
  return bytes;
}

const blockOf = (record: KeyValue): number => Number(asBuffer(record.key).readBigUInt64BE(1));

/** Folded names by id, ascending. */
type Block = Map<number, Uint8Array>;

function decodeBlock(block: number, value: Uint8Array | undefined): Block {
  const names: Block = new Map();
  if (value === undefined) return names;
  const bytes = asBuffer(value);
  const count = bytes.readUInt16BE(0);
  let at = 2 + count * HEADER_ENTRY_SIZE_BYTES;
  for (let i = 0; i < count; i += 1) {
    const header = 2 + i * HEADER_ENTRY_SIZE_BYTES;
    const sizeBytes = bytes.readUInt16BE(header + 1);
    names.set(block * BLOCK_ID_COUNT + bytes.readUInt8(header), bytes.subarray(at, at + sizeBytes));
    at += sizeBytes + 1;
  }
  return names;
}

function encodeBlock(names: Block): Uint8Array {
  const ids = [...names.keys()].sort((a, b) => a - b);
  const parts: Uint8Array[] = [];
  const header = Buffer.alloc(2 + ids.length * HEADER_ENTRY_SIZE_BYTES);
  header.writeUInt16BE(ids.length, 0);
  const separator = Uint8Array.of(LINE_FEED);
  for (const [i, id] of ids.entries()) {
    const name = names.get(id) ?? new Uint8Array(0);
    header.writeUInt8(id % BLOCK_ID_COUNT, 2 + i * HEADER_ENTRY_SIZE_BYTES);
    header.writeUInt16BE(name.length, 3 + i * HEADER_ENTRY_SIZE_BYTES);
    parts.push(name, separator);
  }
  return Buffer.concat([header, ...parts]);
}

function addToSignature(signature: Uint8Array, folded: string): void {
  for (const gram of gramsOf(folded)) {
    const bit = signatureBit(gram);
    signature[bit >>> 3] = (signature[bit >>> 3] ?? 0) | (1 << (bit & 7));
  }
}

/** The index in a store of its own. */
export class NameIndex {
  readonly #store: OrderedStore;
  readonly #signatures: SignatureCache;

  /** @param cachedBlockCount blocks of which the signatures are kept in memory, at least one */
  constructor(store: OrderedStore, cachedBlockCount = CACHED_BLOCK_COUNT) {
    this.#store = store;
    this.#signatures = new SignatureCache(cachedBlockCount);
  }

  /** How far it is; undefined when it is empty or of another version. */
  state(): NameIndexState | undefined {
    const value = this.#store.get(Uint8Array.of(TABLE_STATE));
    if (value === undefined) return undefined;
    const parsed = JSON.parse(asBuffer(value).toString("utf8")) as NameIndexState & { version: number };
    if (parsed.version !== FORMAT_VERSION) return undefined;
    const { clusterId, appliedIndex, scan } = parsed;
    return { clusterId, appliedIndex, scan };
  }

  /** Takes names in (folded) or out (undefined) and says how far the index is now, in one transaction. */
  apply(names: ReadonlyMap<number, string | undefined>, state: NameIndexState): void {
    const byBlock = new Map<number, [number, string | undefined][]>();
    for (const [entryId, folded] of names) {
      assert(Number.isSafeInteger(entryId) && entryId > 0, `an entry has the id ${entryId}`);
      const block = Math.floor(entryId / BLOCK_ID_COUNT);
      const list = byBlock.get(block);
      if (list === undefined) byBlock.set(block, [[entryId, folded]]);
      else list.push([entryId, folded]);
    }
    const written = new Map<number, Uint8Array | undefined>();
    this.#store.transaction((transaction) => {
      for (const [block, changes] of byBlock) {
        const kept = decodeBlock(block, transaction.get(key(TABLE_NAMES, block)));
        // Bits of names that are gone stay until the sweep: they cost a look into the block, never a result.
        const signature = Uint8Array.from(
          transaction.get(key(TABLE_SIGNATURE, block)) ?? new Uint8Array(SIGNATURE_SIZE_BYTES),
        );
        for (const [entryId, folded] of changes) {
          if (folded === undefined) kept.delete(entryId);
          else {
            kept.set(entryId, Buffer.from(folded, "utf8"));
            addToSignature(signature, folded);
          }
        }
        if (kept.size === 0) {
          transaction.delete(key(TABLE_NAMES, block));
          transaction.delete(key(TABLE_SIGNATURE, block));
          written.set(block, undefined);
        } else {
          transaction.put(key(TABLE_NAMES, block), encodeBlock(kept));
          transaction.put(key(TABLE_SIGNATURE, block), signature);
          written.set(block, signature);
        }
      }
      const value = JSON.stringify({ version: FORMAT_VERSION, ...state });
      transaction.put(Uint8Array.of(TABLE_STATE), Buffer.from(value, "utf8"));
    });
    for (const [block, signature] of written) this.#signatures.set(block, signature);
  }

  /** Keeps of one block only what `isKept` says and makes its signature anew. */
  sweep(block: number, isKept: (entryId: number) => boolean): void {
    const names = decodeBlock(block, this.#store.get(key(TABLE_NAMES, block)));
    const gone = [...names.keys()].filter((entryId) => !isKept(entryId));
    if (gone.length === 0) return;
    for (const entryId of gone) names.delete(entryId);
    const signature = new Uint8Array(SIGNATURE_SIZE_BYTES);
    for (const name of names.values()) addToSignature(signature, asBuffer(name).toString("utf8"));
    this.#store.transaction((transaction) => {
      if (names.size === 0) {
        transaction.delete(key(TABLE_NAMES, block));
        transaction.delete(key(TABLE_SIGNATURE, block));
        return;
      }
      transaction.put(key(TABLE_NAMES, block), encodeBlock(names));
      transaction.put(key(TABLE_SIGNATURE, block), signature);
    });
    this.#signatures.set(block, names.size === 0 ? undefined : signature);
  }

  /**
   * At most `countMax` blocks in the order of ids, from `from` (included) on: those that may hold names with all the grams of
   * which `bits` are the bits; `examinedTo` is the last block that was looked at, undefined at the end.
   */
  blocks(range: BlockRange): ExaminedBlocks {
    const { from, descending, countMax, bits } = range;
    const known = this.#signatures.blocks(range);
    if (known !== undefined) return known;
    const first = key(TABLE_SIGNATURE, descending ? 0 : (from ?? 0));
    const end =
      descending && from !== undefined ? key(TABLE_SIGNATURE, from + 1) : Uint8Array.of(TABLE_SIGNATURE + 1);
    const blocks: number[] = [];
    const read: [number, Uint8Array][] = [];
    let count = 0;
    let examinedTo: number | undefined;
    for (const record of this.#store.range({ from: first, to: end, reverse: descending, countMax })) {
      count += 1;
      examinedTo = blockOf(record);
      if (descending) read.push([examinedTo, record.value]);
      if (mayHold(record.value, bits)) blocks.push(examinedTo);
    }
    if (descending) this.#signatures.extend(from, read, count < countMax);
    return { blocks, examinedTo: count < countMax ? undefined : examinedTo };
  }

  /** Ids in a block, ascending, whose folded name holds `needle` (empty: all). */
  idsIn(block: number, needle: Uint8Array): readonly number[] {
    const value = this.#store.get(key(TABLE_NAMES, block));
    if (value === undefined) return [];
    if (needle.length === 0) return [...decodeBlock(block, value).keys()];
    const bytes = asBuffer(value);
    const count = bytes.readUInt16BE(0);
    const found: number[] = [];
    const start = 2 + count * HEADER_ENTRY_SIZE_BYTES;
    let nameEnd = start;
    let i = -1;
    let at = bytes.indexOf(needle, start);
    while (at !== -1) {
      // Names hold no line feed, so what was found lies inside one name: the first that ends after it.
      while (nameEnd <= at) {
        i += 1;
        nameEnd += bytes.readUInt16BE(3 + i * HEADER_ENTRY_SIZE_BYTES) + 1;
      }
      found.push(block * BLOCK_ID_COUNT + bytes.readUInt8(2 + i * HEADER_ENTRY_SIZE_BYTES));
      at = bytes.indexOf(needle, nameEnd);
    }
    return found;
  }
}
