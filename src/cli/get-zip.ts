/**
 * `netdisk get --zip`: files and folders as one ZIP archive, prepared by the cluster.
 *
 * The archive appears under its name when it is whole; until then it is a part file beside it. When the node that was read from
 * goes away, reading goes on at another one from the byte where it stopped: every node gives the same bytes.
 */
import { rename, rm, stat } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { DriveError } from "../drive/errors.ts";
import type { OpenedDownload, PreparedDownloadStatus } from "../drive/prepared-download.ts";
import { toHex, utf8 } from "../std/bytes.ts";
import { sleep } from "../std/clock.ts";
import { sha256 } from "../std/digest.ts";
import { withProgress, type CommandContext } from "./command-context.ts";
import { EXIT_OK, UsageError } from "./exit-code.ts";
import { formatBytes, formatCount, printable } from "../std/format.ts";
import { findAt, openDestination, openNoFollow, parseLocalName, writeAll } from "./local-folder.ts";
import { isPassing } from "./patience.ts";
import { parseRemotePath } from "./remote-path.ts";
import { TransferMeter } from "./transfer-meter.ts";

/** Pause between two questions whether the download is ready. */
const POLL_MS = 300;

/** Failures in a row without a byte between them. */
const READ_FAILURE_COUNT_MAX = 5;

/** Options of `get --zip`. */
export interface GetZipOptions {
  readonly overwrite: boolean;
  readonly quiet: boolean;
  /** Leaves the prepared download to the cluster once it is fetched, for its 24 hours. */
  readonly keep: boolean;
}

/** Fetches `paths` on the drive as an archive to `destination` here ("-": stdout; a folder: into it). Returns the exit code. */
export async function getZip(
  context: CommandContext,
  paths: readonly string[],
  destination: string,
  options: GetZipOptions,
): Promise<number> {
  const { drive, output, patience } = context;
  if (destination === "-" && output.json)
    throw new UsageError("--json cannot be used when the archive itself goes to stdout.");
  const sources = paths.map((path) => ({ path: parseRemotePath(path).path }));
  // One id for all tries, so that a try whose answer was lost makes no second download.
  const requestId = patience.requestId();
  const asked = await patience.run((signal) =>
    drive.preparedDownloads.prepare({ sources }, { requestId, signal }),
  );
  const target = destination === "-" ? undefined : await targetOf(context, destination, asked.name, options);
  const ready = await untilReady(context, asked);
  const opened = await patience.read((signal) => drive.preparedDownloads.open(ready.downloadId, { signal }));
  if (target === undefined) {
    for await (const bytes of readOn(context, opened)) await output.bytes(bytes);
    await giveBack(context, opened, options);
    return EXIT_OK;
  }
  await store(context, opened, target, options);
  await giveBack(context, opened, options);
  const { sizeBytes, entryCount, downloadId } = opened;
  if (output.json) {
    await output.record({
      type: "summary",
      path: target,
      sizeBytes,
      entryCount,
      downloadId: String(downloadId),
    });
  } else if (!options.quiet) {
    const what = `${formatCount(entryCount)} files and folders, ${formatBytes(sizeBytes)}`;
    await output.line(`${printable(target)}: ${what}`);
  }
  return EXIT_OK;
}

/** Where the archive goes. @throws DriveError PATH_EXISTS */
async function targetOf(
  { io }: CommandContext,
  destination: string,
  name: string,
  options: GetZipOptions,
): Promise<string> {
  const path = resolve(io.workingDirectory, destination);
  const isFolder = /[/\\]$|^\.{1,2}$/.test(destination) || (await findAt(path)) === "directory";
  const folder = await openDestination(isFolder ? path : dirname(path));
  const target = join(folder, isFolder ? parseLocalName(name, process.platform) : basename(path));
  const found = await findAt(target);
  if (found === undefined || (found === "file" && options.overwrite)) return target;
  throw new DriveError("PATH_EXISTS", `${printable(target)} exists.`, { path: target });
}

