/**
 * Data under a running node that broke or turned out to be wrong: what to say of it instead of the stack of a bug.
 *
 * What the program found wrong with its data by itself says what to do already. As for the disk: a node cannot go on when a file of
 * its data cannot be made, written or synced, whatever the reason; but when the folder was taken away, or the file system turned
 * read-only under it, no program is to be mended, and whoever reads the log has to know where to look.
 */
import { isAbsolute, relative, resolve, sep } from "node:path";
import { DriveError } from "../drive/errors.ts";
import { errnoOf } from "../std/disk.ts";
import { describeError } from "./output.ts";

/** How the operating system says that what holds the data is gone, closed to this process, or broken. */
const DATA_CODES: ReadonlySet<string> = new Set(["ENOENT", "ENOTDIR", "EROFS", "EACCES", "EPERM", "EIO"]);

/** Errors that are looked through for the one that the operating system gave. */
const CAUSE_COUNT_MAX = 8;

/** What to log and show of data that cannot be used any more. */
export interface DataFailure {
  readonly code: string;
  readonly message: string;
  readonly remedy: string;
  readonly path: string;
}

/** What an error that ended a node says of its data directory; undefined when it is about something else. */
export function describeDataFailure(error: unknown, directory: string): DataFailure | undefined {
  if (error instanceof DriveError && error.reason === "DATA_CORRUPT") {
    const { code, message, remedy } = describeError(error);
    return { code, message, remedy, path: resolve(directory) };
  }
  const chain = causesOf(error);
  const refusal = chain.find((each) => DATA_CODES.has(errnoOf(each) ?? ""));
  // A sync that was refused does not name its file: the error around it does.
  const path = chain.map(pathOf).find((each) => each !== undefined && isWithin(directory, each));
  if (refusal === undefined || path === undefined) return undefined;
  const { code, message } = describeError(
    Object.assign(new Error(refusal.message), { code: errnoOf(refusal), path }),
  );
  const remedy = `See that the right disk is mounted below ${resolve(directory)}, that it is well and this user may write to it, then start the node again; docs/RUNBOOK.md says what to do when the disk is lost ("A disk was replaced").`;
  return { code, message, remedy, path };
}

function causesOf(error: unknown): readonly Error[] {
  const chain: Error[] = [];
  let next = error;
  while (next instanceof Error && chain.length < CAUSE_COUNT_MAX) {
    chain.push(next);
    next = next.cause;
  }
  return chain;
}

function pathOf(error: Error): string | undefined {
  return "path" in error && typeof error.path === "string" ? error.path : undefined;
}

function isWithin(directory: string, path: string): boolean {
  const below = relative(resolve(directory), resolve(path));
  return below !== ".." && !below.startsWith(`..${sep}`) && !isAbsolute(below);
}
