/**
 * One member of the simulated Raft cluster: the core, and everything of it that outlives its process.
 *
 * The core runs with asynchronous storage, as in production: work for the disk and for the state machine waits in queues, takes
 * time, and delivers its responses only when it is durable or applied. A crash forgets the core and both queues; of the work
 * that waited for the disk nothing, some of it, or a part of one piece may be there nevertheless.
 */
import { assert, must } from "../../../src/std/assert.ts";
import { utf8 } from "../../../src/std/bytes.ts";
import type { Prng } from "../../../src/std/prng.ts";
import { decodeConfChange } from "../../../src/raft/conf-change-codec.ts";
import { hashEntry } from "../../../src/raft/invariants.ts";
import type { PlantedFault } from "../../../src/raft/planted-faults.ts";
import { RaftNode } from "../../../src/raft/raft-node.ts";
import {
  NO_MEMBER,
  type ConfState,
  type LogEntry,
  type Message,
  type Snapshot,
} from "../../../src/raft/types.ts";
import { emptySnapshot, MemoryLogStorage } from "../../support/raft/memory-log-storage.ts";
import { ELECTION_TICKS, type ClusterPlan } from "./cluster-plan.ts";

/** The replicated state: a rolling hash over everything applied, and the configuration. Immutable. */
export interface ReplicatedState {
  readonly index: number;
  readonly term: number;
  readonly hash: number;
  readonly config: ConfState;
}

/** What a crash leaves of the work that waited for the disk. */
export type UnsyncedFate = "lost" | "kept" | "torn";

/** What a member tells the run. */
export interface MemberHooks {
  readonly send: (from: ClusterMember, message: Message) => void;
  /** An entry was applied; `state` is what it made. */
  readonly applied: (member: ClusterMember, entry: LogEntry, state: ReplicatedState) => void;
  /** Something became durable. */
  readonly stored: (member: ClusterMember) => void;
  /** A snapshot was installed over `before`. */
  readonly installed: (member: ClusterMember, before: ReplicatedState) => void;
  readonly read: (member: ClusterMember, context: string, index: number) => void;
}

/** A member and what is on its disk. */
export class ClusterMember {
  readonly id: number;
  readonly storage: MemoryLogStorage;
  /** State of the state machine now, and as its store has it durably. */
  state: ReplicatedState;
  flushed: ReplicatedState;
  /** Undefined while the process is down. */
  raft: RaftNode | undefined;
  incarnation = 0;
  /** A member that lost its disk never comes back under its id. */
  isRetired = false;
  appendWork: Message[] = [];
  applyWork: Message[] = [];
  pausedUntil = 0;
  /** Reads that clients asked for while the process stood still. */
  waitingReadCount = 0;
  diskFreeAt = 0;
  applyFreeAt = 0;
  /** Writes wait until then: slow, or without space. */
  stalledUntil = 0;
  clockRate = 1;
  clock = 0;
  restartsAt = 0;
  /** Term of its last entry when the checks looked at it last. */
  lastTermSeen: number | undefined;
  readonly #plan: ClusterPlan;
  readonly #prng: Prng;
  readonly #hooks: MemberHooks;
  readonly #plantedFault: PlantedFault | undefined;
  /** H-01: a vote that its answer did not wait for. */
  #lateVote: number | undefined;

  constructor(options: {
    readonly id: number;
    readonly config: ConfState;
    readonly plan: ClusterPlan;
    readonly prng: Prng;
    readonly hooks: MemberHooks;
    readonly plantedFault: PlantedFault | undefined;
  }) {
    this.id = options.id;
    this.#plan = options.plan;
    this.#prng = options.prng;
    this.#hooks = options.hooks;
    this.#plantedFault = options.plantedFault;
    this.storage = new MemoryLogStorage(emptySnapshot(options.config));
    this.storage.snapshotOverride = () => this.#snapshot();
    this.state = { index: 0, term: 0, hash: 0, config: options.config };
    this.flushed = this.state;
  }

  /** The core of a process that runs. */
  get live(): RaftNode {
    return must(this.raft, `member ${this.id} runs`);
  }

