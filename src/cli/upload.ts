/**
 * Sends one file, from a path or a pipe, and proves that what the drive has is what was sent.
 *
 * At most one chunk: one request that carries the tree hash, so the cluster checks it. More: an upload whose chunks go in
 * parallel, each with its digest; a node that dies costs the chunks that were on their way to it, which are sent again.
 * When the cluster says at the end that chunks are missing they are read and sent again. In both cases the tree hash in the
 * answer must equal the one computed here. A source that changes meanwhile fails, and nothing of it is kept.
 */
import type { FileHandle } from "node:fs/promises";
import { chunkCount, chunkSizeBytes } from "../drive/content.ts";
import type { ChunkRange, DriveApi, PathEntry, UploadRequest } from "../drive/drive-api.ts";
import { DriveError, hasReason } from "../drive/errors.ts";
import { CHUNK_SIZE_BYTES, CONTENT_SIZE_BYTES_MAX } from "../drive/limits.ts";
import { must } from "../std/assert.ts";
import { bytesEqual, toHex } from "../std/bytes.ts";
import { sha256, threadPoolDigester } from "../std/digest.ts";
import { Semaphore } from "../std/semaphore.ts";
import { TreeHasher } from "../std/tree-hasher.ts";
import { cutIntoChunks } from "./cut-into-chunks.ts";
import type { Patience } from "./patience.ts";
import type { FileShare } from "./transfer-meter.ts";
import type { UploadIdentity, UploadJournal } from "./upload-journal.ts";

/** Chunks of one file on their way at once. */
const CHUNK_COUNT_IN_FLIGHT = 8;

/** Times that missing chunks are sent again before giving up. */
const RESEND_COUNT_MAX = 8;

/** Files of this size and more are remembered between runs. Below it sending again costs less than looking it up. */
export const JOURNAL_SIZE_BYTES_MIN = 16 * CHUNK_SIZE_BYTES;

/** What every upload of a command shares. */
export interface UploadContext {
  readonly drive: DriveApi;
  readonly patience: Patience;
  readonly journal: UploadJournal | undefined;
  /** Chunks of all files in memory at once. */
  readonly chunkSlots: Semaphore;
}

/** A file of this machine, opened. */
export interface LocalFile {
  readonly handle: FileHandle;
  readonly path: string;
  readonly sizeBytes: number;
  readonly modifyTimeMs: number;
}

/** Where a file goes and how. */
export interface UploadTarget {
  readonly path: string;
  readonly onConflict: UploadRequest["onConflict"];
  readonly mode: number | undefined;
  readonly nodes: string;
}

/** Sends `file` to `target`. @throws DriveError; the error of the operating system when the file cannot be read */
export async function uploadFile(
  context: UploadContext,
  file: LocalFile,
  target: UploadTarget,
  share: FileShare,
): Promise<PathEntry> {
  if (file.sizeBytes > CONTENT_SIZE_BYTES_MAX) {
    throw new DriveError("PAYLOAD_TOO_LARGE", `A file has at most ${CONTENT_SIZE_BYTES_MAX} bytes.`, {
      size_bytes: String(file.sizeBytes),
    });
  }
  const attributes = { modifyTimeMs: file.modifyTimeMs, mode: target.mode };
  const request: UploadRequest = {
    path: target.path,
    sizeBytes: file.sizeBytes,
    onConflict: target.onConflict,
    attributes,
    createParents: true,
  };
  if (file.sizeBytes > CHUNK_SIZE_BYTES)
    return new ChunkedUpload(context, request, share).sendFile(file, target);
  const bytes = await readChunk(file, 0);
  await checkUnchanged(file);
  return sendSmall(context, request, bytes, share);
}

/** Sends what comes from a pipe, of unknown length. */
export async function uploadStream(
  context: UploadContext,
  pieces: AsyncIterable<Uint8Array>,
  target: UploadTarget,
  share: FileShare,
): Promise<PathEntry> {
  const chunks = cutIntoChunks(pieces);
  const request: UploadRequest = {
    path: target.path,
    sizeBytes: undefined,
    onConflict: target.onConflict,
    attributes: { mode: target.mode },
    createParents: true,
  };
  const first = await chunks.next();
  const second = first.done === true ? first : await chunks.next();
  if (second.done === true) {
    const bytes = first.done === true ? new Uint8Array(0) : first.value;
    return sendSmall(context, { ...request, sizeBytes: bytes.length }, bytes, share);
  }
  const all = async function* (): AsyncGenerator<Uint8Array> {
    yield must(first.value ?? undefined, "the first chunk");
    yield second.value;
    yield* chunks;
  };
  return new ChunkedUpload(context, request, share).sendStream(all());
}

