/**
 * `netdisk get`: files and folders from the drive.
 *
 * The mirror of `put`: a folder goes into DEST under its own name, one written with a trailing "/" puts its contents there;
 * a single file becomes DEST, or goes into DEST when that is a folder or ends in "/"; "-" is stdout. Every file is verified
 * by its tree hash before it has its name. Nothing is written outside DEST, and no file that differs is replaced unless
 * --overwrite says so; files that are here already with equal bytes are skipped, so the same command can be run again.
 */
import { chmod, lstat, open, stat, utimes } from "node:fs/promises";
import { constants } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import type { PathEntry } from "../drive/drive-api.ts";
import type { Entry } from "../drive/entry.ts";
import { DriveError } from "../drive/errors.ts";
import { CHUNK_SIZE_BYTES, PAGE_SIZE_DEFAULT } from "../drive/limits.ts";
import { bytesEqual, toHex } from "../std/bytes.ts";
import { errnoOf } from "../std/disk.ts";
import {
  FOLDER_COUNT_IN_FLIGHT,
  transferSlots,
  withProgress,
  type CommandContext,
  type TransferSlots,
} from "./command-context.ts";
import { downloadFile, downloadPieces, type DownloadContext } from "./download.ts";
import { exitCodeOfCounts, UsageError } from "./exit-code.ts";
import { printable } from "../std/format.ts";
import { enterDirectory, findAt, openDestination, parseLocalName, utimeSeconds } from "./local-folder.ts";
import { OutputClosedError } from "./output.ts";
import { isPassing } from "./patience.ts";
import { baseName, joinRemote, parseRemotePath, type RemotePath } from "./remote-path.ts";
import { summarise, TransferMeter } from "./transfer-meter.ts";
import { hashLocalFile } from "./upload.ts";
import { WorkPile } from "./work-pile.ts";

/** Options of `get`. */
export interface GetOptions {
  readonly overwrite: boolean;
  readonly quiet: boolean;
}

interface FolderWork {
  readonly entryId: number;
  readonly remote: string;
  readonly local: string;
}

/** Fetches `paths` on the drive to `destination` here ("-": stdout). Returns the exit code. */
export async function get(
  context: CommandContext,
  paths: readonly string[],
  destination: string,
  options: GetOptions,
): Promise<number> {
  const sources = paths.map(parseRemotePath);
  if (destination === "-") return getToStdout(context, sources);
  const command = new GetCommand(context, options);
  await withProgress(context, command.meter, options, () => command.getPaths(sources, destination));
  await command.summarise(destination);
  return exitCodeOfCounts({
    doneCount: command.meter.doneCount + command.meter.skippedCount,
    failedCount: command.meter.failedCount,
  });
}

async function getToStdout(context: CommandContext, sources: readonly RemotePath[]): Promise<number> {
  const [source] = sources;
  if (sources.length !== 1 || source === undefined)
    throw new UsageError('Only one file can go to "-" (stdout).');
  if (context.output.json) throw new UsageError("--json cannot be used when the file itself goes to stdout.");
  const download = { drive: context.drive, patience: context.patience, chunkSlots: transferSlots().chunks };
  for await (const bytes of downloadPieces(download, { path: source.path }))
    await context.output.bytes(bytes);
  return 0;
}

class GetCommand {
  readonly meter: TransferMeter;
  readonly #context: CommandContext;
  readonly #options: GetOptions;
  readonly #slots: TransferSlots = transferSlots();
  readonly #download: DownloadContext;
  readonly #folders = new WorkPile<FolderWork>();
  readonly #running = new Set<Promise<void>>();
  /** Folders made here, whose mode and time are set when everything is in them. */
  readonly #finishing: { readonly local: string; readonly entry: Entry }[] = [];
  #fatal: { readonly error: unknown } | undefined;

  constructor(context: CommandContext, options: GetOptions) {
    this.#context = context;
    this.#options = options;
    this.meter = new TransferMeter("get", context.io.clock);
    this.#download = { drive: context.drive, patience: context.patience, chunkSlots: this.#slots.chunks };
  }

