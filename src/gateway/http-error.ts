/**
 * What went wrong, as HTTP says it: status, headers and the JSON body `{"error": {...}}`.
 *
 * Reads the catalogue of drive/errors.ts and adds the few reasons that exist below the drive, in HTTP itself. An error that is
 * not in either is INTERNAL: the client learns an id, the log has the rest.
 */
import { DriveError, type ErrorReason } from "../drive/errors.ts";

/** Reasons of HTTP itself, which the drive's catalogue does not have. */
export const HTTP_REASONS = {
  ROUTE_NOT_FOUND: { httpStatus: 404, remedy: "See /openapi.json for what this node offers." },
  METHOD_NOT_ALLOWED: { httpStatus: 405, remedy: "Use one of the methods in the Allow header." },
  REQUEST_TIMEOUT: { httpStatus: 408, remedy: "Send the request again, faster." },
  URI_TOO_LONG: { httpStatus: 414, remedy: "Send a shorter URL." },
  MEDIA_TYPE_UNSUPPORTED: { httpStatus: 415, remedy: "Send the body in the form that the message names." },
  EXPECTATION_FAILED: {
    httpStatus: 417,
    remedy: 'Leave the Expect field out; "100-continue" is the only one taken.',
  },
  TOO_MANY_REQUESTS: {
    httpStatus: 429,
    remedy: "Wait as long as Retry-After says, then send the same request again.",
  },
  HEADERS_TOO_LARGE: { httpStatus: 431, remedy: "Send fewer or shorter header fields." },
} as const;

/** The stable name of what HTTP itself refuses. */
export type HttpReason = keyof typeof HTTP_REASONS;

/** A request refused by HTTP itself, before it meant anything to the drive. */
export class HttpError extends Error {
  override readonly name = "HttpError";
  readonly reason: HttpReason;
  readonly metadata: Readonly<Record<string, string>>;
  /** Whole seconds after which to try again; undefined where waiting does not help. */
  readonly retryAfterSeconds: number | undefined;

  /** @param message one sentence for a person @param metadata its variable parts by snake_case name */
  constructor(
    reason: HttpReason,
    message: string,
    metadata: Readonly<Record<string, string>> = {},
    retryAfterSeconds?: number,
  ) {
    super(message);
    this.reason = reason;
    this.metadata = metadata;
    this.retryAfterSeconds = retryAfterSeconds;
  }
}

/** The body of every answer that is an error. */
export interface ErrorBody {
  readonly error: {
    readonly code: ErrorReason | HttpReason;
    readonly message: string;
    readonly remedy: string;
    readonly metadata: Readonly<Record<string, string>>;
    /** True when the change may have happened nevertheless. */
    readonly outcomeUnknown?: true;
    /** Finds the details in the node's log. */
    readonly id?: string;
  };
}

/** An error ready to be sent. */
export interface ErrorAnswer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: ErrorBody;
}

/** Spells out `error`; anything that is no DriveError or HttpError must have been turned into INTERNAL before. */
export function toErrorAnswer(
  error: DriveError | HttpError,
  settings: { readonly mutates: boolean; readonly id?: string | undefined },
): ErrorAnswer {
  if (error instanceof HttpError) {
    const { httpStatus, remedy } = HTTP_REASONS[error.reason];
    const { reason: code, message, metadata } = error;
    const headers = retryAfter(error.retryAfterSeconds);
    return { status: httpStatus, headers, body: { error: { code, message, remedy, metadata } } };
  }
  const { spec } = error;
  const unknown = settings.mutates && spec.outcome === "indefinite";
  return {
    status: spec.httpStatus,
    headers: retryAfter(spec.retryAfterSeconds),
    body: {
      error: {
        code: error.reason,
        message: error.message,
        remedy: spec.remedy,
        metadata: error.metadata,
        ...(unknown ? { outcomeUnknown: true as const } : {}),
        ...(settings.id === undefined ? {} : { id: settings.id }),
      },
    },
  };
}

function retryAfter(seconds: number | undefined): Readonly<Record<string, string>> {
  return seconds === undefined ? {} : { "Retry-After": String(seconds) };
}

/** One ARGUMENT_INVALID that lists every problem, each as "where: what". */
export function argumentsInvalid(problems: readonly string[]): DriveError {
  const metadata = Object.fromEntries(problems.map((problem, at) => [`problem_${at + 1}`, problem]));
  return new DriveError("ARGUMENT_INVALID", `${problems.join("; ")}.`, metadata);
}

/** The error that a framework's refusal (an Error with a `statusCode` from 400 to 499) stands for, or undefined. */
export function fromFrameworkError(error: unknown): DriveError | HttpError | undefined {
  if (!(error instanceof Error) || !("statusCode" in error) || typeof error.statusCode !== "number") {
    return undefined;
  }
  switch (error.statusCode) {
    case 404:
      return new HttpError("ROUTE_NOT_FOUND", "There is nothing at this URL.");
    case 408:
      return new HttpError("REQUEST_TIMEOUT", "The request came too slowly.");
    case 413:
      return new DriveError("PAYLOAD_TOO_LARGE", "The body is too long.");
    case 414:
      return new HttpError("URI_TOO_LONG", "A part of the URL is too long.");
    case 415:
      return new HttpError("MEDIA_TYPE_UNSUPPORTED", "The body has a media type that is not taken here.");
    default:
      return error.statusCode >= 400 && error.statusCode < 500
        ? new DriveError("ARGUMENT_INVALID", `${error.message}.`, {}, error)
        : undefined;
  }
}
