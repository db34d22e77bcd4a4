/**
 * Progress as server-sent events (WHATWG HTML section 9.2): one `progress` event a change, then the stream ends by itself.
 *
 * A slow watcher skips states instead of queueing them: the next one is asked for only when the last was taken. An
 * EventSource reconnects after the end, so a page closes it when the phase is "done" or "failed".
 */
import type { Progress } from "../drive/drive-api.ts";
import type { ServerResponse } from "node:http";
import { hasReason } from "../drive/errors.ts";
import type { Timer } from "../std/clock.ts";
import { sendBytes } from "./byte-sender.ts";
import { route, type Call, type Route } from "./route.ts";
import { progressParamsSchema, progressViewSchema } from "./schemas.ts";
import { progressView } from "./views.ts";

async function watch(id: string, call: Call): Promise<undefined> {
  const signal = AbortSignal.any([call.signal, call.stopSignal]);
  const states = call.drive.watchProgress(id, signal)[Symbol.asyncIterator]();
  // The first state is awaited before the header, so that an unknown id is still an ordinary 404.
  const first = await states.next();
  const { reply, clock, limits } = call;
  reply.hijack();
  const response = reply.raw;
  for (const [name, value] of Object.entries(reply.getHeaders())) {
    if (value !== undefined) response.setHeader(name, value);
  }
  response.writeHead(200, {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store",
    // Buffering proxies would hold events back.
    "X-Accel-Buffering": "no",
  });
  const keepAlive = new KeepAlive(response, call);
  try {
    await sendBytes(response, events(first, states), { clock, sendTimeoutMs: limits.sendTimeoutMs });
  } catch (error) {
    response.destroy();
    if (!signal.aborted && !hasReason(error, "CANCELED")) call.logger.warn("watch_broken", { error });
  } finally {
    keepAlive.stop();
    await states.return?.();
  }
  return undefined;
}

async function* events(
  first: IteratorResult<Progress, unknown>,
  rest: AsyncIterator<Progress, unknown>,
): AsyncGenerator<Uint8Array> {
  for (let result = first; result.done !== true; result = await rest.next()) {
    yield Buffer.from(`event: progress\ndata: ${JSON.stringify(progressView(result.value))}\n\n`);
  }
}

/** Writes a comment at intervals while the response has room, so that silence is never taken for death. */
class KeepAlive {
  readonly #response: ServerResponse;
  readonly #call: Call;
  #timer: Timer;

  constructor(response: ServerResponse, call: Call) {
    this.#response = response;
    this.#call = call;
    this.#timer = this.#arm();
  }

  stop(): void {
    this.#timer.cancel();
  }

  #arm(): Timer {
    return this.#call.clock.setTimer(this.#call.limits.watchIntervalMs, () => {
      if (this.#response.writableLength === 0 && !this.#response.writableEnded) this.#response.write(":\n\n");
      this.#timer = this.#arm();
    });
  }
}

/** Routes that watch. */
export const progressRoutes: readonly Route[] = [
  route({
    method: "GET",
    head: false,
    path: "/api/progress/:id",
    summary:
      "Progress of an upload or download as server-sent events, until it is done or failed. That of a prepared download is in its state instead.",
    tag: "uploads",
    params: progressParamsSchema,
    responses: {
      200: {
        description: "Events named progress.",
        schema: progressViewSchema,
        mediaType: "text/event-stream",
      },
    },
    handle: ({ params }, call) => call.watches.use(() => watch(params.id, call)),
  }),
];
