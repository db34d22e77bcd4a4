// Goal: a member that lost part of its log is whole only when it holds what its leader had after it asked, in that term.
// Method: the state of a mending member, fact by fact.
import { expect } from "chai";
import { Mending } from "../../../src/raft/mending.ts";
import { Progress } from "../../../src/raft/progress.ts";
import { utf8 } from "../../../src/std/bytes.ts";

const NONCE = utf8("this life");

describe("Mending", () => {
  it("allows a vote for a log at least as up to date as the last known entry, and none when that is not known", () => {
    const known = new Mending({ lastKnown: { index: 10, term: 3 }, nonce: NONCE });
    const rows = [
      { term: 3, index: 10, allowed: true },
      { term: 3, index: 11, allowed: true },
      { term: 3, index: 9, allowed: false },
      { term: 4, index: 1, allowed: true },
      { term: 2, index: 99, allowed: false },
    ];
    for (const { term, index, allowed } of rows) expect(known.allowsVote(term, index)).to.equal(allowed);
    const unknown = new Mending({ lastKnown: undefined, nonce: NONCE });
    for (const { term, index } of rows) expect(unknown.allowsVote(term, index)).to.equal(false);
  });

  it("is done when all up to the leader's answer matches and is durable", () => {
    const mending = new Mending({ lastKnown: undefined, nonce: NONCE });
    mending.matched(5, 20);
    expect(mending.isDone(5, 20)).to.equal(false);
    mending.aim(5, 21, NONCE);
    expect(mending.isDone(5, 30)).to.equal(false);
    mending.matched(5, 21);
    expect(mending.isDone(5, 20)).to.equal(false);
    expect(mending.isDone(5, 21)).to.equal(true);
    expect(mending.isDone(6, 21)).to.equal(false);
  });

  it("does not take the answer to an earlier life, nor an earlier term's, nor a later one that asks for less", () => {
    const mending = new Mending({ lastKnown: undefined, nonce: NONCE });
    mending.matched(5, 20);
    mending.aim(5, 7, utf8("another life"));
    expect(mending.isDone(5, 20)).to.equal(false);
    mending.aim(5, 20, NONCE);
    mending.aim(5, 25, NONCE);
    expect(mending.isDone(5, 20)).to.equal(true);

    mending.matched(6, 3);
    expect(mending.isDone(6, 20)).to.equal(false);
    expect(mending.matchedIn(5)).to.equal(0);
    expect(mending.matchedIn(6)).to.equal(3);
  });
});

describe("Progress.loseBehind()", () => {
  it("takes back what a follower acknowledged and lost, and probes it from there", () => {
    const options = {
      nextIndex: 5,
      isLearner: false,
      recentActive: true,
      inflightMessagesMax: 8,
      inflightBytesMax: 0,
    };
    const progress = new Progress(options);
    progress.maybeUpdate(40);
    progress.becomeReplicate();

    progress.loseBehind(40);
    expect(progress.lossCount).to.equal(0);
    progress.loseBehind(12);

    expect([progress.matchIndex, progress.nextIndex, progress.state]).to.deep.equal([12, 13, "probe"]);
    expect(progress.lossCount).to.equal(1);
    progress.becomeSnapshot(60);
    progress.loseBehind(0);
    expect([progress.matchIndex, progress.state]).to.deep.equal([0, "snapshot"]);
  });
});
