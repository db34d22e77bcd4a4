/**
 * The small commands over entries: `ls`, `stat`, `mkdir`, `mv`, `cp`, `rm`.
 *
 * Each change carries a request id, so that repeating it through another node changes nothing twice. Over several paths one
 * failure does not stop the rest; the exit code tells.
 */
import type { PathEntry } from "../drive/drive-api.ts";
import { ROOT_ENTRY_ID, type Entry, type OnConflict } from "../drive/entry.ts";
import { describeDurability } from "../drive/durability.ts";
import { hasReason } from "../drive/errors.ts";
import { PAGE_SIZE_DEFAULT, REPLICA_COUNT } from "../drive/limits.ts";
import { toHex } from "../std/bytes.ts";
import type { CommandContext } from "./command-context.ts";
import { EXIT_OK, exitCodeOfCounts, UsageError } from "./exit-code.ts";
import { formatCount, formatMode, formatTable, formatTime, isoTime, printable } from "../std/format.ts";
import { OutputClosedError } from "./output.ts";
import { baseName, joinRemote, parseRemotePath, type RemotePath } from "./remote-path.ts";

/** How an entry looks in JSON. */
export function entryJson(entry: Entry, path: string): Record<string, unknown> {
  return {
    path,
    name: entry.name,
    kind: entry.kind,
    entryId: entry.entryId,
    version: entry.version,
    sizeBytes: entry.sizeBytes,
    ...(entry.kind === "file" ? { treeHash: toHex(entry.treeHash) } : {}),
    ...(entry.sha256.length > 0 ? { sha256: toHex(entry.sha256) } : {}),
    ...(entry.mediaType === "" ? {} : { mediaType: entry.mediaType }),
    ...(entry.mode === undefined ? {} : { mode: entry.mode.toString(8).padStart(4, "0") }),
    ...(hasTimes(entry)
      ? { modifyTime: isoTime(entry.modifyTimeMs), createTime: isoTime(entry.createTimeMs) }
      : {}),
  };
}

/** Whether anybody knows when the entry was made: the root was there before the first command, and its clock. */
function hasTimes(entry: Entry): boolean {
  return entry.entryId !== ROOT_ENTRY_ID || entry.createTimeMs !== 0;
}

function shownTime(entry: Entry, timeMs: number, zone = ""): string {
  return hasTimes(entry) ? `${formatTime(timeMs)}${zone}` : "-";
}

/** Lists a folder, or shows a file. */
export async function ls(
  context: CommandContext,
  path: string,
  options: { readonly long: boolean },
): Promise<number> {
  const { drive, patience, output } = context;
  const { entry, path: shownPath } = await patience.read((signal) =>
    drive.stat({ path: parseRemotePath(path).path }, { signal }),
  );
  if (entry.kind === "file") {
    await showEntries(context, [entry], (each) => (each === entry ? shownPath : each.name), options);
    return EXIT_OK;
  }
  let cursor: string | undefined;
  do {
    const page = { cursor, countMax: PAGE_SIZE_DEFAULT };
    const listed = await patience.read((signal) => drive.list({ entryId: entry.entryId }, page, { signal }));
    const pathOf = (each: Entry): string => (output.json ? joinRemote(shownPath, each.name) : each.name);
    await showEntries(context, listed.entries, pathOf, options);
    cursor = listed.nextCursor;
  } while (cursor !== undefined);
  return EXIT_OK;
}

/** Shows everything about each path, the verified copies of files included. */
export async function statPaths(context: CommandContext, paths: readonly string[]): Promise<number> {
  const { drive, patience, output } = context;
  return forEachPath(context, paths, async ({ path }) => {
    const found = await patience.read((signal) => drive.stat({ path }, { signal }));
    const { entry } = found;
    const durability =
      entry.kind === "file"
        ? await patience.read((signal) => drive.durability({ entryId: entry.entryId }, { signal }))
        : undefined;
    if (output.json) {
      const copies =
        durability === undefined
          ? {}
          : {
              durability: {
                verifiedCopies: durability.verifiedCount,
                oldestCheckAgeMs: durability.oldestCheckAgeMs ?? null,
                of: REPLICA_COUNT,
                nodes: durability.nodeIds,
              },
            };
      await output.record({ ...entryJson(entry, found.path), ...copies });
      return;
    }
    const rows: string[][] = [
      ["Path", printable(found.path)],
      ["Kind", entry.kind],
      ["Id", `${entry.entryId}, version ${entry.version}`],
      [
        "Mode",
        `${formatMode(entry.kind, entry.mode)} (${entry.mode === undefined ? "none given" : entry.mode.toString(8).padStart(4, "0")})`,
      ],
      ["Modified", shownTime(entry, entry.modifyTimeMs, " UTC")],
      ["Created", shownTime(entry, entry.createTimeMs, " UTC")],
    ];
    if (durability !== undefined) {
      const nodes = durability.nodeIds.length === 0 ? "" : ` on ${durability.nodeIds.join(", ")}`;
      rows.splice(2, 0, ["Size", `${formatCount(entry.sizeBytes)} bytes`]);
      rows.push(["Tree hash", toHex(entry.treeHash)]);
      if (entry.sha256.length > 0) rows.push(["SHA-256", toHex(entry.sha256)]);
      if (entry.mediaType !== "") rows.push(["Type", entry.mediaType]);
      rows.push(["Copies", `${describeDurability(durability)}${nodes}`]);
    }
    for (const line of formatTable(rows)) await output.line(line);
  });
}

