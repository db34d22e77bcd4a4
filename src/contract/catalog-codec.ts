/** CatalogService of netdisk.v1 over the drive, for any transport, and the conversions of its messages both ways. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import {
  CatalogSort as WireSort,
  CatalogSource,
  UsageGroup as WireGroup,
  type CatalogEntry as WireEntry,
  type CatalogEntrySchema,
  type CatalogOrigin as WireOrigin,
  type CatalogOriginSchema,
} from "../../gen/netdisk/v1/catalog_pb.ts";
import type {
  CatalogService,
  GetUsageResponse,
  ListDuplicatesResponse,
  SearchRequest,
  SearchRequestSchema,
  SearchResponse,
} from "../../gen/netdisk/v1/catalog_service_pb.ts";
import { EntryKind } from "../../gen/netdisk/v1/entry_pb.ts";
import {
  CATALOG_PAGE_SIZE_DEFAULT,
  type CatalogEntry,
  type CatalogOrigin,
  type CatalogPage,
  type CatalogQuery,
  type CatalogSort,
  type DuplicateReport,
  type UsageGroup,
  type UsageReport,
} from "../drive/catalog.ts";
import {
  decodeTime,
  encodeTime,
  keyOf,
  required,
  toBigint,
  toNumber,
  toOptionalBigint,
  toOptionalNumber,
} from "./codec.ts";
import type { DriveSource, Handlers } from "./service-handlers.ts";

const SORTS: Readonly<Record<CatalogSort, WireSort>> = {
  created: WireSort.CREATED,
  name: WireSort.NAME,
  size: WireSort.SIZE,
  modified: WireSort.MODIFIED,
};

const GROUPS: Readonly<Record<UsageGroup, WireGroup>> = {
  folder: WireGroup.FOLDER,
  type: WireGroup.TYPE,
  node: WireGroup.NODE,
};

const SOURCES: Readonly<Record<CatalogOrigin["source"], CatalogSource>> = {
  embedded: CatalogSource.EMBEDDED,
  postgres: CatalogSource.POSTGRES,
};

const KINDS = { file: EntryKind.FILE, directory: EntryKind.DIRECTORY } as const;

const orAbsent = (text: string): string | undefined => (text === "" ? undefined : text);

function decodeQuery(request: SearchRequest): CatalogQuery {
  const { modifiedFrom, modifiedTo } = request;
  return {
    text: orAbsent(request.text),
    under: orAbsent(request.under),
    kind: request.kind === EntryKind.UNSPECIFIED ? undefined : keyOf(KINDS, request.kind, "kind"),
    mediaType: orAbsent(request.mediaType),
    sizeBytesMin: toOptionalNumber(request.sizeBytesMin, "size_bytes_min"),
    sizeBytesMax: toOptionalNumber(request.sizeBytesMax, "size_bytes_max"),
    modifiedFromMs: modifiedFrom === undefined ? undefined : decodeTime(modifiedFrom),
    modifiedToMs: modifiedTo === undefined ? undefined : decodeTime(modifiedTo),
    underReplicated: request.underReplicated,
    sort: request.sort === WireSort.UNSPECIFIED ? "created" : keyOf(SORTS, request.sort, "sort"),
    descending: !request.ascending,
    countMax: request.pageSize === 0 ? CATALOG_PAGE_SIZE_DEFAULT : request.pageSize,
    cursor: orAbsent(request.pageToken),
  };
}

/** The wire form of a query. */
export function encodeQuery(query: CatalogQuery): MessageInitShape<typeof SearchRequestSchema> {
  const { modifiedFromMs, modifiedToMs } = query;
  return {
    text: query.text ?? "",
    under: query.under ?? "",
    kind: query.kind === undefined ? EntryKind.UNSPECIFIED : KINDS[query.kind],
    mediaType: query.mediaType ?? "",
    sizeBytesMin: toOptionalBigint(query.sizeBytesMin),
    sizeBytesMax: toOptionalBigint(query.sizeBytesMax),
    ...(modifiedFromMs !== undefined && { modifiedFrom: encodeTime(modifiedFromMs) }),
    ...(modifiedToMs !== undefined && { modifiedTo: encodeTime(modifiedToMs) }),
    underReplicated: query.underReplicated ?? false,
    sort: SORTS[query.sort],
    ascending: !query.descending,
    pageSize: query.countMax,
    pageToken: query.cursor ?? "",
  };
}

function encodeOrigin(origin: CatalogOrigin): MessageInitShape<typeof CatalogOriginSchema> {
  return { source: SOURCES[origin.source], asOfIndex: toBigint(origin.asOfIndex) };
}

