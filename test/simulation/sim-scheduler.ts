/**
 * Virtual time for a whole cluster in one process.
 *
 * Everything that would take time (a timer, a disk operation, a message) is an event at a virtual instant. Events run one at
 * a time in the order (time, sequence); after each, all promise continuations it set free run to the end, which one
 * setImmediate() of the real event loop guarantees as long as nothing really asynchronous was touched (sim-guard.ts checks).
 * With `turns`, some events do not wait for that: they run in the middle of the promise continuations of the event before, a
 * drawn number of microtasks later, as work of one process does that shares a turn of the event loop. A program that is
 * right only when every event finds it at rest is found that way.
 *
 * So a run is a pure function of its seed. Every event is folded into a trace hash: the same seed twice must give the same.
 */
import { createHash, type Hash } from "node:crypto";
import type { Clock, Timer } from "../../src/std/clock.ts";
import { must } from "../../src/std/assert.ts";
import type { Prng } from "../../src/std/prng.ts";

interface SimEvent {
  readonly atMs: number;
  readonly sequence: number;
  readonly label: string;
  run: (() => void) | undefined;
}

const realSetImmediate = setImmediate;

/** Microtasks between two events of one turn, at most: a write of the log is through in fewer. */
const HOP_COUNT_MAX = 24;

/** How events share turns of the event loop. */
export interface SimTurns {
  readonly prng: Prng;
  /** 0 to 1: how often the next event runs in the middle of the turn of the one before. */
  readonly rate: number;
  /** Only events that are due within this much virtual time share a turn. */
  readonly windowMs: number;
}

/** Waits until every promise continuation that can run has run. */
export function settle(): Promise<void> {
  return new Promise((resolve) => {
    realSetImmediate(resolve);
  });
}

/** The event queue and the virtual clock. */
export class SimScheduler {
  #nowMs = 0;
  #sequence = 0;
  readonly #heap: SimEvent[] = [];
  readonly #trace: Hash = createHash("sha256");
  #eventCount = 0;
  readonly #tail: string[] = [];
  /** Set while events share turns. */
  turns: SimTurns | undefined;
  /** Events that ran in the middle of another's turn. */
  sharedTurnCount = 0;

  /** Virtual milliseconds since the start of the run. */
  get nowMs(): number {
    return this.#nowMs;
  }

  /** Events that have run. */
  get eventCount(): number {
    return this.#eventCount;
  }

  /** The last events, for the report of a failure. */
  get recentTrace(): readonly string[] {
    return this.#tail;
  }

  /** Folds a fact into the trace; `detail` must not depend on anything but the seed. */
  note(detail: string): void {
    this.#trace.update(`${this.#nowMs.toFixed(3)} ${detail}\n`);
    this.#tail.push(`${this.#nowMs.toFixed(1)} ${detail}`);
    if (this.#tail.length > 400) this.#tail.splice(0, 200);
  }

  /** Hash of everything noted so far. Ends the trace. */
  traceHash(): string {
    return this.#trace.copy().digest("hex");
  }

  /** Runs `run` after `delayMs` of virtual time. */
  schedule(delayMs: number, label: string, run: () => void): Timer {
    const event: SimEvent = {
      atMs: this.#nowMs + Math.max(0, delayMs),
      sequence: (this.#sequence += 1),
      label,
      run,
    };
    this.#push(event);
    return {
      cancel: () => {
        event.run = undefined;
      },
    };
  }

  /** Runs the next event and everything it sets free; false when there is none. */
  async step(): Promise<boolean> {
    for (;;) {
      const event = this.#pop();
      if (event === undefined) return false;
      if (event.run === undefined) continue;
      this.#run(event, event.run);
      await this.#shareTurn();
      await settle();
      return true;
    }
  }

  /** Microtasks to let pass before something happens in the middle of a turn; 0 mostly. */
  drawHopCount(): number {
    const { turns } = this;
    if (turns === undefined || turns.prng.float() >= turns.rate) return 0;
    return 1 + turns.prng.below(HOP_COUNT_MAX);
  }

  #run(event: SimEvent, run: () => void): void {
    this.#nowMs = event.atMs;
    this.#eventCount += 1;
    if (event.label !== "") this.note(event.label);
    run();
  }

  /** Runs further events that are due about now between the continuations of the one that has just run. */
  async #shareTurn(): Promise<void> {
    for (let hopCount = this.drawHopCount(); hopCount > 0; hopCount = this.drawHopCount()) {
      for (let hop = 0; hop < hopCount; hop += 1) await Promise.resolve();
      const next = this.#heap[0];
      if (next === undefined || next.atMs > this.#nowMs + (this.turns?.windowMs ?? 0)) return;
      this.#pop();
      if (next.run === undefined) continue;
      this.sharedTurnCount += 1;
      this.#run(next, next.run);
    }
  }

  #before(a: SimEvent, b: SimEvent): boolean {
    return a.atMs < b.atMs || (a.atMs === b.atMs && a.sequence < b.sequence);
  }

