/**
 * The drive over gRPC, for clients outside the cluster: DriveApi against a list of nodes with fail-over.
 *
 * Every change gets a request id when the caller gave none, so that it can be repeated at another node without happening twice.
 * Uploads go on at another node after a break, and so do downloads (remote-upload.ts, remote-download.ts). Timers of the clock
 * do not keep a process alive: a program that waits here must do that itself.
 */
import { create } from "@bufbuild/protobuf";
import { PutFileRequestSchema } from "../../gen/netdisk/v1/chunk_service_pb.ts";
import type { CatalogApi } from "../drive/catalog.ts";
import type { TaskApi } from "../drive/task.ts";
import type { Change } from "../drive/change.ts";
import type {
  ChunkReceipt,
  ClusterStatus,
  CompleteOptions,
  Download,
  DriveApi,
  Durability,
  EntryPage,
  EntryRef,
  OpenUploadPage,
  PathEntry,
  Progress,
  Readiness,
  ReadOptions,
  UploadRequest,
  UploadStatus,
  UploadTicket,
  WriteOptions,
} from "../drive/drive-api.ts";
import type { EntryAttributes, OnConflict } from "../drive/entry.ts";
import type { PreparedDownloadApi } from "../drive/prepared-download.ts";
import { DriveError } from "../drive/errors.ts";
import { CHUNK_SIZE_BYTES } from "../drive/limits.ts";
import { bytesEqual, toHex } from "../std/bytes.ts";
import type { Clock } from "../std/clock.ts";
import { threadPoolDigester } from "../std/digest.ts";
import type { Prng } from "../std/prng.ts";
import { Semaphore } from "../std/semaphore.ts";
import { answerRepeat } from "../transfer/put-repeat.ts";
import { ChannelPool } from "./channel-pool.ts";
import {
  decodeChange,
  decodeEntry,
  decodePathEntry,
  encodeAttributes,
  encodeConsistency,
  encodeOnConflict,
  encodePrecondition,
  encodeRef,
  toBigint,
  toOptionalBigint,
  toOptionalNumber,
} from "../contract/codec.ts";
import { decodeProgress } from "../contract/progress-codec.ts";
import { Failover, judge } from "./failover.ts";
import { UPLOAD_CHUNKS_INFLIGHT_MAX } from "./limits.ts";
import { RemoteCatalog } from "./remote-catalog.ts";
import { RemoteTasks } from "./remote-tasks.ts";
import { RemotePreparedDownloads } from "./remote-prepared-downloads.ts";
import { openRemoteDownload } from "./remote-download.ts";
import { abortable, RemoteUploads } from "./remote-upload.ts";
import {
  decodeClusterStatus,
  decodeTicket,
  decodeOpenUpload,
  decodeUploadStatus,
  encodeUploadRequest,
} from "./transfer-codec.ts";

/** Calls that wait for disks of several nodes get more time than others. */
const COMPLETE_TIMEOUT_MS = 60_000;

/** Bytes of a request id made here, before hexadecimal. */
const REQUEST_ID_RANDOM_SIZE_BYTES = 16;

/** Settings of RemoteDriveApi. */
export interface RemoteDriveOptions {
  /** host:port of the nodes' gRPC servers, at least one; asked in this order. */
  readonly addresses: readonly string[];
  readonly clock: Clock;
  readonly prng: Prng;
  /** How long one operation is tried over all nodes, in milliseconds; FAILOVER_TIMEOUT_MS when absent. */
  readonly timeoutMs?: number | undefined;
}

/** The drive of a cluster elsewhere. */
export class RemoteDriveApi implements DriveApi {
  readonly #pool: ChannelPool;
  readonly #prng: Prng;
  readonly #failover: Failover;
  readonly #uploads: RemoteUploads;
  /** Search and reports, answered by whichever node can. */
  readonly catalog: CatalogApi;
  /** Work in the background. */
  readonly tasks: TaskApi;

  readonly preparedDownloads: PreparedDownloadApi;
  #problem: string | undefined;

