/**
 * Fetches one file and proves that what is here is what the drive has: the tree hash of all bytes must be the entry's.
 *
 * A file appears under its name only when it is whole and verified; until then it is a part file beside it. When the node
 * that was read from goes away, reading goes on where it stopped; when the file is another one by then, it fails.
 */
import { chunkCount } from "../drive/content.ts";
import type { Download, DriveApi, EntryRef } from "../drive/drive-api.ts";
import type { Entry } from "../drive/entry.ts";
import { DriveError } from "../drive/errors.ts";
import { CHUNK_SIZE_BYTES } from "../drive/limits.ts";
import { bytesEqual, toHex } from "../std/bytes.ts";
import { threadPoolDigester } from "../std/digest.ts";
import type { Semaphore } from "../std/semaphore.ts";
import { TreeHasher } from "../std/tree-hasher.ts";
import { cutIntoChunks } from "./cut-into-chunks.ts";
import { PartialFile } from "./download-journal.ts";
import { isPassing, type Patience } from "./patience.ts";
import { utimeSeconds } from "./local-folder.ts";
import type { FileShare } from "./transfer-meter.ts";

/** Permission bits that are taken over: never set-user-id and the like, which would be someone else's word about this machine. */
const MODE_MASK = 0o777;

/** What every download of a command shares. */
export interface DownloadContext {
  readonly drive: DriveApi;
  readonly patience: Patience;
  /** Chunks of all files in memory at once. */
  readonly chunkSlots: Semaphore;
}

/**
 * Fetches the file `ref` to `targetPath`, whose folder exists. Replaces a file that is there.
 * @returns the entry that was fetched
 * @throws DriveError DIGEST_MISMATCH, VERSION_MISMATCH and those of openDownload(); errors of the operating system
 */
export async function downloadFile(
  context: DownloadContext,
  ref: EntryRef,
  targetPath: string,
  share: FileShare,
): Promise<Entry> {
  const download = await openDownload(context, ref);
  const { entry } = download;
  const part = await PartialFile.open(targetPath, entry);
  try {
    const hasher = new TreeHasher();
    for (const digest of part.verifiedDigests) hasher.addLeaf(digest);
    let index = part.verifiedDigests.length;
    const offset = Math.min(entry.sizeBytes, index * CHUNK_SIZE_BYTES);
    count(share, offset);
    share.presentBytes += offset;
    const pieces = readOn(context, ref, download, offset);
    for await (const bytes of cutIntoChunks(pieces, entry.sizeBytes - offset)) {
      await context.chunkSlots.acquire(1, context.patience.signal);
      try {
        const digest = await threadPoolDigester.sha256(bytes);
        hasher.addLeaf(digest);
        await part.writeChunk(index, bytes, digest);
      } finally {
        context.chunkSlots.release(1);
      }
      index += 1;
      count(share, bytes.length);
    }
    if (index !== chunkCount(entry.sizeBytes)) throw truncated(entry);
    checkTreeHash(entry, hasher.root());
    await part.handle.truncate(entry.sizeBytes);
    if (entry.mode !== undefined) await part.handle.chmod(entry.mode & MODE_MASK);
    const seconds = utimeSeconds(entry.modifyTimeMs);
    await part.handle.utimes(seconds, seconds);
    await part.finish(targetPath);
    return entry;
  } catch (error) {
    if (error instanceof DriveError && error.reason === "DIGEST_MISMATCH") await part.discard();
    else await part.keep();
    throw error;
  }
}

/** Fetches the file `ref` in pieces for a pipe. Throws DIGEST_MISMATCH at the end when the bytes handed out were wrong. */
export async function* downloadPieces(context: DownloadContext, ref: EntryRef): AsyncGenerator<Uint8Array> {
  const download = await openDownload(context, ref);
  const hasher = new TreeHasher();
  let sizeBytes = 0;
  for await (const bytes of cutIntoChunks(readOn(context, ref, download, 0), download.entry.sizeBytes)) {
    hasher.addLeaf(await threadPoolDigester.sha256(bytes));
    sizeBytes += bytes.length;
    yield bytes;
  }
  if (sizeBytes !== download.entry.sizeBytes) throw truncated(download.entry);
  checkTreeHash(download.entry, hasher.root());
}

function openDownload({ drive, patience }: DownloadContext, ref: EntryRef): Promise<Download> {
  return patience.read((signal) => drive.openDownload(ref, { signal }));
}

/** The bytes from `offset` on, opened again when reading fails for a passing reason. */
async function* readOn(
  context: DownloadContext,
  ref: EntryRef,
  opened: Download,
  offset: number,
): AsyncGenerator<Uint8Array> {
  const { patience } = context;
  const { entry } = opened;
  let download = opened;
  let at = offset;
  let failureCount = 0;
  while (at < entry.sizeBytes) {
    const attempt = new AbortController();
    const onAbort = (): void => attempt.abort(patience.signal.reason);
    patience.signal.addEventListener("abort", onAbort, { once: true });
    try {
      const pieces = download.read(at, entry.sizeBytes - at, attempt.signal)[Symbol.asyncIterator]();
      for (;;) {
        const next = await patience.bounded(pieces.next(), "NO_LEADER");
        if (next.done === true) break;
        failureCount = 0;
        at += next.value.length;
        yield next.value;
      }
      if (at < entry.sizeBytes) throw truncated(entry);
    } catch (error) {
      patience.signal.throwIfAborted();
      failureCount += 1;
      if (!isPassing(error) || failureCount > READ_FAILURE_COUNT_MAX) throw error;
      await patience.pause(failureCount);
      download = await openDownload(context, ref);
      if (!bytesEqual(download.entry.treeHash, entry.treeHash)) throw changed(entry);
    } finally {
      patience.signal.removeEventListener("abort", onAbort);
      attempt.abort();
    }
  }
}

/** Failures in a row without a byte between them; opening again waits for a node by itself. */
const READ_FAILURE_COUNT_MAX = 5;

function count(share: FileShare, sizeBytes: number): void {
  share.transferredBytes += sizeBytes;
  share.copiedBytes[0] += sizeBytes;
}

function checkTreeHash(entry: Entry, treeHash: Uint8Array): void {
  if (bytesEqual(entry.treeHash, treeHash)) return;
  throw new DriveError("DIGEST_MISMATCH", "The bytes received do not have the tree hash of the file.", {
    expected: toHex(entry.treeHash),
    received: toHex(treeHash),
  });
}

function truncated(entry: Entry): DriveError {
  return new DriveError("PAYLOAD_TRUNCATED", `The file ended before its ${entry.sizeBytes} bytes.`, {
    size_bytes: String(entry.sizeBytes),
  });
}

function changed(entry: Entry): DriveError {
  return new DriveError("VERSION_MISMATCH", "The file was replaced on the drive while it was being read.", {
    entry_id: String(entry.entryId),
  });
}
