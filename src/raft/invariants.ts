/**
 * What must hold for one node at any time, and for a whole group (Raft figure 3), as checks that a simulator, and a
 * cautious production node, run after every step. The ids (R1 …) are those that the tests print.
 *
 * Everything is incremental: a check costs as much as has changed since the last one, never the length of the log. Logs are
 * compared by a hash chain over (term, data), so that one comparison at an index speaks for the whole prefix. Pure: a
 * violation is thrown as an InvariantViolation and nothing else happens.
 */
import { must } from "../std/assert.ts";
import type { ProgressView } from "./progress.ts";
import type { RaftNode } from "./raft-node.ts";
import { NO_MEMBER, type ConfState, type LogEntry, type MemberId, type Message, type Role } from "./types.ts";

/** One node as the checks see it. */
export interface NodeView {
  readonly id: MemberId;
  readonly term: number;
  readonly votedFor: MemberId;
  readonly role: Role;
  readonly commitIndex: number;
  readonly appliedIndex: number;
  readonly firstIndex: number;
  readonly lastIndex: number;
  /** Highest durable index; undefined where the driver applies before it stores (sync mode). */
  readonly stableIndex?: number | undefined;
  /** Index of a snapshot handed out for installing, until that is confirmed; 0 or undefined for none. */
  readonly pendingSnapshotIndex?: number;
  /** The configuration in force at the node, where it is known. */
  readonly config?: ConfState;
  /** On a leader, what it knows of the others. */
  readonly progress?: ReadonlyMap<MemberId, ProgressView>;
  /** Term at `index`, from firstIndex - 1 to lastIndex. */
  termAt(index: number): number;
  /** A 32-bit hash of kind and data at `index`, from firstIndex to lastIndex. */
  dataHashAt(index: number): number;
  /** The entry at `index`, from firstIndex to lastIndex, where the view is of a node's own log. */
  readonly entryAt?: (index: number) => LogEntry;
}

/** A broken invariant: the program is wrong. */
export class InvariantViolation extends Error {
  override readonly name = "InvariantViolation";
  /** Which one: "R1", "R4", … */
  readonly id: string;

  constructor(id: string, message: string) {
    super(`${id}: ${message}`);
    this.id = id;
  }
}

/** What checkBasic() and checkDelta() need, without the log itself. */
export type NodeNumbers = Omit<NodeView, "termAt" | "dataHashAt" | "entryAt">;

/** Order within one node (R15), and sane progress on a leader (R16). */
export function checkBasic(node: NodeNumbers): void {
  const { id, firstIndex, appliedIndex, commitIndex, lastIndex } = node;
  const numbers = `first ${firstIndex}, applied ${appliedIndex}, committed ${commitIndex}, last ${lastIndex}`;
  // A snapshot stands for its state from the moment it is taken over, and is applied when it is installed.
  const reached = Math.max(appliedIndex, node.pendingSnapshotIndex ?? 0);
  check("R15", firstIndex - 1 <= reached, () => `node ${id} cut its log above what is applied: ${numbers}`);
  check("R15", appliedIndex <= commitIndex, () => `node ${id} applied what is not committed: ${numbers}`);
  check("R15", commitIndex <= lastIndex, () => `node ${id} committed what it has not: ${numbers}`);
  if (node.stableIndex !== undefined) {
    const stable = node.stableIndex;
    check("R15", appliedIndex <= stable, () => `node ${id} applied beyond durable ${stable}: ${numbers}`);
  }
  for (const [member, progress] of node.progress ?? []) {
    const { matchIndex, nextIndex } = progress;
    check(
      "R16",
      matchIndex < nextIndex,
      () => `leader ${id} has match ${matchIndex}, next ${nextIndex} for ${member}`,
    );
    check(
      "R16",
      matchIndex <= lastIndex,
      () => `leader ${id} has match ${matchIndex} for ${member}: ${numbers}`,
    );
  }
}

/**
 * What one step may do to one node that did not restart in between: nothing moves back (R14), a vote once cast stays for its
 * term (R13), a leader only appends (R3) and commits only up to an entry of its own term (R11), matches only grow (R16).
 * @param commitTerm term of the entry at after.commitIndex
 */
export function checkDelta(before: NodeNumbers, after: NodeNumbers, commitTerm: number): void {
  const { id } = after;
  for (const key of ["term", "commitIndex", "appliedIndex", "firstIndex"] as const) {
    check(
      "R14",
      after[key] >= before[key],
      () => `node ${id} moved ${key} from ${before[key]} to ${after[key]}`,
    );
  }
  if (after.term !== before.term) return;
  const isVoteKept = before.votedFor === NO_MEMBER || after.votedFor === before.votedFor;
  check("R13", isVoteKept, () => `node ${id} changed its vote in term ${after.term} from ${before.votedFor}`);
  if (before.role !== "leader" || after.role !== "leader") return;
  const numbers = (): string => `leader ${id} of term ${after.term}`;
  check("R3", after.lastIndex >= before.lastIndex, () => `${numbers()} cut its log to ${after.lastIndex}`);
  if (after.commitIndex > before.commitIndex) {
    check("R11", commitTerm === after.term, () => `${numbers()} committed an entry of term ${commitTerm}`);
  }
  for (const [member, progress] of after.progress ?? []) {
    const old = before.progress?.get(member)?.matchIndex ?? 0;
    // Damage takes entries away, which the follower says.
    const hasLost = progress.lossCount !== (before.progress?.get(member)?.lossCount ?? progress.lossCount);
    check(
      "R16",
      hasLost || progress.matchIndex >= old,
      () => `${numbers()} moved the match of ${member} back from ${old}`,
    );
  }
}

