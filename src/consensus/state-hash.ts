/**
 * The incremental hash of the whole replicated state: the sum of the hashes of its records (std/record-sum.ts).
 *
 * A put subtracts the hash of the record it replaces and adds the new one, a delete subtracts, so that it costs the same
 * however large the state is. It is compared between members and stored in snapshots.
 */
import type { KeyRange, KeyValue, OrderedTransaction } from "../std/ordered-store.ts";
import { assert } from "../std/assert.ts";
import { bytesEqual } from "../std/bytes.ts";
import { RECORD_SUM_SIZE_BYTES, SUM_KEY_END, SUM_KEY_START, type RecordSum } from "../std/record-sum.ts";
import type { RecordCache } from "./record-cache.ts";

/** First byte of the keys that consensus keeps for itself; they are not part of the hash. */
export const RESERVED_PREFIX: number = SUM_KEY_START - 1;

/** Keys of the state machine start below this byte, so that one range covers them all. */
export const STATE_KEY_END: number = SUM_KEY_END;

/** A transaction that keeps a RecordSum, and a RecordCache of the store, in step with what is written through it. */
export class HashingTransaction implements OrderedTransaction {
  readonly #transaction: OrderedTransaction;
  readonly #sum: RecordSum;
  readonly #cache: RecordCache;
  readonly #read: (key: Uint8Array) => Uint8Array | undefined;

  /** @param cache of the store that `transaction` belongs to; nothing else writes to the state machine's keys there */
  constructor(transaction: OrderedTransaction, sum: RecordSum, cache: RecordCache) {
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
    this.#hashes = new Uint8Array(capacity * RECORD_SUM_SIZE_BYTES);
  }

  /** Notes the hash after applying the entry at `index` (from 1). */
  record(index: number, term: number, sum: RecordSum): void {
    const slot = index % this.#capacity;
    this.#indexes[slot] = index;
    this.#terms[slot] = term;
    sum.writeTo(this.#hashes, slot * RECORD_SUM_SIZE_BYTES);
  }

  /** Term and hash after `index`, or undefined when it is too old or was not applied here entry by entry. */
  find(index: number): { readonly term: number; readonly hash: Uint8Array } | undefined {
    const slot = index % this.#capacity;
    if (index < 1 || this.#indexes[slot] !== index) return undefined;
    const start = slot * RECORD_SUM_SIZE_BYTES;
    return { term: this.#terms[slot] ?? 0, hash: this.#hashes.slice(start, start + RECORD_SUM_SIZE_BYTES) };
  }
}
