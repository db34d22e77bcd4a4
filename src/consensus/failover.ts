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
 * on a slow disk every repetition would throw away the votes that are under way. A link that flaps cannot turn this into a stream of campaigns: one alarm per election timeout counts.
 */
import { NO_MEMBER, type MemberId } from "../raft/types.ts";
import type { Clock, Timer } from "../std/clock.ts";
import type { Prng } from "../std/prng.ts";

/** How often a PreVote is asked for after one alarm. */
const CAMPAIGN_COUNT_MAX = 4;

/** How long votes may be under way before the question is repeated, and up to as long again: a sync of a busy disk. */
const VOTE_MS_MIN = 100;

/** The part of the core that is used. */
export interface FailoverCore {
  readonly leaderId: () => MemberId;
  readonly isLeading: () => boolean;
  /** Whether it asks for votes, after a majority of PreVotes. */
  readonly isCandidate: () => boolean;
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
  #timer: Timer | undefined;

  constructor(options: FailoverOptions) {
    this.#options = options;
  }

  /** The connection to the member broke, or is refused. */
  peerDisconnected(memberId: MemberId): void {
    const { core, clock, pauseMs } = this.#options;
    if (memberId === this.#options.memberId || memberId === NO_MEMBER || core.leaderId() !== memberId) return;
    const nowMs = clock.monotonicMs();
    if (nowMs < this.#allowedMs) return;
    this.#allowedMs = nowMs + pauseMs;
    core.forgetLeader();
    this.#arm(1);
  }

  /** Ends what is pending. */
  stop(): void {
    this.#timer?.cancel();
  }

  #arm(attempt: number): void {
    const { clock, prng, delayMsMin, delayMsMax } = this.#options;
    this.#timer?.cancel();
    // Wider with every attempt, so that two followers that keep asking at the same time come apart.
    const delayMs = delayMsMin + prng.below((delayMsMax - delayMsMin) * attempt + 1);
    this.#timer = clock.setTimer(delayMs, () => this.#campaign(attempt, false));
  }

  #campaign(attempt: number, hasWaited: boolean): void {
    const { clock, prng, core } = this.#options;
    if (core.leaderId() !== NO_MEMBER || core.isLeading()) return;
    if (core.isCandidate() && !hasWaited) {
      // By chance, so that two that split the votes come apart.
      const voteMs = VOTE_MS_MIN + prng.below(VOTE_MS_MIN);
      this.#timer = clock.setTimer(voteMs, () => this.#campaign(attempt, true));
      return;
    }
    core.campaign();
    if (attempt < CAMPAIGN_COUNT_MAX) this.#arm(attempt + 1);
  }
}
