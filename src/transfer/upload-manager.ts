/**
 * Uploads by chunks: begin, take chunks in any order and at any node, complete, tell what is missing, abort.
 *
 * The state of an upload is its record in the tree plus what its targets hold; what is kept in memory here only makes things
 * faster. So when the node that took the first chunks dies, any other goes on. Completing is idempotent: a finished upload
 * answers its file.
 */
import { chunkCount, type Seal } from "../drive/content.ts";
import type {
  ChunkReceipt,
  PathEntry,
  ReadOptions,
  UploadStatus,
  UploadTicket,
  WriteOptions,
} from "../drive/drive-api.ts";
import type { EntryAttributes, OnConflict } from "../drive/entry.ts";
import { DriveError, hasReason } from "../drive/errors.ts";
import { CHUNK_SIZE_BYTES } from "../drive/limits.ts";
import { formatPath } from "../drive/path.ts";
import type { ExtentTargets, ResultValue } from "../metadata/commands.ts";
import { clusterTime, hasEntry, uploadPath } from "../metadata/view.ts";
import { copiesDiffer } from "../replication/sealer.ts";
import { must } from "../std/assert.ts";
import { bytesEqual, toHex, utf8 } from "../std/bytes.ts";
import { sleep } from "../std/clock.ts";
import { foldTreeHash, sha256 } from "../std/digest.ts";
import { ActiveUpload, type SealedContent } from "./active-upload.ts";
import { agreedSize, checkChunk, checkSize, checkTreeHash, EMPTY_TREE_HASH } from "./content-checks.ts";
import type { DataPlane } from "./data-plane.ts";
import { findUpload, getOpenUpload, getUpload } from "./upload-record.ts";
import { locatorOfRequest, putIntent, type StoreRequest } from "./locators.ts";
import { withMediaType } from "./media-type.ts";
import { withLivingTargets } from "./stale-targets.ts";
import { statusOf, survey } from "./upload-survey.ts";

/** Uploads kept in memory at once; beyond, the one idle for longest is forgotten, which costs its next chunk a look-up. */
export const ACTIVE_UPLOAD_COUNT_MAX = 1000;
/** How often an upload is sealed after the tree rejected its seals (a store was replaced between seal and commit). */
export const COMMIT_ATTEMPT_COUNT_MAX = 6;
/**
 * Pause before the third attempt, doubled before each further one, 3.75 s in all: a node takes chunks a moment before the tree knows
 * its new store.
 */
export const COMMIT_RETRY_WAIT_MS = 250;
/** A request id made from another for one step of the same request, so that a repeated request repeats its steps. */
function derivedRequestId(requestId: string, step: string): string {
  return toHex(sha256(utf8(`${requestId}\n${step}`)));
}

/**
 * The ids under which completing is tried, in order: the request's own, then one for each time that the seals were rejected,
 * since a rejection is remembered under its id. A repeat takes the same ids, so it meets the first answer.
 */
export function commitIds(requestId: string): readonly string[] {
  const further = (at: number): string => derivedRequestId(requestId, `commit ${at + 1}`);
  return Array.from({ length: COMMIT_ATTEMPT_COUNT_MAX }, (_, at) => (at === 0 ? requestId : further(at)));
}

/** Bytes of a content that at least one, two and three of the seals stand for. */
function copiesOf(seals: readonly Seal[], sizeBytes: number): readonly [number, number, number] {
  const copied: [number, number, number] = [0, 0, 0];
  const counts = new Map<number, number>();
  for (const seal of seals) {
    const count = counts.get(seal.extent.extentIndex) ?? 0;
    if (count < 3) copied[count as 0 | 1 | 2] += seal.sizeBytes;
    counts.set(seal.extent.extentIndex, count + 1);
  }
  return [Math.max(copied[0], sizeBytes), copied[1], copied[2]];
}

/** How to complete. */
export interface CompleteSettings {
  readonly sizeBytes?: number | undefined;
  /** Plain SHA-256 when it is known. */
  readonly sha256?: Uint8Array | undefined;
  /** What to do when the name is taken, instead of what the start of the upload said. */
  readonly onConflict?: OnConflict | undefined;
  /** What a one-shot upload was asked to do, when this upload is an attempt of it. */
  readonly put?: StoreRequest | undefined;
}

interface Cached {
  readonly upload: ActiveUpload;
  users: number;
}

/** Uploads at this node. */
export class UploadManager {
  readonly #plane: DataPlane;
  readonly #cached = new Map<number, Cached>();

  constructor(plane: DataPlane) {
    this.#plane = plane;
  }

