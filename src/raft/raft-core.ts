/**
 * The Raft state machine of one node: term, vote, role, configuration and log, and how messages and ticks change them.
 *
 * Rules kept here: a message of a lower term changes nothing but may be answered with ours; a higher term makes a follower
 * (Raft 5.1), except where PreVote and the leader's lease say otherwise (thesis 9.6, 4.2.3); everything that promises a vote
 * or an append waits in `messagesAfterAppend` until the disk has it. What each role does with a message is in step-leader.ts,
 * step-candidate.ts and step-follower.ts; RaftNode is the face to the driver. No I/O, no clock, no randomness but the Prng.
 */
import { assert, unreachable } from "../std/assert.ts";
import { bytesEqual } from "../std/bytes.ts";
import type { Prng } from "../std/prng.ts";
import { changeConfig } from "./conf-change.ts";
import {
  broadcastAppend,
  broadcastHeartbeat,
  releasePostponedReads,
  sendToNewMembers,
} from "./leader-sends.ts";
import { entriesSizeBytes, payloadSizeBytes } from "./log-entries.ts";
import { Mending, type MendingOptions } from "./mending.ts";
import { isTermlessKind, makeMessage, NO_BYTES, TRANSFER_CONTEXT, type MessageFields } from "./message.ts";
import { ACCEPTED, type ProposeOutcome } from "./outcome.ts";
import type { PlantedFault } from "./planted-faults.ts";
import { majorityOf } from "./quorum.ts";
import type { RaftContext } from "./raft-context.ts";
import { RaftLog } from "./raft-log.ts";
import { ReadOnly, type ReadRequest } from "./read-only.ts";
import { stepCandidate } from "./step-candidate.ts";
import { stepFollower } from "./step-follower.ts";
import { stepLeader } from "./step-leader.ts";
import { Tracker } from "./tracker.ts";
import {
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
} from "./types.ts";

/** Settings of a node. All are checked by RaftNode. */
export interface RaftCoreOptions {
  readonly id: MemberId;
  readonly storage: LogStorage;
  readonly prng: Prng;
  /** Ticks without a leader before an election; the real timeout is drawn from [electionTicks, 2 * electionTicks). */
  readonly electionTicks: number;
  /** Ticks between heartbeats; less than electionTicks. */
  readonly heartbeatTicks: number;
  /** Asks whether an election could be won before starting one (thesis 9.6). */
  readonly preVote: boolean;
  /** A leader steps down when it does not hear from a quorum for electionTicks; votes are refused while a leader is heard. */
  readonly checkQuorum: boolean;
  /** Bytes of entries in one append message; soft by one entry. */
  readonly entriesSizeBytesMax: number;
  /** Bytes of committed entries handed out and not confirmed as applied; soft by one entry. */
  readonly committedSizeBytesMax: number;
  /** Append messages in flight to one follower, at least 1. */
  readonly inflightMessagesMax: number;
  /** Payload bytes in flight to one follower; soft by one message; 0 for no limit. */
  readonly inflightBytesMax: number;
  /** Append messages that one answer of a follower lets out; undefined for no limit. */
  readonly appendsPerAnswerMax?: number | undefined;
  /** Payload bytes that a leader keeps uncommitted; soft by one proposal. */
  readonly uncommittedBytesMax: number;
  /** Index that the state machine has applied already: nothing up to it is handed out again. */
  readonly appliedIndex: number;
  /** Whether a leader that is no voter any more steps down when that is applied. */
  readonly stepDownOnRemoval: boolean;
  /** Whether a follower passes proposals on to its leader; if not, they are dropped with "not-leader". */
  readonly forwardProposals: boolean;
  /** Reads that may wait for confirmation at once. */
  readonly pendingReadsMax: number;
  /** Set when the log in storage is only what damage left of it. */
  readonly mending?: MendingOptions | undefined;
  /** A historical bug to show, in tests alone. */
  readonly plantedFault?: PlantedFault | undefined;
}

