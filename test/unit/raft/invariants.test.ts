/** The checks themselves: each must find the state it is there for, and stay silent on the states next to it. */
import { expect } from "chai";
import {
  ClusterInvariants,
  checkBasic,
  checkDelta,
  InvariantViolation,
  type NodeNumbers,
  type NodeView,
} from "../../../src/raft/invariants.ts";
import { makeMessage } from "../../../src/raft/message.ts";
import type { Role } from "../../../src/raft/types.ts";

interface Sketch {
  readonly id?: number;
  readonly term?: number;
  readonly role?: Role;
  readonly votedFor?: number;
  readonly commitIndex?: number;
  readonly appliedIndex?: number;
  /** Terms of the entries from index 1. */
  readonly log?: readonly number[];
  /** Distinguishes entries of the same term and index. */
  readonly data?: number;
}

function view(sketch: Sketch): NodeView {
  const { id = 1, log = [], data = 0, term = Math.max(0, ...log), role = "follower", votedFor = 0 } = sketch;
  const { commitIndex = 0, appliedIndex = 0 } = sketch;
  return {
    ...{ id, term, role, votedFor, commitIndex, appliedIndex, firstIndex: 1, lastIndex: log.length },
    termAt: (index) => log[index - 1] ?? 0,
    dataHashAt: () => data,
  };
}

/** The id of the invariant that `run` violates; "" for none. */
function violated(run: () => void): string {
  try {
    run();
    return "";
  } catch (error) {
    if (error instanceof InvariantViolation) return error.id;
    throw error;
  }
}

function group(...views: readonly Sketch[]): string {
  const invariants = new ClusterInvariants();
  return violated(() => {
    for (const one of views) invariants.observe(view(one));
  });
}

describe("checkBasic()", () => {
  for (const { name, numbers, id } of [
    { name: "applied beyond committed", numbers: { appliedIndex: 3, commitIndex: 2 }, id: "R15" },
    { name: "committed beyond the log", numbers: { commitIndex: 4 }, id: "R15" },
    {
      name: "applied beyond durable",
      numbers: { appliedIndex: 2, commitIndex: 2, stableIndex: 1 },
      id: "R15",
    },
    { name: "cut above applied", numbers: { firstIndex: 3, commitIndex: 2, appliedIndex: 1 }, id: "R15" },
    {
      name: "cut for a snapshot under way",
      numbers: { firstIndex: 3, commitIndex: 2, pendingSnapshotIndex: 2 },
      id: "",
    },
    { name: "all in order", numbers: { appliedIndex: 1, commitIndex: 2, stableIndex: 1 }, id: "" },
  ]) {
    it(`${id === "" ? "accepts" : "finds"} ${name}`, () => {
      const node: NodeNumbers = { ...view({ log: [1, 1, 1] }), ...numbers };

      expect(violated(() => checkBasic(node))).to.equal(id);
    });
  }
});

describe("checkDelta()", () => {
  const before = view({
    log: [1, 1, 1],
    term: 2,
    commitIndex: 2,
    appliedIndex: 1,
    votedFor: 1,
    role: "leader",
  });
  for (const { name, after, commitTerm, id } of [
    { name: "a lower term", after: { term: 1 }, commitTerm: 1, id: "R14" },
    { name: "a lower commit index", after: { commitIndex: 1 }, commitTerm: 1, id: "R14" },
    { name: "another vote in the same term", after: { votedFor: 2 }, commitTerm: 1, id: "R13" },
    { name: "an erased vote", after: { votedFor: 0 }, commitTerm: 1, id: "R13" },
    { name: "another vote in a later term", after: { votedFor: 2, term: 3 }, commitTerm: 1, id: "" },
    { name: "a leader with a shorter log", after: { lastIndex: 2 }, commitTerm: 1, id: "R3" },
    { name: "a leader that commits an earlier term", after: { commitIndex: 3 }, commitTerm: 1, id: "R11" },
    { name: "a leader that commits its own term", after: { commitIndex: 3 }, commitTerm: 2, id: "" },
  ]) {
    it(`${id === "" ? "accepts" : "finds"} ${name}`, () => {
      expect(violated(() => checkDelta(before, { ...before, ...after }, commitTerm))).to.equal(id);
    });
  }
});

