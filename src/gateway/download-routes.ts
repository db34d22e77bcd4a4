/**
 * Downloads over HTTP: GET and HEAD with ranges and conditions (RFC 9110), served here or redirected to a better node.
 *
 * A version once opened stays the same whatever happens to the entry. A failure after the header breaks the connection: the
 * announced length tells every client that bytes are missing. Files are never shown as pages of this origin: attachment,
 * nosniff and a sandbox (a stored HTML file must not run as if it were ours).
 */
import { z } from "zod";
import type { EntryRef, Download } from "../drive/drive-api.ts";
import type { Entry } from "../drive/entry.ts";
import { DriveError } from "../drive/errors.ts";
import { TICKET_LENGTH_MAX } from "../drive/limits.ts";
import { etagOf, header, judgeRead, lastModified, rangeApplies } from "./conditions.ts";
import { contentDisposition, formatDigestField, isMediaType } from "./headers.ts";
import { contentRange, parseRange } from "./ranges.ts";
import { checkedPath, readOptions, route, type Answer, type Call, type Route } from "./route.ts";
import { consistencySchema, fileIdParamsSchema, pathSchema } from "./schemas.ts";
import { sendPart } from "./part-sender.ts";

const redirectSchema = z.enum(["never", "always", "auto"]).default("auto").meta({
  description:
    "auto: redirect to a node with a copy when this one has none; always: whenever another node can serve.",
});

const ticketSchema = z.string().min(1).max(TICKET_LENGTH_MAX).optional().meta({
  description: "What came with a redirect to this node, which serves the file for it.",
});

const querySchema = z.strictObject({ redirect: redirectSchema, consistency: consistencySchema });
const idQuerySchema = querySchema.extend({ ticket: ticketSchema });
const pathQuerySchema = querySchema.extend({ path: pathSchema });

type DownloadQuery = z.output<typeof querySchema> & { readonly ticket?: string | undefined };

/** Header fields that a download understands. */
export const DOWNLOAD_HEADERS = {
  Range: "One byte range; several, or a malformed one, get the whole file.",
  "If-Range": "Strong ETag under which Range counts.",
  "If-None-Match": "ETags; 304 when one is current.",
  "If-Modified-Since": "HTTP date; 304 when not modified since.",
  "If-Match": "ETags; 412 when none is current.",
  "If-Unmodified-Since": "HTTP date; 412 when modified since.",
};

const DOWNLOAD_RESPONSES = {
  200: { description: "The file.", mediaType: "application/octet-stream" },
  206: { description: "The range.", mediaType: "application/octet-stream" },
  304: { description: "Not modified." },
  307: { description: "Another node serves it: see Location." },
} as const;

/** Header fields that describe the file in every answer about it. */
function describeFile(entry: Entry): Record<string, string> {
  const modified = lastModified(entry);
  return {
    ETag: etagOf(entry),
    ...(modified === undefined ? {} : { "Last-Modified": modified }),
    "Accept-Ranges": "bytes",
    "Cache-Control": "private, no-cache",
  };
}

/** Header fields that come with the bytes. */
function describeBytes(entry: Entry): Record<string, string> {
  return {
    "Content-Type": isMediaType(entry.mediaType) ? entry.mediaType : "application/octet-stream",
    "Content-Disposition": contentDisposition(entry.name),
    "Content-Security-Policy": "sandbox; default-src 'none'",
    ...(entry.sha256.length === 0 ? {} : { "Repr-Digest": formatDigestField(entry.sha256) }),
  };
}

function redirectTarget(download: Download, query: DownloadQuery): string | undefined {
  const { redirectUrl } = download;
  if (redirectUrl === undefined || query.redirect === "never") return undefined;
  if (query.redirect === "auto" && download.local) return undefined;
  // The id, not the path, so that a rename meanwhile does not matter; "never", so that two nodes cannot send a client to and fro.
  const stale = query.consistency === "stale" ? "&consistency=stale" : "";
  const base = redirectUrl.replace(/\/+$/, "");
  const { redirectTicket } = download;
  const ticket = redirectTicket === undefined ? "" : `&ticket=${redirectTicket}`;
  return `${base}/api/download/${download.entry.entryId}?redirect=never${stale}${ticket}`;
}

async function download(ref: EntryRef, query: DownloadQuery, call: Call): Promise<Answer | undefined> {
  const opened = await call.drive.openDownload(ref, {
    ...readOptions(call, query),
    ...(query.ticket !== undefined && { ticket: query.ticket }),
  });
  const { entry } = opened;
  const { headers, method } = call.request;
  const target = redirectTarget(opened, query);
  if (target !== undefined) {
    return { status: 307, headers: { Location: target, "Cache-Control": "no-store" }, text: "" };
  }
  const verdict = judgeRead(headers, entry);
  if (verdict === "precondition-failed") {
    throw new DriveError("VERSION_MISMATCH", "The file is not the version asked for.", {
      version: String(entry.version),
    });
  }
  const fileHeaders = describeFile(entry);
  if (verdict === "not-modified") return { status: 304, headers: fileHeaders, text: "" };
  // RFC 9110 section 14.2: Range means something for GET alone.
  const wanted = method === "GET" && rangeApplies(headers, entry) ? header(headers, "range") : undefined;
  const range = parseRange(wanted, entry.sizeBytes);
  if (range.kind === "unsatisfiable") {
    call.reply.headers({ ...fileHeaders, "Content-Range": contentRange(entry.sizeBytes) });
    throw new DriveError("RANGE_NOT_SATISFIABLE", `The file has ${entry.sizeBytes} bytes.`, {
      size_bytes: String(entry.sizeBytes),
    });
  }
  const part = range.kind === "part" ? range : { offset: 0, length: entry.sizeBytes };
  const answerHeaders = {
    ...fileHeaders,
    ...describeBytes(entry),
    "Content-Length": String(part.length),
    ...(range.kind === "part" ? { "Content-Range": contentRange(entry.sizeBytes, part) } : {}),
  };
  const head = { status: range.kind === "part" ? 206 : 200, headers: answerHeaders };
  await sendPart(opened, part, head, { entryId: entry.entryId }, call);
  return undefined;
}

const byIdRoute = route({
  method: "GET",
  head: true,
  path: "/api/download/:fileId",
  summary: "The bytes of a file, by id.",
  tag: "downloads",
  params: fileIdParamsSchema,
  query: idQuerySchema,
  requestHeaders: DOWNLOAD_HEADERS,
  responses: DOWNLOAD_RESPONSES,
  handle: ({ params, query }, call) =>
    call.downloads.use(() => download({ entryId: params.fileId }, query, call)),
});

const byPathRoute = route({
  method: "GET",
  head: true,
  path: "/api/download",
  summary: "The bytes of a file, by path.",
  tag: "downloads",
  query: pathQuerySchema,
  requestHeaders: DOWNLOAD_HEADERS,
  responses: DOWNLOAD_RESPONSES,
  handle: ({ query }, call) =>
    call.downloads.use(() => download({ path: checkedPath(query.path) }, query, call)),
});

/** Routes that give bytes out. */
export const downloadRoutes: readonly Route[] = [byIdRoute, byPathRoute];
