/** What works on a task, once a worker has claimed it. */
import type { Task } from "../drive/task.ts";
import type { TaskFindings, TaskHold } from "../metadata/task-records.ts";

/** What a handler has beside its task. */
export interface TaskWork {
  /** Aborts when the claim was lost, the task cancelled, or the node stops: what is done afterwards has no effect. */
  readonly signal: AbortSignal;
  /** The claim, for commands that take effect under it. */
  readonly hold: TaskHold;
  /** Says how much is done, in units of the kind; the table hears it within PROGRESS_INTERVAL_MS. `totalCount` 0: not known. */
  progress(doneCount: number, totalCount: number): void;
  /** Puts findings into the tree, under the claim. Errors: TASK_CLAIM_LOST, those of a proposal; then they may be repeated. */
  record(findings: TaskFindings): Promise<void>;
}

/**
 * A handler of one kind. It may be run again for the same task, at another node and while an earlier run has not noticed that it
 * lost its claim, so everything that it does is idempotent, or goes through record().
 */
export interface TaskHandler {
  /**
   * Returns the result, at most TASK_PAYLOAD_SIZE_BYTES_MAX bytes.
   * @throws DriveError to end the attempt: for good when a repeat cannot help (isFinal() in task-worker.ts), else to be tried again
   */
  run(task: Task, work: TaskWork): Promise<Uint8Array>;
}
