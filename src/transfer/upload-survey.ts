/**
 * Asks the targets of an upload which chunks they hold, so that a client can resume it at any node.
 *
 * A chunk counts as received when enough targets hold it; what fewer hold may be on its way, and sending it again is harmless.
 * A target that cannot be reached holds nothing for this purpose. Where all targets have sealed an extent and too few alike, nothing
 * that a client sends can complete the upload. Chunks are kept as sets of indexes per extent, so a survey
 * of an upload of 10 GiB is some ten thousand numbers.
 */
import type { ExtentState } from "../chunks/chunk-store.ts";
import { throwIfCanceled, unlessCanceled } from "../cluster/deadline.ts";
import { chunkCount, chunkSizeBytes } from "../drive/content.ts";
import type { UploadStatus } from "../drive/drive-api.ts";
import { DriveError } from "../drive/errors.ts";
import { CHUNK_SIZE_BYTES, EXTENT_CHUNK_COUNT_MAX } from "../drive/limits.ts";
import { formatPath } from "../drive/path.ts";
import type { ExtentTargets } from "../metadata/commands.ts";
import type { UploadInfo } from "../metadata/view.ts";
import { RANGE_COUNT_MAX, toRanges } from "../drive/chunk-ranges.ts";
import type { ReplicaPort, ReplicaPorts } from "../replication/replica-port.ts";
import { largestAgreement } from "../replication/sealer.ts";

/** What the targets of an upload hold. */
export interface Survey {
  /** The chunk indexes of the content, ascending, that enough targets hold. */
  readonly held: readonly number[];
  /** An extent that all its targets have sealed, too few alike; undefined when there is none. */
  readonly differing: number | undefined;
}

/** Asks the targets, of which `neededCount` must hold a chunk, and seal an extent alike. */
export async function survey(
  ports: ReplicaPorts,
  contentId: number,
  extents: readonly ExtentTargets[],
  neededCount: number,
): Promise<Survey> {
  const held: number[] = [];
  let differing: number | undefined;
  for (const extent of extents) {
    const { extentIndex, memberIds } = extent;
    const states = await statesAt(ports, contentId, extent);
    const seals = states.filter((state) => state.kind === "sealed");
    const isFinal = seals.length === memberIds.length && seals.length >= neededCount;
    if (isFinal && largestAgreement(seals).length < neededCount) differing ??= extentIndex;
    for (const [index, count] of holderCounts(states)) {
      if (count >= neededCount) held.push(extentIndex * EXTENT_CHUNK_COUNT_MAX + index);
    }
  }
  return { held: held.sort((a, b) => a - b), differing };
}

/** Whom heldBytes() asks, and for how long. */
export interface HeldBytesOptions {
  /** Whether a target is known to be down, so that it is not waited for; asked anew before each extent. */
  readonly isDown: (memberId: number) => boolean;
  /** Ends the survey at once, also while a target does not answer. */
  readonly signal: AbortSignal;
}

/**
 * Bytes of the chunks that at least one, two and three targets hold. All are whole but the last one of the content.
 * @throws DriveError CANCELED, or the signal's own, when that aborts
 */
export async function heldBytes(
  ports: ReplicaPorts,
  { contentId, extents, sizeBytes }: Pick<UploadInfo, "contentId" | "extents" | "sizeBytes">,
  { isDown, signal }: HeldBytesOptions,
): Promise<readonly [number, number, number]> {
  const bytes: [number, number, number] = [0, 0, 0];
  for (const extent of extents) {
    throwIfCanceled(signal);
    const memberIds = extent.memberIds.filter((memberId) => !isDown(memberId));
    const states = statesAt(ports, contentId, { ...extent, memberIds });
    for (const [index, count] of holderCounts(await unlessCanceled(states, signal))) {
      const chunkIndex = extent.extentIndex * EXTENT_CHUNK_COUNT_MAX + index;
      const size = sizeBytes === undefined ? CHUNK_SIZE_BYTES : chunkSizeBytes(sizeBytes, chunkIndex);
      if (count >= 1) bytes[0] += size;
      if (count >= 2) bytes[1] += size;
      if (count >= 3) bytes[2] += size;
    }
  }
  return bytes;
}

/** How many targets hold each chunk of an extent, of those that any holds. */
function holderCounts(states: readonly ExtentState[]): ReadonlyMap<number, number> {
  const counts = new Map<number, number>();
  for (const state of states) {
    for (const index of chunksOf(state)) counts.set(index, (counts.get(index) ?? 0) + 1);
  }
  return counts;
}

/** What each target holds of an extent. */
function statesAt(
  ports: ReplicaPorts,
  contentId: number,
  { extentIndex, memberIds }: ExtentTargets,
): Promise<readonly ExtentState[]> {
  return Promise.all(
    memberIds.map((memberId) => stateAt(ports.forMember(memberId), { contentId, extentIndex })),
  );
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

/** The status of an upload of which the chunks `held` (ascending) were received; `path` undefined: its folder was deleted. Its expiry is still in cluster time. */
export function statusOf(
  upload: UploadInfo,
  path: readonly string[] | undefined,
  held: readonly number[],
): UploadStatus {
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
    path: path === undefined ? "" : formatPath(path),
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
