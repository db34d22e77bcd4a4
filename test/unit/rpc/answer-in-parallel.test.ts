/** Goal: a pipelined stream is answered within its bounds. Method: one below and one above the bound of a message. */
import { expect } from "chai";
import { answerInParallel } from "../../../src/rpc/answer-in-parallel.ts";
import { BATCH_COUNT_MAX } from "../../../src/rpc/limits.ts";
import { expectReason } from "../../support/expect-reason.ts";

async function* oneMessage(requests: readonly number[]): AsyncIterable<readonly number[]> {
  yield requests;
}

async function answersTo(count: number, countMax: number): Promise<{ answers: number[]; inWorkMax: number }> {
  const call = { signal: new AbortController().signal, peer: "test", header: () => undefined };
  const requests = Array.from({ length: count }, (_, index) => index);
  let inWork = 0;
  let inWorkMax = 0;
  const messages = answerInParallel(oneMessage(requests), call, {
    countMax,
    bytesMax: countMax,
    answerCountMax: BATCH_COUNT_MAX,
    requestsOf: (message) => message,
    sizeOf: () => 1,
    work: async (request: number) => {
      inWork += 1;
      inWorkMax = Math.max(inWorkMax, inWork);
      await Promise.resolve();
      inWork -= 1;
      return request;
    },
    toMessage: (batch: readonly number[]) => batch,
  });
  const answers: number[] = [];
  for await (const message of messages) answers.push(...message);
  return { answers: answers.sort((a, b) => a - b), inWorkMax };
}

describe("answerInParallel()", () => {
  it(`answers every one of ${BATCH_COUNT_MAX} requests in a message, a bounded number at once`, async () => {
    const { answers, inWorkMax } = await answersTo(BATCH_COUNT_MAX, 8);

    expect(answers).to.deep.equal(Array.from({ length: BATCH_COUNT_MAX }, (_, index) => index));
    expect(inWorkMax).to.be.at.most(8);
  });

  it(`refuses a message of ${BATCH_COUNT_MAX + 1} requests`, async () => {
    await expectReason("ARGUMENT_INVALID", () => answersTo(BATCH_COUNT_MAX + 1, 8));
  });
});
