/**
 * `netdisk up`: a cluster on this machine, one process per node, until it is told to stop.
 *
 * The nodes are ordinary `netdisk serve` processes with data directories of their own, in process groups of their own, so
 * that Ctrl-C reaches only this process, which then stops them in order. They also stop when this process goes away without
 * a word (the message channel between them closes). A node that dies is reported and not restarted: that is what the cluster
 * is there to survive, and what one wants to see.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { open, readFile } from "node:fs/promises";
import { basename, relative, join, resolve } from "node:path";
import { defaultConfig } from "../config/config.ts";
import { DriveError, hasReason, isErrorReason } from "../drive/errors.ts";
import { dataIdentityIn } from "../node/data-identity.ts";
import { ChannelPool } from "../rpc/channel-pool.ts";
import { describeNode } from "../rpc/node-client.ts";
import { must } from "../std/assert.ts";
import { sleep } from "../std/clock.ts";
import { deferred } from "../std/deferred.ts";
import { errnoOf } from "../std/disk.ts";
import { makeDirectories } from "../std/make-directories.ts";
import type { CliIo } from "./cli-io.ts";
import { EXIT_FAILURE, EXIT_OK } from "./exit-code.ts";
import { formatDuration, formatQuantity } from "../std/format.ts";
import type { Output } from "./output.ts";
import { ALLOCATOR_ENVIRONMENT, NODE_ENVIRONMENT, shellCommand } from "./node-environment.ts";
import { STOP_MARGIN_MS } from "./serve.ts";
import { openLayout, type Layout, type LocalNode, type PortChoice } from "./up-layout.ts";

/** How long the nodes may take until all are ready, and how often that is asked. */
export const READY_TIMEOUT_MS = 60_000;
const READY_POLL_MS = 100;

/** How long what has a port of the cluster may take to say who it is. */
const PROBE_TIMEOUT_MS = 2000;

/** The first signal stops the nodes in order, the second at once; the next ends this process, and with it they stop too. */
const HEARD_SIGNAL_COUNT = 2;

const HOST = "127.0.0.1";
/** What would place a node of `serve` elsewhere; the nodes of this command are placed by flags, which count for more. */
const ADDRESS_VARIABLES = ["NODE_ADDR", "NETDISK_NODE_ADDRESS", "PEERS", "NETDISK_CLUSTER_PEERS"];
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
  /** Where this run begins in the log, which has those of earlier starts before it. */
  readonly logStartBytes: number;
  /** How it ended: "exit code 1", "signal SIGKILL"; resolved when the process is gone. */
  readonly ended: Promise<string>;
  gone: boolean;
}

/** Runs a local cluster until it is told to stop. */
export async function up(io: CliIo, output: Output, options: UpOptions): Promise<number> {
  output.command = "up";
  for (const name of ADDRESS_VARIABLES) {
    if ((io.environment[name] ?? "") !== "") {
      output.note(`${name} is set and not used: "netdisk up" gives its nodes addresses on ${HOST}.`);
    }
  }
  const dataDirectory = resolve(io.workingDirectory, options.dataDirectory);
  const { nodes: layout, ...others } = await askLayout(io, dataDirectory, options);
  const asked = deferred<void>();
  const stopping = new AbortController();
  let running: RunningNode[] = [];
  const stopListening = io.signals.listen(() => {
    if (!stopping.signal.aborted) {
      stopping.abort(new DriveError("CANCELED", "The cluster was told to stop."));
      asked.resolve();
    } else for (const each of running) if (!each.gone) each.process.kill("SIGKILL");
  }, HEARD_SIGNAL_COUNT);
  try {
    const startable = layout.filter(
      (node) => !others.running.includes(node) && !others.removed.includes(node),
    );
    for (const node of startable) running = [...running, await startNode(io, node, layout, dataDirectory)];
    output.note(`Starting ${formatQuantity(startable.length, "node")} with data in ${dataDirectory} …`);
    if (others.isNew) {
      output.note(
        "No cluster was in that folder: this founds a new, empty one. To go on with an earlier one, stop this and name its folder with --data.",
      );
    }
    await tellOthers(output, others);
    const startMs = io.clock.monotonicMs();
    const ready = await waitUntilReady(io, running, stopping.signal);
    if (!ready.every) {
      if (!stopping.signal.aborted) throw ready.problem;
      return EXIT_OK;
    }
    const members = running.filter((each) => !ready.removed.includes(each));
    const started = members.map(({ node }) => node);
    for (const each of ready.removed) await tellRemoved(io, output, each, started, dataDirectory);
    const elsewhere = others.running.length;
    const elapsedMs = io.clock.monotonicMs() - startMs;
    await announce(io, output, started, dataDirectory, { elapsedMs, elsewhere });
    const died = watchDeaths(output, members, {
      signal: stopping.signal,
      statusCommand: `${commandPrefix(io, started)} cluster status`,
    });
    await Promise.race([asked.promise, died]);
    return stopping.signal.aborted ? EXIT_OK : EXIT_FAILURE;
  } finally {
    stopping.abort();
    output.note("Stopping …");
    await stopAll(io, output, running);
    stopListening();
  }
}

