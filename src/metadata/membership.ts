/**
 * Changes of the membership as the tree records them: tokens to join with, the one change under way, and who was removed.
 *
 *   issue-join-token -> admit-member -> (the leader: learner, caught up, voter) -> end-membership-change
 *                       remove-member -> (the leader: out of the configuration) -> end-membership-change: tombstone, eviction
 *
 * What is wanted is recorded here, durably and once; consensus is changed by whoever leads (cluster/membership-driver.ts), step
 * by step, so a leader that dies in the middle is followed by one that goes on. There is one change at a time: the next is
 * refused until this one has ended. A token is good for one member id, and only its hash is here.
 */
import {
  JOIN_TOKEN_COUNT_MAX,
  JOIN_TOKEN_LIFETIME_MS_MAX,
  JOIN_TOKEN_LIFETIME_MS_MIN,
} from "../drive/limits.ts";
import { DIGEST_SIZE_BYTES } from "../std/digest.ts";
import type { OrderedReader } from "../std/ordered-store.ts";
import type { CommandBody, ResultValue } from "./commands.ts";
import { readRecord, refuse, scanPrefix, type ApplyContext } from "./context.ts";
import {
  evictionKey,
  joinTokenKey,
  leaseKey,
  makeKey,
  memberKey,
  MEMBERSHIP_CHANGE_KEY,
  numberInKey,
  recountKey,
  removedMemberKey,
  storeKey,
  TABLE,
} from "./keys.ts";
import { findMember, isRemoved, refuseRemoved } from "./members.ts";
import {
  evictionCodec,
  joinTokenCodec,
  membershipChangeCodec,
  removedMemberCodec,
  type MembershipChange,
  type JoinTokenRecord,
  type RemovedMemberRecord,
} from "./records.ts";

export type { MembershipChange, RemovedMemberRecord } from "./records.ts";

type Body<Kind extends CommandBody["kind"]> = Extract<CommandBody, { readonly kind: Kind }>;

/** The change that is under way, or the last one that ended; undefined before the first. */
export function lastMembershipChange(reader: OrderedReader): MembershipChange | undefined {
  return readRecord(reader, MEMBERSHIP_CHANGE_KEY, membershipChangeCodec);
}

/** The change that is under way. */
export function openMembershipChange(reader: OrderedReader): MembershipChange | undefined {
  const change = lastMembershipChange(reader);
  return change?.hasEnded === false ? change : undefined;
}

/** What is known of a token to join with, by its hash; undefined once it was forgotten. */
export function findJoinToken(reader: OrderedReader, tokenHash: Uint8Array): JoinTokenRecord | undefined {
  return readRecord(reader, joinTokenKey(tokenHash), joinTokenCodec);
}

/** Who was removed, ascending by member id; at most `countMax`. */
export function removedMembers(
  reader: OrderedReader,
  countMax: number,
): readonly (RemovedMemberRecord & { readonly memberId: number })[] {
  return scanPrefix(reader, makeKey(TABLE.removedMember, []), countMax).map(({ key, value }) => ({
    memberId: numberInKey(key, 0),
    ...removedMemberCodec.decode(value),
  }));
}

function begun(change: MembershipChange): ResultValue {
  return { kind: "membership", changeId: change.changeId, expireTimeMs: 0 };
}

/** Records a change as under way; refuses when one is. */
function begin(
  context: ApplyContext,
  wanted: Pick<MembershipChange, "kind"> & Partial<MembershipChange>,
): MembershipChange {
  const open = openMembershipChange(context);
  if (open !== undefined) {
    const { kind, changeId } = open;
    refuse("MEMBERSHIP_CHANGE_IN_PROGRESS", `Another change of the membership (${kind}) is under way.`, {
      change_id: String(changeId),
      kind,
    });
  }
  return store(context, wanted);
}

function store(
  context: ApplyContext,
  wanted: Pick<MembershipChange, "kind"> & Partial<MembershipChange>,
): MembershipChange {
  const change: MembershipChange = {
    ...{ memberId: 0, formerMemberId: 0, nodeId: "", address: "", isForced: false, isStorageOnly: false },
    changeId: context.index,
    startTimeMs: context.state.clusterTimeMs,
    hasEnded: false,
    failure: "",
    ...wanted,
  };
  context.put(MEMBERSHIP_CHANGE_KEY, membershipChangeCodec.encode(change));
  return change;
}

function refuseUnknown(context: ApplyContext, memberId: number): void {
  if (findMember(context, memberId) !== undefined) return;
  refuse("MEMBER_NOT_FOUND", `There is no member ${memberId}.`, { member_id: String(memberId) });
}

/** issue-join-token. */
export function issueJoinToken(context: ApplyContext, body: Body<"issue-join-token">): ResultValue {
  const { tokenHash, lifetimeMs, replacesMemberId } = body;
  if (tokenHash.length !== DIGEST_SIZE_BYTES) refuse("ARGUMENT_INVALID", "The hash of a token has 32 bytes.");
  if (lifetimeMs < JOIN_TOKEN_LIFETIME_MS_MIN || lifetimeMs > JOIN_TOKEN_LIFETIME_MS_MAX) {
    refuse(
      "ARGUMENT_INVALID",
      `A token is good for ${JOIN_TOKEN_LIFETIME_MS_MIN} to ${JOIN_TOKEN_LIFETIME_MS_MAX} ms.`,
      { lifetime_ms: String(lifetimeMs) },
    );
  }
  if (replacesMemberId > 0) refuseUnknown(context, replacesMemberId);
  const key = joinTokenKey(tokenHash);
  if (context.get(key) !== undefined) refuse("ARGUMENT_INVALID", "This token was made before.");
  const { clusterTimeMs } = context.state;
  let tokenCount = 0;
  for (const { key: other, value } of scanPrefix(context, makeKey(TABLE.joinToken, []), Infinity)) {
    if (joinTokenCodec.decode(value).expireTimeMs <= clusterTimeMs) context.delete(other);
    else tokenCount += 1;
  }
  if (tokenCount >= JOIN_TOKEN_COUNT_MAX) {
    refuse("OVERLOADED", `${JOIN_TOKEN_COUNT_MAX} tokens to join with are remembered, as many as may be.`, {
      join_token_count_max: String(JOIN_TOKEN_COUNT_MAX),
    });
  }
  const expireTimeMs = clusterTimeMs + lifetimeMs;
  const record = { expireTimeMs, replacesMemberId, usedByMemberId: 0, changeId: 0 };
  context.put(key, joinTokenCodec.encode(record));
  return { kind: "membership", changeId: 0, expireTimeMs };
}

