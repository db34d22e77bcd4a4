/**
 * Redis killed, frozen, cut, full, with a wrong password. What must hold each time: a call never throws, nothing is sent while it
 * is known not to answer, and it is used again by itself afterwards.
 */
import { expect } from "chai";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Redis } from "ioredis";
import type { RedisClient, RedisClientOptions } from "../../../src/cache/redis-client.ts";
import { CALL_COUNT_MAX } from "../../../src/cache/redis-client.ts";
import { must } from "../../../src/std/assert.ts";
import { deferred } from "../../../src/std/deferred.ts";
import { CertificateAuthority } from "../../support/certificates.ts";
import { eventually } from "../../support/eventually.ts";
import { redisClientOf, untilDown, untilUp } from "../../support/redis-client.ts";
import { useRedisCluster } from "../../support/services/redis-cluster.ts";
import { useOwnService } from "../../support/services/services.ts";

const INCREMENT = "return redis.call('INCR', KEYS[1])";

/** Counts a key up; undefined when Redis did not answer. */
async function increment(client: RedisClient, name = "count"): Promise<number | undefined> {
  const answer = await client.attempt("count", (redis) => redis.eval(INCREMENT, 1, client.key(name)));
  return answer.ok ? Number(answer.value) : undefined;
}

describe("RedisClient", function () {
  this.timeout(120_000);
  this.slow(10_000);
  const redis = useOwnService("redis");
  const clients: RedisClient[] = [];

  const open = (options: Partial<RedisClientOptions> = {}, url = redis.url): RedisClient => {
    const client = redisClientOf(url, options);
    clients.push(client);
    client.start();
    return client;
  };

  const command = async (...words: readonly string[]): Promise<unknown> => {
    const [name = "", ...rest] = words;
    const admin = new Redis(redis.url);
    try {
      return await admin.call(name, ...rest);
    } finally {
      admin.disconnect();
    }
  };

  afterEach(async () => {
    await Promise.all(clients.splice(0).map((client) => client.stop()));
  });

  /** Neither is a call sent while Redis does not answer, nor does one wait: many are refused within one turn. */
  const expectRefused = async (client: RedisClient): Promise<void> => {
    const sentBefore = client.sentCount;
    const answers = await Promise.all(Array.from({ length: 1000 }, () => increment(client)));
    expect(answers.every((answer) => answer === undefined)).to.equal(true);
    expect(client.sentCount).to.equal(sentBefore);
  };

  it("refuses before it is connected, and answers afterwards", async () => {
    const client = redisClientOf(redis.url);
    clients.push(client);
    await expectRefused(client);
    expect(client.health).to.deep.include({ isUp: false, detail: "It was not asked yet." });

    client.start();
    await untilUp(client);

    expect(await increment(client)).to.equal(1);
    expect(await increment(client)).to.equal(2);
    expect(client.health).to.deep.include({ isUp: true, detail: "" });
  });

  it("is down, and touches no other database, when the server has not the one that it is told to use", async () => {
    await command("FLUSHALL");
    const inside = open({ database: 15 });
    const outside = open({ database: 16 });
    await untilUp(inside);
    await eventually("it is said", () => outside.health.detail !== "It was not asked yet.", {
      withinMs: 30_000,
    });

    expect(outside.health).to.deep.include({ isUp: false, detail: "ERR DB index is out of range" });
    expect(await increment(inside)).to.equal(1);
    expect(await command("DBSIZE")).to.equal(0);
  });

  it("bears three kills and restarts under load", async () => {
    const client = open();
    await untilUp(client);
    let load = true;
    let answered = 0;
    const running = (async () => {
      while (load) {
        if ((await increment(client)) !== undefined) answered += 1;
        await new Promise((resolve) => setImmediate(resolve));
      }
    })();

    for (let i = 0; i < 3; i += 1) {
      await redis.kill();
      await untilDown(client);
      expect(client.health.detail).to.not.equal("");
      await redis.start();
      await untilUp(client);
      const before = answered;
      await eventually("calls are answered again", () => answered > before, { withinMs: 30_000 });
    }
    load = false;
    await running;
  });

  it("bears a server that is frozen: some calls wait their bound, then none is sent", async () => {
    const client = open({ callTimeoutMs: 100 });
    await untilUp(client);

    await redis.pause();
    try {
      await Promise.all(Array.from({ length: 20 }, () => increment(client)));
      await untilDown(client);
      expect(client.health.detail).to.match(/no answer within/);
      await expectRefused(client);
      const times: number[] = [];
      for (let i = 0; i < 1000; i += 1) {
        const beganMs = performance.now();
        await increment(client);
        times.push(performance.now() - beganMs);
      }
      // Nothing is sent, so this is no matter of speed: 5 ms is a thousand times what it takes.
      expect(must(times.sort((a, b) => a - b)[500], "a time")).to.be.lessThan(5);
    } finally {
      await redis.resume();
    }

    await untilUp(client);
    await eventually("it counts again", async () => (await increment(client)) !== undefined, {
      withinMs: 30_000,
    });
  });

  it("makes a new connection when its own was cut", async () => {
    const client = open();
    await untilUp(client);
    for (let i = 0; i < 3; i += 1) {
      await command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes");
      await eventually("it counts again", async () => (await increment(client)) !== undefined, {
        withinMs: 30_000,
      });
    }
  });

  it("forgets with a server that was flushed, and nothing else", async () => {
    const client = open();
    await untilUp(client);
    await increment(client);

    await command("FLUSHALL");

    expect(await increment(client)).to.equal(1);
  });

  it("leaves a full server alone and says why, until it has room again", async () => {
    const client = open();
    await untilUp(client);
    const filler = "x".repeat(1024 * 1024);

    await command("SET", "filler", filler);
    await command("CONFIG", "SET", "maxmemory", "1mb");
    await eventually(
      "it is noticed",
      async () => {
        await increment(client);
        return !client.health.isUp;
      },
      { withinMs: 30_000, everyMs: 10 },
    );
    expect(client.health.detail).to.match(/OOM|maxmemory/);
    await expectRefused(client);

    await command("CONFIG", "SET", "maxmemory", "0");
    await untilUp(client);
    expect(await increment(client)).to.be.a("number");
  });

  it("says that a password is wrong, and takes one that is right", async () => {
    await command("CONFIG", "SET", "requirepass", "right");
    try {
      const wrong = open({ password: "wrong" });
      const none = open();
      const right = open({ password: "right" });
      await untilUp(right);
      expect(await increment(right)).to.equal(1);
      for (const client of [wrong, none]) {
        await eventually("it is said", () => /WRONGPASS|NOAUTH/.test(client.health.detail), {
          withinMs: 30_000,
        });
        await expectRefused(client);
      }
    } finally {
      const admin = new Redis(redis.url, { password: "right" });
      await admin.config("SET", "requirepass", "");
      admin.disconnect();
    }
  });

  it(`lets ${CALL_COUNT_MAX} calls wait at once and refuses one more`, async () => {
    const client = open();
    await untilUp(client);
    const gate = deferred<void>();
    const waiting = Array.from({ length: CALL_COUNT_MAX }, () => client.attempt("wait", () => gate.promise));

    const refused = await increment(client);
    gate.resolve();
    const waited = await Promise.all(waiting);

    expect(refused).to.equal(undefined);
    expect(waited.every(({ ok }) => ok)).to.equal(true);
    expect(await increment(client)).to.equal(1);
  });

  it("tells of each call what became of it", async () => {
    const seen: string[] = [];
    const client = open({ onCall: (call, _ms, outcome) => seen.push(`${call} ${outcome}`) });
    await untilUp(client);

    await increment(client);
    const failed = await client.attempt("wrong", (connection) =>
      connection.eval("return redis.call('nothing')", 0),
    );
    await client.stop();
    await increment(client);

    expect(failed).to.deep.equal({ ok: false });
    expect(seen).to.deep.equal(["count done", "wrong failed", "count refused"]);
  });
});

