/**
 * Quick failover: a follower whose connection to the leader broke need not wait for a whole election timeout.
 *
 * When a process dies, its peers' connections break within milliseconds. The transport says so by peerDisconnected(), and
 * the follower forgets its leader (so that it may grant a PreVote) and, after a short random delay, asks for one itself.
 *
 * Why that is safe: Raft's safety never depends on timers. Why it does not depose a healthy leader: the campaign begins with
 * PreVote, which raises no term, and with CheckQuorum a member that knows a leader and heard it within an election timeout
 * ignores PreVotes. So it takes a majority that has lost the leader: a member whose own connection to it broke too has
 * forgotten it and grants; one that still hears it does not, nor does the leader itself. If only our connection broke, no
 * quorum answers, the node stays at its term, and the leader's next heartbeat over a new connection makes it a follower
 * again. The price of a false alarm is that this node has no leader for a moment.
 *
 * A peer may notice the break a little later than we ask, and ignores us then; so the question is repeated a few times. Once a
 * majority has said yes the votes themselves are asked for, which takes a sync of the peers' disks: that is given its time, or
 * on a slow disk every repetition would throw away the votes that are under way. A link that flaps cannot turn this into a
 * stream of campaigns: one alarm per election timeout counts.
 *
 * All survivors notice at the same time, and PreVotes are granted to everybody, so two that ask within a round trip of each
 * other would both become candidates of one term and split its votes; on a busy machine, where a round trip takes a hundred
 * milliseconds, nearly every time. So while an alarm lasts at most one of two equal members is heard: who has granted a
 * PreVote lets that member try, and ignores others for as long; of two that have asked each other the one with the lower id
 * ignores the other. A member whose log is ahead of the one that asks cannot be led by it, and asks at once itself. To ignore a
 * PreVote is what a lost message does, so nothing else depends on it.
 */
import type { BasicStatus } from "../raft/raft-node.ts";
import { NO_MEMBER, type MemberId, type Message } from "../raft/types.ts";
import type { Clock, Timer } from "../std/clock.ts";
import type { Prng } from "../std/prng.ts";

/** How often a PreVote is asked for after one alarm. */
const CAMPAIGN_COUNT_MAX = 4;

/**
 * How long votes may be under way before the question is repeated, and up to as long again: a sync of a busy disk. Where
 * everything takes long (so much of the alarm has passed already), votes are given as long, within the greatest.
 */
const VOTE_MS_MIN = 100;
const VOTE_MS_MAX = 400;

/** How long an alarm lasts at most, in least times between two: on a busy machine an election takes longer than one. */
const ALARM_PAUSE_COUNT = 4;

/** The part of the core that is used. */
export interface FailoverCore {
  readonly status: () => Pick<BasicStatus, "role" | "leaderId" | "term" | "lastIndex" | "lastTerm">;
  readonly forgetLeader: () => void;
  readonly campaign: () => void;
}

/** Dependencies of a Failover. */
export interface FailoverOptions {
  readonly memberId: MemberId;
  readonly clock: Clock;
  readonly prng: Prng;
  readonly core: FailoverCore;
  readonly delayMsMin: number;
  readonly delayMsMax: number;
  /** The least time between two alarms that count. */
  readonly pauseMs: number;
}

/** Reacts to broken connections. */
export class Failover {
  readonly #options: FailoverOptions;
  #allowedMs = 0;
  #alarmMs = 0;
  /** Until when the alarm lasts: what peers ask is judged here, and no longer than by Raft alone. */
  #alarmUntilMs = 0;
  /** The newest term whose votes were given their time. */
  #waitedTerm = 0;
  #attempt = 1;
  /** Whom a PreVote was granted to, and until when it may try. */
  #granted: { readonly to: MemberId; readonly untilMs: number } | undefined;
  #timer: Timer | undefined;

  constructor(options: FailoverOptions) {
    this.#options = options;
  }

  /** The connection to the member broke, or is refused. */
  peerDisconnected(memberId: MemberId): void {
    const { core, clock, pauseMs } = this.#options;
    if (memberId === this.#options.memberId || memberId === NO_MEMBER || core.status().leaderId !== memberId)
      return;
    const nowMs = clock.monotonicMs();
    if (nowMs < this.#allowedMs) return;
    this.#allowedMs = nowMs + pauseMs;
    this.#alarmMs = nowMs;
    this.#alarmUntilMs = nowMs + ALARM_PAUSE_COUNT * pauseMs;
    this.#waitedTerm = core.status().term;
    this.#granted = undefined;
    core.forgetLeader();
    this.#arm(1);
  }

  /** Looks at a message before the core does: whether it is a PreVote request that the core must not hear of. */
  ignores(message: Message): boolean {
    const { core, clock, memberId } = this.#options;
    const nowMs = clock.monotonicMs();
    if (message.kind !== "pre-vote" || nowMs >= this.#alarmUntilMs) return false;
    const { role, leaderId, lastIndex, lastTerm } = core.status();
    if (leaderId !== NO_MEMBER || role === "leader") return false;
    const isAsking = role !== "follower";
    const isOtherTrying = this.#granted !== undefined && nowMs < this.#granted.untilMs;
    const { from } = message;
    const order = message.logTerm - lastTerm || message.index - lastIndex;
    if (order < 0) {
      // It cannot win our vote: when nobody else is let try, it is our turn.
      if (!isAsking && !isOtherTrying) this.#at(0, this.#attempt, false);
      return false;
    }
    if (order === 0 && isAsking && memberId < from) {
      // It has lost the leader by now, and perhaps had not when we asked.
      if (role === "pre-candidate") this.#at(0, this.#attempt, false);
      return true;
    }
    if (order === 0 && isOtherTrying && this.#granted?.to !== from) return true;
    const voteMs = this.#voteMs();
    this.#granted = { to: from, untilMs: nowMs + voteMs };
    this.#at(voteMs, this.#attempt, false);
    return false;
  }

  /** Ends what is pending. */
  stop(): void {
    this.#timer?.cancel();
  }

  #arm(attempt: number): void {
    const { prng, delayMsMin, delayMsMax } = this.#options;
    // Wider with every attempt, so that two followers that keep asking at the same time come apart.
    this.#at(delayMsMin + prng.below((delayMsMax - delayMsMin) * attempt + 1), attempt, false);
  }

  #at(delayMs: number, attempt: number, hasWaited: boolean): void {
    this.#attempt = attempt;
    this.#timer?.cancel();
    this.#timer = this.#options.clock.setTimer(delayMs, () => this.#campaign(attempt, hasWaited));
  }

  /** By chance, so that two that split the votes come apart. */
  #voteMs(): number {
    const { clock, prng } = this.#options;
    const passedMs = Math.ceil(clock.monotonicMs() - this.#alarmMs);
    return Math.min(VOTE_MS_MAX, Math.max(VOTE_MS_MIN, passedMs)) + prng.below(VOTE_MS_MIN);
  }

  #campaign(attempt: number, hasWaited: boolean): void {
    const { core } = this.#options;
    const { role, leaderId, term } = core.status();
    if (leaderId !== NO_MEMBER || role === "leader") return;
    // Our own votes are under way, or we have just given ours to somebody else.
    const isElecting = role === "candidate" || term > this.#waitedTerm;
    if (isElecting && !hasWaited) {
      this.#waitedTerm = term;
      this.#at(this.#voteMs(), attempt, true);
      return;
    }
    core.campaign();
    if (attempt < CAMPAIGN_COUNT_MAX) this.#arm(attempt + 1);
  }
}