/** admit-member. */
export function admitMember(context: ApplyContext, body: Body<"admit-member">): ResultValue {
  const { tokenHash, memberId, nodeId, address, isStorageOnly } = body;
  if (memberId <= 0) refuse("ARGUMENT_INVALID", "A member id is positive.");
  refuseRemoved(context, memberId);
  const key = joinTokenKey(tokenHash);
  const token = findJoinToken(context, tokenHash);
  if (token?.usedByMemberId === memberId) {
    return { kind: "membership", changeId: token.changeId, expireTimeMs: 0 };
  }
  if (token === undefined)
    refuse("JOIN_TOKEN_INVALID", "The token to join with is not known, or has expired.");
  if (token.usedByMemberId > 0) {
    refuse("JOIN_TOKEN_INVALID", `Member ${token.usedByMemberId} has joined with this token.`, {
      used_by_member_id: String(token.usedByMemberId),
    });
  }
  if (token.expireTimeMs <= context.state.clusterTimeMs) {
    refuse("JOIN_TOKEN_INVALID", "The token to join with has expired.", {
      expire_time_ms: String(token.expireTimeMs),
    });
  }
  if (findMember(context, memberId) !== undefined) {
    refuse("ARGUMENT_INVALID", `Member ${memberId} belongs to the cluster already.`, {
      member_id: String(memberId),
    });
  }
  const formerMemberId = token.replacesMemberId;
  // Who is to be replaced may be gone by now: then there is one to add.
  const isReplacing = formerMemberId > 0 && findMember(context, formerMemberId) !== undefined;
  const change = begin(context, {
    ...{ memberId, nodeId, address, isStorageOnly },
    ...(isReplacing ? { kind: "replace" as const, formerMemberId } : { kind: "add" as const }),
  });
  const used = { ...token, usedByMemberId: memberId, changeId: change.changeId };
  context.put(key, joinTokenCodec.encode(used));
  return begun(change);
}

/** remove-member. */
export function removeMember(context: ApplyContext, body: Body<"remove-member">): ResultValue {
  const { memberId: formerMemberId, isForced } = body;
  refuseRemoved(context, formerMemberId);
  const open = openMembershipChange(context);
  if (open?.kind === "remove" && open.formerMemberId === formerMemberId) {
    return begun(isForced && !open.isForced ? store(context, { ...open, isForced }) : open);
  }
  // A node that does not come is given up: its change must not keep all others waiting.
  const isComing = (open?.kind === "add" || open?.kind === "replace") && open.memberId === formerMemberId;
  if (isComing) return begun(store(context, { kind: "remove", formerMemberId, isForced }));
  refuseUnknown(context, formerMemberId);
  return begun(begin(context, { kind: "remove", formerMemberId, isForced }));
}

/** transfer-leadership. */
export function transferLeadership(context: ApplyContext, body: Body<"transfer-leadership">): ResultValue {
  const { memberId, leaderId } = body;
  if (memberId > 0) refuseUnknown(context, memberId);
  return begun(begin(context, { kind: "transfer", memberId, formerMemberId: leaderId }));
}

/** end-membership-change. */
export function endMembershipChange(context: ApplyContext, body: Body<"end-membership-change">): void {
  const change = openMembershipChange(context);
  if (change?.changeId !== body.changeId) return;
  const { failure } = body;
  context.put(MEMBERSHIP_CHANGE_KEY, membershipChangeCodec.encode({ ...change, hasEnded: true, failure }));
  const isDone = failure === "";
  if (isDone && (change.kind === "remove" || change.kind === "replace"))
    bury(context, change.formerMemberId, "");
  if (!isDone && (change.kind === "add" || change.kind === "replace")) {
    bury(context, change.memberId, change.nodeId);
  }
}

/** Makes a member one that was removed: nothing of it is left but the mark that its id is used up. */
function bury(context: ApplyContext, memberId: number, nodeId: string): void {
  if (isRemoved(context, memberId)) return;
  const member = findMember(context, memberId);
  if (member !== undefined) {
    context.delete(memberKey(memberId));
    context.state.memberCount -= 1;
  }
  context.delete(leaseKey(memberId));
  context.delete(storeKey(memberId));
  context.delete(recountKey(memberId));
  const { index, wallTimeMs } = context;
  const record = { nodeId: member?.nodeId ?? nodeId, index, wallTimeMs };
  context.put(removedMemberKey(memberId), removedMemberCodec.encode(record));
  context.state.removedMemberCount += 1;
  const eviction = { contentId: 0, extentIndex: 0, endContentId: context.state.nextContentId };
  context.put(evictionKey(memberId), evictionCodec.encode(eviction));
}