  /** Gives up everything under way; the uploads stay open in the tree. */
  stop(): void {
    for (const { upload } of this.#cached.values()) upload.stop();
    this.#cached.clear();
  }

  /** Begins an upload. Errors: as DriveApi.initUpload(). */
  async init(request: StoreRequest, options: WriteOptions = {}): Promise<UploadTicket> {
    const { metadata, placement } = this.#plane;
    checkSize(request.sizeBytes);
    const { attributes } = withMediaType(request, metadata.port.reader());
    return withLivingTargets(this.#plane, options.signal, async (attempt) => {
      const extents = placement.chooseExtents(request.sizeBytes);
      // The refusal of targets is remembered under its request id, so the next choice is a request of its own.
      const again = attempt > 1 && options.requestId !== undefined;
      const requestId = again ? derivedRequestId(options.requestId, `targets ${attempt}`) : options.requestId;
      const value = await metadata.apply(
        {
          kind: "init-upload",
          at: locatorOfRequest(request),
          createParents: request.createParents,
          sizeBytes: request.sizeBytes,
          treeHash: request.treeHash ?? new Uint8Array(0),
          onConflict: request.onConflict,
          attributes,
          precondition: options.precondition ?? {},
          extents,
        },
        "upload",
        { ...options, requestId },
      );
      return this.#ticket(request, value, extents);
    });
  }

  /** Takes one chunk. Errors: as DriveApi.writeChunk(). */
  async writeChunk(
    uploadId: number,
    chunkIndex: number,
    bytes: Uint8Array,
    digest: Uint8Array | undefined,
    signal?: AbortSignal,
  ): Promise<ChunkReceipt> {
    this.#plane.budget.checkLine();
    const keep = (upload: ActiveUpload, leaf: Uint8Array): void => upload.plain.take(chunkIndex, bytes, leaf);
    return this.#writeChunk(uploadId, chunkIndex, bytes, { digest, keep }, signal);
  }

  /** Takes one chunk of a stream that this node feeds: it waits its turn where a newcomer would be refused. */
  writeStreamChunk(
    uploadId: number,
    chunkIndex: number,
    bytes: Uint8Array,
    signal?: AbortSignal,
  ): Promise<ChunkReceipt> {
    return this.#writeChunk(uploadId, chunkIndex, bytes, {}, signal);
  }

