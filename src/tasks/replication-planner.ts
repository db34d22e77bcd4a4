/**
 * Makes tasks of copies that are to be made: of what repair hands over, and of moves, which it looks for itself.
 *
 *   repair's list (replication/repair.ts), fewest copies first ----+
 *   extents with three good copies, one at a member that is -------+--> runs of extents --> tasks, a bounded number of them open
 *   drained, or that holds much more than the others
 *
 * Only the leader plans. Which extents have a task is read from the table and from nowhere else, so whoever leads next knows it too;
 * a run that is planned twice all the same does no harm, its second task finds nothing to do. Extents of a task that failed or was
 * cancelled are left alone for a while, unless repair wants them: then they go without a task.
 */
import type { MetadataClient } from "../cluster/metadata-client.ts";
import { PacedWork } from "../cluster/paced-loop.ts";
import type { ExtentKey } from "../drive/content.ts";
import type { DriveError } from "../drive/errors.ts";
import { hasReason } from "../drive/errors.ts";
import { TASK_RETENTION_MS } from "../drive/limits.ts";
import type { Task, TaskState } from "../drive/task.ts";
import { listTasks } from "../metadata/task-view.ts";
import { clusterTime, listExtents } from "../metadata/view.ts";
import { movedCopy, moveSourceOf, moveSources, type Assigner } from "../replication/assigning.ts";
import type { LackingExtent, RepairTasks } from "../replication/repair.ts";
import type { Clock } from "../std/clock.ts";
import {
  encodeReplicationRun,
  parseReplicationRun,
  REPLICATION_RUN_BYTES_MAX,
  REPLICATION_RUN_COUNT_MAX,
  type ReplicationPurpose,
} from "./replication-run.ts";

/** Pause between looks for moves. */
export const PLAN_MOVES_IDLE_MS = 2000;
/** Pause between pages of the tree while there are members that give copies away. */
export const PLAN_MOVES_BUSY_MS = 50;
/** Extents looked at in one go. */
export const PLAN_MOVES_PAGE_COUNT = 500;
/** Pause after a pass over the tree in which there was nothing to move. */
export const PLAN_MOVES_REST_MS = 30_000;
/** Tasks of one purpose that are open at once: enough for all nodes, few enough for what is more urgent to come soon. */
export const OPEN_COUNT_MAX: Readonly<Record<ReplicationPurpose, number>> = {
  repair: 16,
  drain: 16,
  // Who holds how much is known only after the copies were made.
  balance: 2,
};
/** A task that waits for so long after it was due is worked on by nobody: repair does without it. */
export const WAITING_MS_MAX = 10_000;
/** For so long, in cluster time, what a task failed at, or was cancelled for, is not made a task again. */
export const REPLAN_AFTER_MS = 5 * 60 * 1000;
/** Tasks that ended badly looked at, newest first. */
const BAD_END_COUNT = 64;
/** Tasks that are open looked at: more than are made, because users may make some. */
const OPEN_LOOK_COUNT = 128;

/** What a ReplicationPlanner needs. */
export interface ReplicationPlannerOptions extends Assigner {
  readonly clock: Clock;
  readonly metadata: MetadataClient;
  readonly onError?: ((error: DriveError) => void) | undefined;
}

interface KnownTask {
  readonly task: Task;
  readonly purpose: ReplicationPurpose | undefined;
  readonly extents: ReadonlySet<string>;
}

interface OpenRun {
  readonly purpose: ReplicationPurpose;
  readonly fromMemberId: number;
  readonly extents: ExtentKey[];
  bytes: number;
}

const nameOf = ({ contentId, extentIndex }: ExtentKey): string => `${contentId}/${extentIndex}`;

/** The planner. start() on every node; it looks for moves where the node leads. */
export class ReplicationPlanner extends PacedWork implements RepairTasks {
  readonly #options: ReplicationPlannerOptions;
  /** What tasks are about, by id: parameters never change. */
  #parsed = new Map<number, Pick<KnownTask, "purpose" | "extents">>();
  #known: readonly KnownTask[] = [];
  #knownIndex = -1;
  #after: ExtentKey | undefined;
  /** Runs that are not full yet, by source. */
  #gathered = new Map<string, OpenRun>();
  #restsUntilMs = 0;
  #restsFor = "";

