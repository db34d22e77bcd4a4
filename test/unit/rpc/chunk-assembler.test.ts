import { expect } from "chai";
import fc from "fast-check";
import { ChunkAssembler, CommittedPrefix } from "../../../src/rpc/chunk-assembler.ts";
import { expectReason } from "../../support/expect-reason.ts";

const SIZE = 10;
const none = new Uint8Array(0);

function bytes(from: number, length: number): Uint8Array {
  return Uint8Array.from({ length }, (_, i) => from + i);
}

function frame(offset: number, length: number, more: { finish?: boolean; digest?: Uint8Array } = {}) {
  return { offset, data: bytes(offset, length), digest: more.digest ?? none, finish: more.finish ?? false };
}

function shape(
  chunks: readonly { chunkIndex: number; bytes: Uint8Array }[],
): (readonly [number, number[]])[] {
  return chunks.map((chunk) => [chunk.chunkIndex, [...chunk.bytes]] as const);
}

describe("ChunkAssembler", () => {
  const unknown = { chunkSizeBytes: SIZE, sizeBytes: undefined };

  it("hands on a frame that is a whole chunk without a copy", () => {
    const whole = frame(20, SIZE);

    const [chunk] = new ChunkAssembler(unknown).push(whole);

    expect(chunk?.chunkIndex).to.equal(2);
    expect(chunk?.bytes.buffer).to.equal(whole.data.buffer);
  });

  it("puts frames of any size together (seed=7)", () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 25 }), { minLength: 1, maxLength: 20 }), (lengths) => {
        const sizeBytes = lengths.reduce((sum, length) => sum + length, 0);
        const assembler = new ChunkAssembler({ chunkSizeBytes: SIZE, sizeBytes });
        let offset = 0;
        const chunks = lengths.flatMap((length) => {
          const pushed = assembler.push(frame(offset, length));
          offset += length;
          return pushed;
        });
        assembler.end();

        expect(chunks.map((chunk) => chunk.chunkIndex)).to.deep.equal(chunks.map((_, i) => i));
        expect(Buffer.concat(chunks.map((chunk) => chunk.bytes))).to.deep.equal(
          Buffer.from(bytes(0, sizeBytes)),
        );
      }),
      { seed: 7 },
    );
  });

  it("takes the last chunk of an unknown size at a frame with finish", () => {
    const assembler = new ChunkAssembler(unknown);

    expect(shape(assembler.push(frame(10, 3)))).to.deep.equal([]);
    expect(shape(assembler.push(frame(13, 2, { finish: true })))).to.deep.equal([[1, [10, 11, 12, 13, 14]]]);
  });

  it("takes chunks in any order", () => {
    const assembler = new ChunkAssembler({ chunkSizeBytes: SIZE, sizeBytes: 25 });

    const order = [20, 0, 10].flatMap((offset) => assembler.push(frame(offset, offset === 20 ? 5 : SIZE)));

    expect(order.map(({ chunkIndex }) => chunkIndex)).to.deep.equal([2, 0, 1]);
  });

  it("refuses bytes that neither start a chunk nor continue", async () => {
    const assembler = new ChunkAssembler(unknown);
    assembler.push(frame(0, 3));

    const error = await expectReason("UPLOAD_OFFSET_MISMATCH", () => assembler.push(frame(4, 2)));

    expect(error.metadata).to.deep.equal({ offset: "4", expected_offset: "3" });
  });

  it("takes bytes up to the size and refuses one more", async () => {
    const assembler = new ChunkAssembler({ chunkSizeBytes: SIZE, sizeBytes: 15 });

    expect(assembler.push(frame(10, 5)).length).to.equal(1);
    await expectReason("CHUNK_OUT_OF_RANGE", () => assembler.push(frame(10, 6)));
  });

  it("takes a digest with a whole chunk alone", async () => {
    const digest = new Uint8Array(32);
    const assembler = new ChunkAssembler(unknown);

    expect(assembler.push(frame(0, SIZE, { digest }))[0]?.digest).to.equal(digest);
    expect(assembler.push(frame(10, 4, { digest, finish: true }))[0]?.digest).to.equal(digest);
    await expectReason("ARGUMENT_INVALID", () => assembler.push(frame(20, SIZE + 1, { digest })));
    await expectReason("ARGUMENT_INVALID", () => assembler.push(frame(30, SIZE - 1, { digest })));
  });

  it("refuses to end within a chunk", async () => {
    const assembler = new ChunkAssembler(unknown);
    assembler.push(frame(0, 3));

    await expectReason("PAYLOAD_TRUNCATED", () => assembler.end());
  });
});

describe("CommittedPrefix", () => {
  const start = { chunkSizeBytes: SIZE, missing: [], committedSizeBytes: 0, sizeBytes: undefined };

  it("counts the bytes without a gap", () => {
    const prefix = new CommittedPrefix(start);

    expect([prefix.add(1, SIZE), prefix.add(0, SIZE), prefix.add(3, 4), prefix.add(2, SIZE)]).to.deep.equal([
      0, 20, 20, 34,
    ]);
  });

  it("goes on from the state of an upload", () => {
    const missing = [
      { first: 1, last: 2 },
      { first: 4, last: 4 },
    ];
    const prefix = new CommittedPrefix({
      chunkSizeBytes: SIZE,
      missing,
      committedSizeBytes: 10,
      sizeBytes: 45,
    });

    expect([prefix.add(2, SIZE), prefix.add(1, SIZE), prefix.add(4, 5)]).to.deep.equal([10, 40, 45]);
  });

  it("ends at the size whatever order the chunks come in (seed=7)", () => {
    const order = fc.shuffledSubarray([0, 1, 2, 3, 4], { minLength: 5 });
    fc.assert(
      fc.property(order, fc.boolean(), (indexes, known) => {
        const missing = known ? [{ first: 0, last: 4 }] : [];
        const prefix = new CommittedPrefix({ ...start, missing, sizeBytes: known ? 43 : undefined });
        let last = 0;
        for (const index of indexes) {
          const now = prefix.add(index, index === 4 ? 3 : SIZE);
          expect(now).to.be.at.least(last);
          last = now;
        }
        expect(last).to.equal(43);
      }),
      { seed: 7 },
    );
  });
});
