/**
 * `netdisk put`: files, folders and pipes to the drive.
 *
 * Where things go does not depend on what was put before, so that the same command can be run again: a folder goes into DEST
 * under its own name, a folder written with a trailing "/" puts its contents there (as rsync has it). A single file becomes
 * DEST, or goes into DEST when that is a folder or ends in "/". Folders come before what is in them; everything else is side
 * by side. One file that fails does not stop the others.
 */
import { lstat, opendir, open, stat, type FileHandle } from "node:fs/promises";
import { constants } from "node:fs";
import { basename, join, resolve } from "node:path";
import type { EntryAttributes, OnConflict } from "../drive/entry.ts";
import { DriveError, hasReason } from "../drive/errors.ts";
import { CHUNK_SIZE_BYTES } from "../drive/limits.ts";
import { parseNewName } from "../drive/path.ts";
import { bytesEqual, toHex } from "../std/bytes.ts";
import { errnoOf } from "../std/disk.ts";
import {
  FOLDER_COUNT_IN_FLIGHT,
  transferSlots,
  withProgress,
  type CommandContext,
  type TransferSlots,
} from "./command-context.ts";
import { exitCodeOfCounts, UsageError } from "./exit-code.ts";
import { printable } from "../std/format.ts";
import { OutputClosedError } from "./output.ts";
import { isPassing } from "./patience.ts";
import { joinRemote, parseRemotePath, type RemotePath } from "./remote-path.ts";
import { summarise, TransferMeter } from "./transfer-meter.ts";
import { hashLocalFile, uploadFile, uploadStream, type LocalFile, type UploadContext } from "./upload.ts";
import { UploadJournal } from "./upload-journal.ts";
import { WorkPile } from "./work-pile.ts";

/** Options of `put`. */
export interface PutOptions {
  readonly onConflict: OnConflict;
  readonly quiet: boolean;
}

interface FolderWork {
  readonly local: string;
  readonly remote: string;
  /** False for the contents of a folder that go into DEST itself, which keeps its own attributes. */
  readonly create: boolean;
}

/** Puts `sources` (paths here, or the single "-") at `destination` on the drive. Returns the exit code. */
export async function put(
  context: CommandContext,
  sources: readonly string[],
  destination: string,
  options: PutOptions,
): Promise<number> {
  const target = parseRemotePath(destination);
  if (sources.includes("-") && sources.length > 1)
    throw new UsageError('"-" (stdin) cannot be put with other sources.');
  const command = new PutCommand(context, options);
  await withProgress(context, command.meter, options, () =>
    sources[0] === "-" ? command.putStream(target) : command.putPaths(sources, target),
  );
  await command.summarise(target.path);
  return exitCodeOfCounts({
    doneCount: command.meter.doneCount + command.meter.skippedCount,
    failedCount: command.meter.failedCount,
  });
}

class PutCommand {
  readonly meter: TransferMeter;
  readonly #context: CommandContext;
  readonly #options: PutOptions;
  readonly #slots: TransferSlots = transferSlots();
  readonly #upload: UploadContext;
  readonly #folders = new WorkPile<FolderWork>();
  readonly #running = new Set<Promise<void>>();
  #fatal: { readonly error: unknown } | undefined;
  #folderCount = 0;
  /** Where the file went that was stored last under another name than asked for: see --on-conflict rename. */
  #renamedTo: string | undefined;

