/**
 * Linearizable reads by ReadIndex (thesis 6.4), many at a time.
 *
 * A round asks the leader once for all reads that waited when it began; reads that come later wait for the next one, because
 * an index fixed before a read began says nothing for it. Every attempt of a round has a context of its own, never used
 * before: an answer to an attempt was made after that attempt, hence after every read of the round began, so late answers
 * serve too, and a delayed acknowledgement of one attempt can never confirm another. A read ends when the store has applied
 * the index. There are no leases: a clock that runs wrong cannot make a read stale.
 */
import { DriveError } from "../drive/errors.ts";
import { toHex } from "../std/bytes.ts";
import type { Clock, Timer } from "../std/clock.ts";
import { deferred, type Deferred } from "../std/deferred.ts";
import type { Prng } from "../std/prng.ts";

/** Dependencies of Reads. */
export interface ReadsOptions {
  readonly clock: Clock;
  readonly prng: Prng;
  readonly countMax: number;
  readonly retryMs: number;
  /** Asks the core; false when it dropped the request. The answer comes by confirmed(). */
  readonly ask: (context: Uint8Array) => boolean;
  readonly appliedIndex: () => number;
}

/** A read that waits. */
export interface Read {
  readonly done: Deferred<void>;
  isSettled: boolean;
}

interface Round {
  readonly reads: readonly Read[];
  readonly contexts: Set<string>;
  timer: Timer | undefined;
}

/** Bytes of a context: a random half that differs between processes, and a counter. */
const CONTEXT_SIZE_BYTES = 16;

/** All reads of this node that wait. */
export class Reads {
  readonly #options: ReadsOptions;
  readonly #nonce: Uint8Array;
  #attempts = 0;
  #next: Read[] = [];
  #round: Round | undefined;
  /** Reads whose index is known, in groups. */
  #confirmed: { readonly index: number; readonly reads: readonly Read[] }[] = [];
  #count = 0;
  #isScheduled = false;

  constructor(options: ReadsOptions) {
    this.#options = options;
    this.#nonce = options.prng.bytes(CONTEXT_SIZE_BYTES / 2);
  }

  /** Reads that wait. */
  get count(): number {
    return this.#count;
  }

  /** Takes a read. Throws DriveError OVERLOADED when there is no room. */
  begin(): Read {
    if (this.#count >= this.#options.countMax) {
      throw new DriveError("OVERLOADED", `${this.#count} reads wait already.`, {
        count: String(this.#count),
      });
    }
    const read: Read = { done: deferred(), isSettled: false };
    this.#next.push(read);
    this.#count += 1;
    this.#schedule();
    return read;
  }

  /** Gives up a read that nobody waits for any more. */
  giveUp(read: Read): void {
    if (read.isSettled) return;
    read.isSettled = true;
    this.#count -= 1;
  }

  /** The core has confirmed that a read with `context` may be served once `index` is applied. */
  confirmed(context: Uint8Array, index: number): void {
    const round = this.#round;
    if (round === undefined || !round.contexts.has(toHex(context))) return;
    round.timer?.cancel();
    this.#round = undefined;
    if (this.#options.appliedIndex() >= index) for (const read of round.reads) this.#finish(read);
    else this.#confirmed.push({ index, reads: round.reads });
    this.#schedule();
  }

  /** The store has applied up to `index`. */
  applied(index: number): void {
    if (this.#confirmed.length === 0) return;
    const waiting = this.#confirmed;
    this.#confirmed = waiting.filter((group) => group.index > index);
    for (const group of waiting) {
      if (group.index <= index) for (const read of group.reads) this.#finish(read);
    }
  }

  /** There is another leader, or one at last: whatever was asked before may have been lost. */
  leaderChanged(): void {
    if (this.#round !== undefined) this.#attempt(this.#round);
  }

  /** Refuses all reads because the node ends. */
  rejectAll(error: DriveError): void {
    const reads = [
      ...this.#next,
      ...(this.#round?.reads ?? []),
      ...this.#confirmed.flatMap((group) => group.reads),
    ];
    this.#round?.timer?.cancel();
    this.#round = undefined;
    this.#next = [];
    this.#confirmed = [];
    for (const read of reads) {
      this.giveUp(read);
      read.done.reject(error);
    }
  }

  /** Begins a round one turn later, so that all reads of this turn of the event loop share it. */
  #schedule(): void {
    if (this.#isScheduled || this.#round !== undefined || this.#next.length === 0) return;
    this.#isScheduled = true;
    queueMicrotask(() => {
      this.#isScheduled = false;
      if (this.#round !== undefined) return;
      const reads = this.#next.filter((read) => !read.isSettled);
      this.#next = [];
      if (reads.length === 0) return;
      this.#round = { reads, contexts: new Set(), timer: undefined };
      this.#attempt(this.#round);
    });
  }

  #attempt(round: Round): void {
    round.timer?.cancel();
    if (round.reads.every((read) => read.isSettled)) {
      this.#round = undefined;
      this.#schedule();
      return;
    }
    const context = this.#makeContext();
    round.contexts.add(toHex(context));
    round.timer = this.#options.clock.setTimer(this.#options.retryMs, () => {
      if (this.#round === round) this.#attempt(round);
    });
    // Dropped for want of a leader: the timer or the next leader brings the next attempt.
    if (!this.#options.ask(context)) round.contexts.delete(toHex(context));
  }

  #makeContext(): Uint8Array {
    this.#attempts += 1;
    const context = Buffer.alloc(CONTEXT_SIZE_BYTES);
    context.set(this.#nonce);
    context.writeUIntBE(this.#attempts, CONTEXT_SIZE_BYTES - 6, 6);
    return context;
  }

  #finish(read: Read): void {
    if (read.isSettled) return;
    this.giveUp(read);
    read.done.resolve();
  }
}
