/**
 * Routes as data: method, path, what goes in, what comes out, and the function between. The server and /openapi.json are both
 * made from the same list, so neither can know a route that the other does not.
 *
 * Input is checked as a whole before the function runs: every problem of path, query and body is reported at once.
 */
import type { FastifyReply, FastifyRequest } from "fastify";
import type { z } from "zod";
import type { DriveApi, ReadOptions, WriteOptions } from "../drive/drive-api.ts";
import { parsePath } from "../drive/path.ts";
import type { Clock } from "../std/clock.ts";
import type { Logger } from "../telemetry/logger.ts";
import type { Metrics } from "../telemetry/metrics.ts";
import type { BodyReader } from "./body-reader.ts";
import { header, parsePrecondition } from "./conditions.ts";
import { argumentsInvalid, HttpError } from "./http-error.ts";
import { JSON_BODY_SIZE_BYTES_MAX, type GatewayLimits } from "./limits.ts";
import { parseQuery } from "./query.ts";
import { requestIdSchema } from "./schemas.ts";
import type { Slots } from "./slots.ts";

/** What every route may use. */
export interface Services {
  readonly drive: DriveApi;
  readonly logger: Logger;
  readonly metrics: Metrics;
  readonly clock: Clock;
  readonly limits: GatewayLimits;
  readonly nodeId: string;
  readonly version: string;
  readonly uploads: Slots;
  readonly downloads: Slots;
  readonly watches: Slots;
  /** Milliseconds since the gateway was made. */
  uptimeMs(): number;
  /** Aborts when stop() is called: watchers end at once, other requests get the grace. */
  readonly stopSignal: AbortSignal;
}

/** One request under way. */
export interface Call extends Services {
  readonly request: FastifyRequest;
  readonly reply: FastifyReply;
  /** Aborts when the client goes away or the gateway's grace ends. */
  readonly signal: AbortSignal;
  /** Identity of a change: the client's own, or one made here so that an answer can name it. */
  readonly requestId: string;
  /** The body; may be read once. */
  body(): BodyReader;
}

/** What a route answers. Undefined when it wrote to the raw response itself. */
export interface Answer {
  /** 200 when absent. */
  readonly status?: number;
  readonly headers?: Readonly<Record<string, string>>;
  /** Sent as JSON. */
  readonly json?: unknown;
  /** JSON that is written already, in UTF-8. */
  readonly jsonBytes?: Uint8Array;
  /** Sent as it is, with the Content-Type among `headers`. */
  readonly text?: string;
}

/** Documentation of one possible answer. */
export interface ResponseDoc {
  readonly description: string;
  readonly schema?: z.ZodType;
  /** application/json when there is a schema, unless named. */
  readonly mediaType?: string;
}

/** A route as the server and the document see it. */
export interface Route {
  readonly method: "GET" | "POST" | "PUT" | "PATCH" | "DELETE";
  /** Whether HEAD runs the same function; its body is dropped by the HTTP layer or the function itself. */
  readonly head: boolean;
  /** Path with parameters as ":name". */
  readonly path: string;
  readonly summary: string;
  readonly tag: "uploads" | "downloads" | "files" | "tasks" | "node";
  readonly params: z.ZodObject | undefined;
  readonly query: z.ZodObject | undefined;
  /** A JSON schema, raw bytes, or none. */
  readonly body: z.ZodType | "bytes" | undefined;
  readonly requestHeaders: Readonly<Record<string, string>>;
  readonly responses: Readonly<Record<number, ResponseDoc>>;
  run(call: Call): Promise<Answer | undefined>;
}

interface RouteSettings<P extends z.ZodObject, Q extends z.ZodObject, B extends z.ZodType> {
  readonly method: Route["method"];
  readonly head?: boolean;
  readonly path: string;
  readonly summary: string;
  readonly tag: Route["tag"];
  readonly params?: P;
  readonly query?: Q;
  readonly body?: B | "bytes";
  readonly requestHeaders?: Readonly<Record<string, string>>;
  readonly responses: Readonly<Record<number, ResponseDoc>>;
  handle(
    input: { readonly params: z.output<P>; readonly query: z.output<Q>; readonly body: z.output<B> },
    call: Call,
  ): Promise<Answer | undefined>;
}

/** Makes a route whose function gets checked input. */
export function route<
  P extends z.ZodObject = z.ZodObject,
  Q extends z.ZodObject = z.ZodObject,
  B extends z.ZodType = z.ZodType,
>(settings: RouteSettings<P, Q, B>): Route {
  const { params, query, body } = settings;
  return {
    method: settings.method,
    head: settings.head ?? settings.method === "GET",
    path: settings.path,
    summary: settings.summary,
    tag: settings.tag,
    params,
    query,
    body,
    requestHeaders: settings.requestHeaders ?? {},
    responses: settings.responses,
    async run(call) {
      const problems: string[] = [];
      const check = <S extends z.ZodType>(
        where: string,
        schema: S | undefined,
        value: unknown,
      ): z.output<S> => {
        const result = schema?.safeParse(value);
        if (result?.success === false)
          problems.push(...result.error.issues.map((issue) => describe(where, issue)));
        return (result?.data ?? {}) as z.output<S>;
      };
      const given = parseQuery(rawQueryOf(call.request));
      const input = {
        params: check("path", params, call.request.params),
        query: check("query", query, given),
        body: check("body", body === "bytes" ? undefined : body, await readJson(body, call)),
      };
      if (query === undefined) {
        for (const name of Object.keys(given)) problems.push(`query: Unrecognized key: "${name}"`);
      }
      if (problems.length > 0) throw argumentsInvalid(problems);
      return settings.handle(input, call);
    },
  };
}

