/**
 * Names and paths: the one place where text from outside becomes a checked name.
 *
 * A name is 1 to NAME_SIZE_BYTES_MAX bytes of UTF-8 in Unicode normal form C, without "/", NUL, control characters or lone
 * surrogates, and neither "." nor "..". Names compare by code point: the drive is case sensitive. Decode once, check after.
 */
import { DriveError } from "./errors.ts";
import { NAME_SIZE_BYTES_MAX, PATH_DEPTH_MAX, PATH_SIZE_BYTES_MAX } from "./limits.ts";

// C0 controls, DEL and C1 controls; and halves of surrogate pairs, which have no UTF-8 form.
// oxlint-disable-next-line no-control-regex -- control characters are exactly what is looked for
const FORBIDDEN = /[\u0000-\u001f\u007f-\u009f]|\p{Surrogate}/u;

/**
 * Checks a single name and returns it.
 * @throws DriveError PATH_INVALID or NAME_TOO_LONG, with the name in quotes and what is wrong with it
 */
export function parseName(name: string): string {
  const refuse = (what: string): never => {
    throw new DriveError("PATH_INVALID", `The name ${shownName(name)} ${what}.`, { name: shownName(name) });
  };
  if (name === "") refuse("is empty");
  if (name === "." || name === "..") refuse("is reserved");
  if (name.includes("/")) refuse('contains "/"');
  if (FORBIDDEN.test(name)) refuse("contains a control character or is not valid Unicode");
  const sizeBytes = Buffer.byteLength(name, "utf8");
  if (sizeBytes > NAME_SIZE_BYTES_MAX) {
    throw new DriveError(
      "NAME_TOO_LONG",
      `The name ${shownName(name)} has ${sizeBytes} bytes; at most ${NAME_SIZE_BYTES_MAX} are allowed.`,
      {
        name: shownName(name),
        size_bytes: String(sizeBytes),
        size_bytes_max: String(NAME_SIZE_BYTES_MAX),
      },
    );
  }
  if (name.normalize("NFC") !== name) refuse("is not in Unicode normal form C (NFC)");
  return name;
}

function shownName(name: string): string {
  return JSON.stringify(name.length > 64 ? `${name.slice(0, 64)}…` : name);
}

/**
 * Checks an absolute path and returns its names; "/" and "" are the root, an empty list. One trailing slash is allowed.
 * @throws DriveError PATH_INVALID, NAME_TOO_LONG or PATH_TOO_DEEP
 */
export function parsePath(path: string): readonly string[] {
  if (path === "" || path === "/") return [];
  if (!path.startsWith("/")) {
    throw new DriveError("PATH_INVALID", 'A path starts with "/".', { path: path.slice(0, 256) });
  }
  const sizeBytes = Buffer.byteLength(path, "utf8");
  if (sizeBytes > PATH_SIZE_BYTES_MAX) {
    throw new DriveError(
      "PATH_TOO_DEEP",
      `The path has ${sizeBytes} bytes; at most ${PATH_SIZE_BYTES_MAX} are allowed.`,
      {
        size_bytes: String(sizeBytes),
        size_bytes_max: String(PATH_SIZE_BYTES_MAX),
      },
    );
  }
  const names = path.slice(1, path.endsWith("/") ? -1 : undefined).split("/");
  if (names.length > PATH_DEPTH_MAX) {
    throw new DriveError(
      "PATH_TOO_DEEP",
      `The path has ${names.length} parts; at most ${PATH_DEPTH_MAX} are allowed.`,
      {
        depth: String(names.length),
        depth_max: String(PATH_DEPTH_MAX),
      },
    );
  }
  return names.map(parseName);
}

/** The absolute path of `names`. */
export function formatPath(names: readonly string[]): string {
  return `/${names.join("/")}`;
}
