/**
 * An ordered store on LMDB with the transactions since the last flush kept in memory.
 *
 *   transaction() -> active map            (synchronous, microseconds, no I/O)
 *   flush()       -> the active map becomes a layer (pending-layers.ts) -> one LMDB transaction, durable -> the layer is dropped
 *   get, range    -> active over the layers, newest first, over LMDB
 *
 * Why not one LMDB transaction for each of ours: lmdb-js waits for fdatasync in every synchronous commit (measured with 3.5.6:
 * 1.2 ms for 50 puts under random keys, of which 0.2 ms are the puts), and turning syncing off leaves a file that a power cut
 * can tear. Gathered, puts to the same key or page meet in memory, LMDB only ever sees durable commits made by its own thread,
 * and a crash falls back to exactly the last flush. `overlappingSync` is off: every commit of LMDB is synced before it counts,
 * so none can reappear unsynced after SIGKILL, which is what `safeRestore` would otherwise be needed for.
 *
 * On a full disk a commit is given up before LMDB's root changes, and nearly always before LMDB is asked (lmdb-headroom.ts): the
 * file holds the last flush, and the layer, which is kept, what the next try writes anew as a whole. Such a flush rejects
 * with StoreFullError and the store goes on. A flush that
 * fails otherwise, or is not done within the watchdog's time (after EIO on fdatasync lmdb-js may never answer), is final: every
 * later call throws and the process must end.
 */
import { constants } from "node:os";
import { readdir, rm, statfs } from "node:fs/promises";
import { join } from "node:path";
import { open, type RootDatabase, type Transaction } from "lmdb";
import { assert } from "./assert.ts";
import { withTimeout, type Clock } from "./clock.ts";
import type {
  BulkTarget,
  FrozenFile,
  KeyRange,
  KeyValue,
  OrderedReader,
  OrderedSnapshot,
  OrderedStore,
  OrderedStoreProvider,
  OrderedTransaction,
  StoreCondition,
} from "./ordered-store.ts";
import { certifyClosed, checkLmdbStore, DATA_NAME, withdrawCertificate } from "./lmdb-store-check.ts";
import { moveLockToMemory, removeLock } from "./lmdb-lock-file.ts";
import { isNoSpace } from "./disk.ts";
import { LmdbHeadroom, type FlushSize } from "./lmdb-headroom.ts";
import { LMDB_OPEN_OPTIONS } from "./lmdb-options.ts";
import { parseStoreName, StoreFullError } from "./ordered-store.ts";
import { getThrough, rangeThrough, REMOVED, type Overlaid } from "./layers.ts";
import { makeDirectories } from "./make-directories.ts";
import { PendingLayers, type PendingLayer } from "./pending-layers.ts";
import type { SortedView } from "./sorted-map.ts";
import { SystemDisk } from "./system-disk.ts";

/** A flush that takes longer than this is taken for a dead disk. */
export const FLUSH_TIMEOUT_MS = 10_000;

/** After a flush that the disk had no space for, the store tries again by itself no sooner than this. */
const FULL_RETRY_MS = 1000;

/** Settings of an LmdbOrderedStoreProvider. */
export interface LmdbOrderedStoreOptions {
  /** Directory that holds one directory for each store; made when absent. */
  readonly directory: string;
  readonly clock: Clock;
  /** FLUSH_TIMEOUT_MS unless a test says otherwise. */
  readonly flushTimeoutMs?: number;
  /** Free bytes of the disk at a path: the file system's figure unless a test says otherwise. */
  readonly freeBytes?: (path: string) => Promise<number>;
  /** Whether a CheckedOrderedStoreProvider is put on top, so that check() can check every record. */
  readonly isSealed?: boolean;
}

const { ENOSPC, EDQUOT, EFBIG, EIO } = constants.errno;

// Numbers of the operating system by which LMDB says that there is no space.
const NO_SPACE_NUMBERS: ReadonlySet<unknown> = new Set([ENOSPC, EDQUOT, EFBIG]);

/** With less free space than this, twice what a flush has, an I/O error of LMDB is taken for one of space. */
const SHORT_WRITE_FREE_BYTES_MAX = 16 * 1024 * 1024;

/** The number of the operating system for which a commit of lmdb-js failed; its error tells it in a promise, which is rejected. */
async function errorNumberOf(error: unknown): Promise<unknown> {
  if (!(error instanceof Error) || !("commitError" in error)) return undefined;
  const [reason] = await Promise.allSettled([error.commitError]);
  const cause: unknown = reason.status === "rejected" ? reason.reason : reason.value;
  return cause instanceof Error && "code" in cause ? cause.code : undefined;
}

