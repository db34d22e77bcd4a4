#!/usr/bin/env node
/**
 * The process: runs the command line in the real world, and ends when something broke that must not be survived.
 *
 * An error that nobody handled is a bug. It is printed and the process ends with EXIT_BROKEN, at once: a node that goes on
 * with a broken invariant can do more harm than one that is missing. The disk below a node's data that is gone or refuses
 * everything ends it as soon, and is no bug: that is said with what to do, and the process ends with EXIT_FAILURE. Node's thread pool is made before this file is read, so
 * UV_THREADPOOL_SIZE cannot be set here: `netdisk up` sets it for its nodes, and `netdisk serve` says when it is missing.
 */
import { MessageChannel } from "node:worker_threads";
import { describeDataFailure } from "./cli/data-failure.ts";
import { EXIT_FAILURE } from "./cli/exit-code.ts";
import { runCli } from "./cli/program.ts";
import { systemIo } from "./cli/system-io.ts";
import { Node } from "./node/node.ts";
import { setHeapGrowth } from "./std/heap-growth.ts";

/** EX_SOFTWARE of sysexits.h: an internal error. */
const EXIT_BROKEN = 70;

/** The data directory of the node in this process. */
let dataDirectory: string | undefined;

function endBroken(error: unknown): never {
  const detail = error instanceof Error ? (error.stack ?? error.message) : String(error);
  const cause = error instanceof Error && error.cause instanceof Error ? { cause: error.cause.message } : {};
  const failure = dataDirectory === undefined ? undefined : describeDataFailure(error, dataDirectory);
  const event = failure === undefined ? "process_broken" : "data_failed";
  process.stderr.write(`${JSON.stringify({ level: "fatal", event, ...failure, detail, ...cause })}\n`);
  if (failure === undefined) process.exit(EXIT_BROKEN);
  // As at the start: on a terminal once more, for people.
  if (process.stderr.isTTY) process.stderr.write(`${failure.message} ${failure.remedy} [${failure.code}]\n`);
  process.exit(EXIT_FAILURE);
}

process.on("uncaughtException", endBroken);
process.on("unhandledRejection", endBroken);

setHeapGrowth();

// Timers do not keep a process alive (std/clock.ts), and a command may have nothing but a timer to wait for.
const alive = new MessageChannel();
alive.port1.ref();

const io = systemIo({
  createNode: (config, logger) => {
    dataDirectory = config.data.directory;
    return new Node({ config, logger, version: io.version, onFatal: endBroken });
  },
  exit: (code) => process.exit(code),
});
const exitCode = await runCli(process.argv.slice(2), io);
// What was written to a pipe must be out before the process ends.
await new Promise((flushed) => process.stdout.write("", flushed));
// Timers and idle connections may be left; what the command had to do is done.
process.exit(exitCode);
