/**
 * The machines of a run: those that found the cluster, and those that come later. A machine that was removed, or whose disk was
 * lost, is out for good; what comes in its place has another member id.
 */
import { assert, must } from "../../src/std/assert.ts";
import type { SimMachine } from "./sim-machine.ts";
import type { SimVoterContact } from "./sim-storage.ts";

/** Members that found the cluster. */
export const FOUNDER_IDS: readonly number[] = [1, 2, 3];
/** Machines that a cluster has at most. */
export const MACHINE_COUNT_MAX = 5;
/** Machines without tree and vote that a cluster has at most. */
export const STORAGE_COUNT_MAX = 4;
/** Member ids of machines that come later; below the addresses of clients. */
const LATER_ID_FIRST = 11;
const LATER_ID_LAST = 89;

/** The machines. */
export class SimCluster {
  readonly #make: (memberId: number, contacts?: readonly SimVoterContact[]) => SimMachine;
  readonly #machines = new Map<number, SimMachine>();
  #nextId = LATER_ID_FIRST;

  /** @param make makes a machine; one that finds its voters at `contacts` keeps no tree and has no vote */
  constructor(make: (memberId: number, contacts?: readonly SimVoterContact[]) => SimMachine) {
    this.#make = make;
    for (const memberId of FOUNDER_IDS) this.#machines.set(memberId, make(memberId));
  }

  /** Every machine there ever was, in the order in which they came. */
  get all(): readonly SimMachine[] {
    return [...this.#machines.values()];
  }

  /** Machines of members that vote or are to vote, whether or not they run. */
  get present(): readonly SimMachine[] {
    return this.holders.filter((machine) => !machine.isStorageOnly);
  }

  /** Machines of members without tree and vote. */
  get storage(): readonly SimMachine[] {
    return this.holders.filter((machine) => machine.isStorageOnly);
  }

  /** Machines of all members: each may hold copies. */
  get holders(): readonly SimMachine[] {
    return this.all.filter((machine) => !machine.isRemoved && !machine.isLost);
  }

  /** Member ids of those. */
  get memberIds(): readonly number[] {
    return this.holders.map(({ memberId }) => memberId);
  }

  /** The machine of a member, past or present. */
  find(memberId: number): SimMachine | undefined {
    return this.#machines.get(memberId);
  }

  /** The machine that a plan means by a number from 1 on: of the voters that are present, counted round and round. */
  pick(number: number): SimMachine {
    const { present } = this;
    return must(present[(number - 1) % present.length], "somebody is always there");
  }

  /** A new machine with an empty disk, which is down, under an id that was never used. */
  async add(isStorageOnly = false): Promise<SimMachine> {
    assert(this.#nextId <= LATER_ID_LAST, "a run has few machines");
    const contacts = this.present.map(({ memberId, address }) => ({ memberId, address }));
    const machine = this.#make(this.#nextId, isStorageOnly ? contacts : undefined);
    this.#nextId += 1;
    await machine.format();
    this.#machines.set(machine.memberId, machine);
    return machine;
  }
}