/** The state of one node. Fields are open to RaftNode and, as RaftContext, to the step files of this folder; to nobody else. */
export class RaftCore implements RaftContext {
  readonly options: RaftCoreOptions;
  readonly id: MemberId;
  readonly log: RaftLog;
  readonly tracker: Tracker;
  term: number;
  votedFor: MemberId;
  role: Role = "follower";
  leaderId: MemberId = NO_MEMBER;
  /** Target of the leadership transfer under way. */
  leadTransferee: MemberId = NO_MEMBER;
  /** No membership change may be proposed while the applied index is below this. */
  pendingConfIndex = 0;
  /** Index of the newest snapshot taken over: the configuration in force is not older. */
  #restoredIndex = 0;
  /** Index of the empty entry that opened this leader's term; 0 when it does not lead. */
  #termStartIndex = 0;
  uncommittedBytes = 0;
  readOnly: ReadOnly;
  mending: Mending | undefined;
  /** Messages that may leave at once. */
  messages: Message[] = [];
  /** Messages, also to this node, that may leave once everything appended so far is durable. */
  messagesAfterAppend: Message[] = [];
  readStates: ReadState[] = [];
  electionElapsed = 0;
  /** Ticks until this node campaigns, drawn anew at every change of role. */
  electionTimeoutTicks = 0;
  #heartbeatElapsed = 0;

  constructor(options: RaftCoreOptions) {
    this.options = options;
    this.id = options.id;
    this.log = new RaftLog({
      storage: options.storage,
      applyingSizeBytesMax: options.committedSizeBytesMax,
    });
    this.tracker = new Tracker(options);
    this.readOnly = new ReadOnly(options.pendingReadsMax);
    if (options.mending !== undefined) this.mending = new Mending(options.mending);
    const { hardState, confState } = options.storage.initialState();
    this.term = hardState.term;
    this.votedFor = hardState.votedFor;
    // What was applied was committed, even if the commit index, which is not forced to the disk, is behind it.
    const commitIndex = Math.max(hardState.commitIndex, options.appliedIndex);
    if (commitIndex > 0) this.#loadCommit(commitIndex);
    if (options.appliedIndex > 0) this.log.appliedTo(options.appliedIndex, 0);
    this.tracker.switchTo(confState, this.log.lastIndex);
    this.becomeFollower(this.term, NO_MEMBER);
  }

  /** Term, vote and commit index as they are now. */
  hardState(): HardState {
    return { term: this.term, votedFor: this.votedFor, commitIndex: this.log.commitIndex };
  }

  /** Whether a planted fault is switched on. */
  hasFault(fault: PlantedFault): boolean {
    return this.options.plantedFault === fault;
  }

  /** Moves time by one tick. */
  tick(): void {
    this.#checkMended();
    if (this.role === "leader") this.#tickLeader();
    else this.#tickElection();
  }

