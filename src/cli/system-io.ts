/**
 * The world of a command, made from the process it runs in and the real drive.
 *
 * Signals are taken from the system only while a command listens; at other times they end the process as usual. One more than
 * the command wants to hear ends it in any case. For a node that `netdisk up` started, the end of that process counts as a signal too.
 */
import { readFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { RemoteClusterAdmin } from "../rpc/remote-cluster-admin.ts";
import { RemoteDriveApi } from "../rpc/remote-drive-api.ts";
import { SystemClock } from "../std/clock.ts";
import { errnoOf } from "../std/disk.ts";
import { SystemPrng } from "../std/prng.ts";
import { AdvisedError } from "./advice.ts";
import type { CliIo, StopSignals } from "./cli-io.ts";
import { EXIT_INTERRUPTED } from "./exit-code.ts";

/** Requests to end: from the keyboard, from a service manager, from a terminal that was closed. */
const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

/** Columns of a terminal that does not say. */
const COLUMNS_DEFAULT = 80;

/** What only the entry point can do. */
export interface SystemOptions {
  readonly createNode: CliIo["createNode"];
  /** Ends the process at once. */
  readonly exit: (code: number) => void;
}

/** The world of this process. */
export function systemIo(options: SystemOptions): CliIo {
  const clock = new SystemClock();
  const prng = new SystemPrng();
  return {
    version: readVersion(),
    stdin: process.stdin,
    stdout: process.stdout,
    stderr: process.stderr,
    environment: process.env,
    get workingDirectory() {
      return workingDirectory();
    },
    stateDirectory: stateDirectory(),
    terminalColumns: process.stderr.isTTY ? process.stderr.columns || COLUMNS_DEFAULT : undefined,
    clock,
    prng,
    signals: systemSignals(options.exit),
    program: {
      executable: process.execPath,
      leadingArguments: [...process.execArgv, ...process.argv.slice(1, 2)],
    },
    connect: (addresses, timeoutMs) => {
      const drive = new RemoteDriveApi({ addresses, clock, prng, timeoutMs });
      const admin = new RemoteClusterAdmin({ addresses, clock, prng, timeoutMs });
      return {
        drive,
        admin,
        setAddresses: (current) => {
          drive.setAddresses(current);
          admin.setAddresses(current);
        },
        close: () => {
          admin.close();
          drive.close();
          return Promise.resolve();
        },
      };
    },
    createNode: options.createNode,
    logDestination: undefined,
    onWarning: hearWarnings,
  };
}

function systemSignals(exit: (code: number) => void): StopSignals {
  return {
    listen(listener, heardCount = 1) {
      let count = 0;
      const onSignal = (name: string): void => {
        count += 1;
        if (count > heardCount) exit(EXIT_INTERRUPTED);
        else listener(name);
      };
      const onDisconnect = (): void => onSignal("disconnect");
      for (const signal of SIGNALS) process.on(signal, onSignal);
      if (process.connected) process.on("disconnect", onDisconnect);
      return () => {
        for (const signal of SIGNALS) process.off(signal, onSignal);
        process.off("disconnect", onDisconnect);
      };
    },
  };
}

/** @throws AdvisedError when the folder is gone: only commands that name files here need it */
function workingDirectory(): string {
  try {
    return process.cwd();
  } catch (error) {
    if (errnoOf(error) !== "ENOENT") throw error;
    throw new AdvisedError(
      "PATH_NOT_FOUND",
      "The folder that this command was started in is gone.",
      "Change to a folder that is there, then run the command again.",
      {},
      error,
    );
  }
}

/** Takes over the warnings of the runtime, whose own listener prints them as text. */
function hearWarnings(listener: (warning: Error) => void): () => void {
  process.removeAllListeners("warning");
  process.on("warning", listener);
  return () => void process.off("warning", listener);
}

/** Where programs keep state of the user that is no configuration (XDG Base Directory specification). */
function stateDirectory(): string | undefined {
  const given = process.env["XDG_STATE_HOME"] ?? process.env["LOCALAPPDATA"] ?? "";
  if (given !== "") return join(given, "netdisk");
  const home = homedir();
  return home === "" ? undefined : join(home, ".local", "state", "netdisk");
}

/** The version in package.json, two levels up from the sources and three from what is compiled. */
function readVersion(): string {
  for (const relative of ["../../package.json", "../../../package.json"]) {
    try {
      const parsed: unknown = JSON.parse(readFileSync(new URL(relative, import.meta.url), "utf8"));
      if (typeof parsed === "object" && parsed !== null && "version" in parsed) return String(parsed.version);
    } catch (error) {
      if (errnoOf(error) !== "ENOENT") throw error;
    }
  }
  return "unknown";
}
