/**
 * What is checked on the whole Raft cluster after every step, beside src/raft/invariants.ts (R1 to R6, R9, R11, R13 to R16): what
 * only somebody sees who looks at all members at once, at what is on the disks of the dead, and at every message as it leaves.
 */
import { changeConfig } from "../../../src/raft/conf-change.ts";
import { decodeConfChange } from "../../../src/raft/conf-change-codec.ts";
import {
  ClusterInvariants,
  InvariantViolation,
  viewOf,
  type NodeView,
} from "../../../src/raft/invariants.ts";
import type { ConfState, LogEntry, Message } from "../../../src/raft/types.ts";
import { must } from "../../../src/std/assert.ts";
import type { ClusterMember, ReplicatedState } from "./cluster-member.ts";
import type { ClusterPlan } from "./cluster-plan.ts";
import { shareQuorums } from "../config-checks.ts";
import { VoteChecks } from "../vote-checks.ts";

/** What a message may not change: see observeStale(). */
interface SafetyState {
  readonly term: number;
  readonly votedFor: number;
  readonly lastIndex: number;
  readonly commitIndex: number;
  readonly isLeader: boolean;
}

/** Bytes of one proposal batch at most: the bound of uncommitted bytes is soft by one. */
export const PROPOSAL_BATCH_BYTES_MAX = 64;

/** The checks of one run. */
export class ClusterChecks {
  /** Looks at members so far. */
  observationCount = 0;
  /** Highest index that any member ever called committed. */
  commitIndexMax = 0;
  readonly #plan: ClusterPlan;
  readonly #members: () => readonly ClusterMember[];
  readonly #invariants = new ClusterInvariants();
  readonly #views = new Map<number, NodeView>();
  /** State that each applied index made, anywhere, ever. */
  readonly #states = new Map<number, ReplicatedState>();
  /** Highest committed index that each member's disk has held. */
  readonly #held = new Map<number, number>();
  /** Term of each committed index. */
  readonly #committedTerms = new Map<number, number>();
  /** Whom each member's disk says it voted for, per term. */
  readonly #durableVotes = new Map<string, number>();
  /** Per member and term of its disk: the furthest end that the log there had in that term. */
  readonly #durableEnds = new Map<string, number>();
  readonly #promisedTerms = new Map<number, number>();
  readonly #votes = new VoteChecks();
  /** Appends with entries sent on a link since the sender last heard of the receiver. */
  readonly #unansweredAppends = new Map<string, number>();

  constructor(plan: ClusterPlan, members: () => readonly ClusterMember[]) {
    this.#plan = plan;
    this.#members = members;
  }

  /** Looks at a member after it has done something. */
  observe(member: ClusterMember): void {
    const { raft } = member;
    if (raft === undefined) return;
    this.observationCount += 1;
    const before = this.#views.get(member.id);
    if (before !== undefined && isUnchanged(member, before)) return;
    const view = viewOf(raft, true);
    this.#invariants.observe(view);
    this.#views.set(member.id, view);
    member.lastTermSeen = raft.findTerm(view.lastIndex);
    this.#noteCommitted(member, view, before);
    if (view.role !== "leader") return;
    const config = must(view.config, "a view of a core has a configuration");
    if (before?.role !== "leader" || before.term !== view.term) this.#checkElected(member, view, config);
    if (view.commitIndex > (before?.commitIndex ?? 0)) this.#checkQuorum(member, view, config);
    this.#checkProgress(view, config);
    const { uncommittedBytes } = raft.basicStatus();
    check(
      "R22",
      uncommittedBytes <= this.#plan.uncommittedBytesMax + PROPOSAL_BATCH_BYTES_MAX,
      () => `leader ${member.id} keeps ${uncommittedBytes} uncommitted bytes`,
    );
  }

