/** RaftNode as its driver sees it: what is dropped and why, every bound one below and one above, and what a batch holds. */
import { expect } from "chai";
import { encodeConfChange } from "../../../src/raft/conf-change-codec.ts";
import { makeMessage } from "../../../src/raft/message.ts";
import type { ConfChange, LogEntry, Message } from "../../../src/raft/types.ts";
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
  for (const [appendsPerAnswerMax, sent] of [
    [1, [1, 1, 1, 1]],
    [2, [1, 2, 2, 2]],
    [undefined, [1, 8, 1, 1]],
  ] as const) {
    const bound = appendsPerAnswerMax === undefined ? "what the window takes" : `${appendsPerAnswerMax}`;
    it(`lets each answer of a follower that is behind let out ${bound}, until it has everything`, () => {
      const node = new TestNode({
        terms: Array.from({ length: 20 }, () => 1),
        entriesSizeBytesMax: 1,
        inflightMessagesMax: 8,
        ...(appendsPerAnswerMax === undefined ? {} : { appendsPerAnswerMax }),
      });
      const toSecond = (messages: readonly Message[]): Message[] =>
        ofKind(messages, "append").filter(({ to, entries }) => to === 2 && entries.length > 0);
      const { term } = node.raft.basicStatus();
      node.lead();
      // It has nothing: the first answer says so.
      const refusal = { kind: "append-response", from: 2, term: term + 1, reject: true, index: 20 } as const;
      const flying = toSecond(node.step({ ...refusal, rejectHint: 0, logTerm: 0 }));
      const counts = [flying.length];
      const received: number[] = [];
      for (let message = flying.shift(); message !== undefined; message = flying.shift()) {
        received.push(...message.entries.map(({ index }) => index));
        const answer = toSecond(node.acknowledge(2, received.at(-1) ?? 0));
        counts.push(answer.length);
        flying.push(...answer);
      }

      expect(counts.slice(0, sent.length)).to.deep.equal(sent);
      expect(received).to.deep.equal(Array.from({ length: 21 }, (_, at) => at + 1));
    });
  }

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

  it("does not put a change in force that a newer snapshot holds already, and says what followed from it there", () => {
    const node = new TestNode();
    const snapshot = {
      metadata: { index: 9, term: 1, confState: confState([1, 2, 4]) },
      data: new Uint8Array(0),
    };
    node.step({ kind: "snapshot", from: 2, term: 1, snapshot });

    const before = confState([1, 2, 3]);
    expect(node.raft.applyConfChange(change("v5"), 8, before).voters).to.deep.equal([1, 2, 3, 5]);
    expect(node.raft.status().config.voters).to.deep.equal([1, 2, 4]);
    const { config } = node.raft.status();
    expect(node.raft.applyConfChange(change("v5"), 10, config).voters).to.deep.equal([1, 2, 4, 5]);
    expect(node.raft.status().config.voters).to.deep.equal([1, 2, 4, 5]);
  });
});

