/**
 * Runs both simulators as every test run does, looks for every planted bug, takes the summaries of torture runs, and writes
 * last-run.json and RELIABILITY.md (`npm run simulate -- --record --torture FILE`).
 */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { format } from "prettier";
import { must } from "../../src/std/assert.ts";
import type { TortureSummary } from "../e2e/torture/report.ts";
import { findBug, PLANTED_BUGS } from "../simulation/planted.ts";
import { runCluster } from "../simulation/raft-cluster/cluster-run.ts";
import { ClusterTotals } from "../simulation/raft-cluster/cluster-totals.ts";
import { simulate } from "../simulation/sim-run.ts";
import { SimTotals } from "../simulation/sim-totals.ts";
import { reliabilityPage, type LastRun, type PlantedResult } from "./page.ts";

const RAFT_SEED_COUNT = 200;
const NODE_SEED_COUNT = 100;

const here = fileURLToPath(new URL("./", import.meta.url));
const page = fileURLToPath(new URL("../RELIABILITY.md", import.meta.url));
const lastRun = `${here}last-run.json`;

/**
 * Records a run.
 * @param tortureFiles outputs of `npm run torture`, each ending with its summary; none keeps what was recorded of them before
 * @throws what a failing seed throws, and Error when a planted bug was not found
 */
export async function record(tortureFiles: readonly string[]): Promise<void> {
  const counts: Record<string, number> = {};
  const runs: Record<string, string> = {};
  const raft = new ClusterTotals();
  for (let seed = 1; seed <= RAFT_SEED_COUNT; seed += 1) raft.add(runCluster(seed));
  runs["Raft cluster (raft)"] = `seeds 1 to ${RAFT_SEED_COUNT}`;
  for (const [name, count] of raft.entries()) counts[`raft:${name}`] = count;
  const node = new SimTotals();
  for (let seed = 1; seed <= NODE_SEED_COUNT; seed += 1) node.add(await simulate(seed));
  runs["Whole nodes (node)"] = `seeds 1 to ${NODE_SEED_COUNT}`;
  for (const [name, count] of node.entries()) counts[`node:${name}`] = count;
  addProcesses(tortureFiles, runs, counts);
  const planted = await plantedResults([]);
  const run: LastRun = { runs, counts, planted };
  writeFileSync(lastRun, await format(JSON.stringify(run), { parser: "json" }));
  makePage();
}

/** Looks for the planted bugs that are not in the recorded run yet, and adds them. @throws Error when one was not found */
export async function recordPlanted(): Promise<void> {
  const before = JSON.parse(readFileSync(lastRun, "utf8")) as LastRun;
  const run: LastRun = { ...before, planted: await plantedResults(before.planted) };
  writeFileSync(lastRun, await format(JSON.stringify(run), { parser: "json" }));
  makePage();
}

/** Makes the page anew from the list and the recorded run. */
export function makePage(): void {
  writeFileSync(page, reliabilityPage(JSON.parse(readFileSync(lastRun, "utf8")) as LastRun));
}

async function plantedResults(known: readonly PlantedResult[]): Promise<readonly PlantedResult[]> {
  const results: PlantedResult[] = [];
  for (const bug of PLANTED_BUGS) {
    const before = known.find(({ name }) => name === bug.name);
    if (before !== undefined) {
      results.push(before);
      continue;
    }
    const { seedCount, message } = await findBug(bug);
    if (seedCount === undefined) throw new Error(`${bug.name} was not found: ${message}`);
    const foundBy = /\b(?:[RCKLU]\d+|liveness|DATA_CORRUPT)\b/u.exec(message)?.[0] ?? "the checks of a start";
    results.push({ name: bug.name, where: bug.where, seedCount, foundBy });
  }
  return results;
}

/** How often each kind of fault had an effect on real processes. */
function addProcesses(
  files: readonly string[],
  runs: Record<string, string>,
  counts: Record<string, number>,
): void {
  if (files.length === 0) {
    const before = existsSync(lastRun) ? (JSON.parse(readFileSync(lastRun, "utf8")) as LastRun) : undefined;
    for (const [name, count] of Object.entries(before?.counts ?? {})) {
      if (name.startsWith("processes:")) counts[name] = count;
    }
    for (const [name, text] of Object.entries(before?.runs ?? {})) {
      if (name.startsWith("Real processes")) runs[name] = text;
    }
    return;
  }
  const texts: string[] = [];
  for (const file of files) {
    const text = readFileSync(file, "utf8");
    const summary = JSON.parse(
      text.slice(text.indexOf("\n{\n"), text.lastIndexOf("\n}") + 2),
    ) as TortureSummary;
    const { nodes, seconds, seed, writes } = summary;
    texts.push(`${nodes} nodes for ${seconds} s (seed ${seed}, ${writes.count} writes acknowledged)`);
    for (const [kind, fault] of Object.entries(summary.faults)) {
      counts[`processes:${kind}`] = (counts[`processes:${kind}`] ?? 0) + must(fault, "a summary").effectCount;
    }
  }
  runs["Real processes (processes)"] = texts.join("; ");
}
