/**
 * Short background work that the data plane owes after an answer was given: late seals to add, bad copies to report, leftovers
 * to remove. Bounded: beyond the limit new chores are refused, because each has a loop behind it that finds the same work again
 * (repair, collection). stop() waits for those in hand.
 */
import { DriveError } from "../drive/errors.ts";

/** Chores in hand at once. */
export const CHORE_COUNT_MAX = 1000;

/** Runs chores. */
export class Chores {
  readonly #countMax: number;
  readonly #running = new Set<Promise<void>>();

  constructor(countMax = CHORE_COUNT_MAX) {
    this.#countMax = countMax;
  }

  /** How many are in hand. */
  get count(): number {
    return this.#running.size;
  }

  /** Runs `work` beside; an operating error ends it, since the loops behind try again. Returns false when too many run. */
  run(work: () => Promise<unknown>): boolean {
    if (this.#running.size >= this.#countMax) return false;
    const chore = work().then(
      () => undefined,
      (error: unknown) => {
        if (!(error instanceof DriveError)) throw error;
      },
    );
    const tracked = chore.finally(() => this.#running.delete(tracked));
    this.#running.add(tracked);
    return true;
  }

  /** Resolves when none is in hand. */
  async idle(): Promise<void> {
    while (this.#running.size > 0) await Promise.all(this.#running);
  }
}
