/** Goal: what comes together leaves together, within the bounds. Method: one below and one above each bound. */
import { expect } from "chai";
import { BatchQueue } from "../../../src/rpc/batch-queue.ts";

function queue(bounds: { countMax?: number; batchCountMax?: number; batchBytesMax?: number } = {}) {
  return new BatchQueue<number>({
    countMax: 10,
    batchCountMax: 10,
    batchBytesMax: 1000,
    sizeOf: (value) => value,
    ...bounds,
  });
}

async function batchesOf(values: BatchQueue<number>): Promise<number[][]> {
  const batches: number[][] = [];
  for await (const batch of values) batches.push([...batch]);
  return batches;
}

describe("BatchQueue", () => {
  it("gives what was offered in one turn as one batch, and what comes later as another", async () => {
    const values = queue();
    const batches = batchesOf(values);

    values.offer(1);
    await Promise.resolve();
    values.offer(2);
    await new Promise((resolve) => setTimeout(resolve, 5));
    values.offer(3);
    values.end();

    expect(await batches).to.deep.equal([[1, 2], [3]]);
  });

  it("refuses the value after the last that may wait, and every one after the end", () => {
    const values = queue({ countMax: 2 });

    expect([values.offer(1), values.offer(2), values.offer(3)]).to.deep.equal([true, true, false]);
    values.end();
    expect(queue().offer(1)).to.equal(true);
    expect(values.offer(4)).to.equal(false);
  });

  it("cuts batches by count and by bytes, and passes a value that is larger alone", async () => {
    const byCount = queue({ batchCountMax: 2 });
    const byBytes = queue({ batchBytesMax: 10 });
    for (const value of [1, 2, 3]) byCount.offer(value);
    for (const value of [5, 5, 1, 11, 10]) byBytes.offer(value);
    byCount.end();
    byBytes.end();

    expect(await batchesOf(byCount)).to.deep.equal([[1, 2], [3]]);
    expect(await batchesOf(byBytes)).to.deep.equal([[5, 5], [1], [11], [10]]);
  });

  it("delivers what waits before it fails", async () => {
    const values = queue();
    values.offer(1);
    values.end(new Error("broken"));
    const seen: number[] = [];

    const failure = await (async () => {
      for await (const batch of values) seen.push(...batch);
    })().catch((error: unknown) => error);

    expect(seen).to.deep.equal([1]);
    expect(String(failure)).to.equal("Error: broken");
  });
});
