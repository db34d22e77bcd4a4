/**
 * A group of RaftNodes with asynchronous storage under random faults, checked after every step: one seed is one run.
 *
 * The network drops, repeats, delays and reorders; disks are slow; nodes crash and lose what was not stored; logs are cut and
 * snapshots sent; members come and go. Checked: raft/invariants.ts on every node after each of its steps, linearizable reads
 * (R20), entries applied in order, and no message in flight beyond the window. This is the core alone, without a driver.
 */
import { assert, must } from "../../../src/std/assert.ts";
import { SeededPrng, type Prng } from "../../../src/std/prng.ts";
import { decodeConfChange } from "../../../src/raft/conf-change-codec.ts";
import { ClusterInvariants, InvariantViolation, viewOf } from "../../../src/raft/invariants.ts";
import type { PlantedFault } from "../../../src/raft/planted-faults.ts";
import { RaftNode } from "../../../src/raft/raft-node.ts";
import type { ConfChangeStep, ConfState, Message, Snapshot } from "../../../src/raft/types.ts";
import { utf8 } from "../../../src/std/bytes.ts";
import { confState, emptySnapshot, MemoryLogStorage } from "./memory-log-storage.ts";

/** How a run is made. */
export interface RandomGroupOptions {
  readonly seed: number;
  readonly steps: number;
  readonly plantedFault?: PlantedFault | undefined;
}

/** What happened in a run, so that a run in which nothing happened is not taken for a good one. */
export interface RandomGroupCounts {
  committed: number;
  elections: number;
  crashes: number;
  dropped: number;
  repeated: number;
  snapshots: number;
  reads: number;
  confChanges: number;
}

const MEMBERS = 5;
const ELECTION_TICKS = 6;
const INFLIGHT_MAX = 4;
/** Messages under way beyond this are lost, oldest first. */
const NETWORK_MAX = 400;

interface Member {
  readonly id: number;
  readonly storage: MemoryLogStorage;
  raft: RaftNode;
  appliedIndex: number;
  config: ConfState;
  appendWork: Message[];
  applyWork: Message[];
}

/** One run. */
export class RandomGroup {
  readonly counts: RandomGroupCounts = {
    committed: 0,
    elections: 0,
    crashes: 0,
    dropped: 0,
    repeated: 0,
    snapshots: 0,
    reads: 0,
    confChanges: 0,
  };
  readonly #prng: Prng;
  readonly #plantedFault: PlantedFault | undefined;
  readonly #members: Member[] = [];
  readonly #invariants = new ClusterInvariants();
  readonly #readFloors = new Map<string, number>();
  readonly #cut = new Set<number>();
  #network: Message[] = [];
  #sequence = 0;
  #trace = 0;
  #maxTerm = 0;

  constructor(options: RandomGroupOptions) {
    this.#prng = new SeededPrng(options.seed);
    this.#plantedFault = options.plantedFault;
    for (let id = 1; id <= MEMBERS; id += 1) {
      const config = confState([1, 2, 3]);
      const storage = new MemoryLogStorage(emptySnapshot(config));
      const member = { id, storage, appliedIndex: 0, config, appendWork: [], applyWork: [] };
      storage.snapshotOverride = () => this.#snapshotOf(id);
      this.#members.push({ ...member, raft: this.#makeNode(id, storage, 0) });
    }
  }

  /** A number that depends on everything that happened. */
  get trace(): number {
    return this.#trace;
  }

  /** Runs `steps` random steps. Throws InvariantViolation or AssertionError when something is wrong. */
  run(steps: number): void {
    for (let i = 0; i < steps; i += 1) this.#step();
  }

  #step(): void {
    const member = this.#anyMember();
    const roll = this.#prng.below(1_000);
    if (roll < 420) this.#deliver();
    else if (roll < 640) member.raft.tick();
    else if (roll < 760) this.#storeOne(member);
    else if (roll < 860) this.#applyOne(member);
    else if (roll < 930) this.#propose(member);
    else if (roll < 955) this.#read(member);
    else if (roll < 965) this.#crash(member);
    else if (roll < 972) this.#compact(member);
    else if (roll < 978) this.#changeMembers(member);
    else if (roll < 982) member.raft.transferLeader(this.#anyMember().id);
    else if (roll < 985) member.raft.reportUnreachable(this.#anyMember().id);
    else if (roll < 988) member.raft.forgetLeader();
    else if (roll < 992) this.#cut.add(member.id);
    else this.#cut.clear();
    this.#afterStep(member);
  }

  #afterStep(member: Member): void {
    if (member.raft.hasReady() && this.#prng.below(4) > 0) this.#processReady(member);
    const status = member.raft.basicStatus();
    if (status.role === "leader" && status.term > this.#maxTerm) {
      this.#maxTerm = status.term;
      this.counts.elections += 1;
    }
    this.counts.committed = Math.max(this.counts.committed, status.commitIndex);
    this.#trace = (Math.imul(this.#trace, 31) + status.term * 7 + status.commitIndex + member.id) >>> 0;
    this.#invariants.observe(viewOf(member.raft, true));
  }

  #processReady(member: Member): void {
    const ready = member.raft.ready();
    for (const read of ready.readStates) this.#checkRead(Buffer.from(read.context).toString(), read.index);
    for (const message of ready.messages) {
      if (message.kind === "storage-append") member.appendWork.push(message);
      else if (message.kind === "storage-apply") member.applyWork.push(message);
      else this.#send(member, message);
    }
  }

