/**
 * The torture run: real nodes, real clients, real trouble; afterwards what the clients saw must have an explanation, and what
 * was acknowledged must be there. The test suite runs it for seconds, `npm run torture` for as long as it is told.
 */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { must } from "../../../src/std/assert.ts";
import { sleep, SystemClock } from "../../../src/std/clock.ts";
import { SeededPrng } from "../../../src/std/prng.ts";
import { FaultCluster } from "../../support/fault-cluster.ts";
import { checkHistory } from "../../support/linearizability/checker.ts";
import { countOutcomes } from "../../support/linearizability/history.ts";
import { fileModel } from "../../support/linearizability/models.ts";
import { checkEqualHashes, checkEqualTrees, checkFiles, waitUntilHealed } from "./final-checks.ts";
import { FAULT_KINDS, Nemesis, possibleKinds, type Fault, type FaultKind } from "./nemesis.ts";
import { summarize, summarizeFaults, type TortureSummary } from "./report.ts";
import { GrpcDrive, HttpDrive } from "./test-drives.ts";
import { Values } from "./values.ts";
import { Workload } from "./workload.ts";

/** What to run. */
export interface TortureOptions {
  readonly nodes: number;
  readonly seed: number;
  /** Faults go on for this long, and until every kind was there. */
  readonly durationMs: number;
  readonly faultMsMax: number;
  readonly pauseMsMax: number;
  /** Pause between faults, after writes go on. */
  readonly calmMs: number;
  readonly clients: number;
  readonly thinkMs: number;
  readonly fileBytesMax: number;
  /** Kinds to choose from; all when absent. */
  readonly kinds?: readonly FaultKind[] | undefined;
  readonly log: (line: string) => void;
}

/** Runs it. Throws when anything is wrong; logs and data are kept then, and the error names their folder. */
export async function runTorture(options: TortureOptions): Promise<TortureSummary> {
  const cluster = await FaultCluster.start({ nodes: options.nodes, ownDisks: true });
  let isGood = false;
  // Timers of the clock do not keep the process alive, and a run that waits has nothing else.
  const alive = setInterval(() => undefined, 1_000);
  try {
    const summary = await torture(cluster, options);
    isGood = true;
    return summary;
  } catch (error) {
    throw new Error(`torture failed with seed=${options.seed}; logs and data are in ${cluster.directory}`, {
      cause: error,
    });
  } finally {
    clearInterval(alive);
    await cluster.dispose(!isGood);
  }
}

