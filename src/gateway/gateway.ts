/**
 * The HTTP/1.1 port of a node: REST routes and Connect services over DriveApi.
 *
 * Owns the server, the life of a request (identity, cancellation, limits, metrics, error answers) and of the gateway itself.
 * Knows nothing of what routes do: they come from lists. Node's strict parser guards the framing (a request with both
 * Transfer-Encoding and Content-Length is refused); X-Forwarded-* fields are not trusted for anything.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import { fastify, type FastifyInstance, type FastifyReply, type FastifyRequest } from "fastify";
import type { DriveApi } from "../drive/drive-api.ts";
import { DriveError } from "../drive/errors.ts";
import { AssertionError, must } from "../std/assert.ts";
import { toHex } from "../std/bytes.ts";
import { sleep, type Clock } from "../std/clock.ts";
import { deferred } from "../std/deferred.ts";
import { errnoOf } from "../std/disk.ts";
import type { Prng } from "../std/prng.ts";
import { allowListeners, CALL_LISTENER_COUNT_MAX } from "../std/shared-signal.ts";
import type { Logger } from "../telemetry/logger.ts";
import type { Metrics } from "../telemetry/metrics.ts";
import { BodyReader } from "./body-reader.ts";
import { catalogRoutes } from "./catalog-routes.ts";
import { taskRoutes } from "./task-routes.ts";
import { rawAnswer, rawErrorAnswer } from "./client-error.ts";
import { explainUnmatched } from "./conditions.ts";
import { ConnectionKeeper } from "./connection-keeper.ts";
import { registerConnectRoutes } from "./connect-routes.ts";
import { downloadRoutes } from "./download-routes.ts";
import { fileRoutes } from "./file-routes.ts";
import { fromFrameworkError, HttpError, toErrorAnswer } from "./http-error.ts";
import {
  GATEWAY_LIMITS,
  HEADERS_SIZE_BYTES_MAX,
  STREAM_BUFFER_SIZE_BYTES,
  type GatewayLimits,
} from "./limits.ts";
import { nodeRoutes } from "./node-routes.ts";
import { openApiDocument } from "./openapi.ts";
import { preparedDownloadRoutes } from "./prepared-download-routes.ts";
import { progressRoutes } from "./progress-routes.ts";
import { requestIdOf, traceIdOf, type Answer, type Call, type Route, type Services } from "./route.ts";
import { refuseOverLimit, type RequestLimiter } from "./request-limiter.ts";
import { Slots } from "./slots.ts";
import { uploadRoutes } from "./upload-routes.ts";

/** What a Gateway needs. */
export interface GatewayOptions {
  readonly drive: DriveApi;
  readonly logger: Logger;
  readonly metrics: Metrics;
  readonly clock: Clock;
  readonly prng: Prng;
  readonly nodeId: string;
  /** Version of the program. */
  readonly version: string;
  /** Address to listen on. */
  readonly host: string;
  /** Port to listen on; 0 for any free one. */
  readonly port: number;
  readonly limits?: Partial<GatewayLimits> | undefined;
  /** Bounds how many requests may come; none when absent. */
  readonly requestLimiter?: RequestLimiter | undefined;
  /** Told of a broken invariant that a request ran into; the node decides whether to go on. */
  readonly onAssertion?: ((error: AssertionError) => void) | undefined;
}

// Routes that a stopping node still answers, so that a load balancer learns of it; they count for no bound either.
const HEALTH_PATHS = ["/livez", "/readyz", "/healthz", "/metrics"];

// Connections at once that are told that there is no room; more are closed unanswered.
const REFUSED_CONNECTION_COUNT_MAX = 64;

const REQUEST_ID_SIZE_BYTES = 16;
const ERROR_ID_SIZE_BYTES = 8;

