/**
 * Bounds how many messages a grpc-js stream object buffers.
 *
 * The streams of grpc-js are Node streams in object mode, whose buffers hold 16 messages each way: 32 MiB per stream when a
 * message is a chunk. grpc-js has no option for it, so the high-water marks are set on the states of the stream, guarded: where
 * they are not what is expected, nothing is changed and the stream merely buffers more.
 */
import { BULK_MESSAGES_AHEAD_MAX } from "./limits.ts";

interface BufferState {
  highWaterMark: number;
}

function bufferState(stream: object, field: string): BufferState | undefined {
  const state: unknown = Reflect.get(stream, field);
  if (typeof state !== "object" || state === null) return undefined;
  return typeof Reflect.get(state, "highWaterMark") === "number" ? (state as BufferState) : undefined;
}

/** Lets `stream` buffer at most BULK_MESSAGES_AHEAD_MAX messages each way; returns whether any bound was set. */
export function boundMessagesAhead(stream: object): boolean {
  let bounded = false;
  for (const field of ["_readableState", "_writableState"]) {
    const state = bufferState(stream, field);
    if (state === undefined) continue;
    state.highWaterMark = BULK_MESSAGES_AHEAD_MAX;
    bounded = true;
  }
  return bounded;
}