/** The tree hash of a file of this machine, read once from start to end. */
export async function hashLocalFile(file: LocalFile): Promise<Uint8Array> {
  const hasher = new TreeHasher();
  for (let index = 0; index < chunkCount(file.sizeBytes); index += 1) {
    hasher.addLeaf(await threadPoolDigester.sha256(await readChunk(file, index)));
  }
  return hasher.root();
}

async function sendSmall(
  { drive, patience }: UploadContext,
  request: UploadRequest,
  bytes: Uint8Array,
  share: FileShare,
): Promise<PathEntry> {
  const treeHash = sha256(bytes);
  const requestId = patience.requestId();
  const body = async function* (): AsyncGenerator<Uint8Array> {
    if (bytes.length > 0) yield bytes;
  };
  const answer = await patience.run((signal) =>
    drive.putFile({ ...request, treeHash }, body(), { requestId, signal }),
  );
  checkTreeHash(answer, treeHash);
  share.transferredBytes = bytes.length;
  // Acknowledged means two verified copies at least; whether the third is there yet is not told here.
  share.copiedBytes = [bytes.length, bytes.length, 0];
  return answer;
}

/** An upload in several chunks. One object per file. */
class ChunkedUpload {
  readonly #context: UploadContext;
  readonly #request: UploadRequest;
  readonly #share: FileShare;
  /** What receipts say of the copies, chunk by chunk, and what the cluster says of all: each knows at least what it says. */
  readonly #receipted: [number, number, number] = [0, 0, 0];
  #watched: readonly [number, number, number] = [0, 0, 0];

  constructor(context: UploadContext, request: UploadRequest, share: FileShare) {
    this.#context = context;
    this.#request = request;
    this.#share = share;
  }

  /** Sends a file that can be read again. */
  async sendFile(file: LocalFile, target: UploadTarget): Promise<PathEntry> {
    const { journal } = this.#context;
    const identity: UploadIdentity = {
      sourcePath: file.path,
      targetPath: target.path,
      sizeBytes: file.sizeBytes,
      modifyTimeMs: file.modifyTimeMs,
      nodes: target.nodes,
      onConflict: target.onConflict,
    };
    const remembered = file.sizeBytes >= JOURNAL_SIZE_BYTES_MIN ? journal : undefined;
    const { uploadId, missing } = await this.#begin(file, remembered, identity);
    const watch = this.#watch(uploadId);
    try {
      const treeHash = await this.#sendAndHash(uploadId, file, missing);
      await checkUnchanged(file);
      const answer = await this.#complete(uploadId, {}, (ranges) => this.#sendAgain(uploadId, file, ranges));
      await remembered?.remove(identity);
      checkTreeHash(answer, treeHash);
      return answer;
    } catch (error) {
      if (isFinal(error)) {
        await remembered?.remove(identity);
        await this.#abandon(uploadId);
      }
      throw error;
    } finally {
      watch.abort();
    }
  }