  #send(member: Member, message: Message): void {
    this.#invariants.observeMessage(message);
    if (message.kind === "snapshot") this.counts.snapshots += 1;
    const isLost = this.#cut.has(message.from) || this.#cut.has(message.to) || this.#prng.below(100) < 8;
    if (message.kind === "snapshot") member.raft.reportSnapshot(message.to, !isLost);
    if (isLost) {
      this.counts.dropped += 1;
      return;
    }
    this.#network.push(message);
    if (this.#network.length > NETWORK_MAX) this.#network.shift();
  }

  /** Delivers any message under way, often the oldest, and sometimes keeps it to come again. */
  #deliver(): void {
    if (this.#network.length === 0) return;
    const at = this.#prng.below(3) > 0 ? 0 : this.#prng.below(this.#network.length);
    const message = must(this.#network[at], "in range");
    const isRepeated = this.#prng.below(100) < 10;
    if (isRepeated) this.counts.repeated += 1;
    else this.#network.splice(at, 1);
    const to = must(this.#members[message.to - 1], "members are numbered from 1");
    to.raft.step(message);
    this.#afterStep(to);
  }

  #storeOne(member: Member): void {
    const work = member.appendWork.shift();
    if (work === undefined) return;
    const { term, votedFor, commitIndex, snapshot } = work;
    if (term !== 0) member.storage.hardState = { term, votedFor, commitIndex };
    if (snapshot !== undefined && snapshot.metadata.index > member.storage.firstIndex() - 1) {
      member.storage.applySnapshot(snapshot);
      member.appliedIndex = snapshot.metadata.index;
      member.config = snapshot.metadata.confState;
    }
    member.storage.append(work.entries);
    this.#respond(member, work);
  }

  #applyOne(member: Member): void {
    const work = member.applyWork.shift();
    if (work === undefined) return;
    for (const entry of work.entries) {
      if (entry.index <= member.appliedIndex) continue;
      assert(
        entry.index === member.appliedIndex + 1,
        `entry ${entry.index} applied after ${member.appliedIndex}`,
      );
      assert(entry.index <= member.storage.lastIndex(), `entry ${entry.index} applied before it was stored`);
      if (entry.kind === "conf-change") {
        member.config = member.raft.applyConfChange(decodeConfChange(entry.data), entry.index, member.config);
        this.counts.confChanges += 1;
      }
      member.appliedIndex = entry.index;
    }
    this.#respond(member, work);
  }

  #respond(member: Member, work: Message): void {
    for (const response of work.responses) {
      if (response.to === member.id) member.raft.step(response);
      else this.#send(member, response);
    }
  }

  #propose(member: Member): void {
    const count = 1 + this.#prng.below(3);
    for (let i = 0; i < count; i += 1) member.raft.propose(utf8(`p${(this.#sequence += 1)}`));
  }

  #read(member: Member): void {
    const context = `r${(this.#sequence += 1)}`;
    this.#readFloors.set(
      context,
      Math.max(...this.#members.map((one) => one.raft.basicStatus().commitIndex)),
    );
    member.raft.readIndex(utf8(context));
  }

  #checkRead(context: string, index: number): void {
    const floor = must(this.#readFloors.get(context), "every read was asked for");
    if (index < floor)
      throw new InvariantViolation("R20", `read ${context} at ${index}, ${floor} was committed before`);
    this.counts.reads += 1;
  }

  #crash(member: Member): void {
    this.counts.crashes += 1;
    member.appendWork = [];
    member.applyWork = [];
    member.storage.appliedConfState = member.config;
    member.raft = this.#makeNode(member.id, member.storage, member.appliedIndex);
    this.#invariants.restarted(member.id);
  }

  #compact(member: Member): void {
    // Only what is applied and was handed out as applied may be cut.
    const index = Math.min(member.appliedIndex, member.raft.basicStatus().appliedIndex) - this.#prng.below(3);
    if (member.raft.basicStatus().pendingSnapshotIndex > 0 || index < member.storage.firstIndex()) return;
    if (index <= member.storage.lastIndex()) member.storage.compact(index);
  }

  #changeMembers(member: Member): void {
    const kinds = ["add-voter", "add-voter", "add-learner", "remove"] as const;
    const count = 1 + this.#prng.below(2);
    const steps = Array.from({ length: count }, (): ConfChangeStep => {
      return {
        kind: must(kinds[this.#prng.below(kinds.length)], "in range"),
        memberId: this.#anyMember().id,
      };
    });
    member.raft.proposeConfChange({ transition: "auto", steps, context: new Uint8Array(0) });
  }

  #snapshotOf(id: number): Snapshot {
    const member = must(this.#members[id - 1], "members are numbered from 1");
    const term = must(member.raft.findTerm(member.appliedIndex), "what is applied is in the log");
    return {
      metadata: { index: member.appliedIndex, term, confState: member.config },
      data: new Uint8Array(0),
    };
  }

  #makeNode(id: number, storage: MemoryLogStorage, appliedIndex: number): RaftNode {
    return new RaftNode({
      id,
      storage,
      prng: this.#prng,
      electionTicks: ELECTION_TICKS,
      heartbeatTicks: 1,
      entriesSizeBytesMax: 64,
      committedSizeBytesMax: 128,
      inflightMessagesMax: INFLIGHT_MAX,
      inflightBytesMax: 0,
      uncommittedBytesMax: 1_000,
      appliedIndex,
      asyncStorageWrites: true,
      plantedFault: this.#plantedFault,
    });
  }

  #anyMember(): Member {
    return must(this.#members[this.#prng.below(MEMBERS)], "in range");
  }
}
