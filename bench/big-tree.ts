/**
 * A tree of a million files without a cluster: the real state machine over LMDB, as a node has it, filled by commands that go
 * straight into it, 256 a transaction. Through a cluster the same would take half an hour, and measure uploads.
 */
import type { MetadataPort } from "../src/cluster/metadata-port.ts";
import { DriveError } from "../src/drive/errors.ts";
import { CONTENT_ID_COUNT_MAX } from "../src/drive/limits.ts";
import { encodeCommand } from "../src/metadata/codec.ts";
import type { CommandBody } from "../src/metadata/commands.ts";
import { MetadataStateMachine } from "../src/metadata/state-machine.ts";
import { must } from "../src/std/assert.ts";
import { utf8 } from "../src/std/bytes.ts";
import { SystemClock } from "../src/std/clock.ts";
import { sha256 } from "../src/std/digest.ts";
import { LmdbOrderedStoreProvider } from "../src/std/lmdb-ordered-store.ts";
import type { OrderedStore, OrderedTransaction } from "../src/std/ordered-store.ts";
import { SeededPrng } from "../src/std/prng.ts";
import { registrationOf } from "../test/support/memory-metadata-port.ts";

const MEMBER_IDS = [1, 2, 3];
const COMMANDS_PER_TRANSACTION = 256;
const TRANSACTIONS_PER_FLUSH = 16;
/** A node gives up a disk that takes longer than 10 s; a benchmark beside other work waits. */
export const FLUSH_TIMEOUT_MS = 300_000;
const FOLDER_NAME_COUNT = 1000;
const WALL_TIME_MS = 1_790_000_000_000;
const LATIN = "invoice report budget summer photo holiday meeting draft final project contract minutes".split(
  " ",
);
const CHINESE_FIRST = 0x4e00;
const CHINESE_COUNT = 3000;

/** A name of the kind people give: words and a number, or four to eight Chinese characters. */
export function nameOf(i: number): string {
  const prng = new SeededPrng(i + 1);
  if (i % 2 === 0) {
    const words = Array.from({ length: 3 }, () => must(LATIN[prng.below(LATIN.length)], "a word"));
    return `${words.join(" ")} ${prng.below(1_000_000).toString(36)} ${i}.txt`;
  }
  // Some characters are far more frequent than others.
  const character = (): string =>
    String.fromCodePoint(CHINESE_FIRST + Math.floor(CHINESE_COUNT * prng.float() * prng.float()));
  return `${Array.from({ length: 4 + prng.below(5) }, character).join("")}${i}.docx`;
}

/** The tree. open() it; close() it. */
export class BigTree {
  readonly store: OrderedStore;
  readonly #machine = new MetadataStateMachine();
  #index: number;

  constructor(store: OrderedStore, index: number) {
    this.store = store;
    this.#index = index;
  }

  /** Opens the tree in `directory`; `index` is how many commands an earlier process put into it. */
  static async open(directory: string, index = 0): Promise<BigTree> {
    const clock = new SystemClock();
    const stores = new LmdbOrderedStoreProvider({ directory, clock, flushTimeoutMs: FLUSH_TIMEOUT_MS });
    const tree = new BigTree(await stores.open("tree"), index);
    if (index === 0) tree.#found();
    return tree;
  }

  /** How many commands are in it. */
  get index(): number {
    return this.#index;
  }

  /** Applies commands as one transaction. */
  apply(bodies: readonly CommandBody[]): void {
    this.store.transaction((transaction) => {
      for (const body of bodies) this.#apply(transaction, body);
    });
  }

  /** Makes the files number `from` to `to`, of one byte to some, three copies each, at `/top/d17/name`. */
  async fill(from: number, to: number, top: string): Promise<void> {
    for (let at = from; at < to; at += COMMANDS_PER_TRANSACTION) {
      const last = Math.min(to, at + COMMANDS_PER_TRANSACTION);
      this.apply(Array.from({ length: last - at }, (_, i) => this.#putSmall(at + i, top)));
      if ((at / COMMANDS_PER_TRANSACTION) % TRANSACTIONS_PER_FLUSH === 0) await this.store.flush();
    }
    await this.store.flush();
  }

  /** Gives a folder at the top another name. */
  move(from: string, to: string): void {
    this.apply([
      {
        kind: "move-entry",
        source: { baseId: 1, path: [from] },
        to: { baseId: 1, path: [to] },
        onConflict: "fail",
        precondition: {},
      },
    ]);
  }

  /** The tree as member 1 sees it, alone. */
  port(): MetadataPort {
    return {
      memberId: 1,
      propose: () => Promise.reject(new DriveError("NO_LEADER", "Nothing is proposed to this tree.")),
      linearize: () => Promise.resolve(),
      reader: () => this.store,
      appliedIndex: () => this.#index,
      leaderId: () => 1,
      onApplied: () => () => undefined,
    };
  }

  async close(): Promise<void> {
    await this.store.flush();
    await this.store.close();
  }

  #found(): void {
    const leases = 4;
    this.apply([
      { kind: "bootstrap", clusterId: "bench", chunkSizeBytes: 1_048_576, formatVersion: 1 },
      ...MEMBER_IDS.map((memberId) => ({
        kind: "register-node" as const,
        node: registrationOf(memberId),
      })),
      ...Array.from({ length: leases }, () => ({
        kind: "renew-write-lease" as const,
        memberId: 1,
        storeIncarnation: "store-1",
        idCount: CONTENT_ID_COUNT_MAX,
      })),
    ]);
  }

  #apply(transaction: OrderedTransaction, body: CommandBody): void {
    const index = this.#index + 1;
    const data = encodeCommand({ requestId: "", deadlineMs: 0, wallTimeMs: WALL_TIME_MS + index, body });
    const result = this.#machine.apply(transaction, { index, term: 1, data });
    if (result.outcome === "rejected") throw new Error(`${result.reason}: ${result.message}`);
    this.#index = index;
  }

  #putSmall(i: number, top: string): CommandBody {
    const bytes = utf8(`file ${i}`);
    const treeHash = sha256(bytes);
    const contentId = 1 + i;
    return {
      kind: "put-small",
      at: { baseId: 1, path: [top, `d${i % FOLDER_NAME_COUNT}`, nameOf(i)] },
      createParents: true,
      onConflict: "fail",
      attributes: {},
      precondition: {},
      memberId: 1,
      contentId,
      sizeBytes: bytes.length,
      treeHash,
      seals: MEMBER_IDS.map((memberId) => ({
        extent: { contentId, extentIndex: 0 },
        sizeBytes: bytes.length,
        root: treeHash,
        memberId,
        storeIncarnation: `store-${memberId}`,
      })),
    };
  }
}