  async #writeChunk(
    uploadId: number,
    chunkIndex: number,
    bytes: Uint8Array,
    {
      digest,
      keep,
    }: {
      readonly digest?: Uint8Array | undefined;
      readonly keep?: (upload: ActiveUpload, leaf: Uint8Array) => void;
    },
    signal: AbortSignal | undefined,
  ): Promise<ChunkReceipt> {
    return this.#withUpload(uploadId, async (upload) => {
      checkChunk(upload.record.sizeBytes, chunkIndex, bytes.length);
      const actual = await this.#plane.digester.sha256(bytes);
      if (digest !== undefined && !bytesEqual(digest, actual)) {
        throw new DriveError("DIGEST_MISMATCH", `Chunk ${chunkIndex} has another SHA-256 than stated.`, {
          chunk_index: String(chunkIndex),
          stated: toHex(digest),
          actual: toHex(actual),
        });
      }
      this.#plane.hashed.remember(bytes, actual);
      keep?.(upload, actual);
      const replicaCount = await upload
        .writeChunk(chunkIndex, bytes, actual, signal)
        .catch((error: unknown) => this.#rethrow(uploadId, error, signal));
      return { chunkIndex, digest: actual, replicaCount };
    });
  }

  /** Throws `error` of a chunk, or that the upload is gone: stores keep what they sealed of a discarded one for a while. */
  async #rethrow(uploadId: number, error: unknown, signal: AbortSignal | undefined): Promise<never> {
    if (hasReason(error, "UPLOAD_FINISHED")) {
      const { port } = this.#plane.metadata;
      await port.linearize({ signal });
      getUpload(port.reader(), uploadId);
    }
    throw error;
  }

  /** Seals and commits. Errors: as DriveApi.completeUpload(). */
  async complete(
    uploadId: number,
    settings: CompleteSettings,
    options: WriteOptions = {},
  ): Promise<PathEntry> {
    const finished = await this.#finished(uploadId, options.signal);
    if (finished !== undefined) return finished;
    const requestId = options.requestId ?? this.#plane.metadata.newRequestId();
    return this.#withUpload(uploadId, async (upload) => {
      upload.checkFolder();
      const sizeBytes = agreedSize(upload.record.sizeBytes, settings.sizeBytes);
      upload.progress.sizeBytes = sizeBytes;
      try {
        const done = await this.#commit(upload, { ...settings, sizeBytes }, { ...options, requestId });
        this.#forget(uploadId);
        // Another attempt may have made the file.
        if (settings.put !== undefined && done.entry.contentId !== upload.record.contentId) {
          this.#plane.chores.run(() => this.abort(uploadId));
        }
        return done;
      } catch (error) {
        upload.progress.enter("receiving");
        // What the tree says of it names an id that nobody knows.
        if (hasReason(error, "PATH_NOT_FOUND")) upload.checkFolder();
        const isHopeless = settings.put === undefined && hasReason(error, "DIGEST_MISMATCH");
        throw isHopeless ? await this.#discarded(uploadId, error) : error;
      }
    });
  }

  /** The file of an upload that is complete as far as this node has seen. Errors: UPLOAD_NOT_FOUND, UPLOAD_EXPIRED. */
  findFinished(uploadId: number): PathEntry | undefined {
    const upload = getUpload(this.#plane.metadata.port.reader(), uploadId);
    return upload.entry === undefined ? undefined : { entry: upload.entry, path: formatPath(upload.path) };
  }

  /** What is missing. Errors: UPLOAD_NOT_FOUND, UPLOAD_EXPIRED, DIGEST_MISMATCH when its copies differ. */
  async status(uploadId: number, options: ReadOptions = {}): Promise<UploadStatus> {
    const { metadata } = this.#plane;
    if (options.consistency !== "stale") await metadata.port.linearize({ signal: options.signal });
    const upload = getUpload(metadata.port.reader(), uploadId);
    const reader = metadata.port.reader();
    // Below the system's root there are folders and no paths.
    const path =
      uploadPath(reader, upload) ?? (hasEntry(reader, upload.parentId) ? [upload.name] : undefined);
    if (upload.state === "complete") return this.#shown(statusOf(upload, path, []));
    const { ports, placement } = this.#plane;
    const { held, differing } = await survey(ports, upload.contentId, upload.extents, placement.quorum());
    if (differing !== undefined) throw copiesDiffer(differing);
    return this.#shown(statusOf(upload, path, held));
  }

  /** Aborts. An unknown upload is UPLOAD_NOT_FOUND, a finished one UPLOAD_FINISHED. */
  async abort(uploadId: number, options: WriteOptions = {}): Promise<void> {
    await this.#plane.metadata.apply({ kind: "abort-upload", uploadId }, "none", options);
    this.#plane.progress.find(String(uploadId))?.fail("CANCELED");
    this.#forget(uploadId);
  }

  /**
   * Aborts an upload that can never be completed: seals are final, and its sealed bytes are not those stated, or differ from copy to
   * copy. Left open it would look as if nothing but completing it were missing. Returns what to tell.
   */
  async #discarded(uploadId: number, error: DriveError): Promise<DriveError> {
    const told = (what: string): DriveError =>
      new DriveError(
        "DIGEST_MISMATCH",
        `${error.message} ${what} Begin a new upload.`,
        error.metadata,
        error,
      );
    // Whoever watches is told why, not that somebody aborted it.
    this.#plane.progress.find(String(uploadId))?.fail(error.reason);
    try {
      await this.abort(uploadId);
      return told("The upload was discarded.");
    } catch (failure) {
      if (!(failure instanceof DriveError)) throw failure;
      // Completing it again, or its expiry, discards it later.
      return told("The upload cannot be completed.");
    }
  }

  /** Runs `work` with the upload as this node has it; its record is looked up, linearizably, when it is not in memory. */
  async #withUpload<T>(uploadId: number, work: (upload: ActiveUpload) => Promise<T>): Promise<T> {
    const cached = this.#cached.get(uploadId) ?? (await this.#load(uploadId));
    cached.users += 1;
    // Moves it to the young end.
    this.#cached.delete(uploadId);
    this.#cached.set(uploadId, cached);
    try {
      return await work(cached.upload);
    } catch (error) {
      if (hasReason(error, "UPLOAD_NOT_FOUND", "UPLOAD_EXPIRED")) this.#forget(uploadId);
      throw error;
    } finally {
      cached.users -= 1;
    }
  }

  async #load(uploadId: number): Promise<Cached> {
    const { port } = this.#plane.metadata;
    if (findUpload(port.reader(), uploadId)?.state !== "open") await port.linearize();
    const record = getOpenUpload(port.reader(), uploadId);
    const raced = this.#cached.get(uploadId);
    if (raced !== undefined) return raced;
    const cached: Cached = { upload: new ActiveUpload(this.#plane, record), users: 0 };
    this.#evict();
    this.#cached.set(uploadId, cached);
    return cached;
  }

  #evict(): void {
    if (this.#cached.size < ACTIVE_UPLOAD_COUNT_MAX) return;
    for (const [uploadId, { users }] of this.#cached) {
      if (users > 0) continue;
      this.#forget(uploadId);
      return;
    }
    throw new DriveError("OVERLOADED", `${ACTIVE_UPLOAD_COUNT_MAX} uploads are in work at this node.`, {
      upload_count_max: String(ACTIVE_UPLOAD_COUNT_MAX),
    });
  }

  #forget(uploadId: number): void {
    this.#cached.get(uploadId)?.upload.stop();
    this.#cached.delete(uploadId);
  }

  /** The file of an upload that is complete already. */
  async #finished(uploadId: number, signal: AbortSignal | undefined): Promise<PathEntry | undefined> {
    await this.#plane.metadata.port.linearize({ signal });
    return this.findFinished(uploadId);
  }

  async #commit(
    upload: ActiveUpload,
    settings: CompleteSettings & { readonly sizeBytes: number },
    options: WriteOptions & { readonly requestId: string },
  ): Promise<PathEntry> {
    const ids = commitIds(options.requestId);
    for (let attempt = 1; ; attempt += 1) {
      upload.progress.enter("sealing");
      const sealed = await upload.sealAll(settings.sizeBytes, options.signal);
      const treeHash = sealed.roots.length === 0 ? EMPTY_TREE_HASH : foldTreeHash(sealed.roots);
      checkTreeHash(upload.record.treeHash, treeHash);
      checkTreeHash(settings.put?.treeHash, treeHash);
      const sha256 = settings.sha256 ?? upload.plain.digestOf(treeHash, chunkCount(settings.sizeBytes));
      upload.progress.enter("committing");
      try {
        const requestId = must(ids[attempt - 1], "one id for each attempt");
        const done = await this.#propose(
          upload,
          { ...settings, sha256, sealed, treeHash },
          { ...options, requestId },
        );
        const { reports } = this.#plane;
        for (const late of sealed.late) reports.addLate(late);
        reports.checkRecorded(sealed.seals);
        upload.progress.finish(settings.sizeBytes, copiesOf(sealed.seals, settings.sizeBytes));
        return done;
      } catch (error) {
        if (!hasReason(error, "SEAL_REJECTED") || attempt >= COMMIT_ATTEMPT_COUNT_MAX) throw error;
        upload.forgetSeals();
      }
      // The first repeat comes at once: what was sealed before a store was replaced is sealed by the new one.
      if (attempt >= 2) {
        await sleep(this.#plane.clock, COMMIT_RETRY_WAIT_MS * 2 ** (attempt - 2), options.signal);
      }
    }
  }

  async #propose(
    upload: ActiveUpload,
    content: CompleteSettings & {
      readonly sizeBytes: number;
      readonly sealed: SealedContent;
      readonly treeHash: Uint8Array;
    },
    options: WriteOptions,
  ): Promise<PathEntry> {
    const { entry, path } = await this.#plane.metadata.applyEntry(
      {
        kind: "complete-upload",
        uploadId: upload.uploadId,
        sizeBytes: content.sizeBytes,
        treeHash: content.treeHash,
        sha256: content.sha256 ?? new Uint8Array(0),
        seals: content.sealed.seals,
        precondition: options.precondition ?? {},
        onConflict: content.onConflict,
        put: content.put && putIntent(typedLike(content.put, upload.record.attributes)),
      },
      options,
    );
    return { entry, path: formatPath(path) };
  }

  /** The status with its expiry as wall time. */
  #shown(status: UploadStatus): UploadStatus {
    return { ...status, expireTimeMs: this.#wallTimeOf(status.expireTimeMs) };
  }

  /** About when, by this node's wall clock, cluster time will be `clusterTimeMs`: for display only. */
  #wallTimeOf(clusterTimeMs: number): number {
    const { clock, metadata } = this.#plane;
    return clock.wallMs() + clusterTimeMs - clusterTime(metadata.port.reader());
  }

  #ticket(
    request: StoreRequest,
    value: Extract<ResultValue, { kind: "upload" }>,
    extents: readonly ExtentTargets[],
  ): UploadTicket {
    const { directory } = this.#plane;
    const memberIds = value.entry === undefined ? (extents[0]?.memberIds ?? []) : [];
    return {
      uploadId: value.uploadId,
      chunkSizeBytes: CHUNK_SIZE_BYTES,
      chunkCount: request.sizeBytes === undefined ? undefined : chunkCount(request.sizeBytes),
      targets: memberIds.map((memberId) => ({
        nodeId: directory.nodeIdOf(memberId),
        address: directory.addressOf(memberId) ?? "",
      })),
      instant: value.entry !== undefined,
      entry: value.entry,
      expireTimeMs: this.#wallTimeOf(value.expireTimeMs),
    };
  }
}

/** The request with the media type that its upload was given when it began: another node may find another now. */
function typedLike(request: StoreRequest, { mediaType }: EntryAttributes): StoreRequest {
  return { ...request, attributes: { ...request.attributes, mediaType } };
}
