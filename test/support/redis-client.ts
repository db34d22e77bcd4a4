/** Clients of Redis for tests: with names of their own in a server that others may use, and patient on a busy machine. */
import { RedisClient, type RedisClientOptions } from "../../src/cache/redis-client.ts";
import { parseRedisUrl } from "../../src/config/redis-url.ts";
import { must } from "../../src/std/assert.ts";
import { SystemClock } from "../../src/std/clock.ts";
import { SystemPrng } from "../../src/std/prng.ts";
import { toHex } from "../../src/std/bytes.ts";
import { eventually } from "./eventually.ts";

/** A call of a test may wait this long: what is tested is never how fast this machine is. */
const PATIENT_TIMEOUT_MS = 10_000;

/** Begins names that nobody else uses. */
export function newPrefix(): string {
  return `netdisk-test:${toHex(new SystemPrng().bytes(8))}`;
}

/** A client of the server that `url` names; start() it. */
export function redisClientOf(url: string, options: Partial<RedisClientOptions> = {}): RedisClient {
  return new RedisClient({
    clock: new SystemClock(),
    ...must(parseRedisUrl(url), "an address of Redis"),
    prefix: newPrefix(),
    callTimeoutMs: PATIENT_TIMEOUT_MS,
    ...options,
  });
}

/** Resolves when Redis answers. */
export async function untilUp(client: RedisClient): Promise<void> {
  await eventually(
    "Redis is up",
    () => {
      if (client.health.isUp) return true;
      throw new Error(client.health.detail);
    },
    { withinMs: 60_000, everyMs: 10 },
  );
}

/** Resolves when it is known that Redis does not answer. */
export async function untilDown(client: RedisClient): Promise<void> {
  await eventually("Redis is known to be down", () => !client.health.isUp, { withinMs: 60_000, everyMs: 10 });
}
