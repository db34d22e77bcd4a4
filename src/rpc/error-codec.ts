/**
 * DriveError to gRPC status and back.
 *
 * A failed call ends with the code of the catalogue (drive/errors.ts), the message, and one netdisk.v1.ErrorDetail inside the
 * google.rpc.Status of the trailer grpc-status-details-bin, which generated clients of any language can read. Errors that are
 * no DriveError leave the node as INTERNAL with an id; what happened stands in the log under that id.
 * On the way back, a status without our detail comes from the transport, not from a handler: the caller says what a lost call
 * means to it (see ForeignStatusOptions).
 */
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { anyPack, anyUnpack } from "@bufbuild/protobuf/wkt";
import { Metadata, status as grpcStatus, type ServiceError, type StatusObject } from "@grpc/grpc-js";
import { StatusSchema } from "../../gen/google/rpc/status_pb.ts";
import type { Failure } from "../../gen/netdisk/peer/v1/peer_pb.ts";
import { ErrorDetailSchema, type ErrorDetail } from "../../gen/netdisk/v1/error_pb.ts";
import { decodeErrorDetail, encodeErrorDetail } from "../contract/error-detail.ts";
import { DriveError, type ErrorReason, type StatusCode } from "../drive/errors.ts";

/** Trailer that carries the google.rpc.Status of a failed call. */
const DETAILS_TRAILER = "grpc-status-details-bin";

/** Numbers of google.rpc.Code. */
const CODE_NUMBERS: Readonly<Record<StatusCode, number>> = {
  canceled: grpcStatus.CANCELLED,
  invalid_argument: grpcStatus.INVALID_ARGUMENT,
  deadline_exceeded: grpcStatus.DEADLINE_EXCEEDED,
  not_found: grpcStatus.NOT_FOUND,
  already_exists: grpcStatus.ALREADY_EXISTS,
  permission_denied: grpcStatus.PERMISSION_DENIED,
  resource_exhausted: grpcStatus.RESOURCE_EXHAUSTED,
  failed_precondition: grpcStatus.FAILED_PRECONDITION,
  aborted: grpcStatus.ABORTED,
  out_of_range: grpcStatus.OUT_OF_RANGE,
  unimplemented: grpcStatus.UNIMPLEMENTED,
  internal: grpcStatus.INTERNAL,
  unavailable: grpcStatus.UNAVAILABLE,
  data_loss: grpcStatus.DATA_LOSS,
  unauthenticated: grpcStatus.UNAUTHENTICATED,
};

/** `error` as one item's failure in a pipelined stream. */
export function encodeFailure(error: DriveError): {
  readonly detail: ErrorDetail;
  readonly message: string;
} {
  return { detail: encodeErrorDetail(error), message: error.message };
}

/** The error of one item in a pipelined stream. */
export function decodeFailure(failure: Failure): DriveError {
  if (failure.detail === undefined) return new DriveError("INTERNAL", failure.message);
  return decodeErrorDetail(failure.detail, failure.message);
}

/** The status that ends a call which failed with `error`. */
export function encodeStatus(error: DriveError): StatusObject {
  const code = CODE_NUMBERS[error.spec.code];
  const details = anyPack(ErrorDetailSchema, encodeErrorDetail(error));
  const metadata = new Metadata();
  const bytes = toBinary(
    StatusSchema,
    create(StatusSchema, { code, message: error.message, details: [details] }),
  );
  metadata.set(DETAILS_TRAILER, Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength));
  return { code, details: error.message, metadata };
}

/** What to make of statuses that no handler of ours sent. */
export interface ForeignStatusOptions {
  /**
   * The reason of a call that was lost on the way or took too long: PEER_UNREACHABLE when repeating it is harmless,
   * COMMIT_OUTCOME_UNKNOWN when it may have changed something.
   */
  readonly lostReason: ErrorReason;
  /** Whom the call was for, for the message. */
  readonly address: string;
}

/** The DriveError behind the error that grpc-js gave to a client. */
export function decodeStatus(error: ServiceError, options: ForeignStatusOptions): DriveError {
  const [trailer] = error.metadata?.get(DETAILS_TRAILER) ?? [];
  if (trailer !== undefined && typeof trailer !== "string") {
    const detail = decodeTrailer(trailer);
    if (detail !== undefined) return decodeErrorDetail(detail, error.details);
  }
  const reason = foreignReason(error, options.lostReason);
  const message = `The call to ${options.address} failed: ${error.details || error.message}`;
  return new DriveError(reason, message, { address: options.address, status: String(error.code) }, error);
}

function decodeTrailer(bytes: Uint8Array): ErrorDetail | undefined {
  try {
    for (const any of fromBinary(StatusSchema, bytes).details) {
      const detail = anyUnpack(any, ErrorDetailSchema);
      if (detail !== undefined) return detail;
    }
  } catch {
    // Bytes that are no Status: the code and text of the status itself still say what happened.
  }
  return undefined;
}

/** Statuses of the transport that mean the same whatever was called; all others mean that the call was lost. */
const FOREIGN_REASONS: ReadonlyMap<number, ErrorReason> = new Map<number, ErrorReason>([
  [grpcStatus.INVALID_ARGUMENT, "ARGUMENT_INVALID"],
  [grpcStatus.UNAUTHENTICATED, "UNAUTHENTICATED"],
  [grpcStatus.PERMISSION_DENIED, "PERMISSION_DENIED"],
  [grpcStatus.RESOURCE_EXHAUSTED, "OVERLOADED"],
  [grpcStatus.UNIMPLEMENTED, "INTERNAL"],
]);

function foreignReason(error: ServiceError, lostReason: ErrorReason): ErrorReason {
  // grpc-js gives no other sign that tells its message limit from an overloaded peer.
  const tooLarge = error.code === grpcStatus.RESOURCE_EXHAUSTED && /larger than/.test(error.details);
  return tooLarge ? "PAYLOAD_TOO_LARGE" : (FOREIGN_REASONS.get(error.code) ?? lostReason);
}

/** Where errors that are no DriveError are reported, once, with the id that the caller gets. */
export interface ErrorReporter {
  /** A short unique id for the error. */
  newErrorId(): string;
  /** Keeps what happened under `errorId`. `method` is the full name of the call. Must not throw. */
  report(error: unknown, context: { readonly errorId: string; readonly method: string }): void;
}

/**
 * `error` as something a caller may see: itself when it is a DriveError, CANCELED when the call was cancelled, and INTERNAL
 * with an id, after reporting it, otherwise.
 */
export function toDriveError(
  error: unknown,
  context: { readonly reporter: ErrorReporter; readonly method: string; readonly signal: AbortSignal },
): DriveError {
  if (error instanceof DriveError) return error;
  if (context.signal.aborted && error === context.signal.reason) {
    return new DriveError("CANCELED", "The call was cancelled.", {}, error);
  }
  const errorId = context.reporter.newErrorId();
  context.reporter.report(error, { errorId, method: context.method });
  return new DriveError("INTERNAL", `Internal error (${errorId}).`, { error_id: errorId }, error);
}
