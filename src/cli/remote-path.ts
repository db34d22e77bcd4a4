/**
 * Paths on the drive as the command line takes them: absolute, checked before anything is sent.
 *
 * A trailing "/" says something about what is meant (into this folder; the contents of this folder) and is kept apart.
 */
import { formatPath, parsePath } from "../drive/path.ts";
import { UsageError } from "./exit-code.ts";

/** A path on the drive. */
export interface RemotePath {
  /** Absolute, without trailing slash except for the root "/". */
  readonly path: string;
  readonly names: readonly string[];
  /** Whether it was written with a "/" at its end; always for the root. */
  readonly trailingSlash: boolean;
}

/**
 * Reads a path from the command line.
 * @throws UsageError when it is not absolute; DriveError PATH_INVALID, NAME_TOO_LONG or PATH_TOO_DEEP
 */
export function parseRemotePath(text: string): RemotePath {
  if (!text.startsWith("/")) {
    throw new UsageError(`${JSON.stringify(text)} is not a path on the drive: those start with "/".`);
  }
  const names = parsePath(text.normalize("NFC"));
  return { path: formatPath(names), names, trailingSlash: text.endsWith("/") };
}

/** The path of `name` in the directory at `parent`. */
export function joinRemote(parent: string, name: string): string {
  return parent === "/" ? `/${name}` : `${parent}/${name}`;
}

/** The last name of a path; undefined for the root. */
export function baseName(remote: RemotePath): string | undefined {
  return remote.names.at(-1);
}
