/**
 * Which entries the newest changes touched: what decides whether something cached may answer a read. Pure.
 *
 * The rule: a value that was read at applied index v may answer a read with read index r only if no change touched what it shows
 * in (v, r]. The window knows all changes in (from, through], so it can say so for from <= v and r <= through; in all other cases
 * the answer is "cannot be said", and the cache is not used. What a value shows is its entry, and by the path the folders above.
 *
 * Invariant: a change that is in (from, through] is either remembered by its entry or lies at or below `from`.
 * Does not know what the changes were, so a value that is as good as new may be refused, never the other way round.
 */
import { assert } from "../std/assert.ts";

/** Changes that a window remembers. */
export const WINDOW_CHANGE_COUNT_MAX = 20_000;

/** One change, as the window needs it. */
export interface WindowChange {
  /** Log index of the command. */
  readonly index: number;
  readonly entryId: number;
  /** Whether paths of other entries change with it: a directory was moved or deleted. */
  readonly movesPaths: boolean;
}

/** What a cached value shows. */
export interface Shown {
  readonly entryId: number;
  /** The folders above it, the root included; undefined when they are not known: then no folder may have moved at all. */
  readonly ancestorIds: readonly number[] | undefined;
}

/** The newest changes. Feed it by advance(), in order. */
export class ChangeWindow {
  readonly #countMax: number;
  /** Index of the newest change of an entry, the entry that was touched longest ago first. */
  readonly #touched = new Map<number, number>();
  #fromIndex: number;
  #throughIndex: number;
  /** Index of the newest change that moved paths. */
  #movedIndex: number;

  /** @param atIndex the applied index to begin at: nothing before it is known */
  constructor(atIndex: number, countMax: number = WINDOW_CHANGE_COUNT_MAX) {
    this.#countMax = countMax;
    this.#fromIndex = atIndex;
    this.#throughIndex = atIndex;
    this.#movedIndex = atIndex;
  }

  /** Everything up to this command is in here. */
  get throughIndex(): number {
    return this.#throughIndex;
  }

  /** Takes in all changes of the commands after throughIndex up to `throughIndex`, ascending by index. */
  advance(changes: readonly WindowChange[], throughIndex: number): void {
    assert(throughIndex >= this.#throughIndex, "a window never goes back");
    for (const { index, entryId, movesPaths } of changes) {
      assert(index > this.#throughIndex, "a change is taken in once");
      assert(index <= throughIndex, "a change lies within what is taken in");
      this.#touched.delete(entryId);
      this.#touched.set(entryId, index);
      if (movesPaths) this.#movedIndex = index;
    }
    this.#throughIndex = throughIndex;
    this.#forget();
  }

  /** Begins anew: changes up to `atIndex` were missed. */
  restart(atIndex: number): void {
    this.#touched.clear();
    this.#fromIndex = atIndex;
    this.#throughIndex = atIndex;
    this.#movedIndex = atIndex;
  }

  /** Whether certainly nothing that a value of `version` shows was changed in (version, readIndex]. */
  isUnchanged(shown: Shown, version: number, readIndex: number): boolean {
    if (version < this.#fromIndex || readIndex > this.#throughIndex) return false;
    const isUntouched = (entryId: number): boolean => (this.#touched.get(entryId) ?? 0) <= version;
    if (!isUntouched(shown.entryId)) return false;
    if (shown.ancestorIds === undefined) return this.#movedIndex <= version;
    return shown.ancestorIds.every(isUntouched);
  }

  /** Drops what was touched longest ago; what was read before that can be judged no more. */
  #forget(): void {
    for (const [entryId, index] of this.#touched) {
      if (this.#touched.size <= this.#countMax) return;
      this.#touched.delete(entryId);
      this.#fromIndex = Math.max(this.#fromIndex, index);
    }
  }
}
