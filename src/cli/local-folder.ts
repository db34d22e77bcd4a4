/**
 * Where downloads may write: inside the folder that the user named, and nowhere else.
 *
 * Names come from the drive and are not trusted. Each must be a plain name here, on this platform; each folder on the way
 * must be a real folder and no link; each file is opened without following a link. The destination itself may be a link: it
 * is the user's own word.
 */
import { constants, lstat, mkdir, open, realpath, stat, type FileHandle } from "node:fs/promises";
import { join } from "node:path";
import { DriveError } from "../drive/errors.ts";
import { parseName } from "../drive/path.ts";
import { errnoOf } from "../std/disk.ts";
import { makeDirectories } from "../std/make-directories.ts";
import { printable } from "../std/format.ts";

/** Names that Windows gives to devices, with any extension. */
const WINDOWS_DEVICE = /^(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)(\..*)?$/i;
const WINDOWS_FORBIDDEN = /[<>:"/\\|?*]/;

/**
 * Checks that `name` can be one file or folder inside another on `platform`, and returns it.
 * @throws DriveError PATH_INVALID or NAME_TOO_LONG
 */
export function parseLocalName(name: string, platform: string): string {
  const refuse = (what: string): never => {
    throw new DriveError("PATH_INVALID", `The name ${JSON.stringify(name)} ${what}.`, { name });
  };
  parseName(name);
  if (platform === "win32") {
    if (WINDOWS_FORBIDDEN.test(name)) refuse("contains a character that Windows does not allow");
    if (/[. ]$/.test(name)) refuse("ends in a dot or space, which Windows drops");
    if (WINDOWS_DEVICE.test(name)) refuse("is a device on Windows");
  }
  return name;
}

/** Makes the destination with its parents when it is absent. Returns its real path. @throws DriveError NOT_A_DIRECTORY */
export async function openDestination(path: string): Promise<string> {
  try {
    await makeDirectories(path);
  } catch (error) {
    if (errnoOf(error) === "EEXIST" || errnoOf(error) === "ENOTDIR") throw notADirectory(path);
    throw error;
  }
  const real = await realpath(path);
  if (!(await stat(real)).isDirectory()) throw notADirectory(path);
  return real;
}

/**
 * Enters the folder `name` of `parent`, which was entered before, making it when it is absent. Returns its path.
 * @throws DriveError PATH_INVALID; NOT_A_DIRECTORY when something else is there, a link to a folder included
 */
export async function enterDirectory(parent: string, name: string, platform: string): Promise<string> {
  const path = join(parent, parseLocalName(name, platform));
  try {
    await mkdir(path);
    return path;
  } catch (error) {
    if (errnoOf(error) !== "EEXIST") throw error;
  }
  const found = await lstat(path);
  if (found.isSymbolicLink()) {
    throw new DriveError(
      "NOT_A_DIRECTORY",
      `${printable(path)} is a symbolic link; nothing is written through it.`,
      {
        path,
      },
    );
  }
  if (!found.isDirectory()) throw notADirectory(path);
  return path;
}

/** Opens a file for reading and writing, making it when absent, never through a link (the last part of the path). */
export function openNoFollow(path: string): Promise<FileHandle> {
  return open(path, constants.O_RDWR | constants.O_CREAT | (constants.O_NOFOLLOW ?? 0), 0o666);
}

/**
 * Milliseconds since 1970 as the seconds that utimes() takes. It cuts what the nearest floating-point number of seconds falls
 * short of a millisecond, so a microsecond is added: the time read back is the same millisecond.
 */
export function utimeSeconds(timeMs: number): number {
  return timeMs / 1000 + 0.000_001;
}

/** What is at `path`, links not followed; undefined when nothing is. */
export async function findAt(path: string): Promise<"file" | "directory" | "other" | undefined> {
  try {
    const found = await lstat(path);
    if (found.isFile()) return "file";
    return found.isDirectory() ? "directory" : "other";
  } catch (error) {
    if (errnoOf(error) === "ENOENT") return undefined;
    throw error;
  }
}

function notADirectory(path: string): DriveError {
  return new DriveError("NOT_A_DIRECTORY", `${printable(path)} is not a folder.`, { path });
}

/** Writes all of it at a place of the file: one call of the operating system may take less. Errors: those of the disk. */
export async function writeAll(handle: FileHandle, bytes: Uint8Array, offset: number): Promise<void> {
  for (let written = 0; written < bytes.length;) {
    const { bytesWritten } = await handle.write(bytes, written, bytes.length - written, offset + written);
    written += bytesWritten;
  }
}
