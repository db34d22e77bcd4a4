/**
 * Gives back what prepared downloads keep, at the leader: those whose time is over, and those that will never be ready.
 *
 * One removal is one command whatever the download holds; the rows and bytes below are reclaimed as after any deletion.
 */
import type { MetadataClient } from "../cluster/metadata-client.ts";
import { PacedLoop } from "../cluster/paced-loop.ts";
import type { DriveError } from "../drive/errors.ts";
import { PREPARED_DOWNLOAD_COUNT_MAX } from "../drive/limits.ts";
import { ENDED_TASK_STATES, type Task } from "../drive/task.ts";
import { clusterTime } from "../metadata/view.ts";
import type { Clock } from "../std/clock.ts";
import type { Snapshots } from "./snapshot.ts";

/** How often the leader looks. */
export const SWEEP_INTERVAL_MS = 60_000;

/** What a DownloadSweeper needs. */
export interface DownloadSweeperOptions {
  readonly clock: Clock;
  readonly metadata: MetadataClient;
  readonly snapshots: Snapshots;
  /** A task as this node has it. */
  readonly findTask: (taskId: number) => Task | undefined;
  readonly onError?: ((error: DriveError) => void) | undefined;
}

/** The loop. start() on every node; it does nothing where the node does not lead. */
export class DownloadSweeper {
  readonly #options: DownloadSweeperOptions;
  readonly #loop: PacedLoop;

  constructor(options: DownloadSweeperOptions) {
    this.#options = options;
    this.#loop = new PacedLoop({
      clock: options.clock,
      idleMs: SWEEP_INTERVAL_MS,
      busyMs: SWEEP_INTERVAL_MS,
      work: (signal) => this.round(signal),
      onError: options.onError,
    });
  }

  start(): void {
    this.#loop.start();
  }

  stop(): Promise<void> {
    return this.#loop.stop();
  }

  /** One look at all of them; for the loop and for tests. */
  async round(signal: AbortSignal): Promise<"idle"> {
    const { metadata, snapshots } = this.#options;
    if (metadata.port.leaderId() !== metadata.port.memberId) return "idle";
    // A few more than may be kept: several may have been asked for at once.
    const kept = await snapshots.list(2 * PREPARED_DOWNLOAD_COUNT_MAX, { consistency: "stale", signal });
    for (const { downloadId, expireTimeMs } of kept) {
      const isOver = clusterTime(metadata.port.reader()) > expireTimeMs;
      if (isOver || this.#isInVain(downloadId)) await snapshots.remove(downloadId, signal);
    }
    return "idle";
  }

  #isInVain(downloadId: number): boolean {
    const task = this.#options.findTask(downloadId);
    return task !== undefined && task.state !== "done" && ENDED_TASK_STATES.has(task.state);
  }
}
