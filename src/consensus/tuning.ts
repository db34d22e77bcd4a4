/**
 * The numbers that consensus runs by: timers, bounds of queues and batches, and when the log is cut.
 *
 * All bounds are here, so that what the node can hold at most can be added up in one place. Tests and the simulator override
 * single fields; a running cluster uses the defaults.
 */
import { assert } from "../std/assert.ts";

const MIB = 1024 * 1024;

/** Settings of a Consensus. Times in milliseconds, sizes in bytes. */
export interface ConsensusTuning {
  /** One tick of the core. */
  readonly tickMs: number;
  /** Ticks between heartbeats of a leader. */
  readonly heartbeatTicks: number;
  /** Ticks without a leader before an election; the core draws from [electionTicks, 2 * electionTicks). */
  readonly electionTicks: number;
  /** Entries in one append message: well below the 4 MiB that the transport takes. */
  readonly entriesSizeBytesMax: number;
  /** Committed entries handed to the state machine and not applied yet. */
  readonly committedSizeBytesMax: number;
  /** Append messages in flight to one follower. */
  readonly inflightMessagesMax: number;
  readonly inflightBytesMax: number;
  /** Append messages that one answer of a follower lets out: they are read from the log in one turn of the event loop. */
  readonly appendsPerAnswerMax: number;
  /** What a leader keeps uncommitted; beyond it proposals wait. */
  readonly uncommittedBytesMax: number;
  /** What waits for this node's disk; beyond it append messages of the leader are dropped, which it repeats. */
  readonly unwrittenBytesMax: number;
  /** Proposals of this node that are not answered yet. */
  readonly proposalCountMax: number;
  readonly proposalBytesMax: number;
  /** Proposals that are appended to the log together. */
  readonly proposalBatchCountMax: number;
  readonly proposalBatchBytesMax: number;
  /** How long propose() and linearize() wait unless told otherwise. */
  readonly requestTimeoutMs: number;
  /** Reads that wait for confirmation or for the applied index. */
  readonly readCountMax: number;
  /** A confirmation of reads that has not come after this long is asked for anew. */
  readonly readRetryMs: number;
  /** A leader whose disk has not answered for this long hands leadership over. */
  readonly diskStallMs: number;
  /** The replicated store is flushed at least this often while it changes. */
  readonly storeFlushIntervalMs: number;
  /** A flush that takes longer ends the node: the disk does not keep its word. In LMDB it may be nine layers of 10 s each. */
  readonly storeFlushTimeoutMs: number;
  /** The log is cut when it holds more than either of these. */
  readonly logSizeBytesMax: number;
  readonly logEntryCountMax: number;
  /** What is kept for slow followers when it is cut: at most either of these. */
  readonly logKeepSizeBytes: number;
  readonly logKeepEntryCount: number;
  /** Writing a snapshot may stand still for this long: an open read transaction keeps the store's file growing. */
  readonly snapshotDumpStallMs: number;
  /** Sending one may: no piece is taken. */
  readonly snapshotSendStallMs: number;
  /** A receiver that has all of it must load this many bytes a second at least, or what snapshotSendStallMs allows. */
  readonly snapshotLoadBytesPerSecond: number;
  /** Members compare their state hashes after this many entries or this long, whichever comes first. */
  readonly stateHashEntryCount: number;
  readonly stateHashIntervalMs: number;
  /** After the connection to the leader broke: a campaign starts within this range, drawn at random. */
  readonly failoverDelayMsMin: number;
  readonly failoverDelayMsMax: number;
}

/** The tuning of a running cluster. */
export const TUNING_DEFAULT: ConsensusTuning = {
  tickMs: 50,
  heartbeatTicks: 2,
  electionTicks: 10,
  entriesSizeBytesMax: MIB,
  committedSizeBytesMax: 4 * MIB,
  inflightMessagesMax: 256,
  inflightBytesMax: 16 * MIB,
  appendsPerAnswerMax: 2,
  uncommittedBytesMax: 64 * MIB,
  unwrittenBytesMax: 64 * MIB,
  proposalCountMax: 16_384,
  proposalBytesMax: 64 * MIB,
  proposalBatchCountMax: 1024,
  proposalBatchBytesMax: MIB,
  requestTimeoutMs: 5000,
  readCountMax: 65_536,
  readRetryMs: 250,
  diskStallMs: 5000,
  storeFlushIntervalMs: 10_000,
  storeFlushTimeoutMs: 90_000,
  logSizeBytesMax: 64 * MIB,
  logEntryCountMax: 100_000,
  logKeepSizeBytes: 16 * MIB,
  logKeepEntryCount: 20_000,
  snapshotDumpStallMs: 60_000,
  snapshotSendStallMs: 60_000,
  snapshotLoadBytesPerSecond: MIB,
  stateHashEntryCount: 1024,
  stateHashIntervalMs: 10_000,
  failoverDelayMsMin: 5,
  failoverDelayMsMax: 60,
};

/** Asserts that settings fit each other. */
export function checkTuning(tuning: ConsensusTuning): void {
  for (const [name, value] of Object.entries(tuning)) {
    assert(Number.isSafeInteger(value) && value >= 1, `${name} is ${value}`);
  }
  assert(tuning.logKeepEntryCount < tuning.logEntryCountMax, "cutting the log must shorten it");
  assert(tuning.logKeepSizeBytes < tuning.logSizeBytesMax, "cutting the log must shorten it");
  assert(tuning.failoverDelayMsMin <= tuning.failoverDelayMsMax, "a range from low to high");
  assert(
    tuning.diskStallMs > tuning.tickMs * tuning.electionTicks,
    "a stall is longer than an election timeout",
  );
}
