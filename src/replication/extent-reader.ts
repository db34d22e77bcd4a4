/**
 * Reads a range of an extent with fail-over in mid-stream: from the first copy that works, going on from another at the very
 * byte where one failed, unseen by the reader.
 *
 * Bytes are verified by the node that gives them before they leave it; what comes short or late counts as failed too. A copy
 * that is damaged or missing is reported, so that it is repaired. How much is read ahead, and how much all reads of a node hold
 * together, is bounded by read-window.ts.
 */
import { throwIfCanceled, unreachableError, withDeadline } from "../cluster/deadline.ts";
import type { FailureDetector } from "../cluster/failure-detector-port.ts";
import type { ExtentKey, ReplicaFinding } from "../drive/content.ts";
import { DriveError, hasReason } from "../drive/errors.ts";
import { sleep, type Clock } from "../std/clock.ts";
import { READ_NARROW_SIZE_BYTES, ReadWindow, type ReadBudget } from "./read-window.ts";
import type { ReplicaPorts } from "./replica-port.ts";
import { findingOf } from "./replica-reports.ts";

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
  readonly budget: ReadBudget;
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

/** One run of pieces that a member gives. */
interface Run {
  readonly pieces: AsyncIterator<Uint8Array>;
  /** Where its next piece begins, and where it ends, counted from the beginning of the request. */
  at: number;
  readonly end: number;
  readonly stop: () => void;
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
    const window = new ReadWindow(this.#options.clock, this.#options.budget, request.length);
    const pumping = this.#pump({ ...request, signal: ended.signal }, window).then(
      () => window.end(),
      (error: unknown) => window.end(error as Error),
    );
    try {
      yield* window.pieces();
    } finally {
      request.signal?.removeEventListener("abort", onAbort);
      ended.abort(new DriveError("CANCELED", "The reader has gone."));
      window.end();
      await pumping;
    }
  }

  async #pump(request: ReadRequest, window: ReadWindow): Promise<void> {
    /** How far reading has ever been: what is dropped and read again is no progress. */
    let furthest = 0;
    const failures: DriveError[] = [];
    for (let round = 0; round < READ_ROUND_COUNT_MAX;) {
      const before = furthest;
      for (const memberId of request.rankedMemberIds()) {
        throwIfCanceled(request.signal);
        const error = await this.#readFrom(memberId, request, window);
        furthest = Math.max(furthest, window.endBytes);
        if (error === undefined) return;
        failures.push(error);
      }
      // Rounds count only while nothing moves: a long read over flaky copies goes on as long as each round gets further.
      round = furthest > before ? 1 : round + 1;
      if (round < READ_ROUND_COUNT_MAX) await this.#pause(request.signal);
    }
    const { contentId, extentIndex } = request.extent;
    const offset = request.offset + window.endBytes;
    throw new DriveError(
      "CHUNK_LOST",
      `No copy of content ${contentId}, extent ${extentIndex} can give byte ${offset}.`,
      { content_id: String(contentId), extent_index: String(extentIndex), offset: String(offset) },
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

  /** Reads from one member as far as it goes; returns why it went no further, if so. */
  async #readFrom(
    memberId: number,
    request: ReadRequest,
    window: ReadWindow,
  ): Promise<DriveError | undefined> {
    let run: Run | undefined;
    const stopRun = (): void => {
      run?.stop();
      run = undefined;
    };
    request.signal?.addEventListener("abort", stopRun, { once: true });
    const { extent, length } = request;
    try {
      for (;;) {
        const granted = await window.grant(stopRun);
        if (granted === undefined) return undefined;
        const at = window.endBytes;
        const end = granted === "narrow" ? Math.min(length, narrowEnd(request.offset, at)) : length;
        if (run !== undefined && (run.at !== at || run.at === run.end || run.end > end)) stopRun();
        run ??= this.#startRun(memberId, request, at, end);
        const piece = await this.#next(memberId, run.pieces, request.signal);
        if (piece === undefined || at + piece.length > run.end) {
          throw new DriveError("CHUNK_CORRUPT", `Member ${memberId} sent another length than asked for.`);
        }
        run.at += piece.length;
        if (piece.length === 0) window.returnGrant();
        else window.put(at, piece);
      }
    } catch (error) {
      throwIfCanceled(request.signal);
      if (!(error instanceof DriveError) || hasReason(error, "CANCELED")) throw error;
      if (hasReason(error, "CHUNK_CORRUPT", "CHUNK_NOT_FOUND", "RANGE_NOT_SATISFIABLE")) {
        this.#options.onBadReplica(extent, memberId, findingOf(error));
      }
      if (hasReason(error, "PEER_UNREACHABLE")) this.#options.detector.report(memberId, "unreachable");
      return error;
    } finally {
      window.returnGrant();
      request.signal?.removeEventListener("abort", stopRun);
      stopRun();
    }
  }

  #startRun(memberId: number, { extent, offset }: ReadRequest, at: number, end: number): Run {
    const port = this.#options.ports.forMember(memberId);
    if (port === undefined) {
      throw new DriveError("PEER_UNREACHABLE", `The address of member ${memberId} is not known.`);
    }
    const stopped = new AbortController();
    const pieces = port.read(extent, offset + at, end - at, stopped.signal)[Symbol.asyncIterator]();
    return { pieces, at, end, stop: () => stopped.abort(new DriveError("CANCELED", "The read ended.")) };
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

/** Where a narrow piece from `at` on ends: at a multiple of its size in the extent, so that no block is read for two of them. */
function narrowEnd(offset: number, at: number): number {
  return at + READ_NARROW_SIZE_BYTES - ((offset + at) % READ_NARROW_SIZE_BYTES);
}
