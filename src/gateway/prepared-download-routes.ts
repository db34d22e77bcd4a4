/**
 * Prepared downloads over HTTP: asking for one, its state, and its bytes with ranges and conditions.
 *
 * The bytes have an exact length and a strong tag, so every client resumes: at any node, also after the one that served is gone.
 */
import { z } from "zod";
import { DriveError } from "../drive/errors.ts";
import { PREPARED_DOWNLOAD_SOURCE_COUNT_MAX } from "../drive/limits.ts";
import type { PreparedDownloadStatus } from "../drive/prepared-download.ts";
import { header, judge, rangeAppliesTo } from "./conditions.ts";
import { DOWNLOAD_HEADERS } from "./download-routes.ts";
import { contentDisposition } from "./headers.ts";
import { argumentsInvalid } from "./http-error.ts";
import { sendPart } from "./part-sender.ts";
import { contentRange, parseRange } from "./ranges.ts";
import {
  checkedPath,
  IDEMPOTENCY_KEY_DOC,
  readOptions,
  route,
  writeOptions,
  type Answer,
  type Call,
  type Route,
} from "./route.ts";
import { consistencySchema, idSchema, pathSchema, requestIdSchema } from "./schemas.ts";
import { timeText } from "./views.ts";

const ZIP = "application/zip";

const paramsSchema = z.strictObject({ downloadId: idSchema });
const querySchema = z.strictObject({ consistency: consistencySchema });

const sourceListSchema = <S extends z.ZodType>(schema: S) =>
  z.array(schema).min(1).max(PREPARED_DOWNLOAD_SOURCE_COUNT_MAX).optional();

const bodySchema = z
  .strictObject({
    path: pathSchema.optional(),
    paths: sourceListSchema(pathSchema),
    fileIds: sourceListSchema(idSchema),
    name: z
      .string()
      .min(1)
      .optional()
      .meta({ description: 'Name of the archive; ".zip" is added where it does not end so.' }),
    requestId: requestIdSchema.optional(),
  })
  .meta({
    id: "PrepareDownload",
    description:
      "Files and folders to be put into one ZIP archive: by path, by paths, by ids, or all of these.",
  });

const count = z.number().int().min(0);
const viewSchema = z
  .strictObject({
    downloadId: z.string(),
    taskId: z.string(),
    state: z.enum(["waiting", "running", "done", "failed", "cancelled"]),
    name: z.string(),
    readBytes: count.meta({ description: "Bytes of files read so far." }),
    totalBytes: count.meta({ description: "Bytes of all files; 0 until they are known." }),
    contentUrl: z.string().meta({ description: "Where the bytes are once the state is done." }),
    size: count.optional(),
    entryCount: count.optional(),
    etag: z.string().optional(),
    expireTime: z.string().optional(),
    error: z.strictObject({ code: z.string(), message: z.string() }).optional(),
  })
  .meta({ id: "PreparedDownload" });

function view(status: PreparedDownloadStatus): z.output<typeof viewSchema> {
  const { downloadId, state, name, readBytes, totalBytes, sizeBytes, entryCount, etag } = status;
  return {
    downloadId: String(downloadId),
    taskId: String(downloadId),
    state,
    name,
    readBytes,
    totalBytes,
    contentUrl: `/api/downloads/${downloadId}/content`,
    ...(sizeBytes === undefined ? {} : { size: sizeBytes }),
    ...(entryCount === undefined ? {} : { entryCount }),
    ...(etag === undefined ? {} : { etag: `"${etag}"` }),
    ...(status.expireTimeMs === undefined ? {} : { expireTime: timeText(status.expireTimeMs) }),
    ...(status.error === undefined
      ? {}
      : { error: { code: status.error.reason, message: status.error.message } }),
  };
}

