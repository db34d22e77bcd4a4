/**
 * The errors of segments: a full disk is an operating error that passes, damage is DATA_CORRUPT with what and where, and
 * a failed sync is final. Translates errors of the operating system; decides nothing.
 */
import { DriveError, hasReason } from "../drive/errors.ts";
import { isNoSpace } from "../std/disk.ts";

/** NO_SPACE for an append that was undone. */
export function noSpaceError(path: string, cause: unknown): DriveError {
  return new DriveError("NO_SPACE", `The disk is full: nothing was added to ${path}.`, { path }, cause);
}

/**
 * Waits for the last writes of something that is being closed: a full disk may refuse them, for nobody was promised them:
 * the next start replays more of a log, and learns a commit index from the peers.
 * Errors: those of `work` other than no space.
 */
export async function unlessFull(work: Promise<void>): Promise<void> {
  try {
    await work;
  } catch (error) {
    if (!isNoSpace(error) && !hasReason(error, "NO_SPACE")) throw error;
  }
}

/** What recovery or a read found damaged. */
export interface SegmentFault {
  readonly kind:
    /** A record, or the header of the segment, fails its checksum or is cut short, though it was promised. */
    | "damaged"
    /** A valid record that does not continue the one before it: written to the wrong place, or a stale file. */
    | "misdirected"
    /** A segment of the table that is not there, or has the file of another one in its place. */
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
  /** The file or directory whose sync failed. */
  readonly path: string;

  constructor(path: string, cause: unknown) {
    super(`sync of ${path} failed: what was written to it is unknown`, { cause });
    this.path = path;
  }
}
