/**
 * Has copies made: names a member for each copy that a run of extents lacks, or that a member gives away, and watches until they are
 * there.
 *
 *   look at the tree -> name members, many with one command under the claim -> they copy and verify -> the tree has their seals -> ...
 *
 * The copies themselves are made by the members that are to hold them (replication/copy-maker.ts): what they were once asked for
 * stands in the tree and is made whatever becomes of the task. So a task that is done again finds what was done and goes on; a worker
 * that lost its claim names nobody; and a member that goes down in the middle is replaced by another. Copies under way are bounded by
 * number and bytes, and others follow as they end.
 */
import type { MetadataClient } from "../cluster/metadata-client.ts";
import { throwIfCanceled } from "../cluster/deadline.ts";
import type { Extent, ExtentKey } from "../drive/content.ts";
import { DriveError, hasReason } from "../drive/errors.ts";
import { REPLICA_COUNT } from "../drive/limits.ts";
import type { Task } from "../drive/task.ts";
import type { Assignment } from "../metadata/task-records.ts";
import { getExtent } from "../metadata/view.ts";
import {
  isInReach,
  missingCopy,
  movedCopy,
  moveSources,
  type Assigner,
  type MoveSources,
} from "../replication/assigning.ts";
import { utf8 } from "../std/bytes.ts";
import { sleep, type Clock } from "../std/clock.ts";
import { parseReplicationRun, type ReplicationReport, type ReplicationRun } from "./replication-run.ts";
import type { TaskHandler, TaskWork } from "./task-handler.ts";

/** Copies of one task that are under way at once, and their bytes; one extent alone may have more. */
export const UNDER_WAY_COUNT_MAX = 256;
export const UNDER_WAY_BYTES_MAX = 1024 ** 3;
/** How often the tree is looked at. */
export const WATCH_INTERVAL_MS = 200;
/** An attempt ends when nothing has moved for so long. */
export const STALL_MS = 5 * 60 * 1000;

/** What a ReplicationHandler needs. */
export interface ReplicationHandlerOptions extends Assigner {
  readonly clock: Clock;
  readonly metadata: MetadataClient;
}

/** The handler. */
export class ReplicationHandler implements TaskHandler {
  readonly #options: ReplicationHandlerOptions;

  constructor(options: ReplicationHandlerOptions) {
    this.#options = options;
  }

  async run(task: Task, work: TaskWork): Promise<Uint8Array> {
    const job = new CopyJob(this.#options, work, parseReplicationRun(task.parameters));
    return utf8(JSON.stringify(await job.run()));
  }
}

/** How an extent stands: over, on its way, to be assigned, or nobody can take it now. */
type Standing = "done" | "gone" | "left" | "under-way" | "stuck" | { readonly assign: readonly Assignment[] };

class CopyJob {
  readonly #options: ReplicationHandlerOptions;
  readonly #work: TaskWork;
  readonly #run: ReplicationRun;
  readonly #tally = { doneCount: 0, goneCount: 0, leftCount: 0, assignedCount: 0 };
  /** Not looked at yet, or nobody could take it. */
  #waiting: readonly ExtentKey[];
  #underWay: readonly ExtentKey[] = [];

  constructor(options: ReplicationHandlerOptions, work: TaskWork, run: ReplicationRun) {
    this.#options = options;
    this.#work = work;
    this.#run = run;
    this.#waiting = run.extents;
  }

  async run(): Promise<ReplicationReport> {
    const { clock } = this.#options;
    const { signal } = this.#work;
    let movedAtMs = clock.monotonicMs();
    for (;;) {
      throwIfCanceled(signal);
      const before = this.#endedCount + this.#tally.assignedCount;
      const failure = await this.#step();
      this.#work.progress(this.#endedCount, this.#run.extents.length);
      if (this.#endedCount === this.#run.extents.length) return this.#tally;
      if (this.#endedCount + this.#tally.assignedCount > before) movedAtMs = clock.monotonicMs();
      const isStuck = failure === undefined && this.#underWay.length === 0;
      if (isStuck || clock.monotonicMs() - movedAtMs >= STALL_MS) throw failure ?? this.#stalled();
      await sleep(clock, WATCH_INTERVAL_MS, signal).catch(() => undefined);
    }
  }

  get #endedCount(): number {
    return this.#tally.doneCount + this.#tally.goneCount + this.#tally.leftCount;
  }

  #stalled(): DriveError {
    const count = this.#run.extents.length - this.#endedCount;
    return new DriveError("QUORUM_NOT_REACHED", `No member made copies of ${count} extents.`, {
      extent_count: String(count),
    });
  }

