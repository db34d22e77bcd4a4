/**
 * Proposals of this node while it leads: waiting to be appended, then waiting to be applied.
 *
 *   queued --appended(index, term)--> appended --applied at that index--> answered
 *      |                                 |--another term's entry applied at that index--> certainly lost
 *      '--leadership lost--> certainly not done      '--a snapshot passed over the index--> unknown
 *
 * A proposal is known by the index and term it was given: by log matching, what is applied at its index with another term
 * proves that it never will be (Raft 5.3). Losing leadership alone proves nothing: the next leader may commit it, and then
 * the answer comes from applying it here as a follower. Count and bytes of all of them together are bounded.
 */
import { DriveError } from "../drive/errors.ts";
import { COMMAND_SIZE_BYTES_MAX } from "../drive/limits.ts";
import type { LogEntry } from "../raft/types.ts";
import { assert, must } from "../std/assert.ts";
import { deferred, type Deferred } from "../std/deferred.ts";

/** A command that was applied. */
export interface Applied<Result> {
  /** The index it was applied at. */
  readonly index: number;
  /** What the state machine answered. */
  readonly result: Result;
}

/** One proposal. */
export interface Proposal<Result> {
  readonly data: Uint8Array;
  readonly answer: Deferred<Applied<Result>>;
  state: "queued" | "appended" | "settled";
  index: number;
  term: number;
}

/** Bounds of the book. */
export interface ProposalBounds {
  readonly countMax: number;
  readonly bytesMax: number;
  readonly batchCountMax: number;
  readonly batchBytesMax: number;
}

/** All proposals of this node that are not answered. */
export class ProposalBook<Result> {
  readonly #bounds: ProposalBounds;
  #queued: Proposal<Result>[] = [];
  readonly #appended = new Map<number, Proposal<Result>>();
  #count = 0;
  #bytes = 0;

  constructor(bounds: ProposalBounds) {
    this.#bounds = bounds;
  }

  /** Proposals that are not answered. */
  get count(): number {
    return this.#count;
  }

  /** Whether any wait to be appended. */
  get hasQueued(): boolean {
    return this.#queued.length > 0;
  }