  constructor(options: RemoteDriveOptions) {
    const { addresses, clock, prng, timeoutMs } = options;
    this.#prng = prng;
    this.#pool = new ChannelPool({ clock });
    this.#failover = new Failover({ addresses, clock, prng, pool: this.#pool, timeoutMs });
    this.#uploads = new RemoteUploads(this.#failover);
    this.catalog = new RemoteCatalog(this.#failover);
    this.tasks = new RemoteTasks(this.#failover);
    this.preparedDownloads = new RemotePreparedDownloads(this.#failover, () => this.#newRequestId());
  }

  /** From now on these nodes are asked. */
  setAddresses(addresses: readonly string[]): void {
    this.#failover.setAddresses(addresses);
  }

  /** Closes all connections. Idempotent. */
  close(): void {
    this.#uploads.close();
    this.#pool.close();
  }

  stat(ref: EntryRef, options: ReadOptions = {}): Promise<PathEntry> {
    return this.#read(options, async ({ metadata }, call) => {
      const answer = await metadata.stat({ ref: encodeRef(ref), ...call.read }, call.options);
      return decodePathEntry(answer.pathEntry);
    });
  }

  durability(ref: EntryRef, options: ReadOptions = {}): Promise<Durability> {
    return this.#read(options, async ({ metadata }, call) => {
      const { verifiedCount, nodeIds, oldestCheckAgeMs } = await metadata.getDurability(
        { ref: encodeRef(ref), ...call.read },
        call.options,
      );
      const ageMs = toOptionalNumber(oldestCheckAgeMs, "oldest_check_age_ms");
      return { verifiedCount, nodeIds, oldestCheckAgeMs: ageMs };
    });
  }

  list(
    ref: EntryRef,
    page: { cursor?: string | undefined; countMax: number },
    options: ReadOptions = {},
  ): Promise<EntryPage> {
    return this.#read(options, async ({ metadata }, call) => {
      const request = { ref: encodeRef(ref), pageSize: page.countMax, pageToken: page.cursor ?? "" };
      const answer = await metadata.list({ ...request, ...call.read }, call.options);
      return {
        entries: answer.entries.map(decodeEntry),
        path: answer.path,
        nextCursor: answer.nextPageToken === "" ? undefined : answer.nextPageToken,
      };
    });
  }

  createDirectory(
    path: string,
    settings: { createParents: boolean; existOk: boolean; attributes: EntryAttributes },
    options: WriteOptions = {},
  ): Promise<PathEntry> {
    const { createParents, existOk } = settings;
    const attributes = encodeAttributes(settings.attributes);
    return this.#write(options, async ({ metadata }, call) => {
      const request = { path, createParents, existOk, attributes, ...call.write };
      return decodePathEntry((await metadata.createDirectory(request, call.options)).pathEntry);
    });
  }

  move(ref: EntryRef, to: string, onConflict: OnConflict, options: WriteOptions = {}): Promise<PathEntry> {
    const fields = { ref: encodeRef(ref), toPath: to, onConflict: encodeOnConflict(onConflict) };
    return this.#write(options, async ({ metadata }, call) => {
      const answer = await metadata.move({ ...fields, ...call.write }, call.options);
      return decodePathEntry(answer.pathEntry);
    });
  }

  copy(ref: EntryRef, to: string, onConflict: OnConflict, options: WriteOptions = {}): Promise<PathEntry> {
    const fields = { ref: encodeRef(ref), toPath: to, onConflict: encodeOnConflict(onConflict) };
    return this.#write(options, async ({ metadata }, call) => {
      const answer = await metadata.copy({ ...fields, ...call.write }, call.options);
      return decodePathEntry(answer.pathEntry);
    });
  }

  remove(ref: EntryRef, settings: { recursive: boolean }, options: WriteOptions = {}): Promise<void> {
    const fields = { ref: encodeRef(ref), recursive: settings.recursive };
    return this.#write(options, async ({ metadata }, call) => {
      await metadata.delete({ ...fields, ...call.write }, call.options);
    });
  }

  update(ref: EntryRef, attributes: EntryAttributes, options: WriteOptions = {}): Promise<PathEntry> {
    const fields = { ref: encodeRef(ref), attributes: encodeAttributes(attributes) };
    return this.#write(options, async ({ metadata }, call) => {
      const answer = await metadata.update({ ...fields, ...call.write }, call.options);
      return decodePathEntry(answer.pathEntry);
    });
  }

  initUpload(request: UploadRequest, options: WriteOptions = {}): Promise<UploadTicket> {
    return this.#write(options, async ({ chunks }, call) => {
      const message = encodeUploadRequest(request, { ...options, requestId: call.requestId });
      return decodeTicket(await chunks.initUpload(message, call.options));
    });
  }

  writeChunk(
    uploadId: number,
    chunkIndex: number,
    bytes: Uint8Array,
    digest: Uint8Array | undefined,
    signal?: AbortSignal,
  ): Promise<ChunkReceipt> {
    return this.#uploads.send(uploadId, { chunkIndex, bytes, digest }, signal);
  }

  async completeUpload(
    uploadId: number,
    settings: CompleteOptions,
    options: WriteOptions = {},
  ): Promise<PathEntry> {
    this.#uploads.forget(uploadId);
    const sizeBytes = toOptionalBigint(settings.sizeBytes);
    const onConflict = settings.onConflict && encodeOnConflict(settings.onConflict);
    const put = settings.put && encodeUploadRequest(settings.put, {});
    return this.#write(options, async ({ chunks }, call) => {
      const request = {
        uploadId: toBigint(uploadId),
        ...(sizeBytes !== undefined && { sizeBytes }),
        ...(onConflict !== undefined && { onConflict }),
        ...(put !== undefined && { put }),
        ...call.write,
      };
      const answer = await chunks.completeUpload(request, {
        ...call.options,
        timeoutMs: COMPLETE_TIMEOUT_MS,
      });
      return decodePathEntry(answer.pathEntry);
    });
  }

  uploadStatus(uploadId: number, options: ReadOptions = {}): Promise<UploadStatus> {
    return this.#read(options, async ({ chunks }, call) => {
      const request = { uploadId: toBigint(uploadId), ...call.read };
      return decodeUploadStatus((await chunks.queryUpload(request, call.options)).status);
    });
  }

  abortUpload(uploadId: number, options: WriteOptions = {}): Promise<void> {
    this.#uploads.forget(uploadId);
    return this.#write(options, async ({ chunks }, call) => {
      const request = { uploadId: toBigint(uploadId), requestId: call.requestId };
      await chunks.abortUpload(request, call.options);
    });
  }

  openUploads(
    page: { readonly cursor?: string | undefined; readonly countMax: number },
    options: ReadOptions = {},
  ): Promise<OpenUploadPage> {
    return this.#read(options, async ({ chunks }, call) => {
      const request = { pageSize: page.countMax, pageToken: page.cursor ?? "", ...call.read };
      const { uploads, nextPageToken } = await chunks.listUploads(request, call.options);
      return {
        uploads: uploads.map(decodeOpenUpload),
        nextCursor: nextPageToken === "" ? undefined : nextPageToken,
      };
    });
  }

  async putFile(
    request: UploadRequest,
    body: AsyncIterable<Uint8Array>,
    options: WriteOptions = {},
  ): Promise<PathEntry> {
    const chunks = chunksOf(body);
    try {
      const first = await chunks.next();
      const second = first.done === true ? first : await chunks.next();
      const firstChunk = first.done === true ? new Uint8Array(0) : first.value;
      if (second.done === true) return await this.#putSmall(request, firstChunk, options);
      const rest = (async function* () {
        yield firstChunk;
        yield second.value;
        yield* chunks;
      })();
      const sizeBytesMin = firstChunk.length + second.value.length;
      return await this.#putLarge(request, { chunks: rest, sizeBytesMin }, options);
    } finally {
      // The body is told that no more of it is wanted, also where nothing was sent: its connection and timers depend on that.
      await chunks.return();
    }
  }

  openDownload(ref: EntryRef, options: ReadOptions = {}): Promise<Download> {
    return openRemoteDownload(this.#failover, ref, options);
  }

  watchProgress(id: string, signal?: AbortSignal): AsyncIterable<Progress> {
    return this.#failover.stream(signal, async function* ({ progress }) {
      for await (const answer of progress.watch({ id }, { signal })) yield decodeProgress(answer.progress);
    });
  }

  watchChanges(afterIndex: number, signal?: AbortSignal): AsyncIterable<readonly Change[]> {
    // A command's changes may be cut by a break: its index is asked for again and what was delivered is left out.
    let last = { index: afterIndex, position: Infinity };
    return this.#failover.stream(signal, async function* ({ metadata }) {
      const from = last.position === Infinity ? last.index : last.index - 1;
      for await (const answer of metadata.watchChanges({ afterIndex: toBigint(from) }, { signal })) {
        const changes = answer.changes
          .map(decodeChange)
          .filter(
            ({ index, position }) => index > last.index || (index === last.index && position > last.position),
          );
        const newest = changes.at(-1);
        if (newest === undefined) continue;
        last = { index: newest.index, position: newest.position };
        yield changes;
      }
    });
  }

  cluster(options: ReadOptions = {}): Promise<ClusterStatus> {
    return this.#read(options, async ({ cluster }, call) =>
      decodeClusterStatus((await cluster.getStatus(call.read, call.options)).status),
    );
  }

  startScrub(options: WriteOptions = {}): Promise<void> {
    return this.#write(options, async ({ cluster }, call) => {
      await cluster.startScrub({}, call.options);
    });
  }

  setDraining(nodeId: string, draining: boolean, options: WriteOptions = {}): Promise<void> {
    return this.#write(options, async ({ cluster }, call) => {
      await cluster.setDraining({ nodeId, draining }, call.options);
    });
  }

  /** Whether the latest call reached a node that could serve. */
  readiness(): Readiness {
    return {
      ready: this.#problem === undefined,
      problems: this.#problem === undefined ? [] : [this.#problem],
    };
  }

  #putSmall(request: UploadRequest, bytes: Uint8Array, options: WriteOptions): Promise<PathEntry> {
    return this.#write(options, async ({ chunks }, call) => {
      const header = encodeUploadRequest(request, { ...options, requestId: call.requestId });
      const requests = (async function* () {
        yield create(PutFileRequestSchema, { header, data: bytes, finish: true });
      })();
      const answer = await chunks.putFile(requests, { ...call.options, timeoutMs: COMPLETE_TIMEOUT_MS });
      return decodePathEntry(answer.pathEntry);
    });
  }

  /**
   * Sends the bytes by an upload of this attempt alone; what makes the file is its completion under the request's id, as at a node
   * that has the tree (transfer/put-file.ts). So a repeat of the same bytes gets the first answer, whichever kind of node either
   * came to.
   */
  async #putLarge(
    request: UploadRequest,
    body: { readonly chunks: AsyncIterable<Uint8Array>; readonly sizeBytesMin: number },
    options: WriteOptions,
  ): Promise<PathEntry> {
    const { signal, precondition } = options;
    const requestId = options.requestId ?? this.#newRequestId();
    const attemptOf = { requestId, sizeBytesMin: body.sizeBytesMin };
    const ticket = await this.#begin({ ...request, attemptOf }, options);
    if (ticket.made !== undefined) {
      const { chunks } = body;
      return answerRepeat(ticket.made, { requestId, request, chunks, digester: threadPoolDigester, signal });
    }
    // A node of an earlier version does not know of attempts, and may find that equal bytes are here.
    if (ticket.entry !== undefined) return this.stat({ entryId: ticket.entry.entryId }, { signal });
    const { uploadId } = ticket;
    try {
      const sizeBytes = await this.#sendAll(uploadId, body.chunks, signal);
      const settings = request.sizeBytes === undefined ? { sizeBytes } : {};
      const done = await this.completeUpload(
        uploadId,
        { ...settings, put: request },
        { requestId, ...(precondition && { precondition }), ...(signal && { signal }) },
      );
      checkTreeHash(request.treeHash, done);
      return done;
    } catch (error) {
      // Right after an unknown outcome too: of completing and aborting the tree does what comes first and refuses the other, and
      // does not hold that refusal against the next attempt. The error of the upload is the one to tell, not that of the abort.
      const aborting = this.abortUpload(uploadId).catch(() => undefined);
      // Where no node answers, the abort has no better chance than the upload, and nobody should wait for both.
      if (judge(error, signal) === "final") await aborting;
      throw error;
    }
  }

  /**
   * Begins an upload. A caller that goes away does not end this: an upload whose id nobody learned could not be aborted, and would
   * stay open until it expires.
   */
  async #begin(request: UploadRequest, { signal, precondition }: WriteOptions): Promise<UploadTicket> {
    const beginning = this.initUpload(request, precondition && { precondition });
    try {
      return await abortable(beginning, signal);
    } catch (error) {
      if (signal?.aborted === true) {
        const abort = ({ made, uploadId }: UploadTicket): Promise<void> | undefined =>
          made === undefined ? this.abortUpload(uploadId) : undefined;
        // Nobody is left to hear of a failure; the upload expires by itself.
        void beginning.then(abort).catch(() => undefined);
      }
      throw error;
    }
  }

  /** Sends chunks with a bounded number in flight; returns their bytes in all. */
  async #sendAll(
    uploadId: number,
    chunks: AsyncIterable<Uint8Array>,
    signal: AbortSignal | undefined,
  ): Promise<number> {
    const slots = new Semaphore(UPLOAD_CHUNKS_INFLIGHT_MAX);
    const abort = new AbortController();
    const own = signal === undefined ? abort.signal : AbortSignal.any([signal, abort.signal]);
    let sizeBytes = 0;
    let chunkIndex = 0;
    try {
      for await (const bytes of chunks) {
        await slots.acquire(1, own);
        void this.writeChunk(uploadId, chunkIndex, bytes, undefined, own)
          .catch((error: unknown) => abort.abort(error))
          .finally(() => slots.release(1));
        sizeBytes += bytes.length;
        chunkIndex += 1;
      }
      await slots.acquire(UPLOAD_CHUNKS_INFLIGHT_MAX, own);
      own.throwIfAborted();
      return sizeBytes;
    } catch (error) {
      abort.abort(error);
      throw error instanceof DriveError || signal?.aborted !== true
        ? error
        : new DriveError("CANCELED", "The caller gave up.", {}, error);
    }
  }

  #newRequestId(): string {
    return toHex(this.#prng.bytes(REQUEST_ID_RANDOM_SIZE_BYTES));
  }

  #read<T>(options: ReadOptions, work: Work<T, ReadCall>): Promise<T> {
    const { consistency, signal } = options;
    const call = { read: { consistency: encodeConsistency(consistency) }, options: { signal } };
    return this.#run(signal, (node) => work(node, call));
  }

  #write<T>(options: WriteOptions, work: Work<T, WriteCall>): Promise<T> {
    const { signal } = options;
    const requestId = options.requestId ?? this.#newRequestId();
    const write = { requestId, ...encodePrecondition(options.precondition) };
    return this.#run(signal, (node) => work(node, { requestId, write, options: { signal } }));
  }

  async #run<T>(signal: AbortSignal | undefined, work: (node: Failover["node"]) => Promise<T>): Promise<T> {
    try {
      const result = await this.#failover.run(signal, work);
      this.#problem = undefined;
      return result;
    } catch (error) {
      if (error instanceof DriveError && error.spec.httpStatus >= 500) this.#problem = error.message;
      throw error;
    }
  }
}

