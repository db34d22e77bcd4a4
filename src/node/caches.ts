/** What a node shares with the others through Redis, put together; without Redis, what serves in its place. */
import { RedisClient, type RedisClientOptions } from "../cache/redis-client.ts";
import { NodeReporter } from "../cache/node-reporter.ts";
import {
  REPORT_TASK_COUNT_MAX,
  REPORT_TRANSFER_COUNT_MAX,
  RedisNodeReports,
} from "../cache/redis-node-reports.ts";
import { RedisProgress } from "../cache/redis-progress.ts";
import { RedisRequestCounters } from "../cache/redis-request-counters.ts";
import {
  EmbeddedRequestCounters,
  type RequestCounters,
  type RequestDecision,
  type RequestLimits,
} from "../cache/request-counters.ts";
import { CachedStat } from "../cache/cached-stat.ts";
import { ChangeWindow } from "../cache/change-window.ts";
import { EmbeddedCache } from "../cache/entry-cache.ts";
import { RedisCache } from "../cache/redis-cache.ts";
import { TreeSource } from "../cache/tree-source.ts";
import type { NodeLoad } from "../cluster/failure-detector-port.ts";
import type { MetadataPort } from "../cluster/metadata-port.ts";
import type { Config, EntryCacheKind } from "../config/config.ts";
import { parseRedisUrl } from "../config/redis-url.ts";
import type { DriveApi, ReportedTask, ServiceStatus } from "../drive/drive-api.ts";
import { must } from "../std/assert.ts";
import type { Clock } from "../std/clock.ts";
import type { Logger } from "../telemetry/logger.ts";
import type { Metrics } from "../telemetry/metrics.ts";
import type { LocalDrive } from "../transfer/local-drive.ts";
import { readSecret } from "./secret-file.ts";

/** Begins the names of all keys and channels. */
const PREFIX = "netdisk";

/** How to reach Redis. */
export type RedisSettings = Omit<
  RedisClientOptions,
  "clock" | "prefix" | "callTimeoutMs" | "onCall" | "onHealth"
>;

/** What Caches needs. */
export interface CachesOptions {
  readonly clock: Clock;
  readonly logger: Logger;
  readonly metrics: Metrics;
  /** None where Redis is not configured. */
  readonly redis: RedisSettings | undefined;
  readonly requestLimits: RequestLimits;
  /** Where entries are kept. */
  readonly entries: EntryCacheKind;
}

/** What a node tells of itself. */
export interface ReportedNode {
  load(): NodeLoad;
  readonly drive: Pick<LocalDrive, "runningTransfers">;
  runningTasks(countMax: number): readonly ReportedTask[];
}

/** What the configuration says about how many requests may come. */
export function requestLimits(http: Config["http"]): RequestLimits {
  const windowMs = http.requestWindowMs;
  const limitOf = (countMax: number): RequestLimits["inAll"] =>
    countMax === 0 ? undefined : { countMax, windowMs };
  return { perAddress: limitOf(http.requestsPerAddressMax), inAll: limitOf(http.requestsMax) };
}

/** Reads what the configuration says about Redis, and the files it names. @throws DriveError CONFIGURATION_INVALID */
export async function redisSettings(services: Config["services"]): Promise<RedisSettings | undefined> {
  const { redisUrl, redisPasswordFile, redisCaFile } = services;
  if (redisUrl === undefined) return undefined;
  const target = must(parseRedisUrl(redisUrl), "an address that was checked");
  return {
    ...target,
    password: redisPasswordFile === undefined ? target.password : await readSecret(redisPasswordFile),
    authority: redisCaFile === undefined ? undefined : await readSecret(redisCaFile),
  };
}

/** See the file's comment. join() at most once; stop() any number of times. */
export class Caches {
  readonly #options: CachesOptions;
  readonly #logger: Logger;
  readonly #madeAtMs: number;
  #counters: RequestCounters;
  #redis: RedisClient | undefined;
  #progress: RedisProgress | undefined;
  #reports: RedisNodeReports | undefined;
  #reporter: NodeReporter | undefined;

  constructor(options: CachesOptions) {
    this.#options = options;
    this.#logger = options.logger.child("cache");
    this.#madeAtMs = options.clock.wallMs();
    this.#counters = new EmbeddedRequestCounters(options.clock, options.requestLimits);
  }

