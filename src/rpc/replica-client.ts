/**
 * ReplicaPort over gRPC: a peer's chunk store, with all its writes on two pipelined streams.
 *
 * Everything a store does is idempotent, so a call that is lost is simply PEER_UNREACHABLE. Bounds: WRITE_CHUNKS_INFLIGHT_MAX
 * chunks, PUT_SMALL_INFLIGHT_MAX small extents; a caller beyond them waits.
 */
import { create } from "@bufbuild/protobuf";
import {
  PutSmallRequestSchema,
  WriteChunksRequestSchema,
  type PutSmallBatchResponse,
  type PutSmallRequest,
  type PutSmallResponse,
  type WriteChunksRequest,
  type WriteChunksResponse,
} from "../../gen/netdisk/peer/v1/replica_service_pb.ts";
import type { ExtentState, SealRequest, SmallExtent } from "../chunks/chunk-store.ts";
import type { ExtentKey, Manifest, Seal } from "../drive/content.ts";
import { DriveError } from "../drive/errors.ts";
import { CHUNK_SIZE_BYTES } from "../drive/limits.ts";
import type { ReplicaPort, ReplicaPorts } from "../replication/replica-port.ts";
import { must } from "../std/assert.ts";
import type { Clock } from "../std/clock.ts";
import type { CallOptions } from "./client-adapter.ts";
import { toBigint, toOptionalBigint } from "../contract/codec.ts";
import { decodeFailure } from "./error-codec.ts";
import {
  BATCH_COUNT_MAX,
  PUT_SMALL_INFLIGHT_BYTES_MAX,
  PUT_SMALL_INFLIGHT_MAX,
  REPLICA_READ_TIMEOUT_MS,
  REPLICA_SEAL_TIMEOUT_MS,
  REPLICA_VERIFY_TIMEOUT_MS,
  REPLICA_WRITE_TIMEOUT_MS,
  WRITE_CHUNKS_INFLIGHT_MAX,
} from "./limits.ts";
import type { PeerClient, PeerClients } from "./peer-clients.ts";
import { Pipeline } from "./pipeline.ts";
import {
  decodeExtentState,
  decodeManifest,
  decodeSeal,
  decodeVerdict,
  encodeExtentKey,
  encodeOrigin,
  encodeSmall,
} from "./replica-codec.ts";

const LOST = "PEER_UNREACHABLE";

/** The chunk store of one peer. */
export class ReplicaClient implements ReplicaPort {
  readonly memberId: number;
  readonly #clients: PeerClients;
  readonly #clock: Clock;
  readonly #chunks: Pipeline<WriteChunksRequest, WriteChunksResponse, WriteChunksResponse>;
  readonly #smalls: Pipeline<PutSmallRequest, PutSmallResponse, PutSmallBatchResponse>;

