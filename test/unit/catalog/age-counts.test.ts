// How far back PostgreSQL's index of grams is asked for rows, statement by statement.
import { expect } from "chai";
import { ageCounts } from "../../../src/catalog/postgres-catalog.ts";

describe("ageCounts()", () => {
  it("begins with eight ages of 16,384 rows when nothing is known", () => {
    expect(ageCounts(0, 51)).to.deep.equal([8, 32, 128]);
  });

  it("begins with as many as the first 4,000 rows say, and half as many again", () => {
    // 51 rows of which 4,000 hold 19: in some 10,737, with luck in 16,106; with 18 it takes 17,000.
    expect(ageCounts(19, 51)).to.deep.equal([1, 4, 16, 64]);
    expect(ageCounts(18, 51)).to.deep.equal([2, 8, 32, 128]);
    expect(ageCounts(1, 51)).to.deep.equal([19, 76]);
  });

  it("never asks for more than 128 ages at once", () => {
    expect(ageCounts(1, 349)).to.deep.equal([128]);
    expect(ageCounts(1, 350)).to.deep.equal([128]);
    expect(ageCounts(1, 1001)).to.deep.equal([128]);
  });
});
