/**
 * What must hold and what may go wrong, by the ids that tests and messages use, and where each is checked or done. The page
 * RELIABILITY.md is made from this, and reliability.test.ts checks that every place named here is there.
 *
 * A place is a file, from the root of the repository, with a text behind "#" that stands in it: what to look for.
 */

/** Something that must hold. */
export interface Invariant {
  readonly id: string;
  readonly what: string;
  readonly checkedAt: readonly string[];
}

/** Something that goes wrong. */
export interface Fault {
  readonly id: string;
  readonly what: string;
  readonly doneAt: readonly string[];
  /** What was counted of it: "raft:", "node:" or "processes:", and the name in the counts of a run. */
  readonly counts: readonly string[];
}

const CORE = "src/raft/invariants.ts#";
const RAFT = "test/simulation/raft-cluster/cluster-checks.ts#";
const RUN = "test/simulation/raft-cluster/cluster-run.ts#";
const NODE = "test/simulation/sim-checks.ts#";
const CLIENT = "test/simulation/sim-client.ts#";
const CHECKER = "test/simulation/sim-history.ts#C1";
const TORTURE = "test/e2e/torture/torture.ts#checkHistory";

/** Consensus, clients, chunks and liveness. */
export const INVARIANTS: readonly Invariant[] = [
  { id: "R1", what: "one leader in a term, ever", checkedAt: [`${CORE}"R1"`] },
  { id: "R2", what: "a leader has the most of its own term", checkedAt: [`${CORE}"R2"`] },
  { id: "R3", what: "a leader never rewrites its own entries", checkedAt: [`${CORE}"R3"`] },
  { id: "R4", what: "equal index and term mean equal logs before", checkedAt: [`${CORE}"R4"`] },
  { id: "R5", what: "a leader has everything committed before", checkedAt: [`${CORE}"R5"`] },
  {
    id: "R6",
    what: "committed prefixes agree: one table of committed entries for all members, every member against it",
    checkedAt: [`${CORE}"R9"`, `${CORE}"R4"`],
  },
  {
    id: "R7",
    what: "committed on a majority of each half",
    checkedAt: [`${RAFT}"R7"`, `${NODE}#checkDurable`],
  },
  {
    id: "R8",
    what: "what is acknowledged is durable, the dead as they died, and comes back",
    checkedAt: [`${RAFT}"R8"`, `${NODE}"R8"`],
  },
  { id: "R9", what: "a committed entry never changes", checkedAt: [`${CORE}"R9"`] },
  {
    id: "R10",
    what: "equal index means equal state, over restarts and snapshots",
    checkedAt: [`${RAFT}"R10"`, `${NODE}"R10"`, "test/e2e/torture/final-checks.ts#checkEqualHashes"],
  },
  {
    id: "R11",
    what: "a leader commits by counting entries of its own term alone",
    checkedAt: [`${CORE}"R11"`],
  },
  { id: "R12", what: "no vote for a shorter log", checkedAt: ["test/simulation/vote-checks.ts#R12"] },
  { id: "R13", what: "one vote a term, for ever", checkedAt: [`${CORE}"R13"`, `${RAFT}"R13"`] },
  { id: "R14", what: "terms, commit and applied never go back", checkedAt: [`${CORE}"R14"`, `${RAFT}"R14"`] },
  {
    id: "R15",
    what: "purged, snapshot, applied, committed, last: in this order",
    checkedAt: [`${CORE}"R15"`],
  },
  {
    id: "R16",
    what: "what a leader knows of followers is sound",
    checkedAt: [`${CORE}"R16"`, `${RAFT}"R16"`],
  },
  { id: "R17", what: "no promise leaves before it is durable", checkedAt: [`${RAFT}"R17"`, `${NODE}"R17"`] },
  {
    id: "R18",
    what: "one change of the configuration at a time, with a common quorum, and by nobody who was removed",
    checkedAt: ["test/simulation/config-checks.ts#R18", `${RAFT}"R18"`],
  },
  {
    id: "R19",
    what: "a message of an earlier term changes nothing (whole nodes: messages are replayed, and everything else must hold)",
    checkedAt: [`${RAFT}"R19"`],
  },
  { id: "R20", what: "a read sees every write acknowledged before", checkedAt: [`${RAFT}"R20"`, CHECKER] },
  {
    id: "R21",
    what: "a snapshot is installed whole and never goes back (whole nodes: by R10 and C9)",
    checkedAt: [`${RAFT}"R21"`],
  },
  {
    id: "R22",
    what: "every queue is within its bound, what is dropped is reported",
    checkedAt: [`${RAFT}"R22"`, `${NODE}"R22"`],
  },
  {
    id: "R23",
    what: "damage is found, counted, mended or refused, never served",
    checkedAt: [
      `${CLIENT}K2`,
      "test/simulation/sim-run.ts#damage is repaired",
      "test/e2e/damage.test.ts#no acknowledged file is lost or wrong",
    ],
  },
  {
    id: "C1",
    what: "histories are linearizable; an unknown outcome stays open for ever",
    checkedAt: [CHECKER, TORTURE, "test/support/linearizability/checker.test.ts#"],
  },
  { id: "C2", what: "a value read was written once", checkedAt: [CHECKER, TORTURE] },
  { id: "C3", what: "one request is applied once", checkedAt: [`${RUN}"C3"`, CHECKER] },
  {
    id: "C4",
    what: "a session reads its own writes and never backwards: a part of C1",
    checkedAt: [CHECKER],
  },
  {
    id: "C5",
    what: "each change names the state before it",
    checkedAt: ["test/simulation/feed-checks.ts#C5"],
  },
  {
    id: "C6",
    what: "what was acknowledged is there at the end",
    checkedAt: [`${RUN}"C6"`, `${CLIENT}C6`, "test/e2e/torture/final-checks.ts#checkFiles"],
  },
  { id: "C7", what: "what was refused never appears", checkedAt: [`${RUN}"C7"`, CHECKER] },
  {
    id: "C8",
    what: "the feed of changes: ordered, whole, resumable at any node",
    checkedAt: ["test/simulation/feed-checks.ts#C8", "test/simulation/sim-watcher.ts#C8"],
  },
  {
    id: "C9",
    what: "the tree is a tree, and every count is a recount",
    checkedAt: [`${NODE}C9`, "src/metadata/invariants.ts#checkInvariants"],
  },
  { id: "K1", what: "three verified copies once repair settles", checkedAt: [`${NODE}K1`] },
  { id: "K2", what: "bytes served match their hash", checkedAt: [`${NODE}K2`, `${CLIENT}K2`] },
  {
    id: "K3",
    what: "nothing referenced is removed: by K1 at the end, and by G-01 and G-03",
    checkedAt: [`${NODE}K1`, "test/unit/replication/inventory-audit.test.ts#"],
  },
  {
    id: "K4",
    what: "repair never copies what is bad",
    checkedAt: [`${NODE}K1`, "test/unit/replication/repair.test.ts#G-14"],
  },
  {
    id: "K5",
    what: "no entry before its bytes are durable: by K1 after power losses",
    checkedAt: [`${NODE}K1`],
  },
  {
    id: "K6",
    what: "what nobody refers to goes away",
    checkedAt: ["test/simulation/sim-run.ts#what was deleted is gone"],
  },
  {
    id: "K7",
    what: "three copies again within the bound",
    checkedAt: ["test/simulation/sim-run.ts#three copies of everything"],
  },
  {
    id: "S1",
    what: "a storage-only node serves nobody once no voter has answered for long",
    checkedAt: ["test/simulation/sim-run.ts#S1"],
  },
  {
    id: "U1",
    what: "the feature level is never above what a member supports, never goes down, and is raised at one index everywhere, once all support it",
    checkedAt: ["test/simulation/sim-upgrades.ts#U1", "test/unit/metadata/feature-level.test.ts"],
  },
  {
    id: "L1",
    what: "healed: one leader, not joint, equal states, a fresh write and read",
    checkedAt: [
      `${RUN}"L1"`,
      "test/simulation/sim-run.ts#one leader is known everywhere",
      "test/e2e/torture/final-checks.ts#waitUntilHealed",
    ],
  },
  { id: "L2", what: "nobody is sent snapshots for ever", checkedAt: [`${RUN}"L2"`] },
];

