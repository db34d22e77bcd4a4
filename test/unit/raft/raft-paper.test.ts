/**
 * The sentences of the Raft paper (Ongaro and Ousterhout, extended version), one test each, under the names that etcd's
 * raft_paper_test.go gives them, with the section they stand in; then figures 7 and 8.
 *
 * Method: one real node is given the messages of the situation by hand; what it sends and stores is compared.
 */
import { expect } from "chai";
import { SeededPrng } from "../../../src/std/prng.ts";
import { entriesOf, ofKind, TestNode, theOnly } from "../../support/raft/test-node.ts";

const ELECTION_TICKS = 10;

function candidate(): TestNode {
  const node = new TestNode();
  node.campaign();
  return node;
}

function follower(): TestNode {
  const node = new TestNode();
  node.step({ kind: "heartbeat", from: 2, term: 1 });
  return node;
}

function leader(voters: readonly number[] = [1, 2, 3]): TestNode {
  const node = new TestNode({ voters });
  node.lead();
  for (const from of voters) if (from !== 1) node.acknowledge(from, 1);
  return node;
}

describe("Raft 5.1, terms", () => {
  for (const [name, make] of [
    ["FollowerUpdateTermFromMessage", follower],
    ["CandidateUpdateTermFromMessage", candidate],
    ["LeaderUpdateTermFromMessage", leader],
  ] as const) {
    it(`${name}: a server with a smaller term takes the larger one and is a follower`, () => {
      const node = make();

      node.step({ kind: "append", from: 2, term: 2 });

      const { term, role, leaderId } = node.raft.basicStatus();
      expect({ term, role, leaderId }).to.deep.equal({ term: 2, role: "follower", leaderId: 2 });
    });
  }

  it("RejectStaleTermMessage: a request with a stale term changes nothing", () => {
    const node = new TestNode({ term: 2 });
    const before = node.raft.status();

    const messages = node.step({ kind: "append", from: 2, term: 1, entries: entriesOf([1]), commitIndex: 1 });

    expect(messages).to.deep.equal([]);
    expect(node.raft.status()).to.deep.equal(before);
  });
});