/** The query string of a request as it came: the server is set up not to parse it, because its router cannot take a refusal. */
function rawQueryOf(request: FastifyRequest): string {
  const url = request.raw.url ?? "";
  const at = url.indexOf("?");
  return at < 0 ? "" : url.slice(at + 1);
}

function describe(where: string, issue: z.core.$ZodIssue): string {
  // What is not there has the type "undefined" to the schema, which no client has ever heard of.
  const isMissing = issue.code === "invalid_type" && issue.message.endsWith("received undefined");
  const what = isMissing ? "is missing" : issue.message;
  return `${[where, ...issue.path.map(String)].join(".")}: ${what}`;
}

const UTF_8_CHARSETS = /^charset="?(?:utf-?8|us-ascii)"?$/;

async function readJson(schema: z.ZodType | "bytes" | undefined, call: Call): Promise<unknown> {
  if (schema === undefined || schema === "bytes") return undefined;
  // A body of another type is refused rather than guessed at; it also keeps forms of foreign pages, which a browser sends
  // without asking this server first, from changing anything.
  const [type = "", ...parameters] = (call.request.headers["content-type"] ?? "")
    .split(";")
    .map((part) => part.trim().toLowerCase());
  if (type !== "application/json") {
    throw new HttpError("MEDIA_TYPE_UNSUPPORTED", "The body must have Content-Type: application/json.");
  }
  // JSON is UTF-8 (RFC 8259 section 8.1); ASCII is a part of it.
  if (parameters.some((each) => each.startsWith("charset=") && !UTF_8_CHARSETS.test(each))) {
    throw new HttpError("MEDIA_TYPE_UNSUPPORTED", "The body must be JSON in UTF-8.");
  }
  refuseContentEncoding(call);
  const bytes = await call.body().whole(JSON_BODY_SIZE_BYTES_MAX, "A JSON body");
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true, ignoreBOM: false }).decode(bytes));
  } catch (error) {
    throw argumentsInvalid([
      `body: not JSON in UTF-8 (${error instanceof Error ? error.message : String(error)})`,
    ]);
  }
}

/** Refuses a compressed body: it would be stored as it is, or be a bomb. */
export function refuseContentEncoding(call: Call): void {
  const encoding = header(call.request.headers, "content-encoding")?.trim().toLowerCase();
  if (encoding !== undefined && encoding !== "" && encoding !== "identity") {
    throw new HttpError("MEDIA_TYPE_UNSUPPORTED", "The body must not have a Content-Encoding.");
  }
  const transfer = header(call.request.headers, "transfer-encoding")?.trim().toLowerCase();
  if (transfer !== undefined && transfer !== "chunked") {
    throw new HttpError("MEDIA_TYPE_UNSUPPORTED", "The body must have no Transfer-Encoding but chunked.");
  }
}

/** Options of a read. */
export function readOptions(
  call: Call,
  query: { readonly consistency?: "linearizable" | "stale" | undefined },
): ReadOptions {
  return { consistency: query.consistency, signal: call.signal };
}

/** What the header Idempotency-Key does, for the document. */
export const IDEMPOTENCY_KEY_DOC =
  "Identity of the change: the same again returns the first answer, for another change it is refused.";

/**
 * Options of a change: its id and what the headers demand. Sets the header Idempotency-Key of the answer to the id.
 * @param bodyId the field requestId of the body
 * @throws DriveError ARGUMENT_INVALID when header and body name different ids, or a condition makes no sense
 */
export function writeOptions(call: Call, bodyId?: string): WriteOptions {
  const headerId = requestIdOf(call.request);
  if (headerId !== undefined && bodyId !== undefined && headerId !== bodyId) {
    throw argumentsInvalid(["body.requestId: differs from the header"]);
  }
  const requestId = bodyId ?? call.requestId;
  call.reply.header("Idempotency-Key", requestId);
  call.reply.header("X-Request-Id", traceIdOf(call.request) ?? requestId);
  return { requestId, precondition: parsePrecondition(call.request.headers), signal: call.signal };
}

/**
 * The request id that the header Idempotency-Key carries, with or without quotes. X-Request-Id is none: proxies set it, some
 * the same for several requests.
 * @throws DriveError ARGUMENT_INVALID
 */
export function requestIdOf(request: Pick<FastifyRequest, "headers">): string | undefined {
  const key = header(request.headers, "idempotency-key")?.replace(/^"(.*)"$/, "$1");
  if (key !== undefined && !requestIdSchema.safeParse(key).success) {
    throw argumentsInvalid(["header Idempotency-Key: not 1 to 64 printable ASCII characters without spaces"]);
  }
  return key;
}

/** The header X-Request-Id when it is fit to be echoed and logged. It names the request for people and decides nothing. */
export function traceIdOf(request: Pick<FastifyRequest, "headers">): string | undefined {
  const id = header(request.headers, "x-request-id");
  return requestIdSchema.safeParse(id).success ? id : undefined;
}

/** Checks a path and returns it without a trailing slash. @throws DriveError PATH_INVALID, NAME_TOO_LONG, PATH_TOO_DEEP */
export function checkedPath(path: string): string {
  return `/${parsePath(path).join("/")}`;
}
