/**
 * The ports of a DriveNode to its peers, over the simulated network: Raft messages, forwarded proposals, heartbeats and the
 * verbs of chunk stores.
 *
 * Raft messages travel in their wire form and may be lost, doubled and reordered. Everything else is a call with the deadlines
 * and error reasons of the gRPC clients: a chunk store that cannot be reached is PEER_UNREACHABLE, a proposal that was on
 * its way when the connection broke is COMMIT_OUTCOME_UNKNOWN.
 */
import type { HeartbeatPort, NodeLoad } from "../../src/cluster/failure-detector-port.ts";
import { decodeMessage, decodeStateHash, encodeMessage, encodeStateHash } from "../../src/consensus/codec.ts";
import type { ProposalForwarder, RaftTransport } from "../../src/consensus/transport.ts";
import { DriveError } from "../../src/drive/errors.ts";
import type { DriveNode } from "../../src/node/drive-node.ts";
import type { ServingNode } from "../../src/node/serving-node.ts";
import type { Message } from "../../src/raft/types.ts";
import type { ReplicaPort } from "../../src/replication/replica-port.ts";
import type { SimNetwork } from "./sim-network.ts";
import type { SimProcess } from "./sim-scheduler.ts";

const WRITE_DEADLINE_MS = 15_000;
const READ_DEADLINE_MS = 10_000;
const SEAL_DEADLINE_MS = 60_000;
const SNAPSHOT_DEADLINE_MS = 60_000;
const ANSWER_GRACE_MS = 1_000;
const HEARTBEAT_DEADLINE_MS = 5_000;

/** One node's side of the network. */
export interface SimEndpoint {
  readonly network: SimNetwork;
  readonly clusterId: string;
  readonly memberId: number;
  readonly process: SimProcess;
  /** This node's own incarnation. */
  readonly self: () => DriveNode;
  /** The present incarnation of a voter; undefined while it is dead. */
  readonly nodeOf: (memberId: number) => DriveNode | undefined;
  /** The present incarnation of a member of either kind; undefined while it is dead. */
  readonly peerOf: (memberId: number) => ServingNode | undefined;
  /** Sees every Raft message as it leaves. */
  readonly onMessage: (message: Message) => void;
  /** Sees every Raft message just before the receiver takes it. */
  readonly onDelivery: (message: Message) => void;
}

/** The error of a connection that leads to nobody. */
export function unreachable(memberId: number): DriveError {
  return new DriveError("PEER_UNREACHABLE", `Member ${memberId} cannot be reached.`, {
    member_id: String(memberId),
  });
}

/** The voter, or the error of a connection that leads to nobody, or to one that does not talk to this member any more. */
export function reach(endpoint: SimEndpoint, memberId: number): DriveNode {
  return admitted(endpoint, memberId, endpoint.nodeOf(memberId));
}

/** The member of either kind, or that error. */
function reachPeer(endpoint: SimEndpoint, memberId: number): ServingNode {
  return admitted(endpoint, memberId, endpoint.peerOf(memberId));
}

function admitted<T extends ServingNode>(endpoint: SimEndpoint, memberId: number, node: T | undefined): T {
  if (node === undefined) throw unreachable(memberId);
  const from = endpoint.memberId;
  if (node.isRemoved(from)) {
    const metadata = { member_id: String(from) };
    throw new DriveError("MEMBER_REMOVED", `Member ${from} was removed from the cluster.`, metadata);
  }
  return node;
}

/** A call from a node to another. */
export function call<T>(
  endpoint: SimEndpoint,
  to: number,
  label: string,
  options: {
    readonly deadlineMs: number;
    readonly signal?: AbortSignal | undefined;
    readonly lost?: () => Error;
  },
  serve: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  return endpoint.network.call({
    from: endpoint.memberId,
    caller: endpoint.process,
    to,
    label: `${endpoint.memberId}>${to} ${label}`,
    deadlineMs: options.deadlineMs,
    signal: options.signal,
    serve: async (signal) => serve(signal),
    refused: () => unreachable(to),
    lost: options.lost ?? ((): Error => unreachable(to)),
  });
}

