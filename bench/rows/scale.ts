/**
 * Rows about a node with very many entries: restart, snapshot and catch-up, with the longest pauses and the memory meanwhile.
 *
 * Three real processes. The first two hold the entries (scale-data.ts makes them without the network), the third is as far
 * behind as the cluster was when it was formed, so that it can only catch up by a snapshot. The longest pause of a node is
 * the longest turn of its event loop, without the time that its thread waited for a core (std/pause-watch.ts): nothing that it
 * does, applying included, can have taken longer without a break.
 */
import { existsSync } from "node:fs";
import { cp, readFile } from "node:fs/promises";
import { join } from "node:path";
import { must } from "../../src/std/assert.ts";
import { startCluster, type ClusterNode, type TestCluster } from "../../test/support/use-cluster.ts";
import { send } from "../http-load.ts";
import { NetdiskClient } from "../netdisk-client.ts";
import { copyState, fill, FILES_PER_FOLDER } from "../scale-data.ts";
import { folderPath } from "../scale-encoder.ts";
import { anonymousBytes, judgeAtMost, spread, summary, type Row } from "../table.ts";

/** The goals: see the table of the design. */
const PAUSE_MS_MAX = 50;
const MEMORY_MB_MAX = 300;
const READY_SECONDS_MAX = 10;
const CATCH_UP_SECONDS_MAX = 300;

/** Clients that make folders while pauses are measured. */
const WRITER_COUNT = 8;

/** How long pauses are measured without a snapshot. */
const STEADY_MS = 20_000;

const START_WITHIN_MS = 30 * 60_000;
const SAMPLE_INTERVAL_MS = 500;
const MB = 1e6;

/** Settings of scaleRows(). */
export interface ScaleOptions {
  readonly entryCount: number;
  /** Where the made data is kept for later runs, and taken from when it is there. */
  readonly keep: string | undefined;
  /** Ends once the data is made. */
  readonly isMadeOnly: boolean;
  readonly log: (line: string) => void;
}

/** What was seen of a node while it was watched. */
interface Seen {
  /** Longest turn of the event loop in milliseconds: what it ran, without waiting for a core, and all of it. */
  readonly runningMs: number;
  readonly ownPauseMs: number;
  readonly pauseMs: number;
  /** Pauses of its own that took longer than PAUSE_MS_MAX. */
  readonly longPauseCount: number;
  readonly memoryMb: number;
}

/** Watches a node, from when it answers until `work` ends; logs each pause of its own that was too long, and what it collected then. */
async function watch<T>(
  node: ClusterNode,
  log: (line: string) => void,
  work: () => Promise<T>,
): Promise<T & { readonly seen: Seen }> {
  const begunMs = performance.now();
  const pause = { all: 0, own: 0, running: 0 };
  let collected: Collected | undefined;
  let memoryMb = 0;
  let isOver = false;
  let longPauses: { readonly before: number; readonly now: number } | undefined;
  const sample = async (): Promise<void> => {
    if (!node.running) return;
    memoryMb = Math.max(memoryMb, anonymousBytes(must(node.pid, "a running node")) / MB);
    const text = await metricsOf(node);
    if (text === undefined) return;
    const now = longPausesIn(text);
    const longest = longestIn(text);
    // The first answer is of the time before.
    if (longPauses !== undefined) {
      for (const counting of ["all", "own", "running"] as const)
        pause[counting] = Math.max(pause[counting], longest[counting]);
    }
    const collectedNow = collectedIn(text);
    if (collected !== undefined && longest.own > PAUSE_MS_MAX) {
      const { major, minor, incremental } = collected;
      const took = (kind: number, before: number): string => `${(1000 * (kind - before)).toFixed(0)} ms`;
      log(
        `${node.nodeId} after ${((performance.now() - begunMs) / 1000).toFixed(1)} s: ${longest.own.toFixed(0)} ms of its own, ` +
          `${longest.running.toFixed(0)} running; collections meanwhile: all of the heap ${took(collectedNow.major, major)}, ` +
          `of the young ${took(collectedNow.minor, minor)}, steps ${took(collectedNow.incremental, incremental)}`,
      );
    }
    collected = collectedNow;
    longPauses = { before: longPauses?.before ?? now, now };
  };
  await sample();
  const sampling = (async () => {
    while (!isOver) {
      await new Promise((resolve) => setTimeout(resolve, SAMPLE_INTERVAL_MS));
      await sample();
    }
  })();
  try {
    const result = await work();
    isOver = true;
    await sampling;
    const longPauseCount = (longPauses?.now ?? 0) - (longPauses?.before ?? 0);
    return {
      ...result,
      seen: { runningMs: pause.running, ownPauseMs: pause.own, pauseMs: pause.all, longPauseCount, memoryMb },
    };
  } finally {
    isOver = true;
  }
}

