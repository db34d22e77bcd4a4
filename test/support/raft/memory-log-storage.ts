/**
 * A LogStorage in memory, as a test drives it: what is set here counts as durable.
 *
 * Index i is held at slot i - snapshot.index - 1. The newest snapshot may be overridden, because a state machine usually has
 * one that is newer than where the log was cut.
 */
import { assert, must } from "../../../src/std/assert.ts";
import { limitSize } from "../../../src/raft/log-entries.ts";
import {
  CompactedError,
  NO_MEMBER,
  UnavailableError,
  type ConfState,
  type HardState,
  type LogEntry,
  type LogStorage,
  type Snapshot,
} from "../../../src/raft/types.ts";

/** A configuration of voters and learners, outside of a joint one. */
export function confState(voters: readonly number[], learners: readonly number[] = []): ConfState {
  return { voters, votersOutgoing: [], learners, learnersNext: [], autoLeave: false };
}

/** A snapshot of nothing under `config`. */
export function emptySnapshot(config: ConfState): Snapshot {
  return { metadata: { index: 0, term: 0, confState: config }, data: new Uint8Array(0) };
}

/** Log, hard state and snapshot of one node. */
export class MemoryLogStorage implements LogStorage {
  hardState: HardState = { term: 0, votedFor: NO_MEMBER, commitIndex: 0 };
  /** The configuration that the state machine has applied, when it is newer than where the log was cut. */
  appliedConfState: ConfState | undefined;
  /** Gives the newest snapshot, when it is not the one where the log was cut. */
  snapshotOverride: (() => Snapshot) | undefined;
  #base: Snapshot;
  #entries: LogEntry[] = [];

  constructor(base: Snapshot) {
    this.#base = base;
  }

  initialState(): { readonly hardState: HardState; readonly confState: ConfState } {
    return { hardState: this.hardState, confState: this.appliedConfState ?? this.#base.metadata.confState };
  }

  entries(low: number, high: number, sizeBytesMax: number): readonly LogEntry[] {
    if (low < this.firstIndex()) throw new CompactedError(`entry ${low} was cut off`);
    if (high > this.lastIndex() + 1) throw new UnavailableError(`entry ${high - 1} is not there`);
    const shift = this.firstIndex();
    return limitSize(this.#entries.slice(low - shift, high - shift), sizeBytesMax);
  }

  term(index: number): number {
    if (index === this.#base.metadata.index) return this.#base.metadata.term;
    if (index < this.firstIndex()) throw new CompactedError(`entry ${index} was cut off`);
    const entry = this.#entries[index - this.firstIndex()];
    if (entry === undefined) throw new UnavailableError(`entry ${index} is not there`);
    return entry.term;
  }

  firstIndex(): number {
    return this.#base.metadata.index + 1;
  }

  lastIndex(): number {
    return this.#base.metadata.index + this.#entries.length;
  }

  snapshot(): Snapshot {
    return this.snapshotOverride === undefined ? this.#base : this.snapshotOverride();
  }

  /** Stores `entries`, dropping what was stored from the first one's index on. */
  append(entries: readonly LogEntry[]): void {
    const first = entries[0];
    if (first === undefined) return;
    assert(first.index >= this.firstIndex(), `entry ${first.index} is below ${this.firstIndex()}`);
    assert(
      first.index <= this.lastIndex() + 1,
      `entry ${first.index} leaves a gap after ${this.lastIndex()}`,
    );
    this.#entries.length = first.index - this.firstIndex();
    this.#entries.push(...entries);
  }

  /** Replaces everything by `snapshot`. */
  applySnapshot(snapshot: Snapshot): void {
    assert(snapshot.metadata.index > this.#base.metadata.index, "the snapshot is old");
    this.#base = snapshot;
    this.#entries = [];
  }

  /** Cuts the log off up to and including `index`. */
  compact(index: number): void {
    if (index < this.firstIndex())
      throw new CompactedError("requested index is unavailable due to compaction");
    const last = must(this.#entries[index - this.firstIndex()], "only entries that are there are cut off");
    this.#entries = this.#entries.slice(index - this.firstIndex() + 1);
    const { confState: config } = this.#base.metadata;
    this.#base = { metadata: { index, term: last.term, confState: config }, data: this.#base.data };
  }
}