function decodeOrigin(wire: WireOrigin | undefined): CatalogOrigin {
  const origin = required(wire, "origin");
  return {
    source: keyOf(SOURCES, origin.source, "source"),
    asOfIndex: toNumber(origin.asOfIndex, "as_of_index"),
  };
}

function encodeEntry(entry: CatalogEntry): MessageInitShape<typeof CatalogEntrySchema> {
  const { path, name, treeHash, mediaType } = entry;
  return {
    entryId: toBigint(entry.entryId),
    path,
    name,
    kind: KINDS[entry.kind],
    sizeBytes: toBigint(entry.sizeBytes),
    treeHash,
    mediaType,
    modifyTime: encodeTime(entry.modifyTimeMs),
    createTime: encodeTime(entry.createTimeMs),
    ...(entry.copyCount !== undefined && { copyCount: entry.copyCount }),
  };
}

function decodeEntry(wire: WireEntry): CatalogEntry {
  const { path, name, treeHash, mediaType, copyCount } = wire;
  return {
    entryId: toNumber(wire.entryId, "entry_id"),
    path,
    name,
    kind: keyOf(KINDS, wire.kind, "kind"),
    sizeBytes: toNumber(wire.sizeBytes, "size_bytes"),
    treeHash,
    mediaType,
    modifyTimeMs: decodeTime(wire.modifyTime),
    createTimeMs: decodeTime(wire.createTime),
    copyCount,
  };
}

/** A page from its wire form. */
export function decodePage(wire: SearchResponse): CatalogPage {
  return {
    ...decodeOrigin(wire.origin),
    entries: wire.entries.map(decodeEntry),
    nextCursor: orAbsent(wire.nextPageToken),
  };
}

/** The wire form of what is counted together. */
export function encodeGroup(by: UsageGroup): WireGroup {
  return GROUPS[by];
}

/** A report from its wire form. */
export function decodeUsage(wire: GetUsageResponse): UsageReport {
  return {
    ...decodeOrigin(wire.origin),
    rows: wire.rows.map((row) => ({
      key: row.key,
      fileCount: toNumber(row.fileCount, "file_count"),
      sizeBytes: toNumber(row.sizeBytes, "size_bytes"),
    })),
    truncated: wire.truncated,
    fileCount: toNumber(wire.fileCount, "file_count"),
    directoryCount: toNumber(wire.directoryCount, "directory_count"),
    sizeBytes: toNumber(wire.sizeBytes, "size_bytes"),
  };
}

/** Groups of equal files from their wire form. */
export function decodeDuplicates(wire: ListDuplicatesResponse): DuplicateReport {
  return {
    ...decodeOrigin(wire.origin),
    groups: wire.groups.map((group) => ({
      treeHash: group.treeHash,
      sizeBytes: toNumber(group.sizeBytes, "size_bytes"),
      fileCount: toNumber(group.fileCount, "file_count"),
      paths: group.paths,
    })),
  };
}

/** CatalogService over `drive`. */
export function catalogHandlers(drive: DriveSource): Handlers<typeof CatalogService> {
  return {
    async search(request, call) {
      const page = await drive().catalog.find(decodeQuery(request), call.signal);
      return {
        entries: page.entries.map(encodeEntry),
        nextPageToken: page.nextCursor ?? "",
        origin: encodeOrigin(page),
      };
    },
    async getUsage(request, call) {
      const by = request.by === WireGroup.UNSPECIFIED ? "folder" : keyOf(GROUPS, request.by, "by");
      const report = await drive().catalog.usage(by, request.under === "" ? "/" : request.under, call.signal);
      return {
        rows: report.rows.map(({ key, fileCount, sizeBytes }) => ({
          key,
          fileCount: toBigint(fileCount),
          sizeBytes: toBigint(sizeBytes),
        })),
        truncated: report.truncated,
        fileCount: toBigint(report.fileCount),
        directoryCount: toBigint(report.directoryCount),
        sizeBytes: toBigint(report.sizeBytes),
        origin: encodeOrigin(report),
      };
    },
    async listDuplicates(request, call) {
      const countMax = request.pageSize === 0 ? CATALOG_PAGE_SIZE_DEFAULT : request.pageSize;
      const report = await drive().catalog.duplicates(countMax, call.signal);
      return {
        groups: report.groups.map(({ treeHash, sizeBytes, fileCount, paths }) => ({
          treeHash,
          sizeBytes: toBigint(sizeBytes),
          fileCount: toBigint(fileCount),
          paths: [...paths],
        })),
        origin: encodeOrigin(report),
      };
    },
    async rebuildCatalog(_request, call) {
      await drive().catalog.rebuild(call.signal);
      return {};
    },
  };
}
