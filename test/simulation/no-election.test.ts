/**
 * Goal: nobody is elected because the cluster is busy, a disk is stuck for a second, or a follower is away for two minutes.
 * Method: directed runs of whole nodes under load, in which all of it happens and somebody may lead in the first term alone.
 */
import { expect } from "chai";
import type { PlannedFault, SimPlan } from "./sim-plan.ts";
import { simulate } from "./sim-run.ts";

/** Clients at work all the time, and nothing that the seed would draw. */
const LOAD: Partial<SimPlan> = {
  changes: [],
  upgrade: undefined,
  loss: 0,
  duplication: 0,
  clockSkew: false,
  delayMeanMs: 1,
  diskMeanMs: 1,
  turnRate: 0.3,
  logEntryCountMax: 100,
  clientCount: 8,
  clientsApart: false,
  largeFiles: false,
  awaitsCollection: false,
};

async function expectOneLeader(seed: number, plan: Partial<SimPlan>, doneMin: number): Promise<void> {
  const { leaderCount, clients } = await simulate(seed, { plan: { ...LOAD, ...plan }, unguarded: true });
  expect(leaderCount, `leaders of seed ${seed}`).to.equal(1);
  expect(clients.done + clients.refused, "operations").to.be.greaterThan(doneMin);
}

describe("a cluster under load", function () {
  this.timeout(120_000);

  it("keeps its leader while a follower is away for two minutes, and when it comes back", async () => {
    const away: PlannedFault = {
      atMs: 3_000,
      kind: "pause",
      memberId: 1,
      part: "follower",
      durationMs: 120_000,
    };
    const plan = { faultMs: 126_000, faults: [away], thinkMeanMs: 2_000, operationCount: 60 };
    await expectOneLeader(1, plan, 100);
  });

  it("keeps its leader when the disk of the leader, and then of a follower, is stuck for a second", async () => {
    const stuck = (atMs: number, part: "leader" | "follower"): PlannedFault => ({
      ...{ atMs, part, kind: "stuck-disk", memberId: 1, durationMs: 1_000 },
    });
    const faults = [stuck(2_000, "leader"), stuck(4_000, "follower"), stuck(6_000, "leader")];
    const plan = { faultMs: 8_000, faults, thinkMeanMs: 50, operationCount: 80 };
    for (const seed of [1, 2]) await expectOneLeader(seed, plan, 300);
  });

  it("keeps its leader while clients ask as fast as they are answered", async () => {
    const plan = { faultMs: 2_000, faults: [], thinkMeanMs: 0.1, clientCount: 16, operationCount: 60 };
    await expectOneLeader(1, plan, 500);
  });
});
