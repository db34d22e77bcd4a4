/** Goal: streams are cut into whole leaves however they come, and piles of work are worked off side by side. */
import { expect } from "chai";
import { cutIntoChunks } from "../../../src/cli/cut-into-chunks.ts";
import { WorkPile } from "../../../src/cli/work-pile.ts";
import { CHUNK_SIZE_BYTES } from "../../../src/drive/limits.ts";
import { pattern } from "./run-cli.ts";

describe("cutIntoChunks()", () => {
  const total = 2 * CHUNK_SIZE_BYTES + 5;
  for (const pieceSizeBytes of [
    1000,
    65_536,
    CHUNK_SIZE_BYTES - 1,
    CHUNK_SIZE_BYTES,
    CHUNK_SIZE_BYTES + 1,
    total,
  ]) {
    for (const sizeBytes of [undefined, total]) {
      it(`cuts pieces of ${pieceSizeBytes} bytes, total ${sizeBytes === undefined ? "un" : ""}known`, async () => {
        const bytes = pattern(total);
        const pieces = async function* (): AsyncGenerator<Uint8Array> {
          for (let at = 0; at < total; at += pieceSizeBytes) yield bytes.subarray(at, at + pieceSizeBytes);
        };

        const chunks: Uint8Array[] = [];
        for await (const chunk of cutIntoChunks(pieces(), sizeBytes)) chunks.push(chunk);

        expect(chunks.map((chunk) => chunk.length)).to.deep.equal([CHUNK_SIZE_BYTES, CHUNK_SIZE_BYTES, 5]);
        expect(Buffer.concat(chunks).equals(bytes)).to.equal(true);
      });
    }
  }
});

describe("WorkPile", () => {
  it("works off what its own work adds, and never more at once than told", async () => {
    const pile = new WorkPile<number>();
    const done: number[] = [];
    let busy = 0;
    let busyMax = 0;
    pile.push(0);

    await pile.run(3, async (depth) => {
      busy += 1;
      busyMax = Math.max(busyMax, busy);
      await new Promise((resolve) => setImmediate(resolve));
      if (depth < 6) for (let i = 0; i < 2; i += 1) pile.push(depth + 1);
      done.push(depth);
      busy -= 1;
    });

    expect(done).to.have.length(127);
    expect(busyMax).to.equal(3);
  });

  it("ends with the first failure", async () => {
    const pile = new WorkPile<number>();
    for (let i = 0; i < 10; i += 1) pile.push(i);
    let started = 0;

    const error = await pile
      .run(2, () => {
        started += 1;
        return Promise.reject(new Error("broken"));
      })
      .catch((reason: unknown) => reason);

    expect((error as Error).message).to.equal("broken");
    expect(started).to.equal(2);
  });
});
