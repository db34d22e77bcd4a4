// When PostgreSQL reads on along the order of ids and when it asks its index of grams.
import { expect } from "chai";
import { wideWindow } from "../../../src/catalog/postgres-catalog.ts";

describe("wideWindow()", () => {
  it("asks the index when nothing was found, or so little that the index gives all of it for less", () => {
    expect(wideWindow(0, 51, 1_000_000)).to.equal(undefined);
    expect(wideWindow(25, 51, 1_000_000)).to.equal(undefined);
  });

  it("reads on for half as many rows again as the density says, when many rows match", () => {
    expect(wideWindow(26, 51, 1_000_000)).to.equal(Math.ceil((51 / 0.0026) * 1.5));
    expect(wideWindow(10, 51, 10_000_000)).to.equal(76_500);
  });

  it("never reads more than 100,000 rows", () => {
    expect(wideWindow(8, 51, 100_000_000)).to.equal(95_625);
    expect(wideWindow(7, 51, 100_000_000)).to.equal(undefined);
  });
});
