/**
 * `netdisk serve`: one node, until it is told to stop.
 *
 * The first SIGINT or SIGTERM stops it in order: Node.stop() turns readiness off, lets requests in hand finish and hands over
 * leadership. A second one, or a stop that takes longer than its grace and a margin, ends the process at once; that is safe,
 * because what was acknowledged is durable. Configuration comes from a file, the environment and flags.
 */
import { readFile } from "node:fs/promises";
import { resolve } from "node:path";
import type { Config } from "../config/config.ts";
import { loadConfig } from "../config/load.ts";
import { configAsJson, formatConfig } from "../config/print.ts";
import { DriveError } from "../drive/errors.ts";
import { deferred } from "../std/deferred.ts";
import { errnoOf } from "../std/disk.ts";
import type { CliIo } from "./cli-io.ts";
import { EXIT_FAILURE, EXIT_OK } from "./exit-code.ts";
import type { Output } from "./output.ts";

/** Beyond the grace of requests in hand: flushing, closing files and handing over leadership. */
export const STOP_MARGIN_MS = 10_000;

/** Threads for the files and databases of a node: fsync blocks a thread, and Node's four would be a queue. */
export const THREAD_POOL_SIZE = 16;

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

/** Runs a node until it is told to stop. */
export async function serve(io: CliIo, output: Output, options: ConfigOptions): Promise<number> {
  const config = await readConfig(io, options);
  if (io.environment["UV_THREADPOOL_SIZE"] === undefined) {
    // Node starts its pool before this program's first line, so the program cannot set it for itself.
    output.note(
      `UV_THREADPOOL_SIZE is not set: set it to ${THREAD_POOL_SIZE}, or files wait for each other on four threads.`,
    );
  }
  const node = io.createNode(config);
  const first = deferred<void>();
  const second = deferred<void>();
  let askedCount = 0;
  const stopListening = io.signals.listen(() => {
    askedCount += 1;
    (askedCount === 1 ? first : second).resolve();
  });
  try {
    // A node that is told to stop while it starts is stopped; start() then rejects or not, which no longer matters.
    const starting = node.start();
    try {
      await Promise.race([starting, first.promise]);
    } catch (error) {
      await node.stop();
      throw error;
    }
    await first.promise;
    starting.catch(() => undefined);
    const graceMs = config.node.stopGraceMs + STOP_MARGIN_MS;
    const overdue = deferred<"overdue">();
    const timer = io.clock.setTimer(graceMs, () => overdue.resolve("overdue"));
    const outcome = await Promise.race([
      node.stop().then(() => "stopped" as const),
      second.promise.then(() => "again" as const),
      overdue.promise,
    ]);
    timer.cancel();
    if (outcome === "overdue") output.note(`The node did not stop within ${graceMs} ms; ending it now.`);
    return outcome === "stopped" ? EXIT_OK : EXIT_FAILURE;
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
