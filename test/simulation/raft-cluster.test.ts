/**
 * The Raft core in clusters of three and five under every fault of the list: fixed seeds, new ones, the same seed twice.
 *
 * A failure prints its seed and the command that runs it again (`npm run simulate -- --raft --seed N`); the seed is then kept
 * in regression-seeds.ts with a line that says what it found.
 */
import { expect } from "chai";
import { CLUSTER_FAULTS } from "./raft-cluster/cluster-plan.ts";
import { runCluster, type ClusterResult } from "./raft-cluster/cluster-run.ts";
import { ClusterTotals } from "./raft-cluster/cluster-totals.ts";
import { CLUSTER_REGRESSION_SEEDS } from "./regression-seeds.ts";
import { SEED_LIST_TIMEOUT_MS, SEED_TIMEOUT_MS } from "./sim-timeouts.ts";

const SEED_COUNT = 200;
const FRESH_SEED_COUNT = 10;

describe("simulation of a Raft cluster", () => {
  const totals = new ClusterTotals();
  const run = (seed: number): ClusterResult => {
    const result = runCluster(seed);
    totals.add(result);
    return result;
  };

  it(`holds for the seeds 1 to ${SEED_COUNT}`, function () {
    this.timeout(SEED_LIST_TIMEOUT_MS);
    for (let seed = 1; seed <= SEED_COUNT; seed += 1) run(seed);
  });

  it("met every kind of fault, and did work, in these runs", () => {
    console.log(`      ${totals.describe()}`);

    for (const fault of Object.keys(CLUSTER_FAULTS)) expect(totals.get(fault), fault).to.be.greaterThan(0);
    for (const [figure, count] of totals.figures()) expect(count, figure).to.be.greaterThan(0);
  });

  it("holds for the seeds that once failed", function () {
    this.timeout(SEED_TIMEOUT_MS);
    for (const seed of CLUSTER_REGRESSION_SEEDS) run(seed);
  });

  const fresh = Date.now() % 1_000_000_000;
  it(`holds for the new seeds from ${fresh} on`, function () {
    this.timeout(SEED_TIMEOUT_MS);
    for (let seed = fresh; seed < fresh + FRESH_SEED_COUNT; seed += 1) run(seed);
  });

  it("gives the same trace when a seed is run twice", function () {
    this.timeout(SEED_TIMEOUT_MS);

    for (const seed of [1, 2, 3]) expect(runCluster(seed).trace).to.equal(runCluster(seed).trace);

    expect(runCluster(1).trace).to.not.equal(runCluster(2).trace);
  });
});
