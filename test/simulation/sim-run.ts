/**
 * One simulated run of a whole cluster: three nodes, some clients, the faults that the seed drew, then the healing, then the
 * checks. A run is a pure function of its seed; its trace hash says so.
 *
 *   boot --> clients work while faults happen --> heal --> clients finish --> one leader, three copies, equal states
 *        --> every path read at every node --> every copy verified --> histories linearizable
 */
import { VOTER_CONTACT_MS_MAX } from "../../src/drive/limits.ts";
import { AssertionError, must } from "../../src/std/assert.ts";
import type { Disk } from "../../src/std/disk.ts";
import type { PlantedLevelFault } from "../../src/cluster/planted-faults.ts";
import type { PlantedFault } from "../../src/raft/planted-faults.ts";
import type { PlantedChunkFault } from "../../src/replication/planted-faults.ts";
import { SeededPrng } from "../../src/std/prng.ts";
import { SimChecks } from "./sim-checks.ts";
import { SimClient, SimValues, type SimClientCounts, type SimWorld } from "./sim-client.ts";
import { SimGuard } from "./sim-guard.ts";
import { checkLinearizable, type HistoryEvent } from "./sim-history.ts";
import { FOUNDER_IDS, SimCluster } from "./sim-cluster.ts";
import { LOST_FILES_SEEN_MS, SimMachine } from "./sim-machine.ts";
import { SimNemesis } from "./sim-nemesis.ts";
import { CALL_LOSS_FACTOR, SimNetwork, type SimNetworkCounts } from "./sim-network.ts";
import { SimOperator, type MembershipKind } from "./sim-operator.ts";
import { drawStoragePlan } from "./sim-storage-plan.ts";
import { CHUNK_DAMAGES, drawPlan, type FaultKind, type SimPlan } from "./sim-plan.ts";
import { settle, SimProcess, SimScheduler } from "./sim-scheduler.ts";
import { drawUpgrades } from "./sim-upgrade-plan.ts";
import { SimUpgrades, type UpgradeCount } from "./sim-upgrades.ts";
import { SimWatcher } from "./sim-watcher.ts";

/** Sets the draw of versions apart from the others of a seed. */
const UPGRADE_SEED = 0x5034;
const CLIENT_ADDRESS = 100;
const WATCHER_ADDRESS = 90;
const OPERATOR_ADDRESS = 91;
const CLUSTER_FORMS_MS = 30_000;
/** Ten election timeouts of at most a second. */
const LEADER_MS_MAX = 10_000;
/** A copy that is pending may be made by its first target for a minute; then repair takes it, and tries again every 10 s. */
const WHOLE_MS_MAX = 150_000;
/** The grace of what is deleted, and the rounds that take it away. */
const COLLECTED_MS_MAX = 150_000;
/** No run takes longer: something waits for ever. */
const VIRTUAL_MS_MAX = 1_500_000;
const REPORT_MS = 5_000;
/** A node has compared its inventory with the tree after a start. */
const AUDITED_MS = 10_000;
/** Passes over all copies after which no damage may be left. */
const REPAIR_ROUND_COUNT_MAX = 12;
const CLIENTS_MS_MAX = 400_000;
/** All changes of the membership have ended, after the healing. */
const CHANGES_MS_MAX = 400_000;
/** Every member has the newest feature level, after the last upgrade. */
const LEVEL_MS_MAX = 30_000;
/** Whoever was removed and runs has heard of it. */
const UNAWARE_MS_MAX = 30_000;
/** A watcher has been told of the last change. */
const WATCHED_MS_MAX = 30_000;
const TREE_CHECK_INTERVAL_MS = 2_000;
const POLL_MS = 100;
/** A run is long enough for what happens by chance when so many of it are to be expected. */
const EXPECTED_COUNT_MIN = 20;

