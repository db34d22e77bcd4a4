/**
 * Tells the tree about copies: late seals become replicas, damaged or missing ones are reported as what they are.
 *
 * A copy is reported once in REPORT_AGAIN_AFTER_MS however many reads stumble over it. The tree decides what follows; repair
 * acts on it.
 */
import type { MetadataClient } from "../cluster/metadata-client.ts";
import type { ExtentKey, ReplicaFinding, Seal } from "../drive/content.ts";
import { hasReason } from "../drive/errors.ts";
import { storeOf } from "../metadata/view.ts";
import type { Clock } from "../std/clock.ts";
import type { Chores } from "./chores.ts";

/** A copy that is still bad after this long is reported again: the first report may have been lost. */
export const REPORT_AGAIN_AFTER_MS = 30_000;
/** Copies remembered as reported; beyond, the oldest is forgotten and might be reported twice, which is harmless. */
export const REPORT_COUNT_MAX = 10_000;

/** What an error of a member's store says of its copy. */
export function findingOf(error: unknown): ReplicaFinding {
  if (hasReason(error, "CHUNK_CORRUPT")) return "corrupt";
  return hasReason(error, "CHUNK_NOT_FOUND") ? "lost" : "suspect";
}

/** Reports copies. */
export class ReplicaReports {
  readonly #clock: Clock;
  readonly #metadata: MetadataClient;
  readonly #chores: Chores;
  readonly #reportedAtMs = new Map<string, number>();

  constructor(options: {
    readonly clock: Clock;
    readonly metadata: MetadataClient;
    readonly chores: Chores;
  }) {
    this.#clock = options.clock;
    this.#metadata = options.metadata;
    this.#chores = options.chores;
  }

  /** Reports a copy as damaged or missing, in the background. */
  reportBad(extent: ExtentKey, memberId: number, finding: ReplicaFinding): void {
    const { contentId, extentIndex } = extent;
    const key = `${contentId}/${extentIndex}/${memberId}`;
    const now = this.#clock.monotonicMs();
    const reportedAtMs = this.#reportedAtMs.get(key);
    if (reportedAtMs !== undefined && now - reportedAtMs < REPORT_AGAIN_AFTER_MS) return;
    this.#reportedAtMs.delete(key);
    this.#reportedAtMs.set(key, now);
    if (this.#reportedAtMs.size > REPORT_COUNT_MAX) {
      const [oldest] = this.#reportedAtMs.keys();
      if (oldest !== undefined) this.#reportedAtMs.delete(oldest);
    }
    this.#chores.run(() =>
      this.#metadata.applyIdempotent({ kind: "report-replica", contentId, extentIndex, memberId, finding }),
    );
  }

  /**
   * Whether a member was given up, as far as this node's tree has come: copies that it seals do not count. Below
   * FEATURE_LEVEL_VOID_COPIES the tree records them as verified all the same; from there on this saves a refusal.
   */
  isGivenUp(memberId: number): boolean {
    return storeOf(this.#metadata.port.reader(), memberId).lostTimeMs > 0;
  }

  /** Reports, in the background, recorded copies whose members had been given up by then: their extents lack a copy. */
  checkRecorded(seals: readonly Seal[]): void {
    this.#chores.run(() => this.#reportGivenUp(seals));
  }

  /** Adds the copies of seals that came after the content was committed, in the background. */
  addLate(late: Promise<readonly Seal[]>): void {
    this.#chores.run(async () => {
      // What is left out is a copy less, and repair sees that.
      const seals = (await late).filter(({ memberId }) => !this.isGivenUp(memberId));
      for (const seal of seals) await this.#addUnlessRejected(seal);
      if (seals.length > 0) await this.#reportGivenUp(seals);
    });
  }

  /** A store that was replaced, or given up since this node's tree, keeps no other seal from being told. */
  async #addUnlessRejected(seal: Seal): Promise<void> {
    try {
      await this.#metadata.applyIdempotent({ kind: "add-replica", seal });
    } catch (error) {
      if (!hasReason(error, "SEAL_REJECTED")) throw error;
    }
  }

  async #reportGivenUp(seals: readonly Seal[]): Promise<void> {
    // The leader recorded them: this node's tree may be behind what gave a member up before.
    await this.#metadata.port.linearize();
    for (const { extent, memberId } of seals) {
      if (this.isGivenUp(memberId)) this.reportBad(extent, memberId, "lost");
    }
  }
}
