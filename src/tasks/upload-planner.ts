/**
 * Makes tasks of what users wrote: the leader follows the change feed, and a run of it with its files becomes one task, so that a
 * small file costs a thousandth of a command and none of its own.
 *
 * The checkpoint is in the table and moves in the command that makes the task, so that each run becomes a task once, whoever leads.
 * Runs without files move it only now and then. When more is waiting than the table takes and the feed forgets what was not planned,
 * that is passed over and said: scrub and the audits check those copies all the same.
 */
import type { MetadataClient } from "../cluster/metadata-client.ts";
import { PacedWork } from "../cluster/paced-loop.ts";
import type { Change } from "../drive/change.ts";
import { hasReason, type DriveError } from "../drive/errors.ts";
import { feedAfter, type FeedSlice } from "../metadata/feed.ts";
import type { PlannedRun } from "../metadata/task-records.ts";
import { plannedIndex } from "../metadata/task-view.ts";
import type { Clock } from "../std/clock.ts";
import { encodeUploadRun, UPLOAD_RUN_COUNT_MAX } from "./upload-run.ts";

/** How often the feed is looked at: files written meanwhile share a task. */
export const PLAN_INTERVAL_MS = 5000;
/** Pause while a whole run is there already. */
const PLAN_BUSY_MS = 100;
/** A checkpoint that is so many commands behind is moved also when there is nothing to do. */
const IDLE_INDEX_COUNT = 50_000;

/** What an UploadPlanner needs. */
export interface UploadPlannerOptions {
  readonly clock: Clock;
  readonly metadata: MetadataClient;
  /** Told of a part of the feed that was trimmed before it was planned. */
  readonly onPassedOver?: ((run: PlannedRun) => void) | undefined;
  readonly onError?: ((error: DriveError) => void) | undefined;
}

/** The planner. start() on every node; it does nothing where the node does not lead. */
export class UploadPlanner extends PacedWork {
  readonly #options: UploadPlannerOptions;

  constructor(options: UploadPlannerOptions) {
    super({
      clock: options.clock,
      idleMs: PLAN_INTERVAL_MS,
      busyMs: PLAN_BUSY_MS,
      onError: options.onError,
    });
    this.#options = options;
  }

  protected async round(signal: AbortSignal): Promise<"busy" | "idle"> {
    const { metadata, onPassedOver } = this.#options;
    const { port } = metadata;
    if (port.leaderId() !== port.memberId) return "idle";
    const afterIndex = plannedIndex(port.reader());
    let slice: FeedSlice;
    try {
      slice = feedAfter(port.reader(), afterIndex, port.appliedIndex(), UPLOAD_RUN_COUNT_MAX / 2);
    } catch (error) {
      if (!hasReason(error, "RANGE_NOT_SATISFIABLE")) throw error;
      const run = { afterIndex, throughIndex: Number(error.metadata["oldest_index"]) };
      await this.#plan(run, [], signal);
      onPassedOver?.(run);
      return "busy";
    }
    const { changes, throughIndex, more } = slice;
    const entryIds = [...new Set(changes.filter(isWritten).map(({ entry }) => entry.entryId))];
    if (entryIds.length === 0 && throughIndex - afterIndex < IDLE_INDEX_COUNT) {
      // More changes, none of them of a file: they are many enough to move on.
      if (!more) return "idle";
    }
    const run = { afterIndex, throughIndex };
    for (let at = 0; at < Math.max(1, entryIds.length); at += UPLOAD_RUN_COUNT_MAX) {
      // One slice holds at most one command more than asked for, which is a copied folder's thousand names.
      const part = entryIds.slice(at, at + UPLOAD_RUN_COUNT_MAX);
      await this.#plan(at === 0 ? run : { afterIndex: throughIndex, throughIndex }, part, signal);
    }
    return more ? "busy" : "idle";
  }

  async #plan(plan: PlannedRun, entryIds: readonly number[], signal: AbortSignal): Promise<void> {
    const parameters =
      entryIds.length === 0
        ? new Uint8Array(0)
        : encodeUploadRun({ entryIds: [...entryIds].sort((a, b) => a - b) });
    const body = { kind: "create-task", taskKind: "upload", key: "", parameters, plan } as const;
    // A repeat finds the checkpoint elsewhere and is refused.
    await this.#options.metadata.applyIdempotent(body, { signal });
  }
}

/** Whether a file got bytes or attributes. */
function isWritten({ kind, entry }: Change): boolean {
  return entry.kind === "file" && (kind === "created" || kind === "updated");
}
