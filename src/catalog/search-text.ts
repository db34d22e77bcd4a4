/**
 * What a search text means, for every catalog alike. Pure.
 *
 * Without a slash it is a part of a name. With slashes it is a part of a path that ends inside the entry's own name: "a/b" finds
 * what begins with "b" in folders whose name ends with "a"; "/b" finds names that begin with "b"; "b/" finds folders whose name
 * ends with "b". What lies below a folder found is not found with it: ask for everything under its path instead.
 */
import { DriveError } from "../drive/errors.ts";
import { PATH_DEPTH_MAX } from "../drive/limits.ts";
import { holdsForbidden } from "../drive/path.ts";
import { foldName } from "./name-grams.ts";

/** Characters (UTF-16 units) of a search text. */
export const SEARCH_TEXT_LENGTH_MAX = 1024;

/** A search text, taken apart. All texts are folded. */
export interface SearchPattern {
  /** Part of the entry's own name; not empty. */
  readonly own: string;
  /** The name begins with `own`. */
  readonly atStart: boolean;
  /** The name ends with `own`. */
  readonly atEnd: boolean;
  /** Only folders. */
  readonly foldersOnly: boolean;
  /** Names above, the nearest last. The first one is the end of a name unless it is anchored, the others are whole names. */
  readonly above: readonly string[];
  /** The text began with a slash: the first name above is a whole one too. */
  readonly isAnchored: boolean;
}

/**
 * Takes a search text apart.
 * @throws DriveError ARGUMENT_INVALID when it is empty, too long, nothing but slashes, or holds what no name may hold
 */
export function parseSearchText(text: string): SearchPattern {
  const refuse = (what: string): never => {
    throw new DriveError("ARGUMENT_INVALID", `The search text ${what}.`, { text: text.slice(0, 256) });
  };
  if (holdsForbidden(text)) refuse("holds a control character or is not valid Unicode, as no name does");
  if (text.length > SEARCH_TEXT_LENGTH_MAX) refuse(`has more than ${SEARCH_TEXT_LENGTH_MAX} characters`);
  const segments = foldName(text.normalize("NFC")).split("/");
  const foldersOnly = segments.length > 1 && segments.at(-1) === "";
  if (foldersOnly) segments.pop();
  const own = segments.pop() ?? "";
  if (own === "") refuse(text === "" ? "is empty" : "names nothing");
  if (segments.length > PATH_DEPTH_MAX) refuse(`has more than ${PATH_DEPTH_MAX} slashes`);
  if (segments.slice(1).includes("")) refuse("has two slashes in a row");
  // A slash at the very start says only that the name begins there.
  const isAnchored = segments[0] === "";
  const above = isAnchored ? segments.slice(1) : segments;
  return { own, atStart: segments.length > 0, atEnd: foldersOnly, foldersOnly, above, isAnchored };
}

/** Whether a folded name has the pattern's own part. */
export function matchesName(pattern: SearchPattern, folded: string): boolean {
  const { own, atStart, atEnd } = pattern;
  if (atStart && atEnd) return folded === own;
  if (atStart) return folded.startsWith(own);
  return atEnd ? folded.endsWith(own) : folded.includes(own);
}

/** Whether an entry at `path` (its names from the root, not folded) is what the pattern means. */
export function matchesPath(pattern: SearchPattern, path: readonly string[], isFolder: boolean): boolean {
  if (pattern.foldersOnly && !isFolder) return false;
  const names = [...path];
  const name = names.pop();
  if (name === undefined || !matchesName(pattern, foldName(name))) return false;
  const { above } = pattern;
  if (above.length > names.length) return false;
  const nearest = names.slice(names.length - above.length);
  return above.every((wanted, i) => {
    const folded = foldName(nearest[i] ?? "");
    return i === 0 && !pattern.isAnchored ? folded.endsWith(wanted) : folded === wanted;
  });
}