/** Raft messages, state hashes and snapshots. */
export function simRaftTransport(endpoint: SimEndpoint): RaftTransport {
  const { network, clusterId, memberId } = endpoint;
  const post = (to: number, label: string, deliver: () => void): void => {
    // Killed in the middle of a turn, the rest of which runs nevertheless: nothing of it leaves the machine.
    if (!endpoint.process.alive) return;
    network.send({
      from: memberId,
      to,
      label: `${memberId}>${to} ${label}`,
      deliver,
      refused: () => {
        endpoint.self().consensus.peerUnreachable(to);
        endpoint.self().consensus.peerDisconnected(to);
      },
    });
  };
  return {
    send: (messages) => {
      for (const message of messages) {
        if (!endpoint.process.alive) return;
        endpoint.onMessage(message);
        const bytes = encodeMessage(message);
        post(message.to, `${message.kind} ${message.term}/${message.index}`, () => {
          const receiver = endpoint.nodeOf(message.to);
          if (receiver === undefined || receiver.isRemoved(memberId)) return;
          endpoint.onDelivery(message);
          receiver.consensus.step(decodeMessage(bytes), clusterId);
        });
      }
    },
    sendStateHash: (to, stateHash) => {
      const bytes = encodeStateHash(stateHash);
      post(to, "state-hash", () => {
        endpoint.nodeOf(to)?.consensus.receiveStateHash(decodeStateHash(bytes), clusterId);
      });
    },
    sendSnapshot: async (message, pieces, signal) => {
      endpoint.onMessage(message);
      const bytes = encodeMessage(message);
      const source = pieces[Symbol.asyncIterator]();
      try {
        await call(
          endpoint,
          message.to,
          `snapshot ${message.snapshot?.metadata.index ?? 0}`,
          { deadlineMs: SNAPSHOT_DEADLINE_MS, signal },
          async () => {
            const receiver = reach(endpoint, message.to);
            const pulled = pull(endpoint, message.to, "snapshot piece", source);
            await receiver.consensus.receiveSnapshot(decodeMessage(bytes), clusterId, pulled);
          },
        );
      } finally {
        await source.return?.();
      }
    },
  };
}

/** What the receiver at `to` reads from an iterator in the process of `endpoint`: one call per piece, the other way round. */
async function* pull(
  endpoint: SimEndpoint,
  to: number,
  label: string,
  source: AsyncIterator<Uint8Array>,
): AsyncGenerator<Uint8Array, void, undefined> {
  const { network, memberId } = endpoint;
  for (;;) {
    const caller = network.processOf(to);
    if (caller === undefined) throw unreachable(memberId);
    const next = await network.call({
      from: to,
      caller,
      to: memberId,
      label: `${to}>${memberId} ${label}`,
      deadlineMs: READ_DEADLINE_MS,
      serve: async () => {
        if (!endpoint.process.alive) throw unreachable(memberId);
        return source.next();
      },
      refused: () => unreachable(memberId),
      lost: () => unreachable(memberId),
    });
    if (next.done === true) return;
    yield Uint8Array.from(next.value);
  }
}

/** Proposals on their way to the leader. */
export function simForwarder(endpoint: SimEndpoint): ProposalForwarder {
  return {
    propose: (leaderId, data, options) =>
      call(
        endpoint,
        leaderId,
        "propose",
        {
          deadlineMs: options.timeoutMs + ANSWER_GRACE_MS,
          signal: options.signal,
          lost: () => new DriveError("COMMIT_OUTCOME_UNKNOWN", "The connection to the leader broke."),
        },
        (signal) =>
          reach(endpoint, leaderId).consensus.handleForwarded(Uint8Array.from(data), {
            timeoutMs: options.timeoutMs,
            signal,
          }),
      ),
  };
}

/** Heartbeats. */
export function simHeartbeats(endpoint: SimEndpoint): HeartbeatPort {
  return {
    ping: (memberId, signal): Promise<NodeLoad> =>
      call(endpoint, memberId, "ping", { deadlineMs: HEARTBEAT_DEADLINE_MS, signal }, async () =>
        reachPeer(endpoint, memberId).load(),
      ),
  };
}

