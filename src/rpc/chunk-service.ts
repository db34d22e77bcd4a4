/**
 * ChunkService of netdisk.v1 over the drive: uploads that resume, whole files in one call, and downloads by ranges.
 *
 * Bounds: a stream has at most UPLOAD_CHUNKS_INFLIGHT_MAX chunks in work and is not read further until one is done; a
 * download reads the next piece when the client took the last. Chunks are written in parallel; acknowledgements come as they finish.
 */
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import {
  ChunkService,
  DownloadResponseSchema,
  InitUploadRequestSchema,
  type DownloadRequest,
  type DownloadResponse,
  type PutFileRequest,
  type UploadRequest,
  type UploadResponseSchema,
} from "../../gen/netdisk/v1/chunk_service_pb.ts";
import type { Download, DriveApi, UploadStatus } from "../drive/drive-api.ts";
import { DriveError } from "../drive/errors.ts";
import { CONTENT_SIZE_BYTES_MAX, PAGE_SIZE_DEFAULT } from "../drive/limits.ts";
import { must } from "../std/assert.ts";
import { BoundedQueue } from "../std/bounded-queue.ts";
import { Semaphore } from "../std/semaphore.ts";
import { allowListeners, CALL_LISTENER_COUNT_MAX } from "../std/shared-signal.ts";
import { ChunkAssembler, CommittedPrefix, type AssembledChunk } from "./chunk-assembler.ts";
import {
  decodeOptionalOnConflict,
  decodeRef,
  encodeEntry,
  encodePathEntry,
  readOptions,
  refuseField,
  toBigint,
  toNumber,
  toOptionalNumber,
  writeOptions,
} from "../contract/codec.ts";
import {
  DOWNLOAD_RANGES_WAITING_MAX,
  FRAME_DATA_SIZE_BYTES_MAX,
  UPLOAD_CHUNKS_INFLIGHT_MAX,
} from "./limits.ts";
import type { DriveSource } from "../contract/service-handlers.ts";
import { service, type ServedService, type ServerCall } from "./server-adapter.ts";
import { decodeUploadRequest, encodeOpenUpload, encodeTicket, encodeUploadStatus } from "./transfer-codec.ts";

type UploadAnswer = MessageInitShape<typeof UploadResponseSchema>;

/** The service over `drive`. */
export function chunkService(drive: DriveSource): ServedService {
  return service(ChunkService, {
    async initUpload(request, call) {
      const upload = decodeUploadRequest(request);
      checkSize(upload.sizeBytes);
      return encodeTicket(await drive().initUpload(upload, writeOptions(request, call.signal)));
    },
    upload: (requests, call) => uploadStream(drive(), requests, call),
    putFile: (requests, call) => putFile(drive(), requests, call),
    async completeUpload(request, call) {
      const sizeBytes = toOptionalNumber(request.sizeBytes, "size_bytes");
      checkSize(sizeBytes);
      const uploadId = toNumber(request.uploadId, "upload_id");
      const options = writeOptions(request, call.signal);
      const onConflict = decodeOptionalOnConflict(request.onConflict);
      const put = request.put && decodeUploadRequest(request.put);
      const done = await drive().completeUpload(uploadId, { sizeBytes, onConflict, put }, options);
      return { pathEntry: encodePathEntry(done) };
    },
    async queryUpload(request, call) {
      const uploadId = toNumber(request.uploadId, "upload_id");
      const status = await drive().uploadStatus(uploadId, readOptions(request, call.signal));
      return { status: encodeUploadStatus(status) };
    },
    async abortUpload(request, call) {
      const uploadId = toNumber(request.uploadId, "upload_id");
      await drive().abortUpload(uploadId, writeOptions(request, call.signal));
      return {};
    },
    async listUploads(request, call) {
      const page = {
        countMax: request.pageSize === 0 ? PAGE_SIZE_DEFAULT : request.pageSize,
        ...(request.pageToken !== "" && { cursor: request.pageToken }),
      };
      const { uploads, nextCursor } = await drive().openUploads(page, readOptions(request, call.signal));
      return { uploads: uploads.map(encodeOpenUpload), nextPageToken: nextCursor ?? "" };
    },
    download: (requests, call) => downloadStream(drive(), requests, call),
  });
}

