/**
 * The second audit of copies, independent of scrub, repair and each node's own inventory: the leader goes through the tree and
 * asks the members themselves: do you have this copy, with this root, and when did you last read it?
 *
 *   extents of the tree, page by page --> each member that is said to hold a verified copy --> other answer than "sealed, this
 *   root": report the copy
 *   a copy that was recorded as verified when its member had been given up already: report it, or it would be counted for ever
 *
 * A member that does not answer is not accused: that is the failure detector's business. Asks, reads no bytes, removes nothing.
 */
import type { ExtentState } from "../chunks/chunk-store.ts";
import type { MetadataClient } from "../cluster/metadata-client.ts";
import { PacedWork } from "../cluster/paced-loop.ts";
import type { Extent, ExtentKey, ReplicaFinding } from "../drive/content.ts";
import { DriveError } from "../drive/errors.ts";
import { findExtent } from "../metadata/extents.ts";
import { isRecounting } from "../metadata/stores.ts";
import { counters, getExtent, listExtents } from "../metadata/view.ts";
import { bytesEqual } from "../std/bytes.ts";
import type { Clock } from "../std/clock.ts";
import type { ReplicaPorts } from "./replica-port.ts";

/** A pass over all copies takes about this long. */
export const COPY_AUDIT_PASS_MS = 24 * 60 * 60 * 1000;
/** Extents asked about in one round. */
export const COPY_AUDIT_PAGE_COUNT = 50;
/** Pause between rounds: at least, and at most. */
export const COPY_AUDIT_PAUSE_MS_MIN = 250;
export const COPY_AUDIT_PAUSE_MS_MAX = 60_000;

/** What a CopyAudit needs. */
export interface CopyAuditOptions {
  readonly clock: Clock;
  readonly metadata: MetadataClient;
  readonly ports: ReplicaPorts;
  /** Told of each copy that its member disowned: for the log. */
  readonly onDisowned?: ((extent: ExtentKey, memberId: number, finding: ReplicaFinding) => void) | undefined;
  readonly onError?: ((error: DriveError) => void) | undefined;
}

/** Figures of the audit at this node since it started. */
export interface CopyAuditStats {
  readonly passCount: number;
  readonly askedCount: number;
  readonly disownedCount: number;
  readonly unansweredCount: number;
}

/** The audit loop. start() on every node; it works where the node leads. */
export class CopyAudit extends PacedWork {
  readonly #options: CopyAuditOptions;
  #after: ExtentKey | undefined;
  #nextAtMs = 0;
  #stats: CopyAuditStats = { passCount: 0, askedCount: 0, disownedCount: 0, unansweredCount: 0 };

  constructor(options: CopyAuditOptions) {
    super({
      clock: options.clock,
      idleMs: COPY_AUDIT_PAUSE_MS_MIN * 4,
      busyMs: COPY_AUDIT_PAUSE_MS_MIN,
      onError: options.onError,
    });
    this.#options = options;
  }

  /** Figures since the start. */
  stats(): CopyAuditStats {
    return this.#stats;
  }

  protected async round(signal: AbortSignal): Promise<"busy" | "idle"> {
    const { clock, metadata } = this.#options;
    const { port } = metadata;
    if (port.leaderId() !== port.memberId) {
      this.#after = undefined;
      return "idle";
    }
    if (clock.monotonicMs() < this.#nextAtMs) return "idle";
    const page = listExtents(port.reader(), this.#after, COPY_AUDIT_PAGE_COUNT);
    for (const { contentId, extent } of page) {
      if (signal.aborted) return "idle";
      await this.#ask({ contentId, extentIndex: extent.extentIndex }, extent, signal);
    }
    const last = page.at(-1);
    const isEnd = page.length < COPY_AUDIT_PAGE_COUNT || last === undefined;
    this.#after = isEnd ? undefined : { contentId: last.contentId, extentIndex: last.extent.extentIndex };
    if (isEnd) this.#count({ passCount: 1 });
    this.#nextAtMs = clock.monotonicMs() + (isEnd ? COPY_AUDIT_PAUSE_MS_MAX : this.#pauseMs());
    return "idle";
  }

  async #ask(key: ExtentKey, extent: Extent, signal: AbortSignal): Promise<void> {
    const { metadata, ports, onDisowned } = this.#options;
    for (const { memberId, state } of extent.replicas) {
      if (state === "lost" && this.#isCounted(key, memberId)) {
        const report = { kind: "report-replica", ...key, memberId, finding: "lost" } as const;
        await metadata.applyIdempotent(report, { signal });
      }
      const replica = state === "verified" ? ports.forMember(memberId) : undefined;
      if (replica === undefined) continue;
      this.#count({ askedCount: 1 });
      let answer: ExtentState;
      try {
        answer = await replica.extentState(key);
      } catch (error) {
        if (!(error instanceof DriveError)) throw error;
        this.#count({ unansweredCount: 1 });
        continue;
      }
      const finding = judge(answer, extent);
      // What changed while the question was under way is not held against the member.
      if (finding === undefined || !this.#isStillSaid(key, memberId)) continue;
      this.#count({ disownedCount: 1 });
      onDisowned?.(key, memberId, finding);
      await metadata.applyIdempotent({ kind: "report-replica", ...key, memberId, finding }, { signal });
    }
  }

  /** Whether a copy at a member that was given up is counted as good, and no recount is about to see it. */
  #isCounted({ contentId, extentIndex }: ExtentKey, memberId: number): boolean {
    const reader = this.#options.metadata.port.reader();
    // It may have come back while others of the page were asked about.
    const isVoid = getExtent(reader, { contentId, extentIndex })?.replicas.some(
      (replica) => replica.memberId === memberId && replica.state === "lost",
    );
    if (isRecounting(reader) || isVoid !== true) return false;
    const replicas = findExtent(reader, contentId, extentIndex)?.replicas ?? [];
    return replicas.some((replica) => replica.memberId === memberId && replica.state === "verified");
  }

  #isStillSaid(key: ExtentKey, memberId: number): boolean {
    const replicas = getExtent(this.#options.metadata.port.reader(), key)?.replicas ?? [];
    return replicas.some((replica) => replica.memberId === memberId && replica.state === "verified");
  }

  /** The pause that spreads a pass over COPY_AUDIT_PASS_MS. */
  #pauseMs(): number {
    const { replicas } = counters(this.#options.metadata.port.reader());
    const pauseMs = (COPY_AUDIT_PASS_MS * COPY_AUDIT_PAGE_COUNT) / Math.max(1, replicas.extentCount);
    return Math.min(COPY_AUDIT_PAUSE_MS_MAX, Math.max(COPY_AUDIT_PAUSE_MS_MIN, pauseMs));
  }

  #count(more: Partial<CopyAuditStats>): void {
    const sum = { ...this.#stats };
    for (const [name, amount] of Object.entries(more)) sum[name as keyof CopyAuditStats] += amount;
    this.#stats = sum;
  }
}

/** What a member's answer says of the copy that the tree believes it has; undefined when all is well. */
function judge(answer: ExtentState, extent: Extent): ReplicaFinding | undefined {
  switch (answer.kind) {
    case "sealed":
      return bytesEqual(answer.root, extent.root) && answer.sizeBytes === extent.sizeBytes
        ? undefined
        : "corrupt";
    case "quarantined":
      return "corrupt";
    case "absent":
    case "open":
      return "lost";
  }
}
