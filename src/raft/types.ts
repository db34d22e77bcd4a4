/**
 * The vocabulary of the consensus core: log entries, messages, configurations, and the storage it reads.
 *
 * Words are those of the Raft paper (Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm") and of
 * Ongaro's thesis; the seam is the one of etcd-io/raft. Everything here is plain data: the wire and disk forms are made by
 * consensus/codec.ts.
 */

/** Identity of a Raft participant: a random safe integer made when its data directory was formatted, never reused. 0 is nobody. */
export type MemberId = number;

/** Nobody: no leader known, no vote cast, or a message from the node itself. */
export const NO_MEMBER: MemberId = 0;

/** Address of the driver's log writer: the target of "storage-append" and the sender of its response. Never a member. */
export const LOCAL_APPEND_THREAD: MemberId = -1;

/** Address of the driver's state machine: the target of "storage-apply" and the sender of its response. Never a member. */
export const LOCAL_APPLY_THREAD: MemberId = -2;

/** What a log entry carries. */
export type LogEntryKind =
  /** Bytes for the state machine; empty for the no-op that opens a leader's term. */
  | "normal"
  /** An encoded ConfChange. */
  | "conf-change";

/** One entry of the Raft log. Immutable: `data` must never be written to after the entry was made. */
export interface LogEntry {
  /** Position in the log, from 1. */
  readonly index: number;
  /** Term of the leader that made it. */
  readonly term: number;
  readonly kind: LogEntryKind;
  readonly data: Uint8Array;
}

/** What must be durable before a promise made in `term` leaves the node. Stored as one atomic record. */
export interface HardState {
  readonly term: number;
  /** Whom the node voted for in `term`; NO_MEMBER for nobody. */
  readonly votedFor: MemberId;
  /** Highest index known to be committed. */
  readonly commitIndex: number;
}

/** A membership configuration. While `votersOutgoing` is not empty the configuration is joint (thesis 4.3). Lists are sorted. */
export interface ConfState {
  readonly voters: readonly MemberId[];
  readonly votersOutgoing: readonly MemberId[];
  readonly learners: readonly MemberId[];
  /** Voters that become learners when the joint configuration is left. */
  readonly learnersNext: readonly MemberId[];
  /** Whether the leader leaves the joint configuration by itself. */
  readonly autoLeave: boolean;
}

/** One step of a membership change. */
export interface ConfChangeStep {
  readonly kind: "add-voter" | "add-learner" | "remove" | "update";
  readonly memberId: MemberId;
}

/** A membership change. Several steps, or an explicit transition, go through a joint configuration. */
export interface ConfChange {
  readonly transition: "auto" | "joint-implicit" | "joint-explicit";
  readonly steps: readonly ConfChangeStep[];
  /** Opaque to the core; the driver finds its own proposals by it. */
  readonly context: Uint8Array;
}

/** Identity of a snapshot: the state after applying `index`, and the configuration in force there. */
export interface SnapshotMetadata {
  readonly index: number;
  readonly term: number;
  readonly confState: ConfState;
}

/** A snapshot as the core sees it. `data` is an opaque, small reference: the state itself is streamed by the driver. */
export interface Snapshot {
  readonly metadata: SnapshotMetadata;
  readonly data: Uint8Array;
}

/** Kinds of messages. The local ones never leave the node. */
export type MessageKind =
  // Local: from the shell to the core.
  | "hup"
  | "beat"
  | "unreachable"
  | "snapshot-status"
  | "check-quorum"
  | "storage-append"
  | "storage-append-response"
  | "storage-apply"
  | "storage-apply-response"
  // Between members.
  | "propose"
  | "append"
  | "append-response"
  | "vote"
  | "vote-response"
  | "pre-vote"
  | "pre-vote-response"
  | "snapshot"
  | "heartbeat"
  | "heartbeat-response"
  | "transfer-leader"
  | "timeout-now"
  | "read-index"
  | "read-index-response"
  /** A member that lost part of its log says what is left, and asks how far the leader's reaches; see mending.ts. */
  | "mend"
  | "mend-response"
  | "forget-leader";

/** One message. Fields that a kind does not use hold zero, empty or false (see each becomeX and stepX for their meaning). */
export interface Message {
  readonly kind: MessageKind;
  readonly from: MemberId;
  readonly to: MemberId;
  readonly term: number;
  /** Term of the entry at `index`: the one before `entries`, or the candidate's last. */
  readonly logTerm: number;
  readonly index: number;
  readonly entries: readonly LogEntry[];
  readonly commitIndex: number;
  /** On vote requests and refusals: the term of the entry at `commitIndex`; 0 on all else, and from older versions. */
  readonly commitTerm: number;
  readonly reject: boolean;
  /** On a rejected append: a guess at the highest index at which the logs may agree (Raft 5.3, last paragraph). */
  readonly rejectHint: number;
  /** Identity of a ReadIndex attempt, or "campaign transfer"; empty otherwise. */
  readonly context: Uint8Array;
  readonly snapshot: Snapshot | undefined;
  /** On storage-append: the vote to persist with `term` and `commitIndex`; NO_MEMBER otherwise. */
  readonly votedFor: MemberId;
  /** On storage-append and storage-apply: messages to deliver once the work is durable or applied. */
  readonly responses: readonly Message[];
}

/** What a node knows about itself that is not durable. */
export interface SoftState {
  readonly leaderId: MemberId;
  readonly role: Role;
}

/** The part a node plays in its term. */
export type Role = "follower" | "pre-candidate" | "candidate" | "leader";

/** A linearizable read may be served once `index` is applied. */
export interface ReadState {
  readonly index: number;
  /** The context given to readIndex(). */
  readonly context: Uint8Array;
}

/** Thrown by LogStorage when the entries asked for were cut off by a snapshot. */
export class CompactedError extends Error {
  override readonly name = "CompactedError";
}

/** Thrown by LogStorage when the index asked for lies beyond the last entry. */
export class UnavailableError extends Error {
  override readonly name = "UnavailableError";
}

/** Thrown by LogStorage.snapshot() when none is at hand right now; the core asks again later. */
export class SnapshotTemporarilyUnavailableError extends Error {
  override readonly name = "SnapshotTemporarilyUnavailableError";
}

/**
 * The durable log as the core reads it: synchronous and side-effect free. It holds what was handed out for storing and
 * reported as stored; the core itself keeps the tail that is not stored yet.
 */
export interface LogStorage {
  /** State at start: the hard state last stored and the configuration of the newest snapshot. */
  initialState(): { readonly hardState: HardState; readonly confState: ConfState };
  /**
   * Entries in [low, high), at most `sizeBytesMax` of data but at least one; fewer where a storage reads no more at once.
   * Throws CompactedError when low < firstIndex(), UnavailableError when high > lastIndex() + 1.
   */
  entries(low: number, high: number, sizeBytesMax: number): readonly LogEntry[];
  /** Term of the entry at `index`, which may be firstIndex() - 1. Throws CompactedError or UnavailableError. */
  term(index: number): number;
  /** Index of the first entry that entries() can return. */
  firstIndex(): number;
  /** Index of the last entry; firstIndex() - 1 when there is none. */
  lastIndex(): number;
  /** The newest snapshot. Throws SnapshotTemporarilyUnavailableError. */
  snapshot(): Snapshot;
}
