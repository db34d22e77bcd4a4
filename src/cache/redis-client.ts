/**
 * The connection to Redis, single or cluster: every call is bounded in time and fails as a value, never as a delay.
 *
 * One loop in the background connects, and asks each second whether everything works as it should. Calls use the connection
 * that is there; where there is none, where the breaker is open, or where too many calls are under way, they are refused at
 * once and nothing is sent. ioredis neither queues nor retries nor reconnects: a connection that fails is thrown away with all
 * that waits on it, and the loop makes a new one.
 *
 * Keeps book of whether Redis answers, since when, how long it takes and how often it fails.
 */
import { Cluster, Redis } from "ioredis";
import { PacedLoop } from "../cluster/paced-loop.ts";
import { AssertionError } from "../std/assert.ts";
import { withTimeout, type Clock } from "../std/clock.ts";
import { CircuitBreaker } from "./circuit-breaker.ts";

/** A call of a request is answered within this, or counts as failed. */
export const CALL_TIMEOUT_MS = 100;
/** Calls that wait for Redis at once; more are refused. */
export const CALL_COUNT_MAX = 1024;
/** A connection is made, and a probe answered, within this. */
export const PROBE_TIMEOUT_MS = 1000;
/** Pause between probes while Redis answers. */
export const PROBE_INTERVAL_MS = 1000;
/** The same while it does not; the breaker may ask for more. */
export const RETRY_INTERVAL_MS = 100;

// Writes, because a full server still reads; by a script, because all changes here are scripts.
const PROBE_SCRIPT = "redis.call('SET', KEYS[1], '1', 'PX', 10000) return 1";
/** Keys that a probe of a cluster writes, so that each master is likely to have one of them. */
const CLUSTER_PROBE_KEY_COUNT = 12;

/** What calls are made on. */
export type RedisConnection = Redis | Cluster;

/** The answer of a call; not ok when Redis could not be asked or did not answer as it should. */
export type RedisAnswer<T> = { readonly ok: true; readonly value: T } | { readonly ok: false };

/** How Redis does, for readiness and metrics. */
export interface RedisHealth {
  readonly isUp: boolean;
  /** Wall time since when it is up, or is not. */
  readonly sinceMs: number;
  /** The last failure; empty while it is up. */
  readonly detail: string;
}

/** What became of a call; "refused" was never sent. */
export type RedisOutcome = "done" | "failed" | "refused";

/** What a RedisClient needs. */
export interface RedisClientOptions {
  readonly clock: Clock;
  readonly nodes: readonly { readonly host: string; readonly port: number }[];
  readonly isCluster: boolean;
  readonly isTls: boolean;
  /** PEM of the authority that signed the server's certificate; the machine's own authorities when absent. */
  readonly authority?: string | undefined;
  readonly username?: string | undefined;
  readonly password?: string | undefined;
  readonly database: number;
  /** Begins every key and channel of this cluster. */
  readonly prefix: string;
  /** Bound of a call; CALL_TIMEOUT_MS when absent. */
  readonly callTimeoutMs?: number | undefined;
  /** Told of every call: what it was, how long it took, what became of it. */
  readonly onCall?: ((call: string, durationMs: number, outcome: RedisOutcome) => void) | undefined;
  /** Told when Redis began to answer, or ceased to. */
  readonly onHealth?: ((health: RedisHealth) => void) | undefined;
}

/** Redis, as long as it answers. start() and stop() once each. */
export class RedisClient {
  readonly #options: RedisClientOptions;
  readonly #breaker: CircuitBreaker;
  readonly #loop: PacedLoop;
  readonly #connectionListeners = new Set<(connection: RedisConnection) => void>();
  #connection: RedisConnection | undefined;
  #lastError = "";
  #waitingCount = 0;
  #sentCount = 0;
  #health: RedisHealth;

