/**
 * A group of RaftNodes driven by script directives, after the interaction harness of etcd-io/raft, so that its scenario
 * files and ours run alike.
 *
 * One list of messages under way for the whole group; delivery only when a directive says so. The state machine of each
 * node appends the data of its entries to a string and keeps a snapshot after each one. Log lines are not printed. Beside
 * etcd's directives there are, for our own scenarios: `restart id` (loses what was not stored), `read-index id context`,
 * `duplicate-msgs id` (keeps copies of what is delivered) and `tick id count`. Lease reads and unchecked membership changes are
 * refused. A directive, an argument or a value that is not known is an error, never ignored: a scenario that is half understood
 * proves nothing.
 */
import { assert, must } from "../../../src/std/assert.ts";
import { asBuffer, utf8 } from "../../../src/std/bytes.ts";
import { SeededPrng } from "../../../src/std/prng.ts";
import { decodeConfChange } from "../../../src/raft/conf-change-codec.ts";
import { isLocalKind, makeMessage } from "../../../src/raft/message.ts";
import type { ProposeOutcome } from "../../../src/raft/outcome.ts";
import { RaftNode, type RaftNodeOptions } from "../../../src/raft/raft-node.ts";
import {
  CompactedError,
  type ConfState,
  type HardState,
  type LogEntry,
  type Message,
  type Snapshot,
} from "../../../src/raft/types.ts";
import {
  parseDirective,
  readBoolean,
  readNumber,
  type DirectiveArg,
  type DirectiveCase,
} from "./datadriven.ts";
import {
  describeEntry,
  describeMessage,
  describeProgress,
  describeReady,
  isMessageName,
  messageName,
  parseSteps,
  roleName,
  V1_CONTEXT,
} from "./describe.ts";
import { confState, emptySnapshot, MemoryLogStorage } from "./memory-log-storage.ts";

/** Arguments `key=value` of directives; the others take ids and counts alone. */
const KEYS: Readonly<Record<string, readonly string[]>> = {
  "add-nodes": [
    "voters",
    "learners",
    "index",
    "content",
    "inflight",
    "prevote",
    "checkquorum",
    "async-storage-writes",
    "max-committed-size-per-ready",
    "disable-conf-change-validation",
    "read-only",
    "step-down-on-removal",
    "election-tick",
    "heartbeat-tick",
  ],
  "deliver-msgs": ["type", "drop"],
  "set-randomized-election-timeout": ["timeout"],
  stabilize: ["log-level"],
  "transfer-leadership": ["from", "to"],
  "propose-conf-change": ["v1", "transition"],
};

/** How many bare words directives take; those that are not here take as many ids as there are. */
const WORD_COUNTS: Readonly<Record<string, number>> = {
  _breakpoint: 0,
  "add-nodes": 1,
  campaign: 1,
  compact: 2,
  "duplicate-msgs": 1,
  "forget-leader": 1,
  "log-level": 1,
  propose: 2,
  "propose-conf-change": 1,
  "raft-log": 1,
  "raft-state": 0,
  "read-index": 2,
  "report-unreachable": 2,
  restart: 1,
  "send-snapshot": 2,
  "set-randomized-election-timeout": 1,
  status: 1,
  tick: 2,
  "tick-election": 1,
  "tick-heartbeat": 1,
  "transfer-leadership": 0,
};

/** Directives whose first words are texts, not ids. */
const TEXT_COMMANDS: ReadonlySet<string> = new Set(["log-level", "propose", "read-index", "_breakpoint"]);

const LOG_LEVELS: readonly string[] = ["debug", "info", "warn", "error", "fatal", "none"];

/** Thrown for a directive that asks for something this project refuses on purpose. */
export class RefusedFeatureError extends Error {
  override readonly name = "RefusedFeatureError";
}

const TRANSITIONS: ReadonlyMap<string, "auto" | "joint-implicit" | "joint-explicit"> = new Map([
  ["auto", "auto"],
  ["implicit", "joint-implicit"],
  ["explicit", "joint-explicit"],
]);

const ELECTION_TICKS = 3;
const HEARTBEAT_TICKS = 1;
/** No limit: larger than anything a scenario sends. */
const UNLIMITED = Number.MAX_SAFE_INTEGER;
/** A scenario that takes more rounds than this to settle never will. */
const STABILIZE_ROUNDS_MAX = 1_000;

interface GroupNode {
  readonly id: number;
  readonly storage: MemoryLogStorage;
  readonly options: RaftNodeOptions;
  raft: RaftNode;
  readonly history: Snapshot[];
  appendWork: Message[];
  applyWork: Message[];
}

