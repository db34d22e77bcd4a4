/**
 * A client that follows the change feed from its beginning, by way of one node after the other (C8): when its node dies, or now
 * and then without a reason, it goes on at another one behind the last change that it was told.
 */
import type { Change } from "../../src/drive/change.ts";
import { DriveError } from "../../src/drive/errors.ts";
import type { DriveNode } from "../../src/node/drive-node.ts";
import type { Prng } from "../../src/std/prng.ts";
import type { SimCluster } from "./sim-cluster.ts";
import type { SimNetwork } from "./sim-network.ts";
import type { SimProcess } from "./sim-scheduler.ts";

const CALL_DEADLINE_MS = 5_000;
const RETRY_DELAY_MS = 200;
/** One in so many batches is the last one that is asked of a node. */
const BATCHES_AT_ONE_NODE = 20;

/** What a SimWatcher works with. */
export interface SimWatcherOptions {
  readonly name: string;
  readonly address: number;
  readonly process: SimProcess;
  readonly prng: Prng;
  readonly network: SimNetwork;
  readonly cluster: SimCluster;
}

/** One watcher. */
export class SimWatcher {
  readonly name: string;
  /** What it was told, in the order in which it was told. */
  readonly changes: Change[] = [];
  /** Times that it went on at another node. */
  resumeCount = 0;
  readonly #options: SimWatcherOptions;
  #isOver = false;

  constructor(options: SimWatcherOptions) {
    this.#options = options;
    this.name = options.name;
  }

  /** Index of the last command of which it was told. */
  get lastIndex(): number {
    return this.changes.at(-1)?.index ?? 0;
  }

  /** Follows until end() is called. */
  async run(): Promise<void> {
    const { process, prng, cluster } = this.#options;
    while (!this.#isOver) {
      const { memberId } = cluster.pick(1 + prng.below(cluster.present.length));
      try {
        await this.#followAt(memberId);
      } catch (error) {
        if (!(error instanceof DriveError)) throw error;
        await process.delay(RETRY_DELAY_MS);
      }
      this.resumeCount += 1;
    }
  }

  /** Ends it after the next batch. */
  end(): void {
    this.#isOver = true;
  }

  async #followAt(memberId: number): Promise<void> {
    const { prng, cluster } = this.#options;
    const closing = new AbortController();
    let stream: { readonly node: DriveNode; readonly batches: AsyncIterator<readonly Change[]> } | undefined;
    try {
      while (!this.#isOver) {
        const next = await this.#call(memberId, () => {
          const node = cluster.find(memberId)?.servingNode;
          if (node === undefined) throw new DriveError("NODE_STARTING", "The node is starting.");
          stream ??= {
            node,
            batches: node.drive.watchChanges(this.lastIndex, closing.signal)[Symbol.asyncIterator](),
          };
          // A stream does not outlive the process that it is from.
          if (stream.node !== node) throw new DriveError("PEER_UNREACHABLE", "The connection broke.");
          return stream.batches.next();
        });
        if (next.done === true) return;
        this.#take(next.value);
        if (prng.below(BATCHES_AT_ONE_NODE) === 0) return;
      }
    } finally {
      closing.abort(new DriveError("CANCELED", "The watcher goes elsewhere."));
    }
  }

  #take(batch: readonly Change[]): void {
    const first = batch[0];
    // A batch never ends in the middle of a command: this one would be torn between two.
    if (first !== undefined && first.index <= this.lastIndex) {
      throw new Error(`C8: ${this.name} was told of command ${first.index} after ${this.lastIndex}`);
    }
    this.changes.push(...batch);
  }

  #call<T>(to: number, serve: () => Promise<T>): Promise<T> {
    const { network, address, process, name } = this.#options;
    return network.call<T>({
      from: address,
      caller: process,
      to,
      label: `${name}>${to} changes`,
      deadlineMs: CALL_DEADLINE_MS,
      serve: async () => serve(),
      refused: () => new DriveError("PEER_UNREACHABLE", "Nobody listens."),
      lost: () => new DriveError("PEER_UNREACHABLE", "No answer came."),
    });
  }
}
