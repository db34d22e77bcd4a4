/** The tests that every simulation of whole nodes has: seeds that once failed, a fixed list, and a few that nobody has run yet. */
import { SEED_LIST_TIMEOUT_MS, SEED_TIMEOUT_MS } from "./sim-timeouts.ts";

/** Runs one seed; rejects with what it found. */
export type RunSeed = (seed: number) => Promise<void>;

/** Defines the tests of the seeds that once failed, each by itself, and of the seeds 1 to `fixedCount`. */
export function itHoldsForKnownSeeds(failed: readonly number[], fixedCount: number, run: RunSeed): void {
  for (const seed of failed) {
    it(`holds for seed=${seed}, which once failed`, async function () {
      this.timeout(SEED_TIMEOUT_MS);
      await run(seed);
    });
  }

  it(`holds for the seeds 1 to ${fixedCount}`, async function () {
    this.timeout(SEED_LIST_TIMEOUT_MS);
    for (let seed = 1; seed <= fixedCount; seed += 1) await run(seed);
  });
}

/** Defines the tests of `count` seeds from the clock, each by itself, so that the name says which one failed. */
export function itHoldsForNewSeeds(count: number, run: RunSeed): void {
  const first = Date.now() % 1_000_000_000;
  for (let seed = first; seed < first + count; seed += 1) {
    it(`holds for the new seed=${seed}`, async function () {
      this.timeout(SEED_TIMEOUT_MS);
      await run(seed);
    });
  }
}
