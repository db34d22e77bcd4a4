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
 * others get its answer when their bytes are the same.
 */
import { canceledError, throwIfCanceled } from "../cluster/deadline.ts";
import type { PathEntry, UploadTicket, WriteOptions } from "../drive/drive-api.ts";
import { DriveError } from "../drive/errors.ts";
import { CHUNK_SIZE_BYTES } from "../drive/limits.ts";
import { checkRequestId } from "../metadata/requests.ts";
import { deferred } from "../std/deferred.ts";
import { sha256Stream } from "../std/digest.ts";
import { toChunks } from "./chunker.ts";
import { checkSoFar, checkWhole } from "./content-checks.ts";
import type { DataPlane } from "./data-plane.ts";
import type { StoreRequest } from "./locators.ts";
import { withMediaType } from "./media-type.ts";
import { PutAttempts, type PutAsked } from "./put-attempts.ts";
import { answerRepeat } from "./put-repeat.ts";
import { SmallWriter, type SmallOutcome } from "./small-writer.ts";
import type { UploadManager } from "./upload-manager.ts";

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
  readonly #attempts: PutAttempts;
  readonly #small: SmallWriter;

  constructor(plane: DataPlane, uploads: UploadManager, attempts = new PutAttempts(plane, uploads)) {
    this.#plane = plane;
    this.#uploads = uploads;
    this.#attempts = attempts;
    this.#small = new SmallWriter(plane);
  }

  /** Uploads the stream. Errors: as DriveApi.putFile(); ARGUMENT_INVALID, before anything is read, for a request id that is none. */
  async put(
    request: StoreRequest,
    body: AsyncIterable<Uint8Array>,
    options: WriteOptions = {},
  ): Promise<PathEntry> {
    const requestId = options.requestId ?? this.#plane.metadata.newRequestId();
    checkRequestId(requestId);
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
      const asked: StreamPut = { request, options: { ...options, requestId }, head, rest };
      if (options.requestId !== undefined) {
        const answered = await this.#attempts.findAnswered(askedOf(asked));
        if (answered !== undefined) return await this.#answerAgain(answered, asked);
      }
      const put = { ...asked, request: withMediaType(request, this.#plane.metadata.port.reader()) };
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

  #answerAgain(made: PathEntry, put: StreamPut): Promise<PathEntry> {
    const { requestId, signal } = put.options;
    const { digester } = this.#plane;
    return answerRepeat(made, { requestId, request: put.request, chunks: continued(put), digester, signal });
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
    if (typeof begun !== "number") return this.#answerAgain(begun, put);
    const uploadId = begun;
    try {
      throwIfCanceled(signal);
      const sent = await this.#send(uploadId, put);
      checkWhole(request.sizeBytes, sent.sizeBytes);
      const settings = { ...sent, put: request };
      return await this.#uploads.complete(uploadId, settings, { signal, precondition, requestId });
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
    const initId = this.#plane.metadata.newRequestId();
    const begin = (): Promise<UploadTicket | PathEntry> => this.#attempts.begin(askedOf(put), initId);
    try {
      const begun = await begin();
      return "uploadId" in begun ? begun.uploadId : begun;
    } catch (error) {
      if (error instanceof DriveError && error.spec.outcome !== "definite") {
        // It may have begun, and nobody else asks for it: the same request says which upload it is.
        this.#plane.chores.run(async () => {
          const begun = await begin();
          if ("uploadId" in begun) await this.#uploads.abort(begun.uploadId);
        });
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

function askedOf(put: StreamPut): PutAsked {
  return { request: put.request, options: put.options, sizeBytesMin: sizeOf(put.head) };
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
