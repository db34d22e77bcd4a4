/**
 * The bugs that the simulators must find, and how each is looked for: switched on one at a time, seeds from 1 on until one
 * fails. What is planted in the product is in src/raft/, src/replication/ and src/cluster/planted-faults.ts; what is planted
 * around it is here. The canary is a check that sees nothing: a simulator that passes it proves nothing.
 */
import { PLANTED_LEVEL_FAULTS } from "../../src/cluster/planted-faults.ts";
import { FEATURE_LEVELS } from "../../src/drive/feature-levels.ts";
import { PLANTED_FAULTS, type PlantedFault } from "../../src/raft/planted-faults.ts";
import type { Disk, FileStat } from "../../src/std/disk.ts";
import { changedDisk } from "../support/changed-disk.ts";
import { runCluster } from "./raft-cluster/cluster-run.ts";
import type { SimPlan } from "./sim-plan.ts";
import { simulate, type SimOptions } from "./sim-run.ts";

/** A bug to look for. */
export interface PlantedBug {
  /** Its id and what it does. */
  readonly name: string;
  /** Which simulator looks for it. */
  readonly where: "Raft cluster" | "whole node";
  /** Seeds from 1 on in which it must show. */
  readonly seedCountMax: number;
  /** What must be in the message of the failure: the checks that may find it. */
  readonly foundBy: RegExp;
  /** Runs one seed; throws when something is found. */
  readonly run: (seed: number) => Promise<unknown>;
}

/** Much work, and most events in the middle of the promise turns of others. */
const BUSY_TURNS: Partial<SimPlan> = {
  faultMs: 4_000,
  faults: [],
  changes: [],
  turnRate: 0.5,
  turnWindowMs: 10,
  instantDiskRate: 1,
  clientCount: 4,
  thinkMeanMs: 1,
  delayMeanMs: 0.2,
  operationCount: 80,
  clientsApart: false,
};

/** One member cannot reach the others for longer than a look at the tree may take, and nothing else goes wrong. */
const LONG_PARTITION: Partial<SimPlan> = {
  faultMs: 40_000,
  loss: 0,
  clockSkew: false,
  changes: [],
  faults: [{ atMs: 4_000, kind: "partition", memberId: 1, durationMs: 30_000 }],
};

/** Clients at different nodes, which learn of each other's writes late; nothing else goes wrong. */
const LAGGING: Partial<SimPlan> = {
  faultMs: 2_000,
  faults: [],
  changes: [],
  loss: 0.3,
  delayMeanMs: 40,
  turnRate: 0,
  clockSkew: false,
  clientCount: 4,
  clientsApart: true,
  thinkMeanMs: 1,
  operationCount: 120,
};

/** Much that is written slowly, so that sweeps meet what is not in a file yet. */
const SLOW_WRITES: Partial<SimPlan> = {
  faults: [],
  changes: [],
  loss: 0,
  delayMeanMs: 20,
  diskMeanMs: 4,
  clientCount: 4,
  thinkMeanMs: 1,
  operationCount: 60,
};

/** Syncs fail at each voter, and the power of all of them later. */
const FAILED_SYNCS: Partial<SimPlan> = {
  faultMs: 10_000,
  changes: [],
  loss: 0,
  clientCount: 4,
  thinkMeanMs: 1,
  faults: [
    ...[1, 2, 3].map((memberId) => ({ atMs: 1_000, kind: "sync-error" as const, memberId, durationMs: 20 })),
    { atMs: 1_500, kind: "power-loss-of-all", memberId: 1, durationMs: 20 },
  ],
};

/** The power of all fails again and again. */
const POWER_LOSSES: Partial<SimPlan> = {
  faultMs: 6_000,
  changes: [],
  faults: [1_000, 2_500, 4_000].map((atMs) => ({
    ...{ atMs, kind: "power-loss-of-all", memberId: 1, durationMs: 20 },
  })),
};

