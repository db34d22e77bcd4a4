/**
 * `netdisk up`: a cluster on this machine, one process per node, until it is told to stop.
 *
 * The nodes are ordinary `netdisk serve` processes with data directories of their own, in process groups of their own, so
 * that Ctrl-C reaches only this process, which then stops them in order. They also stop when this process goes away without
 * a word (the message channel between them closes). A node that dies is reported and not restarted: that is what the cluster
 * is there to survive, and what one wants to see.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { mkdir, open, readFile } from "node:fs/promises";
import { basename, relative, join, resolve } from "node:path";
import { defaultConfig } from "../config/config.ts";
import { DriveError } from "../drive/errors.ts";
import { must } from "../std/assert.ts";
import { sleep } from "../std/clock.ts";
import { deferred } from "../std/deferred.ts";
import type { CliIo } from "./cli-io.ts";
import { EXIT_FAILURE, EXIT_OK } from "./exit-code.ts";
import { formatDuration, formatQuantity } from "./format.ts";
import type { Output } from "./output.ts";
import { STOP_MARGIN_MS, THREAD_POOL_SIZE } from "./serve.ts";
import { openLayout, type LocalNode, type PortChoice } from "./up-layout.ts";

/** How long the nodes may take until all are ready, and how often that is asked. */
export const READY_TIMEOUT_MS = 60_000;
const READY_POLL_MS = 100;

const HOST = "127.0.0.1";
const LOG_TAIL_LINES = 5;
const LOG_TAIL_BYTES = 16 * 1024;

/** Options of `up`. */
export interface UpOptions {
  readonly nodeCount: number | undefined;
  readonly dataDirectory: string;
  readonly ports: PortChoice;
}

interface RunningNode {
  readonly node: LocalNode;
  readonly process: ChildProcess;
  readonly logPath: string;
  /** How it ended: "exit code 1", "signal SIGKILL"; resolved when the process is gone. */
  readonly ended: Promise<string>;
  gone: boolean;
}

/** Runs a local cluster until it is told to stop. */
export async function up(io: CliIo, output: Output, options: UpOptions): Promise<number> {
  const dataDirectory = resolve(io.workingDirectory, options.dataDirectory);
  const layout = await openLayout(dataDirectory, { nodeCount: options.nodeCount, ports: options.ports });
  const asked = deferred<void>();
  const stopping = new AbortController();
  let running: RunningNode[] = [];
  const stopListening = io.signals.listen(() => {
    if (!stopping.signal.aborted) {
      stopping.abort(new DriveError("CANCELED", "The cluster was told to stop."));
      asked.resolve();
    } else for (const each of running) if (!each.gone) each.process.kill("SIGKILL");
  });
  try {
    for (const node of layout) running = [...running, await startNode(io, node, layout, dataDirectory)];
    output.note(`Starting ${formatQuantity(layout.length, "node")} with data in ${dataDirectory} …`);
    const startMs = io.clock.monotonicMs();
    const ready = await waitUntilReady(io, running, stopping.signal);
    if (!ready.every) {
      if (!stopping.signal.aborted) throw ready.problem;
      return EXIT_OK;
    }
    await announce(io, output, layout, dataDirectory, io.clock.monotonicMs() - startMs);
    const died = watchDeaths(output, running, stopping.signal);
    await Promise.race([asked.promise, died]);
    return stopping.signal.aborted ? EXIT_OK : EXIT_FAILURE;
  } finally {
    stopping.abort();
    output.note("Stopping …");
    await stopAll(io, output, running);
    stopListening();
  }
}

async function startNode(
  io: CliIo,
  node: LocalNode,
  layout: readonly LocalNode[],
  dataDirectory: string,
): Promise<RunningNode> {
  const directory = join(dataDirectory, node.nodeId);
  const logPath = join(dataDirectory, `${node.nodeId}.log`);
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const log = await open(logPath, "a", 0o600);
  const peers = layout.map((each) => `${HOST}:${each.grpcPort}`).join(",");
  const own = [
    ["--node-id", node.nodeId],
    ["--node-address", `${HOST}:${node.grpcPort}`],
    ["--cluster-peers", peers],
    ["--cluster-me", `${HOST}:${node.grpcPort}`],
    ["--http-host", HOST],
    ["--http-port", String(node.httpPort)],
    ["--data-directory", directory],
  ];
  const child = spawn(io.program.executable, [...io.program.leadingArguments, "serve", ...own.flat()], {
    cwd: io.workingDirectory,
    env: { UV_THREADPOOL_SIZE: String(THREAD_POOL_SIZE), ...withoutNodeNames(io.environment) },
    stdio: ["ignore", log.fd, log.fd, "ipc"],
    detached: true,
  });
  const ended = deferred<string>();
  const running: RunningNode = { node, process: child, logPath, ended: ended.promise, gone: false };
  const end = (how: string): void => {
    running.gone = true;
    ended.resolve(how);
  };
  child.once("error", (error) => end(error.message));
  child.once("exit", (code, signal) => end(signal === null ? `exit code ${code ?? 0}` : `signal ${signal}`));
  // The channel exists to be closed; it must not keep this process alive.
  child.channel?.unref();
  await log.close();
  return running;
}

/** The environment without what would say the same of every node. */
function withoutNodeNames(environment: CliIo["environment"]): NodeJS.ProcessEnv {
  const shared = { ...environment };
  for (const name of ["PUBLIC_URL", "NETDISK_HTTP_PUBLIC_URL"]) delete shared[name];
  return shared;
}

