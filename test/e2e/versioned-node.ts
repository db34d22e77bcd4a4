/**
 * The program as src/main.ts runs it, but of a version that supports other feature levels: MIN-MAX in TEST_FEATURE_LEVELS. Started by
 * upgrade.test.ts alone; nothing in the program's own configuration reaches those levels.
 */
import { MessageChannel } from "node:worker_threads";
import { runCli } from "../../src/cli/program.ts";
import { systemIo } from "../../src/cli/system-io.ts";
import { Node } from "../../src/node/node.ts";

const [min = 1, max = 1] = (process.env["TEST_FEATURE_LEVELS"] ?? "").split("-").map(Number);

function end(error: unknown): never {
  process.stderr.write(`${String(error)}\n`);
  process.exit(70);
}

// Timers do not keep a process alive, as in src/main.ts.
const alive = new MessageChannel();
alive.port1.ref();

const io = systemIo({
  createNode: (config, logger) =>
    new Node({ config, logger, version: "test", featureLevels: { min, max }, onFatal: end }),
  exit: (code) => process.exit(code),
});
const exitCode = await runCli(process.argv.slice(2), io);
await new Promise((flushed) => process.stdout.write("", flushed));
process.exit(exitCode);
