/**
 * The answer to a GET that gives bytes: a header, then pieces as the client takes them.
 *
 * A failure after the header breaks the connection: the announced length tells every client that bytes are missing.
 */
import { hasReason } from "../drive/errors.ts";
import { sendBytes } from "./byte-sender.ts";
import type { Call } from "./route.ts";

/** Whatever gives its bytes by ranges. */
interface Readable {
  read(offset: number, length: number, signal?: AbortSignal): AsyncIterable<Uint8Array>;
}

/**
 * Writes header and bytes to the raw response. A failure before the first piece is still an ordinary error answer.
 * @param logged names what is sent in the log
 */
export async function sendPart(
  opened: Readable,
  part: { readonly offset: number; readonly length: number },
  head: { readonly status: number; readonly headers: Readonly<Record<string, string>> },
  logged: Readonly<Record<string, number>>,
  call: Call,
): Promise<void> {
  const { reply, clock, limits, metrics } = call;
  const writeHead = (): void => {
    reply.hijack();
    for (const [name, value] of Object.entries(reply.getHeaders())) {
      if (value !== undefined) reply.raw.setHeader(name, value);
    }
    reply.raw.writeHead(head.status, head.headers);
  };
  if (call.request.method === "HEAD" || part.length === 0) {
    writeHead();
    reply.raw.end();
    return;
  }
  const pieces = opened.read(part.offset, part.length, call.signal)[Symbol.asyncIterator]();
  try {
    const first = [await pieces.next()];
    writeHead();
    await sendBytes(reply.raw, startingWith(first, pieces), {
      clock,
      sendTimeoutMs: limits.sendTimeoutMs,
      onBytes: (sizeBytes) => metrics.downloaded(sizeBytes),
    });
  } catch (error) {
    if (!reply.raw.headersSent) throw error;
    reply.raw.destroy();
    // A client that went away, or a download that was released, is its users' own business; lost bytes are the operator's.
    if (call.signal.aborted || hasReason(error, "CANCELED", "DOWNLOAD_EXPIRED")) {
      call.logger.debug("download_canceled", { ...logged });
    } else {
      call.logger.error("download_broken", { ...logged, error });
    }
  } finally {
    await pieces.return?.();
  }
}

/** What `first` holds, which is taken out of it so that no piece stays in memory for all of the download; then `rest`. */
async function* startingWith(
  first: IteratorResult<Uint8Array, unknown>[],
  rest: AsyncIterator<Uint8Array, unknown>,
): AsyncGenerator<Uint8Array> {
  let result = first.pop() ?? (await rest.next());
  for (; result.done !== true; result = await rest.next()) yield result.value;
}
