/**
 * Progress of uploads between nodes by publish and subscribe in Redis.
 *
 * The node that carries an upload publishes its figures when they changed, at most PUBLISH_COUNT_MAX uploads every
 * PUBLISH_INTERVAL_MS; what is beyond comes with its next change. A node that has somebody watching subscribes to that upload
 * alone, over one connection for all. While Redis is down nothing is heard, which is what the watchers are prepared for.
 */
import { PacedLoop } from "../cluster/paced-loop.ts";
import type { Progress } from "../drive/drive-api.ts";
import type { Clock } from "../std/clock.ts";
import type { RedisClient, RedisConnection } from "./redis-client.ts";

/** Pause between two rounds of publishing: four a second for each upload. */
export const PUBLISH_INTERVAL_MS = 250;
/** Uploads that a round publishes. */
export const PUBLISH_COUNT_MAX = 100;
/** Uploads whose change waits for a round; further ones are left out until they change again. */
export const CHANGED_COUNT_MAX = 1000;

const PHASES = ["receiving", "sealing", "committing", "sending", "done", "failed"] as const;

interface Transfer {
  readonly id: string;
  readonly kind: "upload" | "download";
  snapshot(): Progress;
}

type Listener = (progress: Progress) => void;

/** See the file's comment. start() and stop() once each. */
export class RedisProgress {
  readonly #client: RedisClient;
  readonly #loop: PacedLoop;
  readonly #changed = new Map<string, Transfer>();
  readonly #listeners = new Map<string, Set<Listener>>();
  /** The connection that hears, and the channels it was told to hear. */
  #hearing: { readonly connection: RedisConnection; readonly channels: Set<string> } | undefined;
  #publishedCount = 0;
  #endWatch: (() => void) | undefined;

  constructor(clock: Clock, client: RedisClient) {
    this.#client = client;
    this.#loop = new PacedLoop({
      clock,
      idleMs: PUBLISH_INTERVAL_MS,
      busyMs: PUBLISH_INTERVAL_MS,
      work: () => this.#round(),
    });
  }

  /** Messages published so far. */
  get publishedCount(): number {
    return this.#publishedCount;
  }

  start(): void {
    // A connection that was silent while Redis was away may be dead without saying so.
    this.#endWatch = this.#client.onConnected(() => this.#dropHearing());
    this.#loop.start();
  }

  async stop(): Promise<void> {
    this.#endWatch?.();
    await this.#loop.stop();
    this.#dropHearing();
  }

  /** Takes note that the figures of a transfer changed. Downloads are known to their own node alone. */
  changed(transfer: Transfer): void {
    if (transfer.kind !== "upload") return;
    if (this.#changed.size < CHANGED_COUNT_MAX || this.#changed.has(transfer.id)) {
      this.#changed.set(transfer.id, transfer);
    }
  }

  /** Calls `listener` with what other nodes tell of an upload, from soon on; returns what ends that. */
  listen(id: string, listener: Listener): () => void {
    const listeners = this.#listeners.get(id) ?? new Set();
    this.#listeners.set(id, listeners.add(listener));
    this.#loop.wake();
    return () => {
      listeners.delete(listener);
      if (listeners.size === 0 && this.#listeners.get(id) === listeners) this.#listeners.delete(id);
    };
  }

  async #round(): Promise<"idle"> {
    await this.#publish();
    await this.#hear();
    return "idle";
  }

  async #publish(): Promise<void> {
    const transfers = [...this.#changed.values()].slice(0, PUBLISH_COUNT_MAX);
    if (transfers.length === 0) return;
    for (const { id } of transfers) this.#changed.delete(id);
    const messages = transfers.map(
      (transfer) => [this.#channel(transfer.id), encode(transfer.snapshot())] as const,
    );
    const answer = await this.#client.attempt("publish", (redis) =>
      Promise.all(messages.map(([channel, text]) => redis.publish(channel, text))),
    );
    if (answer.ok) this.#publishedCount += messages.length;
  }

  /** Makes what is subscribed to what is listened to. */
  async #hear(): Promise<void> {
    const wanted = new Set([...this.#listeners.keys()].map((id) => this.#channel(id)));
    if (wanted.size === 0) {
      this.#dropHearing();
      return;
    }
    const answer = await this.#client.attempt("subscribe", async () => {
      const { connection, channels } = this.#hearing ?? (await this.#connect());
      const added = [...wanted].filter((channel) => !channels.has(channel));
      const gone = [...channels].filter((channel) => !wanted.has(channel));
      if (added.length > 0) await connection.subscribe(...added);
      for (const channel of added) channels.add(channel);
      if (gone.length > 0) await connection.unsubscribe(...gone);
      for (const channel of gone) channels.delete(channel);
    });
    if (!answer.ok) this.#dropHearing();
  }

  async #connect(): Promise<{ readonly connection: RedisConnection; readonly channels: Set<string> }> {
    const connection = this.#client.newConnection();
    const hearing = { connection, channels: new Set<string>() };
    this.#hearing = hearing;
    connection.on("message", (channel: string, text: string) => this.#heard(channel, text));
    connection.on("end", () => {
      if (this.#hearing === hearing) this.#hearing = undefined;
    });
    await connection.connect();
    return hearing;
  }

  #heard(channel: string, text: string): void {
    const id = channel.slice(this.#channel("").length);
    const progress = decode(id, text);
    if (progress === undefined) return;
    for (const listener of this.#listeners.get(id) ?? []) listener(progress);
  }

  #dropHearing(): void {
    const hearing = this.#hearing;
    this.#hearing = undefined;
    hearing?.connection.disconnect();
  }

  #channel(id: string): string {
    return this.#client.key("progress", id);
  }
}

function encode(progress: Progress): string {
  return JSON.stringify(progress);
}

/** What a message says of the upload; undefined for what no node of this version publishes. */
function decode(id: string, text: string): Progress | undefined {
  let document: unknown;
  try {
    document = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (typeof document !== "object" || document === null) return undefined;
  const { phase, sizeBytes, transferredBytes, copiedBytes, errorReason } = document as Record<
    string,
    unknown
  >;
  const known = PHASES.find((each) => each === phase);
  if (known === undefined || !isCount(transferredBytes) || !Array.isArray(copiedBytes)) return undefined;
  const [one, two, three] = copiedBytes as readonly unknown[];
  if (!isCount(one) || !isCount(two) || !isCount(three)) return undefined;
  if (sizeBytes !== undefined && !isCount(sizeBytes)) return undefined;
  return {
    ...{ id, kind: "upload", phase: known, sizeBytes, transferredBytes, copiedBytes: [one, two, three] },
    errorReason: typeof errorReason === "string" ? errorReason : undefined,
  };
}

function isCount(value: unknown): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0;
}
