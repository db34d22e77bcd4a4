/**
 * One at a time per extent, among the background works of this node: repair must not make a copy that collection is removing,
 * nor the other way round. Both look at the tree again once they hold the lock.
 */
import type { ExtentKey } from "../drive/content.ts";

/** Locks by extent. */
export class ExtentLocks {
  readonly #tails = new Map<string, Promise<void>>();

  /** Runs `work` after every earlier work on the same extent has ended. */
  async withLock<T>(extent: ExtentKey, work: () => Promise<T>): Promise<T> {
    const key = `${extent.contentId}/${extent.extentIndex}`;
    const before = this.#tails.get(key) ?? Promise.resolve();
    const result = before.then(work);
    const tail = result.then(
      () => undefined,
      () => undefined,
    );
    this.#tails.set(key, tail);
    try {
      return await result;
    } finally {
      if (this.#tails.get(key) === tail) this.#tails.delete(key);
    }
  }
}