const PLAN = "test/simulation/raft-cluster/cluster-plan.ts#";
const NEMESIS = "test/simulation/sim-nemesis.ts#";
const TROUBLE = "test/simulation/sim-trouble.ts#";
const PROCESSES = "test/e2e/torture/nemesis.ts#";
const NETWORK = "test/simulation/sim-network.ts#";
const OPERATOR = "test/simulation/sim-operator.ts#";

/** Network, processes, disks, time, membership and load. */
export const FAULTS: readonly Fault[] = [
  {
    id: "N1",
    what: "loss",
    doneAt: [`${PLAN}N1 loss`, `${NETWORK}lost`, `${PROCESSES}lose-bytes`],
    counts: ["raft:N1 loss", "node:messages lost", "processes:lose-bytes"],
  },
  {
    id: "N2",
    what: "repeated and very old messages",
    doneAt: [`${PLAN}N2 old replay`, `${NEMESIS}old-replay`, `${NETWORK}duplicated`],
    counts: ["raft:N2 repeat", "raft:N2 old replay", "node:messages doubled", "node:old-replay"],
  },
  {
    id: "N3",
    what: "reordering, within a link too (whole nodes: every message has a delay of its own)",
    doneAt: [`${PLAN}N3 reorder`, `${NETWORK}overtakes many others`],
    counts: ["raft:N3 reorder"],
  },
  {
    id: "N4",
    what: "delay, links that hold everything back and then burst",
    doneAt: [`${PLAN}N4 clog`, `${NETWORK}delayMeanMs`, `${PROCESSES}delay-links`],
    counts: ["raft:N4 clog", "processes:delay-links"],
  },
  {
    id: "N5",
    what: "partitions: one, the leader, halves, one way, majority ring",
    doneAt: [`${PLAN}N5 majority ring`, `${NEMESIS}one-way-partition`, `${PROCESSES}cut-leader-to-followers`],
    counts: [
      "raft:N5 isolate one",
      "raft:N5 isolate leader",
      "raft:N5 split",
      "raft:N5 one way",
      "raft:N5 majority ring",
      "node:partition",
      "node:one-way-partition",
      "processes:cut-leader-off",
      "processes:cut-halves",
      "processes:cut-leader-to-followers",
      "processes:cut-followers-to-leader",
    ],
  },
  {
    id: "N6",
    what: "half-open connections: accepted, never answered; connections that break",
    doneAt: [`${NEMESIS}half-open`, `${PROCESSES}freeze-node`, `${PROCESSES}reset-connections`],
    counts: [
      "node:half-open",
      "node:swallowed by half-open connections",
      "node:connections broken",
      "processes:freeze-node",
      "processes:reset-connections",
      "processes:refuse-node",
    ],
  },
  {
    id: "N7",
    what: "a message of another cluster",
    doneAt: [`${NEMESIS}foreign-message`, "test/e2e/membership.test.ts#data of another cluster"],
    counts: ["node:foreign-message"],
  },
  {
    id: "P1",
    what: "crash at any await, of one and of all",
    doneAt: [`${PLAN}P1 crash`, `${NEMESIS}power-loss-of-all`, `${PROCESSES}kill-all`],
    counts: [
      "raft:P1 crash",
      "raft:P1 crash of all",
      "node:kill",
      "node:power-loss",
      "node:power-loss-of-all",
      "processes:kill-leader",
      "processes:kill-follower",
      "processes:kill-all",
    ],
  },
  {
    id: "P2",
    what: "a process stands still, then goes on",
    doneAt: [`${PLAN}P2 pause`, `${NEMESIS}"pause"`, `${PROCESSES}pause-leader`],
    counts: ["raft:P2 pause", "node:pause", "processes:pause-leader", "processes:pause-follower"],
  },
  {
    id: "P3",
    what: "slow and stuck disks",
    doneAt: [
      `${PLAN}P3 slow disk`,
      `${NEMESIS}slow-disk`,
      "test/simulation/no-election.test.ts#stuck-disk",
      `${PROCESSES}disk-stuck`,
    ],
    counts: ["raft:P3 slow disk", "node:slow-disk", "processes:disk-stuck"],
  },
  {
    id: "P4",
    what: "versions of the program are mixed: nodes upgraded one at a time, taken back before and after the feature level was raised",
    doneAt: [
      "test/simulation/sim-upgrades.ts#downgradeAfterRaise",
      "test/simulation/sim-upgrade-plan.ts#drawUpgrades",
      "test/e2e/upgrade.test.ts#raises the feature level once the last node runs the new version",
    ],
    counts: [
      "node:version: upgrade",
      "node:version: downgrade",
      "node:version: raise",
      "node:version: refused",
    ],
  },
  {
    id: "P5",
    what: "a disk is lost for good, and a new member takes the place",
    doneAt: [`${PLAN}P5 wipe`, `${OPERATOR}"wipe"`, "test/e2e/membership.test.ts#replaces a wiped node"],
    counts: ["raft:P5 wipe", "node:membership: wipe", "node:membership: force"],
  },
  {
    id: "P6",
    what: "two processes of one member: on one data directory, on a copy of it",
    doneAt: [
      "test/e2e/membership.test.ts#stops the second of two processes that run on copies of one data directory",
      "test/e2e/trouble.test.ts#says that its data directory is in use",
    ],
    counts: [],
  },
  {
    id: "D1",
    what: "what was not synced is lost in any part, or there nevertheless",
    doneAt: [`${PLAN}D1 unsynced lost`, "test/support/memory-disk.ts#crashDirectory"],
    counts: ["raft:D1 unsynced lost", "raft:D1 unsynced kept", "node:power-loss"],
  },
  {
    id: "D2",
    what: "torn writes, at sectors",
    doneAt: [
      `${PLAN}D2 torn write`,
      "test/support/memory-disk.ts#SECTOR_SIZES_BYTES",
      "test/unit/segments/recovery.test.ts#has 64 combinations",
    ],
    counts: ["raft:D2 torn write", "node:power-loss"],
  },
  {
    id: "D3",
    what: "names without content, renames that are lost",
    doneAt: [
      "test/support/memory-disk.ts#durableEntries",
      "test/unit/segments/memory-disk.test.ts#may lose names and renames",
    ],
    counts: ["node:power-loss", "node:power-loss-of-all"],
  },
  {
    id: "D4",
    what: "flipped bits in chunks (running), logs, state and indexes (at rest)",
    doneAt: [`${NEMESIS}bit-flip`, `${NEMESIS}log-rot`, `${NEMESIS}state-damage`, "test/e2e/damage.test.ts#"],
    counts: ["node:bit-flip", "node:log-rot", "node:state-damage", "node:index-damage"],
  },
  {
    id: "D5",
    what: "misdirected writes",
    doneAt: ["test/simulation/sim-damage.ts#misdirected-write"],
    counts: ["node:misdirected-write"],
  },
  {
    id: "D6",
    what: "EIO on read, found at the start and under a running process",
    doneAt: ["test/simulation/sim-damage.ts#unreadable-page", `${NEMESIS}read-error`],
    counts: ["node:unreadable-page", "node:read-error"],
  },
  {
    id: "D7",
    what: "EIO on sync, of log, chunks and vote: the process ends",
    doneAt: [`${PLAN}D7 sync error`, `${NEMESIS}sync-error`, `${TROUBLE}promise-sync-error`],
    counts: [
      "raft:D7 sync error",
      "node:sync-error",
      "node:processes ended by sync-error",
      "node:promise-sync-error",
      "node:processes ended by promise-sync-error",
    ],
  },
  {
    id: "D8",
    what: "no space left",
    doneAt: [`${PLAN}D8 disk full`, `${NEMESIS}disk-full`, `${PROCESSES}disk-full`],
    counts: ["raft:D8 disk full", "node:disk-full", "processes:disk-full"],
  },
  {
    id: "D9",
    what: "writes that never came, old copies of stores",
    doneAt: ["test/simulation/sim-damage.ts#lost-write", "test/simulation/sim-damage.ts#older"],
    counts: ["node:lost-write", "node:state-damage"],
  },
  {
    id: "D10",
    what: "read-only file system, no permission, no file descriptors: the process ends and names the cause",
    doneAt: [`${TROUBLE}read-only-disk`, `${TROUBLE}access-denied`, `${TROUBLE}too-many-files`],
    counts: [
      "node:read-only-disk",
      "node:processes ended by read-only-disk",
      "node:access-denied",
      "node:processes ended by access-denied",
      "node:too-many-files",
      "node:processes ended by too-many-files",
    ],
  },
  {
    id: "D11",
    what: "files of the chunk store that are removed, replaced or cut short under a running process",
    doneAt: ["test/simulation/sim-file-loss.ts#loseFiles", "test/unit/chunks/lost-files.test.ts#"],
    counts: ["node:file-loss", "node:lost files noticed"],
  },
  {
    id: "T1",
    what: "clocks that are years apart",
    doneAt: ["test/simulation/sim-machine.ts#YEAR_MS"],
    counts: ["node:clock skew (runs)"],
  },
  { id: "T2", what: "a clock that jumps", doneAt: [`${NEMESIS}clock-jump`], counts: ["node:clock-jump"] },
  {
    id: "T3",
    what: "clocks that run at another rate",
    doneAt: [`${PLAN}T3 clock rate`, "test/simulation/sim-machine.ts#rate"],
    counts: ["raft:T3 clock rate", "node:clock skew (runs)"],
  },
  {
    id: "M1",
    what: "members come and go, leadership is handed over",
    doneAt: [`${PLAN}M1 membership`, `${PLAN}M1 transfer`, `${OPERATOR}M1`],
    counts: [
      "raft:M1 membership",
      "raft:M1 transfer",
      "node:membership: add",
      "node:membership: remove",
      "node:membership: replace",
      "node:membership: transfer",
    ],
  },
  {
    id: "M2",
    what: "snapshots and compaction up to the very tip",
    doneAt: [`${PLAN}M2 compaction`, "test/simulation/sim-plan.ts#logEntryCountMax"],
    counts: ["raft:M2 compaction", "raft:snapshots installed"],
  },
  {
    id: "M3",
    what: "more is asked than fits",
    doneAt: [
      `${PLAN}M3 overload`,
      "test/simulation/sim-plan.ts#NARROW",
      "test/e2e/torture/elections.test.ts#because 64 clients write",
    ],
    counts: ["raft:M3 overload"],
  },
];

