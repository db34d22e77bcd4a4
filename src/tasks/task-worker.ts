/**
 * The worker of a node: takes what queues deliver, claims it, runs the handler, renews the claim meanwhile and ends the task.
 *
 *   delivery -> does the table let it be claimed? -> a free slot -> claim -> handler (renewed every third of the lease, sooner with progress)
 *            -> finish | fail | give back -> the message is settled
 *
 * The message is settled last, or after HOLD_MS_MAX: a broker closes channels that hold messages for too long, and once a task is
 * claimed the table knows all that the message could say. When this node dies its claim expires. Both queues of a node may deliver
 * the same task; what is in hand is not taken twice.
 */
import { canceledError, sharedAbortController } from "../cluster/deadline.ts";
import { DriveError, hasReason, type StatusCode } from "../drive/errors.ts";
import type { ReportedTask } from "../drive/drive-api.ts";
import type { Task, TaskKind } from "../drive/task.ts";
import { NO_FINDINGS, type TaskFindings, type TaskHold } from "../metadata/task-records.ts";
import { sleep, type Clock, type Timer } from "../std/clock.ts";
import { Semaphore } from "../std/semaphore.ts";
import type { TaskHandler, TaskWork } from "./task-handler.ts";
import type { Delivery } from "./task-queue.ts";
import type { TaskTable } from "./task-table.ts";

/** How long a claim holds, in cluster time; renewed at a third of it. */
export const CLAIM_LEASE_MS = 30_000;
/** Tasks of one kind that a node works on at once. */
export const SLOT_COUNT = 2;
/** A message is kept from the queue at most this long. */
export const HOLD_MS_MAX = 10 * 60 * 1000;
/** What a handler says of its progress is in the table so long after; users watch it, and each time costs a command. */
export const PROGRESS_INTERVAL_MS = 1000;
/** Pause before a claim, or the end of a task, is tried again. */
const RETRY_MS = 1000;
/** Tries to tell the table how a task ended; afterwards the claim expires and the task is done again. */
const END_TRY_COUNT = 30;

const FINAL_CODES: ReadonlySet<StatusCode> = new Set<StatusCode>([
  ...(["invalid_argument", "not_found", "already_exists", "permission_denied"] as const),
  ...(["failed_precondition", "out_of_range", "unimplemented"] as const),
]);

/** Whether another attempt after this error is of no use. */
export function isFinal(error: DriveError): boolean {
  return FINAL_CODES.has(error.spec.code);
}

/** How a delivery ended. */
export type WorkOutcome = "done" | "failed" | "retried" | "lost" | "released" | "skipped";

/** What a TaskWorker needs. */
export interface TaskWorkerOptions {
  readonly clock: Clock;
  readonly table: TaskTable;
  readonly handlers: ReadonlyMap<TaskKind, TaskHandler>;
  readonly leaseMs?: number | undefined;
  readonly slotCount?: number | undefined;
  /** Told how each delivery ended, and how long the handler ran. */
  readonly onEnded?: ((kind: TaskKind, outcome: WorkOutcome, durationMs: number) => void) | undefined;
  /** Told of each attempt that failed. */
  readonly onFailure?: ((task: Task, error: unknown) => void) | undefined;
}

/** A worker. stop() ends it for good. */
export class TaskWorker {
  readonly #options: TaskWorkerOptions;
  readonly #leaseMs: number;
  readonly #slots = new Map<TaskKind, Semaphore>();
  readonly #inHand = new Map<number, Promise<void>>();
  /** What is claimed here, in the order of claims. */
  readonly #runs = new Set<TaskRun>();
  readonly #stopping = sharedAbortController();

  constructor(options: TaskWorkerOptions) {
    this.#options = options;
    this.#leaseMs = options.leaseMs ?? CLAIM_LEASE_MS;
    for (const kind of options.handlers.keys()) {
      this.#slots.set(kind, new Semaphore(options.slotCount ?? SLOT_COUNT));
    }
  }

  /** Kinds that it works on. */
  get kinds(): readonly TaskKind[] {
    return [...this.#options.handlers.keys()];
  }

  /** Whether a task is in hand here. */
  isBusyWith(taskId: number): boolean {
    return this.#inHand.has(taskId);
  }

  /** Tasks that it works on, at most `countMax` of those that were begun last. */
  running(countMax: number): readonly ReportedTask[] {
    return [...this.#runs].slice(Math.max(0, this.#runs.size - countMax)).map((run) => run.report());
  }

  /** Takes a delivery of a kind that has a handler; settles it when its task has ended here. */
  take(kind: TaskKind, delivery: Delivery): void {
    const { taskId } = delivery;
    if (this.#inHand.has(taskId)) {
      delivery.settle("done");
      return;
    }
    const startMs = this.#options.clock.monotonicMs();
    const work = this.#handle(kind, delivery).then((outcome) => {
      this.#inHand.delete(taskId);
      this.#options.onEnded?.(kind, outcome, this.#options.clock.monotonicMs() - startMs);
    });
    this.#inHand.set(taskId, work);
  }

