/**
 * Request bodies as they come off the wire, not copied, with back-pressure, an end to patience, and errors that say what was
 * wrong.
 *
 * While the consumer is busy at most READ_AHEAD_SIZE_BYTES wait, then the socket is not read. Time counts only while the consumer
 * waits for the client: a slow drive is not the client's fault. Leaving early does not destroy the connection, so that an
 * answer can still be sent; the gateway closes connections whose body was not read to its end.
 */
import type { IncomingMessage } from "node:http";
import { CHUNK_SIZE_BYTES } from "../drive/limits.ts";
import { DriveError } from "../drive/errors.ts";
import { bytesEqual, toHex } from "../std/bytes.ts";
import { sha256Stream } from "../std/digest.ts";
import type { Clock, Timer } from "../std/clock.ts";
import { HttpError } from "./http-error.ts";
import type { GatewayLimits } from "./limits.ts";

/** What a BodyReader needs beside the request. */
export interface BodyReaderOptions {
  readonly clock: Clock;
  readonly limits: Pick<GatewayLimits, "bodyWindowMs" | "bodyWindowBytesMin">;
  /** Told the size of what arrived. */
  readonly onBytes?: ((sizeBytes: number) => void) | undefined;
  /** Called once before the first byte is awaited: sends "100 Continue" where the client waits for it. */
  readonly onStart?: (() => void) | undefined;
}

/** The announced length of a body, or undefined when it is chunked. A request with neither field has no body: 0. */
export function announcedSizeBytes(request: IncomingMessage): number | undefined {
  if (request.headers["transfer-encoding"] !== undefined) return undefined;
  return Number(request.headers["content-length"] ?? "0");
}

/** Bytes that may wait for the consumer before the socket is not read any more. */
export const READ_AHEAD_SIZE_BYTES = CHUNK_SIZE_BYTES;

/** Arrays smaller than this are put together: a body in one-byte chunks would otherwise cost a hundred times its size. */
const SMALL_SIZE_BYTES = 16 * 1024;

/** Bytes of the arrays that small ones are put together into. */
const GATHER_SIZE_BYTES = 64 * 1024;

/** Reads one request body once. */
export class BodyReader {
  readonly #request: IncomingMessage;
  readonly #options: BodyReaderOptions;
  readonly #announced: number | undefined;
  readonly #ready: Uint8Array[] = [];
  #readyBytes = 0;
  /** Where small arrays are gathered, and how much of it is filled. */
  #open: Buffer | undefined;
  #filledBytes = 0;
  #receivedBytes = 0;
  #end: "no" | "yes" | Error = "no";
  #wake: (() => void) | undefined;
  /** The window of the minimum rate: time waited in it, and what had arrived at its start. */
  #waitedMs = 0;
  #windowStartBytes = 0;
  /** When the consumer began to wait, while it does. */
  #waitingSinceMs: number | undefined;
  #timer: Timer | undefined;

  constructor(request: IncomingMessage, options: BodyReaderOptions) {
    this.#request = request;
    this.#options = options;
    this.#announced = announcedSizeBytes(request);
  }

