/**
 * Bounds and times of the gRPC layer that are not part of the contract of the drive (those are in drive/limits.ts).
 *
 * Each is checked where bytes come in; what a stream may have in work is also said in the comments of the protos.
 */
import { CHUNK_SIZE_BYTES } from "../drive/limits.ts";

/** Bytes of one message at most, in both directions: a chunk, or a full batch of Raft messages, with room for its fields. */
export const MESSAGE_SIZE_BYTES_MAX = 4 * 1024 * 1024;

/** Bytes of file data in one message at most. */
export const FRAME_DATA_SIZE_BYTES_MAX = CHUNK_SIZE_BYTES;

/**
 * HTTP/2 window of a stream and of a connection. The library's 64 KiB would bound a stream to 64 KiB per round trip (1.3 MB/s at
 * 50 ms); this one allows 100 MiB/s up to 80 ms.
 */
export const FLOW_CONTROL_WINDOW_BYTES = 8 * 1024 * 1024;

/** Messages that a bulk stream reads or writes ahead of its handler; with 1 MiB each, the memory a stalled stream holds. */
export const BULK_MESSAGES_AHEAD_MAX = 2;

/** Calls at once on one connection. */
export const STREAMS_PER_CONNECTION_MAX = 10_000;

/** How long a unary call may take unless its caller says otherwise. */
export const UNARY_TIMEOUT_MS = 15_000;

/** How long a connection may take before another node is tried. */
export const CONNECT_TIMEOUT_MS = 3_000;

/** A connection is probed when idle for so long, and given up when the probe is not answered within the second time. */
export const KEEPALIVE_TIME_MS = 5_000;
export const KEEPALIVE_TIMEOUT_MS = 5_000;

/** Pause before a broken connection is made anew: first and longest. */
export const RECONNECT_BACKOFF_MS_MIN = 100;
export const RECONNECT_BACKOFF_MS_MAX = 1_000;

/** How long stop() waits for calls in work before it ends them. */
export const STOP_GRACE_MS = 5_000;

/** Chunks in work per Upload stream. */
export const UPLOAD_CHUNKS_INFLIGHT_MAX = 8;

/** Ranges waiting per Download stream. */
export const DOWNLOAD_RANGES_WAITING_MAX = 64;

/** Chunks in work per WriteChunks stream. */
export const WRITE_CHUNKS_INFLIGHT_MAX = 32;

/** Requests, or answers, in one message of a pipelined stream; and their bytes, unless a single one is larger. */
export const BATCH_COUNT_MAX = 256;
export const BATCH_SIZE_BYTES_MAX = 1024 * 1024;

/** What an answer in such a message counts for; the largest, a result of the state machine, has about that size. */
export const BATCH_ANSWER_SIZE_BYTES = 4096;

/** Small extents in work per PutSmallBatch stream, by count and by bytes. */
export const PUT_SMALL_INFLIGHT_MAX = 1024;
export const PUT_SMALL_INFLIGHT_BYTES_MAX = 32 * 1024 * 1024;

/** How long a peer may take over one chunk or one small extent. */
export const REPLICA_WRITE_TIMEOUT_MS = 15_000;

/** How long a peer may take to send the next piece of a read. */
export const REPLICA_READ_TIMEOUT_MS = 10_000;

/** How long a peer may take to seal an extent, and to re-read a whole one. */
export const REPLICA_SEAL_TIMEOUT_MS = 60_000;
export const REPLICA_VERIFY_TIMEOUT_MS = 10 * 60_000;

/** Forwarded proposals in work per stream. */
export const PROPOSALS_INFLIGHT_MAX = 4096;

/** Raft messages that wait for one peer, by count and by bytes; more are dropped and reported as lost. */
export const RAFT_QUEUE_COUNT_MAX = 8192;
export const RAFT_QUEUE_BYTES_MAX = 32 * 1024 * 1024;

/** Bytes of Raft messages put into one frame, unless a single message is larger. */
export const RAFT_FRAME_SIZE_BYTES_MAX = 1024 * 1024;

/** How long one unary vote may take. */
export const VOTE_TIMEOUT_MS = 2_000;

/** Received Raft messages are confirmed once so many came. */
export const RAFT_CONFIRM_COUNT = 1024;

/** How long a snapshot may take to be taken over once all of it was sent. */
export const SNAPSHOT_TIMEOUT_MS = 60 * 60_000;
