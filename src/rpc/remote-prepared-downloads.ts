/**
 * Prepared downloads from the side of a client outside the cluster: asked of any node, read on at the next one after a break.
 */
import type { ReadDownloadResponse } from "../../gen/netdisk/v1/download_service_pb.ts";
import { encodeConsistency, encodeRef, required, toBigint, toNumber } from "../contract/codec.ts";
import { decodeDownload } from "../contract/download-codec.ts";
import type { ReadOptions, WriteOptions } from "../drive/drive-api.ts";
import { DriveError } from "../drive/errors.ts";
import type {
  OpenedDownload,
  PreparedDownloadApi,
  PreparedDownloadRequest,
  PreparedDownloadStatus,
} from "../drive/prepared-download.ts";
import { must } from "../std/assert.ts";
import type { Failover, NodeClients } from "./failover.ts";

/** How long one call may take. */
const CALL_TIMEOUT_MS = 30_000;
/** How long a node may send nothing before another is asked. */
const PIECE_TIMEOUT_MS = 15_000;

/** Prepared downloads of a cluster elsewhere. */
export class RemotePreparedDownloads implements PreparedDownloadApi {
  readonly #failover: Failover;
  readonly #newRequestId: () => string;

  constructor(failover: Failover, newRequestId: () => string) {
    this.#failover = failover;
    this.#newRequestId = newRequestId;
  }

  prepare(request: PreparedDownloadRequest, options: WriteOptions = {}): Promise<PreparedDownloadStatus> {
    const { signal } = options;
    const message = {
      sources: request.sources.map((ref) => encodeRef(ref)),
      name: request.name ?? "",
      // The same at every node, so that asking again makes no second download.
      requestId: options.requestId ?? this.#newRequestId(),
    };
    return this.#failover.run(signal, async ({ downloads }) => {
      const answer = await downloads.prepareDownload(message, { signal, timeoutMs: CALL_TIMEOUT_MS });
      return decodeDownload(answer.download);
    });
  }

  status(downloadId: number, options: ReadOptions = {}): Promise<PreparedDownloadStatus> {
    const { signal } = options;
    const consistency = encodeConsistency(options.consistency);
    const message = { downloadId: toBigint(downloadId), consistency };
    return this.#failover.run(signal, async ({ downloads }) => {
      const answer = await downloads.getDownload(message, { signal, timeoutMs: CALL_TIMEOUT_MS });
      return decodeDownload(answer.download);
    });
  }

  release(downloadId: number, options: Omit<WriteOptions, "precondition"> = {}): Promise<void> {
    const { signal } = options;
    const message = {
      downloadId: toBigint(downloadId),
      requestId: options.requestId ?? this.#newRequestId(),
    };
    return this.#failover.run(signal, async ({ downloads }) => {
      await downloads.releaseDownload(message, { signal, timeoutMs: CALL_TIMEOUT_MS });
    });
  }

  async open(downloadId: number, options: ReadOptions = {}): Promise<OpenedDownload> {
    const { signal } = options;
    const described = await this.#failover.run(signal, async (node) => {
      for await (const frame of this.#frames(node, downloadId, { offset: 0, length: 0 }, signal)) {
        return required(frame.description, "description");
      }
      throw endedEarly(node);
    });
    const { etag, name } = described;
    const sizeBytes = toNumber(described.sizeBytes, "size_bytes");
    const status = await this.status(downloadId, options);
    return {
      downloadId,
      name,
      sizeBytes,
      entryCount: toNumber(described.entryCount, "entry_count"),
      etag,
      expireTimeMs: status.expireTimeMs ?? 0,
      read: (offset, length, inner) => this.#read(downloadId, etag, { offset, length }, inner),
    };
  }

  async *#read(
    downloadId: number,
    etag: string,
    range: { readonly offset: number; readonly length: number },
    signal: AbortSignal | undefined,
  ): AsyncGenerator<Uint8Array, void, undefined> {
    const reached = { offset: range.offset };
    const end = range.offset + range.length;
    yield* this.#failover.stream(signal, (node) =>
      this.#pieces(node, { downloadId, etag, end, signal }, reached),
    );
  }

  async *#pieces(
    node: NodeClients,
    wanted: {
      readonly downloadId: number;
      readonly etag: string;
      readonly end: number;
      readonly signal: AbortSignal | undefined;
    },
    reached: { offset: number },
  ): AsyncGenerator<Uint8Array, void, undefined> {
    const { downloadId, etag, end, signal } = wanted;
    const range = { offset: reached.offset, length: end - reached.offset };
    for await (const frame of this.#frames(node, downloadId, range, signal)) {
      if (frame.description !== undefined && frame.description.etag !== etag) {
        throw new DriveError("VERSION_MISMATCH", "The node has another archive.", { etag });
      }
      if (frame.data.length === 0) continue;
      if (toNumber(frame.offset, "offset") !== reached.offset) {
        throw new DriveError("INTERNAL", `The node at ${node.address} sent bytes out of order.`);
      }
      reached.offset += frame.data.length;
      yield frame.data;
    }
    if (reached.offset < end) throw endedEarly(node);
  }

  async *#frames(
    node: NodeClients,
    downloadId: number,
    range: { readonly offset: number; readonly length: number },
    signal: AbortSignal | undefined,
  ): AsyncGenerator<ReadDownloadResponse, void, undefined> {
    const abort = new AbortController();
    const either = signal === undefined ? abort.signal : AbortSignal.any([signal, abort.signal]);
    const late = (): void => {
      const { address } = node;
      abort.abort(new DriveError("PEER_UNREACHABLE", `The node at ${address} sends nothing.`, { address }));
    };
    const message = {
      downloadId: toBigint(downloadId),
      offset: toBigint(range.offset),
      length: toBigint(range.length),
    };
    const frames = node.downloads
      .readDownload(message, { signal: either, lostReason: "PEER_UNREACHABLE" })
      [Symbol.asyncIterator]();
    try {
      for (;;) {
        const timer = this.#failover.clock.setTimer(PIECE_TIMEOUT_MS, late);
        const next = await frames.next().finally(() => timer.cancel());
        if (next.done === true) return;
        yield must(next.value, "a value that is not the end");
      }
    } finally {
      await frames.return?.();
    }
  }
}

function endedEarly({ address }: NodeClients): DriveError {
  return new DriveError("PEER_UNREACHABLE", `The node at ${address} ended the stream early.`, { address });
}
