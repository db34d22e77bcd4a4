/**
 * Names within commands: what a committed name must satisfy, and free names for onConflict "rename".
 *
 * The edges check names fully (drive/path.ts), Unicode normal form included. Here only what every build decides alike is
 * checked again, because two versions of the Unicode tables must not disagree about a committed command. For the same reason
 * nothing is added here: a command that was applied once must be applied by every later build that replays the log.
 */
import {
  NAME_SIZE_BYTES_MAX,
  PATH_DEPTH_MAX,
  PATH_SIZE_BYTES_MAX,
  RENAME_NUMBER_MAX,
} from "../drive/limits.ts";
import { refuse } from "./context.ts";

/** Extensions longer than this are taken for a part of the name. */
const EXTENSION_SIZE_BYTES_MAX = 32;

// NUL and "/" would break paths; the other controls and lone surrogates have no business in a name either.
const FORBIDDEN =
  // oxlint-disable-next-line no-control-regex -- control characters are exactly what is looked for
  /[\u0000-\u001f\u007f/]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/;

/** Refuses a new entry whose name or path is out of bounds. `path` ends with the name. */
export function checkNewPath(path: readonly string[]): void {
  const name = path.at(-1);
  if (name === undefined || name === "" || name === "." || name === ".." || FORBIDDEN.test(name)) {
    refuse("PATH_INVALID", `${JSON.stringify(name)} is not a name.`, { name: String(name) });
  }
  const sizeBytes = Buffer.byteLength(name, "utf8");
  if (sizeBytes > NAME_SIZE_BYTES_MAX) {
    refuse("NAME_TOO_LONG", `The name has ${sizeBytes} bytes; at most ${NAME_SIZE_BYTES_MAX} are allowed.`, {
      size_bytes: String(sizeBytes),
      size_bytes_max: String(NAME_SIZE_BYTES_MAX),
    });
  }
  if (path.length > PATH_DEPTH_MAX) {
    refuse("PATH_TOO_DEEP", `The path has ${path.length} parts; at most ${PATH_DEPTH_MAX} are allowed.`, {
      depth: String(path.length),
      depth_max: String(PATH_DEPTH_MAX),
    });
  }
  // Only a path of many long names can be too long: the bound without counting is cheap.
  if (path.length * (NAME_SIZE_BYTES_MAX + 1) <= PATH_SIZE_BYTES_MAX) return;
  let pathSizeBytes = 0;
  for (const each of path) pathSizeBytes += 1 + Buffer.byteLength(each, "utf8");
  if (pathSizeBytes > PATH_SIZE_BYTES_MAX) {
    refuse(
      "PATH_TOO_DEEP",
      `The path has ${pathSizeBytes} bytes; at most ${PATH_SIZE_BYTES_MAX} are allowed.`,
      {
        size_bytes: String(pathSizeBytes),
        size_bytes_max: String(PATH_SIZE_BYTES_MAX),
      },
    );
  }
}

/** "name (2).ext" and so on: the name with a number, its stem cut at a code point where the whole would be too long. */
export function numberedName(name: string, number: number, kind: "file" | "directory"): string {
  const dot = kind === "file" ? name.lastIndexOf(".") : -1;
  const hasExtension = dot > 0 && Buffer.byteLength(name.slice(dot), "utf8") <= EXTENSION_SIZE_BYTES_MAX;
  const extension = hasExtension ? name.slice(dot) : "";
  const suffix = ` (${number})${extension}`;
  const room = NAME_SIZE_BYTES_MAX - Buffer.byteLength(suffix, "utf8");
  let stem = "";
  let sizeBytes = 0;
  for (const character of hasExtension ? name.slice(0, dot) : name) {
    sizeBytes += Buffer.byteLength(character, "utf8");
    if (sizeBytes > room) break;
    stem += character;
  }
  return stem + suffix;
}

/**
 * A name with a number that is free, found in O(log n) questions: when the numbers taken have no gaps, the lowest one.
 * @throws DriveError PATH_EXISTS when none up to RENAME_NUMBER_MAX was found
 */
export function freeName(
  name: string,
  kind: "file" | "directory",
  isTaken: (name: string) => boolean,
): string {
  let taken = 1;
  let free = 2;
  while (isTaken(numberedName(name, free, kind))) {
    taken = free;
    free *= 2;
    if (free > RENAME_NUMBER_MAX) refuse("PATH_EXISTS", "No free name was found.", { name });
  }
  while (free - taken > 1) {
    const middle = Math.floor((taken + free) / 2);
    if (isTaken(numberedName(name, middle, kind))) taken = middle;
    else free = middle;
  }
  return numberedName(name, free, kind);
}
