/**
 * The core under random faults, and the proof that this finds what it should: historical bugs of other implementations are
 * switched on one at a time, and each must be found, either by a random run or by the situation that once showed it.
 *
 * Replay one run: new RandomGroup({ seed, steps, plantedFault }).run(steps) with the seed that is printed.
 */
import { expect } from "chai";
import type { PlantedFault } from "../../../src/raft/planted-faults.ts";
import { RandomGroup } from "../../support/raft/random-group.ts";
import { entriesOf, ofKind, TestNode } from "../../support/raft/test-node.ts";

const SEEDS = 8;
const STEPS = 6_000;
/** A planted fault must be found within this many seeds. */
const FAULT_SEEDS_MAX = 40;

/** What went wrong in a run, or undefined. */
function violationOf(seed: number, plantedFault: PlantedFault): string | undefined {
  try {
    new RandomGroup({ seed, steps: STEPS, plantedFault }).run(STEPS);
    return undefined;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

describe("a random group", () => {
  it(`keeps every invariant for ${SEEDS} seeds of ${STEPS} steps, in which everything happens`, function () {
    this.timeout(60_000);
    const totals = {
      committed: 0,
      elections: 0,
      crashes: 0,
      dropped: 0,
      repeated: 0,
      snapshots: 0,
      reads: 0,
      confChanges: 0,
    };

    for (let seed = 1; seed <= SEEDS; seed += 1) {
      const group = new RandomGroup({ seed, steps: STEPS });
      try {
        group.run(STEPS);
      } catch (error) {
        throw new Error(`seed=${seed} steps=${STEPS}`, { cause: error });
      }
      for (const key of Object.keys(totals) as (keyof typeof totals)[]) totals[key] += group.counts[key];
    }

    console.log(`      ${JSON.stringify(totals)}`);
    for (const [what, count] of Object.entries(totals)) expect(count, what).to.be.greaterThan(0);
  });

  it("does the same again for the same seed", () => {
    const traces = [1, 2].map(() => {
      const group = new RandomGroup({ seed: 7, steps: 3_000 });
      group.run(3_000);
      return group.trace;
    });

    expect(traces[0]).to.equal(traces[1]);
  });

  for (const fault of [
    "quorum-not-sorted",
    "old-snapshot-installed",
    "append-after-zero-accepted",
    "commit-moves-back",
    "old-term-committed",
    "vote-erased-on-step-down",
  ] as const) {
    it(`finds the planted fault ${fault}`, function () {
      this.timeout(60_000);
      let seed = 1;
      let found: string | undefined;

      while (found === undefined && seed <= FAULT_SEEDS_MAX) {
        found = violationOf(seed, fault);
        seed += 1;
      }

      console.log(`      found with seed=${seed - 1}: ${found}`);
      expect(found).to.be.a("string");
    });
  }
});

describe("planted faults that need a situation of their own", () => {
  /** Whether `run` shows the fault; it must without being planted stay right. */
  function expectOnlyWith(
    fault: PlantedFault,
    run: (plantedFault: PlantedFault | undefined) => boolean,
  ): void {
    expect(run(undefined), "without the fault").to.equal(false);
    expect(run(fault), "with the fault").to.equal(true);
  }

  it("read-round-reused: a late answer to an earlier round confirms a later read (R20)", () => {
    expectOnlyWith("read-round-reused", (plantedFault) => {
      const node = new TestNode({ plantedFault });
      node.lead();
      node.acknowledge(2, 1);
      node.raft.readIndex(new Uint8Array([1]));
      const first = ofKind(node.pump(), "heartbeat")[0]?.context;
      node.raft.readIndex(new Uint8Array([2]));
      node.pump();

      node.step({
        kind: "heartbeat-response",
        from: 2,
        term: 1,
        ...(first === undefined ? {} : { context: first }),
      });

      return node.reads.length === 2;
    });
  });

  it("flow-not-paused: a silent follower is sent more than its window (R22)", () => {
    expectOnlyWith("flow-not-paused", (plantedFault) => {
      const node = new TestNode({ plantedFault, inflightMessagesMax: 2 });
      node.lead();
      node.acknowledge(2, 1);
      const appends = [1, 2, 3, 4, 5].flatMap((i) => ofKind(node.propose(`${i}`), "append"));
      return appends.filter((one) => one.to === 2 && one.entries.length > 0).length > 2;
    });
  });

  it("old-votes-counted: a vote of an earlier term makes a leader (R1)", () => {
    expectOnlyWith("old-votes-counted", (plantedFault) => {
      const node = new TestNode({ plantedFault });
      node.campaign();
      node.campaign();
      node.step({ kind: "vote-response", from: 2, term: 1 });
      return node.raft.basicStatus().role === "leader";
    });
  });

  it("empty-append-for-snapshot: a follower commits its own entry instead of the leader's (R6)", () => {
    expectOnlyWith("empty-append-for-snapshot", (plantedFault) => {
      const leader = new TestNode({ plantedFault, terms: [1, 2], commitIndex: 2 });
      const follower = new TestNode({ plantedFault, id: 2, terms: [1, 1], commitIndex: 1 });
      leader.campaign();
      let toFollower = leader.step({ kind: "vote-response", from: 3, term: 3 });
      leader.storage.compact(2);
      for (let round = 0; round < 10; round += 1) {
        const answers = toFollower.filter((one) => one.to === 2).flatMap((one) => follower.step(one));
        toFollower = [...answers.flatMap((one) => leader.step(one)), ...leader.tick(1)];
      }
      return follower.applied.some((entry) => entry.index === 2 && entry.term === 1);
    });
  });

  it("commit-not-capped: a follower commits an entry that the message does not cover (R9)", () => {
    expectOnlyWith("commit-not-capped", (plantedFault) => {
      const node = new TestNode({ plantedFault, terms: [1, 1, 1], term: 2 });
      node.step({
        kind: "append",
        from: 2,
        term: 2,
        index: 1,
        logTerm: 1,
        entries: entriesOf([], 2),
        commitIndex: 3,
      });
      return node.raft.basicStatus().commitIndex > 1;
    });
  });
});