/** An HTTP server in front of a drive. start() and stop() once each. */
export class Gateway {
  readonly #options: GatewayOptions;
  readonly #limits: GatewayLimits;
  readonly #services: Services;
  readonly #routes: readonly Route[];
  readonly #server: Server;
  readonly #connections: ConnectionKeeper;
  readonly #app: FastifyInstance;
  /** Requests under way, by their response. */
  readonly #active = new Map<ServerResponse, AbortController>();
  /** Responses of each connection that are under way. */
  readonly #responses = new WeakMap<Socket, Set<ServerResponse>>();
  /** The latest response of each connection. */
  readonly #latest = new WeakMap<Socket, ServerResponse>();
  /** Requests whose client waits for "100 Continue". */
  readonly #awaitingContinue = new WeakSet<IncomingMessage>();
  /** Requests whose client expects something that HTTP does not define. */
  readonly #unmetExpectations = new WeakSet<IncomingMessage>();
  /** When each request began, on the gateway's clock. */
  readonly #startTimes = new WeakMap<FastifyRequest, number>();
  readonly #idle = deferred<void>();
  readonly #stopping = new AbortController();
  #stopped: Promise<void> | undefined;

  constructor(options: GatewayOptions) {
    this.#options = options;
    this.#limits = { ...GATEWAY_LIMITS, ...options.limits };
    this.#services = this.#makeServices();
    this.#routes = [
      ...uploadRoutes,
      ...downloadRoutes,
      ...preparedDownloadRoutes,
      ...fileRoutes,
      ...catalogRoutes,
      ...taskRoutes,
      ...progressRoutes,
    ];
    let document: unknown;
    const described = nodeRoutes(
      () => (document ??= openApiDocument(this.#routes, { version: this.#options.version })),
    );
    this.#routes = [...this.#routes, ...described];
    this.#server = this.#makeServer();
    const { connectionCountMax } = this.#limits;
    this.#connections = new ConnectionKeeper(this.#server, connectionCountMax, (socket) => {
      const count = { count_max: String(connectionCountMax) };
      const message = `This node serves ${connectionCountMax} connections at once; all are at work.`;
      socket.end(rawAnswer(new DriveError("OVERLOADED", message, count)), () => socket.destroy());
    });
    this.#app = this.#makeApp();
  }

  /** The routes that are served, the same that /openapi.json describes. */
  get routes(): readonly Route[] {
    return this.#routes;
  }

  /** Listens. Errors: ADDRESS_IN_USE; CONFIGURATION_INVALID for an address that is not this machine's or not allowed. */
  async start(): Promise<{ readonly url: string }> {
    await registerConnectRoutes(this.#app, {
      services: this.#services,
      toInternal: (error, method) => this.#internal(error, "POST", method).error,
    });
    await this.#app.ready();
    const { host, port, logger } = this.#options;
    const listening = deferred<void>();
    const onError = (error: Error): void => listening.reject(listenError(error, host, port));
    this.#server.once("error", onError);
    this.#server.listen({ host, port }, () => listening.resolve());
    await listening.promise;
    this.#server.off("error", onError);
    this.#server.on("error", (error) => logger.error("http_server_failed", { error }));
    const address = this.#server.address() as AddressInfo;
    const shown = address.family === "IPv6" ? `[${address.address}]` : address.address;
    const url = `http://${shown}:${address.port}`;
    logger.info("http_listening", { url });
    return { url };
  }

  /** Refuses new work with NODE_STOPPING, waits stopGraceMs for what is under way, then cuts it off. Idempotent. */
  stop(): Promise<void> {
    this.#stopped ??= this.#stop();
    return this.#stopped;
  }

  async #stop(): Promise<void> {
    const { clock, logger } = this.#options;
    const reason = new DriveError("NODE_STOPPING", "The node is stopping.");
    this.#stopping.abort(reason);
    logger.info("http_stopping", { requestCount: this.#active.size });
    // No new connections; those that are open learn by NODE_STOPPING and "Connection: close".
    const closed = deferred<void>();
    this.#server.close(() => closed.resolve());
    if (this.#active.size > 0) {
      const grace = new AbortController();
      const over = sleep(clock, this.#limits.stopGraceMs, grace.signal).catch(() => undefined);
      await Promise.race([this.#idle.promise, over]);
      grace.abort();
    }
    for (const controller of this.#active.values()) controller.abort(reason);
    this.#server.closeAllConnections();
    await closed.promise;
    await this.#app.close();
    logger.info("http_stopped");
  }

  #makeServices(): Services {
    const { drive, logger, metrics, clock, nodeId, version } = this.#options;
    const startMs = clock.monotonicMs();
    const limits = this.#limits;
    return {
      drive,
      logger,
      metrics,
      clock,
      limits,
      nodeId,
      version,
      uploads: new Slots("uploads", limits.uploadCountMax, (count) => metrics.httpInFlight("upload", count)),
      downloads: new Slots("downloads", limits.downloadCountMax, (count) =>
        metrics.httpInFlight("download", count),
      ),
      watches: new Slots("watchers", limits.watchCountMax, (count) => metrics.httpInFlight("watch", count)),
      uptimeMs: () => clock.monotonicMs() - startMs,
      stopSignal: this.#stopping.signal,
    };
  }

  #makeServer(): Server {
    const limits = this.#limits;
    const server = createServer({
      highWaterMark: STREAM_BUFFER_SIZE_BYTES,
      maxHeaderSize: HEADERS_SIZE_BYTES_MAX,
      headersTimeout: limits.headersTimeoutMs,
      // How long a whole body may take depends on its size: BodyReader watches its pace instead.
      requestTimeout: 0,
      keepAliveTimeout: limits.keepAliveTimeoutMs,
      connectionsCheckingInterval: Math.max(50, Math.floor(limits.headersTimeoutMs / 4)),
      insecureHTTPParser: false,
      // Node would refuse it with an empty answer; onRequest() says why.
      requireHostHeader: false,
    });
    // ConnectionKeeper keeps the bound; this is for those that are being refused.
    server.maxConnections = limits.connectionCountMax + REFUSED_CONNECTION_COUNT_MAX;
    // Without a listener Node closes the connection and says nothing.
    server.on("connect", (_request: IncomingMessage, socket: Socket) => {
      const refusal = new HttpError("METHOD_NOT_ALLOWED", "This is no proxy: CONNECT is not served here.");
      socket.on("error", () => socket.destroy());
      socket.end(rawAnswer(refusal), () => socket.destroy());
    });
    server.on("checkContinue", (request: IncomingMessage, response: ServerResponse) => {
      this.#awaitingContinue.add(request);
      server.emit("request", request, response);
    });
    // Node would refuse it with an empty answer; onRequest() says why.
    server.on("checkExpectation", (request: IncomingMessage, response: ServerResponse) => {
      this.#unmetExpectations.add(request);
      server.emit("request", request, response);
    });
    return server;
  }

  #makeApp(): FastifyInstance {
    const app = fastify({
      serverFactory: (handler) => {
        this.#server.on("request", handler);
        return this.#server;
      },
      logger: false,
      exposeHeadRoutes: false,
      return503OnClosing: false,
      keepAliveTimeout: this.#limits.keepAliveTimeoutMs,
      routerOptions: { querystringParser: () => ({}), maxParamLength: 128 },
      clientErrorHandler: (error, socket) => this.#onClientError(error, socket),
      frameworkErrors: (error, request, reply) => {
        void this.#answerError(error, request, reply);
      },
    });
    // Bodies are read by BodyReader alone, whatever their type.
    app.removeAllContentTypeParsers();
    app.addContentTypeParser("*", (_request, _payload, done) => done(null));
    app.addHook("onRequest", (request, reply, done) => {
      done(this.#onRequest(request, reply));
    });
    const { requestLimiter } = this.#options;
    if (requestLimiter !== undefined) {
      app.addHook("onRequest", async (request) => {
        if (!HEALTH_PATHS.includes(pathOf(request))) {
          await refuseOverLimit(requestLimiter, request.raw.socket.remoteAddress ?? "");
        }
      });
    }
    app.addHook("onResponse", (request, reply, done) => {
      this.#onResponse(request, reply);
      done();
    });
    app.setErrorHandler((error, request, reply) => this.#answerError(error, request, reply));
    app.setNotFoundHandler((request, reply) =>
      this.#answerError(this.#notFound(request, reply), request, reply),
    );
    for (const each of this.#routes) {
      app.route({
        method: each.head ? [each.method, "HEAD"] : each.method,
        url: each.path,
        handler: (request, reply) => this.#serve(each, request, reply),
      });
    }
    return app;
  }

  /** Takes note of a request; returns why it is refused, if it is. */
  #onRequest(request: FastifyRequest, reply: FastifyReply): Error | undefined {
    const { clock } = this.#options;
    const response = reply.raw;
    const controller = new AbortController();
    allowListeners(controller.signal, CALL_LISTENER_COUNT_MAX);
    this.#active.set(response, controller);
    const { socket } = request.raw;
    this.#latest.set(socket, response);
    const responses = this.#responsesOf(socket);
    responses.add(response);
    this.#connections.begin(socket);
    this.#startTimes.set(request, clock.monotonicMs());
    reply.headers({ "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer" });
    response.once("finish", () => this.#linger(request.raw));
    response.once("close", () => {
      this.#active.delete(response);
      responses.delete(response);
      this.#connections.end(socket);
      if (!response.writableFinished) controller.abort(new DriveError("CANCELED", "The client went away."));
      if (this.#active.size === 0 && this.#stopping.signal.aborted) this.#idle.resolve();
    });
    if (request.raw.headers.host === undefined && request.raw.httpVersion === "1.1") {
      reply.header("Connection", "close");
      return new DriveError("ARGUMENT_INVALID", "The request has no Host field.");
    }
    if (this.#unmetExpectations.has(request.raw)) {
      return new HttpError("EXPECTATION_FAILED", "What the Expect field asks for is not known here.");
    }
    if (!this.#stopping.signal.aborted) return undefined;
    reply.header("Connection", "close");
    return HEALTH_PATHS.includes(pathOf(request))
      ? undefined
      : new DriveError("NODE_STOPPING", "The node is stopping.");
  }

  /**
   * The responses of a connection that are under way. Node tells only the one that is being sent that the connection was closed;
   * those that wait for it to end, as their requests came behind it, are told here.
   */
  #responsesOf(socket: Socket): Set<ServerResponse> {
    const known = this.#responses.get(socket);
    if (known !== undefined) return known;
    const responses = new Set<ServerResponse>();
    this.#responses.set(socket, responses);
    socket.once("close", () => {
      for (const response of responses) {
        if (response.socket !== null) continue;
        response.destroy();
        response.emit("close");
      }
    });
    return responses;
  }

  /** After an answer that came before the end of the body: lets the client finish, but not for long. */
  #linger(request: IncomingMessage): void {
    if (request.complete) return;
    const timer = this.#options.clock.setTimer(this.#limits.lingerMs, () => {
      if (!request.complete) request.socket.destroy();
    });
    request.once("close", () => timer.cancel());
  }

  #onResponse(request: FastifyRequest, reply: FastifyReply): void {
    const { metrics, clock, logger } = this.#options;
    const durationMs = clock.monotonicMs() - (this.#startTimes.get(request) ?? clock.monotonicMs());
    const route = request.routeOptions.url ?? "unmatched";
    const status = reply.raw.statusCode;
    metrics.httpRequest({ method: request.method, route, status, durationMs });
    logger.debug("request_answered", {
      method: request.method,
      route,
      status,
      durationMs,
      traceId: traceIdOf(request),
    });
  }

  async #serve(route: Route, request: FastifyRequest, reply: FastifyReply): Promise<FastifyReply> {
    const { prng, clock, metrics } = this.#options;
    const controller = must(this.#active.get(reply.raw), "a request under way has a controller");
    const traceId = traceIdOf(request);
    if (traceId !== undefined) reply.header("X-Request-Id", traceId);
    const call: Call = {
      ...this.#services,
      request,
      reply,
      signal: controller.signal,
      requestId: requestIdOf(request) ?? toHex(prng.bytes(REQUEST_ID_SIZE_BYTES)),
      body: () =>
        new BodyReader(request.raw, {
          clock,
          limits: this.#limits,
          onBytes: (sizeBytes) => metrics.uploaded(sizeBytes),
          onStart: () => {
            if (this.#awaitingContinue.delete(request.raw)) reply.raw.writeContinue();
          },
        }),
    };
    const answer = await route.run(call);
    return answer === undefined ? reply : sendAnswer(reply, answer);
  }

  #notFound(request: FastifyRequest, reply: FastifyReply): HttpError {
    const path = pathOf(request);
    const matching = this.#routes.filter((route) => patternOf(route.path).test(path));
    if (matching.length === 0) {
      // What "curl -T file URL/" sends: the name is put after the slash.
      const upload = request.method === "PUT" ? " A file goes to /api/files/content?path=/folder/name." : "";
      const message = `There is nothing at this URL.${upload}`;
      return new HttpError("ROUTE_NOT_FOUND", message, { path: path.slice(0, 256) });
    }
    const methods = [
      ...new Set(matching.flatMap((route) => (route.head ? [route.method, "HEAD"] : [route.method]))),
    ];
    reply.header("Allow", methods.join(", "));
    return new HttpError("METHOD_NOT_ALLOWED", `${request.method} is not served here.`, {
      method: request.method,
      allowed: methods.join(","),
    });
  }

  #answerError(error: unknown, request: FastifyRequest, reply: FastifyReply): FastifyReply {
    if (reply.raw.headersSent) {
      reply.hijack();
      reply.raw.destroy();
      return reply;
    }
    const known =
      error instanceof DriveError || error instanceof HttpError
        ? explainUnmatched(error, request.headers)
        : fromFrameworkError(error);
    const mutates = request.method !== "GET" && request.method !== "HEAD";
    const route = request.routeOptions.url;
    const shown =
      known === undefined || known.reason === "INTERNAL"
        ? this.#internal(error, request.method, route)
        : { error: known, id: undefined };
    const answer = toErrorAnswer(shown.error, { mutates, id: shown.id });
    if (answer.status === 500 && known !== undefined && known.reason !== "INTERNAL") {
      this.#options.logger.error("request_failed", {
        method: request.method,
        route: request.routeOptions.url,
        error,
      });
    }
    return sendAnswer(reply, { status: answer.status, headers: answer.headers, json: answer.body });
  }

  /** Logs an unexpected error and returns what a client may know of it. */
  #internal(error: unknown, method: string, route: string | undefined): { error: DriveError; id: string } {
    const { logger, prng, onAssertion } = this.#options;
    const id = toHex(prng.bytes(ERROR_ID_SIZE_BYTES));
    logger.error("request_failed", { id, method, route, error });
    if (error instanceof AssertionError) onAssertion?.(error);
    return { error: new DriveError("INTERNAL", "Internal error.", { error_id: id }), id };
  }

  #onClientError(error: Error, socket: Socket): void {
    const response = this.#latest.get(socket);
    const begun = response !== undefined && response.headersSent && !response.writableFinished;
    if (!socket.writable || begun || errnoOf(error) === "ECONNRESET") {
      socket.destroy();
      return;
    }
    const inBody = response !== undefined && !response.headersSent;
    socket.end(rawErrorAnswer(error, inBody), () => socket.destroy());
  }
}

