/**
 * The file tree over HTTP: list, stat, make folders, rename, move, copy, change attributes, delete.
 *
 * An entry is named by id in the path of the URL or by `?path=`; both forms of a route share one function. A change answers
 * with the entry as it is afterwards and its ETag.
 */
import { z } from "zod";
import type { EntryRef, PathEntry } from "../drive/drive-api.ts";
import { DriveError } from "../drive/errors.ts";
import { parseName, parsePath } from "../drive/path.ts";
import { etagOf, judgeRead } from "./conditions.ts";
import { pageJson } from "./page-json.ts";
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
import {
  consistencySchema,
  copyBodySchema,
  durabilityViewSchema,
  fileIdParamsSchema,
  fileViewSchema,
  flagSchema,
  folderBodySchema,
  listQuerySchema,
  pageViewSchema,
  patchBodySchema,
  pathSchema,
} from "./schemas.ts";
import { durabilityView, pathEntryView } from "./views.ts";

const CHANGE_HEADERS = {
  "Idempotency-Key": IDEMPOTENCY_KEY_DOC,
  "If-Match": "ETags that the entry must have one of.",
};

const readQuerySchema = z.strictObject({ consistency: consistencySchema });
const pathReadQuerySchema = readQuerySchema.extend({ path: pathSchema });
const pathQuerySchema = z.strictObject({ path: pathSchema });
const removeQuerySchema = z.strictObject({ recursive: flagSchema.default(false) });
const pathRemoveQuerySchema = removeQuerySchema.extend({ path: pathSchema });

const FILE_RESPONSE = { 200: { description: "The entry.", schema: fileViewSchema } };

function entryAnswer(pathEntry: PathEntry, status = 200): Answer {
  return { status, json: pathEntryView(pathEntry), headers: { ETag: etagOf(pathEntry.entry) } };
}

async function stat(ref: EntryRef, query: z.output<typeof readQuerySchema>, call: Call): Promise<Answer> {
  const found = await call.drive.stat(ref, readOptions(call, query));
  const verdict = judgeRead(call.request.headers, found.entry);
  if (verdict === "not-modified") return { status: 304, headers: { ETag: etagOf(found.entry) }, text: "" };
  if (verdict === "precondition-failed") {
    throw new DriveError("VERSION_MISMATCH", "The entry is not the version asked for.", {
      version: String(found.entry.version),
    });
  }
  const answer = entryAnswer(found);
  if (found.entry.kind !== "file") return answer;
  // The read above was as fresh as asked for; the copies of that very entry are a look at this node's state.
  const stale = { consistency: "stale", signal: call.signal } as const;
  const copies = await call.drive.durability({ entryId: found.entry.entryId }, stale);
  return { ...answer, json: { ...pathEntryView(found), durability: durabilityView(copies) } };
}

async function durability(
  ref: EntryRef,
  query: z.output<typeof readQuerySchema>,
  call: Call,
): Promise<Answer> {
  return { json: durabilityView(await call.drive.durability(ref, readOptions(call, query))) };
}

/** The absolute path that a PATCH asks for. */
async function destination(
  ref: EntryRef,
  body: z.output<typeof patchBodySchema>,
  call: Call,
): Promise<string> {
  if (body.path !== undefined) return checkedPath(body.path);
  if (body.name !== undefined) parseName(body.name);
  const parent = body.parentPath === undefined ? undefined : parsePath(body.parentPath);
  if (parent !== undefined && body.name !== undefined)
    return checkedPath(`/${[...parent, body.name].join("/")}`);
  const current = "path" in ref ? ref.path : (await call.drive.stat(ref, { signal: call.signal })).path;
  const names = parsePath(current);
  const last = names.at(-1);
  if (last === undefined) {
    throw new DriveError("ARGUMENT_INVALID", "The root cannot be moved.", {
      problem_1: "body: the root cannot be moved",
    });
  }
  return checkedPath(`/${[...(parent ?? names.slice(0, -1)), body.name ?? last].join("/")}`);
}

async function patch(ref: EntryRef, body: z.output<typeof patchBodySchema>, call: Call): Promise<Answer> {
  const options = writeOptions(call, body.requestId);
  const moves = body.name !== undefined || body.parentPath !== undefined || body.path !== undefined;
  if (moves) {
    const to = await destination(ref, body, call);
    return entryAnswer(await call.drive.move(ref, to, body.onConflict ?? "fail", options));
  }
  const attributes = { modifyTimeMs: body.modifyTime, mode: body.mode, mediaType: body.mediaType };
  return entryAnswer(await call.drive.update(ref, attributes, options));
}

async function remove(ref: EntryRef, recursive: boolean, call: Call): Promise<Answer> {
  await call.drive.remove(ref, { recursive }, writeOptions(call));
  return { status: 204 };
}

async function copy(ref: EntryRef, body: z.output<typeof copyBodySchema>, call: Call): Promise<Answer> {
  const options = writeOptions(call, body.requestId);
  return entryAnswer(await call.drive.copy(ref, checkedPath(body.path), body.onConflict, options), 201);
}

