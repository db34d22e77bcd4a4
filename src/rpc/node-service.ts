/**
 * NodeService of netdisk.peer.v1: heartbeats, and the exchange by which nodes with empty data find each other.
 *
 * Ping is for members of the cluster alone; Describe answers anybody, because it is asked before there is a cluster, and Join
 * anybody who has a token.
 */
import { encodeBrake } from "./brake-codec.ts";
import { decodeLevels } from "./levels-codec.ts";
import { NodeService } from "../../gen/netdisk/peer/v1/node_service_pb.ts";
import type { ClusterProposal, FoundingMember } from "../cluster/bootstrap-identity.ts";
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
        collectionBrake: encodeBrake(load.collectionBrake),
        ...(load.featureLevels !== undefined && { featureLevels: load.featureLevels }),
      };
    },
    describe() {
      const { empty, formed, nodeId, memberId, address, addresses, cluster, featureLevels } =
        options.describe();
      return {
        empty,
        formed,
        nodeId,
        memberId: toBigint(memberId),
        address,
        peerAddresses: [...addresses],
        clusterId: formed ? (cluster?.clusterId ?? "") : "",
        ...(cluster !== undefined && { proposedCluster: encodeCluster(cluster) }),
        ...(featureLevels !== undefined && { featureLevels }),
      };
    },
    async join(request, call) {
      const { token, nodeId, address } = request;
      const memberId = toNumber(request.memberId, "member_id");
      const featureLevels = decodeLevels(request.featureLevels);
      const asked = { token, memberId, nodeId, address, featureLevels };
      const { cluster, members } = await options.join(asked, call.signal);
      return {
        cluster: encodeCluster(cluster),
        members: encodeMembers(members),
      };
    },
  });
}

function encodeCluster({ clusterId, members, featureLevel }: ClusterProposal) {
  return {
    clusterId,
    members: encodeMembers(members),
    ...(featureLevel !== undefined && { featureLevel }),
  };
}

function encodeMembers(members: readonly FoundingMember[]) {
  return members.map(({ address, memberId }) => ({ address, memberId: toBigint(memberId) }));
}
