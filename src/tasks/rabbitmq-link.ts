/**
 * One connection to RabbitMQ that comes back by itself: the topology, a channel with publisher confirms, a channel for each
 * consumer, and how the broker does.
 *
 *   upload_tasks, download_tasks, replication_tasks     quorum queues with a delivery limit
 *        '-- dead letters --> netdisk.dead_tasks (direct exchange) --> <queue>.dead, bounded
 *
 * Whatever breaks, be it one channel, ends the whole connection, and a new one is made with everything on it: one way to recover
 * that is used every time is one that works. (amqplib's own recovery keeps a connection whose channel has gone, and misses one
 * that goes while it is set up.) Nothing here waits longer than a timeout; a broker that is frozen is found by that, or by
 * heartbeats.
 */
import { connect, type Channel, type ChannelModel, type ConfirmChannel } from "amqplib";
import { DriveError } from "../drive/errors.ts";
import { TASK_KINDS, type TaskKind } from "../drive/task.ts";
import { PacedLoop } from "../cluster/paced-loop.ts";
import { sleep, withTimeout, type Clock } from "../std/clock.ts";
import { deferred, type Deferred } from "../std/deferred.ts";
import { DEAD_COUNT_MAX, DELIVERY_LIMIT } from "./task-queue.ts";

/** A connection with everything on it is made within this. */
export const CONNECT_TIMEOUT_MS = 10_000;
/** Pause before the next try, doubled each time up to the second. */
const RECONNECT_MS_MIN = 200;
const RECONNECT_MS_MAX = 5000;
/** An answer of the broker is awaited this long. */
export const ANSWER_TIMEOUT_MS = 5000;
/** Nobody waits longer than this for the end of something that is over. */
const GOODBYE_TIMEOUT_MS = 1000;
/** Two of these without a byte from the broker and the connection is dead. */
const HEARTBEAT_SECONDS = 5;

const DEAD_EXCHANGE = "netdisk.dead_tasks";

/** Name of the queue of a kind. */
export const queueName = (kind: TaskKind): string => `${kind}_tasks`;
/** Name of the queue of its dead letters. */
export const deadQueueName = (kind: TaskKind): string => `${queueName(kind)}.dead`;

/** How the broker does, for readiness and metrics. */
export interface RabbitMqHealth {
  readonly isUp: boolean;
  /** Wall time since when it is up, or is not. */
  readonly sinceMs: number;
  /** The last failure; empty while it is up. */
  readonly detail: string;
}

/** A consumer, set up on every new connection. */
export interface LinkConsumer {
  readonly kind: TaskKind;
  readonly attach: (channel: Channel) => Promise<void>;
}

/** What a RabbitMqLink needs. */
export interface RabbitMqLinkOptions {
  readonly clock: Clock;
  /** amqp:// or amqps://, with user, password and virtual host. */
  readonly url: string;
  /** In place of the one in the URL. */
  readonly password?: string | undefined;
  /** Certificates in PEM that sign the broker's; the system's when absent. */
  readonly certificateAuthority?: Buffer | undefined;
}

interface Session {
  readonly model: ChannelModel;
  readonly publisher: ConfirmChannel;
  readonly ended: Deferred<Error>;
  readonly consumers: Map<LinkConsumer, Channel>;
  /** Why the broker takes no messages at the moment; empty while it does. */
  blockedBecause: string;
}

/** Arguments of a queue: the same wherever it is asserted, or the broker refuses. */
export function queueSettings(kind: TaskKind): Parameters<Channel["assertQueue"]>[1] {
  return {
    durable: true,
    arguments: {
      "x-queue-type": "quorum",
      "x-delivery-limit": DELIVERY_LIMIT,
      "x-dead-letter-exchange": DEAD_EXCHANGE,
      "x-dead-letter-routing-key": deadQueueName(kind),
    },
  };
}

const deadQueueSettings = {
  durable: true,
  arguments: { "x-queue-type": "quorum", "x-max-length": DEAD_COUNT_MAX },
};

/** What is wrong, in a form that holds no password. */
function messageOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const { code } = error as { code?: unknown };
  return typeof code === "string" ? `${error.message} (${code})` : error.message;
}

