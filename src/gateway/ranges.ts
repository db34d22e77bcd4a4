/**
 * Range requests (RFC 9110 section 14): which bytes of a file a Range field asks for.
 *
 * One range is served as 206. Several ranges, another unit or a malformed field count as no Range at all, which the RFC allows:
 * the whole file is sent. Pure.
 */

/** The answer to a Range field: the whole file, a part [offset, offset + length), or 416. */
export type RangeVerdict =
  | { readonly kind: "whole" }
  | { readonly kind: "part"; readonly offset: number; readonly length: number }
  | { readonly kind: "unsatisfiable" };

const WHOLE: RangeVerdict = { kind: "whole" };
const UNSATISFIABLE: RangeVerdict = { kind: "unsatisfiable" };

/** Decides what `range` selects of a file of `sizeBytes`. Numbers of any length are understood. */
export function parseRange(range: string | undefined, sizeBytes: number): RangeVerdict {
  const match = /^bytes=[ \t]*(\d*)-(\d*)[ \t]*$/i.exec(range?.trim() ?? "");
  const [, first = "", last = ""] = match ?? [];
  if (match === null || (first === "" && last === "")) return WHOLE;
  if (first === "") {
    const length = Math.min(Number(last), sizeBytes);
    if (Number(last) === 0) return UNSATISFIABLE;
    // An empty file has no byte that Content-Range could name, yet the suffix is satisfiable: the whole is the answer.
    return length === 0 ? WHOLE : { kind: "part", offset: sizeBytes - length, length };
  }
  if (last !== "" && Number(last) < Number(first)) return WHOLE;
  const offset = Number(first);
  if (offset >= sizeBytes) return UNSATISFIABLE;
  const end = last === "" ? sizeBytes : Math.min(Number(last) + 1, sizeBytes);
  return { kind: "part", offset, length: end - offset };
}

/** The Content-Range field of a part, or of an unsatisfiable answer when `part` is absent. */
export function contentRange(
  sizeBytes: number,
  part?: { readonly offset: number; readonly length: number },
): string {
  return part === undefined
    ? `bytes */${sizeBytes}`
    : `bytes ${part.offset}-${part.offset + part.length - 1}/${sizeBytes}`;
}