interface Recipient {
  readonly id: number;
  readonly isDropped: boolean;
}

/** A group of nodes and the messages between them. */
export class InteractionGroup {
  readonly #nodes: GroupNode[] = [];
  #messages: Message[] = [];
  #output: string[] = [];
  #isQuiet = false;

  /** Whether output is switched off, by "log-level none". */
  get isQuiet(): boolean {
    return this.#isQuiet;
  }

  /** Runs one directive, and those in its input, and returns its output; "ok" when there is none. */
  run(directive: DirectiveCase): string {
    this.#output = [];
    const error = this.#runAll(directive);
    const output = this.#isQuiet ? [] : this.#output;
    if (error !== undefined) output.push(error);
    return output.length === 0 ? "ok" : output.join("\n");
  }

  #runAll(directive: DirectiveCase): string | undefined {
    if (directive.command === "propose-conf-change") return this.#proposeConfChange(directive);
    const error = this.#runOne(directive.command, directive.args);
    if (error !== undefined) return error;
    for (const line of directive.input.split("\n")) {
      if (line.trim() === "") continue;
      const { command, args } = parseDirective(line);
      const text = this.#runOne(command, args);
      if (text === undefined) continue;
      // As etcd's: with output on, the error is printed and the next line is run.
      if (this.#isQuiet) return text;
      this.#output.push(text);
    }
    return undefined;
  }

  /** Returns the text of an error of the nodes, if there was one. */
  #runOne(command: string, args: readonly DirectiveArg[]): string | undefined {
    const ids = args
      .filter((arg) => arg.values.length === 0 && /^\d+$/.test(arg.key))
      .map((arg) => Number(arg.key));
    checkArguments(command, args);
    const node = (at: number): GroupNode => this.#node(must(ids[at], `${command} needs an id`));
    switch (command) {
      case "_breakpoint":
        return undefined;
      case "log-level":
        this.#isQuiet = isQuietLevel(args[0]?.key);
        return undefined;
      case "add-nodes":
        return this.#addNodes(args);
      case "campaign":
        node(0).raft.campaign();
        return undefined;
      case "compact":
        return this.#compact(node(0), must(ids[1], "compact needs an index"));
      case "deliver-msgs":
        return this.#deliverDirective(args);
      case "duplicate-msgs":
        for (const message of this.#messages.filter((one) => one.to === ids[0])) this.#messages.push(message);
        return undefined;
      case "process-ready":
        return this.#processReadies(ids);
      case "process-append-thread":
        for (const id of ids) this.#processAppend(this.#node(id), "");
        return undefined;
      case "process-apply-thread":
        for (const id of ids) this.#processApply(this.#node(id), "");
        return undefined;
      case "raft-log":
        return this.#printLog(node(0));
      case "raft-state":
        return this.#printState();
      case "set-randomized-election-timeout":
        node(0).raft.setElectionTimeoutTicks(numberOf(args, "timeout"));
        return undefined;
      case "stabilize":
        return this.#stabilizeDirective(args, ids);
      case "status":
        for (const [id, progress] of node(0).raft.status().progress)
          this.#print(`${id}: ${describeProgress(progress)}`);
        return undefined;
      case "tick-election":
        return tick(node(0), node(0).options.electionTicks);
      case "tick-heartbeat":
        return tick(node(0), node(0).options.heartbeatTicks);
      case "tick":
        return tick(node(0), must(ids[1], "tick needs a count"));
      case "transfer-leadership":
        this.#node(numberOf(args, "from")).raft.transferLeader(numberOf(args, "to"));
        return undefined;
      case "forget-leader":
        node(0).raft.forgetLeader();
        return undefined;
      case "send-snapshot":
        return this.#sendSnapshot(node(0), node(1));
      case "propose":
        return errorOf(node(0).raft.propose(utf8(args[1]?.key ?? "")));
      case "read-index":
        return errorOf(node(0).raft.readIndex(utf8(args[1]?.key ?? "")));
      case "report-unreachable":
        node(0).raft.reportUnreachable(must(ids[1], "report-unreachable needs two ids"));
        return undefined;
      case "restart":
        return this.#restart(node(0));
      default:
        throw new Error(`unknown directive ${command}`);
    }
  }

  #print(text: string, indent = ""): void {
    if (!this.#isQuiet) this.#output.push(text.replaceAll(/^/gm, indent));
  }

  #node(id: number): GroupNode {
    return must(this.#nodes[id - 1], `node ${id} was added`);
  }

