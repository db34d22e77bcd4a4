/**
 * One open stream of one upload to one node.
 *
 *   send(chunk) --> on its way already, the same bytes --> waits for the same answer
 *               --> else a frame --> the node --> the answer, found by the chunk's index
 *
 * An answer names its chunk by index alone, so one index is under way at most once. Each sender waits CHUNK_TIMEOUT_MS and then
 * gives up for itself; the stream ends for all only when the node acknowledged nothing while it waited.
 */
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { UploadRequestSchema, UploadResponse } from "../../gen/netdisk/v1/chunk_service_pb.ts";
import { toBigint, toNumber } from "../contract/codec.ts";
import { DriveError } from "../drive/errors.ts";
import { CHUNK_SIZE_BYTES } from "../drive/limits.ts";
import { bytesEqual } from "../std/bytes.ts";
import { BoundedQueue } from "../std/bounded-queue.ts";
import type { Clock, Timer } from "../std/clock.ts";
import { deferred, type Deferred } from "../std/deferred.ts";
import type { NodeClients } from "./failover.ts";
import { UPLOAD_CHUNKS_INFLIGHT_MAX } from "./limits.ts";

/** How long a sender waits for the acknowledgement of its chunk, and a stream for any at all. */
export const CHUNK_TIMEOUT_MS = 30_000;

/** A stream that nobody waits for is closed after this. */
export const IDLE_TIMEOUT_MS = 10_000;

/** Chunks that may wait for the stream; more callers wait outside. */
export const WAITING_MAX = 4 * UPLOAD_CHUNKS_INFLIGHT_MAX;

type UploadFrame = MessageInitShape<typeof UploadRequestSchema>;

/** A chunk to send. */
export interface OutgoingChunk {
  readonly chunkIndex: number;
  readonly bytes: Uint8Array;
  readonly digest: Uint8Array | undefined;
}

/** What a stream needs of its node. */
export interface UploadTarget {
  readonly address: string;
  readonly chunks: Pick<NodeClients["chunks"], "upload">;
}

/** A chunk that the node has not answered. It stays when all its senders gave up: its answer may still come. */
interface Unanswered {
  readonly chunk: OutgoingChunk;
  readonly answer: Deferred<UploadResponse>;
}

/** A stream; open from its making until close(), an error, or a time of rest. */
export class UploadStream {
  readonly address: string;
  readonly #uploadId: number;
  readonly #clock: Clock;
  readonly #frames = new BoundedQueue<UploadFrame>(WAITING_MAX);
  readonly #unanswered = new Map<number, Unanswered>();
  readonly #abort = new AbortController();
  #senderCount = 0;
  #answerCount = 0;
  readonly #onClosed: ((stream: UploadStream) => void) | undefined;
  #idle: Timer | undefined;
  #ended = false;
  #unansweredAtEnd = 0;

  /**
   * Opens the stream.
   * @param onClosed called with this when it takes no more chunks; perhaps more than once, or before the constructor returns
   */
  constructor(
    target: UploadTarget,
    uploadId: number,
    clock: Clock,
    onClosed?: (stream: UploadStream) => void,
  ) {
    this.address = target.address;
    this.#uploadId = uploadId;
    this.#clock = clock;
    this.#onClosed = onClosed;
    void this.#run(target);
  }

  /** Whether chunks can be sent. */
  get open(): boolean {
    return !this.#ended;
  }

  /** Whether at most one chunk was unanswered when the stream failed, so that the error is about that one. */
  get failedAlone(): boolean {
    return this.#unansweredAtEnd <= 1;
  }

  /** Whether send() can tell the answer to `chunk` from others: false while its index is under way with other bytes. */
  takes({ chunkIndex, bytes, digest }: OutgoingChunk): boolean {
    const known = this.#unanswered.get(chunkIndex)?.chunk;
    return known === undefined || (sameBytes(known.digest, digest) && sameBytes(known.bytes, bytes));
  }

