/**
 * Comparing the state of the members: the same entries applied must give the same state hash.
 *
 * Every so often the leader names an index it has applied and sends its hash there to all; every member, once it has applied
 * that index, sends its own to all. Who finds that a majority of the voters agree on another hash than its own is wrong and
 * ends itself, loudly: its disk, memory or program is not to be trusted, and its peers have the truth. Without a majority
 * against it (two voters that differ, or too few answers) nobody can say who is wrong: that is logged as an error by all
 * who see it, and the members go on. Which hash the leader has makes no difference: a wrong leader ends itself too.
 *
 * Hashes are lost with messages, and skipped by members that were given a snapshot; the next comparison comes soon.
 */
import { DriveError } from "../drive/errors.ts";
import type { ConfState, MemberId } from "../raft/types.ts";
import { must } from "../std/assert.ts";
import { toHex } from "../std/bytes.ts";
import type { Clock } from "../std/clock.ts";
import type { Logger } from "../telemetry/logger.ts";
import type { StateHash } from "./codec.ts";

/** Comparisons under way at most; the oldest is forgotten. */
const ROUND_COUNT_MAX = 4;

/** Dependencies of a StateHashCheck. */
export interface StateHashCheckOptions {
  readonly memberId: MemberId;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly entryCount: number;
  readonly intervalMs: number;
  readonly confState: () => ConfState;
  readonly appliedIndex: () => number;
  readonly hashAt: (index: number) => { readonly term: number; readonly hash: Uint8Array } | undefined;
  readonly send: (to: MemberId, stateHash: StateHash) => void;
  readonly onFatal: (error: Error) => void;
}

interface Round {
  readonly index: number;
  /** What each member has there, this one included. */
  readonly hashes: Map<MemberId, string>;
  hasAnswered: boolean;
}

/** One member's part in the comparisons. */
export class StateHashCheck {
  readonly #options: StateHashCheckOptions;
  /** By age. */
  #rounds: Round[] = [];
  #lastIndex = 0;
  #lastMs: number;
  #disagreementCount = 0;

  constructor(options: StateHashCheckOptions) {
    this.#options = options;
    this.#lastMs = options.clock.monotonicMs();
  }

  /** Times that a member was seen to differ. */
  get disagreementCount(): number {
    return this.#disagreementCount;
  }

  /** Called now and then; a leader starts a comparison when it is time. */
  tick(isLeading: boolean): void {
    const { clock, appliedIndex, entryCount, intervalMs } = this.#options;
    const index = appliedIndex();
    const nowMs = clock.monotonicMs();
    if (!isLeading || index <= this.#lastIndex) return;
    if (index - this.#lastIndex < entryCount && nowMs - this.#lastMs < intervalMs) return;
    this.#lastIndex = index;
    this.#lastMs = nowMs;
    const round = this.#roundOf(index);
    if (!round.hasAnswered) this.#answer(round, true);
  }

  /** A member says what it has. */
  receive(stateHash: StateHash): void {
    const { index, from, request } = stateHash;
    const { voters, votersOutgoing, learners } = this.#options.confState();
    if (![...voters, ...votersOutgoing, ...learners].includes(from)) return;
    const known = this.#rounds.find((round) => round.index === index);
    // An answer to a comparison that is long over, or was never asked for.
    if (known === undefined && !request) return;
    const round = known ?? this.#roundOf(index);
    this.#lastIndex = Math.max(this.#lastIndex, index);
    round.hashes.set(from, textOf(stateHash));
    if (!round.hasAnswered && this.#options.appliedIndex() >= index) this.#answer(round, false);
    this.#judge(round);
  }

  /** The store has applied up to `index`. */
  applied(index: number): void {
    for (const round of this.#rounds) {
      if (round.hasAnswered || round.index > index) continue;
      this.#answer(round, false);
      this.#judge(round);
    }
  }

  #roundOf(index: number): Round {
    const known = this.#rounds.find((round) => round.index === index);
    if (known !== undefined) return known;
    const round: Round = { index, hashes: new Map(), hasAnswered: false };
    this.#rounds = [...this.#rounds, round].slice(-ROUND_COUNT_MAX);
    return round;
  }

  #answer(round: Round, request: boolean): void {
    const { memberId, hashAt, confState, send } = this.#options;
    round.hasAnswered = true;
    const own = hashAt(round.index);
    if (own === undefined) return;
    const stateHash: StateHash = {
      from: memberId,
      index: round.index,
      term: own.term,
      hash: own.hash,
      request,
    };
    round.hashes.set(memberId, textOf(stateHash));
    const { voters, votersOutgoing, learners } = confState();
    for (const to of new Set([...voters, ...votersOutgoing, ...learners])) {
      if (to !== memberId) send(to, stateHash);
    }
  }

  #judge(round: Round): void {
    const { memberId, confState, logger, onFatal } = this.#options;
    const own = round.hashes.get(memberId);
    if (own === undefined) return;
    const voters = confState().voters;
    const counts = new Map<string, number>();
    for (const voter of voters) {
      const hash = round.hashes.get(voter);
      if (hash !== undefined) counts.set(hash, (counts.get(hash) ?? 0) + 1);
    }
    const others = [...round.hashes].filter(([, hash]) => hash !== own).map(([member]) => member);
    if (others.length === 0) return;
    this.#disagreementCount += 1;
    const majority = [...counts].find(([, count]) => count * 2 > voters.length);
    const index = String(round.index);
    logger.error("state_hash_differs", { index, own, others, majority: majority?.[0] });
    if (majority === undefined || majority[0] === own) return;
    const hash = must(majority[0], "the hash of the majority");
    const message = `After entry ${index} this node's state has hash ${own}, but a majority has ${hash}.`;
    onFatal(new DriveError("DATA_CORRUPT", message, { index, own_hash: own, majority_hash: hash }));
  }
}

/** Term and hash: the same index with another term is a difference too. */
function textOf(stateHash: { readonly term: number; readonly hash: Uint8Array }): string {
  return `${stateHash.term}:${toHex(stateHash.hash)}`;
}