describe("Raft 5.2, leader election", () => {
  it("StartAsFollower: servers start as followers", () => {
    expect(new TestNode().raft.basicStatus().role).to.equal("follower");
  });

  it("LeaderBcastBeat: a leader sends heartbeats without entries to everybody", () => {
    const node = leader();

    const beats = ofKind(node.tick(1), "heartbeat");

    expect(beats.map((beat) => [beat.to, beat.term, beat.index, beat.entries.length])).to.deep.equal([
      [2, 1, 0, 0],
      [3, 1, 0, 0],
    ]);
  });

  for (const [name, make, term] of [
    ["FollowerStartElection", follower, 2],
    ["CandidateStartNewElection", candidate, 2],
  ] as const) {
    it(`${name}: after an election timeout it raises its term, votes for itself and asks everybody`, () => {
      const node = make();

      const asked = ofKind(node.tick(2 * ELECTION_TICKS - 1), "vote");

      const status = node.raft.basicStatus();
      expect([status.role, status.term, status.votedFor]).to.deep.equal(["candidate", term, 1]);
      expect(asked.map((vote) => [vote.to, vote.term])).to.deep.equal([
        [2, term],
        [3, term],
      ]);
    });
  }

  describe("LeaderElectionInOneRoundRPC", () => {
    for (const { size, votes, role } of [
      { size: 1, votes: {}, role: "leader" },
      { size: 3, votes: { 2: true, 3: true }, role: "leader" },
      { size: 3, votes: { 2: true }, role: "leader" },
      { size: 5, votes: { 2: true, 3: true, 4: true, 5: true }, role: "leader" },
      { size: 5, votes: { 2: true, 3: true, 4: true }, role: "leader" },
      { size: 5, votes: { 2: true, 3: true }, role: "leader" },
      { size: 3, votes: { 2: false, 3: false }, role: "follower" },
      { size: 5, votes: { 2: false, 3: false, 4: false, 5: false }, role: "follower" },
      { size: 5, votes: { 2: true, 3: false, 4: false, 5: false }, role: "follower" },
      { size: 3, votes: {}, role: "candidate" },
      { size: 5, votes: { 2: true }, role: "candidate" },
      { size: 5, votes: { 2: false, 3: false }, role: "candidate" },
      { size: 5, votes: {}, role: "candidate" },
    ]) {
      it(`of ${size}, answered ${JSON.stringify(votes)}: ${role}`, () => {
        const node = new TestNode({ voters: Array.from({ length: size }, (_, i) => i + 1) });
        node.campaign();

        for (const [from, granted] of Object.entries(votes)) {
          node.step({ kind: "vote-response", from: Number(from), term: 1, reject: !granted });
        }

        expect([node.raft.basicStatus().role, node.raft.basicStatus().term]).to.deep.equal([role, 1]);
      });
    }
  });

  describe("FollowerVote", () => {
    for (const { votedFor, from, isRejected } of [
      { votedFor: 0, from: 2, isRejected: false },
      { votedFor: 0, from: 3, isRejected: false },
      { votedFor: 2, from: 2, isRejected: false },
      { votedFor: 3, from: 3, isRejected: false },
      { votedFor: 2, from: 3, isRejected: true },
      { votedFor: 3, from: 2, isRejected: true },
    ]) {
      it(`having voted for ${votedFor}, asked by ${from}: ${isRejected ? "no" : "yes"}`, () => {
        const node = new TestNode({ term: 1, votedFor });

        const answer = theOnly(node.step({ kind: "vote", from, term: 1 }), "vote-response");

        expect([answer.to, answer.reject]).to.deep.equal([from, isRejected]);
      });
    }
  });

  for (const term of [1, 2]) {
    it(`CandidateFallback: an append of term ${term} shows a legitimate leader`, () => {
      const node = candidate();

      node.step({ kind: "append", from: 2, term });

      expect([node.raft.basicStatus().role, node.raft.basicStatus().term]).to.deep.equal(["follower", term]);
    });
  }

  for (const [name, restart] of [
    [
      "FollowerElectionTimeoutRandomized",
      (node: TestNode, term: number) => node.step({ kind: "append", from: 2, term }),
    ],
    ["CandidateElectionTimeoutRandomized", (node: TestNode) => node.campaign()],
  ] as const) {
    it(`${name}: every timeout from one to two election timeouts happens`, () => {
      const node = new TestNode();
      const timeouts = new Set<number>();

      for (let round = 0; round < 50 * ELECTION_TICKS; round += 1) {
        restart(node, node.raft.basicStatus().term + 1);
        let ticks = 1;
        while (node.tick(1).length === 0) ticks += 1;
        timeouts.add(ticks);
      }

      expect([...timeouts].sort((a, b) => a - b)).to.deep.equal([10, 11, 12, 13, 14, 15, 16, 17, 18, 19]);
    });
  }

  for (const [name, restart] of [
    [
      "FollowersElectionTimeoutNonconflict",
      (node: TestNode, term: number) => node.step({ kind: "append", from: 9, term }),
    ],
    ["CandidatesElectionTimeoutNonconflict", (node: TestNode) => node.campaign()],
  ] as const) {
    it(`${name}: in most cases a single server times out`, () => {
      const nodes = [1, 2, 3, 4, 5].map(
        (seed) => new TestNode({ voters: [1, 2, 3, 4, 5], prng: new SeededPrng(seed) }),
      );
      let conflicts = 0;

      for (let round = 0; round < 1_000; round += 1) {
        for (const node of nodes) restart(node, node.raft.basicStatus().term + 1);
        let timedOut = 0;
        while (timedOut === 0) timedOut = nodes.filter((node) => node.tick(1).length > 0).length;
        if (timedOut > 1) conflicts += 1;
      }

      expect(conflicts).to.be.at.most(300);
    });
  }
});

