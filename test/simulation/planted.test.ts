/**
 * Every bug of the list is found by one of the simulators, and a run without one finds nothing (`npm run simulate -- --planted`
 * prints the same as a table).
 */
import { expect } from "chai";
import { PLANTED_LEVEL_FAULTS } from "../../src/cluster/planted-faults.ts";
import { PLANTED_FAULTS } from "../../src/raft/planted-faults.ts";
import { PLANTED_CHUNK_FAULTS } from "../../src/replication/planted-faults.ts";
import { CANARY, findBug, PLANTED_BUGS } from "./planted.ts";
import { SEED_LIST_TIMEOUT_MS, SEED_TIMEOUT_MS } from "./sim-timeouts.ts";

/** Shown by the situation that it needs: test/unit/replication/repair.test.ts. */
const DIRECTED = "G-14";

describe("planted bugs", () => {
  for (const bug of PLANTED_BUGS) {
    it(`finds ${bug.name}`, async function () {
      this.timeout(SEED_LIST_TIMEOUT_MS);

      const { seedCount, message } = await findBug(bug);

      expect(seedCount, message).to.be.a("number");
      console.log(`      after ${seedCount} seeds: ${message.slice(0, 140)}`);
    });
  }

  it("finds nothing where nothing is planted", async function () {
    this.timeout(SEED_TIMEOUT_MS);

    expect((await findBug(CANARY)).seedCount).to.equal(undefined);
  });

  it("looks for every fault that can be switched on", () => {
    const idOf = (text: string): string => text.split(":")[0] ?? text;
    const switchable = [
      ...Object.values(PLANTED_FAULTS),
      ...Object.values(PLANTED_CHUNK_FAULTS),
      ...Object.values(PLANTED_LEVEL_FAULTS),
    ].map(idOf);
    const looked = PLANTED_BUGS.map(({ name }) => idOf(name));

    expect(switchable.filter((id) => !looked.includes(id))).to.deep.equal([DIRECTED]);
  });
});
