/**
 * What is checked on the whole cluster, seen from outside: after every event the Raft invariants (R1-R7, R9-R16, R18), what must be
 * durable (R8, R17), the bounds of queues (R22) and the change feed (C5, C8); at intervals and at the end the replicated state and
 * every copy of every file.
 *
 * A node that is dead is looked at as it was when it died, and again when it comes back: what it had called durable must be
 * there. Nothing here changes a node, but for verify(), which reads copies and so may find damage.
 */
import type { ConsensusStatus } from "../../src/consensus/consensus-options.ts";
import type { ConsensusTuning } from "../../src/consensus/tuning.ts";
import { hasReason } from "../../src/drive/errors.ts";
import { REPLICA_COUNT } from "../../src/drive/limits.ts";
import { isEvictionDue } from "../../src/metadata/evict.ts";
import { checkInvariants } from "../../src/metadata/invariants.ts";
import { clusterTime, counters, dropList, listExtents, type KeyedExtent } from "../../src/metadata/view.ts";
import type { DriveNode } from "../../src/node/drive-node.ts";
import { ClusterInvariants, InvariantViolation, type NodeView } from "../../src/raft/invariants.ts";
import type { ConfState, Message } from "../../src/raft/types.ts";
import { must } from "../../src/std/assert.ts";
import { bytesEqual, toHex } from "../../src/std/bytes.ts";
import { ConfigChecks } from "./config-checks.ts";
import { FeedChecks } from "./feed-checks.ts";
import { FOUNDER_IDS, type SimCluster } from "./sim-cluster.ts";
import { nameOfExtent, type SimMachine } from "./sim-machine.ts";
import { VoteChecks } from "./vote-checks.ts";

const EXTENT_COUNT_MAX = 100_000;

/** Bounds of what waits at one node; see ConsensusTuning and DriveNodeOptions. */
export type SimBounds = Pick<
  ConsensusTuning,
  | "proposalCountMax"
  | "readCountMax"
  | "uncommittedBytesMax"
  | "proposalBatchBytesMax"
  | "inflightMessagesMax"
> & { readonly inFlightBytesMax: number };

/** The checks of one run. */
export class SimChecks {
  readonly feed = new FeedChecks();
  readonly #cluster: SimCluster;
  readonly #bounds: SimBounds;
  readonly #votes = new VoteChecks();
  readonly #configs = new ConfigChecks(FOUNDER_IDS);
  readonly #invariants = new ClusterInvariants();
  readonly #views = new Map<number, NodeView>();
  /** Term of the last durable entry in each view, as it was then: a view reads the node that it is of, which goes on. */
  readonly #stableTerms = new Map<number, number>();
  /** Each node as it was looked at last. */
  readonly #statuses = new Map<number, ConsensusStatus>();
  /** What each node counted with when it was looked at before the last time. */
  readonly #configsBefore = new Map<number, ConfState>();
  readonly #incarnations = new Map<number, number>();
  readonly #hashes = new Map<number, { readonly memberId: number; readonly hash: Uint8Array }>();
  readonly #applied = new Map<number, number>();
  /** Terms in which somebody led. */
  readonly ledTerms = new Set<number>();
  /** Looks at nodes so far. */
  observationCount = 0;
  commitIndexMax = 0;

  constructor(cluster: SimCluster, bounds: SimBounds) {
    this.#cluster = cluster;
    this.#bounds = bounds;
  }

  /** Configurations that held one after the other, the first one not counted. */
  get configCount(): number {
    return this.#configs.changeCount;
  }

