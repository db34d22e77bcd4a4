/**
 * The table of tasks: drive/task.ts says what a task is, this file what commands do to it.
 *
 * A fence is the index of the command that claimed the task, so it grows strictly over all tasks and needs no counter. Whoever
 * holds a fence that is not the newest, or whose task has ended, is refused with TASK_CLAIM_LOST; finishing again under the
 * fence that finished it changes nothing, so a repeat is harmless. Only cluster time decides about leases, pauses and
 * forgetting. One record on the way, one entry in the index by state and one in the index by time per task:
 *
 *   waiting   by when it is due              running   by when its claim expires          ended   by when it is forgotten
 */
import {
  TASK_ATTEMPT_COUNT_MAX,
  TASK_BACKOFF_MS_MAX,
  TASK_BACKOFF_MS_MIN,
  TASK_ERROR_SIZE_BYTES_MAX,
  TASK_KEY_SIZE_BYTES_MAX,
  TASK_LEASE_MS_MAX,
  TASK_LEASE_MS_MIN,
  TASK_PAYLOAD_SIZE_BYTES_MAX,
  TASK_RETENTION_MS,
} from "../drive/limits.ts";
import { ENDED_TASK_STATES, type Task, type TaskState } from "../drive/task.ts";
import { assert } from "../std/assert.ts";
import { utf8 } from "../std/bytes.ts";
import { DIGEST_SIZE_BYTES } from "../std/digest.ts";
import type { OrderedReader } from "../std/ordered-store.ts";
import type { CommandBody, ResultValue } from "./commands.ts";
import { recordSha256 } from "./contents.ts";
import { readRecord, refuse, scanPrefix, type ApplyContext } from "./context.ts";
import { findContent } from "./extents.ts";
import {
  makeKey,
  NOTHING,
  numberInKey,
  TABLE,
  taskByKeyKey,
  taskByStateKey,
  taskByTimeKey,
  taskKey,
  TASK_TOTALS_KEY,
} from "./keys.ts";
import {
  cellOf,
  TASK_CELL_COUNT,
  taskCodec,
  taskTotalsCodec,
  type TaskFindings,
  type TaskHold,
  type TaskTotals,
} from "./task-records.ts";
import { TASK_KINDS, TASK_STATES } from "../drive/task.ts";

type Body<Kind extends CommandBody["kind"]> = Extract<CommandBody, { readonly kind: Kind }>;

/** Which of the three times a task is indexed by. Part of the keys: numbers never change. */
export type TaskPhase = 1 | 2 | 3;

/** The phase of a state: waiting 1, running 2, ended 3. */
export function phaseOf(state: TaskState): TaskPhase {
  if (state === "waiting") return 1;
  return state === "running" ? 2 : 3;
}

/** Number of a kind or state in keys, from 1. */
export const kindNumber = (kind: Task["kind"]): number => TASK_KINDS.indexOf(kind) + 1;
export const stateNumber = (state: TaskState): number => TASK_STATES.indexOf(state) + 1;

/** The totals; those of an empty table before the first task. */
export function readTaskTotals(reader: OrderedReader): TaskTotals {
  return (
    readRecord(reader, TASK_TOTALS_KEY, taskTotalsCodec) ?? {
      ...taskTotalsCodec.decode(new Uint8Array(0)),
      nextTaskId: 1,
    }
  );
}

/** A task by its id. */
export function findTask(reader: OrderedReader, taskId: number): Task | undefined {
  return readRecord(reader, taskKey(taskId), taskCodec);
}

function requireTask(context: ApplyContext, taskId: number): Task {
  const task = findTask(context, taskId);
  if (task !== undefined) return task;
  return refuse("TASK_NOT_FOUND", `There is no task ${taskId}.`, { task_id: String(taskId) });
}

const answer = (task: Task): ResultValue => ({ kind: "task", task });

function addToTotals(
  context: ApplyContext,
  change: readonly { readonly task: Task; readonly by: number }[],
): void {
  const totals = readTaskTotals(context);
  const counts = Array.from({ length: TASK_CELL_COUNT }, (_, cell) => totals.counts[cell] ?? 0);
  for (const { task, by } of change) {
    const cell = cellOf(task.kind, task.state);
    counts[cell] = (counts[cell] ?? 0) + by;
  }
  context.put(TASK_TOTALS_KEY, taskTotalsCodec.encode({ ...totals, counts }));
}

function removeIndexes(context: ApplyContext, task: Task): void {
  context.delete(taskByStateKey(stateNumber(task.state), kindNumber(task.kind), task.taskId));
  context.delete(taskByTimeKey(phaseOf(task.state), task.dueTimeMs, task.taskId));
}

/** Wall time as a task keeps it; a clock before 1970 has no place in a record. */
const shownTime = ({ wallTimeMs }: ApplyContext): number => Math.max(0, wallTimeMs);

