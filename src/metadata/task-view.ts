/** Reads of the table of tasks: pure functions over a reader, as view.ts. */
import {
  TASK_KINDS,
  TASK_STATES,
  type Task,
  type TaskCounts,
  type TaskFilter,
  type TaskKind,
  type TaskState,
} from "../drive/task.ts";
import { must } from "../std/assert.ts";
import type { OrderedReader } from "../std/ordered-store.ts";
import { readState } from "./context.ts";
import { makeKey, numberInKey, TABLE, taskByStateKey, taskByTimeKey } from "./keys.ts";
import { cellOf } from "./task-records.ts";
import { findTask, kindNumber, phaseOf, readTaskTotals, stateNumber } from "./tasks.ts";

export { findTask } from "./tasks.ts";

const WAITING = phaseOf("waiting");

/** How many tasks there are, by kind and state. */
export function countTasks(reader: OrderedReader): TaskCounts {
  const { counts } = readTaskTotals(reader);
  const states = (kind: TaskKind): Record<TaskState, number> =>
    Object.fromEntries(TASK_STATES.map((state) => [state, counts[cellOf(kind, state)] ?? 0])) as Record<
      TaskState,
      number
    >;
  return { upload: states("upload"), download: states("download"), replication: states("replication") };
}

/** Index of the command up to which uploads have become tasks. */
export function plannedIndex(reader: OrderedReader): number {
  return readTaskTotals(reader).plannedIndex;
}

/** A task that may be claimed. */
export interface DueTask {
  readonly taskId: number;
  readonly kind: TaskKind;
  /** Cluster time since when. */
  readonly dueTimeMs: number;
}

/** At most `countMax` tasks that wait and are due, the longest due first. */
export function dueTasks(reader: OrderedReader, countMax: number): readonly DueTask[] {
  const { clusterTimeMs } = readState(reader);
  const from = makeKey(TABLE.taskByTime, [WAITING]);
  const range = { from, to: taskByTimeKey(WAITING, clusterTimeMs + 1, 0), countMax };
  return [...reader.range(range)].map(({ key, value }) => ({
    taskId: numberInKey(key, 2),
    kind: must(TASK_KINDS[(value[0] ?? 0) - 1], "a known kind of task"),
    dueTimeMs: numberInKey(key, 1),
  }));
}

/** At most `countMax` tasks that fit the filter, newest first, with ids below `beforeId` (undefined: all). */
export function listTasks(
  reader: OrderedReader,
  filter: TaskFilter,
  beforeId: number | undefined,
  countMax: number,
): readonly Task[] {
  const end = beforeId ?? Number.MAX_SAFE_INTEGER;
  const states = filter.state === undefined ? TASK_STATES : [filter.state];
  const kinds = filter.kind === undefined ? TASK_KINDS : [filter.kind];
  const ids = states.flatMap((state) =>
    kinds.flatMap((kind) => newestIds(reader, stateNumber(state), kindNumber(kind), end, countMax)),
  );
  return ids
    .sort((a, b) => b - a)
    .slice(0, countMax)
    .map((taskId) => must(findTask(reader, taskId), "an indexed task is there"));
}

// Ids grow with time: the newest are at the end of their range.
function newestIds(
  reader: OrderedReader,
  state: number,
  kind: number,
  end: number,
  countMax: number,
): readonly number[] {
  const from = makeKey(TABLE.taskByState, [state, kind]);
  const range = { from, to: taskByStateKey(state, kind, end), reverse: true, countMax };
  return [...reader.range(range)].map(({ key }) => numberInKey(key, 2));
}
