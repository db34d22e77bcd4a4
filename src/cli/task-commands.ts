/** `netdisk tasks`: ls, show, cancel and retry. */
import { TASK_PAGE_SIZE_MAX } from "../drive/limits.ts";
import type { Task, TaskFilter } from "../drive/task.ts";
import type { CommandContext } from "./command-context.ts";
import { EXIT_OK } from "./exit-code.ts";
import { formatTable, formatTime, isoTime } from "../std/format.ts";

function payload(bytes: Uint8Array): unknown {
  const text = Buffer.from(bytes).toString("utf8");
  if (text === "") return undefined;
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

function taskJson(task: Task): Record<string, unknown> {
  const { taskId, kind, state, attemptCount, attemptCountMax, memberId, progress, error } = task;
  const [parameters, result] = [payload(task.parameters), payload(task.result)];
  return {
    ...{ taskId: String(taskId), kind, state, attempts: attemptCount, attemptsMax: attemptCountMax },
    ...(memberId === 0 ? {} : { memberId: String(memberId) }),
    ...{ done: progress.doneCount, total: progress.totalCount },
    ...{ createTime: isoTime(task.createTimeMs), updateTime: isoTime(task.updateTimeMs) },
    ...(parameters === undefined ? {} : { parameters }),
    ...(result === undefined ? {} : { result }),
    ...(error === undefined ? {} : { error }),
  };
}

const progressText = ({ progress: { doneCount, totalCount } }: Task): string =>
  totalCount === 0 ? "-" : `${doneCount}/${totalCount}`;

/** Shows at most `countMax` tasks, newest first. */
export async function listTasks(
  { drive, patience, output }: CommandContext,
  filter: TaskFilter,
  countMax: number,
): Promise<number> {
  const shown: Task[] = [];
  let cursor: string | undefined;
  do {
    const page = { cursor, countMax: Math.min(countMax - shown.length, TASK_PAGE_SIZE_MAX) };
    const answer = await patience.read((signal) => drive.tasks.list(filter, page, { signal }));
    shown.push(...answer.tasks);
    cursor = answer.nextCursor;
  } while (cursor !== undefined && shown.length < countMax);
  if (output.json) {
    for (const task of shown) await output.record(taskJson(task));
    return EXIT_OK;
  }
  const header = ["TASK", "KIND", "STATE", "TRIES", "DONE", "CREATED", "ERROR"];
  const rows = shown.map((task) => [
    ...[String(task.taskId), task.kind, task.state],
    ...[`${task.attemptCount}/${task.attemptCountMax}`, progressText(task), formatTime(task.createTimeMs)],
    task.error?.reason ?? "",
  ]);
  for (const line of formatTable([header, ...rows], [0])) await output.line(line.trimEnd());
  if (cursor !== undefined) output.note("There are more; --limit says how many are shown.");
  return EXIT_OK;
}

async function show({ output }: CommandContext, task: Task): Promise<number> {
  const record = taskJson(task);
  if (output.json) {
    await output.record(record);
    return EXIT_OK;
  }
  for (const [name, value] of Object.entries(record)) {
    const text = typeof value === "string" ? value : JSON.stringify(value);
    await output.line(`${name.padEnd(14)}${text}`);
  }
  return EXIT_OK;
}

/** Shows one task. */
export async function showTask(context: CommandContext, taskId: number): Promise<number> {
  return show(context, await context.patience.read((signal) => context.drive.tasks.get(taskId, { signal })));
}

/** Ends a task; a download that is done is released. Harmless twice. */
export async function cancelTask(context: CommandContext, taskId: number): Promise<number> {
  const { drive, patience, output } = context;
  const task = await patience.read((signal) => drive.tasks.get(taskId, { signal }));
  if (task.kind === "download" && task.state === "done") {
    const requestId = patience.requestId();
    await patience.run((signal) => drive.preparedDownloads.release(taskId, { requestId, signal }));
    output.note("The download is released: what it kept comes back within a few minutes.");
    return show(context, task);
  }
  return show(
    context,
    await context.patience.read((signal) => context.drive.tasks.cancel(taskId, { signal })),
  );
}

/** Lets a task be tried anew. Harmless twice. */
export async function retryTask(context: CommandContext, taskId: number): Promise<number> {
  return show(
    context,
    await context.patience.read((signal) => context.drive.tasks.retry(taskId, { signal })),
  );
}