  /** Takes one message, local or of another member. */
  step(message: Message): ProposeOutcome {
    if (message.term > this.term && !this.#takeHigherTerm(message)) return ACCEPTED;
    if (message.term !== 0 && message.term < this.term) {
      const counted = this.hasFault("old-votes-counted") && message.kind === "vote-response";
      if (!counted) return this.#answerLowerTerm(message);
    }
    // oxlint-disable-next-line typescript/switch-exhaustiveness-check -- all other kinds depend on the role
    switch (message.kind) {
      case "hup":
        this.startElection(this.options.preVote ? "pre-election" : "election");
        return ACCEPTED;
      case "storage-append-response":
        if (message.index !== 0) this.log.unstable.stableTo(message.index, message.logTerm);
        if (message.snapshot !== undefined) this.#appliedSnapshot(message.snapshot);
        this.#checkMended();
        return ACCEPTED;
      case "storage-apply-response":
        this.#appliedEntries(message);
        return ACCEPTED;
      case "vote":
      case "pre-vote":
        this.#answerVote(message);
        return ACCEPTED;
      case "vote-response":
      case "pre-vote-response":
        if (message.reject) this.#commitByVote(message);
        return this.#stepRole(message);
      default:
        return this.#stepRole(message);
    }
  }

  /** Queues a message: at once, or after the disk when it is a promise about what the disk holds. */
  send(fields: MessageFields): void {
    const from = fields.from === undefined || fields.from === NO_MEMBER ? this.id : fields.from;
    const message = makeMessage(fields, from, isTermlessKind(fields.kind) ? 0 : (fields.term ?? this.term));
    if (
      message.kind === "append-response" ||
      message.kind === "vote-response" ||
      message.kind === "pre-vote-response"
    ) {
      this.messagesAfterAppend.push(message);
      return;
    }
    assert(message.to !== this.id, `${message.kind} to itself`);
    this.messages.push(message);
  }

  /** Follows `leaderId` (or nobody yet) in `term`. */
  becomeFollower(term: number, leaderId: MemberId): void {
    if (this.hasFault("vote-erased-on-step-down") && this.role !== "follower") this.votedFor = NO_MEMBER;
    this.#reset(term);
    this.leaderId = leaderId;
    this.role = "follower";
  }

  /** Starts an election unless this node leads, cannot be elected, or has a membership change to apply first. */
  startElection(campaign: "pre-election" | "election" | "transfer"): void {
    if (this.role === "leader" || !this.isPromotable() || this.#hasUnappliedConfChange()) return;
    this.#campaign(campaign);
  }

  /** Counts a vote for the election under way and acts on its result. */
  countVote(id: MemberId, granted: boolean): void {
    this.tracker.recordVote(id, granted);
    const { result } = this.tracker.tallyVotes();
    switch (result) {
      case "won":
        // Nobody leads before its own vote is durable: after a crash it could lead the same term twice, with another log.
        if (!this.tracker.hasGranted(this.id)) return;
        if (this.role === "pre-candidate") this.#campaign("election");
        else this.#becomeLeader();
        return;
      case "lost":
        this.becomeFollower(this.term, NO_MEMBER);
        return;
      case "pending":
        return;
      default:
        unreachable(result);
    }
  }

  /** Whether this node could be elected: a voter whose log is whole, and that is not installing a snapshot. */
  isPromotable(): boolean {
    if (this.mending !== undefined) return false;
    const progress = this.tracker.progress.get(this.id);
    return progress !== undefined && !progress.isLearner && !this.log.hasPendingSnapshot;
  }

  /**
   * Appends `entries` (whose index and term are given here) to a leader's log; false when the uncommitted bytes are full.
   * The leader's own acknowledgement waits for its disk like everybody's.
   */
  appendEntries(entries: readonly LogEntry[]): boolean {
    if (!this.#reserveUncommitted(payloadSizeBytes(entries))) return false;
    const { term } = this;
    let index = this.log.lastIndex;
    const numbered = entries.map((entry) => {
      index += 1;
      return { index, term, kind: entry.kind, data: entry.data };
    });
    this.log.append(numbered);
    this.send({ kind: "append-response", to: this.id, index });
    return true;
  }

  /** Commits what a quorum holds, if the newest of it is of this term; true when the commit index moved. */
  maybeCommit(): boolean {
    if (this.hasFault("quorum-not-sorted")) return this.#maybeCommitUnsorted();
    const index = this.tracker.committedIndex();
    const oldTerm = this.hasFault("old-term-committed") ? this.log.findTerm(index) : undefined;
    return this.log.maybeCommit(index, oldTerm ?? this.term);
  }

  /** Whether a leader has committed an entry of its own term, and so knows everything committed before (Raft 8). */
  hasCommittedInTerm(): boolean {
    // Not the term of the entry at the commit index: a group may begin with a snapshot of the very term it elects first.
    return this.role === "leader" && this.log.commitIndex >= this.#termStartIndex;
  }

  /** Answers a confirmed read: to this node's own driver, or to the member that passed it on. */
  answerRead(request: ReadRequest, index: number): void {
    if (request.from === NO_MEMBER || request.from === this.id) {
      this.readStates.push({ index, context: request.context });
    } else {
      this.send({ kind: "read-index-response", to: request.from, index, context: request.context });
    }
  }

  /** Makes the heartbeats of reads that were asked for since the last ones; called when messages are handed out. */
  flushReadRound(): void {
    if (this.role === "leader" && this.readOnly.isRoundOpen) broadcastHeartbeat(this);
  }

  /**
   * Takes over the configuration that results from an applied change; asserts that the leader has let only valid ones in.
   * A change that a snapshot taken over since holds already changes nothing here: the state machine was still working on old entries.
   * It is told what follows from what was in force there, because the snapshot may have later changes too.
   */
  applyConfChange(change: ConfChange, index: number, before: ConfState): ConfState {
    const isOvertaken = index <= this.#restoredIndex;
    const result = changeConfig(isOvertaken ? before : this.tracker.config, change);
    assert(result.ok, `a committed membership change cannot be applied: ${result.ok ? "" : result.reason}`);
    if (!isOvertaken) this.switchToConfig(result.config);
    return result.config;
  }

  /** Puts `config` in force. */
  switchToConfig(config: ConfState): void {
    this.tracker.switchTo(config, this.log.lastIndex);
    if (this.role !== "leader") return;
    const self = this.tracker.progress.get(this.id);
    if (self === undefined || self.isLearner) {
      // Removed or demoted: it has done its last duty by committing the change (thesis 4.2.2).
      if (this.options.stepDownOnRemoval) this.becomeFollower(this.term, NO_MEMBER);
      return;
    }
    // A smaller quorum may have more in common.
    if (this.maybeCommit()) {
      releasePostponedReads(this);
      broadcastAppend(this);
    } else {
      sendToNewMembers(this);
    }
    if (this.leadTransferee !== NO_MEMBER && !this.tracker.isVoter(this.leadTransferee)) {
      this.leadTransferee = NO_MEMBER;
    }
  }

  /**
   * Installs `snapshot` as the whole log, unless it says nothing new or is not for this node; true when it did.
   * A snapshot that the log already agrees with only moves the commit index: entries above it are kept.
   */
  restore(snapshot: Snapshot): boolean {
    const { index, term, confState } = snapshot.metadata;
    if (index <= this.log.commitIndex && !this.hasFault("old-snapshot-installed")) return false;
    assert(this.role === "follower", `a ${this.role} was handed a snapshot`);
    const known = [...confState.voters, ...confState.learners, ...confState.votersOutgoing];
    if (!known.includes(this.id)) return false;
    if (this.log.matchesTerm(index, term) && !this.hasFault("old-snapshot-installed")) {
      this.log.commitTo(index);
      return false;
    }
    this.log.restore(snapshot);
    this.#restoredIndex = index;
    this.switchToConfig(confState);
    return true;
  }

  /** Takes part again once nothing is missing that this node ever acknowledged. */
  #checkMended(): void {
    if (this.mending?.isDone(this.term, this.log.stableIndex) === true && !this.log.hasPendingSnapshot) {
      this.mending = undefined;
    }
  }

  #tickElection(): void {
    this.electionElapsed += 1;
    if (this.isPromotable() && this.electionElapsed >= this.electionTimeoutTicks) {
      this.electionElapsed = 0;
      this.step(makeMessage({ kind: "hup", from: this.id }));
    }
  }

  #tickLeader(): void {
    this.#heartbeatElapsed += 1;
    this.electionElapsed += 1;
    if (this.electionElapsed >= this.options.electionTicks) {
      this.electionElapsed = 0;
      if (this.options.checkQuorum) this.step(makeMessage({ kind: "check-quorum", from: this.id }));
      // A transfer that takes longer than an election timeout has failed: take proposals again (thesis 3.10).
      this.leadTransferee = NO_MEMBER;
    }
    if (this.role === "leader" && this.#heartbeatElapsed >= this.options.heartbeatTicks) {
      this.#heartbeatElapsed = 0;
      this.step(makeMessage({ kind: "beat", from: this.id }));
    }
  }

