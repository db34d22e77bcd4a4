/**
 * Progress of an upload that runs through another node: asked of the tree and of the upload's targets, once a second.
 *
 * What 1, 2 and 3 nodes hold is exact; what the client has sent is taken to be what one node holds. Counts never decrease,
 * although a target that cannot be reached for a moment holds nothing for that moment.
 */
import { canceledError } from "../cluster/deadline.ts";
import { chunkCount } from "../drive/content.ts";
import type { Progress } from "../drive/drive-api.ts";
import { DriveError } from "../drive/errors.ts";
import { CHUNK_SIZE_BYTES } from "../drive/limits.ts";
import type { UploadInfo } from "../metadata/view.ts";
import { sleep } from "../std/clock.ts";
import type { DataPlane } from "./data-plane.ts";
import { getUpload } from "./upload-record.ts";
import { heldChunks } from "./upload-survey.ts";

/** Pause between two surveys of the targets: each asks every target of every extent. */
export const SURVEY_INTERVAL_MS = 1000;

/**
 * The figures now and once a second when they changed, until the upload is complete.
 * @throws DriveError UPLOAD_NOT_FOUND (also when it is aborted meanwhile), UPLOAD_EXPIRED, CANCELED
 */
export async function* watchUploadElsewhere(
  plane: DataPlane,
  id: string,
  signal?: AbortSignal,
): AsyncGenerator<Progress, void, undefined> {
  const uploadId = /^[1-9]\d{0,15}$/.test(id) ? Number(id) : NaN;
  if (!Number.isSafeInteger(uploadId)) {
    throw new DriveError("UPLOAD_NOT_FOUND", `No transfer ${JSON.stringify(id)} is known.`, { id });
  }
  const { port } = plane.metadata;
  let last: Progress | undefined;
  for (;;) {
    await port.linearize({ signal });
    const upload = getUpload(port.reader(), uploadId);
    const progress = await survey(plane, upload, last);
    if (last === undefined || progress.phase !== last.phase || grew(progress, last)) yield progress;
    if (progress.phase === "done") return;
    last = progress;
    try {
      await sleep(plane.clock, SURVEY_INTERVAL_MS, signal);
    } catch (error) {
      if (signal?.aborted === true) throw canceledError(signal);
      throw error;
    }
  }
}

async function survey(plane: DataPlane, upload: UploadInfo, last: Progress | undefined): Promise<Progress> {
  const sizeBytes = upload.entry?.sizeBytes ?? upload.sizeBytes;
  const base = { id: String(upload.uploadId), kind: "upload", sizeBytes, errorReason: undefined } as const;
  if (upload.entry !== undefined) {
    const whole = upload.entry.sizeBytes;
    return { ...base, phase: "done", transferredBytes: whole, copiedBytes: [whole, whole, whole] };
  }
  const bytesHeldBy = async (count: number): Promise<number> => {
    const held = await heldChunks(plane.ports, upload.contentId, upload.extents, count);
    return bytesOf(held, sizeBytes);
  };
  const [one, two, three] = await Promise.all([bytesHeldBy(1), bytesHeldBy(2), bytesHeldBy(3)]);
  const before = last?.copiedBytes ?? [0, 0, 0];
  const copied = [Math.max(one, before[0]), Math.max(two, before[1]), Math.max(three, before[2])] as const;
  return { ...base, phase: "receiving", transferredBytes: copied[0], copiedBytes: copied };
}

/** Bytes in chunks: all are whole but the last of the content. */
function bytesOf(chunkIndexes: readonly number[], sizeBytes: number | undefined): number {
  const whole = chunkIndexes.length * CHUNK_SIZE_BYTES;
  if (sizeBytes === undefined || chunkIndexes.at(-1) !== chunkCount(sizeBytes) - 1) return whole;
  return whole - (chunkCount(sizeBytes) * CHUNK_SIZE_BYTES - sizeBytes);
}

function grew(now: Progress, before: Progress): boolean {
  return now.copiedBytes.some((bytes, index) => bytes > (before.copiedBytes[index] ?? 0));
}
