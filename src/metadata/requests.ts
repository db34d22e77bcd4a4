/**
 * The request table: exactly-once application of commands that carry a request id.
 *
 * The answer, refusal or not, is remembered until the command's deadline in cluster time; the same id again gets it and changes
 * nothing. What was asked for is remembered as a fingerprint: the same id for another change is REQUEST_ID_REUSED. After the deadline a command is refused, so an answer that was forgotten can never be needed: a retry must carry the
 * deadline of the first attempt. The table is bounded; full means OVERLOADED, which is not remembered. Nor is it that a one-shot
 * upload came too late for its upload: each attempt of such a request has an upload of its own, and the next may succeed.
 */
import { REQUEST_ID_SIZE_BYTES_MAX, REQUEST_RETENTION_MS } from "../drive/limits.ts";
import { DriveError } from "../drive/errors.ts";
import { bytesEqual } from "../std/bytes.ts";
import { sha256 } from "../std/digest.ts";
import type { OrderedReader } from "../std/ordered-store.ts";
import { decodeResult, encodeCommand, encodeResult } from "./codec.ts";
import type { Command, CommandBody, CommandResult } from "./commands.ts";
import { readRecord, refuse, type ApplyContext } from "./context.ts";
import { makeKey, NOTHING, requestExpiryKey, requestKey, TABLE, textInKey } from "./keys.ts";
import { requestCodec } from "./records.ts";

/** Expired answers that a full table forgets to make room, before it refuses. */
const MAKE_ROOM_COUNT = 64;

/** Bytes of a fingerprint: a chance meeting of two is out of the question, and nobody gains by making one. */
export const FINGERPRINT_SIZE_BYTES = 16;

const NO_BYTES = new Uint8Array(0);

const isProper = (requestId: string): boolean =>
  requestId.length <= REQUEST_ID_SIZE_BYTES_MAX && /^[\x21-\x7e]+$/.test(requestId);

/**
 * Refuses what is no request id: for whoever looks one up without proposing a command, or would do much before it is refused.
 * @throws DriveError ARGUMENT_INVALID
 */
export function checkRequestId(requestId: string): void {
  if (isProper(requestId)) return;
  refuse(
    "ARGUMENT_INVALID",
    `A request id is 1 to ${REQUEST_ID_SIZE_BYTES_MAX} printable ASCII characters without spaces.`,
    { size_bytes: String(Buffer.byteLength(requestId, "utf8")) },
  );
}

/**
 * The command without what a repeat of the same request, perhaps at another node, may carry otherwise: targets, seals and ids.
 * A one-shot upload comes as put-small or as complete-upload, so both are told by the same intent.
 */
function intentOf(body: CommandBody): CommandBody {
  if (body.kind === "init-upload") return { ...body, extents: [] };
  if (body.kind === "put-small") return { ...body, memberId: 0, contentId: 0, seals: [] };
  if (body.kind !== "complete-upload") return body;
  const { put, precondition, sizeBytes, treeHash } = body;
  if (put === undefined) return { ...body, treeHash: NO_BYTES, sha256: NO_BYTES, seals: [] };
  const content = { memberId: 0, contentId: 0, sizeBytes, treeHash, seals: [] };
  return { kind: "put-small", ...put, precondition, ...content };
}

/** Tells what a command asks for from what another one does: FINGERPRINT_SIZE_BYTES bytes, equal for repeats of a request. */
export function fingerprintOf(body: CommandBody): Uint8Array {
  const intent = encodeCommand({ requestId: "", deadlineMs: 0, wallTimeMs: 0, body: intentOf(body) });
  return sha256(intent).subarray(0, FINGERPRINT_SIZE_BYTES);
}

/** The refusal of a request id that stands for another change. */
export function requestIdReused(requestId: string): DriveError {
  return new DriveError("REQUEST_ID_REUSED", `The request id ${requestId} was used for another change.`, {
    request_id: requestId,
  });
}

/** The remembered answer to a request, expired or not; a refusal when the request was for something else. */
export function findAnswer(context: ApplyContext, command: Command): CommandResult | undefined {
  const { requestId, body } = command;
  if (!isProper(requestId)) return undefined;
  const record = readRecord(context, requestKey(requestId), requestCodec);
  if (record === undefined) return undefined;
  if (bytesEqual(record.fingerprint, fingerprintOf(body))) return decodeResult(record.result);
  const { reason, message, metadata } = requestIdReused(requestId);
  return { outcome: "rejected", index: context.index, reason, message, metadata };
}

/** Whether the answer that is remembered under a request id is to this command. */
export function isAnswered(reader: OrderedReader, requestId: string, body: CommandBody): boolean {
  if (!isProper(requestId)) return false;
  const record = readRecord(reader, requestKey(requestId), requestCodec);
  return record !== undefined && bytesEqual(record.fingerprint, fingerprintOf(body));
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
  checkRequestId(requestId);
  if (context.state.requestCount < requestCountMax || expireRequests(context, MAKE_ROOM_COUNT) > 0) return;
  refuse("OVERLOADED", `${requestCountMax} requests are remembered, as many as may be.`, {
    request_count_max: String(requestCountMax),
  });
}

/**
 * Whether a refusal says only that the upload of this attempt is gone. Upload ids are never used again, so the same command
 * can never succeed, remembered or not; another attempt of the same request comes with another upload.
 */
export function isOfAttempt({ body }: Command, { reason }: { readonly reason: string }): boolean {
  const isOneShot = body.kind === "complete-upload" && body.put !== undefined;
  return isOneShot && (reason === "UPLOAD_NOT_FOUND" || reason === "UPLOAD_EXPIRED");
}

/** Remembers the answer to a command. Its request was looked for by findAnswer() and not found. */
export function remember(context: ApplyContext, command: Command, result: CommandResult): void {
  const { requestId, deadlineMs } = command;
  if (requestId === "") return;
  const expireTimeMs = deadlineMs > 0 ? deadlineMs : context.state.clusterTimeMs + REQUEST_RETENTION_MS;
  const record = { expireTimeMs, result: encodeResult(result), fingerprint: fingerprintOf(command.body) };
  context.insert(requestKey(requestId), requestCodec.encode(record));
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
