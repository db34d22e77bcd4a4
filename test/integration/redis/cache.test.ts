/** The cache of entries in Redis, single and cluster: the contracts, with real clients of two nodes, and without Redis. */
import { expect } from "chai";
import type { VersionedCache } from "../../../src/cache/entry-cache.ts";
import { RedisCache } from "../../../src/cache/redis-cache.ts";
import type { RedisClient } from "../../../src/cache/redis-client.ts";
import { cachedStatContract } from "../../contract/cached-stat.contract.ts";
import { versionedCacheContract } from "../../contract/versioned-cache.contract.ts";
import { newPrefix, redisClientOf, untilUp } from "../../support/redis-client.ts";
import { useRedisCluster } from "../../support/services/redis-cluster.ts";
import { useService } from "../../support/services/services.ts";

for (const kind of ["single", "cluster"] as const) {
  describe(`RedisCache, ${kind}`, function () {
    this.timeout(120_000);
    this.slow(10_000);
    const redis = kind === "single" ? useService("redis") : useRedisCluster();
    const clients: RedisClient[] = [];

    const open = async (nodeCount: number): Promise<readonly VersionedCache[]> => {
      const prefix = newPrefix();
      const opened = Array.from({ length: nodeCount }, () => redisClientOf(redis.url, { prefix }));
      clients.push(...opened);
      for (const client of opened) client.start();
      await Promise.all(opened.map(untilUp));
      return opened.map((client) => new RedisCache(client));
    };

    afterEach(async () => {
      await Promise.all(clients.splice(0).map((client) => client.stop()));
    });

    versionedCacheContract(open);
    cachedStatContract(open, { seeds: kind === "single" ? [1, 2] : [3], stepCount: 150 });

    it("has nothing and keeps nothing while Redis is not there", async () => {
      const cache = new RedisCache(redisClientOf("127.0.0.1:1"));

      expect(await cache.get("a")).to.equal(undefined);
      expect(await cache.putNewer("a", { version: 1, value: "one" })).to.equal(false);
    });
  });
}
