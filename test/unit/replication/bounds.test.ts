/** Goal: lists and background work stay within their bounds. Method: one below and one above each. */
import { expect } from "chai";
import { DriveError } from "../../../src/drive/errors.ts";
import {
  formatRanges,
  parseRanges,
  RANGE_COUNT_MAX,
  toRanges,
} from "../../../src/replication/chunk-ranges.ts";
import { Chores } from "../../../src/replication/chores.ts";
import { deferred } from "../../../src/std/deferred.ts";

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

describe("Chores", () => {
  it("run up to the bound at once, refuse the next, and take new ones when some have ended", async () => {
    const chores = new Chores(2);
    const gate = deferred<void>();
    expect(chores.run(() => gate.promise)).to.equal(true);
    expect(chores.run(() => gate.promise)).to.equal(true);

    expect(chores.run(() => gate.promise)).to.equal(false);
    gate.resolve();
    await chores.idle();

    expect(chores.count).to.equal(0);
    expect(chores.run(() => Promise.reject(new DriveError("NO_LEADER", "none")))).to.equal(true);
    await chores.idle();
  });
});