/** The connection. start() once. */
export class RabbitMqLink {
  readonly #options: RabbitMqLinkOptions;
  readonly #loop: PacedLoop;
  readonly #consumers = new Set<LinkConsumer>();
  #session: Session | undefined;
  #pauseMs = RECONNECT_MS_MIN;
  #health: RabbitMqHealth;

  constructor(options: RabbitMqLinkOptions) {
    this.#options = options;
    this.#health = { isUp: false, sinceMs: options.clock.wallMs(), detail: "It was not asked yet." };
    this.#loop = new PacedLoop({
      clock: options.clock,
      idleMs: 0,
      busyMs: 0,
      work: (signal) => this.#keep(signal),
    });
  }

  get health(): RabbitMqHealth {
    return this.#health;
  }

  /** The channel for publishing now; undefined while there is none, or the broker takes no messages. */
  get publisher(): ConfirmChannel | undefined {
    const session = this.#session;
    return session?.blockedBecause === "" ? session.publisher : undefined;
  }

  start(): void {
    this.#loop.start();
  }

  /** Closes the connection: what its consumers hold goes back to the queues. */
  async stop(): Promise<void> {
    const stopped = this.#loop.stop();
    this.#session?.ended.resolve(new Error("The node stops."));
    await stopped;
  }

  /** Keeps a consumer set up from now on. @returns ends it */
  addConsumer(consumer: LinkConsumer): () => Promise<void> {
    this.#consumers.add(consumer);
    const session = this.#session;
    if (session !== undefined) void this.#attach(session, consumer);
    return async () => {
      this.#consumers.delete(consumer);
      const channel = this.#session?.consumers.get(consumer);
      this.#session?.consumers.delete(consumer);
      // Fails, or is never answered, when the connection goes, which closes the channel too.
      if (channel !== undefined)
        await this.#within(GOODBYE_TIMEOUT_MS, () => channel.close()).catch(() => undefined);
    };
  }

  /** Says that the broker does not do what it should: the connection is given up and made anew. */
  fail(error: unknown): DriveError {
    this.#session?.ended.resolve(error instanceof Error ? error : new Error(String(error)));
    return this.#down(error);
  }

  /** Runs one question on a channel of its own. @throws DriveError QUEUE_UNAVAILABLE */
  async ask<T>(question: (channel: Channel) => Promise<T>): Promise<T> {
    const session = this.#session;
    if (session === undefined) throw this.unavailable();
    try {
      return await this.#within(ANSWER_TIMEOUT_MS, async () => {
        const channel = await session.model.createChannel();
        channel.on("error", () => undefined);
        const answer = await question(channel);
        await channel.close();
        return answer;
      });
    } catch (error) {
      throw this.fail(error);
    }
  }

  /** The error of a caller that asks while the broker is away. */
  unavailable(): DriveError {
    const { detail } = this.#health;
    return new DriveError("QUEUE_UNAVAILABLE", "RabbitMQ does not answer as it should.", { detail });
  }

  async #within<T>(timeoutMs: number, work: () => Promise<T>): Promise<T> {
    const { clock } = this.#options;
    return await withTimeout(clock, timeoutMs, work(), () => new Error(`no answer within ${timeoutMs} ms`));
  }

  /** Makes a connection and stays until it has ended. */
  async #keep(signal: AbortSignal): Promise<"busy" | "idle"> {
    const { clock } = this.#options;
    let model: ChannelModel | undefined;
    try {
      model = await this.#open();
      const session = await this.#within(CONNECT_TIMEOUT_MS, () => this.#setUp(model as ChannelModel));
      if (!signal.aborted) {
        this.#session = session;
        this.#pauseMs = RECONNECT_MS_MIN;
        if (session.blockedBecause === "") this.#up();
        // A consumer that came while the connection was made.
        for (const consumer of this.#consumers) {
          if (!session.consumers.has(consumer)) void this.#attach(session, consumer);
        }
        this.#down(await session.ended.promise);
      }
    } catch (error) {
      this.#down(error);
    }
    this.#session = undefined;
    // A broker that is frozen does not answer to a good-bye.
    const closing = model;
    if (closing !== undefined)
      await this.#within(GOODBYE_TIMEOUT_MS, () => closing.close()).catch(() => undefined);
    if (!signal.aborted) {
      await sleep(clock, this.#pauseMs, signal).catch(() => undefined);
      this.#pauseMs = Math.min(RECONNECT_MS_MAX, this.#pauseMs * 2);
    }
    return "busy";
  }

  async #open(): Promise<ChannelModel> {
    const { password, certificateAuthority } = this.#options;
    const url = new URL(this.#options.url);
    if (password !== undefined) url.password = encodeURIComponent(password);
    if (!url.searchParams.has("heartbeat")) url.searchParams.set("heartbeat", String(HEARTBEAT_SECONDS));
    const model = await connect(url.href, {
      timeout: CONNECT_TIMEOUT_MS,
      noDelay: true,
      ...(certificateAuthority !== undefined && { ca: [certificateAuthority] }),
      clientProperties: { connection_name: "netdisk" },
    }).catch((error: unknown) => {
      throw explainRefusal(error, url);
    });
    // Every failure comes to the session too; a listener must be there at all times.
    model.on("error", () => undefined);
    return model;
  }

  async #setUp(model: ChannelModel): Promise<Session> {
    const ended = deferred<Error>();
    model.on("close", (error) => ended.resolve(error ?? new Error("RabbitMQ closed the connection.")));
    model.on("error", (error) => ended.resolve(error));
    const publisher = await model.createConfirmChannel();
    watch(publisher, ended);
    await publisher.assertExchange(DEAD_EXCHANGE, "direct", { durable: true });
    for (const kind of TASK_KINDS) {
      await publisher.assertQueue(deadQueueName(kind), deadQueueSettings);
      await publisher.bindQueue(deadQueueName(kind), DEAD_EXCHANGE, deadQueueName(kind));
      await publisher.assertQueue(queueName(kind), queueSettings(kind));
    }
    const session: Session = { model, publisher, ended, consumers: new Map(), blockedBecause: "" };
    // A broker short of memory or disk stops reading from who publishes; it still delivers.
    model.on("blocked", (reason) => {
      session.blockedBecause = reason === "" ? "no reason given" : reason;
      this.#down(new Error(`RabbitMQ takes no messages: ${session.blockedBecause}`));
    });
    model.on("unblocked", () => {
      session.blockedBecause = "";
      if (this.#session === session) this.#up();
    });
    for (const consumer of this.#consumers) await this.#attach(session, consumer);
    return session;
  }

  async #attach(session: Session, consumer: LinkConsumer): Promise<void> {
    try {
      const channel = await session.model.createChannel();
      session.consumers.set(consumer, channel);
      watch(channel, session.ended, () => session.consumers.get(consumer) === channel);
      await consumer.attach(channel);
    } catch (error) {
      session.ended.resolve(error as Error);
    }
  }

  #up(): void {
    this.#health = { isUp: true, sinceMs: this.#options.clock.wallMs(), detail: "" };
  }

  #down(error: unknown): DriveError {
    const { isUp, sinceMs } = this.#health;
    this.#health = {
      isUp: false,
      sinceMs: isUp ? this.#options.clock.wallMs() : sinceMs,
      detail: messageOf(error),
    };
    return this.unavailable();
  }
}

/** Ends the session when a channel of it ends, unless that was wanted. */
function watch(channel: Channel, ended: Deferred<Error>, isWanted: () => boolean = () => true): void {
  channel.on("error", (error) => ended.resolve(error));
  channel.on("close", () => {
    if (isWanted()) ended.resolve(new Error("RabbitMQ closed a channel."));
  });
}

/** amqplib tells in terms of the protocol that a broker does not open a virtual host, and drops the broker's words for it. */
function explainRefusal(error: unknown, url: URL): unknown {
  if (!(error instanceof Error) || !error.message.startsWith("Expected ConnectionOpenOk")) return error;
  const virtualHost = decodeURIComponent(url.pathname.slice(1)) || "/";
  const why = `it does not exist, or ${url.username || "the user"} may not use it`;
  return new Error(`RabbitMQ does not open the virtual host "${virtualHost}": ${why}.`, { cause: error });
}
