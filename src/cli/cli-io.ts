/**
 * Everything that a command touches outside itself, so that each command runs in a test as it runs in a terminal.
 *
 * main.ts fills it with the process and the real drive; tests with streams and a drive in memory. Files of the machine are
 * the exception: putting and getting them is what the commands are for, and they use node:fs directly.
 */
import type { Readable, Writable } from "node:stream";
import type { Config } from "../config/config.ts";
import type { ClusterAdmin } from "../drive/cluster-admin.ts";
import type { DriveApi } from "../drive/drive-api.ts";
import type { DriveError } from "../drive/errors.ts";
import type { Clock } from "../std/clock.ts";
import type { Prng } from "../std/prng.ts";
import type { LogDestination, Logger } from "../telemetry/logger.ts";

/** A drive reached over a list of nodes. */
export interface DriveConnection {
  readonly drive: DriveApi;
  readonly admin: ClusterAdmin;
  /** From now on these nodes are asked ("host:port", at least one); calls under way at others end there. */
  setAddresses(addresses: readonly string[]): void;
  /** Closes all connections; harmless when closed. */
  close(): Promise<void>;
}

/** A node that `netdisk serve` starts and stops. */
export interface RunnableNode {
  start(): Promise<void>;
  /** Stops in order; idempotent. */
  stop(): Promise<void>;
  /** Resolves when the cluster does not want this node any more, with the reason: it must be stopped. */
  readonly refused?: Promise<DriveError> | undefined;
}

/** Requests from outside to end: SIGINT, SIGTERM, or a parent process that went away. */
export interface StopSignals {
  /**
   * Calls `listener` for each request; returns a function that ends it. While nobody listens a signal ends the process.
   * @param heardCount requests that the listener hears, 1 when absent; the one after ends the process at once, whatever it does
   */
  listen(listener: (name: string) => void, heardCount?: number): () => void;
}

/** How to start this program again as another process. */
export interface ProgramCommand {
  readonly executable: string;
  /** Arguments before those of the command line. */
  readonly leadingArguments: readonly string[];
}

/** The world of a command. */
export interface CliIo {
  /** Version of this program. */
  readonly version: string;
  readonly stdin: Readable;
  readonly stdout: Writable;
  readonly stderr: Writable;
  readonly environment: Readonly<Record<string, string | undefined>>;
  /** Absolute path that relative ones start from. @throws DriveError PATH_NOT_FOUND when it is gone */
  readonly workingDirectory: string;
  /** Where interrupted uploads are remembered between runs; undefined: nowhere. */
  readonly stateDirectory: string | undefined;
  /** Whether stderr is a terminal that shows a progress line, and how wide it is. */
  readonly terminalColumns: number | undefined;
  readonly clock: Clock;
  readonly prng: Prng;
  readonly signals: StopSignals;
  readonly program: ProgramCommand;
  /**
   * Prepares to talk to the nodes at `addresses` ("host:port" of gRPC). Connects when first used.
   * @param timeoutMs how long one operation is tried over all nodes
   */
  connect(addresses: readonly string[], timeoutMs: number): DriveConnection;
  /** Builds the node of a configuration, not started. */
  createNode(config: Config, logger: Logger): RunnableNode;
  /** Where the log of a node goes; undefined: standard output. */
  readonly logDestination: LogDestination | undefined;
  /**
   * Hears the warnings of the runtime (process "warning") instead of having them printed as text: the latest listener alone.
   * Returns a function that ends it.
   */
  onWarning(listener: (warning: Error) => void): () => void;
}
