/**
 * Chance as a dependency. Nothing outside std/ draws a random number; everyone is handed a Prng, so that one seed is one
 * replayable run.
 */
import { randomBytes } from "node:crypto";
import { assert } from "./assert.ts";

/** A source of random numbers. */
export interface Prng {
  /** A uniform integer in [0, 2^32). */
  uint32(): number;
  /** A uniform integer in [0, bound); bound is 1 to 2^53-1. */
  below(bound: number): number;
  /** A uniform number in [0, 1). */
  float(): number;
  /** `length` random bytes, owned by the caller. */
  bytes(length: number): Uint8Array;
}

abstract class PrngBase implements Prng {
  abstract uint32(): number;

  below(bound: number): number {
    assert(Number.isSafeInteger(bound) && bound >= 1, `below() takes a positive safe integer, got ${bound}`);
    return Math.min(bound - 1, Math.floor(this.float() * bound));
  }

  float(): number {
    return ((this.uint32() >>> 5) * 0x4000000 + (this.uint32() >>> 6)) / 0x20000000000000;
  }

  bytes(length: number): Uint8Array {
    const bytes = new Uint8Array(length);
    for (let i = 0; i < length; i += 1) bytes[i] = this.uint32() >>> 24;
    return bytes;
  }
}

/** A seeded generator (xoshiro128**, Blackman and Vigna 2018): the same seed gives the same sequence for ever. */
export class SeededPrng extends PrngBase {
  #a: number;
  #b: number;
  #c: number;
  #d: number;

  /** @param seed any safe integer; spread over the state by splitmix32 */
  constructor(seed: number) {
    super();
    let x = (seed ^ Math.floor(seed / 0x100000000)) | 0;
    const next = (): number => {
      x = (x + 0x9e3779b9) | 0;
      let z = x;
      z = Math.imul(z ^ (z >>> 16), 0x85ebca6b);
      z = Math.imul(z ^ (z >>> 13), 0xc2b2ae35);
      return z ^ (z >>> 16);
    };
    this.#a = next();
    this.#b = next();
    this.#c = next();
    this.#d = next() | 1;
  }

  uint32(): number {
    const product = Math.imul(this.#b, 5);
    const result = Math.imul((product << 7) | (product >>> 25), 9) >>> 0;
    const t = this.#b << 9;
    this.#c ^= this.#a;
    this.#d ^= this.#b;
    this.#b ^= this.#c;
    this.#a ^= this.#d;
    this.#c ^= t;
    this.#d = (this.#d << 11) | (this.#d >>> 21);
    return result;
  }

  /** A generator whose sequence depends on this one's state, for a part that draws at its own pace. */
  fork(): SeededPrng {
    return new SeededPrng(this.uint32() * 0x200000 + (this.uint32() >>> 11));
  }
}

/** Bytes asked of the operating system at once; and the most that are taken from such a pool in one piece. */
const POOL_SIZE_BYTES = 4096;
const POOLED_SIZE_BYTES_MAX = 64;

/** The operating system's generator, fit for identifiers that must not be guessed. */
export class SystemPrng extends PrngBase {
  #pool: Buffer = Buffer.alloc(0);
  #at = 0;

  uint32(): number {
    this.#refill(4);
    const value = this.#pool.readUInt32LE(this.#at);
    this.#at += 4;
    return value;
  }

  override bytes(length: number): Uint8Array {
    if (length > POOLED_SIZE_BYTES_MAX) return new Uint8Array(randomBytes(length));
    this.#refill(length);
    const bytes = Uint8Array.from(this.#pool.subarray(this.#at, this.#at + length));
    this.#at += length;
    return bytes;
  }

  /** Makes sure that `length` unused bytes are at hand: one system call gives many small ids. */
  #refill(length: number): void {
    if (this.#at + length <= this.#pool.length) return;
    this.#pool = randomBytes(POOL_SIZE_BYTES);
    this.#at = 0;
  }
}
