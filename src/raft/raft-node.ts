/**
 * One Raft participant as its driver sees it: inputs go in by tick(), step() and propose(); ready() hands out a batch of
 * work; advance() (or, in async mode, the answers of the storage) confirms it. Design after etcd-io/raft's RawNode.
 *
 *            tick / step / propose / readIndex
 *                        |
 *                   [RaftCore]
 *                        |  ready()
 *      sync:  entries + hardState + snapshot -> store, then messages -> send, committedEntries -> apply, then advance()
 *      async: messages -> send at once; "storage-append" and "storage-apply" among them are work for the log writer and the
 *             state machine, whose `responses` are delivered once that work is durable or applied
 *
 * In async mode a leader's appends leave in parallel with its own fsync and heartbeats never wait for the disk, while no
 * vote and no acknowledgement leaves before what it promises is durable: those are `responses`. Not thread safe; no I/O.
 */
import { assert } from "../std/assert.ts";
import type { Prng } from "../std/prng.ts";
import { encodeConfChange } from "./conf-change-codec.ts";
import { entriesSizeBytes } from "./log-entries.ts";
import { isLocalKind, isResponseKind, isTermlessKind, makeMessage } from "./message.ts";
import { ACCEPTED, type ProposeOutcome } from "./outcome.ts";
import type { MendingOptions } from "./mending.ts";
import type { PlantedFault } from "./planted-faults.ts";
import type { ProgressView } from "./progress.ts";
import { RaftCore } from "./raft-core.ts";
import {
  LOCAL_APPEND_THREAD,
  LOCAL_APPLY_THREAD,
  NO_MEMBER,
  type ConfChange,
  type ConfState,
  type HardState,
  type LogEntry,
  type LogStorage,
  type MemberId,
  type Message,
  type ReadState,
  type Role,
  type Snapshot,
  type SoftState,
} from "./types.ts";

/** How a node is built. Required: who it is, what it reads, its timers and its bounds. */
export interface RaftNodeOptions {
  /** Positive safe integer. */
  readonly id: MemberId;
  readonly storage: LogStorage;
  readonly prng: Prng;
  /** Ticks without a leader before an election, at least 2; the timeout is drawn from [electionTicks, 2 * electionTicks). */
  readonly electionTicks: number;
  /** Ticks between heartbeats: 1 to electionTicks - 1. */
  readonly heartbeatTicks: number;
  /** Asks whether an election could be won before starting one (thesis 9.6). Default true. */
  readonly preVote?: boolean;
  /** A leader that hears no quorum steps down, and votes are refused while a leader is heard (thesis 4.2.3). Default true. */
  readonly checkQuorum?: boolean;
  /** Bytes of entries in one append message, at least 1; soft by one entry. */
  readonly entriesSizeBytesMax: number;
  /** Bytes of committed entries handed out and not confirmed as applied, at least 1; soft by one entry. */
  readonly committedSizeBytesMax: number;
  /** Append messages in flight to one follower, at least 1. */
  readonly inflightMessagesMax: number;
  /** Payload bytes in flight to one follower; soft by one message; 0 for no limit. */
  readonly inflightBytesMax: number;
  /** Append messages that one answer of a follower lets out, at least 1: bounds how long one step takes. Default: no limit. */
  readonly appendsPerAnswerMax?: number;
  /** Payload bytes that a leader keeps uncommitted, at least 1; soft by one proposal. */
  readonly uncommittedBytesMax: number;
  /** Index that the state machine has applied already; 0 to begin after the storage's snapshot. */
  readonly appliedIndex: number;
  /** Whether storing and applying are confirmed by messages instead of advance(). */
  readonly asyncStorageWrites: boolean;
  /** Whether a leader that is no voter any more steps down when that is applied. Default true. */
  readonly stepDownOnRemoval?: boolean;
  /** Whether a follower passes proposals on to its leader; else they are dropped with "not-leader". Default false. */
  readonly forwardProposals?: boolean;
  /** Reads that may wait for confirmation at once. Default 10,000. */
  readonly pendingReadsMax?: number;
  /** Set when the storage holds only what damage left of the log; see mending.ts. */
  readonly mending?: MendingOptions | undefined;
  /** A historical bug to show, in tests alone. */
  readonly plantedFault?: PlantedFault | undefined;
}

