/**
 * What a leader knows about one follower's log.
 *
 *              reject / unreachable                 snapshot failed or done
 *   Replicate ----------------------> Probe <------------------------------ Snapshot
 *      ^                               | |                                     ^
 *      +----------- acknowledged ------+ +----- log cut off below nextIndex ---+
 *
 * Probe sends one message and waits, because it does not know where the logs agree. Replicate sends ahead, bounded by
 * Inflights. Snapshot sends nothing until the snapshot was taken or lost.
 * Invariant: matchIndex < nextIndex; matchIndex never decreases within a term (Raft 5.3).
 */
import { unreachable } from "../std/assert.ts";
import { Inflights } from "./inflights.ts";

/** How a leader sends to a follower. */
export type ProgressState = "probe" | "replicate" | "snapshot";

/** A view of a Progress for status(): plain data, a copy. */
export interface ProgressView {
  readonly state: ProgressState;
  readonly matchIndex: number;
  readonly nextIndex: number;
  readonly isLearner: boolean;
  readonly isPaused: boolean;
  /** Index of the snapshot under way; 0 for none. */
  readonly pendingSnapshotIndex: number;
  /** Whether the follower was heard from since the last check of the quorum. */
  readonly recentActive: boolean;
  readonly inflightCount: number;
  readonly inflightBytes: number;
  readonly inflightFull: boolean;
  /** Times that the follower said that it lost entries which it had acknowledged. */
  readonly lossCount: number;
}

/** Settings and start of a Progress. */
export interface ProgressOptions {
  readonly nextIndex: number;
  readonly isLearner: boolean;
  readonly recentActive: boolean;
  readonly inflightMessagesMax: number;
  readonly inflightBytesMax: number;
}

/** One follower as its leader sees it. Mutable, owned by the tracker. */
export class Progress {
  /** Highest index known to be durable on the follower. */
  matchIndex = 0;
  /** Index of the next entry to send. */
  nextIndex: number;
  state: ProgressState = "probe";
  isLearner: boolean;
  recentActive: boolean;
  pendingSnapshotIndex = 0;
  /** Set when the follower must be heard from before more is sent. */
  flowPaused = false;
  /** Whether an answer to a heartbeat may let the next append out: once for each heartbeat of the clock. */
  isResumable = true;
  lossCount = 0;
  readonly inflights: Inflights;
  /** Highest commit index that a message under way, if it arrives, makes the follower take over. */
  #sentCommitIndex = 0;

  constructor(options: ProgressOptions) {
    this.nextIndex = options.nextIndex;
    this.isLearner = options.isLearner;
    this.recentActive = options.recentActive;
    this.inflights = new Inflights(options.inflightMessagesMax, options.inflightBytesMax);
  }

  /** Whether nothing may be sent now. */
  get isPaused(): boolean {
    switch (this.state) {
      case "probe":
      case "replicate":
        return this.flowPaused;
      case "snapshot":
        return true;
      default:
        return unreachable(this.state);
    }
  }

  /** Goes back to finding where the logs agree: after a rejection, a loss, or the end of a snapshot. */
  becomeProbe(): void {
    // A snapshot that was taken moved the follower at least to its index, even if the acknowledgement is still under way.
    const reached = this.state === "snapshot" ? this.pendingSnapshotIndex : 0;
    this.#become("probe");
    this.nextIndex = Math.max(this.matchIndex, reached) + 1;
    this.#capSentCommit();
  }

  /** Starts to send ahead, from the first entry not known to be on the follower. */
  becomeReplicate(): void {
    this.#become("replicate");
    this.nextIndex = this.matchIndex + 1;
  }

  /** Notes that a snapshot at `index` is on its way. */
  becomeSnapshot(index: number): void {
    this.#become("snapshot");
    this.pendingSnapshotIndex = index;
    this.nextIndex = index + 1;
    this.#sentCommitIndex = index;
  }

  /** Notes an append message with `count` entries of `sizeBytes` payload; `count` 0 is a message for the commit index only. */
  sentEntries(count: number, sizeBytes: number): void {
    if (this.state === "replicate") {
      if (count > 0) {
        this.nextIndex += count;
        this.inflights.add(this.nextIndex - 1, sizeBytes);
      }
      // A full window, or an empty message sent into one, must be answered before more is sent.
      this.flowPaused = this.inflights.isFull;
    } else if (this.state === "probe" && count > 0) {
      this.flowPaused = true;
    }
  }

  /** Notes that a message with this commit index was sent. */
  sentCommit(commitIndex: number): void {
    this.#sentCommitIndex = commitIndex;
  }

  /** Whether sending `commitIndex` now could move the follower's commit index further than messages under way do. */
  canBumpCommit(commitIndex: number): boolean {
    return commitIndex > this.#sentCommitIndex && this.#sentCommitIndex < this.nextIndex - 1;
  }

  /** Takes an acknowledgement up to `index`; returns false for one that says nothing beyond what was known. */
  maybeUpdate(index: number): boolean {
    if (index <= this.matchIndex) return false;
    this.matchIndex = index;
    this.nextIndex = Math.max(this.nextIndex, index + 1);
    this.flowPaused = false;
    return true;
  }

  /**
   * Takes a rejection of the append that followed `rejectedIndex`; returns false for a stale one.
   * @param matchHint the follower's guess at the highest index where the logs agree
   */
  maybeDecrease(rejectedIndex: number, matchHint: number): boolean {
    if (this.state === "replicate") {
      if (rejectedIndex <= this.matchIndex) return false;
      this.nextIndex = this.matchIndex + 1;
    } else {
      // A probe is sent one at a time: a rejection of anything but the last one is old.
      if (this.nextIndex - 1 !== rejectedIndex) return false;
      this.nextIndex = Math.max(Math.min(rejectedIndex, matchHint + 1), this.matchIndex + 1);
      this.flowPaused = false;
    }
    this.#capSentCommit();
    return true;
  }

  /** Notes that damage left the follower with nothing behind `index`, whatever it acknowledged. */
  loseBehind(index: number): void {
    if (index >= this.matchIndex) return;
    this.matchIndex = index;
    this.lossCount += 1;
    // A snapshot on its way is needed all the more.
    if (this.state !== "snapshot") this.becomeProbe();
  }

  /** A copy for status(). */
  view(): ProgressView {
    return {
      state: this.state,
      matchIndex: this.matchIndex,
      nextIndex: this.nextIndex,
      isLearner: this.isLearner,
      isPaused: this.isPaused,
      pendingSnapshotIndex: this.pendingSnapshotIndex,
      recentActive: this.recentActive,
      inflightCount: this.inflights.count,
      inflightBytes: this.inflights.bytes,
      inflightFull: this.inflights.isFull,
      lossCount: this.lossCount,
    };
  }

  #become(state: ProgressState): void {
    this.flowPaused = false;
    this.pendingSnapshotIndex = 0;
    this.state = state;
    this.inflights.reset();
  }

  #capSentCommit(): void {
    this.#sentCommitIndex = Math.min(this.#sentCommitIndex, this.nextIndex - 1);
  }
}
