/**
 * One RaftNode with its storage, for tests that give it messages by hand and look at what it sends.
 *
 * pump() does what a driver in sync mode does: stores, applies, confirms, and returns the messages for others.
 */
import { must } from "../../../src/std/assert.ts";
import { SeededPrng } from "../../../src/std/prng.ts";
import { decodeConfChange } from "../../../src/raft/conf-change-codec.ts";
import { makeMessage } from "../../../src/raft/message.ts";
import { RaftNode, type RaftNodeOptions } from "../../../src/raft/raft-node.ts";
import type { LogEntry, Message, MessageKind, ReadState } from "../../../src/raft/types.ts";
import { utf8 } from "../../../src/std/bytes.ts";
import { confState, emptySnapshot, MemoryLogStorage } from "./memory-log-storage.ts";

/** What a test says about its node; everything else has a plain default. */
export interface TestNodeOptions extends Partial<Omit<RaftNodeOptions, "storage">> {
  /** Members 1 to n; default 1, 2, 3. */
  readonly voters?: readonly number[];
  readonly learners?: readonly number[];
  /** Terms of the entries that are stored already, from index 1. */
  readonly terms?: readonly number[];
  readonly term?: number;
  readonly votedFor?: number;
  readonly commitIndex?: number;
}

/** A node under test, its storage and what it has applied. */
export class TestNode {
  readonly storage: MemoryLogStorage;
  readonly raft: RaftNode;
  readonly applied: LogEntry[] = [];
  readonly reads: ReadState[] = [];

  constructor(options: TestNodeOptions = {}) {
    const {
      voters = [1, 2, 3],
      learners = [],
      terms = [],
      term,
      votedFor = 0,
      commitIndex = 0,
      ...rest
    } = options;
    this.storage = new MemoryLogStorage(emptySnapshot(confState(voters, learners)));
    this.storage.append(entriesOf(terms));
    this.storage.hardState = { term: term ?? terms.at(-1) ?? 0, votedFor, commitIndex };
    this.raft = new RaftNode({
      id: 1,
      storage: this.storage,
      prng: new SeededPrng(1),
      electionTicks: 10,
      heartbeatTicks: 1,
      preVote: false,
      checkQuorum: false,
      entriesSizeBytesMax: Number.MAX_SAFE_INTEGER,
      committedSizeBytesMax: Number.MAX_SAFE_INTEGER,
      inflightMessagesMax: 256,
      inflightBytesMax: 0,
      uncommittedBytesMax: Number.MAX_SAFE_INTEGER,
      appliedIndex: 0,
      asyncStorageWrites: false,
      ...rest,
    });
  }

  /** Does all work that there is, and returns the messages for others. */
  pump(): Message[] {
    const messages: Message[] = [];
    while (this.raft.hasReady()) {
      const ready = this.raft.ready();
      if (ready.hardState !== undefined) this.storage.hardState = ready.hardState;
      if (ready.snapshot !== undefined) this.storage.applySnapshot(ready.snapshot);
      this.storage.append(ready.entries);
      for (const entry of ready.committedEntries) {
        this.applied.push(entry);
        if (entry.kind !== "conf-change") continue;
        const { config } = this.raft.status();
        this.raft.applyConfChange(decodeConfChange(entry.data), entry.index, config);
      }
      this.reads.push(...ready.readStates);
      messages.push(...ready.messages);
      this.raft.advance();
    }
    return messages;
  }

  /** Gives the node a message to it, and returns what it sends after all work. */
  step(fields: Partial<Message> & { readonly kind: MessageKind }): Message[] {
    this.raft.step(makeMessage({ to: 1, ...fields }));
    return this.pump();
  }

  /** Lets `count` ticks pass, and returns what the node sends after all work. */
  tick(count: number): Message[] {
    const messages: Message[] = [];
    for (let i = 0; i < count; i += 1) {
      this.raft.tick();
      messages.push(...this.pump());
    }
    return messages;
  }

  /** Makes the node a candidate. */
  campaign(): Message[] {
    this.raft.campaign();
    return this.pump();
  }

  /** Makes the node the leader of the next term, by the votes of everybody; returns what it sends first. */
  lead(): Message[] {
    this.campaign();
    const { term } = this.raft.basicStatus();
    const { voters, votersOutgoing } = this.raft.status().config;
    return [...new Set([...voters, ...votersOutgoing])]
      .filter((id) => id !== 1)
      .flatMap((from) => this.step({ kind: "vote-response", from, term }));
  }

  /** Proposes text, and returns what the node sends after all work. */
  propose(text: string): Message[] {
    this.raft.propose(utf8(text));
    return this.pump();
  }

  /** Lets `from` acknowledge everything up to `index`. */
  acknowledge(from: number, index: number): Message[] {
    return this.step({ kind: "append-response", from, term: this.raft.basicStatus().term, index });
  }

  /** Terms of the stored entries. */
  logTerms(): number[] {
    const { storage } = this;
    return storage
      .entries(storage.firstIndex(), storage.lastIndex() + 1, Number.MAX_SAFE_INTEGER)
      .map((entry) => entry.term);
  }
}

/** Entries of the given terms from `first` on, without data. */
export function entriesOf(terms: readonly number[], first = 1): LogEntry[] {
  return terms.map((term, i) => ({ index: first + i, term, kind: "normal", data: new Uint8Array(0) }));
}

/** The messages of one kind. */
export function ofKind(messages: readonly Message[], kind: MessageKind): Message[] {
  return messages.filter((message) => message.kind === kind);
}

/** The only message of one kind. */
export function theOnly(messages: readonly Message[], kind: MessageKind): Message {
  const found = ofKind(messages, kind);
  if (found.length !== 1) throw new Error(`${found.length} messages of kind ${kind}`);
  return must(found[0], "there is one");
}