function store(context: ApplyContext, before: Task | undefined, wanted: Task): ResultValue {
  const task = { ...wanted, updateTimeMs: shownTime(context) };
  if (before !== undefined) removeIndexes(context, before);
  context.put(taskKey(task.taskId), taskCodec.encode(task));
  context.put(taskByStateKey(stateNumber(task.state), kindNumber(task.kind), task.taskId), NOTHING);
  context.put(
    taskByTimeKey(phaseOf(task.state), task.dueTimeMs, task.taskId),
    new Uint8Array([kindNumber(task.kind)]),
  );
  if (before?.state !== task.state) {
    addToTotals(context, [...(before === undefined ? [] : [{ task: before, by: -1 }]), { task, by: 1 }]);
  }
  return answer(task);
}

function end(context: ApplyContext, before: Task, change: Partial<Task> & Pick<Task, "state">): ResultValue {
  const dueTimeMs = context.state.clusterTimeMs + TASK_RETENTION_MS;
  const value = store(context, before, { ...before, ...change, dueTimeMs });
  makeRoom(context);
  return value;
}

/** Forgets the task that ended first while too many are remembered. */
function makeRoom(context: ApplyContext): void {
  const { counts } = readTaskTotals(context);
  const endedCount = TASK_KINDS.reduce(
    (sum, kind) =>
      sum + [...ENDED_TASK_STATES].reduce((n, state) => n + (counts[cellOf(kind, state)] ?? 0), 0),
    0,
  );
  const excess = endedCount - context.limits.taskEndedCountMax;
  if (excess <= 0) return;
  for (const { key } of scanPrefix(context, makeKey(TABLE.taskByTime, [3]), excess)) {
    forget(context, numberInKey(key, 2));
  }
}

function forget(context: ApplyContext, taskId: number): void {
  const task = requireTask(context, taskId);
  removeIndexes(context, task);
  context.delete(taskKey(taskId));
  if (task.key !== "" && keyHolder(context, task.kind, task.key) === taskId) {
    context.delete(taskByKeyKey(kindNumber(task.kind), task.key));
  }
  addToTotals(context, [{ task, by: -1 }]);
}

function keyHolder(reader: OrderedReader, kind: Task["kind"], key: string): number | undefined {
  const found = reader.get(taskByKeyKey(kindNumber(kind), key));
  return found === undefined ? undefined : numberInKey(found, 0);
}

function openCount({ counts }: TaskTotals, kind: Task["kind"]): number {
  return (counts[cellOf(kind, "waiting")] ?? 0) + (counts[cellOf(kind, "running")] ?? 0);
}

function checkOpenCount(context: ApplyContext, kind: Task["kind"]): void {
  const { taskOpenCountMax } = context.limits;
  if (openCount(readTaskTotals(context), kind) < taskOpenCountMax) return;
  refuse("OVERLOADED", `${taskOpenCountMax} tasks of the kind ${kind} are open, as many as may be.`, {
    kind,
    task_open_count_max: String(taskOpenCountMax),
  });
}

function checkPayload(what: string, payload: Uint8Array): void {
  if (payload.length <= TASK_PAYLOAD_SIZE_BYTES_MAX) return;
  refuse("ARGUMENT_INVALID", `The ${what} of a task has at most ${TASK_PAYLOAD_SIZE_BYTES_MAX} bytes.`, {
    size_bytes: String(payload.length),
  });
}

/** create-task. */
export function createTask(context: ApplyContext, body: Body<"create-task">): ResultValue {
  const { taskKind: kind, key, parameters, plan } = body;
  if (utf8(key).length > TASK_KEY_SIZE_BYTES_MAX) {
    refuse("ARGUMENT_INVALID", `The key of a task has at most ${TASK_KEY_SIZE_BYTES_MAX} bytes.`);
  }
  checkPayload("parameters", parameters);
  if (plan !== undefined) {
    advancePlan(context, plan.afterIndex, plan.throughIndex);
    if (parameters.length === 0) return { kind: "none" };
  }
  const holder = key === "" ? undefined : keyHolder(context, kind, key);
  if (holder !== undefined) {
    const task = requireTask(context, holder);
    if (task.state !== "failed" && task.state !== "cancelled") return answer(task);
  }
  checkOpenCount(context, kind);
  const totals = readTaskTotals(context);
  const taskId = totals.nextTaskId;
  context.put(TASK_TOTALS_KEY, taskTotalsCodec.encode({ ...totals, nextTaskId: taskId + 1 }));
  if (key !== "") context.put(taskByKeyKey(kindNumber(kind), key), makeKey(0, [taskId]));
  return store(context, undefined, {
    ...{ taskId, kind, state: "waiting", key, parameters },
    ...{ attemptCount: 0, attemptCountMax: TASK_ATTEMPT_COUNT_MAX, fence: 0, memberId: 0 },
    ...{ dueTimeMs: context.state.clusterTimeMs, createTimeMs: shownTime(context), updateTimeMs: 0 },
    ...{ progress: { doneCount: 0, totalCount: 0 }, result: new Uint8Array(0), error: undefined },
  });
}

