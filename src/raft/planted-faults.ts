/**
 * Historical bugs of other Raft implementations, each switchable, to prove that the simulator and the scenarios find them.
 *
 * A test names one when it builds a RaftNode; production code never does, and no configuration reaches this option. Each
 * name is looked at in exactly one place of the core. The ids are those that the tests print.
 */

/** One historical bug. */
export type PlantedFault =
  /** E-17: read rounds are not unique, so late heartbeat answers of one round confirm the next. */
  | "read-round-reused"
  /** E-25: the window of messages in flight does not pause sending. */
  | "flow-not-paused"
  /** O-07: the quorum is taken from acknowledgements that are not sorted. */
  | "quorum-not-sorted"
  /** O-15: a snapshot at or below the commit index is installed. */
  | "old-snapshot-installed"
  /** W-07: an append after index 0 is appended unconditionally at the end. */
  | "append-after-zero-accepted"
  /** W-08: an empty append instead of a snapshot, and a follower that commits on it without comparing logs. */
  | "empty-append-for-snapshot"
  /** W-11: a candidate counts votes of earlier terms. */
  | "old-votes-counted"
  /** W-14: the commit index follows the leader's message even backwards. */
  | "commit-moves-back"
  /** W-16: a leader commits entries of earlier terms by counting. */
  | "old-term-committed"
  /** S-07: a follower commits beyond what the message proves to match. */
  | "commit-not-capped"
  /** S-11: the vote is erased when a candidate or leader steps down within its term. */
  | "vote-erased-on-step-down";
