/**
 * What goes wrong in a run of the Raft cluster: draws faults of the kinds that the plan switched on, carries them out, counts
 * them, and heals at the end.
 *
 * Atlas rule: whatever it does, a good durable copy of everything committed is left. Disks of processes that die keep what was
 * synced; one member at most loses its disk for ever, in a cluster whose membership nothing else changes, and a new member
 * takes its place.
 */
import type { ConfChangeStep } from "../../../src/raft/types.ts";
import { must } from "../../../src/std/assert.ts";
import type { ClusterMember, UnsyncedFate } from "./cluster-member.ts";
import type { ClusterFault, ClusterPlan } from "./cluster-plan.ts";
import type { ClusterRun } from "./cluster-run.ts";

/** Kinds that begin at an instant; the others accompany messages and crashes. */
const INSTANT: readonly ClusterFault[] = [
  "N2 old replay",
  "N4 clog",
  "N5 isolate one",
  "N5 isolate leader",
  "N5 split",
  "N5 one way",
  "N5 majority ring",
  "P1 crash",
  "P1 crash of all",
  "P2 pause",
  "P3 slow disk",
  "P5 wipe",
  "D7 sync error",
  "D8 disk full",
  "T3 clock rate",
  "M1 membership",
  "M1 transfer",
  "M2 compaction",
  "M3 overload",
];

/** How often the operator looks at what is left to do; each refused change leaves an entry in the log. */
export const MEND_UNITS = 40;

/** How often each kind is drawn, compared with 1: rare ones hurt for long, common ones cost nothing. */
const WEIGHTS: Partial<Record<ClusterFault, number>> = {
  "N2 old replay": 12,
  "N4 clog": 3,
  "M2 compaction": 6,
  "M3 overload": 2,
  "P1 crash": 3,
  "P1 crash of all": 0.3,
};

/** Carries out the faults of a run. */
export class ClusterNemesis {
  readonly #run: ClusterRun;
  readonly #plan: ClusterPlan;
  readonly #kinds: readonly ClusterFault[];
  readonly #weightSum: number;
  #cutUntil = 0;
  #wiped: { readonly id: number; readonly newId: number } | undefined;