  /** Counts requests for the gateway; undefined where no bound is set. */
  get requestLimiter(): RequestCounters | undefined {
    const { perAddress, inAll } = this.#options.requestLimits;
    if (perAddress === undefined && inAll === undefined) return undefined;
    return { take: (address) => this.#take(address) };
  }

  /** stat() through the cache of entries, over a tree and its reads; undefined where none is wanted. */
  cachedStat(port: MetadataPort, reads: Pick<DriveApi, "stat">): Pick<DriveApi, "stat"> | undefined {
    const { entries, metrics } = this.#options;
    if (entries === "off") return undefined;
    const window = new ChangeWindow(port.appliedIndex());
    return new CachedStat({
      cache:
        entries === "redis" && this.#redis !== undefined ? new RedisCache(this.#redis) : new EmbeddedCache(),
      source: new TreeSource({ port, reads, window }),
      window,
      onRead: (outcome) => metrics.cache.entryRead(outcome),
    });
  }

  async #take(address: string): Promise<RequestDecision> {
    const decision = await this.#counters.take(address);
    if (!decision.allowed) this.#options.metrics.cache.requestRefused(decision.scope);
    return decision;
  }

  /** Begins to use Redis for this cluster; returns at once, whether or not it answers. */
  join(clusterId: string): void {
    const { clock, metrics, redis } = this.#options;
    if (redis === undefined) return;
    this.#redis = new RedisClient({
      ...redis,
      clock,
      prefix: `${PREFIX}:${clusterId}`,
      onCall: (call, durationMs, outcome) => metrics.cache.redisCall(call, durationMs, outcome),
      onHealth: ({ isUp, detail }) => {
        metrics.cache.redis({ isUp });
        if (isUp) this.#logger.info("redis_up");
        else this.#logger.warn("redis_down", { detail });
      },
    });
    this.#counters = new RedisRequestCounters(this.#redis, this.#options.requestLimits, this.#counters);
    this.#progress = new RedisProgress(clock, this.#redis);
    this.#reports = new RedisNodeReports(this.#redis);
    this.#redis.start();
    this.#progress.start();
  }

  /** Tells and hears of uploads at other nodes; undefined without Redis: they are asked. */
  get relay(): RedisProgress | undefined {
    return this.#progress;
  }

  /** What nodes told of themselves; undefined without Redis. */
  get reports(): RedisNodeReports | undefined {
    return this.#reports;
  }

  /** Begins to tell the others of this node. @param problems what keeps it from being ready, at any time */
  tell(memberId: number, node: ReportedNode, problems: () => readonly string[]): void {
    const { clock } = this.#options;
    const reports = this.#reports;
    if (reports === undefined) return;
    this.#reporter = new NodeReporter({
      clock,
      isReady: () => problems().length === 0,
      report: () => {
        const { inflightBytes, appliedIndex, freeBytes, totalBytes } = node.load();
        const running = node.drive.runningTransfers(REPORT_TRANSFER_COUNT_MAX);
        return {
          ...{ inflightBytes, appliedIndex, freeBytes, totalBytes },
          transfers: running.map(({ id, kind, sizeBytes, transferredBytes }) => ({
            ...{ id, kind, sizeBytes, transferredBytes },
          })),
          tasks: node.runningTasks(REPORT_TASK_COUNT_MAX),
        };
      },
      publish: (report) => reports.publish(memberId, report),
    });
    this.#reporter.start();
  }

  async stop(): Promise<void> {
    await this.#reporter?.stop();
    await this.#progress?.stop();
    await this.#redis?.stop();
  }

  /** How Redis does, as this node sees it. */
  service(): ServiceStatus {
    const { redis } = this.#options;
    if (redis === undefined) return { name: "redis", state: "off", sinceTimeMs: this.#madeAtMs, detail: "" };
    const { isUp, sinceMs, detail } = this.#redis?.health ?? {
      isUp: false,
      sinceMs: this.#madeAtMs,
      detail: "The node does not belong to a cluster yet.",
    };
    return { name: "redis", state: isUp ? "up" : "degraded", sinceTimeMs: sinceMs, detail };
  }
}
