/** Metrics of Redis and of what is kept in it. Part of metrics.ts, which see. */
import { Counter, Gauge, Histogram, type Registry } from "prom-client";

/** What became of a call to Redis; "refused" was never sent, because it does not answer. */
export type RedisCallOutcome = "done" | "failed" | "refused";

/** How Redis does. */
export interface RedisSample {
  readonly isUp: boolean;
}

/** What a node tells about Redis and the cache. */
export interface CacheMetrics {
  /** A call ended. @param call one of a few names */
  redisCall(call: string, durationMs: number, outcome: RedisCallOutcome): void;
  redis(sample: RedisSample): void;
  /** An entry was asked of the cache: it answered, knew nothing, or what it knew was too old. */
  entryRead(outcome: "hit" | "miss" | "outdated"): void;
  /** A request was refused by one of the bounds. */
  requestRefused(scope: "address" | "all"): void;
}

// From 50 microseconds (loopback) to beyond the bound of a call.
const CALL_BUCKETS_SECONDS = [
  0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
];

/** CacheMetrics in a Prometheus registry. */
export class PrometheusCacheMetrics implements CacheMetrics {
  readonly #redisUp: Gauge;
  readonly #redisCalls: Counter<"call" | "outcome">;
  readonly #redisDuration: Histogram<"call">;
  readonly #entryReads: Counter<"outcome">;
  readonly #refusedRequests: Counter<"scope">;

  constructor(registry: Registry) {
    const registers = [registry];
    this.#redisUp = new Gauge({
      name: "netdisk_redis_up",
      help: "1 while Redis answers and is asked, 0 while its breaker is open.",
      registers,
    });
    this.#redisCalls = new Counter({
      name: "netdisk_redis_calls_total",
      help: "Calls to Redis; refused ones were not sent, because it does not answer.",
      labelNames: ["call", "outcome"],
      registers,
    });
    this.#redisDuration = new Histogram({
      name: "netdisk_redis_call_duration_seconds",
      help: "Calls to Redis that were sent.",
      labelNames: ["call"],
      buckets: CALL_BUCKETS_SECONDS,
      registers,
    });
    this.#entryReads = new Counter({
      name: "netdisk_entry_cache_reads_total",
      help: "Entries asked of the cache; outdated ones were changed since they were kept.",
      labelNames: ["outcome"],
      registers,
    });
    this.#refusedRequests = new Counter({
      name: "netdisk_http_requests_refused_total",
      help: "Requests refused because too many came from one address, or in all.",
      labelNames: ["scope"],
      registers,
    });
  }

  redisCall(call: string, durationMs: number, outcome: RedisCallOutcome): void {
    this.#redisCalls.inc({ call, outcome });
    if (outcome !== "refused") this.#redisDuration.observe({ call }, durationMs / 1000);
  }

  redis({ isUp }: RedisSample): void {
    this.#redisUp.set(isUp ? 1 : 0);
  }

  entryRead(outcome: "hit" | "miss" | "outdated"): void {
    this.#entryReads.inc({ outcome });
  }

  requestRefused(scope: "address" | "all"): void {
    this.#refusedRequests.inc({ scope });
  }
}

/** Metrics that nobody reads. */
export const noCacheMetrics: CacheMetrics = {
  redisCall: () => undefined,
  redis: () => undefined,
  entryRead: () => undefined,
  requestRefused: () => undefined,
};
