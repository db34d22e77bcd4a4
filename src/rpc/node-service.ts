/**
 * NodeService of netdisk.peer.v1: heartbeats, and the exchange by which nodes with empty data find each other.
 *
 * Ping is for members of the cluster alone; Describe answers anybody, because it is asked before there is a cluster.
 */
import { NodeService } from "../../gen/netdisk/peer/v1/node_service_pb.ts";
import type { BootstrapReport } from "../cluster/bootstrap-rule.ts";
import type { NodeLoad } from "../cluster/failure-detector-port.ts";
import { toBigint } from "../contract/codec.ts";
import { checkPeer, type IdentitySource } from "./peer-identity.ts";
import { service, type ServedService } from "./server-adapter.ts";

/** What the service needs; each source throws NODE_STARTING while there is nothing to give. */
export interface NodeServiceOptions {
  readonly identity: IdentitySource;
  readonly load: () => NodeLoad;
  readonly describe: () => BootstrapReport;
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
          proposedCluster: {
            clusterId: cluster.clusterId,
            members: cluster.members.map((member) => ({
              address: member.address,
              memberId: toBigint(member.memberId),
            })),
          },
        }),
      };
    },
  });
}
