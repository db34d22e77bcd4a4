/**
 * The in-memory tail of the Raft log: entries, and at most one snapshot, that are not reported durable yet.
 *
 *   entries handed out for storing          entries not handed out yet
 *   [offset ........ offsetInProgress) [offsetInProgress ........ offset + count)
 *
 * Invariant: offset <= offsetInProgress <= offset + count. A truncation by a new leader may move all three backwards
 * (Raft 5.3). Durable entries at or above `offset` may still be in storage after a truncation; they are overwritten by
 * the entries here, so everybody must ask this part first.
 */
import { assert, must } from "../std/assert.ts";
import type { LogEntry, Snapshot } from "./types.ts";

/** Entries appended but not reported durable, and the snapshot being installed. */
export class UnstableLog {
  /** The snapshot being installed; its index is always offset - 1 when it is set and nothing was appended before it. */
  snapshot: Snapshot | undefined;
  #snapshotInProgress = false;
  #entries: LogEntry[] = [];
  /** How many slots at the front of #entries are freed. */
  #freed = 0;
  #offset: number;
  #offsetInProgress: number;

  /** @param offset index of the first entry that is not durable: last durable index + 1 */
  constructor(offset: number) {
    this.#offset = offset;
    this.#offsetInProgress = offset;
  }

  /** Index of the first entry that is not reported durable. */
  get offset(): number {
    return this.#offset;
  }

  /** How many entries are held. */
  get count(): number {
    return this.#entries.length - this.#freed;
  }

  /** Index that the log begins at, when a snapshot being installed decides that. */
  findFirstIndex(): number | undefined {
    return this.snapshot === undefined ? undefined : this.snapshot.metadata.index + 1;
  }

  /** Last index of the log, when this part knows it. */
  findLastIndex(): number | undefined {
    if (this.count > 0) return this.#offset + this.count - 1;
    return this.snapshot?.metadata.index;
  }

  /** Term of the entry at `index`, when this part knows it. */
  findTerm(index: number): number | undefined {
    if (index >= this.#offset) return this.#entries[this.#freed + index - this.#offset]?.term;
    return this.snapshot?.metadata.index === index ? this.snapshot.metadata.term : undefined;
  }

  /** Entries that were not handed out for storing yet. */
  nextEntries(): readonly LogEntry[] {
    if (!this.hasNextEntries()) return [];
    return this.#entries.slice(this.#freed + this.#offsetInProgress - this.#offset);
  }

  /** Whether nextEntries() is not empty. */
  hasNextEntries(): boolean {
    return this.#offsetInProgress < this.#offset + this.count;
  }

  /** The snapshot, unless it was handed out for installing already. */
  nextSnapshot(): Snapshot | undefined {
    return this.#snapshotInProgress ? undefined : this.snapshot;
  }

  /** Notes that everything held was handed out for storing. */
  acceptInProgress(): void {
    this.#offsetInProgress = this.#offset + this.count;
    if (this.snapshot !== undefined) this.#snapshotInProgress = true;
  }

  /**
   * Drops entries up to `index` because they are durable. Ignored when the entry at `index` is not of `term`: it was
   * overwritten after the write had been started, and the new one is on its way to the disk.
   */
  stableTo(index: number, term: number): void {
    if (index < this.#offset || this.findTerm(index) !== term) return;
    this.#freed += index + 1 - this.#offset;
    this.#offset = index + 1;
    this.#offsetInProgress = Math.max(this.#offsetInProgress, this.#offset);
    // Cut off only when at least half is freed: O(1) amortized, and what freed slots keep alive is bounded by what is held.
    if (this.#freed >= this.count) {
      this.#entries = this.#entries.slice(this.#freed);
      this.#freed = 0;
    }
  }

  /** Drops the snapshot at `index` because it is installed durably. Ignored for any other. */
  stableSnapshotTo(index: number): void {
    if (this.snapshot?.metadata.index !== index) return;
    this.snapshot = undefined;
    this.#snapshotInProgress = false;
  }

  /** Forgets everything; the log is `snapshot` now. */
  restore(snapshot: Snapshot): void {
    this.#offset = snapshot.metadata.index + 1;
    this.#offsetInProgress = this.#offset;
    this.#entries = [];
    this.#freed = 0;
    this.snapshot = snapshot;
    this.#snapshotInProgress = false;
  }

  /** Appends `entries`, which are not empty and consecutive, dropping what is held from their first index on. */
  truncateAndAppend(entries: readonly LogEntry[]): void {
    const from = must(entries[0], "at least one entry").index;
    const end = this.#offset + this.count;
    assert(from <= end, `entries from ${from} leave a gap after ${end - 1}`);
    if (from <= this.#offset) {
      // The cut reaches into what is durable already: the offset moves back with it.
      this.#entries = [...entries];
      this.#freed = 0;
      this.#offset = from;
      this.#offsetInProgress = from;
      return;
    }
    if (from < end) {
      this.#entries.length = this.#freed + from - this.#offset;
      // Only what lies before the cut is still on its way to the disk.
      this.#offsetInProgress = Math.min(this.#offsetInProgress, from);
    }
    for (const entry of entries) this.#entries.push(entry);
  }

  /** Entries in [low, high), which must be held. A copy of the array, not of the entries. */
  slice(low: number, high: number): LogEntry[] {
    assert(
      low >= this.#offset && low <= high && high <= this.#offset + this.count,
      `no [${low}, ${high}) here`,
    );
    const shift = this.#freed - this.#offset;
    return this.#entries.slice(low + shift, high + shift);
  }
}