  /** Takes a command. Throws DriveError OVERLOADED when there is no room. */
  offer(data: Uint8Array): Proposal<Result> {
    const { countMax, bytesMax } = this.#bounds;
    if (this.#count >= countMax || (this.#count > 0 && this.#bytes + data.length > bytesMax)) {
      throw new DriveError("OVERLOADED", `${this.#count} proposals wait already.`, {
        count: String(this.#count),
      });
    }
    const proposal: Proposal<Result> = { data, answer: deferred(), state: "queued", index: 0, term: 0 };
    this.#queued.push(proposal);
    this.#count += 1;
    this.#bytes += data.length;
    return proposal;
  }

  /** The next proposals to append together, at least one if there is any; they stay queued until appended() is called. */
  nextBatch(): readonly Proposal<Result>[] {
    const { batchCountMax, batchBytesMax } = this.#bounds;
    let count = 0;
    let bytes = 0;
    while (count < this.#queued.length && count < batchCountMax) {
      bytes += must(this.#queued[count], "inside the queue").data.length;
      if (count > 0 && bytes > batchBytesMax) break;
      count += 1;
    }
    return this.#queued.slice(0, count);
  }

  /** Notes that the batch of nextBatch() was appended from `firstIndex` on in `term`. */
  appended(batch: readonly Proposal<Result>[], firstIndex: number, term: number): void {
    this.#queued = this.#queued.slice(batch.length);
    for (const [at, proposal] of batch.entries()) {
      assert(proposal.state === "queued", "a proposal is appended once");
      proposal.state = "appended";
      proposal.index = firstIndex + at;
      proposal.term = term;
      // One of an earlier term that still waits at this index was replaced in this node's log, which proves nothing yet.
      const replaced = this.#appended.get(proposal.index);
      if (replaced !== undefined)
        this.#fail(replaced, outcomeUnknown("its place in the log was taken by another"));
      this.#appended.set(proposal.index, proposal);
    }
  }

  /** Notes that `entry` was applied with `result`. */
  applied(entry: LogEntry, result: Result | undefined): void {
    const proposal = this.#appended.get(entry.index);
    if (proposal === undefined) return;
    this.#appended.delete(entry.index);
    if (proposal.term !== entry.term) {
      this.#fail(proposal, notDone("another leader's entry was committed in its place"));
      return;
    }
    this.#settle(proposal);
    proposal.answer.resolve({ index: entry.index, result: must(result, "a command has a result") });
  }

  /** Notes that a snapshot replaced everything up to `index`: what was decided there is not known here. */
  skippedTo(index: number): void {
    for (const [at, proposal] of this.#appended) {
      if (at > index) continue;
      this.#appended.delete(at);
      this.#fail(proposal, outcomeUnknown("this node fell behind and was given a snapshot"));
    }
  }

  /** Refuses everything that was not appended: it certainly did not happen. */
  rejectQueued(error: DriveError): void {
    const queued = this.#queued;
    this.#queued = [];
    for (const proposal of queued) this.#fail(proposal, error);
  }

  /** Gives everything up because the node ends. */
  rejectAll(error: DriveError): void {
    this.rejectQueued(error);
    for (const proposal of this.#appended.values()) this.#fail(proposal, outcomeUnknown("the node stopped"));
    this.#appended.clear();
  }

  /**
   * Gives one up whose proposer does not wait any longer. Returns whether it certainly did not happen.
   */
  giveUp(proposal: Proposal<Result>): boolean {
    if (proposal.state === "settled") return false;
    const wasQueued = proposal.state === "queued";
    if (wasQueued) this.#queued.splice(this.#queued.indexOf(proposal), 1);
    else this.#appended.delete(proposal.index);
    this.#settle(proposal);
    return wasQueued;
  }

  #settle(proposal: Proposal<Result>): void {
    proposal.state = "settled";
    this.#count -= 1;
    this.#bytes -= proposal.data.length;
  }

  #fail(proposal: Proposal<Result>, error: DriveError): void {
    if (proposal.state === "settled") return;
    this.#settle(proposal);
    proposal.answer.reject(error);
  }
}

/** COMMIT_OUTCOME_UNKNOWN, because of `why`. */
export function outcomeUnknown(why: string): DriveError {
  return new DriveError("COMMIT_OUTCOME_UNKNOWN", `It is not known whether the change happened: ${why}.`, {
    why,
  });
}

/** NOT_LEADER, because of `why`: the change certainly did not happen and may be proposed again. */
export function notDone(why: string, leaderId?: number): DriveError {
  const metadata = leaderId === undefined ? { why } : { why, leader_id: String(leaderId) };
  return new DriveError("NOT_LEADER", `The change did not happen: ${why}.`, metadata);
}

/** Asserts that a command has bytes. @throws DriveError PAYLOAD_TOO_LARGE above COMMAND_SIZE_BYTES_MAX */
export function checkCommandSize(data: Uint8Array): void {
  assert(data.length > 0, "a command has bytes");
  if (data.length <= COMMAND_SIZE_BYTES_MAX) return;
  throw new DriveError(
    "PAYLOAD_TOO_LARGE",
    `A command of ${data.length} bytes; at most ${COMMAND_SIZE_BYTES_MAX}.`,
    {
      size_bytes: String(data.length),
      size_bytes_max: String(COMMAND_SIZE_BYTES_MAX),
    },
  );
}

/** Refuses what comes from another cluster. @throws DriveError WRONG_CLUSTER */
export function checkCluster(clusterId: string, foundClusterId: string, from: number): void {
  if (foundClusterId === clusterId) return;
  throw new DriveError(
    "WRONG_CLUSTER",
    `Member ${from} belongs to cluster ${foundClusterId}, not to this one.`,
    { found_cluster_id: foundClusterId, cluster_id: clusterId, from: String(from) },
  );
}
