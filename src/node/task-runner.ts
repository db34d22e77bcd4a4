/** The tasks of a node, put together: its worker, the queue in memory, RabbitMQ where it is configured, outboxes and the planner. */
import type { MetadataClient } from "../cluster/metadata-client.ts";
import type { ReportedTask, ServiceStatus } from "../drive/drive-api.ts";
import type { DriveError } from "../drive/errors.ts";
import { TASK_KINDS, type TaskApi, type TaskKind } from "../drive/task.ts";
import { countTasks, type DueTask } from "../metadata/task-view.ts";
import { getExtent } from "../metadata/view.ts";
import { BackgroundPace } from "../replication/background-pace.ts";
import { EmbeddedQueue } from "../tasks/embedded-queue.ts";
import type { RabbitMqLink } from "../tasks/rabbitmq-link.ts";
import { RabbitMqQueue } from "../tasks/rabbitmq-queue.ts";
import type { TaskHandler } from "../tasks/task-handler.ts";
import { ReplicationHandler } from "../tasks/replication-handler.ts";
import { ReplicationPlanner } from "../tasks/replication-planner.ts";
import { TaskOutbox } from "../tasks/task-outbox.ts";
import type { QueueDepth, TaskQueue } from "../tasks/task-queue.ts";
import { TaskTable } from "../tasks/task-table.ts";
import { SLOT_COUNT, TaskWorker } from "../tasks/task-worker.ts";
import { UPLOAD_CHECK_BUSY_BYTES_PER_SECOND, UploadHandler } from "../tasks/upload-handler.ts";
import { UploadPlanner } from "../tasks/upload-planner.ts";
import { PacedLoop } from "../cluster/paced-loop.ts";
import type { Clock } from "../std/clock.ts";
import type { Logger } from "../telemetry/logger.ts";
import type { Metrics } from "../telemetry/metrics.ts";
import type { NodeLoop, StoreKeeper } from "./store-keeper.ts";

/** The queue in memory is cheap to fill again. */
const EMBEDDED_REPUBLISH_MS = 5000;
/** A message that RabbitMQ should have delivered by now is looked for. */
const RABBITMQ_REPUBLISH_MS = 15_000;
/** A task that is another node's by preference is taken by any after it has been due for so long. */
const PREFERENCE_MS = 2000;
/** How often RabbitMQ is asked how long its queues are; finds one that does not answer, too. */
const DEPTH_INTERVAL_MS = 10_000;

/** What a TaskRunner needs. */
export interface TaskRunnerOptions {
  readonly clock: Clock;
  readonly metadata: MetadataClient;
  readonly keeper: StoreKeeper;
  readonly clusterId: string;
  /** Members that work on tasks, this one included, as far as they are up. */
  readonly workerIds: () => readonly number[];
  /** RabbitMQ; none where it is not configured. */
  readonly rabbitmq: RabbitMqLink | undefined;
  /** Handlers beside those of uploads and copies. */
  readonly handlers?: readonly (readonly [TaskKind, TaskHandler])[] | undefined;
  readonly logger: Logger;
  readonly metrics: Metrics;
}

/** The tasks of a node. start() once. */
export class TaskRunner {
  readonly api: TaskApi;
  /** Makes tasks of copies that are to be made. */
  readonly replication: ReplicationPlanner;
  readonly #options: TaskRunnerOptions;
  readonly #logger: Logger;
  readonly #madeAtMs: number;
  readonly #worker: TaskWorker;
  readonly #queues: readonly TaskQueue[];
  readonly #loops: readonly NodeLoop[];
  readonly #depths = new Map<TaskKind, QueueDepth>();
  #endConsumers: (() => Promise<void>)[] = [];