  constructor(memberId: number, dependencies: { readonly clients: PeerClients; readonly clock: Clock }) {
    const { clients, clock } = dependencies;
    this.memberId = memberId;
    this.#clients = clients;
    this.#clock = clock;
    const shared = { clock, lostReason: LOST, peer: `member ${memberId}` } as const;
    this.#chunks = new Pipeline<WriteChunksRequest, WriteChunksResponse, WriteChunksResponse>({
      ...shared,
      open: (batches, signal) =>
        this.#peer().replica.writeChunks(flatten(batches), { signal, lostReason: LOST }),
      answersOf: (answer) => [answer],
      batchCountMax: 1,
      inflightMax: WRITE_CHUNKS_INFLIGHT_MAX,
      inflightBytesMax: WRITE_CHUNKS_INFLIGHT_MAX * CHUNK_SIZE_BYTES,
    });
    this.#smalls = new Pipeline<PutSmallRequest, PutSmallResponse, PutSmallBatchResponse>({
      ...shared,
      open: (batches, signal) =>
        this.#peer().replica.putSmallBatch(toPutMessages(batches), { signal, lostReason: LOST }),
      answersOf: (message) => message.answers,
      batchCountMax: BATCH_COUNT_MAX,
      inflightMax: PUT_SMALL_INFLIGHT_MAX,
      inflightBytesMax: PUT_SMALL_INFLIGHT_BYTES_MAX,
    });
  }

  #peer(): PeerClient {
    return this.#clients.get(this.memberId);
  }

  async openExtent(
    extent: ExtentKey,
    expectedSizeBytes: number | undefined,
    signal?: AbortSignal,
  ): Promise<void> {
    const expected = toOptionalBigint(expectedSizeBytes);
    const request = {
      extent: encodeExtentKey(extent),
      ...(expected !== undefined && { expectedSizeBytes: expected }),
    };
    await this.#peer().replica.openExtent(request, call(REPLICA_WRITE_TIMEOUT_MS, signal));
  }

  async writeChunk(
    extent: ExtentKey,
    chunkIndex: number,
    bytes: Uint8Array,
    digest: Uint8Array,
    signal?: AbortSignal,
  ): Promise<void> {
    const answer = await this.#chunks.request(
      (correlationId) =>
        create(WriteChunksRequestSchema, {
          correlationId,
          contentId: toBigint(extent.contentId),
          extentIndex: extent.extentIndex,
          chunkIndex,
          digest,
          data: bytes,
        }),
      { sizeBytes: bytes.length, timeoutMs: REPLICA_WRITE_TIMEOUT_MS, signal },
    );
    if (answer.failure !== undefined) throw decodeFailure(answer.failure);
  }

  async sealExtent(request: SealRequest, signal?: AbortSignal): Promise<Seal> {
    const { seal } = await this.#peer().replica.sealExtent(
      {
        extent: encodeExtentKey(request.extent),
        sizeBytes: toBigint(request.sizeBytes),
        origin: encodeOrigin(request.origin),
      },
      call(REPLICA_SEAL_TIMEOUT_MS, signal),
    );
    return this.#ownSeal(decodeSeal(seal));
  }

  async putSmall(small: SmallExtent, signal?: AbortSignal): Promise<Seal> {
    const { outcome } = await this.#smalls.request(
      (correlationId) => create(PutSmallRequestSchema, { correlationId, ...encodeSmall(small) }),
      { sizeBytes: small.bytes.length, timeoutMs: REPLICA_WRITE_TIMEOUT_MS, signal },
    );
    if (outcome.case === "failure") throw decodeFailure(outcome.value);
    return this.#ownSeal(decodeSeal(outcome.value));
  }

  async *read(
    extent: ExtentKey,
    offset: number,
    length: number,
    signal?: AbortSignal,
  ): AsyncIterable<Uint8Array> {
    const abort = new AbortController();
    const own = signal === undefined ? abort.signal : AbortSignal.any([signal, abort.signal]);
    const late = (): void =>
      abort.abort(
        new DriveError(LOST, `Member ${this.memberId} sends nothing.`, { member_id: String(this.memberId) }),
      );
    const request = { extent: encodeExtentKey(extent), offset: toBigint(offset), length: toBigint(length) };
    const pieces = this.#peer()
      .replica.read(request, { signal: own, lostReason: LOST })
      [Symbol.asyncIterator]();
    try {
      for (;;) {
        // The time runs while a piece is awaited, not while the reader works on one.
        const timer = this.#clock.setTimer(REPLICA_READ_TIMEOUT_MS, late);
        const next = await pieces.next().finally(() => timer.cancel());
        if (next.done === true) return;
        yield next.value.data;
      }
    } finally {
      await pieces.return?.();
    }
  }

  async chunkInfo(
    extent: ExtentKey,
    chunkIndex: number,
  ): Promise<{ readonly digest: Uint8Array; readonly sizeBytes: number }> {
    const request = { extent: encodeExtentKey(extent), chunkIndex };
    const { digest, sizeBytes } = await this.#peer().replica.getChunkInfo(
      request,
      call(REPLICA_READ_TIMEOUT_MS),
    );
    return { digest, sizeBytes };
  }

  async manifest(extent: ExtentKey): Promise<Manifest> {
    const request = { extent: encodeExtentKey(extent) };
    const { manifest } = await this.#peer().replica.getManifest(request, call(REPLICA_READ_TIMEOUT_MS));
    return decodeManifest(manifest);
  }

  async extentState(extent: ExtentKey): Promise<ExtentState> {
    const request = { extent: encodeExtentKey(extent) };
    return decodeExtentState(
      await this.#peer().replica.getExtentState(request, call(REPLICA_READ_TIMEOUT_MS)),
    );
  }

  async verifyExtent(extent: ExtentKey, signal?: AbortSignal): Promise<Seal> {
    const request = { extent: encodeExtentKey(extent) };
    const { seal } = await this.#peer().replica.verifyExtent(
      request,
      call(REPLICA_VERIFY_TIMEOUT_MS, signal),
    );
    return this.#ownSeal(decodeSeal(seal));
  }

  async verifyExtents(
    extents: readonly ExtentKey[],
    signal?: AbortSignal,
  ): Promise<readonly (Seal | DriveError)[]> {
    const { verdicts } = await this.#peer().replica.verifyExtents(
      { extents: extents.map(encodeExtentKey) },
      call(REPLICA_VERIFY_TIMEOUT_MS, signal),
    );
    if (verdicts.length !== extents.length) {
      throw new DriveError("INTERNAL", `${verdicts.length} verdicts on ${extents.length} extents.`);
    }
    return verdicts.map((verdict) => {
      const decoded = decodeVerdict(verdict);
      return decoded instanceof DriveError ? decoded : this.#ownSeal(decoded);
    });
  }

  async removeExtent(extent: ExtentKey): Promise<void> {
    await this.#peer().replica.removeExtent(
      { extent: encodeExtentKey(extent) },
      call(REPLICA_SEAL_TIMEOUT_MS),
    );
  }

  /** Ends the streams; calls in work fail. Idempotent. */
  stop(): void {
    this.#chunks.stop();
    this.#smalls.stop();
  }

  /** A seal is a promise of the member that gives it, so it must be that member's. */
  #ownSeal(seal: Seal): Seal {
    if (seal.memberId === this.memberId) return seal;
    throw new DriveError("WRONG_CLUSTER", `Member ${this.memberId} sent a seal of member ${seal.memberId}.`, {
      member_id: String(seal.memberId),
    });
  }
}

