/** A cache of values with versions that all nodes share, in Redis. Values live for a bounded time, also those that nobody asks for. */
import type { RedisClient } from "./redis-client.ts";
import { VALUE_SIZE_BYTES_MAX, type Versioned, type VersionedCache } from "./entry-cache.ts";

/** How long a value is kept. */
export const VALUE_LIFE_MS = 10 * 60_000;

// Compare and set in one step: two nodes may come with values of different age at the same time.
const PUT_SCRIPT = `
local held = redis.call('HGET', KEYS[1], 'v')
if held and tonumber(held) >= tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], 'v', ARGV[1], 'b', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1`;

/** See the file's comment. */
export class RedisCache implements VersionedCache {
  readonly #client: RedisClient;

  constructor(client: RedisClient) {
    this.#client = client;
  }

  async get(key: string): Promise<Versioned | undefined> {
    const answer = await this.#client.attempt("cache_get", (redis) =>
      redis.hmget(this.#client.key("entry", key), "v", "b"),
    );
    if (!answer.ok) return undefined;
    const [text, value] = answer.value;
    const version = Number(text);
    if (typeof value !== "string" || !Number.isSafeInteger(version) || version < 1) return undefined;
    return { version, value };
  }

  async putNewer(key: string, { version, value }: Versioned): Promise<boolean> {
    if (value.length > VALUE_SIZE_BYTES_MAX) return false;
    const answer = await this.#client.attempt("cache_put", (redis) =>
      redis.eval(PUT_SCRIPT, 1, this.#client.key("entry", key), version, value, VALUE_LIFE_MS),
    );
    return answer.ok && answer.value === 1;
  }
}
