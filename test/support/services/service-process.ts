/** A server process of a test's own: started on a free port, stopped, killed, frozen, started again on the same files. */
import { execFile, execFileSync, spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { closeSync, existsSync, openSync, readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { eventually } from "../eventually.ts";
import type { Launch } from "./service-kind.ts";

const run = promisify(execFile);
const STOP_WITHIN_MS = 30_000;

const isRoot = (): boolean => process.getuid?.() === 0;

/** A command, to be run as `account` where the tests run as root and the account exists. */
export function asAccount(
  account: string | undefined,
  command: string,
  parameters: readonly string[],
): { readonly command: string; readonly parameters: readonly string[] } {
  if (!isRoot() || account === undefined) return { command, parameters };
  return {
    command: "setpriv",
    parameters: [`--reuid=${account}`, `--regid=${account}`, "--clear-groups", command, ...parameters],
  };
}

/** Gives a folder to `account` where the tests run as root. */
export async function giveTo(account: string, directory: string): Promise<void> {
  if (isRoot()) await run("chown", ["-R", `${account}:`, directory]);
}

/** Ids of the children of a process, as the kernel tells them; empty elsewhere than on Linux. */
function childrenOf(pid: number): readonly number[] {
  const tasks = `/proc/${pid}/task`;
  if (!existsSync(tasks)) return [];
  return readdirSync(tasks).flatMap((task) => {
    const path = join(tasks, task, "children");
    return existsSync(path) ? readFileSync(path, "utf8").trim().split(" ").filter(Boolean).map(Number) : [];
  });
}

function signalAll(pids: readonly number[], signal: NodeJS.Signals): void {
  for (const pid of pids) {
    try {
      process.kill(pid, signal);
    } catch (error) {
      // It ended between the listing and the signal.
      if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
    }
  }
}

/** See the file's comment. */
export class ServiceProcess {
  readonly #logPath: string;
  #launch: Launch | undefined;
  #child: ChildProcess | undefined;

  constructor(logPath: string) {
    this.#logPath = logPath;
  }

  get running(): boolean {
    return this.#child !== undefined && this.#child.exitCode === null && this.#child.signalCode === null;
  }

  get pid(): number | undefined {
    return this.running ? this.#child?.pid : undefined;
  }

  /** Starts the process; does not wait until it answers. */
  start(launch: Launch): void {
    if (this.running) throw new Error("it runs already");
    const { command, parameters } = asAccount(launch.account, launch.command, launch.parameters);
    const log = openSync(this.#logPath, "a");
    // The kernel ends it with the tests, however they end.
    const tied = process.platform === "linux" ? ["setpriv", "--pdeathsig", "KILL", command] : [command];
    const child = spawn(tied[0] ?? command, [...tied.slice(1), ...parameters], {
      stdio: ["ignore", log, log],
      cwd: "/",
      env: { PATH: process.env["PATH"] ?? "", LANG: "C.UTF-8", ...launch.environment },
    });
    closeSync(log);
    child.unref();
    this.#launch = launch;
    this.#child = child;
  }

  /** Ends it in an orderly way. */
  async stop(): Promise<void> {
    await this.#end(this.#launch?.stopSignal ?? "SIGTERM", false);
  }

  /** Ends it and its children at once, as a crash does. */
  async kill(): Promise<void> {
    await this.#end("SIGKILL", true);
  }

  /** Freezes it and its children: connections stay open, nothing answers. */
  pause(): void {
    signalAll(this.#family(), "SIGSTOP");
  }

  /** Ends `pause()`. */
  resume(): void {
    signalAll(this.#family(), "SIGCONT");
  }

  /** Ends it while the test process itself ends; nothing is awaited. */
  killNow(): void {
    signalAll(this.#family(), "SIGKILL");
  }

  /** The end of its log, for error messages. */
  logTail(): string {
    if (!existsSync(this.#logPath)) return "(no log)";
    return readFileSync(this.#logPath, "utf8").trimEnd().split("\n").slice(-15).join("\n");
  }

  #family(): readonly number[] {
    const pid = this.pid;
    return pid === undefined ? [] : [pid, ...childrenOf(pid)];
  }

  async #end(signal: NodeJS.Signals, withChildren: boolean): Promise<void> {
    const child = this.#child;
    if (child === undefined || !this.running) return;
    const family = this.#family();
    child.ref();
    const ended = once(child, "exit");
    signalAll(withChildren ? family : family.slice(0, 1), signal);
    signalAll(family, "SIGCONT");
    await Promise.race([
      ended,
      eventually("the service has ended", () => !this.running, { withinMs: STOP_WITHIN_MS }),
    ]);
    // A child that outlives its parent still holds shared memory and ports.
    await eventually("the children of the service have ended", () => family.every((pid) => !exists(pid)), {
      withinMs: STOP_WITHIN_MS,
    });
  }
}

function exists(pid: number): boolean {
  if (process.platform === "linux") {
    const path = `/proc/${pid}/stat`;
    try {
      // A zombie has ended; only its parent has not asked yet.
      return readFileSync(path, "utf8").split(") ").at(-1)?.startsWith("Z") === false;
    } catch {
      return false;
    }
  }
  try {
    execFileSync("kill", ["-0", String(pid)], { stdio: "ignore" });
    return true;
  } catch {
    return false;
  }
}
