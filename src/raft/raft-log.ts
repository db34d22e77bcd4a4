/**
 * The Raft log as the core sees it: durable entries in LogStorage, then the unstable tail, and how far it is committed and
 * applied.
 *
 *   firstIndex ......... applied ... applying ... committed ......... lastIndex
 *   [------------- LogStorage -------------)[------- UnstableLog -------)
 *
 * Invariant: appliedIndex <= applyingIndex <= commitIndex <= lastIndex; none of the first three ever decreases.
 * "Applying" is what was handed to the state machine and not confirmed; its bytes are bounded. Does no I/O.
 */
import { assert, must } from "../std/assert.ts";
import { entriesSizeBytes, limitSize } from "./log-entries.ts";
import { CompactedError, type LogEntry, type LogStorage, type Snapshot } from "./types.ts";
import { UnstableLog } from "./unstable-log.ts";

/** How the log reads and hands out. */
export interface RaftLogOptions {
  readonly storage: LogStorage;
  /** Bytes of committed entries that may be handed to the state machine and not confirmed; soft by one entry. */
  readonly applyingSizeBytesMax: number;
}

/** Stable and unstable entries behind one face. */
export class RaftLog {
  readonly unstable: UnstableLog;
  readonly #storage: LogStorage;
  readonly #applyingSizeBytesMax: number;
  #commitIndex: number;
  #applyingIndex: number;
  #appliedIndex: number;
  #applyingSizeBytes = 0;
  #applyingPaused = false;

  constructor(options: RaftLogOptions) {
    assert(options.applyingSizeBytesMax > 0, "a batch of committed entries needs room");
    this.#storage = options.storage;
    this.#applyingSizeBytesMax = options.applyingSizeBytesMax;
    const snapshotIndex = options.storage.firstIndex() - 1;
    this.unstable = new UnstableLog(options.storage.lastIndex() + 1);
    this.#commitIndex = snapshotIndex;
    this.#applyingIndex = snapshotIndex;
    this.#appliedIndex = snapshotIndex;
  }

  /** Highest index known to be committed. */
  get commitIndex(): number {
    return this.#commitIndex;
  }

  /** Highest index that the state machine has confirmed. */
  get appliedIndex(): number {
    return this.#appliedIndex;
  }

  /** Highest index handed to the state machine. */
  get applyingIndex(): number {
    return this.#applyingIndex;
  }

  /** The commit index with its term, which is known: entries are cut only below it, and a snapshot has the term of its last. */
  commitPosition(): { readonly commitIndex: number; readonly commitTerm: number } {
    const commitIndex = this.#commitIndex;
    return { commitIndex, commitTerm: must(this.findTerm(commitIndex), "the commit index is in the log") };
  }

  /** Index of the first entry that can be read. */
  get firstIndex(): number {
    return this.unstable.findFirstIndex() ?? this.#storage.firstIndex();
  }

  /** Index of the last entry; firstIndex - 1 when there is none. */
  get lastIndex(): number {
    return this.unstable.findLastIndex() ?? this.#storage.lastIndex();
  }

  /** Highest index reported durable. */
  get stableIndex(): number {
    return this.unstable.offset - 1;
  }

  /** Term of the last entry, or of the snapshot that stands for it. */
  get lastTerm(): number {
    return must(this.findTerm(this.lastIndex), "the last entry has a term");
  }

  /** Term of the entry at `index`; undefined where the log was cut off or does not reach. */
  findTerm(index: number): number | undefined {
    const term = this.unstable.findTerm(index);
    if (term !== undefined) return term;
    if (index + 1 < this.firstIndex || index > this.lastIndex) return undefined;
    return this.#storage.term(index);
  }

  /** Whether the entry at `index` is there and of `term`. */
  matchesTerm(index: number, term: number): boolean {
    return this.findTerm(index) === term;
  }

  /** Whether a log that ends with (term, index) is at least as up to date as this one (Raft 5.4.1). */
  isUpToDate(term: number, index: number): boolean {
    const lastTerm = this.lastTerm;
    return term > lastTerm || (term === lastTerm && index >= this.lastIndex);
  }