  #addNodes(args: readonly DirectiveArg[]): string | undefined {
    const list = (key: string): number[] =>
      (args.find((arg) => arg.key === key)?.values ?? []).map(readNumber);
    const isOn = (key: string): boolean => readBoolean(valueOf(args, key) ?? "false");
    if (isOn("disable-conf-change-validation")) {
      throw new RefusedFeatureError("unchecked membership changes are refused");
    }
    const reads = valueOf(args, "read-only") ?? "safe";
    if (reads === "lease-based") throw new RefusedFeatureError("lease reads are refused");
    if (reads !== "safe") throw new Error(`invalid read-only option ${reads}`);
    const index = numberOf(args, "index", 0);
    const config = confState(list("voters"), list("learners"));
    const content = valueOf(args, "content") ?? "";
    const isBootstrapped = index > 0 || content !== "" || config.voters.length + config.learners.length > 0;
    if (isBootstrapped && index <= 1) return "index must be specified as > 1 due to bootstrap";
    const count = must(
      args.find((arg) => arg.values.length === 0),
      "add-nodes needs a count",
    );
    for (let i = readNumber(count.key); i > 0; i -= 1) {
      const id = this.#nodes.length + 1;
      const base = isBootstrapped
        ? { metadata: { index, term: 1, confState: config }, data: utf8(content) }
        : undefined;
      const snapshot: Snapshot = base ?? emptySnapshot(config);
      const storage = new MemoryLogStorage(snapshot);
      if (isBootstrapped) storage.hardState = { term: 0, votedFor: 0, commitIndex: index };
      const options: RaftNodeOptions = {
        id,
        storage,
        prng: new SeededPrng(id),
        electionTicks: numberOf(args, "election-tick", ELECTION_TICKS),
        heartbeatTicks: numberOf(args, "heartbeat-tick", HEARTBEAT_TICKS),
        preVote: isOn("prevote"),
        checkQuorum: isOn("checkquorum"),
        entriesSizeBytesMax: UNLIMITED,
        committedSizeBytesMax: numberOf(args, "max-committed-size-per-ready", UNLIMITED),
        inflightMessagesMax: numberOf(args, "inflight", UNLIMITED),
        inflightBytesMax: 0,
        uncommittedBytesMax: UNLIMITED,
        appliedIndex: index,
        asyncStorageWrites: isOn("async-storage-writes"),
        stepDownOnRemoval: isOn("step-down-on-removal"),
        forwardProposals: true,
      };
      const history = [snapshot];
      storage.snapshotOverride = () => must(history.at(-1), "the history begins with a snapshot");
      this.#nodes.push({
        id,
        storage,
        options,
        raft: new RaftNode(options),
        history,
        appendWork: [],
        applyWork: [],
      });
    }
    return undefined;
  }

  #proposeConfChange(directive: DirectiveCase): string | undefined {
    checkArguments(directive.command, directive.args);
    const isV1 = readBoolean(valueOf(directive.args, "v1") ?? "false");
    const name = valueOf(directive.args, "transition") ?? "auto";
    const transition = TRANSITIONS.get(name);
    if (transition === undefined) throw new Error(`unknown transition ${name}`);
    const steps = parseSteps(directive.input);
    const id = must(
      directive.args.find((arg) => arg.values.length === 0),
      "checked above",
    ).key;
    const outcome = this.#node(readNumber(id)).raft.proposeConfChange({
      transition,
      steps,
      context: isV1 ? V1_CONTEXT : new Uint8Array(0),
    });
    // A refused change leaves an empty entry, which is not an error to etcd.
    if (outcome.outcome === "dropped" && outcome.reason === "conf-change-refused") return undefined;
    return errorOf(outcome);
  }

  #restart(node: GroupNode): undefined {
    node.appendWork = [];
    node.applyWork = [];
    // What lived in the process dies with it; what was sent is under way.
    this.#messages = this.#messages.filter((message) => message.to !== node.id || !isOwn(message));
    // The state machine keeps what it has applied, and the configuration of that.
    const { index, confState: config } = must(node.history.at(-1), "not empty").metadata;
    node.storage.appliedConfState = config;
    node.raft = new RaftNode({ ...node.options, appliedIndex: index });
    return undefined;
  }

  #processReadies(ids: readonly number[]): undefined {
    for (const id of ids) {
      if (ids.length > 1) this.#print(`> ${id} handling Ready`);
      this.#processReady(this.#node(id), ids.length > 1 ? "  " : "");
    }
  }

  #processReady(node: GroupNode, indent: string): void {
    const ready = node.raft.ready();
    this.#print(describeReady(ready), indent);
    if (!node.options.asyncStorageWrites) {
      store(node, ready.hardState, ready.entries, ready.snapshot);
      apply(node, ready.committedEntries);
    }
    for (const message of ready.messages) {
      if (message.kind === "storage-append") node.appendWork.push(message);
      else if (message.kind === "storage-apply") node.applyWork.push(message);
      else this.#messages.push(message);
    }
    if (!node.options.asyncStorageWrites) node.raft.advance();
  }

  #processAppend(node: GroupNode, indent: string): void {
    const work = node.appendWork.shift();
    if (work === undefined) {
      this.#print("no append work to perform", indent);
      return;
    }
    this.#printWork(work, indent);
    const { term, votedFor, commitIndex } = work;
    store(node, term === 0 ? undefined : { term, votedFor, commitIndex }, work.entries, work.snapshot);
    this.#messages.push(...work.responses);
  }

  #processApply(node: GroupNode, indent: string): void {
    const work = node.applyWork.shift();
    if (work === undefined) {
      this.#print("no apply work to perform", indent);
      return;
    }
    this.#printWork(work, indent);
    apply(node, work.entries);
    this.#messages.push(...work.responses);
  }

  #printWork(work: Message, indent: string): void {
    this.#print("Processing:", indent);
    this.#print(describeMessage({ ...work, responses: [] }), indent);
    this.#print("Responses:", indent);
    for (const response of work.responses) this.#print(describeMessage(response), indent);
  }

  #deliverDirective(args: readonly DirectiveArg[]): undefined {
    const type = valueOf(args, "type");
    if (type !== undefined && !isMessageName(type)) throw new Error(`unknown message type ${type}`);
    const recipients: Recipient[] = [];
    for (const arg of args) {
      if (arg.values.length === 0) recipients.push({ id: readNumber(arg.key), isDropped: false });
      if (arg.key === "drop")
        for (const id of arg.values) recipients.push({ id: readNumber(id), isDropped: true });
    }
    const ids = recipients.map((recipient) => recipient.id);
    if (new Set(ids).size < ids.length)
      throw new Error("messages to one node twice, or delivered and dropped");
    let count = 0;
    for (const recipient of recipients) count += this.#deliver(recipient, type, "");
    if (count === 0) this.#print("no messages");
  }

  /** Delivers, or drops, what is under way to one node; returns how many messages that were. */
  #deliver(to: Recipient, type: string | undefined, indent: string): number {
    const chosen: Message[] = [];
    const rest: Message[] = [];
    for (const message of this.#messages) {
      const isChosen =
        message.to === to.id &&
        !(to.isDropped && isOwn(message)) &&
        (type === undefined || messageName(message.kind) === type);
      (isChosen ? chosen : rest).push(message);
    }
    this.#messages = rest;
    for (const message of chosen) {
      this.#print(`${to.isDropped ? "dropped: " : ""}${describeMessage(message)}`, indent);
      if (to.isDropped) continue;
      const outcome = this.#node(to.id).raft.step(message);
      if (outcome.outcome === "unknown-member") this.#print("raft: cannot step as peer not found", indent);
      if (outcome.outcome === "dropped") this.#print("raft proposal dropped", indent);
      if (outcome.outcome === "refused") this.#print("raft: cannot step raft local message", indent);
    }
    return chosen.length;
  }

  #stabilizeDirective(args: readonly DirectiveArg[], ids: readonly number[]): undefined {
    const wasQuiet = this.#isQuiet;
    const level = valueOf(args, "log-level");
    if (level !== undefined) this.#isQuiet = isQuietLevel(level);
    const nodes = ids.length > 0 ? ids.map((id) => this.#node(id)) : this.#nodes;
    let rounds = 0;
    while (this.#stabilizeRound(nodes)) {
      rounds += 1;
      assert(rounds < STABILIZE_ROUNDS_MAX, "the group does not settle");
    }
    this.#isQuiet = wasQuiet;
  }

  /** One pass over all nodes; false when nobody had anything to do. */
  #stabilizeRound(nodes: readonly GroupNode[]): boolean {
    let isBusy = false;
    for (const node of nodes) {
      if (!node.raft.hasReady()) continue;
      isBusy = true;
      this.#print(`> ${node.id} handling Ready`);
      this.#processReady(node, "  ");
    }
    for (const node of nodes) {
      if (!this.#messages.some((message) => message.to === node.id)) continue;
      isBusy = true;
      this.#print(`> ${node.id} receiving messages`);
      this.#deliver({ id: node.id, isDropped: false }, undefined, "  ");
    }
    for (const node of nodes) {
      if (node.appendWork.length === 0) continue;
      isBusy = true;
      this.#print(`> ${node.id} processing append thread`);
      while (node.appendWork.length > 0) this.#processAppend(node, "  ");
    }
    for (const node of nodes) {
      if (node.applyWork.length === 0) continue;
      isBusy = true;
      this.#print(`> ${node.id} processing apply thread`);
      while (node.applyWork.length > 0) this.#processApply(node, "  ");
    }
    return isBusy;
  }

  #compact(node: GroupNode, index: number): string | undefined {
    try {
      node.storage.compact(index);
    } catch (error) {
      if (error instanceof CompactedError) return error.message;
      throw error;
    }
    return this.#printLog(node);
  }

  #printLog(node: GroupNode): undefined {
    const { storage } = node;
    const first = storage.firstIndex();
    const last = storage.lastIndex();
    if (last < first) this.#print(`log is empty: first index=${first}, last index=${last}`);
    else for (const entry of storage.entries(first, last + 1, UNLIMITED)) this.#print(describeEntry(entry));
  }

  #printState(): undefined {
    for (const node of this.#nodes) {
      const status = node.raft.status();
      const { voters, votersOutgoing } = status.config;
      const isVoter = voters.includes(node.id) || votersOutgoing.includes(node.id);
      const voter = isVoter ? "(Voter)" : "(Non-Voter)";
      this.#print(
        `${node.id}: ${roleName(status.role)} ${voter} Term:${status.term} Lead:${status.leaderId}`,
      );
    }
  }

  #sendSnapshot(from: GroupNode, to: GroupNode): undefined {
    const { term } = from.raft.basicStatus();
    const snapshot = from.storage.snapshot();
    const message = makeMessage({ kind: "snapshot", from: from.id, to: to.id, term, snapshot });
    this.#messages.push(message);
    this.#print(describeMessage(message));
  }
}