describe("RedisClient with a cluster", function () {
  this.timeout(120_000);
  this.slow(10_000);
  const cluster = useRedisCluster();

  it("uses all masters, and is down while one of them is", async () => {
    const client = redisClientOf(cluster.url);
    client.start();
    try {
      await untilUp(client);
      const counts = await Promise.all(Array.from({ length: 50 }, (_, i) => increment(client, `key ${i}`)));
      expect(counts).to.deep.equal(Array.from({ length: 50 }, () => 1));

      await cluster.masters[2]?.kill();
      await untilDown(client);
      await cluster.masters[2]?.start();
      await untilUp(client);
      await eventually("it counts again", async () => (await increment(client)) !== undefined, {
        withinMs: 30_000,
      });
    } finally {
      await client.stop();
    }
  });
});

describe("RedisClient with a cluster over TLS", function () {
  this.timeout(120_000);
  this.slow(20_000);
  const directory = mkdtempSync(join(tmpdir(), "netdisk-redis-cluster-tls-"));
  let authority: CertificateAuthority;
  const cluster = useRedisCluster({
    hasReplica: true,
    tls: async () => {
      authority = await CertificateAuthority.make(directory);
      const subject = { name: "redis", hosts: ["localhost"], addresses: ["127.0.0.1"] };
      return { ...(await authority.issue(subject)), authorityPath: authority.certificatePath };
    },
  });

  after(() => rmSync(directory, { recursive: true, force: true }));

  it("knows every master by its certificate, and refuses them where their authority is not known", async () => {
    const knowing = redisClientOf(cluster.url, {
      authority: readFileSync(authority.certificatePath, "utf8"),
    });
    const ignorant = redisClientOf(cluster.url);
    knowing.start();
    ignorant.start();
    try {
      await untilUp(knowing);
      const counts = await Promise.all(Array.from({ length: 50 }, (_, i) => increment(knowing, `key ${i}`)));
      await eventually("it is said", () => ignorant.health.detail !== "It was not asked yet.", {
        withinMs: 30_000,
      });

      expect(counts).to.deep.equal(Array.from({ length: 50 }, () => 1));
      expect(ignorant.health.isUp).to.equal(false);
      expect(ignorant.health.detail).to.equal("None of startup nodes is available");
    } finally {
      await knowing.stop();
      await ignorant.stop();
    }
  });

  it("is up again by itself once a replica has taken the place of a master that is gone", async () => {
    const client = redisClientOf(cluster.url, { authority: readFileSync(authority.certificatePath, "utf8") });
    client.start();
    try {
      await untilUp(client);

      await must(cluster.masters.at(-1), "a master").kill();
      await untilDown(client);
      await untilUp(client);
      const counts = await Promise.all(Array.from({ length: 50 }, (_, i) => increment(client, `new ${i}`)));

      expect(counts).to.deep.equal(Array.from({ length: 50 }, () => 1));
      const replica = new Redis(must(cluster.replica, "the replica").url);
      expect(await replica.call("ROLE")).to.include("master");
      replica.disconnect();
    } finally {
      await client.stop();
    }
  });
});
