/**
 * Signatures of the newest blocks of an index of names, in memory: a search that finds little looks at all of them, and reading
 * each from the store costs more than all the rest.
 *
 * What is here is a run without gaps from some block up to the newest one. It is filled as searches read downwards from the
 * newest, kept current by every write, and bounded: blocks that are older than the newest CACHED_BLOCK_COUNT are read each time.
 */
import { assert } from "../std/assert.ts";

/** Blocks at most: four million names, 16 MiB. */
export const CACHED_BLOCK_COUNT = 16_384;

/** Which blocks to look at. */
export interface BlockRange {
  /** Bits of the grams that a name must have. */
  readonly bits: readonly number[];
  /** The first block, included; undefined: from the end. */
  readonly from: number | undefined;
  readonly descending: boolean;
  readonly countMax: number;
}

/** Blocks that may hold what is looked for. */
export interface ExaminedBlocks {
  readonly blocks: readonly number[];
  /** The last block that was looked at; undefined when there is none after it. */
  readonly examinedTo: number | undefined;
}

/** Whether all of `bits` are set. */
export function mayHold(signature: Uint8Array, bits: readonly number[]): boolean {
  for (const bit of bits) if (((signature[bit >>> 3] ?? 0) & (1 << (bit & 7))) === 0) return false;
  return true;
}

/** See the file's comment. */
export class SignatureCache {
  readonly #countMax: number;
  /** Ascending; `#signatures` holds exactly these. */
  #numbers: number[] = [];
  readonly #signatures = new Map<number, Uint8Array>();
  /** Every block from here on is here; undefined while nothing was read. */
  #from: number | undefined;

  constructor(countMax = CACHED_BLOCK_COUNT) {
    assert(countMax > 0, `a cache of ${countMax} blocks`);
    this.#countMax = countMax;
  }

  /** How many blocks it holds. */
  get count(): number {
    return this.#numbers.length;
  }

  /** Takes note that a block was written, or is gone. */
  set(block: number, signature: Uint8Array | undefined): void {
    if (this.#from === undefined || block < this.#from) return;
    const at = this.#place(block);
    const isKnown = this.#numbers[at] === block;
    if (signature === undefined) {
      this.#signatures.delete(block);
      if (isKnown) this.#numbers.splice(at, 1);
      return;
    }
    this.#signatures.set(block, signature);
    if (!isKnown) this.#numbers.splice(at, 0, block);
    this.#trim();
  }

  /**
   * Takes in what was read downwards from `from` (undefined: from the newest block) when it follows what is here.
   * @param isAll whether there is nothing below
   */
  extend(from: number | undefined, read: readonly [number, Uint8Array][], isAll: boolean): void {
    const follows = this.#from === undefined ? from === undefined : from === this.#from - 1;
    const room = this.#countMax - this.#numbers.length;
    if (!follows || room <= 0) return;
    const taken = read.slice(0, room);
    for (const [block, signature] of taken) this.#signatures.set(block, Uint8Array.from(signature));
    this.#numbers = [...taken.map(([block]) => block).reverse(), ...this.#numbers];
    const lowest = taken.at(-1)?.[0];
    if (isAll && taken.length === read.length) this.#from = 0;
    else if (lowest !== undefined) this.#from = lowest;
  }

  /** Blocks of a range, where all of it that would be looked at is here; undefined otherwise. */
  blocks({ bits, from, descending, countMax }: BlockRange): ExaminedBlocks | undefined {
    if (this.#from === undefined) return undefined;
    if (descending ? from !== undefined && from < this.#from : (from ?? 0) < this.#from) return undefined;
    const numbers = this.#numbers;
    let at = descending
      ? (from === undefined ? numbers.length : this.#place(from + 1)) - 1
      : this.#place(from ?? 0);
    const blocks: number[] = [];
    let examinedTo: number | undefined;
    for (let count = 0; count < countMax; count += 1) {
      const block = numbers[at];
      // Below the lowest block that is here the store has the rest, if there is any.
      if (block === undefined) return { blocks, examinedTo: descending ? this.#lowerEnd() : undefined };
      if (mayHold(this.#signatures.get(block) ?? new Uint8Array(0), bits)) blocks.push(block);
      examinedTo = block;
      at += descending ? -1 : 1;
    }
    return { blocks, examinedTo };
  }

  #lowerEnd(): number | undefined {
    return this.#from === 0 ? undefined : this.#from;
  }

  /** Where a block is, or would be. */
  #place(block: number): number {
    let low = 0;
    let high = this.#numbers.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#numbers[middle] ?? 0) < block) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  #trim(): void {
    const excess = this.#numbers.length - this.#countMax;
    if (excess <= 0) return;
    for (const block of this.#numbers.splice(0, excess)) this.#signatures.delete(block);
    this.#from = this.#numbers[0];
  }
}
