/**
 * RabbitMQ killed, cut, purged and frozen while tasks go through it. What must hold each time: no task is lost, none takes effect
 * twice, and while the broker is away tasks go on over the queue in memory.
 *
 * Method: two nodes' workers and outboxes over one real table, each with a connection of its own to a real broker, which the test
 * torments. Cluster time follows the clock.
 */
import { expect } from "chai";
import { MetadataClient } from "../../../src/cluster/metadata-client.ts";
import { PacedLoop } from "../../../src/cluster/paced-loop.ts";
import { DriveError } from "../../../src/drive/errors.ts";
import type { Task } from "../../../src/drive/task.ts";
import { countTasks } from "../../../src/metadata/task-view.ts";
import { utf8 } from "../../../src/std/bytes.ts";
import { SystemClock } from "../../../src/std/clock.ts";
import { SeededPrng } from "../../../src/std/prng.ts";
import { EmbeddedQueue } from "../../../src/tasks/embedded-queue.ts";
import { queueName, RabbitMqLink } from "../../../src/tasks/rabbitmq-link.ts";
import { RabbitMqQueue } from "../../../src/tasks/rabbitmq-queue.ts";
import { TaskOutbox } from "../../../src/tasks/task-outbox.ts";
import type { TaskQueue } from "../../../src/tasks/task-queue.ts";
import { TaskTable } from "../../../src/tasks/task-table.ts";
import { SLOT_COUNT, TaskWorker } from "../../../src/tasks/task-worker.ts";
import { AMQP_METHODS, Cutter } from "../../support/cutter.ts";
import { eventually } from "../../support/eventually.ts";
import { MemoryTree } from "../../support/memory-metadata-port.ts";
import { useOwnService } from "../../support/services/services.ts";

const WITHIN_MS = 90_000;
const clock = new SystemClock();

/** Two nodes that work on tasks. */
class Cluster {
  readonly tree = new MemoryTree(clock);
  readonly links: RabbitMqLink[] = [];
  /** Ids of tasks whose handler ran to its end, each time it did. */
  readonly ranIds: number[] = [];
  handler: (task: Task) => Promise<Uint8Array> = () => Promise.resolve(utf8("good"));
  readonly #stops: (() => Promise<void>)[] = [];
  readonly #prng = new SeededPrng(1);

  constructor(url: string) {
    for (const memberId of [1, 2]) this.#addNode(memberId, url);
    const time = new PacedLoop({
      clock,
      idleMs: 200,
      busyMs: 200,
      work: () => {
        this.tree.apply({ kind: "advance-clock", elapsedMs: 200 });
        this.tree.apply({ kind: "expire" });
        return Promise.resolve("idle");
      },
    });
    time.start();
    this.#stops.push(() => time.stop());
  }

