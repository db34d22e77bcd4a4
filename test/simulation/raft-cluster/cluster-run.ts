/**
 * One run of the Raft cluster: the core alone (no driver, no real disk), many members, and the faults that the seed drew, in
 * two phases. A run is a pure function of its seed; its trace says so.
 *
 *   safety: everything that the plan drew goes wrong while clients propose and read; every step is checked
 *   liveness: all faults end, for everybody or for a random quorum; then one leader, equal states, fresh writes and reads
 */
import { InvariantViolation } from "../../../src/raft/invariants.ts";
import type { PlantedFault } from "../../../src/raft/planted-faults.ts";
import type { ConfChangeStep, ConfState, Message } from "../../../src/raft/types.ts";
import { must } from "../../../src/std/assert.ts";
import { utf8 } from "../../../src/std/bytes.ts";
import { SeededPrng } from "../../../src/std/prng.ts";
import { confState } from "../../support/raft/memory-log-storage.ts";
import { ClusterChecks } from "./cluster-checks.ts";
import { ClusterMember, type UnsyncedFate } from "./cluster-member.ts";
import { ClusterNemesis, MEND_UNITS } from "./cluster-nemesis.ts";
import { ClusterNetwork } from "./cluster-network.ts";
import {
  drawClusterPlan,
  ELECTION_TICKS,
  TICK_UNITS,
  type ClusterFault,
  type ClusterPlan,
} from "./cluster-plan.ts";

/** Election timeouts within which a healed cluster must have one leader, equal states and a fresh write. */
const LIVENESS_ELECTIONS_MAX = 40;
/** What an entry may take to reach a member: a small window sends one at a time. */
const LIVENESS_UNITS_PER_ENTRY = 8;
/** Snapshots that one member may be sent after the healing. */
const LIVENESS_SNAPSHOTS_MAX = 12;
const SPARE_COUNT = 2;

/** What a run did. */
export interface ClusterResult {
  readonly seed: number;
  readonly plan: ClusterPlan;
  /** Depends on everything that happened. */
  readonly trace: number;
  readonly observations: number;
  readonly faults: ReadonlyMap<ClusterFault, number>;
  readonly figures: Readonly<Record<ClusterFigure, number>>;
}

/** What is counted beside faults. */
export type ClusterFigure =
  | "elections"
  | "entries committed"
  | "writes acknowledged"
  | "writes refused"
  | "writes replaced by others"
  | "reads served"
  | "snapshots sent"
  | "snapshots installed"
  | "restarts"
  | "membership changes applied";

/** Runs a seed to its end; a failure says how to see it again. Throws Error. */
export function runCluster(seed: number, plantedFault?: PlantedFault): ClusterResult {
  const run = new ClusterRun(seed, { plantedFault });
  try {
    return run.run();
  } catch (error) {
    const text = error instanceof Error ? error.message : String(error);
    const faults = [...run.plan.faults].join(", ");
    const plan = JSON.stringify({ ...run.plan, faults: undefined });
    throw new Error(
      `${text}\nseed=${seed} at unit ${run.now}; again: npm run simulate -- --raft --seed ${seed}\nfaults: ${faults}\nplan: ${plan}\n${run.describe()}`,
      { cause: error },
    );
  }
}

/** A proposal whose outcome is not known yet. */
interface Proposal {
  readonly id: string;
  readonly memberId: number;
  readonly incarnation: number;
  readonly index: number;
  readonly term: number;
}

/** One run. */
export class ClusterRun {
  readonly plan: ClusterPlan;
  readonly members: ClusterMember[] = [];
  readonly network: ClusterNetwork;
  readonly checks: ClusterChecks;
  readonly faults = new Map<ClusterFault, number>();
  readonly figures: Record<ClusterFigure, number> = {
    elections: 0,
    "entries committed": 0,
    "writes acknowledged": 0,
    "writes refused": 0,
    "writes replaced by others": 0,
    "reads served": 0,
    "snapshots sent": 0,
    "snapshots installed": 0,
    restarts: 0,
    "membership changes applied": 0,
  };
  now = 0;
  readonly prng: SeededPrng;
  readonly #nemesis: ClusterNemesis;
  readonly #plantedFault: PlantedFault | undefined;
  readonly #proposals = new Map<number, Proposal[]>();
  readonly #acknowledged = new Map<string, number>();
  readonly #refused = new Set<string>();
  readonly #readFloors = new Map<string, number>();
  readonly #snapshotsSent = new Map<number, number>();
  readonly #ids = new Map<string, number>();
  #sequence = 0;
  #trace = 0;
  #termMax = 0;
  #phase: "safety" | "liveness" = "safety";

