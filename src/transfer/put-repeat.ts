/**
 * The answer to a repeated one-shot upload, whose file was made before: the first answer again, once its bytes are known to be the
 * same.
 *
 * The id alone does not tell: who sends other bytes under it and is answered "stored" has lost them. So the stream is read and
 * hashed to its end, chunk by chunk, and nothing of it is stored or held. It is compared with the file as it was made, by the answer
 * that the tree remembers; what became of the file since does not matter. Only a stated tree hash says without the bytes that they
 * are the file's: then the rest is not waited for.
 */
import { throwIfCanceled } from "../cluster/deadline.ts";
import type { PathEntry, UploadRequest } from "../drive/drive-api.ts";
import { requestIdReused } from "../metadata/requests.ts";
import { bytesEqual } from "../std/bytes.ts";
import type { Digester } from "../std/digest.ts";
import { TreeHasher } from "../std/tree-hasher.ts";
import { checkSoFar, checkWhole } from "./content-checks.ts";

/** A one-shot upload that comes again. */
export interface PutRepeat {
  readonly requestId: string;
  readonly request: Pick<UploadRequest, "sizeBytes" | "treeHash">;
  /** All chunks of the stream, in order: all but the last of CHUNK_SIZE_BYTES, none empty. */
  readonly chunks: AsyncIterable<Uint8Array>;
  readonly digester: Digester;
  readonly signal?: AbortSignal | undefined;
}

/**
 * The first answer again; `made` is what PutAttempts found to be asked for, as far as it can be told without the bytes.
 * @throws DriveError REQUEST_ID_REUSED when the bytes are others, PAYLOAD_TOO_LARGE and PAYLOAD_TRUNCATED when they are not as many
 *   as stated, CANCELED; the error of the stream
 */
export async function answerRepeat(made: PathEntry, repeat: PutRepeat): Promise<PathEntry> {
  const { request, requestId, digester, signal } = repeat;
  const { sizeBytes: madeBytes, treeHash } = made.entry;
  if (request.treeHash !== undefined && bytesEqual(request.treeHash, treeHash)) return made;
  const hasher = new TreeHasher();
  let sizeBytes = 0;
  for await (const chunk of repeat.chunks) {
    throwIfCanceled(signal);
    sizeBytes += chunk.length;
    checkSoFar(request.sizeBytes, sizeBytes);
    // The rest can make them no fewer.
    if (sizeBytes > madeBytes) throw requestIdReused(requestId);
    hasher.addLeaf(await digester.sha256(chunk));
  }
  checkWhole(request.sizeBytes, sizeBytes);
  if (sizeBytes === madeBytes && bytesEqual(hasher.root(), treeHash)) return made;
  throw requestIdReused(requestId);
}