function checkSize(sizeBytes: number | undefined): void {
  if (sizeBytes === undefined || sizeBytes <= CONTENT_SIZE_BYTES_MAX) return;
  throw new DriveError(
    "PAYLOAD_TOO_LARGE",
    `A file has at most ${CONTENT_SIZE_BYTES_MAX} bytes; ${sizeBytes} were announced.`,
    { size_bytes: String(sizeBytes), size_bytes_max: String(CONTENT_SIZE_BYTES_MAX) },
  );
}

function checkFrame(data: Uint8Array): void {
  if (data.length <= FRAME_DATA_SIZE_BYTES_MAX) return;
  throw new DriveError(
    "PAYLOAD_TOO_LARGE",
    `A message carries at most ${FRAME_DATA_SIZE_BYTES_MAX} bytes of data; ${data.length} came.`,
    { size_bytes: String(data.length), size_bytes_max: String(FRAME_DATA_SIZE_BYTES_MAX) },
  );
}

/** What one upload stream has in work: its slots, its answers, and how to stop it. */
interface UploadFlow {
  readonly drive: DriveApi;
  /** A slot is taken when a chunk is started and given back when its answer was taken, so answers never overflow. */
  readonly slots: Semaphore;
  readonly answers: BoundedQueue<UploadAnswer>;
  readonly signal: AbortSignal;
}

async function* uploadStream(
  drive: DriveApi,
  requests: AsyncIterable<UploadRequest>,
  call: ServerCall,
): AsyncIterable<UploadAnswer> {
  const slots = new Semaphore(UPLOAD_CHUNKS_INFLIGHT_MAX);
  const answers = new BoundedQueue<UploadAnswer>(UPLOAD_CHUNKS_INFLIGHT_MAX);
  const abort = new AbortController();
  const signal = AbortSignal.any([call.signal, abort.signal]);
  allowListeners(signal, CALL_LISTENER_COUNT_MAX);
  signal.addEventListener("abort", () => answers.end(signal.reason as Error), { once: true });
  void readUpload({ drive, slots, answers, signal }, requests).then(
    () => answers.end(),
    (error: unknown) => answers.end(error as Error),
  );
  try {
    for await (const answer of answers) {
      yield answer;
      slots.release(1);
    }
  } finally {
    abort.abort(new DriveError("CANCELED", "The stream ended."));
  }
}

async function readUpload(flow: UploadFlow, requests: AsyncIterable<UploadRequest>): Promise<void> {
  const { drive, signal } = flow;
  let begun:
    | { readonly uploadId: bigint; readonly assembler: ChunkAssembler; readonly prefix: CommittedPrefix }
    | undefined;
  const write = async (chunks: readonly AssembledChunk[]): Promise<void> => {
    const { uploadId, prefix } = must(begun, "the stream has begun");
    for (const chunk of chunks) {
      await flow.slots.acquire(1, signal);
      void writeChunk(flow, Number(uploadId), prefix, chunk);
    }
  };
  for await (const request of requests) {
    checkFrame(request.data);
    if (begun === undefined) {
      const status = await openUpload(drive, toNumber(request.uploadId, "upload_id"), signal);
      const prefix = new CommittedPrefix(status);
      begun = { uploadId: request.uploadId, assembler: new ChunkAssembler(status), prefix };
    } else if (request.uploadId !== 0n && request.uploadId !== begun.uploadId) {
      refuseField("upload_id", "changed within a stream");
    }
    await write(begun.assembler.push({ ...request, offset: toNumber(request.offset, "offset") }));
  }
  if (begun === undefined) return;
  begun.assembler.end();
  // All slots are free again when everything has been answered.
  await flow.slots.acquire(UPLOAD_CHUNKS_INFLIGHT_MAX, signal);
}

async function openUpload(drive: DriveApi, uploadId: number, signal: AbortSignal): Promise<UploadStatus> {
  if (uploadId === 0) refuseField("upload_id", "is required on the first message");
  const status = await drive.uploadStatus(uploadId, { signal });
  if (status.state === "open") return status;
  throw new DriveError("UPLOAD_FINISHED", "The upload is complete already.", { upload_id: String(uploadId) });
}

