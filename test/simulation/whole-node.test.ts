/**
 * Whole nodes under faults: fixed seeds, a few new ones, and the same seed twice.
 *
 * A failure prints its seed and the command that runs it again (`npm run simulate -- --seed N`); the seed is then kept in
 * regression-seeds.ts with a line that says what it found.
 */
import { expect } from "chai";
import { NODE_REGRESSION_SEEDS } from "./regression-seeds.ts";
import { simulate } from "./sim-run.ts";
import { SimTotals } from "./sim-totals.ts";

const FIXED_SEED_FIRST = 1;
const FIXED_SEED_COUNT = 100;
const FRESH_SEED_COUNT = 4;

const EVERY_FAULT = [
  "partition",
  "one-way-partition",
  "power-loss",
  "kill",
  "power-loss-of-all",
  "pause",
  "slow-disk",
  "bit-flip",
  "log-rot",
  "disk-full",
  "sync-error",
  "processes ended by a failed sync",
  "misdirected-write",
  "lost-write",
  "unreadable-page",
  "state-damage",
  "index-damage",
  "clock-jump",
  "old-replay",
  "foreign-message",
  "messages lost",
  "messages doubled",
  "messages blocked",
  "connections broken",
  "clock skew (runs)",
  "membership: add",
  "membership: remove",
  "membership: replace",
  "membership: wipe",
  "membership: force",
  "membership: transfer",
] as const;

describe("simulation of whole nodes", () => {
  const totals = new SimTotals();
  const run = async (seed: number): Promise<void> => {
    totals.add(await simulate(seed));
  };

  for (const seed of NODE_REGRESSION_SEEDS) {
    it(`holds for seed=${seed}, which once failed`, async function () {
      this.timeout(60_000);
      await run(seed);
    });
  }

  it(`holds for the seeds ${FIXED_SEED_FIRST} to ${FIXED_SEED_FIRST + FIXED_SEED_COUNT - 1}`, async function () {
    this.timeout(300_000);
    for (let i = 0; i < FIXED_SEED_COUNT; i += 1) await run(FIXED_SEED_FIRST + i);
  });

  it("met every kind of fault, and did work, in these runs", () => {
    for (const fault of EVERY_FAULT) expect(totals.get(fault), fault).to.be.greaterThan(0);
    for (const figure of [
      "operations done",
      "outcomes unknown",
      "large files",
      "copies repaired",
      "retries",
      "configurations",
      "change events",
      "watchers resumed",
    ]) {
      expect(totals.get(figure), figure).to.be.greaterThan(0);
    }
  });

  const fresh = Date.now() % 1_000_000_000;
  for (let seed = fresh; seed < fresh + FRESH_SEED_COUNT; seed += 1) {
    it(`holds for the new seed=${seed}`, async function () {
      this.timeout(60_000);
      await run(seed);
    });
  }

  it("gives the same trace when a seed is run twice", async function () {
    this.timeout(60_000);

    const first = await simulate(7);
    const second = await simulate(7);

    expect(second.traceHash).to.equal(first.traceHash);
    expect(second.eventCount).to.equal(first.eventCount);
    expect((await simulate(8)).traceHash).to.not.equal(first.traceHash);
  });
});
