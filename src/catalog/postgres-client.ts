/**
 * Connections to PostgreSQL: two small pools, transactions, bounded waiting, and the translation of everything that can go wrong
 * into CATALOG_UNAVAILABLE. Keeps book of whether the server answers, since when, how long it takes and how often it fails.
 */
import type { ConnectionOptions } from "node:tls";
import pg from "pg";
import { DriveError } from "../drive/errors.ts";
import { AssertionError } from "../std/assert.ts";
import type { Clock } from "../std/clock.ts";
import { tlsFailure } from "./postgres-address.ts";

/** Connections of one node for questions. */
export const QUERY_CONNECTION_COUNT_MAX = 5;
/** And for the projection, one for each of its loops and one for commands: whatever is asked, it goes on. */
export const PROJECT_CONNECTION_COUNT_MAX = 3;
/** Questions that read everything and are answered at once; more are OVERLOADED, as in the embedded catalog. */
export const REPORT_COUNT_MAX = 2;
/** A connection is made, or got from the pool, within this. */
export const CONNECT_TIMEOUT_MS = 3000;
/** A question of a user is answered within this, or by the embedded catalog. */
export const QUERY_TIMEOUT_MS = 2000;
/** So is one that reads everything, within this. */
export const REPORT_TIMEOUT_MS = 20_000;
/** A statement of the projector ends within this: a batch takes far less. */
export const PROJECT_TIMEOUT_MS = 60_000;
/** A new schema is there within this: an index over ten million rows takes some twenty minutes. */
export const MIGRATE_TIMEOUT_MS = 3_600_000;
/** Nobody waits longer for a lock that somebody else holds. */
const LOCK_TIMEOUT_MS = 5000;
/** What the client waits beyond the server's own timeout: a server that is frozen does not keep its word. */
const TIMEOUT_MARGIN_MS = 1000;

/** Somebody else's projection has taken over: nothing was changed. */
export class FencedError extends Error {
  override readonly name = "FencedError";
}

/** A connection that statements go through. */
export type Connection = Pick<pg.ClientBase, "query">;

/** How the server does, for readiness and metrics. */
export interface PostgresHealth {
  readonly isUp: boolean;
  /** Wall time since when it is up, or is not. */
  readonly sinceMs: number;
  /** The last failure; empty while it is up. */
  readonly detail: string;
}

/** Connections of the pools at this moment. */
export interface PoolCounts {
  readonly busy: number;
  readonly idle: number;
  /** Questions and changes that wait for a connection. */
  readonly waiting: number;
}

/** Told of every statement or transaction: how long it took and whether it failed. */
export type OnPostgresCall = (call: "query" | "project", durationMs: number, failed: boolean) => void;

/** What a PostgresClient needs. */
export interface PostgresClientOptions {
  readonly clock: Clock;
  readonly url: string;
  /** In place of the one in the URL. */
  readonly password?: string | undefined;
  /** Encryption; undefined sends everything in the clear, whatever the environment says. */
  readonly tls?: ConnectionOptions | undefined;
  readonly onCall?: OnPostgresCall | undefined;
}

/** The pools. */
export class PostgresClient {
  readonly #clock: Clock;
  readonly #queryPool: pg.Pool;
  readonly #projectPool: pg.Pool;
  readonly #onCall: OnPostgresCall;
  #health: PostgresHealth;
  #reportCount = 0;

  constructor(options: PostgresClientOptions) {
    this.#clock = options.clock;
    this.#onCall = options.onCall ?? ((): void => undefined);
    this.#health = { isUp: false, sinceMs: options.clock.wallMs(), detail: "It was not asked yet." };
    this.#queryPool = this.#makePool(options, QUERY_CONNECTION_COUNT_MAX);
    this.#projectPool = this.#makePool(options, PROJECT_CONNECTION_COUNT_MAX);
  }

  #makePool(options: PostgresClientOptions, countMax: number): pg.Pool {
    const pool = new pg.Pool({
      connectionString: withPassword(options.url, options.password),
      ssl: options.tls ?? false,
      application_name: "netdisk",
      max: countMax,
      connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
      idleTimeoutMillis: 30_000,
      lock_timeout: LOCK_TIMEOUT_MS,
      keepAlive: true,
      allowExitOnIdle: true,
    });
    // A connection that breaks while nobody uses it: the next one that is needed is made anew.
    pool.on("error", (error) => this.#failed(error));
    // One that breaks in use, or while it is given up: whatever statement was under way rejects with the same failure.
    pool.on("connect", (client) => client.on("error", () => undefined));
    return pool;
  }

  get health(): PostgresHealth {
    return this.#health;
  }