function sendAnswer(reply: FastifyReply, answer: Answer): FastifyReply {
  reply.code(answer.status ?? 200).header("Cache-Control", "no-store");
  for (const [name, value] of Object.entries(answer.headers ?? {})) reply.header(name, value);
  if (answer.json === undefined && answer.jsonBytes === undefined) return reply.send(answer.text);
  reply.type("application/json; charset=utf-8");
  return reply.send(answer.jsonBytes ?? JSON.stringify(answer.json));
}

function pathOf(request: FastifyRequest): string {
  return (request.raw.url ?? "").split("?")[0] ?? "";
}

function patternOf(path: string): RegExp {
  const escaped = path.replaceAll(".", "\\.");
  return new RegExp(`^${escaped.replaceAll(/:[A-Za-z]+/g, "[^/]+")}$`);
}

function listenError(error: Error, host: string, port: number): DriveError {
  const metadata = { host, port: String(port) };
  if (errnoOf(error) === "EADDRINUSE") {
    return new DriveError("ADDRESS_IN_USE", `Another process listens on ${host}:${port}.`, metadata, error);
  }
  return new DriveError(
    "CONFIGURATION_INVALID",
    `Cannot listen on ${host}:${port}: ${errnoOf(error) ?? error.message}.`,
    metadata,
    error,
  );
}
