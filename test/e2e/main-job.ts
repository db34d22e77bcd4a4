/**
 * The main job, end to end with real processes: a tree of files is put into a cluster while its leader and later a follower
 * are killed; then every node is killed at once; and everything must read back equal, in three verified copies.
 *
 * The test suite runs it on a smaller tree; `npm run prove` runs the full size. Prints what it does and how long it took.
 */
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { SystemClock } from "../../src/std/clock.ts";
import { eventually } from "../support/eventually.ts";
import { netdisk, start } from "../support/run-program.ts";
import { describeTree, makeSourceTree } from "../support/source-tree.ts";
import { PROGRAM, startCluster, type ClusterNode, type TestCluster } from "../support/use-cluster.ts";

/** What to run. */
export interface MainJobOptions {
  readonly fileCount: number;
  readonly largeSizeBytes: number;
  readonly seed: number;
  readonly log: (line: string) => void;
}

/** What was found. */
export interface MainJobReport {
  readonly fileCount: number;
  readonly sourceCount: number;
  /** Relative paths that are missing, surplus or different. */
  readonly differences: readonly string[];
  readonly putExitCode: number | null;
  readonly putErrors: string;
  readonly underReplicatedCount: number;
  readonly fullyReplicatedCount: number;
  readonly extentCount: number;
  readonly statusText: string;
}

interface Status {
  readonly fileCount: number;
  readonly replicas: {
    readonly extentCount: number;
    readonly fullyReplicatedCount: number;
    readonly underReplicatedCount: number;
  };
}

async function status(node: ClusterNode): Promise<Status> {
  const response = await fetch(`${node.httpUrl}/api/cluster`);
  if (!response.ok) throw new Error(`${node.nodeId}: ${response.status} ${await response.text()}`);
  return (await response.json()) as Status;
}

/** Waits until at least `count` files are in the drive, as any running node sees it. */
function filesAtLeast(cluster: TestCluster, count: number): Promise<true> {
  return eventually(
    `${count} files are in the drive`,
    async () => {
      for (const node of cluster.nodes.filter((each) => each.running)) {
        const seen = await status(node).catch(() => undefined);
        if (seen !== undefined && seen.fileCount >= count) return true;
      }
      return undefined;
    },
    { withinMs: 900_000, everyMs: 100 },
  );
}

/** Runs the job; fails only when a step cannot be done at all, and reports everything else. */
export async function runMainJob(options: MainJobOptions): Promise<MainJobReport> {
  const clock = new SystemClock();
  const begun = clock.monotonicMs();
  const log = (line: string): void =>
    options.log(`${((clock.monotonicMs() - begun) / 1000).toFixed(1)} s  ${line}`);
  const directory = mkdtempSync(join(tmpdir(), "netdisk-main-job-"));
  const source = join(directory, "source");
  mkdirSync(source);
  log(`making ${options.fileCount} files and one of ${options.largeSizeBytes} bytes, seed=${options.seed}`);
  makeSourceTree(source, options);
  const expected = await describeTree(source);
  const cluster = await startCluster({ nodes: 3 });
  try {
    log("three nodes are ready; putting the tree");
    const put = start(process.execPath, [PROGRAM, "put", "--nodes", cluster.addresses, source, "/"]);
    await filesAtLeast(cluster, Math.floor(options.fileCount / 4));
    const leader = await cluster.leader();
    log(`a quarter is in; killing the leader, ${leader.nodeId}`);
    await leader.kill();
    await filesAtLeast(cluster, Math.floor(options.fileCount / 2));
    log(`half is in; ${leader.nodeId} comes back`);
    leader.start();
    await leader.ready(60_000);
    const next = await cluster.leader();
    const follower = cluster.nodes.find((node) => node !== next && node !== leader) ?? leader;
    log(`killing a follower, ${follower.nodeId}`);
    await follower.kill();
    const ended = await put.result;
    log(`put ended with ${ended.exitCode}`);
    follower.start();
    await follower.ready(60_000);
    const reader = cluster.node(0);
    await eventually(
      "every extent has three verified copies",
      async () => (await status(reader)).replicas.underReplicatedCount === 0,
      {
        withinMs: 600_000,
        everyMs: 250,
      },
    );
    log("three verified copies of everything; killing all nodes at once");
    await Promise.all(cluster.nodes.map((node) => node.kill()));
    for (const node of cluster.nodes) node.start();
    await Promise.all(cluster.nodes.map((node) => node.ready(120_000)));
    log("all nodes are back; reading everything");
    const target = join(directory, "target");
    mkdirSync(target);
    const got = await netdisk(["get", "--nodes", cluster.addresses, "/source", target]);
    if (got.exitCode !== 0) throw new Error(`get ended with ${got.exitCode}: ${got.stderr.slice(-2000)}`);
    const found = await describeTree(join(target, "source"));
    const differences = [...new Set([...expected.keys(), ...found.keys()])].filter(
      (path) => expected.get(path) !== found.get(path),
    );
    const last = await status(reader);
    const shown = await netdisk(["cluster", "status", "--nodes", cluster.addresses]);
    log(`${found.size} entries compared, ${differences.length} differ`);
    return {
      fileCount: last.fileCount,
      sourceCount: [...expected.values()].filter((value) => value !== "directory").length,
      differences,
      putExitCode: ended.exitCode,
      putErrors: ended.stderr.slice(-2000),
      underReplicatedCount: last.replicas.underReplicatedCount,
      fullyReplicatedCount: last.replicas.fullyReplicatedCount,
      extentCount: last.replicas.extentCount,
      statusText: shown.stdout,
    };
  } finally {
    await cluster.dispose();
    rmSync(directory, { recursive: true, force: true });
  }
}