async function* flatten<T>(batches: AsyncIterable<readonly T[]>): AsyncIterable<T> {
  for await (const batch of batches) yield* batch;
}

async function* toPutMessages(
  batches: AsyncIterable<readonly PutSmallRequest[]>,
): AsyncIterable<{ puts: PutSmallRequest[] }> {
  for await (const batch of batches) yield { puts: [...batch] };
}

function call(timeoutMs: number, signal?: AbortSignal): CallOptions {
  return { timeoutMs, signal, lostReason: LOST };
}

/** Stores by member: this node's own one directly, the others over gRPC. */
export class GrpcReplicaPorts implements ReplicaPorts {
  readonly #own: ReplicaPort;
  readonly #knows: (memberId: number) => boolean;
  readonly #dependencies: { readonly clients: PeerClients; readonly clock: Clock };
  readonly #peers = new Map<number, ReplicaClient>();

  /** @param own this node's store */
  constructor(own: ReplicaPort, dependencies: { readonly clients: PeerClients; readonly clock: Clock }) {
    this.#own = own;
    this.#dependencies = dependencies;
    this.#knows = (memberId) => dependencies.clients.find(memberId) !== undefined;
  }

  forMember(memberId: number): ReplicaPort | undefined {
    if (memberId === this.#own.memberId) return this.#own;
    if (!this.#knows(memberId)) return undefined;
    if (!this.#peers.has(memberId)) {
      this.#peers.set(memberId, new ReplicaClient(memberId, this.#dependencies));
    }
    return must(this.#peers.get(memberId), "just made");
  }

  /** Ends the streams to all peers. Idempotent. */
  stop(): void {
    for (const peer of this.#peers.values()) peer.stop();
  }
}
