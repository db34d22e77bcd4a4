/**
 * What is checked on the whole cluster, seen from outside: after every event the Raft invariants (R1-R7, R9-R11, R13-R16) and what
 * must be durable (R8, R17); at intervals and at the end the replicated state and every copy of every file.
 *
 * A node that is dead is looked at as it was when it died, and again when it comes back: what it had called durable must be
 * there. Nothing here changes a node, but for verify(), which reads copies and so may find damage.
 */
import { hasReason } from "../../src/drive/errors.ts";
import { REPLICA_COUNT } from "../../src/drive/limits.ts";
import { checkInvariants } from "../../src/metadata/invariants.ts";
import { clusterTime, counters, dropList, listExtents, type KeyedExtent } from "../../src/metadata/view.ts";
import type { DriveNode } from "../../src/node/drive-node.ts";
import { ClusterInvariants, InvariantViolation, type NodeView } from "../../src/raft/invariants.ts";
import type { Message } from "../../src/raft/types.ts";
import { must } from "../../src/std/assert.ts";
import { bytesEqual, toHex } from "../../src/std/bytes.ts";
import type { SimMachine } from "./sim-machine.ts";

const EXTENT_COUNT_MAX = 100_000;

/** The checks of one run. */
export class SimChecks {
  readonly #machines: readonly SimMachine[];
  readonly #invariants = new ClusterInvariants();
  readonly #views = new Map<number, NodeView>();
  /** Term of the last durable entry in each view, as it was then: a view reads the node that it is of, which goes on. */
  readonly #stableTerms = new Map<number, number>();
  readonly #incarnations = new Map<number, number>();
  readonly #hashes = new Map<number, { readonly memberId: number; readonly hash: Uint8Array }>();
  readonly #applied = new Map<number, number>();
  /** Looks at nodes so far. */
  observationCount = 0;
  commitIndexMax = 0;

  constructor(machines: readonly SimMachine[]) {
    this.#machines = machines;
  }

