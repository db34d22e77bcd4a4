/** Goal: chunks are cut alike however the bytes arrive. Method: random piece sizes; the seed is printed. */
import { expect } from "chai";
import { CHUNK_SIZE_BYTES } from "../../../src/drive/limits.ts";
import { SeededPrng } from "../../../src/std/prng.ts";
import { toChunks } from "../../../src/transfer/chunker.ts";

async function* pieces(bytes: Uint8Array, sizes: readonly number[]): AsyncGenerator<Uint8Array> {
  let at = 0;
  for (let i = 0; at < bytes.length; i += 1) {
    const size = sizes[i % sizes.length] ?? 1;
    yield bytes.subarray(at, at + size);
    at += size;
  }
}

async function chunks(source: AsyncIterable<Uint8Array>): Promise<Uint8Array[]> {
  const found: Uint8Array[] = [];
  for await (const chunk of toChunks(source)) found.push(chunk);
  return found;
}

describe("toChunks()", () => {
  for (const sizeBytes of [
    0,
    1,
    CHUNK_SIZE_BYTES - 1,
    CHUNK_SIZE_BYTES,
    CHUNK_SIZE_BYTES + 1,
    3 * CHUNK_SIZE_BYTES,
  ]) {
    it(`cuts ${sizeBytes} bytes into whole chunks and a rest`, async () => {
      const seed = 20;
      const prng = new SeededPrng(seed);
      const bytes = Buffer.alloc(sizeBytes, Buffer.from(prng.bytes(1009)));
      const sizes = [1, 70_000, 2_500_000, 65_536, 1 + prng.below(CHUNK_SIZE_BYTES)];

      const found = await chunks(pieces(bytes, sizes));

      expect(Buffer.concat(found).equals(bytes), `seed=${seed}`).to.equal(true);
      expect(found.length).to.equal(Math.ceil(sizeBytes / CHUNK_SIZE_BYTES));
      for (const chunk of found.slice(0, -1)) expect(chunk.length).to.equal(CHUNK_SIZE_BYTES);
    });
  }

  it("hands out a chunk that lies within one array without copying it", async () => {
    const bytes = new Uint8Array(2 * CHUNK_SIZE_BYTES);

    const found = await chunks(pieces(bytes, [2 * CHUNK_SIZE_BYTES]));

    expect(found.map((chunk) => chunk.buffer === bytes.buffer)).to.deep.equal([true, true]);
  });
});