  /** Sends chunks that come once. */
  async sendStream(chunks: AsyncIterable<Uint8Array>): Promise<PathEntry> {
    const { drive, patience } = this.#context;
    const requestId = patience.requestId();
    const ticket = await patience.run((signal) => drive.initUpload(this.#request, { requestId, signal }));
    const hasher = new TreeHasher();
    const lanes = new Lanes(CHUNK_COUNT_IN_FLIGHT);
    let sizeBytes = 0;
    try {
      let index = 0;
      for await (const bytes of chunks) {
        const digest = await threadPoolDigester.sha256(bytes);
        hasher.addLeaf(digest);
        sizeBytes += bytes.length;
        const chunkIndex = index;
        await this.#context.chunkSlots.acquire(1, patience.signal);
        await lanes.start(() => this.#sendHeld(ticket.uploadId, chunkIndex, bytes, digest));
        index += 1;
      }
      await lanes.finish();
      const answer = await this.#complete(ticket.uploadId, { sizeBytes }, undefined);
      checkTreeHash(answer, hasher.root());
      return answer;
    } catch (error) {
      await lanes.settle();
      await this.#abandon(ticket.uploadId);
      throw error;
    }
  }

  /** Continues the upload that the journal remembers, or begins one. `missing` undefined: everything. */
  async #begin(
    file: LocalFile,
    journal: UploadJournal | undefined,
    identity: UploadIdentity,
  ): Promise<{ uploadId: number; missing: readonly ChunkRange[] | undefined }> {
    const { drive, patience } = this.#context;
    const known = await journal?.find(identity);
    if (known !== undefined) {
      try {
        const status = await patience.run((signal) => drive.uploadStatus(known, { signal }));
        if (
          status.state === "open" &&
          status.sizeBytes === file.sizeBytes &&
          status.path === this.#request.path
        ) {
          return { uploadId: known, missing: status.missing };
        }
      } catch (error) {
        const isOver = hasReason(
          error,
          "UPLOAD_NOT_FOUND",
          "UPLOAD_EXPIRED",
          "UPLOAD_FINISHED",
          "DIGEST_MISMATCH",
        );
        if (!isOver) throw error;
      }
      await journal?.remove(identity);
    }
    const requestId = patience.requestId();
    const ticket = await patience.run((signal) => drive.initUpload(this.#request, { requestId, signal }));
    await journal?.put(identity, ticket.uploadId);
    return { uploadId: ticket.uploadId, missing: undefined };
  }

  /** Reads the whole file once, hashing all of it and sending what is missing. Returns its tree hash. */
  async #sendAndHash(
    uploadId: number,
    file: LocalFile,
    missing: readonly ChunkRange[] | undefined,
  ): Promise<Uint8Array> {
    const hasher = new TreeHasher();
    const lanes = new Lanes(CHUNK_COUNT_IN_FLIGHT);
    try {
      for (let index = 0; index < chunkCount(file.sizeBytes); index += 1) {
        await this.#context.chunkSlots.acquire(1, this.#context.patience.signal);
        const { bytes, digest } = await this.#readHeld(file, index);
        hasher.addLeaf(digest);
        const chunkIndex = index;
        if (
          missing === undefined ||
          missing.some(({ first, last }) => first <= chunkIndex && chunkIndex <= last)
        ) {
          await lanes.start(() => this.#sendHeld(uploadId, chunkIndex, bytes, digest));
        } else {
          this.#context.chunkSlots.release(1);
          // Sent by an earlier run; two nodes hold it, or it would be missing.
          this.#count(bytes.length, 2);
          this.#share.presentBytes += bytes.length;
        }
      }
      await lanes.finish();
      return hasher.root();
    } catch (error) {
      await lanes.settle();
      throw error;
    }
  }

  async #sendAgain(uploadId: number, file: LocalFile, ranges: readonly ChunkRange[]): Promise<void> {
    const lanes = new Lanes(CHUNK_COUNT_IN_FLIGHT);
    try {
      for (const { first, last } of ranges) {
        for (let index = first; index <= last; index += 1) {
          await this.#context.chunkSlots.acquire(1, this.#context.patience.signal);
          const { bytes, digest } = await this.#readHeld(file, index);
          const chunkIndex = index;
          await lanes.start(() => this.#sendHeld(uploadId, chunkIndex, bytes, digest, "again"));
        }
      }
      await lanes.finish();
    } catch (error) {
      await lanes.settle();
      throw error;
    }
  }

  /** Reads a chunk into a slot that is held already; gives the slot back when reading fails. */
  async #readHeld(file: LocalFile, index: number): Promise<{ bytes: Uint8Array; digest: Uint8Array }> {
    try {
      const bytes = await readChunk(file, index);
      return { bytes, digest: await threadPoolDigester.sha256(bytes) };
    } catch (error) {
      this.#context.chunkSlots.release(1);
      throw error;
    }
  }

  /** Sends a chunk and gives its slot back. */
  async #sendHeld(
    uploadId: number,
    chunkIndex: number,
    bytes: Uint8Array,
    digest: Uint8Array,
    round: "first" | "again" = "first",
  ): Promise<void> {
    const { drive, patience, chunkSlots } = this.#context;
    try {
      const receipt = await patience.run((signal) =>
        drive.writeChunk(uploadId, chunkIndex, bytes, digest, signal),
      );
      if (!bytesEqual(receipt.digest, digest)) {
        throw new DriveError(
          "DIGEST_MISMATCH",
          `Chunk ${chunkIndex} arrived with another digest than it was sent with.`,
          {
            index: String(chunkIndex),
          },
        );
      }
      if (round === "first") this.#count(bytes.length, receipt.replicaCount);
    } finally {
      chunkSlots.release(1);
    }
  }

  #count(sizeBytes: number, replicaCount: number): void {
    this.#share.transferredBytes += sizeBytes;
    for (const copy of [0, 1, 2] as const) if (copy < replicaCount) this.#receipted[copy] += sizeBytes;
    this.#showCopies();
  }

  #showCopies(): void {
    const most = (copy: 0 | 1 | 2): number => Math.max(this.#receipted[copy], this.#watched[copy]);
    this.#share.copiedBytes = [most(0), most(1), most(2)];
  }

  /** Completes, sending again what the cluster finds missing; `resend` undefined when it cannot be read again. */
  async #complete(
    uploadId: number,
    settings: { sizeBytes?: number },
    resend: ((ranges: readonly ChunkRange[]) => Promise<void>) | undefined,
  ): Promise<PathEntry> {
    const { drive, patience } = this.#context;
    for (let round = 1; ; round += 1) {
      const requestId = patience.requestId();
      try {
        return await patience.run((signal) =>
          drive.completeUpload(uploadId, settings, { requestId, signal }),
        );
      } catch (error) {
        if (!hasReason(error, "UPLOAD_INCOMPLETE") || resend === undefined || round > RESEND_COUNT_MAX)
          throw error;
        const status = await patience.run((signal) => drive.uploadStatus(uploadId, { signal }));
        await resend(status.missing);
        if (status.missing.length === 0) await patience.pause(round);
      }
    }
  }

