/**
 * Somebody who changes the membership while the cluster serves and fails (M1): nodes are added, removed, replaced, lead or
 * stop leading, and a machine loses its disk for good and comes back as a new member.
 *
 * One change after the other, each asked of any node until one takes it, and waited for. A disk is lost only while everything is
 * whole, so that what was acknowledged has another copy (the atlas rule); whether a removal is safe is the cluster's own judgement.
 */
import type { ClusterAdmin, MembershipProgress } from "../../src/drive/cluster-admin.ts";
import { DriveError, hasReason, type ErrorReason } from "../../src/drive/errors.ts";
import type { DriveNode } from "../../src/node/drive-node.ts";
import { findMember } from "../../src/metadata/members.ts";
import { listExtents } from "../../src/metadata/view.ts";
import { must } from "../../src/std/assert.ts";
import { toHex } from "../../src/std/bytes.ts";
import type { SeededPrng } from "../../src/std/prng.ts";
import { FOUNDER_IDS, MACHINE_COUNT_MAX, STORAGE_COUNT_MAX, type SimCluster } from "./sim-cluster.ts";
import type { SimMachine } from "./sim-machine.ts";
import type { SimNetwork } from "./sim-network.ts";
import type { SimProcess, SimScheduler } from "./sim-scheduler.ts";

/** What happens to the membership. "wipe": a machine is lost and replaced; "force": it is lost, removed by force, and another added. */
export type MembershipKind = "add" | "remove" | "replace" | "wipe" | "force" | "transfer" | StorageChangeKind;

/**
 * What happens to storage-only members. "wipe" and "force" as above; "drain": one is emptied of its copies, then removed; "empty":
 * the chunks of one are gone while its identity is not, so that it comes back as the same member with another store.
 */
export type StorageChangeKind =
  "add-storage" | "remove-storage" | "wipe-storage" | "force-storage" | "drain-storage" | "empty-storage";

/** One change, and when it is begun at the earliest. */
export interface PlannedChange {
  readonly kind: MembershipKind;
  readonly atMs: number;
}

const POLL_MS = 100;
const EXTENT_COUNT_MAX = 100_000;
// Less than a healed cluster is given to serve: a call that was lost must not keep a new machine from being started for longer.
const CALL_DEADLINE_MS = 5_000;
/** Answers that only mean "not now", or "ask another". Everything else is a bug. */
const PASSING_REASONS: ReadonlySet<ErrorReason> = new Set([
  "NO_LEADER",
  "NOT_LEADER",
  "NO_SPACE",
  "OVERLOADED",
  "PEER_UNREACHABLE",
  "NODE_STARTING",
  "NODE_STOPPING",
  "COMMIT_OUTCOME_UNKNOWN",
  "MEMBERSHIP_CHANGE_IN_PROGRESS",
  "MEMBERSHIP_CHANGE_UNSAFE",
  // Before a node that has just come is known, or at a node that does not know it yet.
  "MEMBER_NOT_FOUND",
]);

/** What a SimOperator works with. */
export interface SimOperatorOptions {
  readonly process: SimProcess;
  /** Its address on the network. */
  readonly address: number;
  readonly prng: SeededPrng;
  readonly network: SimNetwork;
  readonly scheduler: SimScheduler;
  readonly cluster: SimCluster;
  /** What keeps the cluster from being whole. */
  readonly openMatters: () => readonly string[];
}

/** The operator of one run. */
export class SimOperator {
  /** How often each kind of change came to its end. */
  readonly counts = new Map<MembershipKind, number>();
  /** What it is doing, for the report. */
  doing = "nothing yet";
  readonly #options: SimOperatorOptions;
  #requestCount = 0;

  constructor(options: SimOperatorOptions) {
    this.#options = options;
  }

  /** Makes all changes; resolves when the last one has ended. */
  async run(changes: readonly PlannedChange[]): Promise<void> {
    const { process, scheduler } = this.#options;
    for (const { kind, atMs } of changes) {
      while (scheduler.nowMs < atMs) await process.delay(POLL_MS);
      for (const step of this.#stepsOf(kind)) {
        this.doing = step;
        scheduler.note(`membership: ${step}`);
        await this.#make(step);
        this.counts.set(step, (this.counts.get(step) ?? 0) + 1);
      }
    }
    this.doing = "done";
  }

