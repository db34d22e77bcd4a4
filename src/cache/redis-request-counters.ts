/**
 * Counters of requests that all gateways share, in Redis; while it does not answer, those of this node.
 *
 * The script is rate-limit.ts in Lua, on the clock of the server, so that the gateways' clocks do not matter. Both keys lie in
 * one slot of a cluster: one call decides on both bounds or counts neither.
 */
import { clientKey, type RateLimit } from "./rate-limit.ts";
import type { RedisClient } from "./redis-client.ts";
import type { RequestCounters, RequestDecision, RequestLimits } from "./request-counters.ts";

// Arguments: count and window of each bound, count 0 for none. Answers 0, or which bound refuses and for how long (us).
const SCRIPT = `
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000
local next = {}
for i = 1, 2 do
  local count, window = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
  if count > 0 then
    local arrival = math.max(tonumber(redis.call('GET', KEYS[i])) or now, now)
    if arrival - now > window then arrival = now + window end
    next[i] = arrival + window / count
    local ahead = next[i] - now - window
    if ahead > 0.001 then return {i, math.ceil(ahead * 1000)} end
  end
end
for i = 1, 2 do
  if next[i] then redis.call('SET', KEYS[i], string.format('%.4f', next[i]), 'PX', math.ceil(next[i] - now) + 1) end
end
return {0, 0}`;

/** See the file's comment. */
export class RedisRequestCounters implements RequestCounters {
  readonly #client: RedisClient;
  readonly #own: RequestCounters;
  readonly #arguments: readonly string[];

  /** @param own counts while Redis does not answer */
  constructor(client: RedisClient, limits: RequestLimits, own: RequestCounters) {
    this.#client = client;
    this.#own = own;
    this.#arguments = [limits.perAddress, limits.inAll].flatMap(argumentsOf);
  }

  async take(address: string): Promise<RequestDecision> {
    const keys = [this.#client.key("{rate}", clientKey(address)), this.#client.key("{rate}", "all")];
    const answer = await this.#client.attempt("rate", (redis) =>
      redis.eval(SCRIPT, keys.length, ...keys, ...this.#arguments),
    );
    const decision = answer.ok ? decisionOf(answer.value) : undefined;
    return decision ?? this.#own.take(address);
  }
}

function argumentsOf(limit: RateLimit | undefined): readonly string[] {
  return limit === undefined ? ["0", "1"] : [String(limit.countMax), String(limit.windowMs)];
}

/** What the script answered; undefined when that is not what it answers. */
function decisionOf(answer: unknown): RequestDecision | undefined {
  if (!Array.isArray(answer)) return undefined;
  const [bound, aheadUs] = answer.map(Number);
  if (bound === 0) return { allowed: true };
  if ((bound !== 1 && bound !== 2) || aheadUs === undefined || !(aheadUs > 0)) return undefined;
  return { allowed: false, scope: bound === 1 ? "address" : "all", retryAfterMs: aheadUs / 1000 };
}
