/** Tasks over HTTP: what the cluster does in the background, and ending and repeating it. */
import { z } from "zod";
import { TASK_PAGE_SIZE_DEFAULT, TASK_PAGE_SIZE_MAX } from "../drive/limits.ts";
import { TASK_KINDS, TASK_STATES, type Task } from "../drive/task.ts";
import { readOptions, route, writeOptions, type Route } from "./route.ts";
import { consistencySchema, integerSchema } from "./schemas.ts";
import { timeText } from "./views.ts";

const count = z.number().int().nonnegative();

const taskSchema = z
  .strictObject({
    taskId: z.string(),
    kind: z.enum(TASK_KINDS),
    state: z.enum(TASK_STATES),
    attempts: count.meta({ description: "So far, since it was made or retried." }),
    attemptsMax: count.meta({ description: "After so many a failure is final." }),
    memberId: z.string().nullable().meta({ description: "Member that works on it, or did last." }),
    done: count.meta({ description: "Units done; files of an upload task, extents of one of copies." }),
    total: count.meta({ description: "Units in all; 0 while not known." }),
    createTime: z.string(),
    updateTime: z.string().meta({ description: "When it was changed last." }),
    parameters: z.unknown().meta({ description: "What to do, in the form of its kind." }),
    result: z
      .unknown()
      .meta({ description: "What came of it, in the form of its kind; null until it is done." }),
    error: z.strictObject({ reason: z.string(), message: z.string() }).nullable(),
  })
  .meta({ id: "Task" });

const taskPageSchema = z
  .strictObject({
    tasks: z.array(taskSchema),
    nextCursor: z.string().nullable().meta({ description: "Pass it as cursor to get the next page." }),
  })
  .meta({ id: "TaskPage" });

const paramsSchema = z.strictObject({ taskId: z.string().regex(/^[1-9][0-9]{0,14}$/) });

const listQuerySchema = z.strictObject({
  kind: z.enum(TASK_KINDS).optional(),
  state: z.enum(TASK_STATES).optional(),
  limit: integerSchema(1, TASK_PAGE_SIZE_MAX).default(TASK_PAGE_SIZE_DEFAULT),
  cursor: z.string().optional(),
  consistency: consistencySchema,
});

const NOT_FOUND = { 404: { description: "TASK_NOT_FOUND: no such task, or it ended long ago." } };
const CONFLICT = { 409: { description: "TASK_STATE_CONFLICT: its state does not allow this." } };

/** What a payload says: JSON where it is, its text else, null for none. */
function payloadView(bytes: Uint8Array): unknown {
  const text = Buffer.from(bytes).toString("utf8");
  if (text === "") return null;
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

function taskView(task: Task): z.output<typeof taskSchema> {
  return {
    taskId: String(task.taskId),
    kind: task.kind,
    state: task.state,
    attempts: task.attemptCount,
    attemptsMax: task.attemptCountMax,
    memberId: task.memberId === 0 ? null : String(task.memberId),
    done: task.progress.doneCount,
    total: task.progress.totalCount,
    createTime: timeText(task.createTimeMs),
    updateTime: timeText(task.updateTimeMs),
    parameters: payloadView(task.parameters),
    result: payloadView(task.result),
    error: task.error ?? null,
  };
}

/** Routes of tasks. */
export const taskRoutes: readonly Route[] = [
  route({
    method: "GET",
    path: "/api/tasks",
    summary: "Tasks in the background, newest first.",
    tag: "tasks",
    query: listQuerySchema,
    responses: { 200: { description: "One page.", schema: taskPageSchema } },
    async handle({ query }, call) {
      const { kind, state, limit, cursor, consistency } = query;
      const page = { cursor, countMax: limit };
      const { tasks, nextCursor } = await call.drive.tasks.list(
        { kind, state },
        page,
        readOptions(call, { consistency }),
      );
      return { json: { tasks: tasks.map(taskView), nextCursor: nextCursor ?? null } };
    },
  }),
  route({
    method: "GET",
    path: "/api/tasks/:taskId",
    summary: "One task: its state, progress and result.",
    tag: "tasks",
    params: paramsSchema,
    query: z.strictObject({ consistency: consistencySchema }),
    responses: { 200: { description: "The task.", schema: taskSchema }, ...NOT_FOUND },
    async handle({ params, query }, call) {
      const task = await call.drive.tasks.get(Number(params.taskId), readOptions(call, query));
      return { json: taskView(task) };
    },
  }),
  route({
    method: "DELETE",
    path: "/api/tasks/:taskId",
    summary: "Cancels a task that waits or runs; what it has done so far stays.",
    tag: "tasks",
    params: paramsSchema,
    responses: { 200: { description: "The task.", schema: taskSchema }, ...NOT_FOUND, ...CONFLICT },
    async handle({ params }, call) {
      return { json: taskView(await call.drive.tasks.cancel(Number(params.taskId), writeOptions(call))) };
    },
  }),
  route({
    method: "POST",
    path: "/api/tasks/:taskId/retry",
    summary: "Lets a task that failed or was cancelled be tried anew.",
    tag: "tasks",
    params: paramsSchema,
    responses: { 200: { description: "The task.", schema: taskSchema }, ...NOT_FOUND, ...CONFLICT },
    async handle({ params }, call) {
      return { json: taskView(await call.drive.tasks.retry(Number(params.taskId), writeOptions(call))) };
    },
  }),
];