  /**
   * The body in arrays of up to 64 KiB, as they arrived; each belongs to the consumer. None for an empty body.
   * Errors: PAYLOAD_TRUNCATED when the client goes away, REQUEST_TIMEOUT when it is too slow.
   */
  async *pieces(): AsyncGenerator<Uint8Array, void, undefined> {
    const request = this.#request;
    const onData = (data: Buffer): void => this.#take(data);
    const onEnd = (): void => this.#finish("yes");
    // "close" without "end" before it is an abort; "error" (ECONNRESET) only says the same again.
    const onClose = (): void => {
      // Every body ends with "close": the error is made only where it is one.
      if (this.#end === "no") this.#finish(this.#truncated());
    };
    request.on("data", onData).on("end", onEnd).on("error", onClose).on("close", onClose);
    if (request.readableEnded) this.#finish("yes");
    else if (request.destroyed) this.#finish(this.#truncated());
    else this.#options.onStart?.();
    this.#watchPace(this.#options.limits.bodyWindowMs);
    try {
      for (;;) {
        const piece = await this.#next();
        if (piece === undefined) return;
        yield piece;
      }
    } finally {
      this.#timer?.cancel();
      request.off("data", onData).off("end", onEnd).off("close", onClose);
      // Reads and drops what is left; the gateway bounds for how long. The "error" listener stays for an abort meanwhile.
      request.resume();
    }
  }

  /**
   * The whole body when it has at most `sizeBytesMax`.
   * Errors: PAYLOAD_TOO_LARGE, before anything is read when the length is announced; and those of pieces().
   */
  async whole(sizeBytesMax: number, what: string): Promise<Uint8Array> {
    const tooLarge = (): DriveError =>
      new DriveError("PAYLOAD_TOO_LARGE", `${what} has at most ${sizeBytesMax} bytes.`, {
        size_bytes_max: String(sizeBytesMax),
      });
    if ((this.#announced ?? 0) > sizeBytesMax) throw tooLarge();
    const pieces: Uint8Array[] = [];
    let sizeBytes = 0;
    for await (const piece of this.pieces()) {
      sizeBytes += piece.length;
      if (sizeBytes > sizeBytesMax) throw tooLarge();
      pieces.push(piece);
    }
    const [first] = pieces;
    return first !== undefined && pieces.length === 1 ? first : Buffer.concat(pieces, sizeBytes);
  }

  #take(data: Buffer): void {
    this.#receivedBytes += data.length;
    this.#options.onBytes?.(data.length);
    if (data.length < SMALL_SIZE_BYTES) {
      this.#gather(data);
    } else {
      this.#flush();
      this.#push(data);
    }
    if (this.#ready.length === 0) return;
    if (this.#wake !== undefined) this.#resolveWait();
    else if (this.#readyBytes >= READ_AHEAD_SIZE_BYTES) this.#request.pause();
  }

  #gather(data: Buffer): void {
    if (this.#open !== undefined && this.#open.length - this.#filledBytes < data.length) this.#flush();
    if (this.#open === undefined) {
      const left = this.#announced === undefined ? Infinity : this.#announced - this.#receivedBytes;
      if (left === 0) {
        this.#push(data);
        return;
      }
      this.#open = Buffer.allocUnsafeSlow(Math.min(GATHER_SIZE_BYTES, left + data.length));
      this.#filledBytes = 0;
    }
    this.#filledBytes += data.copy(this.#open, this.#filledBytes);
    if (this.#filledBytes === this.#open.length) this.#flush();
  }

  #flush(): void {
    if (this.#open === undefined) return;
    const filled = this.#open.subarray(0, this.#filledBytes);
    // An array that is mostly empty would keep its whole allocation alive.
    this.#push(filled.length * 2 < this.#open.length ? Buffer.from(filled) : filled);
    this.#open = undefined;
  }

  #push(array: Uint8Array): void {
    this.#ready.push(array);
    this.#readyBytes += array.length;
  }

  #finish(end: "yes" | Error): void {
    if (this.#end !== "no") return;
    this.#end = end;
    if (end === "yes") this.#flush();
    this.#resolveWait();
  }

  async #next(): Promise<Uint8Array | undefined> {
    if (this.#ready.length === 0 && this.#end === "no") await this.#wait();
    const piece = this.#ready.shift();
    this.#readyBytes -= piece?.length ?? 0;
    if (this.#end instanceof Error) throw this.#end;
    // Reads ahead while the consumer works on the piece.
    if (this.#request.isPaused() && this.#readyBytes < READ_AHEAD_SIZE_BYTES / 2) this.#request.resume();
    return piece;
  }

  /** Waits until a piece is ready or the body ends. */
  async #wait(): Promise<void> {
    const { clock } = this.#options;
    this.#waitingSinceMs = clock.monotonicMs();
    await new Promise<void>((resolve) => {
      this.#wake = resolve;
      this.#request.resume();
    });
    this.#waitedMs += clock.monotonicMs() - this.#waitingSinceMs;
    this.#waitingSinceMs = undefined;
  }

  #resolveWait(): void {
    const wake = this.#wake;
    this.#wake = undefined;
    wake?.();
  }

  // One timer a window, not one a wait: waits are as many as arrays.
  #watchPace(delayMs: number): void {
    this.#timer = this.#options.clock.setTimer(Math.max(1, delayMs), () => this.#checkPace());
  }

  #checkPace(): void {
    const { clock, limits } = this.#options;
    const nowMs = clock.monotonicMs();
    const waitedMs = this.#waitedMs + (this.#waitingSinceMs === undefined ? 0 : nowMs - this.#waitingSinceMs);
    if (waitedMs < limits.bodyWindowMs) {
      this.#watchPace(limits.bodyWindowMs - waitedMs);
      return;
    }
    if (this.#receivedBytes - this.#windowStartBytes < limits.bodyWindowBytesMin) {
      this.#finish(this.#tooSlow());
      return;
    }
    this.#waitedMs = 0;
    if (this.#waitingSinceMs !== undefined) this.#waitingSinceMs = nowMs;
    this.#windowStartBytes = this.#receivedBytes;
    this.#watchPace(limits.bodyWindowMs);
  }

  #truncated(): DriveError {
    const announced = this.#announced === undefined ? "an end mark" : `${this.#announced} bytes`;
    return new DriveError(
      "PAYLOAD_TRUNCATED",
      `The body ended after ${this.#receivedBytes} bytes, before ${announced}.`,
      {
        size_bytes: String(this.#receivedBytes),
        ...(this.#announced === undefined ? {} : { size_bytes_announced: String(this.#announced) }),
      },
    );
  }

  #tooSlow(): HttpError {
    const { bodyWindowBytesMin, bodyWindowMs } = this.#options.limits;
    return new HttpError(
      "REQUEST_TIMEOUT",
      `The body came too slowly: fewer than ${bodyWindowBytesMin} bytes within ${bodyWindowMs / 1000} s.`,
      { size_bytes: String(this.#receivedBytes) },
    );
  }
}

/** Passes `body` on and fails at its end with DIGEST_MISMATCH unless it has the SHA-256 `digest`. */
export async function* verified(
  body: AsyncIterable<Uint8Array>,
  digest: Uint8Array,
): AsyncGenerator<Uint8Array> {
  const hash = sha256Stream();
  for await (const piece of body) {
    hash.update(piece);
    yield piece;
  }
  const actual = hash.digest();
  if (!bytesEqual(actual, digest)) {
    throw new DriveError(
      "DIGEST_MISMATCH",
      "The body does not have the SHA-256 that its digest field states.",
      {
        digest: toHex(actual),
        digest_stated: toHex(digest),
      },
    );
  }
}
