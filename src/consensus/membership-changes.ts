/**
 * What only a leader can do about the membership: propose a change and wait until it is applied, and hand leadership over.
 *
 * As with commands (proposals.ts), a change is known by the index and term it was given: another term's entry applied at its
 * index proves that it is lost, and a snapshot over the index proves nothing. The core allows one unapplied change at a time.
 */
import { DriveError } from "../drive/errors.ts";
import type { DropReason } from "../raft/outcome.ts";
import type { ConfChange, ConfState, LogEntry, MemberId } from "../raft/types.ts";
import type { Clock } from "../std/clock.ts";
import { deferred, type Deferred } from "../std/deferred.ts";
import type { RequestOptions } from "./consensus-options.ts";
import { waitFor, waitUntil } from "./deadline.ts";
import { notDone, outcomeUnknown } from "./proposals.ts";
import type { RaftDriver } from "./raft-driver.ts";
import type { ConsensusTuning } from "./tuning.ts";

/** What MembershipChanges works with. */
export interface MembershipChangesOptions {
  readonly clock: Clock;
  readonly tuning: ConsensusTuning;
  readonly leaderId: () => MemberId | undefined;
  readonly onRoleChange: (listener: () => void) => () => void;
}

const NO_CONTEXT = new Uint8Array(0);

interface Pending {
  readonly index: number;
  readonly term: number;
  readonly answer: Deferred<ConfState>;
}

/** At most one change that waits to be applied, and transfers of leadership. */
export class MembershipChanges {
  readonly #options: MembershipChangesOptions;
  #pending: Pending | undefined;

  constructor(options: MembershipChangesOptions) {
    this.#options = options;
  }

  /**
   * Proposes a membership change as the leader and waits until it is applied here, which is when it takes effect. A joint
   * change that leaves by itself is left afterwards; one entered explicitly by a change without steps.
   * @returns the configuration from then on
   * @throws DriveError NOT_LEADER, OVERLOADED, MEMBERSHIP_CHANGE_IN_PROGRESS (another one is not applied yet, or this one does
   *   not fit the configuration in force): it did not happen; COMMIT_OUTCOME_UNKNOWN, CANCELED, NODE_STOPPING: it may have
   */
  async propose(
    driver: RaftDriver<unknown>,
    change: Omit<ConfChange, "context">,
    options: RequestOptions,
  ): Promise<ConfState> {
    const outcome = driver.node.proposeConfChange({ ...change, context: NO_CONTEXT });
    driver.wake();
    if (outcome.outcome === "dropped") throw refused(outcome.reason, this.#options.leaderId());
    const { lastIndex: index, term } = driver.node.basicStatus();
    this.#settle((before) => before.answer.reject(outcomeUnknown("another change was proposed")));
    const answer = deferred<ConfState>();
    // The caller may give up before the outcome is known.
    answer.promise.catch(() => undefined);
    this.#pending = { index, term, answer };
    return await waitFor(this.#options.clock, answer.promise, {
      timeoutMs: options.timeoutMs ?? this.#options.tuning.requestTimeoutMs,
      signal: options.signal,
      onTimeout: () => outcomeUnknown("the membership change was not committed in time"),
    });
  }

  /** See Consensus.transferLeadership(). */
  async transfer(driver: RaftDriver<unknown>, to: MemberId): Promise<void> {
    const { clock, tuning, leaderId, onRoleChange } = this.#options;
    const outcome = driver.node.transferLeader(to);
    driver.wake();
    if (outcome.outcome === "dropped") {
      if (outcome.reason === "not-leader") throw notDone("this node does not lead", leaderId());
      throw new DriveError("ARGUMENT_INVALID", `Member ${to} is no voter.`, { member_id: String(to) });
    }
    const timeoutMs = 2 * tuning.tickMs * tuning.electionTicks;
    if (await waitUntil(clock, timeoutMs, onRoleChange, () => leaderId() === to)) return;
    throw new DriveError("PEER_UNREACHABLE", `Member ${to} did not take over.`, { member_id: String(to) });
  }

  /** An entry was applied, and this is the configuration since. */
  applied(entry: LogEntry, confState: ConfState): void {
    if (this.#pending === undefined || entry.index < this.#pending.index) return;
    this.#settle(({ index, term, answer }) => {
      if (entry.index === index && entry.term === term) answer.resolve(confState);
      else answer.reject(notDone("another leader's entry took its place"));
    });
  }

  /** A snapshot has replaced everything up to `index`. */
  skippedTo(index: number): void {
    if (this.#pending === undefined || index < this.#pending.index) return;
    this.#settle(({ answer }) => answer.reject(outcomeUnknown("a snapshot passed over it")));
  }

  /** Consensus ends here. */
  stop(): void {
    this.#settle(({ answer }) => answer.reject(new DriveError("NODE_STOPPING", "Consensus has stopped.")));
  }

  #settle(end: (pending: Pending) => void): void {
    const pending = this.#pending;
    this.#pending = undefined;
    if (pending !== undefined) end(pending);
  }
}

function refused(reason: DropReason, leaderId: MemberId | undefined): DriveError {
  if (reason === "conf-change-refused") {
    return new DriveError(
      "MEMBERSHIP_CHANGE_IN_PROGRESS",
      "Another membership change is not applied yet, or this one does not fit the configuration in force.",
    );
  }
  if (reason === "uncommitted-bytes-full") {
    return new DriveError("OVERLOADED", "Too much waits to be committed for a membership change.");
  }
  return notDone(`the core refused it: ${reason}`, leaderId);
}
