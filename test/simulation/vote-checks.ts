/**
 * A vote, and a pre-vote, goes only to a candidate whose log is at least as up to date as the voter's (R12), for both simulators.
 *
 * A vote leaves once it is durable, and by then the voter may have got more entries, from another leader; so it is compared with
 * what the voter's log was when the question came, and with the newest question that the candidate asked.
 */
import { InvariantViolation } from "../../src/raft/invariants.ts";
import type { Message } from "../../src/raft/types.ts";

/** The end of a log. */
export interface LogEnd {
  readonly term: number;
  readonly index: number;
}

/** The checks of one run. */
export class VoteChecks {
  /** The log of a voter when a candidate of a term first asked it. */
  readonly #askedAt = new Map<string, LogEnd>();
  /** The newest log that the candidate asked with. */
  readonly #asks = new Map<string, LogEnd>();

  /** Called before a member takes a message. */
  asked(voterId: number, message: Message, voterEnd: LogEnd): void {
    if (message.kind !== "vote" && message.kind !== "pre-vote") return;
    const key = `${voterId}<${message.from}/${message.term}/${message.kind}`;
    if (!this.#askedAt.has(key)) this.#askedAt.set(key, voterEnd);
    // A pre-candidate asks again in the same term with a longer log, and an older question may come later.
    const asked = this.#asks.get(key) ?? { term: 0, index: 0 };
    const ask = { term: message.logTerm, index: message.index };
    if (isBehind(asked, ask)) this.#asks.set(key, ask);
  }

  /** Called when a member was started again: what was not durable is gone, so its log may be shorter than when it was asked. */
  restarted(voterId: number): void {
    for (const key of this.#askedAt.keys()) if (key.startsWith(`${voterId}<`)) this.#askedAt.delete(key);
  }

  /** Looks at an answer as it leaves. Throws InvariantViolation. */
  granted(message: Message): void {
    if (message.reject || (message.kind !== "vote-response" && message.kind !== "pre-vote-response")) return;
    const kind = message.kind === "vote-response" ? "vote" : "pre-vote";
    const key = `${message.from}<${message.to}/${message.term}/${kind}`;
    const voter = this.#askedAt.get(key);
    const candidate = this.#asks.get(key);
    if (voter === undefined || candidate === undefined || !isBehind(candidate, voter)) return;
    throw new InvariantViolation(
      "R12",
      `${key}: granted to a log that ends at ${candidate.term}/${candidate.index}, own ${voter.term}/${voter.index}`,
    );
  }
}

function isBehind(one: LogEnd, other: LogEnd): boolean {
  return one.term < other.term || (one.term === other.term && one.index < other.index);
}
