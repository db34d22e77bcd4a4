/**
 * The bound on bytes that this node holds for reading, and the pieces of one read between its source and its reader.
 *
 * A reader holds a piece from when it got it until it asks for the next one, so whoever sends pieces on asks only once the last
 * one is out. What is held counts against the budget of the node (ReadBudget). A read that gets no room there goes on with pieces
 * of READ_NARROW_SIZE_BYTES, one at a time; these do not count, so no read ever waits for another one. A reader that takes nothing
 * for READ_IDLE_MS keeps the piece that it has; what was read ahead for it is dropped, and it gets narrow pieces until it takes one
 * at the pace of a chunk in that time, so that slow readers leave the room to fast ones and nothing is read for them twice.
 *
 * Bound: at most bytesMax, and READ_NARROW_SIZE_BYTES for each read, whatever readers do. Readers that have never come back for a
 * second piece get half of the room at most: those that only ask leave the other half to those that take.
 */
import { CHUNK_SIZE_BYTES } from "../drive/limits.ts";
import { assert } from "../std/assert.ts";
import type { Clock, Timer } from "../std/clock.ts";
import { deferred, type Deferred } from "../std/deferred.ts";

/** Bytes of pieces held for reading at this node, beside the narrow ones. */
export const NODE_READ_BYTES_MAX = 64 * CHUNK_SIZE_BYTES;
/** Pieces (of at most a chunk) read before the reader asked: hides one round trip, at 4 MiB a read. */
export const READ_AHEAD_CHUNK_COUNT = 4;
/** Bytes of a piece for which there is no room: two blocks, so that little is verified twice; 64 MiB for 512 downloads. */
export const READ_NARROW_SIZE_BYTES = 128 * 1024;
/** A reader that takes nothing for this long stands still: slower than 8 Mbit/s, with a chunk in its hand. */
export const READ_IDLE_MS = 1_000;

/** Permits for bytes held for reading. Nobody waits for them: without one a read is narrow. */
export class ReadBudget {
  readonly #bytesMax: number;
  #heldBytes = 0;

  /** @param bytesMax at least two chunks, so that a first piece fits into the half */
  constructor(bytesMax: number = NODE_READ_BYTES_MAX) {
    assert(bytesMax >= 2 * CHUNK_SIZE_BYTES, `a budget for reading holds two chunks, got ${bytesMax}`);
    this.#bytesMax = bytesMax;
  }

  /** Bytes taken and not given back. */
  get heldBytes(): number {
    return this.#heldBytes;
  }

