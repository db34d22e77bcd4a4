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

  /** Those of the seals whose members were given up since: a commit takes them, and the copies do not count. */
  givenUp(seals: readonly Seal[]): readonly Seal[] {
    const reader = this.#metadata.port.reader();
    return seals.filter(({ memberId }) => storeOf(reader, memberId).lostTimeMs > 0);
  }

  /** Adds the copies of seals that came after the content was committed, in the background. */
  addLate(late: Promise<readonly Seal[]>): void {
    this.#chores.run(async () => {
      for (const seal of await late) await this.#metadata.applyIdempotent({ kind: "add-replica", seal });
    });
  }
}
