/** Byte ranges: RFC 9110 section 14. */
import { expect } from "chai";
import { contentRange, parseRange } from "../../../src/gateway/ranges.ts";

describe("parseRange()", () => {
  const part = (offset: number, length: number) => ({ kind: "part", offset, length });
  const whole = { kind: "whole" };
  const unsatisfiable = { kind: "unsatisfiable" };
  const cases: readonly [string | undefined, number, object][] = [
    [undefined, 10, whole],
    ["bytes=0-0", 10, part(0, 1)],
    ["bytes=0-", 10, part(0, 10)],
    ["bytes=9-9", 10, part(9, 1)],
    ["bytes=9-", 10, part(9, 1)],
    ["bytes=2-5", 10, part(2, 4)],
    ["bytes=2-99999999999999999999", 10, part(2, 8)],
    ["BYTES= 2-5 ", 10, part(2, 4)],
    ["bytes=-1", 10, part(9, 1)],
    ["bytes=-10", 10, part(0, 10)],
    ["bytes=-11", 10, part(0, 10)],
    ["bytes=10-", 10, unsatisfiable],
    ["bytes=99999999999999999999-", 10, unsatisfiable],
    ["bytes=-0", 10, unsatisfiable],
    ["bytes=0-", 0, unsatisfiable],
    ["bytes=-5", 0, whole],
    ["bytes=5-2", 10, whole],
    ["bytes=-", 10, whole],
    ["bytes=a-b", 10, whole],
    ["bytes=0x1-2", 10, whole],
    ["bytes 0-1", 10, whole],
    ["lines=0-1", 10, whole],
    ["bytes=0-1,3-4", 10, whole],
    ["bytes=--1", 10, whole],
    ["", 10, whole],
  ];
  for (const [range, size, verdict] of cases) {
    it(`takes ${JSON.stringify(range)} of ${size} bytes as ${JSON.stringify(verdict)}`, () => {
      expect(parseRange(range, size)).to.deep.equal(verdict);
    });
  }
});

describe("contentRange()", () => {
  it("names both ends and the size", () => {
    expect(contentRange(10, { offset: 2, length: 3 })).to.equal("bytes 2-4/10");
    expect(contentRange(10)).to.equal("bytes */10");
  });
});
