/** RaftNode as its driver sees it: what is dropped and why, every bound one below and one above, and what a batch holds. */
import { expect } from "chai";
import { makeMessage } from "../../../src/raft/message.ts";
import type { ConfChange } from "../../../src/raft/types.ts";
import { utf8 } from "../../../src/std/bytes.ts";
import { parseSteps } from "../../support/raft/describe.ts";
import { confState } from "../../support/raft/memory-log-storage.ts";
import { entriesOf, ofKind, TestNode, theOnly, type TestNodeOptions } from "../../support/raft/test-node.ts";

function leader(options: TestNodeOptions = {}): TestNode {
  const node = new TestNode(options);
  node.lead();
  node.acknowledge(2, node.raft.basicStatus().lastIndex);
  return node;
}

function change(steps: string): ConfChange {
  return { transition: "auto", steps: parseSteps(steps), context: new Uint8Array(0) };
}

const accepted = { outcome: "accepted" };

describe("RaftNode.propose()", () => {
  it("says why it drops: no leader, not the leader, transfer, bytes", () => {
    const node = new TestNode();
    expect(node.raft.propose(utf8("x"))).to.deep.equal({ outcome: "dropped", reason: "no-leader" });
    node.step({ kind: "heartbeat", from: 2, term: 1 });
    expect(node.raft.propose(utf8("x"))).to.deep.equal({ outcome: "dropped", reason: "not-leader" });

    const first = leader();
    expect(first.raft.transferLeader(4)).to.deep.equal({ outcome: "dropped", reason: "not-a-voter" });
    expect(first.raft.transferLeader(3)).to.deep.equal(accepted);
    expect(first.raft.propose(utf8("x"))).to.deep.equal({
      outcome: "dropped",
      reason: "transfer-in-progress",
    });
    first.tick(10);
    expect(first.raft.propose(utf8("x"))).to.deep.equal(accepted);
  });

  it("takes uncommitted bytes up to the limit, and not one more, until they are applied", () => {
    const node = leader({ uncommittedBytesMax: 10 });

    expect(node.raft.propose(new Uint8Array(9))).to.deep.equal(accepted);
    expect(node.raft.propose(new Uint8Array(2))).to.deep.equal({
      outcome: "dropped",
      reason: "uncommitted-bytes-full",
    });
    expect(node.raft.propose(new Uint8Array(1))).to.deep.equal(accepted);
    node.pump();
    node.acknowledge(2, 3);

    expect(node.raft.basicStatus().uncommittedBytes).to.equal(0);
    expect(node.raft.propose(new Uint8Array(2))).to.deep.equal(accepted);
  });

  it("takes one proposal over the limit when nothing else is uncommitted", () => {
    expect(leader({ uncommittedBytesMax: 10 }).raft.propose(new Uint8Array(100))).to.deep.equal(accepted);
  });

  it("sends a batch as one message to each follower", () => {
    const node = leader();
    node.acknowledge(3, 1);

    node.raft.proposeBatch([utf8("a"), utf8("b"), utf8("c")]);

    const appends = ofKind(node.pump(), "append");
    expect(appends.map((one) => [one.to, one.entries.length])).to.deep.equal([
      [2, 3],
      [3, 3],
    ]);
  });

  it("sends a probed follower one append for each of its own heartbeats, however many answers come at once", () => {
    const node = leader();
    node.raft.proposeBatch([utf8("a"), utf8("b")]);
    node.pump();
    const answers = (count: number): number => {
      let appends = 0;
      for (let i = 0; i < count; i += 1) {
        const sent = ofKind(node.step({ kind: "heartbeat-response", from: 3, term: 1 }), "append");
        appends += sent.filter(({ to }) => to === 3).length;
      }
      return appends;
    };
    // A follower that was paused for two minutes answers what waited for it: more than a thousand.
    node.tick(1);
    expect(answers(1200)).to.equal(1);
    expect(answers(1200)).to.equal(0);
    node.tick(1);
    expect(answers(1200)).to.equal(1);
  });

  it("splits what it sends at entriesSizeBytesMax", () => {
    const node = leader({ entriesSizeBytesMax: 40 });

    node.raft.proposeBatch([new Uint8Array(10), new Uint8Array(14), new Uint8Array(15), new Uint8Array(18)]);
    node.acknowledge(2, 1);

    const sizes = [...ofKind(node.acknowledge(2, 3), "append"), ...ofKind(node.acknowledge(2, 5), "append")];
    for (const one of sizes) expect(one.entries.length).to.be.at.most(2);
    expect(node.raft.basicStatus().commitIndex).to.equal(5);
  });
});

