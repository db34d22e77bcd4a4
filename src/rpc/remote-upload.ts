/**
 * Chunks of one upload sent over a shared stream, from the side of a client outside the cluster.
 *
 * The stream is opened by the first chunk and again at another node after a break: the chunks that were not acknowledged are
 * sent again, which is harmless. An error about one chunk ends the stream for all; each of those then goes over a stream of its own, so
 * that everyone gets the error that is theirs.
 */
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { UploadRequestSchema, UploadResponse } from "../../gen/netdisk/v1/chunk_service_pb.ts";
import type { ChunkReceipt } from "../drive/drive-api.ts";
import { DriveError } from "../drive/errors.ts";
import { CHUNK_SIZE_BYTES } from "../drive/limits.ts";
import { BoundedQueue } from "../std/bounded-queue.ts";
import type { Timer } from "../std/clock.ts";
import { deferred, type Deferred } from "../std/deferred.ts";
import { toBigint, toNumber } from "../contract/codec.ts";
import { judge, type Failover, type NodeClients } from "./failover.ts";
import { UPLOAD_CHUNKS_INFLIGHT_MAX } from "./limits.ts";

/** How long one chunk may stay unacknowledged before the node is given up. */
const CHUNK_TIMEOUT_MS = 30_000;

/** An idle stream is closed after this. */
const IDLE_TIMEOUT_MS = 10_000;

/** Chunks that may wait for the stream; more callers wait outside. */
const WAITING_MAX = 4 * UPLOAD_CHUNKS_INFLIGHT_MAX;

type UploadFrame = MessageInitShape<typeof UploadRequestSchema>;

/** A chunk to send. */
export interface OutgoingChunk {
  readonly chunkIndex: number;
  readonly bytes: Uint8Array;
  readonly digest: Uint8Array | undefined;
}

/** One open stream of one upload. */
class UploadStream {
  readonly address: string;
  readonly #uploadId: number;
  readonly #failover: Failover;
  readonly #frames = new BoundedQueue<UploadFrame>(WAITING_MAX);
  readonly #waiting = new Map<number, Deferred<UploadResponse>>();
  readonly #abort = new AbortController();
  #idle: Timer | undefined;
  #ended = false;
  #waitingAtEnd = 0;

  constructor(node: NodeClients, uploadId: number, failover: Failover) {
    this.address = node.address;
    this.#uploadId = uploadId;
    this.#failover = failover;
    void this.#run(node);
  }

  get open(): boolean {
    return !this.#ended;
  }

  /** Whether at most one chunk was waiting when the stream failed, so that the error is about that one. */
  get failedAlone(): boolean {
    return this.#waitingAtEnd <= 1;
  }

  async send(chunk: OutgoingChunk): Promise<UploadResponse> {
    const { chunkIndex, bytes, digest } = chunk;
    const answer = deferred<UploadResponse>();
    this.#waiting.set(chunkIndex, answer);
    this.#idle?.cancel();
    const late = (): void => this.#end(lost(this.address, "does not acknowledge a chunk"));
    const timer = this.#failover.clock.setTimer(CHUNK_TIMEOUT_MS, late);
    const frame = {
      uploadId: toBigint(this.#uploadId),
      offset: toBigint(chunkIndex * CHUNK_SIZE_BYTES),
      data: bytes,
      finish: true,
      ...(digest !== undefined && { digest }),
    };
    try {
      if (!this.#frames.offer(frame))
        throw new DriveError("OVERLOADED", "Too many chunks wait for one stream.");
      return await answer.promise;
    } finally {
      timer.cancel();
      if (this.#waiting.get(chunkIndex) === answer) this.#waiting.delete(chunkIndex);
      if (this.#waiting.size === 0) {
        this.#idle = this.#failover.clock.setTimer(IDLE_TIMEOUT_MS, () => this.close());
      }
    }
  }

  /** Closes the stream once what was sent is acknowledged. */
  close(): void {
    this.#ended = true;
    this.#idle?.cancel();
    this.#frames.end();
  }

  async #run(node: NodeClients): Promise<void> {
    let error: unknown = lost(this.address, "ended the stream");
    try {
      const options = { signal: this.#abort.signal, lostReason: "PEER_UNREACHABLE" as const };
      for await (const answer of node.chunks.upload(this.#frames, options)) {
        this.#waiting.get(toNumber(answer.chunkIndex, "chunk_index"))?.resolve(answer);
      }
    } catch (thrown) {
      error = thrown;
    }
    this.#end(error as Error);
  }

  #end(error: Error): void {
    this.close();
    this.#abort.abort(error);
    this.#waitingAtEnd = Math.max(this.#waitingAtEnd, this.#waiting.size);
    for (const answer of this.#waiting.values()) answer.reject(error);
  }
}

function lost(address: string, what: string): DriveError {
  return new DriveError("PEER_UNREACHABLE", `The node at ${address} ${what}.`, { address });
}

/** Streams by upload. */
export class RemoteUploads {
  readonly #failover: Failover;
  readonly #streams = new Map<number, UploadStream>();

  constructor(failover: Failover) {
    this.#failover = failover;
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
    try {
      return await abortable(shared.send(chunk), signal);
    } catch (error) {
      if (shared.failedAlone || judge(error, signal) !== "final" || signal?.aborted === true) throw error;
      const own = new UploadStream(node, uploadId, this.#failover);
      return await abortable(own.send(chunk), signal).finally(() => own.close());
    }
  }

  #shared(node: NodeClients, uploadId: number): UploadStream {
    const known = this.#streams.get(uploadId);
    if (known?.open === true && known.address === node.address) return known;
    known?.close();
    const stream = new UploadStream(node, uploadId, this.#failover);
    this.#streams.set(uploadId, stream);
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
function abortable<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return work;
  const canceled = (): DriveError => new DriveError("CANCELED", "The caller gave up.", {}, signal.reason);
  return new Promise((resolve, reject) => {
    const onAbort = (): void => reject(canceled());
    if (signal.aborted) onAbort();
    signal.addEventListener("abort", onAbort, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener("abort", onAbort));
  });
}