  /** Looks at every node; after every event. Throws InvariantViolation. */
  observe(): void {
    const fresh: NodeView[] = [];
    for (const machine of this.#cluster.all) {
      const { memberId, servingNode, incarnationCount } = machine;
      if (servingNode === undefined) continue;
      const { consensus } = servingNode;
      const status = consensus.status();
      const lastStatus = this.#statuses.get(memberId);
      this.#statuses.set(memberId, status);
      this.#checkQueues(memberId, status);
      const isRestarted = this.#incarnations.get(memberId) !== incarnationCount;
      if (!isRestarted && lastStatus !== undefined && isSame(lastStatus, status)) continue;
      const view = consensus.view();
      const last = this.#views.get(memberId);
      if (isRestarted) {
        this.#incarnations.set(memberId, incarnationCount);
        this.#invariants.restarted(memberId);
        this.#applied.delete(memberId);
        this.#votes.restarted(memberId);
        this.feed.restarted(memberId);
        // What was damaged is mended from the others; until then it need not be there.
        // A state that is made anew brings its own log.
        if (last !== undefined && machine.rottenIndex === undefined && !consensus.isRebuilding()) {
          checkSurvived(last, this.#stableTerms.get(memberId), view);
        }
      }
      this.#views.set(memberId, view);
      if (last?.config !== undefined) this.#configsBefore.set(memberId, last.config);
      const stable = view.stableIndex ?? 0;
      if (stable >= view.firstIndex) this.#stableTerms.set(memberId, view.termAt(stable));
      if (machine.rottenIndex !== undefined && stable >= machine.rottenIndex) machine.rottenIndex = undefined;
      fresh.push(view);
      this.#checkHashes(memberId, servingNode);
      this.#checkUploads(memberId, servingNode);
      if (!consensus.isRebuilding()) {
        this.feed.observe(memberId, consensus.reader(), consensus.appliedIndex());
      }
    }
    this.#check(fresh);
  }

  #check(fresh: readonly NodeView[]): void {
    if (fresh.length === 0) return;
    this.observationCount += fresh.length;
    this.#invariants.observeAll(fresh);
    this.#configs.observe(fresh);
    for (const view of fresh) {
      if (view.role !== "leader") continue;
      this.ledTerms.add(view.term);
      this.#checkDurable(view);
    }
  }