/** Says which nodes of the layout are not started here, and why. */
async function tellOthers(
  output: Output,
  { running, removed }: Pick<Layout, "running" | "removed">,
): Promise<void> {
  for (const { nodeId, grpcPort } of running) {
    const grpc = `${HOST}:${grpcPort}`;
    if (output.json) await output.record({ type: "node_running", nodeId, grpc });
    else output.note(`${nodeId} runs already (gRPC ${grpc}); this command leaves it alone.`);
  }
  for (const { nodeId } of removed) {
    if (output.json) await output.record({ type: "node_removed", nodeId });
    else output.note(`${nodeId} was removed from the cluster and is not started; its ports are taken.`);
  }
}

/** Opens the layout; what has its ports is asked who it is. */
async function askLayout(io: CliIo, dataDirectory: string, options: UpOptions): Promise<Layout> {
  const { clock } = io;
  const pool = new ChannelPool({ clock });
  try {
    return await openLayout(dataDirectory, options, {
      identityIn: dataIdentityIn,
      clusterAt: async (address) => {
        try {
          return (await describeNode(address, { pool, clock, timeoutMs: PROBE_TIMEOUT_MS })).cluster
            ?.clusterId;
        } catch (error) {
          // Whatever answers is no node that serves.
          if (error instanceof DriveError) return undefined;
          throw error;
        }
      },
    });
  } finally {
    pool.close();
  }
}

