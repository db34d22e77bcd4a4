/**
 * A typed client over one grpc-js channel, made from a protobuf service: promises and async iterables in, DriveError out.
 *
 * Rules: a unary call always has a deadline; a stream has one when its caller gives it, else keepalive of the channel finds a
 * dead peer; an aborted signal cancels the call on the wire; requests wait for the peer (back-pressure); leaving a stream of
 * answers early cancels it. Never retries.
 */
import {
  create,
  type DescMethod,
  type DescService,
  type Message,
  type MessageInitShape,
  type MessageShape,
} from "@bufbuild/protobuf";
import { MethodOptions_IdempotencyLevel } from "@bufbuild/protobuf/wkt";
import {
  Metadata,
  type CallOptions as RawOptions,
  type Client as Channel,
  type ClientDuplexStream,
  type ClientReadableStream,
  type ClientWritableStream,
  type MethodDefinition,
  type ServiceError,
} from "@grpc/grpc-js";
import { DriveError, type ErrorReason } from "../drive/errors.ts";
import { must } from "../std/assert.ts";
import type { Clock } from "../std/clock.ts";
import { decodeStatus } from "./error-codec.ts";
import { isBulk, serviceDefinition } from "./grpc-codec.ts";
import { UNARY_TIMEOUT_MS } from "./limits.ts";
import { boundMessagesAhead } from "./read-ahead.ts";

/** Options of one call. */
export interface CallOptions {
  /** Milliseconds until the call is given up; UNARY_TIMEOUT_MS for unary calls when absent, none for streams. */
  readonly timeoutMs?: number | undefined;
  readonly signal?: AbortSignal | undefined;
  /**
   * Reason of the error when the call is lost or late. When absent: PEER_UNREACHABLE for methods without side effects,
   * COMMIT_OUTCOME_UNKNOWN for the others.
   */
  readonly lostReason?: ErrorReason | undefined;
}

type Init<M extends DescMethod> = MessageInitShape<M["input"]>;
type Answer<M extends DescMethod> = MessageShape<M["output"]>;

/** How a method is called. */
export type MethodCaller<M extends DescMethod> = M["methodKind"] extends "unary"
  ? (request: Init<M>, options?: CallOptions) => Promise<Answer<M>>
  : M["methodKind"] extends "server_streaming"
    ? (request: Init<M>, options?: CallOptions) => AsyncIterable<Answer<M>>
    : M["methodKind"] extends "client_streaming"
      ? (requests: AsyncIterable<Init<M>>, options?: CallOptions) => Promise<Answer<M>>
      : (requests: AsyncIterable<Init<M>>, options?: CallOptions) => AsyncIterable<Answer<M>>;

/** All methods of a service. */
export type GrpcClient<S extends DescService> = {
  readonly [K in keyof S["method"]]: MethodCaller<S["method"][K]>;
};

/** What a client needs. */
export interface ClientAdapterOptions {
  readonly channel: Channel;
  readonly clock: Clock;
  /** Whom the channel leads to, for messages. */
  readonly address: string;
  /** Text metadata sent with every call. */
  readonly headers?: Readonly<Record<string, string>> | undefined;
}

type RawRequestStream = ClientWritableStream<Message> | ClientDuplexStream<Message, Message>;
type RawAnswerStream = ClientReadableStream<Message> | ClientDuplexStream<Message, Message>;

/** Everything one call needs, put together once. */
interface Invocation {
  readonly method: DescMethod;
  readonly definition: MethodDefinition<Message, Message>;
  readonly options: CallOptions;
  readonly adapter: ClientAdapterOptions;
}

/** Makes a client of `service`. */
export function createGrpcClient<S extends DescService>(
  service: S,
  adapter: ClientAdapterOptions,
): GrpcClient<S> {
  const definitions = serviceDefinition(service);
  const callers: Record<string, unknown> = {};
  for (const method of service.methods) {
    const definition = must(definitions[method.localName], "every method has a definition");
    callers[method.localName] = (input: unknown, options: CallOptions = {}): unknown =>
      invoke({ method, definition, options, adapter }, input);
  }
  return callers as GrpcClient<S>;
}

function invoke(invocation: Invocation, input: unknown): unknown {
  switch (invocation.method.methodKind) {
    case "unary":
      return callUnary(invocation, input as MessageInitShape<DescMethod["input"]>);
    case "server_streaming":
      return callServerStream(invocation, input as MessageInitShape<DescMethod["input"]>);
    case "client_streaming":
      return callClientStream(invocation, input as AsyncIterable<never>);
    case "bidi_streaming":
      return callBidiStream(invocation, input as AsyncIterable<never>);
  }
}

function metadataOf(invocation: Invocation): Metadata {
  const metadata = new Metadata();
  for (const [name, value] of Object.entries(invocation.adapter.headers ?? {})) metadata.set(name, value);
  return metadata;
}

function rawOptions(invocation: Invocation): RawOptions {
  const isUnary = invocation.method.methodKind === "unary";
  const timeoutMs = invocation.options.timeoutMs ?? (isUnary ? UNARY_TIMEOUT_MS : undefined);
  // grpc-js takes deadlines as wall time.
  return timeoutMs === undefined ? {} : { deadline: invocation.adapter.clock.wallMs() + timeoutMs };
}

