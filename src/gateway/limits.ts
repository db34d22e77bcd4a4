/**
 * The bounds of the gateway: sizes that are part of its contract, and counts and times that an operator or a test may set.
 *
 * Sizes and counts are answered with an error (413, 429, 431); times end what is too slow, so that no client can hold memory or
 * a connection for nothing.
 */

const KIB = 1024;
const MIB = 1024 * KIB;

/** Bytes of a JSON body: a path of PATH_SIZE_BYTES_MAX, every character escaped, and a few fields beside it. */
export const JSON_BODY_SIZE_BYTES_MAX = 256 * KIB;

/** Bytes of request line and header fields together: a percent-encoded path of PATH_SIZE_BYTES_MAX fits. */
export const HEADERS_SIZE_BYTES_MAX = 64 * KIB;

/** Bytes of one Connect message that is read. */
export const CONNECT_MESSAGE_SIZE_BYTES_MAX = MIB;

/**
 * Bytes that Node buffers for each direction of a connection before it stops reading it. Uploads are collected into pieces by
 * BodyReader and downloads wait for each piece to be taken, so a larger value only costs memory.
 */
export const STREAM_BUFFER_SIZE_BYTES = 64 * KIB;

/** Characters of a progress id. */
export const PROGRESS_ID_LENGTH_MAX = 64;

/** What an operator may set. */
export interface GatewayLimits {
  /** Requests that send file bytes, at once. Each holds at most three pieces of CHUNK_SIZE_BYTES. */
  readonly uploadCountMax: number;
  /**
   * Downloads at once. All together hold at most transfer.inFlightBytesMax and READ_NARROW_SIZE_BYTES each, whatever their clients
   * do (replication/read-window.ts); an archive of small files 4 MiB more.
   */
  readonly downloadCountMax: number;
  /** Watchers (server-sent events) at once. */
  readonly watchCountMax: number;
  /**
   * Connections at once, from all addresses: behind a reverse proxy all clients have one. Beyond it the longest idle one is closed
   * for a new one; when all have a request in hand the new one gets OVERLOADED. A process needs as many descriptors, and those of
   * its files and peers beside.
   */
  readonly connectionCountMax: number;
  /** From the start of a request to the end of its header. */
  readonly headersTimeoutMs: number;
  /** How long a connection may be idle between requests. */
  readonly keepAliveTimeoutMs: number;
  /** While a body is awaited, each window of this length must bring bodyWindowBytesMin. */
  readonly bodyWindowMs: number;
  readonly bodyWindowBytesMin: number;
  /** A client must take what was sent to it (at most a piece) within this time. */
  readonly sendTimeoutMs: number;
  /** How long the rest of a refused body is read and dropped, so that the client sees the answer. */
  readonly lingerMs: number;
  /** A watcher hears at least a comment this often, so that proxies keep the connection. */
  readonly watchIntervalMs: number;
  /** How long stop() waits for requests in hand. */
  readonly stopGraceMs: number;
}

/** The limits of a node that nobody tuned. */
export const GATEWAY_LIMITS: GatewayLimits = {
  uploadCountMax: 64,
  downloadCountMax: 512,
  watchCountMax: 512,
  connectionCountMax: 4096,
  headersTimeoutMs: 10_000,
  keepAliveTimeoutMs: 72_000,
  // 1 KiB/s: the slowest mobile links reach it, a slowloris does not try to.
  bodyWindowMs: 30_000,
  bodyWindowBytesMin: 30 * KIB,
  sendTimeoutMs: 120_000,
  lingerMs: 2_000,
  watchIntervalMs: 15_000,
  stopGraceMs: 5_000,
};
