/**
 * The apply thread of the core's async mode: applies committed entries in order, in bounded batches, and then delivers the
 * responses of the "storage-apply" work.
 *
 * Between batches that took long the event loop gets its turn, so that heartbeats and reads are not held up. Each batch is
 * one transaction of the replicated store; who waits for a result or for an index hears of it after the transaction.
 */
import type { ConfState, LogEntry, Message } from "../raft/types.ts";
import { sleep, type Clock } from "../std/clock.ts";
import type { Metrics } from "../telemetry/metrics.ts";
import type { ReplicatedStore } from "./replicated-store.ts";

/** The event loop gets its turn after this much work without a pause. */
const TURN_MS_MAX = 10;

/** Dependencies of an Applier. */
export interface ApplierOptions<Result> {
  readonly store: ReplicatedStore<Result>;
  readonly clock: Clock;
  readonly metrics: Metrics;
  /** Makes a membership change effective in the core. */
  readonly applyConfChange: (entry: LogEntry, before: ConfState) => ConfState;
  /** Hears each applied entry with its result, in order, after its batch is in the store. */
  readonly onEntry: (entry: LogEntry, result: Result | undefined) => void;
  /** Hears the applied index after each batch. */
  readonly onBatch: (appliedIndex: number) => void;
  readonly deliver: (responses: readonly Message[]) => void;
  readonly onFatal: (error: Error) => void;
}

/** Applies committed entries. */
export class Applier<Result> {
  readonly #options: ApplierOptions<Result>;
  readonly #queue: Message[] = [];
  #running: Promise<void> | undefined;
  #isStopped = false;

  constructor(options: ApplierOptions<Result>) {
    this.#options = options;
  }

  /** Takes a "storage-apply" message. */
  enqueue(work: Message): void {
    this.#queue.push(work);
    if (this.#isStopped) return;
    this.#running ??= this.#run();
  }

  /** Resolves when nothing is being applied and nothing waits. */
  async idle(): Promise<void> {
    while (this.#running !== undefined) await this.#running;
  }

  /** Ends after the batch under way. */
  async stop(): Promise<void> {
    this.#isStopped = true;
    await this.#running;
  }

  async #run(): Promise<void> {
    await Promise.resolve();
    const { clock } = this.#options;
    let turnMs = clock.monotonicMs();
    try {
      for (let work = this.#queue.shift(); work !== undefined; work = this.#queue.shift()) {
        for (let offset = 0; offset < work.entries.length;) {
          if (this.#isStopped) return;
          offset += this.#applyBatch(work.entries, offset);
          if (clock.monotonicMs() - turnMs < TURN_MS_MAX) continue;
          await sleep(clock, 0);
          turnMs = clock.monotonicMs();
        }
        if (this.#isStopped) return;
        this.#options.deliver(work.responses);
      }
    } catch (error) {
      this.#options.onFatal(error as Error);
    } finally {
      // In the same turn as the last look at the queue: work that comes between the two would wait for ever.
      this.#running = undefined;
    }
  }

  #applyBatch(entries: readonly LogEntry[], offset: number): number {
    const { store, clock, metrics, applyConfChange, onEntry, onBatch } = this.#options;
    const startMs = clock.monotonicMs();
    const { count, results } = store.applyBatch(entries, offset, applyConfChange);
    metrics.applied(count, clock.monotonicMs() - startMs);
    for (let at = 0; at < count; at += 1) {
      const entry = entries[offset + at];
      if (entry !== undefined) onEntry(entry, results[at]);
    }
    onBatch(store.state.appliedIndex);
    return count;
  }
}
