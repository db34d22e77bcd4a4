/**
 * The change feed (C8) and what each change builds on (C5), at every node after every step.
 *
 * All nodes must have the same events in the same order, each exactly once and without a gap up to what they applied. Folded into
 * a tree of its own, every event must fit what the events before it made: what is created was not there, what is updated, moved or
 * deleted is there as the last event left it. At the end that tree is the one in the state.
 */
import type { Change } from "../../src/drive/change.ts";
import { ROOT_ENTRY_ID, type Entry } from "../../src/drive/entry.ts";
import { scanRows } from "../../src/metadata/feed.ts";
import { changesAfter } from "../../src/metadata/view.ts";
import { must } from "../../src/std/assert.ts";
import type { OrderedReader } from "../../src/std/ordered-store.ts";

const COUNT_MAX = 1_000_000;

/** The feed of one run, as the node that was first with each event had it. */
export class FeedChecks {
  readonly #changes: Change[] = [];
  readonly #texts: string[] = [];
  /** Everything up to this index is in #changes. */
  #throughIndex = 0;
  /** How far each member was compared: an index, and the number of events up to it. */
  readonly #compared = new Map<number, { readonly index: number; readonly count: number }>();
  readonly #tree = new FeedTree();

  /** Events so far. */
  get count(): number {
    return this.#changes.length;
  }

  /** The index of the last event. */
  get lastIndex(): number {
    return this.#changes.at(-1)?.index ?? 0;
  }

  /** A member starts again, perhaps with a state that was made anew: all of its feed is compared again. */
  restarted(memberId: number): void {
    this.#compared.delete(memberId);
  }

  /** Looks at a member's feed up to its applied index. */
  observe(memberId: number, reader: OrderedReader, appliedIndex: number): void {
    const known = this.#compared.get(memberId) ?? { index: 0, count: 0 };
    const from = appliedIndex < known.index ? { index: 0, count: 0 } : known;
    let { count } = from;
    for (const change of changesAfter(reader, from.index, COUNT_MAX)) {
      const text = JSON.stringify(change);
      if (count === this.#texts.length) this.#append(change, text);
      check(
        this.#texts[count] === text,
        () => `event ${count} at member ${memberId} is ${text}, elsewhere ${this.#texts[count]}`,
      );
      count += 1;
    }
    const next = this.#changes[count];
    check(
      next === undefined || next.index > appliedIndex,
      () => `member ${memberId} applied ${appliedIndex} and lacks the event ${this.#texts[count]}`,
    );
    this.#throughIndex = Math.max(this.#throughIndex, appliedIndex);
    this.#compared.set(memberId, { index: appliedIndex, count });
  }

  /** What a watcher was handed out, from the beginning: all events, in order, each once. */
  checkWatched(name: string, changes: readonly Change[]): void {
    check(
      changes.length === this.#texts.length,
      () => `${name} was told of ${changes.length} events, there were ${this.#texts.length}`,
    );
    for (const [at, change] of changes.entries()) {
      check(JSON.stringify(change) === this.#texts[at], () => `${name} was told another event ${at}`);
    }
  }

  /** The tree that the events made is the one in the state. */
  checkTree(reader: OrderedReader): void {
    const rows = new Map<number, Entry>();
    for (const row of scanRows(reader, undefined, COUNT_MAX).rows) rows.set(row.entryId, row);
    this.#tree.compare(rows);
  }

  #append(change: Change, text: string): void {
    check(change.index > this.#throughIndex, () => `an event came late: ${text}`);
    const last = this.#changes.at(-1);
    const isNext =
      last === undefined || last.index < change.index
        ? change.position === 0
        : last.index === change.index && change.position === last.position + 1;
    check(isNext, () => `${text} follows ${JSON.stringify(last)}`);
    this.#tree.apply(change);
    this.#changes.push(change);
    this.#texts.push(text);
  }
}

/** The tree as somebody knows it who has only the feed. */
class FeedTree {
  readonly #entries = new Map<number, Entry>();
  /** Entry ids by parent and name. */
  readonly #places = new Map<string, number>();

  apply(change: Change): void {
    const { kind, entry, previous } = change;
    const known = this.#entries.get(entry.entryId);
    const predecessor = (isGood: boolean): void => {
      if (isGood) return;
      throw new Error(`C5: ${JSON.stringify(change)} follows ${JSON.stringify(known)}`);
    };
    switch (kind) {
      case "created":
        predecessor(known === undefined && (entry.parentId === ROOT_ENTRY_ID || this.#has(entry.parentId)));
        break;
      case "updated":
        predecessor(known !== undefined && placeOf(known) === placeOf(entry));
        break;
      case "moved":
        predecessor(
          known !== undefined && previous !== undefined && placeOf(known) === placeOf({ ...previous }),
        );
        break;
      case "deleted":
        predecessor(known !== undefined && placeOf(known) === placeOf(entry) && isSame(known, entry));
        this.#remove(entry.entryId);
        return;
    }
    predecessor(known === undefined || known.version < entry.version);
    if (known !== undefined) this.#places.delete(placeOf(known));
    predecessor(!this.#places.has(placeOf(entry)));
    this.#entries.set(entry.entryId, entry);
    this.#places.set(placeOf(entry), entry.entryId);
  }

  /** Compares with all rows of a state, those below a deleted folder and not taken apart yet among them. */
  compare(rows: ReadonlyMap<number, Entry>): void {
    for (const entry of this.#entries.values()) {
      const row = rows.get(entry.entryId);
      check(
        row !== undefined && placeOf(row) === placeOf(entry) && isSame(row, entry),
        () => `by the feed there is ${JSON.stringify(entry)}, in the tree ${JSON.stringify(row)}`,
      );
    }
    for (const row of rows.values()) {
      check(!isReachable(rows, row) || this.#has(row.entryId), () => `no event for ${JSON.stringify(row)}`);
    }
  }

  #has(entryId: number): boolean {
    return this.#entries.has(entryId);
  }

  #remove(entryId: number): void {
    const entry = must(this.#entries.get(entryId), "it is there");
    this.#entries.delete(entryId);
    this.#places.delete(placeOf(entry));
    for (const child of [...this.#entries.values()]) {
      if (child.parentId === entryId) this.#remove(child.entryId);
    }
  }
}

function isReachable(rows: ReadonlyMap<number, Entry>, row: Entry): boolean {
  for (let at: Entry | undefined = row; at !== undefined; at = rows.get(at.parentId)) {
    if (at.parentId === ROOT_ENTRY_ID) return true;
  }
  return false;
}

function placeOf({ parentId, name }: { readonly parentId: number; readonly name: string }): string {
  return `${parentId}/${name}`;
}

function isSame(one: Entry, other: Entry): boolean {
  return one.version === other.version && one.kind === other.kind && one.sizeBytes === other.sizeBytes;
}

function check(condition: boolean, describe: () => string): void {
  if (!condition) throw new Error(`C8: ${describe()}`);
}
