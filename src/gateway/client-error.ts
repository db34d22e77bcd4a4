/**
 * Answers to what is not even a request: bytes that Node's HTTP parser refuses, headers that are too long or too slow, bodies
 * cut off while the client still listens. Written to the socket by hand, because there is no response object for them.
 */
import { DriveError } from "../drive/errors.ts";
import { errnoOf } from "../std/disk.ts";
import { HttpError, toErrorAnswer } from "./http-error.ts";

/** A whole HTTP answer for `error` of the parser. @param inBody whether the header of a request had been read */
export function rawErrorAnswer(error: Error, inBody: boolean): string {
  return rawAnswer(classify(error, inBody));
}

/** A whole HTTP answer for `error`, after which the connection ends. */
export function rawAnswer(error: DriveError | HttpError): string {
  const answer = toErrorAnswer(error, { mutates: false });
  const body = JSON.stringify(answer.body);
  return [
    `HTTP/1.1 ${answer.status} ${answer.status === 400 ? "Bad Request" : "Refused"}`,
    "Content-Type: application/json; charset=utf-8",
    `Content-Length: ${Buffer.byteLength(body)}`,
    "X-Content-Type-Options: nosniff",
    "Cache-Control: no-store",
    ...Object.entries(answer.headers).map(([name, value]) => `${name}: ${value}`),
    "Connection: close",
    "",
    body,
  ].join("\r\n");
}

function classify(error: Error, inBody: boolean): DriveError | HttpError {
  switch (errnoOf(error)) {
    case "HPE_HEADER_OVERFLOW":
      return new HttpError("HEADERS_TOO_LARGE", "The header of the request is too long.");
    case "ERR_HTTP_REQUEST_TIMEOUT":
      return new HttpError("REQUEST_TIMEOUT", "The request came too slowly.");
    case "HPE_INVALID_EOF_STATE":
      return inBody
        ? new DriveError("PAYLOAD_TRUNCATED", "The connection ended before the body.")
        : new DriveError("ARGUMENT_INVALID", "The connection ended before the request.");
    case "HPE_INVALID_URL":
      return new DriveError(
        "ARGUMENT_INVALID",
        "The URL of the request has characters that must be percent-encoded: whatever is not ASCII, as %E6%96%B0 for 新.",
      );
    case undefined:
    default:
      return new DriveError("ARGUMENT_INVALID", "The request is not well-formed HTTP/1.1.");
  }
}
