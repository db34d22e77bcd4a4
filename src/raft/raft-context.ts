/**
 * What the step files may see and do of a RaftCore: its state, and the changes of role that only the core makes.
 *
 * The interface stands between the core, which calls the step files, and the step files, which call back, so that each can
 * be read with only this page in mind. Implemented by RaftCore alone.
 */
import type { Mending } from "./mending.ts";
import type { MessageFields } from "./message.ts";
import type { PlantedFault } from "./planted-faults.ts";
import type { RaftLog } from "./raft-log.ts";
import type { ReadOnly, ReadRequest } from "./read-only.ts";
import type { Tracker } from "./tracker.ts";
import type { LogEntry, MemberId, ReadState, Role, Snapshot } from "./types.ts";

/** Bounds and choices that the step files look at; see RaftCoreOptions for their meaning. */
export interface StepOptions {
  readonly entriesSizeBytesMax: number;
  readonly appendsPerAnswerMax?: number | undefined;
  readonly forwardProposals: boolean;
}

/** The core as the step files see it. */
export interface RaftContext {
  readonly options: StepOptions;
  readonly id: MemberId;
  readonly log: RaftLog;
  readonly tracker: Tracker;
  readonly readOnly: ReadOnly;
  readonly readStates: ReadState[];
  readonly term: number;
  readonly role: Role;
  /** Set while this member's log is being repaired. */
  readonly mending: Mending | undefined;
  leaderId: MemberId;
  leadTransferee: MemberId;
  pendingConfIndex: number;
  electionElapsed: number;

  /** Queues a message: at once, or after the disk when it is a promise about what the disk holds. */
  send(fields: MessageFields): void;
  /** Follows `leaderId` (or nobody yet) in `term`. */
  becomeFollower(term: number, leaderId: MemberId): void;
  /** Starts an election unless this node leads, cannot be elected, or has a membership change to apply first. */
  startElection(campaign: "pre-election" | "election" | "transfer"): void;
  /** Counts a vote for the election under way and acts on its result. */
  countVote(id: MemberId, granted: boolean): void;
  /** Appends to a leader's log; false when the uncommitted bytes are full. */
  appendEntries(entries: readonly LogEntry[]): boolean;
  /** Commits what a quorum holds, if the newest of it is of this term; true when the commit index moved. */
  maybeCommit(): boolean;
  /** Whether a leader has committed an entry of its own term. */
  hasCommittedInTerm(): boolean;
  /** Answers a confirmed read. */
  answerRead(request: ReadRequest, index: number): void;
  /** Installs `snapshot` as the whole log, unless it says nothing new or is not for this node; true when it did. */
  restore(snapshot: Snapshot): boolean;
  /** Whether a planted fault is switched on. */
  hasFault(fault: PlantedFault): boolean;
}
