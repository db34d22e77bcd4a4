/**
 * How many requests a client may send: the generic cell rate algorithm (GCRA, ITU-T I.371). Pure; one number a client.
 *
 * That number is the theoretical arrival time: when the client would be done if its requests came evenly. A request moves it on by
 * the interval between requests; it may lie ahead of now by the window at most. So `countMax` requests may come at once, and
 * after that as many a window, without the burst at the border that counting by fixed windows allows.
 */

/** A bound: so many requests in so many milliseconds. */
export interface RateLimit {
  /** At least 1. */
  readonly countMax: number;
  /** At least 1. */
  readonly windowMs: number;
}

/** Whether a request may come, and what to remember. */
export type RateDecision =
  | { readonly allowed: true; readonly arrivalMs: number }
  | { readonly allowed: false; readonly retryAfterMs: number };

/**
 * Decides on a request at `nowMs`.
 * @param arrivalMs what the last decision that allowed one said; undefined for a client that is not known
 * @returns the time to remember; or, for a request that is refused and does not count, when one would be allowed
 */
export function decideRate(limit: RateLimit, arrivalMs: number | undefined, nowMs: number): RateDecision {
  const intervalMs = limit.windowMs / limit.countMax;
  const nextMs = Math.max(arrivalMs ?? nowMs, nowMs) + intervalMs;
  const aheadMs = nextMs - nowMs - limit.windowMs;
  // Sums of fractions: a request that is right on time must not be refused for a rounding error.
  return aheadMs > 1e-6 ? { allowed: false, retryAfterMs: aheadMs } : { allowed: true, arrivalMs: nextMs };
}

/**
 * What a client is counted by: its IPv4 address, or the /64 network of its IPv6 address, because one client has as many
 * addresses there as it likes. Anything else is counted as it is.
 */
export function clientKey(address: string): string {
  const [bare = ""] = address.toLowerCase().split("%");
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/.exec(bare);
  if (mapped?.[1] !== undefined) return mapped[1];
  if (!bare.includes(":")) return bare;
  const [head = "", tail] = bare.split("::");
  const before = head === "" ? [] : head.split(":");
  const after = tail === undefined || tail === "" ? [] : tail.split(":");
  const zeros = tail === undefined ? 0 : Math.max(0, 8 - before.length - after.length);
  const groups = [...before, ...Array.from({ length: zeros }, () => "0"), ...after];
  return `${groups.slice(0, 4).map(trimZeros).join(":")}::/64`;
}

function trimZeros(group: string): string {
  return group.replace(/^0+(?=.)/, "");
}
