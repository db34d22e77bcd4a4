/**
 * Reading through layers: pending writes over older pending writes over a store.
 *
 * An overlay holds values and removals by key; the first layer that knows a key decides it. Used by the LMDB store for what
 * is not flushed yet and by the state machine for what a command wants to write. Holds no state of its own.
 */
import { must } from "./assert.ts";
import { compareBytes } from "./bytes.ts";
import type { KeyRange, KeyValue } from "./ordered-store.ts";
import type { SortedView } from "./sorted-map.ts";

/** Stands in an overlay for a record that was removed. */
export const REMOVED: unique symbol = Symbol("removed");

/** What an overlay says about a key. */
export type Overlaid = Uint8Array | typeof REMOVED;

/** The value of `key` in the first overlay that knows it, else from below. */
export function getThrough(
  overlays: readonly SortedView<Overlaid>[],
  below: (key: Uint8Array) => Uint8Array | undefined,
  key: Uint8Array,
): Uint8Array | undefined {
  for (const overlay of overlays) {
    if (overlay.size === 0) continue;
    const value = overlay.get(key);
    if (value !== undefined) return value === REMOVED ? undefined : value;
  }
  return below(key);
}

/** The records of a range through the overlays. `below` gets the range without its countMax. */
export function* rangeThrough(
  overlays: readonly SortedView<Overlaid>[],
  below: (range: KeyRange) => Iterable<KeyValue>,
  range: KeyRange,
): Generator<KeyValue> {
  let left = range.countMax ?? Number.POSITIVE_INFINITY;
  if (left <= 0 || compareBytes(range.from, range.to) >= 0) return;
  const reverse = range.reverse === true;
  const bottom = fromStore(below({ from: range.from, to: range.to, reverse }));
  const written = overlays.filter((overlay) => overlay.size > 0);
  const sources = [...written.map((overlay) => overlay.range(range.from, range.to, reverse)), bottom];
  for (const [key, value] of written.length === 0 ? bottom : merge(sources, reverse)) {
    if (value === REMOVED) continue;
    yield { key, value };
    left -= 1;
    if (left <= 0) return;
  }
}

function* fromStore(records: Iterable<KeyValue>): Generator<[Uint8Array, Overlaid]> {
  for (const { key, value } of records) yield [key, value];
}

// Merges sorted sources; where several hold a key the first source wins.
function* merge(
  sources: readonly Iterable<[Uint8Array, Overlaid]>[],
  reverse: boolean,
): Generator<[Uint8Array, Overlaid]> {
  const cursors = sources.map((source) => source[Symbol.iterator]());
  try {
    const heads = cursors.map((cursor) => cursor.next());
    for (;;) {
      let best: Uint8Array | undefined;
      let value: Overlaid = REMOVED;
      for (const head of heads) {
        if (head.done === true) continue;
        const order = best === undefined ? 0 : compareBytes(head.value[0], best);
        if (best === undefined || (reverse ? order > 0 : order < 0)) [best, value] = head.value;
      }
      if (best === undefined) return;
      const key = best;
      heads.forEach((head, i) => {
        if (head.done === true || compareBytes(head.value[0], key) !== 0) return;
        heads[i] = must(cursors[i], "a cursor").next();
      });
      yield [key, value];
    }
  } finally {
    for (const cursor of cursors) cursor.return?.();
  }
}