/** What a run found out. */
export interface SimResult {
  readonly seed: number;
  readonly plan: SimPlan;
  readonly traceHash: string;
  readonly eventCount: number;
  readonly sharedTurnCount: number;
  readonly observationCount: number;
  readonly virtualMs: number;
  readonly commitIndex: number;
  readonly restartCount: number;
  /** Processes that ended themselves, by what their disk did. */
  readonly ends: ReadonlyMap<FaultKind, number>;
  readonly copiesVerified: number;
  readonly copiesRepaired: number;
  readonly network: SimNetworkCounts;
  readonly faults: ReadonlyMap<FaultKind, number>;
  /** Those of them that happened to storage-only nodes. */
  readonly storageFaults: ReadonlyMap<FaultKind, number>;
  /** Files of chunk stores that running nodes said to be missing, replaced or cut short. */
  readonly lostFilesNoticed: number;
  /** Copies that storage-only nodes themselves found damaged or missing. */
  readonly storageBadCopies: number;
  /** Verified copies that storage-only nodes hold at the end. */
  readonly storageCopies: number;
  readonly changes: ReadonlyMap<MembershipKind, number>;
  /** What became of versions. */
  readonly upgrades: ReadonlyMap<UpgradeCount, number>;
  readonly configCount: number;
  /** Terms in which somebody led. */
  readonly leaderCount: number;
  readonly changeEventCount: number;
  readonly watcherResumeCount: number;
  readonly clients: SimClientCounts;
}

/** Settings of a run beside its seed. */
export interface SimOptions {
  /** Replaces the plan's fields, for tests of the simulator itself. */
  readonly plan?: Partial<SimPlan>;
  /** Storage-only nodes beside the voters, with faults and changes of their own. */
  readonly storage?: boolean;
  readonly wrapDisk?: (disk: Disk) => Disk;
  readonly plantedFault?: PlantedFault;
  readonly plantedChunkFault?: PlantedChunkFault;
  readonly plantedLevelFault?: PlantedLevelFault;
  /** Lets clients read without linearizability, which the check of histories must notice. */
  readonly staleReads?: boolean;
  /** Skips the watch for real asynchrony, which costs time; the fixed seeds run with it. */
  readonly unguarded?: boolean;
}

/** A failed run: says what broke, and how to see it again. */
export class SimFailure extends Error {
  override readonly name = "SimFailure";
  readonly seed: number;

  constructor(seed: number, message: string, cause: unknown) {
    super(message, { cause });
    this.seed = seed;
  }
}

/** Runs a seed to its end. Throws SimFailure. */
export async function simulate(seed: number, options: SimOptions = {}): Promise<SimResult> {
  // Whoever called may still have something to do, such as to set the timeout of a test.
  await settle();
  const run = new SimRun(seed, options);
  const guard = options.unguarded === true ? undefined : new SimGuard();
  const onRejection = (reason: unknown): void => {
    if (!isOfTheDead(reason)) run.fail(asError(reason));
  };
  process.on("unhandledRejection", onRejection);
  guard?.enable();
  let failure: unknown;
  try {
    await run.run();
  } catch (error) {
    failure = error;
  } finally {
    process.off("unhandledRejection", onRejection);
  }
  try {
    guard?.disable();
  } catch (error) {
    failure ??= error;
  }
  if (failure !== undefined) throw run.report(failure);
  return run.result();
}