  constructor(run: ClusterRun) {
    this.#run = run;
    this.#plan = run.plan;
    const isOn = run.plan.faults;
    // Who loses a disk for ever must not meet a membership that shrinks around it.
    this.#kinds = INSTANT.filter(
      (kind) => isOn.has(kind) && !(kind === "P5 wipe" && isOn.has("M1 membership")),
    );
    this.#weightSum = this.#kinds.reduce((sum, kind) => sum + weightOf(kind), 0);
  }

  /** One unit of time: faults that are over end, and now and then one begins. */
  unit(): void {
    const { prng, now } = this.#run;
    if (this.#cutUntil !== 0 && now >= this.#cutUntil) {
      this.#cutUntil = 0;
      this.#run.network.uncut();
    }
    if (now % MEND_UNITS === 0) this.mend();
    this.#replayToCandidates();
    if (this.#kinds.length === 0 || prng.float() >= this.#plan.faultRate) return;
    let roll = prng.float() * this.#weightSum;
    const kind = must(
      this.#kinds.find((each) => (roll -= weightOf(each)) < 0) ?? this.#kinds.at(-1),
      "a kind of fault",
    );
    if (this.#happen(kind)) this.#run.count(kind);
  }

  /** The operator's part: the member that lost its disk is replaced by a new one, asked for until it is done. */
  mend(): void {
    const wiped = this.#wiped;
    const leader = this.#run.leader();
    if (wiped === undefined || leader === undefined || leader.pausedUntil > this.#run.now) return;
    const { voters, votersOutgoing } = leader.live.status().config;
    if (!voters.includes(wiped.id) || votersOutgoing.length > 0) return;
    this.#run.changeMembers(leader, [
      { kind: "add-voter", memberId: wiped.newId },
      { kind: "remove", memberId: wiped.id },
    ]);
  }

  /** What the operator has not brought to an end; "" for nothing. */
  openMatter(): string {
    const leader = this.#run.leader();
    if (this.#wiped === undefined || leader === undefined) return "";
    const isGone = !leader.live.status().config.voters.includes(this.#wiped.id);
    return isGone ? "" : `member ${this.#wiped.id}, which lost its disk, is not replaced`;
  }

  /** Ends every fault; returns the members that are up from now on: all that can be, or a random quorum and no more. */
  heal(): readonly ClusterMember[] {
    const { members, network, now } = this.#run;
    network.heal();
    for (const member of members) {
      member.pausedUntil = 0;
      member.stalledUntil = 0;
      member.clockRate = 1;
      member.restartsAt = now;
    }
    const able = members.filter(({ isRetired }) => !isRetired);
    if (!this.#plan.healsQuorumOnly || this.#wiped !== undefined) return able;
    const down = this.#drawSpare();
    if (down === undefined) return able;
    if (down.raft !== undefined) this.#run.crash(down, "lost", Number.POSITIVE_INFINITY);
    down.restartsAt = Number.POSITIVE_INFINITY;
    return able.filter((member) => member !== down);
  }

  /** A member that no quorum needs, of any configuration that may still be in force somewhere. */
  #drawSpare(): ClusterMember | undefined {
    const { members, prng } = this.#run;
    if (this.#plan.faults.has("M1 membership")) return undefined;
    const { voters } = this.#run.config();
    if (voters.length < 3) return undefined;
    const id = voters[prng.below(voters.length)];
    return members.find((member) => member.id === id);
  }

  /** A candidacy is short, so what would hurt it comes more often than chance would have it. */
  #replayToCandidates(): void {
    const { members, network, prng, now } = this.#run;
    if (!this.#plan.faults.has("N2 old replay")) return;
    for (const { raft, id } of members) {
      if (raft?.basicStatus().role !== "candidate" || prng.below(4) > 0) continue;
      const isOld = network.replay(now, (message) => message.to === id && message.kind === "vote-response");
      if (isOld) this.#run.count("N2 old replay");
    }
  }

  #happen(kind: ClusterFault): boolean {
    const { prng, members, network, now } = this.#run;
    const up = members.filter((member) => member.raft !== undefined && member.pausedUntil <= now);
    const member = up[prng.below(Math.max(1, up.length))];
    if (member === undefined) return false;
    const until = now + must([5, 30, 100, 300][prng.below(4)], "a duration");
    // oxlint-disable-next-line typescript/switch-exhaustiveness-check -- the others accompany messages and crashes
    switch (kind) {
      case "N2 old replay": {
        // At their worst old votes come to a candidate, and old acknowledgements to a leader.
        const role = member.live.basicStatus().role;
        const kind = role === "candidate" ? "vote-response" : "append-response";
        const isWorst = (role === "candidate" || role === "leader") && prng.below(2) === 0;
        if (!isWorst) return network.replay(now);
        return network.replay(now, (message) => message.to === member.id && message.kind === kind);
      }
      case "N4 clog":
        network.clog(member.id, must(members[prng.below(members.length)], "a member").id, until);
        return true;
      case "N5 isolate one":
        return this.#cut(until, (from, to) => from === member.id || to === member.id);
      case "N5 isolate leader": {
        const id = this.#run.leader()?.id;
        return id !== undefined && this.#cut(until, (from, to) => from === id || to === id);
      }
      case "N5 split": {
        const side = new Map(members.map(({ id }) => [id, prng.below(2)] as const));
        return this.#cut(until, (from, to) => side.get(from) !== side.get(to));
      }
      case "N5 one way": {
        const isOut = prng.below(2) === 0;
        return this.#cut(until, (from, to) => (isOut ? from : to) === member.id);
      }
      case "N5 majority ring": {
        const count = this.#plan.voterCount;
        return this.#cut(until, (from, to) => {
          const distance = Math.abs(from - to);
          return from <= count &&
            to <= count &&
            Math.min(distance, count - distance) > Math.floor(count / 4) &&
            count > 3
            ? true
            : count === 3 && from + to === 3;
        });
      }
      case "P1 crash":
        this.#crash(member, until);
        return true;
      case "P1 crash of all":
        for (const each of members) {
          if (each.raft !== undefined) this.#crash(each, now + 1 + prng.below(60));
        }
        return true;
      case "P2 pause":
        // A leader that stands still is what hurts most.
        ((prng.below(2) === 0 ? this.#run.leader() : undefined) ?? member).pausedUntil = until;
        return true;
      case "P3 slow disk":
      case "D8 disk full":
        member.stalledUntil = until;
        return true;
      case "P5 wipe":
        return this.#wipe(member);
      case "D7 sync error":
        // Whether the bytes are there is anybody's guess; the process must not go on.
        this.#crash(member, until);
        return true;
      case "T3 clock rate":
        member.clockRate = must([0.5, 0.8, 1, 1.3, 2][prng.below(5)], "a rate");
        return true;
      case "M1 membership":
        return this.#changeMembers(this.#run.leader() ?? member);
      case "M1 transfer": {
        const leader = this.#run.leader();
        if (leader === undefined || leader.pausedUntil > now) return false;
        this.#run.touch(leader, ({ live }) => live.transferLeader(member.id));
        return true;
      }
      case "M2 compaction":
        return member.flushAndCompact(member.state.index - (prng.below(3) === 0 ? prng.below(4) : 0));
      case "M3 overload": {
        const leader = this.#run.leader();
        if (leader === undefined || leader.pausedUntil > now) return false;
        let isRefused = false;
        for (let i = 0; i < 60 && !isRefused; i += 1) isRefused = !this.#run.propose(leader, 5);
        return isRefused;
      }
      default:
        return false;
    }
  }

  #crash(member: ClusterMember, until: number): void {
    const { prng } = this.#run;
    const fates: readonly (readonly [UnsyncedFate, ClusterFault])[] = [
      ["lost", "D1 unsynced lost"],
      ["kept", "D1 unsynced kept"],
      ["torn", "D2 torn write"],
    ];
    const allowed = fates.filter(([, fault]) => this.#plan.faults.has(fault));
    const choice = allowed[prng.below(Math.max(1, allowed.length))];
    const hadWork = member.appendWork.length > 0;
    if (choice !== undefined && hadWork) this.#run.count(choice[1]);
    this.#run.crash(member, choice?.[0] ?? "lost", until);
  }

  #wipe(member: ClusterMember): boolean {
    const { members } = this.#run;
    const { voters, votersOutgoing } = this.#run.config();
    if (this.#wiped !== undefined || votersOutgoing.length > 0 || !voters.includes(member.id)) return false;
    const spare = members.find(({ id, isRetired }) => !voters.includes(id) && !isRetired);
    if (spare === undefined || voters.length < 3) return false;
    this.#run.crash(member, "lost", Number.POSITIVE_INFINITY);
    member.isRetired = true;
    this.#wiped = { id: member.id, newId: spare.id };
    return true;
  }

  #changeMembers(leader: ClusterMember): boolean {
    const { prng, members } = this.#run;
    if (leader.raft === undefined || leader.pausedUntil > this.#run.now) return false;
    const kinds = ["add-voter", "add-voter", "add-learner", "remove"] as const;
    const steps = Array.from({ length: 1 + prng.below(2) }, (): ConfChangeStep => {
      const kind = must(kinds[prng.below(kinds.length)], "a kind");
      return { kind, memberId: must(members[prng.below(members.length)], "a member").id };
    });
    return this.#run.changeMembers(leader, steps);
  }

  #cut(until: number, isCut: (from: number, to: number) => boolean): boolean {
    const { members, network } = this.#run;
    network.uncut();
    for (const from of members) {
      for (const to of members) {
        if (from !== to && isCut(from.id, to.id)) network.cut(from.id, to.id);
      }
    }
    this.#cutUntil = until;
    return true;
  }
}

function weightOf(kind: ClusterFault): number {
  return WEIGHTS[kind] ?? 1;
}
