/**
 * Snapshots of the replicated state: made when a follower needs one, streamed to it, and received.
 *
 * The store itself is the durable state of this node, so that the log can be cut without any snapshot; one is made only for a
 * follower whose next entry was cut off. It is dumped from a frozen view of the store into a checksummed local file, as long as
 * that gets on, because an open view keeps the store's file growing: by another process where the store is a file that one
 * can read (snapshot-dump.ts), else here, in pieces with a pause between them (state-dump.ts). The
 * file serves all followers that ask until the log has been cut beyond it, or a member has come that it does not name. A received one is written to a file, loaded into
 * the next generation of the store and checked before the core hears of it; the core's decision to install it then only
 * switches a pointer (replicated-store.ts).
 */
import { DriveError } from "../drive/errors.ts";
import { memberIds } from "../raft/conf-change.ts";
import type { MemberId, Message, Snapshot, SnapshotMetadata } from "../raft/types.ts";
import { SnapshotTemporarilyUnavailableError } from "../raft/types.ts";
import { must } from "../std/assert.ts";
import type { Clock } from "../std/clock.ts";
import { isNoSpace } from "../std/disk.ts";
import type { Disk } from "../std/disk.ts";
import type { FrozenFile, OrderedReader } from "../std/ordered-store.ts";
import type { Logger } from "../telemetry/logger.ts";
import { StallWatch, untilAborted } from "./deadline.ts";
import type { PreparedGeneration, ReplicatedStore } from "./replicated-store.ts";
import { dumpAside, DumpFailedError } from "./snapshot-dump.ts";
import { readPieces } from "./snapshot-file.ts";
import { DumpEndedError, metadataOf, stateOf, writeDump, type DumpLimits } from "./state-dump.ts";
import { SNAPSHOT_PIECE_SIZE_BYTES_MAX, type RaftTransport } from "./transport.ts";

/** A dump that failed is not tried again before this much time has passed. */
const DUMP_RETRY_MS = 5000;

const NO_BYTES = new Uint8Array(0);
/** A dump for followers, written or being written. */
const DUMP_FILE_NAME = /^snapshot-(?:\d+|unfinished)\.dump$/;
const UNFINISHED_NAME = "snapshot-unfinished.dump";
const RECEIVED_NAME = "receiving.tmp";

