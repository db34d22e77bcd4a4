/**
 * The command line: which commands there are, what they take, and how each ends.
 *
 * runCli() is the whole program but for the process around it: it parses, runs one command and returns the exit code. It
 * never ends the process and never throws for what a user did; programmer errors pass through to main.ts.
 */
import { setMaxListeners } from "node:events";
import { Command, CommanderError, InvalidArgumentError, Option } from "commander";
import { findAddress } from "../config/address.ts";
import { SETTINGS } from "../config/settings.ts";
import type { OnConflict } from "../drive/entry.ts";
import { DriveError } from "../drive/errors.ts";
import { AssertionError } from "../std/assert.ts";
import { clusterStatus } from "./cluster-status.ts";
import type { CliIo } from "./cli-io.ts";
import type { CommandContext } from "./command-context.ts";
import { cp, ls, mkdir, mv, rm, statPaths } from "./entry-commands.ts";
import { EXIT_INTERRUPTED, EXIT_OK, exitCodeOf, UsageError } from "./exit-code.ts";
import { get } from "./get.ts";
import { Output, OutputClosedError } from "./output.ts";
import { Patience } from "./patience.ts";
import { put } from "./put.ts";
import { printConfig, serve, type ConfigOptions } from "./serve.ts";
import { LOCAL_NODE_COUNT_MAX, type PortChoice } from "./up-layout.ts";
import { DEFAULT_NODES, up } from "./up.ts";

/** Seconds that a step may take without success: default and maximum. */
export const TIMEOUT_SECONDS_DEFAULT = 60;
export const TIMEOUT_SECONDS_MAX = 86_400;

/** Nodes that --nodes may name. */
export const NODE_COUNT_MAX = 64;

interface GlobalOptions {
  readonly nodes?: readonly string[];
  readonly json?: boolean;
  readonly timeout?: number;
}

type Action = (context: CommandContext) => Promise<number>;

/**
 * Runs the command of `args` (without the program's name) and returns its exit code: 0 done, 1 failed, 2 wrong command line
 * or configuration, 3 partly done, 130 interrupted.
 */
export async function runCli(args: readonly string[], io: CliIo): Promise<number> {
  const end = args.indexOf("--");
  const json = (end < 0 ? args : args.slice(0, end)).includes("--json");
  const output = new Output(io.stdout, io.stderr, { json });
  const run: { code: number } = { code: EXIT_OK };
  try {
    await buildProgram(io, output, run).parseAsync([...args], { from: "user" });
    return run.code;
  } catch (error) {
    if (error instanceof AssertionError) throw error;
    if (error instanceof OutputClosedError) return EXIT_OK;
    if (error instanceof InterruptedError) {
      output.note("Interrupted.");
      return EXIT_INTERRUPTED;
    }
    if (error instanceof CommanderError) {
      if (error.exitCode === 0) return EXIT_OK;
      // "commander.help": no command was named, and the help was shown.
      if (error.code !== "commander.help")
        output.error(new UsageError(error.message.replace(/^error: /, "")));
    } else output.error(error);
    return exitCodeOf(error);
  }
}

/** The user ended the command. */
class InterruptedError extends Error {
  override readonly name = "InterruptedError";
}

function buildProgram(io: CliIo, output: Output, run: { code: number }): Command {
  const program = new Command("netdisk")
    .description("A network drive on several nodes: every file in three verified copies.")
    .version(io.version, "-V, --version", "Show the version.")
    .helpOption("-h, --help", "Show help.")
    .enablePositionalOptions()
    .showHelpAfterError(false)
    .exitOverride()
    .configureOutput({
      writeOut: (text) => void io.stdout.write(text),
      writeErr: (text) => void io.stderr.write(text),
      outputError: () => undefined,
    })
    .addHelpText(
      "after",
      [
        "",
        "Exit codes: 0 done, 1 failed, 2 wrong command line or configuration, 3 partly done, 130 interrupted.",
        'Paths on the drive start with "/".',
      ].join("\n"),
    );
  for (const option of globalOptions()) program.addOption(option);
  const set = (code: number): void => void (run.code = code);
  addNodeCommands(program, io, output, set);
  addTransferCommands(program, io, output, set);
  addEntryCommands(program, io, output, set);
  return program;
}

