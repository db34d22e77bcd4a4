/**
 * The append thread of the core's async mode: takes "storage-append" work in order, makes it durable, then delivers its
 * responses. Everything that queued up while the disk was busy goes into the next group commit together.
 *
 * A change of the commit index alone promises nothing: it is kept in memory and written with the next record, so that a
 * follower does one sync per batch and not two. A full disk stops the writer, which tries again every second while the
 * queue keeps its order; any other failure is final. Cutting the front of the log is done between two rounds.
 */
import { DriveError, hasReason } from "../drive/errors.ts";
import type { PlantedFault } from "../raft/planted-faults.ts";
import { NO_MEMBER, type HardState, type Message, type Snapshot } from "../raft/types.ts";
import { must } from "../std/assert.ts";
import { sleep, type Clock } from "../std/clock.ts";
import type { Logger } from "../telemetry/logger.ts";
import type { Metrics } from "../telemetry/metrics.ts";
import type { LogAppend, SegmentRaftLog } from "./segment-raft-log.ts";

/** After the disk was found full, it is tried again this much later. */
const NO_SPACE_RETRY_MS = 1000;

/**
 * Entries of one group commit while few wait, unless one message alone has more: encoding and showing them keeps the event loop, some 15 ms
 * for so many. Of what waits an eighth may go at once, so that a vote behind very many entries waits for a few syncs and not for hundreds.
 */
export const ROUND_ENTRY_COUNT = 1024;
const ROUND_SHARE = 1 / 8;

/** Dependencies of a LogWriter. */
export interface LogWriterOptions {
  readonly log: SegmentRaftLog;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly metrics: Metrics;
  /** Installs a snapshot: switches the replicated store and resets the log, both durably. */
  readonly install: (snapshot: Snapshot, hardState: HardState) => Promise<void>;
  /** Takes the responses of work that is durable, in order. */
  readonly deliver: (responses: readonly Message[]) => void;
  readonly onFatal: (error: Error) => void;
  /** A historical bug to show, in tests alone. */
  readonly plantedFault?: PlantedFault | undefined;
}

/** Writes the log, one round at a time. */
export class LogWriter {
  readonly #options: LogWriterOptions;
  #queue: Message[] = [];
  #queueBytes = 0;
  #running: Promise<void> | undefined;
  #roundSinceMs: number | undefined;
  /** Term, vote and commit index that the core has moved to, durable or not. */
  #hardState: HardState;
  #compactIndex = 0;
  #isFull = false;
  readonly #stop = new AbortController();

  constructor(options: LogWriterOptions) {
    this.#options = options;
    this.#hardState = options.log.hardState;
  }

  /** Bytes of entries that are not durable yet. */
  get unwrittenBytes(): number {
    return this.#queueBytes;
  }

  /** Pieces of work that wait for the round under way to end. */
  get waitingCount(): number {
    return this.#queue.length;
  }

  /** Whether a round is under way. */
  get isBusy(): boolean {
    return this.#running !== undefined;
  }

  /** How long the round under way has taken already; 0 when there is none. */
  stalledMs(): number {
    return this.#roundSinceMs === undefined ? 0 : this.#options.clock.monotonicMs() - this.#roundSinceMs;
  }

  /** Whether what waits cannot be written for want of space. */
  get isFull(): boolean {
    return this.#isFull;
  }

  /** Takes a "storage-append" message. */
  enqueue(work: Message): void {
    this.#queue.push(work);
    this.#queueBytes += sizeOf(work);
    this.#start();
  }

  /** Asks for the front of the log up to `index` to be cut off soon. */
  compact(index: number): void {
    this.#compactIndex = Math.max(this.#compactIndex, index);
    this.#start();
  }

  /** Waits for the round under way, then writes what is only in memory; the rest of the queue is dropped. */
  async stop(): Promise<void> {
    this.#stop.abort(new DriveError("NODE_STOPPING", "The node is stopping."));
    await this.#running;
  }

