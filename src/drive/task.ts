/**
 * Tasks: work that the cluster does in the background, each a record of the replicated state.
 *
 *   waiting --claim--> running --finish--> done
 *      ^                 |  |
 *      |  fail, attempts |  +--fail, none left or for good--> failed
 *      +---- left -------+
 *   waiting, running --cancel--> cancelled        failed, cancelled --retry--> waiting
 *
 * The record is the truth; a queue only tells workers where to look. A claim carries a fence, a number greater than that of every
 * claim before it: only who holds the newest may renew, finish or fail the task, so a worker that slept past its lease cannot.
 */

import { DriveError } from "./errors.ts";

/** What a task is about: bytes that were committed, a prepared download, copies of extents. */
export type TaskKind = "upload" | "download" | "replication";

/** Every kind; the order is that of the stored enum. */
export const TASK_KINDS = ["upload", "download", "replication"] as const satisfies readonly TaskKind[];

/** Where a task stands. */
export type TaskState = "waiting" | "running" | "done" | "failed" | "cancelled";

/** Every state; the order is that of the stored enum. */
export const TASK_STATES = [
  "waiting",
  "running",
  "done",
  "failed",
  "cancelled",
] as const satisfies readonly TaskState[];

/** States in which a task has ended. */
export const ENDED_TASK_STATES: ReadonlySet<TaskState> = new Set<TaskState>(["done", "failed", "cancelled"]);

/** How much of a task is done, in units of its kind. */
export interface TaskProgress {
  readonly doneCount: number;
  /** 0 while it is not known. */
  readonly totalCount: number;
}

/** Why an attempt failed. */
export interface TaskError {
  /** A reason of drive/errors.ts, or another stable name. */
  readonly reason: string;
  readonly message: string;
}

/** A task as it stands. */
export interface Task {
  /** Ascending by creation. */
  readonly taskId: number;
  readonly kind: TaskKind;
  readonly state: TaskState;
  /** What makes a second creation the same as the first; "" for none. */
  readonly key: string;
  /** Claims so far, since it was created or retried by a user. */
  readonly attemptCount: number;
  /** After so many attempts a failure is final. */
  readonly attemptCountMax: number;
  /** Number of the newest claim, strictly growing over all tasks; 0 before the first. */
  readonly fence: number;
  /** Member that works on it, or did last; 0 for none. */
  readonly memberId: number;
  /**
   * While it runs: until when the claim holds. While it waits: not to be claimed before. Ended: when it is forgotten. Cluster time.
   */
  readonly dueTimeMs: number;
  readonly progress: TaskProgress;
  /** When it was made and when it was changed last: wall time of the node that asked for it, to be shown and not reckoned with. */
  readonly createTimeMs: number;
  readonly updateTimeMs: number;
  /** What to do, in the form of its kind. */
  readonly parameters: Uint8Array;
  /** What came of it, in the form of its kind; empty until it is done. */
  readonly result: Uint8Array;
  /** Why the last attempt failed; undefined when none did. */
  readonly error: TaskError | undefined;
}

/** How many tasks there are, by kind and state. */
export type TaskCounts = Readonly<Record<TaskKind, Readonly<Record<TaskState, number>>>>;

/** What a list of tasks is to hold. */
export interface TaskFilter {
  readonly kind?: TaskKind | undefined;
  readonly state?: TaskState | undefined;
}

/** One page of tasks, newest first. */
export interface TaskPage {
  readonly tasks: readonly Task[];
  /** Pass it to get the next page; undefined on the last. */
  readonly nextCursor: string | undefined;
}

/** A task to be made. */
export interface TaskRequest {
  readonly kind: TaskKind;
  /** At most TASK_KEY_SIZE_BYTES_MAX bytes; "" for none. */
  readonly key: string;
  /** At most TASK_PAYLOAD_SIZE_BYTES_MAX bytes. */
  readonly parameters: Uint8Array;
}

/** Options of reading tasks. */
export interface TaskReadOptions {
  /** As for every read: drive-api.ts. */
  readonly consistency?: "linearizable" | "stale" | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** Options of changing tasks. */
export interface TaskWriteOptions {
  /** As for every change: drive-api.ts. */
  readonly requestId?: string | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** Tasks as clients see them. */
export interface TaskApi {
  /**
   * Makes a task, or answers the one that is there with the same kind and key and has neither failed nor been cancelled.
   * Errors: ARGUMENT_INVALID, OVERLOADED (TASK_OPEN_COUNT_MAX of the kind are open).
   */
  create(request: TaskRequest, options?: TaskWriteOptions): Promise<Task>;
  /** Errors: TASK_NOT_FOUND. */
  get(taskId: number, options?: TaskReadOptions): Promise<Task>;
  /** A page of at most `countMax` (1 to TASK_PAGE_SIZE_MAX) tasks, newest first. Errors: ARGUMENT_INVALID (cursor). */
  list(
    filter: TaskFilter,
    page: { readonly cursor?: string | undefined; readonly countMax: number },
    options?: TaskReadOptions,
  ): Promise<TaskPage>;
  /** Ends a task that waits or runs; one that was cancelled stays so. Errors: TASK_NOT_FOUND, TASK_STATE_CONFLICT. */
  cancel(taskId: number, options?: TaskWriteOptions): Promise<Task>;
  /** Lets a task that failed or was cancelled be tried anew; one that waits or runs is left alone. Errors: TASK_NOT_FOUND, TASK_STATE_CONFLICT, OVERLOADED. */
  retry(taskId: number, options?: TaskWriteOptions): Promise<Task>;
}

function refuse(): Promise<never> {
  return Promise.reject(new DriveError("TASK_NOT_FOUND", "This node keeps no tasks."));
}

/** A drive without tasks: of a node that does not keep the tree. */
export const noTasks: TaskApi = {
  create: refuse,
  get: refuse,
  list: () => Promise.resolve({ tasks: [], nextCursor: undefined }),
  cancel: refuse,
  retry: refuse,
};