function globalOptions(): readonly Option[] {
  return [
    new Option("--nodes <addresses>", "gRPC addresses of the nodes, host:port,... (NETDISK_NODES)").argParser(
      parseNodes,
    ),
    new Option("--timeout <seconds>", "give up a step after this long without an answer").argParser((text) =>
      parseInteger(text, 1, TIMEOUT_SECONDS_MAX),
    ),
    jsonOption(),
  ];
}

function jsonOption(): Option {
  return new Option("--json", "print JSON, one object a line; errors too, on stderr");
}

function addNodeCommands(program: Command, io: CliIo, output: Output, set: (code: number) => void): void {
  program
    .command("up")
    .description("Run a cluster on this machine until Ctrl-C; started again it goes on with its data.")
    .addOption(
      new Option("--nodes <count>", "how many nodes, 3 for a new cluster").argParser((text) =>
        parseInteger(text, 1, LOCAL_NODE_COUNT_MAX),
      ),
    )
    .option("--data <directory>", "where the nodes keep their data", ".netdisk")
    .addOption(
      new Option(
        "--base-port <port>",
        'first gRPC port (HTTP is 100 higher), or "auto" for any free ones',
      ).argParser(parseBasePort),
    )
    .addOption(jsonOption())
    .action(async (options: { nodes?: number; data: string; basePort?: PortChoice }) => {
      set(
        await up(io, output, {
          nodeCount: options.nodes,
          dataDirectory: options.data,
          ports: options.basePort ?? "default",
        }),
      );
    });
  const serveCommand = program
    .command("serve")
    .description("Run one node. Each setting is also an environment variable and a line of the file.");
  addConfigOptions(serveCommand).action(async (options: Record<string, string | undefined>) => {
    set(await serve(io, output, configOptions(options)));
  });
  const config = program.command("config").description("Look at the configuration of a node.");
  const print = config
    .command("print")
    .description(
      "Show the configuration that serve would use, secrets masked, or all that is wrong with it.",
    );
  addConfigOptions(print)
    .addOption(jsonOption())
    .action(async (options: Record<string, string | undefined>) => {
      set(await printConfig(io, output, configOptions(options)));
    });
  const cluster = program.command("cluster").description("Look at the cluster.");
  const status = cluster
    .command("status")
    .description("Who leads, which nodes are well, and how many copies there are.");
  addDriveAction(status, program, io, output, set, () => clusterStatus);
}

function addTransferCommands(program: Command, io: CliIo, output: Output, set: (code: number) => void): void {
  const putCommand = program
    .command("put")
    .description("Put files and folders on the drive; run again it skips equal files and goes on.")
    .argument(
      "<paths...>",
      'SRC... DEST: files and folders here ("-": stdin), and where they go on the drive',
    )
    .addHelpText(
      "after",
      [
        "",
        "A folder goes into DEST under its own name; written with a trailing / its contents go there.",
        "A file becomes DEST, or goes into DEST when that is a folder or ends in /.",
        "Modes and modification times are kept; symbolic links and special files are ignored with a note.",
      ].join("\n"),
    )
    .addOption(onConflictOption("when another file of that name is there"))
    .option("--resume", "accepted for habit: equal files that are there are always skipped")
    .option("-q, --quiet", "no progress and no summary");
  addDriveAction(putCommand, program, io, output, set, (paths, options) => {
    const [sources, destination] = splitDestination(paths, "SRC... DEST");
    const settings = {
      onConflict: conflictOf(options),
      quiet: options["quiet"] === true,
    };
    return (context) => put(context, sources, destination, settings);
  });
  const getCommand = program
    .command("get")
    .description("Fetch files and folders, verified by tree hash; run again it goes on.")
    .argument("<paths...>", 'PATH... DEST: paths on the drive, and where they go here ("-": stdout)')
    .option("--overwrite", "replace files here that differ")
    .option("-q, --quiet", "no progress and no summary");
  addDriveAction(getCommand, program, io, output, set, (paths, options) => {
    const [sources, destination] = splitDestination(paths, "PATH... DEST");
    const settings = { overwrite: options["overwrite"] === true, quiet: options["quiet"] === true };
    return (context) => get(context, sources, destination, settings);
  });
}

