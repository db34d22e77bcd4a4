/** Majorities against a plain definition: the highest index that at least a majority reached, found by trying all. */
import { expect } from "chai";
import { SeededPrng } from "../../../src/std/prng.ts";
import { committedIndex, majorityCommittedIndex, majorityOf, voteResult } from "../../../src/raft/quorum.ts";

describe("quorum", () => {
  it("needs more than half", () => {
    expect([1, 2, 3, 4, 5, 6, 7].map(majorityOf)).to.deep.equal([1, 2, 2, 3, 3, 4, 4]);
  });

  it("finds the index that a majority reached, for random acknowledgements", () => {
    const prng = new SeededPrng(1);
    for (let round = 0; round < 500; round += 1) {
      const voters = Array.from({ length: 1 + prng.below(7) }, (_, i) => i + 1);
      const acked = new Map(voters.filter(() => prng.below(4) > 0).map((id) => [id, prng.below(10)]));
      let expected = 0;
      for (let index = 0; index < 10; index += 1) {
        const count = voters.filter((id) => (acked.get(id) ?? 0) >= index).length;
        if (count >= majorityOf(voters.length)) expected = index;
      }

      expect(
        majorityCommittedIndex(voters, (id) => acked.get(id)),
        `seed=1 round=${round}`,
      ).to.equal(expected);
    }
  });

  it("commits in a joint configuration only what both halves have", () => {
    const acked = new Map([
      [1, 10],
      [2, 10],
      [3, 5],
      [4, 4],
    ]);

    const index = committedIndex({ voters: [1, 2, 3], votersOutgoing: [2, 3, 4] }, (id) => acked.get(id));

    expect(index).to.equal(5);
  });

  it("commits everything when nobody votes", () => {
    expect(committedIndex({ voters: [], votersOutgoing: [] }, () => undefined)).to.equal(Infinity);
  });

  for (const { yes, no, result } of [
    { yes: [1, 2], no: [], result: "pending" },
    { yes: [1, 2, 4], no: [], result: "pending" },
    { yes: [1, 2, 4, 5], no: [], result: "won" },
    { yes: [1, 2], no: [4, 5], result: "lost" },
    { yes: [4, 5], no: [1, 2], result: "lost" },
  ]) {
    it(`of (1 2 3)&&(4 5 6), yes from ${yes.join(" ")} and no from ${no.join(" ")}: ${result}`, () => {
      const votes = new Map([
        ...yes.map((id) => [id, true] as const),
        ...no.map((id) => [id, false] as const),
      ]);

      const got = voteResult({ voters: [1, 2, 3], votersOutgoing: [4, 5, 6] }, (id) => votes.get(id));

      expect(got).to.equal(result);
    });
  }
});
