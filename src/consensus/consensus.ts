/**
 * Consensus on one node: proposes commands, makes reads linearizable, and keeps the replicated state in step with the others.
 *
 * Any node takes any proposal: the leader appends it, others forward it. A proposal that certainly did not happen is tried
 * again inside until the time is up; one that may have happened never is, and ends as COMMIT_OUTCOME_UNKNOWN. Generic over
 * what the state machine answers; knows nothing of what commands mean. How the core is run is in raft-driver.ts.
 *
 * What is waited for is bounded (tuning.ts), and everything ends: by its answer, its timeout, its signal or stop().
 */
import { DriveError, hasReason } from "../drive/errors.ts";
import { votersOnly } from "../raft/conf-change.ts";
import { viewOf, type NodeView } from "../raft/invariants.ts";
import {
  NO_MEMBER,
  type ConfChange,
  type ConfState,
  type MemberId,
  type Message,
  type Role,
  type SoftState,
} from "../raft/types.ts";
import { assert, must } from "../std/assert.ts";
import type { Timer } from "../std/clock.ts";
import type { OrderedReader } from "../std/ordered-store.ts";
import { unlessFull } from "../segments/segment-error.ts";
import type { Logger } from "../telemetry/logger.ts";
import { noMetrics, type Metrics } from "../telemetry/metrics.ts";
import type { StateHash } from "./codec.ts";
import type { ConsensusOptions, ConsensusStatus, RequestOptions } from "./consensus-options.ts";
import { waitFor, waitUntil } from "./deadline.ts";
import { Failover } from "./failover.ts";
import { mendingOf, MendingKeeper } from "./mending-keeper.ts";
import { LogMaintenance } from "./log-maintenance.ts";
import { openStorage, type Storage } from "./open-storage.ts";
import { MembershipChanges } from "./membership-changes.ts";
import {
  checkCluster,
  checkCommandSize,
  notDone,
  outcomeUnknown,
  ProposalBook,
  type Applied,
} from "./proposals.ts";
import { isRebuilding, problemsOf } from "./problems.ts";
import { RaftDriver } from "./raft-driver.ts";
import { Reads } from "./reads.ts";
import type { Snapshots } from "./snapshots.ts";
import { StateHashCheck } from "./state-hash-check.ts";
import type { ForwardedResult, ForwardOptions, PeerHandler } from "./transport.ts";
import { checkTuning, TUNING_DEFAULT, type ConsensusTuning } from "./tuning.ts";

/** A proposal that certainly did not happen is tried again after this long, or as soon as there is another leader. */
const RETRY_DELAY_MS = 50;

/** What start() builds. */
interface Running<Result> extends Storage<Result> {
  readonly driver: RaftDriver<Result>;
  readonly reads: Reads;
  readonly failover: Failover;
  readonly hashCheck: StateHashCheck;
  readonly maintenance: LogMaintenance;
  readonly mending: MendingKeeper;
}

/** Consensus on one node. */
export class Consensus<Result> implements PeerHandler {
  readonly #options: ConsensusOptions<Result>;
  readonly #tuning: ConsensusTuning;
  readonly #metrics: Metrics;
  readonly #logger: Logger;
  readonly #book: ProposalBook<Result>;
  readonly #appliedListeners = new Set<(appliedIndex: number) => void>();
  readonly #roleListeners = new Set<(role: Role, leaderId: MemberId | undefined) => void>();
  readonly #membership: MembershipChanges;
  #state: "new" | "running" | "failed" | "stopped" = "new";
  #running: Running<Result> | undefined;
  #softState: SoftState = { role: "follower", leaderId: NO_MEMBER };
  #tickTimer: Timer | undefined;
  #forwardedCount = 0;
  #stopping: Promise<void> | undefined;

