/**
 * Keeping what reads of the tree found, by key, with the applied index at which it was read: the port, and a cache in this process.
 *
 * Invariant: what is kept under a key is never replaced by something read at the same or an earlier index.
 * A cache says nothing about whether its values may still be used; change-window.ts does.
 */
import { LRUCache } from "lru-cache";

/** Entries that the cache of a process keeps. */
export const ENTRY_COUNT_MAX = 50_000;

/** Bytes of a value at most; larger ones are not kept. A path of the greatest length fits. */
export const VALUE_SIZE_BYTES_MAX = 64 * 1024;

/** A value and when it was read. */
export interface Versioned {
  /** Applied index, at least 1. */
  readonly version: number;
  readonly value: string;
}

/** A cache of values with versions. No method fails: what cannot be had is not there. */
export interface VersionedCache {
  /** The value under a key; undefined when there is none or it cannot be had. */
  get(key: string): Promise<Versioned | undefined>;
  /**
   * Keeps a value unless one of the same or a later version is there.
   * @returns whether it was kept
   */
  putNewer(key: string, versioned: Versioned): Promise<boolean>;
}

/** A cache in this process. */
export class EmbeddedCache implements VersionedCache {
  readonly #values: LRUCache<string, Versioned>;

  constructor(entryCountMax: number = ENTRY_COUNT_MAX) {
    this.#values = new LRUCache({ max: entryCountMax });
  }

  get(key: string): Promise<Versioned | undefined> {
    return Promise.resolve(this.#values.get(key));
  }

  putNewer(key: string, versioned: Versioned): Promise<boolean> {
    const held = this.#values.get(key);
    const isKept =
      versioned.value.length <= VALUE_SIZE_BYTES_MAX &&
      (held === undefined || held.version < versioned.version);
    if (isKept) this.#values.set(key, versioned);
    return Promise.resolve(isKept);
  }
}
