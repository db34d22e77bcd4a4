/** Rows about bytes: large uploads and downloads, small files, completion time, memory. */
import { execFileSync, spawn } from "node:child_process";
import { fdatasyncSync, closeSync, mkdtempSync, openSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { randomBytes } from "node:crypto";
import { freePorts, type TestCluster } from "../../test/support/use-cluster.ts";
import { must } from "../../src/std/assert.ts";
import { eventually } from "../../test/support/eventually.ts";
import { closedLoop, drain, send, sendStream } from "../http-load.ts";
import {
  anonymousBytes,
  cpuSeconds,
  judgeAtLeast,
  judgeAtMost,
  spread,
  summary,
  type Row,
} from "../table.ts";

const MIB = 1024 * 1024;
const GIB = 1024 * MIB;
const piece = randomBytes(MIB);

function check(answer: { status: number; body: Buffer }): Record<string, unknown> {
  if (answer.status < 200 || answer.status > 299)
    throw new Error(`${answer.status} ${answer.body.toString().slice(0, 500)}`);
  return JSON.parse(answer.body.toString()) as Record<string, unknown>;
}

/** MiB/s of a sequential write of `sizeBytes` with one fdatasync at the end. */
function rawDisk(sizeBytes: number): number {
  const directory = mkdtempSync(join(tmpdir(), "netdisk-bench-raw-"));
  try {
    const file = openSync(join(directory, "raw"), "w");
    const begun = performance.now();
    for (let written = 0; written < sizeBytes; written += piece.length) writeSync(file, piece);
    fdatasyncSync(file);
    const seconds = (performance.now() - begun) / 1000;
    closeSync(file);
    return sizeBytes / MIB / seconds;
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

async function put(cluster: TestCluster, node: number, path: string, sizeBytes: number): Promise<string> {
  const url = `${cluster.node(node).httpUrl}/api/files/content?path=${encodeURIComponent(path)}`;
  const entry = check(await sendStream("PUT", url, sizeBytes, piece));
  return String(entry["fileId"]);
}

/** Upload and download of 1 GiB, each against its limit in the same run. */
export async function largeFile(cluster: TestCluster, runs: number): Promise<Row[]> {
  const uploads: number[] = [];
  const raws: number[] = [];
  const ratios: number[] = [];
  let fileId = "";
  for (let run = 0; run < runs; run += 1) {
    const raw = rawDisk(GIB);
    const begun = performance.now();
    fileId = await put(cluster, run % 3, `/bench/large-${run}.bin`, GIB);
    const upload = 1024 / ((performance.now() - begun) / 1000);
    uploads.push(upload);
    raws.push(raw / 3);
    ratios.push(upload / (raw / 3));
  }
  const uploadRatio = summary(ratios).median;
  const rows: Row[] = [
    {
      work: "upload 1 GiB over HTTP, 3 fsynced copies",
      measured: `${spread(uploads)} MiB/s`,
      compared: `a third of write + fdatasync: ${spread(raws)} MiB/s`,
      ratio: uploadRatio.toFixed(2),
      reach: ">= 0.8",
      verdict: judgeAtLeast(uploadRatio, 0.8),
    },
  ];
  rows.push(await download(cluster, fileId, runs));
  return rows;
}

async function download(cluster: TestCluster, fileId: string, runs: number): Promise<Row> {
  const nginx = await startNginx(GIB);
  const downloads: number[] = [];
  const peers: number[] = [];
  const ratios: number[] = [];
  const rate = async (url: string): Promise<number> => {
    const begun = performance.now();
    const { status, sizeBytes } = await drain(url);
    if (status !== 200 || sizeBytes !== GIB) throw new Error(`${url}: ${status}, ${sizeBytes} bytes`);
    return sizeBytes / MIB / ((performance.now() - begun) / 1000);
  };
  try {
    for (let run = 0; run < runs; run += 1) {
      const own = await rate(`${cluster.node(run % 3).httpUrl}/api/download/${fileId}`);
      downloads.push(own);
      if (nginx !== undefined) {
        const peer = await rate(nginx.url);
        peers.push(peer);
        ratios.push(own / peer);
      }
    }
  } finally {
    nginx?.stop();
  }
  const ratio = summary(ratios).median;
  return {
    work: "download 1 GiB, every read verified",
    measured: `${spread(downloads)} MiB/s`,
    compared: nginx === undefined ? "nginx: not installed" : `nginx sendfile: ${spread(peers)} MiB/s`,
    ratio: nginx === undefined ? "-" : ratio.toFixed(2),
    reach: ">= 0.6",
    verdict: nginx === undefined ? "not run" : judgeAtLeast(ratio, 0.6),
  };
}

async function startNginx(sizeBytes: number): Promise<{ url: string; stop(): void } | undefined> {
  try {
    execFileSync("nginx", ["-v"], { stdio: "ignore" });
  } catch {
    return undefined;
  }
  const directory = mkdtempSync(join(tmpdir(), "netdisk-bench-nginx-"));
  const [port] = await freePorts(1);
  const file = openSync(join(directory, "large.bin"), "w");
  for (let written = 0; written < sizeBytes; written += piece.length) writeSync(file, piece);
  closeSync(file);
  const configuration = `daemon off; error_log ${directory}/error.log; pid ${directory}/pid; user root;
    events {} http { access_log off; sendfile on; tcp_nopush on; server { listen 127.0.0.1:${port}; root ${directory}; } }`;
  writeFileSync(join(directory, "nginx.conf"), configuration);
  const child = spawn("nginx", ["-c", join(directory, "nginx.conf")], { stdio: "ignore" });
  const url = `http://127.0.0.1:${port}/large.bin`;
  await eventually("nginx serves", async () => (await send("HEAD", url)).status === 200, {
    withinMs: 10_000,
  });
  return {
    url,
    stop: () => {
      child.kill("SIGTERM");
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

/** Durable 4 KiB files from 64 clients, one request each. */
export async function smallFiles(cluster: TestCluster, runs: number, durationMs: number): Promise<Row> {
  const rates: number[] = [];
  const latencies: number[] = [];
  const cpuMs: number[] = [];
  const pids = cluster.nodes.map(({ pid }) => must(pid, "a running node"));
  const run = (name: string): ReturnType<typeof closedLoop> =>
    closedLoop(64, durationMs, async (client, sequence) => {
      const body = Buffer.from(piece.subarray(0, 4096));
      body.writeUInt32LE(client * 1_000_000 + sequence, 0);
      const { httpUrl } = cluster.node(client % 3);
      const path = `/small/${name}-c${client}/f${sequence}`;
      check(await send("PUT", `${httpUrl}/api/files/content?path=${path}`, body));
    });
  // What a program that has just started does is a matter of its compiler.
  await run("warm");
  for (let index = 0; index < runs; index += 1) {
    const before = cpuSeconds(pids);
    const result = await run(`r${index}`);
    cpuMs.push(((cpuSeconds(pids) - before) * 1000) / result.latenciesMs.length);
    rates.push(result.perSecond);
    latencies.push(summary(result.latenciesMs).median);
  }
  const rate = summary(rates).median;
  const latency = `median latency ${spread(latencies, 1)} ms`;
  return {
    work: "4 KiB files, durable, 3 copies, 64 clients, one request each",
    measured: `${spread(rates)}/s, ${latency}, CPU of all nodes ${spread(cpuMs, 2)} ms a file`,
    compared: "-",
    ratio: "-",
    reach: ">= 2,000/s (stretch 5,000)",
    verdict: judgeAtLeast(rate, 2000),
  };
}

async function timedComplete(
  cluster: TestCluster,
  sizeBytes: number,
  name: string,
  watch?: () => void,
): Promise<number> {
  const { httpUrl } = cluster.node(0);
  const json = { "content-type": "application/json" };
  const post = async (path: string, value: unknown): Promise<Record<string, unknown>> =>
    check(await send("POST", `${httpUrl}${path}`, Buffer.from(JSON.stringify(value)), json));
  const init = await post("/api/upload/init", {
    name,
    path: "/bench",
    size: sizeBytes,
    onConflict: "replace",
  });
  const fileId = String(init["fileId"]);
  const chunkCount = Number(init["chunkCount"]);
  let next = 0;
  await Promise.all(
    Array.from({ length: 8 }, async () => {
      for (let index = next++; index < chunkCount; index = next++) {
        const body = Buffer.from(piece);
        body.writeDoubleLE(index + sizeBytes, 0);
        check(await send("POST", `${httpUrl}/api/upload/chunk?fileId=${fileId}&index=${index}`, body));
        if (index % 64 === 0) watch?.();
      }
    }),
  );
  const begun = performance.now();
  await post("/api/upload/complete", { fileId });
  return performance.now() - begun;
}

/** `complete` of a very large file against a small one, and memory of the nodes meanwhile. */
export async function completionAndMemory(cluster: TestCluster, largeBytes: number): Promise<Row[]> {
  const small: number[] = [];
  for (let run = 0; run < 9; run += 1) small.push(await timedComplete(cluster, MIB, `one-${run}.bin`));
  const samples: number[] = [];
  const large = await timedComplete(cluster, largeBytes, "ten.bin", () => {
    samples.push(Math.max(...cluster.nodes.map((node) => anonymousBytes(node.pid ?? 0))));
  });
  const more = large - summary(small).median;
  // Flat: the last quarter of the upload is no higher than the second quarter, give or take a tenth.
  const quarter = (from: number, to: number): number =>
    Math.max(...samples.slice(Math.floor(samples.length * from), Math.floor(samples.length * to)));
  const growth = quarter(0.75, 1) / quarter(0.25, 0.5);
  const peak = Math.max(...samples) / 1e6;
  const size = `${(largeBytes / GIB).toFixed(0)} GiB`;
  return [
    {
      work: `complete of ${size} against 1 MiB`,
      measured: `${large.toFixed(1)} ms`,
      compared: `1 MiB: ${spread(small, 1)} ms`,
      ratio: `+${more.toFixed(1)} ms`,
      reach: "<= 25 ms more",
      verdict: judgeAtMost(more, 25),
    },
    {
      work: `memory of a node during a ${size} upload (RssAnon, highest node)`,
      measured: `${peak.toFixed(0)} MB peak; last quarter / second quarter ${growth.toFixed(2)}`,
      compared: "-",
      ratio: "-",
      reach: "<= 256 MB, flat",
      verdict: growth > 1.15 ? "missed" : judgeAtMost(peak, 256),
    },
  ];
}