function store(
  node: GroupNode,
  hardState: HardState | undefined,
  entries: readonly LogEntry[],
  snapshot: Snapshot | undefined,
): void {
  if (hardState !== undefined) node.storage.hardState = hardState;
  if (snapshot !== undefined) {
    assert(entries.length === 0, "entries and a snapshot at once");
    node.storage.applySnapshot(snapshot);
    node.history.push(snapshot);
  } else {
    node.storage.append(entries);
  }
}

function apply(node: GroupNode, entries: readonly LogEntry[]): void {
  for (const entry of entries) {
    const last = must(node.history.at(-1), "the history begins with a snapshot");
    let config: ConfState = last.metadata.confState;
    let update = entry.data;
    if (entry.kind === "conf-change") {
      const change = decodeConfChange(entry.data);
      update = change.context;
      config = node.raft.applyConfChange(change, entry.index, config);
    }
    const data = Buffer.concat([asBuffer(last.data), asBuffer(update)]);
    node.history.push({ metadata: { index: entry.index, term: entry.term, confState: config }, data });
  }
}

function tick(node: GroupNode, count: number): undefined {
  for (let i = 0; i < count; i += 1) node.raft.tick();
}

/** Throws for arguments that the directive does not know, or of which there are too many or too few. */
function checkArguments(command: string, args: readonly DirectiveArg[]): void {
  for (const { key, values } of args) {
    const isWord = values.length === 0 && (TEXT_COMMANDS.has(command) || /^\d+$/.test(key));
    if (!isWord && (values.length === 0 || KEYS[command]?.includes(key) !== true)) {
      throw new Error(`${command} does not know the argument ${key}`);
    }
  }
  const count = args.filter((arg) => arg.values.length === 0).length;
  const wanted = WORD_COUNTS[command] ?? count;
  if (count !== wanted) throw new Error(`${command} takes ${wanted} words, not ${count}`);
}

function isQuietLevel(level = ""): boolean {
  if (!LOG_LEVELS.includes(level.toLowerCase()))
    throw new Error(`log levels must be either of [${LOG_LEVELS.join(" ")}]`);
  return level.toLowerCase() === "none";
}

function isOwn(message: Message): boolean {
  return message.from === message.to || isLocalKind(message.kind);
}

function valueOf(args: readonly DirectiveArg[], key: string): string | undefined {
  return args.find((arg) => arg.key === key)?.values[0];
}

function numberOf(args: readonly DirectiveArg[], key: string, fallback?: number): number {
  const text = valueOf(args, key);
  return text === undefined ? must(fallback, `${key}= is needed`) : readNumber(text);
}

function errorOf(outcome: ProposeOutcome): string | undefined {
  return outcome.outcome === "dropped" ? "raft proposal dropped" : undefined;
}
