/**
 * Lists of chunk indexes as text and as runs, like "0,3,7-9": the form of `missing` in UPLOAD_INCOMPLETE.
 *
 * Bounded: at most RANGE_COUNT_MAX runs are written; what is beyond is asked for again after the first have been sent.
 */
import type { ChunkRange } from "./drive-api.ts";

/** Runs in one list. */
export const RANGE_COUNT_MAX = 1000;

/** The runs of ascending chunk indexes. */
export function toRanges(chunkIndexes: Iterable<number>): ChunkRange[] {
  const ranges: { first: number; last: number }[] = [];
  let current: { first: number; last: number } | undefined;
  for (const index of chunkIndexes) {
    if (current !== undefined && index === current.last + 1) current.last = index;
    else {
      current = { first: index, last: index };
      ranges.push(current);
    }
  }
  return ranges;
}

/** The text of ascending chunk indexes, at most RANGE_COUNT_MAX runs. */
export function formatRanges(chunkIndexes: Iterable<number>): string {
  return toRanges(chunkIndexes)
    .slice(0, RANGE_COUNT_MAX)
    .map(({ first, last }) => (first === last ? String(first) : `${first}-${last}`))
    .join(",");
}

/**
 * The chunk indexes that a text names, ascending, those below `countMax` only. Text that is no list of runs, as from a peer
 * of another version, names every index: asking for too much is harmless.
 */
export function parseRanges(text: string, countMax: number): number[] {
  const indexes = new Set<number>();
  for (const run of text.split(",")) {
    const match = /^(\d+)(?:-(\d+))?$/.exec(run);
    if (match === null) return Array.from({ length: countMax }, (_, index) => index);
    const first = Number(match[1]);
    const last = Math.min(Number(match[2] ?? match[1]), countMax - 1);
    for (let index = first; index <= last; index += 1) indexes.add(index);
  }
  return [...indexes].sort((a, b) => a - b);
}