/** Reads that wait for one round of heartbeats are small; this bounds a driver that does not bound its own. */
export const PENDING_READS_MAX_DEFAULT = 10_000;

/** A batch of work. Arrays are the receiver's to keep, and must not be changed. */
export interface Ready {
  /** Role and leader, when they changed. For information; not durable. */
  readonly softState?: SoftState;
  /** Term, vote and commit index to store, when they changed. */
  readonly hardState?: HardState;
  /** Reads that may be served once their index is applied. */
  readonly readStates: readonly ReadState[];
  /** Entries to store, replacing any stored from the first one's index on. In async mode for information. */
  readonly entries: readonly LogEntry[];
  /** Snapshot to install before anything else. In async mode for information. */
  readonly snapshot?: Snapshot;
  /** Committed entries to apply, after `entries` are stored. In async mode for information. */
  readonly committedEntries: readonly LogEntry[];
  /** Messages to send: in sync mode after everything above is stored; in async mode at once. */
  readonly messages: readonly Message[];
  /** Whether what is to be stored must be durable; false when only the commit index changed. */
  readonly mustSync: boolean;
}

/** What step() came to. */
export type StepOutcome =
  | ProposeOutcome
  /** A kind that never travels, or one without the term it must have: somebody sends nonsense. */
  | { readonly outcome: "refused" }
  /** An answer of somebody who is not in the configuration. */
  | { readonly outcome: "unknown-member" };

/** A node without its followers' progress. */
export interface BasicStatus {
  readonly id: MemberId;
  readonly role: Role;
  readonly leaderId: MemberId;
  readonly leadTransferee: MemberId;
  readonly term: number;
  readonly votedFor: MemberId;
  readonly firstIndex: number;
  readonly lastIndex: number;
  readonly lastTerm: number;
  /** Highest index reported durable. */
  readonly stableIndex: number;
  readonly commitIndex: number;
  readonly appliedIndex: number;
  /** Index of a snapshot taken over and not confirmed as installed; 0 for none. */
  readonly pendingSnapshotIndex: number;
  /** Payload bytes that a leader has not committed and applied yet. */
  readonly uncommittedBytes: number;
  /** Whether a leader has committed an entry of its own term, so that it may serve. */
  readonly hasCommittedInTerm: boolean;
  /** Whether damage took entries away that are not all back yet: it neither campaigns nor votes freely. */
  readonly isMending: boolean;
}

/** A node with its configuration and, on a leader, the progress of each member in the order of ids. */
export interface Status extends BasicStatus {
  readonly config: ConfState;
  readonly progress: ReadonlyMap<MemberId, ProgressView>;
}

/** One Raft participant. */
export class RaftNode {
  readonly #core: RaftCore;
  readonly #isAsync: boolean;
  #previousSoftState: SoftState;
  #previousHardState: HardState;
  /** Sync mode: messages of this node to itself that advance() delivers; undefined when no batch is out. */
  #stepsOnAdvance: Message[] | undefined;