  /** Fetches files and folders. */
  async getPaths(sources: readonly RemotePath[], destination: string): Promise<void> {
    const { drive, patience, io } = this.#context;
    const target = resolve(io.workingDirectory, destination);
    const found: { source: RemotePath; at: PathEntry }[] = [];
    for (const source of sources) {
      try {
        const at = await patience.read((signal) => drive.stat({ path: source.path }, { signal }));
        found.push({ source, at });
      } catch (error) {
        await this.#fail(source.path, undefined, error);
      }
    }
    if (found.length === 0) return;
    const hasFolder = found.some(({ at }) => at.entry.kind === "directory");
    const intoFolder =
      sources.length > 1 || hasFolder || /[/\\]$|^\.{1,2}$/.test(destination) || (await isFolder(target));
    refuseTwins(intoFolder ? found.map(({ source, at }) => ({ source, kind: at.entry.kind })) : []);
    const folder = await openDestination(intoFolder ? target : dirname(target));
    for (const { source, at } of found) {
      try {
        await this.#begin(source, at, folder, intoFolder ? undefined : basename(target));
      } catch (error) {
        await this.#fail(source.path, undefined, error);
      }
    }
    await this.#folders.run(FOLDER_COUNT_IN_FLIGHT, (work) => this.#getFolder(work));
    await Promise.all(this.#running);
    if (this.#fatal !== undefined) throw this.#fatal.error;
    await this.#finishFolders();
  }

  /** Says how it went. */
  async summarise(destination: string): Promise<void> {
    const { output } = this.#context;
    const { meter } = this;
    if (output.json) return output.record(meter.record("summary"));
    if (this.#options.quiet) return;
    await output.line(summarise(meter, `fetched to ${printable(destination)} and verified`));
  }

  async #begin(
    source: RemotePath,
    at: PathEntry,
    folder: string,
    fileName: string | undefined,
  ): Promise<void> {
    const name = baseName(source);
    const { platform } = process;
    if (at.entry.kind === "file") {
      const local = fileName ?? parseLocalName(name ?? "", platform);
      await this.#startFile(at.entry, source.path, join(folder, local));
      return;
    }
    let local = folder;
    if (name !== undefined && !source.trailingSlash) {
      local = await enterDirectory(folder, name, platform);
      this.#finishing.push({ local, entry: at.entry });
    }
    this.#folders.push({ entryId: at.entry.entryId, remote: source.path, local });
  }

  async #getFolder(work: FolderWork): Promise<void> {
    const { drive, patience } = this.#context;
    let cursor: string | undefined;
    do {
      if (this.#fatal !== undefined) return;
      const page = { cursor, countMax: PAGE_SIZE_DEFAULT };
      try {
        const listed = await patience.read((signal) =>
          drive.list({ entryId: work.entryId }, page, { signal }),
        );
        for (const entry of listed.entries) await this.#takeEntry(work, entry);
        cursor = listed.nextCursor;
      } catch (error) {
        await this.#fail(work.remote, work.local, error);
        return;
      }
    } while (cursor !== undefined);
  }

  async #takeEntry(work: FolderWork, entry: Entry): Promise<void> {
    if (this.#fatal !== undefined) return;
    const remote = joinRemote(work.remote, entry.name);
    try {
      if (entry.kind === "directory") {
        const local = await enterDirectory(work.local, entry.name, process.platform);
        this.#finishing.push({ local, entry });
        this.#folders.push({ entryId: entry.entryId, remote, local });
      } else {
        const local = join(work.local, parseLocalName(entry.name, process.platform));
        await this.#startFile(entry, remote, local);
      }
    } catch (error) {
      await this.#fail(remote, undefined, error);
    }
  }

  async #startFile(entry: Entry, remote: string, local: string): Promise<void> {
    await this.#slots.files.acquire(1, this.#context.patience.signal);
    this.meter.foundCount += 1;
    this.meter.foundBytes += entry.sizeBytes;
    const running: Promise<void> = this.#getFile(entry, remote, local)
      .catch((error: unknown) => {
        this.#fatal ??= { error };
      })
      .finally(() => {
        this.#slots.files.release(1);
        this.#running.delete(running);
      });
    this.#running.add(running);
  }

  async #getFile(entry: Entry, remote: string, local: string): Promise<void> {
    const { output } = this.#context;
    const share = this.meter.begin();
    const large = entry.sizeBytes > CHUNK_SIZE_BYTES;
    try {
      let status: "stored" | "skipped" = "skipped";
      let fetched = entry;
      if (await this.#isHere(entry, local)) {
        share.transferredBytes = entry.sizeBytes;
        share.presentBytes = entry.sizeBytes;
        this.meter.skippedBytes += entry.sizeBytes;
      } else {
        if (large) await this.#slots.largeFiles.acquire(1, this.#context.patience.signal);
        try {
          fetched = await downloadFile(this.#download, { entryId: entry.entryId }, local, share);
        } finally {
          if (large) this.#slots.largeFiles.release(1);
        }
        status = "stored";
      }
      this.meter.end(share, true);
      if (status === "stored") this.meter.doneCount += 1;
      else this.meter.skippedCount += 1;
      if (output.json) {
        const { sizeBytes } = fetched;
        const treeHash = toHex(fetched.treeHash);
        await output.record({ type: "file", source: remote, path: local, status, sizeBytes, treeHash });
      }
    } catch (error) {
      this.meter.end(share, false);
      await this.#fail(remote, local, error);
    }
  }

  /** Whether the file at `local` has the entry's bytes. @throws DriveError PATH_EXISTS when something else may not be replaced */
  async #isHere(entry: Entry, local: string): Promise<boolean> {
    const found = await findAt(local);
    if (found === undefined) return false;
    if (found === "directory")
      throw new DriveError("IS_A_DIRECTORY", `${printable(local)} is a folder.`, { path: local });
    if (found === "file" && (await hasBytesOf(local, entry))) return true;
    if (this.#options.overwrite) return false;
    const what = found === "file" ? "exists with other bytes" : "is not an ordinary file";
    throw new DriveError("PATH_EXISTS", `${printable(local)} ${what}.`, { path: local });
  }

  /** Gives folders their mode and time, the deepest first: a folder may forbid what follows. */
  async #finishFolders(): Promise<void> {
    const deepestFirst = this.#finishing.toSorted((a, b) => b.local.length - a.local.length);
    for (const { local, entry } of deepestFirst) {
      try {
        const seconds = utimeSeconds(entry.modifyTimeMs);
        if (!(await lstat(local)).isDirectory()) continue;
        await utimes(local, seconds, seconds);
        if (entry.mode !== undefined) await chmod(local, entry.mode & 0o777);
      } catch (error) {
        await this.#fail(local, local, error);
      }
    }
  }

