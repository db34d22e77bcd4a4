/**
 * The errors of segments: a full disk is an operating error that passes, damage is DATA_CORRUPT with what and where, and
 * a failed sync is final. Translates errors of the operating system; decides nothing.
 */
import { DriveError } from "../drive/errors.ts";
import { errnoOf } from "../std/disk.ts";

/** Whether the operating system says that there is no space: of the disk, of the quota, of the largest file. */
export function isNoSpace(error: unknown): boolean {
  const code = errnoOf(error);
  return code === "ENOSPC" || code === "EDQUOT" || code === "EFBIG";
}

/** NO_SPACE for an append that was undone. */
export function noSpaceError(path: string, cause: unknown): DriveError {
  return new DriveError("NO_SPACE", `The disk is full: nothing was added to ${path}.`, { path }, cause);
}

/** What recovery or a read found damaged. */
export interface SegmentFault {
  readonly kind:
    /** A record, or the header of the segment, fails its checksum or is cut short, though it was promised. */
    | "damaged"
    /** A valid record that does not continue the one before it: written to the wrong place, or a stale file. */
    | "misdirected"
    /** A segment of the table that is not there. */
    | "missing"
    /** Records that were promised are gone from the end. */
    | "lost-tail";
  readonly path: string;
  readonly segmentId: number;
  readonly offset: number;
  /** Bytes up to the next valid record, or to the end of the segment. */
  readonly sizeBytes: number;
}

/** DATA_CORRUPT that says what was found and where. */
export function corruptError(what: string, path: string, offset: number): DriveError {
  return new DriveError("DATA_CORRUPT", `Stored data is damaged: ${what} in ${path} at byte ${offset}.`, {
    what,
    path,
    offset: String(offset),
  });
}

/** A sync that failed: final, whatever the operating system called it. Carries no code, so that it never counts as NO_SPACE. */
export class SyncError extends Error {
  override readonly name = "SyncError";

  /** @param path the file or directory whose sync failed */
  constructor(path: string, cause: unknown) {
    super(`sync of ${path} failed: what was written to it is unknown`, { cause });
  }
}
