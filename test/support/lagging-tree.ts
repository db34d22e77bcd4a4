/**
 * The tree at nodes of which each applies commands when it likes: one history of commands, a store of its own for each node.
 *
 * linearize() applies everything committed before it was called, after a while; the state of every moment is kept for judging.
 */
import type { MetadataPort } from "../../src/cluster/metadata-port.ts";
import type { CommandBody, CommandResult } from "../../src/metadata/commands.ts";
import type { Prng } from "../../src/std/prng.ts";
import { FakeClock } from "./fake-clock.ts";
import { MemoryTree } from "./memory-metadata-port.ts";

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** See the file's comment. */
export class LaggingTree {
  readonly #prng: Prng;
  readonly #history: CommandBody[] = [];
  /** Applies each command at once: what is committed. */
  readonly truth = new MemoryTree(new FakeClock());

  constructor(prng: Prng) {
    this.#prng = prng;
  }

  /** Commits a command; returns its answer. */
  commit(body: CommandBody): CommandResult {
    this.#history.push(body);
    return this.truth.apply(body);
  }

  /** A node, which has applied nothing yet. */
  node(memberId: number): MetadataPort {
    const tree = new MemoryTree(new FakeClock());
    let appliedCount = 0;
    const applyTo = (count: number): void => {
      for (; appliedCount < count; appliedCount += 1) {
        const body = this.#history[appliedCount];
        if (body !== undefined) tree.apply(body);
      }
    };
    return {
      ...tree.port(memberId),
      linearize: async () => {
        const committedCount = this.#history.length;
        for (let i = this.#prng.below(4); i > 0; i -= 1) await turn();
        // Often further than it must, as a node that applies by itself.
        applyTo(Math.max(committedCount, this.#prng.below(2) === 0 ? this.#history.length : 0));
      },
    };
  }
}