  constructor(context: CommandContext, options: PutOptions) {
    this.#context = context;
    this.#options = options;
    this.meter = new TransferMeter("put", context.io.clock);
    const { stateDirectory } = context.io;
    this.#upload = {
      drive: context.drive,
      patience: context.patience,
      journal: stateDirectory === undefined ? undefined : new UploadJournal(stateDirectory),
      chunkSlots: this.#slots.chunks,
    };
  }

  /** Puts stdin at `target`, which must be a file's path. */
  async putStream(target: RemotePath): Promise<void> {
    if (target.trailingSlash) throw new UsageError("What comes from a pipe needs a name: end DEST with one.");
    this.meter.foundCount += 1;
    await this.#attempt("-", target.path, async (share) => {
      const { entry, path } = await uploadStream(
        this.#upload,
        this.#context.io.stdin,
        {
          path: target.path,
          onConflict: this.#options.onConflict,
          mode: undefined,
          nodes: this.#context.nodes,
        },
        share,
      );
      this.meter.foundBytes += entry.sizeBytes;
      return { status: "stored", path, sizeBytes: entry.sizeBytes, treeHash: entry.treeHash };
    });
  }

  /** Puts files and folders. */
  async putPaths(sources: readonly string[], target: RemotePath): Promise<void> {
    const { io } = this.#context;
    const found: { source: string; local: string; kind: "file" | "folder" }[] = [];
    for (const source of sources) {
      const local = resolve(io.workingDirectory, source);
      try {
        // What is named on the command line is followed when it is a link; links inside folders are not.
        const stats = await stat(local);
        if (stats.isDirectory()) found.push({ source, local, kind: "folder" });
        else if (stats.isFile()) found.push({ source, local, kind: "file" });
        else
          throw new UsageError(
            `${printable(source)} is neither a file nor a folder; use "-" to put what comes from a pipe.`,
          );
      } catch (error) {
        await this.#fail(source, undefined, error);
      }
    }
    if (found.length === 0) return;
    const intoFolder = await this.#isFolderTarget(
      sources.length,
      found.some(({ kind }) => kind === "folder"),
      target,
    );
    refuseTwins(
      found.map(({ source, local }) => ({ source, name: intoFolder ? nameUnder(source, local) : undefined })),
    );
    if (intoFolder && target.names.length > 0) await this.#makeFolder(target.path, {});
    for (const { source, local, kind } of found) {
      const name = nameUnder(source, local);
      const sourceName = basename(local);
      if (name !== undefined && intoFolder && name !== sourceName)
        await this.#noteNormalised(local, joinRemote(target.path, name));
      if (kind === "folder") {
        const remote = name === undefined ? target.path : joinRemote(target.path, name);
        this.#folders.push({ local, remote, create: name !== undefined });
      } else {
        const remote = intoFolder ? joinRemote(target.path, sourceName.normalize("NFC")) : target.path;
        await this.#startFile(local, remote);
      }
    }
    await this.#folders.run(FOLDER_COUNT_IN_FLIGHT, (work) => this.#putFolder(work));
    await Promise.all(this.#running);
    if (this.#fatal !== undefined) throw this.#fatal.error;
  }

  /** Says how it went. */
  async summarise(destination: string): Promise<void> {
    const { output } = this.#context;
    const { meter } = this;
    if (output.json) {
      await output.record({
        ...meter.record("summary"),
        foldersDone: this.#folderCount,
        entriesIgnored: meter.noteCount,
      });
      return;
    }
    if (this.#options.quiet) return;
    // A single file has been told of by this line alone.
    const stored = meter.foundCount === 1 ? (this.#renamedTo ?? destination) : destination;
    await output.line(summarise(meter, `put to ${printable(stored)}`));
    if (meter.doneCount > 0) await output.line("Every file put has at least two verified, durable copies.");
  }

  async #isFolderTarget(sourceCount: number, hasFolder: boolean, target: RemotePath): Promise<boolean> {
    if (sourceCount > 1 || hasFolder || target.trailingSlash) return true;
    try {
      const { entry } = await this.#context.patience.read((signal) =>
        this.#context.drive.stat({ path: target.path }, { signal }),
      );
      return entry.kind === "directory";
    } catch (error) {
      if (hasReason(error, "PATH_NOT_FOUND")) return false;
      throw error;
    }
  }

  async #putFolder(work: FolderWork): Promise<void> {
    const { output } = this.#context;
    if (this.#fatal !== undefined) return;
    try {
      if (work.create) {
        const stats = await stat(work.local);
        await this.#makeFolder(work.remote, {
          mode: stats.mode & 0o7777,
          modifyTimeMs: Math.floor(stats.mtimeMs),
        });
        this.#folderCount += 1;
        if (output.json)
          await output.record({ type: "folder", source: work.local, path: work.remote, status: "stored" });
      }
      // Names here that are not in normal form C, by the name they get; few, whatever the size of the folder.
      const normalised = new Set<string>();
      const folder = await opendir(work.local, { bufferSize: 256 });
      for await (const item of folder) {
        if (this.#fatal !== undefined) return;
        const local = join(work.local, item.name);
        const name = item.name.normalize("NFC");
        const remote = joinRemote(work.remote, name);
        if (name !== item.name && (item.isDirectory() || item.isFile())) {
          if (await this.#isTwin(work.local, item.name, normalised)) {
            await this.#fail(local, remote, twinError(item.name));
            continue;
          }
          await this.#noteNormalised(local, remote);
        }
        if (item.isDirectory()) this.#folders.push({ local, remote, create: true });
        else if (item.isFile()) await this.#startFile(local, remote);
        else await this.#ignore(local, item.isSymbolicLink() ? "a symbolic link" : "a special file");
      }
    } catch (error) {
      await this.#fail(work.local, work.remote, error);
    }
  }

  /** Makes a folder, or gives an existing one the attributes of the source. */
  async #makeFolder(path: string, attributes: EntryAttributes): Promise<void> {
    const { drive, patience } = this.#context;
    parseNewName(path.slice(path.lastIndexOf("/") + 1));
    const requestId = patience.requestId();
    const settings = { createParents: true, existOk: true, attributes };
    const { entry } = await patience
      .run((signal) => drive.createDirectory(path, settings, { requestId, signal }))
      .catch((error: unknown) => {
        // Only a file is in the way of a folder that may exist, and no --on-conflict has a folder replace it.
        if (!hasReason(error, "PATH_EXISTS")) throw error;
        const { path: shown = path } = error.metadata;
        throw new DriveError(
          "NOT_A_DIRECTORY",
          `${JSON.stringify(shown)} is a file.`,
          { path: shown },
          error,
        );
      });
    const { mode = entry.mode, modifyTimeMs = entry.modifyTimeMs } = attributes;
    if (entry.mode === mode && entry.modifyTimeMs === modifyTimeMs) return;
    const updateId = patience.requestId();
    await patience.run((signal) =>
      drive.update({ entryId: entry.entryId }, attributes, { requestId: updateId, signal }),
    );
  }

  /** Begins to put a file as soon as there is a free slot. */
  async #startFile(local: string, remote: string): Promise<void> {
    await this.#slots.files.acquire(1, this.#context.patience.signal);
    this.meter.foundCount += 1;
    const running: Promise<void> = this.#putFile(local, remote)
      .catch((error: unknown) => {
        this.#fatal ??= { error };
      })
      .finally(() => {
        this.#slots.files.release(1);
        this.#running.delete(running);
      });
    this.#running.add(running);
  }

  async #putFile(local: string, remote: string): Promise<void> {
    await this.#attempt(local, remote, async (share) => {
      parseNewName(remote.slice(remote.lastIndexOf("/") + 1));
      const handle = await openSource(local);
      try {
        const stats = await handle.stat();
        const file: LocalFile = {
          handle,
          path: local,
          sizeBytes: stats.size,
          modifyTimeMs: Math.floor(stats.mtimeMs),
        };
        this.meter.foundBytes += file.sizeBytes;
        if (await this.#isStored(file, remote)) {
          share.transferredBytes = file.sizeBytes;
          share.presentBytes = file.sizeBytes;
          this.meter.skippedBytes += file.sizeBytes;
          return { status: "skipped", path: remote, sizeBytes: file.sizeBytes, treeHash: undefined };
        }
        const large = file.sizeBytes > CHUNK_SIZE_BYTES;
        if (large) await this.#slots.largeFiles.acquire(1, this.#context.patience.signal);
        try {
          const target = {
            path: remote,
            onConflict: this.#options.onConflict,
            mode: stats.mode & 0o7777,
            nodes: this.#context.nodes,
          };
          const { entry, path } = await uploadFile(this.#upload, file, target, share);
          return { status: "stored", path, sizeBytes: entry.sizeBytes, treeHash: entry.treeHash };
        } finally {
          if (large) this.#slots.largeFiles.release(1);
        }
      } finally {
        await handle.close();
      }
    });
  }

  /** Whether the drive has a file with equal bytes at `remote`. */
  async #isStored(file: LocalFile, remote: string): Promise<boolean> {
    const { drive, patience } = this.#context;
    try {
      const { entry } = await patience.read((signal) => drive.stat({ path: remote }, { signal }));
      if (entry.kind !== "file" || entry.sizeBytes !== file.sizeBytes) return false;
      return bytesEqual(entry.treeHash, await hashLocalFile(file));
    } catch (error) {
      if (hasReason(error, "PATH_NOT_FOUND")) return false;
      throw error;
    }
  }

  /** Runs the transfer of one file, counts it and tells of it. Rejects only when the whole command must end. */
  async #attempt(
    source: string,
    remote: string,
    work: (share: ReturnType<TransferMeter["begin"]>) => Promise<{
      status: "stored" | "skipped";
      path: string;
      sizeBytes: number;
      treeHash: Uint8Array | undefined;
    }>,
  ): Promise<void> {
    const { output } = this.#context;
    const share = this.meter.begin();
    try {
      const { status, path, sizeBytes, treeHash } = await work(share);
      this.meter.end(share, true);
      if (status === "stored") this.meter.doneCount += 1;
      else this.meter.skippedCount += 1;
      if (output.json) {
        const hash = treeHash === undefined ? {} : { treeHash: toHex(treeHash) };
        await output.record({ type: "file", source, path, status, sizeBytes, ...hash });
      } else if (path !== remote) {
        this.#renamedTo = path;
        if (!this.#options.quiet) output.note(`${printable(remote)} exists: stored as ${printable(path)}.`);
      }
    } catch (error) {
      this.meter.end(share, false);
      await this.#fail(source, remote, error);
    }
  }

  /** Counts a failure and shows it; rethrows what ends the command: an interruption, or a reader that went away. */
  async #fail(source: string, remote: string | undefined, error: unknown): Promise<void> {
    const { output, patience } = this.#context;
    patience.signal.throwIfAborted();
    // What outlasted all patience would outlast it again for every file: the command ends, and can be run again.
    if (error instanceof OutputClosedError || isPassing(error)) throw error;
    this.meter.failedCount += 1;
    const shown = await this.#explain(error, remote);
    if (output.json) {
      const path = remote === undefined ? {} : { path: remote };
      await output.record({ type: "file", source, ...path, status: "failed", error: output.describe(shown) });
    } else output.error(shown, source);
  }

  /** Adds what can be done in this command to errors whose general remedy does not say it. */
  async #explain(error: unknown, remote: string | undefined): Promise<unknown> {
    if (hasReason(error, "PATH_EXISTS")) {
      if (remote !== undefined && (await this.#isFolderThere(remote))) {
        return new DriveError(
          "IS_A_DIRECTORY",
          `${JSON.stringify(remote)} is a folder.`,
          error.metadata,
          error,
        );
      }
      return new DriveError("PATH_EXISTS", `${error.message} It differs.`, error.metadata, error);
    }
    if (
      errnoOf(error) === "ENOENT" &&
      error instanceof Error &&
      "path" in error &&
      String(error.path).includes("\ufffd")
    ) {
      return new DriveError("PATH_INVALID", "The name is not valid UTF-8.", {}, error);
    }
    return error;
  }

  async #isFolderThere(remote: string): Promise<boolean> {
    const { drive, patience } = this.#context;
    try {
      const { entry } = await patience.read((signal) => drive.stat({ path: remote }, { signal }));
      return entry.kind === "directory";
    } catch (error) {
      // Gone or out of reach meanwhile: then what is known is that the name was taken.
      if (error instanceof DriveError) return false;
      throw error;
    }
  }

  /** Whether another name in the folder `local` becomes the same name on the drive as `name`, which has a normal form of its own. */
  async #isTwin(local: string, name: string, normalised: Set<string>): Promise<boolean> {
    const normal = name.normalize("NFC");
    if (normalised.has(normal)) return true;
    normalised.add(normal);
    try {
      const own = await lstat(join(local, name), { bigint: true });
      const other = await lstat(join(local, normal), { bigint: true });
      // Some file systems find a file by either form of its name.
      return own.ino !== other.ino || own.dev !== other.dev;
    } catch (error) {
      if (errnoOf(error) === "ENOENT") return false;
      throw error;
    }
  }

  /** Says that a name is another sequence of characters on the drive than here, though it looks the same. */
  async #noteNormalised(local: string, remote: string): Promise<void> {
    const { output } = this.#context;
    const note = "The name is stored in Unicode normal form C (NFC).";
    if (output.json) await output.record({ type: "note", source: local, path: remote, note });
    else if (!this.#options.quiet) output.note(`${printable(local)}: ${note}`);
  }

  async #ignore(local: string, what: string): Promise<void> {
    const { output } = this.#context;
    this.meter.noteCount += 1;
    if (output.json) await output.record({ type: "file", source: local, status: "ignored", why: what });
    else if (!this.#options.quiet) output.note(`${printable(local)} is ${what}; ignored.`);
  }
}

/** The name that a source has under DEST; undefined when its contents go there: it was written with "/" at its end, or as ".". */
function nameUnder(source: string, local: string): string | undefined {
  return /(^|\/)\.{0,2}\/?$/.test(source) || source.endsWith("/")
    ? undefined
    : basename(local).normalize("NFC");
}

function refuseTwins(
  sources: readonly { readonly source: string; readonly name: string | undefined }[],
): void {
  const seen = new Map<string, string>();
  for (const { source, name } of sources) {
    if (name === undefined) continue;
    const twin = seen.get(name);
    if (twin !== undefined)
      throw new UsageError(
        `${printable(twin)} and ${printable(source)} would both become ${printable(name)}.`,
      );
    seen.set(name, source);
  }
}

function twinError(name: string): DriveError {
  return new DriveError(
    "PATH_INVALID",
    "Another name in this folder differs only in its Unicode normal form: both would have the same name on the drive.",
    { name: name.normalize("NFC") },
  );
}

function openSource(path: string): Promise<FileHandle> {
  // A file that became a pipe meanwhile must not block the command for ever.
  return open(path, constants.O_RDONLY | constants.O_NONBLOCK);
}
