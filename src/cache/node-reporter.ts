/**
 * When a node tells of itself: at intervals, and at once when it becomes ready or ceases to be, so that nobody is shown for
 * seconds what is so no more.
 */
import { PacedWork } from "../cluster/paced-loop.ts";
import type { NodeReport } from "../drive/drive-api.ts";
import type { Clock } from "../std/clock.ts";

/** Pause between two reports of a node while it stays as ready as it was. */
export const REPORT_INTERVAL_MS = 5000;
/** How often a node looks whether it is ready. */
export const READINESS_INTERVAL_MS = 250;

/** What NodeReporter needs. */
export interface NodeReporterOptions {
  readonly clock: Clock;
  readonly isReady: () => boolean;
  /** What is told, but for when and whether the node is ready. */
  readonly report: () => Omit<NodeReport, "seenTimeMs" | "isReady">;
  /** Leaves a report for the others. */
  readonly publish: (report: NodeReport) => Promise<unknown>;
}

/** See the file's comment. */
export class NodeReporter extends PacedWork {
  readonly #options: NodeReporterOptions;
  #told: { readonly isReady: boolean; readonly atMs: number } | undefined;

  constructor(options: NodeReporterOptions) {
    super({ clock: options.clock, idleMs: READINESS_INTERVAL_MS, busyMs: READINESS_INTERVAL_MS });
    this.#options = options;
  }

  protected async round(): Promise<"idle"> {
    const { clock, isReady, report, publish } = this.#options;
    const now = { isReady: isReady(), atMs: clock.monotonicMs() };
    const told = this.#told;
    if (told?.isReady === now.isReady && now.atMs - told.atMs < REPORT_INTERVAL_MS) return "idle";
    // One that did not get there is told again after the interval: Redis is away, and asking it more often does not help.
    this.#told = now;
    await publish({ ...report(), seenTimeMs: clock.wallMs(), isReady: now.isReady });
    return "idle";
  }
}
