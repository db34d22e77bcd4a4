/**
 * The errors of the chunk store, each made in one place with its message and metadata. Decides nothing.
 */
import type { ExtentKey } from "../drive/content.ts";
import { DriveError } from "../drive/errors.ts";
import { AssertionError } from "../std/assert.ts";
import { isNoSpace } from "../std/disk.ts";
import { extentName } from "./chunk-codec.ts";
import { formatRanges } from "../drive/chunk-ranges.ts";

/** UPLOAD_INCOMPLETE that names the missing chunks (ascending). */
export function incomplete(missing: readonly number[]): DriveError {
  const ranges = formatRanges(missing);
  return new DriveError("UPLOAD_INCOMPLETE", `${missing.length} chunks are missing: ${ranges}.`, {
    missing: ranges,
    count: String(missing.length),
  });
}

/** CHUNK_OUT_OF_RANGE. */
export function outOfRange(message: string, chunkIndex: number): DriveError {
  return new DriveError("CHUNK_OUT_OF_RANGE", message, { chunk_index: String(chunkIndex) });
}

/** UPLOAD_FINISHED: the extent is sealed with other bytes, which it is as soon as it is whole, before anybody completes the upload. */
export function finished(extent: ExtentKey): DriveError {
  const name = extentName(extent);
  return new DriveError(
    "UPLOAD_FINISHED",
    `Extent ${name} came whole before, with other bytes, and is sealed.`,
    { extent: name },
  );
}

/** CHUNK_NOT_FOUND for an extent, or for one chunk of it. */
export function notFound(extent: ExtentKey, chunkIndex?: number): DriveError {
  const name = extentName(extent);
  const what = chunkIndex === undefined ? `Extent ${name}` : `Chunk ${chunkIndex} of extent ${name}`;
  return new DriveError("CHUNK_NOT_FOUND", `${what} is not here.`, { extent: name });
}

/** CHUNK_CORRUPT that names the damaged chunks (ascending). */
export function corrupt(extent: ExtentKey, chunkIndexes: readonly number[], cause?: unknown): DriveError {
  const name = extentName(extent);
  const chunks = formatRanges(chunkIndexes);
  return new DriveError(
    "CHUNK_CORRUPT",
    `Stored bytes of extent ${name} are damaged: chunks ${chunks}.`,
    { extent: name, chunks },
    cause,
  );
}

/** What crosses the border of the module: a DriveError stays, a full disk is NO_SPACE, anything else is INTERNAL. */
export function operatingError(error: unknown): unknown {
  if (error instanceof DriveError) return error;
  if (isNoSpace(error)) return new DriveError("NO_SPACE", "The disk is full.", {}, error);
  if (error instanceof AssertionError) return error;
  return new DriveError("INTERNAL", "The chunk store failed.", {}, error);
}
