/**
 * Majorities, and majorities of two configurations at once (joint consensus, Raft 6 and thesis 4.3).
 *
 * Pure functions of a configuration and of what each voter said. An empty majority agrees to everything: that is what
 * makes "joint with nothing" equal to a plain configuration.
 */
import { must } from "../std/assert.ts";
import type { MemberId } from "./types.ts";

/** The outcome of a vote so far. */
export type VoteResult =
  /** A majority said no, or so many that yes cannot reach a majority. */
  | "lost"
  /** Neither is decided. */
  | "pending"
  /** A majority said yes. */
  | "won";

/** The two halves of a configuration; `votersOutgoing` is empty outside of a joint one. */
export interface QuorumConfig {
  readonly voters: readonly MemberId[];
  readonly votersOutgoing: readonly MemberId[];
}

/** How many voters of `count` make a majority. */
export function majorityOf(count: number): number {
  return Math.floor(count / 2) + 1;
}

/**
 * The highest index that a majority of `voters` has acknowledged; Infinity when there are no voters.
 * @param acked the index that a voter acknowledged; undefined counts as 0
 */
export function majorityCommittedIndex(
  voters: readonly MemberId[],
  acked: (id: MemberId) => number | undefined,
): number {
  if (voters.length === 0) return Infinity;
  const indexes: number[] = [];
  // Insertion sort, descending: a handful of voters, on the path of every acknowledgement.
  for (const id of voters) {
    const index = acked(id) ?? 0;
    let at = indexes.length;
    indexes.push(index);
    for (; at > 0 && must(indexes[at - 1], "below the length") < index; at -= 1) {
      indexes[at] = must(indexes[at - 1], "below the length");
    }
    indexes[at] = index;
  }
  return must(indexes[majorityOf(voters.length) - 1], "a majority is not larger than the whole");
}

/** The highest index acknowledged by a majority of each half of `config`; Infinity when both are empty. */
export function committedIndex(config: QuorumConfig, acked: (id: MemberId) => number | undefined): number {
  const incoming = majorityCommittedIndex(config.voters, acked);
  if (config.votersOutgoing.length === 0) return incoming;
  return Math.min(incoming, majorityCommittedIndex(config.votersOutgoing, acked));
}

/**
 * The outcome of a vote among `voters`; "won" when there are none.
 * @param vote what a voter said; undefined when it has not answered
 */
export function majorityVoteResult(
  voters: readonly MemberId[],
  vote: (id: MemberId) => boolean | undefined,
): VoteResult {
  if (voters.length === 0) return "won";
  let yes = 0;
  let missing = 0;
  for (const id of voters) {
    const answer = vote(id);
    if (answer === true) yes += 1;
    else if (answer === undefined) missing += 1;
  }
  const needed = majorityOf(voters.length);
  if (yes >= needed) return "won";
  return yes + missing >= needed ? "pending" : "lost";
}

/** The outcome of a vote that both halves of `config` must win. */
export function voteResult(config: QuorumConfig, vote: (id: MemberId) => boolean | undefined): VoteResult {
  const incoming = majorityVoteResult(config.voters, vote);
  const outgoing = majorityVoteResult(config.votersOutgoing, vote);
  if (incoming === outgoing) return incoming;
  return incoming === "lost" || outgoing === "lost" ? "lost" : "pending";
}
