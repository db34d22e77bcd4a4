/**
 * The calling side of NodeService: heartbeats to members, and asking an address who is there.
 */
import { NodeService } from "../../gen/netdisk/peer/v1/node_service_pb.ts";
import type { BootstrapReport } from "../cluster/bootstrap-rule.ts";
import type { HeartbeatPort, NodeLoad } from "../cluster/failure-detector-port.ts";
import type { Clock } from "../std/clock.ts";
import type { ChannelPool } from "./channel-pool.ts";
import { createGrpcClient } from "./client-adapter.ts";
import { toNumber } from "../contract/codec.ts";
import { CONNECT_TIMEOUT_MS } from "./limits.ts";
import type { PeerClients } from "./peer-clients.ts";

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
    ...(proposedCluster !== undefined && {
      cluster: {
        clusterId: proposedCluster.clusterId,
        members: proposedCluster.members.map((member) => ({
          address: member.address,
          memberId: toNumber(member.memberId, "member_id"),
        })),
      },
    }),
  };
}
