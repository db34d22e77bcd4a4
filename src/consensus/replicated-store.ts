/**
 * The replicated state on this node: an ordered store that only committed entries write to, and how far it got.
 *
 * Every transaction writes, next to the records of the state machine, one record of consensus under key 0x00 0x01: applied
 * index and term, configuration and state hash. So a crash falls back to a boundary between batches, and the log is
 * replayed from there. The log may be cut only below what flush() returned.
 *
 * A store is one generation, named "state-<n>"; the file CURRENT says which. A snapshot from the leader is loaded into the
 * next generation beside the serving one, checked against its hash, flushed, and only then switched to:
 *
 *   load state-(n+1) -> flush -> CURRENT := n+1 (atomic) -> log reset -> remove state-n
 *                                  ^ before: the old state stands; after: open() finds n+1, and the log is reset then
 *
 * Does not decide when to apply, flush or install; see apply-loop.ts and snapshots.ts.
 */
import { DriveError } from "../drive/errors.ts";
import type { ConfState, LogEntry, SnapshotMetadata } from "../raft/types.ts";
import { unlessFull } from "../segments/segment-error.ts";
import { assert, must } from "../std/assert.ts";
import { readAtomicFile, writeAtomicFile, type AtomicFileName } from "../std/atomic-file.ts";
import { bytesEqual, utf8 } from "../std/bytes.ts";
import type { Clock } from "../std/clock.ts";
import type { Disk } from "../std/disk.ts";
import type {
  OrderedReader,
  OrderedStore,
  OrderedStoreProvider,
  OrderedTransaction,
} from "../std/ordered-store.ts";
import { RecordSum } from "../std/record-sum.ts";
import {
  decodeStoreCurrent,
  decodeStoreState,
  encodeStoreCurrent,
  encodeStoreState,
  type LogPosition,
  type StoreCurrent,
  type StoreState,
} from "./codec.ts";
import { RecordCache } from "./record-cache.ts";
import { SnapshotFileReader } from "./snapshot-file.ts";
import { loadAside } from "./snapshot-load.ts";
import type { StateMachine } from "./state-machine.ts";
import { HashingTransaction, RESERVED_PREFIX, STATE_KEY_END, StateHashHistory } from "./state-hash.ts";
import { WireFormatError } from "./wire-format.ts";

/** Key of the StoreState record. */
export const STORE_STATE_KEY: Uint8Array = Uint8Array.of(0x00, 0x01);

/** A batch ends once it took this long: the event loop must never be blocked over 50 ms, and a commit comes on top. */
const BATCH_DURATION_MS_MAX = 10;

/** Entries in one batch at most: bounds the pages that one transaction touches. */
export const BATCH_ENTRY_COUNT_MAX = 256;

/** Entries back from the newest for which the state hash is known. */
const HASH_HISTORY_COUNT = 8192;

/** Settings and dependencies of a ReplicatedStore. */
export interface ReplicatedStoreOptions<Result> {
  readonly provider: OrderedStoreProvider;
  readonly disk: Disk;
  /** Existing directory for CURRENT and snapshot files. */
  readonly directory: string;
  readonly clock: Clock;
  readonly stateMachine: StateMachine<Result>;
  readonly clusterId: string;
  /** Configuration of a store that is made now; ignored when there is one. */
  readonly initialConfState: ConfState;
}

/** What applying a batch gave. */
export interface AppliedBatch<Result> {
  /** How many entries were applied, at least 1. */
  readonly count: number;
  /** The answer to each of them; undefined for no-ops and membership changes. */
  readonly results: readonly (Result | undefined)[];
}

/** A snapshot that is loaded and durable, and not in use yet. */
export interface PreparedGeneration {
  readonly metadata: SnapshotMetadata;
  readonly generation: number;
  readonly store: OrderedStore;
  readonly state: StoreState;
}

/** The state and its place on disk. One process at a time. */
export class ReplicatedStore<Result> {
  readonly #options: ReplicatedStoreOptions<Result>;
  readonly #history = new StateHashHistory(HASH_HISTORY_COUNT);
  #store: OrderedStore;
  #current: StoreCurrent;
  #state: StoreState;
  #sum: RecordSum;
  /** Of #store, to whose state machine's records applyBatch() alone writes. */
  readonly #cache = new RecordCache();
  #flushedIndex: number;
  #prepared: PreparedGeneration | undefined;
  /** Flushes under way: their store is not closed before they end. */
  readonly #flushes = new Set<Promise<void>>();
  #closed = false;

