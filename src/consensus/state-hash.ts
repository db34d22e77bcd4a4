/**
 * The incremental hash of the whole replicated state: the sum of the hashes of its records.
 *
 * A put subtracts the hash of the record it replaces and adds the new one, a delete subtracts; so the sum depends on the
 * set of records alone, never on the order of writes, and costs the same however large the state is (an additive multiset
 * hash, Bellare and Micciancio 1997). It finds damage and wrong programs, not an adversary: records are hashed by two
 * independent lanes of MurmurHash3 (Appleby), 64 bits together, at about 450 MB/s on one core.
 * The function is compared between members and stored in snapshots: never change it.
 */
import type { KeyRange, KeyValue, OrderedTransaction } from "../std/ordered-store.ts";
import { assert } from "../std/assert.ts";
import { bytesEqual } from "../std/bytes.ts";
import type { RecordCache } from "./record-cache.ts";

/** Bytes of a state hash. */
export const STATE_HASH_SIZE_BYTES = 8;

/** First byte of the keys that consensus keeps for itself; they are not part of the hash. */
export const RESERVED_PREFIX = 0x00;

/** Keys of the state machine start below this byte, so that one range covers them all. */
export const STATE_KEY_END = 0xff;

/** A running sum. */
export class StateHashSum {
  #high: number;
  #low: number;

  /** @param bytes what toBytes() gave; the sum of no records when absent */
  constructor(bytes?: Uint8Array) {
    assert(bytes === undefined || bytes.length === STATE_HASH_SIZE_BYTES, "a state hash has 8 bytes");
    const view =
      bytes === undefined ? undefined : new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#high = view?.getUint32(0) ?? 0;
    this.#low = view?.getUint32(4) ?? 0;
  }

  /** Counts the record in. */
  add(key: Uint8Array, value: Uint8Array): void {
    hashRecord(key, value);
    this.#high = (this.#high + highLane) >>> 0;
    this.#low = (this.#low + lowLane) >>> 0;
  }

  /** Counts the record out. */
  subtract(key: Uint8Array, value: Uint8Array): void {
    hashRecord(key, value);
    this.#high = (this.#high - highLane) >>> 0;
    this.#low = (this.#low - lowLane) >>> 0;
  }

  /** The sum as 8 bytes, owned by the caller. */
  toBytes(): Uint8Array {
    const bytes = new Uint8Array(STATE_HASH_SIZE_BYTES);
    this.writeTo(bytes, 0);
    return bytes;
  }

  /** Writes toBytes() into `bytes` at `start`. */
  writeTo(bytes: Uint8Array, start: number): void {
    for (let i = 0; i < 4; i += 1) {
      bytes[start + i] = this.#high >>> (24 - 8 * i);
      bytes[start + 4 + i] = this.#low >>> (24 - 8 * i);
    }
  }
}

/** Seeds of the two lanes: fractional digits of pi and of e. Never change. */
const SEED_HIGH = 0x243f6a88;
const SEED_LOW = 0xb7e15162;

/** The two lanes of the record hashed last: what hashRecord() answers, without an object for each record. */
let highLane = 0;
let lowLane = 0;

/**
 * MurmurHash3 (x86, 32 bits) of the key, continued over the value, in two lanes; both lengths enter, so that no two splits
 * collide. Leaves its answer in highLane and lowLane.
 */
function hashRecord(key: Uint8Array, value: Uint8Array): void {
  highLane = SEED_HIGH;
  lowLane = SEED_LOW;
  mixBytes(key);
  highLane = Math.imul(highLane ^ key.length, 5) + 0xe6546b64;
  lowLane = Math.imul(lowLane ^ key.length, 5) + 0xe6546b64;
  mixBytes(value);
  highLane = finish(highLane ^ value.length);
  lowLane = finish(lowLane ^ value.length);
}

function finish(mixed: number): number {
  let hash = mixed;
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}

