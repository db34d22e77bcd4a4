/**
 * Many requests in flight on one bidirectional stream, matched to their answers by correlation ids. Requests that come together
 * share a message, which costs a fraction of one for each.
 *
 * The stream is opened by the first request and again after it broke. When it cannot be opened its requests fail with that
 * error: nothing was sent. When it breaks later they fail as lost. Bounds: count and bytes in flight; more wait.
 */
import { DriveError, type ErrorReason } from "../drive/errors.ts";
import type { Clock, Timer } from "../std/clock.ts";
import { deferred, type Deferred } from "../std/deferred.ts";
import { Semaphore } from "../std/semaphore.ts";
import { BatchQueue } from "./batch-queue.ts";
import { BATCH_SIZE_BYTES_MAX } from "./limits.ts";

/** A request that carries a correlation id. */
export interface Correlated {
  readonly correlationId: bigint;
}

/** Settings of a Pipeline. */
export interface PipelineOptions<Request extends Correlated, Answer extends Correlated, Message> {
  readonly clock: Clock;
  /**
   * Opens the stream once it is certain to reach the peer. May reject with PEER_UNREACHABLE: nothing was sent.
   */
  readonly open: (
    requests: AsyncIterable<readonly Request[]>,
    signal: AbortSignal,
  ) => Promise<AsyncIterable<Message>> | AsyncIterable<Message>;
  /** The answers in one message of the peer. */
  readonly answersOf: (message: Message) => readonly Answer[];
  /** Requests in one message at most. */
  readonly batchCountMax: number;
  readonly inflightMax: number;
  readonly inflightBytesMax: number;
  /** Reason of a request that was handed to a stream which then broke, or that was not answered in time. */
  readonly lostReason: ErrorReason;
  /** For messages: whom the stream leads to. */
  readonly peer: string;
}

interface Pending<Answer> {
  readonly answer: Deferred<Answer>;
  timer: Timer;
}

interface Sized<Request> {
  readonly request: Request;
  readonly sizeBytes: number;
}

/** One stream's life. */
interface Session<Request, Answer> {
  readonly requests: BatchQueue<Sized<Request>>;
  readonly pending: Map<bigint, Pending<Answer>>;
  readonly abort: AbortController;
}

/** Options of one request. */
export interface PipelineCall {
  /** Bytes it holds in memory, at least 1. */
  readonly sizeBytes: number;
  readonly timeoutMs: number;
  readonly signal?: AbortSignal | undefined;
}

/** Requests over one shared stream. */
export class Pipeline<Request extends Correlated, Answer extends Correlated, Message> {
  readonly #options: PipelineOptions<Request, Answer, Message>;
  readonly #slots: Semaphore;
  readonly #bytes: Semaphore;
  #session: Session<Request, Answer> | undefined;
  #lastId = 0n;
  #stopped = false;

  constructor(options: PipelineOptions<Request, Answer, Message>) {
    this.#options = options;
    this.#slots = new Semaphore(options.inflightMax);
    this.#bytes = new Semaphore(options.inflightBytesMax);
  }

  /**
   * Sends what `make` builds with the given id and resolves to its answer.
   * @throws DriveError PEER_UNREACHABLE when it was not sent, the lost reason when it may have arrived, CANCELED by the signal
   */
  async request(make: (correlationId: bigint) => Request, call: PipelineCall): Promise<Answer> {
    const bytes = Math.max(1, Math.min(call.sizeBytes, this.#options.inflightBytesMax));
    call.signal?.throwIfAborted();
    if (!this.#slots.tryAcquire(1)) await this.#slots.acquire(1, call.signal);
    try {
      if (!this.#bytes.tryAcquire(bytes)) await this.#bytes.acquire(bytes, call.signal);
      try {
        return await this.#exchange(make, call);
      } finally {
        this.#bytes.release(bytes);
      }
    } finally {
      this.#slots.release(1);
    }
  }

  /** Ends the stream; requests in flight fail, later ones too. Idempotent. */
  stop(): void {
    this.#stopped = true;
    const error = new DriveError("NODE_STOPPING", "The connection is closed.");
    if (this.#session !== undefined) this.#end(this.#session, error);
  }

  async #exchange(make: (correlationId: bigint) => Request, call: PipelineCall): Promise<Answer> {
    if (this.#stopped) throw new DriveError("NODE_STOPPING", "The connection is closed.");
    const session = (this.#session ??= this.#start());
    this.#lastId += 1n;
    const id = this.#lastId;
    const answer = deferred<Answer>();
    const late = (): void => {
      // A peer that does not answer one request is not trusted with the others: they would wait as long.
      this.#end(session, this.#lost(`did not answer within ${call.timeoutMs} ms`));
    };
    session.pending.set(id, { answer, timer: this.#options.clock.setTimer(call.timeoutMs, late) });
    const onAbort = (): void => answer.reject(call.signal?.reason as Error);
    call.signal?.addEventListener("abort", onAbort, { once: true });
    try {
      if (!session.requests.offer({ request: make(id), sizeBytes: call.sizeBytes })) {
        throw new DriveError("OVERLOADED", "Too many requests that were given up wait for the peer.");
      }
      return await answer.promise;
    } finally {
      call.signal?.removeEventListener("abort", onAbort);
      session.pending.get(id)?.timer.cancel();
      session.pending.delete(id);
    }
  }

  #start(): Session<Request, Answer> {
    const session: Session<Request, Answer> = {
      // Aborted requests leave the pending ones but not the queue, so it holds some more than there are slots.
      requests: new BatchQueue<Sized<Request>>({
        countMax: 2 * this.#options.inflightMax,
        batchCountMax: this.#options.batchCountMax,
        batchBytesMax: BATCH_SIZE_BYTES_MAX,
        sizeOf: ({ sizeBytes }) => sizeBytes,
      }),
      pending: new Map(),
      abort: new AbortController(),
    };
    void this.#run(session);
    return session;
  }

  async #run(session: Session<Request, Answer>): Promise<void> {
    let error: Error = this.#lost("ended the stream");
    try {
      const { open, answersOf } = this.#options;
      const messages = await open(requestsOf(session.requests), session.abort.signal);
      for await (const message of messages) {
        for (const answer of answersOf(message)) {
          session.pending.get(answer.correlationId)?.answer.resolve(answer);
        }
      }
    } catch (thrown) {
      error = thrown as Error;
    }
    this.#end(session, error);
  }

  #end(session: Session<Request, Answer>, error: Error): void {
    if (this.#session === session) this.#session = undefined;
    session.requests.end();
    session.abort.abort(error);
    for (const { answer } of session.pending.values()) answer.reject(error);
  }

  #lost(what: string): DriveError {
    const { lostReason, peer } = this.#options;
    return new DriveError(lostReason, `The node at ${peer} ${what}.`, { address: peer });
  }
}

async function* requestsOf<Request>(
  batches: AsyncIterable<readonly Sized<Request>[]>,
): AsyncIterable<readonly Request[]> {
  for await (const batch of batches) yield batch.map(({ request }) => request);
}
