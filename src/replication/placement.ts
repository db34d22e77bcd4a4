/**
 * Which members take new copies and which are asked for bytes: routing/placement.ts fed with the members of the tree, their
 * health and their load.
 *
 * As many targets as copies are wanted when that many members can take them, two when only two can, and one only in a cluster
 * of one. Fewer than a quorum is QUORUM_NOT_REACHED before any byte is sent.
 */
import type { FailureDetector } from "../cluster/failure-detector-port.ts";
import type { NodeDirectory } from "../cluster/node-directory.ts";
import { extentCount, type Replica } from "../drive/content.ts";
import { DriveError } from "../drive/errors.ts";
import { HIGH_WATER_SHARE, REPLICA_COUNT, SEAL_COUNT_MIN } from "../drive/limits.ts";
import type { ExtentTargets } from "../metadata/commands.ts";
import { chooseTargets, rankReaders, type NodeCandidate } from "../routing/placement.ts";

/** Why a copy is made: the extent lacks one, or it has all and one goes to another member. */
export type CopyPurpose = "missing" | "moved";

/** What Placement needs. */
export interface PlacementOptions {
  readonly directory: NodeDirectory;
  readonly detector: FailureDetector;
  /** This node. */
  readonly memberId: number;
  /** Whether a member takes no new copies because it is drained or was given up; none does when absent. */
  readonly isClosed?: ((memberId: number) => boolean) | undefined;
  /**
   * Members that the cluster has as consensus knows it, registered or not yet: so that a cluster of three that is just being
   * formed is not taken for a cluster of one. 1 when absent.
   */
  readonly expectedMemberCount?: (() => number) | undefined;
}

/** Chooses members. */
export class Placement {
  readonly #options: PlacementOptions;
  #choiceCount: number;

  constructor(options: PlacementOptions) {
    this.#options = options;
    // Ties are broken differently at each node and for each extent, so that equal nodes share the work.
    this.#choiceCount = options.memberId % 0x10000;
  }

  /** How many copies an acknowledgement needs: SEAL_COUNT_MIN, or one in a cluster of one. */
  quorum(): number {
    const { directory, expectedMemberCount } = this.#options;
    const memberCount = Math.max(1, directory.members().length, expectedMemberCount?.() ?? 1);
    return Math.min(SEAL_COUNT_MIN, memberCount);
  }

  /**
   * Members for a new extent, best first.
   * @throws DriveError QUORUM_NOT_REACHED, or NO_SPACE when members are up but refuse writes
   */
  choose(candidates: readonly NodeCandidate[] = this.#candidates()): readonly number[] {
    const chosen = this.#chooseMore(candidates, [], []);
    const needed = this.quorum();
    if (chosen.length >= needed) return chosen;
    const counts = { usable_count: String(chosen.length), needed_count: String(needed) };
    const full = candidates.filter((candidate) => candidate.health !== "down" && !candidate.acceptsWrites);
    if (chosen.length + full.length >= needed) {
      throw new DriveError("NO_SPACE", `Only ${chosen.length} of ${needed} nodes needed have space.`, counts);
    }
    throw new DriveError(
      "QUORUM_NOT_REACHED",
      `Only ${chosen.length} of ${needed} nodes needed are up.`,
      counts,
    );
  }

  /** Targets for every extent of a content of known size; of the first when it is unknown. Errors as choose(). */
  chooseExtents(sizeBytes: number | undefined): readonly ExtentTargets[] {
    const count = sizeBytes === undefined ? 1 : extentCount(sizeBytes);
    const candidates = this.#candidates();
    return Array.from({ length: count }, (_, extentIndex) => ({
      extentIndex,
      memberIds: this.choose(candidates),
    }));
  }

  /**
   * Targets after `failed` failed and `kept` did not: spares in their places, or failed ones that are well again when there
   * is no spare. Undefined when there is nobody to add, so that the upload goes on with `kept`.
   */
  replace(kept: readonly number[], failed: readonly number[]): readonly number[] | undefined {
    const candidates = this.#candidates();
    const withSpares = [...kept, ...this.#chooseMore(candidates, kept, failed)];
    const well = candidates.filter((candidate) => candidate.health === "up");
    const withReturned = [...withSpares, ...this.#chooseMore(well, withSpares, [])];
    return withReturned.length > kept.length && withReturned.length >= this.quorum()
      ? withReturned
      : undefined;
  }

  /** One more member for an extent that has, or awaits, copies at `holders`; undefined when nobody well has room. */
  chooseSpare(holders: readonly number[], purpose: CopyPurpose): number | undefined {
    const well = this.#candidates().filter((candidate) => candidate.health === "up");
    const roomy = well.filter((candidate) => !this.#isAboveHighWater(candidate.memberId));
    const usedZones = zonesOf(well, holders);
    const seedForTies = this.#nextSeed();
    const among = (candidates: readonly NodeCandidate[]): number | undefined =>
      chooseTargets(candidates, { count: 1, exclude: holders, usedZones, seedForTies })[0];
    // The last tenth of a disk is left to users, unless a file of theirs lacks a copy: where a new file may go, an old one may.
    return among(roomy) ?? (purpose === "missing" ? among(well) : undefined);
  }

  /** Members to read a copy from, best first: this node's own, then others. Copies that are yet to be made are left out. */
  rankReaders(replicas: readonly Replica[]): readonly number[] {
    const made = replicas.filter((replica) => replica.state !== "pending");
    return rankReaders(made, this.#candidates(), this.#options.memberId);
  }

  #isAboveHighWater(memberId: number): boolean {
    const { load } = this.#options.detector.state(memberId);
    return load !== undefined && load.freeBytes < load.totalBytes * (1 - HIGH_WATER_SHARE);
  }

  #chooseMore(
    candidates: readonly NodeCandidate[],
    kept: readonly number[],
    failed: readonly number[],
  ): readonly number[] {
    const count = REPLICA_COUNT - kept.length;
    if (count < 1) return [];
    const usedZones = zonesOf(candidates, kept);
    const seedForTies = this.#nextSeed();
    return chooseTargets(candidates, { count, exclude: [...kept, ...failed], usedZones, seedForTies });
  }

  #nextSeed(): number {
    this.#choiceCount += 1;
    return this.#choiceCount;
  }

  #candidates(): readonly NodeCandidate[] {
    const { directory, detector } = this.#options;
    return directory.members().map(({ memberId, zone }) => {
      const { health, load } = detector.state(memberId);
      return {
        memberId,
        zone,
        health,
        freeBytes: load?.freeBytes ?? 0,
        load: load?.inflightBytes ?? 0,
        acceptsWrites: load?.writesRefused !== true && this.#options.isClosed?.(memberId) !== true,
      };
    });
  }
}

function zonesOf(candidates: readonly NodeCandidate[], memberIds: readonly number[]): readonly string[] {
  return candidates
    .filter((candidate) => memberIds.includes(candidate.memberId))
    .map((candidate) => candidate.zone);
}