/** The chunk store of a peer. */
export function simPeerReplica(endpoint: SimEndpoint, memberId: number): ReplicaPort {
  const verb = <T>(
    label: string,
    deadlineMs: number,
    signal: AbortSignal | undefined,
    serve: (replica: ReplicaPort, signal: AbortSignal) => Promise<T>,
  ): Promise<T> =>
    call(endpoint, memberId, label, { deadlineMs, signal }, (inner) =>
      serve(reachPeer(endpoint, memberId).replica, inner),
    );
  const keyOf = (extent: { readonly contentId: number; readonly extentIndex: number }): string =>
    `${extent.contentId}/${extent.extentIndex}`;
  return {
    memberId,
    openExtent: (extent, expected, signal) =>
      verb(`open ${keyOf(extent)}`, WRITE_DEADLINE_MS, signal, (replica, inner) =>
        replica.openExtent(extent, expected, inner),
      ),
    writeChunk: (extent, chunkIndex, bytes, digest, signal) =>
      verb(`write ${keyOf(extent)}/${chunkIndex}`, WRITE_DEADLINE_MS, signal, (replica, inner) =>
        replica.writeChunk(extent, chunkIndex, bytes, digest, inner),
      ),
    sealExtent: (request, signal) =>
      verb(`seal ${keyOf(request.extent)}`, SEAL_DEADLINE_MS, signal, (replica, inner) =>
        replica.sealExtent(request, inner),
      ),
    putSmall: (small, signal) =>
      verb(`put-small ${keyOf(small.extent)}`, WRITE_DEADLINE_MS, signal, (replica, inner) =>
        replica.putSmall(small, inner),
      ),
    read: (extent, offset, length, signal) =>
      readPieces(endpoint, memberId, `read ${keyOf(extent)}`, signal, (inner) =>
        reachPeer(endpoint, memberId).replica.read(extent, offset, length, inner),
      ),
    chunkInfo: (extent, chunkIndex) =>
      verb(`info ${keyOf(extent)}`, READ_DEADLINE_MS, undefined, (replica) =>
        replica.chunkInfo(extent, chunkIndex),
      ),
    manifest: (extent) =>
      verb(`manifest ${keyOf(extent)}`, READ_DEADLINE_MS, undefined, (replica) => replica.manifest(extent)),
    extentState: (extent) =>
      verb(`state ${keyOf(extent)}`, READ_DEADLINE_MS, undefined, (replica) => replica.extentState(extent)),
    verifyExtent: (extent, signal) =>
      verb(`verify ${keyOf(extent)}`, SEAL_DEADLINE_MS, signal, (replica, inner) =>
        replica.verifyExtent(extent, inner),
      ),
    verifyExtents: (extents, signal) =>
      verb(`verify ${extents.map(keyOf).join(" ")}`, SEAL_DEADLINE_MS, signal, (replica, inner) =>
        replica.verifyExtents(extents, inner),
      ),
    removeExtent: (extent) =>
      verb(`remove ${keyOf(extent)}`, SEAL_DEADLINE_MS, undefined, (replica) => replica.removeExtent(extent)),
  };
}

/** A stream of pieces from a peer: each piece is a call to the incarnation that the stream was opened on. */
async function* readPieces(
  endpoint: SimEndpoint,
  memberId: number,
  label: string,
  signal: AbortSignal | undefined,
  open: (signal: AbortSignal) => AsyncIterable<Uint8Array>,
): AsyncGenerator<Uint8Array, void, undefined> {
  let stream: { readonly node: ServingNode; readonly pieces: AsyncIterator<Uint8Array> } | undefined;
  const closing = new AbortController();
  try {
    for (;;) {
      const next = await call(endpoint, memberId, label, { deadlineMs: READ_DEADLINE_MS, signal }, () => {
        const node = reachPeer(endpoint, memberId);
        stream ??= { node, pieces: open(closing.signal)[Symbol.asyncIterator]() };
        if (stream.node !== node) throw unreachable(memberId);
        return stream.pieces.next();
      });
      if (next.done === true) return;
      yield Uint8Array.from(next.value);
    }
  } finally {
    closing.abort(new DriveError("CANCELED", "The stream was closed."));
  }
}
