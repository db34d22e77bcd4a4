/**
 * One-shot upload of a stream, of known or unknown length.
 *
 *   at most one chunk --> written and sealed on three nodes at once --> ONE command          (the small path)
 *   more, or no lease, or seals rejected --> an upload in the tree --> chunks --> complete   (the long path)
 *
 * Chunks are hashed beside being sent; the plain SHA-256 is computed as the bytes come, since here they come in order. When
 * the stream fails or is cut short nothing of it remains: the upload is aborted. Each attempt of a request has an upload of
 * its own, so an earlier one that is still running, perhaps at another node, can take nothing away from a later one. What
 * makes the file is one command under the request's id, whichever path and attempt it comes from: the first wins, and the
 * others get its answer.
 */
import { canceledError, throwIfCanceled } from "../cluster/deadline.ts";
import type { PathEntry, WriteOptions } from "../drive/drive-api.ts";
import type { Entry } from "../drive/entry.ts";
import { DriveError } from "../drive/errors.ts";
import { CHUNK_SIZE_BYTES, CONTENT_SIZE_BYTES_MAX } from "../drive/limits.ts";
import { bytesEqual } from "../std/bytes.ts";
import { deferred } from "../std/deferred.ts";
import { sha256, sha256Stream } from "../std/digest.ts";
import { toChunks } from "./chunker.ts";
import { EMPTY_TREE_HASH } from "./content-checks.ts";
import type { DataPlane } from "./data-plane.ts";
import { putIntent, type StoreRequest } from "./locators.ts";
import { SmallWriter, type SmallOutcome } from "./small-writer.ts";
import { commitIds, type UploadManager } from "./upload-manager.ts";
import { findAnsweredFile } from "./upload-record.ts";

/** Chunks of one stream hashed or on their way at once: covers 400 MiB/s at 40 ms; further bytes wait at the client. */
export const STREAM_CHUNK_COUNT_MAX = 16;

interface StreamPut {
  readonly request: StoreRequest;
  /** The request id is that of the command that makes the file, whichever path it takes. */
  readonly options: WriteOptions & { readonly requestId: string };
  /** The chunks, of which `head` were read already. */
  readonly head: readonly Uint8Array[];
  readonly rest: AsyncIterator<Uint8Array>;
}

/** Puts streams into the drive. */
export class FilePutter {
  readonly #plane: DataPlane;
  readonly #uploads: UploadManager;
  readonly #small: SmallWriter;

  constructor(plane: DataPlane, uploads: UploadManager) {
    this.#plane = plane;
    this.#uploads = uploads;
    this.#small = new SmallWriter(plane);
  }

  /** Uploads the stream. Errors: as DriveApi.putFile(). */
  async put(
    request: StoreRequest,
    body: AsyncIterable<Uint8Array>,
    options: WriteOptions = {},
  ): Promise<PathEntry> {
    const requestId = options.requestId ?? this.#plane.metadata.newRequestId();
    const rest = toChunks(body)[Symbol.asyncIterator]();
    try {
      const head: Uint8Array[] = [];
      // Whether the content is small shows after its first chunk and, when that is a whole one, at the next.
      while (head.length < 2) {
        throwIfCanceled(options.signal);
        const next = await rest.next();
        if (next.done === true) break;
        head.push(next.value);
        checkSoFar(request.sizeBytes, sizeOf(head));
        if (next.value.length < CHUNK_SIZE_BYTES) break;
      }
      const put: StreamPut = { request, options: { ...options, requestId }, head, rest };
      if (options.requestId !== undefined) {
        const answered = await this.#findAnswered(put);
        if (answered !== undefined) return answered;
      }
      if (head.length < 2) {
        const small = await this.#putSmall(put);
        if (small.outcome === "done") return small.file;
        // A rejection is remembered under the request id. The long path is told so and goes on to the next id of commitIds(),
        // as does every repeat, whether the small path is open to it or not.
      }
      return await this.#putLong(put);
    } finally {
      await rest.return?.();
    }
  }

