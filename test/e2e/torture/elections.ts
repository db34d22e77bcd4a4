/**
 * When a cluster of real processes elects a leader, and when it does not: not because it is busy, not because a disk hangs for a
 * second, not because a follower was away; but soon after its leader died.
 */
import { readFileSync } from "node:fs";
import { SystemClock, sleep } from "../../../src/std/clock.ts";
import { SeededPrng } from "../../../src/std/prng.ts";
import { must } from "../../../src/std/assert.ts";
import { eventually } from "../../support/eventually.ts";
import { FaultCluster, type FaultNode } from "../../support/fault-cluster.ts";
import { waitUntilHealed } from "./final-checks.ts";
import { summarize, type LatencySummary } from "./report.ts";
import { Failed, GrpcDrive, HttpDrive } from "./test-drives.ts";
import { Values } from "./values.ts";

/** Writers at once while a fault is there. */
const BACKGROUND_WRITER_COUNT = 8;

/** Settings of runElections(). */
export interface ElectionOptions {
  readonly nodes: number;
  readonly seed: number;
  readonly writerCount: number;
  readonly loadMs: number;
  readonly stuckMs: number;
  readonly pauseMs: number;
  readonly killCount: number;
  readonly log: (line: string) => void;
}

/** Terms before and after, what was written meanwhile, and how long the nodes waited for a processor. */
export interface TermCheck {
  readonly termBefore: number;
  readonly termAfter: number;
  readonly writes: LatencySummary;
  /** Share of the time that the main threads of the nodes were ready to run and did not: high on a machine that is too busy. */
  readonly waitShare: number;
}

/** What was found. */
export interface ElectionSummary {
  readonly seed: number;
  readonly nodes: number;
  readonly load: TermCheck;
  /** Absent where the test cannot have disks of the nodes' own, which takes root. */
  readonly stuckDisk: TermCheck | undefined;
  readonly pausedFollower: TermCheck;
  /** From the kill of the leader to the acknowledgement of a write that was sent after it. */
  readonly failover: LatencySummary;
  readonly failoverWaitShare: number;
}

/** Runs all four. Checks nothing but that it could be done. */
export async function runElections(options: ElectionOptions): Promise<ElectionSummary> {
  const cluster = await FaultCluster.start({ nodes: options.nodes, ownDisks: true });
  const alive = setInterval(() => undefined, 1_000);
  const writers = new Writers(cluster, options.seed);
  try {
    const { log } = options;
    const load = await checkTerm(cluster, writers, options.writerCount, () =>
      sleep(new SystemClock(), options.loadMs),
    );
    log(`load: ${JSON.stringify(load)}`);
    const stuckDisk = cluster.nodes.every(({ volume }) => volume.isOwn)
      ? await checkTerm(cluster, writers, BACKGROUND_WRITER_COUNT, () => hangDisks(cluster, options.stuckMs))
      : undefined;
    log(`stuck disk: ${JSON.stringify(stuckDisk)}`);
    const pausedFollower = await checkTerm(cluster, writers, BACKGROUND_WRITER_COUNT, () =>
      pauseFollower(cluster, options.pauseMs),
    );
    log(`paused follower: ${JSON.stringify(pausedFollower)}`);
    const { failover, failoverWaitShare } = await killLeaders(cluster, writers, options);
    log(`fail-over: ${JSON.stringify(failover)}`);
    const { seed, nodes } = options;
    return { seed, nodes, load, stuckDisk, pausedFollower, failover, failoverWaitShare };
  } finally {
    clearInterval(alive);
    writers.close();
    await cluster.dispose(false);
  }
}

/** A follower alone: away for `pauseMs` while clients write, and back. Checks nothing but that it could be done. */
export async function runPause(options: {
  readonly nodes: number;
  readonly seed: number;
  readonly pauseMs: number;
}): Promise<TermCheck> {
  const cluster = await FaultCluster.start({ nodes: options.nodes, ownDisks: false });
  const alive = setInterval(() => undefined, 1_000);
  const writers = new Writers(cluster, options.seed);
  try {
    return await checkTerm(cluster, writers, BACKGROUND_WRITER_COUNT, () =>
      pauseFollower(cluster, options.pauseMs),
    );
  } finally {
    clearInterval(alive);
    writers.close();
    await cluster.dispose(false);
  }
}

/** Clients that write one small file after another. */
class Writers {
  readonly #grpc: readonly GrpcDrive[];
  readonly #values: Values;
  #isRunning = false;
  #serial = 0;

  constructor(cluster: FaultCluster, seed: number) {
    const prng = new SeededPrng(seed);
    this.#values = new Values(prng);
    const context = { values: this.#values, versions: new Map<string, number>(), prng };
    const addresses = cluster.nodes.map(({ clientGrpcAddress }) => clientGrpcAddress);
    this.#grpc = addresses.map(
      (_, at) => new GrpcDrive(`writer${at}`, [...addresses.slice(at), ...addresses.slice(0, at)], context),
    );
  }

