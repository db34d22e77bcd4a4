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
import type { NodeHealth } from "../drive/drive-api.ts";
import { DriveError } from "../drive/errors.ts";
import { REPLICA_COUNT, SEAL_COUNT_MIN } from "../drive/limits.ts";
import type { ExtentTargets } from "../metadata/commands.ts";

interface Candidate {
  readonly memberId: number;
  readonly zone: string;
  readonly health: NodeHealth;
  readonly freeBytes: number;
  readonly inflightBytes: number;
  readonly writesRefused: boolean;
}

function chooseTargets(
  candidates: readonly Candidate[],
  wish: { readonly count: number; readonly keep: readonly number[]; readonly exclude: readonly number[] },
): readonly number[] {
  const chosen = [...wish.keep];
  const zones = new Set(candidates.filter((c) => chosen.includes(c.memberId)).map((c) => c.zone));
  const left = candidates.filter(
    (c) =>
      c.health === "up" &&
      !c.writesRefused &&
      !wish.exclude.includes(c.memberId) &&
      !chosen.includes(c.memberId),
  );
  while (chosen.length < wish.count && left.length > 0) {
    left.sort(
      (a, b) =>
        Number(zones.has(a.zone)) - Number(zones.has(b.zone)) ||
        b.freeBytes - a.freeBytes ||
        a.inflightBytes - b.inflightBytes ||
        a.memberId - b.memberId,
    );
    const [best] = left.splice(0, 1);
    if (best === undefined) break;
    zones.add(best.zone);
    chosen.push(best.memberId);
  }
  return chosen;
}

function rankReaders(
  candidates: readonly Candidate[],
  replicas: readonly Replica[],
  ownId: number,
): readonly number[] {
  const stateRank = { verified: 0, pending: 2, suspect: 1 };
  const healthRank = { up: 0, suspect: 1, down: 2 };
  const healthOf = (memberId: number): number =>
    healthRank[candidates.find((c) => c.memberId === memberId)?.health ?? "down"];
  return [...replicas]
    .filter((replica) => replica.state !== "pending")
    .sort(
      (a, b) =>
        stateRank[a.state] - stateRank[b.state] ||
        Number(b.memberId === ownId) - Number(a.memberId === ownId) ||
        healthOf(a.memberId) - healthOf(b.memberId) ||
        a.memberId - b.memberId,
    )
    .map((replica) => replica.memberId);
}

/** What Placement needs. */
export interface PlacementOptions {
  readonly directory: NodeDirectory;
  readonly detector: FailureDetector;
  /** This node. */
  readonly memberId: number;
}

/** Chooses members. */
export class Placement {
  readonly #options: PlacementOptions;

  constructor(options: PlacementOptions) {
    this.#options = options;
  }

  /** How many copies an acknowledgement needs: SEAL_COUNT_MIN, or one in a cluster of one. */
  quorum(): number {
    return Math.max(1, Math.min(SEAL_COUNT_MIN, this.#options.directory.members().length));
  }

  /**
   * Members for a new extent, best first.
   * @throws DriveError QUORUM_NOT_REACHED, or NO_SPACE when members are up but refuse writes
   */
  choose(): readonly number[] {
    const candidates = this.#candidates();
    const chosen = chooseTargets(candidates, { count: REPLICA_COUNT, keep: [], exclude: [] });
    const needed = this.quorum();
    if (chosen.length >= needed) return chosen;
    const counts = { up_count: String(chosen.length), needed_count: String(needed) };
    const full = candidates.filter((candidate) => candidate.health === "up" && candidate.writesRefused);
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
    return Array.from({ length: count }, (_, extentIndex) => ({ extentIndex, memberIds: this.choose() }));
  }

  /**
   * Targets after `failed` failed and `kept` did not: failed ones that have come back, and spares. Undefined when there is
   * nobody to add, so that the upload goes on with `kept`.
   */
  replace(kept: readonly number[], failed: readonly number[]): readonly number[] | undefined {
    const candidates = this.#candidates();
    const chosen = chooseTargets(candidates, { count: REPLICA_COUNT, keep: kept, exclude: [] });
    // A failed target that seems well again is taken back only when no other can take its place.
    const others = chooseTargets(candidates, { count: REPLICA_COUNT, keep: kept, exclude: failed });
    const best = others.length >= chosen.length ? others : chosen;
    return best.length > kept.length && best.length >= this.quorum() ? best : undefined;
  }

  /** One more member for an extent that has, or awaits, copies at `holders`; undefined when nobody is left. */
  chooseSpare(holders: readonly number[]): number | undefined {
    return chooseTargets(this.#candidates(), { count: 1, keep: [], exclude: holders })[0];
  }

  /** Members to read a copy from, best first: this node's own, then others; verified copies before the rest. */
  rankReaders(replicas: readonly Replica[]): readonly number[] {
    return rankReaders(this.#candidates(), replicas, this.#options.memberId);
  }

  #candidates(): readonly Candidate[] {
    const { directory, detector } = this.#options;
    return directory.members().map(({ memberId, zone }) => {
      const { health, load } = detector.state(memberId);
      return {
        memberId,
        zone,
        health,
        freeBytes: load?.freeBytes ?? 0,
        inflightBytes: load?.inflightBytes ?? 0,
        writesRefused: load?.writesRefused ?? false,
      };
    });
  }
}