/** Moves the checkpoint of the planner, when it is where the planner believes. */
function advancePlan(context: ApplyContext, afterIndex: number, throughIndex: number): void {
  const totals = readTaskTotals(context);
  if (totals.plannedIndex !== afterIndex) {
    refuse("VERSION_MISMATCH", `Tasks are planned up to index ${totals.plannedIndex}, not ${afterIndex}.`, {
      planned_index: String(totals.plannedIndex),
    });
  }
  if (throughIndex < afterIndex || throughIndex >= context.index) {
    refuse(
      "ARGUMENT_INVALID",
      "A run of the feed ends after it begins, and before the command that plans it.",
      {
        after_index: String(afterIndex),
        through_index: String(throughIndex),
      },
    );
  }
  context.put(TASK_TOTALS_KEY, taskTotalsCodec.encode({ ...totals, plannedIndex: throughIndex }));
}

function checkLease(leaseMs: number): void {
  if (leaseMs >= TASK_LEASE_MS_MIN && leaseMs <= TASK_LEASE_MS_MAX) return;
  refuse("ARGUMENT_INVALID", `A claim holds for ${TASK_LEASE_MS_MIN} to ${TASK_LEASE_MS_MAX} ms.`, {
    lease_ms: String(leaseMs),
  });
}

function refuseState(task: Task, what: string): never {
  return refuse("TASK_STATE_CONFLICT", `Task ${task.taskId} is ${task.state} and cannot be ${what}.`, {
    task_id: String(task.taskId),
    state: task.state,
  });
}

/** claim-task. */
export function claimTask(context: ApplyContext, body: Body<"claim-task">): ResultValue {
  const { taskId, memberId, leaseMs } = body;
  checkLease(leaseMs);
  if (memberId <= 0) refuse("ARGUMENT_INVALID", "A member id is positive.");
  const task = requireTask(context, taskId);
  const { clusterTimeMs } = context.state;
  if (ENDED_TASK_STATES.has(task.state)) refuseState(task, "claimed");
  if (task.dueTimeMs > clusterTimeMs)
    refuseState(task, `claimed for ${task.dueTimeMs - clusterTimeMs} ms yet`);
  if (task.attemptCount >= task.attemptCountMax) refuseState(task, "claimed: its attempts are used up");
  assert(task.fence < context.index, "a fence is the index of an earlier command");
  return store(context, task, {
    ...{ ...task, state: "running", memberId, fence: context.index },
    ...{ attemptCount: task.attemptCount + 1, dueTimeMs: clusterTimeMs + leaseMs },
    progress: { doneCount: 0, totalCount: 0 },
  });
}

/** The task that a claim holds; refuses when it holds no more. An expired claim holds while nobody else has claimed. */
export function requireHeld(context: ApplyContext, { taskId, fence }: TaskHold): Task {
  const task = requireTask(context, taskId);
  if (task.state === "running" && task.fence === fence) return task;
  return refuse("TASK_CLAIM_LOST", `Claim ${fence} of task ${taskId} holds no more: it is ${task.state}.`, {
    task_id: String(taskId),
    fence: String(fence),
    newest_fence: String(task.fence),
    state: task.state,
  });
}

/** renew-task. */
export function renewTask(context: ApplyContext, body: Body<"renew-task">): ResultValue {
  const { hold, leaseMs, doneCount, totalCount, findings } = body;
  checkLease(leaseMs);
  const task = requireHeld(context, hold);
  record(context, findings);
  const dueTimeMs = context.state.clusterTimeMs + leaseMs;
  return store(context, task, { ...task, dueTimeMs, progress: { doneCount, totalCount } });
}

// What was found of a file that is gone, or has other bytes by now, is of no use to anybody and left out.
function record(context: ApplyContext, { sha256s }: TaskFindings): void {
  const { taskFindingCountMax } = context.limits;
  if (sha256s.length > taskFindingCountMax) {
    refuse("ARGUMENT_INVALID", `A renewal records at most ${taskFindingCountMax} findings.`, {
      finding_count: String(sha256s.length),
    });
  }
  for (const { contentId, sha256 } of sha256s) {
    if (sha256.length !== DIGEST_SIZE_BYTES) refuse("ARGUMENT_INVALID", "A SHA-256 has 32 bytes.");
    if (findContent(context, contentId)?.sha256.length === 0) {
      recordSha256(context, { kind: "record-sha256", contentId, sha256 });
    }
  }
}

