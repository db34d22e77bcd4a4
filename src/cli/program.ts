/**
 * The command line: which commands there are, what they take, and how each ends.
 *
 * runCli() is the whole program but for the process around it: it parses, runs one command and returns the exit code. It
 * never ends the process and never throws for what a user did; programmer errors pass through to main.ts.
 */
import { Command, CommanderError, Option } from "commander";
import { SETTINGS } from "../config/settings.ts";
import { CATALOG_PAGE_SIZE_MAX, CATALOG_SORTS, USAGE_GROUPS } from "../drive/catalog.ts";
import type { OnConflict } from "../drive/entry.ts";
import { AssertionError } from "../std/assert.ts";
import { addTaskCommands } from "./task-program.ts";
import { addUploadCommands } from "./upload-commands.ts";
import { duplicates, rebuildCatalog, search, usage } from "./catalog-commands.ts";
import { addClusterCommands, type Action } from "./cluster-program.ts";
import type { CliIo } from "./cli-io.ts";
import { cp, ls, mkdir, mv, rm, statPaths } from "./entry-commands.ts";
import { EXIT_INTERRUPTED, EXIT_OK, exitCodeOf, UsageError } from "./exit-code.ts";
import { get } from "./get.ts";
import { getZip } from "./get-zip.ts";
import { parseBasePort, parseInteger, parseNodeCount, parseNodes, parseSize } from "./option-values.ts";
import { Output, OutputClosedError } from "./output.ts";
import { put } from "./put.ts";
import { rebuild } from "./rebuild.ts";
import { recover } from "./recover.ts";
import { printConfig, serve, type ConfigOptions } from "./serve.ts";
import {
  DATA_DIRECTORY_DEFAULT,
  GRPC_PORT_DEFAULT,
  HTTP_PORT_DEFAULT,
  type PortChoice,
} from "./up-layout.ts";
import { DEFAULT_NODES, up } from "./up.ts";
import {
  InterruptedError,
  TIMEOUT_SECONDS_DEFAULT,
  TIMEOUT_SECONDS_MAX,
  withDrive,
  type DriveOptions,
} from "./with-drive.ts";

/** Results that a command shows at most. */
export const SHOWN_COUNT_MAX = 1_000_000;

/**
 * Runs the command of `args` (without the program's name) and returns its exit code: 0 done, 1 failed, 2 wrong command line
 * or configuration, 3 partly done, 130 interrupted. main.ts ends the process with 70 for an error that nobody expected.
 */
export async function runCli(args: readonly string[], io: CliIo): Promise<number> {
  const end = args.indexOf("--");
  const json = (end < 0 ? args : args.slice(0, end)).includes("--json");
  const output = new Output(io.stdout, io.stderr, { json });
  const run: { code: number } = { code: EXIT_OK };
  const stopListening = io.onWarning((warning) => output.warning(warning));
  try {
    await buildProgram(io, output, run).parseAsync([...args], { from: "user" });
    return run.code;
  } catch (error) {
    if (error instanceof AssertionError) throw error;
    if (error instanceof OutputClosedError) return EXIT_OK;
    if (error instanceof InterruptedError) {
      // What goes through a pipe, or comes as a ZIP file, has to come again; transfers of files are noted down as they go.
      const isWhole = args.includes("-") || args.includes("--zip");
      const goesOn = ["put", "get"].includes(output.command ?? "") && !isWhole;
      output.note(goesOn ? "Interrupted. The same command goes on from there." : "Interrupted.");
      return EXIT_INTERRUPTED;
    }
    if (error instanceof CommanderError) {
      if (error.exitCode === 0) return EXIT_OK;
      // "commander.help": no command was named, and the help was shown.
      if (error.code !== "commander.help") output.error(new UsageError(sentenceOf(error)));
    } else output.error(error);
    return exitCodeOf(error);
  } finally {
    stopListening();
  }
}

/** What commander found wrong with the command line, as one sentence. */
function sentenceOf({ message }: CommanderError): string {
  const text = message.replace(/^error: /, "").replaceAll("\n", " ");
  return /[.?!)]$/.test(text) ? text : `${text}.`;
}

/** Refuses options before the command's name that mean nothing to one that asks no drive: silence would look like consent. */
function refuseDriveOptions(program: Command, command: string): void {
  const { nodes, timeout } = program.opts<DriveOptions>();
  if (nodes !== undefined) {
    const instead =
      command === "up"
        ? `"netdisk up" starts nodes of its own on this machine: name how many after it ("netdisk up --nodes 3"), or start each node of a cluster on several machines with "netdisk serve".`
        : `"netdisk ${command}" takes the addresses of nodes from --cluster-peers and --node-address.`;
    throw new UsageError(`--nodes names nodes for commands that talk to a drive. ${instead}`);
  }
  if (timeout !== undefined) throw new UsageError(`--timeout means nothing to "netdisk ${command}".`);
}

