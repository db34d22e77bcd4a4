/** Goal: figures of several sources never say more than is so, never less than before. Method: every rule by example. */
import { expect } from "chai";
import type { Replica } from "../../../src/drive/content.ts";
import type { Progress } from "../../../src/drive/drive-api.ts";
import {
  combine,
  differs,
  finished,
  furthestPhase,
  verifiedBytes,
} from "../../../src/transfer/progress-sum.ts";

const of = (
  transferredBytes: number,
  copiedBytes: Progress["copiedBytes"],
  sizeBytes?: number,
): Progress => ({
  ...{ id: "7", kind: "upload", phase: "receiving", sizeBytes, transferredBytes, copiedBytes },
  errorReason: undefined,
});

const copies = (...states: readonly Replica["state"][]): readonly Replica[] =>
  states.map((state, index) => ({ memberId: index + 1, state, checkTimeMs: 0 }));

describe("Progress of several sources", () => {
  it("is the most that any of them knows, figure by figure", () => {
    const both = combine(of(10, [10, 9, 0]), of(8, [12, 8, 5]));
    expect(both).to.include({ transferredBytes: 10 });
    expect(both.copiedBytes).to.deep.equal([12, 9, 5]);
  });

  it("is never more than the size, once a source knows it", () => {
    const known = combine(of(30, [30, 20, 10]), of(0, [0, 0, 0], 20));
    expect(known).to.include({ sizeBytes: 20, transferredBytes: 20 });
    expect(known.copiedBytes).to.deep.equal([20, 20, 10]);
    expect(combine(known, of(0, [0, 0, 0])).sizeBytes).to.equal(20);
  });

  it("is whole when it is done, with the copies that there are and were", () => {
    const end = finished(of(5, [5, 5, 3], 20), "7", 20, [20, 20, 0]);
    expect(end).to.include({ phase: "done", sizeBytes: 20, transferredBytes: 20 });
    expect(end.copiedBytes).to.deep.equal([20, 20, 3]);
  });

  it("counts the verified copies of a file by extent", () => {
    const extents = [
      { sizeBytes: 100, replicas: copies("verified", "verified", "verified") },
      { sizeBytes: 30, replicas: copies("verified", "verified", "pending") },
      { sizeBytes: 5, replicas: copies("verified", "lost", "corrupt") },
    ];
    expect(verifiedBytes(extents, 135)).to.deep.equal([135, 130, 100]);
    expect(verifiedBytes([], 0)).to.deep.equal([0, 0, 0]);
  });

  it("has the furthest phase, and never an end that the tree has not told", () => {
    expect(furthestPhase(["receiving", undefined])).to.equal("receiving");
    expect(furthestPhase(["receiving", "sealing"])).to.equal("sealing");
    expect(furthestPhase(["committing", "sealing"])).to.equal("committing");
    expect(furthestPhase(["done", "receiving"])).to.equal("committing");
  });

  it("is told again when a figure, the size or the phase is another one", () => {
    const before = of(1, [1, 0, 0]);
    expect(differs(of(1, [1, 0, 0]), before)).to.equal(false);
    expect(differs(of(1, [1, 1, 0]), before)).to.equal(true);
    expect(differs(of(1, [1, 0, 0], 5), before)).to.equal(true);
    expect(differs({ ...before, phase: "sealing" }, before)).to.equal(true);
  });
});
