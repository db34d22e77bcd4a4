/** Tasks over gRPC, for clients outside the cluster: asked of whichever node can answer. */
import { encodeConsistency } from "../contract/codec.ts";
import { decodeTask, encodeListTasks } from "../contract/task-codec.ts";
import { DriveError } from "../drive/errors.ts";
import type {
  Task,
  TaskApi,
  TaskFilter,
  TaskPage,
  TaskReadOptions,
  TaskWriteOptions,
} from "../drive/task.ts";
import type { Failover } from "./failover.ts";

/** The tasks of a cluster elsewhere. */
export class RemoteTasks implements TaskApi {
  readonly #failover: Failover;

  constructor(failover: Failover) {
    this.#failover = failover;
  }

  /** Tasks are made by what needs them, on the nodes. */
  create(): Promise<Task> {
    return Promise.reject(new DriveError("PERMISSION_DENIED", "Tasks are made by the nodes alone."));
  }

  get(taskId: number, options: TaskReadOptions = {}): Promise<Task> {
    const { signal } = options;
    const request = { taskId: BigInt(taskId), consistency: encodeConsistency(options.consistency) };
    return this.#failover.run(signal, async ({ tasks }) =>
      decodeTask((await tasks.getTask(request, { signal })).task),
    );
  }

  list(
    filter: TaskFilter,
    page: { readonly cursor?: string | undefined; readonly countMax: number },
    options: TaskReadOptions = {},
  ): Promise<TaskPage> {
    const { signal } = options;
    const request = {
      ...encodeListTasks(filter, page),
      consistency: encodeConsistency(options.consistency),
    };
    return this.#failover.run(signal, async ({ tasks }) => {
      const answer = await tasks.listTasks(request, { signal });
      const nextCursor = answer.nextPageToken === "" ? undefined : answer.nextPageToken;
      return { tasks: answer.tasks.map(decodeTask), nextCursor };
    });
  }

  // Cancelling and retrying are harmless twice, so another node may be asked again without more ado.
  cancel(taskId: number, { signal, requestId = "" }: TaskWriteOptions = {}): Promise<Task> {
    const request = { taskId: BigInt(taskId), requestId };
    return this.#failover.run(signal, async ({ tasks }) =>
      decodeTask((await tasks.cancelTask(request, { signal })).task),
    );
  }

  retry(taskId: number, { signal, requestId = "" }: TaskWriteOptions = {}): Promise<Task> {
    const request = { taskId: BigInt(taskId), requestId };
    return this.#failover.run(signal, async ({ tasks }) =>
      decodeTask((await tasks.retryTask(request, { signal })).task),
    );
  }
}
