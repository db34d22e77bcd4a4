/**
 * What one seed does: which faults are on, how strong they are, how much the clients do, and the sizes that make rare paths
 * common (short logs, many snapshots).
 *
 * Swarm testing (Groce et al. 2012): a run that has every fault on finds less than many runs with a random half of them, because
 * faults hide each other. Every kind that is on happens at least once, which the run checks by counting.
 */
import { TUNING_DEFAULT } from "../../src/consensus/tuning.ts";
import { CHUNK_SIZE_BYTES } from "../../src/drive/limits.ts";
import { NODE_WRITE_BYTES_MAX } from "../../src/replication/write-budget.ts";
import type { Prng } from "../../src/std/prng.ts";
import { must } from "../../src/std/assert.ts";
import type { SimBounds } from "./sim-checks.ts";
import type { MembershipKind, PlannedChange } from "./sim-operator.ts";
import type { DiskTrouble } from "./sim-trouble.ts";
import type { UpgradePlan } from "./sim-upgrade-plan.ts";

/** Kinds of faults that happen at an instant. */
export type FaultKind =
  | "partition"
  | "one-way-partition"
  | "power-loss"
  | "kill"
  | "power-loss-of-all"
  | "pause"
  | "slow-disk"
  | "bit-flip"
  | "log-rot"
  | "disk-full"
  | "sync-error"
  | "clock-jump"
  | "old-replay"
  | "foreign-message"
  /** No operation of the disk ends for a while; in directed runs alone. */
  | "stuck-disk"
  | LaterKind
  | TroubleKind
  | LastKind;

/** Kinds that are drawn behind the others, so that older seeds keep their other faults. */
export type LaterKind =
  "misdirected-write" | "lost-write" | "unreadable-page" | "state-damage" | "index-damage";

/** Kinds that are drawn behind those: connections that nobody reads from (N6), and disks under a running process. */
export type TroubleKind = "half-open" | DiskTrouble;

/** The kind that is drawn last: files of the chunk store that go under a running process (D11). */
export type LastKind = "file-loss";

/** One fault at its instant. */
export interface PlannedFault {
  readonly atMs: number;
  readonly kind: FaultKind;
  /** Member that it happens to, from 1; of a partition the one that is cut off. */
  readonly memberId: number;
  readonly durationMs: number;
  /** Instead of a member by its number: whoever leads then, or another; or a storage-only one, by its number among those. */
  readonly part?: "leader" | "follower" | "storage";
}

/** A whole run. */
export interface SimPlan {
  readonly seed: number;
  readonly clientCount: number;
  readonly operationCount: number;
  readonly thinkMeanMs: number;
  /** Whether each client begins at another node, or all at one. */
  readonly clientsApart: boolean;
  /** Virtual time with faults; the clients go on until they are through. */
  readonly faultMs: number;
  readonly loss: number;
  readonly duplication: number;
  readonly delayMeanMs: number;
  readonly diskMeanMs: number;
  readonly clockSkew: boolean;
  readonly faults: readonly PlannedFault[];
  /** Changes of the membership, one after the other. */
  readonly changes: readonly PlannedChange[];
  /** Storage-only nodes that join before the faults begin. */
  readonly storageCount: number;
  /** The one member whose bytes may be damaged, so that a good copy of everything is left (the fault atlas). */
  readonly damagedMemberId: number;
  readonly logEntryCountMax: number;
  /** What may wait at one node, so little in some runs that it is refused. */
  readonly bounds: SimBounds;
  readonly largeFiles: boolean;
  /** How often events share turns of the event loop, and how close together they must be. */
  readonly turnRate: number;
  readonly turnWindowMs: number;
  /** How often an operation of the disk, but for syncs, takes no time at all. */
  readonly instantDiskRate: number;
  /** Versions of the machines, where there are several. */
  readonly upgrade?: UpgradePlan | undefined;
  /** Whether to wait, after the healing, until nothing is left of what was deleted. */
  readonly awaitsCollection: boolean;
}

const KINDS: readonly FaultKind[] = [
  "partition",
  "one-way-partition",
  "power-loss",
  "kill",
  "power-loss-of-all",
  "pause",
  "slow-disk",
  "bit-flip",
  "log-rot",
  "disk-full",
  "sync-error",
  "clock-jump",
  "old-replay",
  "foreign-message",
];

/** Kinds that damage what is stored: one member of a run alone. */
const LATER_KINDS: readonly LaterKind[] = [
  "misdirected-write",
  "lost-write",
  "unreadable-page",
  "state-damage",
  "index-damage",
];
/** Faults that may have damaged copies. */
export const CHUNK_DAMAGES: readonly FaultKind[] = [
  "bit-flip",
  "misdirected-write",
  "lost-write",
  "unreadable-page",
  "read-error",
  "index-damage",
  // Last: storage-only nodes draw in this order.
  "file-loss",
];
const DAMAGING: readonly FaultKind[] = ["bit-flip", "log-rot", "read-error", ...LATER_KINDS, "file-loss"];

const TROUBLE_KINDS: readonly TroubleKind[] = [
  "half-open",
  "promise-sync-error",
  "read-only-disk",
  "too-many-files",
  "access-denied",
  "read-error",
];

/** Every kind that seeds draw. */
export const EVERY_KIND: readonly FaultKind[] = [...KINDS, ...LATER_KINDS, ...TROUBLE_KINDS, "file-loss"];

const MEMBER_COUNT = 3;

/** In one of so many runs the membership changes. */
const CHANGING_RUNS = 3;

const { proposalCountMax, readCountMax, uncommittedBytesMax, proposalBatchBytesMax, inflightMessagesMax } =
  TUNING_DEFAULT;

