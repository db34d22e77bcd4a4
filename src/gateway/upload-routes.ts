/**
 * Uploads over HTTP: in chunks that can come in any order and be resumed, or as one streaming PUT.
 *
 * Bodies are never held whole: a PUT goes to the drive piece by piece, a chunk is at most CHUNK_SIZE_BYTES. Everything that can
 * be refused is refused before the first byte of the body is asked for.
 */
import { z } from "zod";
import {
  CHUNK_SIZE_BYTES,
  CONTENT_SIZE_BYTES_MAX,
  PAGE_SIZE_DEFAULT,
  PAGE_SIZE_MAX,
} from "../drive/limits.ts";
import type { WriteOptions } from "../drive/drive-api.ts";
import { DriveError, hasReason } from "../drive/errors.ts";
import { parseName, parseNewFilePath } from "../drive/path.ts";
import type { EntryAttributes, OnConflict } from "../drive/entry.ts";
import { toHex } from "../std/bytes.ts";
import { announcedSizeBytes, verified } from "./body-reader.ts";
import { etagOf, header } from "./conditions.ts";
import { isGenericMediaType, isMediaType, parseDigestField } from "./headers.ts";
import { argumentsInvalid } from "./http-error.ts";
import {
  checkedPath,
  IDEMPOTENCY_KEY_DOC,
  readOptions,
  refuseContentEncoding,
  route,
  writeOptions,
  type Call,
  type Route,
} from "./route.ts";
import {
  completeBodySchema,
  consistencySchema,
  fileIdParamsSchema,
  fileViewSchema,
  flagSchema,
  idSchema,
  initBodySchema,
  integerSchema,
  modeSchema,
  onConflictSchema,
  pathSchema,
  receiptViewSchema,
  ticketViewSchema,
  timeSchema,
  uploadViewSchema,
} from "./schemas.ts";
import { pathEntryView, ticketView, timeText, uploadView } from "./views.ts";

const DIGEST_HEADERS = { "Content-Digest": "sha-256 of the body (RFC 9530); checked." };
const WRITE_HEADERS = {
  "Idempotency-Key": IDEMPOTENCY_KEY_DOC,
  "If-Match": "ETags that the entry to be replaced must have one of.",
  "If-None-Match": 'Only "*": nothing may be there yet.',
};

/** The digest that the client states for the body. @throws DriveError ARGUMENT_INVALID */
function statedDigest(call: Call): Uint8Array | undefined {
  const { headers } = call.request;
  for (const name of ["content-digest", "repr-digest"] as const) {
    const field = parseDigestField(header(headers, name));
    if (field === "malformed") {
      throw argumentsInvalid([`header ${name}: not a digest field with a SHA-256 of 32 bytes`]);
    }
    if (field.digest !== undefined) return field.digest;
  }
  return undefined;
}

const initRoute = route({
  method: "POST",
  path: "/api/upload/init",
  summary:
    "Starts an upload in chunks. Equal bytes that are here already make it complete at once (instant).",
  tag: "uploads",
  body: initBodySchema,
  requestHeaders: WRITE_HEADERS,
  responses: { 201: { description: "The upload, and where to send its chunks.", schema: ticketViewSchema } },
  async handle({ body }, call) {
    const folder = checkedPath(body.path);
    const path = `${folder === "/" ? "" : folder}/${parseName(body.name)}`;
    const ticket = await call.drive.initUpload(
      {
        path: checkedPath(path),
        sizeBytes: body.size,
        treeHash: body.treeHash,
        onConflict: body.onConflict,
        attributes: { modifyTimeMs: body.modifyTime, mode: body.mode, mediaType: body.mediaType },
        createParents: body.createParents,
      },
      writeOptions(call, body.requestId),
    );
    return { status: 201, json: ticketView(ticket) };
  },
});

// The largest content has this many chunks; a larger index names none of any upload.
const CHUNK_INDEX_MAX = CONTENT_SIZE_BYTES_MAX / CHUNK_SIZE_BYTES - 1;

