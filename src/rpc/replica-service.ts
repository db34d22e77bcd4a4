/**
 * ReplicaService of netdisk.peer.v1 over this node's own ReplicaPort.
 *
 * Every call is checked to be of this cluster and meant for this member before it touches the store. Writes of one stream run
 * in parallel up to the bounds of the contract; then the stream is not read, which holds the sender back.
 */
import { create } from "@bufbuild/protobuf";
import {
  PutSmallResponseSchema,
  ReplicaService,
  WriteChunksResponseSchema,
  type PutSmallRequest,
  type PutSmallResponse,
  type WriteChunksRequest,
  type WriteChunksResponse,
} from "../../gen/netdisk/peer/v1/replica_service_pb.ts";
import { DriveError } from "../drive/errors.ts";
import { CHUNK_SIZE_BYTES } from "../drive/limits.ts";
import type { ReplicaPort } from "../replication/replica-port.ts";
import { must } from "../std/assert.ts";
import { toNumber, toOptionalNumber } from "../contract/codec.ts";
import { answerInParallel } from "./answer-in-parallel.ts";
import { encodeFailure } from "./error-codec.ts";
import {
  BATCH_COUNT_MAX,
  PUT_SMALL_INFLIGHT_BYTES_MAX,
  PUT_SMALL_INFLIGHT_MAX,
  WRITE_CHUNKS_INFLIGHT_MAX,
} from "./limits.ts";
import { checkPeer, type IdentitySource } from "./peer-identity.ts";
import {
  checkChunk,
  decodeExtentKey,
  decodeOrigin,
  decodeSmall,
  encodeExtentState,
  encodeManifest,
  encodeSeal,
  encodeVerdict,
} from "./replica-codec.ts";
import { service, type ServedService, type ServerCall } from "./server-adapter.ts";

/** What the service needs; each source throws NODE_STARTING while there is nothing to give. */
export interface ReplicaServiceOptions {
  readonly identity: IdentitySource;
  /** This node's own store. */
  readonly replica: () => ReplicaPort;
}

/** The service over the chunk store of this node. */
export function replicaService(options: ReplicaServiceOptions): ServedService {
  const own = (call: ServerCall): ReplicaPort => {
    checkPeer(call, options.identity());
    return options.replica();
  };
  return service(ReplicaService, {
    async openExtent(request, call) {
      const expected = toOptionalNumber(request.expectedSizeBytes, "expected_size_bytes");
      await own(call).openExtent(decodeExtentKey(request.extent), expected, call.signal);
      return {};
    },
    writeChunks(requests, call) {
      const replica = own(call);
      return answerInParallel(requests, call, {
        countMax: WRITE_CHUNKS_INFLIGHT_MAX,
        bytesMax: WRITE_CHUNKS_INFLIGHT_MAX * CHUNK_SIZE_BYTES,
        answerCountMax: 1,
        requestsOf: (request) => [request],
        sizeOf: ({ data }) => data.length,
        work: (request) => writeChunk(replica, request, call.signal),
        toMessage: ([answer]) => must(answer, "a message has an answer"),
      });
    },
    async sealExtent(request, call) {
      const seal = await own(call).sealExtent(
        {
          extent: decodeExtentKey(request.extent),
          sizeBytes: toNumber(request.sizeBytes, "size_bytes"),
          origin: decodeOrigin(request.origin),
        },
        call.signal,
      );
      return { seal: encodeSeal(seal) };
    },
    putSmallBatch(requests, call) {
      const replica = own(call);
      return answerInParallel(requests, call, {
        countMax: PUT_SMALL_INFLIGHT_MAX,
        bytesMax: PUT_SMALL_INFLIGHT_BYTES_MAX,
        answerCountMax: BATCH_COUNT_MAX,
        requestsOf: ({ puts }) => puts,
        sizeOf: ({ data }) => data.length,
        work: (request) => putSmall(replica, request, call.signal),
        toMessage: (answers) => ({ answers: [...answers] }),
      });
    },
    async *read(request, call) {
      const extent = decodeExtentKey(request.extent);
      const offset = toNumber(request.offset, "offset");
      const length = toNumber(request.length, "length");
      for await (const data of own(call).read(extent, offset, length, call.signal)) yield { data };
    },
    async getExtentState(request, call) {
      return encodeExtentState(await own(call).extentState(decodeExtentKey(request.extent)));
    },
    async getManifest(request, call) {
      return { manifest: encodeManifest(await own(call).manifest(decodeExtentKey(request.extent))) };
    },
    async getChunkInfo(request, call) {
      return own(call).chunkInfo(decodeExtentKey(request.extent), request.chunkIndex);
    },
    async verifyExtent(request, call) {
      const seal = await own(call).verifyExtent(decodeExtentKey(request.extent), call.signal);
      return { seal: encodeSeal(seal) };
    },
    async verifyExtents({ extents }, call) {
      const verdicts = await own(call).verifyExtents(extents.map(decodeExtentKey), call.signal);
      return { verdicts: verdicts.map(encodeVerdict) };
    },
    async removeExtent(request, call) {
      await own(call).removeExtent(decodeExtentKey(request.extent));
      return {};
    },
  });
}

async function writeChunk(
  replica: ReplicaPort,
  request: WriteChunksRequest,
  signal: AbortSignal,
): Promise<WriteChunksResponse> {
  const { correlationId, chunkIndex, digest, data } = request;
  try {
    checkChunk(request);
    const extent = {
      contentId: toNumber(request.contentId, "content_id"),
      extentIndex: request.extentIndex,
    };
    await replica.writeChunk(extent, chunkIndex, data, digest, signal);
    return create(WriteChunksResponseSchema, { correlationId });
  } catch (error) {
    if (!(error instanceof DriveError)) throw error;
    return create(WriteChunksResponseSchema, { correlationId, failure: encodeFailure(error) });
  }
}

async function putSmall(
  replica: ReplicaPort,
  request: PutSmallRequest,
  signal: AbortSignal,
): Promise<PutSmallResponse> {
  const { correlationId } = request;
  try {
    const seal = encodeSeal(await replica.putSmall(decodeSmall(request), signal));
    return create(PutSmallResponseSchema, { correlationId, outcome: { case: "seal", value: seal } });
  } catch (error) {
    if (!(error instanceof DriveError)) throw error;
    const value = encodeFailure(error);
    return create(PutSmallResponseSchema, { correlationId, outcome: { case: "failure", value } });
  }
}
