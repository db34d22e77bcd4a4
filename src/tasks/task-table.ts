/** The replicated table of tasks as the rest of the node uses it: TaskApi for users, and the commands of workers. */
import { valueOfKind, type MetadataClient } from "../cluster/metadata-client.ts";
import { DriveError } from "../drive/errors.ts";
import { TASK_PAGE_SIZE_MAX } from "../drive/limits.ts";
import type {
  Task,
  TaskApi,
  TaskFilter,
  TaskPage,
  TaskReadOptions,
  TaskRequest,
  TaskWriteOptions,
} from "../drive/task.ts";
import type { CommandBody } from "../metadata/commands.ts";
import type { TaskFindings, TaskHold } from "../metadata/task-records.ts";
import { findTask, listTasks } from "../metadata/task-view.ts";

/** What a renewal of a claim says. */
export interface Renewal {
  readonly leaseMs: number;
  readonly doneCount: number;
  readonly totalCount: number;
  readonly findings: TaskFindings;
}

/** The table. Holds nothing of its own. */
export class TaskTable implements TaskApi {
  readonly #metadata: MetadataClient;

  constructor(metadata: MetadataClient) {
    this.#metadata = metadata;
  }

  async create({ kind, key, parameters }: TaskRequest, options?: TaskWriteOptions): Promise<Task> {
    const body: CommandBody = { kind: "create-task", taskKind: kind, key, parameters, plan: undefined };
    return (await this.#metadata.apply(body, "task", options)).task;
  }

  async get(taskId: number, options?: TaskReadOptions): Promise<Task> {
    await this.#freshen(options);
    const task = this.find(taskId);
    if (task !== undefined) return task;
    throw new DriveError("TASK_NOT_FOUND", `There is no task ${taskId}.`, { task_id: String(taskId) });
  }

  async list(
    filter: TaskFilter,
    { cursor, countMax }: { readonly cursor?: string | undefined; readonly countMax: number },
    options?: TaskReadOptions,
  ): Promise<TaskPage> {
    if (!Number.isSafeInteger(countMax) || countMax < 1 || countMax > TASK_PAGE_SIZE_MAX) {
      throw new DriveError("ARGUMENT_INVALID", `A page has 1 to ${TASK_PAGE_SIZE_MAX} tasks.`, {
        count_max: String(countMax),
      });
    }
    const beforeId = parseCursor(cursor);
    await this.#freshen(options);
    const found = listTasks(this.#metadata.port.reader(), filter, beforeId, countMax + 1);
    const tasks = found.slice(0, countMax);
    return { tasks, nextCursor: found.length > countMax ? String(tasks.at(-1)?.taskId) : undefined };
  }

  async cancel(taskId: number, options?: TaskWriteOptions): Promise<Task> {
    return (await this.#metadata.apply({ kind: "cancel-task", taskId }, "task", options)).task;
  }

  async retry(taskId: number, options?: TaskWriteOptions): Promise<Task> {
    return (await this.#metadata.apply({ kind: "retry-task", taskId }, "task", options)).task;
  }

  /** A task as this node knows it; it may be behind. */
  find(taskId: number): Task | undefined {
    return findTask(this.#metadata.port.reader(), taskId);
  }

  /** Claims a task for this node. Errors: TASK_NOT_FOUND, TASK_STATE_CONFLICT, those of a proposal. */
  claim(taskId: number, leaseMs: number, signal: AbortSignal): Promise<Task> {
    const { memberId } = this.#metadata.port;
    return this.#work({ kind: "claim-task", taskId, memberId, leaseMs }, signal);
  }

  /** Errors of this and the next three: TASK_CLAIM_LOST, TASK_NOT_FOUND, those of a proposal. */
  renew(hold: TaskHold, renewal: Renewal, signal: AbortSignal): Promise<Task> {
    return this.#work({ kind: "renew-task", hold, ...renewal }, signal);
  }

  finish(hold: TaskHold, result: Uint8Array, signal: AbortSignal): Promise<Task> {
    return this.#work({ kind: "finish-task", hold, result }, signal);
  }

  fail(hold: TaskHold, error: DriveError, isFinal: boolean, signal: AbortSignal): Promise<Task> {
    const { reason, message } = error;
    return this.#work({ kind: "fail-task", hold, reason, message, isFinal }, signal);
  }

  release(hold: TaskHold): Promise<Task> {
    return this.#work({ kind: "release-task", hold }, undefined);
  }

  // Commands of workers are harmless twice: their fence says whether they may have an effect.
  async #work(body: CommandBody, signal: AbortSignal | undefined): Promise<Task> {
    return valueOfKind(await this.#metadata.applyIdempotent(body, { signal }), "task").task;
  }

  async #freshen(options: TaskReadOptions | undefined): Promise<void> {
    if (options?.consistency !== "stale") await this.#metadata.port.linearize({ signal: options?.signal });
  }
}

function parseCursor(cursor: string | undefined): number | undefined {
  if (cursor === undefined || cursor === "") return undefined;
  if (/^[1-9][0-9]{0,14}$/.test(cursor)) return Number(cursor);
  throw new DriveError("ARGUMENT_INVALID", "The cursor is not one of a list of tasks.", { cursor });
}
