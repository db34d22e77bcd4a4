/**
 * The ports between consensus and the network: what it sends, and what it expects to be handed.
 *
 * rpc/ implements them over grpc-js, the simulator over virtual links. A transport may lose, delay, duplicate and (between
 * different links) reorder; it must not corrupt and must not deliver to a member of another cluster: it puts the cluster id
 * it was built with on every frame and hands the sender's to the handler, which refuses a foreign one.
 */
import type { MemberId, Message } from "../raft/types.ts";
import type { StateHash } from "./codec.ts";

/** Bytes of one piece of a streamed snapshot at most. */
export const SNAPSHOT_PIECE_SIZE_BYTES_MAX = 1024 * 1024;

/** The way out. Nothing here throws for a peer that cannot be reached. */
export interface RaftTransport {
  /**
   * Sends each message to its `to`. Messages to one member keep their order; when its queue is full the transport drops
   * them and calls PeerHandler.peerUnreachable(). Never blocks. Messages of kind "snapshot" never come this way.
   */
  send(messages: readonly Message[]): void;

  /** Sends a state hash, to be handed to PeerHandler.receiveStateHash(). May be lost. */
  sendStateHash(to: MemberId, stateHash: StateHash): void;

  /**
   * Streams a snapshot: `message` (kind "snapshot") first, then the pieces in order, each at most
   * SNAPSHOT_PIECE_SIZE_BYTES_MAX, pulled no faster than they are taken (back-pressure). Resolves once the receiver's
   * receiveSnapshot() resolved; rejects on any failure there or on the way. The signal ends it.
   */
  sendSnapshot(message: Message, pieces: AsyncIterable<Uint8Array>, signal: AbortSignal): Promise<void>;
}

/** The way in: what a transport calls. Implemented by Consensus. */
export interface PeerHandler {
  /**
   * Takes a message from the network.
   * @throws DriveError WRONG_CLUSTER when `clusterId` is another one: the transport closes the connection
   */
  step(message: Message, clusterId: string): void;

  /** Takes a state hash from the network. Throws as step(). */
  receiveStateHash(stateHash: StateHash, clusterId: string): void;

  /**
   * Takes a streamed snapshot; see RaftTransport.sendSnapshot(). Resolves once it is stored and checked locally and handed
   * to the core; that it is installed is reported to the leader by the core.
   * @throws DriveError WRONG_CLUSTER, OVERLOADED (another one is being received), DATA_CORRUPT, NODE_STOPPING, NO_SPACE
   */
  receiveSnapshot(message: Message, clusterId: string, pieces: AsyncIterable<Uint8Array>): Promise<void>;

  /**
   * Takes a proposal that a follower forwards.
   * @param timeoutMs how long the follower still waits
   * @returns the index it was applied at and the encoded result
   * @throws DriveError NOT_LEADER (metadata `leader_id` when known), OVERLOADED, COMMIT_OUTCOME_UNKNOWN, NODE_STOPPING,
   *   ARGUMENT_INVALID, PAYLOAD_TOO_LARGE
   */
  handleForwarded(data: Uint8Array, options: ForwardOptions): Promise<ForwardedResult>;

  /** Hints that messages to the member were lost: the core goes back to probing it. */
  peerUnreachable(memberId: MemberId): void;

  /** Hints that an established connection to the member broke or is refused now; see failover.ts. */
  peerDisconnected(memberId: MemberId): void;
}

/** Options of a forwarded proposal. */
export interface ForwardOptions {
  /** How long to wait for the answer, in milliseconds, from 1. */
  readonly timeoutMs: number;
  readonly signal?: AbortSignal | undefined;
}

/** Answer to a forwarded proposal. */
export interface ForwardedResult {
  /** The index at which the command was applied. */
  readonly index: number;
  /** The result by the encodeResult() given to Consensus. */
  readonly result: Uint8Array;
}

/** How a follower takes a proposal to the leader. rpc/ implements it over one pipelined stream per peer. */
export interface ProposalForwarder {
  /**
   * Has the leader propose `data`, and waits for the answer of its handleForwarded().
   * @throws DriveError whatever handleForwarded() threw there; PEER_UNREACHABLE when it certainly was not sent;
   *   COMMIT_OUTCOME_UNKNOWN when the connection broke or the time was up after it was sent
   */
  propose(leaderId: MemberId, data: Uint8Array, options: ForwardOptions): Promise<ForwardedResult>;
}