  constructor(options: ConsensusOptions<Result>) {
    this.#options = options;
    this.#tuning = { ...TUNING_DEFAULT, ...options.tuning };
    checkTuning(this.#tuning);
    assert(Number.isSafeInteger(options.memberId) && options.memberId > 0, `member id ${options.memberId}`);
    assert(options.clusterId.length > 0, "a cluster has an id");
    this.#metrics = options.metrics ?? noMetrics;
    this.#logger = options.logger.child("consensus");
    this.#membership = new MembershipChanges({
      clock: options.clock,
      tuning: this.#tuning,
      leaderId: () => this.leaderId(),
      onRoleChange: (listener) => this.onRoleChange(listener),
    });
    this.#book = new ProposalBook({
      countMax: this.#tuning.proposalCountMax,
      bytesMax: this.#tuning.proposalBytesMax,
      batchCountMax: this.#tuning.proposalBatchCountMax,
      batchBytesMax: this.#tuning.proposalBatchBytesMax,
    });
  }

  /**
   * Opens log and state, and begins to take part. Once, after which messages may come.
   * @throws DriveError DATA_CORRUPT, WRONG_CLUSTER; errors of the disk
   */
  async start(): Promise<void> {
    assert(this.#state === "new" && this.#running === undefined, "start() is called once");
    const { initialVoters, stores: provider, stateMachine } = this.#options;
    const storage = await openStorage({
      ...this.#options,
      logger: this.#logger,
      store: { provider, stateMachine, initialConfState: votersOnly(initialVoters) },
      onUnreadable: (index, error) => this.#cutUnreadable(index, error),
      onFatal: (error) => this.#fail(error),
    });
    this.#running = this.#build(storage);
    await this.#running.driver.snapshots.start();
    this.#state = "running";
    const { hardState, start } = storage.log;
    this.#logger.info("consensus_started", {
      term: hardState.term,
      first_index: start.index + 1,
      last_index: storage.log.lastIndex(),
      applied_index: storage.store.state.appliedIndex,
      torn_bytes: storage.log.tornBytes,
    });
    this.#armTick();
    this.#running.driver.wake();
  }

  /** Takes no more part, answers everything that waits, and closes log and state. Idempotent. */
  stop(): Promise<void> {
    this.#stopping ??= this.#stop();
    return this.#stopping;
  }

  /**
   * Proposes a command from any node and waits until it is applied at the leader.
   * @param data 1 to COMMAND_SIZE_BYTES_MAX bytes; must not change afterwards
   * @throws DriveError PAYLOAD_TOO_LARGE, NO_LEADER, OVERLOADED, NODE_STARTING, NODE_STOPPING (it did not happen);
   *   COMMIT_OUTCOME_UNKNOWN, CANCELED (it may have)
   */
  async propose(data: Uint8Array, options: RequestOptions = {}): Promise<Applied<Result>> {
    checkCommandSize(data);
    const { clock } = this.#options;
    const startMs = clock.monotonicMs();
    const endMs = startMs + (options.timeoutMs ?? this.#tuning.requestTimeoutMs);
    try {
      const applied = await this.#proposeUntil(data, endMs, options.signal);
      this.#metrics.proposal("committed", clock.monotonicMs() - startMs);
      return applied;
    } catch (error) {
      const isUnknown = hasReason(error, "COMMIT_OUTCOME_UNKNOWN", "CANCELED");
      this.#metrics.proposal(isUnknown ? "unknown" : "refused", clock.monotonicMs() - startMs);
      throw error;
    }
  }

  /**
   * Resolves when this node's state holds everything that was acknowledged anywhere before the call.
   * @throws DriveError NO_LEADER when nobody confirmed it in time; OVERLOADED, NODE_STARTING, NODE_STOPPING, CANCELED
   */
  async linearize(options: RequestOptions = {}): Promise<void> {
    const { reads } = this.#active();
    const read = reads.begin();
    try {
      await waitFor(this.#options.clock, read.done.promise, {
        timeoutMs: options.timeoutMs ?? this.#tuning.requestTimeoutMs,
        signal: options.signal,
        onTimeout: () => new DriveError("NO_LEADER", "No leader has confirmed the read in time."),
      });
    } finally {
      reads.giveUp(read);
    }
  }

  /** The replicated state on this node. Ask again after every wait: a snapshot may replace it. After start(). */
  reader(): OrderedReader {
    return must(this.#running, "consensus was started").store.reader();
  }

  /** Highest applied index of this node's state; 0 before start(). */
  appliedIndex(): number {
    return this.#running?.store.state.appliedIndex ?? 0;
  }

  /** The leader as known here. */
  leaderId(): MemberId | undefined {
    return this.#softState.leaderId === NO_MEMBER ? undefined : this.#softState.leaderId;
  }

  /** This node's part in its term. */
  role(): Role {
    return this.#softState.role;
  }

  /** Whether this node's state was damaged and is being made anew: nothing of it may be shown. After start(). */
  isRebuilding(): boolean {
    return isRebuilding(must(this.#running, "consensus was started"));
  }

  /** What keeps this node from taking its part, in sentences; empty when nothing does. After start(). */
  problems(): readonly string[] {
    return problemsOf(must(this.#running, "consensus was started"));
  }

  /** Everything that is worth showing. After start(). */
  status(): ConsensusStatus {
    const { driver, store, log, reads, hashCheck } = must(this.#running, "consensus was started");
    return {
      ...driver.node.status(),
      appliedIndex: store.state.appliedIndex,
      clusterId: this.#options.clusterId,
      flushedIndex: store.flushedIndex,
      logSizeBytes: log.sizeBytes,
      proposalCount: this.#book.count,
      readCount: reads.count,
      disagreementCount: hashCheck.disagreementCount,
    };
  }

  /** The core as raft/invariants.ts looks at it; reads only. After start(). */
  view(): NodeView {
    return viewOf(must(this.#running, "consensus was started").driver.node, true);
  }

  /** Term and state hash after `index`, when it was applied here not long ago: the same on every member. After start(). */
  stateHashAt(index: number): { readonly term: number; readonly hash: Uint8Array } | undefined {
    return must(this.#running, "consensus was started").store.hashAt(index);
  }

  /** Calls `listener` after each batch applied to this node's state; returns a function that ends that. */
  onApplied(listener: (appliedIndex: number) => void): () => void {
    this.#appliedListeners.add(listener);
    return () => this.#appliedListeners.delete(listener);
  }

  /** Calls `listener` when this node's role, or the leader as known here, changes; returns a function that ends that. */
  onRoleChange(listener: (role: Role, leaderId: MemberId | undefined) => void): () => void {
    this.#roleListeners.add(listener);
    return () => this.#roleListeners.delete(listener);
  }

  /** The configuration in force at this node. After start(). */
  confState(): ConfState {
    return must(this.#running, "consensus was started").store.state.confState;
  }

  /** Proposes a membership change as the leader; resolves to the configuration once it is applied here. See MembershipChanges. */
  changeMembership(change: Omit<ConfChange, "context">, options: RequestOptions = {}): Promise<ConfState> {
    return this.#membership.propose(this.#active().driver as RaftDriver<unknown>, change, options);
  }

  /**
   * Hands leadership over and waits until it has changed hands. Only the leader can.
   * @throws DriveError NOT_LEADER, ARGUMENT_INVALID (no voter), PEER_UNREACHABLE (it did not take over in time)
   */
  async transferLeadership(to: MemberId): Promise<void> {
    await this.#membership.transfer(this.#active().driver as RaftDriver<unknown>, to);
  }

  /** Dumps the state into files. @throws DriveError NODE_STARTING, NODE_STOPPING */
  get snapshots(): Pick<Snapshots, "dumpTo"> {
    return this.#active().driver.snapshots;
  }

  /** See PeerHandler. Messages before start() and after stop() are dropped, which Raft takes for loss. */
  step(message: Message, clusterId: string): void {
    checkCluster(this.#options.clusterId, clusterId, message.from);
    const running = this.#running;
    if (this.#state !== "running" || running === undefined) return;
    if (!running.failover.ignores(message)) running.driver.step(message);
  }

  /** See PeerHandler. */
  receiveStateHash(stateHash: StateHash, clusterId: string): void {
    checkCluster(this.#options.clusterId, clusterId, stateHash.from);
    if (this.#state === "running") this.#running?.hashCheck.receive(stateHash);
  }

  /** See PeerHandler. */
  async receiveSnapshot(
    message: Message,
    clusterId: string,
    pieces: AsyncIterable<Uint8Array>,
  ): Promise<void> {
    checkCluster(this.#options.clusterId, clusterId, message.from);
    await this.#active().driver.receiveSnapshot(message, pieces);
  }

  /** See PeerHandler. */
  async handleForwarded(data: Uint8Array, options: ForwardOptions): Promise<ForwardedResult> {
    checkCommandSize(data);
    const endMs = this.#options.clock.monotonicMs() + options.timeoutMs;
    const { index, result } = await this.#proposeHere(data, endMs, options.signal);
    return { index, result: this.#options.encodeResult(result) };
  }

  /** See PeerHandler. */
  peerUnreachable(memberId: MemberId): void {
    if (this.#state === "running") this.#running?.driver.enter((node) => node.reportUnreachable(memberId));
  }

  /** See PeerHandler. */
  peerDisconnected(memberId: MemberId): void {
    if (this.#state === "running") this.#running?.failover.peerDisconnected(memberId);
  }

  #build(storage: Storage<Result>): Running<Result> {
    const { memberId, clock, prng, disk, directory, transport } = this.#options;
    const { log, store } = storage;
    const tuning = this.#tuning;
    const onFatal = (error: Error): void => this.#fail(error);
    const driver = new RaftDriver<Result>({
      ...{ memberId, clock, prng, disk, directory, transport, tuning, log, store },
      plantedFault: this.#options.plantedFault,
      mending: mendingOf(storage.promises, prng),
      logger: this.#logger,
      metrics: this.#metrics,
      hooks: {
        beforeReady: () => this.#appendProposals(),
        onSoftState: (softState) => this.#onSoftState(softState),
        onReadState: ({ context, index }) => this.#running?.reads.confirmed(context, index),
        onEntry: (entry, result) => {
          this.#book.applied(entry, result);
          this.#membership.applied(entry, store.state.confState);
        },
        onBatch: (appliedIndex) => this.#onApplied(appliedIndex),
        onInstalled: (index) => {
          this.#book.skippedTo(index);
          this.#membership.skippedTo(index);
          this.#onApplied(index);
        },
        onFatal,
      },
    });
    const appliedIndex = (): number => store.state.appliedIndex;
    const reads = new Reads({
      ...{ clock, prng, appliedIndex },
      countMax: tuning.readCountMax,
      retryMs: tuning.readRetryMs,
      ask: (context) => this.#askRead(driver, context),
    });
    const failover = new Failover({
      ...{ memberId, clock, prng },
      core: {
        status: () => driver.node.basicStatus(),
        forgetLeader: () => driver.enter((node) => node.forgetLeader()),
        campaign: () => driver.enter((node) => node.campaign()),
      },
      delayMsMin: tuning.failoverDelayMsMin,
      delayMsMax: tuning.failoverDelayMsMax,
      pauseMs: tuning.tickMs * tuning.electionTicks,
    });
    const hashCheck = new StateHashCheck({
      ...{ memberId, clock, appliedIndex },
      onFatal: (error) => this.#distrustState(error),
      logger: this.#logger,
      entryCount: tuning.stateHashEntryCount,
      intervalMs: tuning.stateHashIntervalMs,
      confState: () => store.state.confState,
      hashAt: (index) => store.hashAt(index),
      send: (to, stateHash) => transport.sendStateHash(to, stateHash),
    });
    const maintenance = new LogMaintenance({
      ...{ clock, tuning, log, onFatal },
      ...{ metrics: this.#metrics, logger: this.#logger },
      freeBytes: () => disk.space(directory).then(({ freeBytes }) => freeBytes),
      store: store as Storage<unknown>["store"],
      writer: driver.writer,
      snapshots: driver.snapshots,
    });
    const { promises } = storage;
    const mending = new MendingKeeper({ promises, log, clock, logger: this.#logger, onFatal });
    return { ...storage, driver, reads, failover, hashCheck, maintenance, mending };
  }

  async #proposeUntil(
    data: Uint8Array,
    endMs: number,
    signal: AbortSignal | undefined,
  ): Promise<Applied<Result>> {
    for (;;) {
      this.#active();
      if (signal?.aborted === true) throw new DriveError("CANCELED", "The caller does not wait any longer.");
      const leaderId = this.leaderId();
      try {
        if (leaderId === undefined) throw notDone("no leader is known");
        if (leaderId === this.#options.memberId) return await this.#proposeHere(data, endMs, signal);
        return await this.#forward(leaderId, data, endMs, signal);
      } catch (error) {
        if (
          !hasReason(error, "NOT_LEADER", "NO_LEADER", "PEER_UNREACHABLE", "NODE_STARTING", "NODE_STOPPING")
        )
          throw error;
        if (this.#state !== "running") throw error;
        await this.#waitForOther(leaderId, endMs, signal, error);
      }
    }
  }

  /** Waits a little, or until the leader is another than `leaderId`. Throws NO_LEADER when the time is up. */
  async #waitForOther(
    leaderId: MemberId | undefined,
    endMs: number,
    signal: AbortSignal | undefined,
    cause: DriveError,
  ): Promise<void> {
    const { clock } = this.#options;
    const leftMs = endMs - clock.monotonicMs();
    if (leftMs <= 0) throw new DriveError("NO_LEADER", "No leader has taken the change in time.", {}, cause);
    const isKnown = leaderId !== undefined;
    const delayMs = isKnown ? Math.min(leftMs, RETRY_DELAY_MS) : leftMs;
    const isOther = (): boolean => this.leaderId() !== leaderId || this.#state !== "running";
    await waitUntil(clock, delayMs, (changed) => this.onRoleChange(changed), isOther, signal);
  }

  async #forward(
    leaderId: MemberId,
    data: Uint8Array,
    endMs: number,
    signal: AbortSignal | undefined,
  ): Promise<Applied<Result>> {
    const { clock, forwarder, decodeResult } = this.#options;
    const timeoutMs = Math.ceil(endMs - clock.monotonicMs());
    if (timeoutMs < 1) throw notDone("the time was up before it was sent");
    if (this.#forwardedCount >= this.#tuning.proposalCountMax) {
      throw new DriveError("OVERLOADED", `${this.#forwardedCount} proposals are on their way to the leader.`);
    }
    this.#forwardedCount += 1;
    try {
      const work = forwarder.propose(leaderId, data, { timeoutMs, signal });
      const onTimeout = (): Error => outcomeUnknown("the leader has not answered in time");
      const { index, result } = await waitFor(clock, work, { timeoutMs, signal, onTimeout });
      return { index, result: decodeResult(result) };
    } finally {
      this.#forwardedCount -= 1;
    }
  }

  /** Proposes as the leader. Throws NOT_LEADER when this node is not, or certainly was not able to. */
  async #proposeHere(
    data: Uint8Array,
    endMs: number,
    signal: AbortSignal | undefined,
  ): Promise<Applied<Result>> {
    const { driver } = this.#active();
    const { clock } = this.#options;
    if (this.#softState.role !== "leader") throw notDone("this node does not lead", this.leaderId());
    if (driver.diskTrouble !== undefined) throw notDone(`the leader's disk is ${driver.diskTrouble}`);
    const timeoutMs = endMs - clock.monotonicMs();
    if (timeoutMs <= 0) throw notDone("the time was up before it was proposed");
    const proposal = this.#book.offer(data);
    driver.wake();
    let isNotDone = false;
    const giveUp = (error: DriveError): DriveError => {
      isNotDone = this.#book.giveUp(proposal);
      return isNotDone ? notDone("it was not written to the log in time") : error;
    };
    return await waitFor(clock, proposal.answer.promise, {
      timeoutMs,
      signal,
      onTimeout: () => giveUp(outcomeUnknown("it was not committed in time")),
      onAbort: () =>
        giveUp(new DriveError("CANCELED", "The proposer does not wait for the outcome any longer.")),
    });
  }

  /** Hands queued proposals to the core, unless two rounds of the log writer are ahead of them: so they gather into batches. */
  #appendProposals(): void {
    const running = this.#running;
    if (running === undefined || !this.#book.hasQueued) return;
    const { node, writer } = running.driver;
    while (this.#book.hasQueued && writer.waitingCount === 0) {
      const batch = this.#book.nextBatch();
      const outcome = node.proposeBatch(batch.map((proposal) => proposal.data));
      if (outcome.outcome === "accepted") {
        const { lastIndex, term } = node.basicStatus();
        this.#book.appended(batch, lastIndex - batch.length + 1, term);
        // The next batch waits until this one is with the writer.
        return;
      }
      // Room comes with the next commit, and the core is drained then.
      if (outcome.reason === "uncommitted-bytes-full") return;
      this.#book.rejectQueued(notDone(`the core refused it: ${outcome.reason}`, this.leaderId()));
    }
  }

  #askRead(driver: RaftDriver<Result>, context: Uint8Array): boolean {
    if (this.#state !== "running") return false;
    const outcome = driver.node.readIndex(context);
    driver.wake();
    return outcome.outcome === "accepted";
  }

  #onSoftState(softState: SoftState): void {
    const previous = this.#softState;
    this.#softState = softState;
    const { term } = must(this.#running, "consensus is running").driver.node.basicStatus();
    this.#logger.info("role_changed", { role: softState.role, leader_id: softState.leaderId, term });
    if (softState.leaderId !== previous.leaderId && softState.leaderId !== NO_MEMBER)
      this.#metrics.leaderChanged();
    if (softState.role !== "leader")
      this.#book.rejectQueued(notDone("this node leads no longer", this.leaderId()));
    if (softState.leaderId !== NO_MEMBER) queueMicrotask(() => this.#running?.reads.leaderChanged());
    for (const listener of [...this.#roleListeners]) listener(softState.role, this.leaderId());
  }

  #onApplied(appliedIndex: number): void {
    this.#running?.reads.applied(appliedIndex);
    this.#running?.hashCheck.applied(appliedIndex);
    for (const listener of [...this.#appliedListeners]) listener(appliedIndex);
  }

  #armTick(): void {
    this.#tickTimer = this.#options.clock.setTimer(this.#tuning.tickMs, () => {
      if (this.#state !== "running") return;
      this.#armTick();
      this.#tick();
    });
  }

  #tick(): void {
    const { driver, hashCheck, maintenance, mending } = must(this.#running, "consensus is running");
    driver.tick();
    if (this.#state !== "running") return;
    const status = driver.node.basicStatus();
    mending.tick(status);
    const isServing = status.role === "leader" && status.hasCommittedInTerm;
    hashCheck.tick(isServing);
    maintenance.tick();
    const { term, commitIndex } = status;
    const appliedIndex = this.appliedIndex();
    this.#metrics.raft({ term, commitIndex, appliedIndex, leading: status.role === "leader" });
  }

  /** The state is wrong: ends this node, and has the state made anew at the next start. */
  #distrustState(error: Error): void {
    const { store } = must(this.#running, "consensus is running");
    store.distrust(error.message).then(
      () => this.#fail(error),
      () => this.#fail(error),
    );
  }

  /** Cuts the log behind an entry that cannot be read any more: the state has it. */
  #cutUnreadable(index: number, error: Error): void {
    this.#logger.error("log_entry_unreadable", { index, reason: error.message });
    this.#running?.driver.writer.compact(index);
  }

  #active(): Running<Result> {
    if (this.#state === "new") throw new DriveError("NODE_STARTING", "Consensus has not started yet.");
    if (this.#state !== "running") throw new DriveError("NODE_STOPPING", "Consensus has stopped.");
    return must(this.#running, "consensus is running");
  }

  /** Ends consensus on this node at once, and tells the owner. The first failure counts. */
  #fail(error: Error): void {
    if (this.#state === "failed" || this.#state === "stopped") return;
    this.#state = "failed";
    this.#logger.fatal("consensus_failed", { error });
    this.#running?.driver.abandon();
    this.#end();
    this.#options.onFatal(error);
  }

  /** Answers everything that waits. */
  #end(): void {
    this.#tickTimer?.cancel();
    const stopping = new DriveError("NODE_STOPPING", "Consensus has stopped.");
    this.#running?.failover.stop();
    this.#running?.reads.rejectAll(stopping);
    this.#book.rejectAll(stopping);
    this.#membership.stop();
    this.#softState = { role: "follower", leaderId: NO_MEMBER };
    for (const listener of [...this.#roleListeners]) listener("follower", undefined);
  }

  async #stop(): Promise<void> {
    const running = this.#running;
    const hasFailed = this.#state === "failed";
    this.#state = "stopped";
    if (running === undefined) return;
    if (!hasFailed) this.#end();
    await Promise.all([running.driver.stop(), running.maintenance.stop()]);
    if (hasFailed) {
      // The files are in an unknown state: nothing is written to them any more, only given back.
      await Promise.allSettled([running.log.close(), running.store.close()]);
      return;
    }
    await unlessFull(running.driver.writer.writeHardState());
    await unlessFull(running.mending.stop());
    await unlessFull(running.store.flush());
    await Promise.all([running.log.close(), running.store.close()]);
  }
}