  constructor(options: ReplicationPlannerOptions) {
    super({
      clock: options.clock,
      idleMs: PLAN_MOVES_IDLE_MS,
      busyMs: PLAN_MOVES_BUSY_MS,
      onError: options.onError,
    });
    this.#options = options;
  }

  covers(key: ExtentKey): boolean {
    this.#look();
    const name = nameOf(key);
    const timeMs = clusterTime(this.#options.metadata.port.reader());
    return this.#known.some(({ task, extents }) => {
      if (!extents.has(name)) return false;
      if (task.state === "running") return task.dueTimeMs >= timeMs;
      return task.state === "waiting" && timeMs - task.dueTimeMs < WAITING_MS_MAX;
    });
  }

  async plan(extents: readonly LackingExtent[], signal: AbortSignal): Promise<ReadonlySet<LackingExtent>> {
    this.#look();
    const planned = new Set<LackingExtent>();
    let run = newRun("repair", 0);
    let inRun: LackingExtent[] = [];
    const flush = async (): Promise<boolean> => {
      if (inRun.length === 0 || !(await this.#create(run, signal))) return false;
      for (const lacking of inRun) planned.add(lacking);
      run = newRun("repair", 0);
      inRun = [];
      return true;
    };
    for (const lacking of extents) {
      if (this.#isTaken(lacking.key)) continue;
      add(run, lacking.key, lacking.extent.sizeBytes);
      inRun.push(lacking);
      if (isFull(run) && !(await flush())) return planned;
    }
    await flush();
    return planned;
  }

  /** Reads the table, when it may have changed. */
  #look(): void {
    const { port } = this.#options.metadata;
    if (port.appliedIndex() === this.#knownIndex) return;
    this.#knownIndex = port.appliedIndex();
    const reader = port.reader();
    const of = (state: TaskState, countMax: number): readonly Task[] =>
      listTasks(reader, { kind: "replication", state }, undefined, countMax);
    const open = (["running", "waiting"] as const).flatMap((state) => of(state, OPEN_LOOK_COUNT));
    const timeMs = clusterTime(reader);
    const ended = (["failed", "cancelled"] as const)
      .flatMap((state) => of(state, BAD_END_COUNT))
      // What has ended is kept for a fixed time from then on.
      .filter(({ dueTimeMs }) => timeMs - (dueTimeMs - TASK_RETENTION_MS) < REPLAN_AFTER_MS);
    const parsed = new Map<number, Pick<KnownTask, "purpose" | "extents">>();
    this.#known = [...open, ...ended].map((task) => {
      const about = this.#parsed.get(task.taskId) ?? parse(task);
      parsed.set(task.taskId, about);
      return { task, ...about };
    });
    this.#parsed = parsed;
  }

  /** Whether a task is about the extent, or was of late. */
  #isTaken(key: ExtentKey): boolean {
    const name = nameOf(key);
    return this.#known.some(({ extents }) => extents.has(name));
  }

  #hasRoom(purpose: ReplicationPurpose): boolean {
    const open = this.#known.filter(
      ({ task, purpose: other }) =>
        other === purpose && (task.state === "running" || task.state === "waiting"),
    );
    return open.length < OPEN_COUNT_MAX[purpose];
  }

  /** Makes a task of a run; false when no more may be open. */
  async #create(run: OpenRun, signal: AbortSignal): Promise<boolean> {
    this.#look();
    if (!this.#hasRoom(run.purpose)) return false;
    const parameters = encodeReplicationRun(run);
    const body = {
      kind: "create-task",
      taskKind: "replication",
      key: "",
      parameters,
      plan: undefined,
    } as const;
    try {
      const { task } = await this.#options.metadata.apply(body, "task", { signal });
      // The own view may be behind the answer.
      const about = parse(task);
      this.#parsed.set(task.taskId, about);
      this.#known = [...this.#known, { task, ...about }];
      return true;
    } catch (error) {
      if (hasReason(error, "OVERLOADED")) return false;
      throw error;
    }
  }

  protected async round(signal: AbortSignal): Promise<"busy" | "idle"> {
    const { metadata, detector, clock } = this.#options;
    const { port } = metadata;
    const sources = moveSources(port.reader(), detector);
    const leads = port.leaderId() === port.memberId;
    if (!leads || (sources.drained.size === 0 && sources.heavy.size === 0)) {
      this.#beginPass();
      this.#restsFor = "";
      return "idle";
    }
    const sourceIds = [...sources.drained, 0, ...sources.heavy].join();
    if (this.#restsFor === sourceIds && clock.monotonicMs() < this.#restsUntilMs) return "idle";
    this.#restsFor = "";
    this.#look();
    if (!(await this.#flush(isFull, signal))) return "idle";
    const page = listExtents(port.reader(), this.#after, PLAN_MOVES_PAGE_COUNT);
    for (const { contentId, extent } of page) {
      const key = { contentId, extentIndex: extent.extentIndex };
      this.#after = key;
      const fromMemberId = moveSourceOf(port.reader(), extent, sources, detector);
      if (fromMemberId === undefined || this.#isTaken(key)) continue;
      if (movedCopy(key, extent, fromMemberId, sources, this.#options.placement) === undefined) continue;
      this.#gather(
        sources.drained.has(fromMemberId) ? "drain" : "balance",
        fromMemberId,
        key,
        extent.sizeBytes,
      );
    }
    if (page.length === PLAN_MOVES_PAGE_COUNT) return "busy";
    const wasFound = this.#gathered.size > 0;
    // What is left over waits for room, and the tree is not looked at meanwhile.
    if (!(await this.#flush(() => true, signal))) return "idle";
    this.#beginPass();
    if (!wasFound) {
      this.#restsFor = sourceIds;
      this.#restsUntilMs = clock.monotonicMs() + PLAN_MOVES_REST_MS;
    }
    return "idle";
  }

  #beginPass(): void {
    this.#after = undefined;
    this.#gathered.clear();
  }

  #gather(purpose: ReplicationPurpose, fromMemberId: number, key: ExtentKey, sizeBytes: number): void {
    const name = `${purpose} ${fromMemberId}`;
    let run = this.#gathered.get(name);
    if (run === undefined || isFull(run)) {
      // A full one waits beside it until there is room.
      if (run !== undefined) this.#gathered.set(`${name} ${this.#gathered.size}`, run);
      run = newRun(purpose, fromMemberId);
      this.#gathered.set(name, run);
    }
    add(run, key, sizeBytes);
  }

  /** Makes tasks of gathered runs; false while one that is `due` finds no room. */
  async #flush(isDue: (run: OpenRun) => boolean, signal: AbortSignal): Promise<boolean> {
    let hasRoom = true;
    for (const [name, run] of [...this.#gathered]) {
      if (!isDue(run)) continue;
      if (await this.#create(run, signal)) this.#gathered.delete(name);
      else hasRoom = false;
    }
    return hasRoom;
  }
}

function newRun(purpose: ReplicationPurpose, fromMemberId: number): OpenRun {
  return { purpose, fromMemberId, extents: [], bytes: 0 };
}

function add(run: OpenRun, { contentId, extentIndex }: ExtentKey, sizeBytes: number): void {
  run.extents.push({ contentId, extentIndex });
  run.bytes += sizeBytes;
}

function isFull({ extents, bytes }: OpenRun): boolean {
  return extents.length >= REPLICATION_RUN_COUNT_MAX || bytes >= REPLICATION_RUN_BYTES_MAX;
}

/** What a task is about; nothing when somebody made it with parameters that mean nothing. */
function parse({ parameters }: Task): Pick<KnownTask, "purpose" | "extents"> {
  try {
    const { purpose, extents } = parseReplicationRun(parameters);
    return { purpose, extents: new Set(extents.map(nameOf)) };
  } catch (error) {
    if (!hasReason(error, "ARGUMENT_INVALID")) throw error;
    return { purpose: undefined, extents: new Set() };
  }
}