async function untilReady(
  { drive, patience, io }: CommandContext,
  asked: PreparedDownloadStatus,
): Promise<PreparedDownloadStatus> {
  const { downloadId } = asked;
  for (let status = asked; ;) {
    if (status.state === "done") return status;
    if (status.state === "failed" || status.state === "cancelled") {
      const why = status.error?.message ?? `It was ${status.state}.`;
      throw new DriveError("DOWNLOAD_FAILED", `The download could not be prepared: ${why}`, {
        download_id: String(downloadId),
      });
    }
    await sleep(io.clock, POLL_MS, patience.signal);
    status = await patience.read((signal) => drive.preparedDownloads.status(downloadId, { signal }));
  }
}

/** Releases what was fetched whole. It is here either way, so that failing at this is a note. */
async function giveBack(
  { drive, patience, output }: CommandContext,
  { downloadId }: OpenedDownload,
  { keep }: GetZipOptions,
): Promise<void> {
  if (keep) return;
  const requestId = patience.requestId();
  try {
    await patience.run((signal) => drive.preparedDownloads.release(downloadId, { requestId, signal }));
  } catch (error) {
    patience.signal.throwIfAborted();
    if (!(error instanceof DriveError)) throw error;
    output.note(`The cluster keeps the prepared download ${downloadId} for 24 hours: ${error.message}`);
  }
}

async function store(
  context: CommandContext,
  opened: OpenedDownload,
  target: string,
  options: GetZipOptions,
): Promise<void> {
  const digest = toHex(sha256(utf8(basename(target)))).slice(0, 24);
  const part = join(dirname(target), `.netdisk-${digest}.part`);
  const meter = new TransferMeter("get", context.io.clock);
  meter.foundCount = 1;
  meter.foundBytes = opened.sizeBytes;
  const share = meter.begin();
  const handle = await openNoFollow(part);
  try {
    await handle.truncate(0);
    let at = 0;
    await withProgress(context, meter, options, async () => {
      for await (const bytes of readOn(context, opened)) {
        await writeAll(handle, bytes, at);
        at += bytes.length;
        share.transferredBytes += bytes.length;
        share.copiedBytes[0] += bytes.length;
      }
    });
    await handle.sync();
  } catch (error) {
    await handle.close();
    await rm(part, { force: true });
    throw error;
  }
  await handle.close();
  const { size } = await stat(part);
  if (size !== opened.sizeBytes) {
    throw new DriveError("PAYLOAD_TRUNCATED", `Only ${size} of ${opened.sizeBytes} bytes are there.`, {
      size_bytes: String(opened.sizeBytes),
    });
  }
  await rename(part, target);
}

/** All bytes, read on where reading failed for a passing reason. */
async function* readOn(
  { patience }: CommandContext,
  opened: OpenedDownload,
): AsyncGenerator<Uint8Array, void, undefined> {
  const { sizeBytes } = opened;
  let failureCount = 0;
  for (let at = 0; at < sizeBytes;) {
    const attempt = new AbortController();
    const onAbort = (): void => attempt.abort(patience.signal.reason);
    patience.signal.addEventListener("abort", onAbort, { once: true });
    try {
      const pieces = opened.read(at, sizeBytes - at, attempt.signal)[Symbol.asyncIterator]();
      for (;;) {
        const next = await patience.bounded(pieces.next(), "NO_LEADER");
        if (next.done === true) break;
        failureCount = 0;
        at += next.value.length;
        yield next.value;
      }
      if (at < sizeBytes) throw new DriveError("PEER_UNREACHABLE", "The node ended the stream early.");
    } catch (error) {
      patience.signal.throwIfAborted();
      failureCount += 1;
      if (!isPassing(error) || failureCount > READ_FAILURE_COUNT_MAX) throw error;
      await patience.pause(failureCount);
    } finally {
      patience.signal.removeEventListener("abort", onAbort);
      attempt.abort();
    }
  }
}