describe("RaftNode.step()", () => {
  it("refuses what never travels, and messages without the term they must have", () => {
    const node = leader();

    expect(node.raft.step(makeMessage({ kind: "hup", from: 2, term: 1 }))).to.deep.equal({
      outcome: "refused",
    });
    expect(node.raft.step(makeMessage({ kind: "check-quorum", from: 2 }))).to.deep.equal({
      outcome: "refused",
    });
    expect(node.raft.step(makeMessage({ kind: "append", from: 2 }))).to.deep.equal({ outcome: "refused" });
    expect(node.raft.basicStatus().role).to.equal("leader");
  });

  it("ignores answers of somebody unknown, whatever their term", () => {
    const node = leader();

    const outcome = node.raft.step(makeMessage({ kind: "append-response", from: 9, term: 99, index: 1 }));

    expect(outcome).to.deep.equal({ outcome: "unknown-member" });
    expect([node.raft.basicStatus().role, node.raft.basicStatus().term]).to.deep.equal(["leader", 1]);
  });

  it("ignores an acknowledgement of what it does not have", () => {
    const node = leader();

    node.acknowledge(3, 7);

    expect(node.raft.status().progress.get(3)?.matchIndex).to.equal(0);
  });

  it("is not deposed by a member that was removed, while the quorum is heard", () => {
    const node = leader({ checkQuorum: true });

    node.step({ kind: "vote", from: 9, term: 50, logTerm: 50, index: 50 });

    expect([node.raft.basicStatus().role, node.raft.basicStatus().term]).to.deep.equal(["leader", 1]);
  });

  it("changes nothing when any earlier message comes again", () => {
    const node = new TestNode();
    const told = [
      { kind: "append", from: 2, term: 1, entries: entriesOf([1, 1]), commitIndex: 1 },
      { kind: "heartbeat", from: 2, term: 1, commitIndex: 2 },
      { kind: "append", from: 3, term: 2, index: 2, logTerm: 1, entries: entriesOf([2], 3), commitIndex: 3 },
    ] as const;
    for (const one of told) node.step(one);
    const { term, votedFor, commitIndex, lastIndex, leaderId } = node.raft.basicStatus();

    for (const one of [...told, ...told.toReversed()]) node.step(one);

    const after = node.raft.basicStatus();
    expect(after).to.include({ term, votedFor, commitIndex, lastIndex, leaderId });
    expect(node.logTerms()).to.deep.equal([1, 1, 2]);
  });
});

