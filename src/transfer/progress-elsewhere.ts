/**
 * Progress of an upload that runs through another node: asked of the tree and of the upload's targets, once a second; and told
 * by the node that carries it, where there is a relay.
 *
 * What 1, 2 and 3 nodes hold is exact; what the client has sent is taken to be what one node holds, unless its node tells. While
 * that node is heard the targets are asked less often. The end is the tree's to say: a message of the end only has it asked at
 * once. Counts never decrease, although a target that cannot be reached for a moment holds nothing for that moment.
 */
import { canceledError } from "../cluster/deadline.ts";
import { chunkCount } from "../drive/content.ts";
import type { Progress } from "../drive/drive-api.ts";
import { DriveError } from "../drive/errors.ts";
import { CHUNK_SIZE_BYTES } from "../drive/limits.ts";
import type { UploadInfo } from "../metadata/view.ts";
import { sleep } from "../std/clock.ts";
import { deferred } from "../std/deferred.ts";
import type { DataPlane } from "./data-plane.ts";
import { PROGRESS_INTERVAL_MS } from "./progress.ts";
import type { ProgressRelay } from "./progress-relay.ts";
import { getUpload } from "./upload-record.ts";
import { heldChunks } from "./upload-survey.ts";

/** Pause between two surveys of the targets: each asks every target of every extent. */
export const SURVEY_INTERVAL_MS = 1000;

/** The same while the node that carries the upload was heard since the last survey. */
export const SURVEY_INTERVAL_HEARD_MS = 5000;

/**
 * The figures now and once a second when they changed, until the upload is complete.
 * @throws DriveError UPLOAD_NOT_FOUND (also when it is aborted meanwhile), UPLOAD_EXPIRED, CANCELED
 */
export async function* watchUploadElsewhere(
  plane: DataPlane,
  id: string,
  signal?: AbortSignal,
  relay?: ProgressRelay,
): AsyncGenerator<Progress, void, undefined> {
  const uploadId = /^[1-9]\d{0,15}$/.test(id) ? Number(id) : NaN;
  if (!Number.isSafeInteger(uploadId)) {
    throw new DriveError("UPLOAD_NOT_FOUND", `No transfer ${JSON.stringify(id)} is known.`, { id });
  }
  const { port } = plane.metadata;
  const told = new Told(relay, id);
  let last: Progress | undefined;
  try {
    for (;;) {
      await port.linearize({ signal });
      const upload = getUpload(port.reader(), uploadId);
      const progress = await survey(plane, upload, last);
      if (last === undefined || progress.phase !== last.phase || grew(progress, last)) yield progress;
      if (progress.phase === "done") return;
      last = progress;
      const surveyedMs = plane.clock.monotonicMs();
      let isHeard = false;
      for (;;) {
        const waitMs = isHeard ? SURVEY_INTERVAL_HEARD_MS : SURVEY_INTERVAL_MS;
        const message = await told.next(plane, surveyedMs + waitMs - plane.clock.monotonicMs(), signal);
        if (message === undefined || message.phase === "done" || message.phase === "failed") break;
        isHeard = true;
        const merged = merge(last, message);
        if (merged.phase === last.phase && !grew(merged, last)) continue;
        last = merged;
        yield merged;
        await pause(plane, PROGRESS_INTERVAL_MS, signal);
      }
    }
  } finally {
    told.stop();
  }
}

/** The newest figures that the node that carries the upload told. */
class Told {
  readonly #stop: (() => void) | undefined;
  #newest: Progress | undefined;
  #came = deferred<void>();

  constructor(relay: ProgressRelay | undefined, id: string) {
    this.#stop = relay?.listen(id, (progress) => {
      this.#newest = progress;
      this.#came.resolve();
    });
  }

  /** What was told since the last call, within `withinMs`; undefined when nothing was. */
  async next(
    plane: DataPlane,
    withinMs: number,
    signal: AbortSignal | undefined,
  ): Promise<Progress | undefined> {
    if (this.#newest === undefined) {
      this.#came = deferred<void>();
      const over = new AbortController();
      const onAbort = (): void => over.abort(signal?.reason);
      if (signal?.aborted === true) onAbort();
      signal?.addEventListener("abort", onAbort, { once: true });
      try {
        const waited = pause(plane, withinMs, over.signal).catch((error: unknown) => {
          if (signal?.aborted === true) throw canceledError(signal);
          if (!over.signal.aborted) throw error;
        });
        await Promise.race([waited, this.#came.promise]);
      } finally {
        signal?.removeEventListener("abort", onAbort);
        over.abort();
      }
    }
    const newest = this.#newest;
    this.#newest = undefined;
    return newest;
  }

  stop(): void {
    this.#stop?.();
  }
}

async function pause(plane: DataPlane, delayMs: number, signal: AbortSignal | undefined): Promise<void> {
  try {
    await sleep(plane.clock, Math.max(0, delayMs), signal);
  } catch (error) {
    if (signal?.aborted === true) throw canceledError(signal);
    throw error;
  }
}

/** What both say together: counts never decrease. */
function merge(last: Progress, told: Progress): Progress {
  const most = (index: 0 | 1 | 2): number => Math.max(last.copiedBytes[index], told.copiedBytes[index]);
  return {
    ...last,
    phase: told.phase,
    sizeBytes: told.sizeBytes ?? last.sizeBytes,
    transferredBytes: Math.max(last.transferredBytes, told.transferredBytes),
    copiedBytes: [most(0), most(1), most(2)],
  };
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
  const transferredBytes = Math.max(copied[0], last?.transferredBytes ?? 0);
  // What its node told of sealing and committing is not taken back.
  const phase = last === undefined ? "receiving" : last.phase;
  return { ...base, phase, transferredBytes, copiedBytes: copied };
}

/** Bytes in chunks: all are whole but the last of the content. */
function bytesOf(chunkIndexes: readonly number[], sizeBytes: number | undefined): number {
  const whole = chunkIndexes.length * CHUNK_SIZE_BYTES;
  if (sizeBytes === undefined || chunkIndexes.at(-1) !== chunkCount(sizeBytes) - 1) return whole;
  return whole - (chunkCount(sizeBytes) * CHUNK_SIZE_BYTES - sizeBytes);
}

function grew(now: Progress, before: Progress): boolean {
  if (now.transferredBytes > before.transferredBytes) return true;
  return now.copiedBytes.some((bytes, index) => bytes > (before.copiedBytes[index] ?? 0));
}
