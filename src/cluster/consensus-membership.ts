/**
 * What changing the membership needs of consensus: the configuration, how far everybody is, and the two things a leader can do.
 * node/ wires it to consensus/; the simulator uses the same wiring.
 */

/** A configuration; two at once while votersOutgoing is not empty. */
export interface MemberConfig {
  readonly voters: readonly number[];
  readonly votersOutgoing: readonly number[];
  readonly learners: readonly number[];
  readonly learnersNext: readonly number[];
  /** Whether consensus leaves a joint configuration by itself. */
  readonly autoLeave: boolean;
}

/** One step of a change. */
export interface MemberStep {
  readonly kind: "add-voter" | "add-learner" | "remove";
  readonly memberId: number;
}

/** How the leader sees another member. */
export interface MemberProgress {
  /** Highest log index known to be on it. */
  readonly matchIndex: number;
  /** Whether it answered lately. */
  readonly isActive: boolean;
  /** Whether log entries are streamed to it; false while the leader looks for its place, or sends a snapshot. */
  readonly isStreaming: boolean;
}

/** Consensus at this moment. */
export interface MembershipView {
  /** Whether this node leads and has committed in its term. */
  readonly isLeading: boolean;
  readonly config: MemberConfig;
  /** Last index of this node's log. */
  readonly lastIndex: number;
  /** The others, at the leader; empty elsewhere. */
  readonly progress: ReadonlyMap<number, MemberProgress>;
}

/** Consensus for who changes the membership. */
export interface ConsensusMembership {
  view(): MembershipView;
  /**
   * Proposes a change as the leader and waits until it is applied here. Several steps go through a joint configuration, which
   * ends by itself; no step at all leaves one that does not.
   * @throws DriveError NOT_LEADER, MEMBERSHIP_CHANGE_IN_PROGRESS, OVERLOADED, COMMIT_OUTCOME_UNKNOWN, NODE_STOPPING
   */
  change(steps: readonly MemberStep[]): Promise<void>;
  /** Hands leadership over and waits until it has changed hands. @throws DriveError NOT_LEADER, PEER_UNREACHABLE, ARGUMENT_INVALID */
  transferLeadership(to: number): Promise<void>;
}

/** Everybody who votes in either configuration. */
export function votersOf(config: MemberConfig): readonly number[] {
  return [...new Set([...config.voters, ...config.votersOutgoing])];
}

/** Whether a member is in the configuration in any part. */
export function isInConfig(config: MemberConfig, memberId: number): boolean {
  return [...votersOf(config), ...config.learners, ...config.learnersNext].includes(memberId);
}
