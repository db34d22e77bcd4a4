/**
 * The attempts of one-shot uploads: how each begins, wherever its bytes come in.
 *
 * FilePutter uses it for streams that come to this node, LocalDrive for those that come to nodes without the tree and reach this
 * one chunk by chunk. Each attempt has an upload of its own. What makes the file is its completion under the id of the one-shot
 * upload (UploadManager.complete() with `put`): the first wins, and the others get its answer when their bytes are the same.
 */
import type { PathEntry, UploadRequest, UploadTicket, WriteOptions } from "../drive/drive-api.ts";
import type { Entry } from "../drive/entry.ts";
import { DriveError } from "../drive/errors.ts";
import { CHUNK_SIZE_BYTES } from "../drive/limits.ts";
import { checkRequestId } from "../metadata/requests.ts";
import { bytesEqual } from "../std/bytes.ts";
import type { DataPlane } from "./data-plane.ts";
import { putIntent, type StoreRequest } from "./locators.ts";
import { commitIds, type UploadManager } from "./upload-manager.ts";
import { findAnsweredFile } from "./upload-record.ts";

/** A one-shot upload, as asked for and as far as it was read. */
export interface PutAsked {
  readonly request: StoreRequest;
  readonly options: WriteOptions & {
    /** The id of the one-shot upload. */
    readonly requestId: string;
  };
  /** The bytes that were read so far. */
  readonly sizeBytesMin: number;
}

/** Begins attempts. */
export class PutAttempts {
  readonly #plane: DataPlane;
  readonly #uploads: UploadManager;

  constructor(plane: DataPlane, uploads: UploadManager) {
    this.#plane = plane;
    this.#uploads = uploads;
  }

  /**
   * The file that an attempt of the same one-shot upload made; undefined when none has. A repeat may come to a node where another
   * path is open, and would stumble over its own first success. Whether the bytes are the file's shows only when all were read:
   * answerRepeat() compares them.
   * @throws DriveError REQUEST_ID_REUSED when the id stands for another change; NO_LEADER, CANCELED
   */
  async findAnswered({ request, options, sizeBytesMin }: PutAsked): Promise<PathEntry | undefined> {
    const { port } = this.#plane.metadata;
    await port.linearize({ signal: options.signal });
    for (const commitId of commitIds(options.requestId)) {
      const answered = findAnsweredFile(port.reader(), commitId, (entry) => {
        if (!isAsStated(request, entry) || entry.sizeBytes < sizeBytesMin) return undefined;
        const { sizeBytes, treeHash } = entry;
        const content = { memberId: 0, contentId: 0, sizeBytes, treeHash, seals: [] };
        const precondition = options.precondition ?? {};
        // A type that was not stated was found for the first attempt, and is the file's.
        const mediaType =
          request.attributes.mediaType ?? (entry.mediaType === "" ? undefined : entry.mediaType);
        const typed = { ...request, attributes: { ...request.attributes, mediaType } };
        return { kind: "put-small", ...putIntent(typed), precondition, ...content };
      });
      if (answered !== undefined) return answered;
    }
    return undefined;
  }

  /**
   * Begins the upload of one attempt; or returns the file, as findAnswered() does, when the name is taken by what another attempt
   * made meanwhile.
   * @param asked what findAnswered() found no file for
   * @param initId the request id of beginning, of this attempt alone
   * @throws DriveError as UploadManager.init(), findAnswered()
   */
  async begin(asked: PutAsked, initId: string): Promise<UploadTicket | PathEntry> {
    const { request, options } = asked;
    // Not told the tree hash, the tree takes no shortcut to equal bytes: those that come here are the ones that count.
    const toStore = { ...request, treeHash: undefined };
    try {
      return await this.#uploads.init(toStore, { precondition: options.precondition, requestId: initId });
    } catch (error) {
      const isDefinite = error instanceof DriveError && error.spec.outcome === "definite";
      const answered = isDefinite ? await this.findAnswered(asked) : undefined;
      if (answered === undefined) throw error;
      return answered;
    }
  }

  /**
   * Begins the upload of an attempt whose bytes come in at another node, which compares them when the ticket names a file. Errors: as DriveApi.initUpload(); ARGUMENT_INVALID when the
   * one-shot upload's id is none.
   */
  async init(request: UploadRequest, options: WriteOptions = {}): Promise<UploadTicket> {
    const { attemptOf } = request;
    if (attemptOf === undefined) return this.#uploads.init(request, options);
    checkRequestId(attemptOf.requestId);
    const initId = options.requestId ?? this.#plane.metadata.newRequestId();
    const asked = {
      request,
      options: { ...options, requestId: attemptOf.requestId },
      sizeBytesMin: attemptOf.sizeBytesMin,
    };
    const begun = (await this.findAnswered(asked)) ?? (await this.begin(asked, initId));
    return "uploadId" in begun ? begun : madeTicket(begun, this.#plane.clock.wallMs());
  }
}

function isAsStated(request: StoreRequest, entry: Entry): boolean {
  if (request.sizeBytes !== undefined && request.sizeBytes !== entry.sizeBytes) return false;
  return request.treeHash === undefined || bytesEqual(request.treeHash, entry.treeHash);
}

/** The ticket that names a file instead of an upload. */
function madeTicket(made: PathEntry, nowMs: number): UploadTicket {
  const { entry } = made;
  return {
    uploadId: entry.entryId,
    chunkSizeBytes: CHUNK_SIZE_BYTES,
    chunkCount: undefined,
    targets: [],
    instant: true,
    entry,
    expireTimeMs: nowMs,
    made,
  };
}
