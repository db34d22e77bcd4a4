/** Uploads that are not finished, as the tree knows them: what they are to be, their last sign of life, and until when they are kept. */
import type { OpenUpload, OpenUploadPage, ReadOptions } from "../drive/drive-api.ts";
import { DriveError } from "../drive/errors.ts";
import { PAGE_SIZE_MAX, UPLOAD_LEASE_MS } from "../drive/limits.ts";
import { formatPath } from "../drive/path.ts";
import { clusterTime, hasEntry, openUploadsAfter, uploadPath } from "../metadata/view.ts";
import { utf8 } from "../std/bytes.ts";
import type { DataPlane } from "./data-plane.ts";

/** A page ends once its paths have so many bytes: it goes to other nodes and clients as one message of 4 MiB at most. */
export const UPLOAD_PAGE_PATHS_SIZE_BYTES_MAX = 1024 * 1024;

/**
 * A page of them, in the order in which they were begun; a short one when their paths are long. What the system stores for itself is
 * not among them.
 * @throws DriveError ARGUMENT_INVALID
 */
export async function openUploads(
  { clock, metadata }: DataPlane,
  page: { readonly cursor?: string | undefined; readonly countMax: number },
  options: ReadOptions = {},
): Promise<OpenUploadPage> {
  const { cursor, countMax } = page;
  const isCount = Number.isSafeInteger(countMax) && countMax >= 1 && countMax <= PAGE_SIZE_MAX;
  if (!isCount || (cursor !== undefined && !/^[0-9]{1,15}$/.test(cursor))) {
    throw new DriveError("ARGUMENT_INVALID", "There is no such page of the uploads.", {
      page_size_max: String(PAGE_SIZE_MAX),
    });
  }
  if (options.consistency !== "stale") await metadata.port.linearize({ signal: options.signal });
  const reader = metadata.port.reader();
  const nowMs = clusterTime(reader);
  const found = openUploadsAfter(reader, Number(cursor ?? 0), countMax);
  const uploads: OpenUpload[] = [];
  let pathsBytes = 0;
  for (const upload of found.uploads) {
    const { uploadId, contentId, sizeBytes, expireTimeMs } = upload;
    const names = uploadPath(reader, upload);
    // Its folder is there and has no path: it lies below the system's root.
    if (names === undefined && hasEntry(reader, upload.parentId)) continue;
    const path = names === undefined ? "" : formatPath(names);
    const leftMs = expireTimeMs - nowMs;
    uploads.push({
      ...{ uploadId, sizeBytes, path },
      idleMs: Math.max(0, UPLOAD_LEASE_MS - leftMs),
      expireTimeMs: clock.wallMs() + leftMs,
    });
    pathsBytes += utf8(path).length;
    // Where it was the last, one page more is empty.
    if (pathsBytes >= UPLOAD_PAGE_PATHS_SIZE_BYTES_MAX) return { uploads, nextCursor: String(contentId) };
  }
  return { uploads, nextCursor: found.next === undefined ? undefined : String(found.next) };
}