async function content(
  downloadId: number,
  query: z.output<typeof querySchema>,
  call: Call,
): Promise<Answer | undefined> {
  const opened = await call.drive.preparedDownloads.open(downloadId, readOptions(call, query));
  const { headers, method } = call.request;
  const { sizeBytes } = opened;
  const etag = `"${opened.etag}"`;
  const verdict = judge(headers, { etag, modifyTimeMs: undefined });
  if (verdict === "precondition-failed") {
    throw new DriveError("VERSION_MISMATCH", "The download is not the one asked for.", { etag });
  }
  const described = { ETag: etag, "Accept-Ranges": "bytes", "Cache-Control": "private, no-cache" };
  if (verdict === "not-modified") return { status: 304, headers: described, text: "" };
  const wanted = method === "GET" && rangeAppliesTo(headers, etag) ? header(headers, "range") : undefined;
  const range = parseRange(wanted, sizeBytes);
  if (range.kind === "unsatisfiable") {
    call.reply.headers({ ...described, "Content-Range": contentRange(sizeBytes) });
    throw new DriveError("RANGE_NOT_SATISFIABLE", `The download has ${sizeBytes} bytes.`, {
      size_bytes: String(sizeBytes),
    });
  }
  const part = range.kind === "part" ? range : { offset: 0, length: sizeBytes };
  const head = {
    status: range.kind === "part" ? 206 : 200,
    headers: {
      ...described,
      "Content-Type": ZIP,
      "Content-Disposition": contentDisposition(opened.name),
      "Content-Security-Policy": "sandbox; default-src 'none'",
      "Content-Length": String(part.length),
      ...(range.kind === "part" ? { "Content-Range": contentRange(sizeBytes, part) } : {}),
    },
  };
  await sendPart(opened, part, head, { downloadId }, call);
  return undefined;
}

const NOT_READY_RESPONSES = {
  404: { description: "TASK_NOT_FOUND: there is no such download." },
  409: { description: "DOWNLOAD_NOT_READY: ask again after Retry-After; DOWNLOAD_FAILED: it never will be." },
  410: { description: "DOWNLOAD_EXPIRED: its time is over, or it was released; prepare it again." },
};

/** Routes of prepared downloads. */
export const preparedDownloadRoutes: readonly Route[] = [
  route({
    method: "POST",
    path: "/api/downloads",
    summary: "Prepares files and folders as one ZIP archive, which is kept for 24 hours.",
    tag: "downloads",
    body: bodySchema,
    requestHeaders: { "Idempotency-Key": IDEMPOTENCY_KEY_DOC },
    responses: { 202: { description: "It is being prepared: see Location.", schema: viewSchema } },
    async handle({ body }, call) {
      const paths = [...(body.path === undefined ? [] : [body.path]), ...(body.paths ?? [])];
      const sources = [
        ...paths.map((path) => ({ path: checkedPath(path) })),
        ...(body.fileIds ?? []).map((entryId) => ({ entryId })),
      ];
      if (sources.length === 0) throw argumentsInvalid(["body: names neither path, paths nor fileIds"]);
      const options = writeOptions(call, body.requestId);
      const status = await call.drive.preparedDownloads.prepare({ sources, name: body.name }, options);
      return {
        status: 202,
        json: view(status),
        headers: { Location: `/api/downloads/${status.downloadId}` },
      };
    },
  }),
  route({
    method: "GET",
    path: "/api/downloads/:downloadId",
    summary: "How far a prepared download is.",
    tag: "downloads",
    params: paramsSchema,
    query: querySchema,
    responses: {
      200: { description: "Its state.", schema: viewSchema },
      404: NOT_READY_RESPONSES[404],
    },
    async handle({ params, query }, call) {
      const status = await call.drive.preparedDownloads.status(params.downloadId, readOptions(call, query));
      return { json: view(status) };
    },
  }),
  route({
    method: "DELETE",
    path: "/api/downloads/:downloadId",
    summary:
      "Releases a prepared download: ends preparing it and gives back what it keeps, instead of after 24 hours. Harmless twice.",
    tag: "downloads",
    params: paramsSchema,
    requestHeaders: { "Idempotency-Key": IDEMPOTENCY_KEY_DOC },
    responses: { 204: { description: "Released." }, 404: NOT_READY_RESPONSES[404] },
    async handle({ params }, call) {
      const { requestId, signal } = writeOptions(call);
      await call.drive.preparedDownloads.release(params.downloadId, { requestId, signal });
      return { status: 204 };
    },
  }),
  route({
    method: "GET",
    head: true,
    path: "/api/downloads/:downloadId/content",
    summary: "The bytes of a prepared download.",
    tag: "downloads",
    params: paramsSchema,
    query: querySchema,
    requestHeaders: DOWNLOAD_HEADERS,
    responses: {
      200: { description: "The archive.", mediaType: ZIP },
      206: { description: "The range.", mediaType: ZIP },
      304: { description: "Not modified." },
      ...NOT_READY_RESPONSES,
    },
    handle: ({ params, query }, call) => call.downloads.use(() => content(params.downloadId, query, call)),
  }),
];
