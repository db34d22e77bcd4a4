/** The torture run, for seconds, on three and on five nodes. `npm run torture` runs it for as long as it is told. */
import { expect } from "chai";
import type { FaultKind } from "./nemesis.ts";
import { runTorture } from "./torture.ts";

/** Another run with SEED=7. */
const SEED = Number(process.env["SEED"] ?? "20261122");

/** With five nodes only what is different with five: two of them out of order at once, and who leads the rest. */
const KINDS_OF_FIVE: readonly FaultKind[] = [
  "kill-leader",
  "kill-follower",
  "pause-leader",
  "cut-leader-off",
  "cut-halves",
  "freeze-node",
  "reset-connections",
];

describe("A cluster of real processes under every kind of fault", () => {
  for (const nodes of [3, 5]) {
    it(`keeps what it acknowledged and explains what clients saw, with ${nodes} nodes (seed=${SEED})`, async function () {
      this.timeout(900_000);
      const summary = await runTorture({
        nodes,
        seed: SEED,
        kinds: nodes === 5 ? KINDS_OF_FIVE : undefined,
        durationMs: 0,
        faultMsMax: 1_200,
        pauseMsMax: 1_500,
        calmMs: 300,
        clients: 10,
        thinkMs: 10,
        fileBytesMax: 20 * 1024 * 1024,
        log: (line) => process.stdout.write(`      ${line}\n`),
      });
      process.stdout.write(`      ${JSON.stringify(summary)}\n`);

      expect(summary.files.certain).to.be.greaterThan(0);
      expect(summary.links.heldPieces).to.be.greaterThan(0);
    });
  }
});
