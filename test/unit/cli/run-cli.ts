/** Runs the command line inside the test: a drive in memory, streams in memory, files in a directory of their own. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Readable, Writable } from "node:stream";
import type { CliIo, RunnableNode } from "../../../src/cli/cli-io.ts";
import { runCli } from "../../../src/cli/program.ts";
import type { Config } from "../../../src/config/config.ts";
import type { ClusterAdmin } from "../../../src/drive/cluster-admin.ts";
import type { DriveApi } from "../../../src/drive/drive-api.ts";
import { SystemClock, type Clock } from "../../../src/std/clock.ts";
import { SeededPrng } from "../../../src/std/prng.ts";
import type { Logger } from "../../../src/telemetry/logger.ts";

/** What a run left behind. */
export interface CliResult {
  readonly code: number;
  /** stdout as text and as bytes. */
  readonly out: string;
  readonly bytes: Buffer;
  readonly err: string;
  /** Lines of a node's log as JSON. */
  readonly log: readonly Record<string, unknown>[];
  /** Lines of stdout as JSON. */
  records(): Record<string, unknown>[];
}

/** What a run is given; everything has a default. */
export interface CliWorld {
  readonly drive?: DriveApi;
  readonly admin?: ClusterAdmin;
  readonly directory?: string;
  readonly stdin?: Iterable<Uint8Array>;
  readonly environment?: Record<string, string | undefined>;
  readonly stateDirectory?: string;
  readonly terminalColumns?: number;
  readonly clock?: Clock;
  readonly stdout?: Writable;
  readonly createNode?: (config: Config, logger: Logger) => RunnableNode;
  /** Gets the function that delivers a warning of the runtime. */
  readonly onWarning?: (warn: (warning: Error) => void) => void;
  /** Gets the function that delivers a signal. */
  readonly onListen?: (signal: (name: string) => void) => void;
  /** Arguments with which `up` starts its node processes, before those of the command line. */
  readonly nodeProgram?: readonly string[];
  /** Gets what is written to stderr, as it is written. */
  readonly onNote?: (text: string) => void;
  readonly onConnect?: (addresses: readonly string[]) => void;
  /** Gets the nodes that a command asks from now on. */
  readonly onAddresses?: (addresses: readonly string[]) => void;
}

/** A stream that keeps what is written to it. */
export class Sink extends Writable {
  readonly parts: Buffer[] = [];
  onWrite: ((text: string) => void) | undefined;

  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.parts.push(chunk);
    done();
    this.onWrite?.(chunk.toString("utf8"));
  }

  bytes(): Buffer {
    return Buffer.concat(this.parts);
  }
}

const NO_MEMBERSHIP = new Error("this test has no membership");

/** For runs that have nothing to do with the membership. */
const NO_ADMIN: ClusterAdmin = {
  createJoinToken: () => Promise.reject(NO_MEMBERSHIP),
  removeNode: () => Promise.reject(NO_MEMBERSHIP),
  transferLeadership: () => Promise.reject(NO_MEMBERSHIP),
  backUpTree: () => Promise.reject(NO_MEMBERSHIP),
  membership: () => Promise.resolve({ members: [], isJoint: false, change: undefined }),
};

let runCount = 0;

/** Runs `netdisk ...args`. */
export async function netdisk(args: readonly string[], world: CliWorld = {}): Promise<CliResult> {
  const stdout = new Sink();
  const stderr = new Sink();
  stderr.onWrite = world.onNote;
  const logLines: string[] = [];
  const io: CliIo = {
    version: "1.2.3",
    stdin: Readable.from(world.stdin ?? []),
    stdout: world.stdout ?? stdout,
    stderr,
    environment: { UV_THREADPOOL_SIZE: "16", ...world.environment },
    workingDirectory: world.directory ?? tmpdir(),
    stateDirectory: world.stateDirectory,
    terminalColumns: world.terminalColumns,
    clock: world.clock ?? new SystemClock(),
    // Another seed for each run: two runs must not share request ids.
    prng: new SeededPrng((runCount += 1)),
    program: { executable: process.execPath, leadingArguments: world.nodeProgram ?? [] },
    signals: {
      listen: (listener) => {
        world.onListen?.(listener);
        return () => undefined;
      },
    },
    connect: (addresses) => {
      world.onConnect?.(addresses);
      if (world.drive === undefined) throw new Error("this test has no drive");
      return {
        drive: world.drive,
        admin: world.admin ?? NO_ADMIN,
        setAddresses: (current) => world.onAddresses?.(current),
        close: () => Promise.resolve(),
      };
    },
    createNode: (config, logger) => {
      if (world.createNode === undefined) throw new Error("this test has no node");
      return world.createNode(config, logger);
    },
    logDestination: { write: (line) => void logLines.push(line) },
    onWarning: (listener) => {
      world.onWarning?.(listener);
      return () => undefined;
    },
  };
  const code = await runCli(args, io);
  const out = stdout.bytes().toString("utf8");
  const records = (): Record<string, unknown>[] =>
    out
      .split("\n")
      .filter((line) => line !== "")
      .map((line) => JSON.parse(line) as Record<string, unknown>);
  const log = logLines.map((line) => JSON.parse(line) as Record<string, unknown>);
  return { code, out, bytes: stdout.bytes(), err: stderr.bytes().toString("utf8"), log, records };
}

/** A directory that is there for each test of a suite and gone after it. */
export function useDirectory(): { readonly path: string } {
  const holder = { path: "" };
  beforeEach(() => {
    holder.path = mkdtempSync(join(tmpdir(), "netdisk-cli-"));
  });
  afterEach(() => {
    rmSync(holder.path, { recursive: true, force: true });
  });
  return holder;
}

/** `length` bytes that differ from place to place. */
export function pattern(length: number, seed = 1): Buffer {
  const prng = new SeededPrng(seed);
  const bytes = Buffer.alloc(length);
  for (let at = 0; at + 4 <= length; at += 4) bytes.writeUInt32LE(prng.uint32(), at);
  return bytes;
}