async function startNode(
  io: CliIo,
  node: LocalNode,
  layout: readonly LocalNode[],
  dataDirectory: string,
): Promise<RunningNode> {
  const logPath = join(dataDirectory, `${node.nodeId}.log`);
  await makeDirectories(join(dataDirectory, node.nodeId), 0o700);
  const log = await open(logPath, "a", 0o600);
  const logStartBytes = (await log.stat()).size;
  const serve = serveArguments(node, layout, dataDirectory);
  const child = spawn(io.program.executable, [...io.program.leadingArguments, ...serve], {
    cwd: io.workingDirectory,
    env: { ...NODE_ENVIRONMENT, ...ALLOCATOR_ENVIRONMENT, ...withoutNodeNames(io.environment) },
    stdio: ["ignore", log.fd, log.fd, "ipc"],
    detached: true,
  });
  const ended = deferred<string>();
  const running: RunningNode = {
    node,
    process: child,
    logPath,
    logStartBytes,
    ended: ended.promise,
    gone: false,
  };
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

function serveArguments(
  node: LocalNode,
  layout: readonly LocalNode[],
  dataDirectory: string,
): readonly string[] {
  const address = `${HOST}:${node.grpcPort}`;
  const own = [
    ["--node-id", node.nodeId],
    ["--node-address", address],
    ["--cluster-peers", addressesOf(layout)],
    ["--cluster-me", address],
    ["--http-host", HOST],
    ["--http-port", String(node.httpPort)],
    ["--data-directory", join(dataDirectory, node.nodeId)],
  ];
  return ["serve", ...own.flat()];
}

function addressesOf(nodes: readonly LocalNode[]): string {
  return nodes.map(({ grpcPort }) => `${HOST}:${grpcPort}`).join(",");
}

/** The environment without what would say the same of every node. */
function withoutNodeNames(environment: CliIo["environment"]): NodeJS.ProcessEnv {
  const shared = { ...environment };
  for (const name of ["PUBLIC_URL", "NETDISK_HTTP_PUBLIC_URL"]) delete shared[name];
  return shared;
}

/** Whether every node that the cluster has not removed is ready, and which it has removed. */
type Readiness =
  | { readonly every: true; readonly removed: readonly RunningNode[] }
  | { readonly every: false; readonly problem: Error | undefined };

async function waitUntilReady(
  io: CliIo,
  running: readonly RunningNode[],
  signal: AbortSignal,
): Promise<Readiness> {
  const deadlineMs = io.clock.monotonicMs() + READY_TIMEOUT_MS;
  const waiting = new Set(running);
  const removed: RunningNode[] = [];
  while (waiting.size > 0) {
    if (signal.aborted) return { every: false, problem: undefined };
    for (const each of waiting) {
      if (each.gone) {
        const problem = await diedEarly(each);
        // The rest of the cluster does without it; when none is left, the last one says why.
        const isRemoved = hasReason(problem, "MEMBER_REMOVED") && removed.length + 1 < running.length;
        if (!isRemoved) return { every: false, problem };
        removed.push(each);
        waiting.delete(each);
      } else if (await isReady(each.node, signal)) waiting.delete(each);
    }
    if (waiting.size === 0) break;
    if (io.clock.monotonicMs() > deadlineMs) {
      const [slow] = waiting;
      return { every: false, problem: await neverReady(must(slow, "a node that waits")) };
    }
    await sleep(io.clock, READY_POLL_MS);
  }
  return { every: true, removed };
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
  const reason = await reasonInLog(each);
  if (reason !== undefined) return reason;
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
  return (await lastLogLines(each)).slice(-LOG_TAIL_LINES).join("\n");
}

/** The end of what this run of the node logged. */
async function lastLogLines(each: RunningNode): Promise<readonly string[]> {
  try {
    const text = (await readFile(each.logPath)).subarray(each.logStartBytes);
    return text.subarray(-LOG_TAIL_BYTES).toString("utf8").trimEnd().split("\n");
  } catch (error) {
    // Somebody took the log away: what ended the node must be told all the same.
    if (errnoOf(error) === "ENOENT") return [];
    throw error;
  }
}

/** Why a node did not start, in the words of the fatal line of its log; undefined when it ended without saying. */
async function reasonInLog(each: RunningNode): Promise<DriveError | undefined> {
  for (const text of (await lastLogLines(each)).toReversed()) {
    const { event, code, message } = logLine(text);
    if (event !== "start_failed" && event !== "node_refused") continue;
    if (typeof code !== "string" || !isErrorReason(code)) return undefined;
    return new DriveError(code, `${each.node.nodeId}: ${String(message)} Its log: ${each.logPath}.`, {
      node_id: each.node.nodeId,
    });
  }
  return undefined;
}

interface LogLine {
  readonly event?: unknown;
  readonly code?: unknown;
  readonly message?: unknown;
}

/** A line of a log; nothing is in it when something else wrote it. */
function logLine(text: string): LogLine {
  try {
    const parsed: unknown = JSON.parse(text);
    return typeof parsed === "object" && parsed !== null ? parsed : {};
  } catch (error) {
    if (error instanceof SyntaxError) return {};
    throw error;
  }
}

/** Says that a node is not of the cluster any more, and how a new one takes its place in this layout. */
async function tellRemoved(
  io: CliIo,
  output: Output,
  each: RunningNode,
  started: readonly LocalNode[],
  dataDirectory: string,
): Promise<void> {
  const { nodeId } = each.node;
  const directory = join(dataDirectory, nodeId);
  const program = programName(io);
  const add = `${program} --nodes ${addressesOf(started)} cluster add`;
  const serve = serveArguments(each.node, [...started, each.node], dataDirectory).join(" ");
  const command = `${program} ${serve} --join TOKEN`;
  if (output.json) {
    await output.record({
      ...{ type: "node_removed", nodeId, dataDirectory: directory, add },
      ...{ serve: command, environment: NODE_ENVIRONMENT },
    });
    return;
  }
  output.note(`${nodeId} was removed from the cluster and is not started.`);
  output.note(`To let a new one in at its place: empty ${directory}, get a token with "${add}", then run`);
  output.note(`  ${shellCommand(command)}`);
}

async function announce(
  io: CliIo,
  output: Output,
  layout: readonly LocalNode[],
  dataDirectory: string,
  { elapsedMs, elsewhere }: { readonly elapsedMs: number; readonly elsewhere: number },
): Promise<void> {
  const nodes = layout.map((node) => ({
    nodeId: node.nodeId,
    url: `http://${HOST}:${node.httpPort}`,
    grpc: `${HOST}:${node.grpcPort}`,
  }));
  if (output.json) return output.record({ type: "ready", nodes, dataDirectory });
  const prefix = commandPrefix(io, layout);
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
      elsewhere === 0
        ? "Ctrl-C stops all nodes; the data stays, and the next start uses it."
        : "Ctrl-C stops the nodes started here; the data stays, and the next start uses it.",
    ].join("\n"),
  );
}

