/**
 * Linearizable reads by ReadIndex (thesis 6.4): a leader notes its commit index, makes sure by a round of heartbeats that
 * it still led after the read was asked for, and only then answers with that index.
 *
 * Rounds are numbered by the leader itself, and the number travels in the heartbeat and back. So an acknowledgement can
 * confirm only reads that were asked for before its heartbeat left, whatever was delayed, repeated or asked for again
 * under the same context. All reads that wait when messages are handed out share one round. There are no lease reads.
 * Lost with the leadership: whoever asked must ask again.
 */
import { committedIndex, type QuorumConfig } from "./quorum.ts";
import type { MemberId } from "./types.ts";

/** Who asked for a read. */
export interface ReadRequest {
  /** NO_MEMBER or the node itself for its own reads; else the member to answer. */
  readonly from: MemberId;
  /** Opaque; comes back with the answer. */
  readonly context: Uint8Array;
}

/** A read that waits for its round. */
export interface PendingRead {
  readonly request: ReadRequest;
  /** The commit index when the read was asked for. */
  readonly commitIndex: number;
  /** Number of the round that confirms it. */
  readonly round: number;
}

/** Bytes of a round number in a heartbeat. */
const ROUND_BYTES = 8;

/** The reads that a leader is asked for in one term. */
export class ReadOnly {
  readonly #countMax: number;
  /** Reads that wait until the leader has committed an entry of its term. */
  #postponed: ReadRequest[] = [];
  /** Reads in rounds, oldest first. */
  #pending: PendingRead[] = [];
  /** Highest round that each member has acknowledged. */
  #acked = new Map<MemberId, number>();
  #lastRound = 0;
  #isRoundOpen = false;

  /** @param countMax how many reads may wait in all */
  constructor(countMax: number) {
    this.#countMax = countMax;
  }

  /** How many reads wait. */
  get count(): number {
    return this.#postponed.length + this.#pending.length;
  }

  /** Whether reads wait for a round whose heartbeats were not made yet. */
  get isRoundOpen(): boolean {
    return this.#isRoundOpen;
  }

  /** Whether one more read would be one too many. */
  get isFull(): boolean {
    return this.count >= this.#countMax;
  }

  /** Keeps a read until takePostponed(). */
  postpone(request: ReadRequest): void {
    this.#postponed.push(request);
  }

  /** Hands out the postponed reads. */
  takePostponed(): readonly ReadRequest[] {
    const postponed = this.#postponed;
    this.#postponed = [];
    return postponed;
  }

  /** Puts a read into the open round, opening one if needed. */
  add(request: ReadRequest, commitIndex: number): void {
    if (!this.#isRoundOpen) {
      this.#lastRound += 1;
      this.#isRoundOpen = true;
    }
    this.#pending.push({ request, commitIndex, round: this.#lastRound });
  }

  /** Closes the open round, because its heartbeats are being made; later reads open the next one. */
  closeRound(): void {
    this.#isRoundOpen = false;
  }

  /** What heartbeats carry now: the newest round while any read waits for one, else nothing. */
  heartbeatContext(): Uint8Array | undefined {
    if (this.#pending.length === 0) return undefined;
    const context = new Uint8Array(ROUND_BYTES);
    new DataView(context.buffer).setFloat64(0, this.#lastRound);
    return context;
  }

  /**
   * Notes that `id` has answered a heartbeat that carried `context`, and hands out the reads that this confirms.
   * @param isRoundIgnored the planted fault "read-round-reused": any answer counts for the newest round
   */
  acknowledge(
    id: MemberId,
    context: Uint8Array,
    config: QuorumConfig,
    selfId: MemberId,
    isRoundIgnored: boolean,
  ): readonly PendingRead[] {
    if (context.length !== ROUND_BYTES) return [];
    const named = new DataView(context.buffer, context.byteOffset, ROUND_BYTES).getFloat64(0);
    const round = isRoundIgnored ? this.#lastRound : named;
    // Not a round of this leader in this term: nothing that it could confirm.
    if (!(round > (this.#acked.get(id) ?? 0) && round <= this.#lastRound)) return [];
    this.#acked.set(id, round);
    const confirmed = committedIndex(config, (member) =>
      member === selfId ? this.#lastRound : this.#acked.get(member),
    );
    let count = 0;
    for (const read of this.#pending) {
      if (read.round > confirmed) break;
      count += 1;
    }
    return count === 0 ? [] : this.#pending.splice(0, count);
  }
}