const byId = (params: z.output<typeof fileIdParamsSchema>): EntryRef => ({ entryId: params.fileId });
const byPath = (query: { readonly path: string }): EntryRef => ({ path: checkedPath(query.path) });

/** Routes of the tree. */
export const fileRoutes: readonly Route[] = [
  route({
    method: "GET",
    path: "/api/files",
    summary: "A page of a folder in name order.",
    tag: "files",
    query: listQuerySchema,
    responses: { 200: { description: "The page.", schema: pageViewSchema } },
    async handle({ query }, call) {
      const page = { cursor: query.cursor, countMax: query.limit };
      const found = await call.drive.list(byPath(query), page, readOptions(call, query));
      return { jsonBytes: pageJson(found) };
    },
  }),
  route({
    method: "GET",
    path: "/api/files/:fileId",
    summary: "One entry, by id.",
    tag: "files",
    params: fileIdParamsSchema,
    query: readQuerySchema,
    responses: FILE_RESPONSE,
    handle: ({ params, query }, call) => stat(byId(params), query, call),
  }),
  route({
    method: "GET",
    path: "/api/stat",
    summary: "One entry, by path.",
    tag: "files",
    query: pathReadQuerySchema,
    responses: FILE_RESPONSE,
    handle: ({ query }, call) => stat(byPath(query), query, call),
  }),
  route({
    method: "GET",
    path: "/api/files/:fileId/durability",
    summary: "How many verified copies a file has, and where.",
    tag: "files",
    params: fileIdParamsSchema,
    query: readQuerySchema,
    responses: { 200: { description: "The copies.", schema: durabilityViewSchema } },
    handle: ({ params, query }, call) => durability(byId(params), query, call),
  }),
  route({
    method: "POST",
    path: "/api/folders",
    summary: "Makes a folder.",
    tag: "files",
    body: folderBodySchema,
    requestHeaders: {
      ...CHANGE_HEADERS,
      "If-Match":
        "ETags of which the folder that is there must have one; with existOk it is the answer then.",
      "If-None-Match": 'Only "*": nothing may be there yet.',
    },
    responses: { 201: { description: "The folder.", schema: fileViewSchema } },
    async handle({ body }, call) {
      const { createParents, existOk } = body;
      const attributes = { modifyTimeMs: body.modifyTime, mode: body.mode };
      const options = writeOptions(call, body.requestId);
      try {
        const path = checkedPath(body.path);
        return entryAnswer(
          await call.drive.createDirectory(path, { createParents, existOk, attributes }, options),
          201,
        );
      } catch (error) {
        if (createParents || !(error instanceof DriveError) || error.reason !== "PATH_NOT_FOUND") throw error;
        const message = `${error.message} With "createParents": true the folders above are made too.`;
        throw new DriveError(error.reason, message, error.metadata, error);
      }
    },
  }),
  route({
    method: "PATCH",
    path: "/api/files/:fileId",
    summary: "Renames or moves an entry, or changes its attributes.",
    tag: "files",
    params: fileIdParamsSchema,
    body: patchBodySchema,
    requestHeaders: CHANGE_HEADERS,
    responses: FILE_RESPONSE,
    handle: ({ params, body }, call) => patch(byId(params), body, call),
  }),
  route({
    method: "PATCH",
    path: "/api/files",
    summary: "Renames or moves the entry at a path, or changes its attributes.",
    tag: "files",
    query: pathQuerySchema,
    body: patchBodySchema,
    requestHeaders: CHANGE_HEADERS,
    responses: FILE_RESPONSE,
    handle: ({ query, body }, call) => patch(byPath(query), body, call),
  }),
  route({
    method: "DELETE",
    path: "/api/files/:fileId",
    summary: "Deletes an entry; a folder with everything in it only when recursive.",
    tag: "files",
    params: fileIdParamsSchema,
    query: removeQuerySchema,
    requestHeaders: CHANGE_HEADERS,
    responses: { 204: { description: "Deleted." } },
    handle: ({ params, query }, call) => remove(byId(params), query.recursive, call),
  }),
  route({
    method: "DELETE",
    path: "/api/files",
    summary: "Deletes the entry at a path; a folder with everything in it only when recursive.",
    tag: "files",
    query: pathRemoveQuerySchema,
    requestHeaders: CHANGE_HEADERS,
    responses: { 204: { description: "Deleted." } },
    handle: ({ query }, call) => remove(byPath(query), query.recursive, call),
  }),
  route({
    method: "POST",
    path: "/api/files/:fileId/copy",
    summary: "Copies a file or a whole folder at once; bytes are shared.",
    tag: "files",
    params: fileIdParamsSchema,
    body: copyBodySchema,
    requestHeaders: { ...CHANGE_HEADERS, "If-None-Match": 'Only "*": nothing may be there yet.' },
    responses: { 201: { description: "The copy.", schema: fileViewSchema } },
    handle: ({ params, body }, call) => copy(byId(params), body, call),
  }),
];
