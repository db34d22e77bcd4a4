/** Goal: lists of chunks are read as they were written, and stay bounded. Method: one below and one above the bound. */
import { expect } from "chai";
import { formatRanges, parseRanges, RANGE_COUNT_MAX, toRanges } from "../../../src/drive/chunk-ranges.ts";

describe("chunk ranges", () => {
  it("are written as runs and read back", () => {
    const indexes = [0, 3, 7, 8, 9];

    expect(formatRanges(indexes)).to.equal("0,3,7-9");
    expect(parseRanges("0,3,7-9", 10)).to.deep.equal(indexes);
    expect(parseRanges("0,3,7-9", 9)).to.deep.equal([0, 3, 7, 8]);
    expect(toRanges([])).to.deep.equal([]);
  });

  it("name everything when a peer's text is no list", () => {
    expect(parseRanges("all of them", 3)).to.deep.equal([0, 1, 2]);
    expect(parseRanges("", 2)).to.deep.equal([0, 1]);
  });

  for (const [runs, written] of [
    [RANGE_COUNT_MAX, RANGE_COUNT_MAX],
    [RANGE_COUNT_MAX + 1, RANGE_COUNT_MAX],
  ] as const) {
    it(`of ${runs} runs are written as ${written}`, () => {
      const everySecond = Array.from({ length: runs }, (_, index) => 2 * index);

      expect(formatRanges(everySecond).split(",").length).to.equal(written);
    });
  }
});