  /** How the pools are used. */
  get pool(): PoolCounts {
    const pools = [this.#queryPool, this.#projectPool];
    const sum = (count: (pool: pg.Pool) => number): number =>
      pools.reduce((total, pool) => total + count(pool), 0);
    return {
      busy: sum(({ totalCount, idleCount }) => totalCount - idleCount),
      idle: sum(({ idleCount }) => idleCount),
      waiting: sum(({ waitingCount }) => waitingCount),
    };
  }

  /** Runs a question of a user. @throws DriveError CATALOG_UNAVAILABLE */
  query<T>(work: (connection: Connection) => Promise<T>): Promise<T> {
    return this.#run("query", QUERY_TIMEOUT_MS, "BEGIN READ ONLY", work);
  }

  /** As query(), for a question that reads everything. @throws DriveError CATALOG_UNAVAILABLE, OVERLOADED */
  async report<T>(work: (connection: Connection) => Promise<T>): Promise<T> {
    if (this.#reportCount >= REPORT_COUNT_MAX) {
      throw new DriveError("OVERLOADED", "Other questions to the catalog are being answered.");
    }
    this.#reportCount += 1;
    try {
      return await this.#run("query", REPORT_TIMEOUT_MS, "BEGIN READ ONLY", work);
    } finally {
      this.#reportCount -= 1;
    }
  }

  /** Runs a change of the projection as one transaction. @throws DriveError CATALOG_UNAVAILABLE; what `work` throws */
  project<T>(work: (connection: Connection) => Promise<T>): Promise<T> {
    return this.#run("project", PROJECT_TIMEOUT_MS, "BEGIN", work);
  }

  /**
   * Runs what brings the schema up to date, which keeps its own transactions. When `signal` aborts it is given up at once: its
   * connection is closed, and the server takes back what it was at.
   * @throws as project(); what `signal` was aborted with
   */
  migrate<T>(work: (client: pg.PoolClient) => Promise<T>, signal?: AbortSignal): Promise<T> {
    return this.#run("project", MIGRATE_TIMEOUT_MS, undefined, work, signal);
  }

  /** Closes all connections. */
  async stop(): Promise<void> {
    await Promise.all([this.#queryPool.end(), this.#projectPool.end()]);
  }

  async #run<T>(
    call: "query" | "project",
    timeoutMs: number,
    begin: string | undefined,
    work: (client: pg.PoolClient) => Promise<T>,
    signal?: AbortSignal,
  ): Promise<T> {
    const startMs = this.#clock.monotonicMs();
    let client: pg.PoolClient | undefined;
    let broken = true;
    try {
      signal?.throwIfAborted();
      client = await (call === "query" ? this.#queryPool : this.#projectPool).connect();
      signal?.throwIfAborted();
      const watched = client;
      const value = await this.#within(
        timeoutMs + TIMEOUT_MARGIN_MS,
        async () => {
          // Both in one message: a question of a user is five of them, and each waits for the server's turn.
          await watched.query(`SET statement_timeout = ${timeoutMs}; ${begin ?? ""}`);
          if (begin === undefined) return work(watched);
          const done = await work(watched);
          await watched.query("COMMIT");
          return done;
        },
        signal,
      );
      broken = false;
      this.#succeeded();
      this.#onCall(call, this.#clock.monotonicMs() - startMs, false);
      return value;
    } catch (error) {
      signal?.throwIfAborted();
      this.#onCall(call, this.#clock.monotonicMs() - startMs, true);
      if (isOurs(error)) throw error;
      throw this.#failed(error);
    } finally {
      // Closing the connection rolls back whatever it was in, even when the server does not answer.
      client?.release(broken);
    }
  }

  #within<T>(timeoutMs: number, work: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    return new Promise((resolve, reject) => {
      const timer = this.#clock.setTimer(timeoutMs, () =>
        reject(new Error(`no answer within ${timeoutMs} ms`)),
      );
      const giveUp = (): void => {
        timer.cancel();
        reject(signal?.reason as Error);
      };
      signal?.addEventListener("abort", giveUp, { once: true });
      const end = (): void => {
        timer.cancel();
        signal?.removeEventListener("abort", giveUp);
      };
      work().then(
        (value) => {
          end();
          resolve(value);
        },
        (error: unknown) => {
          end();
          reject(error as Error);
        },
      );
    });
  }

  #succeeded(): void {
    if (!this.#health.isUp) this.#health = { isUp: true, sinceMs: this.#clock.wallMs(), detail: "" };
  }

  #failed(error: unknown): DriveError {
    const detail = messageOf(error);
    const sinceMs = this.#health.isUp ? this.#clock.wallMs() : this.#health.sinceMs;
    this.#health = { isUp: false, sinceMs, detail };
    return new DriveError(
      "CATALOG_UNAVAILABLE",
      "PostgreSQL does not answer as it should.",
      { detail },
      error,
    );
  }
}

/** The URL with a password in place of the one in it: pg takes the URL's, even an empty one, over any other. */
function withPassword(text: string, password: string | undefined): string {
  if (password === undefined) return text;
  const url = new URL(text);
  url.password = encodeURIComponent(password);
  return url.href;
}

/** Refusals and broken assumptions of our own are no fault of the server. */
function isOurs(error: unknown): boolean {
  if (error instanceof DriveError) return error.cause === undefined;
  return (
    error instanceof FencedError ||
    error instanceof AssertionError ||
    error instanceof TypeError ||
    error instanceof RangeError
  );
}

/** What pg says, without the values of the statement. */
function messageOf(error: unknown): string {
  if (error instanceof AggregateError) return error.errors.map(messageOf).join("; ");
  if (!(error instanceof Error)) return String(error);
  const { code } = error as { code?: unknown };
  if (typeof code !== "string") return error.message;
  const meaning = tlsFailure(code);
  return meaning === undefined ? `${error.message} (${code})` : `${meaning}: ${error.message} (${code})`;
}
