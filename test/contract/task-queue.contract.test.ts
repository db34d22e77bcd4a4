/** The contract of task queues, on the one in memory and on a real RabbitMQ. */
import { expect } from "chai";
import { TASK_KINDS } from "../../src/drive/task.ts";
import { SystemClock } from "../../src/std/clock.ts";
import { EmbeddedQueue } from "../../src/tasks/embedded-queue.ts";
import { deadQueueName, queueName, RabbitMqLink } from "../../src/tasks/rabbitmq-link.ts";
import { RabbitMqQueue } from "../../src/tasks/rabbitmq-queue.ts";
import { must } from "../../src/std/assert.ts";
import { QUEUE_READY_COUNT_MAX, type Delivery } from "../../src/tasks/task-queue.ts";
import { eventually } from "../support/eventually.ts";
import { expectReason } from "../support/expect-reason.ts";
import { useService } from "../support/services/services.ts";
import { describeTaskQueue, type QueueUnderTest } from "./task-queue.contract.ts";

describeTaskQueue("in memory", () =>
  Promise.resolve({ queue: new EmbeddedQueue(), close: () => Promise.resolve() }),
);

describe("EmbeddedQueue", () => {
  it("holds its bound and refuses one more, until one was taken", async () => {
    const queue = new EmbeddedQueue();
    for (let taskId = 1; taskId <= QUEUE_READY_COUNT_MAX; taskId += 1) {
      await queue.publish({ taskId, kind: "upload" });
    }
    await queue.publish({ taskId: 1, kind: "upload" });
    const more = { taskId: QUEUE_READY_COUNT_MAX + 1, kind: "upload" } as const;
    await expectReason("OVERLOADED", () => queue.publish(more));
    queue.consume("upload", 1, () => undefined);
    await queue.publish(more);

    expect(await queue.depth("upload")).to.deep.equal({ readyCount: QUEUE_READY_COUNT_MAX, deadCount: 0 });
  });
});

describe("on RabbitMQ", () => {
  const rabbitmq = useService("rabbitmq");
  const clock = new SystemClock();

  const open = async (): Promise<QueueUnderTest & { readonly link: RabbitMqLink }> => {
    const link = new RabbitMqLink({ clock, url: rabbitmq.url });
    link.start();
    await eventually("a connection", () => link.health.isUp, { withinMs: 20_000 });
    await link.ask(async (channel) => {
      for (const kind of TASK_KINDS) {
        await channel.purgeQueue(queueName(kind));
        await channel.purgeQueue(deadQueueName(kind));
      }
    });
    const queue = new RabbitMqQueue({ clock, link, clusterId: "test" });
    return { queue, link, close: () => link.stop() };
  };

  describeTaskQueue("RabbitMQ", open);

  describe("RabbitMqQueue", function () {
    this.timeout(60_000);

    it("puts messages aside that are of another cluster or no task ids", async () => {
      const { queue, link, close } = await open();
      const seen: number[] = [];
      queue.consume("upload", 5, (delivery) => {
        seen.push(delivery.taskId);
        delivery.settle("done");
      });
      await link.ask((channel) => {
        const send = (text: string, appId: string) =>
          channel.sendToQueue(queueName("upload"), Buffer.from(text), { appId });
        send("12", "another");
        send("0", "test");
        send("x12", "test");
        send("1".repeat(16), "test");
        send("13", "test");
        return Promise.resolve();
      });
      await eventually("four dead messages", async () => (await queue.depth("upload")).deadCount === 4, {
        withinMs: 20_000,
      });
      await eventually("one good message", () => seen.length === 1, { withinMs: 20_000 });

      expect(seen).to.deep.equal([13]);
      await close();
    });

    for (const settlement of ["done", "again", "dead"] as const) {
      it(`delivers again what was said to be "${settlement}" while the connection was given up`, async () => {
        const { queue, link, close } = await open();
        const taken: Delivery[] = [];
        queue.consume("upload", 1, (delivery) => void taken.push(delivery));
        await queue.publish({ taskId: 7, kind: "upload" });
        await eventually("a delivery", () => taken.length === 1, { withinMs: 20_000 });
        link.fail(new Error("the test gives it up"));
        // Without a turn of the event loop: the broker has not answered the good-bye yet.
        for (let i = 0; i < 100 && link.publisher !== undefined; i += 1) await Promise.resolve();
        expect(link.publisher).to.equal(undefined);
        must(taken[0], "a delivery").settle(settlement);
        await eventually("the message again", () => taken.length === 2, { withinMs: 20_000 });

        expect(taken[1]?.taskId).to.equal(7);
        taken[1]?.settle("done");
        await close();
      });
    }

    it("says that a message was not taken when its queue is gone, and makes the queue anew", async () => {
      const { queue, link, close } = await open();
      await link.ask((channel) => channel.deleteQueue(queueName("download")));
      await expectReason("QUEUE_UNAVAILABLE", () => queue.publish({ taskId: 1, kind: "download" }));
      const publish = (): Promise<boolean> => queue.publish({ taskId: 1, kind: "download" }).then(() => true);
      await eventually("a queue again", publish, { withinMs: 20_000 });

      expect((await queue.depth("download")).readyCount).to.equal(1);
      await close();
    });

    it("is unavailable, and says why, where nobody listens", async () => {
      const link = new RabbitMqLink({ clock, url: "amqp://guest:secret@127.0.0.1:1" });
      link.start();
      const queue = new RabbitMqQueue({ clock, link, clusterId: "test" });
      const isRefused = (): boolean => link.health.detail.includes("ECONNREFUSED");
      await eventually("a refusal", isRefused, { withinMs: 20_000 });
      await expectReason("QUEUE_UNAVAILABLE", () => queue.publish({ taskId: 1, kind: "upload" }));
      await expectReason("QUEUE_UNAVAILABLE", () => queue.depth("upload"));

      expect(link.health).to.include({ isUp: false });
      expect(link.health.detail).not.to.contain("secret");
      await link.stop();
    });
  });
});
