/**
 * Chunks of one upload sent over a shared stream, from the side of a client outside the cluster.
 *
 * The stream is opened by the first chunk and again at another node after a break: the chunks that were not acknowledged are
 * sent again, which is harmless. An error about one chunk ends the stream for all; each of those then goes over a stream of its own, so
 * that everyone gets the error that is theirs. So does a chunk whose index is under way with other bytes.
 */
import type { UploadResponse } from "../../gen/netdisk/v1/chunk_service_pb.ts";
import type { ChunkReceipt } from "../drive/drive-api.ts";
import { DriveError } from "../drive/errors.ts";
import { judge, type Failover, type NodeClients } from "./failover.ts";
import { UploadStream, type OutgoingChunk } from "./upload-stream.ts";

/** Streams by upload; one that closed, after an error or a time of rest, is dropped. */
export class RemoteUploads {
  readonly #failover: Failover;
  readonly #streams = new Map<number, UploadStream>();

  constructor(failover: Failover) {
    this.#failover = failover;
  }

  /** Uploads that have an open stream. */
  get streamCount(): number {
    return this.#streams.size;
  }

  /** Sends one chunk; resolves when it is acknowledged. Fails over between nodes. */
  send(uploadId: number, chunk: OutgoingChunk, signal: AbortSignal | undefined): Promise<ChunkReceipt> {
    return this.#failover.run(signal, async (node) => {
      const answer = await this.#sendOnce(node, uploadId, chunk, signal);
      return { chunkIndex: chunk.chunkIndex, digest: answer.digest, replicaCount: answer.replicaCount };
    });
  }

  async #sendOnce(
    node: NodeClients,
    uploadId: number,
    chunk: OutgoingChunk,
    signal: AbortSignal | undefined,
  ): Promise<UploadResponse> {
    const shared = this.#shared(node, uploadId);
    if (!shared.takes(chunk)) return this.#sendAlone(node, uploadId, chunk, signal);
    try {
      return await abortable(shared.send(chunk), signal);
    } catch (error) {
      if (shared.failedAlone || judge(error, signal) !== "final" || signal?.aborted === true) throw error;
      return this.#sendAlone(node, uploadId, chunk, signal);
    }
  }

  #sendAlone(
    node: NodeClients,
    uploadId: number,
    chunk: OutgoingChunk,
    signal: AbortSignal | undefined,
  ): Promise<UploadResponse> {
    const own = new UploadStream(node, uploadId, this.#failover.clock);
    return abortable(own.send(chunk), signal).finally(() => own.close());
  }

  #shared(node: NodeClients, uploadId: number): UploadStream {
    const known = this.#streams.get(uploadId);
    if (known?.open === true && known.address === node.address) return known;
    known?.close();
    const stream = new UploadStream(node, uploadId, this.#failover.clock, (closed) => {
      if (this.#streams.get(uploadId) === closed) this.#streams.delete(uploadId);
    });
    if (stream.open) this.#streams.set(uploadId, stream);
    return stream;
  }

  /** The upload is over: its stream is closed. */
  forget(uploadId: number): void {
    this.#streams.get(uploadId)?.close();
    this.#streams.delete(uploadId);
  }

  /** Closes every stream. */
  close(): void {
    for (const stream of this.#streams.values()) stream.close();
    this.#streams.clear();
  }
}

/** Rejects with CANCELED as soon as the signal aborts; the work itself goes on. */
export function abortable<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return work;
  const canceled = (): DriveError => new DriveError("CANCELED", "The caller gave up.", {}, signal.reason);
  return new Promise((resolve, reject) => {
    const onAbort = (): void => reject(canceled());
    if (signal.aborted) onAbort();
    signal.addEventListener("abort", onAbort, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener("abort", onAbort));
  });
}