/** How a command that talks to these nodes begins. */
function commandPrefix(io: CliIo, nodes: readonly LocalNode[]): string {
  const isDefault = nodes.every(({ grpcPort }) => DEFAULT_NODES.includes(`${HOST}:${grpcPort}`));
  return isDefault ? programName(io) : `${programName(io)} --nodes ${addressesOf(nodes)}`;
}

/** How the user can start this program again: by its name when it was started so, else by its file. */
export function programName(io: CliIo): string {
  const script = io.program.leadingArguments.at(-1);
  if (script === undefined || basename(script) === "netdisk") return "netdisk";
  try {
    return `node ${relative(io.workingDirectory, script)}`;
  } catch (error) {
    // The working directory is gone, which has nothing to do with what is to be said.
    if (hasReason(error, "PATH_NOT_FOUND")) return `node ${script}`;
    throw error;
  }
}

/** Reports nodes that die, or that the cluster removes; resolves when none is left. */
async function watchDeaths(
  output: Output,
  running: readonly RunningNode[],
  { signal, statusCommand }: { readonly signal: AbortSignal; readonly statusCommand: string },
): Promise<void> {
  const removed = new Set<RunningNode>();
  await Promise.all(
    running.map(async (each) => {
      const how = await each.ended;
      if (signal.aborted) return;
      const isRemoved = hasReason(await reasonInLog(each), "MEMBER_REMOVED");
      if (isRemoved) removed.add(each);
      const { nodeId } = each.node;
      const left = running.filter((other) => !other.gone).length;
      if (output.json) {
        await output.record({ type: "node_ended", nodeId, how, removed: isRemoved, nodesLeft: left });
        return;
      }
      if (isRemoved) {
        output.note(
          `${nodeId} ended: it was removed from the cluster; ${formatQuantity(left, "node")} left.`,
        );
        return;
      }
      // Others may run by now under the same command in another terminal: what the cluster can do is not known here.
      const ofThese = formatQuantity(running.length - removed.size, "node");
      output.note(
        `${nodeId} ended (${how}); ${left} of ${ofThese} started here ${left === 1 ? "is" : "are"} left. Its log: ${each.logPath}`,
      );
      if (left > 0) output.note(`"${statusCommand}" says how the cluster does without it.`);
      output.note(
        "It is not started again by itself: the same command in another terminal starts it; here Ctrl-C and the same command start all nodes.",
      );
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