const chunkRoute = route({
  method: "POST",
  path: "/api/upload/chunk",
  summary: "Takes one chunk. Chunks may come in any order, in parallel and more than once.",
  tag: "uploads",
  query: z.strictObject({ fileId: idSchema, index: integerSchema(0, Number.MAX_SAFE_INTEGER) }),
  body: "bytes",
  requestHeaders: DIGEST_HEADERS,
  responses: { 200: { description: "The chunk is held.", schema: receiptViewSchema } },
  async handle({ query }, call) {
    refuseContentEncoding(call);
    const digest = statedDigest(call);
    if (query.index > CHUNK_INDEX_MAX) {
      throw new DriveError("CHUNK_OUT_OF_RANGE", `There is no chunk ${query.index}.`, {
        chunk_index: String(query.index),
      });
    }
    return call.uploads.use(async () => {
      const bytes = await call.body().whole(CHUNK_SIZE_BYTES, "A chunk");
      const receipt = await call.drive.writeChunk(query.fileId, query.index, bytes, digest, call.signal);
      return {
        json: { index: receipt.chunkIndex, digest: toHex(receipt.digest), replicas: receipt.replicaCount },
      };
    });
  },
});

const completeRoute = route({
  method: "POST",
  path: "/api/upload/complete",
  summary: "Makes the uploaded chunks a file. Idempotent.",
  tag: "uploads",
  body: completeBodySchema,
  requestHeaders: WRITE_HEADERS,
  responses: { 200: { description: "The file.", schema: fileViewSchema } },
  async handle({ body }, call) {
    const file = await call.drive.completeUpload(
      body.fileId,
      { sizeBytes: body.size, onConflict: body.onConflict },
      writeOptions(call, body.requestId),
    );
    return { json: pathEntryView(file), headers: { ETag: etagOf(file.entry) } };
  },
});

const statusRoute = route({
  method: "GET",
  path: "/api/upload/:fileId",
  summary: "What is missing of an upload, for resuming it.",
  tag: "uploads",
  params: fileIdParamsSchema,
  query: z.strictObject({ consistency: consistencySchema }),
  responses: { 200: { description: "The upload.", schema: uploadViewSchema } },
  async handle({ params, query }, call) {
    return { json: uploadView(await call.drive.uploadStatus(params.fileId, readOptions(call, query))) };
  },
});

const openUploadsSchema = z
  .strictObject({
    uploads: z.array(
      z.strictObject({
        fileId: z.string(),
        path: z.string().meta({ description: "Empty when its folder was deleted: it cannot be completed." }),
        size: z.number().int().min(0).nullable().meta({ description: "As announced; null while unknown." }),
        idleMs: z.number().int().min(0).meta({
          description:
            "Time since its last recorded sign of life, of which there is one an hour: bytes may have come since.",
        }),
        expireTime: z.string().meta({ description: "When it is discarded unless it shows life before." }),
      }),
    ),
    nextCursor: z.string().nullable().meta({ description: "Pass it as cursor to get the next page." }),
  })
  .meta({ id: "OpenUploadPage" });

const openUploadsRoute = route({
  method: "GET",
  path: "/api/uploads",
  summary: "Uploads that are not finished, oldest first; a page may be short, or empty, before the last one.",
  tag: "uploads",
  query: z.strictObject({
    limit: integerSchema(1, PAGE_SIZE_MAX).default(PAGE_SIZE_DEFAULT),
    cursor: z.string().optional(),
    consistency: consistencySchema,
  }),
  responses: { 200: { description: "One page.", schema: openUploadsSchema } },
  async handle({ query }, call) {
    const { limit, cursor, consistency } = query;
    const page = await call.drive.openUploads(
      { cursor, countMax: limit },
      readOptions(call, { consistency }),
    );
    const uploads = page.uploads.map(({ uploadId, path, sizeBytes, idleMs, expireTimeMs }) => ({
      ...{ fileId: String(uploadId), path, size: sizeBytes ?? null },
      ...{ idleMs: Math.round(idleMs), expireTime: timeText(expireTimeMs) },
    }));
    return { json: { uploads, nextCursor: page.nextCursor ?? null } };
  },
});

const abortRoute = route({
  method: "DELETE",
  path: "/api/upload/:fileId",
  summary: "Discards an upload and what was sent for it.",
  tag: "uploads",
  params: fileIdParamsSchema,
  requestHeaders: { "Idempotency-Key": IDEMPOTENCY_KEY_DOC },
  responses: { 204: { description: "Discarded." } },
  async handle({ params }, call) {
    await call.drive.abortUpload(params.fileId, writeOptions(call));
    return { status: 204 };
  },
});

const putQuerySchema = z.strictObject({
  path: pathSchema,
  onConflict: onConflictSchema.optional().meta({
    description:
      'When the name is taken: refuse (the default), take "name (2)", or replace; with If-Match the default is to replace.',
  }),
  createParents: flagSchema.default(true),
  modifyTime: timeSchema.optional(),
  mode: modeSchema.optional(),
});

