/** TaskService of netdisk.v1 over the drive, for any transport, and the conversions of its messages both ways. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import {
  TaskKind as WireKind,
  TaskState as WireState,
  type Task as WireTask,
  type TaskSchema,
} from "../../gen/netdisk/v1/task_pb.ts";
import type { ListTasksRequestSchema, TaskService } from "../../gen/netdisk/v1/task_service_pb.ts";
import { TASK_PAGE_SIZE_DEFAULT } from "../drive/limits.ts";
import type { Task, TaskFilter, TaskKind, TaskState } from "../drive/task.ts";
import { utf8 } from "../std/bytes.ts";
import { keyOf, readOptions, required, toBigint, toNumber, writeOptions } from "./codec.ts";
import type { DriveSource, Handlers } from "./service-handlers.ts";

const KINDS: Readonly<Record<TaskKind, WireKind>> = {
  upload: WireKind.UPLOAD,
  download: WireKind.DOWNLOAD,
  replication: WireKind.REPLICATION,
};

const STATES: Readonly<Record<TaskState, WireState>> = {
  waiting: WireState.WAITING,
  running: WireState.RUNNING,
  done: WireState.DONE,
  failed: WireState.FAILED,
  cancelled: WireState.CANCELLED,
};

const textOf = (bytes: Uint8Array): string => Buffer.from(bytes).toString("utf8");

/** The wire form of a task. */
export function encodeTask(task: Task): MessageInitShape<typeof TaskSchema> {
  return {
    taskId: toBigint(task.taskId),
    kind: KINDS[task.kind],
    state: STATES[task.state],
    attemptCount: task.attemptCount,
    attemptCountMax: task.attemptCountMax,
    memberId: toBigint(task.memberId),
    doneCount: toBigint(task.progress.doneCount),
    totalCount: toBigint(task.progress.totalCount),
    createTimeMs: toBigint(task.createTimeMs),
    updateTimeMs: toBigint(task.updateTimeMs),
    parameters: textOf(task.parameters),
    result: textOf(task.result),
    errorReason: task.error?.reason ?? "",
    errorMessage: task.error?.message ?? "",
  };
}

/** The task of a message; what only workers need is not in it. */
export function decodeTask(message: WireTask | undefined): Task {
  const wire = required(message, "task");
  const { errorReason, errorMessage, attemptCount, attemptCountMax } = wire;
  return {
    taskId: toNumber(wire.taskId, "task_id"),
    kind: keyOf(KINDS, wire.kind, "kind"),
    state: keyOf(STATES, wire.state, "state"),
    ...{ key: "", attemptCount, attemptCountMax, fence: 0, dueTimeMs: 0 },
    memberId: toNumber(wire.memberId, "member_id"),
    progress: {
      doneCount: toNumber(wire.doneCount, "done_count"),
      totalCount: toNumber(wire.totalCount, "total_count"),
    },
    createTimeMs: toNumber(wire.createTimeMs, "create_time_ms"),
    updateTimeMs: toNumber(wire.updateTimeMs, "update_time_ms"),
    parameters: utf8(wire.parameters),
    result: utf8(wire.result),
    error: errorReason === "" ? undefined : { reason: errorReason, message: errorMessage },
  };
}

/** The request for a page. */
export function encodeListTasks(
  { kind, state }: TaskFilter,
  page: { readonly cursor?: string | undefined; readonly countMax: number },
): MessageInitShape<typeof ListTasksRequestSchema> {
  return {
    kind: kind === undefined ? WireKind.UNSPECIFIED : KINDS[kind],
    state: state === undefined ? WireState.UNSPECIFIED : STATES[state],
    pageSize: page.countMax,
    pageToken: page.cursor ?? "",
  };
}

/** TaskService over `drive`. */
export function taskHandlers(drive: DriveSource): Handlers<typeof TaskService> {
  const id = (request: { readonly taskId: bigint }): number => toNumber(request.taskId, "task_id");
  return {
    getTask: async (request, { signal }) => ({
      task: encodeTask(await drive().tasks.get(id(request), readOptions(request, signal))),
    }),
    listTasks: async (request, { signal }) => {
      const { kind, state, pageSize, pageToken } = request;
      const page = await drive().tasks.list(
        {
          kind: kind === WireKind.UNSPECIFIED ? undefined : keyOf(KINDS, kind, "kind"),
          state: state === WireState.UNSPECIFIED ? undefined : keyOf(STATES, state, "state"),
        },
        {
          cursor: pageToken === "" ? undefined : pageToken,
          countMax: pageSize === 0 ? TASK_PAGE_SIZE_DEFAULT : pageSize,
        },
        readOptions(request, signal),
      );
      return { tasks: page.tasks.map(encodeTask), nextPageToken: page.nextCursor ?? "" };
    },
    cancelTask: async (request, { signal }) => ({
      task: encodeTask(await drive().tasks.cancel(id(request), writeOptions(request, signal))),
    }),
    retryTask: async (request, { signal }) => ({
      task: encodeTask(await drive().tasks.retry(id(request), writeOptions(request, signal))),
    }),
  };
}