/** finish-task. */
export function finishTask(context: ApplyContext, { hold, result }: Body<"finish-task">): ResultValue {
  checkPayload("result", result);
  const known = findTask(context, hold.taskId);
  if (known?.state === "done" && known.fence === hold.fence) return answer(known);
  const task = requireHeld(context, hold);
  const { doneCount, totalCount } = task.progress;
  const progress = { doneCount: Math.max(doneCount, totalCount), totalCount };
  return end(context, task, { state: "done", result, progress, error: undefined });
}

/** Pause after an attempt that failed, in cluster time. */
export function backoffMs(attemptCount: number): number {
  return Math.min(TASK_BACKOFF_MS_MAX, TASK_BACKOFF_MS_MIN * 2 ** Math.max(0, attemptCount - 1));
}

function cutOff(text: string): string {
  const bytes = utf8(text);
  if (bytes.length <= TASK_ERROR_SIZE_BYTES_MAX) return text;
  // A character that was cut in two is left out.
  let end = TASK_ERROR_SIZE_BYTES_MAX;
  while (end > 0 && ((bytes[end] ?? 0) & 0xc0) === 0x80) end -= 1;
  return Buffer.from(bytes.subarray(0, end)).toString("utf8");
}

/** fail-task. */
export function failTask(context: ApplyContext, body: Body<"fail-task">): ResultValue {
  const task = requireHeld(context, body.hold);
  const error = { reason: cutOff(body.reason), message: cutOff(body.message) };
  return endAttempt(context, task, error, body.isFinal);
}

function endAttempt(context: ApplyContext, task: Task, error: Task["error"], isFinal: boolean): ResultValue {
  if (isFinal || task.attemptCount >= task.attemptCountMax)
    return end(context, task, { state: "failed", error });
  const dueTimeMs = context.state.clusterTimeMs + backoffMs(task.attemptCount);
  return store(context, task, { ...task, state: "waiting", error, dueTimeMs });
}

/** release-task. */
export function releaseTask(context: ApplyContext, { hold }: Body<"release-task">): ResultValue {
  const task = requireHeld(context, hold);
  const attemptCount = task.attemptCount - 1;
  return store(context, task, {
    ...task,
    state: "waiting",
    attemptCount,
    dueTimeMs: context.state.clusterTimeMs,
  });
}

/** retry-task. */
export function retryTask(context: ApplyContext, { taskId }: Body<"retry-task">): ResultValue {
  const task = requireTask(context, taskId);
  if (task.state === "waiting" || task.state === "running") return answer(task);
  if (task.state === "done") refuseState(task, "retried");
  const holder = task.key === "" ? undefined : keyHolder(context, task.kind, task.key);
  if (holder !== undefined && holder !== taskId) {
    refuse("TASK_STATE_CONFLICT", `Task ${holder} was made in place of task ${taskId}.`, {
      task_id: String(taskId),
      newer_task_id: String(holder),
    });
  }
  checkOpenCount(context, task.kind);
  return store(context, task, {
    ...{ ...task, state: "waiting", attemptCount: 0, dueTimeMs: context.state.clusterTimeMs },
    progress: { doneCount: 0, totalCount: 0 },
  });
}

/** cancel-task. */
export function cancelTask(context: ApplyContext, { taskId }: Body<"cancel-task">): ResultValue {
  const task = requireTask(context, taskId);
  if (task.state === "cancelled") return answer(task);
  if (task.state === "done" || task.state === "failed") refuseState(task, "cancelled");
  return end(context, task, { state: "cancelled" });
}

function dueTasks(
  reader: OrderedReader,
  phase: TaskPhase,
  clusterTimeMs: number,
  countMax: number,
): number[] {
  const range = {
    from: makeKey(TABLE.taskByTime, [phase]),
    to: taskByTimeKey(phase, clusterTimeMs + 1, 0),
    countMax,
  };
  return [...reader.range(range)].map(({ key }) => numberInKey(key, 2));
}

/** Whether a claim has expired, or a task is to be forgotten. */
export function areTasksDue(reader: OrderedReader, clusterTimeMs: number): boolean {
  return ([2, 3] as const).some((phase) => dueTasks(reader, phase, clusterTimeMs, 1).length > 0);
}

/** Part of expire: claims that ran out end their attempt, and tasks that ended long ago are forgotten. Returns how many. */
export function expireTasks(context: ApplyContext, countMax: number): number {
  const { clusterTimeMs } = context.state;
  const lost = dueTasks(context, 2, clusterTimeMs, countMax);
  for (const taskId of lost) {
    const task = requireTask(context, taskId);
    const message = `Member ${task.memberId} did not renew its claim in time.`;
    endAttempt(context, task, { reason: "TASK_CLAIM_LOST", message }, false);
  }
  const old = dueTasks(context, 3, clusterTimeMs, countMax - lost.length);
  for (const taskId of old) forget(context, taskId);
  return lost.length + old.length;
}