  constructor(options: RedisClientOptions) {
    this.#options = options;
    const { clock } = options;
    this.#breaker = new CircuitBreaker(clock);
    this.#health = { isUp: false, sinceMs: clock.wallMs(), detail: "It was not asked yet." };
    this.#loop = new PacedLoop({
      clock,
      idleMs: PROBE_INTERVAL_MS,
      busyMs: RETRY_INTERVAL_MS,
      work: () => this.#look(),
    });
  }

  /** Begins to connect; nobody needs to wait for it. */
  start(): void {
    this.#loop.start();
  }

  /** Closes the connection. Calls under way fail. */
  async stop(): Promise<void> {
    const stopped = this.#loop.stop();
    this.#drop();
    await stopped;
    this.#drop();
  }

  get health(): RedisHealth {
    return this.#health;
  }

  /** Calls that were sent so far, probes excepted. */
  get sentCount(): number {
    return this.#sentCount;
  }

  /** The name of a key or channel of this cluster. */
  key(...parts: readonly (string | number)[]): string {
    return [this.#options.prefix, ...parts].join(":");
  }

  /** Calls `listener` with each connection that was made and works, the present one included; returns what ends that. */
  onConnected(listener: (connection: RedisConnection) => void): () => void {
    this.#connectionListeners.add(listener);
    if (this.#connection !== undefined && this.#breaker.admits()) listener(this.#connection);
    return () => this.#connectionListeners.delete(listener);
  }

  /** A further connection to the same server, not connected yet, for what blocks one; the caller closes it. */
  newConnection(): RedisConnection {
    const connection = this.#make();
    // What goes wrong is seen by its calls and its end.
    connection.on("error", () => undefined);
    return connection;
  }

  /**
   * Asks Redis, if it answers at all.
   * @param call what it is, for metrics: one of a few names
   * @returns its answer, or that there is none; only errors of `work` itself are thrown
   */
  async attempt<T>(call: string, work: (connection: RedisConnection) => Promise<T>): Promise<RedisAnswer<T>> {
    const { clock, onCall, callTimeoutMs = CALL_TIMEOUT_MS } = this.#options;
    const connection = this.#connection;
    if (connection === undefined || !this.#breaker.admits() || this.#waitingCount >= CALL_COUNT_MAX) {
      onCall?.(call, 0, "refused");
      return { ok: false };
    }
    const startMs = clock.monotonicMs();
    this.#sentCount += 1;
    this.#waitingCount += 1;
    try {
      const value = await withTimeout(clock, callTimeoutMs, work(connection), () => tooSlow(callTimeoutMs));
      onCall?.(call, clock.monotonicMs() - startMs, "done");
      return { ok: true, value };
    } catch (error) {
      if (isOurs(error)) throw error;
      onCall?.(call, clock.monotonicMs() - startMs, "failed");
      // What fails on a connection that was given up since says nothing about the present one.
      if (connection === this.#connection && this.#breaker.failed()) this.#lost(messageOf(error));
      return { ok: false };
    } finally {
      this.#waitingCount -= 1;
    }
  }

  /** One round of the loop: connects where there is no connection, and probes. */
  async #look(): Promise<"busy" | "idle"> {
    if (!this.#breaker.mayProbe()) return "busy";
    try {
      const connection = this.#connection ?? (await this.#connect());
      await this.#within(this.#probe(connection));
      if (connection !== this.#connection) return "busy";
      if (this.#breaker.probeSucceeded()) {
        this.#becomes({ isUp: true, sinceMs: this.#options.clock.wallMs(), detail: "" });
        for (const listener of this.#connectionListeners) listener(connection);
      }
      return "idle";
    } catch (error) {
      if (isOurs(error)) throw error;
      this.#lost(messageOf(error));
      return "busy";
    }
  }

  async #connect(): Promise<RedisConnection> {
    this.#lastError = "";
    const connection = this.#make();
    // Without a listener ioredis writes to the console. What it says here is often clearer than what calls reject with.
    connection.on("error", (error: Error) => {
      if (connection === this.#connection) this.#lastError = messageOf(error);
    });
    connection.on("end", () => {
      if (connection === this.#connection) this.#lost(this.#lastError || "The connection was closed.");
    });
    this.#connection = connection;
    await this.#within(connection.connect());
    // ioredis selects it too, and goes on in database 0, which may be somebody else's, when the server refuses.
    const { database } = this.#options;
    if (connection instanceof Redis && database > 0) await this.#within(connection.select(database));
    return connection;
  }

  #make(): RedisConnection {
    const { nodes, isCluster, isTls, authority, username, password, database } = this.#options;
    const common = {
      ...(username !== undefined && { username }),
      ...(password !== undefined && { password }),
      ...(isTls && { tls: authority === undefined ? {} : { ca: authority } }),
      connectionName: "netdisk",
      connectTimeout: PROBE_TIMEOUT_MS,
      maxRetriesPerRequest: 0,
      autoResendUnfulfilledCommands: false,
      autoResubscribe: false,
    };
    if (isCluster) {
      return new Cluster([...nodes], {
        lazyConnect: true,
        enableOfflineQueue: false,
        clusterRetryStrategy: () => null,
        maxRedirections: 4,
        retryDelayOnFailover: 20,
        retryDelayOnClusterDown: 20,
        retryDelayOnTryAgain: 20,
        slotsRefreshTimeout: PROBE_TIMEOUT_MS,
        redisOptions: common,
      });
    }
    return new Redis({
      ...common,
      ...nodes[0],
      db: database,
      lazyConnect: true,
      enableOfflineQueue: false,
      retryStrategy: () => null,
    });
  }

  async #probe(connection: RedisConnection): Promise<void> {
    if (connection instanceof Cluster) {
      const keys = Array.from({ length: CLUSTER_PROBE_KEY_COUNT }, (_, index) => this.key("probe", index));
      await Promise.all([
        ...connection.nodes("master").map((node) => node.ping()),
        ...keys.map((key) => connection.eval(PROBE_SCRIPT, 1, key)),
      ]);
    } else await connection.eval(PROBE_SCRIPT, 1, this.key("probe"));
  }

  #within<T>(work: Promise<T>): Promise<T> {
    return withTimeout(this.#options.clock, PROBE_TIMEOUT_MS, work, () => tooSlow(PROBE_TIMEOUT_MS));
  }

  /** Gives the connection up; the loop makes a new one. */
  #lost(detail: string): void {
    const shown = isVague(detail) && this.#lastError !== "" ? this.#lastError : detail;
    const wasUp = this.#breaker.trip() || this.#health.isUp;
    this.#drop();
    const { sinceMs } = this.#health;
    this.#becomes({ isUp: false, sinceMs: wasUp ? this.#options.clock.wallMs() : sinceMs, detail: shown });
    if (wasUp) this.#loop.wake();
  }

  #drop(): void {
    const connection = this.#connection;
    this.#connection = undefined;
    connection?.disconnect();
  }

  #becomes(health: RedisHealth): void {
    const changed = health.isUp !== this.#health.isUp || health.detail !== this.#health.detail;
    this.#health = health;
    if (changed) this.#options.onHealth?.(health);
  }
}

function tooSlow(timeoutMs: number): Error {
  return new Error(`no answer within ${timeoutMs} ms`);
}

/** What ioredis says when it has said the reason before. */
function isVague(detail: string): boolean {
  return /^(Connection is closed|Failed to refresh slots cache|The connection was closed|Stream isn't writeable)/.test(
    detail,
  );
}

/** Broken assumptions of our own are no fault of the server. */
function isOurs(error: unknown): boolean {
  return error instanceof AssertionError || error instanceof TypeError || error instanceof RangeError;
}

/** What went wrong, without the values of the call. */
function messageOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const { lastNodeError } = error as { lastNodeError?: unknown };
  if (lastNodeError instanceof Error) return messageOf(lastNodeError);
  const { code } = error as { code?: unknown };
  return typeof code === "string" && !error.message.includes(code)
    ? `${error.message} (${code})`
    : error.message;
}
