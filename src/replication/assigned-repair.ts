/**
 * Repair at a node without the tree: makes the copies that are assigned to it, fewest copies first. Whom an extent is assigned to,
 * and who is given up, the leader decides (repair.ts).
 */
import { PacedWork } from "../cluster/paced-loop.ts";
import type { DriveError } from "../drive/errors.ts";
import type { UnderReplicated } from "../metadata/view.ts";
import type { Clock } from "../std/clock.ts";
import type { Assignments } from "./assignments.ts";
import type { CopyMaker } from "./copy-maker.ts";
import { REPAIR_BUSY_MS, REPAIR_IDLE_MS } from "./repair.ts";

/** What an AssignedRepair needs. */
export interface AssignedRepairOptions {
  readonly clock: Clock;
  readonly assignments: Assignments;
  readonly copies: CopyMaker;
  readonly onError?: ((error: DriveError) => void) | undefined;
}

/** The repair loop of a node without the tree. */
export class AssignedRepair extends PacedWork {
  readonly #options: AssignedRepairOptions;
  #after: UnderReplicated | undefined;

  constructor(options: AssignedRepairOptions) {
    super({
      clock: options.clock,
      idleMs: REPAIR_IDLE_MS,
      busyMs: REPAIR_BUSY_MS,
      onError: options.onError,
    });
    this.#options = options;
  }

  protected async round(signal: AbortSignal): Promise<"busy" | "idle"> {
    const { assignments, copies } = this.#options;
    const { extents, next } = await assignments.wanted(this.#after, signal);
    this.#after = next;
    const wanted = extents
      .map(({ contentId, extent: { extentIndex, sizeBytes } }) => ({
        key: { contentId, extentIndex },
        sizeBytes,
      }))
      .filter(({ key }) => !copies.failedLately(key));
    const made = await copies.makeAll(wanted, signal);
    return made || next !== undefined ? "busy" : "idle";
  }
}
