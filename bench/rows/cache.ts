/**
 * Looking an entry up over HTTP (GET /api/files/{id}), linearizable, with and without a cache: in memory and in Redis. And what a
 * Redis that is frozen costs a call. Each kind of cache is a cluster of its own, so that settings are those of a user.
 */
import { startCluster } from "../../test/support/use-cluster.ts";
import { redisClientOf, untilUp } from "../../test/support/redis-client.ts";
import { startOwnService } from "../../test/support/services/services.ts";
import { eventually } from "../../test/support/eventually.ts";
import { must } from "../../src/std/assert.ts";
import { closedLoop, send } from "../http-load.ts";
import { judgeAtMost, spread, summary, type Row } from "../table.ts";

const FILE_COUNT = 500;
const CLIENTS = 16;

interface Lookups {
  readonly perSecond: number[];
  readonly alone: number[];
}

async function lookups(
  environment: Record<string, string>,
  runs: number,
  durationMs: number,
): Promise<Lookups> {
  const cluster = await startCluster({ nodes: 3, environment });
  try {
    const leader = await cluster.leader();
    const { httpUrl } = must(
      cluster.nodes.find((node) => node !== leader),
      "a follower",
    );
    const ids: string[] = [];
    for (let i = 0; i < FILE_COUNT; i += 1) {
      const answer = await send(
        "PUT",
        `${httpUrl}/api/files/content?path=/a/b/c/${i}`,
        Buffer.from(`file ${i}`),
      );
      ids.push((JSON.parse(answer.body.toString()) as { fileId: string }).fileId);
    }
    const look = async (client: number, sequence: number): Promise<void> => {
      const id = ids[(client * 37 + sequence) % ids.length];
      const { status } = await send("GET", `${httpUrl}/api/files/${id}`);
      if (status !== 200) throw new Error(`GET answered ${status}`);
    };
    await closedLoop(CLIENTS, 2000, look);
    const perSecond: number[] = [];
    const alone: number[] = [];
    for (let run = 0; run < runs; run += 1) {
      perSecond.push((await closedLoop(CLIENTS, durationMs, look)).perSecond);
      alone.push(summary((await closedLoop(1, durationMs, look)).latenciesMs).median);
    }
    return { perSecond, alone };
  } finally {
    await cluster.dispose();
  }
}

/** Runs the rows. */
export async function cacheRows(runs: number, durationMs: number): Promise<readonly Row[]> {
  const redis = await startOwnService("redis");
  const rows: Row[] = [];
  try {
    const kinds = { off: {}, memory: {}, redis: { REDIS_URL: redis.url } };
    let without: Lookups | undefined;
    for (const [kind, environment] of Object.entries(kinds)) {
      const found = await lookups({ NETDISK_CACHE_ENTRIES: kind, ...environment }, runs, durationMs);
      without ??= found;
      const ratio = summary(found.perSecond).median / summary(without.perSecond).median;
      rows.push({
        work: `GET /api/files/{id}, linearizable, at a follower, cache ${kind}, ${CLIENTS} clients`,
        measured: `${spread(found.perSecond)}/s, ${spread(found.alone, 2)} ms alone`,
        compared: `${spread(without.perSecond)}/s, ${spread(without.alone, 2)} ms without`,
        ratio: ratio.toFixed(2),
        reach: "-",
        verdict: "not run",
      });
    }
    rows.push(await frozen(redis));
  } finally {
    await redis.dispose();
  }
  return rows;
}

/** What each call costs while Redis is frozen and known to be. */
async function frozen(redis: Awaited<ReturnType<typeof startOwnService>>): Promise<Row> {
  const client = redisClientOf(redis.url, { callTimeoutMs: undefined });
  client.start();
  const alive = setInterval(() => undefined, 1000);
  const ask = (): Promise<unknown> => client.attempt("bench", (connection) => connection.get("x"));
  try {
    await untilUp(client);
    const timed = async (): Promise<number> => {
      const beganMs = performance.now();
      await ask();
      return performance.now() - beganMs;
    };
    const up: number[] = [];
    for (let i = 0; i < 2000; i += 1) up.push(await timed());
    await redis.pause();
    await eventually(
      "it is noticed",
      async () => {
        await ask();
        return !client.health.isUp;
      },
      { withinMs: 30_000, everyMs: 1 },
    );
    const down: number[] = [];
    for (let i = 0; i < 2000; i += 1) down.push(await timed());
    return {
      work: "a call to Redis while it is frozen",
      measured: `${spread(down, 4)} ms`,
      compared: `${spread(up, 4)} ms while it answers`,
      ratio: (summary(down).median / summary(up).median).toFixed(3),
      reach: "<= 5 ms",
      verdict: judgeAtMost(summary(down).max, 5),
    };
  } finally {
    clearInterval(alive);
    await redis.resume();
    await client.stop();
  }
}
