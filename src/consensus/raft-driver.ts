/**
 * Runs the core: hands it ticks and messages, and carries out what it hands back.
 *
 *   ticks, messages, proposals --> RaftNode --ready()--> messages to peers, at once
 *                                    ^                    storage-append --> LogWriter --durable--> its responses
 *                                    |                    storage-apply  --> Applier   --applied--> its responses
 *                                    '---- responses to this node itself ------------------------------'
 *
 * A leader's appends leave in parallel with its own fsync; votes and acknowledgements are responses and leave only once
 * what they promise is durable: the core's async mode decides which is which, nothing here does. The core is entered from
 * one place at a time and drained one microtask later, so that what comes in one turn is handled together.
 *
 * A leader whose disk is stuck, or full, would go on heartbeating for ever while committing through the others at best, and nothing
 * at worst. After diskStallMs, or at once when the disk is full, it hands leadership to the most up-to-date voter; if that has not worked within an election
 * timeout it stops sending as a leader, so that the others elect one and CheckQuorum makes it step down. Knows neither
 * proposals nor reads: consensus.ts does.
 */
import { DriveError } from "../drive/errors.ts";
import { decodeConfChange } from "../raft/conf-change-codec.ts";
import type { PlantedFault } from "../raft/planted-faults.ts";
import type { MendingOptions } from "../raft/mending.ts";
import { RaftNode, type Ready } from "../raft/raft-node.ts";
import {
  LOCAL_APPEND_THREAD,
  LOCAL_APPLY_THREAD,
  type HardState,
  type LogEntry,
  type LogStorage,
  type MemberId,
  type Message,
  type ReadState,
  type Snapshot,
  type SoftState,
} from "../raft/types.ts";
import { assert, must } from "../std/assert.ts";
import type { Clock } from "../std/clock.ts";
import { isNoSpace, type Disk } from "../std/disk.ts";
import type { Prng } from "../std/prng.ts";
import type { Logger } from "../telemetry/logger.ts";
import type { Metrics } from "../telemetry/metrics.ts";
import { Applier } from "./applier.ts";
import { toldFatal } from "./history-refused.ts";
import { LogWriter } from "./log-writer.ts";
import type { PreparedGeneration, ReplicatedStore } from "./replicated-store.ts";
import type { SegmentRaftLog } from "./segment-raft-log.ts";
import { Snapshots } from "./snapshots.ts";
import type { RaftTransport } from "./transport.ts";
import type { ConsensusTuning } from "./tuning.ts";

/** What the driver tells its owner. Called in the middle of a turn: must not call back into the driver, except wake(). */
export interface DriverHooks<Result> {
  /** Before work is taken from the core: the place to propose. */
  readonly beforeReady: () => void;
  readonly onSoftState: (softState: SoftState) => void;
  readonly onReadState: (readState: ReadState) => void;
  readonly onEntry: (entry: LogEntry, result: Result | undefined) => void;
  readonly onBatch: (appliedIndex: number) => void;
  /** A snapshot has replaced the state up to `index`. */
  readonly onInstalled: (index: number) => void;
  readonly onFatal: (error: Error) => void;
}

/** Dependencies of a RaftDriver. */
export interface RaftDriverOptions<Result> {
  readonly memberId: MemberId;
  readonly clock: Clock;
  readonly prng: Prng;
  readonly disk: Disk;
  /** For snapshot files. */
  readonly directory: string;
  readonly logger: Logger;
  readonly metrics: Metrics;
  readonly tuning: ConsensusTuning;
  readonly log: SegmentRaftLog;
  readonly store: ReplicatedStore<Result>;
  readonly transport: RaftTransport;
  /** Set when entries may be missing from the log. */
  readonly mending: MendingOptions | undefined;
  readonly hooks: DriverHooks<Result>;
  /** A historical bug to show, in tests alone. */
  readonly plantedFault?: PlantedFault | undefined;
}

/** The loop around one RaftNode. */
export class RaftDriver<Result> {
  readonly #options: RaftDriverOptions<Result>;
  readonly node: RaftNode;
  readonly writer: LogWriter;
  readonly snapshots: Snapshots;
  readonly #applier: Applier<Result>;
  #isWoken = false;
  #isPumping = false;
  #isStopped = false;
  /** Loaded from a stream, waiting for the core to take it. */
  #offered: PreparedGeneration | undefined;
  /** Taken by the core, being installed. */
  #installing: PreparedGeneration | undefined;
  #stallTransferMs: number | undefined;

