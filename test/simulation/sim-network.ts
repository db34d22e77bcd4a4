/**
 * A seeded network between simulated processes: delay, loss, duplication, reordering, partitions of one or both directions.
 *
 * Two kinds of traffic. One-way messages may be lost, doubled and reordered. Calls ride on a connection: they are never
 * doubled; when either way of one is lost or blocked, the caller's deadline decides; a callee that is not there refuses, one that
 * dies in mid-call breaks the connection. Whatever arrives runs in the receiver's process: not while it is paused, never once
 * it is dead.
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
  broken: number;
  /** Taken by a socket that nobody reads from. */
  swallowed: number;
}

/** A call over the network. */
export interface SimCall<T> {
  readonly from: number;
  readonly caller: SimProcess;
  readonly to: number;
  readonly label: string;
  readonly deadlineMs: number;
  /** The caller's signal: when it aborts, the call ends and the callee is told. */
  readonly signal?: AbortSignal | undefined;
  /** Runs in the callee's process. */
  readonly serve: (signal: AbortSignal) => Promise<T>;
  /** Nobody listens there: the call certainly did not begin. */
  readonly refused: () => Error;
  /** No answer in time, or the connection broke: the call may have happened. */
  readonly lost: () => Error;
}

/** Calls are on connections, which repeat what is lost: what makes them fail is rarer. */
export const CALL_LOSS_FACTOR = 0.1;

/** The network. Nodes are known by a small number; their present process is looked up at delivery. */
export class SimNetwork {
  readonly counts: SimNetworkCounts = {
    sent: 0,
    lost: 0,
    duplicated: 0,
    blocked: 0,
    broken: 0,
    swallowed: 0,
  };
  readonly #scheduler: SimScheduler;
  readonly #prng: Prng;
  readonly #processOf: (id: number) => SimProcess | undefined;
  readonly #blocked = new Set<string>();
  readonly #halfOpen = new Set<string>();
  readonly #connections = new Map<SimProcess, Set<() => void>>();
  faults: SimNetworkFaults;

  constructor(options: {
    readonly scheduler: SimScheduler;
    readonly prng: Prng;
    readonly faults: SimNetworkFaults;
    /** The living process behind a number. */
    readonly processOf: (id: number) => SimProcess | undefined;
  }) {
    this.#scheduler = options.scheduler;
    this.#prng = options.prng;
    this.faults = options.faults;
    this.#processOf = options.processOf;
  }

  /** The living process behind a number. */
  processOf(id: number): SimProcess | undefined {
    return this.#processOf(id);
  }

  /** Blocks traffic from one node to another; one direction only. */
  block(from: number, to: number): void {
    this.#blocked.add(`${from}>${to}`);
  }

  /** Lets traffic from one node to another through again. */
  unblock(from: number, to: number): void {
    this.#blocked.delete(`${from}>${to}`);
  }

  /**
   * Nobody reads any more what `from` sends to `to` over the connections that it opened, and nobody closes them (N6): messages
   * and calls vanish without a word. Answers to what `to` asks of `from` still come.
   */
  halfOpen(from: number, to: number): void {
    this.#halfOpen.add(`${from}>${to}`);
  }

  /** The connections from one node to another are made anew. */
  reopen(from: number, to: number): void {
    this.#halfOpen.delete(`${from}>${to}`);
  }

  /** Lets everything through again. */
  heal(): void {
    this.#blocked.clear();
    this.#halfOpen.clear();
  }

  /** Breaks the connections of a process that is dying; their callers learn it unless they are cut off. */
  breakConnectionsOf(process: SimProcess): void {
    const connections = this.#connections.get(process);
    this.#connections.delete(process);
    for (const breakOne of connections ?? []) breakOne();
  }

