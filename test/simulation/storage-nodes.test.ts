/**
 * Whole nodes, some of them without tree and vote, under faults: fixed seeds, new ones, and the situations that chance seldom makes.
 *
 * A failure prints its seed and the command that runs it again (`npm run simulate -- --storage --seed N`); the seed is then kept in
 * regression-seeds.ts with a line that says what it found.
 */
import { expect } from "chai";
import { VOTER_CONTACT_MS_MAX } from "../../src/drive/limits.ts";
import { STORAGE_REGRESSION_SEEDS } from "./regression-seeds.ts";
import { itHoldsForKnownSeeds, itHoldsForNewSeeds } from "./seed-tests.ts";
import { simulate } from "./sim-run.ts";
import { SimTotals } from "./sim-totals.ts";
import { SEED_TIMEOUT_MS } from "./sim-timeouts.ts";

const FIXED_SEED_COUNT = 30;
const FRESH_SEED_COUNT = 2;

const EVERY_KIND = [
  "partition of a storage-only node",
  "one-way-partition of a storage-only node",
  "power-loss of a storage-only node",
  "kill of a storage-only node",
  "pause of a storage-only node",
  "slow-disk of a storage-only node",
  "disk-full of a storage-only node",
  "sync-error of a storage-only node",
  "clock-jump of a storage-only node",
  "bit-flip of a storage-only node",
  "misdirected-write of a storage-only node",
  "lost-write of a storage-only node",
  "unreadable-page of a storage-only node",
  "index-damage of a storage-only node",
  "file-loss of a storage-only node",
  "membership: add-storage",
  "membership: remove-storage",
  "membership: wipe-storage",
  "membership: force-storage",
  "membership: drain-storage",
  "membership: empty-storage",
] as const;

describe("simulation of storage-only nodes", () => {
  const totals = new SimTotals();
  const run = async (seed: number): Promise<void> => {
    totals.add(await simulate(seed, { storage: true }));
  };

  itHoldsForKnownSeeds(STORAGE_REGRESSION_SEEDS, FIXED_SEED_COUNT, run);

  it("met every kind of fault of such a node, and clients were sent on to them, in these runs", () => {
    for (const kind of EVERY_KIND) expect(totals.get(kind), kind).to.be.greaterThan(0);
    for (const figure of [
      "downloads for a ticket",
      "copies at storage-only nodes",
      "bad copies found by storage-only nodes",
    ]) {
      expect(totals.get(figure), figure).to.be.greaterThan(0);
    }
  });

  itHoldsForNewSeeds(FRESH_SEED_COUNT, run);

  it("gives the same trace when a seed is run twice", async function () {
    this.timeout(SEED_TIMEOUT_MS);

    const first = await simulate(5, { storage: true });
    const second = await simulate(5, { storage: true });

    expect(second.traceHash).to.equal(first.traceHash);
    expect((await simulate(6, { storage: true })).traceHash).to.not.equal(first.traceHash);
  });

  it("serves nobody without a voter for longer than the bound, and everybody again afterwards (S1)", async function () {
    this.timeout(SEED_TIMEOUT_MS);

    const { counts } = await simulateLongSilence();

    expect(counts.ticketed).to.be.greaterThan(0);
  });
});

/** Clients go on with tickets of before at a node that no voter reaches, for longer than it may serve. */
async function simulateLongSilence(): Promise<{ readonly counts: { readonly ticketed: number } }> {
  const durationMs = VOTER_CONTACT_MS_MAX + 15_000;
  const { clients } = await simulate(3, {
    storage: true,
    plan: {
      storageCount: 2,
      faultMs: durationMs + 10_000,
      loss: 0,
      duplication: 0,
      changes: [],
      faults: [{ atMs: 5_000, kind: "partition", memberId: 1, part: "storage", durationMs }],
      clientCount: 3,
      operationCount: 120,
      thinkMeanMs: 400,
    },
  });
  return { counts: clients };
}