describe("RaftNode commit index in votes", () => {
  /** A change that `steps` make, as the entry that comes after the stored ones. */
  function changeEntry(index: number, steps: string): LogEntry {
    return { index, term: 1, kind: "conf-change", data: encodeConfChange(change(steps)) };
  }

  /** Member 1 of 1 and 2, whose last entry, the third, removes member 2 and is not known to be committed. */
  function candidateBeforeRemoval(preVote: boolean): TestNode {
    const node = new TestNode({ voters: [1, 2], terms: [1, 1], commitIndex: 2, appliedIndex: 2, preVote });
    const entries = [changeEntry(3, "r2")];
    node.step({ kind: "append", from: 2, term: 1, index: 2, logTerm: 1, commitIndex: 2, entries });
    return node;
  }

  for (const preVote of [true, false]) {
    const response = preVote ? "pre-vote-response" : "vote-response";

    it(`a ${response} that refuses tells of a removal: it is applied, and the next election is won without the removed`, () => {
      const node = candidateBeforeRemoval(preVote);
      node.campaign();
      const { term } = node.raft.basicStatus();

      node.step({ kind: response, from: 2, term, reject: true, commitIndex: 3, commitTerm: 1 });

      expect(node.raft.status().config.voters).to.deep.equal([1]);
      expect(node.raft.basicStatus()).to.include({ role: "follower", term, commitIndex: 3 });
      node.campaign();
      expect(node.raft.basicStatus()).to.include({ role: "leader", term: term + 1 });
    });
  }

  it("ends a campaign when it makes a change committed: votes of the configuration before do not count, and none are asked for", () => {
    const node = new TestNode({ terms: [1, 1], commitIndex: 2, appliedIndex: 2 });
    const entries = [changeEntry(3, "r2")];
    node.step({ kind: "append", from: 2, term: 1, index: 2, logTerm: 1, commitIndex: 2, entries });
    node.campaign();

    const refusal = { kind: "vote-response", from: 2, to: 1, term: 2, reject: true } as const;
    node.raft.step(makeMessage({ ...refusal, commitIndex: 3, commitTerm: 1 }));
    node.raft.step(makeMessage({ kind: "vote-response", from: 3, to: 1, term: 2 }));
    node.raft.campaign();

    expect(node.raft.basicStatus()).to.include({
      role: "follower",
      term: 2,
      commitIndex: 3,
      appliedIndex: 2,
    });
    expect(ofKind(node.pump(), "vote")).to.deep.equal([]);
    const asked = ofKind(node.campaign(), "vote").map(({ to, term }) => [to, term]);
    expect(asked).to.deep.equal([[3, 3]]);
  });

  for (const preVote of [true, false]) {
    it(`is told with every request for a ${preVote ? "PreVote" : "vote"}`, () => {
      const node = new TestNode({ terms: [1, 1, 1], commitIndex: 2, appliedIndex: 2, preVote });

      const requests = ofKind(node.campaign(), preVote ? "pre-vote" : "vote");

      const told = requests.map(({ commitIndex, commitTerm }) => [commitIndex, commitTerm]);
      expect(told).to.deep.equal([
        [2, 1],
        [2, 1],
      ]);
    });
  }

  it("goes on with its election when what it learns holds no change", () => {
    const node = new TestNode({ terms: [1, 1, 1], commitIndex: 1, appliedIndex: 1 });
    node.campaign();

    node.step({ kind: "vote-response", from: 2, term: 2, reject: true, commitIndex: 3, commitTerm: 1 });
    expect(node.raft.basicStatus()).to.include({ role: "candidate", commitIndex: 3, appliedIndex: 3 });

    node.step({ kind: "vote-response", from: 3, term: 2 });
    expect(node.raft.basicStatus().role).to.equal("leader");
  });

  it("is taken from a refusal of a higher term too, which makes a follower", () => {
    const node = new TestNode({ terms: [1, 1], preVote: true });
    node.campaign();

    node.step({ kind: "pre-vote-response", from: 2, term: 7, reject: true, commitIndex: 2, commitTerm: 1 });

    expect(node.raft.basicStatus()).to.include({ role: "follower", term: 7, commitIndex: 2 });
  });

  for (const [name, commitIndex, commitTerm] of [
    ["an entry of another term", 3, 2],
    ["an entry beyond its log", 4, 1],
    ["an entry below what is committed", 1, 1],
    ["no term, as an older version does", 3, 0],
    ["nothing, as an older version does", 0, 0],
  ] as const) {
    it(`does not move when the refusal names ${name}`, () => {
      const node = new TestNode({ terms: [1, 1, 1], commitIndex: 2, appliedIndex: 2 });
      node.campaign();

      node.step({ kind: "vote-response", from: 2, term: 2, reject: true, commitIndex, commitTerm });

      expect(node.raft.basicStatus()).to.include({ role: "candidate", commitIndex: 2 });
    });
  }

  it("is not taken from a grant, nor by a leader", () => {
    const node = new TestNode({ terms: [1, 1], term: 1 });
    node.campaign();
    node.step({ kind: "vote-response", from: 2, term: 2, commitIndex: 2, commitTerm: 1 });
    expect(node.raft.basicStatus()).to.include({ role: "leader", commitIndex: 0 });

    node.step({ kind: "vote-response", from: 3, term: 2, reject: true, commitIndex: 2, commitTerm: 1 });
    expect(node.raft.basicStatus()).to.include({ role: "leader", commitIndex: 0 });
  });

  it("is told with every refusal, by learners and strangers too, and with no grant", () => {
    const request = { kind: "pre-vote", from: 2, term: 2, index: 2, logTerm: 1 } as const;
    for (const members of [{}, { voters: [2, 3], learners: [1] }, { voters: [2, 3] }]) {
      const node = new TestNode({ ...members, terms: [1, 1, 1], commitIndex: 2, appliedIndex: 2 });

      const refusal = theOnly(node.step(request), "pre-vote-response");
      expect(refusal).to.include({ reject: true, commitIndex: 2, commitTerm: 1 });

      const grant = theOnly(node.step({ ...request, index: 3 }), "pre-vote-response");
      expect(grant).to.include({ reject: false, commitIndex: 0, commitTerm: 0 });
    }
  });

  it("is told with the refusal of a term that is over", () => {
    const node = new TestNode({ terms: [1, 1], term: 5, commitIndex: 2, appliedIndex: 2 });

    const refusal = theOnly(node.step({ kind: "pre-vote", from: 2, term: 2 }), "pre-vote-response");

    expect(refusal).to.include({ reject: true, term: 5, commitIndex: 2, commitTerm: 1 });
  });

  it("has the term of the snapshot when the entry was cut off", () => {
    const node = new TestNode();
    const metadata = { index: 9, term: 4, confState: confState([1, 2, 3]) };
    node.step({ kind: "snapshot", from: 2, term: 4, snapshot: { metadata, data: new Uint8Array(0) } });

    const refusal = theOnly(node.step({ kind: "pre-vote", from: 3, term: 5 }), "pre-vote-response");

    expect(refusal).to.include({ reject: true, commitIndex: 9, commitTerm: 4 });
  });

  it("makes a voter of a learner whose log is longer than that of the only voter that knows of its promotion", () => {
    const learner = new TestNode({
      voters: [2, 3],
      learners: [1],
      terms: [1],
      commitIndex: 1,
      appliedIndex: 1,
    });
    const entries = [changeEntry(2, "v1"), ...entriesOf([1], 3)];
    learner.step({ kind: "append", from: 3, term: 1, index: 1, logTerm: 1, commitIndex: 1, entries });

    const request = {
      kind: "vote",
      from: 2,
      term: 2,
      index: 2,
      logTerm: 1,
      commitIndex: 2,
      commitTerm: 1,
    } as const;
    const answer = theOnly(learner.step(request), "vote-response");

    expect(answer.reject).to.equal(true);
    expect(learner.raft.status().config).to.deep.include({ voters: [1, 2, 3], learners: [] });
    learner.campaign();
    learner.step({ kind: "vote-response", from: 2, term: 3 });
    expect(learner.raft.basicStatus().role).to.equal("leader");
  });

  it("does not commit what is left of a damaged log", () => {
    const mending = { lastKnown: undefined, nonce: utf8("first") };
    const node = new TestNode({ terms: [1, 1], mending });

    node.step({ kind: "pre-vote", from: 2, term: 2, index: 2, logTerm: 1, commitIndex: 2, commitTerm: 1 });

    expect(node.raft.basicStatus().commitIndex).to.equal(0);
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
