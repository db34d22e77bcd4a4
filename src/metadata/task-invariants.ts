/** What must be true of the table of tasks after every command; a part of invariants.ts. */
import { TASK_RETENTION_MS } from "../drive/limits.ts";
import { ENDED_TASK_STATES, TASK_KINDS, TASK_STATES, type Task } from "../drive/task.ts";
import { toHex } from "../std/bytes.ts";
import type { OrderedReader } from "../std/ordered-store.ts";
import { scanPrefix } from "./context.ts";
import { makeKey, numberInKey, TABLE, taskByStateKey, taskByTimeKey, textInKey } from "./keys.ts";
import { cellOf, taskCodec } from "./task-records.ts";
import { findTask, kindNumber, phaseOf, readTaskTotals, stateNumber } from "./tasks.ts";

/** Takes what is wrong. */
export interface FindingSink {
  check(condition: boolean, message: () => string): void;
  equal(what: string, actual: number, expected: number): void;
}

/** Checks every task, its indexes and the totals. */
export function checkTasks(reader: OrderedReader, findings: FindingSink): void {
  const all = (table: number) => scanPrefix(reader, makeKey(table, []), Infinity);
  const totals = readTaskTotals(reader);
  const counts = new Array<number>(TASK_KINDS.length * TASK_STATES.length).fill(0);
  const fences = new Set<number>();
  const tasks = all(TABLE.task).map(({ value }) => taskCodec.decode(value));
  for (const task of tasks) {
    const { taskId, kind, state, fence, dueTimeMs } = task;
    const cell = cellOf(kind, state);
    counts[cell] = (counts[cell] ?? 0) + 1;
    for (const problem of problemsOf(task)) findings.check(false, () => `task ${taskId} ${problem}`);
    findings.check(taskId < totals.nextTaskId, () => `task ${taskId} has an id not given out`);
    findings.check(fence === 0 || !fences.has(fence), () => `claim ${fence} holds two tasks`);
    fences.add(fence);
    const isIndexed =
      reader.get(taskByStateKey(stateNumber(state), kindNumber(kind), taskId)) !== undefined &&
      reader.get(taskByTimeKey(phaseOf(state), dueTimeMs, taskId)) !== undefined;
    findings.check(isIndexed, () => `task ${taskId} is not in both indexes`);
  }
  findings.equal("the index of tasks by state", all(TABLE.taskByState).length, tasks.length);
  findings.equal("the index of tasks by time", all(TABLE.taskByTime).length, tasks.length);
  for (const [cell, count] of counts.entries()) {
    findings.equal(`the count of tasks number ${cell}`, totals.counts[cell] ?? 0, count);
  }
  for (const { key, value } of all(TABLE.taskByKey)) {
    const task = findTask(reader, numberInKey(value, 0));
    const fits =
      task !== undefined && task.key === textInKey(key, 1) && kindNumber(task.kind) === numberInKey(key, 0);
    findings.check(fits, () => `the key ${toHex(key)} leads to no task with it`);
  }
}

function problemsOf(task: Task): readonly string[] {
  const { state, fence, memberId, attemptCount, attemptCountMax, result, error } = task;
  const rules: readonly (readonly [boolean, string])[] = [
    [state !== "running" || (fence > 0 && memberId > 0), "runs without a claim"],
    [state !== "done" || fence > 0, "is done and was never claimed"],
    [state !== "done" || error === undefined, "is done and has an error"],
    [state !== "failed" || error !== undefined, "has failed without an error"],
    [state === "done" || result.length === 0, "has a result and is not done"],
    [attemptCount <= attemptCountMax, "was tried too often"],
    [state !== "waiting" || attemptCount < attemptCountMax, "waits with no attempt left"],
    [state !== "running" || task.dueTimeMs > 0, "runs under a claim without an end"],
    [!ENDED_TASK_STATES.has(state) || task.dueTimeMs >= TASK_RETENTION_MS, "has ended and is not kept"],
  ];
  return rules.filter(([holds]) => !holds).map(([, problem]) => problem);
}
