/**
 * Seals an extent on its targets: asks all in parallel, fills the holes that one has from another, and is content with two
 * equal seals.
 *
 *   ask all --> each: seal | missing chunks --> fill from the others --> ask again | refused, unreachable
 *   two equal seals --> wait for the third at most THIRD_SEAL_WAIT_MS --> answer; a later one goes to `late`
 *
 * A target that was given up is not asked: its copy would not count until its inventory has been compared.
 *
 * A seal is the target's promise that its copy is whole, verified and durable; nothing here weakens it. Seals that disagree
 * are never mixed: the largest group of equal ones counts. Idempotent: sealing a sealed extent answers the same seals.
 */
import type { SealRequest } from "../chunks/chunk-store.ts";
import { throwIfCanceled, unreachableError, withDeadline } from "../cluster/deadline.ts";
import type { FailureDetector } from "../cluster/failure-detector-port.ts";
import type { Seal } from "../drive/content.ts";
import { DriveError, hasReason } from "../drive/errors.ts";
import { CHUNK_SIZE_BYTES, THIRD_SEAL_WAIT_MS } from "../drive/limits.ts";
import { toHex } from "../std/bytes.ts";
import type { Clock } from "../std/clock.ts";
import { deferred } from "../std/deferred.ts";
import { formatRanges, parseRanges } from "../drive/chunk-ranges.ts";
import type { HoleFiller } from "./hole-filler.ts";
import type { ReplicaPorts } from "./replica-port.ts";

/** A target re-reads up to 1 GiB for a seal; a disk of 50 MB/s needs 20 s for that. Longer counts as unreachable. */
export const SEAL_TIMEOUT_MS = 60_000;
/** A target is asked this often when it found chunks missing that could then be filled. */
export const SEAL_ATTEMPT_COUNT_MAX = 3;

/** What a Sealer needs. */
export interface SealerOptions {
  readonly clock: Clock;
  readonly ports: ReplicaPorts;
  readonly detector: FailureDetector;
  readonly filler: HoleFiller;
  /** Whether copies at a member do not count, because it was away for too long. */
  readonly isGivenUp: (memberId: number) => boolean;
  readonly thirdSealWaitMs?: number;
}

/** Seals that agree. */
export interface SealedExtent {
  /** At least as many as were needed; all with the same root, ascending by member. */
  readonly seals: readonly Seal[];
  /** Settles with seals that came after the answer, once every target has answered or failed. Never rejects. */
  readonly late: Promise<readonly Seal[]>;
}

/** Where to seal. */
export interface SealTargets {
  readonly memberIds: readonly number[];
  /** Members that may have what a target lacks, best first. Default: the targets. */
  readonly sources?: readonly number[];
  /** How many equal seals are needed. */
  readonly neededCount: number;
  readonly signal?: AbortSignal | undefined;
}

/** What became of one target. */
type TargetOutcome =
  | { readonly kind: "sealed"; readonly seal: Seal }
  | { readonly kind: "missing"; readonly chunkIndexes: readonly number[] }
  | { readonly kind: "failed"; readonly error: DriveError };

/** Seals extents. */
export class Sealer {
  readonly #options: SealerOptions;

  constructor(options: SealerOptions) {
    this.#options = options;
  }

  /**
   * Seals the extent on its targets.
   * @throws DriveError UPLOAD_INCOMPLETE (metadata `missing`: chunk indexes within the extent that no target has, and
   *   `missing_count`), DIGEST_MISMATCH when all targets sealed and fewer than needed are equal, QUORUM_NOT_REACHED, NO_SPACE, CHUNK_CORRUPT, CANCELED
   */
  async seal(request: SealRequest, targets: SealTargets): Promise<SealedExtent> {
    const outcomes: TargetOutcome[] = [];
    const answered: Seal[] = [];
    const enough = deferred<void>();
    const all = Promise.all(
      targets.memberIds.map(async (memberId) => {
        const outcome = await this.#sealOne(request, memberId, targets);
        outcomes.push(outcome);
        if (outcome.kind !== "sealed") return;
        answered.push(outcome.seal);
        if (largestAgreement(answered).length >= targets.neededCount) enough.resolve();
      }),
    );
    // A programmer error in a target's work ends the wait too.
    all.then(
      () => enough.resolve(),
      (error: unknown) => enough.reject(error as Error),
    );
    await enough.promise;
    if (outcomes.length < targets.memberIds.length) await this.#awaitRest(all);
    throwIfCanceled(targets.signal);
    const enoughSeals = largestAgreement(answered);
    if (enoughSeals.length < targets.neededCount) throw sealError(request, outcomes, targets);
    const given = new Set(enoughSeals);
    const late = all.then(
      () => largestAgreement(answered).filter((seal) => !given.has(seal)),
      () => [],
    );
    return { seals: [...given].sort((a, b) => a.memberId - b.memberId), late };
  }

