/** Progress of uploads between nodes through Redis, single and cluster, and while it is down: the contract, and its bounds. */
import { expect } from "chai";
import type { RedisClient } from "../../../src/cache/redis-client.ts";
import { CHANGED_COUNT_MAX, PUBLISH_COUNT_MAX, RedisProgress } from "../../../src/cache/redis-progress.ts";
import type { Progress } from "../../../src/drive/drive-api.ts";
import { must } from "../../../src/std/assert.ts";
import { SystemClock } from "../../../src/std/clock.ts";
import type { RelayedTransfer } from "../../../src/transfer/progress-relay.ts";
import { uploadWatchContract } from "../../contract/upload-watch.contract.ts";
import { eventually } from "../../support/eventually.ts";
import { newPrefix, redisClientOf, untilDown, untilUp } from "../../support/redis-client.ts";
import { useRedisCluster } from "../../support/services/redis-cluster.ts";
import { useOwnService } from "../../support/services/services.ts";

/** A transfer with figures. */
function transferOf(
  id: string,
  transferredBytes: number,
  kind: "upload" | "download" = "upload",
): RelayedTransfer {
  const progress: Progress = {
    ...{ id, kind, phase: "receiving", sizeBytes: undefined, transferredBytes },
    ...{ copiedBytes: [1, 2, 3], errorReason: undefined },
  };
  return { id, kind, snapshot: () => progress };
}

for (const kind of ["single", "cluster", "down"] as const) {
  describe(`Progress through Redis, ${kind}`, function () {
    this.timeout(120_000);
    this.slow(10_000);
    const redis =
      kind === "single"
        ? useOwnService("redis")
        : kind === "cluster"
          ? useRedisCluster()
          : { url: "127.0.0.1:1" };
    const relays: { readonly client: RedisClient; readonly relay: RedisProgress }[] = [];

    const open = async (prefix: string): Promise<RedisProgress> => {
      const clock = new SystemClock();
      const client = redisClientOf(redis.url, { prefix });
      const relay = new RedisProgress(clock, client);
      relays.push({ client, relay });
      client.start();
      relay.start();
      await (kind === "down" ? untilDown(client) : untilUp(client));
      return relay;
    };

    afterEach(async () => {
      for (const { client, relay } of relays.splice(0)) {
        await relay.stop();
        await client.stop();
      }
    });

    uploadWatchContract(async () => {
      const prefix = newPrefix();
      return [await open(prefix), await open(prefix)];
    });

    if (kind === "down") return;

    it("tells who listens, and nobody else, until they leave", async () => {
      const prefix = newPrefix();
      const [from, to] = [await open(prefix), await open(prefix)];
      const heard: Progress[] = [];
      const stop = to.listen("1", (progress) => heard.push(progress));
      await eventually(
        "it is heard",
        () => {
          from.changed(transferOf("1", 7));
          from.changed(transferOf("2", 8));
          return heard.length > 0;
        },
        { withinMs: 60_000 },
      );
      expect(heard[0]).to.deep.equal(transferOf("1", 7).snapshot());
      expect(heard.every(({ id }) => id === "1")).to.equal(true);

      stop();
      const heardCount = heard.length;
      const publishedCount = from.publishedCount;
      from.changed(transferOf("1", 9));
      await eventually("it is published", () => from.publishedCount > publishedCount, { withinMs: 60_000 });
      expect(heard).to.have.length(heardCount);
    });

    if (kind === "cluster" || !("kill" in redis)) return;

    it("is heard again after Redis was killed and started", async () => {
      const prefix = newPrefix();
      const [from, to] = [await open(prefix), await open(prefix)];
      let heardCount = 0;
      to.listen("1", () => (heardCount += 1));
      const hear = (): Promise<true> => {
        const before = heardCount;
        return eventually(
          "it is heard",
          () => {
            from.changed(transferOf("1", heardCount));
            return heardCount > before ? true : undefined;
          },
          { withinMs: 60_000 },
        );
      };
      await hear();

      await redis.kill();
      await untilDown(must(relays[1], "a relay").client);
      await redis.start();

      await hear();
    });

    it(`remembers ${CHANGED_COUNT_MAX} changed uploads and not one more, publishes ${PUBLISH_COUNT_MAX} a round, and no downloads`, async () => {
      const relay = await open(newPrefix());
      for (let i = 0; i <= CHANGED_COUNT_MAX; i += 1) {
        relay.changed(transferOf(`d${i}`, 1, "download"));
        relay.changed(transferOf(`${i}`, 1));
        relay.changed(transferOf(`${i}`, 2));
      }
      const counts = new Set<number>();

      await eventually(
        "all are published",
        () => {
          counts.add(relay.publishedCount);
          return relay.publishedCount >= CHANGED_COUNT_MAX;
        },
        { withinMs: 60_000, everyMs: 5 },
      );

      expect(relay.publishedCount).to.equal(CHANGED_COUNT_MAX);
      expect([...counts].every((count) => count % PUBLISH_COUNT_MAX === 0)).to.equal(true);
    });
  });
}
