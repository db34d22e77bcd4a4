/**
 * `npm run simulate`: runs seeds of the whole-node simulation and prints what they did.
 *
 *   --seed N            one seed, twice: its trace hash must be the same
 *   --seeds N --from M  N seeds from M on (default 1)
 *   (neither)           seeds from --from on, or from the clock, until one fails
 */
import { parseArgs } from "node:util";
import { simulate, SimFailure, type SimResult } from "./sim-run.ts";
import { SimTotals } from "./sim-totals.ts";

function line(result: SimResult, realMs: number): string {
  const { seed, eventCount, virtualMs, commitIndex, restartCount, clients, traceHash } = result;
  const { done, refused, unknown, notDone } = clients;
  return `seed=${seed} ${eventCount} events, ${(virtualMs / 1000).toFixed(1)} s virtual in ${(realMs / 1000).toFixed(2)} s, ${commitIndex} entries, ${restartCount} restarts, ${done} done, ${refused} refused, ${unknown} unknown, ${notDone} not done, trace ${traceHash.slice(0, 16)}`;
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: { seed: { type: "string" }, seeds: { type: "string" }, from: { type: "string" } },
  });
  const start = Number(values.seed ?? values.from ?? (values.seeds === undefined ? Date.now() % 1e9 : 1));
  const count = values.seed === undefined ? Number(values.seeds ?? Number.POSITIVE_INFINITY) : 2;
  const totals = new SimTotals();
  let hash: string | undefined;
  let failures = 0;
  for (let i = 0; i < count; i += 1) {
    const seed = values.seed === undefined ? start + i : start;
    const startMs = performance.now();
    try {
      const result = await simulate(seed);
      totals.add(result);
      process.stdout.write(`${line(result, performance.now() - startMs)}\n`);
      if (values.seed === undefined) continue;
      if (hash !== undefined && hash !== result.traceHash)
        throw new Error("the same seed gave another trace");
      hash = result.traceHash;
    } catch (error) {
      failures += 1;
      process.stdout.write(`${error instanceof SimFailure ? error.message : String(error)}\n`);
      if (values.seeds === undefined) break;
    }
  }
  process.stdout.write(`${totals.describe()}\n${totals.runCount} passed, ${failures} failed\n`);
  process.exitCode = failures === 0 ? 0 : 1;
}

await main();
