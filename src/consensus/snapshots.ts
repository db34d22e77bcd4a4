/**
 * Snapshots of the replicated state: made when a follower needs one, streamed to it, and received.
 *
 * The store itself is the durable state of this node, so that the log can be cut without any snapshot; one is made only for a
 * follower whose next entry was cut off. It is dumped from a frozen view of the store into a checksummed local file, in
 * pieces with a pause between them, and within a bounded time, because an open view keeps the store's file growing. The
 * file serves all followers that ask until the log has been cut beyond it. A received one is written to a file, loaded into
 * the next generation of the store and checked before the core hears of it; the core's decision to install it then only
 * switches a pointer (replicated-store.ts).
 */
import { DriveError } from "../drive/errors.ts";
import type { MemberId, Message, Snapshot } from "../raft/types.ts";
import { SnapshotTemporarilyUnavailableError } from "../raft/types.ts";
import { assert } from "../std/assert.ts";
import { bytesEqual } from "../std/bytes.ts";
import { sleep, type Clock } from "../std/clock.ts";
import { isNoSpace } from "../segments/segment-error.ts";
import type { Disk, DiskFile } from "../std/disk.ts";
import type { KeyValue, OrderedSnapshot } from "../std/ordered-store.ts";
import type { Logger } from "../telemetry/logger.ts";
import { decodeStoreState, type StoreState } from "./codec.ts";
import { waitFor } from "./deadline.ts";
import { STORE_STATE_KEY, type PreparedGeneration, type ReplicatedStore } from "./replicated-store.ts";
import { readPieces, SNAPSHOT_BLOCK_SIZE_BYTES, SnapshotFileWriter } from "./snapshot-file.ts";
import { RESERVED_PREFIX, STATE_KEY_END } from "./state-hash.ts";
import { SNAPSHOT_PIECE_SIZE_BYTES_MAX, type RaftTransport } from "./transport.ts";

/** Records read from the frozen view at a time; their bytes are bounded by SNAPSHOT_BLOCK_SIZE_BYTES as well. */
const SCAN_COUNT_MAX = 256;

/** A dump that failed is not tried again before this much time has passed. */
const DUMP_RETRY_MS = 5000;

const NO_BYTES = new Uint8Array(0);
const DUMP_NAME = /^snapshot-\d+\.dump$|^receiving\.tmp$/;

/** Dependencies of Snapshots. */
export interface SnapshotsOptions {
  readonly store: ReplicatedStore<unknown>;
  readonly disk: Disk;
  readonly directory: string;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly transport: RaftTransport;
  readonly dumpTimeoutMs: number;
  readonly sendTimeoutMs: number;
  /** Index of the entry before the log's first: an older snapshot is of no use. */
  readonly logStartIndex: () => number;
  /** Hears how sending a snapshot ended. */
  readonly onSent: (to: MemberId, ok: boolean) => void;
}

interface Dump {
  readonly path: string;
  readonly snapshot: Snapshot;
}

/** Makes, sends and receives snapshots. */
export class Snapshots {
  readonly #options: SnapshotsOptions;
  #dump: Dump | undefined;
  #dumping: Promise<void> | undefined;
  #dumpAbort = new AbortController();
  #dumpAllowedMs = 0;
  readonly #sending = new Map<Promise<void>, number>();
  readonly #stop = new AbortController();
  #isReceiving = false;

  constructor(options: SnapshotsOptions) {
    this.#options = options;
  }

  /** Removes the files of an earlier run. */
  async start(): Promise<void> {
    const { disk, directory } = this.#options;
    for (const name of await disk.list(directory)) {
      if (DUMP_NAME.test(name)) await disk.remove(`${directory}/${name}`);
    }
  }

  /**
   * The snapshot at hand, for LogStorage.snapshot(). Starts making one when there is none, and throws
   * SnapshotTemporarilyUnavailableError: the core asks again.
   */
  current(): Snapshot {
    if (this.#dump !== undefined && this.#dump.snapshot.metadata.index >= this.#options.logStartIndex()) {
      return this.#dump.snapshot;
    }
    this.#startDump();
    throw new SnapshotTemporarilyUnavailableError("a snapshot is being made");
  }

