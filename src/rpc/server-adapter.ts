/**
 * Serves protobuf services on a grpc-js server: handlers are promises and async generators with typed messages.
 *
 * Rules: every call has a deadline, the client's or the server's own; the signal of a call aborts when the client cancels,
 * goes away or the deadline passes; answers wait for the client (back-pressure); whatever a handler throws becomes a status of
 * error-codec.ts. Does not authenticate: services check what they need from the call's metadata.
 */
import { once } from "node:events";
import type { Duplex } from "node:stream";
import {
  create,
  type DescMethod,
  type DescService,
  type Message,
  type MessageInitShape,
  type MessageShape,
} from "@bufbuild/protobuf";
import type {
  Metadata,
  Server,
  ServerDuplexStream,
  ServerUnaryCall,
  StatusObject,
  UntypedHandleCall,
  sendUnaryData,
} from "@grpc/grpc-js";
import { DriveError } from "../drive/errors.ts";
import { must } from "../std/assert.ts";
import type { Clock } from "../std/clock.ts";
import { allowListeners, CALL_LISTENER_COUNT_MAX } from "../std/shared-signal.ts";
import { encodeStatus, toDriveError, type ErrorReporter } from "./error-codec.ts";
import { isBulk, methodPath, serviceDefinition } from "./grpc-codec.ts";
import { boundMessagesAhead } from "./read-ahead.ts";

/** What a handler sees beside its messages. */
export interface ServerCall {
  /** Aborts when the client cancels or goes away, and when the deadline passes; of a stream also after it has ended. */
  readonly signal: AbortSignal;
  /** Address of the client. */
  readonly peer: string;
  /** First value of a text metadata header, in lower case; undefined when absent. */
  header(name: string): string | undefined;
}

type Input<M extends DescMethod> = MessageShape<M["input"]>;
type Output<M extends DescMethod> = MessageInitShape<M["output"]>;

/** The handler of one method. A generator that is left early has its `finally` run. */
export type MethodHandler<M extends DescMethod> = M["methodKind"] extends "unary"
  ? (request: Input<M>, call: ServerCall) => Promise<Output<M>> | Output<M>
  : M["methodKind"] extends "server_streaming"
    ? (request: Input<M>, call: ServerCall) => AsyncIterable<Output<M>>
    : M["methodKind"] extends "client_streaming"
      ? (requests: AsyncIterable<Input<M>>, call: ServerCall) => Promise<Output<M>>
      : (requests: AsyncIterable<Input<M>>, call: ServerCall) => AsyncIterable<Output<M>>;

/** Handlers for every method of a service. */
export type ServiceHandlers<S extends DescService> = {
  readonly [K in keyof S["method"]]: MethodHandler<S["method"][K]>;
};

/** A service with its handlers, types erased; made by service(). */
export interface ServedService {
  readonly descriptor: DescService;
  readonly handlers: Readonly<Record<string, unknown>>;
}

/** Binds handlers to a service. */
export function service<S extends DescService>(descriptor: S, handlers: ServiceHandlers<S>): ServedService {
  return { descriptor, handlers };
}

/** What the adapter needs from its surroundings. */
export interface ServerAdapterOptions {
  readonly clock: Clock;
  readonly reporter: ErrorReporter;
  /** Longest time of a unary call whose client named no deadline, in milliseconds. */
  readonly unaryTimeoutMs: number;
}

type AnyHandler = (input: unknown, call: ServerCall) => unknown;
type RawCall = ServerUnaryCall<Message, Message> & ServerDuplexStream<Message, Message>;

/** Adds a service to a server that has not started. */
export function addService(server: Server, served: ServedService, options: ServerAdapterOptions): void {
  const handlers: Record<string, UntypedHandleCall> = {};
  for (const method of served.descriptor.methods) {
    const handler = must(
      served.handlers[method.localName],
      `a handler of ${methodPath(method)}`,
    ) as AnyHandler;
    handlers[method.localName] = rawHandler(method, handler, options);
  }
  server.addService(serviceDefinition(served.descriptor), handlers);
}