/** Nothing goes wrong but that one of three is upgraded late. */
const LATE_UPGRADE: Partial<SimPlan> = {
  faultMs: 6_000,
  faults: [],
  changes: [],
  loss: 0,
  upgrade: {
    older: { min: 1, max: 1 },
    newer: FEATURE_LEVELS,
    olderIds: [1],
    steps: [{ atMs: 5_000, kind: "upgrade", memberId: 1, durationMs: 20 }],
  },
};

/** A disk that says "synced" and has not synced. */
const lyingDisk = (disk: Disk): Disk => changedDisk(disk, () => ({ sync: () => Promise.resolve() }));

/**
 * A disk whose user tries a failed sync again and believes the answer: the system dropped the pages after the first one, so the
 * second has nothing to write and succeeds, and so does every later one as far as those pages go.
 */
function retryingDisk(disk: Disk): Disk {
  const failed = new Set<string>();
  return changedDisk(disk, (file) => ({
    sync: async () => {
      if (failed.has(file.path)) return;
      try {
        await file.sync();
      } catch {
        failed.add(file.path);
      }
    },
  }));
}

/** A disk whose user never syncs a directory. */
const namelessDisk = (disk: Disk): Disk => ({
  ...changedDisk(disk, () => ({})),
  syncDirectory: () => Promise.resolve(),
});

/** Somebody removes and replaces files of the chunk store under a node that goes on. */
const LOST_FILES: Partial<SimPlan> = {
  faultMs: 6_000,
  changes: [],
  loss: 0,
  clientCount: 4,
  faults: [3_000, 5_000].map((atMs) => ({ atMs, kind: "file-loss", memberId: 1, durationMs: 0 })),
};

/** A disk whose user believes that every file is where and what it was when it was first asked for. */
function trustingDisk(disk: Disk): Disk {
  const known = new Map<string, FileStat>();
  return {
    ...changedDisk(disk, () => ({ isNamed: () => Promise.resolve(true) })),
    stat: async (path) => {
      const stat = known.get(path) ?? (await disk.stat(path));
      if (stat !== undefined) known.set(path, { ...stat, sizeBytes: Number.MAX_SAFE_INTEGER });
      return stat;
    },
  };
}

/** Checks that may find each bug of the core; another finding would be a bug of the simulator. */
const FOUND_BY: Record<Exclude<PlantedFault, "wakeup-lost">, RegExp> = {
  "read-round-reused": /^R20:/u,
  "flow-not-paused": /^R22:/u,
  "vote-in-two-writes": /^R1[37]:/u,
  "append-in-two-steps": /^R(?:8|9|15):|committed/u,
  "quorum-not-sorted": /^(?:R[5789]|L1):/u,
  "old-snapshot-installed": /^R(?:9|14|15|21):|not? .*here|snapshot|committed/u,
  "append-after-zero-accepted": /^R(?:2|4|9|16|17):/u,
  "empty-append-for-snapshot": /^(?:R(?:[459]|10)|L1):/u,
  "old-votes-counted": /^R1(?:9)?:/u,
  "commit-moves-back": /^R1[45]:/u,
  "old-term-committed": /^R11:/u,
  "commit-not-capped": /^R(?:9|7|10):/u,
  "vote-erased-on-step-down": /^R13:/u,
};

const CLUSTER_SEED_COUNT_MAX = 100;

function clusterBug(fault: Exclude<PlantedFault, "wakeup-lost">): PlantedBug {
  return {
    name: `${PLANTED_FAULTS[fault]} (${fault})`,
    where: "Raft cluster",
    seedCountMax: CLUSTER_SEED_COUNT_MAX,
    foundBy: FOUND_BY[fault],
    run: (seed) => Promise.resolve().then(() => runCluster(seed, fault)),
  };
}

function nodeBug(name: string, foundBy: RegExp, options: SimOptions, seedCountMax = 20): PlantedBug {
  const run = (seed: number): Promise<unknown> => simulate(seed, { unguarded: true, ...options });
  return { name, where: "whole node", seedCountMax, foundBy, run };
}