  constructor(
    seed: number,
    options: { readonly plantedFault?: PlantedFault | undefined; readonly plan?: Partial<ClusterPlan> } = {},
  ) {
    this.prng = new SeededPrng(seed);
    this.plan = { ...drawClusterPlan(seed, this.prng.fork()), ...options.plan };
    this.#plantedFault = options.plantedFault;
    this.network = new ClusterNetwork(this.plan, this.prng.fork(), (fault) => this.count(fault));
    this.checks = new ClusterChecks(this.plan, () => this.members);
    const founders = Array.from({ length: this.plan.voterCount }, (_, at) => at + 1);
    const config = confState(founders);
    for (let id = 1; id <= this.plan.voterCount + SPARE_COUNT; id += 1) this.#addMember(id, config);
    this.#nemesis = new ClusterNemesis(this);
  }

  /** Runs to the end. Throws InvariantViolation or AssertionError. */
  run(): ClusterResult {
    for (; this.now < this.plan.units; this.now += 1) {
      this.#nemesis.unit();
      if (this.prng.float() < this.plan.clientRate) this.#ask();
      this.#unit();
    }
    this.#liveness();
    this.figures["entries committed"] = this.checks.commitIndexMax;
    this.#checkCounts();
    const { plan, faults, figures } = this;
    return {
      seed: plan.seed,
      plan,
      trace: this.#trace,
      observations: this.checks.observationCount,
      faults,
      figures,
    };
  }

  /** One line about each member, for the report of a failure. */
  describe(): string {
    return this.members
      .map(({ id, raft, storage, state, isRetired }) => {
        const { role, term, commitIndex } = raft?.basicStatus() ?? { ...storage.hardState, role: "down" };
        const disk = `disk ${storage.hardState.term}/${storage.hardState.votedFor}, ${storage.firstIndex()}..${storage.lastIndex()}`;
        return `member ${id}: ${isRetired ? "retired" : role} of term ${term}, committed ${commitIndex}, applied ${state.index}, ${disk}, voters ${state.config.voters.join()}`;
      })
      .join("\n");
  }

  /** Counts a fault that has happened. */
  count(fault: ClusterFault): void {
    this.faults.set(fault, (this.faults.get(fault) ?? 0) + 1);
  }

  /** Does something to a member that runs, and looks at it after. */
  touch(member: ClusterMember, work: (member: ClusterMember) => void): void {
    work(member);
    member.drain();
    this.#look(member);
  }

  /** Ends a member's process. */
  crash(member: ClusterMember, fate: UnsyncedFate, restartsAt: number): void {
    member.crash(fate);
    member.restartsAt = restartsAt;
    this.#proposals.delete(member.id);
    this.#note(member.id * 1000 + fate.length);
  }

  /** The newest leader that runs; undefined for none. */
  leader(): ClusterMember | undefined {
    let best: ClusterMember | undefined;
    for (const member of this.members) {
      if (member.raft?.basicStatus().role !== "leader") continue;
      if (best === undefined || member.live.basicStatus().term > best.live.basicStatus().term) best = member;
    }
    return best;
  }

  /** The configuration that the member furthest ahead has applied. */
  config(): ConfState {
    const furthest = this.members.reduce((best, each) => (each.state.index > best.state.index ? each : best));
    return furthest.state.config;
  }

  /** Proposes a change of the membership at a member. */
  changeMembers(member: ClusterMember, steps: readonly ConfChangeStep[]): boolean {
    let isAccepted = false;
    this.touch(member, ({ live }) => {
      isAccepted =
        live.proposeConfChange({ transition: "auto", steps, context: new Uint8Array(0) }).outcome ===
        "accepted";
    });
    return isAccepted;
  }

