/**
 * Permits for a bounded resource, counted in any unit (bytes in flight, slots).
 *
 * First come, first served: a large request is not starved by small ones behind it. Invariant: 0 <= available <= capacity.
 */
import { assert } from "./assert.ts";
import { deferred, type Deferred } from "./deferred.ts";

interface Waiter {
  readonly permits: number;
  readonly granted: Deferred<void>;
}

/** A counting semaphore with a fixed capacity. */
export class Semaphore {
  readonly capacity: number;
  #available: number;
  readonly #waiters: Waiter[] = [];

  /** @param capacity how many permits exist, at least 1 */
  constructor(capacity: number) {
    assert(capacity >= 1, `a semaphore has at least one permit, got ${capacity}`);
    this.capacity = capacity;
    this.#available = capacity;
  }

  /** Permits that nobody holds. */
  get available(): number {
    return this.#available;
  }

  /** How many acquire() calls wait. */
  get waitingCount(): number {
    return this.#waiters.length;
  }

  /**
   * Takes `permits` (1 to capacity), waiting for them in order. Rejects with the signal's reason when it aborts first;
   * then nothing is held.
   */
  async acquire(permits: number, signal?: AbortSignal): Promise<void> {
    assert(permits >= 1 && permits <= this.capacity, `asked for ${permits} of ${this.capacity} permits`);
    signal?.throwIfAborted();
    if (this.tryAcquire(permits)) return;
    const waiter: Waiter = { permits, granted: deferred<void>() };
    this.#waiters.push(waiter);
    const onAbort = (): void => {
      const at = this.#waiters.indexOf(waiter);
      if (at < 0) return;
      this.#waiters.splice(at, 1);
      waiter.granted.reject(signal?.reason as Error);
      this.#grant();
    };
    signal?.addEventListener("abort", onAbort, { once: true });
    try {
      await waiter.granted.promise;
    } finally {
      signal?.removeEventListener("abort", onAbort);
    }
  }

  /** Takes `permits` if they are free and nobody waits; returns whether it did. */
  tryAcquire(permits: number): boolean {
    if (this.#waiters.length > 0 || this.#available < permits) return false;
    this.#available -= permits;
    return true;
  }

  /** Gives `permits` back. */
  release(permits: number): void {
    this.#available += permits;
    assert(this.#available <= this.capacity, "released more permits than were taken");
    this.#grant();
  }

  #grant(): void {
    for (
      let next = this.#waiters[0];
      next !== undefined && next.permits <= this.#available;
      next = this.#waiters[0]
    ) {
      this.#waiters.shift();
      this.#available -= next.permits;
      next.granted.resolve();
    }
  }
}