  /** Takes in what the cluster says about copies that come after the receipts, until the returned controller aborts. */
  #watch(uploadId: number): AbortController {
    const controller = new AbortController();
    const follow = async (): Promise<void> => {
      for await (const { copiedBytes } of this.#context.drive.watchProgress(
        String(uploadId),
        controller.signal,
      )) {
        // Another node may know less than the one that was asked before.
        const most = (copy: 0 | 1 | 2): number => Math.max(this.#watched[copy], copiedBytes[copy]);
        this.#watched = [most(0), most(1), most(2)];
        this.#showCopies();
      }
    };
    // The receipts carry the display alone when the node that was watched is gone; the upload does not depend on it.
    follow().catch(() => undefined);
    return controller;
  }

  /** Tells the cluster that the upload will not be finished. It would expire by itself, so failing to tell is no failure. */
  async #abandon(uploadId: number): Promise<void> {
    const { drive, patience } = this.#context;
    if (patience.signal.aborted) return;
    try {
      await drive.abortUpload(uploadId, { requestId: patience.requestId() });
    } catch (error) {
      if (!(error instanceof DriveError)) throw error;
    }
  }
}

/** Runs pieces of work side by side, a fixed number at a time; the first failure is thrown at the next chance. */
class Lanes {
  readonly #slots: Semaphore;
  readonly #running = new Set<Promise<void>>();
  readonly #failures: unknown[] = [];

  constructor(count: number) {
    this.#slots = new Semaphore(count);
  }

  /** Starts `work` as soon as a lane is free. It always runs, so that what it holds is given back. */
  async start(work: () => Promise<void>): Promise<void> {
    await this.#slots.acquire(1);
    const running: Promise<void> = work()
      .catch((error: unknown) => void this.#failures.push(error))
      .finally(() => {
        this.#slots.release(1);
        this.#running.delete(running);
      });
    this.#running.add(running);
    this.#throwFailure();
  }

  /** Waits for everything. */
  async finish(): Promise<void> {
    await this.settle();
    this.#throwFailure();
  }

  /** Waits for everything, whatever becomes of it. */
  async settle(): Promise<void> {
    await Promise.all(this.#running);
  }

  #throwFailure(): void {
    if (this.#failures.length > 0) throw this.#failures[0];
  }
}

/** Whether going on with this upload later makes no sense. */
function isFinal(error: unknown): boolean {
  return hasReason(
    error,
    "PAYLOAD_TRUNCATED",
    "DIGEST_MISMATCH",
    "PATH_EXISTS",
    "UPLOAD_NOT_FOUND",
    "UPLOAD_EXPIRED",
  );
}

async function readChunk(file: LocalFile, index: number): Promise<Uint8Array> {
  const length = chunkSizeBytes(file.sizeBytes, index);
  const bytes = Buffer.allocUnsafe(length);
  for (let filled = 0; filled < length;) {
    const { bytesRead } = await file.handle.read(
      bytes,
      filled,
      length - filled,
      index * CHUNK_SIZE_BYTES + filled,
    );
    if (bytesRead === 0) throw changedWhileRead();
    filled += bytesRead;
  }
  return bytes;
}

async function checkUnchanged(file: LocalFile): Promise<void> {
  const now = await file.handle.stat();
  if (now.size !== file.sizeBytes || Math.floor(now.mtimeMs) !== file.modifyTimeMs) throw changedWhileRead();
}

function changedWhileRead(): DriveError {
  return new DriveError(
    "PAYLOAD_TRUNCATED",
    "The file changed while it was being read; nothing of it was kept.",
  );
}

function checkTreeHash(answer: PathEntry, treeHash: Uint8Array): void {
  if (bytesEqual(answer.entry.treeHash, treeHash)) return;
  throw new DriveError("DIGEST_MISMATCH", "The drive's tree hash is not that of the bytes sent.", {
    sent: toHex(treeHash),
    stored: toHex(answer.entry.treeHash),
    entry_id: String(answer.entry.entryId),
  });
}
