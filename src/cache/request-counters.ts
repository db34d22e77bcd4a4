/**
 * Counting requests, by client address and all together: the port, and counters of this node alone.
 *
 * Bounded: of so many addresses the one that was quiet longest is forgotten, which is lenient and never wrongly strict.
 */
import { LRUCache } from "lru-cache";
import type { Clock } from "../std/clock.ts";
import { clientKey, decideRate, type RateLimit } from "./rate-limit.ts";

/** Addresses that a node remembers. */
export const ADDRESS_COUNT_MAX = 65_536;

/** Which requests are counted; undefined where a bound is not wanted. */
export interface RequestLimits {
  readonly perAddress: RateLimit | undefined;
  readonly inAll: RateLimit | undefined;
}

/** Whether a request may be served. */
export type RequestDecision =
  | { readonly allowed: true }
  | { readonly allowed: false; readonly scope: "address" | "all"; readonly retryAfterMs: number };

/** Counters of requests. */
export interface RequestCounters {
  /** Counts a request from a network address. A request that is refused counts for neither bound. Never fails. */
  take(address: string): Promise<RequestDecision>;
}

/** Counters of this node. */
export class EmbeddedRequestCounters implements RequestCounters {
  readonly #clock: Clock;
  readonly #limits: RequestLimits;
  readonly #byAddress: LRUCache<string, number>;
  #inAllMs: number | undefined;

  constructor(clock: Clock, limits: RequestLimits, addressCountMax: number = ADDRESS_COUNT_MAX) {
    this.#clock = clock;
    this.#limits = limits;
    this.#byAddress = new LRUCache({ max: addressCountMax });
  }

  take(address: string): Promise<RequestDecision> {
    return Promise.resolve(this.takeNow(address));
  }

  /** As take(), at once. */
  takeNow(address: string): RequestDecision {
    const { perAddress, inAll } = this.#limits;
    const nowMs = this.#clock.monotonicMs();
    const key = clientKey(address);
    let arrivalMs: number | undefined;
    if (perAddress !== undefined) {
      const own = decideRate(perAddress, this.#byAddress.get(key), nowMs);
      if (!own.allowed) return { allowed: false, scope: "address", retryAfterMs: own.retryAfterMs };
      ({ arrivalMs } = own);
    }
    if (inAll !== undefined) {
      const all = decideRate(inAll, this.#inAllMs, nowMs);
      if (!all.allowed) return { allowed: false, scope: "all", retryAfterMs: all.retryAfterMs };
      this.#inAllMs = all.arrivalMs;
    }
    if (arrivalMs !== undefined) this.#byAddress.set(key, arrivalMs);
    return { allowed: true };
  }
}
