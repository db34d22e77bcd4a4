/**
 * Historical bugs of other Raft implementations, and one of our own, each switchable, to prove that the simulators and the
 * scenarios find them.
 *
 * A test names one when it builds a RaftNode, a Consensus or a DriveNode; production code never does, and no configuration
 * reaches this option (test/unit/node/planted-faults.test.ts). Each name is looked at in the core or in the log writer
 * alone. The ids are those that the tests print.
 */

/** Every historical bug, by name, with its id and what it does. */
export const PLANTED_FAULTS = {
  "read-round-reused":
    "E-17: read rounds are not unique, so late heartbeat answers of one round confirm the next",
  "flow-not-paused": "E-25: the window of messages in flight does not pause sending",
  "vote-in-two-writes": "H-01: the vote is stored in a write of its own, after the answer has left",
  "append-in-two-steps":
    "O-01: an append first deletes what it replaces, then writes; consistent entries too",
  "quorum-not-sorted": "O-07: the quorum is taken from acknowledgements that are not sorted",
  "old-snapshot-installed": "O-15: a snapshot at or below the commit index is installed",
  "append-after-zero-accepted": "W-07: an append after index 0 is appended unconditionally at the end",
  "empty-append-for-snapshot":
    "W-08: an empty append instead of a snapshot, and a follower that commits on it without comparing logs",
  "old-votes-counted": "W-11: a candidate counts votes of earlier terms",
  "commit-moves-back": "W-14: the commit index follows the leader's message even backwards",
  "old-term-committed": "W-16: a leader commits entries of earlier terms by counting",
  "commit-not-capped": "S-07: a follower commits beyond what the message proves to match",
  "vote-erased-on-step-down":
    "S-11: the vote is erased when a candidate or leader steps down within its term",
  "wakeup-lost":
    "N-01: work that comes as a round of the log writer ends is left lying (our own, found once)",
} as const;

/** One historical bug. */
export type PlantedFault = keyof typeof PLANTED_FAULTS;
