/** Runs the compiled `netdisk` program, or any other, as a child process. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { PROGRAM } from "./use-cluster.ts";

/** How a child ended. */
export interface RunResult {
  readonly exitCode: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** A child under way. */
export interface Running {
  readonly pid: number | undefined;
  readonly result: Promise<RunResult>;
  kill(signal: NodeJS.Signals): void;
}

/** Starts `command`; `input` goes to its standard input. Output beyond 64 MiB is cut. */
export function start(command: string, parameters: readonly string[], input?: Uint8Array | string): Running {
  const child = spawn(command, parameters, { stdio: ["pipe", "pipe", "pipe"] });
  const collect = (stream: NodeJS.ReadableStream): { text: () => string } => {
    const parts: Buffer[] = [];
    let sizeBytes = 0;
    stream.on("data", (part: Buffer) => {
      sizeBytes += part.length;
      if (sizeBytes <= 64 * 1024 * 1024) parts.push(part);
    });
    return { text: () => Buffer.concat(parts).toString("utf8") };
  };
  const stdout = collect(child.stdout);
  const stderr = collect(child.stderr);
  child.stdin.on("error", () => undefined);
  child.stdin.end(input);
  const result = once(child, "close").then(([exitCode]): RunResult => ({
    exitCode: exitCode as number | null,
    stdout: stdout.text(),
    stderr: stderr.text(),
  }));
  return { pid: child.pid, result, kill: (signal) => child.kill(signal) };
}

/** Runs `netdisk` with `parameters` to its end. */
export function netdisk(parameters: readonly string[], input?: Uint8Array | string): Promise<RunResult> {
  return start(process.execPath, [PROGRAM, ...parameters], input).result;
}

/** Runs curl silently to its end, with errors on standard error. */
export function curl(parameters: readonly string[], input?: Uint8Array | string): Promise<RunResult> {
  return start("curl", ["-sS", ...parameters], input).result;
}