  /** A repeat may come to a node where the other path is open, and would stumble over its own first success. */
  async #findAnswered(put: StreamPut): Promise<PathEntry | undefined> {
    const { request, options } = put;
    const { port } = this.#plane.metadata;
    await port.linearize({ signal: options.signal });
    for (const commitId of commitIds(options.requestId)) {
      const answered = findAnsweredFile(port.reader(), commitId, (entry) => {
        if (!mayBe(put, entry)) return undefined;
        const { sizeBytes, treeHash } = entry;
        const content = { memberId: 0, contentId: 0, sizeBytes, treeHash, seals: [] };
        const precondition = options.precondition ?? {};
        return { kind: "put-small", ...putIntent(request), precondition, ...content };
      });
      if (answered !== undefined) return answered;
    }
    return undefined;
  }

  #putSmall(put: StreamPut): Promise<SmallOutcome> {
    const [bytes] = put.head;
    checkWhole(put.request.sizeBytes, bytes?.length ?? 0);
    return this.#small.put(put.request, bytes, put.options);
  }

  async #putLong(put: StreamPut): Promise<PathEntry> {
    const { request, options } = put;
    const { signal, precondition, requestId } = options;
    const begun = await this.#init(put);
    if (typeof begun !== "number") return begun;
    const uploadId = begun;
    try {
      throwIfCanceled(signal);
      const sent = await this.#send(uploadId, put);
      checkWhole(request.sizeBytes, sent.sizeBytes);
      const settings = { ...sent, treeHash: request.treeHash, put: putIntent(request) };
      const file = await this.#uploads.complete(uploadId, settings, { signal, precondition, requestId });
      // Another attempt may have made the file. Where it is this upload after all, it is complete and no abort ends it.
      if (file.entry.contentId !== this.#uploads.findContentId(uploadId)) this.#abandon(uploadId);
      return file;
    } catch (error) {
      const reason = error instanceof DriveError ? error.reason : "INTERNAL";
      this.#plane.progress.find(String(uploadId))?.fail(reason);
      // Right after an unknown outcome too: of completing and aborting the tree does what comes first and refuses the other,
      // and does not hold that refusal against the next attempt.
      this.#abandon(uploadId);
      throw signal?.aborted === true ? canceledError(signal) : error;
    }
  }

  /**
   * Begins an upload for this attempt alone; or returns the file, when another attempt has made it meanwhile. A caller that
   * goes away does not end this: an upload whose id nobody learned could not be aborted, and would stay open until it expires.
   */
  async #init(put: StreamPut): Promise<number | PathEntry> {
    const { request, options } = put;
    const { precondition } = options;
    // Not told the tree hash, the tree takes no shortcut to equal bytes: those that come here are the ones that count.
    const toStore = { ...request, treeHash: undefined };
    const requestId = this.#plane.metadata.newRequestId();
    const begin = async (): Promise<number> =>
      (await this.#uploads.init(toStore, { precondition, requestId })).uploadId;
    try {
      return await begin();
    } catch (error) {
      if (!(error instanceof DriveError)) throw error;
      if (error.spec.outcome === "definite") {
        // The name may be taken by this very request.
        const answered = await this.#findAnswered(put);
        if (answered !== undefined) return answered;
      } else {
        // It may have begun, and nobody else asks for it: the same request says which upload it is.
        this.#plane.chores.run(async () => this.#uploads.abort(await begin()));
      }
      throw error;
    }
  }

  /** Sends all chunks, a bounded number at once; resolves when each was accepted. */
  async #send(
    uploadId: number,
    put: StreamPut,
  ): Promise<{ readonly sizeBytes: number; readonly sha256: Uint8Array }> {
    const plain = sha256Stream();
    const underWay = new Set<Promise<void>>();
    let failure: unknown;
    let sizeBytes = 0;
    let moved = deferred<void>();
    let chunkIndex = 0;
    try {
      for await (const bytes of continued(put)) {
        throwIfCanceled(put.options.signal);
        checkSoFar(put.request.sizeBytes, sizeBytes + bytes.length);
        plain.update(bytes);
        const sent = this.#uploads.writeStreamChunk(uploadId, chunkIndex, bytes, put.options.signal).then(
          () => undefined,
          (error: unknown) => {
            failure ??= error;
          },
        );
        const tracked = sent.finally(() => {
          underWay.delete(tracked);
          moved.resolve();
        });
        underWay.add(tracked);
        sizeBytes += bytes.length;
        chunkIndex += 1;
        while (underWay.size >= STREAM_CHUNK_COUNT_MAX) {
          await moved.promise;
          moved = deferred<void>();
        }
        if (failure !== undefined) throw failure;
      }
    } finally {
      await Promise.all(underWay);
    }
    if (failure !== undefined) throw failure;
    return { sizeBytes, sha256: plain.digest() };
  }

  #abandon(uploadId: number): void {
    this.#plane.chores.run(() => this.#uploads.abort(uploadId));
  }
}

/** Whether the stream, as far as it was read and described, has the bytes of the file. Those of a long one come only later. */
function mayBe({ request, head }: StreamPut, entry: Entry): boolean {
  if (request.sizeBytes !== undefined && request.sizeBytes !== entry.sizeBytes) return false;
  if (request.treeHash !== undefined && !bytesEqual(request.treeHash, entry.treeHash)) return false;
  if (head.length >= 2) return sizeOf(head) <= entry.sizeBytes;
  const [bytes] = head;
  const treeHash = bytes === undefined ? EMPTY_TREE_HASH : sha256(bytes);
  return sizeOf(head) === entry.sizeBytes && bytesEqual(treeHash, entry.treeHash);
}

async function* continued(put: StreamPut): AsyncGenerator<Uint8Array, void, undefined> {
  yield* put.head;
  for (;;) {
    const next = await put.rest.next();
    if (next.done === true) return;
    yield next.value;
  }
}

function sizeOf(chunks: readonly Uint8Array[]): number {
  return chunks.reduce((sum, chunk) => sum + chunk.length, 0);
}

function checkSoFar(stated: number | undefined, sizeBytes: number): void {
  const max = stated ?? CONTENT_SIZE_BYTES_MAX;
  if (sizeBytes <= max) return;
  throw new DriveError("PAYLOAD_TOO_LARGE", `More than ${max} bytes came.`, { size_bytes_max: String(max) });
}

function checkWhole(stated: number | undefined, sizeBytes: number): void {
  if (stated === undefined || sizeBytes === stated) return;
  throw new DriveError("PAYLOAD_TRUNCATED", `Only ${sizeBytes} of ${stated} bytes came.`, {
    size_bytes: String(sizeBytes),
    stated_size_bytes: String(stated),
  });
}