  /**
   * Sends a chunk that the stream takes(), or waits for the answer to the same one under way.
   * @throws DriveError what the node answered to this or another chunk; PEER_UNREACHABLE when it did not within
   *   CHUNK_TIMEOUT_MS; OVERLOADED when WAITING_MAX chunks wait
   */
  async send(chunk: OutgoingChunk): Promise<UploadResponse> {
    const { answer } = this.#unanswered.get(chunk.chunkIndex) ?? this.#offer(chunk);
    const own = deferred<UploadResponse>();
    answer.promise.then(
      (response) => own.resolve(response),
      (error: unknown) => own.reject(error as Error),
    );
    const countBefore = this.#answerCount;
    const timer = this.#clock.setTimer(CHUNK_TIMEOUT_MS, () => this.#late(own, countBefore));
    this.#idle?.cancel();
    this.#senderCount += 1;
    try {
      return await own.promise;
    } finally {
      timer.cancel();
      this.#senderCount -= 1;
      if (this.#senderCount === 0) this.#rest();
    }
  }

  /** Closes the stream once what was sent is acknowledged. */
  close(): void {
    this.#ended = true;
    this.#onClosed?.(this);
    this.#idle?.cancel();
    this.#frames.end();
    // What nobody waits for is not worth a stream that stays.
    if (this.#senderCount === 0 && this.#unanswered.size > 0) {
      this.#end(lost(this.address, "was given up"));
    }
  }

  #offer(chunk: OutgoingChunk): Unanswered {
    const { chunkIndex, bytes, digest } = chunk;
    const frame = {
      uploadId: toBigint(this.#uploadId),
      offset: toBigint(chunkIndex * CHUNK_SIZE_BYTES),
      data: bytes,
      finish: true,
      ...(digest !== undefined && { digest }),
    };
    if (!this.#frames.offer(frame)) {
      throw new DriveError("OVERLOADED", "Too many chunks wait for one stream.");
    }
    const unanswered = { chunk, answer: deferred<UploadResponse>() };
    this.#unanswered.set(chunkIndex, unanswered);
    return unanswered;
  }

  /**
   * A sender has waited long enough: the node is given up if it acknowledged nothing meanwhile, else this chunk alone. Counted, and
   * not told by times: a timer may fire a moment early, and a silent node would pass for one that answered.
   */
  #late(own: Deferred<UploadResponse>, countBefore: number): void {
    const error = lost(this.address, "does not acknowledge a chunk");
    if (this.#answerCount === countBefore) this.#end(error);
    own.reject(error);
  }

  #rest(): void {
    if (this.#ended) this.close();
    else this.#idle = this.#clock.setTimer(IDLE_TIMEOUT_MS, () => this.close());
  }

  async #run(target: UploadTarget): Promise<void> {
    let error: unknown = lost(this.address, "ended the stream");
    try {
      const options = { signal: this.#abort.signal, lostReason: "PEER_UNREACHABLE" as const };
      for await (const answer of target.chunks.upload(this.#frames, options)) {
        const chunkIndex = toNumber(answer.chunkIndex, "chunk_index");
        this.#answerCount += 1;
        const unanswered = this.#unanswered.get(chunkIndex);
        this.#unanswered.delete(chunkIndex);
        unanswered?.answer.resolve(answer);
      }
    } catch (thrown) {
      error = thrown;
    }
    this.#end(error as Error);
  }

  #end(error: Error): void {
    const unanswered = [...this.#unanswered.values()];
    this.#unanswered.clear();
    this.#unansweredAtEnd = Math.max(this.#unansweredAtEnd, unanswered.length);
    this.close();
    this.#abort.abort(error);
    for (const { answer } of unanswered) answer.reject(error);
  }
}

function sameBytes(a: Uint8Array | undefined, b: Uint8Array | undefined): boolean {
  return a === b || (a !== undefined && b !== undefined && bytesEqual(a, b));
}

function lost(address: string, what: string): DriveError {
  return new DriveError("PEER_UNREACHABLE", `The node at ${address} ${what}.`, { address });
}
