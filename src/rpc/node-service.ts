/**
 * NodeService of netdisk.peer.v1: heartbeats, and the exchange by which nodes with empty data find each other.
 *
 * Ping is for members of the cluster alone; Describe answers anybody, because it is asked before there is a cluster, and Join
 * anybody who has a token.
 */
import { NodeService } from "../../gen/netdisk/peer/v1/node_service_pb.ts";
import type { FoundingMember } from "../cluster/bootstrap-identity.ts";
import type { BootstrapReport } from "../cluster/bootstrap-rule.ts";
import type { JoinAnswer } from "../cluster/join.ts";
import type { JoinRequest } from "../cluster/membership.ts";
import type { NodeLoad } from "../cluster/failure-detector-port.ts";
import { toBigint, toNumber } from "../contract/codec.ts";
import { checkPeer, type IdentitySource } from "./peer-identity.ts";
import { service, type ServedService } from "./server-adapter.ts";

/** What the service needs; each source throws NODE_STARTING while there is nothing to give. */
export interface NodeServiceOptions {
  readonly identity: IdentitySource;
  readonly load: () => NodeLoad;
  readonly describe: () => BootstrapReport;
  /** Admits a node that has a token. */
  readonly join: (request: JoinRequest, signal: AbortSignal) => Promise<JoinAnswer>;
}

/** The service over what this node knows of itself. */
export function nodeService(options: NodeServiceOptions): ServedService {
  return service(NodeService, {
    ping(_, call) {
      checkPeer(call, options.identity());
      const load = options.load();
      return {
        freeBytes: toBigint(load.freeBytes),
        totalBytes: toBigint(load.totalBytes),
        liveBytes: toBigint(load.liveBytes),
        writesRefused: load.writesRefused,
        inflightBytes: toBigint(load.inflightBytes),
        appliedIndex: toBigint(load.appliedIndex),
        repairBytesPerSecond: toBigint(Math.round(load.repairBytesPerSecond)),
        quarantinedCount: toBigint(load.quarantinedCount),
        ...(load.scrubProgress !== undefined && { scrubProgressPpm: Math.round(load.scrubProgress * 1e6) }),
      };
    },
    describe() {
      const { empty, formed, nodeId, memberId, address, addresses, cluster } = options.describe();
      return {
        empty,
        formed,
        nodeId,
        memberId: toBigint(memberId),
        address,
        peerAddresses: [...addresses],
        clusterId: formed ? (cluster?.clusterId ?? "") : "",
        ...(cluster !== undefined && {
          proposedCluster: { clusterId: cluster.clusterId, members: encodeMembers(cluster.members) },
        }),
      };
    },
    async join(request, call) {
      const { token, nodeId, address } = request;
      const memberId = toNumber(request.memberId, "member_id");
      const { cluster, members } = await options.join({ token, memberId, nodeId, address }, call.signal);
      return {
        cluster: { clusterId: cluster.clusterId, members: encodeMembers(cluster.members) },
        members: encodeMembers(members),
      };
    },
  });
}

function encodeMembers(members: readonly FoundingMember[]) {
  return members.map(({ address, memberId }) => ({ address, memberId: toBigint(memberId) }));
}
