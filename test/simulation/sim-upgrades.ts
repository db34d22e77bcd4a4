/**
 * Versions of a run (P4): carries out the planned upgrades and downgrades, sees to machines whose process refuses to run because
 * their version is too old, and checks what must hold (U1): no member is above the level that it supports, the level never goes
 * down and is raised at one index everywhere, and never before every member ran a version that supports it.
 */
import { FEATURE_LEVELS, supportsLevel, type FeatureLevels } from "../../src/drive/feature-levels.ts";
import { DriveError } from "../../src/drive/errors.ts";
import { featureLevel } from "../../src/metadata/feature-level.ts";
import { isRemoved } from "../../src/metadata/members.ts";
import type { OrderedReader } from "../../src/std/ordered-store.ts";
import type { SimCluster } from "./sim-cluster.ts";
import type { SimMachine } from "./sim-machine.ts";
import type { SimProcess, SimScheduler } from "./sim-scheduler.ts";
import { foundingLevelOf, type PlannedVersion, type UpgradePlan } from "./sim-upgrade-plan.ts";

/** What is counted. "refused": a process of the older version ended itself, because the cluster's level had been raised. */
export type UpgradeCount = "upgrade" | "downgrade" | "raise" | "refused";

/** A step that has no machine to happen to is tried again after this, so often. */
const RETRY_DELAY_MS = 500;
const RETRY_COUNT_MAX = 10;
/** How long whoever runs the machines takes to upgrade one that refused. */
const REFUSED_DOWN_MS = 300;
/** Between the restarts of the last upgrade: one machine after the other. */
const ONE_BY_ONE_MS = 2_000;

/** The versions of one run. */
export class SimUpgrades {
  readonly counts = new Map<UpgradeCount, number>();
  readonly newest: FeatureLevels;
  readonly #plan: UpgradePlan | undefined;
  readonly #cluster: SimCluster;
  readonly #scheduler: SimScheduler;
  readonly #director: SimProcess;
  readonly #fail: (error: Error) => void;
  /** By level: the lowest applied index at which a member had it, and the highest at which one did not. */
  readonly #bounds = new Map<number, { with: number; without: number }>();
  #levelMax = 0;
  #isFinishing = false;

  constructor(options: {
    readonly plan: UpgradePlan | undefined;
    readonly cluster: SimCluster;
    readonly scheduler: SimScheduler;
    readonly director: SimProcess;
    readonly fail: (error: Error) => void;
  }) {
    this.#plan = options.plan;
    this.newest = options.plan?.newer ?? FEATURE_LEVELS;
    this.#cluster = options.cluster;
    this.#scheduler = options.scheduler;
    this.#director = options.director;
    this.#fail = options.fail;
  }

  /** Begins the planned steps; each happens at its time, or not at all when the machine is gone. */
  run(): void {
    for (const step of this.#plan?.steps ?? []) {
      this.#director.after(step.atMs, "", () => this.#try(step, RETRY_COUNT_MAX));
    }
  }

  /** Upgrades what still has the older version, one machine after the other; planned steps that are late happen no more. */
  async finish(): Promise<void> {
    this.#isFinishing = true;
    for (const machine of this.#cluster.holders) {
      if (machine.featureLevels === this.newest) continue;
      this.#restart(machine, this.newest, 1);
      this.#count("upgrade");
      await this.#director.delay(ONE_BY_ONE_MS);
    }
  }

  /** Takes a machine that is left back to the older version: it must refuse to run, and the count of refusals says so. */
  async downgradeAfterRaise(): Promise<void> {
    const older = this.#plan?.older;
    const machine = this.#cluster.present.at(-1);
    if (older === undefined || machine === undefined) return;
    const before = this.counts.get("refused") ?? 0;
    this.#restart(machine, older, 1);
    this.#count("downgrade");
    while ((this.counts.get("refused") ?? 0) === before) await this.#director.delay(RETRY_DELAY_MS);
  }

