/**
 * Cluster time and what ends by it.
 *
 * clusterTimeMs moves only by advance-clock commands of the leader, never back (the cluster clock of LogCabin). Leases,
 * expiry, retention and collection use it alone, so no node's wall clock matters. expire does a bounded amount of what is due.
 */
import { CLOCK_ADVANCE_MS_MAX } from "../drive/limits.ts";
import type { OrderedReader } from "../std/ordered-store.ts";
import type { ResultValue } from "./commands.ts";
import { dropDue } from "./contents.ts";
import { refuse, scanPrefix, type ApplyContext } from "./context.ts";
import { makeKey, numberInKey, TABLE } from "./keys.ts";
import { expireRequests } from "./requests.ts";
import { areTasksDue, expireTasks } from "./tasks.ts";
import { expireUploads } from "./uploads.ts";

/** advance-clock. */
export function advanceClock(context: ApplyContext, elapsedMs: number): ResultValue {
  if (elapsedMs > CLOCK_ADVANCE_MS_MAX) {
    refuse("ARGUMENT_INVALID", `Cluster time moves at most ${CLOCK_ADVANCE_MS_MAX} ms at once.`, {
      elapsed_ms: String(elapsedMs),
    });
  }
  context.state.clusterTimeMs += elapsedMs;
  return { kind: "none" };
}

/** Whether something has been due at a cluster time. */
export function isExpiryDue(reader: OrderedReader, clusterTimeMs: number): boolean {
  if (areTasksDue(reader, clusterTimeMs)) return true;
  return [TABLE.uploadExpiry, TABLE.requestExpiry, TABLE.dropQueue].some((table) => {
    const first = scanPrefix(reader, makeKey(table, []), 1)[0];
    return first !== undefined && numberInKey(first.key, 0) <= clusterTimeMs;
  });
}

/** expire. */
export function expire(context: ApplyContext): ResultValue {
  const { batchItemCountMax } = context.limits;
  let itemCount = expireUploads(context, batchItemCountMax);
  itemCount += expireRequests(context, batchItemCountMax - itemCount);
  itemCount += dropDue(context, batchItemCountMax - itemCount);
  itemCount += expireTasks(context, Math.max(0, batchItemCountMax - itemCount));
  return { kind: "batch", itemCount, more: isExpiryDue(context, context.state.clusterTimeMs) };
}
