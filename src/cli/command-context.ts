/** What the commands that talk to a drive have in common, and where they are told of things. */
import { Semaphore } from "../std/semaphore.ts";
import type { ClusterAdmin } from "../drive/cluster-admin.ts";
import type { DriveApi } from "../drive/drive-api.ts";
import type { CliIo } from "./cli-io.ts";
import type { Output } from "./output.ts";
import type { Patience } from "./patience.ts";
import { ProgressDisplay, type TransferMeter } from "./transfer-meter.ts";

/** Files on their way at once. Most are small, and each costs one round of fsync on the nodes: many share one. */
export const FILE_COUNT_IN_FLIGHT = 64;

/** Files of several chunks on their way at once; each has several chunks in flight already. */
export const LARGE_FILE_COUNT_IN_FLIGHT = 4;

/** Chunks in memory at once over all files of a command. */
export const CHUNK_COUNT_IN_MEMORY = 32;

/** Folders read at once. */
export const FOLDER_COUNT_IN_FLIGHT = 8;

/** A command that talks to a drive. */
export interface CommandContext {
  readonly io: CliIo;
  readonly output: Output;
  readonly drive: DriveApi;
  readonly admin: ClusterAdmin;
  readonly patience: Patience;
  /** The nodes talked to, as given: "host:port,host:port". */
  readonly nodes: string;
  /** From now on these nodes are asked ("host:port", at least one), and spoken of when none answers. */
  readonly askAt: (addresses: readonly string[]) => void;
  /** What to show for an error of the drive: when a node could not be reached, whether any answers, and what to do. */
  readonly explain: (error: unknown) => Promise<unknown>;
}

/** The bounds that all files of one command share. */
export interface TransferSlots {
  readonly files: Semaphore;
  readonly largeFiles: Semaphore;
  readonly chunks: Semaphore;
}

/** Fresh bounds for a command. */
export function transferSlots(): TransferSlots {
  return {
    files: new Semaphore(FILE_COUNT_IN_FLIGHT),
    largeFiles: new Semaphore(LARGE_FILE_COUNT_IN_FLIGHT),
    chunks: new Semaphore(CHUNK_COUNT_IN_MEMORY),
  };
}

/** Runs `work` while `meter` is shown on the terminal or as JSON lines. */
export async function withProgress<T>(
  { io, output }: CommandContext,
  meter: TransferMeter,
  options: { readonly quiet: boolean },
  work: () => Promise<T>,
): Promise<T> {
  const terminal =
    io.terminalColumns === undefined || options.quiet
      ? undefined
      : { stream: io.stderr, columns: io.terminalColumns };
  const display = new ProgressDisplay(meter, output, terminal, io.clock);
  display.start();
  try {
    return await work();
  } finally {
    display.stop();
  }
}
