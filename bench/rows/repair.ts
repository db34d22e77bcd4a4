/** Rows about bytes that have to be made again: repair of a lost node's copies, and what users feel of it. */
import { closeSync, fdatasyncSync, mkdtempSync, openSync, rmSync, writeSync } from "node:fs";
import { randomBytes } from "node:crypto";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { must } from "../../src/std/assert.ts";
import { eventually } from "../../test/support/eventually.ts";
import { startCluster, type ClusterNode } from "../../test/support/use-cluster.ts";
import { send, sendStream } from "../http-load.ts";
import { judgeAtLeast, spread, summary, type Row } from "../table.ts";

const MIB = 1024 * 1024;
const FILE_SIZE_BYTES = 256 * MIB;
const UPLOAD_SIZE_BYTES = 512 * MIB;
const piece = randomBytes(MIB);

interface Status {
  readonly nodes: readonly { readonly nodeId: string; readonly lost: boolean }[];
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

/** Kills a node; resolves once it is given up and its copies are counted as missing, to the bytes that are. */
async function loseNode(victim: ClusterNode, reader: ClusterNode): Promise<number> {
  await victim.kill();
  const { replicas } = await eventually(
    `${victim.nodeId} is given up`,
    async () => {
      const seen = await status(reader);
      const isLost = seen.nodes.some(({ nodeId, lost }) => nodeId === victim.nodeId && lost);
      // Declared lost in one command and counted in others: until then everything still looks whole.
      return isLost && !seen.replicas.recounting ? seen : undefined;
    },
    { withinMs: 60_000, everyMs: 20 },
  );
  if (replicas.missingCopyBytes === 0) throw new Error(`${victim.nodeId} held nothing that is missing now`);
  return replicas.missingCopyBytes;
}

/** Starts a node again; resolves when it serves and everything has its three copies. */
async function bringBack(victim: ClusterNode, reader: ClusterNode): Promise<void> {
  victim.start();
  await victim.ready(120_000);
  await whole(reader);
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
    const others = cluster.nodes.filter((node) => node !== reader);
    // One that was away comes back with nothing that counts, and is whole again only after the others had their turn.
    const next = (loss: number): ClusterNode => must(others[loss % others.length], "a follower");
    for (let run = 0; run < runs; run += 1) {
      const idle = next(2 * run);
      const bytes = await loseNode(idle, reader);
      const begun = performance.now();
      await whole(reader);
      const rate = bytes / MIB / ((performance.now() - begun) / 1000);
      const disk = rawDisk(bytes);
      rates.push(rate);
      disks.push(disk);
      ratios.push(rate / disk);
      await bringBack(idle, reader);
      free.push(await put(reader, `/repair/free-${run}.bin`, UPLOAD_SIZE_BYTES));
      const busy = next(2 * run + 1);
      await loseNode(busy, reader);
      during.push(await put(reader, `/repair/during-${run}.bin`, UPLOAD_SIZE_BYTES));
      if (isWhole(await status(reader))) throw new Error("the repair ended before the upload");
      await whole(reader);
      await bringBack(busy, reader);
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
