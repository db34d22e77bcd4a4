/**
 * NodeService of netdisk.peer.v1: heartbeats, and the exchange by which nodes with empty data find each other.
 *
 * Ping is for members of the cluster alone; Describe answers anybody, because it is asked before there is a cluster.
 */
import { NodeService } from "../../gen/netdisk/peer/v1/node_service_pb.ts";
import type { NodeLoad } from "../cluster/failure-detector-port.ts";
import { toBigint } from "./codec.ts";
import { checkPeer, type IdentitySource } from "./peer-identity.ts";
import { service, type ServedService } from "./server-adapter.ts";

/** Who a node is, before and after it belongs to a cluster. */
export interface NodeDescription {
  /** True while its data directory is empty. */
  readonly empty: boolean;
  /** "" while it has none. */
  readonly clusterId: string;
  readonly memberId: number;
  readonly nodeId: string;
  /** host:port under which it wants to be reached. */
  readonly address: string;
  /** Addresses of all nodes it was told to form a cluster with, itself included, ascending. */
  readonly peerAddresses: readonly string[];
  /** The cluster that it proposes or has accepted. */
  readonly proposedCluster: ProposedCluster | undefined;
}

/** A cluster as proposed to nodes that have none. */
export interface ProposedCluster {
  readonly clusterId: string;
  readonly members: readonly { readonly address: string; readonly memberId: number }[];
}

/** What the service needs; each source throws NODE_STARTING while there is nothing to give. */
export interface NodeServiceOptions {
  readonly identity: IdentitySource;
  readonly load: () => NodeLoad;
  readonly describe: () => NodeDescription;
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
      const { proposedCluster, ...own } = options.describe();
      return {
        ...own,
        memberId: toBigint(own.memberId),
        peerAddresses: [...own.peerAddresses],
        ...(proposedCluster && {
          proposedCluster: {
            clusterId: proposedCluster.clusterId,
            members: proposedCluster.members.map(({ address, memberId }) => ({
              address,
              memberId: toBigint(memberId),
            })),
          },
        }),
      };
    },
  });
}
