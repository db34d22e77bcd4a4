/**
 * The queue of a node that has no other: lists in memory. What they held is lost with the process, and the outbox fills them again
 * from the table.
 */
import { DriveError } from "../drive/errors.ts";
import type { TaskKind } from "../drive/task.ts";
import { assert } from "../std/assert.ts";
import {
  DEAD_COUNT_MAX,
  DELIVERY_LIMIT,
  QUEUE_READY_COUNT_MAX,
  type Delivery,
  type QueueDepth,
  type Settlement,
  type TaskQueue,
} from "./task-queue.ts";

interface Message {
  readonly taskId: number;
  returnCount: number;
}

interface Lane {
  readonly ready: Message[];
  readonly readyIds: Set<number>;
  readonly dead: Message[];
  consumer: Consumer | undefined;
}

interface Consumer {
  readonly prefetchCount: number;
  readonly take: (delivery: Delivery) => void;
  readonly unsettled: Set<Message>;
}

/** A queue in memory. An id that waits already is not put in twice. */
export class EmbeddedQueue implements TaskQueue {
  readonly #lanes = new Map<TaskKind, Lane>();

  publish({ taskId, kind }: { readonly taskId: number; readonly kind: TaskKind }): Promise<void> {
    const lane = this.#lane(kind);
    if (lane.readyIds.has(taskId)) return Promise.resolve();
    if (lane.ready.length >= QUEUE_READY_COUNT_MAX) {
      return Promise.reject(
        new DriveError("OVERLOADED", `${QUEUE_READY_COUNT_MAX} messages of the kind ${kind} wait.`, {
          kind,
          ready_count_max: String(QUEUE_READY_COUNT_MAX),
        }),
      );
    }
    this.#enqueue(lane, { taskId, returnCount: 0 });
    this.#deliver(lane);
    return Promise.resolve();
  }

  consume(kind: TaskKind, prefetchCount: number, take: (delivery: Delivery) => void): () => Promise<void> {
    assert(prefetchCount >= 1, "a consumer takes at least one message");
    const lane = this.#lane(kind);
    assert(lane.consumer === undefined, `the kind ${kind} has a consumer`);
    const consumer: Consumer = { prefetchCount, take, unsettled: new Set() };
    lane.consumer = consumer;
    this.#deliver(lane);
    return () => {
      if (lane.consumer === consumer) lane.consumer = undefined;
      for (const message of consumer.unsettled) this.#return(lane, message);
      consumer.unsettled.clear();
      return Promise.resolve();
    };
  }

  depth(kind: TaskKind): Promise<QueueDepth> {
    const { ready, dead } = this.#lane(kind);
    return Promise.resolve({ readyCount: ready.length, deadCount: dead.length });
  }

  #lane(kind: TaskKind): Lane {
    let lane = this.#lanes.get(kind);
    if (lane === undefined) {
      lane = { ready: [], readyIds: new Set(), dead: [], consumer: undefined };
      this.#lanes.set(kind, lane);
    }
    return lane;
  }

  #enqueue(lane: Lane, message: Message): void {
    lane.ready.push(message);
    lane.readyIds.add(message.taskId);
  }

  #deliver(lane: Lane): void {
    const { consumer } = lane;
    if (consumer === undefined) return;
    while (consumer.unsettled.size < consumer.prefetchCount) {
      const message = lane.ready.shift();
      if (message === undefined) return;
      lane.readyIds.delete(message.taskId);
      consumer.unsettled.add(message);
      const settle = (settlement: Settlement): void => {
        if (!consumer.unsettled.delete(message)) return;
        if (settlement === "again") this.#return(lane, message);
        else if (settlement === "dead") this.#bury(lane, message);
        // In a turn of its own: whoever settles at once must not fill the stack.
        queueMicrotask(() => this.#deliver(lane));
      };
      consumer.take({ taskId: message.taskId, settle });
    }
  }

  #return(lane: Lane, message: Message): void {
    message.returnCount += 1;
    if (message.returnCount > DELIVERY_LIMIT) this.#bury(lane, message);
    else if (!lane.readyIds.has(message.taskId)) this.#enqueue(lane, message);
  }

  #bury(lane: Lane, message: Message): void {
    lane.dead.push(message);
    if (lane.dead.length > DEAD_COUNT_MAX) lane.dead.shift();
  }
}
