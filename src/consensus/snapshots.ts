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
import type { MemberId, Message, Snapshot, SnapshotMetadata } from "../raft/types.ts";
import { SnapshotTemporarilyUnavailableError } from "../raft/types.ts";
import type { Clock } from "../std/clock.ts";
import { isNoSpace } from "../segments/segment-error.ts";
import type { Disk } from "../std/disk.ts";
import type { OrderedReader } from "../std/ordered-store.ts";
import type { Logger } from "../telemetry/logger.ts";
import { waitFor } from "./deadline.ts";
import type { PreparedGeneration, ReplicatedStore } from "./replicated-store.ts";
import { readPieces } from "./snapshot-file.ts";
import { DumpEndedError, metadataOf, stateOf, writeDump } from "./state-dump.ts";
import { SNAPSHOT_PIECE_SIZE_BYTES_MAX, type RaftTransport } from "./transport.ts";

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

/** The state that was dumped, and what was read of it. */
export interface Dumped<T> {
  readonly metadata: SnapshotMetadata;
  readonly seen: T;
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
  #copying: Promise<void> | undefined;
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

  /**
   * Dumps the state as it is now into a new file, which becomes the caller's.
   * @param look reads the very state that is dumped
   * @throws DriveError OVERLOADED (another such dump is under way, the time is over, the store is replaced), NO_SPACE,
   *   NODE_STOPPING; errors of the disk
   */
  async dumpTo<T>(path: string, look: (reader: OrderedReader) => T, signal: AbortSignal): Promise<Dumped<T>> {
    if (this.#stop.signal.aborted) throw this.#stop.signal.reason as Error;
    if (this.#copying !== undefined) throw new DriveError("OVERLOADED", "The state is being dumped already.");
    const copying = this.#copyTo(path, look, AbortSignal.any([signal, this.#dumpAbort.signal]));
    const ended = copying.then(
      () => undefined,
      () => undefined,
    );
    this.#copying = ended.then(() => (this.#copying = undefined));
    return await copying;
  }

  async #copyTo<T>(
    path: string,
    look: (reader: OrderedReader) => T,
    signal: AbortSignal,
  ): Promise<Dumped<T>> {
    const { store, disk, clock, dumpTimeoutMs } = this.#options;
    await disk.remove(path);
    const file = await disk.open(path, "create");
    const view = store.store.snapshot();
    try {
      const state = stateOf(view);
      const seen = look(view);
      await writeDump(file, view, state, { clock, timeoutMs: dumpTimeoutMs, signal });
      return { metadata: metadataOf(state), seen };
    } catch (error) {
      await disk.remove(path);
      if (error instanceof DriveError) throw error;
      if (isNoSpace(error))
        throw new DriveError("NO_SPACE", "There is no space to dump the state.", { path }, error);
      const isGivenUp = error instanceof DumpEndedError || signal.aborted;
      throw isGivenUp
        ? new DriveError("OVERLOADED", `The state was not dumped: ${String(error)}`, {}, error)
        : error;
    } finally {
      view.close();
      await file.close();
    }
  }

  /** Ends a dump under way and waits for that: its view of the store must not outlive the store. */
  async abortDump(): Promise<void> {
    this.#dumpAbort.abort(new DumpEndedError("the store is replaced"));
    await Promise.all([this.#dumping, this.#copying]);
    this.#dumpAbort = new AbortController();
    this.#dump = undefined;
  }

  /** Ends what is under way. */
  async stop(): Promise<void> {
    this.#stop.abort(new DriveError("NODE_STOPPING", "The node is stopping."));
    this.#dumpAbort.abort(this.#stop.signal.reason);
    await Promise.all([this.#dumping, this.#copying]);
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
    const { store, disk, directory, clock, dumpTimeoutMs } = this.#options;
    // A turn later: the core asks in the middle of its own work.
    await Promise.resolve();
    const view = store.store.snapshot();
    try {
      const state = stateOf(view);
      const path = `${directory}/snapshot-${state.appliedIndex}.dump`;
      for (const name of await disk.list(directory)) {
        if (/^snapshot-\d+\.dump$/.test(name)) await disk.remove(`${directory}/${name}`);
      }
      const file = await disk.open(path, "create");
      try {
        await writeDump(file, view, state, { clock, timeoutMs: dumpTimeoutMs, signal });
      } catch (error) {
        // Half a dump is of no use, and on a full disk its space is.
        await disk.remove(path);
        throw error;
      } finally {
        await file.close();
      }
      return { path, snapshot: { metadata: metadataOf(state), data: NO_BYTES } };
    } finally {
      view.close();
    }
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