  get table(): TaskTable {
    return new TaskTable(new MetadataClient(this.tree.port(1), this.#prng));
  }

  get doneCount(): number {
    return countTasks(this.tree.store).upload.done;
  }

  #addNode(memberId: number, url: string): void {
    const link = new RabbitMqLink({ clock, url });
    this.links.push(link);
    const port = this.tree.port(memberId);
    const worker = new TaskWorker({
      clock,
      table: new TaskTable(new MetadataClient(port, this.#prng)),
      handlers: new Map([
        [
          "upload",
          {
            run: async (task: Task) => {
              const result = await this.handler(task);
              this.ranIds.push(task.taskId);
              return result;
            },
          },
        ],
      ]),
    });
    const add = (queue: TaskQueue, isActive: () => boolean): void => {
      const end = queue.consume("upload", SLOT_COUNT, (delivery) => worker.take("upload", delivery));
      const outbox = new TaskOutbox({ clock, port, queue, isActive, republishAfterMs: 2000 });
      outbox.start();
      this.#stops.push(end, () => outbox.stop());
    };
    link.start();
    add(new RabbitMqQueue({ clock, link, clusterId: "test" }), () => link.health.isUp && memberId === 1);
    add(new EmbeddedQueue(), () => !link.health.isUp);
    this.#stops.push(
      () => worker.stop(),
      () => link.stop(),
    );
  }

  async create(count: number): Promise<void> {
    for (let i = 0; i < count; i += 1) {
      await this.table.create({ kind: "upload", key: "", parameters: utf8("{}") });
    }
  }

  isUp(up = true): Promise<boolean> {
    const what = up ? "both nodes have a connection" : "both nodes know that it is gone";
    return eventually(what, () => this.links.every((link) => link.health.isUp === up), {
      withinMs: WITHIN_MS,
    });
  }

  /** All tasks are done, each by one claim, and each once in effect. */
  async allDone(count: number): Promise<void> {
    await eventually(`${count} tasks are done`, () => this.doneCount === count, { withinMs: WITHIN_MS });
    const { tasks } = await this.table.list({}, { countMax: 1000 });
    expect(new Set(tasks.map(({ state }) => state))).to.deep.equal(new Set(["done"]));
    const effective = this.tree.applied.filter(
      ({ body, result }) => body.kind === "finish-task" && result.outcome === "applied",
    );
    const ids = effective.map(({ body }) => (body.kind === "finish-task" ? body.hold.taskId : 0));
    expect(ids.length, "one finish for each task").to.equal(new Set(ids).size);
    expect(new Set(this.ranIds).size).to.equal(count);
  }

  async stop(): Promise<void> {
    await Promise.all(this.#stops.map((stop) => stop()));
  }
}

describe("RabbitMQ under torment", function () {
  this.timeout(180_000);
  const broker = useOwnService("rabbitmq");
  let cutter: Cutter;
  let cluster: Cluster;

  beforeEach(async () => {
    cutter = await Cutter.open(broker.port);
    cluster = new Cluster(`amqp://guest:guest@127.0.0.1:${cutter.port}`);
    await cluster.isUp();
  });

  afterEach(async () => {
    await cluster.stop();
    await cutter.close();
  });

  it("loses no task when connections are cut in the middle of publishing and consuming", async () => {
    for (let round = 0; round < 5; round += 1) {
      await cluster.create(40);
      await eventually("some are done", () => cluster.doneCount > round * 40, { withinMs: WITHIN_MS });
      cutter.cut();
    }
    await cluster.allDone(200);
    expect(cutter.cutCount).to.be.greaterThan(0);
    await cluster.isUp();
  });

  for (const [what, method] of Object.entries(AMQP_METHODS)) {
    it(`loses no task when a connection is cut in the middle of ${what}`, async () => {
      const cut = cutter.cutAt(method);
      await cluster.create(60);
      await cut;
      await cluster.allDone(60);
      await cluster.isUp();
    });
  }

  it("fills a queue again that somebody purged", async () => {
    let isHeld = true;
    cluster.handler = async () => {
      await eventually("the handler may go on", () => !isHeld, { withinMs: WITHIN_MS });
      return utf8("good");
    };
    await cluster.create(60);
    const [link] = cluster.links;
    const ready = (): Promise<number> =>
      link?.ask(async (channel) => (await channel.checkQueue(queueName("upload"))).messageCount) ??
      Promise.resolve(0);
    await eventually("messages wait", async () => (await ready()) > 20, { withinMs: WITHIN_MS });
    const purged = await link?.ask((channel) => channel.purgeQueue(queueName("upload")));
    expect(purged?.messageCount).to.be.greaterThan(20);
    isHeld = false;

    await cluster.allDone(60);
  });

  it("puts the message of a poisonous task aside, and the task has failed until a user retries it", async () => {
    let isPoisonous = true;
    cluster.handler = () =>
      isPoisonous
        ? Promise.reject(new DriveError("ARGUMENT_INVALID", "Nobody can do this."))
        : Promise.resolve(utf8("good"));
    const deadCount = async (): Promise<number> =>
      (
        await new RabbitMqQueue({ clock, link: cluster.links[0] as RabbitMqLink, clusterId: "test" }).depth(
          "upload",
        )
      ).deadCount;
    const before = await deadCount();
    const { taskId } = await cluster.table.create({ kind: "upload", key: "", parameters: utf8("{}") });
    await eventually("a dead letter", async () => (await deadCount()) === before + 1, {
      withinMs: WITHIN_MS,
    });
    expect(cluster.table.find(taskId)).to.deep.include({
      ...{ state: "failed", attemptCount: 1 },
      error: { reason: "ARGUMENT_INVALID", message: "Nobody can do this." },
    });

    isPoisonous = false;
    await cluster.table.retry(taskId);
    await cluster.allDone(1);
  });

  it("is not missed while it is killed, and takes over again when it is back", async () => {
    await cluster.create(40);
    await broker.kill();
    await cluster.create(40);
    await cluster.isUp(false);
    await cluster.create(40);
    await cluster.allDone(120);

    await broker.start();
    await cluster.isUp();
    await cluster.create(40);
    await cluster.allDone(160);
  });

  it("is given up while it is frozen", async () => {
    await broker.pause();
    try {
      await cluster.create(20);
      await cluster.isUp(false);
      await cluster.allDone(20);
    } finally {
      await broker.resume();
    }
    await cluster.isUp();
    await cluster.create(20);
    await cluster.allDone(40);
  });

  it("says so when it has no such virtual host", async () => {
    const link = new RabbitMqLink({ clock, url: `amqp://guest:guest@127.0.0.1:${broker.port}/not%2Fthere` });
    link.start();
    try {
      await eventually("it was asked", () => link.health.detail.startsWith("RabbitMQ"), {
        withinMs: WITHIN_MS,
      });
      expect(link.health.isUp).to.equal(false);
      expect(link.health.detail).to.match(
        /^RabbitMQ does not open the virtual host "not\/there": it does not exist, or \S+ may not use it\.$/,
      );
    } finally {
      await link.stop();
    }
  });
});