  /** Looks at a disk after something became durable there, also of a member that is down. */
  observeDisk(member: ClusterMember): void {
    const { storage, id } = member;
    const { term, votedFor } = storage.hardState;
    const key = `${id}/${term}`;
    const known = this.#durableVotes.get(key) ?? 0;
    check("R13", known === 0 || known === votedFor, () => `disk of ${key}: vote ${known} became ${votedFor}`);
    this.#durableVotes.set(key, votedFor);
    this.#durableEnds.set(key, Math.max(this.#durableEnds.get(key) ?? 0, storage.lastIndex()));
    check("R14", term >= (this.#promisedTerms.get(id) ?? 0), () => `disk of ${id} is back in term ${term}`);
    const held = this.#heldBy(member);
    const heldBefore = this.#held.get(id) ?? 0;
    check(
      "R8",
      held >= heldBefore,
      () => `disk of ${id} had the committed entries up to ${heldBefore}, now ${held}`,
    );
    this.#held.set(id, held);
  }

  /** Looks at a member that was started again. */
  restarted(member: ClusterMember): void {
    this.#invariants.restarted(member.id);
    this.#views.delete(member.id);
    const { storage, flushed, id } = member;
    const status = member.live.basicStatus();
    const { term, votedFor } = storage.hardState;
    check(
      "R13",
      status.term === term && status.votedFor === votedFor,
      () => `member ${id} starts with ${status.term}/${status.votedFor}, the disk says ${term}/${votedFor}`,
    );
    check(
      "R14",
      status.appliedIndex >= flushed.index && status.term >= (this.#promisedTerms.get(id) ?? 0),
      () => `member ${id} starts behind what it had durably, or promised`,
    );
    this.forgetTraffic(id);
    this.#votes.restarted(id);
  }

  /** Looks at a message as it leaves: what it promises is on the disk that it comes from. */
  observeMessage(member: ClusterMember, message: Message): void {
    this.#invariants.observeMessage(message);
    const { storage } = member;
    const { term, votedFor } = storage.hardState;
    if (message.kind === "vote-response" && !message.reject) {
      check(
        "R17",
        term > message.term || (term === message.term && votedFor === message.to),
        () => `${member.id} grants ${message.to} term ${message.term}, its disk says ${term}/${votedFor}`,
      );
    }
    if (message.kind === "append-response" && !message.reject && message.index > 0) {
      check(
        "R17",
        term >= message.term && this.#hasHeld(member, message),
        () =>
          `${member.id} acknowledges ${message.index} in term ${message.term}, its disk ends at ${term}/${storage.lastIndex()}`,
      );
    }
    if (isPromise(message) && !message.reject) {
      this.#promisedTerms.set(
        member.id,
        Math.max(
          this.#promisedTerms.get(member.id) ?? 0,
          message.kind === "pre-vote-response" ? 0 : message.term,
        ),
      );
      this.#votes.granted(message);
    }
    if (message.kind === "append" && message.entries.length > 0) this.#countAppend(message);
  }

  /** Called before a member takes a message; the result is handed to delivered(). */
  delivering(member: ClusterMember, message: Message): SafetyState {
    const status = member.live.basicStatus();
    this.#votes.asked(member.id, message, {
      term: must(member.live.findTerm(status.lastIndex), "the last entry has a term"),
      index: status.lastIndex,
    });
    this.#unansweredAppends.delete(`${member.id}>${message.from}`);
    return safetyOf(member);
  }

  /** A message of a term that is over changes nothing, whenever it comes (R19). */
  delivered(member: ClusterMember, message: Message, before: SafetyState): void {
    if (message.term === 0 || message.term >= before.term) return;
    const after = safetyOf(member);
    const isSame =
      after.term === before.term &&
      after.votedFor === before.votedFor &&
      after.lastIndex === before.lastIndex &&
      after.commitIndex === before.commitIndex &&
      after.isLeader === before.isLeader;
    check("R19", isSame, () => {
      const shown = `${JSON.stringify(before)} to ${JSON.stringify(after)}`;
      return `a ${message.kind} of term ${message.term} changed member ${member.id} from ${shown}`;
    });
  }

