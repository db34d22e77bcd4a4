/** What every TaskQueue does; run for the one in memory and for RabbitMQ. */
import { expect } from "chai";
import type { TaskKind } from "../../src/drive/task.ts";
import { DELIVERY_LIMIT, type Delivery, type TaskQueue } from "../../src/tasks/task-queue.ts";
import { eventually } from "../support/eventually.ts";

const WITHIN_MS = 20_000;

/** A queue, empty, and a way to end it. */
export interface QueueUnderTest {
  readonly queue: TaskQueue;
  readonly close: () => Promise<void>;
}

/** Deliveries as they come, with a wait for a number of them. */
class Inbox {
  readonly deliveries: Delivery[] = [];
  readonly take = (delivery: Delivery): void => void this.deliveries.push(delivery);

  get ids(): number[] {
    return this.deliveries.map(({ taskId }) => taskId);
  }

  async holds(count: number): Promise<void> {
    await eventually(`${count} deliveries`, () => this.deliveries.length >= count, { withinMs: WITHIN_MS });
  }

  settleAll(settlement: "done" | "again" | "dead"): void {
    for (const delivery of this.deliveries.splice(0)) delivery.settle(settlement);
  }
}

/** Declares the suite. @param open makes an empty queue */
export function describeTaskQueue(name: string, open: () => Promise<QueueUnderTest>): void {
  describe(`TaskQueue: ${name}`, function () {
    this.timeout(60_000);
    let opened: QueueUnderTest;
    let queue: TaskQueue;

    beforeEach(async () => {
      opened = await open();
      queue = opened.queue;
    });

    afterEach(() => opened.close());

    const publish = async (kind: TaskKind, ...ids: number[]): Promise<void> => {
      for (const taskId of ids) await queue.publish({ taskId, kind });
    };

    const depthIs = async (kind: TaskKind, readyCount: number, deadCount: number): Promise<void> => {
      const isSo = async (): Promise<boolean> => {
        const depth = await queue.depth(kind);
        return depth.readyCount === readyCount && depth.deadCount === deadCount;
      };
      await eventually(`${readyCount} messages ready and ${deadCount} dead`, isSo, { withinMs: WITHIN_MS });
    };

    it("delivers what was published before and after a consumer came, each once", async () => {
      const inbox = new Inbox();
      await publish("upload", 1, 2);
      queue.consume("upload", 10, inbox.take);
      await publish("upload", 3);
      await inbox.holds(3);

      expect(new Set(inbox.ids)).to.deep.equal(new Set([1, 2, 3]));
      inbox.settleAll("done");
      await depthIs("upload", 0, 0);
      expect(inbox.ids).to.deep.equal([]);
    });

    it("keeps the kinds apart", async () => {
      const uploads = new Inbox();
      const copies = new Inbox();
      queue.consume("upload", 10, uploads.take);
      queue.consume("replication", 10, copies.take);
      await publish("replication", 5);
      await publish("upload", 6);
      await uploads.holds(1);
      await copies.holds(1);

      expect([uploads.ids, copies.ids]).to.deep.equal([[6], [5]]);
      expect(await queue.depth("download")).to.deep.equal({ readyCount: 0, deadCount: 0 });
    });

    it("hands out as many as the consumer wants unsettled, and the next when one is settled", async () => {
      const inbox = new Inbox();
      await publish("download", 1, 2, 3, 4);
      queue.consume("download", 2, inbox.take);
      await inbox.holds(2);
      await depthIs("download", 2, 0);
      expect(inbox.deliveries).to.have.length(2);

      inbox.deliveries[0]?.settle("done");
      await inbox.holds(3);
      await depthIs("download", 1, 0);
      expect(inbox.deliveries).to.have.length(3);
    });

    it("delivers again what was given back, and takes one word only for each delivery", async () => {
      const inbox = new Inbox();
      await publish("upload", 7);
      queue.consume("upload", 5, inbox.take);
      await inbox.holds(1);
      const [first] = inbox.deliveries;
      first?.settle("again");
      first?.settle("dead");
      await inbox.holds(2);

      expect(inbox.ids).to.deep.equal([7, 7]);
      inbox.settleAll("done");
      await depthIs("upload", 0, 0);
    });

    it("puts aside what is said to be dead", async () => {
      const inbox = new Inbox();
      await publish("upload", 1, 2);
      queue.consume("upload", 5, inbox.take);
      await inbox.holds(2);
      inbox.settleAll("dead");

      await depthIs("upload", 0, 2);
      expect(inbox.deliveries).to.deep.equal([]);
    });

    it("puts aside what comes back too often", async () => {
      let deliveryCount = 0;
      await publish("replication", 9);
      queue.consume("replication", 1, (delivery) => {
        deliveryCount += 1;
        delivery.settle("again");
      });

      await depthIs("replication", 0, 1);
      expect(deliveryCount).to.equal(DELIVERY_LIMIT + 1);
    });

    it("gives what a consumer left unsettled to the next one", async () => {
      const first = new Inbox();
      const second = new Inbox();
      await publish("upload", 1, 2);
      const end = queue.consume("upload", 5, first.take);
      await first.holds(2);
      first.deliveries[0]?.settle("done");
      const keptId = first.ids[1];
      await end();
      queue.consume("upload", 5, second.take);
      await second.holds(1);

      expect(second.ids).to.deep.equal([keptId]);
      first.settleAll("done");
      second.settleAll("done");
      await depthIs("upload", 0, 0);
    });
  });
}