const WIDE: SimBounds = {
  proposalCountMax,
  readCountMax,
  uncommittedBytesMax,
  proposalBatchBytesMax,
  inflightMessagesMax,
  inFlightBytesMax: NODE_WRITE_BYTES_MAX,
};

/** Some clients at once meet these. */
const NARROW: SimBounds = {
  proposalCountMax: 4,
  readCountMax: 3,
  uncommittedBytesMax: 2_000,
  proposalBatchBytesMax: 1_000,
  inflightMessagesMax: 2,
  inFlightBytesMax: 2 * CHUNK_SIZE_BYTES,
};

const MEMBERSHIP_KINDS: readonly MembershipKind[] = ["add", "remove", "replace", "wipe", "force", "transfer"];

function pick<T>(prng: Prng, choices: readonly T[]): T {
  return must(choices[prng.below(choices.length)], "a choice");
}

/** Draws a run. */
export function drawPlan(seed: number, prng: Prng): SimPlan {
  const faultMs = pick(prng, [6_000, 10_000, 14_000]);
  const damagedMemberId = 1 + prng.below(MEMBER_COUNT);
  const faults: PlannedFault[] = [];
  for (const kind of KINDS) {
    if (prng.below(2) === 0) continue;
    const count = 1 + prng.below(3);
    for (let i = 0; i < count; i += 1) {
      faults.push({
        atMs: Math.floor(500 + prng.float() * (faultMs - 1000)),
        kind,
        memberId: DAMAGING.includes(kind) ? damagedMemberId : 1 + prng.below(MEMBER_COUNT),
        durationMs: pick(prng, [20, 300, 1_500, 4_000, 9_000]),
      });
    }
  }
  const plan: SimPlan = {
    seed,
    clientCount: 1 + prng.below(4),
    operationCount: 15 + prng.below(25),
    thinkMeanMs: pick(prng, [1, 10, 100, 400]),
    faultMs,
    loss: pick(prng, [0, 0, 0.01, 0.05, 0.2]),
    duplication: pick(prng, [0, 0, 0.02, 0.2]),
    delayMeanMs: pick(prng, [0.2, 1, 5, 20]),
    diskMeanMs: pick(prng, [0.02, 0.2, 1, 4]),
    clockSkew: prng.below(2) === 0,
    faults: inOrder(faults),
    changes: [],
    storageCount: 0,
    damagedMemberId,
    logEntryCountMax: pick(prng, [30, 100, 10_000]),
    bounds: WIDE,
    largeFiles: prng.below(3) === 0,
    awaitsCollection: prng.below(8) === 0,
    turnRate: pick(prng, [0, 0.3, 0.5, 0.8]),
    turnWindowMs: pick(prng, [0.5, 10, 10]),
    clientsApart: prng.below(2) === 0,
    instantDiskRate: pick(prng, [0, 0.5, 1, 1]),
  };
  const bounds = prng.below(3) === 0 ? NARROW : WIDE;
  if (prng.below(CHANGING_RUNS) > 0) {
    const later = drawLater(plan, prng);
    const troubles = drawTroubles(plan, prng);
    const all = [...faults, ...later, ...troubles];
    return { ...plan, bounds, faults: inOrder([...all, ...drawFileLosses(plan, all, prng)]) };
  }
  const changes = drawChanges(faultMs, prng);
  const all = inOrder([...faults, ...drawTroubles(plan, prng)]);
  // A machine that is lost takes a copy of everything with it, so the others keep theirs.
  return { ...plan, bounds, changes, faults: all.filter(({ kind }) => !DAMAGING.includes(kind)) };
}

function inOrder(faults: readonly PlannedFault[]): readonly PlannedFault[] {
  return [...faults].sort((a, b) => a.atMs - b.atMs);
}

function drawTroubles({ faultMs, damagedMemberId }: SimPlan, prng: Prng): readonly PlannedFault[] {
  return TROUBLE_KINDS.filter(() => prng.below(4) === 0).map((kind) => ({
    atMs: Math.floor(500 + prng.float() * (faultMs - 1000)),
    kind,
    memberId: DAMAGING.includes(kind) ? damagedMemberId : 1 + prng.below(MEMBER_COUNT),
    durationMs: pick(prng, [20, 300, 1_500, 4_000, 9_000]),
  }));
}

function drawLater({ faultMs, damagedMemberId }: SimPlan, prng: Prng): readonly PlannedFault[] {
  return LATER_KINDS.filter(() => prng.below(4) === 0).map((kind) => ({
    atMs: Math.floor(500 + prng.float() * (faultMs - 1000)),
    kind,
    memberId: damagedMemberId,
    durationMs: pick(prng, [20, 300, 1_500, 4_000]),
  }));
}

/**
 * In one of four runs; in every run in which nothing else damages copies, because there the store alone must find what is lost, and
 * no look of the run helps it.
 */
function drawFileLosses(
  { faultMs, damagedMemberId }: SimPlan,
  others: readonly PlannedFault[],
  prng: Prng,
): readonly PlannedFault[] {
  const isDrawn = prng.below(4) === 0;
  if (!isDrawn && others.some(({ kind }) => CHUNK_DAMAGES.includes(kind))) return [];
  return Array.from({ length: 1 + prng.below(3) }, () => ({
    atMs: Math.floor(500 + prng.float() * (faultMs - 1000)),
    kind: "file-loss",
    memberId: damagedMemberId,
    durationMs: 0,
  }));
}

function drawChanges(faultMs: number, prng: Prng): readonly PlannedChange[] {
  const count = 1 + prng.below(3);
  return Array.from({ length: count }, () => ({
    kind: pick(prng, MEMBERSHIP_KINDS),
    atMs: Math.floor(500 + prng.float() * (faultMs - 1000)),
  })).sort((a, b) => a.atMs - b.atMs);
}