describe("ClusterInvariants", () => {
  it("finds two leaders of one term, even one after the other (R1)", () => {
    expect(
      group({ id: 1, term: 2, role: "leader" }, { id: 1, term: 3 }, { id: 2, term: 2, role: "leader" }),
    ).to.equal("R1");
    expect(group({ id: 1, term: 2, role: "leader" }, { id: 2, term: 3, role: "leader" })).to.equal("");
  });

  it("finds entries of a term that its leader does not have (R2)", () => {
    expect(group({ id: 1, role: "leader", log: [1] }, { id: 2, log: [1, 1] })).to.equal("R2");
  });

  it("finds different entries at the same place of the same term (R4)", () => {
    expect(group({ id: 1, log: [1, 1], data: 1 }, { id: 2, log: [1, 1], data: 2 })).to.equal("R4");
    expect(group({ id: 1, log: [1, 1, 3] }, { id: 2, log: [1, 2, 3] })).to.equal("R4");
    expect(group({ id: 1, log: [1, 1, 2] }, { id: 2, log: [1, 1, 3] })).to.equal("");
  });

  it("finds a leader without what was committed before (R5)", () => {
    const committed = { id: 1, log: [1, 1], commitIndex: 2 };

    expect(group(committed, { id: 2, log: [1], term: 2, role: "leader" })).to.equal("R5");
    expect(group(committed, { id: 2, log: [1, 1], term: 2, role: "leader" })).to.equal("");
  });

  it("finds nodes that committed different logs (R9)", () => {
    expect(group({ id: 1, log: [1, 1], commitIndex: 2 }, { id: 2, log: [1, 2], commitIndex: 2 })).to.equal(
      "R9",
    );
    expect(group({ id: 1, log: [1, 1], commitIndex: 1 }, { id: 2, log: [1, 2], commitIndex: 2 })).to.equal(
      "",
    );
  });

  it("follows a log through truncation, and forgets a node that restarted", () => {
    const invariants = new ClusterInvariants();
    invariants.observe(view({ log: [1, 1, 1] }));
    invariants.observe(view({ log: [1, 2] }));
    invariants.restarted(1);

    expect(violated(() => invariants.observe(view({ log: [1], term: 2 })))).to.equal("");
    expect(violated(() => invariants.observe(view({ id: 2, log: [1, 2], data: 1 })))).to.equal("R4");
  });

  it("finds a second vote in one term, across restarts (R13)", () => {
    const invariants = new ClusterInvariants();
    const vote = { kind: "vote-response", from: 1, to: 2, term: 3 } as const;
    invariants.observeMessage(makeMessage(vote));
    invariants.restarted(1);
    invariants.observeMessage(makeMessage(vote));
    invariants.observeMessage(makeMessage({ ...vote, to: 3, reject: true }));

    expect(violated(() => invariants.observeMessage(makeMessage({ ...vote, to: 3 })))).to.equal("R13");
  });

  it("costs as much as what changed, not as the log is long", () => {
    const log = Array.from({ length: 50_000 }, () => 1);
    let looks = 0;
    const counted = (lastIndex: number): NodeView => ({
      ...{
        id: 1,
        term: 1,
        role: "follower",
        votedFor: 0,
        commitIndex: lastIndex,
        appliedIndex: 0,
        firstIndex: 1,
        lastIndex,
      },
      termAt: (index) => {
        looks += 1;
        return log[index - 1] ?? 0;
      },
      dataHashAt: () => 0,
    });
    const invariants = new ClusterInvariants();
    invariants.observe(counted(49_000));
    looks = 0;

    for (let lastIndex = 49_001; lastIndex <= 49_010; lastIndex += 1) invariants.observe(counted(lastIndex));

    expect(looks).to.be.lessThan(100);
  });
});
