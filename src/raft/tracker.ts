/**
 * The configuration in force, the progress of everybody in it, and the votes of the election under way.
 *
 * Invariant: there is exactly one Progress per member of the configuration, and members are visited in the order of their
 * ids, so that the same inputs give the same messages in the same order.
 */
import { checkConfState, EMPTY_CONF_STATE, memberIds } from "./conf-change.ts";
import { Progress } from "./progress.ts";
import { committedIndex, voteResult, type VoteResult } from "./quorum.ts";
import type { ConfState, MemberId } from "./types.ts";

/** Limits on what may be in flight to one follower. */
export interface TrackerOptions {
  readonly inflightMessagesMax: number;
  readonly inflightBytesMax: number;
}

/** Votes counted so far. */
export interface VoteTally {
  readonly granted: number;
  readonly rejected: number;
  readonly result: VoteResult;
}

/** Configuration, progress and votes of one node. */
export class Tracker {
  readonly #options: TrackerOptions;
  #config: ConfState = EMPTY_CONF_STATE;
  #progress = new Map<MemberId, Progress>();
  #votes = new Map<MemberId, boolean>();

  constructor(options: TrackerOptions) {
    this.#options = options;
  }

  /** The configuration in force. */
  get config(): ConfState {
    return this.#config;
  }

  /** Progress by member, in the order of ids. */
  get progress(): ReadonlyMap<MemberId, Progress> {
    return this.#progress;
  }

  /** Whether `id` votes in either half of the configuration. */
  isVoter(id: MemberId): boolean {
    return this.#config.voters.includes(id) || this.#config.votersOutgoing.includes(id);
  }

  /** Everybody who votes, sorted by id. */
  voterIds(): MemberId[] {
    return [...this.#progress.keys()].filter((id) => this.isVoter(id));
  }

  /** Whether `id` alone is a quorum. */
  isSingleton(id: MemberId): boolean {
    const { voters, votersOutgoing } = this.#config;
    return votersOutgoing.length === 0 && voters.length === 1 && voters[0] === id;
  }

  /**
   * Takes over `config`. Members that stay keep their progress; those that are new start to be probed at `lastIndex`
   * and count as active, or the next check of the quorum would depose the leader before they could be heard from.
   */
  switchTo(config: ConfState, lastIndex: number): void {
    checkConfState(config);
    const next = new Map<MemberId, Progress>();
    for (const id of memberIds(config)) {
      const progress = this.#progress.get(id) ?? this.#newProgress(Math.max(lastIndex, 1), true);
      progress.isLearner = config.learners.includes(id);
      next.set(id, progress);
    }
    this.#config = config;
    this.#progress = next;
  }

  /** Forgets all progress, as every new term does; `selfId` is known to hold its own log. */
  resetProgress(selfId: MemberId, lastIndex: number): void {
    for (const [id, old] of this.#progress) {
      const progress = this.#newProgress(lastIndex + 1, false);
      progress.isLearner = old.isLearner;
      if (id === selfId) progress.matchIndex = lastIndex;
      this.#progress.set(id, progress);
    }
  }

  /** Highest index durable on a quorum, as far as is known. */
  committedIndex(): number {
    return committedIndex(this.#config, (id) => this.#progress.get(id)?.matchIndex);
  }

  /** Whether a quorum was heard from since the last check; the node itself is always active. */
  isQuorumActive(): boolean {
    return voteResult(this.#config, (id) => this.#progress.get(id)?.recentActive === true) === "won";
  }

  /** Forgets all votes. */
  resetVotes(): void {
    this.#votes = new Map();
  }

  /** Counts the vote of `id`; only its first one counts. */
  recordVote(id: MemberId, granted: boolean): void {
    if (!this.#votes.has(id)) this.#votes.set(id, granted);
  }

  /** Whether `id` has voted yes. */
  hasGranted(id: MemberId): boolean {
    return this.#votes.get(id) === true;
  }

  /** The votes of members that vote, and what they amount to. */
  tallyVotes(): VoteTally {
    let granted = 0;
    let rejected = 0;
    for (const [id, vote] of this.#votes) {
      if (!this.isVoter(id)) continue;
      if (vote) granted += 1;
      else rejected += 1;
    }
    return { granted, rejected, result: voteResult(this.#config, (id) => this.#votes.get(id)) };
  }

  #newProgress(nextIndex: number, recentActive: boolean): Progress {
    return new Progress({ nextIndex, recentActive, isLearner: false, ...this.#options });
  }
}
