/** Metrics of tasks and of RabbitMQ. Part of metrics.ts, which see. */
import { Counter, Gauge, Histogram, type Registry } from "prom-client";
import type { TaskCounts, TaskKind } from "../drive/task.ts";

/** What is seen of tasks at one moment. */
export interface TaskSample {
  readonly counts: TaskCounts;
  /** Undefined where RabbitMQ is not configured. */
  readonly rabbitmqIsUp: boolean | undefined;
  /** Messages in RabbitMQ, as last heard. */
  readonly depths: ReadonlyMap<TaskKind, { readonly readyCount: number; readonly deadCount: number }>;
}

/** What a node tells about tasks. */
export interface TaskMetrics {
  sample(sample: TaskSample): void;
  /** A delivery of a task ended at this node. @param outcome one of a few names */
  ended(kind: TaskKind, outcome: string, durationMs: number): void;
  /** Messages were published, 0 for one that failed; `durationMs` until the broker confirmed it. */
  published(queue: "embedded" | "rabbitmq", count: number, durationMs?: number): void;
}

const DURATION_BUCKETS_SECONDS = [0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300, 1800];
const PUBLISH_BUCKETS_SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5];

/** TaskMetrics in a Prometheus registry. */
export class PrometheusTaskMetrics implements TaskMetrics {
  readonly #tasks: Gauge<"kind" | "state">;
  readonly #ended: Counter<"kind" | "outcome">;
  readonly #duration: Histogram<"kind">;
  readonly #published: Counter<"queue">;
  readonly #publishErrors: Counter;
  readonly #publishDuration: Histogram;
  readonly #rabbitmqUp: Gauge;
  readonly #depth: Gauge<"kind" | "part">;

  constructor(registry: Registry) {
    const registers = [registry];
    this.#tasks = new Gauge({
      name: "netdisk_tasks",
      help: "Tasks of the cluster by kind and state.",
      labelNames: ["kind", "state"],
      registers,
    });
    this.#ended = new Counter({
      name: "netdisk_task_deliveries_total",
      help: "Deliveries of tasks that ended at this node; skipped ones were somebody else's already.",
      labelNames: ["kind", "outcome"],
      registers,
    });
    this.#duration = new Histogram({
      name: "netdisk_task_duration_seconds",
      help: "Time from the delivery of a task to its end at this node.",
      labelNames: ["kind"],
      buckets: DURATION_BUCKETS_SECONDS,
      registers,
    });
    this.#published = new Counter({
      name: "netdisk_task_messages_published_total",
      help: "Messages about tasks that a queue took.",
      labelNames: ["queue"],
      registers,
    });
    this.#publishErrors = new Counter({
      name: "netdisk_rabbitmq_publish_errors_total",
      help: "Messages that RabbitMQ did not confirm.",
      registers,
    });
    this.#publishDuration = new Histogram({
      name: "netdisk_rabbitmq_publish_duration_seconds",
      help: "Time until RabbitMQ confirmed a message.",
      buckets: PUBLISH_BUCKETS_SECONDS,
      registers,
    });
    this.#rabbitmqUp = new Gauge({
      name: "netdisk_rabbitmq_up",
      help: "1 while RabbitMQ answers, 0 while it does not.",
      registers,
    });
    this.#depth = new Gauge({
      name: "netdisk_rabbitmq_queue_messages",
      help: "Messages in RabbitMQ that wait, and dead letters.",
      labelNames: ["kind", "part"],
      registers,
    });
  }

  sample({ counts, rabbitmqIsUp, depths }: TaskSample): void {
    for (const [kind, byState] of Object.entries(counts)) {
      for (const [state, count] of Object.entries(byState)) this.#tasks.set({ kind, state }, count);
    }
    if (rabbitmqIsUp === undefined) return;
    this.#rabbitmqUp.set(rabbitmqIsUp ? 1 : 0);
    for (const [kind, { readyCount, deadCount }] of depths) {
      this.#depth.set({ kind, part: "ready" }, readyCount);
      this.#depth.set({ kind, part: "dead" }, deadCount);
    }
  }

  ended(kind: TaskKind, outcome: string, durationMs: number): void {
    this.#ended.inc({ kind, outcome });
    if (outcome !== "skipped") this.#duration.observe({ kind }, durationMs / 1000);
  }

  published(queue: "embedded" | "rabbitmq", count: number, durationMs?: number): void {
    this.#published.inc({ queue }, count);
    if (durationMs === undefined) return;
    if (count === 0) this.#publishErrors.inc();
    else this.#publishDuration.observe(durationMs / 1000);
  }
}

/** Metrics that nobody reads. */
export const noTaskMetrics: TaskMetrics = {
  sample: () => undefined,
  ended: () => undefined,
  published: () => undefined,
};
