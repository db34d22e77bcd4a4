/** Lists of chunk indexes as people and programs read them: "0,3,7-9". */

/** Formats ascending indexes; after `rangeCountMax` ranges the list ends. */
export function formatRanges(indexes: readonly number[], rangeCountMax: number): string {
  const ranges: { first: number; last: number }[] = [];
  for (const index of indexes) {
    const range = ranges.at(-1);
    if (range !== undefined && range.last + 1 === index) range.last = index;
    else if (ranges.length === rangeCountMax) break;
    else ranges.push({ first: index, last: index });
  }
  return ranges.map(({ first, last }) => (first === last ? String(first) : `${first}-${last}`)).join(",");
}