/** Mixes bytes into both lanes. A word is read, and scrambled, once for the two. */
function mixBytes(bytes: Uint8Array): void {
  let high = highLane | 0;
  let low = lowLane | 0;
  const wholeEnd = bytes.length & ~3;
  for (let at = 0; at < wholeEnd; at += 4) {
    // Inside the bytes by the loop's bound; the fallback is never taken and keeps the loop free of checks that cost.
    const word =
      (bytes[at] ?? 0) |
      ((bytes[at + 1] ?? 0) << 8) |
      ((bytes[at + 2] ?? 0) << 16) |
      ((bytes[at + 3] ?? 0) << 24);
    const scrambled = scramble(word);
    high = mixWord(high, scrambled);
    low = mixWord(low, scrambled);
  }
  let tail = 0;
  for (let at = bytes.length - 1; at >= wholeEnd; at -= 1) tail = (tail << 8) | (bytes[at] ?? 0);
  const scrambled = scramble(tail);
  highLane = mixWord(high, scrambled);
  lowLane = mixWord(low, scrambled);
}

function scramble(word: number): number {
  const k = Math.imul(word, 0xcc9e2d51);
  return Math.imul((k << 15) | (k >>> 17), 0x1b873593);
}

function mixWord(hash: number, scrambled: number): number {
  const mixed = hash ^ scrambled;
  return (Math.imul((mixed << 13) | (mixed >>> 19), 5) + 0xe6546b64) | 0;
}

/** A transaction that keeps a StateHashSum, and a RecordCache of the store, in step with what is written through it. */
export class HashingTransaction implements OrderedTransaction {
  readonly #transaction: OrderedTransaction;
  readonly #sum: StateHashSum;
  readonly #cache: RecordCache;
  readonly #read: (key: Uint8Array) => Uint8Array | undefined;

  /** @param cache of the store that `transaction` belongs to; nothing else writes to the state machine's keys there */
  constructor(transaction: OrderedTransaction, sum: StateHashSum, cache: RecordCache) {
    this.#transaction = transaction;
    this.#sum = sum;
    this.#cache = cache;
    this.#read = (key) => transaction.get(key);
  }

  get(key: Uint8Array): Uint8Array | undefined {
    return this.#cache.get(key, this.#read);
  }

  range(range: KeyRange): Iterable<KeyValue> {
    return this.#transaction.range(range);
  }

  put(key: Uint8Array, value: Uint8Array): void {
    checkKey(key);
    const old = this.get(key);
    if (old !== undefined) {
      if (bytesEqual(old, value)) return;
      this.#sum.subtract(key, old);
    }
    this.#sum.add(key, value);
    this.#transaction.put(key, value);
    this.#cache.set(key, value);
  }

  insert(key: Uint8Array, value: Uint8Array): void {
    checkKey(key);
    this.#sum.add(key, value);
    this.#transaction.insert(key, value);
    this.#cache.set(key, value);
  }

  delete(key: Uint8Array): void {
    checkKey(key);
    const old = this.get(key);
    if (old === undefined) return;
    this.#sum.subtract(key, old);
    this.#transaction.delete(key);
    this.#cache.set(key, undefined);
  }
}

function checkKey(key: Uint8Array): void {
  const first = key[0];
  assert(
    first !== undefined && first > RESERVED_PREFIX && first < STATE_KEY_END,
    `a key of the state machine starts with byte ${first ?? "none"}; it must be 0x01 to 0xfe`,
  );
}

/** State hashes after the last entries, so that members can be compared at the same index. */
export class StateHashHistory {
  readonly #capacity: number;
  readonly #indexes: Float64Array;
  readonly #terms: Float64Array;
  readonly #hashes: Uint8Array;

  /** @param capacity how many entries back the hash is known */
  constructor(capacity: number) {
    this.#capacity = capacity;
    this.#indexes = new Float64Array(capacity);
    this.#terms = new Float64Array(capacity);
    this.#hashes = new Uint8Array(capacity * STATE_HASH_SIZE_BYTES);
  }

  /** Notes the hash after applying the entry at `index` (from 1). */
  record(index: number, term: number, sum: StateHashSum): void {
    const slot = index % this.#capacity;
    this.#indexes[slot] = index;
    this.#terms[slot] = term;
    sum.writeTo(this.#hashes, slot * STATE_HASH_SIZE_BYTES);
  }

  /** Term and hash after `index`, or undefined when it is too old or was not applied here entry by entry. */
  find(index: number): { readonly term: number; readonly hash: Uint8Array } | undefined {
    const slot = index % this.#capacity;
    if (index < 1 || this.#indexes[slot] !== index) return undefined;
    const start = slot * STATE_HASH_SIZE_BYTES;
    return { term: this.#terms[slot] ?? 0, hash: this.#hashes.slice(start, start + STATE_HASH_SIZE_BYTES) };
  }
}
