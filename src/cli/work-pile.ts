/**
 * A pile of work that grows while it is worked off, with a fixed number of workers: for walking trees.
 *
 * The newest piece is taken first (depth first), so that the pile stays as small as the tree is narrow. One failure ends all.
 */
import { deferred, type Deferred } from "../std/deferred.ts";

/** Work that may make more work. */
export class WorkPile<T> {
  readonly #items: T[] = [];
  #busyCount = 0;
  #wake: Deferred<void> = deferred<void>();

  /** Puts a piece of work on the pile. */
  push(item: T): void {
    this.#items.push(item);
    this.#signal();
  }

  /** Runs `worker` on everything, `concurrency` at a time, until the pile is empty and nobody works. Rejects with the first error. */
  async run(concurrency: number, worker: (item: T) => Promise<void>): Promise<void> {
    const failure: { error?: unknown } = {};
    const loop = async (): Promise<void> => {
      while (!("error" in failure)) {
        const item = this.#items.pop();
        if (item === undefined) {
          if (this.#busyCount === 0) return;
          await this.#wake.promise;
          continue;
        }
        this.#busyCount += 1;
        try {
          await worker(item);
        } catch (error) {
          failure.error ??= error;
        } finally {
          this.#busyCount -= 1;
          this.#signal();
        }
      }
    };
    await Promise.all(Array.from({ length: concurrency }, loop));
    if ("error" in failure) throw failure.error;
  }

  #signal(): void {
    this.#wake.resolve();
    this.#wake = deferred<void>();
  }
}
