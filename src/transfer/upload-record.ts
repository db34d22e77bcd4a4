/** Uploads as the tree records them, looked up for the data plane, with the errors that users get. */
import type { PathEntry } from "../drive/drive-api.ts";
import type { Entry } from "../drive/entry.ts";
import { DriveError } from "../drive/errors.ts";
import { formatPath } from "../drive/path.ts";
import { decodeResult } from "../metadata/codec.ts";
import type { CommandBody } from "../metadata/commands.ts";
import { readRecord } from "../metadata/context.ts";
import { requestKey } from "../metadata/keys.ts";
import { requestCodec } from "../metadata/records.ts";
import { fingerprintOf, requestIdReused } from "../metadata/requests.ts";
import { getUpload as findUpload, type UploadInfo } from "../metadata/view.ts";
import { bytesEqual } from "../std/bytes.ts";
import type { OrderedReader } from "../std/ordered-store.ts";

export { findUpload };

/** The error for an upload that there never was, or that was aborted or forgotten. */
function uploadGone(uploadId: number): DriveError {
  return new DriveError("UPLOAD_NOT_FOUND", `There is no upload ${uploadId}.`, {
    upload_id: String(uploadId),
  });
}

/** The error for an upload whose folder is there no more: it keeps the folder's id, so another one of the same path does not help. */
export function folderGone({ uploadId, name }: Pick<UploadInfo, "uploadId" | "name">): DriveError {
  return new DriveError(
    "PATH_NOT_FOUND",
    `The folder of upload ${uploadId} (${JSON.stringify(name)}) was deleted while it ran, so it cannot be completed. Upload the file anew, which makes the folder again: the bytes have to be sent once more.`,
    { upload_id: String(uploadId), name },
  );
}

/** An upload, open or complete. @throws DriveError UPLOAD_NOT_FOUND, UPLOAD_EXPIRED */
export function getUpload(reader: OrderedReader, uploadId: number): UploadInfo {
  const upload = findUpload(reader, uploadId);
  if (upload === undefined) throw uploadGone(uploadId);
  if (upload.state !== "expired") return upload;
  throw new DriveError("UPLOAD_EXPIRED", `Upload ${uploadId} has expired.`, { upload_id: String(uploadId) });
}

/** An upload that takes bytes. @throws DriveError UPLOAD_NOT_FOUND, UPLOAD_EXPIRED, UPLOAD_FINISHED */
export function getOpenUpload(reader: OrderedReader, uploadId: number): UploadInfo {
  const upload = getUpload(reader, uploadId);
  if (upload.state === "open") return upload;
  throw new DriveError("UPLOAD_FINISHED", `Upload ${uploadId} is complete already.`, {
    upload_id: String(uploadId),
  });
}

/**
 * The file that a request made, when its answer is remembered; undefined too when that was a refusal.
 * @param commandFor the command that would make the answered file, were it what is asked for now; undefined when it cannot be
 * @throws DriveError REQUEST_ID_REUSED when the request was for something else
 */
export function findAnsweredFile(
  reader: OrderedReader,
  requestId: string,
  commandFor: (entry: Entry) => CommandBody | undefined,
): PathEntry | undefined {
  const record = readRecord(reader, requestKey(requestId), requestCodec);
  if (record === undefined) return undefined;
  const result = decodeResult(record.result);
  if (result.outcome !== "applied") return undefined;
  if (result.value.kind !== "entry") throw requestIdReused(requestId);
  const { entry, path } = result.value;
  const body = commandFor(entry);
  if (body === undefined || !bytesEqual(record.fingerprint, fingerprintOf(body))) {
    throw requestIdReused(requestId);
  }
  return { entry, path: formatPath(path) };
}
