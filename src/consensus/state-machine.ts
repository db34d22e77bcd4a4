/**
 * The port between consensus and what it replicates: a pure function over an ordered store.
 *
 * consensus/ owns the store (its generations, flushes, snapshots, applied index and state hash, all under keys that start
 * with byte 0x00); the state machine reads and writes keys that start with 0x01 or above, inside the transaction it is given.
 */
import type { OrderedTransaction } from "../std/ordered-store.ts";

/** A committed log entry for the state machine. */
export interface CommittedCommand {
  readonly index: number;
  readonly term: number;
  /** The proposed bytes; never empty. */
  readonly data: Uint8Array;
}

/**
 * What is replicated. apply() is deterministic: the same state and command give the same writes and the same answer on every
 * member. It reads no clock, draws no random number and does no I/O. A throw is a broken invariant and ends the node.
 */
export interface StateMachine<Result> {
  apply(transaction: OrderedTransaction, command: CommittedCommand): Result;
}