  /** Writes the commit index that no record carries yet. After stop(), before the log is closed. */
  async writeHardState(): Promise<void> {
    const { log } = this.#options;
    if (this.#hardState.commitIndex === log.hardState.commitIndex) return;
    const { term, votedFor } = log.hardState;
    await log.append([
      { entries: [], hardState: { term, votedFor, commitIndex: this.#hardState.commitIndex } },
    ]);
  }

  #start(): void {
    if (this.#running !== undefined || this.#stop.signal.aborted) return;
    this.#running = this.#run();
    if (this.#hasFault("wakeup-lost")) this.#running = this.#running.finally(() => this.#ended());
  }

  #ended(): void {
    this.#running = undefined;
    this.#roundSinceMs = undefined;
  }

  #hasFault(fault: PlantedFault): boolean {
    return this.#options.plantedFault === fault;
  }

  async #run(): Promise<void> {
    // One turn later, so that all work of this turn of the event loop shares a round.
    await Promise.resolve();
    try {
      while (!this.#stop.signal.aborted && (this.#queue.length > 0 || this.#compactIndex > 0)) {
        this.#roundSinceMs = this.#options.clock.monotonicMs();
        await this.#round();
        await this.#compactNow();
      }
    } catch (error) {
      if (!this.#stop.signal.aborted) this.#options.onFatal(error as Error);
    } finally {
      // In the same turn as the last look at the queue: work that comes between the two would wait for ever.
      if (!this.#hasFault("wakeup-lost")) this.#ended();
    }
  }

  /** Takes work up to the first snapshot or as much as a round may have, or a snapshot alone. */
  async #round(): Promise<void> {
    const first = this.#queue[0];
    if (first === undefined) return;
    const batch = this.#queue.splice(0, this.#roundCount());
    if (first.snapshot !== undefined) await this.#installSnapshot(first, first.snapshot);
    await this.#append(batch);
    for (const work of batch) this.#queueBytes -= sizeOf(work);
    this.#options.deliver(batch.flatMap((work) => work.responses));
    if (this.#hasFault("vote-in-two-writes")) await this.#writeForgottenVote();
  }

  #roundCount(): number {
    const waiting = this.#queue.reduce((sum, { entries }) => sum + entries.length, 0);
    const countMax = Math.max(ROUND_ENTRY_COUNT, Math.floor(waiting * ROUND_SHARE));
    let entryCount = 0;
    for (const [at, { snapshot, entries }] of this.#queue.entries()) {
      entryCount += entries.length;
      // What has no entries costs nothing, so it is never left for the next sync.
      const isTooMany = entries.length > 0 && entryCount > countMax;
      if (at > 0 && (snapshot !== undefined || isTooMany)) return at;
      if (snapshot !== undefined) return 1;
    }
    return this.#queue.length;
  }

  async #append(batch: readonly Message[]): Promise<void> {
    const appends: LogAppend[] = batch.map((work) => ({ entries: work.entries }));
    for (const work of batch) if (work.term !== 0) this.#hardState = hardStateOf(work);
    const stored = this.#options.log.hardState;
    const hardState = this.#hardState;
    const isPromise = hardState.term !== stored.term || hardState.votedFor !== stored.votedFor;
    if (!isPromise && appends.every((append) => append.entries.length === 0)) return;
    const isChanged = isPromise || hardState.commitIndex !== stored.commitIndex;
    const last: LogAppend = { entries: [], ...(isChanged ? { hardState } : {}) };
    const startMs = this.#options.clock.monotonicMs();
    await this.#plantBefore(appends, last);
    await this.#untilSpace(() => this.#options.log.append([...appends, this.#plantedState(last, stored)]));
    this.#options.metrics.synced("raft_log", this.#options.clock.monotonicMs() - startMs);
  }

  /** O-01: what an append replaces is deleted first, in a step of its own. */
  async #plantBefore(appends: readonly LogAppend[], last: LogAppend): Promise<void> {
    if (!this.#hasFault("append-in-two-steps")) return;
    for (const { entries } of appends) {
      const first = entries[0];
      if (first === undefined || first.index > this.#options.log.lastIndex()) continue;
      await this.#options.log.append([{ entries: [first] }, last]);
    }
  }

  /** H-01: a new vote is not in the write that its answer waits for. */
  #plantedState(append: LogAppend, stored: HardState): LogAppend {
    if (!this.#hasFault("vote-in-two-writes") || append.hardState === undefined) return append;
    const votedFor = append.hardState.term === stored.term ? stored.votedFor : NO_MEMBER;
    return { entries: append.entries, hardState: { ...append.hardState, votedFor } };
  }

  async #writeForgottenVote(): Promise<void> {
    const { log } = this.#options;
    if (log.hardState.votedFor === this.#hardState.votedFor) return;
    await log.append([{ entries: [], hardState: { ...log.hardState, votedFor: this.#hardState.votedFor } }]);
  }

  async #installSnapshot(work: Message, snapshot: Snapshot): Promise<void> {
    const base = work.term === 0 ? this.#hardState : hardStateOf(work);
    const commitIndex = Math.max(base.commitIndex, snapshot.metadata.index);
    this.#hardState = { ...base, commitIndex };
    await this.#untilSpace(() => this.#options.install(snapshot, this.#hardState));
  }

  async #compactNow(): Promise<void> {
    if (this.#compactIndex === 0 || this.#stop.signal.aborted) return;
    const index = this.#compactIndex;
    this.#compactIndex = 0;
    const { log, logger } = this.#options;
    // A snapshot installed in the meantime may have moved the log beyond it.
    if (index > log.lastIndex()) return;
    try {
      await log.compact(index);
      logger.info("log_compacted", { index, first_index: log.firstIndex() });
    } catch (error) {
      if (!hasReason(error, "NO_SPACE")) throw error;
      logger.warn("log_not_compacted", { index, reason: error.message });
    }
  }

  /** Repeats `work` until it does not fail for lack of space. */
  async #untilSpace(work: () => Promise<void>): Promise<void> {
    for (;;) {
      try {
        await work();
        this.#isFull = false;
        return;
      } catch (error) {
        if (!hasReason(error, "NO_SPACE")) throw error;
        this.#isFull = true;
        this.#options.logger.error("log_disk_full", { reason: error.message });
      }
      await sleep(this.#options.clock, NO_SPACE_RETRY_MS, this.#stop.signal);
    }
  }
}

function hardStateOf(work: Message): HardState {
  return { term: work.term, votedFor: work.votedFor, commitIndex: work.commitIndex };
}

function sizeOf(work: Message): number {
  let sizeBytes = 0;
  for (let at = 0; at < work.entries.length; at += 1) {
    sizeBytes += must(work.entries[at], "inside the entries").data.length;
  }
  return sizeBytes;
}