/** What is not covered, said plainly, by the ids that it belongs to. */
export const NOT_COVERED: Readonly<Record<string, string>> = {
  P4: "A version is, to the simulator, the levels that it supports: the older code itself is not run. That versions read each other's messages and files is held by `buf breaking` and by `segments/FORMAT.md`, whose examples are parsed by tests.",
  P6: "Two processes of one member are shown with real processes and by unit tests, not drawn by the simulators: the lock and the refusal live above the ports. The refusal needs the first process to be heard; a copy that is started while the original is cut off from everybody is not refused (`src/cluster/peer-guard.ts`).",
  D3: "Writes of one file are lost in any order; a rename is never half done, as on the journalling file systems that are supported.",
  D4: "Bits of a log that is open are not flipped (pages of it become unreadable, D6); damage to an open LMDB file is shown by unit tests and `test/e2e/damage.test.ts`.",
  D9: "A write of the newest round that never came is what a crash leaves, and is not told from it (the bound is in `src/consensus/DESIGN.md`).",
  D11: "A file is not cut between the question for its size and the write that follows, which fills the gap: reads and the scrub find that. The same goes for files that were exchanged or filled up shortly before their process ends: in such runs every copy is read before it must be whole. Files of the Raft log are not taken away: a node holds them open, and its next start finds what is missing (D4).",
  ports:
    "Everything above the ports is outside of the simulators: gRPC, HTTP, LMDB, PostgreSQL, Redis, RabbitMQ. The torture run and the end-to-end tests have them.",
};

/** Sentences of the Raft paper, by the names of etcd's raft_paper_test.go without their "Test". */
export const PAPER_SENTENCES: readonly string[] = [
  "FollowerUpdateTermFromMessage",
  "CandidateUpdateTermFromMessage",
  "LeaderUpdateTermFromMessage",
  "RejectStaleTermMessage",
  "StartAsFollower",
  "LeaderBcastBeat",
  "FollowerStartElection",
  "CandidateStartNewElection",
  "LeaderElectionInOneRoundRPC",
  "FollowerVote",
  "CandidateFallback",
  "FollowerElectionTimeoutRandomized",
  "CandidateElectionTimeoutRandomized",
  "FollowersElectionTimeoutNonconflict",
  "CandidatesElectionTimeoutNonconflict",
  "LeaderStartReplication",
  "LeaderCommitEntry",
  "LeaderAcknowledgeCommit",
  "LeaderCommitPrecedingEntries",
  "FollowerCommitEntry",
  "FollowerCheckMsgApp",
  "FollowerAppendEntries",
  "LeaderSyncFollowerLog",
  "VoteRequest",
  "Voter",
  "LeaderOnlyCommitsLogFromCurrentTerm",
];
