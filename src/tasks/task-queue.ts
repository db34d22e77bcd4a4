/**
 * The port of the queues that tell workers which tasks to look at.
 *
 * A queue carries ids and nothing else; what a task is, and whether anybody may still work on it, is in the replicated table. So a
 * queue may deliver an id twice, late, or never: whoever gets one claims the task first, and what was lost is published again
 * (task-outbox.ts). Two implementations: in this process, and RabbitMQ.
 */
import type { TaskKind } from "../drive/task.ts";

/** Messages of one kind that a queue of this process holds; the outbox keeps no more in any other. */
export const QUEUE_READY_COUNT_MAX = 1000;

/** How often a message may come back until it is put aside as dead. */
export const DELIVERY_LIMIT = 5;

/** Dead messages of one kind that are kept to be looked at; the oldest go first. */
export const DEAD_COUNT_MAX = 1000;

/** What became of a delivery: over, to be delivered again, or put aside for good. */
export type Settlement = "done" | "again" | "dead";

/** A message that was handed to a consumer. */
export interface Delivery {
  readonly taskId: number;
  /** Says what became of it; only the first call counts, and none does once the queue has taken the message back. */
  settle(settlement: Settlement): void;
}

/** What lies in the queue of one kind. */
export interface QueueDepth {
  /** Messages that wait for a consumer. */
  readonly readyCount: number;
  /** Messages that were put aside. */
  readonly deadCount: number;
}

/** A queue for each kind of task. */
export interface TaskQueue {
  /**
   * Puts an id into the queue of its kind. When it resolves the queue has the message safely, in its own terms.
   * @throws DriveError OVERLOADED when the queue is full; QUEUE_UNAVAILABLE when it does not answer, and then it may have the message
   */
  publish(message: { readonly taskId: number; readonly kind: TaskKind }): Promise<void>;

  /**
   * Hands messages of one kind to `take`, at most `prefetchCount` unsettled at once. One consumer of a kind per queue object.
   * @returns ends it; what is not settled then is delivered to others
   */
  consume(kind: TaskKind, prefetchCount: number, take: (delivery: Delivery) => void): () => Promise<void>;

  /** @throws DriveError QUEUE_UNAVAILABLE */
  depth(kind: TaskKind): Promise<QueueDepth>;
}