class SimRun {
  readonly #seed: number;
  readonly #plan: SimPlan;
  readonly #scheduler = new SimScheduler();
  readonly #network: SimNetwork;
  readonly #cluster: SimCluster;
  readonly #operator: SimOperator;
  readonly #watcher: SimWatcher;
  readonly #checks: SimChecks;
  readonly #nemesis: SimNemesis;
  readonly #upgrades: SimUpgrades;
  readonly #clients: readonly SimClient[];
  readonly #director: SimProcess;
  readonly #history: HistoryEvent[] = [];
  readonly #counts: SimClientCounts = {
    done: 0,
    refused: 0,
    unknown: 0,
    notDone: 0,
    retried: 0,
    largeDone: 0,
    bytesRead: 0,
    ticketed: 0,
  };
  #failure: Error | undefined;
  #isOver = false;
  #order = 0;
  #copiesVerified = 0;
  #copiesRepaired = 0;
  #storageCopies = 0;
  #phase = "boot";

  constructor(seed: number, options: SimOptions) {
    this.#seed = seed;
    const prng = new SeededPrng(seed);
    const drawn = drawPlan(seed, prng.fork());
    // From a generator of its own, so that the voters of a seed meet the same with and without.
    const whole = options.storage === true ? drawStoragePlan(drawn, new SeededPrng(seed).fork()) : drawn;
    // Likewise: with two versions or one.
    const upgrade = drawUpgrades(whole.faultMs, new SeededPrng(seed ^ UPGRADE_SEED).fork());
    this.#plan = { ...whole, upgrade, ...options.plan };
    const plan = this.#plan;
    this.#director = new SimProcess("director", this.#scheduler, 0, 1);
    const outside = new Map<number, SimProcess>();
    const outsider = (name: string, address: number): SimProcess => {
      const process = new SimProcess(name, this.#scheduler, 0, 1);
      outside.set(address, process);
      return process;
    };
    this.#network = new SimNetwork({
      scheduler: this.#scheduler,
      prng: prng.fork(),
      faults: { loss: plan.loss, duplication: plan.duplication, delayMeanMs: plan.delayMeanMs },
      processOf: (id) => outside.get(id) ?? this.#cluster.find(id)?.process,
    });
    this.#scheduler.turns = { prng: prng.fork(), rate: plan.turnRate, windowMs: plan.turnWindowMs };
    this.#cluster = new SimCluster(
      (memberId, contacts) =>
        new SimMachine({
          memberId,
          contacts,
          founderIds: FOUNDER_IDS,
          plan,
          scheduler: this.#scheduler,
          network: this.#network,
          prng: prng.fork(),
          nodeOf: (id) => this.#cluster.find(id)?.node,
          peerOf: (id) => this.#cluster.find(id)?.peer,
          onMessage: (message) => {
            this.#checks.observeMessage(message);
            this.#nemesis.remember(message);
          },
          onDelivery: (message) => this.#checks.observeDelivery(message),
          onStopping: (machine) => {
            this.#checks.observe();
            this.#checks.observeEnded(machine);
          },
          fail: (error) => this.fail(error),
          onUnsupported: (machine, error) => this.#upgrades.refused(machine, error),
          wrapDisk: options.wrapDisk,
          plantedFault: options.plantedFault,
          plantedChunkFault: options.plantedChunkFault,
          plantedLevelFault: options.plantedLevelFault,
        }),
    );
    this.#checks = new SimChecks(this.#cluster, plan.bounds);
    const shared = { cluster: this.#cluster, network: this.#network, scheduler: this.#scheduler };
    this.#nemesis = new SimNemesis({
      ...shared,
      plan,
      prng: prng.fork(),
      stableIndexOf: (memberId) => this.#checks.stableIndexOf(memberId),
      fail: (error) => this.fail(error),
    });
    this.#upgrades = new SimUpgrades({
      ...{ plan: plan.upgrade, cluster: this.#cluster, scheduler: this.#scheduler, director: this.#director },
      fail: (error) => this.fail(error),
    });
    const memberIds = (): readonly number[] => this.#cluster.memberIds;
    const world: SimWorld = {
      network: this.#network,
      values: new SimValues(),
      nodeOf: (id) => this.#cluster.find(id)?.servingPeer,
      onServed: (id) => checkContact(must(this.#cluster.find(id), "who serves is there")),
      nowMs: () => this.#scheduler.nowMs,
      tick: () => (this.#order += 1),
      record: (event) => this.#history.push(event),
      counts: this.#counts,
    };
    this.#clients = Array.from({ length: plan.clientCount }, (_, index) => {
      const address = CLIENT_ADDRESS + index;
      const process = outsider(`client${index + 1}`, address);
      return new SimClient({
        name: process.name,
        address,
        process,
        prng: prng.fork(),
        world,
        memberIds,
        largeFiles: plan.largeFiles,
        thinkMeanMs: plan.thinkMeanMs,
        startsApart: plan.clientsApart,
        staleReads: options.staleReads ?? false,
      });
    });
    this.#operator = new SimOperator({
      ...shared,
      process: outsider("operator", OPERATOR_ADDRESS),
      address: OPERATOR_ADDRESS,
      prng: prng.fork(),
      openMatters: () => this.#checks.openMatters(),
    });
    this.#watcher = new SimWatcher({
      ...shared,
      name: "watcher",
      process: outsider("watcher", WATCHER_ADDRESS),
      address: WATCHER_ADDRESS,
      prng: prng.fork(),
    });
  }

  /** Remembers the first thing that went wrong; the run ends with it. */
  fail(error: Error): void {
    this.#failure ??= error;
  }

  /** Runs to the end. */
  async run(): Promise<void> {
    for (const machine of this.#cluster.all) await machine.format();
    this.#direct().then(
      () => {
        this.#isOver = true;
      },
      (error: unknown) => this.fail(asError(error)),
    );
    let treesCheckedMs = 0;
    while (!this.#isOver && this.#failure === undefined) {
      const isAlive = await this.#scheduler.step();
      this.#checks.observe();
      this.#upgrades.observe();
      if (this.#scheduler.nowMs - treesCheckedMs > TREE_CHECK_INTERVAL_MS) {
        treesCheckedMs = this.#scheduler.nowMs;
        this.#checks.checkTrees();
      }
      if (this.#scheduler.nowMs > VIRTUAL_MS_MAX) this.fail(new Error("the run does not come to an end"));
      if (!isAlive && !this.#isOver)
        this.fail(new Error("nothing is left to happen, and the run is not over"));
    }
    if (this.#failure !== undefined) throw this.#failure;
    checkLinearizable(this.#history);
    this.#checkCounts();
  }

  /** What the run found out. */
  result(): SimResult {
    return {
      seed: this.#seed,
      plan: this.#plan,
      traceHash: this.#scheduler.traceHash(),
      eventCount: this.#scheduler.eventCount,
      sharedTurnCount: this.#scheduler.sharedTurnCount,
      observationCount: this.#checks.observationCount,
      virtualMs: this.#scheduler.nowMs,
      commitIndex: this.#checks.commitIndexMax,
      restartCount: this.#cluster.all.reduce((sum, machine) => sum + machine.incarnationCount - 1, 0),
      ends: this.#nemesis.endCounts,
      copiesVerified: this.#copiesVerified,
      copiesRepaired: this.#copiesRepaired,
      network: this.#network.counts,
      faults: this.#nemesis.counts,
      storageFaults: this.#nemesis.storageCounts,
      lostFilesNoticed: this.#cluster.all.reduce((sum, { lostFileCount }) => sum + lostFileCount, 0),
      storageBadCopies: this.#cluster.all.reduce(
        (sum, { isStorageOnly, badCopies }) => sum + (isStorageOnly ? new Set(badCopies).size : 0),
        0,
      ),
      storageCopies: this.#storageCopies,
      changes: this.#operator.counts,
      upgrades: this.#upgrades.counts,
      configCount: this.#checks.configCount,
      leaderCount: this.#checks.ledTerms.size,
      changeEventCount: this.#checks.feed.count,
      watcherResumeCount: this.#watcher.resumeCount,
      clients: this.#counts,
    };
  }

  /** The failure with everything that helps to find its cause. */
  report(cause: unknown): SimFailure {
    const text = cause instanceof Error ? (cause.stack ?? cause.message) : String(cause);
    const logs = this.#cluster.all.map((machine) => machine.log.slice(-40).join("\n")).join("\n---\n");
    const message = [
      `seed=${this.#seed} failed in phase "${this.#phase}" at ${this.#scheduler.nowMs.toFixed(1)} ms; again: npm run simulate -- ${this.#plan.storageCount > 0 ? "--storage " : ""}--seed ${this.#seed}`,
      text,
      `plan: ${JSON.stringify(this.#plan)}`,
      `operator: ${this.#operator.doing}`,
      this.#checks.describe(),
      `logs:\n${logs}`,
      `last events:\n${this.#scheduler.recentTrace.slice(-60).join("\n")}`,
    ].join("\n");
    return new SimFailure(this.#seed, message, cause);
  }

  async #direct(): Promise<void> {
    const { operationCount } = this.#plan;
    const [first] = this.#clients;
    for (const machine of this.#cluster.all) machine.start();
    await this.#until("the cluster forms", CLUSTER_FORMS_MS, () => this.#checks.openMatters());
    if (this.#plan.storageCount > 0) {
      await this.#operator.run(
        Array.from({ length: this.#plan.storageCount }, () => ({ kind: "add-storage", atMs: 0 }) as const),
      );
      await this.#until("the storage-only nodes belong", CLUSTER_FORMS_MS, () => this.#checks.openMatters());
    }
    await must(first, "a client").prepare();
    this.#phase = "faults";
    const atWork = this.#clients.map((client) => client.run(operationCount));
    let workLeft = 0;
    const begin = (work: Promise<unknown>): void => {
      workLeft += 1;
      work.then(
        () => {
          workLeft -= 1;
        },
        (error: unknown) => this.fail(asError(error)),
      );
    };
    for (const work of atWork) begin(work);
    begin(this.#watcher.run());
    let hasChanged = false;
    this.#upgrades.run();
    begin(this.#operator.run(this.#plan.changes).then(() => (hasChanged = true)));
    await this.#nemesis.run(this.#director);
    while (this.#scheduler.nowMs < this.#plan.faultMs) await this.#director.delay(POLL_MS);
    this.#phase = "healing";
    this.#scheduler.note("heal");
    await this.#heal();
    await this.#until("the membership is changed", CHANGES_MS_MAX, () =>
      hasChanged ? [] : [this.#operator.doing],
    );
    await this.#until("the clients finish", CLIENTS_MS_MAX, () =>
      workLeft > 1 ? [`${workLeft - 1} clients`] : [],
    );
    await this.#until("who was removed has heard of it", UNAWARE_MS_MAX, () =>
      this.#operator.unaware().map(({ nodeId }) => nodeId),
    );
    this.#phase = "last upgrades";
    await this.#upgrades.finish();
    await this.#until("every member has the newest feature level", LEVEL_MS_MAX, () =>
      this.#upgrades.openMatters(),
    );
    await this.#upgrades.downgradeAfterRaise();
    this.#phase = "final checks";
    await this.#finalChecks();
  }

  /** Ends all faults; pauses and restarts under way end by themselves. */
  async #heal(): Promise<void> {
    this.#nemesis.heal();
    for (const machine of this.#cluster.all) machine.process?.pause(0);
    await this.#until("one leader is known everywhere", LEADER_MS_MAX, () =>
      this.#checks.openMatters().filter((matter) => /leader|serve/u.test(matter)),
    );
  }

  async #finalChecks(): Promise<void> {
    // What is lost under a running node it finds by itself, and tells the tree.
    if (this.#nemesis.losers.size > 0) await this.#director.delay(LOST_FILES_SEEN_MS + REPORT_MS);
    await this.#until("three copies of everything", WHOLE_MS_MAX, () => this.#checks.openMatters());
    let isDamaged = this.#mayBeDamaged();
    for (let round = 1; isDamaged && round <= REPAIR_ROUND_COUNT_MAX; round += 1) {
      const { damaged } = await this.#checks.verify(true);
      this.#copiesRepaired += damaged;
      isDamaged = damaged > 0;
      // What was found is on its way to the tree.
      if (isDamaged) await this.#director.delay(REPORT_MS);
      await this.#until("damage is repaired", WHOLE_MS_MAX, () => this.#checks.openMatters());
    }
    await this.#restartLosers();
    const [first] = this.#clients;
    for (const memberId of this.#cluster.memberIds) await must(first, "a client").readAll(memberId);
    const { copies, storageCopies } = await this.#checks.verify(false);
    this.#copiesVerified = copies;
    this.#storageCopies = storageCopies;
    if (this.#plan.awaitsCollection) {
      await this.#until("what was deleted is gone", COLLECTED_MS_MAX, () => {
        const count = this.#checks.dropCount();
        return count > 0 ? [`${count} copies to drop`] : [];
      });
    }
    this.#checks.checkTrees();
    this.#checks.checkEqualStates();
    await this.#checkFeed();
  }

  /** Whether copies may be damaged of which nobody knows, because nobody has read them. */
  #mayBeDamaged(): boolean {
    const { counts, losers } = this.#nemesis;
    const found = CHUNK_DAMAGES.some((kind) => kind !== "file-loss" && counts.has(kind));
    return found || [...losers].some(({ mayHideDamage }) => mayHideDamage);
  }

  /**
   * Nothing that looks well to a node which has lost files under its feet is only held by files that are open: every copy is whole,
   * and a new process finds nothing that the old one did not know.
   */
  async #restartLosers(): Promise<void> {
    for (const machine of this.#nemesis.losers) {
      this.#phase = `the end of ${machine.nodeId}, which has lost files`;
      await this.#checks.verify(false);
      const knownCount = machine.badCopies.length;
      const wanted = this.#checks.copiesAt(machine.memberId);
      machine.stop("kill");
      machine.start();
      await this.#until("it serves again", WHOLE_MS_MAX, () => this.#checks.openMatters());
      await this.#director.delay(AUDITED_MS);
      const found = machine.badCopies.slice(knownCount).filter((copy) => wanted.has(copy));
      if (found.length > 0) {
        throw new Error(
          `D11: only the next process of ${machine.nodeId} found what is lost: ${found.join()}`,
        );
      }
      await this.#checks.verify(false);
    }
    this.#phase = "final checks";
  }

  /** The feed explains the tree, and the watcher was told all of it. */
  async #checkFeed(): Promise<void> {
    const { feed } = this.#checks;
    feed.checkTree(must(this.#cluster.present[0]?.servingNode, "all nodes serve").consensus.reader());
    await this.#until("the watcher is told of everything", WATCHED_MS_MAX, () =>
      this.#watcher.lastIndex < feed.lastIndex ? [`change ${this.#watcher.lastIndex}`] : [],
    );
    this.#watcher.end();
    feed.checkWatched(this.#watcher.name, this.#watcher.changes);
  }

  async #until(what: string, withinMs: number, openMatters: () => readonly string[]): Promise<void> {
    const endMs = this.#scheduler.nowMs + withinMs;
    for (;;) {
      const open = openMatters();
      if (open.length === 0) return;
      if (this.#scheduler.nowMs > endMs) {
        throw new Error(`liveness: not within ${withinMs} ms: ${what}; open: ${open.join("; ")}`);
      }
      await this.#director.delay(POLL_MS);
    }
  }

  /** A run in which what was to happen did not happen proves nothing. */
  #checkCounts(): void {
    const problems: string[] = [];
    if (this.#counts.done === 0) problems.push("no operation was done");
    // A storage-only node may hold nothing that could be damaged; all seeds together meet every kind.
    const certain = this.#plan.faults.filter(({ part }) => part !== "storage");
    for (const kind of new Set(certain.map((fault) => fault.kind))) {
      if ((this.#nemesis.counts.get(kind) ?? 0) === 0) problems.push(`no ${kind}`);
    }
    const { sent, lost, duplicated } = this.#network.counts;
    const isExpected = (rate: number): boolean => rate * CALL_LOSS_FACTOR * sent > EXPECTED_COUNT_MIN;
    if (isExpected(this.#plan.loss) && lost === 0) problems.push("no message was lost");
    if (isExpected(this.#plan.duplication) && duplicated === 0) problems.push("none was doubled");
    if (this.#checks.observationCount === 0) problems.push("nothing was observed");
    if (problems.length > 0) throw new Error(`the run is invalid: ${problems.join("; ")}`);
  }
}

/** A node without a tree has heard of a voter of late whenever it serves somebody. */
function checkContact({ isStorageOnly, process, voterAnswerMs, nodeId }: SimMachine): void {
  if (!isStorageOnly || process === undefined) return;
  const silentMs = process.monotonicMs() - voterAnswerMs;
  if (silentMs <= VOTER_CONTACT_MS_MAX) return;
  throw new Error(`S1: ${nodeId} served a client ${silentMs} ms after the last answer of a voter`);
}

/** Whether this is what a process that died in the middle of a turn came to: its stores are gone from under it. */
function isOfTheDead(reason: unknown): boolean {
  return reason instanceof AssertionError && reason.message.endsWith("the store is crashed");
}

function asError(error: unknown): Error {
  return error instanceof Error ? error : new Error(String(error));
}
