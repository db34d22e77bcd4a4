/**
 * Response bodies: pieces of a file to a socket, as fast as the client takes them and no faster.
 *
 * One piece is on its way at a time, and the next is asked for when the machine has taken all of it: then its memory is given back,
 * and whoever gives the pieces knows what is held (replication/read-window.ts). The machine's own buffer keeps the line busy
 * meanwhile. A client that takes nothing for sendTimeoutMs is cut off. Once the header is out an error can only be told by breaking the connection,
 * which every client sees because the length was announced.
 */
import type { ServerResponse } from "node:http";
import { DriveError } from "../drive/errors.ts";
import type { Clock, Timer } from "../std/clock.ts";

/** Settings of sendBytes(). */
export interface SendOptions {
  readonly clock: Clock;
  readonly sendTimeoutMs: number;
  readonly onBytes?: ((sizeBytes: number) => void) | undefined;
}

/**
 * Writes `pieces` to `response`, whose header is set, and ends it.
 * Errors: CANCELED when the client went away or was too slow; those of `pieces`. The caller then destroys the response.
 */
export async function sendBytes(
  response: ServerResponse,
  pieces: AsyncIterable<Uint8Array>,
  options: SendOptions,
): Promise<void> {
  const window = new SendWindow(response, options);
  try {
    for await (const piece of pieces) await window.write(piece);
    response.end();
    await window.drained();
  } finally {
    window.close();
  }
}

class SendWindow {
  readonly #response: ServerResponse;
  readonly #options: SendOptions;
  #pendingBytes = 0;
  #failure: DriveError | undefined;
  #wake: (() => void) | undefined;
  readonly #onClose = (): void => {
    if (!this.#response.writableFinished) this.#fail("The client closed the connection.");
    this.#wake?.();
  };

  constructor(response: ServerResponse, options: SendOptions) {
    this.#response = response;
    this.#options = options;
    response.on("close", this.#onClose);
    if (response.destroyed) this.#fail("The client closed the connection.");
  }

  async write(piece: Uint8Array): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
    this.#pendingBytes += piece.length;
    // Corked, so that the header leaves in one packet with the first piece.
    this.#response.cork();
    this.#response.write(piece, () => {
      this.#pendingBytes -= piece.length;
      this.#options.onBytes?.(piece.length);
      if (this.#pendingBytes === 0) this.#wake?.();
    });
    this.#response.uncork();
    await this.drained();
  }

  /** Waits until the machine has taken the last byte. */
  drained(): Promise<void> {
    return this.#until(() => this.#pendingBytes === 0);
  }

  close(): void {
    this.#response.off("close", this.#onClose);
  }

  async #until(condition: () => boolean): Promise<void> {
    const { clock, sendTimeoutMs } = this.#options;
    while (!condition() && this.#failure === undefined) {
      await new Promise<void>((resolve) => {
        const timer: Timer = clock.setTimer(sendTimeoutMs, () => {
          this.#fail(`The client took nothing for ${sendTimeoutMs / 1000} s.`);
          this.#wake?.();
        });
        this.#wake = () => {
          this.#wake = undefined;
          timer.cancel();
          resolve();
        };
      });
    }
    if (this.#failure !== undefined) throw this.#failure;
  }

  #fail(message: string): void {
    this.#failure ??= new DriveError("CANCELED", message);
  }
}