/**
 * A node as the checks see it, read through its own interface.
 * @param isAsync whether the node applies only what is durable
 */
export function viewOf(node: RaftNode, isAsync: boolean): NodeView {
  const { progress, ...status } = node.status();
  const entryAt = (index: number): LogEntry =>
    must(node.findEntries(index, index + 1, 1)?.[0], "it is in the log");
  return {
    ...status,
    progress,
    ...(isAsync ? {} : { stableIndex: undefined }),
    termAt: (index) => must(node.findTerm(index), "it is in the log"),
    dataHashAt: (index) => hashEntry(entryAt(index)),
    entryAt,
  };
}

/** A 32-bit hash of what an entry says, without where it stands (FNV-1a). */
export function hashEntry(entry: LogEntry): number {
  let hash = entry.kind === "normal" ? 0x811c9dc5 : 0x050c5d1f;
  for (const byte of entry.data) hash = Math.imul(hash ^ byte, 0x01000193);
  return hash >>> 0;
}

/** What is remembered of one node between two looks at it. */
interface NodeRecord {
  numbers: NodeNumbers;
  firstIndex: number;
  /** Chain values from firstIndex - 1 on. */
  chain: ChainLink[];
}

interface ChainLink {
  readonly term: number;
  readonly dataHash: number;
  /** Hash over this entry and everything before it. */
  readonly value: number;
}

/**
 * Checks over a whole group: R1 (with history), R2, R4, R5, R6, R9, and checkBasic() and checkDelta() for each node.
 * Call observe() for every node that has taken a step, and restarted() for one that came back from its disk.
 */
export class ClusterInvariants {
  readonly #nodes = new Map<MemberId, NodeRecord>();
  /** Who ever led each term. */
  readonly #leaders = new Map<number, MemberId>();
  /** Chain value of each (index, term) that any node ever had. */
  readonly #chains = new Map<number, Map<number, number>>();
  /** Chain value of each index that any node ever reported committed. */
  readonly #committed = new Map<number, number>();
  /** Highest index committed by somebody in each term. */
  readonly #committedIn = new Map<number, number>();
  /** Whom each node voted for in each term, as it was sent. */
  readonly #votes = new Map<string, MemberId>();

  /** Looks at one node after a step. Throws InvariantViolation. */
  observe(node: NodeView): void {
    checkBasic(node);
    const record = this.#nodes.get(node.id);
    if (record !== undefined) checkDelta(record.numbers, node, node.termAt(node.commitIndex));
    const committedBefore = record?.numbers.commitIndex ?? 0;
    const wasLeader = record?.numbers.role === "leader" && record.numbers.term === node.term;
    const updated = this.#updateChain(node, record);
    updated.numbers = { ...node };
    this.#nodes.set(node.id, updated);
    if (node.role === "leader") this.#checkLeader(node, updated, wasLeader);
    this.#checkCommitted(node, updated, committedBefore);
  }

  /** Looks at every node. Leaders come first, because a follower's log is measured against its leader's. */
  observeAll(nodes: readonly NodeView[]): void {
    for (const node of nodes) if (node.role === "leader") this.observe(node);
    for (const node of nodes) if (node.role !== "leader") this.observe(node);
  }

  /** Looks at a message as it leaves: a node grants its vote to one candidate per term, for ever (R13). */
  observeMessage(message: Message): void {
    if (message.kind !== "vote-response" || message.reject) return;
    const key = `${message.from}/${message.term}`;
    const known = this.#votes.get(key) ?? message.to;
    check("R13", known === message.to, () => `node ${key} voted for ${known} and for ${message.to}`);
    this.#votes.set(key, message.to);
  }

  /** Notes that `id` lost what was not durable: its log may be shorter, and its commit index is learned again. */
  restarted(id: MemberId): void {
    this.#nodes.delete(id);
  }