  private constructor(
    options: ReplicatedStoreOptions<Result>,
    store: OrderedStore,
    current: StoreCurrent,
    state: StoreState,
  ) {
    this.#options = options;
    this.#store = store;
    this.#current = current;
    this.#state = state;
    this.#sum = new RecordSum(state.stateHash);
    this.#flushedIndex = state.appliedIndex;
  }

  /**
   * Opens the state, or makes an empty one when there is none; removes what an interrupted install left behind. Unless the
   * store was closed in order and is as it was then, every record is read and the state hash computed anew.
   * @throws DriveError DATA_CORRUPT, WRONG_CLUSTER
   */
  static async open<Result>(options: ReplicatedStoreOptions<Result>): Promise<ReplicatedStore<Result>> {
    await refuseDistrusted(options);
    const current = (await readCurrent(options)) ?? (await create(options, 1));
    const name = generationName(current.generation);
    for (const other of await ReplicatedStore.generations(options.provider)) {
      if (other !== name) await options.provider.remove(other);
    }
    const condition = await options.provider.check(name);
    if (condition.kind === "absent") throw corrupt(`the store ${name} is gone`, { name });
    if (condition.kind === "damaged") throw corrupt(condition.reason, { name });
    const store = await options.provider.open(name);
    try {
      const state = readState(store, current, options.clusterId);
      if (condition.kind === "readable") checkSum(condition.recordSum ?? sumOf(store), state, name);
      return new ReplicatedStore(options, store, current, state);
    } catch (error) {
      await store.close();
      throw error;
    }
  }

  /** Makes an empty state in the place of a damaged one: everything is to be applied again, or to come with a snapshot. */
  static async replace<Result>(options: ReplicatedStoreOptions<Result>): Promise<ReplicatedStore<Result>> {
    const generations = await ReplicatedStore.generations(options.provider);
    const newest = Math.max(0, ...generations.map((name) => Number(name.slice(name.indexOf("-") + 1))));
    await create(options, newest + 1);
    await options.disk.remove(`${options.directory}/${distrustFile(options.directory).name}`);
    await options.disk.syncDirectory(options.directory);
    return await ReplicatedStore.open(options);
  }

  /** Takes the store named FIRST_GENERATION_NAME, filled by somebody else, as the state. */
  static async adopt<Result>(options: ReplicatedStoreOptions<Result>): Promise<ReplicatedStore<Result>> {
    const current: StoreCurrent = { generation: 1, snapshot: { index: 0, term: 0 } };
    await writeAtomicFile(options.disk, currentFile(options.directory), encodeStoreCurrent(current));
    return await ReplicatedStore.open(options);
  }

  /** Takes a snapshot file as the state: for data that is made offline. @throws DriveError DATA_CORRUPT, WRONG_CLUSTER */
  static async fromSnapshot<Result>(
    options: ReplicatedStoreOptions<Result>,
    path: string,
  ): Promise<ReplicatedStore<Result>> {
    const file = await options.disk.open(path, "read");
    try {
      const reader = new SnapshotFileReader(file);
      const { metadata, clusterId, stateHash } = await reader.readHeader();
      if (clusterId !== options.clusterId) throw wrongCluster(clusterId, options.clusterId);
      const { index: appliedIndex, term: appliedTerm, confState } = metadata;
      const store = await options.provider.open(FIRST_GENERATION_NAME);
      try {
        await load(store, reader, { clusterId, appliedIndex, appliedTerm, confState, stateHash });
      } finally {
        await store.close();
      }
    } finally {
      await file.close();
    }
    return await ReplicatedStore.adopt(options);
  }