  /**
   * Follower's append (Raft 5.3): returns the index of the last entry known to match the leader's log, or undefined when
   * the entry before `entries` does not match. Truncates only on a real conflict, so a late or repeated message is harmless.
   * @param leaderCommitIndex taken over only as far as this message proves that the logs match
   */
  maybeAppend(
    prevIndex: number,
    prevTerm: number,
    entries: readonly LogEntry[],
    leaderCommitIndex: number,
  ): number | undefined {
    if (!this.matchesTerm(prevIndex, prevTerm)) return undefined;
    const lastMatched = prevIndex + entries.length;
    const conflict = this.#findConflict(entries);
    if (conflict !== undefined) {
      assert(conflict > this.#commitIndex, `entry ${conflict} conflicts with committed ${this.#commitIndex}`);
      this.append(entries.slice(conflict - prevIndex - 1));
    }
    this.commitTo(Math.min(leaderCommitIndex, lastMatched));
    return lastMatched;
  }

  /** Appends `entries` after the entry before their first, dropping anything there. Never touches committed entries. */
  append(entries: readonly LogEntry[]): void {
    const first = entries[0];
    if (first === undefined) return;
    assert(
      first.index > this.#commitIndex,
      `entry ${first.index} is at or below committed ${this.#commitIndex}`,
    );
    this.unstable.truncateAndAppend(entries);
  }

  /**
   * The highest index at or below `index` whose term is at most `term`: the best guess at where two logs may agree, when
   * one of them has `term` at `index`. It skips a whole term's worth of entries per round trip (Raft 5.3, last paragraph).
   */
  findConflictByTerm(index: number, term: number): { readonly index: number; readonly term: number } {
    for (let at = index; at > 0; at -= 1) {
      const ours = this.findTerm(at);
      // Cut off or not there: nothing better is known than the index itself.
      if (ours === undefined) return { index: at, term: 0 };
      if (ours <= term) return { index: at, term: ours };
    }
    return { index: 0, term: 0 };
  }

  /** Moves the commit index to `index`, never back. `index` must be in the log. */
  commitTo(index: number): void {
    if (index <= this.#commitIndex) return;
    assert(
      index <= this.lastIndex,
      `commit ${index} lies beyond the last entry ${this.lastIndex}: data was lost`,
    );
    this.#commitIndex = index;
  }

  /** Sets the commit index even backwards: only for the planted fault that shows that this is found. */
  forceCommitForPlantedFault(index: number): void {
    this.#commitIndex = index;
  }

  /** Leader's commit rule: only an entry of its own `term` is committed by counting (Raft 5.4.2, figure 8). */
  maybeCommit(index: number, term: number): boolean {
    if (index <= this.#commitIndex || !this.matchesTerm(index, term)) return false;
    this.commitTo(index);
    return true;
  }

  /** Replaces the log by `snapshot`. The caller has checked that it is ahead of everything committed. */
  restore(snapshot: Snapshot): void {
    this.#commitIndex = snapshot.metadata.index;
    this.unstable.restore(snapshot);
  }

  /** Entries from `from`, at most `sizeBytesMax` but at least one if there is any. Undefined where the log was cut off. */
  findEntries(from: number, sizeBytesMax: number): readonly LogEntry[] | undefined {
    const lastIndex = this.lastIndex;
    if (from > lastIndex) return [];
    return this.findSlice(from, lastIndex + 1, sizeBytesMax);
  }

  /** Entries in [low, high), at most `sizeBytesMax` but at least one. Undefined where the log was cut off. */
  findSlice(low: number, high: number, sizeBytesMax: number): readonly LogEntry[] | undefined {
    assert(low <= high && high <= this.lastIndex + 1, `[${low}, ${high}) is not in the log`);
    if (low < this.firstIndex) return undefined;
    if (low >= high) return [];
    const offset = this.unstable.offset;
    if (low >= offset) return limitSize(this.unstable.slice(low, high), sizeBytesMax);
    const cut = Math.min(high, offset);
    const stable = this.#findStored(low, cut, sizeBytesMax);
    if (stable === undefined || high <= offset || stable.length < cut - low) return stable;
    const stableBytes = entriesSizeBytes(stable);
    if (stableBytes >= sizeBytesMax) return stable;
    const unstable = limitSize(this.unstable.slice(offset, high), sizeBytesMax - stableBytes);
    // limitSize() gives at least one entry, which here may be one too many.
    if (unstable.length === 1 && stableBytes + entriesSizeBytes(unstable) > sizeBytesMax) return stable;
    return [...stable, ...unstable];
  }

  /** The newest snapshot: the one being installed, or the one of the storage (whose errors pass through). */
  snapshot(): Snapshot {
    return this.unstable.snapshot ?? this.#storage.snapshot();
  }

  /** Whether a snapshot is waiting to be installed or being installed. */
  get hasPendingSnapshot(): boolean {
    return this.unstable.snapshot !== undefined;
  }

  /** Committed entries to hand to the state machine next; empty while a snapshot is installed or the bound is reached. */
  nextCommittedEntries(allowUnstable: boolean): readonly LogEntry[] {
    if (!this.hasNextCommittedEntries(allowUnstable)) return [];
    const room = this.#applyingSizeBytesMax - this.#applyingSizeBytes;
    const high = this.#appliableIndex(allowUnstable) + 1;
    return must(
      this.findSlice(this.#applyingIndex + 1, high, room),
      "the log is cut only below what is applied",
    );
  }

  /** Whether nextCommittedEntries() is not empty. */
  hasNextCommittedEntries(allowUnstable: boolean): boolean {
    if (this.#applyingPaused || this.hasPendingSnapshot) return false;
    return this.#applyingIndex < this.#appliableIndex(allowUnstable);
  }

  /** Notes that entries up to `index`, of `sizeBytes`, were handed to the state machine. */
  acceptApplying(index: number, sizeBytes: number, allowUnstable: boolean): void {
    assert(index <= this.#commitIndex, `applying ${index} beyond committed ${this.#commitIndex}`);
    this.#applyingIndex = index;
    this.#applyingSizeBytes += sizeBytes;
    // A batch that stopped short of what could be applied was cut by the bound: wait until some of it is confirmed.
    this.#applyingPaused =
      this.#applyingSizeBytes >= this.#applyingSizeBytesMax || index < this.#appliableIndex(allowUnstable);
  }

  /** Notes that the state machine has applied entries up to `index`, `sizeBytes` of those handed out. */
  appliedTo(index: number, sizeBytes: number): void {
    assert(index <= this.#commitIndex, `applied ${index} beyond committed ${this.#commitIndex}`);
    assert(index >= this.#appliedIndex, `applied ${index} below ${this.#appliedIndex}`);
    this.#appliedIndex = index;
    this.#applyingIndex = Math.max(this.#applyingIndex, index);
    this.#applyingSizeBytes = Math.max(0, this.#applyingSizeBytes - sizeBytes);
    this.#applyingPaused = this.#applyingSizeBytes >= this.#applyingSizeBytesMax;
  }

  /** Highest index that may be applied: committed and, unless the caller stores before it applies, durable here. */
  #appliableIndex(allowUnstable: boolean): number {
    return allowUnstable ? this.#commitIndex : Math.min(this.#commitIndex, this.stableIndex);
  }

  #findConflict(entries: readonly LogEntry[]): number | undefined {
    for (const entry of entries) {
      if (!this.matchesTerm(entry.index, entry.term)) return entry.index;
    }
    return undefined;
  }

  #findStored(low: number, high: number, sizeBytesMax: number): readonly LogEntry[] | undefined {
    try {
      return limitSize(this.#storage.entries(low, high, sizeBytesMax), sizeBytesMax);
    } catch (error) {
      // Cut off while it was asked for: the caller sends a snapshot instead.
      if (error instanceof CompactedError) return undefined;
      throw error;
    }
  }
}