type Work<T, Call> = (node: Failover["node"], call: Call) => Promise<T>;

interface ReadCall {
  readonly read: { readonly consistency: ReturnType<typeof encodeConsistency> };
  readonly options: { readonly signal: AbortSignal | undefined };
}

interface WriteCall {
  readonly requestId: string;
  readonly write: { readonly requestId: string } & ReturnType<typeof encodePrecondition>;
  readonly options: { readonly signal: AbortSignal | undefined };
}

/** Refuses a file that was made of other bytes than stated: a node of an earlier version does not check that for attempts. */
function checkTreeHash(stated: Uint8Array | undefined, { entry, path }: PathEntry): void {
  if (stated === undefined || bytesEqual(stated, entry.treeHash)) return;
  throw new DriveError("DIGEST_MISMATCH", `${path} was made, and has another tree hash than stated.`, {
    stated: toHex(stated),
    actual: toHex(entry.treeHash),
  });
}

/** The bytes of `body` cut into chunks of CHUNK_SIZE_BYTES; the last may be smaller, and there is none for no bytes. */
async function* chunksOf(body: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array, void> {
  let parts: Uint8Array[] = [];
  let sizeBytes = 0;
  for await (const piece of body) {
    for (let at = 0; at < piece.length;) {
      const part = piece.subarray(at, at + CHUNK_SIZE_BYTES - sizeBytes);
      parts.push(part);
      at += part.length;
      sizeBytes += part.length;
      if (sizeBytes < CHUNK_SIZE_BYTES) continue;
      yield joined(parts);
      parts = [];
      sizeBytes = 0;
    }
  }
  if (sizeBytes > 0) yield joined(parts);
}

function joined(parts: readonly Uint8Array[]): Uint8Array {
  const [only] = parts;
  return parts.length === 1 && only !== undefined ? only : Buffer.concat(parts);
}
