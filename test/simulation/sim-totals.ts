/** Adds up what many simulated runs did: operations, faults, checks. */
import type { SimResult } from "./sim-run.ts";

/** Sums over runs. */
export class SimTotals {
  readonly #sums = new Map<string, number>();
  runCount = 0;

  /** Adds one run. */
  add(result: SimResult): void {
    this.runCount += 1;
    const { eventCount, observationCount, virtualMs, commitIndex, restartCount, clients, network } = result;
    const figures: Record<string, number> = {
      events: eventCount,
      "events in the middle of a turn": result.sharedTurnCount,
      "nodes observed": observationCount,
      "virtual seconds": Math.round(virtualMs / 1000),
      "entries committed": commitIndex,
      restarts: restartCount,
      "copies verified": result.copiesVerified,
      "copies at storage-only nodes": result.storageCopies,
      "copies repaired": result.copiesRepaired,
      "bad copies found by storage-only nodes": result.storageBadCopies,
      "lost files noticed": result.lostFilesNoticed,
      "operations done": clients.done,
      "operations refused": clients.refused,
      "outcomes unknown": clients.unknown,
      "operations given up": clients.notDone,
      retries: clients.retried,
      "large files": clients.largeDone,
      "downloads for a ticket": clients.ticketed,
      configurations: result.configCount,
      "change events": result.changeEventCount,
      "watchers resumed": result.watcherResumeCount,
      "messages sent": network.sent,
      "messages lost": network.lost,
      "messages doubled": network.duplicated,
      "messages blocked": network.blocked,
      "connections broken": network.broken,
      "swallowed by half-open connections": network.swallowed,
    };
    for (const [name, value] of Object.entries(figures)) this.#add(name, value);
    for (const [kind, count] of result.faults) this.#add(kind, count);
    for (const [kind, count] of result.storageFaults) this.#add(`${kind} of a storage-only node`, count);
    for (const [kind, count] of result.ends) this.#add(`processes ended by ${kind}`, count);
    for (const [kind, count] of result.changes) this.#add(`membership: ${kind}`, count);
    for (const [kind, count] of result.upgrades) this.#add(`version: ${kind}`, count);
    if (result.plan.clockSkew) this.#add("clock skew (runs)", 1);
  }

  /** The sum under a name; 0 when nothing was added. */
  get(name: string): number {
    return this.#sums.get(name) ?? 0;
  }

  /** All sums. */
  entries(): readonly (readonly [string, number])[] {
    return [...this.#sums];
  }

  /** All sums, one line. */
  describe(): string {
    return [...this.#sums].map(([name, value]) => `${name} ${value}`).join(", ");
  }

  #add(name: string, value: number): void {
    this.#sums.set(name, (this.#sums.get(name) ?? 0) + value);
  }
}
