/**
 * What goes wrong in a run: carries out the planned faults, counts them, and heals everything at the end.
 *
 * A fault that cannot happen at its instant (the machine is down already, there is nothing to damage yet) is tried again a
 * little later, so that every planned fault happens.
 */
import { hasReason } from "../../src/drive/errors.ts";
import type { Message } from "../../src/raft/types.ts";
import { assert, must } from "../../src/std/assert.ts";
import { SeededPrng } from "../../src/std/prng.ts";
import type { SimCluster } from "./sim-cluster.ts";
import {
  damageFile,
  pathsToDamage,
  STORE_DAMAGES,
  type DamagedFiles,
  type FileDamage,
} from "./sim-damage.ts";
import { loseFiles } from "./sim-file-loss.ts";
import { CLUSTER_ID, type SimMachine } from "./sim-machine.ts";
import type { SimNetwork } from "./sim-network.ts";
import type { FaultKind, PlannedFault, SimPlan } from "./sim-plan.ts";
import type { SimProcess, SimScheduler } from "./sim-scheduler.ts";
import { spoilRunning, trouble, unclear, type FatalTrouble } from "./sim-trouble.ts";

const RETRY_DELAY_MS = 200;
/** Attempts of one fault before the run counts as broken. */
const RETRY_COUNT_MAX = 200;
/** The same for a storage-only machine, after which the fault does not happen. */
const STORAGE_RETRY_COUNT_MAX = 25;
const SLOW_DISK_MEAN_MS = 60;
/** A disk that failed before the healing has ended its process by then. */
const LATE_END_MS = 1_000;
/** A process that has not met the failure of its disk for this long is restarted, when another one is to come. */
const UNMET_MS_MAX = 20_000;
/** Messages remembered for replays. */
const ARCHIVE_COUNT_MAX = 300;
const DAY_MS = 24 * 3600 * 1000;
/** Bytes that a full disk may still have. */
const LITTLE_SPACE_BYTES = 64 * 1024;

/** Sets what is drawn for lost files apart from the draws of the other faults of a seed. */
const FILE_LOSS_SEED = 0xf11e;

/** Runs faults. */
export class SimNemesis {
  /** How often each kind happened. */
  readonly counts = new Map<FaultKind, number>();
  /** How often each kind ended a process, as it must once the process meets it. */
  readonly endCounts = new Map<FaultKind, number>();
  readonly #plan: SimPlan;
  readonly #cluster: SimCluster;
  readonly #network: SimNetwork;
  readonly #scheduler: SimScheduler;
  readonly #prng: SeededPrng;
  readonly #stableIndexOf: (memberId: number) => number;
  readonly #fail: (error: Error) => void;
  #isHealed = false;
  readonly #archive: Message[] = [];
  /** Machines that have lost files of their chunk stores under a running process. */
  readonly losers = new Set<SimMachine>();
  readonly #lossPrng: SeededPrng;
  /** How often each kind happened to a storage-only node; those are in `counts` too. */
  readonly storageCounts = new Map<FaultKind, number>();
  /** When the disk of a machine was last made to fail, by its member. */
  readonly #armedMs = new Map<number, number>();
  /** Faults under way or to come; the healing waits for it. */
  #pendingCount = 0;

  constructor(options: {
    readonly plan: SimPlan;
    readonly cluster: SimCluster;
    readonly network: SimNetwork;
    readonly scheduler: SimScheduler;
    readonly prng: SeededPrng;
    /** How far a member's log is durable. */
    readonly stableIndexOf: (memberId: number) => number;
    readonly fail: (error: Error) => void;
  }) {
    this.#plan = options.plan;
    this.#cluster = options.cluster;
    this.#network = options.network;
    this.#scheduler = options.scheduler;
    this.#prng = options.prng;
    this.#lossPrng = new SeededPrng(options.plan.seed ^ FILE_LOSS_SEED).fork();
    this.#stableIndexOf = options.stableIndexOf;
    this.#fail = options.fail;
  }