  /** The log must be kept from behind this index on, for followers that are being sent a snapshot; undefined for none. */
  keepFromIndex(): number | undefined {
    const indexes = [...this.#sending.values()];
    return indexes.length === 0 ? undefined : Math.min(...indexes);
  }

  /** Sends the snapshot that a "snapshot" message of the core names. How it ended goes to onSent(). */
  send(message: Message): void {
    const { index } = message.snapshot?.metadata ?? { index: 0 };
    const dump = this.#dump;
    const { logger, onSent } = this.#options;
    if (dump === undefined || dump.snapshot.metadata.index !== index || this.#stop.signal.aborted) {
      onSent(message.to, false);
      return;
    }
    const sending = this.#stream(message, dump).then(
      () => {
        logger.info("snapshot_sent", { to: message.to, index });
        this.#sending.delete(sending);
        onSent(message.to, true);
      },
      (error: unknown) => {
        logger.warn("snapshot_not_sent", { to: message.to, index, reason: String(error) });
        this.#sending.delete(sending);
        onSent(message.to, false);
      },
    );
    this.#sending.set(sending, index);
  }

  /**
   * Takes a streamed snapshot and loads it beside the serving state.
   * @throws DriveError OVERLOADED, DATA_CORRUPT, WRONG_CLUSTER, NO_SPACE, NODE_STOPPING; PAYLOAD_TOO_LARGE for a piece
   */
  async receive(snapshot: Snapshot, pieces: AsyncIterable<Uint8Array>): Promise<PreparedGeneration> {
    if (this.#stop.signal.aborted) throw this.#stop.signal.reason as Error;
    if (this.#isReceiving) throw new DriveError("OVERLOADED", "Another snapshot is being received.");
    this.#isReceiving = true;
    const path = `${this.#options.directory}/receiving.tmp`;
    try {
      await this.#write(path, pieces);
      const prepared = await this.#options.store.prepareInstall(path);
      const { index, term } = prepared.metadata;
      if (index !== snapshot.metadata.index || term !== snapshot.metadata.term) {
        await this.#options.store.abandonInstall(prepared);
        throw new DriveError(
          "DATA_CORRUPT",
          `The snapshot is of index ${index}, not ${snapshot.metadata.index}.`,
        );
      }
      return prepared;
    } catch (error) {
      if (!isNoSpace(error)) throw error;
      throw new DriveError("NO_SPACE", "There is no space for the leader's snapshot.", { path }, error);
    } finally {
      this.#isReceiving = false;
      await this.#options.disk.remove(path);
    }
  }

  /** Ends a dump under way and waits for that: its view of the store must not outlive the store. */
  async abortDump(): Promise<void> {
    this.#dumpAbort.abort(new Error("the store is replaced"));
    await this.#dumping;
    this.#dumpAbort = new AbortController();
    this.#dump = undefined;
  }

  /** Ends what is under way. */
  async stop(): Promise<void> {
    this.#stop.abort(new DriveError("NODE_STOPPING", "The node is stopping."));
    this.#dumpAbort.abort(this.#stop.signal.reason);
    await this.#dumping;
    await Promise.all(this.#sending.keys());
  }

  #startDump(): void {
    const { clock, logger } = this.#options;
    if (this.#dumping !== undefined || this.#stop.signal.aborted || clock.monotonicMs() < this.#dumpAllowedMs)
      return;
    const startMs = clock.monotonicMs();
    this.#dumping = this.#makeDump(this.#dumpAbort.signal).then(
      (dump) => {
        this.#dumping = undefined;
        this.#dump = dump;
        const { index } = dump.snapshot.metadata;
        logger.info("snapshot_made", { index, duration_ms: clock.monotonicMs() - startMs });
      },
      (error: unknown) => {
        this.#dumping = undefined;
        this.#dumpAllowedMs = clock.monotonicMs() + DUMP_RETRY_MS;
        logger.warn("snapshot_not_made", { reason: String(error) });
      },
    );
  }

  async #makeDump(signal: AbortSignal): Promise<Dump> {
    const { store, disk, directory } = this.#options;
    // A turn later: the core asks in the middle of its own work.
    await Promise.resolve();
    const view = store.store.snapshot();
    try {
      const bytes = view.get(STORE_STATE_KEY);
      assert(bytes !== undefined, "the store has its state record");
      const state = decodeStoreState(bytes);
      const path = `${directory}/snapshot-${state.appliedIndex}.dump`;
      for (const name of await disk.list(directory)) {
        if (/^snapshot-\d+\.dump$/.test(name)) await disk.remove(`${directory}/${name}`);
      }
      const file = await disk.open(path, "create");
      try {
        await this.#writeDump(file, view, state, signal);
      } catch (error) {
        // Half a dump is of no use, and on a full disk its space is.
        await disk.remove(path);
        throw error;
      } finally {
        await file.close();
      }
      const { appliedIndex: index, appliedTerm: term, confState } = state;
      return { path, snapshot: { metadata: { index, term, confState }, data: NO_BYTES } };
    } finally {
      view.close();
    }
  }

  async #writeDump(
    file: DiskFile,
    view: OrderedSnapshot,
    state: StoreState,
    signal: AbortSignal,
  ): Promise<void> {
    const { clock, dumpTimeoutMs } = this.#options;
    const endMs = clock.monotonicMs() + dumpTimeoutMs;
    const { clusterId, stateHash, appliedIndex: index, appliedTerm: term, confState } = state;
    const writer = new SnapshotFileWriter(file);
    await writer.writeHeader({ clusterId, stateHash, metadata: { index, term, confState } });
    let after: Uint8Array | undefined;
    for (;;) {
      const records = scan(view, after);
      for (const record of records) await writer.writeRecord(record);
      const last = records.at(-1);
      if (last === undefined) break;
      after = last.key;
      await sleep(clock, 0, signal);
      if (clock.monotonicMs() >= endMs) throw new Error(`the dump took longer than ${dumpTimeoutMs} ms`);
    }
    await writer.finish();
  }