  /**
   * Looks for the last time at a node that served and ends because of its version: what it did before it failed, in the same turn,
   * counts. What the core has of the batch of entries in which it failed never came to be: the store says how far it applied.
   */
  observeEnded({ memberId, node, servingNode, incarnationCount }: SimMachine): void {
    const last = this.#views.get(memberId);
    if (node === undefined || servingNode !== undefined || last === undefined) return;
    if (this.#incarnations.get(memberId) !== incarnationCount) return;
    const { consensus } = node;
    const view = {
      ...consensus.view(),
      appliedIndex: consensus.appliedIndex(),
      config: consensus.confState(),
    };
    this.#views.set(memberId, view);
    if (last.config !== undefined) this.#configsBefore.set(memberId, last.config);
    const stable = view.stableIndex ?? 0;
    if (stable >= view.firstIndex) this.#stableTerms.set(memberId, view.termAt(stable));
    this.#check([view]);
  }

  /** How far the log of a member was durable when it was looked at last. */
  stableIndexOf(memberId: number): number {
    return this.#views.get(memberId)?.stableIndex ?? 0;
  }

  /** Looks at a message as it leaves: what it promises must be durable where it comes from. */
  observeMessage(message: Message): void {
    this.#invariants.observeMessage(message);
    this.#votes.granted(message);
    if (message.kind !== "append-response" || message.reject) return;
    const node = this.#cluster.find(message.from)?.servingNode;
    const view = node?.consensus.view();
    if (view === undefined || view.term !== message.term) return;
    const stable = Math.max(view.stableIndex ?? 0, view.pendingSnapshotIndex ?? 0);
    if (message.index <= Math.max(stable, view.commitIndex)) return;
    throw new InvariantViolation(
      "R17",
      `node ${message.from} acknowledged ${message.index}, of which ${stable} is durable`,
    );
  }

  /** Looks at a message just before its receiver takes it. */
  observeDelivery(message: Message): void {
    if (message.kind !== "vote" && message.kind !== "pre-vote") return;
    const view = this.#cluster.find(message.to)?.servingNode?.consensus.view();
    if (view === undefined) return;
    const { lastIndex: index } = view;
    this.#votes.asked(message.to, message, { term: view.termAt(index), index });
  }

  /** The invariants of the replicated state (C9) on every node that serves. */
  checkTrees(): void {
    for (const { servingNode, memberId } of this.#cluster.all) {
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
    for (const { memberId, servingNode } of this.#cluster.present) {
      if (servingNode === undefined) matters.push(`member ${memberId} does not serve`);
      else nodes.push(servingNode);
    }
    for (const { memberId, servingPeer } of this.#cluster.storage) {
      matters.push(...(servingPeer?.problems() ?? [`member ${memberId} does not serve`]));
    }
    const leaders = new Set(nodes.map((node) => node.consensus.leaderId()));
    if (leaders.size !== 1 || leaders.has(undefined)) matters.push(`leaders: ${[...leaders].join()}`);
    for (const node of nodes) {
      matters.push(...node.problems());
      if (node.consensus.appliedIndex() + 5 < this.commitIndexMax) {
        matters.push(`a node applied ${node.consensus.appliedIndex()} of ${this.commitIndexMax}`);
      }
      const reader = node.consensus.reader();
      const { replicas } = counters(reader);
      if (isEvictionDue(reader)) matters.push("copies of a removed member to forget");
      if (replicas.recounting) matters.push("copies of a store that is gone to count as lost");
      if (replicas.underReplicatedCount > 0)
        matters.push(`${replicas.underReplicatedCount} under-replicated`);
      if (replicas.suspectCount > 0) matters.push(`${replicas.suspectCount} suspect`);
    }
    return matters;
  }

  /** Copies that are still to be removed, as each node's tree has them. */
  dropCount(): number {
    let count = 0;
    for (const { servingNode, memberId } of this.#cluster.present) {
      if (servingNode === undefined) continue;
      const reader = servingNode.consensus.reader();
      count += dropList(reader, memberId, EXTENT_COUNT_MAX).length;
      for (const { memberId: id } of this.#cluster.storage) {
        count += dropList(reader, id, EXTENT_COUNT_MAX).length;
      }
    }
    return count;
  }

  /** Reads every copy of every extent whole. Damage that is found is reported by the node itself; returns how much was. */
  async verify(
    isDamageAllowed: boolean,
  ): Promise<{ readonly copies: number; readonly storageCopies: number; readonly damaged: number }> {
    let copies = 0;
    let storageCopies = 0;
    let damaged = 0;
    const first = must(this.#cluster.present[0]?.servingNode, "all nodes serve");
    for (const extent of listExtents(first.consensus.reader(), undefined, EXTENT_COUNT_MAX)) {
      const members = extent.extent.replicas.filter(({ state }) => state === "verified");
      if (members.length < REPLICA_COUNT && !isDamageAllowed) {
        throw new Error(`K1: extent ${nameOf(extent)} has ${members.length} verified copies`);
      }
      for (const { memberId } of members) {
        const isGood = await this.#verifyCopy(extent, memberId, isDamageAllowed);
        if (isGood) copies += 1;
        else damaged += 1;
        if (isGood && this.#cluster.find(memberId)?.isStorageOnly === true) storageCopies += 1;
      }
    }
    return { copies, storageCopies, damaged };
  }

  /** Copies that the tree counts on at a member. */
  copiesAt(memberId: number): ReadonlySet<string> {
    const first = must(this.#cluster.present[0]?.servingNode, "all nodes serve");
    const all = listExtents(first.consensus.reader(), undefined, EXTENT_COUNT_MAX);
    const held = all.filter(({ extent }) =>
      extent.replicas.some((replica) => replica.memberId === memberId && replica.state === "verified"),
    );
    return new Set(held.map(nameOf));
  }

  /** The state of every node, at an index that all of them remember: equal (R10). */
  checkEqualStates(): void {
    const nodes = this.#cluster.present.map((machine) => must(machine.servingNode, "all nodes serve"));
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
    return this.#cluster.all
      .map(({ memberId, servingNode, servingPeer, isStorageOnly, process }) => {
        if (isStorageOnly && servingPeer !== undefined) {
          return `member ${memberId}: storage-only, ${JSON.stringify(servingPeer.load())}`;
        }
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
    const node = must(this.#cluster.find(memberId)?.servingPeer, "all serve");
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

  /** What a leader calls committed is durable on a majority of each half now, counting those that are dead as they were (R7, R8). */
  #checkDurable(leader: NodeView): void {
    const { commitIndex } = leader;
    if (commitIndex <= this.commitIndexMax) return;
    this.commitIndexMax = commitIndex;
    const term = leader.termAt(commitIndex);
    const holds = (id: number): boolean => {
      const view = this.#views.get(id);
      if (view === undefined) return false;
      const stable = Math.max(view.stableIndex ?? 0, view.firstIndex - 1);
      return stable >= commitIndex && (commitIndex < view.firstIndex || view.termAt(commitIndex) === term);
    };
    const hasQuorum = ({ voters, votersOutgoing }: ConfState): boolean =>
      [voters, votersOutgoing].every(
        (half) => half.length === 0 || 2 * half.filter(holds).length > half.length,
      );
    const config = must(leader.config, "a view of a core has a configuration");
    // A change that is applied in the same step as it was committed was committed by those before.
    const before = this.#configsBefore.get(leader.id) ?? config;
    if (hasQuorum(config) || hasQuorum(before)) return;
    const holders = [...this.#views.keys()].filter(holds);
    throw new InvariantViolation(
      "R8",
      `leader ${leader.id} committed ${commitIndex}, which is durable on ${holders.join()} of ${JSON.stringify(config)}`,
    );
  }

  /** What waits in consensus is within its bounds (R22). */
  #checkQueues(memberId: number, status: ConsensusStatus): void {
    const { proposalCount, readCount, uncommittedBytes, progress, lastIndex, appliedIndex } = status;
    const bounds = this.#bounds;
    const bytesMax = bounds.uncommittedBytesMax + bounds.proposalBatchBytesMax;
    checkBound(memberId, "proposals", proposalCount, bounds.proposalCountMax);
    checkBound(memberId, "reads", readCount, bounds.readCountMax);
    // A command alone may be of any size, or it could never be proposed (etcd's rule for its uncommitted size).
    const isOneAlone = lastIndex - appliedIndex <= 1;
    if (!isOneAlone) checkBound(memberId, "uncommitted bytes", uncommittedBytes, bytesMax);
    for (const { inflightCount } of progress.values()) {
      checkBound(memberId, "appends in flight to one follower", inflightCount, bounds.inflightMessagesMax);
    }
  }

  /** The bytes of uploads that a node holds are within their bound (R22); looked at whenever consensus went on there. */
  #checkUploads(memberId: number, node: DriveNode): void {
    checkBound(memberId, "bytes of uploads", node.load().inflightBytes, this.#bounds.inFlightBytesMax);
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

function checkBound(memberId: number, what: string, count: number, countMax: number): void {
  if (count <= countMax) return;
  throw new InvariantViolation("R22", `member ${memberId} keeps ${count} ${what}, at most ${countMax}`);
}

function nameOf({ contentId, extent }: KeyedExtent): string {
  return nameOfExtent({ contentId, extentIndex: extent.extentIndex });
}

function isSame(a: ConsensusStatus, b: ConsensusStatus): boolean {
  return (
    a.term === b.term &&
    a.role === b.role &&
    a.votedFor === b.votedFor &&
    a.commitIndex === b.commitIndex &&
    a.appliedIndex === b.appliedIndex &&
    a.firstIndex === b.firstIndex &&
    a.lastIndex === b.lastIndex &&
    // An entry that another of a later term took the place of, within one turn.
    a.lastTerm === b.lastTerm &&
    a.stableIndex === b.stableIndex &&
    a.pendingSnapshotIndex === b.pendingSnapshotIndex
  );
}

/** What a node had called durable when it died is there when it comes back (R8, R14). */
function checkSurvived(before: NodeView, stableTerm: number | undefined, after: NodeView): void {
  const stable = before.stableIndex ?? 0;
  // A snapshot that was on its way counts as the end of the log before it is there.
  const isSnapshot = (before.pendingSnapshotIndex ?? 0) > 0;
  if (isSnapshot || stable < after.firstIndex) return;
  const isThere =
    stable <= after.lastIndex && (stable < before.firstIndex || stableTerm === after.termAt(stable));
  if (isThere) return;
  throw new InvariantViolation(
    "R8",
    `node ${after.id} had ${stable} of term ${stableTerm} durable and came back with ${after.firstIndex}..${after.lastIndex}${stable > after.lastIndex ? "" : `, ${stable} of term ${after.termAt(stable)}`}`,
  );
}
