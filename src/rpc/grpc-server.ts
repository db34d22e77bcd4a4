/**
 * The gRPC server of a node: its services, the standard health service and reflection on one port.
 *
 * Life cycle: start() binds, setServing() says that the node is ready, stop() refuses new calls, waits for those in work and
 * then ends them. Windows are enlarged (server-windows.ts). TLS is not part of it: nodes listen on loopback or a closed network.
 */
import { Server, ServerCredentials, logVerbosity, setLogVerbosity } from "@grpc/grpc-js";
import { DriveError } from "../drive/errors.ts";
import type { Logger } from "../telemetry/logger.ts";
import { deferred } from "../std/deferred.ts";
import type { Clock } from "../std/clock.ts";
import type { Prng } from "../std/prng.ts";
import { toHex } from "../std/bytes.ts";
import type { ErrorReporter } from "./error-codec.ts";
import { HealthStates } from "./health.ts";
import {
  FLOW_CONTROL_WINDOW_BYTES,
  KEEPALIVE_TIMEOUT_MS,
  KEEPALIVE_TIME_MS,
  MESSAGE_SIZE_BYTES_MAX,
  STOP_GRACE_MS,
  STREAMS_PER_CONNECTION_MAX,
  UNARY_TIMEOUT_MS,
} from "./limits.ts";
import { reflectionServices } from "./reflection.ts";
import { addService, type ServedService } from "./server-adapter.ts";
import { enlargeConnectionWindows, enlargeStreamWindows } from "./server-windows.ts";

/** Unary calls without a deadline of their own are ended after this: longer than any client of ours waits. */
const SERVER_UNARY_TIMEOUT_MS = 8 * UNARY_TIMEOUT_MS;

/** Bytes of an error id: enough to be unique in one node's logs. */
const ERROR_ID_SIZE_BYTES = 6;

/** Settings of RpcServer. */
export interface RpcServerOptions {
  readonly clock: Clock;
  readonly prng: Prng;
  readonly logger: Logger;
  readonly services: readonly ServedService[];
  /** Host to listen on, without port; an IPv6 address without brackets. */
  readonly host: string;
  /** Port to listen on; 0 for any free one. */
  readonly port: number;
  /** HTTP/2 receive window in bytes; 0 keeps the library's 64 KiB. FLOW_CONTROL_WINDOW_BYTES when absent. */
  readonly windowBytes?: number | undefined;
  /** How long stop() waits for calls in work. STOP_GRACE_MS when absent. */
  readonly stopGraceMs?: number | undefined;
}

/** A gRPC server; start() once, stop() once or more. */
export class RpcServer {
  readonly #options: RpcServerOptions;
  readonly #server: Server;
  readonly #health: HealthStates;
  readonly #logger: Logger;
  #stopping: Promise<void> | undefined;

  constructor(options: RpcServerOptions) {
    this.#options = options;
    this.#logger = options.logger.child("rpc");
    // What the library would print on its own comes back as an error to whoever called.
    setLogVerbosity(logVerbosity.NONE);
    // Channelz stays on: without it forceShutdown() of grpc-js 1.14.7 forgets its sessions and ends nothing.
    this.#server = new Server({
      "grpc.max_receive_message_length": MESSAGE_SIZE_BYTES_MAX,
      "grpc.max_send_message_length": MESSAGE_SIZE_BYTES_MAX,
      "grpc.max_concurrent_streams": STREAMS_PER_CONNECTION_MAX,
      "grpc.keepalive_time_ms": KEEPALIVE_TIME_MS,
      "grpc.keepalive_timeout_ms": KEEPALIVE_TIMEOUT_MS,
    });
    const descriptors = options.services.map(({ descriptor }) => descriptor);
    this.#health = new HealthStates(descriptors.map(({ typeName }) => typeName));
    const health = this.#health.service();
    const standard = [health, ...reflectionServices([...descriptors, health.descriptor])];
    const reporter = this.#reporter();
    for (const served of [...options.services, ...standard]) {
      addService(this.#server, served, {
        clock: options.clock,
        reporter,
        unaryTimeoutMs: SERVER_UNARY_TIMEOUT_MS,
      });
    }
  }

  #reporter(): ErrorReporter {
    return {
      newErrorId: () => toHex(this.#options.prng.bytes(ERROR_ID_SIZE_BYTES)),
      report: (error, { errorId, method }) => {
        const stack = error instanceof Error ? error.stack : String(error);
        this.#logger.error("call_failed", { error_id: errorId, method, stack });
      },
    };
  }

  /**
   * Binds and listens.
   * @returns the port
   * @throws DriveError ADDRESS_IN_USE when another process has the port, CONFIGURATION_INVALID for any other refusal
   */
  start(): Promise<number> {
    const { host, port } = this.#options;
    const windowBytes = this.#options.windowBytes ?? FLOW_CONTROL_WINDOW_BYTES;
    const address = `${host.includes(":") ? `[${host}]` : host}:${port}`;
    const streamWindows = windowBytes === 0 || enlargeStreamWindows(this.#server, windowBytes);
    return new Promise((resolve, reject) => {
      this.#server.bindAsync(address, ServerCredentials.createInsecure(), (error, boundPort) => {
        if (error !== null) {
          reject(bindError(error, address));
          return;
        }
        const windows = windowBytes === 0 || enlargeConnectionWindows(this.#server, windowBytes);
        if (!windows || !streamWindows) this.#logger.warn("windows_not_enlarged");
        resolve(boundPort);
      });
    });
  }

  /** Tells the health service whether the node serves. */
  setServing(serving: boolean): void {
    this.#health.setServing(serving);
  }

  /** Refuses new calls, waits for those in work for a grace, then ends them. Idempotent. */
  stop(): Promise<void> {
    this.#stopping ??= this.#stop();
    return this.#stopping;
  }

  async #stop(): Promise<void> {
    this.setServing(false);
    const done = deferred<void>();
    const force = (): void => {
      this.#server.forceShutdown();
      done.resolve();
    };
    const timer = this.#options.clock.setTimer(this.#options.stopGraceMs ?? STOP_GRACE_MS, force);
    this.#server.tryShutdown((error) => {
      if (error === undefined) done.resolve();
      else force();
    });
    await done.promise;
    timer.cancel();
  }
}

function bindError(error: Error, address: string): DriveError {
  // grpc-js wraps the error of the socket in text; the code of the system is in it.
  if (error.message.includes("EADDRINUSE")) {
    return new DriveError("ADDRESS_IN_USE", `Another process listens on ${address}.`, { address }, error);
  }
  return new DriveError("CONFIGURATION_INVALID", `Cannot listen on ${address}.`, { address }, error);
}