  async #fail(remote: string, local: string | undefined, error: unknown): Promise<void> {
    const { output, patience } = this.#context;
    patience.signal.throwIfAborted();
    // What outlasted all patience would outlast it again for every file: the command ends, and can be run again.
    if (error instanceof OutputClosedError || isPassing(error)) throw error;
    this.meter.failedCount += 1;
    if (output.json) {
      const path = local === undefined ? {} : { path: local };
      await output.record({
        type: "file",
        source: remote,
        ...path,
        status: "failed",
        error: output.describe(error),
      });
    } else output.error(error, remote);
  }
}

async function isFolder(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isDirectory();
  } catch (error) {
    if (errnoOf(error) === "ENOENT") return false;
    throw error;
  }
}

async function hasBytesOf(path: string, entry: Entry): Promise<boolean> {
  const handle = await open(path, constants.O_RDONLY | (constants.O_NOFOLLOW ?? 0));
  try {
    const { size, mtimeMs } = await handle.stat();
    if (size !== entry.sizeBytes) return false;
    const file = { handle, path, sizeBytes: size, modifyTimeMs: Math.floor(mtimeMs) };
    return bytesEqual(await hashLocalFile(file), entry.treeHash);
  } finally {
    await handle.close();
  }
}

function refuseTwins(
  sources: readonly { readonly source: RemotePath; readonly kind: "file" | "directory" }[],
): void {
  const seen = new Map<string, string>();
  for (const { source, kind } of sources) {
    const name = baseName(source);
    if (name === undefined || (kind === "directory" && source.trailingSlash)) continue;
    const twin = seen.get(name);
    if (twin !== undefined)
      throw new UsageError(
        `${printable(twin)} and ${printable(source.path)} would both become ${printable(name)}.`,
      );
    seen.set(name, source.path);
  }
}