  /** Starts a process on what the disk has. */
  start(): void {
    assert(this.raft === undefined && !this.isRetired, "the process is down");
    this.incarnation += 1;
    this.state = this.flushed;
    this.storage.appliedConfState = this.state.config;
    this.raft = new RaftNode({
      id: this.id,
      storage: this.storage,
      prng: this.#prng,
      electionTicks: ELECTION_TICKS,
      heartbeatTicks: 1,
      entriesSizeBytesMax: this.#plan.entriesSizeBytesMax,
      committedSizeBytesMax: 128,
      inflightMessagesMax: this.#plan.inflightMessagesMax,
      inflightBytesMax: 0,
      appendsPerAnswerMax: 1 + (this.#plan.inflightMessagesMax % 3),
      uncommittedBytesMax: this.#plan.uncommittedBytesMax,
      appliedIndex: this.state.index,
      asyncStorageWrites: true,
      pendingReadsMax: 8,
      plantedFault: this.#plantedFault,
    });
  }

  /** Ends the process at once. */
  crash(fate: UnsyncedFate): void {
    const work = this.appendWork;
    this.raft = undefined;
    this.appendWork = [];
    this.applyWork = [];
    this.#lateVote = undefined;
    if (fate === "lost") return;
    const keptCount = this.#prng.below(work.length + 1);
    for (const one of work.slice(0, keptCount)) this.#write(one);
    const torn = work[keptCount];
    if (fate === "kept" || torn === undefined || torn.snapshot !== undefined) return;
    // The hard state stands in front of the entries, and what is torn loses its end.
    this.#write({ ...torn, entries: torn.entries.slice(0, this.#prng.below(torn.entries.length + 1)) });
  }

  /** Hands out what the core has to do. */
  drain(): void {
    while (this.raft?.hasReady() === true) {
      const ready = this.raft.ready();
      for (const { context, index } of ready.readStates) {
        this.#hooks.read(this, Buffer.from(context).toString(), index);
      }
      for (const message of ready.messages) {
        if (message.kind === "storage-append") this.appendWork.push(message);
        else if (message.kind === "storage-apply") this.applyWork.push(message);
        else this.#hooks.send(this, message);
      }
    }
  }

  /**
   * Makes what waits for the disk durable in one go, as the log writer does: everything up to the first snapshot, or a
   * snapshot alone. True when there was something.
   */
  storeNext(): boolean {
    if (this.#lateVote !== undefined) {
      this.storage.hardState = { ...this.storage.hardState, votedFor: this.#lateVote };
      this.#lateVote = undefined;
      return true;
    }
    const [first] = this.appendWork;
    if (first === undefined) return false;
    if (this.#plantedFault === "append-in-two-steps" && this.#deletesFirst(first)) return true;
    const snapshotAt = this.appendWork.findIndex((work) => work.snapshot !== undefined);
    const count = snapshotAt < 0 ? this.appendWork.length : Math.max(1, snapshotAt);
    const batch = this.appendWork.splice(0, count);
    for (const work of batch) this.#write(work);
    for (const work of batch) this.#deliver(work.responses);
    return true;
  }

  /** Applies the next piece of work; true when there was one. */
  applyNext(): boolean {
    const work = this.applyWork.shift();
    if (work === undefined) return false;
    for (const entry of work.entries) {
      // A snapshot may have overtaken the state machine.
      if (entry.index <= this.state.index) continue;
      assert(
        entry.index === this.state.index + 1,
        `R15: entry ${entry.index} applied after ${this.state.index}`,
      );
      assert(
        entry.index <= this.storage.lastIndex(),
        `R15: entry ${entry.index} applied before it was stored`,
      );
      const config =
        entry.kind === "conf-change"
          ? this.live.applyConfChange(decodeConfChange(entry.data), entry.index, this.state.config)
          : this.state.config;
      const hash =
        (Math.imul(this.state.hash, 31) ^ hashEntry(entry) ^ Math.imul(entry.term, 0x9e3779b1)) >>> 0;
      this.state = { index: entry.index, term: entry.term, hash, config };
      this.#hooks.applied(this, entry, this.state);
    }
    this.#deliver(work.responses);
    return true;
  }

  /** Makes the state durable, and cuts the log up to `index` or as far as that is possible. */
  flushAndCompact(index: number): boolean {
    this.flushed = this.state;
    const status = this.live.basicStatus();
    const upTo = Math.min(index, this.flushed.index, status.appliedIndex, this.storage.lastIndex());
    if (status.pendingSnapshotIndex > 0 || upTo < this.storage.firstIndex()) return false;
    this.storage.compact(upTo);
    return true;
  }

  #write(work: Message): void {
    const { term, votedFor, commitIndex, snapshot } = work;
    const stored = this.storage.hardState;
    if (term !== 0) {
      const isLate = this.#plantedFault === "vote-in-two-writes" && votedFor !== stored.votedFor;
      if (isLate) this.#lateVote = votedFor;
      const kept = term === stored.term ? stored.votedFor : NO_MEMBER;
      this.storage.hardState = { term, votedFor: isLate ? kept : votedFor, commitIndex };
    }
    if (snapshot !== undefined && snapshot.metadata.index > this.storage.firstIndex() - 1) {
      const before = this.state;
      this.storage.applySnapshot(snapshot);
      this.state = stateOf(snapshot);
      this.flushed = this.state;
      this.#hooks.installed(this, before);
    }
    this.storage.append(work.entries);
    const { hardState } = this.storage;
    // A commit index beyond the entries that survived a crash promises nothing; recovery cuts it back.
    const lastIndex = this.storage.lastIndex();
    if (hardState.commitIndex > lastIndex) this.storage.hardState = { ...hardState, commitIndex: lastIndex };
    this.#hooks.stored(this);
  }

  /** O-01: what an append replaces is deleted in a step of its own; true when that was done now. */
  #deletesFirst(work: Message): boolean {
    const first = work.entries[0];
    if (first === undefined || first.index > this.storage.lastIndex()) return false;
    this.storage.append([first]);
    if (this.storage.lastIndex() === first.index && work.entries.length === 1) return false;
    this.appendWork[0] = { ...work, entries: work.entries.slice(1) };
    this.#hooks.stored(this);
    return true;
  }

  #deliver(responses: readonly Message[]): void {
    for (const response of responses) {
      if (response.to === this.id) this.live.step(response);
      else this.#hooks.send(this, response);
    }
  }

  #snapshot(): Snapshot {
    const { index, term, hash, config } = this.state;
    return { metadata: { index, term, confState: config }, data: utf8(String(hash)) };
  }
}

function stateOf({ metadata, data }: Snapshot): ReplicatedState {
  const { index, term, confState } = metadata;
  return { index, term, hash: Number(Buffer.from(data).toString()), config: confState };
}
