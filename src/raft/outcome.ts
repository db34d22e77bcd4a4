/**
 * What became of something that was asked of a node: taken, or dropped with a reason.
 *
 * Dropping is a normal outcome (no leader, a bound is reached), so it is a value and not an error; nothing is ever dropped
 * without being reported here.
 */

/** What a proposal came to. A dropped one was not appended anywhere and may be proposed again. */
export type ProposeOutcome =
  { readonly outcome: "accepted" } | { readonly outcome: "dropped"; readonly reason: DropReason };

/** Why a proposal or a read was dropped. */
export type DropReason =
  | "no-leader"
  /** This node follows and does not forward. */
  | "not-leader"
  /** The leader is not in its own configuration any more. */
  | "removed"
  | "transfer-in-progress"
  /** Leadership can be handed to a voter only. */
  | "not-a-voter"
  | "uncommitted-bytes-full"
  | "reads-full"
  /** Another membership change is not applied yet, or this one cannot follow the configuration in force. */
  | "conf-change-refused";

/** Nothing went wrong. */
export const ACCEPTED: ProposeOutcome = { outcome: "accepted" };

/** A dropped proposal or read. */
export function dropped(reason: DropReason): ProposeOutcome {
  return { outcome: "dropped", reason };
}