  /** Looks at what an applied entry made. */
  applied(member: ClusterMember, entry: LogEntry, state: ReplicatedState): void {
    this.#compareState(member, state);
    if (entry.kind !== "conf-change") return;
    const before = this.#states.get(entry.index - 1)?.config;
    if (before === undefined) return;
    check(
      "R18",
      shareQuorums(before, state.config),
      () =>
        `the change at ${entry.index} leads from ${JSON.stringify(before)} to ${JSON.stringify(state.config)}`,
    );
    const expected = changeConfig(before, decodeConfChange(entry.data));
    check(
      "R18",
      expected.ok && JSON.stringify(expected.config) === JSON.stringify(state.config),
      () => `member ${member.id} took the change at ${entry.index} from another configuration`,
    );
  }

  /** Looks at a member that has installed a snapshot over `before`. */
  installed(member: ClusterMember, before: ReplicatedState): void {
    const { state, storage } = member;
    check(
      "R21",
      state.index > before.index || before.index === 0,
      () => `member ${member.id} went from state ${before.index} back to the snapshot of ${state.index}`,
    );
    check(
      "R21",
      storage.firstIndex() === state.index + 1 && storage.lastIndex() === state.index,
      () =>
        `member ${member.id} kept ${storage.firstIndex()}..${storage.lastIndex()} beside a snapshot of ${state.index}`,
    );
    this.#compareState(member, state);
  }

  /** A linearizable read: what it may show was everything committed before it was asked for (R20). */
  checkRead(context: string, index: number, floor: number): void {
    check("R20", index >= floor, () => `read ${context} at ${index}, ${floor} was committed before`);
  }

  /**
   * Whether the disk has what an acknowledgement promises, or had it in the term of that message or a later one: a write of
   * several rounds may have replaced it in its next round, and then the answer is one that the network was slow with.
   */
  #hasHeld({ id, storage }: ClusterMember, { term, index }: Message): boolean {
    if (storage.lastIndex() >= index) return true;
    for (let later = term; later <= storage.hardState.term; later += 1) {
      if ((this.#durableEnds.get(`${id}/${later}`) ?? 0) >= index) return true;
    }
    return false;
  }

  /** Forgets a member's traffic: its leadership, or the link, began anew. */
  forgetTraffic(id: number): void {
    for (const link of this.#unansweredAppends.keys()) {
      if (link.startsWith(`${id}>`)) this.#unansweredAppends.delete(link);
    }
  }

  /** The state that `index` made; undefined when nobody has applied it. */
  stateAt(index: number): ReplicatedState | undefined {
    return this.#states.get(index);
  }

  #noteCommitted(member: ClusterMember, view: NodeView, before: NodeView | undefined): void {
    const { commitIndex } = view;
    if (commitIndex === before?.commitIndex) return;
    for (
      let index = Math.max(this.commitIndexMax + 1, view.firstIndex - 1);
      index <= commitIndex;
      index += 1
    ) {
      this.#committedTerms.set(index, view.termAt(index));
    }
    this.commitIndexMax = Math.max(this.commitIndexMax, commitIndex);
    for (const each of this.#members()) {
      this.#held.set(each.id, Math.max(this.#held.get(each.id) ?? 0, this.#heldBy(each)));
    }
    const { appliedIndex } = view;
    check(
      "R15",
      member.flushed.index <= Math.max(appliedIndex, member.state.index),
      () => `member ${member.id}: a durable state above the applied one`,
    );
  }

  /** The highest committed index whose entry this disk holds, itself or in its snapshot. */
  #heldBy({ storage }: ClusterMember): number {
    let index = Math.min(this.commitIndexMax, storage.lastIndex());
    while (index >= storage.firstIndex() && storage.term(index) !== this.#committedTerms.get(index))
      index -= 1;
    return index;
  }