async function writeChunk(
  flow: UploadFlow,
  uploadId: number,
  prefix: CommittedPrefix,
  chunk: AssembledChunk,
): Promise<void> {
  const { chunkIndex, bytes, digest } = chunk;
  try {
    const receipt = await flow.drive.writeChunk(uploadId, chunkIndex, bytes, digest, flow.signal);
    flow.answers.offer({
      committedSizeBytes: toBigint(prefix.add(chunkIndex, bytes.length)),
      chunkIndex: toBigint(chunkIndex),
      digest: receipt.digest,
      replicaCount: receipt.replicaCount,
    });
  } catch (error) {
    flow.answers.end(error as Error);
  }
}

async function putFile(
  drive: DriveApi,
  requests: AsyncIterable<PutFileRequest>,
  call: ServerCall,
): Promise<{ pathEntry: ReturnType<typeof encodePathEntry> }> {
  const iterator = requests[Symbol.asyncIterator]();
  const first = await iterator.next();
  const header = first.done === true ? undefined : first.value.header;
  if (first.done === true || header === undefined) {
    return refuseField("header", "is required on the first message");
  }
  const upload = decodeUploadRequest(create(InitUploadRequestSchema, header));
  checkSize(upload.sizeBytes);
  const body = bodyOf(first.value, iterator, upload.sizeBytes !== undefined);
  const entry = await drive.putFile(upload, body, writeOptions(header, call.signal));
  return { pathEntry: encodePathEntry(entry) };
}

/** The bytes of the messages. Without a size known beforehand only `finish` tells the end from a break. */
async function* bodyOf(
  first: PutFileRequest,
  rest: AsyncIterator<PutFileRequest>,
  sizeKnown: boolean,
): AsyncIterable<Uint8Array> {
  let finished = false;
  for (let message: PutFileRequest | undefined = first; message !== undefined;) {
    if (finished) refuseField("finish", "was set on an earlier message");
    if (message !== first && message.header !== undefined)
      refuseField("header", "is only for the first message");
    checkFrame(message.data);
    finished = message.finish;
    if (message.data.length > 0) yield message.data;
    const next: IteratorResult<PutFileRequest, unknown> = await rest.next();
    message = next.done === true ? undefined : next.value;
  }
  if (finished || sizeKnown) return;
  throw new DriveError("PAYLOAD_TRUNCATED", 'The stream ended without "finish".');
}

async function* downloadStream(
  drive: DriveApi,
  requests: AsyncIterable<DownloadRequest>,
  call: ServerCall,
): AsyncIterable<DownloadResponse> {
  const waiting = new BoundedQueue<DownloadRequest>(DOWNLOAD_RANGES_WAITING_MAX);
  void readRanges(requests, waiting);
  call.signal.addEventListener("abort", () => waiting.end(), { once: true });
  let download: Download | undefined;
  for await (const request of waiting) {
    if (download === undefined) {
      download = await drive.openDownload(decodeRef(request.ref), readOptions(request, call.signal));
      const { entry, path, local, redirectUrl } = download;
      const header = { entry: encodeEntry(entry), path, local, redirectUrl: redirectUrl ?? "" };
      yield create(DownloadResponseSchema, { header });
    }
    yield* rangeOf(download, request, call.signal);
  }
}

async function readRanges(
  requests: AsyncIterable<DownloadRequest>,
  waiting: BoundedQueue<DownloadRequest>,
): Promise<void> {
  try {
    for await (const request of requests) if (!(await waiting.push(request))) return;
    waiting.end();
  } catch (error) {
    waiting.end(error as Error);
  }
}

async function* rangeOf(
  download: Download,
  request: DownloadRequest,
  signal: AbortSignal,
): AsyncIterable<DownloadResponse> {
  const { sizeBytes } = download.entry;
  const offset = toNumber(request.offset, "offset");
  const length = toOptionalNumber(request.length, "length") ?? Math.max(0, sizeBytes - offset);
  if (offset > sizeBytes || offset + length > sizeBytes) {
    throw new DriveError(
      "RANGE_NOT_SATISFIABLE",
      `The range of ${length} bytes at ${offset} lies outside the file of ${sizeBytes} bytes.`,
      { offset: String(offset), length: String(length), size_bytes: String(sizeBytes) },
    );
  }
  let at = offset;
  const end = offset + length;
  if (length > 0) {
    for await (const data of download.read(offset, length, signal)) {
      const endOfRange = at + data.length === end;
      yield create(DownloadResponseSchema, { offset: toBigint(at), data, endOfRange });
      at += data.length;
    }
    return;
  }
  yield create(DownloadResponseSchema, { offset: toBigint(at), endOfRange: true });
}
