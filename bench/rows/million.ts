/** Rows about very many small files: memory, status, scrub, and the space that comes back when half of them are deleted. */
import { randomBytes } from "node:crypto";
import { readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { must } from "../../src/std/assert.ts";
import { eventually } from "../../test/support/eventually.ts";
import type { ClusterNode, TestCluster } from "../../test/support/use-cluster.ts";
import { closedLoop, send } from "../http-load.ts";
import { NodeWatch } from "../node-watch.ts";
import { judgeAtMost, spread, summary, type Row } from "../table.ts";

const FILE_SIZE_BYTES = 4096;
const FOLDER_FILE_COUNT = 1000;
const CLIENT_COUNT = 64;
/** Bytes on disk for each live byte, once garbage was collected and compacted. */
const GARBAGE_RATIO_MAX = 1.3;
/** Extents of the tree's snapshots of itself, at most. */
const SNAPSHOT_EXTENT_COUNT_MAX = 100;
const base = randomBytes(FILE_SIZE_BYTES);

interface NodeView {
  readonly nodeId: string;
  readonly liveBytes: number;
  readonly scrub: { readonly pass: number } | null;
  readonly scrubProgress: number | null;
}

async function nodesOf(node: ClusterNode): Promise<readonly NodeView[]> {
  const { status, body } = await send("GET", `${node.httpUrl}/api/cluster`);
  if (status !== 200) throw new Error(`${status} ${body.toString()}`);
  return (JSON.parse(body.toString()) as { readonly nodes: readonly NodeView[] }).nodes;
}

async function must2xx(method: string, url: string, body?: Uint8Array): Promise<void> {
  const answer = await send(method, url, body);
  if (answer.status > 299) throw new Error(`${method} ${url}: ${answer.status} ${answer.body.toString()}`);
}

/** Bytes that the chunk store of a node takes on the disk. */
function diskBytes(node: ClusterNode): number {
  const chunks = join(node.dataDirectory, "chunks");
  return readdirSync(chunks, { withFileTypes: true, recursive: true })
    .filter((item) => item.isFile())
    .reduce((sum, { parentPath, name }) => {
      const found = statSync(join(parentPath, name), { throwIfNoEntry: false });
      return sum + (found === undefined ? 0 : found.blocks * 512);
    }, 0);
}

async function statusTimes(node: ClusterNode): Promise<number[]> {
  const times: number[] = [];
  for (let run = 0; run < 21; run += 1) {
    const begun = performance.now();
    await nodesOf(node);
    times.push(performance.now() - begun);
  }
  return times;
}

async function scrubSeconds(node: ClusterNode): Promise<number> {
  const passes = new Map((await nodesOf(node)).map(({ nodeId, scrub }) => [nodeId, scrub?.pass ?? 0]));
  const begun = performance.now();
  await must2xx("POST", `${node.httpUrl}/api/cluster/scrub`);
  await eventually(
    "every node has read all its copies",
    async () =>
      (await nodesOf(node)).every(
        ({ nodeId, scrub, scrubProgress }) =>
          scrubProgress === null && (scrub?.pass ?? 0) > (passes.get(nodeId) ?? 0),
      ),
    { withinMs: 1_800_000, everyMs: 200 },
  );
  return (performance.now() - begun) / 1000;
}

/**
 * Uploads `fileCount` files, deletes half of them by folders, and waits until their space came back.
 * @param log told now and then how far it is
 */
export async function manySmallFiles(
  cluster: TestCluster,
  fileCount: number,
  log: (line: string) => void,
): Promise<readonly Row[]> {
  const watch = new NodeWatch(cluster);
  const memory = (): string => watch.memory.map((bytes) => (bytes / 1e6).toFixed(0)).join("/");
  watch.phase("upload");
  let next = 0;
  const begun = performance.now();
  const folderOf = (serial: number): string => `/many/f${Math.floor(serial / FOLDER_FILE_COUNT)}`;
  await closedLoop(CLIENT_COUNT, Number.POSITIVE_INFINITY, async (client) => {
    const serial = next;
    next += 1;
    if (serial >= fileCount) throw new Done();
    const body = Buffer.from(base);
    body.writeUInt32LE(serial, 0);
    const url = `${cluster.node(client % 3).httpUrl}/api/files/content?path=${folderOf(serial)}/${serial}.bin`;
    await must2xx("PUT", url, body);
    if (serial % 10_000 === 0) {
      const seconds = (performance.now() - begun) / 1000;
      log(`${serial} files, ${(serial / seconds).toFixed(0)}/s, RssAnon ${memory()} MB`);
    }
  }).catch((error: unknown) => {
    if (!(error instanceof Done)) throw error;
  });
  await eventually("all files are in", async () => (await fileCountOf(cluster.node(0))) === fileCount, {
    withinMs: 600_000,
    everyMs: 500,
  });
  const perSecond = fileCount / ((performance.now() - begun) / 1000);
  watch.phase("status");
  const times = await statusTimes(cluster.node(0));
  watch.phase("scrub");
  log(`filled, RssAnon ${memory()} MB; status ${spread(times, 1)} ms`);
  const scrubTook = await scrubSeconds(cluster.node(0));
  log(`scrubbed in ${scrubTook.toFixed(1)} s, RssAnon ${memory()} MB`);
  const filled = Math.max(...cluster.nodes.map(diskBytes));
  watch.phase("delete and compaction");
  const folderCount = Math.ceil(fileCount / FOLDER_FILE_COUNT);
  for (let folder = 0; folder < folderCount; folder += 2) {
    const { httpUrl } = cluster.node(folder % 3);
    await must2xx("DELETE", `${httpUrl}/api/files?path=/many/f${folder}&recursive=true`);
  }
  const deleted = performance.now();
  const keptCount = Math.min(Math.floor(folderCount / 2) * FOLDER_FILE_COUNT, fileCount);
  // What the tree holds: the files that are left, and the snapshots of itself that it keeps.
  let kept = await figuresOf(cluster.node(0));
  const ratio = (): number => Math.max(...cluster.nodes.map(diskBytes)) / kept.contentBytes;
  let loggedMs = deleted;
  const isBack = await eventually(
    "the space came back",
    async () => {
      if (performance.now() - loggedMs > 20_000) {
        loggedMs = performance.now();
        const live = (await nodesOf(cluster.node(0))).map(({ liveBytes }) => (liveBytes / 1e6).toFixed(0));
        log(
          `${((loggedMs - deleted) / 1000).toFixed(0)} s after: ratio ${ratio().toFixed(2)}, live ${live.join("/")} MB, RssAnon ${memory()} MB`,
        );
      }
      kept = await figuresOf(cluster.node(0));
      const isForgotten = kept.replicas.extentCount <= keptCount + SNAPSHOT_EXTENT_COUNT_MAX;
      return isForgotten && ratio() <= GARBAGE_RATIO_MAX;
    },
    { withinMs: 2_400_000, everyMs: 2000 },
  ).catch(() => false);
  const backAfter = (performance.now() - deleted) / 1000;
  const left = Math.max(...cluster.nodes.map(diskBytes));
  const phases = watch.stop();
  for (const { name, seconds, peakBytes, cpuSeconds } of phases) {
    log(
      `${name}: ${seconds.toFixed(0)} s, highest RssAnon ${(peakBytes / 1e6).toFixed(0)} MB, all nodes ${cpuSeconds.toFixed(1)} s of processor`,
    );
  }
  const peak = Math.max(...phases.map(({ peakBytes }) => peakBytes)) / 1e6;
  const what = `${fileCount.toLocaleString("en-US")} files of 4 KiB`;
  return [
    {
      work: `${what}: memory of a node (RssAnon, highest)`,
      measured: `${peak.toFixed(0)} MB; filled with ${perSecond.toFixed(0)}/s`,
      compared: "-",
      ratio: "-",
      reach: "<= 300 MB",
      verdict: judgeAtMost(peak, 300),
    },
    {
      work: `${what}: cluster status; a full scrub that was asked for`,
      measured: `${spread(times, 1)} ms; ${scrubTook.toFixed(0)} s`,
      compared: "-",
      ratio: "-",
      reach: "<= 50 ms",
      verdict: judgeAtMost(summary(times).median, 50),
    },
    {
      work: `${what}, half of them deleted: bytes on disk against live bytes, the tree's snapshots of itself among them`,
      measured: `${(filled / 1e6).toFixed(0)} -> ${(left / 1e6).toFixed(0)} MB a node, ${backAfter.toFixed(0)} s after${isBack ? "" : ", given up"}`,
      compared: `${(kept.contentBytes / 1e6).toFixed(0)} MB`,
      ratio: ratio().toFixed(2),
      reach: `<= ${GARBAGE_RATIO_MAX}`,
      verdict: judgeAtMost(ratio(), GARBAGE_RATIO_MAX),
    },
  ];
}

/** Ends a client: every file is taken. */
class Done extends Error {}

async function fileCountOf(node: ClusterNode): Promise<number> {
  return (await figuresOf(node)).fileCount;
}

interface Figures {
  readonly fileCount: number;
  readonly contentBytes: number;
  readonly replicas: { readonly extentCount: number };
}

async function figuresOf(node: ClusterNode): Promise<Figures> {
  const { body } = await send("GET", `${must(node, "a node").httpUrl}/api/cluster`);
  return JSON.parse(body.toString()) as Figures;
}