function toDriveError(error: unknown, invocation: Invocation): Error {
  const { signal, lostReason } = invocation.options;
  if (signal?.aborted === true) {
    if (signal.reason instanceof DriveError) return signal.reason;
    return new DriveError("CANCELED", "The caller gave up.", {}, signal.reason);
  }
  if (!(error instanceof Error) || !("code" in error) || typeof error.code !== "number")
    return error as Error;
  const harmless = invocation.method.idempotency === MethodOptions_IdempotencyLevel.NO_SIDE_EFFECTS;
  return decodeStatus(error as ServiceError, {
    lostReason: lostReason ?? (harmless ? "PEER_UNREACHABLE" : "COMMIT_OUTCOME_UNKNOWN"),
    address: invocation.adapter.address,
  });
}

/** Cancels `call` when the caller's signal aborts; returns the function that forgets the signal. */
function followSignal(invocation: Invocation, call: { cancel(): void }): () => void {
  const { signal } = invocation.options;
  if (signal === undefined) return () => undefined;
  const onAbort = (): void => call.cancel();
  if (signal.aborted) onAbort();
  signal.addEventListener("abort", onAbort, { once: true });
  return () => signal.removeEventListener("abort", onAbort);
}

function callUnary(invocation: Invocation, request: MessageInitShape<DescMethod["input"]>): Promise<Message> {
  const { method, definition, adapter } = invocation;
  return new Promise((resolve, reject) => {
    const call = adapter.channel.makeUnaryRequest(
      definition.path,
      definition.requestSerialize,
      definition.responseDeserialize,
      create(method.input, request),
      metadataOf(invocation),
      rawOptions(invocation),
      (error, answer) => {
        forget();
        if (error !== null) reject(toDriveError(error, invocation));
        else resolve(must(answer, "a call without error has an answer"));
      },
    );
    const forget = followSignal(invocation, call);
  });
}

async function* callServerStream(
  invocation: Invocation,
  request: MessageInitShape<DescMethod["input"]>,
): AsyncIterable<Message> {
  const { method, definition, adapter } = invocation;
  const call = adapter.channel.makeServerStreamRequest(
    definition.path,
    definition.requestSerialize,
    definition.responseDeserialize,
    create(method.input, request),
    metadataOf(invocation),
    rawOptions(invocation),
  );
  yield* answersOf(invocation, call, undefined);
}

function callClientStream(invocation: Invocation, requests: AsyncIterable<never>): Promise<Message> {
  const { definition, adapter } = invocation;
  return new Promise((resolve, reject) => {
    const pump: Pump = { failure: undefined };
    const call = adapter.channel.makeClientStreamRequest(
      definition.path,
      definition.requestSerialize,
      definition.responseDeserialize,
      metadataOf(invocation),
      rawOptions(invocation),
      (error, answer) => {
        forget();
        if (pump.failure !== undefined) reject(pump.failure.error as Error);
        else if (error !== null) reject(toDriveError(error, invocation));
        else resolve(must(answer, "a call without error has an answer"));
      },
    );
    const forget = followSignal(invocation, call);
    void pumpRequests(invocation, call, requests, pump);
  });
}

async function* callBidiStream(
  invocation: Invocation,
  requests: AsyncIterable<never>,
): AsyncIterable<Message> {
  const { definition, adapter } = invocation;
  const call = adapter.channel.makeBidiStreamRequest(
    definition.path,
    definition.requestSerialize,
    definition.responseDeserialize,
    metadataOf(invocation),
    rawOptions(invocation),
  );
  const pump: Pump = { failure: undefined };
  void pumpRequests(invocation, call, requests, pump);
  yield* answersOf(invocation, call, pump);
}

/** What became of the requests: set when their source failed, which then is the error of the call. */
interface Pump {
  failure: { readonly error: unknown } | undefined;
}

async function* answersOf(
  invocation: Invocation,
  call: RawAnswerStream,
  pump: Pump | undefined,
): AsyncIterable<Message> {
  if (isBulk(invocation.method.output)) boundMessagesAhead(call);
  const forget = followSignal(invocation, call);
  // A cancelled call reports its end as an error event, possibly after nobody iterates any more.
  call.on("error", () => undefined);
  try {
    for await (const message of call) yield message as Message;
  } catch (error) {
    if (pump?.failure !== undefined) throw pump.failure.error;
    throw toDriveError(error, invocation);
  } finally {
    forget();
    call.cancel();
  }
}

async function pumpRequests(
  invocation: Invocation,
  call: RawRequestStream,
  requests: AsyncIterable<never>,
  pump: Pump,
): Promise<void> {
  const { method } = invocation;
  if (isBulk(method.input)) boundMessagesAhead(call);
  let ended = false;
  let wake: (() => void) | undefined;
  const onEnd = (): void => {
    ended = true;
    wake?.();
  };
  call.on("status", onEnd);
  call.on("close", onEnd);
  call.on("drain", () => wake?.());
  try {
    for await (const init of requests) {
      if (ended) return;
      const flows = call.write(create(method.input, init));
      if (flows || ended) continue;
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
      wake = undefined;
    }
    if (!ended) call.end();
  } catch (error) {
    pump.failure = { error };
    call.cancel();
  }
}
