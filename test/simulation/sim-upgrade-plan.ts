/**
 * What a seed does to versions (P4): which machines begin with an older version of the program, when each is upgraded, and which are
 * taken back to the older one meanwhile. A version is, to a node, nothing but the feature levels that it supports.
 */
import { FEATURE_LEVELS, type FeatureLevels } from "../../src/drive/feature-levels.ts";
import type { Prng } from "../../src/std/prng.ts";
import { must } from "../../src/std/assert.ts";
import { FOUNDER_IDS } from "./sim-cluster.ts";

/** One step: a machine gets another version, by a restart. */
export interface PlannedVersion {
  readonly atMs: number;
  readonly kind: "upgrade" | "downgrade";
  /** An upgrade: the founder. A downgrade: a machine by its number, counted round and round among all of them. */
  readonly memberId: number;
  /** How long it is down for it. */
  readonly durationMs: number;
}

/** The versions of a run. */
export interface UpgradePlan {
  readonly older: FeatureLevels;
  readonly newer: FeatureLevels;
  /** Founders that begin with the older version: the cluster is founded at what that one supports. */
  readonly olderIds: readonly number[];
  readonly steps: readonly PlannedVersion[];
}

/** From what to what: from each older level, and to a version that is not written yet and has let go of the first level. */
const WAYS: readonly Pick<UpgradePlan, "older" | "newer">[] = [
  { older: { min: 1, max: 1 }, newer: FEATURE_LEVELS },
  { older: { min: 1, max: 2 }, newer: FEATURE_LEVELS },
  { older: FEATURE_LEVELS, newer: { min: FEATURE_LEVELS.max, max: FEATURE_LEVELS.max + 1 } },
];

/** In one of so many runs there are two versions. */
const UPGRADING_RUNS = 3;
const DURATIONS_MS: readonly number[] = [20, 300, 1_500];
const DOWNGRADE_COUNT_MAX = 2;

function pick<T>(prng: Prng, choices: readonly T[]): T {
  return must(choices[prng.below(choices.length)], "a choice");
}

/** Draws the versions of a run with faults for `faultMs`; undefined for most, where all machines have one version. */
export function drawUpgrades(faultMs: number, prng: Prng): UpgradePlan | undefined {
  if (prng.below(UPGRADING_RUNS) > 0) return undefined;
  const way = pick(prng, WAYS);
  const always = pick(prng, FOUNDER_IDS);
  const olderIds = FOUNDER_IDS.filter((id) => id === always || prng.below(2) === 0);
  const atMs = (): number => Math.floor(500 + prng.float() * (faultMs - 1000));
  const stepOf = (kind: PlannedVersion["kind"], memberId: number): PlannedVersion => {
    return { atMs: atMs(), kind, memberId, durationMs: pick(prng, DURATIONS_MS) };
  };
  const upgrades = olderIds.map((memberId) => stepOf("upgrade", memberId));
  const downgrades = Array.from({ length: prng.below(DOWNGRADE_COUNT_MAX + 1) }, () =>
    stepOf("downgrade", 1 + prng.below(FOUNDER_IDS.length + 2)),
  );
  return { ...way, olderIds, steps: [...upgrades, ...downgrades].sort((a, b) => a.atMs - b.atMs) };
}

/** Level that the founders of a run agree on. */
export function foundingLevelOf(plan: UpgradePlan | undefined): number {
  return (plan?.older ?? FEATURE_LEVELS).max;
}

/** What the first version on a machine supports. */
export function firstLevelsOf(plan: UpgradePlan | undefined, memberId: number): FeatureLevels {
  if (plan === undefined) return FEATURE_LEVELS;
  return plan.olderIds.includes(memberId) ? plan.older : plan.newer;
}
