/**
 * Refuses requests over Connect and gRPC-Web whose message is not one of its type, with ARGUMENT_INVALID and its detail.
 *
 * The library parses before any interceptor runs, calls malformed bytes an internal error, and names no reason. So the message is
 * parsed here first; what does not parse is replaced by a body that fails with the right error, which the library then
 * answers as its protocol has it. Messages are small, so parsing twice costs little.
 */
import { Code, ConnectError } from "@connectrpc/connect";
import {
  createMethodSerializationLookup,
  type UniversalHandler,
  type UniversalServerRequest,
  type UniversalServerResponse,
} from "@connectrpc/connect/protocol";
import {
  contentTypeUnaryProto,
  parseContentType as parseConnect,
} from "@connectrpc/connect/protocol-connect";
import { parseContentType as parseGrpcWeb } from "@connectrpc/connect/protocol-grpc-web";
import { base64Decode } from "@bufbuild/protobuf/wire";
import { DriveError } from "../drive/errors.ts";
import { utf8 } from "../std/bytes.ts";
import { HttpError, toErrorAnswer } from "./http-error.ts";
import { CONNECT_MESSAGE_SIZE_BYTES_MAX } from "./limits.ts";

/** Flags and length in front of each message of a stream. */
const ENVELOPE_HEADER_SIZE_BYTES = 5;

/** Characters of what the parser says that are told: it may quote all of a message. */
const WHY_LENGTH_MAX = 200;

/** Flags of an envelope whose message is plain. */
const PLAIN_FLAGS = 0;

/** Answers a request, or rejects as the library does. */
type Answer = (request: UniversalServerRequest) => Promise<UniversalServerResponse>;

/** How a request carries its message. */
interface Shape {
  readonly binary: boolean;
  readonly enveloped: boolean;
}

/**
 * The handler `handler` behind the check.
 * @param toError a DriveError as Connect carries it
 */
export function refuseMalformed(
  handler: UniversalHandler,
  toError: (error: DriveError) => ConnectError,
): UniversalHandler {
  const lookup = createMethodSerializationLookup(handler.method, undefined, undefined, {
    readMaxBytes: CONNECT_MESSAGE_SIZE_BYTES_MAX,
    writeMaxBytes: CONNECT_MESSAGE_SIZE_BYTES_MAX,
  });
  const problemOf = (bytes: Uint8Array, binary: boolean): ConnectError | undefined => {
    try {
      lookup.getI(binary).parse(bytes);
      return undefined;
    } catch (error) {
      // What is too large the library says itself.
      const { code, rawMessage } = ConnectError.from(error);
      return code === Code.ResourceExhausted ? undefined : toError(malformed(handler, rawMessage));
    }
  };
  const checked: Answer = async (request) => {
    if (request.method === "GET") {
      const problem = problemOfQuery(new URL(request.url).searchParams, handler, toError, problemOf);
      if (problem === undefined) return handler(request);
      // A query has no body that could fail, so it is answered as the same call by POST.
      const header = new Headers({ "content-type": contentTypeUnaryProto });
      return handler({ ...request, method: "POST", header, body: failing(problem) });
    }
    const shape = shapeOf(request.header);
    const { body } = request;
    if (shape === undefined || !isBytes(body)) return withReason(await handler(request));
    const problemOfEnvelope = () =>
      toError(malformed(handler, "it is not one plain message in its envelope"));
    return withReason(
      await handler({ ...request, body: checkedBody(body, shape, problemOf, problemOfEnvelope) }),
    );
  };
  return Object.assign(checked, { ...handler });
}

/** The answer to a media type that no protocol has: the library gives the status alone. */
function withReason(answer: UniversalServerResponse): UniversalServerResponse {
  const unsupported = new HttpError(
    "MEDIA_TYPE_UNSUPPORTED",
    "The body must have Content-Type application/json or application/proto, or one of Connect streams or gRPC-Web.",
  );
  const { status, body } = toErrorAnswer(unsupported, { mutates: false });
  if (answer.status !== status) return answer;
  const header = new Headers(answer.header);
  header.set("content-type", "application/json; charset=utf-8");
  return { ...answer, header, body: piecesOf(utf8(JSON.stringify(body))) };
}

