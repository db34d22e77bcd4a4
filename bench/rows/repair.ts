/** Rows about bytes that have to be made again: repair of a lost node's copies, and what users feel of it. */
import { closeSync, fdatasyncSync, mkdtempSync, openSync, rmSync, writeSync } from "node:fs";
import { randomBytes } from "node:crypto";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { must } from "../../src/std/assert.ts";
import { eventually } from "../../test/support/eventually.ts";
import { startCluster, type ClusterNode, type TestCluster } from "../../test/support/use-cluster.ts";
import { send, sendStream } from "../http-load.ts";
import { judgeAtLeast, spread, summary, type Row } from "../table.ts";

const MIB = 1024 * 1024;
const FILE_SIZE_BYTES = 256 * MIB;
const UPLOAD_SIZE_BYTES = 512 * MIB;
const piece = randomBytes(MIB);

interface Status {
  readonly nodes: readonly { readonly nodeId: string; readonly liveBytes: number; readonly lost: boolean }[];
  readonly replicas: {
    readonly extentCount: number;
    readonly fullyReplicatedCount: number;
    readonly missingCopyBytes: number;
    readonly recounting: boolean;
  };
}

async function status(node: ClusterNode): Promise<Status> {
  const { status: code, body } = await send("GET", `${node.httpUrl}/api/cluster`);
  if (code !== 200) throw new Error(`${code} ${body.toString()}`);
  return JSON.parse(body.toString()) as Status;
}

async function put(node: ClusterNode, path: string, sizeBytes: number): Promise<number> {
  const begun = performance.now();
  const { status: code, body } = await sendStream(
    "PUT",
    `${node.httpUrl}/api/files/content?path=${path}`,
    sizeBytes,
    piece,
  );
  if (code > 299) throw new Error(`${code} ${body.toString()}`);
  return sizeBytes / MIB / ((performance.now() - begun) / 1000);
}

function isWhole({ replicas }: Status): boolean {
  return !replicas.recounting && replicas.fullyReplicatedCount === replicas.extentCount;
}

async function whole(node: ClusterNode): Promise<void> {
  await eventually("three verified copies of everything", async () => isWhole(await status(node)), {
    withinMs: 1_800_000,
    everyMs: 50,
  });
}

/** MiB/s of a sequential write of `sizeBytes` with one fdatasync at the end. */
function rawDisk(sizeBytes: number): number {
  const directory = mkdtempSync(join(tmpdir(), "netdisk-bench-raw-"));
  try {
    const file = openSync(join(directory, "raw"), "w");
    const begun = performance.now();
    for (let written = 0; written < sizeBytes; written += piece.length) writeSync(file, piece);
    fdatasyncSync(file);
    const rate = sizeBytes / MIB / ((performance.now() - begun) / 1000);
    closeSync(file);
    return rate;
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

/** Kills a node that does not lead; resolves once it is given up and its copies count as missing, to its name and the bytes that are. */
async function loseNode(
  cluster: TestCluster,
  reader: ClusterNode,
): Promise<{ readonly victim: ClusterNode; readonly bytes: number }> {
  const leader = await cluster.leader();
  const victim = must(
    cluster.nodes.find((node) => node.running && node !== leader && node !== reader),
    "a follower",
  );
  const before = await status(reader);
  const bytes = before.nodes.find(({ nodeId }) => nodeId === victim.nodeId)?.liveBytes ?? 0;
  await victim.kill();
  await eventually(
    "the node is given up",
    async () => {
      const seen = await status(reader);
      // Declared lost in one command and counted in others: until then everything still looks whole.
      return seen.nodes.some(({ nodeId, lost }) => nodeId === victim.nodeId && lost) && !isWhole(seen);
    },
    { withinMs: 60_000, everyMs: 20 },
  );
  return { victim, bytes };
}

/** Repair when idle against the disk, and uploads during a repair against uploads without. */
export async function repairRows(totalBytes: number, runs: number): Promise<readonly Row[]> {
  const cluster = await startCluster({ nodes: 5, environment: { NETDISK_CLUSTER_LOST_AFTER_MS: "2000" } });
  try {
    const reader = await cluster.leader();
    for (let at = 0; at * FILE_SIZE_BYTES < totalBytes; at += 1) {
      await put(cluster.node(at % 5), `/repair/file-${at}.bin`, FILE_SIZE_BYTES);
    }
    await whole(reader);
    const rates: number[] = [];
    const ratios: number[] = [];
    const disks: number[] = [];
    const free: number[] = [];
    const during: number[] = [];
    for (let run = 0; run < runs; run += 1) {
      const idle = await loseNode(cluster, reader);
      const begun = performance.now();
      await whole(reader);
      const rate = idle.bytes / MIB / ((performance.now() - begun) / 1000);
      const disk = rawDisk(idle.bytes);
      rates.push(rate);
      disks.push(disk);
      ratios.push(rate / disk);
      idle.victim.start();
      await idle.victim.ready(120_000);
      await whole(reader);
      free.push(await put(reader, `/repair/free-${run}.bin`, UPLOAD_SIZE_BYTES));
      const busy = await loseNode(cluster, reader);
      during.push(await put(reader, `/repair/during-${run}.bin`, UPLOAD_SIZE_BYTES));
      if (isWhole(await status(reader))) throw new Error("the repair ended before the upload");
      await whole(reader);
      busy.victim.start();
      await busy.victim.ready(120_000);
      await whole(reader);
    }
    const repair = summary(ratios).median;
    const upload = summary(during).median / summary(free).median;
    return [
      {
        work: "repair of a lost node's bytes, idle, 5 nodes on one disk",
        measured: `${spread(rates)} MiB/s`,
        compared: `write + fdatasync of as many bytes: ${spread(disks)} MiB/s`,
        ratio: repair.toFixed(2),
        reach: ">= 0.6",
        verdict: judgeAtLeast(repair, 0.6),
      },
      {
        work: "upload 512 MiB during a repair",
        measured: `${spread(during)} MiB/s`,
        compared: `without: ${spread(free)} MiB/s`,
        ratio: upload.toFixed(2),
        reach: ">= 0.7",
        verdict: judgeAtLeast(upload, 0.7),
      },
    ];
  } finally {
    await cluster.dispose();
  }
}