/** Makes folders; with `parents` also those above, and one that is there already is fine. */
export function mkdir(
  context: CommandContext,
  paths: readonly string[],
  options: { readonly parents: boolean },
): Promise<number> {
  const { drive, patience, output } = context;
  const settings = { createParents: options.parents, existOk: options.parents, attributes: {} };
  return forEachPath(context, paths, async ({ path }) => {
    const requestId = patience.requestId();
    const made = await patience.run((signal) => drive.createDirectory(path, settings, { requestId, signal }));
    if (output.json) await output.record(entryJson(made.entry, made.path));
  });
}

/** Moves or renames: into `destination` when that is a folder or ends in "/", to that name otherwise. */
export function mv(
  context: CommandContext,
  sources: readonly string[],
  destination: string,
  options: { readonly onConflict: OnConflict },
): Promise<number> {
  const { drive } = context;
  return relocate(context, sources, destination, (source, to, write) =>
    drive.move({ path: source }, to, options.onConflict, write),
  );
}

/** Copies files and whole folders; the bytes are shared, so it takes no time and no space. Destinations as for mv(). */
export function cp(
  context: CommandContext,
  sources: readonly string[],
  destination: string,
  options: { readonly onConflict: OnConflict },
): Promise<number> {
  const { drive } = context;
  return relocate(context, sources, destination, (source, to, write) =>
    drive.copy({ path: source }, to, options.onConflict, write),
  );
}

/** Deletes files and, with `recursive`, folders with everything in them. */
export function rm(
  context: CommandContext,
  paths: readonly string[],
  options: { readonly recursive: boolean },
): Promise<number> {
  const { drive, patience, output } = context;
  return forEachPath(context, paths, async ({ path }) => {
    const requestId = patience.requestId();
    await patience.run((signal) => drive.remove({ path }, options, { requestId, signal }));
    if (output.json) await output.record({ path, status: "deleted" });
  });
}

async function relocate(
  context: CommandContext,
  sources: readonly string[],
  destination: string,
  change: (
    source: string,
    to: string,
    write: { requestId: string; signal: AbortSignal },
  ) => Promise<PathEntry>,
): Promise<number> {
  const { patience, output } = context;
  const target = parseRemotePath(destination);
  const intoFolder = await isFolder(context, target);
  if (sources.length > 1 && !intoFolder)
    throw new UsageError(`${target.path} is not a folder; several paths need one.`);
  return forEachPath(context, sources, async (source) => {
    const name = baseName(source);
    if (name === undefined) throw new UsageError('"/" itself can be neither moved nor copied.');
    const to = intoFolder ? joinRemote(target.path, name) : target.path;
    const requestId = patience.requestId();
    const changed = await patience.run((signal) => change(source.path, to, { requestId, signal }));
    if (output.json) await output.record({ source: source.path, ...entryJson(changed.entry, changed.path) });
  });
}

async function isFolder({ drive, patience }: CommandContext, target: RemotePath): Promise<boolean> {
  try {
    const { entry } = await patience.read((signal) => drive.stat({ path: target.path }, { signal }));
    return entry.kind === "directory";
  } catch (error) {
    // "x/" says that x is a folder: then its absence is the error. Otherwise it is the new name.
    if (hasReason(error, "PATH_NOT_FOUND") && !target.trailingSlash) return false;
    throw error;
  }
}

async function forEachPath(
  { output, patience, explain }: CommandContext,
  paths: readonly string[],
  work: (path: RemotePath) => Promise<void>,
): Promise<number> {
  const parsed = paths.map(parseRemotePath);
  const counts = { doneCount: 0, failedCount: 0 };
  for (const path of parsed) {
    try {
      await work(path);
      counts.doneCount += 1;
    } catch (error) {
      patience.signal.throwIfAborted();
      if (error instanceof OutputClosedError || error instanceof UsageError) throw error;
      counts.failedCount += 1;
      const explained = await explain(error);
      if (explained instanceof UsageError) throw explained;
      output.error(explained, path.path);
    }
  }
  return exitCodeOfCounts(counts);
}

async function showEntries(
  { output }: CommandContext,
  entries: readonly Entry[],
  pathOf: (entry: Entry) => string,
  options: { readonly long: boolean },
): Promise<void> {
  if (output.json) {
    for (const entry of entries) await output.record(entryJson(entry, pathOf(entry)));
    return;
  }
  const label = (entry: Entry): string =>
    `${printable(pathOf(entry))}${entry.kind === "directory" ? "/" : ""}`;
  const lines = options.long
    ? formatTable(
        entries.map((entry) => [
          formatMode(entry.kind, entry.mode),
          String(entry.sizeBytes),
          shownTime(entry, entry.modifyTimeMs),
          label(entry),
        ]),
        [1],
      )
    : entries.map(label);
  if (lines.length > 0) await output.line(lines.join("\n"));
}
