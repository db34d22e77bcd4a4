/**
 * What one seed of the Raft cluster does: its members, which kinds of faults are on (a random half: swarm testing, Groce et al.
 * 2012), how strong they are, and the sizes that make rare paths common.
 *
 * Time is counted in units; a member's core is ticked every TICK_UNITS of its own clock.
 */
import { must } from "../../../src/std/assert.ts";
import type { Prng } from "../../../src/std/prng.ts";

/** Units between two ticks of a core whose clock is right. */
export const TICK_UNITS = 4;

/** Ticks without a leader before an election. */
export const ELECTION_TICKS = 8;

/** Every kind of fault, by the id of the list of faults and a word; each is counted when it happens. */
export const CLUSTER_FAULTS = {
  "N1 loss": "a message is lost",
  "N2 repeat": "a message arrives twice",
  "N2 old replay": "a message of long ago arrives again, also one from before a restart or an election",
  "N3 reorder": "a message overtakes others of its link",
  "N4 clog": "a link holds everything back, then delivers it in a burst",
  "N5 isolate one": "one member is cut off",
  "N5 isolate leader": "the leader is cut off",
  "N5 split": "the members are split in two at random",
  "N5 one way": "one member is heard by nobody, or hears nobody",
  "N5 majority ring": "each member reaches only its neighbours",
  "P1 crash": "a process dies between any two steps and comes back",
  "P1 crash of all": "all processes die at once",
  "P2 pause": "a process stands still while time passes",
  "P3 slow disk": "a member's writes take very long",
  "P5 wipe": "a member loses its disk, and a new member takes its place",
  "D1 unsynced lost": "what was not synced when a process died is lost",
  "D1 unsynced kept": "what was not synced is there nevertheless, without anybody having been told",
  "D2 torn write": "the front of an append is there, its end is not",
  "D7 sync error": "a sync fails, and the process ends",
  "D8 disk full": "a member's writes wait for space",
  "T3 clock rate": "a member's clock runs at half to twice the speed",
  "M1 membership": "a member is added, removed, promoted or demoted, alone or several at once",
  "M1 transfer": "leadership is handed over",
  "M2 compaction": "a log is cut, mostly up to its very tip",
  "M3 overload": "more is proposed at once than may be uncommitted",
} as const;

/** One kind of fault. */
export type ClusterFault = keyof typeof CLUSTER_FAULTS;

/** A whole run. */
export interface ClusterPlan {
  readonly seed: number;
  /** Members that the cluster was formed with. */
  readonly voterCount: number;
  /** Units of the safety phase. */
  readonly units: number;
  /** Kinds that happen. */
  readonly faults: ReadonlySet<ClusterFault>;
  readonly loss: number;
  readonly repeat: number;
  readonly delayMeanUnits: number;
  readonly diskMeanUnits: number;
  readonly applyMeanUnits: number;
  /** Chance, per unit, of one of the faults that happen at an instant. */
  readonly faultRate: number;
  /** Chance, per unit, of something that a client asks. */
  readonly clientRate: number;
  readonly entriesSizeBytesMax: number;
  readonly inflightMessagesMax: number;
  readonly uncommittedBytesMax: number;
  /** Whether only a random quorum comes back for the liveness phase, or everybody. */
  readonly healsQuorumOnly: boolean;
}

function pick<T>(prng: Prng, choices: readonly T[]): T {
  return must(choices[prng.below(choices.length)], "a choice");
}

/** Draws a run. */
export function drawClusterPlan(seed: number, prng: Prng): ClusterPlan {
  const faults = (Object.keys(CLUSTER_FAULTS) as ClusterFault[]).filter(() => prng.below(2) === 0);
  const isOn = new Set(faults);
  return {
    seed,
    voterCount: pick(prng, [3, 3, 3, 5]),
    units: pick(prng, [800, 1_200, 2_000]),
    faults: isOn,
    loss: isOn.has("N1 loss") ? pick(prng, [0.02, 0.1, 0.3]) : 0,
    repeat: isOn.has("N2 repeat") ? pick(prng, [0.05, 0.2, 0.5]) : 0,
    delayMeanUnits: pick(prng, [0.5, 2, 6]),
    diskMeanUnits: pick(prng, [0.2, 1, 4]),
    applyMeanUnits: pick(prng, [0.2, 1, 8]),
    faultRate: pick(prng, [0.01, 0.03, 0.1]),
    clientRate: pick(prng, [0.05, 0.2, 0.6]),
    entriesSizeBytesMax: pick(prng, [16, 64, 1_000]),
    inflightMessagesMax: pick(prng, [1, 4, 16]),
    uncommittedBytesMax: pick(prng, [60, 1_000]),
    healsQuorumOnly: prng.below(3) === 0,
  };
}
