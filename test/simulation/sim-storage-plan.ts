/**
 * What a seed does to storage-only nodes, beside what it does to the voters: how many there are, faults of their machines, and who of
 * them joins, leaves, is drained, wiped or emptied.
 *
 * The atlas rule holds for both kinds together: in a run in which machines are lost nothing is damaged, and in one in which a
 * storage-only node is damaged no voter's copies are.
 */
import type { Prng } from "../../src/std/prng.ts";
import { must } from "../../src/std/assert.ts";
import { STORAGE_COUNT_MAX } from "./sim-cluster.ts";
import type { PlannedChange, StorageChangeKind } from "./sim-operator.ts";
import { CHUNK_DAMAGES, type FaultKind, type PlannedFault, type SimPlan } from "./sim-plan.ts";

const KINDS: readonly FaultKind[] = [
  "partition",
  "one-way-partition",
  "power-loss",
  "kill",
  "pause",
  "slow-disk",
  "disk-full",
  "sync-error",
  "clock-jump",
];

/** One is always there to be taken away: a plan begins with at least one. */
const CHANGE_KINDS: readonly StorageChangeKind[] = [
  "add-storage",
  "remove-storage",
  "wipe-storage",
  "force-storage",
  "drain-storage",
  "empty-storage",
];

const DURATIONS_MS: readonly number[] = [20, 300, 1_500, 4_000, 9_000];

function pick<T>(prng: Prng, choices: readonly T[]): T {
  return must(choices[prng.below(choices.length)], "a choice");
}

/** Adds storage-only nodes to a drawn run. */
export function drawStoragePlan(plan: SimPlan, prng: Prng): SimPlan {
  const storageCount = 1 + prng.below(STORAGE_COUNT_MAX);
  const atMs = (): number => Math.floor(500 + prng.float() * (plan.faultMs - 1000));
  const drawFault = (kind: FaultKind, memberId: number): PlannedFault => {
    return { atMs: atMs(), kind, memberId, durationMs: pick(prng, DURATIONS_MS), part: "storage" };
  };
  const own: PlannedFault[] = [];
  for (const kind of KINDS) {
    if (prng.below(2) === 0) continue;
    const count = 1 + prng.below(2);
    for (let i = 0; i < count; i += 1) own.push(drawFault(kind, 1 + prng.below(storageCount)));
  }
  let { faults } = plan;
  let changes: readonly PlannedChange[] = [];
  const isVoterLost = plan.changes.length > 0;
  if (!isVoterLost && prng.below(2) === 0) {
    // One storage-only node is damaged, and nobody's copies but its own.
    const damagedId = 1 + prng.below(storageCount);
    for (const kind of CHUNK_DAMAGES) if (prng.below(2) === 0) own.push(drawFault(kind, damagedId));
    faults = faults.filter(({ kind }) => !CHUNK_DAMAGES.includes(kind));
  } else if (prng.below(4) > 0) {
    const count = 1 + prng.below(3);
    changes = Array.from({ length: count }, () => ({ kind: pick(prng, CHANGE_KINDS), atMs: atMs() }));
    faults = faults.filter(({ kind }) => !CHUNK_DAMAGES.includes(kind));
  }
  return {
    ...plan,
    storageCount,
    faults: [...faults, ...own].sort((a, b) => a.atMs - b.atMs),
    changes: [...plan.changes, ...changes].sort((a, b) => a.atMs - b.atMs),
  };
}