function buildProgram(io: CliIo, output: Output, run: { code: number }): Command {
  const program = new Command("netdisk")
    .description("A network drive on several nodes: every file in three verified copies.")
    .version(io.version, "-V, --version", "Show the version.")
    .helpOption("-h, --help", "Show help.")
    .helpCommand("help [command]", "Show help of a command.")
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
        "Exit codes: 0 done, 1 failed, 2 wrong command line or configuration, 3 partly done, 70 a bug, 130 interrupted.",
        'Paths on the drive start with "/".',
      ].join("\n"),
    );
  for (const option of globalOptions()) program.addOption(option);
  const set = (code: number): void => void (run.code = code);
  addNodeCommands(program, io, output, set);
  addTransferCommands(program, io, output, set);
  addEntryCommands(program, io, output, set);
  addCatalogCommands(program, io, output, set);
  addUploadCommands(program, (command, make) => addDriveAction(command, program, io, output, set, make));
  addTaskCommands(program, (command, make) => addDriveAction(command, program, io, output, set, make));
  return program;
}

function globalOptions(): readonly Option[] {
  return [
    // The defaults are told but not set: an option of the command line counts wherever it stands.
    new Option(
      "--nodes <addresses>",
      `gRPC addresses of the nodes, host:port,... (default: NETDISK_NODES, else ${DEFAULT_NODES.join(",")})`,
    ).argParser(parseNodes),
    new Option(
      "--timeout <seconds>",
      `give up a step after this long without an answer (default: ${TIMEOUT_SECONDS_DEFAULT})`,
    ).argParser((text) => parseInteger(text, 1, TIMEOUT_SECONDS_MAX)),
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
      new Option("--nodes <count>", "how many nodes to run here (default: as before, else 3)").argParser(
        parseNodeCount,
      ),
    )
    .option("--data <directory>", "where the nodes keep their data", DATA_DIRECTORY_DEFAULT)
    .addOption(
      new Option(
        "--base-port <port>",
        `first gRPC port, or "auto" for any free ones (default: ${GRPC_PORT_DEFAULT}, HTTP from ${HTTP_PORT_DEFAULT}; else HTTP is 100 higher)`,
      ).argParser(parseBasePort),
    )
    .addOption(jsonOption())
    .action(async (options: { nodes?: number; data: string; basePort?: PortChoice }) => {
      refuseDriveOptions(program, "up");
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
    refuseDriveOptions(program, "serve");
    set(await serve(io, output, configOptions(options)));
  });
  const recoverCommand = program
    .command("recover")
    .description(
      "When the majority is lost for good: found a new cluster from this stopped node. Says first what may be lost.",
    )
    .option("--confirm <cluster>", "id of the old cluster, as shown without it: do it");
  addConfigOptions(recoverCommand)
    .addOption(jsonOption())
    .action(async (options: Record<string, string | undefined>) => {
      refuseDriveOptions(program, "recover");
      output.command = "recover";
      const { confirm } = options;
      set(await recover(io, output, { config: configOptions(options), confirm }));
    });
  program
    .command("rebuild")
    .description(
      "When every voter's tree is lost: found a new cluster from chunk stores. Says first what it would give.",
    )
    .argument("<directories...>", "data directories of stopped nodes, as many as there are")
    .option("--confirm <cluster>", "id of the old cluster, as shown without it: do it")
    .addOption(jsonOption())
    .action(async (directories: readonly string[], { confirm }: Record<string, string | undefined>) => {
      refuseDriveOptions(program, "rebuild");
      output.command = "rebuild";
      set(await rebuild(io, output, { directories, confirm }));
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
  addClusterCommands(program, (command, make) => addDriveAction(command, program, io, output, set, make));
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
        "A file that is there with other bytes is left alone and reported, unless --on-conflict says otherwise.",
        "Modes and modification times are kept; names go into Unicode normal form C, with a note; symbolic links and special files are ignored with a note.",
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
    .option("--zip", "all of it as one ZIP archive, prepared by the cluster; DEST is its file, or a folder")
    .option("--keep", "with --zip: leave the archive with the cluster for its 24 hours, to be fetched again")
    .option("-q, --quiet", "no progress and no summary");
  addDriveAction(getCommand, program, io, output, set, (paths, options) => {
    const [sources, destination] = splitDestination(paths, "PATH... DEST");
    const settings = { overwrite: options["overwrite"] === true, quiet: options["quiet"] === true };
    const keep = options["keep"] === true;
    if (options["zip"] === true) {
      return (context) => getZip(context, sources, destination, { ...settings, keep });
    }
    if (keep) throw new UsageError("--keep is for --zip: nothing else is prepared.");
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

function addCatalogCommands(program: Command, io: CliIo, output: Output, set: (code: number) => void): void {
  const limit = (what: string): Option =>
    new Option("--limit <count>", `at most this many ${what}`)
      .argParser((text) => parseInteger(text, 1, SHOWN_COUNT_MAX))
      .default(100);
  const searchCommand = program
    .command("search")
    .description(
      "Find files and folders by a part of their name; with a slash in it, by the end of the path up to a part of the name.",
    )
    .argument("[text]", "what to look for; without it everything that the options let through")
    .addOption(new Option("--under <folder>", "only below this folder"))
    .addOption(new Option("--kind <kind>", "only these").choices(["file", "directory"]))
    .addOption(new Option("--type <type>", 'only this media type, or its first half, as in "image/"'))
    .addOption(
      new Option("--min-size <size>", 'only files of at least so many bytes, or "1M"').argParser(parseSize),
    )
    .addOption(
      new Option("--max-size <size>", 'only files of at most so many bytes, or "1M"').argParser(parseSize),
    )
    .option("--under-replicated", "only files that lack copies")
    .addOption(new Option("--sort <order>", "by what").choices([...CATALOG_SORTS]).default("created"))
    .option("--ascending", "smallest, oldest or first first")
    .addOption(limit("entries"))
    .option("-l, --long", "with size, time (UTC) and copies")
    .addHelpText(
      "after",
      `
A text without a slash is a part of the name of what is found. One with a slash is a part of a path that ends in that name:
  b      names with "b" in them
  /b     names that begin with "b"
  b/     folders whose name ends with "b"
  /b/    folders named "b"
  a/b    names that begin with "b", in folders whose name ends with "a"
What lies below a folder that is found is not found with it; --under lists that.`,
    );
  addDriveAction(searchCommand, program, io, output, set, ([text], options) => {
    const textOf = (name: string): string | undefined => options[name] as string | undefined;
    const numberOf = (name: string): number | undefined => options[name] as number | undefined;
    const query = {
      text,
      under: textOf("under"),
      kind: (["file", "directory"] as const).find((kind) => kind === options["kind"]),
      mediaType: textOf("type"),
      sizeBytesMin: numberOf("minSize"),
      sizeBytesMax: numberOf("maxSize"),
      underReplicated: options["underReplicated"] === true,
      sort: CATALOG_SORTS.find((sort) => sort === options["sort"]) ?? "created",
      descending: options["ascending"] !== true,
    };
    const shown = { countMax: numberOf("limit") ?? 100, long: options["long"] === true };
    return (context) => search(context, query, shown);
  });
  const usageCommand = program
    .command("usage")
    .description("Show how much is used below a folder.")
    .argument("[path]", "a folder", "/")
    .addOption(new Option("--by <group>", "counted by").choices([...USAGE_GROUPS]).default("folder"));
  addDriveAction(usageCommand, program, io, output, set, ([path = "/"], options) => {
    const by = USAGE_GROUPS.find((group) => group === options["by"]) ?? "folder";
    return (context) => usage(context, path, by);
  });
  const duplicatesCommand = program
    .command("duplicates")
    .description("Show the groups of equal files that take most bytes.")
    .addOption(limit("groups"));
  addDriveAction(duplicatesCommand, program, io, output, set, (_paths, options) => {
    const countMax = Math.min(CATALOG_PAGE_SIZE_MAX, (options["limit"] as number | undefined) ?? 100);
    return (context) => duplicates(context, countMax);
  });
  const catalogRebuild = program
    .command("catalog")
    .description("Look after the catalog, which search and reports ask.")
    .command("rebuild")
    .description("Throw the catalog away and let it be built anew from the tree; files are not affected.");
  addDriveAction(catalogRebuild, program, io, output, set, () => rebuildCatalog);
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
    output.command = command.name();
    const action = make(
      // An optional argument that is not there is undefined.
      command.processedArgs
        .flat()
        .filter((argument) => argument !== undefined)
        .map(String),
      command.opts(),
    );
    const options: DriveOptions = { ...program.opts<DriveOptions>(), ...command.opts<DriveOptions>() };
    set(await withDrive(io, output, options, action));
  });
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
