/** The register of files keeps for each segment what was set last, in a few bytes. */
import { expect } from "chai";
import { FileRegister } from "../../../src/segments/file-register.ts";
import type { FileStat } from "../../../src/std/disk.ts";
import { SeededPrng } from "../../../src/std/prng.ts";

describe("FileRegister", () => {
  it("keeps what a map keeps, in whatever order segments come, change and go", () => {
    for (let seed = 1; seed <= 5; seed += 1) {
      const prng = new SeededPrng(seed);
      const number = (): number => prng.below(2 ** 32);
      const register = new FileRegister();
      const expected = new Map<number, FileStat>();
      for (let step = 0; step < 20_000; step += 1) {
        const segmentId = prng.below(5000);
        if (prng.below(4) === 0) {
          register.forget(segmentId);
          expected.delete(segmentId);
        } else {
          const stat = { fileNumber: number(), madeAt: number(), sizeBytes: number() };
          register.set(segmentId, stat);
          expected.set(segmentId, stat);
        }
      }
      for (let segmentId = 0; segmentId < 5000; segmentId += 1) {
        expect(register.find(segmentId), `seed ${seed}, segment ${segmentId}`).to.deep.equal(
          expected.get(segmentId),
        );
      }
    }
  });

  it("takes 16 bytes a segment", () => {
    const register = new FileRegister();
    const count = 100_000;
    for (let segmentId = 1; segmentId <= count; segmentId += 1) {
      register.set(segmentId, { fileNumber: segmentId, madeAt: 1, sizeBytes: 2 ** 33 });
    }
    expect(register.sizeBytes).to.be.within(count * 12, count * 16);
    expect(register.find(count)?.sizeBytes, "as much as a segment can have").to.equal(2 ** 32 - 1);
  });
});