  /** Forgets what lies below `index`, to bound memory in long runs; at most the lowest firstIndex - 1 of any node. */
  forgetBelow(index: number): void {
    for (const at of this.#committed.keys()) if (at < index) this.#committed.delete(at);
    for (const at of this.#chains.keys()) if (at < index) this.#chains.delete(at);
  }

  /** Brings the chain of `node` up to date, and compares each new link with what other nodes have there (R4). */
  #updateChain(node: NodeView, record: NodeRecord | undefined): NodeRecord {
    const base = node.firstIndex - 1;
    let chain = record?.chain ?? [];
    const oldBase = (record?.firstIndex ?? node.firstIndex) - 1;
    const isReplaced = base > oldBase + chain.length - 1 || chain[base - oldBase]?.term !== node.termAt(base);
    if (record === undefined || isReplaced) chain = [this.#baseLink(base, node.termAt(base))];
    else if (base > oldBase) chain = chain.slice(base - oldBase);
    chain.length = Math.min(chain.length, node.lastIndex - base + 1);
    // Entries are replaced from some index to the end, so what differs is found from the end.
    while (
      chain.length > 1 &&
      !isLinkOf(must(chain.at(-1), "more than one"), node, base + chain.length - 1)
    ) {
      chain.pop();
    }
    while (base + chain.length <= node.lastIndex) {
      const index = base + chain.length;
      const term = node.termAt(index);
      const dataHash = node.dataHashAt(index);
      const value = mix(mix(must(chain.at(-1), "the base").value, term), dataHash);
      this.#compareLink(node, index, term, value);
      chain.push({ term, dataHash, value });
    }
    return { numbers: node, firstIndex: node.firstIndex, chain };
  }

  #baseLink(index: number, term: number): ChainLink {
    const known = this.#chains.get(index)?.get(term);
    const value = known ?? mix(mix(0, index), term);
    if (known === undefined) this.#remember(index, term, value);
    return { term, dataHash: 0, value };
  }

  #compareLink(node: NodeView, index: number, term: number, value: number): void {
    const known = this.#chains.get(index)?.get(term);
    check(
      "R4",
      known === undefined || known === value,
      () => `node ${node.id} has another log up to ${term}/${index}`,
    );
    if (known !== undefined) return;
    this.#remember(index, term, value);
    const leaderId = this.#leaders.get(term);
    const leader = leaderId === undefined ? undefined : this.#nodes.get(leaderId)?.numbers;
    if (leader === undefined || leaderId === node.id || leader.role !== "leader" || leader.term !== term)
      return;
    check(
      "R2",
      leader.lastIndex >= index,
      () => `node ${node.id} has ${term}/${index}, the leader of that term has not`,
    );
  }

  #remember(index: number, term: number, value: number): void {
    const terms = this.#chains.get(index);
    if (terms === undefined) this.#chains.set(index, new Map([[term, value]]));
    else terms.set(term, value);
  }

  /** One leader per term, ever (R1), whose log has everything committed in earlier terms (R5). */
  #checkLeader(node: NodeView, record: NodeRecord, wasLeader: boolean): void {
    const known = this.#leaders.get(node.term) ?? node.id;
    check("R1", known === node.id, () => `term ${node.term} had the leaders ${known} and ${node.id}`);
    this.#leaders.set(node.term, node.id);
    if (wasLeader) return;
    for (const [term, index] of this.#committedIn) {
      if (term < node.term) this.#checkHas(node.id, record, index);
    }
  }

  /** What is newly committed is what everybody committed there (R6, R9), and in the log of every later leader (R5). */
  #checkCommitted(node: NodeView, record: NodeRecord, committedBefore: number): void {
    if (node.commitIndex <= committedBefore) return;
    const base = record.firstIndex - 1;
    for (let index = Math.max(committedBefore + 1, base, 1); index <= node.commitIndex; index += 1) {
      const { value } = must(record.chain[index - base], "committed entries are in the log");
      const known = this.#committed.get(index) ?? value;
      check("R9", known === value, () => `node ${node.id} committed another log up to ${index}`);
      this.#committed.set(index, value);
    }
    this.#committedIn.set(node.term, Math.max(this.#committedIn.get(node.term) ?? 0, node.commitIndex));
    for (const [id, other] of this.#nodes) {
      if (other.numbers.role === "leader" && other.numbers.term > node.term) {
        this.#checkHas(id, other, node.commitIndex);
      }
    }
  }

  #checkHas(leaderId: MemberId, record: NodeRecord, index: number): void {
    const base = record.firstIndex - 1;
    const committed = this.#committed.get(index);
    // What was cut off was applied, and checked when it was committed.
    if (index < base || committed === undefined) return;
    const isThere = record.chain[index - base]?.value === committed;
    check("R5", isThere, () => `leader ${leaderId} lacks an entry committed up to ${index}`);
  }
}

function isLinkOf(link: ChainLink, node: NodeView, index: number): boolean {
  return link.term === node.termAt(index) && link.dataHash === node.dataHashAt(index);
}

/** Folds a number into a 32-bit hash (the finalizer of MurmurHash3, Appleby 2011). */
function mix(hash: number, value: number): number {
  let h = (Math.imul(hash, 31) + (value | 0) + Math.floor(value / 0x100000000)) | 0;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}

function check(id: string, condition: boolean, describe: () => string): void {
  if (!condition) throw new InvariantViolation(id, describe());
}