async function waitUntilReady(
  io: CliIo,
  running: readonly RunningNode[],
  signal: AbortSignal,
): Promise<{ readonly every: true } | { readonly every: false; readonly problem: Error | undefined }> {
  const deadlineMs = io.clock.monotonicMs() + READY_TIMEOUT_MS;
  const waiting = new Set(running);
  while (waiting.size > 0) {
    if (signal.aborted) return { every: false, problem: undefined };
    for (const each of waiting) {
      if (each.gone) return { every: false, problem: await diedEarly(each) };
      if (await isReady(each.node, signal)) waiting.delete(each);
    }
    if (waiting.size === 0) break;
    if (io.clock.monotonicMs() > deadlineMs) {
      const [slow] = waiting;
      return { every: false, problem: await neverReady(must(slow, "a node that waits")) };
    }
    await sleep(io.clock, READY_POLL_MS);
  }
  return { every: true };
}

async function isReady(node: LocalNode, signal: AbortSignal): Promise<boolean> {
  try {
    const response = await fetch(`http://${HOST}:${node.httpPort}/readyz`, { signal });
    await response.arrayBuffer();
    return response.ok;
  } catch (error) {
    // Nobody listens yet, or this command is being stopped: both mean "not ready", and the caller knows which.
    if (error instanceof Error) return false;
    throw error;
  }
}

async function diedEarly(each: RunningNode): Promise<Error> {
  return new DriveError(
    "NODE_STOPPING",
    `${each.node.nodeId} ended while it started (${await each.ended}). The end of ${each.logPath}:\n${await logTail(each)}\n`,
    { node_id: each.node.nodeId },
  );
}

async function neverReady(each: RunningNode): Promise<Error> {
  return new DriveError(
    "NODE_STARTING",
    `${each.node.nodeId} is not ready after ${formatDuration(READY_TIMEOUT_MS)}. The end of ${each.logPath}:\n${await logTail(each)}\n`,
    { node_id: each.node.nodeId },
  );
}

async function logTail(each: RunningNode): Promise<string> {
  const text = await readFile(each.logPath);
  const lines = text.subarray(-LOG_TAIL_BYTES).toString("utf8").trimEnd().split("\n");
  return lines.slice(-LOG_TAIL_LINES).join("\n");
}

async function announce(
  io: CliIo,
  output: Output,
  layout: readonly LocalNode[],
  dataDirectory: string,
  elapsedMs: number,
): Promise<void> {
  const nodes = layout.map((node) => ({
    nodeId: node.nodeId,
    url: `http://${HOST}:${node.httpPort}`,
    grpc: `${HOST}:${node.grpcPort}`,
  }));
  if (output.json) return output.record({ type: "ready", nodes, dataDirectory });
  const addresses = nodes.map(({ grpc }) => grpc).join(",");
  const isDefault = addresses === DEFAULT_NODES.join(",");
  const program = programName(io);
  const prefix = isDefault ? program : `${program} --nodes ${addresses}`;
  await output.line(
    [
      `${formatQuantity(layout.length, "node")} ready after ${formatDuration(elapsedMs)}:`,
      "",
      ...nodes.map(
        ({ nodeId, url, grpc }) =>
          `  ${nodeId}  ${url}  gRPC ${grpc}  log ${join(dataDirectory, `${nodeId}.log`)}`,
      ),
      "",
      "Try in another terminal:",
      `  ${prefix} put README.md /hello.md`,
      `  ${prefix} ls -l /`,
      `  ${prefix} cluster status`,
      `  curl -T README.md '${nodes[0]?.url ?? ""}/api/files/content?path=/hello2.md'`,
      "",
      "Ctrl-C stops all nodes; the data stays, and the next start uses it.",
    ].join("\n"),
  );
}

/** How the user can start this program again: by its name when it was started so, else by its file. */
function programName({ program, workingDirectory }: CliIo): string {
  const script = program.leadingArguments.at(-1);
  if (script === undefined || basename(script) === "netdisk") return "netdisk";
  return `node ${relative(workingDirectory, script)}`;
}

/** Reports nodes that die; resolves when none is left. */
async function watchDeaths(
  output: Output,
  running: readonly RunningNode[],
  signal: AbortSignal,
): Promise<void> {
  await Promise.all(
    running.map(async (each) => {
      const how = await each.ended;
      if (signal.aborted) return;
      const left = running.filter((other) => !other.gone).length;
      const serves =
        left * 2 > running.length ? "the cluster goes on" : "that is no majority: nothing can be changed";
      const text = `${each.node.nodeId} ended (${how}); ${left} of ${running.length} nodes are left, ${serves}. Its log: ${each.logPath}`;
      if (output.json)
        await output.record({ type: "node_ended", nodeId: each.node.nodeId, how, nodesLeft: left });
      else output.note(text);
    }),
  );
}

/** Tells every node to stop, and ends those that do not. */
async function stopAll(io: CliIo, output: Output, running: readonly RunningNode[]): Promise<void> {
  const limitMs = defaultConfig().node.stopGraceMs + 2 * STOP_MARGIN_MS;
  for (const each of running) if (!each.gone) each.process.kill("SIGTERM");
  const timer = io.clock.setTimer(limitMs, () => {
    for (const each of running) {
      if (each.gone) continue;
      output.note(`${each.node.nodeId} did not stop within ${formatDuration(limitMs)}; ending it now.`);
      each.process.kill("SIGKILL");
    }
  });
  await Promise.all(running.map((each) => each.ended));
  timer.cancel();
}

/** The gRPC addresses of a local cluster with default ports; where every command looks for a drive unless told otherwise. */
export const DEFAULT_NODES: readonly string[] = [`${HOST}:29001`, `${HOST}:29002`, `${HOST}:29003`];
