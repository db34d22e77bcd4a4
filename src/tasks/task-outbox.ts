/**
 * What puts tasks that wait into a queue, and puts them in again when the queue has lost them.
 *
 * The table says what waits; what was published is remembered in memory only, so whoever leads next publishes everything anew. A
 * message counts as lost when its task has waited for long after it was published while the queue holds fewer messages than
 * there are such tasks: purged, deleted, or gone with its broker. Duplicates do no harm, a claim decides.
 */
import { PacedWork } from "../cluster/paced-loop.ts";
import type { MetadataPort } from "../cluster/metadata-port.ts";
import { DriveError, hasReason } from "../drive/errors.ts";
import { TASK_KINDS } from "../drive/task.ts";
import { dueTasks, type DueTask } from "../metadata/task-view.ts";
import { clusterTime } from "../metadata/view.ts";
import type { Clock } from "../std/clock.ts";
import { QUEUE_READY_COUNT_MAX, type TaskQueue } from "./task-queue.ts";

/** How often the table is looked at. */
export const OUTBOX_INTERVAL_MS = 500;
/** Pause while there is more to publish. */
const OUTBOX_BUSY_MS = 10;
/** Messages that are published at once. */
const PUBLISH_BATCH_COUNT = 64;

/** What a TaskOutbox needs. */
export interface TaskOutboxOptions {
  readonly clock: Clock;
  readonly port: MetadataPort;
  readonly queue: TaskQueue;
  /** Whether it is this node's part now. */
  readonly isActive: () => boolean;
  /** Whether this node is to publish a task that has been due for so long; every task when absent. */
  readonly isMine?: ((task: DueTask, overdueMs: number) => boolean) | undefined;
  /** A task that still waits so long after it was published may have been lost. */
  readonly republishAfterMs: number;
  readonly onPublished?: ((count: number) => void) | undefined;
  readonly onError?: ((error: DriveError) => void) | undefined;
}

/** The outbox of one queue. start() once. */
export class TaskOutbox extends PacedWork {
  readonly #options: TaskOutboxOptions;
  /** When each task that waits was published, by monotonic time. */
  #publishedMs = new Map<number, number>();

  constructor(options: TaskOutboxOptions) {
    super({
      clock: options.clock,
      idleMs: OUTBOX_INTERVAL_MS,
      busyMs: OUTBOX_BUSY_MS,
      onError: options.onError,
    });
    this.#options = options;
  }

  protected async round(signal: AbortSignal): Promise<"busy" | "idle"> {
    const { clock, port, isActive, isMine, republishAfterMs } = this.#options;
    if (!isActive()) {
      this.#publishedMs.clear();
      return "idle";
    }
    const reader = port.reader();
    const due = dueTasks(reader, QUEUE_READY_COUNT_MAX);
    const waiting = new Map<number, number>();
    const fresh: DueTask[] = [];
    const doubtful: DueTask[] = [];
    const timeMs = clusterTime(reader);
    const nowMs = clock.monotonicMs();
    for (const task of due) {
      const publishedMs = this.#publishedMs.get(task.taskId);
      if (publishedMs !== undefined) {
        waiting.set(task.taskId, publishedMs);
        if (nowMs - publishedMs >= republishAfterMs) doubtful.push(task);
      } else if (isMine?.(task, timeMs - task.dueTimeMs) !== false) fresh.push(task);
    }
    this.#publishedMs = waiting;
    const lost = await this.#lostAmong(doubtful);
    let publishedCount = 0;
    const all = [...fresh, ...lost];
    for (let at = 0; at < all.length && !signal.aborted; at += PUBLISH_BATCH_COUNT) {
      const batch = all.slice(at, at + PUBLISH_BATCH_COUNT);
      const taken = await Promise.all(batch.map((task) => this.#publish(task)));
      const count = taken.filter(Boolean).length;
      publishedCount += count;
      if (count < batch.length) break;
    }
    if (publishedCount > 0) this.#options.onPublished?.(publishedCount);
    return publishedCount > 0 && publishedCount === all.length && due.length === QUEUE_READY_COUNT_MAX
      ? "busy"
      : "idle";
  }

  async #lostAmong(doubtful: readonly DueTask[]): Promise<readonly DueTask[]> {
    const lost: DueTask[] = [];
    for (const kind of TASK_KINDS) {
      const tasks = doubtful.filter((task) => task.kind === kind);
      if (tasks.length === 0) continue;
      const { readyCount } = await this.#options.queue.depth(kind);
      if (readyCount < tasks.length) lost.push(...tasks);
      // They stand in line: asked again after as long.
      else for (const { taskId } of tasks) this.#publishedMs.set(taskId, this.#options.clock.monotonicMs());
    }
    return lost;
  }

  /** Whether the queue took it; a full queue takes it later. @throws DriveError QUEUE_UNAVAILABLE */
  async #publish(task: DueTask): Promise<boolean> {
    try {
      await this.#options.queue.publish(task);
    } catch (error) {
      if (hasReason(error, "OVERLOADED")) return false;
      throw error;
    }
    this.#publishedMs.set(task.taskId, this.#options.clock.monotonicMs());
    return true;
  }
}