  /** Reads the storage's initial state. Asserts that the settings are in range and the storage is whole. */
  constructor(options: RaftNodeOptions) {
    checkOptions(options);
    this.#isAsync = options.asyncStorageWrites;
    this.#core = new RaftCore({
      ...options,
      preVote: options.preVote ?? true,
      checkQuorum: options.checkQuorum ?? true,
      stepDownOnRemoval: options.stepDownOnRemoval ?? true,
      forwardProposals: options.forwardProposals ?? false,
      pendingReadsMax: options.pendingReadsMax ?? PENDING_READS_MAX_DEFAULT,
    });
    this.#previousSoftState = this.#softState();
    this.#previousHardState = this.#core.hardState();
  }

  /** Moves this node's time by one tick. */
  tick(): void {
    this.#core.tick();
  }

  /**
   * Takes a message from the network, or a response that the storage was asked to deliver. Anything late, repeated or out of
   * order is harmless. The caller has made sure that `message.from` is who sent it.
   */
  step(message: Message): StepOutcome {
    const isFromStorage = message.from === LOCAL_APPEND_THREAD || message.from === LOCAL_APPLY_THREAD;
    if (!isFromStorage) {
      if (isLocalKind(message.kind)) return { outcome: "refused" };
      // Term 0 would slip past every comparison of terms.
      if (message.term === 0 && !isTermlessKind(message.kind)) return { outcome: "refused" };
      if (isResponseKind(message.kind) && !this.#core.tracker.progress.has(message.from)) {
        return { outcome: "unknown-member" };
      }
    }
    return this.#core.step(message);
  }

  /** Proposes `data` for the state machine. Accepted means appended to the leader's log (or passed on), not committed. */
  propose(data: Uint8Array): ProposeOutcome {
    return this.proposeBatch([data]);
  }

  /** Proposes several at once, which is much cheaper than one by one: all are accepted, consecutively, or all dropped. */
  proposeBatch(batch: readonly Uint8Array[]): ProposeOutcome {
    if (batch.length === 0) return ACCEPTED;
    const entries = batch.map((data): LogEntry => ({ index: 0, term: 0, kind: "normal", data }));
    return this.#core.step(makeMessage({ kind: "propose", from: this.#core.id, entries }));
  }

  /**
   * Proposes a membership change. "conf-change-refused" leaves an empty entry in its place: another change is not applied
   * yet, or this one does not fit the configuration in force.
   */
  proposeConfChange(change: ConfChange): ProposeOutcome {
    const entry: LogEntry = { index: 0, term: 0, kind: "conf-change", data: encodeConfChange(change) };
    return this.#core.step(makeMessage({ kind: "propose", from: this.#core.id, entries: [entry] }));
  }

  /**
   * Puts a committed change in force; called while applying its entry. Returns the configuration from that entry on. Not put in
   * force when a snapshot at or above `index` was taken over in the meantime, which may have later changes too.
   * @param index index of the entry that holds the change
   * @param before the configuration that the state machine has from the entries before it
   */
  applyConfChange(change: ConfChange, index: number, before: ConfState): ConfState {
    return this.#core.applyConfChange(change, index, before);
  }

  /** Starts an election now, if this node may be elected. */
  campaign(): void {
    this.#core.step(makeMessage({ kind: "hup", from: this.#core.id }));
  }

  /** Hands leadership to the voter `to`, within an election timeout or not at all; only a leader can. */
  transferLeader(to: MemberId): ProposeOutcome {
    if (this.#core.role !== "leader") return { outcome: "dropped", reason: "not-leader" };
    if (!this.#core.tracker.isVoter(to)) return { outcome: "dropped", reason: "not-a-voter" };
    return this.#core.step(makeMessage({ kind: "transfer-leader", from: to }));
  }

  /** Makes a follower forget its leader, so that it may vote at once: the leader is known to be gone. */
  forgetLeader(): void {
    this.#core.step(makeMessage({ kind: "forget-leader", from: this.#core.id }));
  }

  /**
   * Asks for a linearizable read: a ReadState with `context` comes out of a later ready(), unless leadership changes before,
   * in which case nothing comes and the caller asks again. `context` must be one never used before.
   */
  readIndex(context: Uint8Array): ProposeOutcome {
    return this.#core.step(makeMessage({ kind: "read-index", from: this.#core.id, context }));
  }

  /** Notes that a message to `id` could not be delivered. */
  reportUnreachable(id: MemberId): void {
    this.#core.step(makeMessage({ kind: "unreachable", from: id }));
  }

  /** Notes how sending a snapshot to `id` ended; must be called for every "snapshot" message, or nothing more is sent to it. */
  reportSnapshot(id: MemberId, ok: boolean): void {
    this.#core.step(makeMessage({ kind: "snapshot-status", from: id, reject: !ok }));
  }

  /** Whether ready() has anything to hand out. */
  hasReady(): boolean {
    const core = this.#core;
    return (
      core.messages.length > 0 ||
      core.messagesAfterAppend.length > 0 ||
      core.log.unstable.hasNextEntries() ||
      core.log.hasNextCommittedEntries(!this.#isAsync) ||
      core.readStates.length > 0 ||
      (core.role === "leader" && core.readOnly.isRoundOpen) ||
      core.log.unstable.nextSnapshot() !== undefined ||
      !softStatesEqual(this.#softState(), this.#previousSoftState) ||
      !hardStatesEqual(core.hardState(), this.#previousHardState)
    );
  }

  /** Hands out the work that has come up. In sync mode, advance() must follow before the next call. */
  ready(): Ready {
    assert(this.#stepsOnAdvance === undefined, "advance() was not called for the last batch");
    const core = this.#core;
    core.flushReadRound();
    const ready = this.#collect();
    const storeMessages = core.messagesAfterAppend;
    const stored = this.#makeAppendResponse(ready);
    const applied = this.#makeApplyResponse(ready.committedEntries);
    const messages = core.messages;
    if (this.#isAsync) {
      const isWork =
        ready.entries.length > 0 || ready.hardState !== undefined || ready.snapshot !== undefined;
      if (isWork || storeMessages.length > 0) {
        messages.push(this.#makeAppendWork(ready, storeMessages, stored));
      }
      if (applied !== undefined) messages.push(this.#makeApplyWork(ready.committedEntries, applied));
    } else {
      this.#stepsOnAdvance = [];
      for (const message of storeMessages) {
        if (message.to === core.id) this.#stepsOnAdvance.push(message);
        else messages.push(message);
      }
      if (stored !== undefined) this.#stepsOnAdvance.push(stored);
      if (applied !== undefined) this.#stepsOnAdvance.push(applied);
    }
    this.#accept(ready);
    return { ...ready, messages };
  }

  /** Sync mode: confirms that the last batch was stored, sent and applied. */
  advance(): void {
    assert(!this.#isAsync, "with asynchronous storage its responses take the place of advance()");
    const steps = this.#stepsOnAdvance;
    if (steps === undefined) return;
    this.#stepsOnAdvance = undefined;
    for (const message of steps) this.#core.step(message);
  }

  /** The node as it is now, with configuration and progress: plain data, a copy. */
  status(): Status {
    const core = this.#core;
    const progress = new Map<MemberId, ProgressView>();
    if (core.role === "leader") {
      for (const [id, member] of core.tracker.progress) progress.set(id, member.view());
    }
    return { ...this.basicStatus(), config: core.tracker.config, progress };
  }

  /** The node as it is now; cheap. */
  basicStatus(): BasicStatus {
    const core = this.#core;
    return {
      id: core.id,
      role: core.role,
      leaderId: core.leaderId,
      leadTransferee: core.leadTransferee,
      term: core.term,
      votedFor: core.votedFor,
      firstIndex: core.log.firstIndex,
      lastIndex: core.log.lastIndex,
      lastTerm: core.log.lastTerm,
      stableIndex: core.log.stableIndex,
      commitIndex: core.log.commitIndex,
      appliedIndex: core.log.appliedIndex,
      pendingSnapshotIndex: core.log.unstable.snapshot?.metadata.index ?? 0,
      uncommittedBytes: core.uncommittedBytes,
      hasCommittedInTerm: core.role === "leader" && core.hasCommittedInTerm(),
      isMending: core.mending !== undefined,
    };
  }

  /** Term of the entry at `index`, stored or not; undefined outside of the log. For checks and status pages. */
  findTerm(index: number): number | undefined {
    return this.#core.log.findTerm(index);
  }

  /** Entries in [low, high) as the node sees them, stored or not; undefined where the log was cut off. For checks. */
  findEntries(low: number, high: number, sizeBytesMax: number): readonly LogEntry[] | undefined {
    return this.#core.log.findSlice(low, high, sizeBytesMax);
  }

  /** Sets when this node campaigns next, in ticks since it last heard a leader. For scripted scenarios, in tests alone. */
  setElectionTimeoutTicks(ticks: number): void {
    this.#core.electionTimeoutTicks = ticks;
  }

  #softState(): SoftState {
    return { leaderId: this.#core.leaderId, role: this.#core.role };
  }

  #collect(): Omit<Ready, "messages"> {
    const core = this.#core;
    const entries = core.log.unstable.nextEntries();
    const softState = this.#softState();
    const hardState = core.hardState();
    const previous = this.#previousHardState;
    const snapshot = core.log.unstable.nextSnapshot();
    return {
      ...(softStatesEqual(softState, this.#previousSoftState) ? {} : { softState }),
      ...(hardStatesEqual(hardState, previous) ? {} : { hardState }),
      ...(snapshot === undefined ? {} : { snapshot }),
      readStates: core.readStates,
      entries,
      committedEntries: core.log.nextCommittedEntries(!this.#isAsync),
      mustSync:
        entries.length > 0 || hardState.term !== previous.term || hardState.votedFor !== previous.votedFor,
    };
  }

  /** Notes that everything in `ready` is out. */
  #accept(ready: Omit<Ready, "messages">): void {
    const core = this.#core;
    if (ready.softState !== undefined) this.#previousSoftState = ready.softState;
    if (ready.hardState !== undefined) this.#previousHardState = ready.hardState;
    // Always fresh arrays: what is handed out, even empty, belongs to the receiver and must never grow again.
    core.readStates = [];
    core.messages = [];
    core.messagesAfterAppend = [];
    core.log.unstable.acceptInProgress();
    const last = ready.committedEntries.at(-1);
    if (last !== undefined) {
      core.log.acceptApplying(last.index, entriesSizeBytes(ready.committedEntries), !this.#isAsync);
    }
  }

  /**
   * What the core must hear once everything handed out so far is stored, or undefined when there is nothing.
   *
   * It names the last entry of the whole unstable log, not of this batch. A write may be overwritten and later written again
   * with the same index and term while it waits (A, then B, then A again); the answer to a write says nothing about its own
   * entries then, but everything handed out before was stored too, because writes are done in order. An answer that
   * arrives in a later term is ignored, so the last answer of each term must cover what earlier terms left.
   */
  #makeAppendResponse(ready: Omit<Ready, "messages">): Message | undefined {
    const { log, term, id } = this.#core;
    const hasEntries = log.unstable.count > 0;
    if (!hasEntries && ready.snapshot === undefined) return undefined;
    return makeMessage({
      kind: "storage-append-response",
      from: LOCAL_APPEND_THREAD,
      to: id,
      term,
      ...(hasEntries ? { index: log.lastIndex, logTerm: log.lastTerm } : {}),
      ...(ready.snapshot === undefined ? {} : { snapshot: ready.snapshot }),
    });
  }

  #makeApplyResponse(entries: readonly LogEntry[]): Message | undefined {
    if (entries.length === 0) return undefined;
    return makeMessage({
      kind: "storage-apply-response",
      from: LOCAL_APPLY_THREAD,
      to: this.#core.id,
      entries,
    });
  }

  #makeAppendWork(
    ready: Omit<Ready, "messages">,
    storeMessages: readonly Message[],
    stored: Message | undefined,
  ): Message {
    return makeMessage({
      kind: "storage-append",
      from: this.#core.id,
      to: LOCAL_APPEND_THREAD,
      entries: ready.entries,
      // Term 0 means that there is no hard state to store.
      ...(ready.hardState ?? {}),
      ...(ready.snapshot === undefined ? {} : { snapshot: ready.snapshot }),
      // Own acknowledgements first: they find the entries' terms in the unstable log, which the last response empties.
      responses: stored === undefined ? storeMessages : [...storeMessages, stored],
    });
  }

  #makeApplyWork(entries: readonly LogEntry[], applied: Message): Message {
    return makeMessage({
      kind: "storage-apply",
      from: this.#core.id,
      to: LOCAL_APPLY_THREAD,
      entries,
      responses: [applied],
    });
  }
}

function checkOptions(options: RaftNodeOptions): void {
  assert(Number.isSafeInteger(options.id) && options.id > NO_MEMBER, `member id ${options.id}`);
  assert(
    options.heartbeatTicks >= 1 && options.electionTicks > options.heartbeatTicks,
    `0 < heartbeatTicks ${options.heartbeatTicks} < electionTicks ${options.electionTicks}`,
  );
  assert(options.entriesSizeBytesMax >= 1, `entriesSizeBytesMax ${options.entriesSizeBytesMax}`);
  assert(options.committedSizeBytesMax >= 1, `committedSizeBytesMax ${options.committedSizeBytesMax}`);
  assert(options.inflightMessagesMax >= 1, `inflightMessagesMax ${options.inflightMessagesMax}`);
  assert(options.inflightBytesMax >= 0, `inflightBytesMax ${options.inflightBytesMax}`);
  const { appendsPerAnswerMax = 1 } = options;
  assert(appendsPerAnswerMax >= 1, `appendsPerAnswerMax ${appendsPerAnswerMax}`);
  assert(options.uncommittedBytesMax >= 1, `uncommittedBytesMax ${options.uncommittedBytesMax}`);
}

function softStatesEqual(a: SoftState, b: SoftState): boolean {
  return a.role === b.role && a.leaderId === b.leaderId;
}

function hardStatesEqual(a: HardState, b: HardState): boolean {
  return a.term === b.term && a.votedFor === b.votedFor && a.commitIndex === b.commitIndex;
}