/** What a node tells of itself; undefined while it does not answer. */
async function metricsOf(node: ClusterNode): Promise<string | undefined> {
  const answer = await send("GET", `${node.httpUrl}/metrics`).catch(() => undefined);
  return answer?.body.toString();
}

/** Seconds that a process has spent on collections of each kind. */
interface Collected {
  readonly major: number;
  readonly minor: number;
  readonly incremental: number;
}

function collectedIn(text: string): Collected {
  const sum = (kind: string): number => {
    // A kind that has not happened yet has no series.
    const name = "netdisk_nodejs_gc_duration_seconds_sum";
    return text.includes(`${name}{`)
      ? metricIn(`${text}\n${name}{kind="${kind}"} 0`, name, `kind="${kind}"`)
      : 0;
  };
  return { major: sum("major"), minor: sum("minor"), incremental: sum("incremental") };
}

/** The longest pauses since the metrics were last asked for, in milliseconds. */
function longestIn(text: string): Readonly<Record<"all" | "own" | "running", number>> {
  const of = (counting: string): number =>
    1000 * metricIn(text, "netdisk_event_loop_pause_max_seconds", `counting="${counting}"`);
  return { all: of("all"), own: of("own"), running: of("running") };
}

/** Pauses longer than PAUSE_MS_MAX since the node started. */
function longPausesIn(text: string): number {
  const name = "netdisk_event_loop_pause_seconds";
  const count = metricIn(text, `${name}_count`);
  return count - metricIn(text, `${name}_bucket`, `le="${PAUSE_MS_MAX / 1000}"`);
}

/** A metric of a node. */
async function metricOf(node: ClusterNode, name: string): Promise<number> {
  const text = (await send("GET", `${node.httpUrl}/metrics`)).body.toString();
  return metricIn(text, name);
}

