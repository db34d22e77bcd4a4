/** What a task of the kind "upload" is to do and what came of it, as JSON. */
import { DriveError } from "../drive/errors.ts";
import { utf8 } from "../std/bytes.ts";

/** Files of one task at most: their ids fit its parameters. */
export const UPLOAD_RUN_COUNT_MAX = 1000;

/** A run of files that were written. */
export interface UploadRun {
  /** Ascending, each once. */
  readonly entryIds: readonly number[];
}

/** What was found about them. Counts of copies are counts of extents at a member. */
export interface UploadReport {
  readonly fileCount: number;
  /** Files that are gone, or are folders by now. */
  readonly goneCount: number;
  readonly verifiedCopyCount: number;
  /** Copies that were damaged or missing: repair knows them. */
  readonly badCopyCount: number;
  /** Copies whose node did not answer; scrub comes by. */
  readonly unansweredCopyCount: number;
  readonly sha256Count: number;
}

/** The parameters of a task. */
export function encodeUploadRun(run: UploadRun): Uint8Array {
  return utf8(JSON.stringify(run));
}

/** @throws DriveError ARGUMENT_INVALID */
export function parseUploadRun(parameters: Uint8Array): UploadRun {
  const refuse = (cause?: unknown): never => {
    throw new DriveError("ARGUMENT_INVALID", "The parameters name no files.", {}, cause);
  };
  let value: unknown;
  try {
    value = JSON.parse(Buffer.from(parameters).toString("utf8"));
  } catch (error) {
    refuse(error);
  }
  const entryIds = (value as { readonly entryIds?: unknown } | null)?.entryIds;
  if (!Array.isArray(entryIds) || entryIds.length > UPLOAD_RUN_COUNT_MAX) return refuse();
  if (!entryIds.every((id) => Number.isSafeInteger(id) && Number(id) > 0)) return refuse();
  return { entryIds: entryIds as number[] };
}