function rawHandler(
  method: DescMethod,
  handler: AnyHandler,
  options: ServerAdapterOptions,
): UntypedHandleCall {
  const streamsOut = method.methodKind === "server_streaming" || method.methodKind === "bidi_streaming";
  const raw = (call: RawCall, callback: sendUnaryData<Message>): void => {
    if (streamsOut) void answerStream(method, handler, options, call);
    else void answerOne(method, handler, options, { call, callback });
  };
  return raw as UntypedHandleCall;
}

/** @param isOver whether the call has been answered, so that nobody is left who would want to hear of its end */
function serverCall(
  method: DescMethod,
  call: RawCall,
  abort: AbortController,
  isOver: () => boolean,
): ServerCall {
  // A unary call does one thing; what comes in a stream is worked on side by side.
  if (method.methodKind !== "unary") allowListeners(abort.signal, CALL_LISTENER_COUNT_MAX);
  call.on("cancelled", () => {
    // The library says so of every call that has ended. An error and an event for each would cost more than many a call does.
    if (!isOver()) abort.abort(new DriveError("CANCELED", "The caller gave up."));
  });
  return {
    signal: abort.signal,
    peer: call.getPeer(),
    header: (name) => textHeader(call.metadata, name),
  };
}

function textHeader(metadata: Metadata, name: string): string | undefined {
  const [value] = metadata.get(name);
  return typeof value === "string" ? value : undefined;
}

function inputOf(method: DescMethod, call: RawCall, signal: AbortSignal): unknown {
  if (method.methodKind === "unary" || method.methodKind === "server_streaming") return call.request;
  if (isBulk(method.input)) boundMessagesAhead(call);
  return requestsOf(call, signal);
}

/**
 * The requests of a stream. That they end is no proof that the client had finished: a grpc-js client that cancels half-closes
 * before it resets, and the reset arrives later. Contracts in which a cut stream must not be taken for a whole one have a field
 * that says so.
 */
async function* requestsOf(readable: Pick<Duplex, "iterator">, signal: AbortSignal): AsyncIterable<unknown> {
  try {
    // Not over the stream itself: leaving that loop early would destroy the duplex and lose the answer.
    yield* readable.iterator({ destroyOnReturn: false });
  } catch (error) {
    signal.throwIfAborted();
    throw error;
  }
  signal.throwIfAborted();
}

async function answerOne(
  method: DescMethod,
  handler: AnyHandler,
  options: ServerAdapterOptions,
  raw: { readonly call: RawCall; readonly callback: sendUnaryData<Message> },
): Promise<void> {
  const { call, callback } = raw;
  const abort = new AbortController();
  let answered = false;
  const own = serverCall(method, call, abort, () => answered);
  const answer = (error: StatusObject | null, message: Message | null): void => {
    if (answered) return;
    answered = true;
    timer?.cancel();
    callback(error, message);
  };
  const timeUp = (): void => {
    const error = new DriveError("COMMIT_OUTCOME_UNKNOWN", "The call took too long.");
    abort.abort(error);
    answer(encodeStatus(error), null);
  };
  const limited = method.methodKind === "unary" && call.getDeadline() === Infinity;
  const timer = limited ? options.clock.setTimer(options.unaryTimeoutMs, timeUp) : undefined;
  try {
    const init = (await handler(inputOf(method, call, own.signal), own)) as MessageInitShape<
      typeof method.output
    >;
    answer(null, create(method.output, init));
  } catch (error) {
    const context = { reporter: options.reporter, method: methodPath(method), signal: own.signal };
    answer(encodeStatus(toDriveError(error, context)), null);
  }
}

async function answerStream(
  method: DescMethod,
  handler: AnyHandler,
  options: ServerAdapterOptions,
  call: RawCall,
): Promise<void> {
  const abort = new AbortController();
  const own = serverCall(method, call, abort, () => false);
  if (isBulk(method.output)) boundMessagesAhead(call);
  try {
    const answers = handler(inputOf(method, call, own.signal), own) as AsyncIterable<Message>;
    for await (const init of answers) {
      if (own.signal.aborted) return;
      const message = create(method.output, init as MessageInitShape<typeof method.output>);
      if (!call.write(message)) await once(call, "drain", { signal: own.signal });
    }
    call.end();
  } catch (error) {
    // A call whose client has gone has nobody to tell.
    if (own.signal.aborted) return;
    const context = { reporter: options.reporter, method: methodPath(method), signal: own.signal };
    call.emit("error", encodeStatus(toDriveError(error, context)));
  }
}