/** The figure of a metric, of the series with that label when there are several. */
function metricIn(text: string, name: string, label = ""): number {
  const lines = text
    .split("\n")
    .filter((line) => /[ {]/.test(line[name.length] ?? "") && line.startsWith(name));
  const line = lines.find((each) => each.includes(label));
  return Number(must(line, `the metric ${name}`).split(" ").at(-1));
}

/** Waits until a node has applied an entry. */
async function reaches(node: ClusterNode, index: number): Promise<void> {
  const endMs = performance.now() + START_WITHIN_MS;
  while ((await metricOf(node, "netdisk_raft_applied_index")) < index) {
    if (performance.now() > endMs) throw new Error(`${node.nodeId} did not catch up:\n${node.logTail()}`);
    await new Promise((resolve) => setTimeout(resolve, SAMPLE_INTERVAL_MS));
  }
}

/** Seconds from the start of a process until it is ready. */
async function secondsToReady(node: ClusterNode): Promise<number> {
  const begun = performance.now();
  node.start();
  await node.ready(START_WITHIN_MS);
  return (performance.now() - begun) / 1000;
}

/** The last event of that name in a node's log. */
async function lastEvent(node: ClusterNode, name: string): Promise<Record<string, unknown> | undefined> {
  const lines = (await readFile(node.logPath, "utf8"))
    .split("\n")
    .filter((line) => line.includes(`"${name}"`));
  const line = lines.at(-1);
  return line === undefined ? undefined : (JSON.parse(line) as Record<string, unknown>);
}

/** Fills the data directories of a cluster that is not running; returns how that went. */
async function prepare(cluster: TestCluster, { entryCount, keep, log }: ScaleOptions): Promise<string> {
  const [first, second] = [cluster.node(0), cluster.node(1)];
  const kept = keep === undefined ? undefined : join(keep, String(entryCount));
  let how = "taken from an earlier run";
  if (kept !== undefined && existsSync(kept)) {
    for (const node of cluster.nodes)
      await cp(join(kept, node.nodeId), node.dataDirectory, { recursive: true, force: true });
  } else {
    for (const node of cluster.nodes) node.start();
    await Promise.all(cluster.nodes.map((node) => node.ready()));
    await Promise.all(cluster.nodes.map((node) => node.signal("SIGTERM")));
    const filled = await fill(first.dataDirectory, entryCount, (count, seconds) =>
      log(`${count} entries, ${Math.round(count / seconds)}/s`),
    );
    how = `${Math.round(entryCount / filled.seconds)}/s applied, longest batch ${filled.batchMsMax.toFixed(0)} ms`;
    if (kept !== undefined)
      for (const node of cluster.nodes)
        await cp(node.dataDirectory, join(kept, node.nodeId), { recursive: true });
  }
  await copyState(first.dataDirectory, second.dataDirectory);
  return how;
}

/** All rows. Takes the time of some 50 us an entry to make them, and a few minutes. */
export async function scaleRows(options: ScaleOptions): Promise<readonly Row[]> {
  const { entryCount, log } = options;
  // The members that hold the copies do not run, and must not be given up meanwhile.
  const environment = { NETDISK_CLUSTER_LOST_AFTER_MS: String(24 * 3600 * 1000) };
  const cluster = await startCluster({ nodes: 3, stopped: true, environment });
  try {
    const made = await prepare(cluster, options);
    log(`made: ${made}`);
    if (options.isMadeOnly) return [];
    const rows = await measure(cluster, options);
    const million = (entryCount / 1e6).toLocaleString("en");
    return [
      row(`${million} million files made by applying commands`, made),
      ...rows.map((each) => ({ ...each, work: `${million} million files: ${each.work}` })),
    ];
  } finally {
    await cluster.dispose();
  }
}

async function measure(cluster: TestCluster, { entryCount, log }: ScaleOptions): Promise<readonly Row[]> {
  const [first, second, third] = [cluster.node(0), cluster.node(1), cluster.node(2)];
  const rows: Row[] = [];
  const add = (each: Row): void => {
    log(`${each.work}: ${each.measured} (${each.verdict})`);
    rows.push(each);
  };
  first.start();
  second.start();
  await Promise.all([first.ready(START_WITHIN_MS), second.ready(START_WITHIN_MS)]);
  const leader = await cluster.leader();
  add(await listing(leader, entryCount));
  const steady = await watch(leader, log, () => writes(leader, STEADY_MS));
  add(pauses("leader, writes alone", steady.seen, steady));
  add(memory("leader, writes alone", steady.seen));
  const target = await metricOf(leader, "netdisk_raft_applied_index");
  const done = await watch(leader, log, async () => {
    const begun = performance.now();
    third.start();
    const load = { isOver: false };
    let readySeconds = 0;
    const [result, receiver] = await Promise.all([
      writes(leader, load),
      watch(third, log, async () => {
        await third.ready(START_WITHIN_MS);
        readySeconds = (performance.now() - begun) / 1000;
        await reaches(third, target);
        load.isOver = true;
        return {};
      }),
    ]);
    return { ...result, receiver: receiver.seen, readySeconds, seconds: (performance.now() - begun) / 1000 };
  });
  add(
    judged(
      "empty follower, start -> caught up",
      `${done.seconds.toFixed(0)} s`,
      done.seconds,
      CATCH_UP_SECONDS_MAX,
      "s",
    ),
  );
  const made = await lastEvent(leader, "snapshot_made");
  add(row("of that, the snapshot to a file", `${(Number(made?.["duration_ms"]) / 1000).toFixed(0)} s`));
  add(pauses("leader, writes beside the snapshot", done.seen, done));
  add(memory("leader, beside the snapshot", done.seen));
  add(
    pausesOf(
      "follower that is given the snapshot",
      done.receiver,
      `ready after ${done.readySeconds.toFixed(0)} s`,
    ),
  );
  add(memory("follower that is given the snapshot", done.receiver));
  // All three have the entries now, so that the two others go on meanwhile.
  const follower = leader === first ? second : first;
  const stopBegun = performance.now();
  await follower.signal("SIGTERM");
  const stopSeconds = (performance.now() - stopBegun) / 1000;
  const seconds = await secondsToReady(follower);
  const stopped = `${seconds.toFixed(1)} s (stopping ${stopSeconds.toFixed(1)} s)`;
  add(judged("orderly stop, start -> ready", stopped, seconds, READY_SECONDS_MAX, "s"));
  await follower.kill();
  const afterKill = await secondsToReady(follower);
  add(judged("SIGKILL, start -> ready", `${afterKill.toFixed(1)} s`, afterKill, READY_SECONDS_MAX, "s"));
  return rows;
}

interface Writes {
  readonly perSecond: number;
  readonly latencyMsMax: number;
}

/** Makes folders through one node for a time, or until `isOver`. */
async function writes(node: ClusterNode, until: number | { readonly isOver: boolean }): Promise<Writes> {
  const client = new NetdiskClient(node.grpcAddress);
  let latencyMsMax = 0;
  let count = 0;
  const begun = performance.now();
  const isOver = (): boolean =>
    typeof until === "number" ? performance.now() - begun >= until : until.isOver;
  await Promise.all(
    Array.from({ length: WRITER_COUNT }, async (_, writer) => {
      while (!isOver()) {
        const startMs = performance.now();
        await client.createDirectory(`/written/${writer}/${String(performance.now())}-${count}`);
        latencyMsMax = Math.max(latencyMsMax, performance.now() - startMs);
        count += 1;
      }
    }),
  );
  client.close();
  return { perSecond: (count * 1000) / (performance.now() - begun), latencyMsMax };
}

async function listing(node: ClusterNode, entryCount: number): Promise<Row> {
  const folderCount = Math.ceil(entryCount / FILES_PER_FOLDER);
  const times: number[] = [];
  for (let run = 0; run < 41; run += 1) {
    const path = `/${folderPath((run * 7919) % folderCount).join("/")}`;
    const begun = performance.now();
    const answer = await send("GET", `${node.httpUrl}/api/files?path=${encodeURIComponent(path)}&limit=1000`);
    if (answer.status !== 200) throw new Error(answer.body.toString());
    times.push(performance.now() - begun);
  }
  const { median } = summary(times);
  return judged("first page of a folder", `${spread(times, 1)} ms`, median, 15, "ms");
}

function row(work: string, measured: string): Row {
  return { work, measured, compared: "-", ratio: "-", reach: "-", verdict: "reached" };
}

function judged(work: string, measured: string, figure: number, goal: number, unit: string): Row {
  return {
    work,
    measured,
    compared: "-",
    ratio: "-",
    reach: `<= ${goal} ${unit}`,
    verdict: judgeAtMost(figure, goal),
  };
}

function pauses(work: string, seen: Seen, { perSecond, latencyMsMax }: Writes): Row {
  const load = `at ${perSecond.toFixed(0)} writes/s, the slowest ${latencyMsMax.toFixed(0)} ms`;
  return pausesOf(work, seen, load);
}

function pausesOf(work: string, seen: Seen, beside: string): Row {
  const { runningMs, ownPauseMs, pauseMs, longPauseCount } = seen;
  const own = `with blocking ${ownPauseMs.toFixed(0)} ms, ${longPauseCount} such over ${PAUSE_MS_MAX} ms`;
  const measured = `${runningMs.toFixed(0)} ms running (${own}; with waiting for a core ${pauseMs.toFixed(0)} ms), ${beside}`;
  return judged(`longest pause of the ${work}`, measured, ownPauseMs, PAUSE_MS_MAX, "ms");
}

function memory(work: string, { memoryMb }: Pick<Seen, "memoryMb">): Row {
  return judged(
    `anonymous memory of the ${work}`,
    `${memoryMb.toFixed(0)} MB`,
    memoryMb,
    MEMORY_MB_MAX,
    "MB",
  );
}