  /**
   * Makes this the state of another cluster, of the members in `confState`, with what `edit` changes in it.
   * @param index what it counts as applied from then on; as it was when absent
   */
  refound(
    clusterId: string,
    confState: ConfState,
    edit: (transaction: OrderedTransaction) => void,
    index = this.#state.appliedIndex,
  ): void {
    this.#state = this.#store.transaction((transaction) => {
      edit(new HashingTransaction(transaction, this.#sum, this.#cache));
      const stateHash = this.#sum.toBytes();
      const state = { ...this.#state, clusterId, confState, stateHash, appliedIndex: index };
      transaction.put(STORE_STATE_KEY, encodeStoreState(state));
      return state;
    });
  }

  /** Reads every record: for a state that was made offline, before anybody relies on it. @throws DriveError DATA_CORRUPT */
  verify(): void {
    checkSum(sumOf(this.#store), this.#state, generationName(this.#current.generation));
  }

  /** Makes it durable that this state is not to be trusted: the next open() refuses it. */
  async distrust(reason: string): Promise<void> {
    await writeAtomicFile(this.#options.disk, distrustFile(this.#options.directory), utf8(reason));
  }

  /** Whether there is a store in the directory, damaged or not; false also after a crash in the middle of making one. */
  static exists(options: { readonly disk: Disk; readonly directory: string }): Promise<boolean> {
    return options.disk.exists(`${options.directory}/${currentFile(options.directory).name}`);
  }

  /** Names of the stores that hold a generation, in use or not. */
  static async generations(provider: OrderedStoreProvider): Promise<readonly string[]> {
    return (await provider.list()).filter((name) => /^state-\d+$/.test(name));
  }

  /** The state to read. Ask again after every wait: an installed snapshot replaces it. */
  reader(): OrderedReader {
    return this.#store;
  }

  /** The store itself, for a snapshot of it. */
  get store(): OrderedStore {
    return this.#store;
  }

  /** What consensus recorded with the last batch. */
  get state(): StoreState {
    return this.#state;
  }

  /** Highest index that is certainly in the store after a crash. */
  get flushedIndex(): number {
    return this.#flushedIndex;
  }

  /** Where the snapshot that this generation came from ends; index 0 when it grew from nothing. */
  get installedSnapshot(): LogPosition {
    return this.#current.snapshot;
  }

  /** Term and state hash after `index`, when it was applied here not long ago. */
  hashAt(index: number): { readonly term: number; readonly hash: Uint8Array } | undefined {
    return this.#history.find(index);
  }

  /**
   * Applies entries that follow the applied index, from `offset` on, in one transaction: as many as fit into a batch.
   * @param applyConfChange makes a membership change effective in the core and answers the configuration that follows from the one
   *   before
   */
  applyBatch(
    entries: readonly LogEntry[],
    offset: number,
    applyConfChange: (entry: LogEntry, before: ConfState) => ConfState,
  ): AppliedBatch<Result> {
    assert(!this.#closed, "the store is open");
    const startMs = this.#options.clock.monotonicMs();
    const results: (Result | undefined)[] = [];
    const state = this.#store.transaction((transaction) => {
      const hashing = new HashingTransaction(transaction, this.#sum, this.#cache);
      let { appliedIndex, appliedTerm, confState } = this.#state;
      for (let at = offset; at < entries.length && results.length < BATCH_ENTRY_COUNT_MAX; at += 1) {
        const entry = must(entries[at], "inside the entries");
        assert(
          entry.index === appliedIndex + 1,
          `entry ${entry.index} follows applied index ${appliedIndex}`,
        );
        if (entry.kind === "conf-change") confState = applyConfChange(entry, confState);
        results.push(this.#applyEntry(hashing, entry));
        appliedIndex = entry.index;
        appliedTerm = entry.term;
        this.#history.record(appliedIndex, appliedTerm, this.#sum);
        if (this.#options.clock.monotonicMs() - startMs >= BATCH_DURATION_MS_MAX) break;
      }
      const { clusterId } = this.#state;
      const next = { clusterId, appliedIndex, appliedTerm, confState, stateHash: this.#sum.toBytes() };
      transaction.put(STORE_STATE_KEY, encodeStoreState(next));
      return next;
    });
    this.#state = state;
    return { count: results.length, results };
  }

  #applyEntry(transaction: OrderedTransaction, entry: LogEntry): Result | undefined {
    if (entry.kind === "conf-change" || entry.data.length === 0) return undefined;
    const { index, term, data } = entry;
    return this.#options.stateMachine.apply(transaction, { index, term, data });
  }

  /** Makes everything applied so far durable; afterwards flushedIndex is at least the applied index of the call. */
  async flush(): Promise<void> {
    const index = this.#state.appliedIndex;
    const flushing = this.#store.flush();
    this.#flushes.add(flushing);
    try {
      await flushing;
    } finally {
      this.#flushes.delete(flushing);
    }
    this.#flushedIndex = Math.max(this.#flushedIndex, index);
  }

  /**
   * Loads a snapshot file into the next generation and makes it durable, beside the one that serves; by another process where
   * stores are files that one can make.
   * @throws DriveError DATA_CORRUPT when the file or its hash is wrong, WRONG_CLUSTER, NO_SPACE; the reason of the signal
   */
  async prepareInstall(path: string, signal?: AbortSignal): Promise<PreparedGeneration> {
    assert(this.#prepared === undefined, "one install at a time");
    const generation = this.#current.generation + 1;
    const name = generationName(generation);
    await this.#options.provider.remove(name);
    const file = await this.#options.disk.open(path, "read");
    try {
      const reader = new SnapshotFileReader(file);
      const header = await reader.readHeader();
      if (header.clusterId !== this.#options.clusterId)
        throw wrongCluster(header.clusterId, this.#options.clusterId);
      const { metadata, clusterId, stateHash } = header;
      const { index: appliedIndex, term: appliedTerm, confState } = metadata;
      const state: StoreState = { clusterId, appliedIndex, appliedTerm, confState, stateHash };
      const target = this.#options.provider.bulkTarget?.(name);
      let store: OrderedStore | undefined;
      try {
        if (target !== undefined) await loadAside({ path, target, stateKey: STORE_STATE_KEY }, signal);
        store = await this.#options.provider.open(name);
        if (target === undefined) await load(store, reader, state);
        this.#prepared = { metadata, generation, store, state };
        return this.#prepared;
      } catch (error) {
        await store?.close();
        await this.#options.provider.remove(name);
        throw error;
      }
    } finally {
      await file.close();
    }
  }

  /** Gives up a prepared generation. */
  async abandonInstall(prepared: PreparedGeneration): Promise<void> {
    assert(this.#prepared === prepared, "the generation that is prepared");
    this.#prepared = undefined;
    await prepared.store.close();
    await this.#options.provider.remove(generationName(prepared.generation));
  }

  /**
   * Switches to a prepared generation, durably. Nothing may use the old store: no batch, no snapshot of it. The log must be
   * reset to the snapshot afterwards, also when the process dies in between; see needsLogReset().
   */
  async commitInstall(prepared: PreparedGeneration): Promise<void> {
    assert(this.#prepared === prepared, "the generation that is prepared");
    const { index, term } = prepared.metadata;
    const current: StoreCurrent = { generation: prepared.generation, snapshot: { index, term } };
    await writeAtomicFile(
      this.#options.disk,
      currentFile(this.#options.directory),
      encodeStoreCurrent(current),
    );
    const old = { store: this.#store, name: generationName(this.#current.generation) };
    this.#prepared = undefined;
    this.#store = prepared.store;
    this.#cache.clear();
    this.#current = current;
    this.#state = prepared.state;
    this.#sum = new RecordSum(prepared.state.stateHash);
    this.#history.record(index, term, this.#sum);
    this.#flushedIndex = index;
    // A full disk may refuse what is removed now.
    await Promise.all([...this.#flushes].map((flushing) => unlessFull(flushing)));
    await (old.store.discard?.() ?? old.store.close());
    await this.#options.provider.remove(old.name);
  }

  /** Closes the store; what was not flushed is replayed from the log at the next start. Harmless when closed. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await Promise.allSettled(this.#flushes);
    if (this.#prepared !== undefined) await this.#prepared.store.close();
    await this.#store.close();
  }
}

/** Whether an install was interrupted between the switch of the store and the reset of the log that starts behind `logStart`. */
export function needsLogReset(installedSnapshot: LogPosition, logStart: LogPosition): boolean {
  return logStart.index < installedSnapshot.index;
}

/** Name of the store that a member's state is made in; the following ones come from snapshots. */
export const FIRST_GENERATION_NAME = generationName(1);

function generationName(generation: number): string {
  return `state-${generation}`;
}

function currentFile(directory: string): AtomicFileName {
  return { directory, name: "CURRENT", magic: "NDCURR01" };
}

function distrustFile(directory: string): AtomicFileName {
  return { directory, name: "DISTRUSTED", magic: "NDDIST01" };
}

/** A state that a majority has found wrong is wrong for good. */
async function refuseDistrusted(options: { readonly disk: Disk; readonly directory: string }): Promise<void> {
  const found = await readAtomicFile(options.disk, distrustFile(options.directory));
  if (found.kind === "absent") return;
  const reason = found.kind === "intact" ? Buffer.from(found.content).toString("utf8") : found.reason;
  throw corrupt(`it was found to differ from the others' (${reason})`, { directory: options.directory });
}

/** The state hash of what is in a store. */
function sumOf(store: OrderedStore): Uint8Array {
  const sum = new RecordSum();
  const range = { from: Uint8Array.of(RESERVED_PREFIX + 1), to: Uint8Array.of(STATE_KEY_END) };
  for (const { key, value } of store.range(range)) sum.add(key, value);
  return sum.toBytes();
}

/** @throws DriveError DATA_CORRUPT */
function checkSum(sum: Uint8Array, { stateHash }: StoreState, name: string): void {
  if (bytesEqual(sum, stateHash)) return;
  throw corrupt(`the records of the store ${name} do not have the hash of its state`, { name });
}

async function readCurrent(options: {
  readonly disk: Disk;
  readonly directory: string;
}): Promise<StoreCurrent | undefined> {
  const found = await readAtomicFile(options.disk, currentFile(options.directory));
  if (found.kind === "absent") return undefined;
  const path = `${options.directory}/CURRENT`;
  if (found.kind === "damaged") throw corrupt(`${path} is damaged: ${found.reason}`, { path });
  try {
    return decodeStoreCurrent(found.content);
  } catch (error) {
    if (error instanceof WireFormatError) throw corrupt(`${path} cannot be read: ${error.message}`, { path });
    throw error;
  }
}

/** Makes an empty generation. CURRENT is written last: until then nothing exists, and the next start begins again. */
async function create<Result>(
  options: ReplicatedStoreOptions<Result>,
  generation: number,
): Promise<StoreCurrent> {
  const current: StoreCurrent = { generation, snapshot: { index: 0, term: 0 } };
  const name = generationName(current.generation);
  await options.provider.remove(name);
  const store = await options.provider.open(name);
  try {
    store.transaction((transaction) => {
      const state = { appliedIndex: 0, appliedTerm: 0, stateHash: new RecordSum().toBytes() };
      const { clusterId, initialConfState: confState } = options;
      transaction.put(STORE_STATE_KEY, encodeStoreState({ ...state, clusterId, confState }));
    });
    await store.flush();
  } finally {
    await store.close();
  }
  await writeAtomicFile(options.disk, currentFile(options.directory), encodeStoreCurrent(current));
  return current;
}

function readState(store: OrderedStore, current: StoreCurrent, clusterId: string): StoreState {
  const name = generationName(current.generation);
  const bytes = store.get(STORE_STATE_KEY);
  if (bytes === undefined)
    throw corrupt(`the store ${name} has lost its record of what was applied`, { name });
  const state = parseState(name, bytes);
  if (state.clusterId !== clusterId) throw wrongCluster(state.clusterId, clusterId);
  if (state.appliedIndex < current.snapshot.index) {
    throw corrupt(`the store ${name} is older than the snapshot it was made from`, { name });
  }
  return state;
}

function parseState(name: string, bytes: Uint8Array): StoreState {
  try {
    return decodeStoreState(bytes);
  } catch (error) {
    if (error instanceof WireFormatError)
      throw corrupt(`the store ${name} cannot be read: ${error.message}`, { name });
    throw error;
  }
}

/** Loads the records, a transaction per block, then the state record, checks the hash and flushes. */
async function load(store: OrderedStore, reader: SnapshotFileReader, state: StoreState): Promise<void> {
  const sum = new RecordSum();
  for await (const records of reader.readRecords()) {
    store.transaction((transaction) => {
      for (const record of records) {
        sum.add(record.key, record.value);
        transaction.put(record.key, record.value);
      }
    });
  }
  if (!bytesEqual(sum.toBytes(), state.stateHash)) {
    const index = String(state.appliedIndex);
    throw corrupt(`the snapshot of index ${index} does not have the state hash that it claims`, { index });
  }
  store.transaction((transaction) => transaction.put(STORE_STATE_KEY, encodeStoreState(state)));
  await store.flush();
}

function corrupt(what: string, metadata: Readonly<Record<string, string>>): DriveError {
  return new DriveError("DATA_CORRUPT", `The replicated state is damaged: ${what}.`, metadata);
}

function wrongCluster(found: string, expected: string): DriveError {
  return new DriveError("WRONG_CLUSTER", `The state belongs to cluster ${found}, not ${expected}.`, {
    found_cluster_id: found,
    expected_cluster_id: expected,
  });
}
