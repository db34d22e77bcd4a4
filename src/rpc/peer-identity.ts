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

/** A member of a cluster. */
export interface PeerIdentity {
  readonly clusterId: string;
  readonly memberId: number;
}

/** Gives this node's identity, or throws NODE_STARTING while it has none. */
export type IdentitySource = () => PeerIdentity;

/** Headers of a call from `self` to the member `toMemberId` of the same cluster. */
export function peerHeaders(self: PeerIdentity, toMemberId: number): Readonly<Record<string, string>> {
  return {
    [CLUSTER_HEADER]: self.clusterId,
    [FROM_HEADER]: String(self.memberId),
    [TO_HEADER]: String(toMemberId),
  };
}

/** Whether the call names a cluster at all; operators' calls need not. */
export function hasPeerHeaders(call: ServerCall): boolean {
  return call.header(CLUSTER_HEADER) !== undefined;
}

/**
 * Checks that a call comes from a member of this cluster and is meant for this member.
 * @returns the caller
 * @throws DriveError WRONG_CLUSTER (metadata `cluster_id` and `member_id` of this node), ARGUMENT_INVALID for a malformed member id
 */
export function checkPeer(call: ServerCall, self: PeerIdentity): PeerIdentity {
  const clusterId = call.header(CLUSTER_HEADER);
  if (clusterId !== self.clusterId) {
    throw wrongCluster(self, `The caller is of cluster ${JSON.stringify(clusterId ?? "")}`);
  }
  const to = memberIdOf(call, TO_HEADER);
  if (to !== self.memberId) throw wrongCluster(self, `Member ${to} is meant`);
  return { clusterId, memberId: memberIdOf(call, FROM_HEADER) };
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
