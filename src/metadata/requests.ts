/**
 * The request table: exactly-once application of commands that carry a request id.
 *
 * The answer, refusal or not, is remembered until the command's deadline in cluster time; the same id again gets it and changes
 * nothing. After the deadline a command is refused, so an answer that was forgotten can never be needed: a retry must carry the
 * deadline of the first attempt. The table is bounded; full means OVERLOADED, which is not remembered.
 */
import { REQUEST_ID_SIZE_BYTES_MAX, REQUEST_RETENTION_MS } from "../drive/limits.ts";
import { decodeResult, encodeResult } from "./codec.ts";
import type { Command, CommandResult } from "./commands.ts";
import { readRecord, refuse, type ApplyContext } from "./context.ts";
import { makeKey, NOTHING, requestExpiryKey, requestKey, TABLE, textInKey } from "./keys.ts";
import { requestCodec } from "./records.ts";

/** Expired answers that a full table forgets to make room, before it refuses. */
const MAKE_ROOM_COUNT = 64;

const isTooLong = (requestId: string): boolean =>
  Buffer.byteLength(requestId, "utf8") > REQUEST_ID_SIZE_BYTES_MAX;

/** The remembered answer to a request, expired or not. */
export function findAnswer(context: ApplyContext, requestId: string): CommandResult | undefined {
  if (requestId === "" || isTooLong(requestId)) return undefined;
  const record = readRecord(context, requestKey(requestId), requestCodec);
  return record === undefined ? undefined : decodeResult(record.result);
}

/** Refuses a command that came too late, has no proper request id, or finds the table full. */
export function admit(context: ApplyContext, command: Command): void {
  const { requestCountMax } = context.limits;
  const { requestId, deadlineMs } = command;
  const { clusterTimeMs } = context.state;
  if (deadlineMs > 0 && deadlineMs <= clusterTimeMs) {
    refuse("REQUEST_EXPIRED", "The request came after its deadline.", {
      deadline_ms: String(deadlineMs),
      cluster_time_ms: String(clusterTimeMs),
    });
  }
  if (deadlineMs > clusterTimeMs + REQUEST_RETENTION_MS) {
    refuse("ARGUMENT_INVALID", `A deadline is at most ${REQUEST_RETENTION_MS} ms ahead.`, {
      deadline_ms: String(deadlineMs),
      cluster_time_ms: String(clusterTimeMs),
    });
  }
  if (requestId === "") return;
  if (isTooLong(requestId)) {
    refuse("ARGUMENT_INVALID", `A request id has at most ${REQUEST_ID_SIZE_BYTES_MAX} bytes.`, {
      size_bytes: String(Buffer.byteLength(requestId, "utf8")),
    });
  }
  if (context.state.requestCount < requestCountMax || expireRequests(context, MAKE_ROOM_COUNT) > 0) return;
  refuse("OVERLOADED", `${requestCountMax} requests are remembered, as many as may be.`, {
    request_count_max: String(requestCountMax),
  });
}

/** Remembers the answer to a command. Its request was looked for by findAnswer() and not found. */
export function remember(context: ApplyContext, command: Command, result: CommandResult): void {
  const { requestId, deadlineMs } = command;
  if (requestId === "") return;
  const expireTimeMs = deadlineMs > 0 ? deadlineMs : context.state.clusterTimeMs + REQUEST_RETENTION_MS;
  context.insert(requestKey(requestId), requestCodec.encode({ expireTimeMs, result: encodeResult(result) }));
  context.insert(requestExpiryKey(expireTimeMs, requestId), NOTHING);
  context.state.requestCount += 1;
}

/** Forgets answers whose time has come, at most `countMax`. Returns how many. */
export function expireRequests(context: ApplyContext, countMax: number): number {
  const to = makeKey(TABLE.requestExpiry, [context.state.clusterTimeMs + 1]);
  const due = [...context.range({ from: makeKey(TABLE.requestExpiry, []), to, countMax })];
  for (const { key } of due) {
    context.delete(key);
    context.delete(requestKey(textInKey(key, 1)));
    context.state.requestCount -= 1;
  }
  return due.length;
}
