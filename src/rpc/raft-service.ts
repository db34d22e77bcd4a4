/**
 * RaftService of netdisk.peer.v1: takes Raft messages, votes, snapshots and forwarded proposals from peers.
 *
 * Every call is checked to be of this cluster and meant for this member (peer-identity.ts) before anything is decoded, and a
 * message must come from the member that sends it.
 */
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import {
  GetStatusResponseSchema,
  ProgressState,
  ProposeResponseSchema,
  RaftRole,
  RaftService,
  type InstallSnapshotRequest,
  type ProposeBatchRequest,
  type ProposeRequest,
  type ProposeResponse,
  type StreamRequest,
} from "../../gen/netdisk/peer/v1/raft_service_pb.ts";
import { decodeMessage, decodeStateHash } from "../consensus/codec.ts";
import type { PeerHandler } from "../consensus/transport.ts";
import { WireFormatError } from "../consensus/wire-format.ts";
import { DriveError } from "../drive/errors.ts";
import { COMMAND_SIZE_BYTES_MAX } from "../drive/limits.ts";
import type { Message, Role } from "../raft/types.ts";
import { refuseField, toBigint, toNumber } from "../contract/codec.ts";
import { answerInParallel } from "./answer-in-parallel.ts";
import { encodeFailure } from "./error-codec.ts";
import {
  BATCH_COUNT_MAX,
  FRAME_DATA_SIZE_BYTES_MAX,
  PROPOSALS_INFLIGHT_MAX,
  RAFT_CONFIRM_COUNT,
  RAFT_QUEUE_BYTES_MAX,
} from "./limits.ts";
import { checkPeer, hasPeerHeaders, type IdentitySource, type PeerIdentity } from "./peer-identity.ts";
import { service, type ServedService, type ServerCall } from "./server-adapter.ts";

/** The state of Raft as GetStatus tells it. */
export interface RaftStatus {
  readonly role: Role;
  readonly term: number;
  /** 0 when none is known. */
  readonly leaderId: number;
  readonly commitIndex: number;
  readonly appliedIndex: number;
  readonly firstIndex: number;
  readonly lastIndex: number;
  readonly voterIds: readonly number[];
  readonly learnerIds: readonly number[];
  /** The leader's view of the others; empty elsewhere. */
  readonly progress: readonly {
    readonly memberId: number;
    readonly matchIndex: number;
    readonly nextIndex: number;
    readonly state: "probe" | "replicate" | "snapshot";
    readonly recentlyActive: boolean;
  }[];
  /** The hash of the state after an index that was applied not long ago, equal on all members; else undefined. */
  readonly stateHashAt: (index: number) => { readonly term: number; readonly hash: Uint8Array } | undefined;
}

/** What the service needs; each source throws NODE_STARTING while there is nothing to give. */
export interface RaftServiceOptions {
  readonly identity: IdentitySource;
  readonly handler: () => PeerHandler;
  readonly status: () => RaftStatus;
}

const ROLES: Readonly<Record<Role, RaftRole>> = {
  follower: RaftRole.FOLLOWER,
  "pre-candidate": RaftRole.PRE_CANDIDATE,
  candidate: RaftRole.CANDIDATE,
  leader: RaftRole.LEADER,
};

const STATES = {
  probe: ProgressState.PROBE,
  replicate: ProgressState.REPLICATE,
  snapshot: ProgressState.SNAPSHOT,
};

/** The service over the consensus of this node. */
export function raftService(options: RaftServiceOptions): ServedService {
  return service(RaftService, {
    stream: (requests, call) => takeStream(options, requests, call),
    vote(request, call) {
      const from = checkPeer(call, options.identity());
      options.handler().step(parseMessage(request.message, from), from.clusterId);
      return {};
    },
    async installSnapshot(requests, call) {
      const from = checkPeer(call, options.identity());
      return { receivedSizeBytes: toBigint(await takeSnapshot(options, requests, from)) };
    },
    proposeBatch: (requests, call) => takeProposals(options, requests, call),
    getStatus(request, call) {
      const self = options.identity();
      if (hasPeerHeaders(call)) checkPeer(call, self);
      return encodeRaftStatus(self, options.status(), toNumber(request.hashIndex, "hash_index"));
    },
  });
}

function parseMessage(bytes: Uint8Array, from: PeerIdentity): Message {
  const message = orInvalid(() => decodeMessage(bytes));
  if (message.from !== from.memberId) {
    throw new DriveError(
      "ARGUMENT_INVALID",
      `Member ${from.memberId} sent a message from member ${message.from}.`,
      { member_id: String(from.memberId) },
    );
  }
  return message;
}

function orInvalid<T>(decode: () => T): T {
  try {
    return decode();
  } catch (error) {
    if (!(error instanceof WireFormatError)) throw error;
    throw new DriveError("ARGUMENT_INVALID", `Not a Raft message: ${error.message}`, {}, error);
  }
}

