/** The row about a node that gives all its copies away before it is removed: very many small extents, which cost commands and not bytes. */
import { randomBytes } from "node:crypto";
import { must } from "../../src/std/assert.ts";
import { eventually } from "../../test/support/eventually.ts";
import { startCluster, type ClusterNode, type TestCluster } from "../../test/support/use-cluster.ts";
import { send } from "../http-load.ts";
import { judgeAtLeast, type Row } from "../table.ts";

const NODE_COUNT = 5;
const FILE_SIZE_BYTES = 4096;
const CLIENT_COUNT = 32;
/** Extents a second at which a node with 100,000 of them is empty within a quarter of an hour. */
const WANTED_PER_SECOND = 110;

interface Status {
  readonly nodes: readonly { readonly nodeId: string; readonly liveBytes: number }[];
  readonly replicas: {
    readonly extentCount: number;
    readonly fullyReplicatedCount: number;
    readonly movingCount: number;
  };
}

async function status(node: ClusterNode): Promise<Status> {
  const { status: code, body } = await send("GET", `${node.httpUrl}/api/cluster`);
  if (code !== 200) throw new Error(`${code} ${body.toString()}`);
  return JSON.parse(body.toString()) as Status;
}

async function fill(cluster: TestCluster, fileCount: number): Promise<void> {
  let next = 0;
  const client = async (at: number): Promise<void> => {
    for (let serial = next++; serial < fileCount; serial = next++) {
      const url = `${cluster.node(at % NODE_COUNT).httpUrl}/api/files/content?path=/d${serial % 100}/${serial}.bin`;
      const answer = await send("PUT", url, randomBytes(FILE_SIZE_BYTES));
      if (answer.status > 299) throw new Error(`${url}: ${answer.status} ${answer.body.toString()}`);
    }
  };
  await Promise.all(Array.from({ length: CLIENT_COUNT }, (_, at) => client(at)));
}

/** Uploads `fileCount` files to five nodes, drains one that does not lead, and waits until nothing of them is left there. */
export async function drainRow(fileCount: number, log: (line: string) => void): Promise<Row> {
  const cluster = await startCluster({ nodes: NODE_COUNT });
  try {
    const leader = await cluster.leader();
    await fill(cluster, fileCount);
    const settled = async (): Promise<boolean> => {
      const { extentCount, fullyReplicatedCount } = (await status(leader)).replicas;
      return fullyReplicatedCount === extentCount;
    };
    await eventually("three verified copies of everything", settled, { withinMs: 600_000, everyMs: 500 });
    const victim = must(
      cluster.nodes.find((node) => node !== leader),
      "a follower",
    );
    const bytesLeft = async (): Promise<number> => {
      const { nodes } = await status(leader);
      return must(
        nodes.find(({ nodeId }) => nodeId === victim.nodeId),
        "the drained node",
      ).liveBytes;
    };
    const fullBytes = await bytesLeft();
    const total = (await status(leader)).nodes.reduce((sum, { liveBytes }) => sum + liveBytes, 0);
    const extentCount = Math.round((fileCount * 3 * fullBytes) / total);
    const url = `${leader.httpUrl}/api/cluster/nodes/${victim.nodeId}/draining`;
    const begun = performance.now();
    const answer = await send("PUT", url);
    if (answer.status > 299) throw new Error(`${answer.status} ${answer.body.toString()}`);
    let toldMs = begun;
    let fewest = Number.POSITIVE_INFINITY;
    const isEmpty = async (): Promise<boolean> => {
      const { replicas } = await status(leader);
      fewest = Math.min(fewest, replicas.fullyReplicatedCount);
      const left = await bytesLeft();
      if (performance.now() - toldMs > 10_000) {
        toldMs = performance.now();
        const seconds = ((toldMs - begun) / 1000).toFixed(0);
        log(`${seconds} s: ${((100 * left) / fullBytes).toFixed(1)} % left, ${replicas.movingCount} moving`);
      }
      return left === 0;
    };
    await eventually("the node is empty", isEmpty, { withinMs: 3_600_000, everyMs: 250 });
    const seconds = (performance.now() - begun) / 1000;
    if (fewest < fileCount)
      throw new Error(`only ${fewest} of ${fileCount} files had three copies meanwhile`);
    const perSecond = extentCount / seconds;
    return {
      work: `drain of one of 5 nodes, ${extentCount.toLocaleString("en-US")} extents of 4 KiB on it`,
      measured: `${perSecond.toFixed(0)} extents/s, empty after ${seconds.toFixed(0)} s`,
      compared: "-",
      ratio: "-",
      reach: `>= ${WANTED_PER_SECOND}/s`,
      verdict: judgeAtLeast(perSecond, WANTED_PER_SECOND),
    };
  } finally {
    await cluster.dispose();
  }
}