async function freeBytesOf(path: string): Promise<number> {
  const { bavail, bsize } = await statfs(path);
  return bavail * bsize;
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
  readonly #freeBytes: (path: string) => Promise<number>;
  readonly #snapshots = new Set<OrderedSnapshot>();
  readonly #frozen = new Set<() => void>();
  readonly #pending = new PendingLayers();
  /** Of the layer that is being written, or was last. */
  #writeDone: Promise<void> = Promise.resolve();
  #isWriting = false;
  /** When the disk had no space for the oldest layer, which waits since then; undefined: it had. */
  #fullMs: number | undefined;
  #failure: Error | undefined;
  #inTransaction = false;
  #closed = false;

  readonly #path: string;
  readonly #headroom: Pick<LmdbHeadroom, "ensure" | "close">;

  /** @param headroom of its file, closed with the store */
  constructor(
    database: RootDatabase<Buffer, Buffer>,
    path: string,
    headroom: Pick<LmdbHeadroom, "ensure" | "close">,
    options: Pick<LmdbOrderedStoreOptions, "clock" | "flushTimeoutMs" | "freeBytes">,
  ) {
    const { clock, flushTimeoutMs = FLUSH_TIMEOUT_MS, freeBytes = freeBytesOf } = options;
    this.#path = path;
    this.#headroom = headroom;
    this.#database = database;
    this.#clock = clock;
    this.#flushTimeoutMs = flushTimeoutMs;
    this.#freeBytes = freeBytes;
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
    this.#refuseWhenFull();
    const sizeBefore = this.#pending.activeSizeBytes;
    const replaced: Replaced[] = [];
    const transaction = this.#begin(replaced);
    this.#inTransaction = true;
    let result: T;
    try {
      result = work(transaction);
    } catch (error) {
      this.#pending.restore(replaced, sizeBefore);
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
    assert(!this.#inTransaction, "a flush is no part of a transaction");
    let last = this.#pending.freeze();
    while (last === "later" || (last !== undefined && this.#pending.has(last))) {
      this.#write();
      await this.#writeDone;
      // It may have been closed while this waited.
      this.#assertUsable();
      if (last === "later") last = this.#pending.freeze();
    }
  }

  snapshot(): OrderedSnapshot {
    this.#assertUsable();
    const overlays = this.#pending.frozenOverlays();
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

  frozenFile(): FrozenFile {
    this.#assertUsable();
    const transaction = this.#database.useReadTransaction();
    let isOpen = true;
    const close = (): void => {
      if (!isOpen) return;
      isOpen = false;
      this.#frozen.delete(close);
      transaction.done();
    };
    this.#frozen.add(close);
    const layers: Layers = { database: this.#database, overlays: [], transaction };
    const reader: OrderedReader = {
      get: (key) => {
        assert(isOpen, "the file is no longer frozen");
        return readOne(layers, key);
      },
      range: (range) => {
        assert(isOpen, "the file is no longer frozen");
        return readRange(layers, range);
      },
    };
    return { path: join(this.#path, DATA_NAME), isSealed: false, reader, close };
  }

  async close(): Promise<void> {
    if (await this.#close()) await certifyClosed(this.#path);
  }

  async discard(): Promise<void> {
    await this.#close();
  }

  /** Whether it was open, and LMDB has closed it. */
  async #close(): Promise<boolean> {
    if (this.#closed) return false;
    // A flush that failed has told whoever waited for it, and may have led them to begin another.
    while (this.#failure === undefined && this.#isWriting) await this.#writeDone.catch(() => undefined);
    if (this.#closed) return false;
    this.#closed = true;
    for (const snapshot of this.#snapshots) snapshot.close();
    for (const close of this.#frozen) close();
    // After a failed flush LMDB's thread may never answer; the process is about to end and takes it along.
    if (this.#failure !== undefined) return false;
    await this.#headroom.close();
    await this.#database.close();
    await removeLock(this.#path);
    return true;
  }

  #layers(): Layers {
    this.#assertUsable();
    return { database: this.#database, overlays: this.#pending.overlays, transaction: undefined };
  }

  #begin(replaced: Replaced[]): OrderedTransaction & { end(): void } {
    const layers = this.#layers();
    let isOpen = true;
    const write = (key: Uint8Array, value: Overlaid): void => {
      assert(isOpen, "the transaction has ended");
      assert(key.length >= 1 && key.length <= 1024, `a key has ${key.length} bytes`);
      replaced.push({ key, value: this.#pending.set(key, value) });
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
    if (this.#pending.isActiveLarge()) this.#writeSoon();
  }

  #refuseWhenFull(): void {
    if (this.#fullMs === undefined || !this.#pending.isFull()) return;
    // Also with an active map that is small: nobody else may ever ask for a flush.
    this.#writeSoon();
    throw new StoreFullError(this.#path);
  }

  /** Writes what waits, unless the disk was full a moment ago. */
  #writeSoon(): void {
    if (this.#fullMs !== undefined && this.#clock.monotonicMs() - this.#fullMs < FULL_RETRY_MS) return;
    // Where as many wait as may, the map grows until one of them is written.
    this.#pending.freeze();
    this.#write();
  }

  /** Writes the oldest layer unless one is being written, and then the next; who has to know waits for #writeDone. */
  #write(): void {
    const layer = this.#pending.oldest();
    if (this.#isWriting || layer === undefined) return;
    this.#isWriting = true;
    this.#writeDone = this.#writeLayer(layer);
    this.#writeDone.then(
      () => {
        if (!this.#closed) this.#write();
      },
      // A final failure is thrown by every later call, and for space the store tries again.
      () => undefined,
    );
  }

  async #writeLayer(layer: PendingLayer): Promise<void> {
    try {
      const size = { recordCount: layer.records.size, sizeBytes: layer.sizeBytes };
      if ((await this.#makeRoom(size)) === "full" || (await this.#commitInTime(layer.records)) === "full") {
        this.#fullMs = this.#clock.monotonicMs();
        throw new StoreFullError(this.#path);
      }
      // The read transaction that lmdb-js keeps for this turn of the event loop may be older than the commit.
      this.#database.resetReadTxn();
      this.#pending.drop(layer);
      this.#fullMs = undefined;
    } catch (error) {
      if (error instanceof StoreFullError) throw error;
      this.#failure = new Error("LMDB could not make the state durable; the process must end", {
        cause: error,
      });
      throw this.#failure;
    } finally {
      // In the same turn as drop(): a flush() between the two would start nothing and wait for what has ended.
      this.#isWriting = false;
    }
  }

  async #makeRoom(flush: FlushSize): Promise<"done" | "full"> {
    try {
      await this.#headroom.ensure(flush);
      return "done";
    } catch (error) {
      if (isNoSpace(error)) return "full";
      throw error;
    }
  }

  #commitInTime(records: SortedView<Overlaid>): Promise<"done" | "full"> {
    const onTimeout = (): Error => new Error(`a flush was not done after ${this.#flushTimeoutMs} ms`);
    return withTimeout(this.#clock, this.#flushTimeoutMs, this.#commit(records), onTimeout);
  }

  /** One transaction of LMDB, durable when it resolves with "done"; with "full" nothing of it is there. */
  async #commit(records: SortedView<Overlaid>): Promise<"done" | "full"> {
    let told: Promise<boolean> | undefined;
    try {
      await this.#database.batch(() => {
        for (const [key, value] of records.range(new Uint8Array(0), undefined, false)) {
          const bytes = key as Buffer;
          const put =
            value === REMOVED ? this.#database.remove(bytes) : this.#database.put(bytes, value as Buffer);
          // Of all promises of a batch the first is rejected with the batch, which is what is waited for.
          if (put !== told) put.catch(() => undefined);
          told = put;
        }
      });
      return "done";
    } catch (error) {
      if (await this.#isForSpace(error)) return "full";
      throw error;
    }
  }

  // LMDB calls a write that the disk took in part, because it fell full, an I/O error, as it does one of a dying disk. To try
  // again is right for either, since that writes every page anew; but a dying disk is to end the process.
  async #isForSpace(error: unknown): Promise<boolean> {
    const errorNumber = await errorNumberOf(error);
    if (NO_SPACE_NUMBERS.has(errorNumber)) return true;
    return errorNumber === EIO && (await this.#freeBytes(this.#path)) < SHORT_WRITE_FREE_BYTES_MAX;
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
    await makeDirectories(path);
    await withdrawCertificate(path);
    await moveLockToMemory(path);
    const database = open<Buffer, Buffer>({ ...LMDB_OPEN_OPTIONS, path });
    const { clock, flushTimeoutMs: timeoutMs = FLUSH_TIMEOUT_MS, freeBytes = freeBytesOf } = this.#options;
    const file = await new SystemDisk().open(join(path, DATA_NAME), "existing");
    const headroom = new LmdbHeadroom({ file, freeBytes: () => freeBytes(path), clock, timeoutMs });
    return new LmdbOrderedStore(database, path, headroom, this.#options);
  }

  check(name: string): Promise<StoreCondition> {
    const { directory, isSealed = false } = this.#options;
    return checkLmdbStore(join(directory, parseStoreName(name)), isSealed);
  }

  bulkTarget(name: string): BulkTarget {
    return { directory: join(this.#options.directory, parseStoreName(name)), isSealed: false };
  }

  async list(): Promise<string[]> {
    await makeDirectories(this.#options.directory);
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
