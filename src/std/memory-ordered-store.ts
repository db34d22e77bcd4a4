/**
 * An ordered store in memory, for tests, for the simulator and for nodes without a data directory.
 *
 * It keeps committed and flushed apart: each transaction leaves a boundary, a frozen state; flush() makes the newest one
 * durable; crash() falls back to a boundary at or after the last completed flush, drawn by the caller's Prng, exactly as the
 * port allows and no kinder. A store handed out before a crash is dead: its calls throw and its pending flushes never settle,
 * because the process that made them is gone. Does no I/O.
 */
import { assert, must } from "./assert.ts";
import type {
  KeyRange,
  KeyValue,
  OrderedSnapshot,
  OrderedStore,
  OrderedStoreProvider,
  StoreCondition,
  OrderedTransaction,
} from "./ordered-store.ts";
import { parseStoreName } from "./ordered-store.ts";
import type { Prng } from "./prng.ts";
import { SortedMap, type SortedView } from "./sorted-map.ts";

/** Boundaries kept since the last flush; beyond it every second one is dropped, so a store that is never flushed stays bounded. */
const BOUNDARY_COUNT_MAX = 1024;

/** Former durable states kept of each store, for spoil(). */
const FORMER_COUNT_MAX = 16;

/** Settings of a MemoryOrderedStoreProvider. */
export interface MemoryOrderedStoreOptions {
  /** Awaited by every flush before its state becomes durable; a rejection fails the flush. */
  readonly beforeFlush?: (storeName: string) => Promise<void>;
}

interface Boundary {
  /** Number of transactions that this state contains. */
  readonly sequence: number;
  readonly view: SortedView<Uint8Array>;
}

// What a crash leaves: the last durable state, and the later ones that it may fall forward to.
class MemoryStoreDisk {
  durable: Boundary = { sequence: 0, view: new SortedMap<Uint8Array>().view() };
  later: Boundary[] = [];
  /** What was durable before, oldest first; a few. */
  former: Boundary[] = [];
  /** Whether it cannot be read any more. */
  isBroken = false;

  push(boundary: Boundary): void {
    this.later.push(boundary);
    if (this.later.length > BOUNDARY_COUNT_MAX) {
      // The newest one stays: it is the state of a clean restart.
      this.later = this.later.filter((_, i) => (this.later.length - 1 - i) % 2 === 0);
    }
  }

  flushed(boundary: Boundary): void {
    if (boundary.sequence <= this.durable.sequence) return;
    if (this.durable.sequence > 0) this.former = [...this.former, this.durable].slice(-FORMER_COUNT_MAX);
    this.durable = boundary;
    this.later = this.later.filter((each) => each.sequence > boundary.sequence);
  }

  newest(): Boundary {
    return this.later.at(-1) ?? this.durable;
  }
}

function* readRange(source: SortedView<Uint8Array>, range: KeyRange): Generator<KeyValue> {
  let left = range.countMax ?? Number.POSITIVE_INFINITY;
  if (left <= 0) return;
  for (const [key, value] of source.range(range.from, range.to, range.reverse === true)) {
    yield { key, value };
    left -= 1;
    if (left <= 0) return;
  }
}

class MemoryTransaction implements OrderedTransaction {
  readonly #map: SortedMap<Uint8Array>;
  open = true;

  constructor(map: SortedMap<Uint8Array>) {
    this.#map = map;
  }

  get(key: Uint8Array): Uint8Array | undefined {
    assert(this.open, "the transaction has ended");
    return this.#map.get(key);
  }

