/** What must be true once all faults are mended: every node up and equal, every acknowledged file there in three copies. */
import { createHash } from "node:crypto";
import { expect } from "chai";
import { RaftService, type GetStatusResponse } from "../../../gen/netdisk/peer/v1/raft_service_pb.ts";
import { ChannelPool } from "../../../src/rpc/channel-pool.ts";
import { createGrpcClient } from "../../../src/rpc/client-adapter.ts";
import { must } from "../../../src/std/assert.ts";
import { toHex } from "../../../src/std/bytes.ts";
import { SystemClock } from "../../../src/std/clock.ts";
import { eventually } from "../../support/eventually.ts";
import type { FaultCluster, FaultNode, SeenStatus } from "../../support/fault-cluster.ts";
import type { WrittenFile } from "./workload.ts";

/** Long: repair copies what a node missed, one file after the other, on a machine that may be busy. */
const HEALED_WITHIN_MS = 300_000;

/** How many files are read at once. */
const READ_CONCURRENCY = 4;

/** Waits until every node is ready, knows the same leader, is level with it, and no copy is missing. */
export async function waitUntilHealed(cluster: FaultCluster): Promise<void> {
  await Promise.all(cluster.nodes.map(({ process }) => process.ready(HEALED_WITHIN_MS)));
  let open: readonly string[] = [];
  try {
    await eventually(
      "the cluster is whole",
      async () => {
        open = openMatters(await Promise.all(cluster.nodes.map((node) => cluster.status(node))));
        return open.length === 0;
      },
      { withinMs: HEALED_WITHIN_MS, everyMs: 250 },
    );
  } catch (error) {
    throw new Error(`the cluster did not become whole: ${open.join("; ")}`, { cause: error });
  }
}

function openMatters(seen: readonly SeenStatus[]): readonly string[] {
  const leaders = new Set(seen.map(({ leaderId }) => leaderId));
  const matters = leaders.size === 1 && !leaders.has(null) ? [] : [`leaders: ${[...leaders].join()}`];
  const applied = seen.map(({ appliedIndex }) => appliedIndex);
  if (Math.max(...applied) - Math.min(...applied) > 20) matters.push(`applied: ${applied.join()}`);
  for (const { replicas, nodes } of seen) {
    const { underReplicatedCount, suspectCount, fullyReplicatedCount, extentCount } = replicas;
    if (underReplicatedCount + suspectCount > 0 || fullyReplicatedCount !== extentCount) {
      matters.push(JSON.stringify(replicas));
    }
    for (const { nodeId, health } of nodes) if (health !== "up") matters.push(`${nodeId} is ${health}`);
  }
  return [...new Set(matters)];
}

interface Item {
  readonly name: string;
  readonly kind: string;
  readonly path: string;
  readonly text: string;
}

async function listFolder(node: FaultNode, path: string): Promise<readonly Item[]> {
  const items: Item[] = [];
  let cursor: string | undefined;
  do {
    const query = new URLSearchParams({
      path,
      limit: "1000",
      consistency: "stale",
      ...(cursor && { cursor }),
    });
    const response = await fetch(`${node.process.httpUrl}/api/files?${query.toString()}`);
    if (!response.ok)
      throw new Error(`${node.place} lists ${path}: ${response.status} ${await response.text()}`);
    const page = (await response.json()) as {
      files: readonly { name: string; kind: string }[];
      nextCursor: string | null;
    };
    for (const file of page.files) {
      const own = `${path === "/" ? "" : path}/${file.name}`;
      items.push({ name: file.name, kind: file.kind, path: own, text: `${own} ${JSON.stringify(file)}` });
    }
    cursor = page.nextCursor ?? undefined;
  } while (cursor !== undefined);
  return items;
}

/** The whole tree as the node has it by itself, one line an entry with all its fields. */
async function describeTree(node: FaultNode): Promise<readonly string[]> {
  const lines: string[] = [];
  const folders = ["/"];
  for (let folder = folders.pop(); folder !== undefined; folder = folders.pop()) {
    for (const item of await listFolder(node, folder)) {
      lines.push(item.text);
      if (item.kind === "directory") folders.push(item.path);
    }
  }
  return lines.sort();
}

/** Every node has the same tree, field by field. Returns the paths of all files. */
export async function checkEqualTrees(cluster: FaultCluster): Promise<ReadonlySet<string>> {
  const trees = await Promise.all(cluster.nodes.map(describeTree));
  const first = must(trees[0], "a node");
  for (const [at, tree] of trees.entries()) {
    expect(tree, `the tree of ${cluster.nodes[at]?.place ?? ""} and that of the first node`).to.deep.equal(
      first,
    );
  }
  return new Set(first.map((line) => line.slice(0, line.indexOf(" {"))));
}

/** Every node has the same hash of its state after the same log entry. Returns the index of that entry. */
export async function checkEqualHashes(cluster: FaultCluster): Promise<number> {
  const clock = new SystemClock();
  const pool = new ChannelPool({ clock });
  const ask = (index: bigint): Promise<readonly GetStatusResponse[]> =>
    Promise.all(
      cluster.nodes.map(({ process: { grpcAddress: address } }) =>
        createGrpcClient(RaftService, {
          channel: pool.channel(address, "control"),
          clock,
          address,
        }).getStatus({
          hashIndex: index,
        }),
      ),
    );
  try {
    // The log goes on meanwhile, so the lowest applied index is one that all have passed, and still remember.
    const found = await eventually(
      "all nodes remember the hash after one index",
      async () => {
        const applied = (await ask(0n)).map(({ appliedIndex }) => appliedIndex);
        const seen = await ask(applied.reduce((low, each) => (each < low ? each : low)));
        return seen.every(({ stateHash }) => stateHash.length > 0) && seen;
      },
      { withinMs: 60_000 },
    );
    const hashes = found.map(({ hashTerm, stateHash }) => `${hashTerm} ${toHex(stateHash)}`);
    expect(new Set(hashes).size, `state hashes: ${hashes.join(", ")}`).to.equal(1);
    return Number(must(found[0], "a node").hashIndex);
  } finally {
    pool.close();
  }
}

/** Every acknowledged file reads back equal at every node; an uncertain one is whole or not there. Returns copies read. */
export async function checkFiles(cluster: FaultCluster, files: readonly WrittenFile[]): Promise<number> {
  let copyCount = 0;
  const wrong: string[] = [];
  const work = files.flatMap((file) => cluster.nodes.map((node) => ({ file, node })));
  const next = async (): Promise<void> => {
    for (let job = work.pop(); job !== undefined; job = work.pop()) {
      const { file, node } = job;
      const query = new URLSearchParams({ path: file.path, redirect: "never" });
      const response = await fetch(`${node.process.httpUrl}/api/download?${query.toString()}`);
      const bytes = Buffer.from(await response.arrayBuffer());
      if (response.status === 404 && !file.isCertain) continue;
      const digest = createHash("sha256").update(bytes).digest("hex");
      if (response.status !== 200 || digest !== file.sha256) {
        wrong.push(`${node.place} ${file.path}: ${response.status}, ${bytes.length} bytes`);
      }
      copyCount += 1;
    }
  };
  await Promise.all(Array.from({ length: READ_CONCURRENCY }, next));
  expect(wrong, "acknowledged files that do not read back").to.deep.equal([]);
  return copyCount;
}