  /** Looks at what is under way and fills up; the failure when no leader answered. */
  async #step(): Promise<DriveError | undefined> {
    const { metadata, detector } = this.#options;
    const { port } = metadata;
    try {
      // What was assigned a moment ago must be seen, or it would be assigned twice.
      await port.linearize({ signal: this.#work.signal });
      const sources = moveSources(port.reader(), detector);
      const assignments: Assignment[] = [];
      const underWay: ExtentKey[] = [];
      const stuck: ExtentKey[] = [];
      let bytes = 0;
      let at = 0;
      const all = [...this.#underWay, ...this.#waiting];
      for (
        ;
        at < all.length && underWay.length < UNDER_WAY_COUNT_MAX && bytes < UNDER_WAY_BYTES_MAX;
        at += 1
      ) {
        const key = all[at] as ExtentKey;
        const extent = getExtent(port.reader(), key);
        const standing = extent === undefined ? "gone" : this.#judge(key, extent, sources);
        if (standing === "stuck") stuck.push(key);
        else if (standing === "done" || standing === "gone" || standing === "left") {
          this.#tally[`${standing}Count`] += 1;
        } else {
          underWay.push(key);
          bytes += extent?.sizeBytes ?? 0;
          if (standing !== "under-way") assignments.push(...standing.assign);
        }
      }
      this.#underWay = underWay;
      this.#waiting = [...all.slice(at), ...stuck];
      await this.#assign(assignments);
      return undefined;
    } catch (error) {
      if (!(error instanceof DriveError) || hasReason(error, "TASK_CLAIM_LOST", "TASK_NOT_FOUND"))
        throw error;
      throwIfCanceled(this.#work.signal);
      return error;
    }
  }

  async #assign(assignments: readonly Assignment[]): Promise<void> {
    if (assignments.length === 0) return;
    const { hold, signal } = this.#work;
    const body = { kind: "assign-replicas", hold, assignments } as const;
    const { value } = await this.#options.metadata.applyIdempotent(body, { signal });
    if (value.kind === "batch") this.#tally.assignedCount += value.itemCount;
  }

  #judge(key: ExtentKey, extent: Extent, sources: MoveSources): Standing {
    return this.#run.purpose === "repair"
      ? this.#judgeRepair(key, extent)
      : this.#judgeMove(key, extent, sources);
  }

  #judgeRepair(key: ExtentKey, extent: Extent): Standing {
    const { metadata, detector } = this.#options;
    const reader = metadata.port.reader();
    if (extent.replicas.filter(({ state }) => state === "verified").length >= REPLICA_COUNT) return "done";
    const assignment = missingCopy(reader, key, extent, this.#options);
    if (assignment !== undefined) return { assign: [assignment] };
    const isAwaited = extent.replicas.some(
      (replica) => replica.state !== "verified" && isInReach(reader, replica, detector),
    );
    return isAwaited ? "under-way" : "stuck";
  }

  #judgeMove(key: ExtentKey, extent: Extent, sources: MoveSources): Standing {
    const { metadata, detector, placement } = this.#options;
    const { fromMemberId } = this.#run;
    const { replicas } = extent;
    if (!replicas.some(({ memberId }) => memberId === fromMemberId)) return "done";
    const isSource = sources.drained.has(fromMemberId) || sources.heavy.has(fromMemberId);
    const isWhole = replicas.filter(({ state }) => state === "verified").length >= REPLICA_COUNT;
    const pending = replicas.find(({ state }) => state === "pending");
    if (pending !== undefined && (!isWhole || isInReach(metadata.port.reader(), pending, detector)))
      return "under-way";
    if (!isSource || !isWhole) return "left";
    const assignment = movedCopy(key, extent, fromMemberId, sources, placement);
    if (assignment === undefined) return "left";
    if (pending === undefined) return { assign: [assignment] };
    // It takes the place of the one that went down first, and then of the source.
    return { assign: [{ ...assignment, replacesMemberId: pending.memberId }, assignment] };
  }
}
