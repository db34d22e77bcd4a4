/**
 * This node's lease for small writes: while it is safely unexpired, contents of at most one chunk may be written under ids from
 * the block that came with it, without an upload in the tree.
 *
 * The lease runs in cluster time, which this node does not see move; it is judged by monotonic time here, counted from before
 * the renewal was proposed. Cluster time may lag behind by one advance when the renewal is applied, and clocks drift, so the
 * lease is given up that much earlier. A wrong judgement does no harm: the tree checks the lease again when the write is
 * committed and answers SEAL_REJECTED.
 *
 * Whatever lies in a block of a live lease is spared by collection, also what a process that was killed left behind. So a block
 * is used for LEASE_BLOCK_USE_MS at most: the tree keeps the last few blocks alone, and forgets each some renewals later.
 */
import { CLOCK_ADVANCE_MS_MAX, WRITE_LEASE_MS } from "../drive/limits.ts";
import type { Clock } from "../std/clock.ts";

/** Drift of this node's clock against the leader's over one lease, far above any real one (8 %). */
export const LEASE_DRIFT_MARGIN_MS = 5_000;
/** How long a lease counts from before its renewal was proposed. */
export const LEASE_USABLE_MS = WRITE_LEASE_MS - CLOCK_ADVANCE_MS_MAX - LEASE_DRIFT_MARGIN_MS;
/** Ids asked for with each renewal when few are left: a minute at the pace of 5,000 small files a second needs 300,000. */
export const LEASE_ID_COUNT = 100_000;
/** With fewer ids than this left, the next block is asked for. */
export const LEASE_ID_COUNT_LOW = 50_000;
/** After this long the next block is asked for and the ids left of the one before are not used any more. */
export const LEASE_BLOCK_USE_MS = 60 * 60 * 1000;

/** A run of ids, from `next` (inclusive) to `end` (exclusive). */
interface IdBlock {
  next: number;
  readonly end: number;
}

/** The lease as held in memory; a restarted node begins without. */
export class WriteLease {
  readonly #clock: Clock;
  #usableUntilMs = -Infinity;
  /** When the newest block came. */
  #blockAtMs = -Infinity;
  #blocks: IdBlock[] = [];

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Whether it is safely unexpired. */
  get usable(): boolean {
    return this.#clock.monotonicMs() < this.#usableUntilMs;
  }

  /** Ids left. */
  get idCount(): number {
    return this.#blocks.reduce((count, block) => count + block.end - block.next, 0);
  }

  /** How many ids the next renewal should ask for. */
  get wantedIdCount(): number {
    return !this.usable || this.#isBlockOld || this.idCount < LEASE_ID_COUNT_LOW ? LEASE_ID_COUNT : 0;
  }

  get #isBlockOld(): boolean {
    return this.#clock.monotonicMs() - this.#blockAtMs >= LEASE_BLOCK_USE_MS;
  }

  /**
   * Notes a renewal that was proposed at `proposedAtMs` (monotonic) and brought the ids [first, first + count). Ids from
   * before a gap in the lease are not used any more: what was written under them may be collected already.
   */
  renewed(proposedAtMs: number, ids: { readonly first: number; readonly count: number }): void {
    if (!this.usable) this.#blocks = [];
    this.#usableUntilMs = Math.max(this.#usableUntilMs, proposedAtMs + LEASE_USABLE_MS);
    if (ids.count === 0) return;
    if (this.#isBlockOld) this.#blocks = [];
    this.#blocks.push({ next: ids.first, end: ids.first + ids.count });
    this.#blockAtMs = this.#clock.monotonicMs();
  }

  /** Gives the lease up, as after SEAL_REJECTED: the next renewal brings it back. */
  distrust(): void {
    this.#usableUntilMs = -Infinity;
  }

  /** A content id that nobody used, under the lease; undefined when the lease is not safely unexpired or has no ids left. */
  takeContentId(): number | undefined {
    if (!this.usable) return undefined;
    const [block] = this.#blocks;
    if (block === undefined) return undefined;
    const contentId = block.next;
    block.next += 1;
    if (block.next === block.end) this.#blocks.shift();
    return contentId;
  }
}