  /** Takes a chunk if there is room. @param proven whether the reader came back for a second piece */
  takeChunk(proven: boolean): boolean {
    const bytesMax = proven ? this.#bytesMax : this.#bytesMax / 2;
    if (this.#heldBytes + CHUNK_SIZE_BYTES > bytesMax) return false;
    this.#heldBytes += CHUNK_SIZE_BYTES;
    return true;
  }

  /** Gives back what takeChunk() took, or a part of it. */
  giveBack(sizeBytes: number): void {
    this.#heldBytes -= sizeBytes;
    assert(this.#heldBytes >= 0, "more was given back than taken");
  }
}

/** How much the source may be asked for. */
export type Grant = "chunk" | "narrow";

interface Piece {
  readonly bytes: Uint8Array;
  /** What of it counts against the budget. */
  readonly countedBytes: number;
}

/** The pieces of one read, with one source and one reader. */
export class ReadWindow {
  readonly #clock: Clock;
  readonly #budget: ReadBudget;
  readonly #sizeBytes: number;
  readonly #ahead: Piece[] = [];
  #endBytes = 0;
  /** Granted to the source and neither put nor given back. */
  #granted: Grant | undefined;
  #inHand: Piece | undefined;
  #proven = false;
  #standsStill = false;
  #isSlow = false;
  #ended: { readonly error: Error | undefined } | undefined;
  #sourceWaits: Deferred<void> | undefined;
  #readerWaits: Deferred<void> | undefined;

  /** @param sizeBytes of the whole read */
  constructor(clock: Clock, budget: ReadBudget, sizeBytes: number) {
    this.#clock = clock;
    this.#budget = budget;
    this.#sizeBytes = sizeBytes;
  }

  /** Where the next piece begins; goes back when what was read ahead is dropped. */
  get endBytes(): number {
    return this.#endBytes;
  }

  /**
   * Waits until another piece may be read, and says how large; undefined when the reader has got all, or has gone. Put or return it.
   * @param onStill told, while it waits, that the reader stands still: what the source has open for it is best closed
   */
  async grant(onStill: () => void): Promise<Grant | undefined> {
    assert(this.#granted === undefined, "one piece is read at a time");
    while (this.#ended === undefined) {
      if (this.#endBytes === this.#sizeBytes && this.#ahead.length === 0) return undefined;
      if (this.#standsStill) onStill();
      else this.#granted = this.#mayRead();
      if (this.#granted !== undefined) return this.#granted;
      this.#sourceWaits = deferred<void>();
      await this.#sourceWaits.promise;
    }
    return undefined;
  }

  #mayRead(): Grant | undefined {
    if (this.#ahead.length >= READ_AHEAD_CHUNK_COUNT || this.#endBytes === this.#sizeBytes) return undefined;
    if (!this.#isSlow && this.#budget.takeChunk(this.#proven)) return "chunk";
    return this.#inHand === undefined && this.#ahead.length === 0 ? "narrow" : undefined;
  }

  /** Gives back what was granted: the source had nothing. */
  returnGrant(): void {
    if (this.#granted === "chunk") this.#budget.giveBack(CHUNK_SIZE_BYTES);
    this.#granted = undefined;
  }

  /** Adds the piece that was granted. One that is not the next any more, or comes while the reader stands still, is dropped. */
  put(at: number, bytes: Uint8Array): void {
    const counts = this.#granted === "chunk";
    if (this.#ended !== undefined || this.#standsStill || at !== this.#endBytes) {
      this.returnGrant();
      return;
    }
    assert(bytes.length <= CHUNK_SIZE_BYTES, "a piece is at most a chunk");
    this.#granted = undefined;
    if (counts) this.#budget.giveBack(CHUNK_SIZE_BYTES - bytes.length);
    this.#ahead.push({ bytes, countedBytes: counts ? bytes.length : 0 });
    this.#endBytes += bytes.length;
    this.#readerWaits?.resolve();
  }

  /** Ends the read; the reader still gets what is there, then the end or `error`. */
  end(error?: Error): void {
    this.#ended ??= { error };
    this.#sourceWaits?.resolve();
    this.#readerWaits?.resolve();
  }

  /** The pieces, for one reader. Leaving early ends the read. */
  async *pieces(): AsyncGenerator<Uint8Array, void, undefined> {
    let timer: Timer | undefined;
    try {
      for (;;) {
        const piece = this.#ahead.shift();
        if (piece === undefined) {
          if (this.#ended?.error !== undefined) throw this.#ended.error;
          if (this.#ended !== undefined) return;
          this.#readerWaits = deferred<void>();
          await this.#readerWaits.promise;
          continue;
        }
        this.#inHand = piece;
        this.#sourceWaits?.resolve();
        timer = this.#clock.setTimer(READ_IDLE_MS, () => this.#standStill());
        const sinceMs = this.#clock.monotonicMs();
        yield piece.bytes;
        timer.cancel();
        if (this.#isSlow) this.#isSlow = !isPrompt(piece.bytes.length, this.#clock.monotonicMs() - sinceMs);
        this.#takeFromHand();
        this.#proven = true;
        this.#standsStill = false;
        this.#sourceWaits?.resolve();
      }
    } finally {
      timer?.cancel();
      this.end();
      this.#takeFromHand();
      this.#dropAhead();
    }
  }

  #standStill(): void {
    // What came before a failure could not be read again, and counts until it is taken.
    if (this.#ended !== undefined) return;
    this.#standsStill = true;
    this.#isSlow = true;
    this.#dropAhead();
    this.#sourceWaits?.resolve();
  }

  #takeFromHand(): void {
    this.#budget.giveBack(this.#inHand?.countedBytes ?? 0);
    this.#inHand = undefined;
  }

  #dropAhead(): void {
    for (const { bytes, countedBytes } of this.#ahead.splice(0)) {
      this.#budget.giveBack(countedBytes);
      this.#endBytes -= bytes.length;
    }
  }
}

/** Whether a piece was taken at a pace of at least a chunk in READ_IDLE_MS. */
function isPrompt(sizeBytes: number, tookMs: number): boolean {
  return tookMs * CHUNK_SIZE_BYTES <= READ_IDLE_MS * sizeBytes;
}
