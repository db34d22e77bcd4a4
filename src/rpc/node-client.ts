/**
 * The calling side of NodeService: heartbeats to members, and asking an address who is there.
 */
import { decodeBrake } from "./brake-codec.ts";
import { decodeLevels } from "./levels-codec.ts";
import {
  NodeService,
  type ProposedCluster as WireCluster,
  type ProposedMember as WireMember,
} from "../../gen/netdisk/peer/v1/node_service_pb.ts";
import type { ClusterProposal, FoundingMember } from "../cluster/bootstrap-identity.ts";
import type { BootstrapReport } from "../cluster/bootstrap-rule.ts";
import type { HeartbeatPort, NodeLoad } from "../cluster/failure-detector-port.ts";
import type { JoinAnswer } from "../cluster/join.ts";
import type { JoinRequest } from "../cluster/membership.ts";
import { DriveError } from "../drive/errors.ts";
import type { Clock } from "../std/clock.ts";
import type { ChannelPool } from "./channel-pool.ts";
import { createGrpcClient } from "./client-adapter.ts";
import { toNumber } from "../contract/codec.ts";
import { CONNECT_TIMEOUT_MS } from "./limits.ts";
import type { PeerClients } from "./peer-clients.ts";

/** How long a node is asked to be admitted before the next one is: a commit at a cluster that elects a leader meanwhile. */
const JOIN_CALL_TIMEOUT_MS = 10_000;

/** Heartbeats over gRPC. */
export class GrpcHeartbeat implements HeartbeatPort {
  readonly #clients: PeerClients;

  constructor(clients: PeerClients) {
    this.#clients = clients;
  }

  async ping(memberId: number, signal: AbortSignal): Promise<NodeLoad> {
    const load = await this.#clients.get(memberId).node.ping({}, { signal });
    return {
      freeBytes: toNumber(load.freeBytes, "free_bytes"),
      totalBytes: toNumber(load.totalBytes, "total_bytes"),
      liveBytes: toNumber(load.liveBytes, "live_bytes"),
      writesRefused: load.writesRefused,
      inflightBytes: toNumber(load.inflightBytes, "inflight_bytes"),
      appliedIndex: toNumber(load.appliedIndex, "applied_index"),
      repairBytesPerSecond: toNumber(load.repairBytesPerSecond, "repair_bytes_per_second"),
      quarantinedCount: toNumber(load.quarantinedCount, "quarantined_count"),
      scrubProgress: load.scrubProgressPpm === undefined ? undefined : load.scrubProgressPpm / 1e6,
      collectionBrake: decodeBrake(load.collectionBrake),
      featureLevels: decodeLevels(load.featureLevels),
    };
  }
}

/** Settings of describeNode(). */
export interface DescribeOptions {
  readonly pool: ChannelPool;
  readonly clock: Clock;
  readonly timeoutMs?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Asks the node at `address` who it is.
 * @throws DriveError PEER_UNREACHABLE, NODE_STARTING, NODE_STOPPING
 */
export async function describeNode(address: string, options: DescribeOptions): Promise<BootstrapReport> {
  const { pool, clock, signal, timeoutMs = CONNECT_TIMEOUT_MS } = options;
  const channel = pool.channel(address, "control");
  const client = createGrpcClient(NodeService, { channel, clock, address });
  const answer = await client.describe({}, { timeoutMs, signal });
  const { proposedCluster } = answer;
  return {
    empty: answer.empty,
    formed: answer.formed,
    nodeId: answer.nodeId,
    memberId: toNumber(answer.memberId, "member_id"),
    address: answer.address,
    addresses: answer.peerAddresses,
    ...(proposedCluster !== undefined && { cluster: decodeCluster(proposedCluster) }),
    featureLevels: decodeLevels(answer.featureLevels),
  };
}

/**
 * Asks the node at `address` to admit this one.
 * @throws DriveError the reasons of NodeService.Join; PEER_UNREACHABLE, COMMIT_OUTCOME_UNKNOWN: ask again
 */
export async function joinCluster(
  address: string,
  request: JoinRequest,
  options: DescribeOptions,
): Promise<JoinAnswer> {
  const { pool, clock, signal, timeoutMs = JOIN_CALL_TIMEOUT_MS } = options;
  const channel = pool.channel(address, "control");
  const client = createGrpcClient(NodeService, { channel, clock, address });
  const { token, nodeId, featureLevels } = request;
  const message = {
    ...{ token, nodeId, address: request.address, memberId: BigInt(request.memberId) },
    ...(featureLevels !== undefined && { featureLevels }),
  };
  const { cluster, members } = await client.join(message, { timeoutMs, signal });
  if (cluster === undefined) throw new DriveError("INTERNAL", `The node at ${address} named no cluster.`);
  return { cluster: decodeCluster(cluster), members: members.map(decodeMember) };
}

function decodeCluster(cluster: WireCluster): ClusterProposal {
  const { clusterId, featureLevel } = cluster;
  const members = cluster.members.map(decodeMember);
  return featureLevel === undefined ? { clusterId, members } : { clusterId, members, featureLevel };
}

function decodeMember({ address, memberId }: WireMember): FoundingMember {
  return { address, memberId: toNumber(memberId, "member_id") };
}
