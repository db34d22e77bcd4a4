/** The three states of a follower's progress, and the window of messages in flight with both of its bounds. */
import { expect } from "chai";
import { Inflights } from "../../../src/raft/inflights.ts";
import { Progress } from "../../../src/raft/progress.ts";

function progress(nextIndex = 1): Progress {
  return new Progress({
    nextIndex,
    isLearner: false,
    recentActive: true,
    inflightMessagesMax: 3,
    inflightBytesMax: 100,
  });
}

describe("Inflights", () => {
  it("is full with the message that reaches the count, not one before", () => {
    const window = new Inflights(3, 0);
    window.add(1, 10);
    window.add(2, 10);
    expect(window.isFull).to.equal(false);

    window.add(5, 10);

    expect(window.isFull).to.equal(true);
    expect(() => window.add(6, 1)).to.throw(/full window/);
  });

  it("is full with the byte that reaches the limit, not one before", () => {
    const window = new Inflights(100, 50);
    window.add(1, 49);
    expect(window.isFull).to.equal(false);

    window.add(2, 1);

    expect(window.isFull).to.equal(true);
  });

  it("frees messages up to an index, and their bytes", () => {
    const window = new Inflights(1_000, 0);
    for (let index = 1; index <= 900; index += 1) window.add(index, 2);

    window.freeTo(0);
    expect([window.count, window.bytes]).to.deep.equal([900, 1_800]);
    window.freeTo(450);
    expect([window.count, window.bytes]).to.deep.equal([450, 900]);
    window.freeTo(10);
    expect(window.count).to.equal(450);
    window.freeTo(2_000);

    expect([window.count, window.bytes]).to.deep.equal([0, 0]);
  });

  it("takes only growing indexes", () => {
    const window = new Inflights(10, 0);
    window.add(5, 1);

    expect(() => window.add(5, 1)).to.throw(/not above/);
  });
});

describe("Progress", () => {
  it("sends one message at a time while it probes", () => {
    const follower = progress(5);

    follower.sentEntries(1, 10);

    expect([follower.isPaused, follower.nextIndex]).to.deep.equal([true, 5]);
  });

  it("sends ahead while it replicates, until the window is full", () => {
    const follower = progress();
    follower.becomeReplicate();

    follower.sentEntries(2, 10);
    follower.sentEntries(1, 10);
    expect([follower.isPaused, follower.nextIndex]).to.deep.equal([false, 4]);
    follower.sentEntries(1, 10);

    expect(follower.isPaused).to.equal(true);
  });

  it("ignores acknowledgements and rejections that are old", () => {
    const follower = progress();
    follower.maybeUpdate(5);
    follower.becomeReplicate();

    expect(follower.maybeUpdate(5)).to.equal(false);
    expect(follower.maybeDecrease(5, 2)).to.equal(false);
    expect([follower.matchIndex, follower.nextIndex]).to.deep.equal([5, 6]);
  });

  it("goes back to the hint of a rejected probe, but not below what matches", () => {
    const follower = progress(10);
    follower.maybeUpdate(2);

    expect(follower.maybeDecrease(8, 0)).to.equal(false);
    expect(follower.maybeDecrease(9, 4)).to.equal(true);
    expect(follower.nextIndex).to.equal(5);
    expect(follower.maybeDecrease(4, 0)).to.equal(true);
    expect(follower.nextIndex).to.equal(3);
  });

  it("sends nothing while a snapshot is on its way, and probes above it afterwards", () => {
    const follower = progress(3);
    follower.becomeSnapshot(20);
    expect(follower.isPaused).to.equal(true);

    follower.becomeProbe();

    expect([follower.state, follower.nextIndex, follower.pendingSnapshotIndex]).to.deep.equal([
      "probe",
      21,
      0,
    ]);
  });

  it("does not send a commit index again that is under way", () => {
    const follower = progress();
    follower.maybeUpdate(5);
    follower.becomeReplicate();

    expect(follower.canBumpCommit(5)).to.equal(true);
    follower.sentCommit(5);

    expect([follower.canBumpCommit(5), follower.canBumpCommit(6)]).to.deep.equal([false, false]);
  });
});