  /** Runs `work` while `count` clients write. Returns how long each acknowledged write took, in milliseconds. */
  async during(count: number, work: () => Promise<void>): Promise<readonly number[]> {
    const clock = new SystemClock();
    const timesMs: number[] = [];
    this.#isRunning = true;
    const write = async (at: number): Promise<void> => {
      while (this.#isRunning) {
        this.#serial += 1;
        const path = `/load/${at}/${this.#serial % 200}/${this.#serial}`;
        const beganMs = clock.monotonicMs();
        try {
          const drive = must(this.#grpc[at % this.#grpc.length], "a drive");
          const bytes = this.#values.bytesOf(this.#values.make());
          await drive.putFile(path, bytes, `load-${this.#serial}`);
          timesMs.push(clock.monotonicMs() - beganMs);
        } catch (error) {
          if (!(error instanceof Failed)) throw error;
        }
      }
    };
    const clients = Promise.all(Array.from({ length: count }, (_, at) => write(at)));
    try {
      await work();
    } finally {
      this.#isRunning = false;
      await clients;
    }
    return timesMs;
  }

  close(): void {
    for (const drive of this.#grpc) drive.close();
  }
}

async function checkTerm(
  cluster: FaultCluster,
  writers: Writers,
  writerCount: number,
  work: () => Promise<void>,
): Promise<TermCheck> {
  await waitUntilHealed(cluster);
  const clock = new SystemClock();
  const termBefore = await newestTerm(cluster);
  const waitedMs = waitingMs(cluster);
  const beganMs = clock.monotonicMs();
  const timesMs = await writers.during(writerCount, work);
  const waitShare = shareOf(waitingMs(cluster) - waitedMs, clock.monotonicMs() - beganMs, cluster);
  await waitUntilHealed(cluster);
  return { termBefore, termAfter: await newestTerm(cluster), writes: summarize(timesMs), waitShare };
}

async function newestTerm(cluster: FaultCluster): Promise<number> {
  return Math.max(
    ...(await Promise.all(cluster.nodes.map(async (node) => (await cluster.status(node)).term))),
  );
}

/** How long the main threads of the nodes were ready to run and did not, since they started (proc_pid_schedstat). */
function waitingMs(cluster: FaultCluster): number {
  return cluster.nodes
    .filter(({ process }) => process.running)
    .map(({ process: { pid } }) => Number(readFileSync(`/proc/${pid}/schedstat`, "utf8").split(" ")[1]) / 1e6)
    .reduce((sum, each) => sum + each, 0);
}

function shareOf(waitedMs: number, lastedMs: number, cluster: FaultCluster): number {
  return Math.round((100 * waitedMs) / lastedMs / cluster.nodes.length) / 100;
}

/** Hangs the disk of each node for a while, the leader's too, one after the other. */
async function hangDisks(cluster: FaultCluster, stuckMs: number): Promise<void> {
  const clock = new SystemClock();
  for (const { volume } of cluster.nodes) {
    volume.freeze();
    await sleep(clock, stuckMs);
    volume.thaw();
    await sleep(clock, stuckMs);
  }
}

async function pauseFollower(cluster: FaultCluster, pauseMs: number): Promise<void> {
  const leader = await cluster.leader();
  const { process } = must(
    cluster.nodes.find((node) => node !== leader),
    "a follower",
  );
  await process.signal("SIGSTOP");
  await sleep(new SystemClock(), pauseMs);
  await process.signal("SIGCONT");
}

async function killLeaders(
  cluster: FaultCluster,
  writers: Writers,
  options: ElectionOptions,
): Promise<{ readonly failover: LatencySummary; readonly failoverWaitShare: number }> {
  const clock = new SystemClock();
  const timesMs: number[] = [];
  let waitedMs = 0;
  let lastedMs = 0;
  for (let kill = 1; kill <= options.killCount; kill += 1) {
    await waitUntilHealed(cluster);
    const leader = await cluster.leader();
    await writers.during(BACKGROUND_WRITER_COUNT, async () => {
      // The writers are at work before the leader dies.
      await sleep(clock, 300);
      const survivors = cluster.nodes.filter((node) => node !== leader);
      const beganMs = clock.monotonicMs();
      const waitedBeforeMs = waitingMs(cluster) - waitOf(leader);
      const died = leader.process.kill();
      timesMs.push(await firstWrite(survivors, `/failover/${kill}`, beganMs));
      await died;
      waitedMs += waitingMs(cluster) - waitedBeforeMs;
      lastedMs += clock.monotonicMs() - beganMs;
    });
    options.log(`kill ${kill}: ${must(timesMs.at(-1), "a time").toFixed(0)} ms`);
    await cluster.startNode(leader);
  }
  return { failover: summarize(timesMs), failoverWaitShare: shareOf(waitedMs, lastedMs, cluster) };
}

function waitOf({ process: { pid } }: FaultNode): number {
  return Number(readFileSync(`/proc/${pid}/schedstat`, "utf8").split(" ")[1]) / 1e6;
}

/** Milliseconds from `beganMs` until any of the nodes acknowledges a new folder, asked of all of them at once. */
async function firstWrite(nodes: readonly FaultNode[], path: string, beganMs: number): Promise<number> {
  const clock = new SystemClock();
  const context = {
    values: new Values(new SeededPrng(1)),
    versions: new Map<string, number>(),
    prng: new SeededPrng(1),
  };
  return Promise.any(
    nodes.map(async (node) => {
      const drive = new HttpDrive(node.place, [node.clientHttpUrl], context);
      await eventually(
        `${node.place} acknowledges a write`,
        async () => {
          await drive.makeFolder(`${path}/${node.place}`);
          return true;
        },
        { withinMs: 60_000, everyMs: 5 },
      );
      return clock.monotonicMs() - beganMs;
    }),
  );
}