  /** Sees every Raft message as it leaves. */
  remember(message: Message): void {
    if (message.kind === "snapshot") return;
    if (this.#archive.length < ARCHIVE_COUNT_MAX) this.#archive.push(message);
    else this.#archive[this.#prng.below(ARCHIVE_COUNT_MAX)] = message;
  }

  /** Runs every planned fault from now on; resolves when the last one has happened. */
  async run(director: SimProcess): Promise<void> {
    for (const fault of this.#plan.faults) {
      this.#pendingCount += 1;
      director.after(fault.atMs, "", () => this.#try(director, fault, retriesOf(fault)));
    }
    while (this.#pendingCount > 0) await director.delay(RETRY_DELAY_MS);
  }

  /** Ends every fault: the network is whole and fast, disks are as planned, every machine runs. */
  heal(): void {
    this.#network.heal();
    this.#network.faults = { ...this.#network.faults, loss: 0, duplication: 0 };
    for (const machine of this.#cluster.holders) {
      machine.diskMeanMs = this.#plan.diskMeanMs;
      machine.disk.clearFailures();
      // What has failed already may end its process, though the process has not heard of it yet.
      this.#isHealed = true;
      this.#scheduler.schedule(LATE_END_MS, "", () => {
        machine.onDiskError = undefined;
      });
      startAgain(machine);
    }
  }

  #try(director: SimProcess, fault: PlannedFault, leftCount: number): void {
    if (leftCount === 0 && fault.part === "storage") {
      // One that holds nothing has nothing to damage, and nothing to sync.
      this.#pendingCount -= 1;
      return;
    }
    assert(leftCount > 0, `the fault ${fault.kind} could not happen`);
    if (!this.#happen(director, fault)) {
      director.after(RETRY_DELAY_MS, "", () => this.#try(director, fault, leftCount - 1));
      return;
    }
    this.#scheduler.note(`fault ${fault.kind} at ${fault.memberId} for ${fault.durationMs}`);
    const maps = fault.part === "storage" ? [this.counts, this.storageCounts] : [this.counts];
    for (const counts of maps) counts.set(fault.kind, (counts.get(fault.kind) ?? 0) + 1);
    this.#pendingCount -= 1;
  }

  /** Carries out a fault; false when it cannot be now. */
  #happen(director: SimProcess, fault: PlannedFault): boolean {
    const { durationMs } = fault;
    const machine = this.#machineOf(fault);
    if (machine === undefined) return false;
    const { memberId } = machine;
    switch (fault.kind) {
      case "partition":
        return this.#cut(director, this.#waysOf(memberId, "both"), durationMs);
      case "one-way-partition":
        return this.#cut(
          director,
          this.#waysOf(memberId, this.#prng.below(2) === 0 ? "in" : "out"),
          durationMs,
        );
      case "kill":
      case "power-loss":
        if (machine.process === undefined) return false;
        machine.stop(fault.kind);
        director.after(durationMs, "", () => startAgain(machine));
        return true;
      case "power-loss-of-all":
        for (const each of this.#cluster.holders) {
          if (each.process !== undefined) each.stop("power-loss");
          director.after(durationMs * this.#prng.float() + 1, "", () => startAgain(each));
        }
        return true;
      case "pause":
        if (machine.process === undefined) return false;
        machine.process.pause(durationMs);
        return true;
      case "slow-disk":
        machine.diskMeanMs = SLOW_DISK_MEAN_MS;
        director.after(durationMs, "", () => {
          machine.diskMeanMs = this.#plan.diskMeanMs;
        });
        return true;
      case "stuck-disk":
        machine.diskStuckUntilMs = this.#scheduler.nowMs + durationMs;
        return true;
      case "bit-flip":
        return this.#damage(machine, "chunks", "flipped-bit");
      case "log-rot":
        return this.#rotFile(director, machine, durationMs, "raft/log", "flipped-bit");
      case "misdirected-write":
      case "lost-write":
      case "unreadable-page": {
        const files = this.#prng.below(2) === 0 || machine.isStorageOnly ? "chunks" : "raft/log";
        return this.#rotFile(director, machine, durationMs, files, fault.kind);
      }
      case "state-damage":
      case "index-damage": {
        const which = fault.kind === "state-damage" ? "state" : "index";
        const how = must(STORE_DAMAGES[this.#prng.below(STORE_DAMAGES.length)], "a way");
        return this.#rot(director, machine, durationMs, () => machine.spoilStore(which, how, this.#prng));
      }
      case "disk-full":
        machine.disk.capacityBytes = machine.disk.usedBytes + this.#prng.below(LITTLE_SPACE_BYTES);
        director.after(durationMs, "", () => giveSpace(machine));
        return true;
      case "sync-error":
        if (!this.#expectEnd(director, machine, fault)) return false;
        machine.disk.failNext("sync", /\.seg$/u, "EIO");
        return true;
      case "promise-sync-error":
      case "read-only-disk":
      case "too-many-files":
      case "access-denied":
        if (!this.#expectEnd(director, machine, fault, fault.kind)) return false;
        trouble(machine.disk, fault.kind, this.#prng);
        return true;
      case "read-error": {
        const done = machine.servingNode === undefined ? undefined : spoilRunning(machine, this.#prng);
        if (done !== undefined) this.#scheduler.note(done);
        return done !== undefined;
      }
      case "file-loss": {
        const lost = machine.servingPeer === undefined ? [] : loseFiles(machine, this.#lossPrng);
        for (const each of lost) this.#scheduler.note(each);
        if (lost.length > 0) this.losers.add(machine);
        return lost.length > 0;
      }
      case "half-open": {
        const others = this.#cluster.memberIds.filter((id) => id !== memberId);
        for (const id of others) this.#network.halfOpen(id, memberId);
        director.after(durationMs, "", () => {
          for (const id of others) this.#network.reopen(id, memberId);
        });
        return true;
      }
      case "clock-jump":
        if (machine.process === undefined) return false;
        machine.process.jumpWallClock(Math.floor((this.#prng.float() - 0.5) * 2 * DAY_MS));
        return true;
      case "old-replay":
        return this.#replay();
      case "foreign-message":
        return this.#misroute();
    }
  }

  /** From now on the process may end itself, and has to say why; false when it does not serve, or something is to end it already. */
  #expectEnd(director: SimProcess, machine: SimMachine, fault: PlannedFault, says?: FatalTrouble): boolean {
    if (machine.servingPeer === undefined) return false;
    if (machine.onDiskError !== undefined) {
      // One that never does what its disk would fail keeps every other fault of the kind waiting: somebody restarts it.
      const armedMs = this.#scheduler.nowMs - (this.#armedMs.get(machine.memberId) ?? this.#scheduler.nowMs);
      if (armedMs > UNMET_MS_MAX) {
        machine.stop("kill");
        director.after(1, "", () => startAgain(machine));
      }
      return false;
    }
    this.#armedMs.set(machine.memberId, this.#scheduler.nowMs);
    machine.onDiskError = (error): void => {
      this.#scheduler.note(`${fault.kind} ended ${machine.nodeId}: ${error.message}`);
      this.endCounts.set(fault.kind, (this.endCounts.get(fault.kind) ?? 0) + 1);
      const problem = says === undefined ? undefined : unclear(says, error);
      if (problem !== undefined) this.#fail(new Error(problem, { cause: error }));
      // What a failed sync should have covered may be gone, though readers still saw it.
      machine.stop("power-loss");
      director.after(this.#isHealed ? 1 : fault.durationMs, "", () => startAgain(machine));
    };
    return true;
  }

  #machineOf({ memberId, part }: PlannedFault): SimMachine | undefined {
    if (part === undefined) return this.#cluster.pick(memberId);
    if (part === "storage") {
      // None, for a moment, when the only one was lost and another has not come yet.
      const { storage } = this.#cluster;
      return storage[(memberId - 1) % storage.length];
    }
    const isWanted = ({ servingNode }: SimMachine): boolean =>
      servingNode !== undefined && (servingNode.consensus.role() === "leader") === (part === "leader");
    return must(this.#cluster.present.find(isWanted), `a ${part}`);
  }

  #rotFile(
    director: SimProcess,
    machine: SimMachine,
    durationMs: number,
    files: DamagedFiles,
    how: FileDamage,
  ): boolean {
    if (pathsToDamage(machine.disk, files, how).length === 0) return false;
    return this.#rot(director, machine, durationMs, () => this.#damage(machine, files, how));
  }

  /** What a process that has died left behind is damaged before it comes back. */
  #rot(director: SimProcess, machine: SimMachine, durationMs: number, damage: () => boolean): boolean {
    if (machine.servingPeer === undefined) return false;
    const stableIndex = this.#stableIndexOf(machine.memberId);
    machine.stop("kill");
    director.after(durationMs, "", () => startAgain(machine));
    if (!damage()) return false;
    machine.rottenIndex = stableIndex;
    return true;
  }

  /** A message of long ago arrives again, at whatever its receiver has become. */
  #replay(): boolean {
    const message = this.#archive[this.#prng.below(Math.max(1, this.#archive.length))];
    const node = message === undefined ? undefined : this.#cluster.find(message.to)?.servingNode;
    if (message === undefined || node === undefined) return false;
    node.consensus.step(message, CLUSTER_ID);
    return true;
  }

  /** A message of another cluster, whose address this node has now, arrives: it must be refused, whatever it says. */
  #misroute(): boolean {
    const message = this.#archive[this.#prng.below(Math.max(1, this.#archive.length))];
    const node = message === undefined ? undefined : this.#cluster.find(message.to)?.servingNode;
    if (message === undefined || node === undefined) return false;
    try {
      node.consensus.step({ ...message, term: message.term + 1000 }, "another-cluster");
    } catch (error) {
      if (hasReason(error, "WRONG_CLUSTER")) return true;
      throw error;
    }
    throw new Error(`N7: member ${message.to} took a message of another cluster`);
  }

  #waysOf(memberId: number, direction: "in" | "out" | "both"): [number, number][] {
    const others = this.#cluster.memberIds.filter((id) => id !== memberId);
    const out = others.map((id): [number, number] => [memberId, id]);
    const back = others.map((id): [number, number] => [id, memberId]);
    if (direction === "both") return [...out, ...back];
    return direction === "out" ? out : back;
  }

  #cut(director: SimProcess, ways: readonly [number, number][], durationMs: number): boolean {
    for (const [from, to] of ways) this.#network.block(from, to);
    director.after(durationMs, "", () => {
      for (const [from, to] of ways) this.#network.unblock(from, to);
    });
    return true;
  }

  #damage(machine: SimMachine, files: DamagedFiles, how: FileDamage): boolean {
    const done = damageFile(machine.disk, files, how, this.#prng);
    if (done !== undefined) this.#scheduler.note(done);
    return done !== undefined;
  }
}

function retriesOf({ part }: PlannedFault): number {
  return part === "storage" ? STORAGE_RETRY_COUNT_MAX : RETRY_COUNT_MAX;
}

/** Starts a machine that is down; somebody has made room on its disk before. */
function startAgain(machine: SimMachine): void {
  giveSpace(machine);
  // One that waits to be admitted is started by whoever admits it.
  const isStarted = machine.incarnationCount > 0 && !machine.isLost;
  if (isStarted && machine.process === undefined) machine.start();
}

function giveSpace(machine: SimMachine): void {
  machine.disk.capacityBytes = machine.diskCapacityBytes;
}