  /** Waits for the remaining targets, but not for long. */
  async #awaitRest(all: Promise<unknown>): Promise<void> {
    const over = deferred<void>();
    const waitMs = this.#options.thirdSealWaitMs ?? THIRD_SEAL_WAIT_MS;
    const timer = this.#options.clock.setTimer(waitMs, () => over.resolve());
    await Promise.race([all, over.promise]);
    timer.cancel();
  }

  async #sealOne(request: SealRequest, memberId: number, targets: SealTargets): Promise<TargetOutcome> {
    if (this.#options.isGivenUp(memberId)) return { kind: "failed", error: notReached(memberId) };
    try {
      for (let attempt = 1; ; attempt += 1) {
        const answer = await this.#ask(request, memberId, targets.signal);
        if (answer.kind !== "missing") return answer;
        const { chunkIndexes } = answer;
        const { filler } = this.#options;
        const { extent } = request;
        const { signal } = targets;
        const from = targets.sources ?? targets.memberIds;
        const stillMissing = await filler.fill({ extent, to: memberId, from, chunkIndexes, signal });
        if (stillMissing.length > 0) return { kind: "missing", chunkIndexes: stillMissing };
        if (attempt >= SEAL_ATTEMPT_COUNT_MAX) return { kind: "missing", chunkIndexes };
      }
    } catch (error) {
      if (!(error instanceof DriveError)) throw error;
      if (hasReason(error, "PEER_UNREACHABLE")) this.#options.detector.report(memberId, "unreachable");
      return { kind: "failed", error };
    }
  }

  /** The seal, or the chunk indexes that the target lacks. */
  async #ask(
    request: SealRequest,
    memberId: number,
    signal: AbortSignal | undefined,
  ): Promise<TargetOutcome> {
    const port = this.#options.ports.forMember(memberId);
    if (port === undefined || this.#options.detector.state(memberId).health === "down") {
      throw notReached(memberId);
    }
    const onTimeout = () => unreachableError(memberId, "a seal", SEAL_TIMEOUT_MS);
    const { clock } = this.#options;
    try {
      const seal = await withDeadline({ clock, timeoutMs: SEAL_TIMEOUT_MS, signal, onTimeout }, (inner) =>
        port.sealExtent(request, inner),
      );
      return { kind: "sealed", seal };
    } catch (error) {
      if (!hasReason(error, "UPLOAD_INCOMPLETE")) throw error;
      const count = Math.ceil(request.sizeBytes / CHUNK_SIZE_BYTES);
      return { kind: "missing", chunkIndexes: parseRanges(error.metadata["missing"] ?? "", count) };
    }
  }
}

function notReached(memberId: number): DriveError {
  return new DriveError("PEER_UNREACHABLE", `Member ${memberId} cannot be reached.`, {
    member_id: String(memberId),
  });
}

/** The largest group of seals with equal size and root; on a tie the one that was complete first. */
export function largestAgreement<S extends Pick<Seal, "sizeBytes" | "root">>(
  seals: readonly S[],
): readonly S[] {
  const groups = new Map<string, S[]>();
  for (const seal of seals) {
    const key = `${seal.sizeBytes} ${toHex(seal.root)}`;
    const group = groups.get(key);
    if (group === undefined) groups.set(key, [seal]);
    else group.push(seal);
  }
  let largest: readonly S[] = [];
  for (const group of groups.values()) if (group.length > largest.length) largest = group;
  return largest;
}

/** DIGEST_MISMATCH: every target has sealed the extent and too few alike, so its upload can never be completed. */
export function copiesDiffer(extentIndex: number): DriveError {
  return new DriveError(
    "DIGEST_MISMATCH",
    `The copies of extent ${extentIndex} differ: chunks of it were sent with different bytes.`,
    { extent_index: String(extentIndex) },
  );
}

function sealError(
  request: SealRequest,
  outcomes: readonly TargetOutcome[],
  targets: SealTargets,
): DriveError {
  const missing = new Set<number>();
  for (const outcome of outcomes) {
    if (outcome.kind === "missing") for (const index of outcome.chunkIndexes) missing.add(index);
  }
  if (missing.size > 0) {
    const sorted = [...missing].sort((a, b) => a - b);
    return new DriveError(
      "UPLOAD_INCOMPLETE",
      `${missing.size} chunks of extent ${request.extent.extentIndex} are missing.`,
      { missing: formatRanges(sorted), missing_count: String(missing.size) },
    );
  }
  const errors = outcomes.flatMap((outcome) => (outcome.kind === "failed" ? [outcome.error] : []));
  const telling = errors.find((error) => hasReason(error, "NO_SPACE", "CHUNK_CORRUPT", "CANCELED"));
  if (telling !== undefined) return telling;
  const sealedCount = outcomes.length - errors.length;
  if (sealedCount >= targets.neededCount && errors.length === 0) {
    // Seals are final and every target has given its own, so asking again can change nothing.
    return copiesDiffer(request.extent.extentIndex);
  }
  const agreedCount = largestAgreement(
    outcomes.flatMap((outcome) => (outcome.kind === "sealed" ? [outcome.seal] : [])),
  ).length;
  return new DriveError(
    "QUORUM_NOT_REACHED",
    `Only ${agreedCount} of ${targets.neededCount} nodes needed gave equal seals of extent ${request.extent.extentIndex}.`,
    { sealed_count: String(agreedCount), needed_count: String(targets.neededCount) },
    errors[0],
  );
}