  constructor(options: TaskRunnerOptions) {
    this.#options = options;
    this.#logger = options.logger.child("tasks");
    const { clock, metadata, metrics, rabbitmq } = options;
    this.#madeAtMs = clock.wallMs();
    const table = new TaskTable(metadata);
    this.api = table;
    const { detector, plane } = options.keeper;
    const copying = { clock, metadata, detector, placement: plane.placement };
    this.replication = new ReplicationPlanner({ ...copying, onError: this.#onError("plan copies") });
    this.#worker = new TaskWorker({
      clock,
      table,
      handlers: new Map<TaskKind, TaskHandler>([
        ["upload", this.#uploads()],
        ["replication", new ReplicationHandler(copying)],
        ...(options.handlers ?? []),
      ]),
      onEnded: (kind, outcome, durationMs) => metrics.tasks.ended(kind, outcome, durationMs),
      onFailure: ({ taskId, kind }, error) =>
        this.#logger.warn("task_attempt_failed", { task: taskId, kind, error }),
    });
    const { port } = metadata;
    const embedded = new EmbeddedQueue();
    const embeddedOutbox = new TaskOutbox({
      clock,
      port,
      queue: embedded,
      isActive: () => rabbitmq?.health.isUp !== true,
      isMine: (task, overdueMs) => overdueMs >= PREFERENCE_MS || this.#isPreferred(task),
      republishAfterMs: EMBEDDED_REPUBLISH_MS,
      onPublished: (count) => metrics.tasks.published("embedded", count),
      onError: this.#onError("outbox"),
    });
    const planner = new UploadPlanner({
      clock,
      metadata,
      onPassedOver: (run) => this.#logger.warn("uploads_not_planned", { ...run }),
      onError: this.#onError("plan"),
    });
    if (rabbitmq === undefined) {
      this.#queues = [embedded];
      this.#loops = [embeddedOutbox, planner, this.replication];
      return;
    }
    const external = new RabbitMqQueue({
      clock,
      link: rabbitmq,
      clusterId: options.clusterId,
      onPublish: (durationMs, failed) => metrics.tasks.published("rabbitmq", failed ? 0 : 1, durationMs),
    });
    const externalOutbox = new TaskOutbox({
      clock,
      port,
      queue: external,
      isActive: () => rabbitmq.health.isUp && port.leaderId() === port.memberId,
      republishAfterMs: RABBITMQ_REPUBLISH_MS,
      onError: this.#onError("publish"),
    });
    const watch = new PacedLoop({
      clock,
      idleMs: DEPTH_INTERVAL_MS,
      busyMs: DEPTH_INTERVAL_MS,
      work: async () => {
        if (!rabbitmq.health.isUp) return "idle";
        for (const kind of TASK_KINDS) this.#depths.set(kind, await external.depth(kind));
        return "idle";
      },
      onError: this.#onError("depth"),
    });
    this.#queues = [embedded, external];
    this.#loops = [rabbitmq, embeddedOutbox, externalOutbox, watch, planner, this.replication];
  }

  start(): void {
    for (const queue of this.#queues) {
      for (const kind of this.#worker.kinds) {
        this.#endConsumers.push(
          queue.consume(kind, SLOT_COUNT, (delivery) => this.#worker.take(kind, delivery)),
        );
      }
    }
    for (const loop of this.#loops) loop.start();
  }

  async stop(): Promise<void> {
    const ends = this.#endConsumers;
    this.#endConsumers = [];
    await this.#worker.stop();
    for (const end of ends) await end();
    for (const loop of [...this.#loops].reverse()) await loop.stop();
  }

  /** Tasks that this node works on, at most `countMax` of those that were begun last. */
  running(countMax: number): readonly ReportedTask[] {
    return this.#worker.running(countMax);
  }

  /** How RabbitMQ does, as this node sees it. */
  service(): ServiceStatus {
    const { rabbitmq } = this.#options;
    if (rabbitmq === undefined) {
      return { name: "rabbitmq", state: "off", sinceTimeMs: this.#madeAtMs, detail: "" };
    }
    const { isUp, sinceMs, detail } = rabbitmq.health;
    return { name: "rabbitmq", state: isUp ? "up" : "degraded", sinceTimeMs: sinceMs, detail };
  }

  /** Takes the figures of this moment into the metrics. */
  observe(): void {
    const { metadata, metrics, rabbitmq } = this.#options;
    metrics.tasks.sample({
      counts: countTasks(metadata.port.reader()),
      rabbitmqIsUp: rabbitmq?.health.isUp,
      depths: this.#depths,
    });
  }

  #uploads(): UploadHandler {
    const { clock, metadata, keeper } = this.#options;
    const { plane } = keeper;
    const { port } = metadata;
    return new UploadHandler({
      reader: () => port.reader(),
      ports: keeper.replicas,
      read: (extent, length, signal) =>
        plane.reader.read({
          extent,
          offset: 0,
          length,
          rankedMemberIds: () =>
            plane.placement.rankReaders(getExtent(port.reader(), extent)?.replicas ?? []),
          signal,
        }),
      pace: new BackgroundPace({
        clock,
        bytesPerSecond: () => Infinity,
        busyBytesPerSecond: UPLOAD_CHECK_BUSY_BYTES_PER_SECOND,
        isBusy: () => keeper.isUsed(),
      }),
      onBadCopy: (extent, memberId, finding) => plane.reports.reportBad(extent, memberId, finding),
    });
  }

  /** Spreads tasks over the nodes that work, so that they do not all claim the same one. */
  #isPreferred({ taskId }: DueTask): boolean {
    const workerIds = [...this.#options.workerIds()].sort((a, b) => a - b);
    return workerIds[taskId % Math.max(1, workerIds.length)] === this.#options.metadata.port.memberId;
  }

  #onError(loop: string): (error: DriveError) => void {
    let last = "";
    return (error) => {
      // An outage is told once, not with every try.
      const detail = `${error.message} ${error.metadata["detail"] ?? ""}`;
      if (detail !== last) this.#logger.debug("round_failed", { loop, reason: error.reason, detail });
      last = detail;
    };
  }
}
