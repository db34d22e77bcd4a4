/**
 * Reads a range of an extent with fail-over in mid-stream: from the first copy that works, going on from another at the very
 * byte where one failed, unseen by the reader.
 *
 * Bytes are verified by the node that gives them before they leave it; what comes short or late counts as failed too. A copy
 * that is damaged or missing is reported, so that it is repaired. Reads ahead by READ_AHEAD_CHUNK_COUNT pieces and no more.
 */
import { throwIfCanceled, unreachableError, withDeadline } from "../cluster/deadline.ts";
import type { FailureDetector } from "../cluster/failure-detector-port.ts";
import type { ExtentKey, ReplicaFinding } from "../drive/content.ts";
import { DriveError, hasReason } from "../drive/errors.ts";
import { BoundedQueue } from "../std/bounded-queue.ts";
import { sleep, type Clock } from "../std/clock.ts";
import type { ReplicaPorts } from "./replica-port.ts";
import { findingOf } from "./replica-reports.ts";

/** Pieces (of at most a chunk) read before the consumer asked: hides one round trip, at 4 MiB a download. */
export const READ_AHEAD_CHUNK_COUNT = 4;
/** A source that gives no piece for this long has failed; its peers are asked instead. */
export const READ_STALL_TIMEOUT_MS = 5_000;
/** Rounds over all copies before CHUNK_LOST: a second one for peers that were restarting. */
export const READ_ROUND_COUNT_MAX = 2;
/** Pause between rounds. */
export const READ_ROUND_WAIT_MS = 500;

/** What an ExtentReader needs. */
export interface ExtentReaderOptions {
  readonly clock: Clock;
  readonly ports: ReplicaPorts;
  readonly detector: FailureDetector;
  /** Told of a copy that was found damaged or missing. */
  readonly onBadReplica: (extent: ExtentKey, memberId: number, finding: ReplicaFinding) => void;
}

/** A range of one extent and where to read it. */
export interface ReadRequest {
  readonly extent: ExtentKey;
  /** Within the extent. */
  readonly offset: number;
  readonly length: number;
  /** Members with copies, best first; asked again for each round. */
  readonly rankedMemberIds: () => readonly number[];
  readonly signal?: AbortSignal | undefined;
}

/** Reads extents. */
export class ExtentReader {
  readonly #options: ExtentReaderOptions;

  constructor(options: ExtentReaderOptions) {
    this.#options = options;
  }

  /**
   * The bytes of the range, in pieces that end at chunk boundaries. Ending the iteration early stops the reading.
   * @throws DriveError CHUNK_LOST when no copy can give the next byte; CANCELED
   */
  async *read(request: ReadRequest): AsyncGenerator<Uint8Array, void, undefined> {
    const ended = new AbortController();
    const onAbort = (): void => ended.abort(request.signal?.reason);
    if (request.signal?.aborted === true) onAbort();
    request.signal?.addEventListener("abort", onAbort, { once: true });
    const queue = new BoundedQueue<Uint8Array>(READ_AHEAD_CHUNK_COUNT);
    const pumping = this.#pump({ ...request, signal: ended.signal }, queue).then(
      () => queue.end(),
      (error: unknown) => queue.end(error as Error),
    );
    try {
      yield* queue;
    } finally {
      request.signal?.removeEventListener("abort", onAbort);
      ended.abort(new DriveError("CANCELED", "The reader has gone."));
      queue.end();
      await pumping;
    }
  }

  async #pump(request: ReadRequest, queue: BoundedQueue<Uint8Array>): Promise<void> {
    let done = 0;
    const failures: DriveError[] = [];
    for (let round = 0; round < READ_ROUND_COUNT_MAX;) {
      const before = done;
      for (const memberId of request.rankedMemberIds()) {
        throwIfCanceled(request.signal);
        const rest = { ...request, offset: request.offset + done, length: request.length - done };
        const outcome = await this.#readFrom(memberId, rest, queue);
        done += outcome.readBytes;
        if (outcome.error === undefined) return;
        failures.push(outcome.error);
      }
      // Rounds count only while nothing moves: a long read over flaky copies goes on as long as each round gets further.
      round = done > before ? 1 : round + 1;
      if (round < READ_ROUND_COUNT_MAX) await this.#pause(request.signal);
    }
    const { contentId, extentIndex } = request.extent;
    throw new DriveError(
      "CHUNK_LOST",
      `No copy of content ${contentId}, extent ${extentIndex} can give byte ${request.offset + done}.`,
      {
        content_id: String(contentId),
        extent_index: String(extentIndex),
        offset: String(request.offset + done),
      },
      failures[failures.length - 1],
    );
  }

  async #pause(signal: AbortSignal | undefined): Promise<void> {
    try {
      await sleep(this.#options.clock, READ_ROUND_WAIT_MS, signal);
    } catch (error) {
      throwIfCanceled(signal);
      throw error;
    }
  }

  /** Reads from one member as far as it goes. */
  async #readFrom(
    memberId: number,
    request: ReadRequest,
    queue: BoundedQueue<Uint8Array>,
  ): Promise<{ readonly readBytes: number; readonly error: DriveError | undefined }> {
    let readBytes = 0;
    const stopped = new AbortController();
    const onAbort = (): void => stopped.abort(request.signal?.reason);
    request.signal?.addEventListener("abort", onAbort, { once: true });
    const { extent, offset, length } = request;
    try {
      const port = this.#options.ports.forMember(memberId);
      if (port === undefined) {
        throw new DriveError("PEER_UNREACHABLE", `The address of member ${memberId} is not known.`);
      }
      const pieces = port.read(extent, offset, length, stopped.signal)[Symbol.asyncIterator]();
      while (readBytes < length) {
        const piece = await this.#next(memberId, pieces, request.signal);
        if (piece === undefined || readBytes + piece.length > length) {
          throw new DriveError("CHUNK_CORRUPT", `Member ${memberId} sent another length than asked for.`);
        }
        if (piece.length === 0) continue;
        if (!(await queue.push(piece))) throw new DriveError("CANCELED", "The reader has gone.");
        readBytes += piece.length;
      }
      return { readBytes, error: undefined };
    } catch (error) {
      throwIfCanceled(request.signal);
      if (!(error instanceof DriveError) || hasReason(error, "CANCELED")) throw error;
      if (hasReason(error, "CHUNK_CORRUPT", "CHUNK_NOT_FOUND", "RANGE_NOT_SATISFIABLE")) {
        this.#options.onBadReplica(extent, memberId, findingOf(error));
      }
      if (hasReason(error, "PEER_UNREACHABLE")) this.#options.detector.report(memberId, "unreachable");
      return { readBytes, error };
    } finally {
      request.signal?.removeEventListener("abort", onAbort);
      stopped.abort(new DriveError("CANCELED", "The read ended."));
    }
  }

  async #next(
    memberId: number,
    pieces: AsyncIterator<Uint8Array>,
    signal: AbortSignal | undefined,
  ): Promise<Uint8Array | undefined> {
    const onTimeout = () => unreachableError(memberId, "a read", READ_STALL_TIMEOUT_MS);
    const { clock } = this.#options;
    const result = await withDeadline({ clock, timeoutMs: READ_STALL_TIMEOUT_MS, signal, onTimeout }, () =>
      pieces.next(),
    );
    return result.done === true ? undefined : result.value;
  }
}
