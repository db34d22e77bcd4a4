/**
 * Who calls whom between nodes: the metadata headers of every call among peers, and the check of them.
 *
 * An address may come to belong to another cluster's node, or to a node that was wiped and has a new member id. So each call
 * names the caller's cluster and member and the member that is meant, and each service compares before it does anything.
 */
import { DriveError } from "../drive/errors.ts";
import type { ServerCall } from "./server-adapter.ts";

const CLUSTER_HEADER = "netdisk-cluster-id";
const FROM_HEADER = "netdisk-member-id";
const TO_HEADER = "netdisk-to-member-id";
const PROCESS_HEADER = "netdisk-process-id";
const ADDRESS_HEADER = "netdisk-address";

/** A member of a cluster. */
export interface PeerIdentity {
  readonly clusterId: string;
  readonly memberId: number;
  /** Drawn by the process when it started; "" or absent when it does not say. */
  readonly processId?: string | undefined;
  /** host:port under which it wants to be reached; absent when it does not say. */
  readonly address?: string | undefined;
}

/** This node among its peers. */
export interface OwnIdentity extends PeerIdentity {
  /** Throws for a caller that must not be talked to; cluster/peer-guard.ts. */
  readonly checkCaller?: ((caller: PeerIdentity) => void) | undefined;
}

/** Gives this node's identity, or throws NODE_STARTING while it has none. */
export type IdentitySource = () => OwnIdentity;

/** Headers of a call from `self` to the member `toMemberId` of the same cluster. */
export function peerHeaders(self: PeerIdentity, toMemberId: number): Readonly<Record<string, string>> {
  return {
    [CLUSTER_HEADER]: self.clusterId,
    [FROM_HEADER]: String(self.memberId),
    [TO_HEADER]: String(toMemberId),
    ...(self.processId !== undefined && { [PROCESS_HEADER]: self.processId }),
    ...(self.address !== undefined && { [ADDRESS_HEADER]: self.address }),
  };
}

/** Whether the call names a cluster at all; operators' calls need not. */
export function hasPeerHeaders(call: ServerCall): boolean {
  return call.header(CLUSTER_HEADER) !== undefined;
}

/**
 * Checks that a call comes from a member of this cluster and is meant for this member.
 * @returns the caller
 * @throws DriveError MEMBER_REMOVED, MEMBER_DUPLICATED, WRONG_CLUSTER (metadata `cluster_id` and `member_id` of this node), ARGUMENT_INVALID for a malformed member id
 */
export function checkPeer(call: ServerCall, self: OwnIdentity): PeerIdentity {
  const clusterId = call.header(CLUSTER_HEADER);
  if (clusterId !== self.clusterId) {
    throw wrongCluster(self, `The caller is of cluster ${JSON.stringify(clusterId ?? "")}`);
  }
  const to = memberIdOf(call, TO_HEADER);
  if (to !== self.memberId) throw wrongCluster(self, `Member ${to} is meant`);
  const caller: PeerIdentity = {
    clusterId,
    memberId: memberIdOf(call, FROM_HEADER),
    processId: call.header(PROCESS_HEADER),
    address: call.header(ADDRESS_HEADER),
  };
  self.checkCaller?.(caller);
  return caller;
}

function wrongCluster(self: PeerIdentity, what: string): DriveError {
  return new DriveError(
    "WRONG_CLUSTER",
    `${what}; this is member ${self.memberId} of cluster "${self.clusterId}".`,
    { cluster_id: self.clusterId, member_id: String(self.memberId) },
  );
}

function memberIdOf(call: ServerCall, header: string): number {
  const text = call.header(header) ?? "";
  const memberId = Number(text);
  if (/^[1-9]\d*$/.test(text) && Number.isSafeInteger(memberId)) return memberId;
  throw new DriveError(
    "ARGUMENT_INVALID",
    `The header ${header} is ${JSON.stringify(text)}; it is a member id.`,
    {
      field: header,
    },
  );
}
