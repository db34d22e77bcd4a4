/**
 * `netdisk serve`: one node, until it is told to stop.
 *
 * The first SIGINT or SIGTERM stops it in order: Node.stop() turns readiness off, lets requests in hand finish and hands over
 * leadership. A second one, or a stop that takes longer than its grace and a margin, ends the process at once; that is safe,
 * because what was acknowledged is durable. Configuration comes from a file, the environment and flags.
 */
import { readFile } from "node:fs/promises";
import { resolve } from "node:path";
import { defaultConfig, type Config } from "../config/config.ts";
import { loadConfig } from "../config/load.ts";
import { configAsJson, formatConfig } from "../config/print.ts";
import { DriveError, hasReason } from "../drive/errors.ts";
import { deferred } from "../std/deferred.ts";
import { errnoOf } from "../std/disk.ts";
import { createLogger, logProcessWarning, type Logger, type LogLevel } from "../telemetry/logger.ts";
import type { CliIo } from "./cli-io.ts";
import { EXIT_FAILURE, EXIT_OK, exitCodeOf } from "./exit-code.ts";
import { THREAD_POOL_SIZE } from "./node-environment.ts";
import { describeError, type Output } from "./output.ts";

/** Beyond the grace of requests in hand: flushing, closing files and handing over leadership. */
export const STOP_MARGIN_MS = 10_000;

/** The first signal stops the node in order, the second in disorder; the next ends the process even if it stands still. */
const HEARD_SIGNAL_COUNT = 2;

/** What to do about an error of the operating system that keeps a node from starting. */
const FIX_SYSTEM = "Put right what the message names, then start the node again.";

/** Where a node's configuration comes from on the command line. */
export interface ConfigOptions {
  /** Path of a file; NETDISK_CONFIG when undefined. */
  readonly configPath: string | undefined;
  /** By setting key, as text. */
  readonly flags: Readonly<Record<string, string | undefined>>;
}

/** Reads the configuration. @throws DriveError CONFIGURATION_INVALID */
export async function readConfig(io: CliIo, options: ConfigOptions): Promise<Config> {
  const path = options.configPath ?? io.environment["NETDISK_CONFIG"] ?? "";
  const file = path === "" ? undefined : { path, text: await readText(resolve(io.workingDirectory, path)) };
  return loadConfig({ file, environment: io.environment, flags: options.flags });
}

/**
 * Runs a node until it is told to stop. Everything that it says is in the log, one JSON line an event; what keeps it from
 * starting is said on a terminal once more, for people.
 */
export async function serve(io: CliIo, output: Output, options: ConfigOptions): Promise<number> {
  let logger = nodeLogger(io, {
    // The configuration may be what is wrong: the label is taken from where it would have come from.
    id: options.flags["node.id"] ?? io.environment["NODE_ID"] ?? defaultConfig().node.id,
    level: "info",
  });
  const stopListening = io.onWarning((warning) => logProcessWarning(logger, warning));
  try {
    const config = await readConfig(io, options);
    logger = nodeLogger(io, { id: config.node.id, level: config.log.level });
    return await runNode(io, output, config, logger);
  } catch (error) {
    if (!(error instanceof DriveError) && !isSystemError(error)) throw error;
    return fail(io, output, logger, error);
  } finally {
    stopListening();
  }
}

/** Whether the operating system refused something: no bug, and nothing of the catalogue. */
function isSystemError(error: unknown): error is Error {
  return error instanceof Error && "syscall" in error && errnoOf(error) !== undefined;
}

/** Says why the node does not serve, or not any longer. Returns the exit code. */
function fail(io: CliIo, output: Output, logger: Logger, error: Error): number {
  const { code, message, metadata, ...told } = describeError(error, output.command);
  const isDriveError = error instanceof DriveError;
  // A log is read by programs too: the words of the catalogue, not those for the command line.
  const remedy = isDriveError ? error.spec.remedy : told.remedy || FIX_SYSTEM;
  const cause = isDriveError ? error.cause : error;
  const isRefused = hasReason(error, "MEMBER_REMOVED", "MEMBER_DUPLICATED", "VERSION_UNSUPPORTED");
  logger.fatal(isRefused ? "node_refused" : "start_failed", {
    ...{ code, message, remedy, metadata },
    ...(cause ? { cause } : {}),
  });
  if (io.terminalColumns !== undefined) output.error(error);
  return exitCodeOf(error);
}

function nodeLogger(io: CliIo, node: { readonly id: string; readonly level: LogLevel | "silent" }): Logger {
  return createLogger({
    node: node.id,
    level: node.level,
    clock: io.clock,
    destination: io.logDestination,
  });
}

async function runNode(io: CliIo, output: Output, config: Config, logger: Logger): Promise<number> {
  if (io.environment["UV_THREADPOOL_SIZE"] === undefined) {
    // Node starts its pool before this program's first line, so the program cannot set it for itself.
    logger.warn("thread_pool_small", {
      message: `UV_THREADPOOL_SIZE is not set: files wait for each other on four threads.`,
      remedy: `Set UV_THREADPOOL_SIZE to ${THREAD_POOL_SIZE} before the program starts.`,
    });
  }
  const node = io.createNode(config, logger);
  const first = deferred<void>();
  const second = deferred<void>();
  let askedCount = 0;
  const stopListening = io.signals.listen(() => {
    askedCount += 1;
    (askedCount === 1 ? first : second).resolve();
  }, HEARD_SIGNAL_COUNT);
  // Whatever it is stopped for: a stop that hangs must not keep the process.
  const stop = async (): Promise<"stopped" | "again" | "overdue"> => {
    const graceMs = config.node.stopGraceMs + STOP_MARGIN_MS;
    const overdue = deferred<"overdue">();
    const timer = io.clock.setTimer(graceMs, () => overdue.resolve("overdue"));
    const outcome = await Promise.race([
      node.stop().then(() => "stopped" as const),
      second.promise.then(() => "again" as const),
      overdue.promise,
    ]).finally(() => timer.cancel());
    if (outcome === "overdue") logger.error("stop_overdue", { grace_ms: graceMs });
    return outcome;
  };
  try {
    // A node that is told to stop while it starts is stopped; start() then rejects or not, which no longer matters.
    const starting = node.start();
    try {
      await Promise.race([starting, first.promise]);
    } catch (error) {
      // The reason comes first, so that what the stop logs is read as its consequence.
      const isTold = error instanceof DriveError || isSystemError(error);
      const code = isTold ? fail(io, output, logger, error) : undefined;
      await stop();
      if (code === undefined) throw error;
      return code;
    }
    const refusals = node.refused === undefined ? [] : [node.refused];
    const refusal = await Promise.race([first.promise, ...refusals]);
    if (refusal !== undefined) {
      const code = fail(io, output, logger, refusal);
      await stop();
      return code;
    }
    starting.catch(() => undefined);
    return (await stop()) === "stopped" ? EXIT_OK : EXIT_FAILURE;
  } finally {
    stopListening();
  }
}

/** `netdisk config print`: the configuration that `serve` would use, secrets masked. */
export async function printConfig(io: CliIo, output: Output, options: ConfigOptions): Promise<number> {
  const config = await readConfig(io, options);
  if (output.json) await output.record(configAsJson(config));
  else await output.line(formatConfig(config).trimEnd());
  return EXIT_OK;
}

async function readText(path: string): Promise<string> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    const code = errnoOf(error);
    if (code === undefined) throw error;
    throw new DriveError(
      "CONFIGURATION_INVALID",
      `The configuration file ${path} cannot be read (${code}).`,
      {
        problems: `${path}: cannot be read (${code})`,
      },
    );
  }
}