  constructor(options: RaftDriverOptions<Result>) {
    this.#options = options;
    const { log, store, clock, logger, metrics, tuning, hooks, disk, directory, transport, plantedFault } =
      options;
    const deliver = (responses: readonly Message[]): void => this.#deliver(responses);
    const onFatal = (error: Error): void => hooks.onFatal(error);
    this.snapshots = new Snapshots({
      store: store as ReplicatedStore<unknown>,
      disk,
      directory,
      clock,
      logger,
      transport,
      dumpStallMs: tuning.snapshotDumpStallMs,
      sendStallMs: tuning.snapshotSendStallMs,
      loadBytesPerSecond: tuning.snapshotLoadBytesPerSecond,
      logStartIndex: () => log.start.index,
      onSent: (to, ok) => this.#enter(() => this.node.reportSnapshot(to, ok)),
    });
    this.node = this.#makeNode();
    const install = (snapshot: Snapshot, state: HardState): Promise<void> => this.#install(snapshot, state);
    this.writer = new LogWriter({ log, clock, logger, metrics, install, deliver, onFatal, plantedFault });
    this.#applier = new Applier({
      store,
      clock,
      metrics,
      applyConfChange: (entry, before) =>
        this.node.applyConfChange(decodeConfChange(entry.data), entry.index, before),
      onEntry: hooks.onEntry,
      onBatch: hooks.onBatch,
      deliver,
      onFatal,
    });
  }

  /** Whether this node's disk has not answered for so long that it should not lead. */
  get isStalled(): boolean {
    return this.writer.stalledMs() > this.#options.tuning.diskStallMs;
  }

  /** What keeps this node's disk from taking entries, and so this node from leading; undefined when nothing does. */
  get diskTrouble(): "full" | "stalled" | undefined {
    if (this.writer.isFull) return "full";
    return this.isStalled ? "stalled" : undefined;
  }

  /** Has the core drained one microtask later. */
  wake(): void {
    if (this.#isWoken || this.#isStopped) return;
    this.#isWoken = true;
    queueMicrotask(() => {
      this.#isWoken = false;
      this.#pump();
    });
  }

  /** Moves the core's time by one tick. */
  tick(): void {
    this.#enter(() => {
      this.#checkStall();
      this.node.tick();
    });
  }

  /** Takes a message from another member. */
  step(message: Message): void {
    const { memberId, tuning, logger } = this.#options;
    if (message.to !== memberId) {
      logger.warn("message_not_for_this_member", { from: message.from, to: message.to, kind: message.kind });
      return;
    }
    // Its state comes over a stream of its own, see receiveSnapshot(); forwarded proposals do not come this way either.
    if (message.kind === "snapshot" || message.kind === "propose") return;
    // A follower that cannot keep up with its disk lets the leader repeat instead of keeping everything in memory.
    if (message.entries.length > 0 && this.writer.unwrittenBytes > tuning.unwrittenBytesMax) return;
    this.#enter(() => this.node.step(message));
  }

  /** Takes a snapshot and its state; resolves once the core knows of it, whether it wanted it or not. */
  async receiveSnapshot(message: Message, pieces: AsyncIterable<Uint8Array>): Promise<void> {
    const snapshot = must(message.snapshot, "a snapshot message has a snapshot");
    if (message.to !== this.#options.memberId) return;
    if (snapshot.metadata.index <= this.node.basicStatus().commitIndex) {
      // Nothing new: let the core tell the leader how far this node is.
      this.#enter(() => this.node.step(message));
      return;
    }
    const prepared = await this.snapshots.receive(snapshot, pieces);
    if (this.#isStopped) return;
    this.#offered = prepared;
    this.#enter(() => this.node.step(message));
    this.#pump();
    if (this.#offered !== prepared) return;
    this.#offered = undefined;
    await this.#options.store.abandonInstall(prepared);
  }

  /** Runs `work` on the core and drains it later. What it throws is a broken invariant or damaged data, and final. */
  enter(work: (node: RaftNode) => void): void {
    this.#enter(() => work(this.node));
  }

  /** Drains the core now. For calls whose outcome must be known at once. */
  pump(): void {
    this.#pump();
  }

  /** Ends writing, applying and sending; what was promised is durable. */
  async stop(): Promise<void> {
    this.#isStopped = true;
    await Promise.all([this.writer.stop(), this.#applier.stop(), this.snapshots.stop()]);
  }

  /** Ends at once after something final: nothing more is sent, and no further round of writing or applying begins. */
  abandon(): void {
    void this.stop();
  }

  #makeNode(): RaftNode {
    const { memberId, prng, tuning, log, store } = this.#options;
    const storage: LogStorage = {
      initialState: () => ({ hardState: log.hardState, confState: store.state.confState }),
      entries: (low, high, sizeBytesMax) => log.entries(low, high, sizeBytesMax),
      term: (index) => log.term(index),
      firstIndex: () => log.firstIndex(),
      lastIndex: () => log.lastIndex(),
      snapshot: () => this.snapshots.current(),
    };
    return new RaftNode({
      id: memberId,
      storage,
      prng,
      electionTicks: tuning.electionTicks,
      heartbeatTicks: tuning.heartbeatTicks,
      entriesSizeBytesMax: tuning.entriesSizeBytesMax,
      committedSizeBytesMax: tuning.committedSizeBytesMax,
      inflightMessagesMax: tuning.inflightMessagesMax,
      inflightBytesMax: tuning.inflightBytesMax,
      appendsPerAnswerMax: tuning.appendsPerAnswerMax,
      uncommittedBytesMax: tuning.uncommittedBytesMax,
      appliedIndex: store.state.appliedIndex,
      mending: this.#options.mending,
      asyncStorageWrites: true,
      plantedFault: this.#options.plantedFault,
    });
  }

  #enter(work: () => void): void {
    if (this.#isStopped) return;
    try {
      work();
    } catch (error) {
      this.#options.hooks.onFatal(toldFatal(error));
      return;
    }
    this.wake();
  }

  #pump(): void {
    if (this.#isPumping || this.#isStopped) return;
    this.#isPumping = true;
    try {
      for (;;) {
        this.#options.hooks.beforeReady();
        if (this.#isStopped || !this.node.hasReady()) return;
        this.#handle(this.node.ready());
      }
    } catch (error) {
      this.#options.hooks.onFatal(toldFatal(error));
    } finally {
      this.#isPumping = false;
    }
  }

  #handle(ready: Ready): void {
    const { hooks } = this.#options;
    if (ready.softState !== undefined) hooks.onSoftState(ready.softState);
    if (ready.snapshot !== undefined) this.#takeOffered(ready.snapshot);
    for (const readState of ready.readStates) hooks.onReadState(readState);
    const out: Message[] = [];
    for (const message of ready.messages) {
      if (message.to === LOCAL_APPEND_THREAD) this.writer.enqueue(message);
      else if (message.to === LOCAL_APPLY_THREAD) this.#applier.enqueue(message);
      else if (message.kind === "snapshot") this.#sendSnapshot(message);
      else out.push(message);
    }
    this.#send(out);
  }

  #deliver(responses: readonly Message[]): void {
    const { memberId } = this.#options;
    this.#enter(() => {
      const out: Message[] = [];
      for (const message of responses) {
        if (message.to === memberId) this.node.step(message);
        else out.push(message);
      }
      this.#send(out);
    });
  }

  #send(messages: readonly Message[]): void {
    if (messages.length === 0) return;
    const allowed = this.#isMuted() ? messages.filter((message) => !isLeading(message)) : messages;
    if (allowed.length > 0) this.#options.transport.send(allowed);
  }

  #sendSnapshot(message: Message): void {
    // Later: the core must not be entered while it hands out work.
    queueMicrotask(() => {
      if (!this.#isStopped) this.snapshots.send(message);
    });
  }

  #takeOffered(snapshot: Snapshot): void {
    const prepared = must(this.#offered, "a snapshot is stepped only after its state was loaded");
    assert(
      prepared.metadata.index === snapshot.metadata.index,
      "the core took the snapshot that was offered",
    );
    this.#offered = undefined;
    this.#installing = prepared;
  }

  /** Called by the log writer when everything before the snapshot is durable; again after NO_SPACE. */
  async #install(snapshot: Snapshot, hardState: HardState): Promise<void> {
    const { store, log, hooks, logger } = this.#options;
    const { index, term } = snapshot.metadata;
    await this.#applier.idle();
    await this.snapshots.abortDump();
    if (this.#installing !== undefined) {
      try {
        await store.commitInstall(this.#installing);
      } catch (error) {
        if (!isNoSpace(error)) throw error;
        throw new DriveError("NO_SPACE", "There is no space to install a snapshot.", {}, error);
      }
      this.#installing = undefined;
    }
    await log.reset({ index, term }, hardState);
    logger.info("snapshot_installed", { index, term });
    hooks.onInstalled(index);
  }

  #checkStall(): void {
    const { clock, logger, tuning } = this.#options;
    const trouble = this.diskTrouble;
    if (trouble === undefined || this.node.basicStatus().role !== "leader") {
      this.#stallTransferMs = undefined;
      return;
    }
    if (this.#stallTransferMs !== undefined) return;
    this.#stallTransferMs = clock.monotonicMs();
    const to = this.#bestFollower();
    const stalledMs = this.writer.stalledMs();
    logger.error(`disk_${trouble}`, { stalled_ms: stalledMs, limit_ms: tuning.diskStallMs, to });
    if (to !== undefined) this.node.transferLeader(to);
  }

  /** The voter that holds the most of the log, of those heard lately. */
  #bestFollower(): MemberId | undefined {
    const { progress, config } = this.node.status();
    let best: { readonly id: MemberId; readonly matchIndex: number } | undefined;
    for (const id of config.voters) {
      const view = progress.get(id);
      if (id === this.#options.memberId || view === undefined || !view.recentActive) continue;
      if (best === undefined || view.matchIndex > best.matchIndex) best = { id, matchIndex: view.matchIndex };
    }
    return best?.id;
  }

  /** Whether this leader keeps silent because its disk is stuck or full and handing over has not worked. */
  #isMuted(): boolean {
    const { clock, tuning } = this.#options;
    if (this.#stallTransferMs === undefined || this.diskTrouble === undefined) return false;
    return clock.monotonicMs() - this.#stallTransferMs > tuning.tickMs * tuning.electionTicks;
  }
}

/** Whether a message tells its receiver that the sender leads. */
function isLeading(message: Message): boolean {
  return message.kind === "append" || message.kind === "heartbeat" || message.kind === "snapshot";
}
