/**
 * An ordered store on LMDB with the transactions since the last flush kept in memory.
 *
 *   transaction() -> active map            (synchronous, microseconds, no I/O)
 *   flush()       -> active becomes the flushing map -> one LMDB transaction, durable -> the flushing map is dropped
 *   get, range    -> active over flushing over LMDB
 *
 * Why not one LMDB transaction for each of ours: lmdb-js waits for fdatasync in every synchronous commit (measured with 3.5.6:
 * 1.2 ms for 50 puts under random keys, of which 0.2 ms are the puts), and turning syncing off leaves a file that a power cut
 * can tear. Gathered, puts to the same key or page meet in memory, LMDB only ever sees durable commits made by its own thread,
 * and a crash falls back to exactly the last flush. `overlappingSync` is off: every commit of LMDB is synced before it counts,
 * so none can reappear unsynced after SIGKILL, which is what `safeRestore` would otherwise be needed for. A flush that fails, or is not done within the
 * watchdog's time (after EIO on fdatasync lmdb-js may never answer), is final: every later call throws and the process must end.
 */
import { mkdir, readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { open, type RootDatabase, type Transaction } from "lmdb";
import { assert } from "./assert.ts";
import { withTimeout, type Clock } from "./clock.ts";
import type {
  KeyRange,
  KeyValue,
  OrderedSnapshot,
  OrderedStore,
  OrderedStoreProvider,
  OrderedTransaction,
  StoreCondition,
} from "./ordered-store.ts";
import { certifyClosed, checkLmdbStore, withdrawCertificate } from "./lmdb-store-check.ts";
import { moveLockToMemory, removeLock } from "./lmdb-lock-file.ts";
import { parseStoreName } from "./ordered-store.ts";
import { getThrough, rangeThrough, REMOVED, type Overlaid } from "./layers.ts";
import { SortedMap, type SortedView } from "./sorted-map.ts";

/** A flush that takes longer than this is taken for a dead disk. */
export const FLUSH_TIMEOUT_MS = 10_000;

/** With this many unflushed records a flush starts by itself: bounds memory, and the time to hand them to LMDB to some 20 ms. */
const UNFLUSHED_COUNT_MAX = 16_384;

/** The same in bytes of values. */
const UNFLUSHED_SIZE_BYTES_MAX = 8 * 1024 * 1024;

/** Settings of an LmdbOrderedStoreProvider. */
export interface LmdbOrderedStoreOptions {
  /** Directory that holds one directory for each store; made when absent. */
  readonly directory: string;
  readonly clock: Clock;
  /** FLUSH_TIMEOUT_MS unless a test says otherwise. */
  readonly flushTimeoutMs?: number;
  /** Whether a CheckedOrderedStoreProvider is put on top, so that check() can check every record. */
  readonly isSealed?: boolean;
}

// The layers of a read, newest first, and the LMDB transaction below them (undefined: the newest committed state).
interface Layers {
  readonly database: RootDatabase<Buffer, Buffer>;
  readonly overlays: readonly SortedView<Overlaid>[];
  readonly transaction: Transaction | undefined;
}

// What the active map held under a key before a transaction wrote to it; undefined: nothing.
interface Replaced {
  readonly key: Uint8Array;
  readonly value: Overlaid | undefined;
}

function readOne({ database, overlays, transaction }: Layers, key: Uint8Array): Uint8Array | undefined {
  const options = transaction === undefined ? undefined : { transaction };
  return getThrough(overlays, (each) => database.get(each as Buffer, options), key);
}

function* scanDatabase({ database, transaction }: Layers, range: KeyRange): Generator<KeyValue> {
  const reverse = range.reverse === true;
  yield* database.getRange({
    start: (reverse ? range.to : range.from) as Buffer,
    end: (reverse ? range.from : range.to) as Buffer,
    reverse,
    exclusiveStart: reverse,
    inclusiveEnd: reverse,
    ...(transaction === undefined ? {} : { transaction }),
  });
}

function readRange(layers: Layers, range: KeyRange): Iterable<KeyValue> {
  return rangeThrough(layers.overlays, (each) => scanDatabase(layers, each), range);
}

/** A store on LMDB; see the head of this file. Made by LmdbOrderedStoreProvider.open(). */
export class LmdbOrderedStore implements OrderedStore {
  readonly #database: RootDatabase<Buffer, Buffer>;
  readonly #clock: Clock;
  readonly #flushTimeoutMs: number;
  readonly #snapshots = new Set<OrderedSnapshot>();
  #active = new SortedMap<Overlaid>();
  #activeSizeBytes = 0;
  #flushing: SortedView<Overlaid> | undefined;
  #flushDone: Promise<void> = Promise.resolve();
  #failure: Error | undefined;
  #inTransaction = false;
  #closed = false;

  readonly #path: string;

  constructor(
    database: RootDatabase<Buffer, Buffer>,
    path: string,
    { clock, flushTimeoutMs }: { readonly clock: Clock; readonly flushTimeoutMs: number },
  ) {
    this.#path = path;
    this.#database = database;
    this.#clock = clock;
    this.#flushTimeoutMs = flushTimeoutMs;
  }

  get(key: Uint8Array): Uint8Array | undefined {
    return readOne(this.#layers(), key);
  }

  range(range: KeyRange): Iterable<KeyValue> {
    return readRange(this.#layers(), range);
  }

  transaction<T>(work: (transaction: OrderedTransaction) => T): T {
    this.#assertUsable();
    assert(!this.#inTransaction, "transactions do not nest");
    const sizeBefore = this.#activeSizeBytes;
    const replaced: Replaced[] = [];
    const transaction = this.#begin(replaced);
    this.#inTransaction = true;
    let result: T;
    try {
      result = work(transaction);
    } catch (error) {
      this.#takeBack(replaced);
      this.#activeSizeBytes = sizeBefore;
      throw error;
    } finally {
      transaction.end();
      this.#inTransaction = false;
    }
    this.#flushWhenLarge();
    return result;
  }

  async flush(): Promise<void> {
    this.#assertUsable();
    while (this.#flushing !== undefined || this.#active.size > 0) {
      // What is under way began before this call; only the next one is sure to hold everything that ended before it.
      const last = this.#flushing === undefined;
      if (last) this.#startFlush();
      await this.#flushDone;
      if (last) return;
    }
    this.#assertUsable();
  }

  snapshot(): OrderedSnapshot {
    const live = this.#layers();
    const overlays = live.overlays.map((overlay) =>
      overlay === this.#active ? this.#active.view() : overlay,
    );
    const transaction = this.#database.useReadTransaction();
    const layers: Layers = { database: this.#database, overlays, transaction };
    let isOpen = true;
    const snapshot: OrderedSnapshot = {
      get: (key) => {
        assert(isOpen, "the snapshot is closed");
        return readOne(layers, key);
      },
      range: (range) => {
        assert(isOpen, "the snapshot is closed");
        return readRange(layers, range);
      },
      close: () => {
        if (!isOpen) return;
        isOpen = false;
        this.#snapshots.delete(snapshot);
        transaction.done();
      },
    };
    this.#snapshots.add(snapshot);
    return snapshot;
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    if (this.#failure === undefined) await this.#flushDone;
    this.#closed = true;
    for (const snapshot of this.#snapshots) snapshot.close();
    // After a failed flush LMDB's thread may never answer; the process is about to end and takes it along.
    if (this.#failure !== undefined) return;
    await this.#database.close();
    await removeLock(this.#path);
    await certifyClosed(this.#path);
  }

  #layers(): Layers {
    this.#assertUsable();
    const overlays = this.#flushing === undefined ? [this.#active] : [this.#active, this.#flushing];
    return { database: this.#database, overlays, transaction: undefined };
  }

  // Latest first, so that a key written twice gets back what it held at the beginning.
  #takeBack(replaced: readonly Replaced[]): void {
    for (const { key, value } of replaced.toReversed()) {
      if (value === undefined) this.#active.delete(key);
      else this.#active.set(key, value);
    }
  }

  #begin(replaced: Replaced[]): OrderedTransaction & { end(): void } {
    const layers = this.#layers();
    let isOpen = true;
    const write = (key: Uint8Array, value: Overlaid): void => {
      assert(isOpen, "the transaction has ended");
      assert(key.length >= 1 && key.length <= 1024, `a key has ${key.length} bytes`);
      replaced.push({ key, value: this.#active.set(key, value) });
      this.#activeSizeBytes += key.length + (value === REMOVED ? 0 : value.length);
    };
    return {
      get: (key) => {
        assert(isOpen, "the transaction has ended");
        return readOne(layers, key);
      },
      range: (range) => {
        assert(isOpen, "the transaction has ended");
        return readRange(layers, range);
      },
      put: write,
      insert: write,
      delete: (key) => write(key, REMOVED),
      end: () => {
        isOpen = false;
      },
    };
  }

  #flushWhenLarge(): void {
    if (this.#flushing !== undefined) return;
    if (this.#active.size < UNFLUSHED_COUNT_MAX && this.#activeSizeBytes < UNFLUSHED_SIZE_BYTES_MAX) return;
    this.#startFlush();
    // A failure is kept in #failure and thrown by every later call; nobody awaits this one.
    this.#flushDone.catch(() => undefined);
  }

  #startFlush(): void {
    const flushing = this.#active;
    this.#flushing = flushing;
    this.#active = new SortedMap();
    this.#activeSizeBytes = 0;
    this.#flushDone = this.#write(flushing);
  }

  async #write(records: SortedView<Overlaid>): Promise<void> {
    try {
      const committed = this.#database.batch(() => {
        for (const [key, value] of records.range(new Uint8Array(0), undefined, false)) {
          if (value === REMOVED) void this.#database.remove(key as Buffer);
          else void this.#database.put(key as Buffer, value as Buffer);
        }
      });
      const onTimeout = (): Error => new Error(`a flush was not done after ${this.#flushTimeoutMs} ms`);
      await withTimeout(this.#clock, this.#flushTimeoutMs, committed, onTimeout);
      // The read transaction that lmdb-js keeps for this turn of the event loop may be older than the commit.
      this.#database.resetReadTxn();
      this.#flushing = undefined;
    } catch (error) {
      this.#failure = new Error("LMDB could not make the state durable; the process must end", {
        cause: error,
      });
      throw this.#failure;
    }
  }

  #assertUsable(): void {
    if (this.#failure !== undefined) throw this.#failure;
    assert(!this.#closed, "the store is closed");
  }
}

/** LMDB stores under one directory. */
export class LmdbOrderedStoreProvider implements OrderedStoreProvider {
  readonly #options: LmdbOrderedStoreOptions;

  constructor(options: LmdbOrderedStoreOptions) {
    this.#options = options;
  }

  async open(name: string): Promise<LmdbOrderedStore> {
    const path = join(this.#options.directory, parseStoreName(name));
    await mkdir(path, { recursive: true });
    await withdrawCertificate(path);
    await moveLockToMemory(path);
    const database = open<Buffer, Buffer>({
      path,
      keyEncoding: "binary",
      encoding: "binary",
      compression: false,
      cache: false,
      maxDbs: 1,
      overlappingSync: false,
    });
    const { clock, flushTimeoutMs = FLUSH_TIMEOUT_MS } = this.#options;
    return new LmdbOrderedStore(database, path, { clock, flushTimeoutMs });
  }

  check(name: string): Promise<StoreCondition> {
    const { directory, isSealed = false } = this.#options;
    return checkLmdbStore(join(directory, parseStoreName(name)), isSealed);
  }

  async list(): Promise<string[]> {
    await mkdir(this.#options.directory, { recursive: true });
    const entries = await readdir(this.#options.directory, { withFileTypes: true });
    return entries
      .filter((entry) => entry.isDirectory())
      .map((entry) => entry.name)
      .sort();
  }

  async remove(name: string): Promise<void> {
    const path = join(this.#options.directory, parseStoreName(name));
    await removeLock(path);
    await rm(path, { recursive: true, force: true });
  }
}
