/**
 * MetadataService, CatalogService, TaskService, DownloadService and ProgressService over Connect (and gRPC-Web), for browsers and
 * generated clients on the HTTP port.
 *
 * Unary and server-streaming calls alone: HTTP/1.1 has no more. A failed call carries the canonical code, Retry-After, and one
 * netdisk.v1.ErrorDetail. Bodies are bounded in size and in time, and a malformed one is refused as an invalid argument.
 */
import { Code, ConnectError, type ConnectRouter, type Interceptor } from "@connectrpc/connect";
import { fastifyConnectPlugin } from "@connectrpc/connect-fastify";
import type { FastifyInstance } from "fastify";
import { CatalogService } from "../../gen/netdisk/v1/catalog_service_pb.ts";
import { DownloadService } from "../../gen/netdisk/v1/download_service_pb.ts";
import { ErrorDetailSchema } from "../../gen/netdisk/v1/error_pb.ts";
import { MetadataService } from "../../gen/netdisk/v1/metadata_service_pb.ts";
import { ProgressService } from "../../gen/netdisk/v1/progress_service_pb.ts";
import { TaskService } from "../../gen/netdisk/v1/task_service_pb.ts";
import { catalogHandlers } from "../contract/catalog-codec.ts";
import { taskHandlers } from "../contract/task-codec.ts";
import { downloadHandlers } from "../contract/download-codec.ts";
import { encodeErrorDetail } from "../contract/error-detail.ts";
import { metadataHandlers, progressHandlers } from "../contract/service-handlers.ts";
import { DriveError, type StatusCode } from "../drive/errors.ts";
import { toErrorAnswer } from "./http-error.ts";
import { CONNECT_MESSAGE_SIZE_BYTES_MAX } from "./limits.ts";
import { refuseMalformed } from "./malformed-message.ts";
import type { Services } from "./route.ts";

const CODES: Readonly<Record<StatusCode, Code>> = {
  canceled: Code.Canceled,
  invalid_argument: Code.InvalidArgument,
  deadline_exceeded: Code.DeadlineExceeded,
  not_found: Code.NotFound,
  already_exists: Code.AlreadyExists,
  permission_denied: Code.PermissionDenied,
  resource_exhausted: Code.ResourceExhausted,
  failed_precondition: Code.FailedPrecondition,
  aborted: Code.Aborted,
  out_of_range: Code.OutOfRange,
  unimplemented: Code.Unimplemented,
  internal: Code.Internal,
  unavailable: Code.Unavailable,
  data_loss: Code.DataLoss,
  unauthenticated: Code.Unauthenticated,
};

/** A DriveError as Connect carries it. */
export function toConnectError(error: DriveError): ConnectError {
  const { headers } = toErrorAnswer(error, { mutates: false });
  return new ConnectError(error.message, CODES[error.spec.code], headers, [
    { desc: ErrorDetailSchema, value: encodeErrorDetail(error) },
  ]);
}

/** Settings of registerConnectRoutes(). */
export interface ConnectOptions {
  readonly services: Services;
  /** Turns an unexpected error into INTERNAL with an id and logs it. */
  readonly toInternal: (error: unknown, method: string) => DriveError;
}

/** Adds the services to `app`. */
export async function registerConnectRoutes(app: FastifyInstance, options: ConnectOptions): Promise<void> {
  const { services } = options;
  await app.register(async (scope) => {
    // Connect reads bodies by itself, bounded in size alone.
    scope.addHook("onRequest", (request, _reply, done) => {
      const { raw } = request;
      const timer = services.clock.setTimer(services.limits.bodyWindowMs, () => {
        if (!raw.complete) raw.socket.destroy();
      });
      raw.once("close", () => timer.cancel());
      done();
    });
    await scope.register(fastifyConnectPlugin, {
      readMaxBytes: CONNECT_MESSAGE_SIZE_BYTES_MAX,
      // No compressed requests: they would be bounded only after they were inflated.
      acceptCompression: [],
      grpc: false,
      interceptors: [errorInterceptor(options)],
      routes: (router: ConnectRouter) => {
        addServices(router, services);
        for (const [at, handler] of router.handlers.entries()) {
          router.handlers[at] = refuseMalformed(handler, toConnectError);
        }
      },
    });
  });
}

function addServices(router: ConnectRouter, services: Services): void {
  const metadata = metadataHandlers(() => services.drive);
  const progress = progressHandlers(() => services.drive);
  // Watchers end when the gateway begins to stop; other calls get its grace.
  const watching = (signal: AbortSignal) => ({ signal: AbortSignal.any([signal, services.stopSignal]) });
  router.service(MetadataService, {
    ...metadata,
    watchChanges: (request, { signal }) => metadata.watchChanges(request, watching(signal)),
  });
  router.service(
    CatalogService,
    catalogHandlers(() => services.drive),
  );
  router.service(
    TaskService,
    taskHandlers(() => services.drive),
  );
  router.service(
    DownloadService,
    downloadHandlers(() => services.drive),
  );
  router.service(ProgressService, {
    watch: (request, { signal }) => progress.watch(request, watching(signal)),
  });
}

/** Turns whatever a handler throws, now or in mid-stream, into an error with its detail. */
function errorInterceptor(options: ConnectOptions): Interceptor {
  return (next) => async (request) => {
    const convert = (error: unknown): unknown => {
      if (error instanceof ConnectError) return error;
      const known = error instanceof DriveError && error.reason !== "INTERNAL";
      return toConnectError(known ? error : options.toInternal(error, request.method.name));
    };
    try {
      const response = await next(request);
      if (!response.stream) return response;
      const { message } = response;
      async function* converted(): AsyncGenerator<
        Awaited<typeof message> extends AsyncIterable<infer T> ? T : never
      > {
        try {
          yield* message;
        } catch (error) {
          throw convert(error);
        }
      }
      return { ...response, message: converted() };
    } catch (error) {
      throw convert(error);
    }
  };
}
