/**
 * A file opened for reading at one version, from the side of a client outside the cluster.
 *
 * Bytes come over Download streams; after a break the next node is asked from the offset reached, and must send the same
 * content: VERSION_MISMATCH when the file was replaced or removed meanwhile. That it is gone by now is never told as
 * PATH_NOT_FOUND, which would deny that it was there when it was opened.
 */
import type { Download, EntryRef, ReadOptions } from "../drive/drive-api.ts";
import type { Entry } from "../drive/entry.ts";
import { DriveError, hasReason } from "../drive/errors.ts";
import { must } from "../std/assert.ts";
import type { DownloadHeader, DownloadResponse } from "../../gen/netdisk/v1/chunk_service_pb.ts";
import {
  decodeEntry,
  encodeConsistency,
  encodeRef,
  required,
  toBigint,
  toNumber,
} from "../contract/codec.ts";
import type { Failover, NodeClients } from "./failover.ts";

/** How long a node may send nothing before another is asked. */
const PIECE_TIMEOUT_MS = 15_000;

interface Range {
  readonly ref: EntryRef;
  readonly offset: number;
  readonly length: number;
}

/** Opens the file `ref`. Errors: PATH_NOT_FOUND, IS_A_DIRECTORY. */
export async function openRemoteDownload(
  failover: Failover,
  ref: EntryRef,
  options: ReadOptions,
): Promise<Download> {
  const header = await failover.run(options.signal, async (node) => {
    for await (const response of framesOf(failover, node, { ref, offset: 0, length: 0 }, options)) {
      return required(response.header, "header");
    }
    throw new DriveError("PEER_UNREACHABLE", `The node at ${node.address} sent no header.`);
  });
  return new RemoteDownload(failover, header, options);
}

class RemoteDownload implements Download {
  readonly entry: Entry;
  readonly path: string;
  readonly local: boolean;
  readonly redirectUrl: string | undefined;
  readonly #failover: Failover;
  readonly #options: ReadOptions;

  constructor(failover: Failover, header: DownloadHeader, options: ReadOptions) {
    this.#failover = failover;
    this.#options = options;
    this.entry = decodeEntry(header.entry);
    this.path = header.path;
    this.local = header.local;
    this.redirectUrl = header.redirectUrl === "" ? undefined : header.redirectUrl;
  }

  async *read(offset: number, length: number, signal?: AbortSignal): AsyncIterable<Uint8Array> {
    const end = offset + length;
    if (offset > this.entry.sizeBytes || end > this.entry.sizeBytes) {
      throw new DriveError("RANGE_NOT_SATISFIABLE", `The file has ${this.entry.sizeBytes} bytes.`, {
        size_bytes: String(this.entry.sizeBytes),
      });
    }
    const reached = { offset };
    if (length === 0) return;
    try {
      yield* this.#failover.stream(signal, (node) => this.#pieces(node, reached, end, signal));
    } catch (error) {
      throw hasReason(error, "PATH_NOT_FOUND") ? this.#replaced(0, error) : error;
    }
  }

  async *#pieces(
    node: NodeClients,
    reached: { offset: number },
    end: number,
    signal: AbortSignal | undefined,
  ): AsyncIterable<Uint8Array> {
    const ref = { entryId: this.entry.entryId };
    const range = { ref, offset: reached.offset, length: end - reached.offset };
    for await (const response of framesOf(this.#failover, node, range, { ...this.#options, signal })) {
      if (response.header !== undefined) this.#checkVersion(response.header);
      if (response.data.length === 0) continue;
      if (toNumber(response.offset, "offset") !== reached.offset) {
        throw new DriveError("INTERNAL", `The node at ${node.address} sent bytes out of order.`);
      }
      reached.offset += response.data.length;
      yield response.data;
    }
    if (reached.offset < end) {
      throw new DriveError("PEER_UNREACHABLE", `The node at ${node.address} ended the stream early.`, {
        address: node.address,
      });
    }
  }

  #checkVersion(header: DownloadHeader): void {
    const { contentId, version } = decodeEntry(header.entry);
    if (contentId === this.entry.contentId) return;
    throw this.#replaced(version);
  }

  /** @param version of what is there now; 0 for nothing */
  #replaced(version: number, cause?: unknown): DriveError {
    return new DriveError(
      "VERSION_MISMATCH",
      "The file was replaced or removed while it was read.",
      { version: String(version), expected_version: String(this.entry.version) },
      cause,
    );
  }
}

/** The frames that answer one range, up to its end; a node that pauses too long is given up. */
async function* framesOf(
  failover: Failover,
  node: NodeClients,
  range: Range,
  options: ReadOptions,
): AsyncIterable<DownloadResponse> {
  const abort = new AbortController();
  const signal =
    options.signal === undefined ? abort.signal : AbortSignal.any([options.signal, abort.signal]);
  const late = (): void => {
    const { address } = node;
    abort.abort(new DriveError("PEER_UNREACHABLE", `The node at ${address} sends nothing.`, { address }));
  };
  const request = {
    ref: encodeRef(range.ref),
    consistency: encodeConsistency(options.consistency),
    offset: toBigint(range.offset),
    length: toBigint(range.length),
  };
  const requests = (async function* () {
    yield request;
  })();
  const frames = node.chunks
    .download(requests, { signal, lostReason: "PEER_UNREACHABLE" })
    [Symbol.asyncIterator]();
  try {
    for (;;) {
      const timer = failover.clock.setTimer(PIECE_TIMEOUT_MS, late);
      const next = await frames.next().finally(() => timer.cancel());
      if (next.done === true) return;
      yield must(next.value, "a value that is not the end");
    }
  } finally {
    await frames.return?.();
  }
}