  /** Whoever is elected is a voter of its configuration, and at most one change of it waits to be committed (R18). */
  #checkElected(member: ClusterMember, view: NodeView, config: ConfState): void {
    this.forgetTraffic(member.id);
    const isVoter = config.voters.includes(view.id) || config.votersOutgoing.includes(view.id);
    check("R18", isVoter, () => `member ${view.id} leads term ${view.term} and is no voter`);
    const from = view.commitIndex + 1;
    if (from > view.lastIndex) return;
    const open = member.live.findEntries(from, view.lastIndex + 1, Number.MAX_SAFE_INTEGER) ?? [];
    const changes = open.filter((entry) => entry.kind === "conf-change").length;
    check(
      "R18",
      changes <= 1,
      () => `leader ${view.id} has ${changes} changes of the membership uncommitted`,
    );
  }

  /** What a leader newly calls committed is on the disks of a majority of each half of its configuration (R7). */
  #checkQuorum(leader: ClusterMember, view: NodeView, config: ConfState): void {
    const { commitIndex } = view;
    const term = view.termAt(commitIndex);
    const holds = (id: number): boolean => {
      const storage = this.#members().find((each) => each.id === id)?.storage;
      if (storage === undefined || storage.lastIndex() < commitIndex) return false;
      return commitIndex < storage.firstIndex() || storage.term(commitIndex) === term;
    };
    for (const half of [config.voters, config.votersOutgoing]) {
      if (half.length === 0) continue;
      const count = half.filter(holds).length;
      check(
        "R7",
        2 * count > half.length,
        () =>
          `leader ${leader.id} committed ${term}/${commitIndex}, which is on ${count} disks of ${half.join()}`,
      );
    }
  }

  /** What a leader believes its followers hold, they hold (R16). */
  #checkProgress(view: NodeView, config: ConfState): void {
    for (const [id, progress] of view.progress ?? []) {
      check(
        "R16",
        progress.inflightCount <= this.#plan.inflightMessagesMax,
        () => `leader ${view.id} has ${progress.inflightCount} messages in flight to ${id}`,
      );
      const member = this.#members().find((each) => each.id === id && !each.isRetired);
      // A follower in a newer term may have replaced what it held for this leader.
      if (member === undefined || member.storage.hardState.term > view.term || id === view.id) continue;
      const { matchIndex } = progress;
      const isKnown = config.voters.includes(id);
      check(
        "R16",
        !isKnown || member.storage.lastIndex() >= matchIndex,
        () =>
          `leader ${view.id} has match ${matchIndex} for ${id}, whose disk ends at ${member.storage.lastIndex()}`,
      );
    }
  }

  /** A silent follower is sent no more than its window, and one message to find out where it is (R22). */
  #countAppend(message: Message): void {
    const link = `${message.from}>${message.to}`;
    const count = (this.#unansweredAppends.get(link) ?? 0) + 1;
    this.#unansweredAppends.set(link, count);
    const max = this.#plan.inflightMessagesMax + 1;
    check("R22", count <= max, () => `${link}: ${count} appends without an answer, at most ${max}`);
  }

  #compareState(member: ClusterMember, state: ReplicatedState): void {
    const known = this.#states.get(state.index);
    if (known === undefined) {
      this.#states.set(state.index, state);
      return;
    }
    const isSame =
      known.hash === state.hash &&
      known.term === state.term &&
      JSON.stringify(known.config) === JSON.stringify(state.config);
    check("R10", isSame, () => `member ${member.id} has another state after ${state.index}`);
  }
}

/** Whether a follower is as it was when it was looked at last; a leader has followers, which change without it. */
function isUnchanged(member: ClusterMember, before: NodeView): boolean {
  const now = member.live.basicStatus();
  return (
    now.role !== "leader" &&
    now.role === before.role &&
    now.term === before.term &&
    now.votedFor === before.votedFor &&
    now.commitIndex === before.commitIndex &&
    now.appliedIndex === before.appliedIndex &&
    now.firstIndex === before.firstIndex &&
    now.lastIndex === before.lastIndex &&
    now.stableIndex === before.stableIndex &&
    now.pendingSnapshotIndex === before.pendingSnapshotIndex &&
    member.live.findTerm(now.lastIndex) === member.lastTermSeen
  );
}

function safetyOf(member: ClusterMember): SafetyState {
  const { term, votedFor, lastIndex, commitIndex, role } = member.live.basicStatus();
  return { term, votedFor, lastIndex, commitIndex, isLeader: role === "leader" };
}

function isPromise({ kind }: Message): boolean {
  return kind === "vote-response" || kind === "append-response" || kind === "pre-vote-response";
}

function check(id: string, condition: boolean, describe: () => string): void {
  if (!condition) throw new InvariantViolation(id, describe());
}
