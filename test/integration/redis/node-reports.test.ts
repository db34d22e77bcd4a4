/** What nodes tell of themselves in Redis: told, replaced, gone after its time, and nothing else than what a node would tell. */
import { expect } from "chai";
import { Redis } from "ioredis";
import type { RedisClient } from "../../../src/cache/redis-client.ts";
import {
  RedisNodeReports,
  REPORT_TASK_COUNT_MAX,
  REPORT_TRANSFER_COUNT_MAX,
} from "../../../src/cache/redis-node-reports.ts";
import type { NodeReport } from "../../../src/drive/drive-api.ts";
import { TASK_KINDS } from "../../../src/drive/task.ts";
import { must } from "../../../src/std/assert.ts";
import { eventually } from "../../support/eventually.ts";
import { newPrefix, redisClientOf, untilUp } from "../../support/redis-client.ts";
import { useService } from "../../support/services/services.ts";

function reportOf(seenTimeMs: number, transferCount = 0, taskCount = 0): NodeReport {
  return {
    ...{ seenTimeMs, isReady: true, inflightBytes: 2, appliedIndex: 3, freeBytes: 4, totalBytes: 5 },
    transfers: Array.from({ length: transferCount }, (_, i) => ({
      ...{ id: String(i), kind: "upload", sizeBytes: i % 2 === 0 ? undefined : 9, transferredBytes: i },
    })),
    tasks: Array.from({ length: taskCount }, (_, i) => ({
      ...{ taskId: i, kind: must(TASK_KINDS[i % 3], "a kind"), fence: i + 7, sinceTimeMs: 8 },
      progress: { doneCount: i, totalCount: i % 2 === 0 ? 0 : 99 },
    })),
  };
}

describe("RedisNodeReports", function () {
  this.timeout(60_000);
  const redis = useService("redis");
  let client: RedisClient;
  let prefix: string;

  beforeEach(async () => {
    prefix = newPrefix();
    client = redisClientOf(redis.url, { prefix });
    client.start();
    await untilUp(client);
  });

  afterEach(() => client.stop());

  it("gives each node's newest report, and none of a node that told nothing", async () => {
    const reports = new RedisNodeReports(client);
    await reports.publish(1, reportOf(10, 3, 3));
    await reports.publish(2, { ...reportOf(20), isReady: false });
    await reports.publish(1, reportOf(11, 1, 4));

    const found = await reports.read([1, 2, 3]);

    expect([...found]).to.deep.equal([
      [1, reportOf(11, 1, 4)],
      [2, { ...reportOf(20), isReady: false }],
    ]);
  });

  it("forgets a report after its time", async () => {
    const reports = new RedisNodeReports(client, 100);
    await reports.publish(1, reportOf(10));

    await eventually("it is gone", async () => (await reports.read([1])).size === 0, { withinMs: 30_000 });
  });

  it(`names ${REPORT_TRANSFER_COUNT_MAX} transfers, and of one more not the oldest`, async () => {
    const reports = new RedisNodeReports(client);
    const transfersOf = async (count: number): Promise<readonly string[]> => {
      await reports.publish(1, reportOf(10, count));
      return must((await reports.read([1])).get(1), "a report").transfers.map(({ id }) => id);
    };

    expect(await transfersOf(REPORT_TRANSFER_COUNT_MAX)).to.have.length(REPORT_TRANSFER_COUNT_MAX);
    const newest = await transfersOf(REPORT_TRANSFER_COUNT_MAX + 1);
    expect(newest).to.have.length(REPORT_TRANSFER_COUNT_MAX);
    expect(newest[0]).to.equal("1");
  });

  it(`names ${REPORT_TASK_COUNT_MAX} tasks, and of one more not the one begun first`, async () => {
    const reports = new RedisNodeReports(client);
    const tasksOf = async (count: number): Promise<readonly number[]> => {
      await reports.publish(1, reportOf(10, 0, count));
      return must((await reports.read([1])).get(1), "a report").tasks.map(({ taskId }) => taskId);
    };

    expect(await tasksOf(REPORT_TASK_COUNT_MAX - 1)).to.have.length(REPORT_TASK_COUNT_MAX - 1);
    expect(await tasksOf(REPORT_TASK_COUNT_MAX)).to.have.length(REPORT_TASK_COUNT_MAX);
    const newest = await tasksOf(REPORT_TASK_COUNT_MAX + 1);
    expect(newest).to.have.length(REPORT_TASK_COUNT_MAX);
    expect(newest[0]).to.equal(1);
  });

  it("reads the report of an earlier build, which tells of no tasks", async () => {
    const reports = new RedisNodeReports(client);
    const other = new Redis(redis.url);
    try {
      await reports.publish(1, reportOf(10, 2, 2));
      await other.hdel(`${prefix}:node:1`, "tasks");
      expect((await reports.read([1])).get(1)).to.deep.equal(reportOf(10, 2));
    } finally {
      other.disconnect();
    }
  });

  it("takes no notice of what is no report", async () => {
    const reports = new RedisNodeReports(client);
    const other = new Redis(redis.url);
    const key = `${prefix}:node:1`;
    try {
      for (const [field, value] of [
        ["seen", "yesterday"],
        ["health", "fine"],
        ["load", "{}"],
        ["disk", "[1"],
        ["transfers", "{}"],
        ["tasks", "7"],
      ] as const) {
        await reports.publish(1, reportOf(10));
        expect((await reports.read([1])).size).to.equal(1);
        await other.hset(key, field, value);
        expect((await reports.read([1])).size, field).to.equal(0);
      }
      await reports.publish(1, reportOf(10));
      await other.hset(key, "transfers", '[{"id":1},null,{"id":"7","kind":"upload","transferredBytes":1}]');
      expect((await reports.read([1])).get(1)?.transfers).to.have.length(1);
      const [task] = reportOf(10, 0, 1).tasks;
      const wrong = [null, { ...task, kind: "lunch" }, { ...task, progress: 1 }, { ...task, fence: -1 }];
      await other.hset(key, "tasks", JSON.stringify([...wrong, task]));
      expect((await reports.read([1])).get(1)?.tasks).to.deep.equal([task]);
    } finally {
      other.disconnect();
    }
  });

  it("has none without Redis", async () => {
    const reports = new RedisNodeReports(redisClientOf("127.0.0.1:1"));

    expect(await reports.publish(1, reportOf(1))).to.equal(false);
    expect((await reports.read([1])).size).to.equal(0);
  });
});