describe("Raft 5.3, log replication", () => {
  it("LeaderStartReplication: a leader appends a proposal and sends it with the entry before it", () => {
    const node = leader();

    const appends = ofKind(node.propose("x"), "append");

    expect(node.logTerms()).to.deep.equal([1, 1]);
    expect(node.raft.basicStatus().commitIndex).to.equal(1);
    expect(
      appends.map((one) => [one.to, one.index, one.logTerm, one.entries[0]?.index, one.commitIndex]),
    ).to.deep.equal([
      [2, 1, 1, 2, 1],
      [3, 1, 1, 2, 1],
    ]);
  });

  it("LeaderCommitEntry: once replicated it is applied, and later messages tell the commit index", () => {
    const node = leader();
    node.propose("x");

    const messages = node.acknowledge(2, 2);

    expect(node.applied.map((entry) => entry.index)).to.deep.equal([1, 2]);
    expect(ofKind(messages, "append").map((one) => one.commitIndex)).to.deep.equal([2, 2]);
  });

  describe("LeaderAcknowledgeCommit", () => {
    for (const { size, acceptors, isCommitted } of [
      { size: 1, acceptors: [], isCommitted: true },
      { size: 3, acceptors: [], isCommitted: false },
      { size: 3, acceptors: [2], isCommitted: true },
      { size: 3, acceptors: [2, 3], isCommitted: true },
      { size: 5, acceptors: [], isCommitted: false },
      { size: 5, acceptors: [2], isCommitted: false },
      { size: 5, acceptors: [2, 3], isCommitted: true },
      { size: 5, acceptors: [2, 3, 4], isCommitted: true },
      { size: 5, acceptors: [2, 3, 4, 5], isCommitted: true },
    ]) {
      it(`of ${size}, stored by the leader and ${JSON.stringify(acceptors)}: ${isCommitted}`, () => {
        const node = leader(Array.from({ length: size }, (_, i) => i + 1));
        node.propose("x");

        for (const from of acceptors) node.acknowledge(from, 2);

        expect(node.raft.basicStatus().commitIndex === 2).to.equal(isCommitted);
      });
    }
  });

  for (const terms of [[], [2], [1, 2], [1]]) {
    it(`LeaderCommitPrecedingEntries: committing its entry commits ${JSON.stringify(terms)} before it`, () => {
      const node = new TestNode({ terms, term: 2 });
      node.lead();
      node.propose("x");

      node.acknowledge(2, terms.length + 2);

      expect(node.applied.map((entry) => entry.term)).to.deep.equal([...terms, 3, 3]);
    });
  }

  for (const { count, commitIndex } of [
    { count: 1, commitIndex: 1 },
    { count: 2, commitIndex: 2 },
    { count: 2, commitIndex: 1 },
  ]) {
    it(`FollowerCommitEntry: told that ${commitIndex} of ${count} is committed, it applies that much in order`, () => {
      const node = new TestNode();
      const entries = entriesOf(Array.from({ length: count }, () => 1));

      node.step({ kind: "append", from: 2, term: 1, entries, commitIndex });

      expect(node.applied.map((entry) => entry.index)).to.deep.equal([1, 2].slice(0, commitIndex));
    });
  }

  for (const { term, index, isRejected, hint, logTerm, answer } of [
    { term: 0, index: 0, isRejected: false, hint: 0, logTerm: 0, answer: 1 },
    { term: 1, index: 1, isRejected: false, hint: 0, logTerm: 0, answer: 1 },
    { term: 2, index: 2, isRejected: false, hint: 0, logTerm: 0, answer: 2 },
    { term: 1, index: 2, isRejected: true, hint: 1, logTerm: 1, answer: 2 },
    { term: 3, index: 3, isRejected: true, hint: 2, logTerm: 2, answer: 3 },
  ]) {
    it(`FollowerCheckMsgApp: an append after ${term}/${index} is ${isRejected ? "refused" : "taken"}`, () => {
      const node = new TestNode({ terms: [1, 2], commitIndex: 1 });

      const messages = node.step({ kind: "append", from: 2, term: 2, logTerm: term, index });

      const got = theOnly(messages, "append-response");
      expect([got.reject, got.rejectHint, got.logTerm, got.index]).to.deep.equal([
        isRejected,
        hint,
        logTerm,
        answer,
      ]);
    });
  }

  for (const { index, logTerm, sent, log } of [
    { index: 2, logTerm: 2, sent: [3], log: [1, 2, 3] },
    { index: 1, logTerm: 1, sent: [3, 4], log: [1, 3, 4] },
    { index: 0, logTerm: 0, sent: [1], log: [1, 2] },
    { index: 0, logTerm: 0, sent: [3], log: [3] },
  ]) {
    it(`FollowerAppendEntries: [1,2] and ${JSON.stringify(sent)} after ${index} give ${JSON.stringify(log)}`, () => {
      const node = new TestNode({ terms: [1, 2] });

      node.step({ kind: "append", from: 2, term: 4, index, logTerm, entries: entriesOf(sent, index + 1) });

      expect(node.logTerms()).to.deep.equal(log);
    });
  }

  it("VoteRequest: a vote request names the candidate's last entry and term", () => {
    const node = new TestNode({ terms: [1, 2], term: 2 });

    const votes = ofKind(node.campaign(), "vote");

    expect(votes.map((vote) => [vote.to, vote.term, vote.logTerm, vote.index])).to.deep.equal([
      [2, 3, 2, 2],
      [3, 3, 2, 2],
    ]);
  });
});

