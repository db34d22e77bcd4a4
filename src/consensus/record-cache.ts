/**
 * The records that commands used last, so that applying one seldom asks the store below.
 *
 * A command reads the same few records again and again: the counters, the folders on its path, the name it is about to take
 * (once to see that it is free, once to take its old value out of the state hash). Absence is remembered too: it is what the
 * store finds out at the highest price. Direct-mapped: a key has one slot and pushes out whoever is in it, so the cache
 * has a fixed size and needs no upkeep. Whoever writes to the store must write here as well;
 * a transaction that throws ends the node, and the cache with it.
 */
import { assert } from "../std/assert.ts";

/** Slots; a power of two. */
export const SLOT_COUNT = 4096;

/** Longer values are not kept: bounds the memory of all slots to 16 MiB. */
export const REMEMBERED_VALUE_SIZE_BYTES_MAX = 4096;

/** Remembered records by key. */
export class RecordCache {
  readonly #keys: (Uint8Array | undefined)[] = new Array<Uint8Array | undefined>(SLOT_COUNT).fill(undefined);
  readonly #values: (Uint8Array | undefined)[] = new Array<Uint8Array | undefined>(SLOT_COUNT).fill(
    undefined,
  );

  /** The value under `key`, undefined when there is certainly none; `read` is asked when it is not remembered. */
  get(key: Uint8Array, read: (key: Uint8Array) => Uint8Array | undefined): Uint8Array | undefined {
    const slot = slotOf(key);
    const known = this.#keys[slot];
    if (known !== undefined && isSame(known, key)) return this.#values[slot];
    const value = read(key);
    this.#remember(slot, key, value);
    return value;
  }

  /** Notes what is now under `key`; undefined when nothing is. Neither array may change afterwards. */
  set(key: Uint8Array, value: Uint8Array | undefined): void {
    this.#remember(slotOf(key), key, value);
  }

  /** Forgets everything: the store is another one. */
  clear(): void {
    this.#keys.fill(undefined);
    this.#values.fill(undefined);
  }

  #remember(slot: number, key: Uint8Array, value: Uint8Array | undefined): void {
    assert(slot >= 0 && slot < SLOT_COUNT, "a slot of the cache");
    const isKept = value === undefined || value.length <= REMEMBERED_VALUE_SIZE_BYTES_MAX;
    this.#keys[slot] = isKept ? key : undefined;
    this.#values[slot] = isKept ? value : undefined;
  }
}

// FNV-1a (Fowler, Noll, Vo): keys are short and differ in their last bytes. The cache alone depends on it.
function slotOf(key: Uint8Array): number {
  let hash = 0x811c9dc5;
  for (let at = 0; at < key.length; at += 1) hash = Math.imul(hash ^ (key[at] ?? 0), 0x01000193);
  return (hash ^ (hash >>> 16)) & (SLOT_COUNT - 1);
}

function isSame(a: Uint8Array, b: Uint8Array): boolean {
  if (a.length !== b.length) return false;
  // From the end: keys of one table begin alike.
  for (let at = a.length - 1; at >= 0; at -= 1) if (a[at] !== b[at]) return false;
  return true;
}
