/**
 * Virtual time for a whole cluster in one process.
 *
 * Everything that would take time (a timer, a disk operation, a message) is an event at a virtual instant. Events run one at
 * a time in the order (time, sequence); after each, all promise continuations it set free run to the end, which one
 * setImmediate() of the real event loop guarantees as long as nothing really asynchronous was touched (sim-guard.ts checks).
 * So a run is a pure function of its seed. Every event is folded into a trace hash: the same seed twice must give the same.
 */
import { createHash, type Hash } from "node:crypto";
import type { Clock, Timer } from "../../src/std/clock.ts";
import { must } from "../../src/std/assert.ts";

interface SimEvent {
  readonly atMs: number;
  readonly sequence: number;
  readonly label: string;
  run: (() => void) | undefined;
}

const realSetImmediate = setImmediate;

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
      this.#nowMs = event.atMs;
      this.#eventCount += 1;
      if (event.label !== "") this.note(event.label);
      event.run();
      await settle();
      return true;
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
  readonly #wallOffsetMs: number;
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

  /** A promise that resolves after `delayMs`, or never when the process dies first. */
  delay(delayMs: number, label = ""): Promise<void> {
    return new Promise((resolve) => {
      this.after(delayMs, label, resolve);
    });
  }
}