async function torture(cluster: FaultCluster, options: TortureOptions): Promise<TortureSummary> {
  const clock = new SystemClock();
  const prng = new SeededPrng(options.seed);
  const beganMs = clock.monotonicMs();
  const log = (line: string): void =>
    options.log(`${((clock.monotonicMs() - beganMs) / 1000).toFixed(1).padStart(6)} s  ${line}`);
  const kinds = possibleKinds(cluster).filter((kind) => options.kinds?.includes(kind) ?? true);
  log(
    `${options.nodes} nodes, seed=${options.seed}, ${kinds.length} kinds of faults, in ${cluster.directory}`,
  );
  const context = { values: new Values(prng.fork()), versions: new Map<string, number>(), prng: prng.fork() };
  const rotated = <T>(items: readonly T[], by: number): readonly T[] =>
    items.map((_, at) => must(items[(at + by) % items.length], "an item"));
  const addresses = cluster.nodes.map(({ clientGrpcAddress }) => clientGrpcAddress);
  const urls = cluster.nodes.map(({ clientHttpUrl }) => clientHttpUrl);
  const grpc = (name: string, at: number): GrpcDrive => new GrpcDrive(name, rotated(addresses, at), context);
  const http = (name: string, at: number): HttpDrive => new HttpDrive(name, rotated(urls, at), context);
  const drives = Array.from({ length: options.clients }, (_, at) =>
    at % 2 === 0 ? grpc(`grpc${at}`, at) : http(`http${at}`, at),
  );
  const fileDrives = [grpc("grpcfiles", 0), http("httpfiles", 1)];
  const { thinkMs, fileBytesMax } = options;
  const workload = new Workload({
    clock,
    prng: prng.fork(),
    values: context.values,
    versions: context.versions,
    drives,
    fileDrives,
    thinkMs,
    fileBytesMax,
  });
  const firstTerm = (await cluster.status(await cluster.leader())).term;
  await workload.start();
  const nemesis = new Nemesis({ ...options, cluster, clock, prng: prng.fork() });
  const faults: Fault[] = [];
  try {
    await calm(workload, options, clock);
    const order = prng.fork();
    const untilMs = beganMs + options.durationMs;
    while (faults.length < kinds.length || clock.monotonicMs() < untilMs) {
      // Each kind once, then whatever comes.
      const left = kinds.filter((kind) => !faults.some((fault) => fault.kind === kind));
      const choices = left.length > 0 ? left : kinds;
      const fault = await nemesis.strike(must(choices[order.below(choices.length)], "a kind"));
      faults.push(fault);
      const lastedMs = (fault.mendedMs - fault.beganMs).toFixed(0);
      log(
        `${fault.kind} of ${fault.places.join(", ")} for ${lastedMs} ms${fault.hadEffect ? "" : ", without effect"}`,
      );
      await calm(workload, options, clock);
      checkProcesses(cluster);
      // A node that was killed or paused must be back before the next one goes, or a majority would be missing.
      await Promise.all(cluster.nodes.map(({ process }) => process.ready(120_000)));
    }
  } finally {
    await cluster.links.heal();
    await workload.stop();
  }
  const endMs = clock.monotonicMs();
  log(`${workload.writes.length} writes were acknowledged; waiting until the cluster is whole`);
  await waitUntilHealed(cluster);
  for (const [at, url] of urls.entries()) {
    const reader = new HttpDrive(`final${at}`, [url], context);
    for (const path of workload.paths) {
      const found = await workload.read(reader, path);
      if (found === undefined) throw new Error(`${path} cannot be read at ${cluster.nodes[at]?.place ?? ""}`);
    }
  }
  const history = workload.recorder.history();
  writeFileSync(
    join(cluster.directory, "history.json"),
    history.map((each) => JSON.stringify(each)).join("\n"),
  );
  log(`checking ${history.length} operations`);
  const verdict = checkHistory(fileModel, history);
  if (verdict.kind !== "linearizable") throw new Error(verdict.report);
  log(`reading ${workload.files.length} files at every node`);
  const copiesRead = await checkFiles(cluster, workload.files);
  const tree = await checkEqualTrees(cluster);
  const lost = workload.files.filter(({ path, isCertain }) => isCertain && !tree.has(path));
  if (lost.length > 0)
    throw new Error(`acknowledged files that are not in the tree: ${JSON.stringify(lost)}`);
  if (workload.impossible.length > 0) throw new Error(workload.impossible.slice(0, 20).join("\n"));
  const differing = cluster.logLines(/state_hash_differs|process_broken|data_failed/);
  if (differing.length > 0) throw new Error(differing.join("\n"));
  for (const drive of [...drives, ...fileDrives]) drive.close();
  const summary: TortureSummary = {
    seed: options.seed,
    nodes: options.nodes,
    seconds: Math.round((endMs - beganMs) / 1000),
    operations: Object.fromEntries(workload.counts),
    outcomes: countOutcomes(history),
    failures: Object.fromEntries(workload.failures),
    faults: summarizeFaults(faults, workload.writes, endMs),
    notPossible: FAULT_KINDS.filter((kind) => !possibleKinds(cluster).includes(kind)),
    links: await cluster.links.counts(),
    writes: summarize(workload.writes.map(({ calledMs, returnedMs }) => returnedMs - calledMs)),
    reads: summarize(workload.readMs),
    files: {
      certain: workload.files.filter(({ isCertain }) => isCertain).length,
      uncertain: workload.files.filter(({ isCertain }) => !isCertain).length,
      copiesRead,
    },
    historyParts: verdict.partCount,
    historyConfigurations: verdict.configurationCount,
    stateHashIndex: await checkEqualHashes(cluster),
    terms: (await cluster.status(await cluster.leader())).term - firstTerm,
  };
  checkCounts(summary, kinds);
  if (workload.indefiniteCount === 0)
    throw new Error("no attempt had an unknown outcome: the faults hit nobody");
  return summary;
}

/** Waits until some more writes were acknowledged, and for a while. */
async function calm(workload: Workload, options: TortureOptions, clock: SystemClock): Promise<void> {
  const before = workload.writes.length;
  const untilMs = clock.monotonicMs() + 120_000;
  await sleep(clock, options.calmMs);
  while (workload.writes.length < before + 5) {
    if (clock.monotonicMs() > untilMs)
      throw new Error("no writes are acknowledged two minutes after the fault");
    await sleep(clock, 50);
  }
}

/** Every process runs: none ended by itself. */
function checkProcesses(cluster: FaultCluster): void {
  const dead = cluster.nodes.filter(({ process }) => !process.running);
  if (dead.length === 0) return;
  throw new Error(
    dead.map(({ place, process }) => `${place} ended by itself:\n${process.logTail()}`).join("\n"),
  );
}

/** A run in which some kind of fault or operation never happened shows nothing. */
function checkCounts(summary: TortureSummary, kinds: readonly FaultKind[]): void {
  const idle = kinds.filter((kind) => (summary.faults[kind]?.effectCount ?? 0) === 0);
  if (idle.length > 0) throw new Error(`faults that never had an effect: ${idle.join(", ")}`);
  const wanted = ["create", "replace", "remove", "move", "copy", "read", "list", "file"];
  const missing = wanted.filter((kind) => (summary.operations[kind] ?? 0) === 0);
  if (missing.length > 0) throw new Error(`operations that were never answered: ${missing.join(", ")}`);
}
