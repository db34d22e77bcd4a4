/**
 * The server's half of a pipelined stream (pipeline.ts is the client's): requests are worked on in parallel and answered as they
 * are done, matched by correlation ids, several in one message.
 *
 * Count and bytes in work are bounded; beyond them the stream is not read, which holds the sender back. A request counts until its
 * answer was handed to the stream.
 */
import { DriveError } from "../drive/errors.ts";
import { Semaphore } from "../std/semaphore.ts";
import { allowListeners } from "../std/shared-signal.ts";
import { BatchQueue } from "./batch-queue.ts";
import { BATCH_ANSWER_SIZE_BYTES, BATCH_COUNT_MAX, BATCH_SIZE_BYTES_MAX } from "./limits.ts";
import type { ServerCall } from "./server-adapter.ts";

/** How the requests of one stream are answered. */
export interface ParallelWork<RequestMessage, Request, Answer, AnswerMessage> {
  /** Requests in work at most. */
  readonly countMax: number;
  /** Their bytes at most. */
  readonly bytesMax: number;
  /** Answers in one message at most. */
  readonly answerCountMax: number;
  /** The requests in one message. */
  readonly requestsOf: (message: RequestMessage) => readonly Request[];
  /** Bytes that a request holds. */
  readonly sizeOf: (request: Request) => number;
  /** Answers one request. A rejection ends the stream. */
  readonly work: (request: Request) => Promise<Answer>;
  /** Puts answers, at least one, into one message. */
  readonly toMessage: (answers: readonly Answer[]) => AnswerMessage;
}

/**
 * The answers to `requests`.
 * @throws DriveError ARGUMENT_INVALID for a message of more than BATCH_COUNT_MAX requests; whatever `work` rejects with
 */
export async function* answerInParallel<RequestMessage, Request, Answer, AnswerMessage>(
  requests: AsyncIterable<RequestMessage>,
  call: ServerCall,
  parallel: ParallelWork<RequestMessage, Request, Answer, AnswerMessage>,
): AsyncIterable<AnswerMessage> {
  const { countMax, bytesMax, work } = parallel;
  const slots = new Semaphore(countMax);
  const bytes = new Semaphore(bytesMax);
  const answers = new BatchQueue<Answer>({
    countMax,
    batchCountMax: parallel.answerCountMax,
    batchBytesMax: BATCH_SIZE_BYTES_MAX,
    sizeOf: () => BATCH_ANSWER_SIZE_BYTES,
  });
  // Each request waits at one place at a time, beside the reader and the queue of answers.
  allowListeners(call.signal, countMax + 2);
  call.signal.addEventListener("abort", () => answers.end(), { once: true });
  const start = async (request: Request): Promise<void> => {
    const held = Math.min(Math.max(1, parallel.sizeOf(request)), bytesMax);
    if (!slots.tryAcquire(1)) await slots.acquire(1, call.signal);
    if (!bytes.tryAcquire(held)) await bytes.acquire(held, call.signal);
    void work(request)
      .then(
        (answer) => answers.offer(answer),
        (error: unknown) => answers.end(error as Error),
      )
      .finally(() => bytes.release(held));
  };
  const read = async (): Promise<void> => {
    for await (const message of requests) {
      const batch = parallel.requestsOf(message);
      if (batch.length > BATCH_COUNT_MAX) throw tooMany(batch.length);
      for (const request of batch) await start(request);
    }
    await slots.acquire(countMax, call.signal);
  };
  read().then(
    () => answers.end(),
    (error: unknown) => answers.end(error as Error),
  );
  for await (const batch of answers) {
    yield parallel.toMessage(batch);
    slots.release(batch.length);
  }
}

function tooMany(count: number): DriveError {
  return new DriveError(
    "ARGUMENT_INVALID",
    `A message has ${count} requests; at most ${BATCH_COUNT_MAX} are allowed.`,
    { count: String(count), count_max: String(BATCH_COUNT_MAX) },
  );
}
