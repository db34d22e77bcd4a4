/** Turns at extents: seals, removals and moves of one extent come one after another, those of different ones at the same time. */
import type { ExtentKey } from "../drive/content.ts";
import { extentName } from "./chunk-codec.ts";

/** The turns of one store. */
export class ExtentTurns {
  /** The last turn of each queue. */
  readonly #turns = new Map<string, Promise<void>>();

  /** Runs `work` after everything that took a turn at the extent before. Errors: those of `work`. */
  async run<T>(extent: ExtentKey, work: () => Promise<T>): Promise<T> {
    const name = extentName(extent);
    const before = this.#turns.get(name);
    const result = before === undefined ? work() : before.then(work);
    const turn = result.then(
      () => undefined,
      () => undefined,
    );
    this.#turns.set(name, turn);
    try {
      return await result;
    } finally {
      if (this.#turns.get(name) === turn) this.#turns.delete(name);
    }
  }

  /** Resolves when nobody has a turn at the extent. */
  async over(extent: ExtentKey): Promise<void> {
    for (let turn = this.#turns.get(extentName(extent)); turn !== undefined;) {
      await turn;
      turn = this.#turns.get(extentName(extent));
    }
  }

  /** Resolves when the turns that are known now are over. */
  async allOver(): Promise<void> {
    await Promise.all([...this.#turns.values()]);
  }
}
