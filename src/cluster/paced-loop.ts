/**
 * A loop that does a piece of work again and again, with a pause between: the shape of everything a node does by itself.
 *
 * One piece at a time. An operating error of the work is not the end: the next try comes after the idle pause, told to
 * `onError`. A full disk is one, whatever came upon it: NO_SPACE; and so are file descriptors that ran out: OVERLOADED. Anything else
 * is a programmer error and goes on to the process. stop() waits for the piece in hand.
 */
import { DriveError } from "../drive/errors.ts";
import { assert } from "../std/assert.ts";
import type { Clock, Timer } from "../std/clock.ts";
import { deferred, type Deferred } from "../std/deferred.ts";
import { isNoSpace, isTooManyFiles } from "../std/disk.ts";
import { StoreCheckError } from "../std/ordered-store.ts";
import { sharedAbortController } from "./deadline.ts";

/** Settings of a PacedLoop. */
export interface PacedLoopOptions {
  readonly clock: Clock;
  /** Pause after a piece that found nothing more to do, or failed. */
  readonly idleMs: number;
  /** Pause after a piece that left more to do: lets other work through. */
  readonly busyMs: number;
  /** Does one bounded piece; "busy" when there is more. The signal aborts at stop(). */
  readonly work: (signal: AbortSignal) => Promise<"busy" | "idle">;
  /** Told of operating errors. */
  readonly onError?: ((error: DriveError) => void) | undefined;
}

/** A loop of paced work. */
export class PacedLoop {
  readonly #options: PacedLoopOptions;
  #stopping: AbortController | undefined;
  #running: Promise<void> | undefined;
  #pause: { readonly timer: Timer; readonly over: Deferred<void> } | undefined;
  #woken = false;

  constructor(options: PacedLoopOptions) {
    this.#options = options;
  }

  /** Begins with a first piece of work. */
  start(): void {
    assert(this.#running === undefined, "a loop is started once");
    this.#stopping = sharedAbortController();
    this.#running = this.#run(this.#stopping.signal);
  }

  /** Ends the loop; resolves when the piece in hand has ended. Harmless when not started. */
  async stop(): Promise<void> {
    this.#stopping?.abort(new DriveError("NODE_STOPPING", "The node stops."));
    this.wake();
    await this.#running;
    this.#running = undefined;
  }

  /** Ends the present pause: there may be something to do. */
  wake(): void {
    this.#woken = true;
    this.#pause?.timer.cancel();
    this.#pause?.over.resolve();
  }

  async #run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      this.#woken = false;
      let found: "busy" | "idle" = "idle";
      try {
        found = await this.#options.work(signal);
      } catch (error) {
        const operating = operatingError(error);
        if (operating === undefined) throw error;
        if (!signal.aborted) this.#options.onError?.(operating);
      }
      if (!this.#woken && !signal.aborted) await this.#sleep(found);
    }
  }

  async #sleep(found: "busy" | "idle"): Promise<void> {
    const over = deferred<void>();
    const { busyMs, idleMs, clock } = this.#options;
    const timer = clock.setTimer(found === "busy" ? busyMs : idleMs, () => over.resolve());
    this.#pause = { timer, over };
    await over.promise;
    this.#pause = undefined;
  }
}

function operatingError(error: unknown): DriveError | undefined {
  if (error instanceof DriveError) return error;
  const { message } = error as Error;
  if (isNoSpace(error)) {
    return new DriveError("NO_SPACE", `The disk of the node is full: ${message}`, {}, error);
  }
  if (isTooManyFiles(error)) {
    return new DriveError("OVERLOADED", `The node has too many files open: ${message}`, {}, error);
  }
  if (error instanceof StoreCheckError) return new DriveError("OVERLOADED", message, {}, error);
  return undefined;
}

/** What a node does by itself in a loop: its rounds, with all that is around them. */
export abstract class PacedWork {
  readonly #loop: PacedLoop;

  protected constructor(options: Omit<PacedLoopOptions, "work">) {
    this.#loop = new PacedLoop({ ...options, work: (signal) => this.round(signal) });
  }

  /** Begins with a first round. */
  start(): void {
    this.#loop.start();
  }

  /** Ends the loop; resolves when the round in hand has ended. Harmless when not started. */
  stop(): Promise<void> {
    return this.#loop.stop();
  }

  /** Ends the present pause: there may be something to do. */
  wake(): void {
    this.#loop.wake();
  }

  /** One bounded piece of the work; "busy" when there is more. The signal aborts at stop(). */
  protected abstract round(signal: AbortSignal): Promise<"busy" | "idle">;
}