  /** Gives back what is in hand; resolves when it is. */
  async stop(): Promise<void> {
    this.#stopping.abort(new DriveError("NODE_STOPPING", "The node is stopping."));
    await Promise.all(this.#inHand.values());
  }

  async #handle(kind: TaskKind, delivery: Delivery): Promise<WorkOutcome> {
    const { table, handlers, clock } = this.#options;
    const { signal } = this.#stopping;
    const slots = this.#slots.get(kind);
    const handler = handlers.get(kind);
    const known = table.find(delivery.taskId);
    // Saves a command; where this node is behind, the claim decides.
    if (slots === undefined || handler === undefined || (known !== undefined && known.state !== "waiting")) {
      delivery.settle("done");
      return "skipped";
    }
    let hold: Timer | undefined;
    try {
      await slots.acquire(1, signal);
      try {
        const task = await table.claim(delivery.taskId, this.#leaseMs, signal);
        hold = clock.setTimer(HOLD_MS_MAX, () => delivery.settle("done"));
        const outcome = await this.#run(task, handler);
        delivery.settle(outcome === "failed" ? "dead" : "done");
        return outcome;
      } finally {
        slots.release(1);
      }
    } catch (error) {
      if (!(error instanceof DriveError)) throw error;
      if (hasReason(error, "TASK_NOT_FOUND", "TASK_STATE_CONFLICT")) {
        delivery.settle("done");
        return "skipped";
      }
      // No leader for now: the message waits here, so that it does not go round until it counts as dead.
      await sleep(clock, RETRY_MS, signal).catch(() => undefined);
      delivery.settle("again");
      return "skipped";
    } finally {
      hold?.cancel();
    }
  }

  async #run(task: Task, handler: TaskHandler): Promise<WorkOutcome> {
    const { table, onFailure } = this.#options;
    const run = new TaskRun(task, { ...this.#options, leaseMs: this.#leaseMs }, this.#stopping.signal);
    this.#runs.add(run);
    try {
      const result = await handler.run(task, run);
      await run.stop();
      await run.tellTotal();
      return await this.#end(run, () => table.finish(run.hold, result, run.signal), "done");
    } catch (error) {
      await run.stop();
      if (hasReason(run.signal.reason, "TASK_CLAIM_LOST")) return "lost";
      if (this.#stopping.signal.aborted) return this.#giveBack(run.hold);
      onFailure?.(task, error);
      const failure = asDriveError(error);
      const seen: { task?: Task } = {};
      const tell = async (): Promise<void> => {
        seen.task = await table.fail(run.hold, failure, isFinal(failure), run.signal);
      };
      const outcome = await this.#end(run, tell, "retried");
      return outcome === "retried" && seen.task?.state === "failed" ? "failed" : outcome;
    } finally {
      this.#runs.delete(run);
    }
  }

  /** Tells the table how a task ended until it has heard it. */
  async #end(run: TaskRun, tell: () => Promise<unknown>, outcome: WorkOutcome): Promise<WorkOutcome> {
    const { clock } = this.#options;
    for (let tryCount = 1; ; tryCount += 1) {
      if (hasReason(run.signal.reason, "TASK_CLAIM_LOST")) return "lost";
      try {
        await tell();
        return outcome;
      } catch (error) {
        if (!(error instanceof DriveError)) throw error;
        if (hasReason(error, "TASK_CLAIM_LOST", "TASK_NOT_FOUND")) return "lost";
        if (this.#stopping.signal.aborted) return this.#giveBack(run.hold);
        if (isFinal(error)) {
          // What the handler returned breaks a rule of the table: a repeat would return it again.
          tell = () => this.#options.table.fail(run.hold, error, true, run.signal);
        }
        if (tryCount >= END_TRY_COUNT) return "lost";
        await sleep(clock, RETRY_MS, this.#stopping.signal).catch(() => undefined);
      }
    }
  }

  async #giveBack(hold: TaskHold): Promise<WorkOutcome> {
    try {
      await this.#options.table.release(hold);
      return "released";
    } catch (error) {
      // Its claim expires by itself.
      if (error instanceof DriveError) return "lost";
      throw error;
    }
  }
}

interface TaskRunOptions {
  readonly clock: Clock;
  readonly table: TaskTable;
  readonly leaseMs: number;
}

/** One claim at work: its renewals, one at a time. */
class TaskRun implements TaskWork {
  readonly hold: TaskHold;
  readonly #kind: TaskKind;
  readonly #sinceTimeMs: number;
  readonly #options: TaskRunOptions;
  readonly #controller = sharedAbortController();
  readonly #onStop: () => void;
  readonly #stopping: AbortSignal;
  #timer: Timer | undefined;
  /** Whether the timer runs for what the handler said of its progress. */
  #isTelling = false;
  #last: Promise<unknown> = Promise.resolve();
  #doneCount = 0;
  #totalCount = 0;
  /** What the table has of it from this claim. */
  #toldTotalCount = 0;
  #isOver = false;

  constructor(task: Task, options: TaskRunOptions, stopping: AbortSignal) {
    this.hold = { taskId: task.taskId, fence: task.fence };
    this.#kind = task.kind;
    this.#sinceTimeMs = options.clock.wallMs();
    this.#options = options;
    this.#stopping = stopping;
    this.#onStop = () => this.#controller.abort(stopping.reason);
    stopping.addEventListener("abort", this.#onStop, { once: true });
    if (stopping.aborted) this.#onStop();
    this.#schedule();
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** How it stands at this moment. */
  report(): ReportedTask {
    return {
      ...{ ...this.hold, kind: this.#kind, sinceTimeMs: this.#sinceTimeMs },
      progress: { doneCount: this.#doneCount, totalCount: this.#totalCount },
    };
  }

  progress(doneCount: number, totalCount: number): void {
    if (doneCount === this.#doneCount && totalCount === this.#totalCount) return;
    this.#doneCount = doneCount;
    this.#totalCount = totalCount;
    // While a renewal is under way there is no timer: what it missed goes with the next one.
    if (this.#isTelling || this.#timer === undefined) return;
    this.#timer.cancel();
    this.#schedule(PROGRESS_INTERVAL_MS);
    this.#isTelling = true;
  }

  record(findings: TaskFindings): Promise<void> {
    const renewed = this.#last.then(() => this.#renew(findings));
    this.#last = renewed.catch(() => undefined);
    return renewed;
  }

  /** Ends the renewals; resolves when none is under way. */
  async stop(): Promise<void> {
    this.#isOver = true;
    this.#timer?.cancel();
    this.#stopping.removeEventListener("abort", this.#onStop);
    await this.#last;
  }

  /** Tells the table how much there was to do, where it has not heard: what is done soon would stand there as 0 of 0. */
  async tellTotal(): Promise<void> {
    if (this.#totalCount === this.#toldTotalCount) return;
    try {
      await this.record(NO_FINDINGS);
    } catch (error) {
      // For people alone: that the task is done is told all the same, or fails for the same reason.
      if (!(error instanceof DriveError)) throw error;
    }
  }

  #schedule(inMs = Infinity): void {
    if (this.#isOver) return;
    const { clock, leaseMs } = this.#options;
    this.#timer = clock.setTimer(Math.min(inMs, Math.ceil(leaseMs / 3)), () => {
      this.#timer = undefined;
      this.#isTelling = false;
      const told = [this.#doneCount, this.#totalCount];
      // A renewal that fails for want of a leader is tried again with the next; the claim has two more thirds to go.
      const again = (): void => {
        const isNew = told[0] !== this.#doneCount || told[1] !== this.#totalCount;
        this.#schedule(isNew ? PROGRESS_INTERVAL_MS : undefined);
        this.#isTelling = isNew;
      };
      this.record(NO_FINDINGS).then(again, again);
    });
  }

  async #renew(findings: TaskFindings): Promise<void> {
    const { table, leaseMs } = this.#options;
    if (this.signal.aborted) throw canceledError(this.signal);
    try {
      const [doneCount, totalCount] = [this.#doneCount, this.#totalCount];
      await table.renew(this.hold, { leaseMs, doneCount, totalCount, findings }, this.signal);
      this.#toldTotalCount = totalCount;
    } catch (error) {
      if (hasReason(error, "TASK_CLAIM_LOST", "TASK_NOT_FOUND")) {
        this.#controller.abort(new DriveError("TASK_CLAIM_LOST", error.message, error.metadata, error));
      }
      throw error;
    }
  }
}

/** A handler that breaks is one task that fails, not a node that ends: the next node would take it and end too. */
function asDriveError(error: unknown): DriveError {
  if (error instanceof DriveError) return error;
  const message = error instanceof Error ? error.message : String(error);
  return new DriveError("INTERNAL", message, {}, error);
}
