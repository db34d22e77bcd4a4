/**
 * The worker of a node: takes what queues deliver, claims it, runs the handler, renews the claim meanwhile and ends the task.
 *
 *   delivery -> does the table let it be claimed? -> a free slot -> claim -> handler (renewed every third of the lease)
 *            -> finish | fail | give back -> the message is settled
 *
 * The message is settled last, or after HOLD_MS_MAX: a broker closes channels that hold messages for too long, and once a task is
 * claimed the table knows all that the message could say. When this node dies its claim expires. Both queues of a node may deliver
 * the same task; what is in hand is not taken twice.
 */
import { canceledError, sharedAbortController } from "../cluster/deadline.ts";
import { DriveError, hasReason, type StatusCode } from "../drive/errors.ts";
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
    try {
      const result = await handler.run(task, run);
      await run.stop();
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
  readonly #options: TaskRunOptions;
  readonly #controller = sharedAbortController();
  readonly #onStop: () => void;
  readonly #stopping: AbortSignal;
  #timer: Timer | undefined;
  #last: Promise<unknown> = Promise.resolve();
  #doneCount = 0;
  #totalCount = 0;
  #isOver = false;

  constructor(task: Task, options: TaskRunOptions, stopping: AbortSignal) {
    this.hold = { taskId: task.taskId, fence: task.fence };
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

  progress(doneCount: number, totalCount: number): void {
    this.#doneCount = doneCount;
    this.#totalCount = totalCount;
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

  #schedule(): void {
    if (this.#isOver) return;
    const { clock, leaseMs } = this.#options;
    this.#timer = clock.setTimer(Math.ceil(leaseMs / 3), () => {
      // A renewal that fails for want of a leader is tried again with the next; the claim has two more thirds to go.
      this.record(NO_FINDINGS).then(
        () => this.#schedule(),
        () => this.#schedule(),
      );
    });
  }

  async #renew(findings: TaskFindings): Promise<void> {
    const { table, leaseMs } = this.#options;
    if (this.signal.aborted) throw canceledError(this.signal);
    try {
      const [doneCount, totalCount] = [this.#doneCount, this.#totalCount];
      await table.renew(this.hold, { leaseMs, doneCount, totalCount, findings }, this.signal);
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