async function* takeStream(
  options: RaftServiceOptions,
  requests: AsyncIterable<StreamRequest>,
  call: ServerCall,
): AsyncIterable<{ memberId: bigint; receivedCount: bigint }> {
  const self = options.identity();
  const from = checkPeer(call, self);
  const handler = options.handler();
  const memberId = toBigint(self.memberId);
  yield { memberId, receivedCount: 0n };
  let received = 0;
  let confirmed = 0;
  for await (const request of requests) {
    for (const bytes of request.messages) handler.step(parseMessage(bytes, from), from.clusterId);
    for (const bytes of request.stateHashes) {
      handler.receiveStateHash(
        orInvalid(() => decodeStateHash(bytes)),
        from.clusterId,
      );
    }
    received += request.messages.length;
    if (received - confirmed < RAFT_CONFIRM_COUNT) continue;
    confirmed = received;
    yield { memberId, receivedCount: toBigint(received) };
  }
}

async function takeSnapshot(
  options: RaftServiceOptions,
  requests: AsyncIterable<InstallSnapshotRequest>,
  from: PeerIdentity,
): Promise<number> {
  const iterator = requests[Symbol.asyncIterator]();
  const first = await iterator.next();
  if (first.done === true) return refuseField("message", "is required on the first request");
  const message = parseMessage(first.value.message, from);
  let received = 0;
  let finished = false;
  const pieces = async function* (): AsyncIterable<Uint8Array> {
    for (let next = await iterator.next(); next.done !== true; next = await iterator.next()) {
      const { data } = next.value;
      const offset = toNumber(next.value.offset, "offset");
      if (data.length > FRAME_DATA_SIZE_BYTES_MAX) refuseField("data", `has ${data.length} bytes`);
      if (offset !== received) {
        throw new DriveError("UPLOAD_OFFSET_MISMATCH", `A piece at ${offset} came; ${received} is next.`, {
          offset: String(offset),
          expected_offset: String(received),
        });
      }
      received += data.length;
      finished = next.value.finish;
      if (data.length > 0) yield data;
    }
    if (!finished)
      throw new DriveError("PAYLOAD_TRUNCATED", `The snapshot was cut off after ${received} bytes.`);
  };
  await options.handler().receiveSnapshot(message, from.clusterId, pieces());
  return received;
}

/** Answers proposals in the order in which they are done; at most PROPOSALS_INFLIGHT_MAX are in work. */
function takeProposals(
  options: RaftServiceOptions,
  requests: AsyncIterable<ProposeBatchRequest>,
  call: ServerCall,
): AsyncIterable<{ answers: ProposeResponse[] }> {
  checkPeer(call, options.identity());
  const handler = options.handler();
  return answerInParallel(requests, call, {
    countMax: PROPOSALS_INFLIGHT_MAX,
    bytesMax: RAFT_QUEUE_BYTES_MAX,
    answerCountMax: BATCH_COUNT_MAX,
    requestsOf: ({ proposals }) => proposals,
    sizeOf: ({ command }) => command.length,
    work: (request) => propose(handler, request, call.signal),
    toMessage: (answers) => ({ answers: [...answers] }),
  });
}

async function propose(
  handler: PeerHandler,
  request: ProposeRequest,
  signal: AbortSignal,
): Promise<ProposeResponse> {
  const { correlationId, command, timeoutMs } = request;
  try {
    if (command.length === 0 || command.length > COMMAND_SIZE_BYTES_MAX) {
      refuseField("command", `has ${command.length} bytes; 1 to ${COMMAND_SIZE_BYTES_MAX} are allowed`);
    }
    if (timeoutMs === 0) refuseField("timeout_ms", "is 0");
    const { index, result } = await handler.handleForwarded(command, { timeoutMs, signal });
    const applied = { index: toBigint(index), result };
    return create(ProposeResponseSchema, { correlationId, outcome: { case: "applied", value: applied } });
  } catch (error) {
    if (!(error instanceof DriveError)) throw error;
    const value = encodeFailure(error);
    return create(ProposeResponseSchema, { correlationId, outcome: { case: "failure", value } });
  }
}

function encodeRaftStatus(
  self: PeerIdentity,
  status: RaftStatus,
  wantedHashIndex: number,
): MessageInitShape<typeof GetStatusResponseSchema> {
  const hashIndex = wantedHashIndex === 0 ? status.appliedIndex : wantedHashIndex;
  const stateHash = status.stateHashAt(hashIndex);
  return {
    clusterId: self.clusterId,
    memberId: toBigint(self.memberId),
    role: ROLES[status.role],
    term: toBigint(status.term),
    leaderId: toBigint(status.leaderId),
    commitIndex: toBigint(status.commitIndex),
    appliedIndex: toBigint(status.appliedIndex),
    firstIndex: toBigint(status.firstIndex),
    lastIndex: toBigint(status.lastIndex),
    voterIds: status.voterIds.map(toBigint),
    learnerIds: status.learnerIds.map(toBigint),
    progress: status.progress.map((each) => ({
      memberId: toBigint(each.memberId),
      matchIndex: toBigint(each.matchIndex),
      nextIndex: toBigint(each.nextIndex),
      state: STATES[each.state],
      recentlyActive: each.recentlyActive,
    })),
    hashIndex: toBigint(hashIndex),
    hashTerm: toBigint(stateHash?.term ?? 0),
    stateHash: stateHash?.hash ?? new Uint8Array(0),
  };
}