function addEntryCommands(program: Command, io: CliIo, output: Output, set: (code: number) => void): void {
  const add = (
    command: Command,
    make: (paths: readonly string[], options: Record<string, unknown>) => Action,
  ): void => addDriveAction(command, program, io, output, set, make);
  add(
    program
      .command("ls")
      .description("List a folder.")
      .argument("[path]", "path on the drive", "/")
      .option("-l, --long", "with mode, size and time (UTC)"),
    ([path = "/"], options) =>
      (context) =>
        ls(context, path, { long: options["long"] === true }),
  );
  add(
    program
      .command("stat")
      .description("Show everything about files and folders, verified copies included.")
      .argument("<paths...>"),
    (paths) => (context) => statPaths(context, paths),
  );
  add(
    program
      .command("mkdir")
      .description("Make folders.")
      .argument("<paths...>")
      .option("-p, --parents", "make those above too; existing ones are fine"),
    (paths, options) => (context) => mkdir(context, paths, { parents: options["parents"] === true }),
  );
  add(
    program
      .command("mv")
      .description("Move or rename; any size at once.")
      .argument("<paths...>", "PATH... DEST")
      .addOption(onConflictOption("when the name is taken")),
    (paths, options) => {
      const [sources, destination] = splitDestination(paths, "PATH... DEST");
      return (context) => mv(context, sources, destination, { onConflict: conflictOf(options) });
    },
  );
  add(
    program
      .command("cp")
      .description("Copy files and whole folders; bytes are shared, any size at once.")
      .argument("<paths...>", "PATH... DEST")
      .addOption(onConflictOption("when the name is taken"))
      .option("-r, --recursive", "accepted for habit: folders are always copied whole"),
    (paths, options) => {
      const [sources, destination] = splitDestination(paths, "PATH... DEST");
      return (context) => cp(context, sources, destination, { onConflict: conflictOf(options) });
    },
  );
  add(
    program
      .command("rm")
      .description("Delete files, and empty folders.")
      .argument("<paths...>")
      .option("-r, --recursive", "delete folders with everything in them"),
    (paths, options) => (context) => rm(context, paths, { recursive: options["recursive"] === true }),
  );
}

/** Gives a command the options of every command that talks to a drive, and runs it with a connection that is closed after. */
function addDriveAction(
  command: Command,
  program: Command,
  io: CliIo,
  output: Output,
  set: (code: number) => void,
  make: (paths: readonly string[], options: Record<string, unknown>) => Action,
): void {
  for (const option of globalOptions()) command.addOption(option);
  command.action(async () => {
    const action = make(command.processedArgs.flat().map(String), command.opts());
    const options: GlobalOptions = { ...program.opts<GlobalOptions>(), ...command.opts<GlobalOptions>() };
    set(await withDrive(io, output, options, action));
  });
}

