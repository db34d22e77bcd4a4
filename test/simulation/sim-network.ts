/**
 * A seeded network between simulated processes: delay, loss, duplication, reordering, partitions of one or both directions.
 *
 * Two kinds of traffic. One-way messages may be lost, doubled and reordered. Calls have an answer: the request, the answer or
 * both may be lost, in which case the caller's own deadline decides; a callee that is not there refuses at once, as a closed
 * port does.
 */
import type { Prng } from "../../src/std/prng.ts";
import type { SimProcess, SimScheduler } from "./sim-scheduler.ts";

/** What a seed drew for the network. Probabilities are 0 to 1. */
export interface SimNetworkFaults {
  readonly loss: number;
  readonly duplication: number;
  readonly delayMeanMs: number;
}

/** Counts of what the network did, to prove that faults happened. */
export interface SimNetworkCounts {
  sent: number;
  lost: number;
  duplicated: number;
  blocked: number;
}

/** The network. Nodes are known by a small number; their present process is looked up at delivery. */
export class SimNetwork {
  readonly counts: SimNetworkCounts = { sent: 0, lost: 0, duplicated: 0, blocked: 0 };
  readonly #scheduler: SimScheduler;
  readonly #prng: Prng;
  readonly #blocked = new Set<string>();
  faults: SimNetworkFaults;

  constructor(scheduler: SimScheduler, prng: Prng, faults: SimNetworkFaults) {
    this.#scheduler = scheduler;
    this.#prng = prng;
    this.faults = faults;
  }

  /** Blocks traffic from one node to another; one direction only. */
  block(from: number, to: number): void {
    this.#blocked.add(`${from}>${to}`);
  }

  /** Lets everything through again. */
  heal(): void {
    this.#blocked.clear();
  }

  /** Whether a message from one node to another would be stopped now. */
  isBlocked(from: number, to: number): boolean {
    return this.#blocked.has(`${from}>${to}`);
  }

  #delayMs(): number {
    // Exponential around the mean, with a floor: now and then a message overtakes many others.
    return 0.05 - Math.log(1 - this.#prng.float()) * this.faults.delayMeanMs;
  }

  /** Carries one message: `deliver` runs zero, one or two times. `from` must be alive. */
  send(from: number, to: number, label: string, deliver: () => void): void {
    this.counts.sent += 1;
    if (this.isBlocked(from, to)) {
      this.counts.blocked += 1;
      return;
    }
    if (this.#prng.float() < this.faults.loss) {
      this.counts.lost += 1;
      return;
    }
    this.#scheduler.schedule(this.#delayMs(), label, deliver);
    if (this.#prng.float() < this.faults.duplication) {
      this.counts.duplicated += 1;
      this.#scheduler.schedule(this.#delayMs() * 3, label, deliver);
    }
  }

  /**
   * A call with an answer. `serve` runs in the callee's process; undefined when nobody listens there. Lost traffic leaves the
   * promise open until `deadlineMs`, then it rejects with `timeout()`; a refused connection rejects with `refused()`.
   */
  call<T>(options: {
    readonly from: number;
    readonly caller: SimProcess;
    readonly to: number;
    readonly label: string;
    readonly deadlineMs: number;
    readonly serve: () => Promise<T> | undefined;
    readonly refused: () => Error;
    readonly timeout: () => Error;
    readonly signal?: AbortSignal | undefined;
  }): Promise<T> {
    const { from, caller, to, label } = options;
    return new Promise<T>((resolve, reject) => {
      let settled = false;
      const finish = (act: () => void): void => {
        if (settled || !caller.alive) return;
        settled = true;
        timer.cancel();
        act();
      };
      const timer = caller.after(options.deadlineMs, "", () => finish(() => reject(options.timeout())));
      options.signal?.addEventListener("abort", () => finish(() => reject(options.signal?.reason as Error)), {
        once: true,
      });
      const answer = (act: () => void): void => {
        this.send(to, from, `${label} answer`, () => finish(act));
      };
      let served = false;
      this.send(from, to, label, () => {
        // A duplicated request reaches the same connection once: calls ride on a stream.
        if (served) return;
        served = true;
        const work = options.serve();
        if (work === undefined) {
          answer(() => reject(options.refused()));
          return;
        }
        work.then(
          (value) => answer(() => resolve(value)),
          (error: unknown) => answer(() => reject(error as Error)),
        );
      });
    });
  }
}
