/**
 * A member whose log was damaged, until it has again everything that it ever acknowledged.
 *
 * It follows and acknowledges what it stores anew, but it does not campaign, and votes only as far as it certainly knows where
 * its log ended. It asks each leader how far that leader's log reaches; once it holds, durably, the same log up to there, it is
 * whole: see "Why nothing is lost" in consensus/DESIGN.md. Pure.
 */
import { bytesEqual } from "../std/bytes.ts";

/** The start of mending. */
export interface MendingOptions {
  /** The last entry that the member ever had, when that is certain; undefined: it votes for nobody. */
  readonly lastKnown: { readonly index: number; readonly term: number } | undefined;
  /** Never used before by this member: an answer to an earlier life must not count. */
  readonly nonce: Uint8Array;
}

/** How far a member is in mending its log. */
export class Mending {
  readonly nonce: Uint8Array;
  readonly #lastKnown: MendingOptions["lastKnown"];
  /** Term that the two below belong to. */
  #term = 0;
  /** What the leader's log reached when it answered. */
  #target: number | undefined;
  /** Up to where this log is known to be that leader's. */
  #matchedIndex = 0;

  constructor(options: MendingOptions) {
    this.nonce = options.nonce;
    this.#lastKnown = options.lastKnown;
  }

  /** Whether a candidate whose log ends with (term, index) certainly has what this member acknowledged (Raft 5.4.1). */
  allowsVote(term: number, index: number): boolean {
    const last = this.#lastKnown;
    if (last === undefined) return false;
    return term > last.term || (term === last.term && index >= last.index);
  }

  /** Takes the leader's answer; ignored when it answers somebody else's question. */
  aim(term: number, lastIndex: number, nonce: Uint8Array): void {
    if (!bytesEqual(nonce, this.nonce)) return;
    this.#enter(term);
    this.#target ??= lastIndex;
  }

  /** Notes that this log is the one of the leader of `term` up to `index`. */
  matched(term: number, index: number): void {
    this.#enter(term);
    this.#matchedIndex = Math.max(this.#matchedIndex, index);
  }

  /** Up to where this log is known to be the one of the leader of `term`; 0 for nothing. */
  matchedIn(term: number): number {
    return this.#term === term ? this.#matchedIndex : 0;
  }

  /** Whether everything up to the leader's answer is here, durably. */
  isDone(term: number, stableIndex: number): boolean {
    if (this.#term !== term || this.#target === undefined) return false;
    return this.#matchedIndex >= this.#target && stableIndex >= this.#target;
  }

  #enter(term: number): void {
    if (term === this.#term) return;
    this.#term = term;
    this.#target = undefined;
    this.#matchedIndex = 0;
  }
}
