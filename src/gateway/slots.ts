/**
 * Places for requests that hold memory or a connection for long. A full house answers OVERLOADED at once: a queue of waiting
 * bodies would only move the memory elsewhere. Invariant: 0 <= taken <= countMax.
 */
import { DriveError } from "../drive/errors.ts";

/** A fixed number of places. */
export class Slots {
  readonly #what: string;
  readonly #countMax: number;
  readonly #onChange: (count: number) => void;
  #taken = 0;

  /** @param what plural, as the error names it @param onChange told the number taken after each change */
  constructor(what: string, countMax: number, onChange: (count: number) => void) {
    this.#what = what;
    this.#countMax = countMax;
    this.#onChange = onChange;
  }

  /** Runs `work` in a place of its own. Errors: OVERLOADED when all are taken. */
  async use<T>(work: () => Promise<T>): Promise<T> {
    if (this.#taken >= this.#countMax) {
      throw new DriveError(
        "OVERLOADED",
        `This node serves ${this.#countMax} ${this.#what} at once; all are taken.`,
        {
          count_max: String(this.#countMax),
        },
      );
    }
    this.#change(1);
    try {
      return await work();
    } finally {
      this.#change(-1);
    }
  }

  #change(by: number): void {
    this.#taken += by;
    this.#onChange(this.#taken);
  }
}