async function* piecesOf(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield await Promise.resolve(bytes);
}

function malformed({ method }: UniversalHandler, why: string): DriveError {
  return new DriveError(
    "ARGUMENT_INVALID",
    `The request is no ${method.input.typeName}: ${why.slice(0, WHY_LENGTH_MAX)}.`,
    {
      message_type: method.input.typeName,
    },
  );
}

/** How the message comes; undefined when it is compressed, or of a type that the library refuses. */
function shapeOf(header: Headers): Shape | undefined {
  const isCompressed = ["content-encoding", "connect-content-encoding", "grpc-encoding"].some(
    (name) => (header.get(name) ?? "identity") !== "identity",
  );
  if (isCompressed) return undefined;
  const contentType = header.get("content-type");
  const connect = parseConnect(contentType);
  if (connect !== undefined) return { binary: connect.binary, enveloped: connect.stream };
  const web = parseGrpcWeb(contentType);
  return web === undefined || web.text ? undefined : { binary: web.binary, enveloped: true };
}

function isBytes(body: UniversalServerRequest["body"]): body is AsyncIterable<Uint8Array> {
  return typeof body === "object" && body !== null && Symbol.asyncIterator in body;
}

type ProblemOf = (bytes: Uint8Array, binary: boolean) => ConnectError | undefined;

/** Passes a body on once it is whole and its message parses; fails when that does not. One too large is passed on as it comes. */
async function* checkedBody(
  body: AsyncIterable<Uint8Array>,
  { binary, enveloped }: Shape,
  problemOf: ProblemOf,
  problemOfEnvelope: () => ConnectError,
): AsyncGenerator<Uint8Array> {
  const sizeBytesMax = CONNECT_MESSAGE_SIZE_BYTES_MAX + (enveloped ? ENVELOPE_HEADER_SIZE_BYTES : 0);
  let held: Uint8Array[] = [];
  let sizeBytes = 0;
  for await (const piece of body) {
    sizeBytes += piece.length;
    held.push(piece);
    if (sizeBytes <= sizeBytesMax) continue;
    yield* held;
    held = [];
  }
  if (sizeBytes <= sizeBytesMax) {
    const whole = Buffer.concat(held);
    const message = enveloped ? messageIn(whole) : whole;
    const problem = message === undefined ? problemOfEnvelope() : problemOf(message, binary);
    if (problem !== undefined) throw problem;
  }
  yield* held;
}

/** The one plain message of a stream; undefined when that is not what it has. */
function messageIn(bytes: Buffer): Uint8Array | undefined {
  if (bytes.length < ENVELOPE_HEADER_SIZE_BYTES || bytes.readUInt8(0) !== PLAIN_FLAGS) return undefined;
  const message = bytes.subarray(ENVELOPE_HEADER_SIZE_BYTES);
  return message.length === bytes.readUInt32BE(1) ? message : undefined;
}

/** What is wrong with the message of a GET; undefined too where the library tells it. */
function problemOfQuery(
  query: URLSearchParams,
  handler: UniversalHandler,
  toError: (error: DriveError) => ConnectError,
  problemOf: ProblemOf,
): ConnectError | undefined {
  const encoding = query.get("encoding");
  const isPlain = (query.get("compression") ?? "identity") === "identity";
  if (!isPlain || !handler.allowedMethods.includes("GET") || (encoding !== "proto" && encoding !== "json")) {
    return undefined;
  }
  const text = query.get("message") ?? "";
  if (query.get("base64") !== "1") return problemOf(Buffer.from(text), encoding === "proto");
  let bytes: Uint8Array;
  try {
    bytes = base64Decode(text);
  } catch (error) {
    return toError(malformed(handler, error instanceof Error ? error.message : String(error)));
  }
  return problemOf(bytes, encoding === "proto");
}

/** A body that fails before its first byte. */
function failing(error: ConnectError): AsyncIterable<Uint8Array> {
  return { [Symbol.asyncIterator]: () => ({ next: () => Promise.reject(error) }) };
}