  range(range: KeyRange): Iterable<KeyValue> {
    assert(this.open, "the transaction has ended");
    return readRange(this.#map, range);
  }

  put(key: Uint8Array, value: Uint8Array): void {
    assert(this.open, "the transaction has ended");
    assert(key.length >= 1 && key.length <= 1024, `a key has ${key.length} bytes`);
    this.#map.set(key, value);
  }

  insert(key: Uint8Array, value: Uint8Array): void {
    assert(this.#map.get(key) === undefined, "what is inserted was not there");
    this.put(key, value);
  }

  delete(key: Uint8Array): void {
    assert(this.open, "the transaction has ended");
    this.#map.delete(key);
  }
}

/** A store in memory. Made by MemoryOrderedStoreProvider.open(), or alone for tests that need no restart. */
export class MemoryOrderedStore implements OrderedStore {
  readonly #disk: MemoryStoreDisk;
  readonly #beforeFlush: () => Promise<void>;
  readonly #map = new SortedMap<Uint8Array>();
  #sequence: number;
  #state: "open" | "closed" | "crashed" = "open";
  #inTransaction = false;

  constructor(
    disk: MemoryStoreDisk = new MemoryStoreDisk(),
    beforeFlush: () => Promise<void> = () => Promise.resolve(),
  ) {
    this.#disk = disk;
    this.#beforeFlush = beforeFlush;
    const newest = disk.newest();
    this.#map.restore(newest.view);
    this.#sequence = newest.sequence;
  }

  get(key: Uint8Array): Uint8Array | undefined {
    this.#assertOpen();
    return this.#map.get(key);
  }

  range(range: KeyRange): Iterable<KeyValue> {
    this.#assertOpen();
    return readRange(this.#map, range);
  }

  transaction<T>(work: (transaction: OrderedTransaction) => T): T {
    this.#assertOpen();
    assert(!this.#inTransaction, "transactions do not nest");
    const before = this.#map.view();
    const transaction = new MemoryTransaction(this.#map);
    this.#inTransaction = true;
    try {
      const result = work(transaction);
      this.#sequence += 1;
      this.#disk.push({ sequence: this.#sequence, view: this.#map.view() });
      return result;
    } catch (error) {
      this.#map.restore(before);
      throw error;
    } finally {
      transaction.open = false;
      this.#inTransaction = false;
    }
  }

  async flush(): Promise<void> {
    this.#assertOpen();
    const boundary = this.#disk.newest();
    await this.#beforeFlush();
    if (this.#state === "crashed") await new Promise<never>(() => undefined);
    this.#disk.flushed(boundary);
  }

  snapshot(): OrderedSnapshot {
    this.#assertOpen();
    const view = this.#map.view();
    return {
      get: (key) => view.get(key),
      range: (range) => readRange(view, range),
      close: () => undefined,
    };
  }

  close(): Promise<void> {
    if (this.#state === "open") this.#state = "closed";
    return Promise.resolve();
  }

  /** Whether the store still serves its process. */
  get isOpen(): boolean {
    return this.#state === "open";
  }

  /** Ends the store as a crash of its process does; see MemoryOrderedStoreProvider.crash(). */
  kill(): void {
    this.#state = "crashed";
  }

  #assertOpen(): void {
    assert(this.#state === "open", `the store is ${this.#state}`);
  }
}

/** Behind every key. */
const LAST_KEY = new Uint8Array(1025).fill(0xff);

/** What can happen to a store at rest: a bit of a record, all of it, its being there, or an older copy in its place. */
export type StoreDamage = "record" | "unreadable" | "gone" | "older";

/** The stores of one simulated disk. */
export class MemoryOrderedStoreProvider implements OrderedStoreProvider {
  readonly #disks = new Map<string, MemoryStoreDisk>();
  readonly #open = new Map<string, MemoryOrderedStore>();
  readonly #beforeFlush: (storeName: string) => Promise<void>;

  constructor(options: MemoryOrderedStoreOptions = {}) {
    this.#beforeFlush = options.beforeFlush ?? ((): Promise<void> => Promise.resolve());
  }

  open(name: string): Promise<MemoryOrderedStore> {
    parseStoreName(name);
    assert(this.#open.get(name)?.isOpen !== true, `the store ${name} is open already`);
    const disk = this.#disks.get(name) ?? new MemoryStoreDisk();
    this.#disks.set(name, disk);
    const store = new MemoryOrderedStore(disk, () => this.#beforeFlush(name));
    this.#open.set(name, store);
    return Promise.resolve(store);
  }

  /** Stores that exist can be read, but for those that spoil() made unreadable. */
  check(name: string): Promise<StoreCondition> {
    if (this.#disks.get(parseStoreName(name))?.isBroken === true) {
      return Promise.resolve({ kind: "damaged", reason: `the store ${name} cannot be read` });
    }
    return Promise.resolve({ kind: this.#disks.has(parseStoreName(name)) ? "readable" : "absent" });
  }

  /** As list(), at once. */
  get names(): readonly string[] {
    return [...this.#disks.keys()].sort();
  }

  list(): Promise<string[]> {
    return Promise.resolve([...this.names]);
  }

  remove(name: string): Promise<void> {
    assert(this.#open.get(name)?.isOpen !== true, `the store ${name} is open`);
    this.#disks.delete(name);
    this.#open.delete(name);
    return Promise.resolve();
  }

  /** Damages a store that is not open; false when there is nothing to damage in that way. */
  spoil(name: string, how: StoreDamage, prng: Prng): boolean {
    assert(this.#open.get(name)?.isOpen !== true, `the store ${name} is open`);
    const disk = this.#disks.get(name);
    if (disk === undefined) return false;
    switch (how) {
      case "gone":
        return this.#disks.delete(name);
      case "unreadable":
        disk.isBroken = true;
        return true;
      case "older": {
        const [oldest] = disk.former;
        if (oldest === undefined) return false;
        disk.durable = oldest;
        disk.former = [];
        return true;
      }
      case "record":
        return spoilRecord(disk, prng);
    }
  }

  /**
   * The process or machine dies: every open store becomes unusable, and each falls back to its last flushed state or to one of
   * the transaction boundaries after it, chosen by `prng`. Stores are visited in name order, so one seed gives one outcome.
   */
  crash(prng: Prng): void {
    for (const name of [...this.#disks.keys()].sort()) {
      this.#open.get(name)?.kill();
      const disk = must(this.#disks.get(name), "a listed store");
      const choice = prng.below(disk.later.length + 1);
      const survivor = choice === 0 ? disk.durable : must(disk.later[choice - 1], "a boundary in range");
      disk.durable = survivor;
      disk.later = [];
    }
    this.#open.clear();
  }
}

function spoilRecord(disk: MemoryStoreDisk, prng: Prng): boolean {
  const map = new SortedMap<Uint8Array>();
  map.restore(disk.durable.view);
  const all = [...disk.durable.view.range(new Uint8Array(0), LAST_KEY, false)];
  const [key, value] = all[prng.below(Math.max(1, all.length))] ?? [];
  if (key === undefined || value === undefined || value.length === 0) return false;
  const spoiled = Uint8Array.from(value);
  const at = prng.below(spoiled.length);
  spoiled[at] = must(spoiled[at], "within the value") ^ (1 << prng.below(8));
  map.set(key, spoiled);
  disk.durable = { sequence: disk.durable.sequence, view: map.view() };
  return true;
}