async function withDrive(io: CliIo, output: Output, options: GlobalOptions, action: Action): Promise<number> {
  const addresses = options.nodes ?? nodesOfEnvironment(io) ?? DEFAULT_NODES;
  const interrupted = new AbortController();
  // Every step in flight listens, and how many those are is bounded elsewhere.
  setMaxListeners(0, interrupted.signal);
  const stopListening = io.signals.listen(() => interrupted.abort(new InterruptedError("interrupted")));
  const timeoutMs = (options.timeout ?? TIMEOUT_SECONDS_DEFAULT) * 1000;
  const connection = io.connect(addresses, timeoutMs);
  try {
    const patience = new Patience({
      clock: io.clock,
      prng: io.prng,
      timeoutMs,
      signal: interrupted.signal,
      onSlow: () =>
        output.note(
          `No answer yet from ${addresses.join(", ")}; trying for up to ${timeoutMs / 1000} s. Ctrl-C ends it.`,
        ),
    });
    return await action({ io, output, drive: connection.drive, patience, nodes: addresses.join(",") });
  } catch (error) {
    if (interrupted.signal.aborted) throw interrupted.signal.reason;
    throw explainUnreachable(error, addresses);
  } finally {
    stopListening();
    await connection.close();
  }
}

function nodesOfEnvironment(io: CliIo): readonly string[] | undefined {
  const text = io.environment["NETDISK_NODES"] ?? "";
  if (text === "") return undefined;
  try {
    return parseNodes(text);
  } catch (error) {
    if (error instanceof InvalidArgumentError) throw new UsageError(`NETDISK_NODES: ${error.message}`);
    throw error;
  }
}

/** Says which nodes were tried when none answered, and how to start or name some. */
function explainUnreachable(error: unknown, addresses: readonly string[]): unknown {
  if (!(error instanceof DriveError) || error.reason !== "PEER_UNREACHABLE") return error;
  return new DriveError(
    "PEER_UNREACHABLE",
    `No node could be reached at ${addresses.join(", ")} (${error.message}) Start a cluster with "netdisk up", or name its nodes with --nodes.`,
    error.metadata,
    error,
  );
}

function addConfigOptions(command: Command): Command {
  command.option("--config <file>", "YAML or JSON file; NETDISK_CONFIG when absent");
  for (const setting of SETTINGS) {
    command.addOption(new Option(`${setting.flag} <value>`, setting.description));
  }
  return command;
}

function configOptions(options: Record<string, string | undefined>): ConfigOptions {
  const flags: Record<string, string | undefined> = {};
  for (const setting of SETTINGS)
    flags[setting.key] = options[new Option(`${setting.flag} <value>`).attributeName()];
  return { configPath: options["config"], flags };
}

function onConflictOption(when: string): Option {
  return new Option("--on-conflict <what>", when).choices(["fail", "rename", "replace"]).default("fail");
}

function conflictOf(options: Record<string, unknown>): OnConflict {
  const chosen = options["onConflict"];
  return chosen === "rename" || chosen === "replace" ? chosen : "fail";
}

function splitDestination(paths: readonly string[], shape: string): [readonly string[], string] {
  const destination = paths.at(-1);
  if (paths.length < 2 || destination === undefined)
    throw new UsageError(`Two paths at least are needed: ${shape}.`);
  return [paths.slice(0, -1), destination];
}

function parseNodes(text: string): readonly string[] {
  const addresses = text
    .split(",")
    .map((part) => part.trim())
    .filter((part) => part !== "");
  const wrong = addresses.find((address) => findAddress(address) === undefined);
  if (wrong !== undefined) throw new InvalidArgumentError(`${JSON.stringify(wrong)} is not host:port.`);
  if (addresses.length < 1 || addresses.length > NODE_COUNT_MAX) {
    throw new InvalidArgumentError(`1 to ${NODE_COUNT_MAX} addresses are needed.`);
  }
  return [...new Set(addresses)];
}

function parseInteger(text: string, min: number, max: number): number {
  const value = /^\d+$/.test(text) ? Number(text) : NaN;
  if (!(value >= min && value <= max))
    throw new InvalidArgumentError(`It must be an integer from ${min} to ${max}.`);
  return value;
}

function parseBasePort(text: string): PortChoice {
  return text === "auto" ? "auto" : parseInteger(text, 1, 65_000);
}
