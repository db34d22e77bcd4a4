/** Counters of requests in Redis, single and cluster: the contract, one count for all gateways, and what happens without Redis. */
import { expect } from "chai";
import type { RedisClient } from "../../../src/cache/redis-client.ts";
import { RedisRequestCounters } from "../../../src/cache/redis-request-counters.ts";
import {
  EmbeddedRequestCounters,
  type RequestCounters,
  type RequestLimits,
} from "../../../src/cache/request-counters.ts";
import { must } from "../../../src/std/assert.ts";
import { SystemClock } from "../../../src/std/clock.ts";
import { requestCountersContract } from "../../contract/request-counters.contract.ts";
import { newPrefix, redisClientOf, untilDown, untilUp } from "../../support/redis-client.ts";
import { useRedisCluster } from "../../support/services/redis-cluster.ts";
import { useOwnService } from "../../support/services/services.ts";

const LIMITS = { perAddress: { countMax: 5, windowMs: 3_600_000 }, inAll: undefined };

for (const kind of ["single", "cluster"] as const) {
  describe(`RedisRequestCounters, ${kind}`, function () {
    this.timeout(120_000);
    this.slow(10_000);
    const redis = kind === "single" ? useOwnService("redis") : useRedisCluster();
    const clients: RedisClient[] = [];

    const open = async (limits: RequestLimits, prefix = newPrefix()): Promise<RequestCounters> => {
      const client = redisClientOf(redis.url, { prefix });
      clients.push(client);
      client.start();
      await untilUp(client);
      const own = new EmbeddedRequestCounters(new SystemClock(), limits);
      return new RedisRequestCounters(client, limits, own);
    };

    afterEach(async () => {
      await Promise.all(clients.splice(0).map((client) => client.stop()));
    });

    requestCountersContract((limits) => open(limits));

    it("counts once for all gateways", async () => {
      const prefix = newPrefix();
      const gateways = [await open(LIMITS, prefix), await open(LIMITS, prefix), await open(LIMITS, prefix)];

      const decisions = await Promise.all(
        Array.from({ length: 10 }, (_, i) => must(gateways[i % 3], "a gateway").take("192.0.2.1")),
      );

      expect(decisions.filter((decision) => decision.allowed)).to.have.length(5);
    });

    if (kind === "cluster" || !("kill" in redis)) return;

    it("counts by itself while Redis is down, and again with the others afterwards", async () => {
      const counters = await open(LIMITS);
      const [client] = clients;
      const take = async (): Promise<boolean> => (await counters.take("192.0.2.1")).allowed;
      await redis.kill();
      try {
        if (client !== undefined) await untilDown(client);

        for (let i = 0; i < 5; i += 1) expect(await take()).to.equal(true);
        expect(await take()).to.equal(false);
      } finally {
        await redis.start();
      }

      if (client !== undefined) await untilUp(client);
      expect(await take()).to.equal(true);
    });
  });
}