  /** Removed machines whose process has not heard of it yet. */
  unaware(): readonly SimMachine[] {
    return this.#options.cluster.all.filter(({ isRemoved, process }) => isRemoved && process !== undefined);
  }

  /** The change itself; where the cluster is too small or too large for it, another one before. */
  #stepsOf(kind: MembershipKind): readonly MembershipKind[] {
    const storageCount = this.#options.cluster.storage.length;
    const takesAway = kind === "remove-storage" || kind === "drain-storage";
    if (takesAway && storageCount <= 1) return ["add-storage", kind];
    if (kind === "add-storage" && storageCount >= STORAGE_COUNT_MAX) return ["remove-storage", kind];
    const count = this.#options.cluster.present.length;
    if (kind === "remove" && count <= FOUNDER_IDS.length) return ["add", "remove"];
    if (kind === "add" && count >= MACHINE_COUNT_MAX) return ["remove", "add"];
    return [kind];
  }

  async #make(kind: MembershipKind): Promise<void> {
    switch (kind) {
      case "add":
        return this.#admit(undefined);
      case "add-storage":
        return this.#admit(undefined, true);
      case "replace":
        return this.#admit(this.#draw());
      case "remove":
        return this.#remove(this.#draw(), false);
      case "remove-storage":
        return this.#remove(this.#drawStorage(), false);
      case "drain-storage":
        return this.#drain(this.#drawStorage());
      case "empty-storage":
        return this.#empty();
      case "wipe":
      case "wipe-storage": {
        const lost = await this.#loseOne(kind === "wipe-storage");
        return this.#admit(lost, lost.isStorageOnly);
      }
      case "force":
      case "force-storage": {
        const lost = await this.#loseOne(kind === "force-storage");
        await this.#remove(lost, true);
        return this.#admit(undefined, lost.isStorageOnly);
      }
      case "transfer": {
        const to = this.#options.prng.below(3) === 0 ? undefined : this.#draw().nodeId;
        // It may fail, when nobody took over in time.
        await this.#carryOut((admin, requestId) => admin.transferLeadership(to, { requestId }));
      }
    }
  }

  #draw(): SimMachine {
    const { cluster, prng } = this.#options;
    return cluster.pick(1 + prng.below(cluster.present.length));
  }

  #drawStorage(): SimMachine {
    const { cluster, prng } = this.#options;
    const { storage } = cluster;
    return must(storage[prng.below(storage.length)], "a storage-only machine is always there");
  }

  /** Everything on a storage-only member is moved away, and nothing was lost when it leaves. */
  async #drain(machine: SimMachine): Promise<void> {
    const { process, scheduler } = this.#options;
    const { nodeId, memberId } = machine;
    scheduler.note(`${nodeId} is drained`);
    await this.#ask("drain", (node, requestId) => node.drive.setDraining(nodeId, true, { requestId }));
    const holds = async (): Promise<boolean> =>
      this.#ask("look at the drained", async (node) => {
        const extents = listExtents(node.consensus.reader(), undefined, EXTENT_COUNT_MAX);
        return extents.some(({ extent }) => extent.replicas.some((replica) => replica.memberId === memberId));
      });
    while (await holds()) await process.delay(10 * POLL_MS);
    await this.#remove(machine, false);
  }

  /** The chunks of a storage-only member are gone, and with them its index or not; it starts again with a new store. */
  async #empty(): Promise<void> {
    const { process, openMatters, scheduler, prng } = this.#options;
    while (openMatters().length > 0) await process.delay(POLL_MS);
    const machine = this.#drawStorage();
    const known = await this.#storeOf(machine);
    if (machine.process !== undefined) machine.stop("power-loss");
    machine.loseChunks();
    if (prng.below(2) === 0) machine.spoilStore("index", "gone", prng.fork());
    scheduler.note(`the chunks of machine ${machine.memberId} are gone`);
    await process.delay(POLL_MS);
    if (machine.process === undefined) machine.start();
    // Until it has registered with its new store, its copies count as there.
    while ((await this.#storeOf(machine)) === known) await process.delay(POLL_MS);
  }

  /** The store of a member as the tree knows it. */
  #storeOf({ memberId }: SimMachine): Promise<string | undefined> {
    return this.#ask("look at the store", async (node) => {
      return findMember(node.consensus.reader(), memberId)?.storeIncarnation;
    });
  }

  /** A machine loses everything, at a moment when everything is there twice more. */
  async #loseOne(isStorageOnly: boolean): Promise<SimMachine> {
    const { process, openMatters, scheduler } = this.#options;
    while (openMatters().length > 0) await process.delay(POLL_MS);
    const machine = isStorageOnly ? this.#drawStorage() : this.#draw();
    if (machine.process !== undefined) machine.stop("power-loss");
    machine.isLost = true;
    scheduler.note(`machine ${machine.memberId} is lost`);
    return machine;
  }

  /** Brings a new machine in, in the place of another or beside all. */
  async #admit(former: SimMachine | undefined, isStorageOnly = false): Promise<void> {
    const { cluster, prng } = this.#options;
    const machine = await cluster.add(isStorageOnly);
    const { memberId, nodeId, address, featureLevels } = machine;
    const secret = toHex(prng.bytes(16));
    const replacesNode = former?.nodeId;
    if (former !== undefined) former.isLeaving = true;
    const { token } = await this.#ask("token", (node, requestId) =>
      node.membership.createJoinToken({ secret, replacesNode, storageOnly: isStorageOnly }, { requestId }),
    );
    const { changeId } = await this.#ask("admit", (node) =>
      node.membership.admit({ token, memberId, nodeId, address, featureLevels }),
    );
    machine.start();
    const { phase, reason } = await this.#ended(changeId);
    if (phase !== "done") throw new Error(`M1: the admission of member ${memberId} ${phase}: ${reason}`);
    if (former !== undefined) former.isRemoved = true;
  }

  /** Removes a member; one that is refused, or fails because it would harm, is tried again. */
  async #remove(machine: SimMachine, force: boolean): Promise<void> {
    machine.isLeaving = true;
    for (;;) {
      const { phase } = await this.#carryOut((admin, requestId) =>
        admin.removeNode(machine.nodeId, { force }, { requestId }),
      );
      if (phase === "done") break;
      await this.#options.process.delay(10 * POLL_MS);
    }
    machine.isRemoved = true;
  }

  async #carryOut(
    begin: (
      admin: Omit<ClusterAdmin, "backUpTree">,
      requestId: string,
    ) => Promise<{ readonly changeId: number }>,
  ): Promise<MembershipProgress> {
    const { changeId } = await this.#ask("change", (node, requestId) => begin(node.membership, requestId));
    return this.#ended(changeId);
  }

  /** Waits until a change has ended. */
  async #ended(changeId: number): Promise<MembershipProgress> {
    for (;;) {
      const { change } = await this.#ask("progress", (node) => node.membership.membership());
      const progress = must(change, "a change was begun");
      if (progress.changeId !== changeId) {
        throw new Error(
          `M1: change ${changeId} was followed by ${progress.changeId}, which nobody asked for`,
        );
      }
      if (progress.phase === "done" || progress.phase === "failed") return progress;
      await this.#options.process.delay(POLL_MS);
    }
  }

  /** Asks any node, one after the other, until one answers; always with the same request id. */
  async #ask<T>(label: string, work: (node: DriveNode, requestId: string) => Promise<T>): Promise<T> {
    const { process, cluster, prng, network, address } = this.#options;
    this.#requestCount += 1;
    const requestId = `operator-${this.#requestCount}`;
    for (;;) {
      const { memberId } = cluster.pick(1 + prng.below(cluster.present.length));
      try {
        return await network.call({
          from: address,
          caller: process,
          to: memberId,
          label: `operator>${memberId} ${label}`,
          deadlineMs: CALL_DEADLINE_MS,
          serve: async () => {
            const node = cluster.find(memberId)?.servingNode;
            if (node === undefined) throw new DriveError("NODE_STARTING", "The node is starting.");
            return work(node, requestId);
          },
          refused: () => new DriveError("PEER_UNREACHABLE", "Nobody listens."),
          lost: () => new DriveError("COMMIT_OUTCOME_UNKNOWN", "The connection broke."),
        });
      } catch (error) {
        if (!hasReason(error, ...PASSING_REASONS)) throw error;
        await process.delay(POLL_MS * (1 + prng.below(3)));
      }
    }
  }
}
