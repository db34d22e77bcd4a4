/** `netdisk search`, `netdisk usage`, `netdisk duplicates` and `netdisk catalog rebuild`. */
import type { CatalogEntry, CatalogQuery, UsageGroup } from "../drive/catalog.ts";
import { REPLICA_COUNT } from "../drive/limits.ts";
import { toHex } from "../std/bytes.ts";
import type { CommandContext } from "./command-context.ts";
import { EXIT_OK } from "./exit-code.ts";
import { formatBytes, formatCount, formatQuantity, formatTable, formatTime, isoTime } from "../std/format.ts";

function foundJson(entry: CatalogEntry): Record<string, unknown> {
  return {
    path: entry.path,
    name: entry.name,
    kind: entry.kind,
    entryId: entry.entryId,
    sizeBytes: entry.sizeBytes,
    ...(entry.treeHash.length === 0 ? {} : { treeHash: toHex(entry.treeHash) }),
    ...(entry.mediaType === "" ? {} : { mediaType: entry.mediaType }),
    modifyTime: isoTime(entry.modifyTimeMs),
    createTime: isoTime(entry.createTimeMs),
    ...(entry.copyCount === undefined ? {} : { copies: entry.copyCount }),
  };
}

/** Shows at most `countMax` entries that a query finds, all when absent. */
export async function search(
  { drive, patience, output }: CommandContext,
  query: Omit<CatalogQuery, "countMax" | "cursor">,
  options: { readonly countMax: number; readonly long: boolean },
): Promise<number> {
  let left = options.countMax;
  let cursor: string | undefined;
  let isMore = false;
  do {
    const asked: CatalogQuery = { ...query, cursor, countMax: Math.min(left, PAGE_COUNT) };
    const page = await patience.read((signal) => drive.catalog.find(asked, signal));
    for (const entry of page.entries) {
      if (output.json) await output.record(foundJson(entry));
      else if (!options.long) await output.line(entry.kind === "directory" ? `${entry.path}/` : entry.path);
    }
    if (options.long && !output.json) {
      const rows = page.entries.map((entry) => [
        entry.kind === "directory" ? "-" : formatBytes(entry.sizeBytes),
        formatTime(entry.modifyTimeMs),
        entry.copyCount === undefined ? "-" : `${entry.copyCount}/${REPLICA_COUNT}`,
        entry.path,
      ]);
      for (const line of formatTable(rows, [0])) await output.line(line);
    }
    left -= page.entries.length;
    cursor = page.nextCursor;
    isMore = cursor !== undefined && left <= 0;
  } while (cursor !== undefined && left > 0);
  if (isMore) output.note("There are more; --limit says how many are shown.");
  return EXIT_OK;
}

/** Entries asked for at a time. */
const PAGE_COUNT = 1000;

/** Shows what is used below a folder. */
export async function usage(
  { drive, patience, output }: CommandContext,
  path: string,
  by: UsageGroup,
): Promise<number> {
  const report = await patience.read((signal) => drive.catalog.usage(by, path, signal));
  if (output.json) {
    await output.record({ path, by, ...report });
    return EXIT_OK;
  }
  const header = ["SIZE", "FILES", by.toUpperCase()];
  const rows = report.rows.map((row) => [
    formatBytes(row.sizeBytes),
    formatCount(row.fileCount),
    labelOf(row.key, by, path),
  ]);
  for (const line of formatTable([header, ...rows], [0, 1])) await output.line(line);
  const folders = formatQuantity(report.directoryCount, "folder");
  await output.line(
    `${formatBytes(report.sizeBytes)} in ${formatQuantity(report.fileCount, "file")} and ${folders}, each file counted in full.`,
  );
  if (report.truncated) output.note("There are more rows; these have the most bytes.");
  return EXIT_OK;
}

/** What a row of a usage report counts. */
function labelOf(key: string, by: UsageGroup, path: string): string {
  if (key === "") return "(unknown)";
  return by === "folder" && key === path ? `${key} (files directly in it)` : key;
}

/** Shows the groups of equal files that take most bytes. */
export async function duplicates(
  { drive, patience, output }: CommandContext,
  countMax: number,
): Promise<number> {
  const { groups } = await patience.read((signal) => drive.catalog.duplicates(countMax, signal));
  for (const { treeHash, sizeBytes, fileCount, paths } of groups) {
    if (output.json) {
      await output.record({ treeHash: toHex(treeHash), sizeBytes, fileCount, paths });
      continue;
    }
    await output.line(`${formatQuantity(fileCount, "file")} of ${formatBytes(sizeBytes)}:`);
    for (const path of paths) await output.line(`  ${path}`);
    if (fileCount > paths.length) await output.line(`  and ${formatCount(fileCount - paths.length)} more`);
  }
  return EXIT_OK;
}

/** Lets the catalog be built anew. */
export async function rebuildCatalog({ drive, patience, output }: CommandContext): Promise<number> {
  await patience.read((signal) => drive.catalog.rebuild(signal));
  output.note("The catalog is being built anew from the tree; search answers as soon as it is ready.");
  return EXIT_OK;
}
