/**
 * What a candidate, or a pre-candidate, does with a message of its term.
 *
 * Only answers to the campaign under way count. Anything from a leader of the same term ends the campaign (Raft 5.2).
 */
import { ACCEPTED, dropped, type ProposeOutcome } from "./outcome.ts";
import type { RaftContext } from "./raft-context.ts";
import { stepFollower } from "./step-follower.ts";
import type { Message } from "./types.ts";

/** Takes one message. */
export function stepCandidate(raft: RaftContext, message: Message): ProposeOutcome {
  // oxlint-disable-next-line typescript/switch-exhaustiveness-check -- every other kind means nothing to a candidate
  switch (message.kind) {
    case "propose":
    case "read-index":
      return dropped("no-leader");
    case "append":
    case "heartbeat":
    case "snapshot":
      raft.becomeFollower(message.term, message.from);
      return stepFollower(raft, message);
    case "vote-response":
      if (raft.role === "candidate") raft.countVote(message.from, !message.reject);
      return ACCEPTED;
    case "pre-vote-response":
      // A grant names the future term that was asked for: an older one answers an older question.
      if (raft.role === "pre-candidate" && (message.reject || message.term === raft.term + 1)) {
        raft.countVote(message.from, !message.reject);
      }
      return ACCEPTED;
    default:
      return ACCEPTED;
  }
}