  async #stream(message: Message, dump: Dump): Promise<void> {
    const { disk, clock, transport, sendTimeoutMs } = this.#options;
    const file = await disk.open(dump.path, "read");
    const abort = new AbortController();
    const signal = AbortSignal.any([abort.signal, this.#stop.signal]);
    try {
      const pieces = readPieces(file, SNAPSHOT_PIECE_SIZE_BYTES_MAX);
      const work = transport.sendSnapshot(message, pieces, signal);
      const onTimeout = (): Error => {
        const error = new Error(`sending took longer than ${sendTimeoutMs} ms`);
        abort.abort(error);
        return error;
      };
      await waitFor(clock, work, { timeoutMs: sendTimeoutMs, signal: this.#stop.signal, onTimeout });
    } finally {
      await file.close();
    }
  }

  async #write(path: string, pieces: AsyncIterable<Uint8Array>): Promise<void> {
    const { disk } = this.#options;
    await disk.remove(path);
    const file = await disk.open(path, "create");
    try {
      let offset = 0;
      for await (const piece of pieces) {
        if (this.#stop.signal.aborted) throw this.#stop.signal.reason as Error;
        if (piece.length > SNAPSHOT_PIECE_SIZE_BYTES_MAX) {
          throw new DriveError("PAYLOAD_TOO_LARGE", `A piece of a snapshot has ${piece.length} bytes.`);
        }
        await file.write(offset, [piece]);
        offset += piece.length;
      }
    } finally {
      await file.close();
    }
  }
}

/** The next records of the state machine, behind the key `after`: about a block of them. */
function scan(view: OrderedSnapshot, after: Uint8Array | undefined): KeyValue[] {
  const records: KeyValue[] = [];
  let sizeBytes = 0;
  const from = after ?? Uint8Array.of(RESERVED_PREFIX + 1);
  for (const record of view.range({ from, to: Uint8Array.of(STATE_KEY_END), countMax: SCAN_COUNT_MAX })) {
    if (after !== undefined && bytesEqual(record.key, after)) continue;
    records.push(record);
    sizeBytes += record.key.length + record.value.length;
    if (sizeBytes >= SNAPSHOT_BLOCK_SIZE_BYTES) break;
  }
  return records;
}
