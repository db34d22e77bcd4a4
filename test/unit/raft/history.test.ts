// Goal: a follower whose log and whose leader's cannot both be true ends instead of going on, whoever of the two is wrong.
// Method: one follower with five entries of term 1, four of them committed, and messages made by hand.
import { expect } from "chai";
import { HistoryError } from "../../../src/raft/history-error.ts";
import { utf8 } from "../../../src/std/bytes.ts";
import { TestNode } from "../../support/raft/test-node.ts";

function follower(): TestNode {
  const node = new TestNode({ terms: [1, 1, 1, 1, 1], commitIndex: 4 });
  node.step({ kind: "heartbeat", from: 2, term: 2, commitIndex: 0 });
  return node;
}

describe("a follower and a leader that do not share one history", () => {
  it("ends when the leader counts on an entry behind its last one, and not at its last one", () => {
    const lost = follower();
    expect(() => lost.step({ kind: "heartbeat", from: 2, term: 2, commitIndex: 6 })).to.throw(
      HistoryError,
      "up to 6, and its log ends at 5",
    );

    const whole = follower();
    whole.step({ kind: "heartbeat", from: 2, term: 2, commitIndex: 5 });
    expect(whole.raft.basicStatus().commitIndex).to.equal(5);
  });

  it("ends when the leader has an entry of another term where one is committed here, the last one or an earlier one", () => {
    for (const index of [4, 2]) {
      expect(() => follower().step({ kind: "append", from: 2, term: 2, index, logTerm: 2 })).to.throw(
        HistoryError,
        `Entry ${index} is committed here as one of term 1, and the leader has one of term 2`,
      );
    }
  });

  it("refuses what does not match where nothing is committed, and lets it be overwritten", () => {
    const node = follower();

    const [refusal] = node.step({ kind: "append", from: 2, term: 2, index: 5, logTerm: 2 });
    expect(refusal).to.include({ kind: "append-response", reject: true, index: 5 });
    const entry = { index: 5, term: 2, kind: "normal" as const, data: utf8("new") };
    const [taken] = node.step({
      kind: "append",
      from: 2,
      term: 2,
      index: 4,
      logTerm: 1,
      entries: [entry],
    });
    expect(taken).to.include({ kind: "append-response", reject: false, index: 5 });
  });

  it("takes a late append of what is committed as matched", () => {
    const [answer] = follower().step({ kind: "append", from: 2, term: 2, index: 2, logTerm: 1 });
    expect(answer).to.include({ kind: "append-response", reject: false, index: 4 });
  });
});
