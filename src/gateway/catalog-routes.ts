/** Search and reports over HTTP. Answers say which catalog gave them and how far it was; files never need it. */
import { z } from "zod";
import {
  CATALOG_PAGE_SIZE_DEFAULT,
  CATALOG_PAGE_SIZE_MAX,
  CATALOG_SORTS,
  USAGE_GROUPS,
  type CatalogEntry,
  type CatalogOrigin,
} from "../drive/catalog.ts";
import { CONTENT_SIZE_BYTES_MAX } from "../drive/limits.ts";
import { toHex } from "../std/bytes.ts";
import { checkedPath, route, type Route } from "./route.ts";
import { flagSchema, integerSchema, pathSchema, timeSchema } from "./schemas.ts";
import { timeText } from "./views.ts";

const count = z.number().int().nonnegative();

const originFields = {
  source: z.enum(["embedded", "postgres"]).meta({ description: "The catalog that answered." }),
  asOfIndex: count.meta({ description: "Log index up to which changes are in the answer." }),
};

const foundSchema = z
  .strictObject({
    fileId: z.string(),
    path: z.string(),
    name: z.string(),
    kind: z.enum(["file", "directory"]),
    size: count,
    treeHash: z.string().optional(),
    mediaType: z.string(),
    modifyTime: z.string(),
    createTime: z.string(),
    copies: count.optional().meta({ description: "Fewest verified copies of any part of the file." }),
  })
  .meta({ id: "Found" });

const searchViewSchema = z
  .strictObject({
    ...originFields,
    entries: z.array(foundSchema),
    nextCursor: z.string().nullable().meta({ description: "Pass it as cursor to get the next page." }),
  })
  .meta({ id: "SearchPage" });

const usageViewSchema = z
  .strictObject({
    ...originFields,
    rows: z.array(z.strictObject({ key: z.string(), fileCount: count, size: count })),
    truncated: z.boolean(),
    fileCount: count,
    directoryCount: count,
    size: count,
  })
  .meta({ id: "Usage" });

const duplicatesViewSchema = z
  .strictObject({
    ...originFields,
    groups: z.array(
      z.strictObject({ treeHash: z.string(), size: count, fileCount: count, paths: z.array(z.string()) }),
    ),
  })
  .meta({ id: "Duplicates" });

const limitSchema = integerSchema(1, CATALOG_PAGE_SIZE_MAX).default(CATALOG_PAGE_SIZE_DEFAULT);
const sizeSchema = integerSchema(0, CONTENT_SIZE_BYTES_MAX).optional();

const searchQuerySchema = z.strictObject({
  q: z.string().optional().meta({
    description:
      'Part of a name. With slashes, part of a path that ends inside the own name of the entry: "/b" finds names that begin with "b", "b/" folders whose name ends with "b", "a/b" names that begin with "b" in folders whose name ends with "a". What lies below a folder that is found is not found with it: path finds that. Without q, every entry the filters let through.',
  }),
  path: pathSchema.optional().meta({ description: "Only what lies below this folder." }),
  kind: z.enum(["file", "directory"]).optional(),
  type: z
    .string()
    .min(1)
    .optional()
    .meta({ description: 'A media type, or its first half, as in "image/".' }),
  minSize: sizeSchema,
  maxSize: sizeSchema,
  modifiedFrom: timeSchema.optional(),
  modifiedTo: timeSchema.optional(),
  underReplicated: flagSchema.default(false),
  sort: z.enum(CATALOG_SORTS as [string, ...string[]]).default("created"),
  order: z.enum(["asc", "desc"]).default("desc"),
  limit: limitSchema,
  cursor: z.string().optional(),
});

const CATALOG_UNAVAILABLE_RESPONSE = {
  503: { description: "CATALOG_UNAVAILABLE: the catalog is being built; ask again after Retry-After." },
};

const originView = ({ source, asOfIndex }: CatalogOrigin): CatalogOrigin => ({ source, asOfIndex });

function foundView(entry: CatalogEntry): z.output<typeof foundSchema> {
  return {
    fileId: String(entry.entryId),
    path: entry.path,
    name: entry.name,
    kind: entry.kind,
    size: entry.sizeBytes,
    ...(entry.treeHash.length === 0 ? {} : { treeHash: toHex(entry.treeHash) }),
    mediaType: entry.mediaType,
    modifyTime: timeText(entry.modifyTimeMs),
    createTime: timeText(entry.createTimeMs),
    ...(entry.copyCount === undefined ? {} : { copies: entry.copyCount }),
  };
}

/** Routes of the catalog. */
export const catalogRoutes: readonly Route[] = [
  route({
    method: "GET",
    path: "/api/search",
    summary: "Finds entries by name or path, by filters, in an order.",
    tag: "files",
    query: searchQuerySchema,
    responses: {
      200: { description: "One page.", schema: searchViewSchema },
      ...CATALOG_UNAVAILABLE_RESPONSE,
    },
    async handle({ query }, call) {
      const page = await call.drive.catalog.find(
        {
          text: query.q,
          under: query.path === undefined ? undefined : checkedPath(query.path),
          kind: query.kind,
          mediaType: query.type,
          sizeBytesMin: query.minSize,
          sizeBytesMax: query.maxSize,
          modifiedFromMs: query.modifiedFrom,
          modifiedToMs: query.modifiedTo,
          underReplicated: query.underReplicated,
          sort: CATALOG_SORTS.find((sort) => sort === query.sort) ?? "created",
          descending: query.order === "desc",
          countMax: query.limit,
          cursor: query.cursor,
        },
        call.signal,
      );
      const { entries, nextCursor } = page;
      return {
        json: { ...originView(page), entries: entries.map(foundView), nextCursor: nextCursor ?? null },
      };
    },
  }),
  route({
    method: "GET",
    path: "/api/usage",
    summary: "How much is used below a folder, by folder, media type or node.",
    tag: "files",
    query: z.strictObject({
      by: z.enum(USAGE_GROUPS as [string, ...string[]]).default("folder"),
      path: pathSchema.default("/"),
    }),
    responses: {
      200: { description: "The report.", schema: usageViewSchema },
      ...CATALOG_UNAVAILABLE_RESPONSE,
    },
    async handle({ query }, call) {
      const by = USAGE_GROUPS.find((group) => group === query.by) ?? "folder";
      const report = await call.drive.catalog.usage(by, checkedPath(query.path), call.signal);
      const { rows, truncated, fileCount, directoryCount, sizeBytes } = report;
      return {
        json: {
          ...originView(report),
          rows: rows.map((row) => ({ key: row.key, fileCount: row.fileCount, size: row.sizeBytes })),
          ...{ truncated, fileCount, directoryCount, size: sizeBytes },
        },
      };
    },
  }),
  route({
    method: "GET",
    path: "/api/duplicates",
    summary: "The groups of equal files that take most bytes.",
    tag: "files",
    query: z.strictObject({ limit: limitSchema }),
    responses: {
      200: { description: "The groups.", schema: duplicatesViewSchema },
      ...CATALOG_UNAVAILABLE_RESPONSE,
    },
    async handle({ query }, call) {
      const report = await call.drive.catalog.duplicates(query.limit, call.signal);
      return {
        json: {
          ...originView(report),
          groups: report.groups.map(({ treeHash, sizeBytes, fileCount, paths }) => ({
            treeHash: toHex(treeHash),
            size: sizeBytes,
            fileCount,
            paths,
          })),
        },
      };
    },
  }),
];
