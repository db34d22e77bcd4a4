/**
 * The long torture run: npm run torture -- --minutes 30 --seed N --nodes 5 [--clients 10] [--kinds kill-leader,pause-leader]
 * or, of elections alone: npm run torture -- --elections [--nodes 3]
 * or, of a follower that is away for two minutes under load: npm run torture -- --pause-follower 120 --nodes 3
 * Prints what it does and, at the end, the figures as JSON. Ends with 1 when anything is wrong; logs and data are kept then.
 */
import { parseArgs } from "node:util";
import { runElections, runPause } from "./elections.ts";
import { FAULT_KINDS } from "./nemesis.ts";
import { runTorture } from "./torture.ts";

const { values } = parseArgs({
  options: {
    minutes: { type: "string", default: "30" },
    seed: { type: "string", default: String(Math.floor(Math.random() * 1_000_000)) },
    nodes: { type: "string", default: "5" },
    clients: { type: "string", default: "10" },
    kinds: { type: "string", default: FAULT_KINDS.join() },
    elections: { type: "boolean", default: false },
    "pause-follower": { type: "string" },
  },
});

const chosen = values.kinds.split(",");
const unknown = chosen.filter((kind) => !FAULT_KINDS.some((each) => each === kind));
if (unknown.length > 0) throw new Error(`no such kinds of faults: ${unknown.join(", ")}`);

const log = (line: string): void => void process.stdout.write(`${line}\n`);

/** Longest median time from the kill of a leader to the next acknowledged write. */
const FAILOVER_P50_MS_MAX = 500;

async function elections(): Promise<void> {
  const summary = await runElections({
    nodes: Number(values.nodes),
    seed: Number(values.seed),
    writerCount: 64,
    loadMs: 60_000,
    stuckMs: 1_000,
    pauseMs: 120_000,
    killCount: 12,
    log,
  });
  log(JSON.stringify(summary, undefined, 2));
  const { load, stuckDisk, pausedFollower, failover } = summary;
  const checks = { load, ...(stuckDisk && { stuckDisk }), pausedFollower };
  const wrong = Object.entries(checks).filter(([, check]) => check.termAfter !== check.termBefore);
  if (wrong.length > 0)
    throw new Error(`a leader was elected for no reason: ${wrong.map(([name]) => name).join()}`);
  if (failover.p50Ms > FAILOVER_P50_MS_MAX) throw new Error(`fail-over takes ${failover.p50Ms} ms`);
}

async function pause(seconds: number): Promise<void> {
  const check = await runPause({
    nodes: Number(values.nodes),
    seed: Number(values.seed),
    pauseMs: seconds * 1_000,
  });
  log(JSON.stringify(check, undefined, 2));
  if (check.termAfter !== check.termBefore)
    throw new Error("a leader was elected because a follower was away");
}

async function faults(): Promise<void> {
  const summary = await runTorture({
    nodes: Number(values.nodes),
    seed: Number(values.seed),
    durationMs: Number(values.minutes) * 60_000,
    faultMsMax: 20_000,
    pauseMsMax: 120_000,
    calmMs: 3_000,
    clients: Number(values.clients),
    thinkMs: 20,
    fileBytesMax: 600 * 1024 * 1024,
    kinds: FAULT_KINDS.filter((kind) => chosen.includes(kind)),
    log,
  });
  log(JSON.stringify(summary, undefined, 2));
}

const seconds = values["pause-follower"];
if (seconds !== undefined) await pause(Number(seconds));
else await (values.elections ? elections() : faults());
