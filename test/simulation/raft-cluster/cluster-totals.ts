/** Adds up what many runs of the Raft cluster did: faults, work, checks. */
import type { ClusterResult } from "./cluster-run.ts";

/** Sums over runs. */
export class ClusterTotals {
  runCount = 0;
  readonly #faults = new Map<string, number>();
  readonly #figures = new Map<string, number>();

  /** Adds one run. */
  add({ faults, figures, observations }: ClusterResult): void {
    this.runCount += 1;
    for (const [fault, count] of faults) this.#faults.set(fault, (this.#faults.get(fault) ?? 0) + count);
    const all = { ...figures, "members looked at": observations };
    for (const [figure, count] of Object.entries(all)) {
      this.#figures.set(figure, (this.#figures.get(figure) ?? 0) + count);
    }
  }

  /** The sum under a name; 0 when nothing was added. */
  get(name: string): number {
    return this.#faults.get(name) ?? this.#figures.get(name) ?? 0;
  }

  /** Everything that was counted beside faults. */
  figures(): readonly (readonly [string, number])[] {
    return [...this.#figures];
  }

  /** All sums. */
  entries(): readonly (readonly [string, number])[] {
    return [...this.#figures, ...this.#faults];
  }

  /** All sums, one line. */
  describe(): string {
    return [...this.#figures, ...[...this.#faults].sort(([a], [b]) => a.localeCompare(b))]
      .map(([name, count]) => `${name} ${count}`)
      .join(", ");
  }
}