  /** Handles a term above ours; false when the message is to be ignored. */
  #takeHigherTerm(message: Message): boolean {
    const { kind } = message;
    if (kind === "vote" || kind === "pre-vote") {
      // A node that hears its leader does not help to depose it (thesis 4.2.3), unless the leader asked for that.
      const isTransfer = bytesEqual(message.context, TRANSFER_CONTEXT);
      const isInLease =
        this.options.checkQuorum &&
        this.leaderId !== NO_MEMBER &&
        this.electionElapsed < this.options.electionTicks;
      if (isInLease && !isTransfer) return false;
    }
    // Asking or granting for a future term does not begin it.
    if (kind === "pre-vote" || (kind === "pre-vote-response" && !message.reject)) return true;
    const fromLeader = kind === "append" || kind === "heartbeat" || kind === "snapshot";
    this.becomeFollower(message.term, fromLeader ? message.from : NO_MEMBER);
    return true;
  }

  /** Handles a term below ours: nothing in it counts, but the sender may need to learn our term. */
  #answerLowerTerm(message: Message): ProposeOutcome {
    const { kind } = message;
    if ((kind === "heartbeat" || kind === "append") && (this.options.checkQuorum || this.options.preVote)) {
      // A node that is ahead in term but may not campaign (lease, PreVote) would be stuck unless the leader hears of it.
      this.send({ kind: "append-response", to: message.from });
    } else if (kind === "pre-vote") {
      this.send({ kind: "pre-vote-response", to: message.from, reject: true, ...this.log.commitPosition() });
    } else if (kind === "storage-append-response" && message.snapshot !== undefined) {
      // Entries may have been overwritten since, but a snapshot is committed state in any term.
      this.#appliedSnapshot(message.snapshot);
    }
    return ACCEPTED;
  }

  #stepRole(message: Message): ProposeOutcome {
    switch (this.role) {
      case "leader":
        return stepLeader(this, message);
      case "candidate":
      case "pre-candidate":
        return stepCandidate(this, message);
      case "follower":
        return stepFollower(this, message);
      default:
        return unreachable(this.role);
    }
  }

  /** Grants a vote to at most one candidate per term, whose log is at least as up to date as ours (Raft 5.2, 5.4.1). */
  #answerVote(message: Message): void {
    const isPreVote = message.kind === "pre-vote";
    const canVote =
      this.votedFor === message.from ||
      (this.votedFor === NO_MEMBER && this.leaderId === NO_MEMBER) ||
      (isPreVote && message.term > this.term);
    const isUpToDate = this.log.isUpToDate(message.logTerm, message.index);
    // What damage took away was promised all the same.
    const isSafe = this.mending?.allowsVote(message.logTerm, message.index) ?? true;
    const granted = canVote && isUpToDate && isSafe;
    // A learner votes too: it may be a voter already without having applied the change (Raft 6).
    this.send({
      kind: isPreVote ? "pre-vote-response" : "vote-response",
      to: message.from,
      // A granted pre-vote is about the candidate's future term; a refusal tells ours.
      term: granted ? message.term : this.term,
      reject: !granted,
      // A grant says nothing: whoever is about to win need not stop for a change that it will commit itself.
      ...(granted ? {} : this.log.commitPosition()),
    });
    if (!granted) this.#commitByVote(message);
    if (granted && !isPreVote) {
      this.electionElapsed = 0;
      this.votedFor = message.from;
    }
  }

  /**
   * Commits what the other side of a refused vote knows to be committed, if this log has that very entry: see DESIGN.md. A
   * candidate that finds a membership change in it stops, for it counts votes by a configuration that is no longer in force.
   */
  #commitByVote(message: Message): void {
    // A leader commits by counting alone, and what is left of a damaged log by its leader's word alone.
    if (this.role === "leader" || this.mending !== undefined) return;
    if (!this.log.maybeCommit(message.commitIndex, message.commitTerm)) return;
    if (this.role !== "follower" && this.#hasUnappliedConfChange()) this.becomeFollower(this.term, NO_MEMBER);
  }

  #campaign(campaign: "pre-election" | "election" | "transfer"): void {
    const isPreVote = campaign === "pre-election";
    if (isPreVote) this.#becomePreCandidate();
    else this.#becomeCandidate();
    const term = isPreVote ? this.term + 1 : this.term;
    const { lastIndex: index, lastTerm: logTerm } = this.log;
    const context = campaign === "transfer" ? TRANSFER_CONTEXT : NO_BYTES;
    for (const id of this.tracker.voterIds()) {
      if (id === this.id) {
        // The vote for itself counts once it is durable, like any other.
        this.send({ kind: isPreVote ? "pre-vote-response" : "vote-response", to: id, term });
      } else {
        const kind = isPreVote ? "pre-vote" : "vote";
        this.send({ kind, to: id, term, index, logTerm, context, ...this.log.commitPosition() });
      }
    }
  }

  /** A pre-candidate keeps its term and vote: asking costs nothing. */
  #becomePreCandidate(): void {
    this.tracker.resetVotes();
    this.leaderId = NO_MEMBER;
    this.role = "pre-candidate";
  }

  #becomeCandidate(): void {
    this.#reset(this.term + 1);
    this.votedFor = this.id;
    this.role = "candidate";
  }

  #becomeLeader(): void {
    assert(this.role === "candidate", `a ${this.role} cannot become leader`);
    this.#reset(this.term);
    this.leaderId = this.id;
    this.role = "leader";
    const self = this.tracker.progress.get(this.id);
    assert(self !== undefined, "only a voter is elected");
    self.becomeReplicate();
    self.recentActive = true;
    // What was inherited may hold a membership change: none may be proposed until all of it is applied.
    this.pendingConfIndex = this.log.lastIndex;
    this.#termStartIndex = this.log.lastIndex + 1;
    // The empty entry lets this leader commit what earlier terms left (Raft 5.4.2 and 8); it has no bytes to be refused for.
    const appended = this.appendEntries([{ index: 0, term: 0, kind: "normal", data: NO_BYTES }]);
    assert(appended, "an empty entry is never refused");
    broadcastAppend(this);
  }

  /** What every change of role or term begins with. The vote is kept within a term, always. */
  #reset(term: number): void {
    assert(term >= this.term, `the term moves from ${this.term} back to ${term}`);
    if (term > this.term) {
      this.term = term;
      this.votedFor = NO_MEMBER;
    }
    this.leaderId = NO_MEMBER;
    this.electionElapsed = 0;
    this.#heartbeatElapsed = 0;
    this.electionTimeoutTicks =
      this.options.electionTicks + this.options.prng.below(this.options.electionTicks);
    this.leadTransferee = NO_MEMBER;
    this.tracker.resetVotes();
    this.tracker.resetProgress(this.id, this.log.lastIndex);
    this.pendingConfIndex = 0;
    this.uncommittedBytes = 0;
    this.readOnly = new ReadOnly(this.options.pendingReadsMax);
  }

  /** Refuses bytes over the limit, but never the first, and never none: progress must stay possible. */
  #reserveUncommitted(sizeBytes: number): boolean {
    const total = this.uncommittedBytes + sizeBytes;
    if (this.uncommittedBytes > 0 && sizeBytes > 0 && total > this.options.uncommittedBytesMax) return false;
    this.uncommittedBytes = total;
    return true;
  }

  #appliedEntries(message: Message): void {
    const last = message.entries.at(-1);
    if (last === undefined) return;
    this.#appliedTo(last.index, entriesSizeBytes(message.entries));
    this.uncommittedBytes = Math.max(0, this.uncommittedBytes - payloadSizeBytes(message.entries));
  }

  #appliedSnapshot(snapshot: Snapshot): void {
    this.log.unstable.stableSnapshotTo(snapshot.metadata.index);
    this.#appliedTo(snapshot.metadata.index, 0);
  }

  #appliedTo(index: number, sizeBytes: number): void {
    const applied = Math.max(index, this.log.appliedIndex);
    this.log.appliedTo(applied, sizeBytes);
    if (this.tracker.config.autoLeave && applied >= this.pendingConfIndex && this.role === "leader") {
      // May be dropped while a transfer is under way; then this node, or the next leader, comes here again.
      this.step(
        makeMessage({
          kind: "propose",
          from: this.id,
          entries: [{ index: 0, term: 0, kind: "conf-change", data: NO_BYTES }],
        }),
      );
    }
  }

  /** Whether a committed entry that is not applied yet changes the membership. Reads in pages of bounded size. */
  #hasUnappliedConfChange(): boolean {
    let low = this.log.appliedIndex + 1;
    const high = this.log.commitIndex + 1;
    // A snapshot being installed carries its configuration, and entries below it cannot be read.
    if (this.log.hasPendingSnapshot) return false;
    while (low < high) {
      const page = this.log.findSlice(low, high, this.options.committedSizeBytesMax);
      assert(
        page !== undefined && page.length > 0,
        `entry ${low} is committed, not applied, and not in the log`,
      );
      if (page.some((entry) => entry.kind === "conf-change")) return true;
      low += page.length;
    }
    return false;
  }

  #loadCommit(commitIndex: number): void {
    assert(
      commitIndex >= this.log.commitIndex && commitIndex <= this.log.lastIndex,
      `stored commit index ${commitIndex} is not in [${this.log.commitIndex}, ${this.log.lastIndex}]: data was lost`,
    );
    this.log.commitTo(commitIndex);
  }

  /** O-07, as it was: the acknowledgement in the middle of the list, in the order of ids. */
  #maybeCommitUnsorted(): boolean {
    const { voters } = this.tracker.config;
    const id = voters[voters.length - majorityOf(voters.length)];
    const index = id === undefined ? 0 : (this.tracker.progress.get(id)?.matchIndex ?? 0);
    return this.log.maybeCommit(index, this.term);
  }
}
