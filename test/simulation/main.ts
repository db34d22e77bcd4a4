/**
 * `npm run simulate`: runs seeds of the simulations and prints what they did.
 *
 *   --seed N            one seed, twice: its trace hash must be the same
 *   --seeds N --from M  N seeds from M on (default 1), all failures listed
 *   (neither)           seeds from --from on, or from the clock, until one fails
 *   --storage           whole nodes, some of them without tree and vote
 *   --raft              the Raft cluster instead of whole nodes
 *   --planted           looks for every planted bug, and prints how many seeds each took
 *   --record            the seeds of every test run and all planted bugs, counted into test/RELIABILITY.md;
 *                       --torture FILE, as often as wanted, adds outputs of `npm run torture`
 *   --record --planted  adds the planted bugs that are not in it yet
 *   --page              makes that page anew from its list and the recorded run
 */
import { parseArgs } from "node:util";
import { CANARY, findBug, PLANTED_BUGS } from "./planted.ts";
import { runCluster } from "./raft-cluster/cluster-run.ts";
import { ClusterTotals } from "./raft-cluster/cluster-totals.ts";
import { makePage, record, recordPlanted } from "../reliability/record.ts";
import { simulate, type SimResult } from "./sim-run.ts";
import { SimTotals } from "./sim-totals.ts";

function line(result: SimResult, realMs: number): string {
  const { seed, eventCount, virtualMs, commitIndex, restartCount, clients, traceHash } = result;
  const { done, refused, unknown, notDone } = clients;
  return `seed=${seed} ${eventCount} events, ${(virtualMs / 1000).toFixed(1)} s virtual in ${(realMs / 1000).toFixed(2)} s, ${commitIndex} entries, ${restartCount} restarts, ${done} done, ${refused} refused, ${unknown} unknown, ${notDone} not done, trace ${traceHash.slice(0, 16)}`;
}

/** One kind of simulation: runs a seed, says what it did and gives its trace. */
interface Runner {
  readonly run: (seed: number) => Promise<{ readonly trace: string; readonly line: string }>;
  readonly totals: { readonly runCount: number; describe(): string };
}

function nodeRunner(storage: boolean): Runner {
  const totals = new SimTotals();
  const run: Runner["run"] = async (seed) => {
    const startMs = performance.now();
    const result = await simulate(seed, { storage });
    totals.add(result);
    return { trace: result.traceHash, line: line(result, performance.now() - startMs) };
  };
  return { run, totals };
}

function clusterRunner(): Runner {
  const totals = new ClusterTotals();
  const run: Runner["run"] = (seed) => {
    const result = runCluster(seed);
    totals.add(result);
    const { trace, observations, figures } = result;
    const shown = `seed=${seed} ${observations} looks, ${figures["entries committed"]} entries, ${figures.elections} elections, ${figures.restarts} restarts, trace ${trace}`;
    return Promise.resolve({ trace: String(trace), line: shown });
  };
  return { run, totals };
}

/** Looks for every planted bug; whether all were found, and the canary was not. */
async function findAll(): Promise<boolean> {
  let isGood = true;
  for (const bug of [...PLANTED_BUGS, CANARY]) {
    const { seedCount, message } = await findBug(bug);
    const isRight = (seedCount === undefined) === (bug === CANARY);
    isGood &&= isRight;
    const count = seedCount === undefined ? "not found" : `${seedCount} seed${seedCount === 1 ? "" : "s"}`;
    process.stdout.write(
      `${isRight ? "ok  " : "FAIL"} ${count.padEnd(10)} ${bug.where}: ${bug.name}\n       ${message}\n`,
    );
  }
  return isGood;
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      seed: { type: "string" },
      seeds: { type: "string" },
      from: { type: "string" },
      raft: { type: "boolean" },
      storage: { type: "boolean" },
      planted: { type: "boolean" },
      record: { type: "boolean" },
      page: { type: "boolean" },
      torture: { type: "string", multiple: true },
    },
  });
  if (values.page === true) {
    makePage();
    return;
  }
  if (values.record === true && values.planted === true) {
    await recordPlanted();
    return;
  }
  if (values.record === true) {
    await record(values.torture ?? []);
    return;
  }
  if (values.planted === true) {
    process.exitCode = (await findAll()) ? 0 : 1;
    return;
  }
  const start = Number(values.seed ?? values.from ?? (values.seeds === undefined ? Date.now() % 1e9 : 1));
  const count = values.seed === undefined ? Number(values.seeds ?? Number.POSITIVE_INFINITY) : 2;
  const { run, totals } = values.raft === true ? clusterRunner() : nodeRunner(values.storage === true);
  let hash: string | undefined;
  let failures = 0;
  for (let i = 0; i < count; i += 1) {
    const seed = values.seed === undefined ? start + i : start;
    try {
      const result = await run(seed);
      process.stdout.write(`${result.line}\n`);
      if (values.seed === undefined) continue;
      if (hash !== undefined && hash !== result.trace) throw new Error("the same seed gave another trace");
      hash = result.trace;
    } catch (error) {
      failures += 1;
      process.stdout.write(`${error instanceof Error ? error.message : String(error)}\n`);
      if (values.seeds === undefined) break;
    }
  }
  process.stdout.write(`${totals.describe()}\n${totals.runCount} passed, ${failures} failed\n`);
  process.exitCode = failures === 0 ? 0 : 1;
}

await main();