  #push(event: SimEvent): void {
    const heap = this.#heap;
    heap.push(event);
    let at = heap.length - 1;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      const above = must(heap[parent], "a parent in the heap");
      if (!this.#before(event, above)) break;
      heap[at] = above;
      at = parent;
    }
    heap[at] = event;
  }

  #pop(): SimEvent | undefined {
    const heap = this.#heap;
    const top = heap[0];
    const last = heap.pop();
    if (top === undefined || last === undefined || heap.length === 0) return top;
    let at = 0;
    for (;;) {
      const left = 2 * at + 1;
      if (left >= heap.length) break;
      const right = left + 1;
      const leftEvent = must(heap[left], "a left child");
      const rightEvent = heap[right];
      const child = rightEvent !== undefined && this.#before(rightEvent, leftEvent) ? right : left;
      const below = must(heap[child], "a child");
      if (!this.#before(below, last)) break;
      heap[at] = below;
      at = child;
    }
    heap[at] = last;
    return top;
  }
}

/**
 * One incarnation of a simulated process: what it scheduled dies with it. A continuation that was already free to run when the
 * process died finds every port dead, so that it can change nothing.
 */
export class SimProcess implements Clock {
  readonly name: string;
  readonly #scheduler: SimScheduler;
  #wallOffsetMs: number;
  readonly #rate: number;
  #alive = true;
  #pausedUntilMs = 0;

  /**
   * @param wallOffsetMs how wrong its wall clock is
   * @param rate how fast its monotonic clock runs; 1 is right
   */
  constructor(name: string, scheduler: SimScheduler, wallOffsetMs: number, rate: number) {
    this.name = name;
    this.#scheduler = scheduler;
    this.#wallOffsetMs = wallOffsetMs;
    this.#rate = rate;
  }

  get alive(): boolean {
    return this.#alive;
  }

  /** Whether the process is stopped (SIGSTOP) now. */
  get paused(): boolean {
    return this.#scheduler.nowMs < this.#pausedUntilMs;
  }

  /** Ends the process: nothing that it scheduled runs any more. */
  kill(): void {
    this.#alive = false;
  }

  /** Freezes the process for `durationMs`: what falls due meanwhile runs right after. */
  pause(durationMs: number): void {
    this.#pausedUntilMs = this.#scheduler.nowMs + durationMs;
  }

  /** Sets the wall clock forward or back; the monotonic one goes on. */
  jumpWallClock(byMs: number): void {
    this.#wallOffsetMs += byMs;
  }

  monotonicMs(): number {
    return this.#scheduler.nowMs * this.#rate;
  }

  wallMs(): number {
    return 1_750_000_000_000 + this.#wallOffsetMs + Math.floor(this.#scheduler.nowMs);
  }

  setTimer(delayMs: number, callback: () => void): Timer {
    return this.after(delayMs / this.#rate, "", callback);
  }

  /** Runs `callback` after `delayMs` of virtual time if the process still lives, later if it is paused then. */
  after(delayMs: number, label: string, callback: () => void): Timer {
    const state = { cancelled: false };
    const run = (): void => {
      if (!this.#alive || state.cancelled) return;
      const waitMs = this.#pausedUntilMs - this.#scheduler.nowMs;
      if (waitMs > 0) {
        this.#scheduler.schedule(waitMs, "", run);
        return;
      }
      callback();
    };
    const timer = this.#scheduler.schedule(delayMs, label, run);
    return {
      cancel: () => {
        state.cancelled = true;
        timer.cancel();
      },
    };
  }

  /**
   * A promise that resolves after `delayMs`, or never when the process dies first; some microtasks later than it could when
   * events share turns.
   */
  async delay(delayMs: number, label = ""): Promise<void> {
    await new Promise<void>((resolve) => {
      this.after(delayMs, label, resolve);
    });
    await this.hop();
  }

  /** Runs `callback` as what has just arrived: in an event of its own, or some microtasks from now when events share turns. */
  soon(callback: () => void): void {
    if (this.paused || this.#scheduler.drawHopCount() === 0) {
      this.after(0, "", callback);
      return;
    }
    void this.#hopThen(callback);
  }

  async #hopThen(callback: () => void): Promise<void> {
    await this.hop();
    callback();
  }

  /** Lets a drawn number of microtasks pass, none mostly. */
  async hop(): Promise<void> {
    const hopCount = this.#scheduler.drawHopCount();
    for (let hop = 0; hop < hopCount; hop += 1) await Promise.resolve();
    if (!this.#alive) await new Promise<never>(() => undefined);
  }
}