  /** Looks at every node; after every event. Throws InvariantViolation. */
  observe(): void {
    const fresh: NodeView[] = [];
    for (const machine of this.#machines) {
      const { memberId, servingNode, incarnationCount } = machine;
      if (servingNode === undefined) continue;
      const view = servingNode.consensus.view();
      const last = this.#views.get(memberId);
      if (this.#incarnations.get(memberId) !== incarnationCount) {
        this.#incarnations.set(memberId, incarnationCount);
        this.#invariants.restarted(memberId);
        this.#applied.delete(memberId);
        // What was damaged is mended from the others; until then it need not be there.
        if (last !== undefined && machine.rottenIndex === undefined) {
          checkSurvived(last, this.#stableTerms.get(memberId), view);
        }
      } else if (last !== undefined && isSame(last, view)) continue;
      this.#views.set(memberId, view);
      const stable = view.stableIndex ?? 0;
      if (stable >= view.firstIndex) this.#stableTerms.set(memberId, view.termAt(stable));
      if (machine.rottenIndex !== undefined && stable >= machine.rottenIndex) machine.rottenIndex = undefined;
      fresh.push(view);
      this.#checkHashes(memberId, servingNode);
    }
    if (fresh.length === 0) return;
    this.observationCount += fresh.length;
    this.#invariants.observeAll(fresh);
    for (const view of fresh) if (view.role === "leader") this.#checkDurable(view);
  }

  /** How far the log of a member was durable when it was looked at last. */
  stableIndexOf(memberId: number): number {
    return this.#views.get(memberId)?.stableIndex ?? 0;
  }

  /** Looks at a message as it leaves: what it promises must be durable where it comes from. */
  observeMessage(message: Message): void {
    this.#invariants.observeMessage(message);
    if (message.kind !== "append-response" || message.reject) return;
    const node = this.#machines.find(({ memberId }) => memberId === message.from)?.servingNode;
    const view = node?.consensus.view();
    if (view === undefined || view.term !== message.term) return;
    const stable = Math.max(view.stableIndex ?? 0, view.pendingSnapshotIndex ?? 0);
    if (message.index <= Math.max(stable, view.commitIndex)) return;
    throw new InvariantViolation(
      "R17",
      `node ${message.from} acknowledged ${message.index}, of which ${stable} is durable`,
    );
  }

  /** The invariants of the replicated state (C9) on every node that serves. */
  checkTrees(): void {
    for (const { servingNode, memberId } of this.#machines) {
      if (servingNode === undefined) continue;
      try {
        checkInvariants(servingNode.consensus.reader());
      } catch (error) {
        throw new Error(`C9: the state of member ${memberId}: ${String(error)}`, { cause: error });
      }
    }
  }

  /** What keeps the cluster from being whole: no leader, a node behind, copies missing. Empty when it is. */
  openMatters(): string[] {
    const matters: string[] = [];
    const nodes: DriveNode[] = [];
    for (const { memberId, servingNode } of this.#machines) {
      if (servingNode === undefined) matters.push(`member ${memberId} does not serve`);
      else nodes.push(servingNode);
    }
    const leaders = new Set(nodes.map((node) => node.consensus.leaderId()));
    if (leaders.size !== 1 || leaders.has(undefined)) matters.push(`leaders: ${[...leaders].join()}`);
    for (const node of nodes) {
      matters.push(...node.problems());
      if (node.consensus.appliedIndex() + 5 < this.commitIndexMax) {
        matters.push(`a node applied ${node.consensus.appliedIndex()} of ${this.commitIndexMax}`);
      }
      const { replicas } = counters(node.consensus.reader());
      if (replicas.underReplicatedCount > 0)
        matters.push(`${replicas.underReplicatedCount} under-replicated`);
      if (replicas.suspectCount > 0) matters.push(`${replicas.suspectCount} suspect`);
    }
    return matters;
  }

  /** Copies that are still to be removed, as each node's tree has them. */
  dropCount(): number {
    let count = 0;
    for (const { servingNode, memberId } of this.#machines) {
      if (servingNode === undefined) continue;
      count += dropList(servingNode.consensus.reader(), memberId, EXTENT_COUNT_MAX).length;
    }
    return count;
  }

  /** Reads every copy of every extent whole. Damage that is found is reported by the node itself; returns how much was. */
  async verify(isDamageAllowed: boolean): Promise<{ readonly copies: number; readonly damaged: number }> {
    let copies = 0;
    let damaged = 0;
    const first = must(this.#machines[0]?.servingNode, "all nodes serve");
    for (const extent of listExtents(first.consensus.reader(), undefined, EXTENT_COUNT_MAX)) {
      const members = extent.extent.replicas.filter(({ state }) => state === "verified");
      if (members.length < REPLICA_COUNT && !isDamageAllowed) {
        throw new Error(`K1: extent ${nameOf(extent)} has ${members.length} verified copies`);
      }
      for (const { memberId } of members) {
        const isGood = await this.#verifyCopy(extent, memberId, isDamageAllowed);
        if (isGood) copies += 1;
        else damaged += 1;
      }
    }
    return { copies, damaged };
  }

  /** The state of every node, at an index that all of them remember: equal (R10). */
  checkEqualStates(): void {
    const nodes = this.#machines.map((machine) => must(machine.servingNode, "all nodes serve"));
    const index = Math.min(...nodes.map((node) => node.consensus.appliedIndex()));
    const hashes = nodes.map((node) => node.consensus.stateHashAt(index)?.hash);
    const [one] = hashes;
    if (one === undefined || hashes.some((hash) => hash === undefined || !bytesEqual(hash, one))) {
      const shown = hashes.map((hash) => (hash === undefined ? "unknown" : toHex(hash).slice(0, 16)));
      throw new InvariantViolation("R10", `states differ at ${index}: ${shown.join(", ")}`);
    }
  }

  /** One line about each node, for the report of a failure. */
  describe(): string {
    return this.#machines
      .map(({ memberId, servingNode, process }) => {
        if (servingNode === undefined)
          return `member ${memberId}: ${process === undefined ? "down" : "starting"}`;
        const { consensus } = servingNode;
        const { role, term, firstIndex, lastIndex, stableIndex, commitIndex, appliedIndex } =
          consensus.status();
        const reader = consensus.reader();
        return `member ${memberId}: ${role} of term ${term}, log ${firstIndex}..${lastIndex}, stable ${stableIndex}, committed ${commitIndex}, applied ${appliedIndex}, cluster time ${clusterTime(reader)}, ${JSON.stringify(counters(reader).replicas)}`;
      })
      .join("\n");
  }

  async #verifyCopy(extent: KeyedExtent, memberId: number, isDamageAllowed: boolean): Promise<boolean> {
    const node = must(this.#machines.find((each) => each.memberId === memberId)?.servingNode, "all serve");
    const key = { contentId: extent.contentId, extentIndex: extent.extent.extentIndex };
    try {
      const seal = await node.replica.verifyExtent(key);
      if (bytesEqual(seal.root, extent.extent.root)) return true;
      throw new Error(`K2: member ${memberId} holds other bytes of ${nameOf(extent)}`);
    } catch (error) {
      if (isDamageAllowed && hasReason(error, "CHUNK_CORRUPT", "CHUNK_NOT_FOUND")) return false;
      throw new Error(`K1: the verified copy of ${nameOf(extent)} at member ${memberId}: ${String(error)}`, {
        cause: error,
      });
    }
  }

  /** What a leader calls committed is durable on a majority now, counting those that are dead as they were (R7, R8). */
  #checkDurable(leader: NodeView): void {
    const { commitIndex } = leader;
    if (commitIndex <= this.commitIndexMax) return;
    this.commitIndexMax = commitIndex;
    const term = leader.termAt(commitIndex);
    const holders = [...this.#views.values()].filter((view) => {
      const stable = Math.max(view.stableIndex ?? 0, view.firstIndex - 1);
      return stable >= commitIndex && (commitIndex < view.firstIndex || view.termAt(commitIndex) === term);
    });
    if (2 * holders.length > this.#machines.length) return;
    throw new InvariantViolation(
      "R8",
      `leader ${leader.id} committed ${commitIndex}, which is durable on ${holders.length} of ${this.#machines.length}`,
    );
  }

  #checkHashes(memberId: number, node: DriveNode): void {
    const applied = node.consensus.appliedIndex();
    const last = this.#applied.get(memberId) ?? applied - 1;
    this.#applied.set(memberId, applied);
    for (let index = last + 1; index <= applied; index += 1) {
      const found = node.consensus.stateHashAt(index);
      if (found === undefined) continue;
      const known = this.#hashes.get(index);
      if (known === undefined) this.#hashes.set(index, { memberId, hash: found.hash });
      else if (!bytesEqual(known.hash, found.hash)) {
        throw new InvariantViolation(
          "R10",
          `members ${known.memberId} and ${memberId} have other states after ${index}`,
        );
      }
    }
  }
}

function nameOf({ contentId, extent }: KeyedExtent): string {
  return `${contentId}/${extent.extentIndex}`;
}

function isSame(a: NodeView, b: NodeView): boolean {
  return (
    a.term === b.term &&
    a.role === b.role &&
    a.votedFor === b.votedFor &&
    a.commitIndex === b.commitIndex &&
    a.appliedIndex === b.appliedIndex &&
    a.firstIndex === b.firstIndex &&
    a.lastIndex === b.lastIndex &&
    a.stableIndex === b.stableIndex &&
    a.pendingSnapshotIndex === b.pendingSnapshotIndex
  );
}

/** What a node had called durable when it died is there when it comes back (R8, R14). */
function checkSurvived(before: NodeView, stableTerm: number | undefined, after: NodeView): void {
  const stable = before.stableIndex ?? 0;
  if (stable < after.firstIndex) return;
  const isThere =
    stable <= after.lastIndex && (stable < before.firstIndex || stableTerm === after.termAt(stable));
  if (isThere) return;
  throw new InvariantViolation(
    "R8",
    `node ${after.id} had ${stable} durable and came back with ${after.firstIndex}..${after.lastIndex}`,
  );
}