const putRoute = route({
  method: "PUT",
  path: "/api/files/content",
  summary:
    "Uploads a file as one stream, its length announced or not (curl -T). A file that is there stays, unless onConflict or If-Match says to replace it. Nothing remains of a broken upload; when the node itself ended in the middle, GET /api/uploads lists it until it expires or is discarded.",
  tag: "uploads",
  query: putQuerySchema,
  body: "bytes",
  requestHeaders: {
    ...WRITE_HEADERS,
    ...DIGEST_HEADERS,
    "Idempotency-Key": `${IDEMPOTENCY_KEY_DOC} Other bytes are another change: a repeat is read to its end and compared.`,
  },
  responses: {
    200: { description: "The file, new or replaced, where replacing was asked for.", schema: fileViewSchema },
    201: { description: "The new file.", schema: fileViewSchema },
  },
  async handle({ query }, call) {
    const { request } = call;
    refuseContentEncoding(call);
    if (request.headers["content-range"] !== undefined) {
      // RFC 9110 section 14.5: to store a part as if it were the whole would destroy the file.
      throw argumentsInvalid(["header Content-Range: a part of a file goes through /api/upload/init"]);
    }
    const path = `/${parseNewFilePath(query.path).join("/")}`;
    const sizeBytes = announcedSizeBytes(request.raw);
    if (sizeBytes !== undefined && sizeBytes > CONTENT_SIZE_BYTES_MAX) {
      throw new DriveError("PAYLOAD_TOO_LARGE", `A file has at most ${CONTENT_SIZE_BYTES_MAX} bytes.`, {
        size_bytes_max: String(CONTENT_SIZE_BYTES_MAX),
      });
    }
    const digest = statedDigest(call);
    const options = writeOptions(call);
    const onConflict = query.onConflict ?? defaultOnConflict(options);
    const attributes = { modifyTimeMs: query.modifyTime, mode: query.mode, mediaType: mediaTypeOf(call) };
    return call.uploads.use(async () => {
      const pieces = call.body().pieces();
      const { createParents } = query;
      const file = await call.drive
        .putFile(
          { path, sizeBytes, onConflict, createParents, attributes },
          digest === undefined ? pieces : verified(pieces, digest),
          options,
        )
        .catch(async (error: unknown) => {
          throw await explainConflict(error, path, call);
        });
      const isNew = onConflict !== "replace" || options.precondition?.ifAbsent === true;
      return {
        status: isNew ? 201 : 200,
        headers: { ETag: etagOf(file.entry), Location: `/api/download/${file.entry.entryId}` },
        json: pathEntryView(file),
      };
    });
  },
});

/** Whoever names the version to be replaced wants it replaced. Others lose nothing: versions are not kept yet. */
function defaultOnConflict({ precondition }: WriteOptions): OnConflict {
  return precondition?.ifVersions !== undefined || precondition?.ifExists === true ? "replace" : "fail";
}

/** Adds how this request would be written to replace what is there; that it cannot be when a folder is there. */
async function explainConflict(error: unknown, path: string, { drive }: Call): Promise<unknown> {
  if (!hasReason(error, "PATH_EXISTS")) return error;
  if (await isFolder(drive, path)) {
    return new DriveError("IS_A_DIRECTORY", `${JSON.stringify(path)} is a folder.`, error.metadata, error);
  }
  const message = `${error.message} To replace it add &onConflict=replace to the URL, or send its ETag in If-Match.`;
  return new DriveError("PATH_EXISTS", message, error.metadata, error);
}

/** Whether a folder is there, as far as this node knows; false too when that cannot be said. */
async function isFolder(drive: Call["drive"], path: string): Promise<boolean> {
  try {
    return (await drive.stat({ path }, { consistency: "stale" })).entry.kind === "directory";
  } catch (error) {
    // It is asked for the words of another error alone, which is told in any case.
    if (error instanceof DriveError) return false;
    throw error;
  }
}

function mediaTypeOf(call: Call): EntryAttributes["mediaType"] {
  const type = call.request.headers["content-type"]?.trim();
  if (type === undefined || type === "" || isGenericMediaType(type)) return undefined;
  if (!isMediaType(type))
    throw argumentsInvalid(["header Content-Type: not a media type of at most 255 characters"]);
  return type;
}

/** Routes that bring bytes in. */
export const uploadRoutes: readonly Route[] = [
  initRoute,
  chunkRoute,
  completeRoute,
  statusRoute,
  openUploadsRoute,
  abortRoute,
  putRoute,
];
