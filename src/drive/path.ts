/**
 * Names and paths: the one place where text from outside becomes a checked name.
 *
 * A name is 1 to NAME_SIZE_BYTES_MAX bytes of UTF-8 in Unicode normal form C, without "/", NUL, control characters or lone
 * surrogates, and neither "." nor "..". Names compare by code point: the drive is case sensitive. Decode once, check after.
 *
 * A new name has more to keep to: it must not look like another one by turning the direction of writing, nor hold what is no
 * text at all. Those rules came after the first names, and the state machine does not know them (metadata/names.ts): what was
 * stored before stays, is found, moved and deleted, and replaying the log gives the same tree for ever.
 */
import { DriveError } from "./errors.ts";
import { NAME_SIZE_BYTES_MAX, PATH_DEPTH_MAX, PATH_SIZE_BYTES_MAX } from "./limits.ts";

// C0 controls, DEL and C1 controls; and halves of surrogate pairs, which have no UTF-8 form.
// oxlint-disable-next-line no-control-regex -- control characters are exactly what is looked for
const FORBIDDEN = /[\u0000-\u001f\u007f-\u009f]|\p{Surrogate}/u;

/**
 * What no new name may hold, and why. Joiners (U+200C, U+200D) stay, scripts and emoji need them; so do the marks U+200E,
 * U+200F and U+061C, which only tell a direction, and the space without width (U+200B), which parts words in Khmer.
 */
const UNFIT: readonly { readonly pattern: RegExp; readonly why: string }[] = [
  { pattern: /[\u202a-\u202e\u2066-\u2069]/u, why: "turns the direction of writing" },
  { pattern: /\ufeff/u, why: "is a byte order mark" },
  { pattern: /[\u2028\u2029]/u, why: "ends a line" },
  { pattern: /\p{Noncharacter_Code_Point}/u, why: "is no character" },
];

/** Whether a text holds what no name may hold: a control character, or half of a surrogate pair. */
export function holdsForbidden(text: string): boolean {
  return FORBIDDEN.test(text);
}

/**
 * Checks a single name, new or not, and returns it.
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

// Most names; nothing unfit is in them.
const PLAIN = /^[ -~]*$/;

/** Checks the name of something that is to be made. @throws DriveError as parseName() */
export function parseNewName(name: string): string {
  parseName(name);
  if (PLAIN.test(name)) return name;
  for (const { pattern, why } of UNFIT) {
    const found = pattern.exec(name)?.[0];
    if (found === undefined) continue;
    const message = `The name ${shownName(name)} contains ${codePointName(found)}, which ${why}.`;
    throw new DriveError("PATH_INVALID", message, { name: shownName(name) });
  }
  return name;
}

function codePointName(character: string): string {
  return `U+${(character.codePointAt(0) ?? 0).toString(16).toUpperCase().padStart(4, "0")}`;
}

/** The name in quotes, with nothing in it that could garble the message. */
function shownName(name: string): string {
  const quoted = JSON.stringify(name.length > 64 ? `${name.slice(0, 64)}…` : name);
  return quoted.replaceAll(
    /[\u007f-\u009f\u2028-\u202e\u2066-\u2069\ufeff]|\p{Noncharacter_Code_Point}/gu,
    (character) => `<${codePointName(character)}>`,
  );
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

/** As parsePath(), for the path of something that is to be made, and of the folders above it that may be. */
export function parseNewPath(path: string): readonly string[] {
  return parsePath(path).map(parseNewName);
}

/**
 * As parseNewPath(), for a file: a slash at the end would say that it is a folder.
 * @throws DriveError PATH_INVALID, NAME_TOO_LONG or PATH_TOO_DEEP
 */
export function parseNewFilePath(path: string): readonly string[] {
  if (path === "") {
    const message = 'The path is empty: a path starts with "/" and ends with the name of the file.';
    throw new DriveError("PATH_INVALID", message, { path });
  }
  const names = parseNewPath(path);
  if (names.length > 0 && path.endsWith("/")) {
    throw new DriveError(
      "PATH_INVALID",
      `The path ${shownName(path)} ends in "/", so it names a folder: add the name of the file.`,
      { path: path.slice(0, 256) },
    );
  }
  return names;
}

/** The absolute path of `names`. */
export function formatPath(names: readonly string[]): string {
  return `/${names.join("/")}`;
}