  /** What keeps the members from the newest level. */
  openMatters(): readonly string[] {
    return this.#cluster.present.flatMap(({ nodeId, servingNode }) => {
      if (servingNode === undefined) return [`${nodeId} does not serve`];
      const level = featureLevel(servingNode.consensus.reader());
      return level === this.newest.max ? [] : [`${nodeId} has feature level ${level}`];
    });
  }

  /** A process ended itself because of its version: it must be right, and is upgraded. */
  refused(machine: SimMachine, error: Error): void {
    const level = error instanceof DriveError ? Number(error.metadata["feature_level"]) : Number.NaN;
    const isRight = level <= this.newest.max && !supportsLevel(machine.featureLevels, level);
    if (!isRight) {
      this.#fail(new Error(`U1: ${machine.nodeId} refused to run: ${error.message}`, { cause: error }));
      return;
    }
    this.#scheduler.note(`${machine.nodeId} refuses: ${error.message}`);
    this.#count("refused");
    machine.stop("kill");
    machine.featureLevels = this.newest;
    this.#director.after(REFUSED_DOWN_MS, "", () => startAgain(machine));
  }

  /** Looks at the level of every member; after every event. @throws Error U1 */
  observe(): void {
    for (const machine of this.#cluster.all) {
      const { servingNode, nodeId } = machine;
      if (servingNode === undefined) continue;
      const { consensus } = servingNode;
      if (consensus.isRebuilding()) continue;
      const index = consensus.appliedIndex();
      if (index === 0) continue;
      const level = featureLevel(consensus.reader());
      if (level > machine.featureLevels.max) {
        throw new Error(
          `U1: ${nodeId} is at feature level ${level} and supports ${machine.featureLevels.max}`,
        );
      }
      if (level > this.#levelMax) this.#raised(level, consensus.reader());
      this.#compare(nodeId, index, level);
    }
  }

  /** Somebody was seen to have a level that nobody had before; the tree there says who is a member. */
  #raised(level: number, reader: OrderedReader): void {
    if (level > foundingLevelOf(this.#plan)) this.#count("raise");
    this.#levelMax = level;
    for (const { nodeId, memberId, supportedMax } of this.#cluster.holders) {
      if (supportedMax >= level || supportedMax === 0) continue;
      // The operator has not heard yet that the removal has ended.
      if (isRemoved(reader, memberId)) continue;
      throw new Error(
        `U1: the feature level was raised to ${level}, and ${nodeId} never ran what supports it`,
      );
    }
  }

  /** Whether a level holds is a question of the index alone, and from some index on it does. */
  #compare(nodeId: string, index: number, level: number): void {
    for (let each = 2; each <= this.newest.max; each += 1) {
      const bound = this.#bounds.get(each) ?? { with: Number.POSITIVE_INFINITY, without: 0 };
      this.#bounds.set(each, bound);
      if (level >= each) bound.with = Math.min(bound.with, index);
      else bound.without = Math.max(bound.without, index);
      if (bound.without < bound.with || this.#isFounding(each)) continue;
      throw new Error(
        `U1: ${nodeId} has level ${level} after ${index}; level ${each} held after ${bound.with} and did not after ${bound.without}`,
      );
    }
  }

  /** A level that the first command brings is not there before it. */
  #isFounding(level: number): boolean {
    return level <= foundingLevelOf(this.#plan);
  }

  #try(step: PlannedVersion, leftCount: number): void {
    if (this.#isFinishing) return;
    const machine = this.#machineOf(step);
    const wanted = step.kind === "upgrade" ? this.newest : this.#plan?.older;
    if (machine === undefined || wanted === undefined || machine.featureLevels === wanted) {
      if (leftCount > 0 && step.kind === "downgrade") {
        this.#director.after(RETRY_DELAY_MS, "", () => this.#try(step, leftCount - 1));
      }
      return;
    }
    this.#restart(machine, wanted, step.durationMs);
    this.#count(step.kind);
  }

  #machineOf({ kind, memberId }: PlannedVersion): SimMachine | undefined {
    const { holders } = this.#cluster;
    if (kind === "upgrade") return holders.find((machine) => machine.memberId === memberId);
    const machine = holders[(memberId - 1) % holders.length];
    // One that waits to be admitted has said which version it is.
    return machine !== undefined && machine.incarnationCount > 0 ? machine : undefined;
  }

  #restart(machine: SimMachine, levels: FeatureLevels, downMs: number): void {
    this.#scheduler.note(`${machine.nodeId} gets a version of the levels ${levels.min} to ${levels.max}`);
    if (machine.process !== undefined) machine.stop("kill");
    machine.featureLevels = levels;
    this.#director.after(downMs, "", () => startAgain(machine));
  }

  #count(what: UpgradeCount): void {
    this.counts.set(what, (this.counts.get(what) ?? 0) + 1);
  }
}

function startAgain(machine: SimMachine): void {
  const isThere = machine.incarnationCount > 0 && !machine.isLost && !machine.isRemoved;
  if (isThere && machine.process === undefined) machine.start();
}
