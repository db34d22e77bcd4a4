/** Between the messages of netdisk.v1 about the membership and the types of drive/cluster-admin.ts. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import {
  MemberPart as WirePart,
  MembershipChangeKind,
  MembershipPhase as WirePhase,
  type MembershipStatus as WireStatus,
  type MembershipStatusSchema,
} from "../../gen/netdisk/v1/cluster_pb.ts";
import { toBigint, toNumber } from "../contract/codec.ts";
import type {
  MemberPart,
  MembershipPhase,
  MembershipProgress,
  MembershipStatus,
} from "../drive/cluster-admin.ts";
import { DriveError } from "../drive/errors.ts";

const PARTS: Readonly<Record<MemberPart, WirePart>> = {
  voter: WirePart.VOTER,
  learner: WirePart.LEARNER,
  incoming: WirePart.INCOMING,
  outgoing: WirePart.OUTGOING,
  none: WirePart.NONE,
};

const KINDS: Readonly<Record<MembershipProgress["kind"], MembershipChangeKind>> = {
  add: MembershipChangeKind.ADD,
  remove: MembershipChangeKind.REMOVE,
  replace: MembershipChangeKind.REPLACE,
  transfer: MembershipChangeKind.TRANSFER,
};

const PHASES: Readonly<Record<MembershipPhase, WirePhase>> = {
  joining: WirePhase.JOINING,
  "catching-up": WirePhase.CATCHING_UP,
  promoting: WirePhase.PROMOTING,
  removing: WirePhase.REMOVING,
  transferring: WirePhase.TRANSFERRING,
  done: WirePhase.DONE,
  failed: WirePhase.FAILED,
};

/** The name of a wire value. Throws DriveError INTERNAL for one that this version does not know. */
function nameOf<Name extends string>(names: Readonly<Record<Name, number>>, value: number): Name {
  const found = (Object.keys(names) as Name[]).find((name) => names[name] === value);
  if (found !== undefined) return found;
  throw new DriveError("INTERNAL", `The node answered with the unknown value ${value}.`);
}

/** The wire form of the membership. */
export function encodeMembership(status: MembershipStatus): MessageInitShape<typeof MembershipStatusSchema> {
  const { members, isJoint, change } = status;
  return {
    isJoint,
    members: members.map(({ memberId, nodeId, part }) => ({
      memberId: toBigint(memberId),
      nodeId,
      part: PARTS[part],
    })),
    ...(change !== undefined && {
      change: {
        ...change,
        changeId: toBigint(change.changeId),
        kind: KINDS[change.kind],
        phase: PHASES[change.phase],
        memberId: toBigint(change.memberId),
        formerMemberId: toBigint(change.formerMemberId),
        appliedIndex: toBigint(change.appliedIndex),
        targetIndex: toBigint(change.targetIndex),
      },
    }),
  };
}

/** The membership of a wire form. Throws DriveError INTERNAL when it is missing or not understood. */
export function decodeMembership(status: WireStatus | undefined): MembershipStatus {
  if (status === undefined) throw new DriveError("INTERNAL", "The node answered without a membership.");
  const { members, isJoint, change } = status;
  return {
    isJoint,
    members: members.map(({ memberId, nodeId, part }) => ({
      memberId: toNumber(memberId, "member_id"),
      nodeId,
      part: nameOf(PARTS, part),
    })),
    change:
      change === undefined
        ? undefined
        : {
            changeId: toNumber(change.changeId, "change_id"),
            kind: nameOf(KINDS, change.kind),
            phase: nameOf(PHASES, change.phase),
            memberId: toNumber(change.memberId, "member_id"),
            nodeId: change.nodeId,
            formerMemberId: toNumber(change.formerMemberId, "former_member_id"),
            formerNodeId: change.formerNodeId,
            appliedIndex: toNumber(change.appliedIndex, "applied_index"),
            targetIndex: toNumber(change.targetIndex, "target_index"),
            reason: change.reason,
          },
  };
}
