/**
 * The queues in RabbitMQ: persistent messages with publisher confirms, prefetch, acknowledgement by hand.
 *
 * A message is the id of a task in decimal digits. It counts as published when the broker has confirmed it and has not sent it back
 * as unroutable (somebody deleted the queue; asking for its depth makes it anew).
 */
import { IllegalOperationError, type Channel, type ConsumeMessage, type Message } from "amqplib";
import { DriveError } from "../drive/errors.ts";
import type { TaskKind } from "../drive/task.ts";
import { withTimeout, type Clock } from "../std/clock.ts";
import {
  ANSWER_TIMEOUT_MS,
  deadQueueName,
  queueName,
  queueSettings,
  type RabbitMqLink,
} from "./rabbitmq-link.ts";
import type { Delivery, QueueDepth, Settlement, TaskQueue } from "./task-queue.ts";

/** Messages that are published and not confirmed yet, at most. */
export const UNCONFIRMED_COUNT_MAX = 256;

/** Digits of the largest task id; below what a number holds exactly. */
const TASK_ID_LENGTH_MAX = 15;

/** Told of every publish: how long it took and whether it failed. */
export type OnPublish = (durationMs: number, failed: boolean) => void;

/** What a RabbitMqQueue needs. */
export interface RabbitMqQueueOptions {
  readonly clock: Clock;
  readonly link: RabbitMqLink;
  /** Rides on each message: a virtual host serves one cluster, and one that was given to two is found by it. */
  readonly clusterId: string;
  readonly onPublish?: OnPublish | undefined;
}

/** The queues of a broker. The link is started and stopped by its owner. */
export class RabbitMqQueue implements TaskQueue {
  readonly #options: RabbitMqQueueOptions;
  /** Ids that came back as unroutable, until their confirmation, which follows. */
  readonly #returned = new Set<string>();
  readonly #listened = new WeakSet<Channel>();
  #unconfirmedCount = 0;
  #publishCount = 0;

  constructor(options: RabbitMqQueueOptions) {
    this.#options = options;
  }

  async publish({ taskId, kind }: { readonly taskId: number; readonly kind: TaskKind }): Promise<void> {
    const { clock, link, onPublish } = this.#options;
    if (this.#unconfirmedCount >= UNCONFIRMED_COUNT_MAX) {
      throw new DriveError("OVERLOADED", `${UNCONFIRMED_COUNT_MAX} messages are not confirmed yet.`, {
        unconfirmed_count_max: String(UNCONFIRMED_COUNT_MAX),
      });
    }
    const startMs = clock.monotonicMs();
    this.#unconfirmedCount += 1;
    let failed = true;
    try {
      const confirmed = this.#send(queueName(kind), String(taskId));
      await withTimeout(
        clock,
        ANSWER_TIMEOUT_MS,
        confirmed,
        () => new Error("a message was not confirmed in time"),
      );
      failed = false;
    } catch (error) {
      throw error instanceof DriveError ? error : link.fail(error);
    } finally {
      this.#unconfirmedCount -= 1;
      onPublish?.(clock.monotonicMs() - startMs, failed);
    }
  }

  consume(kind: TaskKind, prefetchCount: number, take: (delivery: Delivery) => void): () => Promise<void> {
    const { link } = this.#options;
    const attach = async (channel: Channel): Promise<void> => {
      let isOpen = true;
      channel.on("close", () => {
        isOpen = false;
      });
      await channel.prefetch(prefetchCount);
      await channel.consume(queueName(kind), (message) => {
        if (message === null) {
          link.fail(new Error(`somebody deleted the queue ${queueName(kind)}`));
          return;
        }
        const taskId = this.#taskOf(message);
        const delivery = deliveryOf(channel, message, taskId ?? 0, () => isOpen);
        // Somebody else's message is put aside, where it can be looked at.
        if (taskId === undefined) delivery.settle("dead");
        else take(delivery);
      });
    };
    return link.addConsumer({ kind, attach });
  }

  depth(kind: TaskKind): Promise<QueueDepth> {
    return this.#options.link.ask(async (channel) => {
      const ready = await channel.assertQueue(queueName(kind), queueSettings(kind));
      const dead = await channel.checkQueue(deadQueueName(kind));
      return { readyCount: ready.messageCount, deadCount: dead.messageCount };
    });
  }

  #taskOf({ content, properties }: ConsumeMessage): number | undefined {
    if (properties.appId !== this.#options.clusterId || content.length > TASK_ID_LENGTH_MAX) return undefined;
    const text = content.toString("latin1");
    return /^[1-9][0-9]*$/.test(text) ? Number(text) : undefined;
  }

  #send(queue: string, text: string): Promise<void> {
    const { link } = this.#options;
    const { publisher } = link;
    if (publisher === undefined) return Promise.reject(link.unavailable());
    if (!this.#listened.has(publisher)) {
      this.#listened.add(publisher);
      publisher.on("return", (message: Message) => {
        this.#returned.add(String(message.properties.messageId));
      });
    }
    this.#publishCount += 1;
    const messageId = String(this.#publishCount);
    return new Promise((resolve, reject) => {
      const onConfirmed = (error: unknown): void => {
        const isReturned = this.#returned.delete(messageId);
        if (error !== null && error !== undefined) reject(error as Error);
        else if (isReturned) reject(new Error(`there is no queue ${queue}`));
        else resolve();
      };
      const options = { persistent: true, mandatory: true, messageId, appId: this.#options.clusterId };
      publisher.sendToQueue(queue, Buffer.from(text), options, onConfirmed);
    });
  }
}

function deliveryOf(
  channel: Channel,
  message: ConsumeMessage,
  taskId: number,
  isOpen: () => boolean,
): Delivery {
  let isSettled = false;
  const settle = (settlement: Settlement): void => {
    // The broker has taken back what was not settled when its channel ended.
    if (isSettled || !isOpen()) return;
    isSettled = true;
    try {
      if (settlement === "done") channel.ack(message);
      else channel.nack(message, false, settlement === "again");
    } catch (error) {
      // The connection is being given up and its channel has not heard of it: the broker takes the message back with both.
      if (!(error instanceof IllegalOperationError)) throw error;
    }
  };
  return { taskId, settle };
}