describe("RaftNode.readIndex()", () => {
  it("waits for a quorum of answers to heartbeats that were sent after it", () => {
    const node = leader({ voters: [1, 2, 3, 4, 5] });
    node.acknowledge(3, 1);
    node.raft.readIndex(utf8("r"));
    const { context } = ofKind(node.pump(), "heartbeat")[0] ?? { context: new Uint8Array(0) };

    node.step({ kind: "heartbeat-response", from: 2, term: 1, context });
    node.step({ kind: "heartbeat-response", from: 2, term: 1, context });
    expect(node.reads).to.deep.equal([]);
    node.step({ kind: "heartbeat-response", from: 3, term: 1, context });

    expect(node.reads.map((read) => read.index)).to.deep.equal([1]);
  });

  it("shares one round of heartbeats among all reads that wait", () => {
    const node = leader();
    for (let i = 0; i < 100; i += 1) node.raft.readIndex(utf8(`r${i}`));

    const beats = ofKind(node.pump(), "heartbeat");

    expect(beats.length).to.equal(2);
    node.step({ kind: "heartbeat-response", from: 2, term: 1, ...pick(beats[0]?.context) });
    expect(node.reads.length).to.equal(100);
  });

  it("asks again with the next heartbeat when the round was lost", () => {
    const node = leader();
    node.raft.readIndex(utf8("r"));
    node.pump();

    const beat = ofKind(node.tick(1), "heartbeat")[0];
    node.step({ kind: "heartbeat-response", from: 3, term: 1, ...pick(beat?.context) });

    expect(node.reads.length).to.equal(1);
  });

  it("holds as many reads as its limit, and drops the next", () => {
    const node = leader({ pendingReadsMax: 2 });

    expect(node.raft.readIndex(utf8("a"))).to.deep.equal(accepted);
    expect(node.raft.readIndex(utf8("b"))).to.deep.equal(accepted);
    expect(node.raft.readIndex(utf8("c"))).to.deep.equal({ outcome: "dropped", reason: "reads-full" });
  });

  it("is answered at once in a group of one, after its first entry is committed", () => {
    const node = new TestNode({ voters: [1] });
    node.campaign();
    node.raft.readIndex(utf8("r"));
    node.pump();

    expect(node.reads.map((read) => read.index)).to.deep.equal([1]);
  });

  it("is forgotten when leadership is lost", () => {
    const node = leader();
    node.raft.readIndex(utf8("r"));
    const { context } = ofKind(node.pump(), "heartbeat")[0] ?? { context: new Uint8Array(0) };

    node.step({ kind: "heartbeat", from: 2, term: 2 });
    node.step({ kind: "heartbeat-response", from: 3, term: 1, context });

    expect(node.reads).to.deep.equal([]);
  });
});

describe("RaftNode leadership", () => {
  it("steps down when no quorum is heard for an election timeout", () => {
    const node = leader({ checkQuorum: true });
    node.tick(10);
    expect(node.raft.basicStatus().role).to.equal("leader");

    node.tick(10);

    expect(node.raft.basicStatus().role).to.equal("follower");
  });

  it("is handed over with a message that lets the target campaign at once", () => {
    const node = leader();
    node.acknowledge(3, 1);

    node.raft.transferLeader(3);

    expect(theOnly(node.pump(), "timeout-now").to).to.equal(3);
  });

  it("goes to the target past the leases of the others", () => {
    const node = new TestNode({ checkQuorum: true, preVote: true });
    node.step({ kind: "heartbeat", from: 2, term: 1 });

    const asked = ofKind(node.step({ kind: "timeout-now", from: 2, term: 1 }), "vote")[0];
    const other = new TestNode({ id: 3, checkQuorum: true });
    other.step({ kind: "heartbeat", from: 2, to: 3, term: 1 });
    const answers = other.step({ ...(asked ?? { kind: "vote" }), to: 3 });

    expect(theOnly(answers, "vote-response").reject).to.equal(false);
  });

  it("never comes to a learner", () => {
    const node = new TestNode({ voters: [2, 3], learners: [1] });

    node.campaign();

    expect(node.raft.basicStatus().role).to.equal("follower");
  });
});

describe("RaftNode membership", () => {
  it("lets one change in at a time, and none that cannot be applied", () => {
    const node = leader();
    const refused = { outcome: "dropped", reason: "conf-change-refused" };

    expect(node.raft.proposeConfChange(change("r1 r2 r3"))).to.deep.equal(refused);
    expect(node.raft.proposeConfChange(change("v4"))).to.deep.equal(accepted);
    expect(node.raft.proposeConfChange(change("v5"))).to.deep.equal(refused);
    node.pump();
    node.acknowledge(2, 4);

    expect(node.raft.status().config).to.deep.equal(confState([1, 2, 3, 4]));
    expect(node.raft.proposeConfChange(change("v5"))).to.deep.equal(accepted);
  });

  it("steps down after applying its own removal", () => {
    const node = leader();
    node.raft.proposeConfChange(change("r1"));
    node.pump();

    node.acknowledge(2, 2);
    node.acknowledge(3, 2);

    expect(node.raft.basicStatus().role).to.equal("follower");
    expect(node.raft.status().config.voters).to.deep.equal([2, 3]);
  });

  it("ignores a change that a newer snapshot holds already", () => {
    const node = new TestNode();
    const snapshot = {
      metadata: { index: 9, term: 1, confState: confState([1, 2, 4]) },
      data: new Uint8Array(0),
    };
    node.step({ kind: "snapshot", from: 2, term: 1, snapshot });

    expect(node.raft.applyConfChange(change("v5"), 9).voters).to.deep.equal([1, 2, 4]);
    expect(node.raft.applyConfChange(change("v5"), 10).voters).to.deep.equal([1, 2, 4, 5]);
  });
});

