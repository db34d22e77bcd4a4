/**
 * An ordered key-value store: the port under the replicated state machine and under rebuildable indexes.
 *
 * Keys order as unsigned bytes. Reads and transactions are synchronous. A transaction is atomic and visible to later reads
 * at once, but durable only after flush(): a crash falls back to a state at some transaction boundary, at or after the last
 * flush, never to half a transaction. Keys are 1 to 1,024 bytes, values 0 bytes to 1 MiB. Transactions do not nest.
 */
import { assert } from "./assert.ts";

/** Thrown when a store could not be checked, which says nothing about it: it must neither be opened nor made anew. */
export class StoreCheckError extends Error {
  override readonly name = "StoreCheckError";
  /** As errors of the operating system have one: it is the machine's, not a bug. */
  readonly code = "STORE_NOT_CHECKED";
}

/**
 * Thrown when the disk has no space for what a store has in memory. Nothing is lost or torn: reads go on, and the next flush
 * tries again. The code is that of the operating system, by which isNoSpace() knows it.
 */
export class StoreFullError extends Error {
  override readonly name = "StoreFullError";
  readonly code = "ENOSPC";

  /** @param path of the store */
  constructor(path: string) {
    super(
      `The disk is full: the store ${path} cannot be written. Make room on the disk of the data directory.`,
    );
  }
}

/** One record. Neither array ever changes: what was put must not be written to afterwards, nor what was read. */
export interface KeyValue {
  readonly key: Uint8Array;
  readonly value: Uint8Array;
}

/** Bounds of a scan: from `from` (inclusive) to `to` (exclusive); `reverse` goes from the end of that interval down. */
export interface KeyRange {
  readonly from: Uint8Array;
  readonly to: Uint8Array;
  readonly reverse?: boolean;
  /** At most this many records; no limit when absent. */
  readonly countMax?: number;
}

/** Reads of a store, or of a transaction in it (which sees its own writes). */
export interface OrderedReader {
  /** The value under `key`, or undefined. */
  get(key: Uint8Array): Uint8Array | undefined;
  /** Records in key order. The store must not be written to while a scan is under way: collect first. */
  range(range: KeyRange): Iterable<KeyValue>;
}

/** Reads and writes inside one transaction. Must not be used after it ended. */
export interface OrderedTransaction extends OrderedReader {
  put(key: Uint8Array, value: Uint8Array): void;
  /** As put(), for a record that is certainly not there yet. The caller answers for that; an implementation may check it. */
  insert(key: Uint8Array, value: Uint8Array): void;
  /** Removes the record if there is one. */
  delete(key: Uint8Array): void;
}

/** A frozen view of the store, for a long scan beside writes. Close it soon: an open one keeps old pages alive. */
export interface OrderedSnapshot extends OrderedReader {
  close(): void;
}

/** The records of a store as another process can read them: walkRecords() of lmdb-tree-check.ts. */
export interface FrozenFile {
  readonly path: string;
  /** Whether each value ends with the checksum of checked-ordered-store.ts. */
  readonly isSealed: boolean;
  /** The very records that are in the file; until close(). */
  readonly reader: OrderedReader;
  /** Lets the store use the space again. Close it soon. */
  close(): void;
}

/** A store. One process at a time. */
export interface OrderedStore extends OrderedReader {
  /**
   * Runs `work` and commits what it wrote when it returns; when it throws, nothing of it happened and the error goes on.
   * @throws StoreFullError when the disk is full and far too much waits in memory; `work` was not run
   */
  transaction<T>(work: (transaction: OrderedTransaction) => T): T;
  /**
   * Makes every transaction that ended before the call durable. A rejection is final, the process must end; but StoreFullError
   * is not: what was not flushed is still there, for the next call.
   */
  flush(): Promise<void>;
  /** A frozen view of the state now. */
  snapshot(): OrderedSnapshot;
  /** The state of the last flush, or a later one, in the store's file; undefined for a store that is not in a file of LMDB. */
  frozenFile?(): FrozenFile | undefined;
  /** Closes the store; what was not flushed may or may not survive. A full disk is no error. */
  close(): Promise<void>;
  /** Closes a store that is about to be removed: as close() does, without what only the next opening needs. */
  discard?(): Promise<void>;
}

/** What is known about a store before it is opened. */
export type StoreCondition =
  | { readonly kind: "absent" }
  /** Every byte is as it was when the store was closed. */
  | { readonly kind: "verified" }
  /**
   * It can be read as a whole. With `recordSum` every record passed its checksum, and that is their sum (record-sum.ts), which
   * its owner can compare; else whether its records are right is for its owner to check.
   */
  | { readonly kind: "readable"; readonly recordSum?: Uint8Array }
  /** It must not be opened. */
  | { readonly kind: "damaged"; readonly reason: string };

/** Where another process can make a store: LmdbBulkLoad. */
export interface BulkTarget {
  /** Directory of the store, which is absent or empty. */
  readonly directory: string;
  /** Whether each value gets the checksum of checked-ordered-store.ts. */
  readonly isSealed: boolean;
}

/** Opens stores by name (letters, digits and hyphens) under one place. */
export interface OrderedStoreProvider {
  /** Opens the store, empty when it does not exist. */
  open(name: string): Promise<OrderedStore>;
  /** Looks at a store that is not open, without relying on it. */
  check(name: string): Promise<StoreCondition>;
  /** Where another process can make the store, which must be absent; undefined where stores are not files of LMDB. */
  bulkTarget?(name: string): BulkTarget | undefined;
  /** Names of the stores that exist, in byte order. */
  list(): Promise<string[]>;
  /** Removes a store that is not open, with everything in it; harmless when absent. */
  remove(name: string): Promise<void>;
}

/** Checks the name of a store: letters, digits and hyphens. Returns it. */
export function parseStoreName(name: string): string {
  assert(/^[A-Za-z0-9-]{1,64}$/.test(name), `${JSON.stringify(name)} is not the name of a store`);
  return name;
}
