/**
 * The unfinished download of one file: ".netdisk-<digest>.part" beside its destination, and for large files a journal.
 *
 *   journal := header "\n" digest*          header is JSON {format, entryId, sizeBytes, treeHash}; a digest has 32 bytes
 *
 * Digest i is the SHA-256 of chunk i as it was received, written after the chunk. On resuming, each chunk of the part file
 * is read and hashed again, and what follows the first that differs is fetched anew: a torn write, or a part file changed
 * by someone else, costs time and never correctness. The tree hash over all of it is compared at the end in any case.
 */
import { rename, rm, type FileHandle } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { chunkCount, chunkSizeBytes } from "../drive/content.ts";
import type { Entry } from "../drive/entry.ts";
import { CHUNK_SIZE_BYTES } from "../drive/limits.ts";
import { bytesEqual, toHex, utf8 } from "../std/bytes.ts";
import { DIGEST_SIZE_BYTES, sha256, threadPoolDigester } from "../std/digest.ts";
import { openNoFollow, writeAll } from "./local-folder.ts";

/** Files of this size and more can be resumed. Below it fetching again costs less than the journal. */
export const RESUMABLE_SIZE_BYTES_MIN = 16 * CHUNK_SIZE_BYTES;

const FORMAT = 1;
const HEADER_SIZE_BYTES_MAX = 1024;

/** A file on its way into place. */
export class PartialFile {
  readonly handle: FileHandle;
  readonly path: string;
  /** Digests of the chunks that are here and were verified again, in order. */
  readonly verifiedDigests: readonly Uint8Array[];
  readonly #journal: FileHandle | undefined;
  readonly #journalPath: string;
  #journalSizeBytes: number;

  private constructor(
    handle: FileHandle,
    paths: { part: string; journal: string },
    journal: FileHandle | undefined,
    resumed: { digests: readonly Uint8Array[]; journalSizeBytes: number },
  ) {
    this.handle = handle;
    this.path = paths.part;
    this.verifiedDigests = resumed.digests;
    this.#journal = journal;
    this.#journalPath = paths.journal;
    this.#journalSizeBytes = resumed.journalSizeBytes;
  }

  /** Opens the part file for the version `entry` of a file that will be at `targetPath`, keeping what is good of an earlier try. */
  static async open(targetPath: string, entry: Entry): Promise<PartialFile> {
    const stem = join(
      dirname(targetPath),
      `.netdisk-${toHex(sha256(utf8(basename(targetPath)))).slice(0, 24)}`,
    );
    const paths = { part: `${stem}.part`, journal: `${stem}.journal` };
    const handle = await openNoFollow(paths.part);
    try {
      if (entry.sizeBytes < RESUMABLE_SIZE_BYTES_MIN) {
        await handle.truncate(0);
        return new PartialFile(handle, paths, undefined, { digests: [], journalSizeBytes: 0 });
      }
      const journal = await openNoFollow(paths.journal);
      try {
        const resumed = await resume(handle, journal, entry);
        return new PartialFile(handle, paths, journal, resumed);
      } catch (error) {
        await journal.close();
        throw error;
      }
    } catch (error) {
      await handle.close();
      throw error;
    }
  }

  /** Writes chunk `index` and then notes its digest. */
  async writeChunk(index: number, bytes: Uint8Array, digest: Uint8Array): Promise<void> {
    await writeAll(this.handle, bytes, index * CHUNK_SIZE_BYTES);
    if (this.#journal === undefined) return;
    await writeAll(this.#journal, digest, this.#journalSizeBytes);
    this.#journalSizeBytes += DIGEST_SIZE_BYTES;
  }

  /** Moves the complete file to `targetPath`, over whatever file is there, and removes the journal. */
  async finish(targetPath: string): Promise<void> {
    await this.#close();
    await rename(this.path, targetPath);
    await rm(this.#journalPath, { force: true });
  }

  /** Leaves it for the next try when it can be resumed; otherwise as discard(). */
  async keep(): Promise<void> {
    if (this.#journal === undefined) await this.discard();
    else await this.#close();
  }

  /** Removes everything. */
  async discard(): Promise<void> {
    await this.#close();
    await rm(this.path, { force: true });
    await rm(this.#journalPath, { force: true });
  }

  async #close(): Promise<void> {
    await this.handle.close();
    await this.#journal?.close();
  }
}

/** Reads the journal and checks the part file against it; begins a new journal when it is of another version. */
async function resume(
  part: FileHandle,
  journal: FileHandle,
  entry: Entry,
): Promise<{ digests: readonly Uint8Array[]; journalSizeBytes: number }> {
  const header = Buffer.from(
    `${JSON.stringify({
      format: FORMAT,
      entryId: entry.entryId,
      sizeBytes: entry.sizeBytes,
      treeHash: toHex(entry.treeHash),
    })}\n`,
  );
  const { size } = await journal.stat();
  const sizeMax = HEADER_SIZE_BYTES_MAX + chunkCount(entry.sizeBytes) * DIGEST_SIZE_BYTES;
  const text = await readAt(journal, 0, Math.min(size, sizeMax));
  if (text.length < header.length || !bytesEqual(text.subarray(0, header.length), header)) {
    await journal.truncate(0);
    await writeAll(journal, header, 0);
    await part.truncate(0);
    return { digests: [], journalSizeBytes: header.length };
  }
  const noted = Math.min(
    Math.floor((text.length - header.length) / DIGEST_SIZE_BYTES),
    chunkCount(entry.sizeBytes),
  );
  const digests: Uint8Array[] = [];
  for (let index = 0; index < noted; index += 1) {
    const at = header.length + index * DIGEST_SIZE_BYTES;
    const digest = text.subarray(at, at + DIGEST_SIZE_BYTES);
    const bytes = await readAt(part, index * CHUNK_SIZE_BYTES, chunkSizeBytes(entry.sizeBytes, index));
    if (!bytesEqual(await threadPoolDigester.sha256(bytes), digest)) break;
    digests.push(digest);
  }
  const journalSizeBytes = header.length + digests.length * DIGEST_SIZE_BYTES;
  await journal.truncate(journalSizeBytes);
  return { digests, journalSizeBytes };
}

async function readAt(handle: FileHandle, offset: number, length: number): Promise<Uint8Array> {
  const bytes = Buffer.allocUnsafe(length);
  let filled = 0;
  while (filled < length) {
    const { bytesRead } = await handle.read(bytes, filled, length - filled, offset + filled);
    if (bytesRead === 0) break;
    filled += bytesRead;
  }
  return bytes.subarray(0, filled);
}