/** Dependencies of Snapshots. */
export interface SnapshotsOptions {
  readonly store: ReplicatedStore<unknown>;
  readonly disk: Disk;
  readonly directory: string;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly transport: RaftTransport;
  /** See ConsensusTuning. */
  readonly dumpStallMs: number;
  readonly sendStallMs: number;
  readonly loadBytesPerSecond: number;
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
      if (DUMP_FILE_NAME.test(name) || name === RECEIVED_NAME) await disk.remove(`${directory}/${name}`);
    }
  }

  /**
   * The snapshot at hand, for LogStorage.snapshot(). Starts making one when there is none, and throws
   * SnapshotTemporarilyUnavailableError: the core asks again.
   */
  current(): Snapshot {
    const { metadata } = this.#dump?.snapshot ?? {};
    if (
      metadata !== undefined &&
      metadata.index >= this.#options.logStartIndex() &&
      this.#namesAll(metadata)
    ) {
      return must(this.#dump, "the snapshot at hand").snapshot;
    }
    this.#startDump();
    throw new SnapshotTemporarilyUnavailableError("a snapshot is being made");
  }

  /**
   * Whether every member of now is in the configuration of a snapshot. One that has come since refuses it, for it is not named in it;
   * that others have gone since harms nobody.
   */
  #namesAll({ confState }: SnapshotMetadata): boolean {
    const named = new Set(memberIds(confState));
    return memberIds(this.#options.store.state.confState).every((memberId) => named.has(memberId));
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
    const path = `${this.#options.directory}/${RECEIVED_NAME}`;
    try {
      await this.#write(path, pieces);
      const prepared = await this.#options.store.prepareInstall(path, this.#stop.signal);
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
      await this.#removeReceived(path);
      this.#isReceiving = false;
    }
  }

  /** A file that stays takes space, until the next snapshot or start removes it; what was loaded from it is good all the same. */
  async #removeReceived(path: string): Promise<void> {
    const { disk, logger } = this.#options;
    try {
      await disk.remove(path);
    } catch (error) {
      logger.warn("snapshot_file_left", { path, reason: String(error) });
    }
  }

  /**
   * Dumps the state as it is now into a new file, which becomes the caller's.
   * @param look reads the very state that is dumped
   * @throws DriveError OVERLOADED (another such dump is under way, it stands still, the store is replaced), NO_SPACE,
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
    const { store, disk } = this.#options;
    await disk.remove(path);
    try {
      // What is read is the state of a flush: now it holds all that was applied before the call.
      await store.flush();
      signal.throwIfAborted();
      return await this.#dumpState(path, look, signal);
    } catch (error) {
      await disk.remove(path);
      if (error instanceof DriveError) throw error;
      if (isNoSpace(error) || (error instanceof DumpFailedError && error.isNoSpace))
        throw new DriveError("NO_SPACE", "There is no space to dump the state.", { path }, error);
      const isGivenUp = error instanceof DumpEndedError || error instanceof DumpFailedError || signal.aborted;
      throw isGivenUp
        ? new DriveError("OVERLOADED", `The state was not dumped: ${String(error)}`, {}, error)
        : error;
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
    const { disk, directory, store } = this.#options;
    // A turn later: the core asks in the middle of its own work.
    await Promise.resolve();
    for (const name of await disk.list(directory)) {
      if (DUMP_FILE_NAME.test(name)) await disk.remove(`${directory}/${name}`);
    }
    // Its index is only known once it is written.
    const path = `${directory}/${UNFINISHED_NAME}`;
    try {
      // A store in a file is dumped as of its last flush, and the member that this is for may have come since.
      await store.flush();
      signal.throwIfAborted();
      const { metadata } = await this.#dumpState(path, () => undefined, signal);
      const finished = `${directory}/snapshot-${metadata.index}.dump`;
      await disk.rename(path, finished);
      return { path: finished, snapshot: { metadata, data: NO_BYTES } };
    } catch (error) {
      // Half a dump is of no use, and on a full disk its space is.
      await disk.remove(path);
      throw error;
    }
  }

  /**
   * Writes the state into a new file. However large it has grown, or slow the machine is, it must not go without snapshots for
   * ever: a store's file that grows for longer is the lesser evil.
   */
  async #dumpState<T>(
    path: string,
    look: (reader: OrderedReader) => T,
    signal: AbortSignal,
  ): Promise<Dumped<T>> {
    const { store, clock, dumpStallMs: stallMs } = this.#options;
    const limits = { clock, stallMs, signal };
    const frozen = store.store.frozenFile?.();
    if (frozen === undefined) return await this.#dumpHere(path, look, limits);
    const seen = lookAt(frozen, look);
    return { metadata: metadataOf(await dumpAside(frozen, path, limits)), seen };
  }

  /** Writes the state as it is now, in pieces between other work. */
  async #dumpHere<T>(
    path: string,
    look: (reader: OrderedReader) => T,
    limits: DumpLimits,
  ): Promise<Dumped<T>> {
    const { store, disk } = this.#options;
    const file = await disk.open(path, "create");
    try {
      const view = store.store.snapshot();
      try {
        const state = stateOf(view);
        const seen = look(view);
        await writeDump(file, view, state, limits);
        return { metadata: metadataOf(state), seen };
      } finally {
        view.close();
      }
    } finally {
      await file.close();
    }
  }

  async #stream(message: Message, dump: Dump): Promise<void> {
    const { disk, clock, transport, sendStallMs, loadBytesPerSecond } = this.#options;
    const file = await disk.open(dump.path, "read");
    const abort = new AbortController();
    const signal = AbortSignal.any([abort.signal, this.#stop.signal]);
    const giveUp = (what: string, afterMs: number): StallWatch =>
      new StallWatch(clock, afterMs, () => abort.abort(new Error(`${what} for ${afterMs} ms`)));
    let watch = giveUp("no piece was taken", sendStallMs);
    const pieces = async function* (): AsyncGenerator<Uint8Array> {
      for await (const piece of readPieces(file, SNAPSHOT_PIECE_SIZE_BYTES_MAX)) {
        yield piece;
        watch.progress();
      }
      // Now the receiver loads it, and says nothing before that is done.
      watch.stop();
      const loadMs = Math.max(sendStallMs, Math.ceil((1000 * (await file.size())) / loadBytesPerSecond));
      watch = giveUp("it was not loaded", loadMs);
    };
    try {
      await untilAborted(transport.sendSnapshot(message, pieces(), signal), signal);
    } finally {
      watch.stop();
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

/** What `look` finds in a frozen file, which is closed when that fails. */
function lookAt<T>(frozen: FrozenFile, look: (reader: OrderedReader) => T): T {
  try {
    return look(frozen.reader);
  } catch (error) {
    frozen.close();
    throw error;
  }
}
