/**
 * Whole nodes under faults: fixed seeds, a few new ones, and the same seed twice.
 *
 * A failure prints its seed and the command that runs it again (`npm run simulate -- --seed N`); the seed is then kept in
 * regression-seeds.ts with a line that says what it found.
 */
import { expect } from "chai";
import { NODE_REGRESSION_SEEDS } from "./regression-seeds.ts";
import { itHoldsForKnownSeeds, itHoldsForNewSeeds } from "./seed-tests.ts";
import { simulate } from "./sim-run.ts";
import { SimTotals } from "./sim-totals.ts";
import { SEED_TIMEOUT_MS } from "./sim-timeouts.ts";

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
  "processes ended by sync-error",
  "half-open",
  "swallowed by half-open connections",
  "promise-sync-error",
  "processes ended by promise-sync-error",
  "read-only-disk",
  "processes ended by read-only-disk",
  "too-many-files",
  "processes ended by too-many-files",
  "access-denied",
  "processes ended by access-denied",
  "read-error",
  "misdirected-write",
  "lost-write",
  "unreadable-page",
  "state-damage",
  "index-damage",
  "file-loss",
  "lost files noticed",
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
  "version: upgrade",
  "version: downgrade",
  "version: raise",
  "version: refused",
] as const;

describe("simulation of whole nodes", () => {
  const totals = new SimTotals();
  const run = async (seed: number): Promise<void> => {
    totals.add(await simulate(seed));
  };

  itHoldsForKnownSeeds(NODE_REGRESSION_SEEDS, FIXED_SEED_COUNT, run);

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

  itHoldsForNewSeeds(FRESH_SEED_COUNT, run);

  it("gives the same trace when a seed is run twice", async function () {
    this.timeout(SEED_TIMEOUT_MS);

    const first = await simulate(7);
    const second = await simulate(7);

    expect(second.traceHash).to.equal(first.traceHash);
    expect(second.eventCount).to.equal(first.eventCount);
    expect((await simulate(8)).traceHash).to.not.equal(first.traceHash);
  });
});