/** Every bug, in the order in which they are looked for. */
export const PLANTED_BUGS: readonly PlantedBug[] = [
  ...(Object.keys(FOUND_BY) as Exclude<PlantedFault, "wakeup-lost">[]).map((fault) => clusterBug(fault)),
  // Whatever is proposed next wakes the writer up again, and nodes propose by themselves now and then: it takes some seeds.
  nodeBug(
    `${PLANTED_FAULTS["wakeup-lost"]} (wakeup-lost)`,
    /liveness|K1/u,
    { plantedFault: "wakeup-lost", plan: BUSY_TURNS },
    100,
  ),
  nodeBug("G-01: the sweep asks the tree first and lists the store after", /K1|liveness/u, {
    plantedChunkFault: "sweep-asks-first",
  }),
  nodeBug("G-02: a sweep takes what is not in a file yet for garbage, however new", /K1|liveness|C6/u, {
    plantedChunkFault: "sweep-outruns-uploads",
    plan: SLOW_WRITES,
  }),
  nodeBug("G-03: a look at the tree that failed counts as a tree that knows nothing", /K1|liveness/u, {
    plantedChunkFault: "sweep-ignores-failure",
    plan: LONG_PARTITION,
  }),
  nodeBug(`${PLANTED_LEVEL_FAULTS["level-raised-early"]} (level-raised-early)`, /U1/u, {
    plantedLevelFault: "level-raised-early",
    plan: LATE_UPGRADE,
  }),
  nodeBug("D1: a disk that says synced and has not", /R\d+:|DATA_CORRUPT|damaged|C1|K\d/u, {
    wrapDisk: lyingDisk,
  }),
  nodeBug("G-11: a sync that failed is tried again and believed", /R\d+:|DATA_CORRUPT|damaged|C\d|K\d/u, {
    wrapDisk: retryingDisk,
    plan: FAILED_SYNCS,
  }),
  nodeBug("G-12: names are not synced", /R\d+:|DATA_CORRUPT|did not start|C\d|K\d/u, {
    wrapDisk: namelessDisk,
    plan: POWER_LOSSES,
  }),
  nodeBug("D11: files that are lost under a running node are not missed", /K1|D11/u, {
    wrapDisk: trustingDisk,
    plan: LOST_FILES,
  }),
  nodeBug("C1: clients that read without linearizability", /C1: /u, {
    staleReads: true,
    plan: LAGGING,
  }),
];

/** What looking for a bug came to. */
export interface Finding {
  readonly bug: PlantedBug;
  /** Seeds that it took; undefined when it was not found. */
  readonly seedCount: number | undefined;
  /** The first line of the failure, or why it does not count. */
  readonly message: string;
}

/** Looks for a bug, seed after seed. */
export async function findBug(bug: PlantedBug): Promise<Finding> {
  for (let seed = 1; seed <= bug.seedCountMax; seed += 1) {
    const message = await messageOf(bug.run(seed));
    if (message === undefined) continue;
    const line = message.split("\n").find((each) => bug.foundBy.test(each));
    if (line !== undefined) return { bug, seedCount: seed, message: line };
    return {
      bug,
      seedCount: undefined,
      message: `seed=${seed} failed otherwise: ${message.split("\n")[0] ?? ""}`,
    };
  }
  return { bug, seedCount: undefined, message: `nothing in ${bug.seedCountMax} seeds` };
}

/** A bug that is not there: whoever claims to find it finds everything. */
export const CANARY: PlantedBug = {
  name: "canary: nothing is planted, so nothing may be found",
  where: "Raft cluster",
  seedCountMax: 3,
  foundBy: /./u,
  run: (seed) => Promise.resolve().then(() => runCluster(seed)),
};

async function messageOf(run: Promise<unknown>): Promise<string | undefined> {
  try {
    await run;
    return undefined;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}