describe("RaftNode snapshots", () => {
  const snapshot = {
    metadata: { index: 9, term: 2, confState: confState([1, 2, 3]) },
    data: new Uint8Array(0),
  };

  it("are taken by a follower that is behind, and acknowledged when installed", () => {
    const node = new TestNode({ terms: [1, 1] });

    const messages = node.step({ kind: "snapshot", from: 2, term: 2, snapshot });

    expect(theOnly(messages, "append-response").index).to.equal(9);
    expect([node.storage.firstIndex(), node.raft.basicStatus().appliedIndex]).to.deep.equal([10, 9]);
  });

  it("never move the commit index back, nor drop entries that they agree with", () => {
    const node = new TestNode({ terms: [1, 1, 1, 1], term: 2, commitIndex: 3 });
    const at = (index: number, term: number): typeof snapshot => ({
      ...snapshot,
      metadata: { ...snapshot.metadata, index, term },
    });

    expect(
      theOnly(node.step({ kind: "snapshot", from: 2, term: 2, snapshot: at(2, 1) }), "append-response").index,
    ).to.equal(3);
    node.step({ kind: "snapshot", from: 2, term: 2, snapshot: at(4, 1) });

    expect([
      node.storage.firstIndex(),
      node.storage.lastIndex(),
      node.raft.basicStatus().commitIndex,
    ]).to.deep.equal([1, 4, 4]);
  });

  it("are refused by a node that is not in them", () => {
    const node = new TestNode();
    const other = { ...snapshot, metadata: { ...snapshot.metadata, confState: confState([2, 3]) } };

    node.step({ kind: "snapshot", from: 2, term: 2, snapshot: other });

    expect(node.raft.basicStatus().lastIndex).to.equal(0);
  });
});

describe("RaftNode.ready()", () => {
  it("holds nothing when nothing happened", () => {
    expect(new TestNode().raft.hasReady()).to.equal(false);
  });

  it("must be confirmed before the next", () => {
    const node = new TestNode();
    node.raft.campaign();
    node.raft.ready();

    expect(() => node.raft.ready()).to.throw(/advance\(\) was not called/);
  });

  it("hands out lists that never change afterwards", () => {
    const node = new TestNode({ asyncStorageWrites: true });
    node.raft.step(makeMessage({ kind: "heartbeat", from: 2, to: 1, term: 1 }));
    const first = node.raft.ready().messages.find((message) => message.kind === "storage-append");
    expect(first?.responses).to.deep.equal([]);

    node.raft.step(makeMessage({ kind: "append", from: 2, to: 1, term: 1, entries: entriesOf([1]) }));

    expect(first?.responses).to.deep.equal([]);
  });

  it("applies again only what the state machine has not applied", () => {
    const node = new TestNode({ terms: [1, 1, 1], commitIndex: 1, appliedIndex: 2 });

    node.pump();

    // What was applied was committed, whatever the stored commit index says.
    expect([node.applied, node.raft.basicStatus().commitIndex]).to.deep.equal([[], 2]);
  });

  it("does not start on a log that lost what was committed", () => {
    expect(() => new TestNode({ terms: [1], commitIndex: 2 })).to.throw(/data was lost/);
  });
});

function pick(context: Uint8Array | undefined): { context?: Uint8Array } {
  return context === undefined ? {} : { context };
}