describe("Raft figure 7: LeaderSyncFollowerLog", () => {
  const leaderTerms = [1, 1, 1, 4, 4, 5, 5, 6, 6, 6];
  for (const [name, terms] of Object.entries({
    a: [1, 1, 1, 4, 4, 5, 5, 6, 6],
    b: [1, 1, 1, 4],
    c: [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
    d: [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
    e: [1, 1, 1, 4, 4, 4, 4],
    f: [1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
  })) {
    it(`follower (${name}) ends with the leader's log`, () => {
      const first = new TestNode({ terms: leaderTerms, term: 8, commitIndex: 3 });
      const second = new TestNode({ id: 2, terms, term: 8, commitIndex: 3 });
      first.campaign();
      // The vote of node 3 makes node 1 the leader, whatever log node 2 has.
      let toSecond = first.step({ kind: "vote-response", from: 3, term: 9 });

      while (toSecond.length > 0) {
        const answers = toSecond.filter((one) => one.to === 2).flatMap((one) => second.step(one));
        toSecond = answers.flatMap((one) => first.step(one));
      }

      expect(second.logTerms()).to.deep.equal([...leaderTerms, 9]);
      expect(second.raft.basicStatus().commitIndex).to.equal(11);
    });
  }
});

describe("Raft 5.4, safety", () => {
  for (const { ours, term, index, isRejected } of [
    { ours: [1], term: 1, index: 1, isRejected: false },
    { ours: [1], term: 1, index: 2, isRejected: false },
    { ours: [1, 1], term: 1, index: 1, isRejected: true },
    { ours: [1], term: 2, index: 1, isRejected: false },
    { ours: [1], term: 2, index: 2, isRejected: false },
    { ours: [1, 1], term: 2, index: 1, isRejected: false },
    { ours: [2], term: 1, index: 1, isRejected: true },
    { ours: [2], term: 1, index: 2, isRejected: true },
    { ours: [2, 1], term: 1, index: 1, isRejected: true },
  ]) {
    it(`Voter: with log ${JSON.stringify(ours)}, a candidate at ${term}/${index} gets ${isRejected ? "no" : "a"} vote`, () => {
      const node = new TestNode({ terms: ours, term: 2 });

      const messages = node.step({ kind: "vote", from: 2, term: 3, logTerm: term, index });

      expect(theOnly(messages, "vote-response").reject).to.equal(isRejected);
    });
  }

  for (const { index, commitIndex } of [
    { index: 1, commitIndex: 0 },
    { index: 2, commitIndex: 0 },
    { index: 3, commitIndex: 3 },
  ]) {
    it(`LeaderOnlyCommitsLogFromCurrentTerm: a majority holds [1,2,3] up to ${index}, committed is ${commitIndex}`, () => {
      const node = new TestNode({ terms: [1, 2], term: 2 });
      node.lead();

      node.acknowledge(2, index);

      expect(node.raft.basicStatus().commitIndex).to.equal(commitIndex);
    });
  }

  it("figure 8: an entry of an earlier term on a majority is not committed, and may be overwritten (c, d)", () => {
    // S1 of the figure leads term 4 and brings its entry of term 2 to S2 and S3: a majority of five.
    const s1 = new TestNode({ voters: [1, 2, 3, 4, 5], terms: [1, 2], term: 3, commitIndex: 1 });
    s1.lead();
    s1.acknowledge(2, 2);
    s1.acknowledge(3, 2);
    expect(s1.raft.basicStatus().commitIndex).to.equal(1);

    // S5, with its entry of term 3, leads term 5 and overwrites.
    s1.step({
      kind: "append",
      from: 5,
      term: 5,
      index: 1,
      logTerm: 1,
      entries: entriesOf([3, 5], 2),
      commitIndex: 1,
    });

    expect(s1.logTerms()).to.deep.equal([1, 3, 5]);
  });

  it("figure 8: once an entry of its own term is on a majority, everything before is committed too (e)", () => {
    const s1 = new TestNode({ voters: [1, 2, 3, 4, 5], terms: [1, 2], term: 3, commitIndex: 1 });
    s1.lead();

    s1.acknowledge(2, 3);
    s1.acknowledge(3, 3);

    expect(s1.raft.basicStatus().commitIndex).to.equal(3);
    const refused = s1.step({ kind: "vote", from: 5, term: 5, logTerm: 3, index: 2 });
    expect(theOnly(refused, "vote-response").reject).to.equal(true);
  });
});