  #addMember(id: number, config: ConfState): void {
    const member = new ClusterMember({
      id,
      config,
      plan: this.plan,
      prng: this.prng.fork(),
      plantedFault: this.#plantedFault,
      hooks: {
        send: (from, message) => this.#send(from, message),
        applied: (from, entry, state) => {
          this.checks.applied(from, entry, state);
          if (entry.kind === "conf-change") {
            this.figures["membership changes applied"] += 1;
            this.checks.forgetTraffic(from.id);
          }
          const text = Buffer.from(entry.data).toString();
          if (entry.kind === "normal" && text !== "") {
            const known = this.#ids.get(text) ?? entry.index;
            this.#fail(
              "C3",
              known === entry.index,
              () => `${text} was applied at ${known} and at ${entry.index}`,
            );
            this.#ids.set(text, entry.index);
          }
          this.#answer(from, entry.index, entry.term);
        },
        stored: (from) => this.checks.observeDisk(from),
        installed: (from, before) => {
          this.figures["snapshots installed"] += 1;
          this.checks.installed(from, before);
        },
        read: (_from, context, index) => {
          const floor = must(this.#readFloors.get(context), "every read was asked for");
          this.checks.checkRead(context, index, floor);
          this.figures["reads served"] += 1;
        },
      },
    });
    this.members.push(member);
    member.start();
  }

  #unit(): void {
    // What came while a process stood still is there when it goes on: requests of clients first, at their worst.
    for (const member of this.members) {
      for (; member.waitingReadCount > 0 && member.pausedUntil <= this.now; member.waitingReadCount -= 1) {
        if (member.raft !== undefined) this.#read(member);
      }
    }
    for (const { message, isReplay, isCut } of this.network.arrivals(this.now)) {
      if (isCut) this.#reportLost(message);
      else this.#deliver(message, isReplay);
    }
    for (const member of this.members) {
      if (member.raft === undefined) {
        if (!member.isRetired && member.restartsAt <= this.now) this.#restart(member);
        continue;
      }
      if (member.pausedUntil > this.now) continue;
      member.clock += member.clockRate;
      while (member.clock >= TICK_UNITS) {
        member.clock -= TICK_UNITS;
        this.touch(member, ({ live }) => live.tick());
      }
      this.#work(member);
    }
  }

  /** Disk and state machine of a member get on with what waits. */
  #work(member: ClusterMember): void {
    const { diskMeanUnits, applyMeanUnits } = this.plan;
    while (
      member.raft !== undefined &&
      member.diskFreeAt <= this.now &&
      member.stalledUntil <= this.now &&
      member.storeNext()
    ) {
      member.diskFreeAt = Math.max(member.diskFreeAt, this.now) + this.#took(diskMeanUnits);
      member.drain();
      this.#look(member);
    }
    while (member.raft !== undefined && member.applyFreeAt <= this.now && member.applyNext()) {
      member.applyFreeAt = Math.max(member.applyFreeAt, this.now) + this.#took(applyMeanUnits);
      member.drain();
      this.#look(member);
    }
  }

  #took(meanUnits: number): number {
    return -Math.log(1 - this.prng.float()) * (this.#phase === "safety" ? meanUnits : 0.2);
  }

  #restart(member: ClusterMember): void {
    member.start();
    member.diskFreeAt = this.now;
    member.applyFreeAt = this.now;
    this.figures.restarts += 1;
    this.checks.restarted(member);
    member.drain();
    this.#look(member);
  }

  #deliver(message: Message, isReplay: boolean): void {
    const to = this.members.find(({ id }) => id === message.to);
    if (to?.raft === undefined) {
      this.#reportLost(message);
      return;
    }
    if (to.pausedUntil > this.now) {
      // It waits in the socket of a process that stands still.
      if (this.prng.below(20) === 0 || !this.network.send(message, to.pausedUntil)) this.#reportLost(message);
      return;
    }
    const before = this.checks.delivering(to, message);
    to.live.step(message);
    this.checks.delivered(to, message, before);
    to.drain();
    this.#look(to);
    if (message.kind === "snapshot" && !isReplay) this.#reportSnapshot(message, true);
  }

  #send(from: ClusterMember, message: Message): void {
    this.checks.observeMessage(from, message);
    this.#note(message.term * 31 + message.index * 7 + message.to);
    if (message.kind === "snapshot") {
      this.figures["snapshots sent"] += 1;
      this.#snapshotsSent.set(message.to, (this.#snapshotsSent.get(message.to) ?? 0) + 1);
    }
    if (!this.network.send(message, this.now)) this.#reportLost(message);
  }

  /** What does not arrive is sometimes noticed; a snapshot always, because it is a call. */
  #reportLost(message: Message): void {
    if (message.kind === "snapshot") {
      this.#reportSnapshot(message, false);
      return;
    }
    const from = this.members.find(({ id }) => id === message.from);
    if (from?.raft === undefined || this.prng.below(10) > 0) return;
    this.checks.forgetTraffic(from.id);
    // The core must not be entered while it hands out work: the report joins what the core does next.
    from.live.reportUnreachable(message.to);
  }

  #reportSnapshot(message: Message, ok: boolean): void {
    const from = this.members.find(({ id }) => id === message.from);
    if (from?.raft === undefined) return;
    this.checks.forgetTraffic(from.id);
    from.live.reportSnapshot(message.to, ok);
  }

  #look(member: ClusterMember): void {
    const status = member.raft?.basicStatus();
    if (status === undefined) return;
    if (status.role === "leader" && status.term > this.#termMax) {
      this.#termMax = status.term;
      this.figures.elections += 1;
    }
    this.#note(status.term * 7 + status.commitIndex + member.id);
    this.checks.observe(member);
  }

  #note(value: number): void {
    this.#trace = (Math.imul(this.#trace, 31) + value) >>> 0;
  }

  /** A client asks something: mostly of the leader, often of whoever believes to lead, also of a process that stands still. */
  #ask(): void {
    const running = this.members.filter((each) => each.raft !== undefined);
    const leading = running.filter((each) => each.live.basicStatus().role === "leader");
    const choices = this.prng.below(2) === 0 && leading.length > 0 ? leading : running;
    const any = choices[this.prng.below(Math.max(1, choices.length))];
    const member = this.prng.below(2) === 0 ? (this.leader() ?? any) : any;
    if (member === undefined) return;
    const isRead = this.prng.below(2) === 0;
    if (member.pausedUntil > this.now) member.waitingReadCount = Math.min(3, member.waitingReadCount + 1);
    else if (isRead) this.#read(member);
    else this.propose(member, 1 + this.prng.below(3));
  }

  /** Proposes `count` writes at a member, and remembers what it was told; true when they were taken. */
  propose(member: ClusterMember, count: number): boolean {
    const ids = Array.from({ length: count }, () => `p${(this.#sequence += 1)}`);
    let isAccepted = false;
    this.touch(member, ({ live }) => {
      isAccepted = live.proposeBatch(ids.map((id) => utf8(id))).outcome === "accepted";
      if (!isAccepted) return;
      const { lastIndex, term } = live.basicStatus();
      const list = this.#proposals.get(member.id) ?? [];
      for (const [at, id] of ids.entries()) {
        const index = lastIndex - ids.length + 1 + at;
        list.push({ id, memberId: member.id, incarnation: member.incarnation, index, term });
      }
      this.#proposals.set(member.id, list);
    });
    if (isAccepted) return true;
    for (const id of ids) this.#refused.add(id);
    this.figures["writes refused"] += ids.length;
    return false;
  }

  #read(member: ClusterMember): void {
    const context = `r${(this.#sequence += 1)}`;
    this.#readFloors.set(context, this.checks.commitIndexMax);
    this.touch(member, ({ live }) => live.readIndex(utf8(context)));
  }

  /** A member has applied `index`: whoever waits for that there learns what became of it. */
  #answer(member: ClusterMember, index: number, term: number): void {
    const list = this.#proposals.get(member.id);
    if (list === undefined || list.length === 0) return;
    const rest: Proposal[] = [];
    for (const proposal of list) {
      if (proposal.index !== index) {
        if (proposal.index > index) rest.push(proposal);
        continue;
      }
      if (proposal.term === term) {
        this.#acknowledged.set(proposal.id, index);
        this.figures["writes acknowledged"] += 1;
      } else {
        this.#refused.add(proposal.id);
        this.figures["writes replaced by others"] += 1;
      }
    }
    this.#proposals.set(member.id, rest);
  }

  #liveness(): void {
    this.#phase = "liveness";
    const up = this.#nemesis.heal();
    this.#snapshotsSent.clear();
    const ends = this.members.map(
      ({ storage, raft }) => raft?.basicStatus().lastIndex ?? storage.lastIndex(),
    );
    const backlog = Math.max(...ends) - Math.min(...up.map(({ state }) => state.index));
    const deadline =
      this.now + LIVENESS_ELECTIONS_MAX * ELECTION_TICKS * TICK_UNITS + backlog * LIVENESS_UNITS_PER_ENTRY;
    let fresh: { readonly id: string; readonly context: string } | undefined;
    let open = "";
    for (; this.now < deadline; this.now += 1) {
      if (this.now % MEND_UNITS === 0) this.#nemesis.mend();
      this.#unit();
      open = this.#openMatter(up);
      if (open !== "") continue;
      const leader = must(this.leader(), "there is one leader");
      if (fresh === undefined) {
        const context = `r${this.#sequence + 1}`;
        this.#read(leader);
        if (this.propose(leader, 1)) fresh = { id: `p${this.#sequence}`, context };
        else this.figures["writes refused"] -= 1;
        continue;
      }
      if (this.#acknowledged.has(fresh.id)) break;
      open = `the fresh write ${fresh.id} is not acknowledged`;
    }
    this.#fail("L1", open === "" && fresh !== undefined, () => `not live after the healing: ${open}`);
    for (const [id, count] of this.#snapshotsSent) {
      this.#fail(
        "L2",
        count <= LIVENESS_SNAPSHOTS_MAX,
        () => `member ${id} was sent ${count} snapshots after the healing`,
      );
    }
    this.#checkOutcomes();
  }

  /** What keeps the healed members from being one cluster; "" when nothing does. */
  #openMatter(up: readonly ClusterMember[]): string {
    const leader = this.leader();
    if (leader === undefined) return "no leader";
    const { term } = leader.live.basicStatus();
    const { config } = leader.live.status();
    if (config.votersOutgoing.length > 0) return "the configuration is joint";
    if (this.#nemesis.openMatter() !== "") return this.#nemesis.openMatter();
    if (leader.state.index !== leader.live.basicStatus().lastIndex)
      return "the leader has not applied its log";
    const known = [...config.voters, ...config.learners];
    for (const member of up) {
      if (!known.includes(member.id)) continue;
      const status = member.raft?.basicStatus();
      if (status === undefined) return `member ${member.id} is down`;
      if (status.term !== term || status.leaderId !== leader.id) return `member ${member.id} does not follow`;
      if (member.state.index !== leader.live.basicStatus().lastIndex) return `member ${member.id} is behind`;
      this.#fail(
        "R10",
        member.state.hash === leader.state.hash,
        () => `member ${member.id} has another state`,
      );
    }
    return "";
  }

  /** What was acknowledged is there (C6), and what was refused is not (C7). */
  #checkOutcomes(): void {
    for (const [id, index] of this.#acknowledged) {
      this.#fail(
        "C6",
        this.#ids.get(id) === index,
        () => `${id} was acknowledged at ${index} and is not there`,
      );
    }
    for (const id of this.#refused) {
      this.#fail("C7", !this.#ids.has(id), () => `${id} was refused, and is at ${this.#ids.get(id)}`);
    }
  }

  /** A run in which what was to happen did not happen proves nothing. */
  #checkCounts(): void {
    this.#fail("run", this.figures.elections > 0, () => "nobody was elected");
    this.#fail("run", this.figures["writes acknowledged"] > 0, () => "nothing was acknowledged");
    this.#fail("run", this.checks.observationCount > 100, () => "hardly anything was looked at");
  }

  #fail(id: string, condition: boolean, describe: () => string): void {
    if (!condition) throw new InvariantViolation(id, describe());
  }
}