  /**
   * Carries one message: `deliver` runs zero, one or two times in the receiver's process; `refused` in the sender's when
   * nobody listens there.
   */
  send(message: {
    readonly from: number;
    readonly to: number;
    readonly label: string;
    readonly deliver: () => void;
    readonly refused?: (() => void) | undefined;
  }): void {
    const { from, to, label, deliver, refused } = message;
    const sender = this.#processOf(from);
    const arrive = (): void => {
      const receiver = this.#processOf(to);
      if (receiver !== undefined) receiver.soon(deliver);
      else if (refused !== undefined && !this.#isBlocked(to, from)) {
        sender?.after(this.#delayMs(), `${label} refused`, refused);
      }
    };
    if (this.#isSwallowed(from, to)) return;
    if (!this.#passes(from, to, this.faults.loss)) return;
    this.#scheduler.schedule(this.#delayMs(), label, arrive);
    if (this.faults.duplication > 0 && this.#prng.float() < this.faults.duplication) {
      this.counts.duplicated += 1;
      this.#scheduler.schedule(this.#delayMs() * 5, `${label} again`, arrive);
    }
  }

  /** Makes a call. Settles in the caller's process, or never when that dies first or is dead already. */
  call<T>(call: SimCall<T>): Promise<T> {
    const { from, caller, to, label } = call;
    if (!caller.alive) return new Promise<never>(() => undefined);
    return new Promise<T>((resolve, reject) => {
      let isOver = false;
      let disconnect: (() => void) | undefined;
      const ending = new AbortController();
      const finish = (act: () => void): void => {
        if (isOver) return;
        isOver = true;
        timer.cancel();
        disconnect?.();
        call.signal?.removeEventListener("abort", onAbort);
        act();
      };
      const cancel = (): void => {
        if (this.#isSwallowed(from, to)) return;
        this.#carry(from, to, `${label} cancelled`, () => ending.abort(new Error("the caller gave up")));
      };
      const onAbort = (): void =>
        finish(() => {
          reject(call.signal?.reason as Error);
          cancel();
        });
      const timer = caller.after(call.deadlineMs, `${label} timed out`, () =>
        finish(() => {
          reject(call.lost());
          cancel();
        }),
      );
      call.signal?.addEventListener("abort", onAbort, { once: true });
      const answer = (act: () => void): void => {
        this.#carry(to, from, `${label} answer`, () => {
          caller.soon(() => finish(act));
        });
      };
      if (this.#isSwallowed(from, to)) return;
      this.#carry(from, to, label, () => {
        const callee = this.#processOf(to);
        if (callee === undefined) {
          answer(() => reject(call.refused()));
          return;
        }
        callee.soon(() => this.#serve(callee, call, ending.signal, answer, resolve, reject));
        if (isOver) return;
        disconnect = this.#connect(callee, () => {
          this.counts.broken += 1;
          answer(() => reject(call.lost()));
        });
      });
    });
  }

  #serve<T>(
    callee: SimProcess,
    call: SimCall<T>,
    signal: AbortSignal,
    answer: (act: () => void) => void,
    resolve: (value: T) => void,
    reject: (error: Error) => void,
  ): void {
    const whileAlive = (act: () => void): void => {
      if (callee.alive) answer(act);
    };
    call.serve(signal).then(
      (value) => whileAlive(() => resolve(value)),
      (error: unknown) => whileAlive(() => reject(error as Error)),
    );
  }

  #connect(callee: SimProcess, onBroken: () => void): () => void {
    const known = this.#connections.get(callee);
    if (known === undefined) this.#connections.set(callee, new Set([onBroken]));
    else known.add(onBroken);
    return () => this.#connections.get(callee)?.delete(onBroken);
  }

  #carry(from: number, to: number, label: string, arrive: () => void): void {
    if (this.#passes(from, to, this.faults.loss * CALL_LOSS_FACTOR)) {
      this.#scheduler.schedule(this.#delayMs(), label, arrive);
    }
  }

  #passes(from: number, to: number, loss: number): boolean {
    this.counts.sent += 1;
    if (this.#isBlocked(from, to)) {
      this.counts.blocked += 1;
      return false;
    }
    if (loss > 0 && this.#prng.float() < loss) {
      this.counts.lost += 1;
      return false;
    }
    return true;
  }

  #isSwallowed(from: number, to: number): boolean {
    if (!this.#halfOpen.has(`${from}>${to}`)) return false;
    this.counts.swallowed += 1;
    return true;
  }

  #isBlocked(from: number, to: number): boolean {
    return this.#blocked.has(`${from}>${to}`);
  }

  #delayMs(): number {
    // Exponential around the mean, with a floor: now and then a message overtakes many others.
    return 0.05 - Math.log(1 - this.#prng.float()) * this.faults.delayMeanMs;
  }
}
