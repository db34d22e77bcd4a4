/**
 * Asks the targets of an upload which chunks they hold, so that a client can resume it at any node.
 *
 * A chunk counts as received when enough targets hold it; what fewer hold may be on its way, and sending it again is harmless.
 * A target that cannot be reached holds nothing for this purpose. Chunks are kept as sets of indexes per extent, so a survey
 * of an upload of 10 GiB is some ten thousand numbers.
 */
import type { ExtentState } from "../chunks/chunk-store.ts";
import { chunkCount } from "../drive/content.ts";
import type { UploadStatus } from "../drive/drive-api.ts";
import { DriveError } from "../drive/errors.ts";
import { CHUNK_SIZE_BYTES, EXTENT_CHUNK_COUNT_MAX } from "../drive/limits.ts";
import { formatPath } from "../drive/path.ts";
import type { ExtentTargets } from "../metadata/commands.ts";
import type { UploadInfo } from "../metadata/view.ts";
import { RANGE_COUNT_MAX, toRanges } from "../drive/chunk-ranges.ts";
import type { ReplicaPort, ReplicaPorts } from "../replication/replica-port.ts";

/** The chunk indexes of the content, ascending, that at least `neededCount` targets hold. */
export async function heldChunks(
  ports: ReplicaPorts,
  contentId: number,
  extents: readonly ExtentTargets[],
  neededCount: number,
): Promise<readonly number[]> {
  const held: number[] = [];
  for (const { extentIndex, memberIds } of extents) {
    const counts = new Map<number, number>();
    const states = await Promise.all(
      memberIds.map((memberId) => stateAt(ports.forMember(memberId), { contentId, extentIndex })),
    );
    for (const state of states) {
      for (const index of chunksOf(state)) counts.set(index, (counts.get(index) ?? 0) + 1);
    }
    for (const [index, count] of counts) {
      if (count >= neededCount) held.push(extentIndex * EXTENT_CHUNK_COUNT_MAX + index);
    }
  }
  return held.sort((a, b) => a - b);
}

async function stateAt(
  port: ReplicaPort | undefined,
  extent: { readonly contentId: number; readonly extentIndex: number },
): Promise<ExtentState> {
  if (port === undefined) return { kind: "absent" };
  try {
    return await port.extentState(extent);
  } catch (error) {
    if (error instanceof DriveError) return { kind: "absent" };
    throw error;
  }
}

function chunksOf(state: ExtentState): readonly number[] {
  switch (state.kind) {
    case "absent":
      return [];
    case "open":
      return state.chunkIndexes;
    case "sealed":
      return Array.from({ length: chunkCount(state.sizeBytes) }, (_, index) => index);
    case "quarantined": {
      const damaged = new Set(state.chunkIndexes);
      const all = Array.from({ length: chunkCount(state.sizeBytes) }, (_, index) => index);
      return all.filter((index) => !damaged.has(index));
    }
  }
}

/** The status of an upload of which the chunks `held` (ascending) were received. Its expiry is still in cluster time. */
export function statusOf(upload: UploadInfo, path: readonly string[], held: readonly number[]): UploadStatus {
  const { uploadId, sizeBytes } = upload;
  const count = sizeBytes === undefined ? undefined : chunkCount(sizeBytes);
  const complete = upload.state === "complete";
  const end = count ?? (held.at(-1) ?? -1) + 1;
  const present = new Set(held);
  const missing: number[] = [];
  if (!complete) for (let index = 0; index < end; index += 1) if (!present.has(index)) missing.push(index);
  const gapless = complete ? end : (missing[0] ?? end);
  const committed = gapless * CHUNK_SIZE_BYTES;
  return {
    uploadId,
    path: formatPath(path),
    state: complete ? "complete" : "open",
    sizeBytes,
    chunkSizeBytes: CHUNK_SIZE_BYTES,
    chunkCount: count,
    missing: toRanges(missing).slice(0, RANGE_COUNT_MAX),
    committedSizeBytes: complete
      ? (upload.entry?.sizeBytes ?? 0)
      : Math.min(committed, sizeBytes ?? committed),
    entry: upload.entry,
    expireTimeMs: upload.expireTimeMs,
  };
}
