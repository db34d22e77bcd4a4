/**
 * DriveError as the message netdisk.v1.ErrorDetail, which accompanies every failed call over gRPC and Connect, and back.
 */
import { create } from "@bufbuild/protobuf";
import {
  ErrorDetailSchema,
  ErrorReason as WireReason,
  type ErrorDetail,
} from "../../gen/netdisk/v1/error_pb.ts";
import { DriveError, isErrorReason, type ErrorReason } from "../drive/errors.ts";

/** The proto number of a reason. */
export function encodeReason(reason: ErrorReason): WireReason {
  return WireReason[reason];
}

/** The reason with the proto number `value`; undefined for one that this version does not know. */
export function decodeReason(value: number): ErrorReason | undefined {
  for (const [name, number] of Object.entries(WireReason)) {
    if (number === value && isErrorReason(name)) return name;
  }
  return undefined;
}

/** The detail message of `error`. */
export function encodeErrorDetail(error: DriveError): ErrorDetail {
  return create(ErrorDetailSchema, {
    reason: encodeReason(error.reason),
    metadata: { ...error.metadata },
    outcomeUnknown: error.spec.outcome === "indefinite",
  });
}

/** The error behind a detail; INTERNAL, or COMMIT_OUTCOME_UNKNOWN, stands for a reason that this version does not know. */
export function decodeErrorDetail(detail: ErrorDetail, message: string): DriveError {
  const fallback = detail.outcomeUnknown ? "COMMIT_OUTCOME_UNKNOWN" : "INTERNAL";
  return new DriveError(decodeReason(detail.reason) ?? fallback, message, detail.metadata);
}
