/**
 * Members as they registered, and their leases for small writes.
 *
 * A lease lets a node seal small contents under ids of its own before their command is proposed; collection leaves ids of a
 * lease that has not expired alone. Once a lease has expired its blocks are forgotten, because what was written under them
 * may have been collected.
 */
import { CONTENT_ID_COUNT_MAX, WRITE_LEASE_BLOCK_COUNT_MAX, WRITE_LEASE_MS } from "../drive/limits.ts";
import type { OrderedReader } from "../std/ordered-store.ts";
import type { CommandBody, ResultValue } from "./commands.ts";
import { readRecord, refuse, type ApplyContext } from "./context.ts";
import { leaseKey, memberKey, recountKey, removedMemberKey } from "./keys.ts";
import { leaseCodec, memberCodec, recountCodec, type LeaseRecord, type MemberRecord } from "./records.ts";

type Body<Kind extends CommandBody["kind"]> = Extract<CommandBody, { readonly kind: Kind }>;

/** Holds the lease on what a rebuilt tree could not place: nobody may remove it before that is over. No member has this id. */
export const UNPLACED_OWNER_ID = 0;

/** A registered member. */
export function findMember(reader: OrderedReader, memberId: number): MemberRecord | undefined {
  return readRecord(reader, memberKey(memberId), memberCodec);
}

/** A member's lease, expired or not. */
export function findLease(reader: OrderedReader, memberId: number): LeaseRecord | undefined {
  return readRecord(reader, leaseKey(memberId), leaseCodec);
}

/** Whether a member was removed: its id is never used again. */
export function isRemoved(reader: OrderedReader, memberId: number): boolean {
  return reader.get(removedMemberKey(memberId)) !== undefined;
}

/** Refuses what comes from, or is about, a member that was removed. */
export function refuseRemoved(reader: OrderedReader, memberId: number): void {
  if (!isRemoved(reader, memberId)) return;
  refuse("MEMBER_REMOVED", `Member ${memberId} was removed from the cluster.`, {
    member_id: String(memberId),
  });
}

/** register-node. */
export function registerNode(context: ApplyContext, { node }: Body<"register-node">): void {
  if (node.memberId <= 0) refuse("ARGUMENT_INVALID", "A member id is positive.");
  refuseRemoved(context, node.memberId);
  const known = findMember(context, node.memberId);
  if (known === undefined) {
    if (context.state.memberCount >= context.limits.memberCountMax) {
      refuse(
        "OVERLOADED",
        `The cluster has ${context.limits.memberCountMax} members, as many as it may have.`,
        {
          member_count_max: String(context.limits.memberCountMax),
        },
      );
    }
    context.state.memberCount += 1;
  } else if (known.storeIncarnation !== node.storeIncarnation) {
    // What the old chunk store promised is void.
    context.delete(leaseKey(node.memberId));
    startRecount(context, node.memberId);
  }
  const isNewStore = known !== undefined && known.storeIncarnation !== node.storeIncarnation;
  const storeGeneration = (known?.storeGeneration ?? 0) + (isNewStore ? 1 : 0);
  context.put(memberKey(node.memberId), memberCodec.encode({ ...node, storeGeneration }));
}

/** Begins to recount the copies of a member from the first extent on: recount() in stores.ts goes on with it. */
export function startRecount(context: ApplyContext, memberId: number): void {
  context.put(recountKey(memberId), recountCodec.encode({ contentId: 0, extentIndex: 0 }));
}

/** renew-write-lease. */
export function renewWriteLease(context: ApplyContext, body: Body<"renew-write-lease">): ResultValue {
  const { memberId, storeIncarnation, idCount } = body;
  if (idCount > CONTENT_ID_COUNT_MAX) {
    refuse("ARGUMENT_INVALID", `A lease hands out at most ${CONTENT_ID_COUNT_MAX} ids at once.`, {
      id_count: String(idCount),
      id_count_max: String(CONTENT_ID_COUNT_MAX),
    });
  }
  if (findMember(context, memberId)?.storeIncarnation !== storeIncarnation) {
    refuse("SEAL_REJECTED", `Member ${memberId} is not registered with this chunk store.`, {
      member_id: String(memberId),
    });
  }
  const { state } = context;
  const old = findLease(context, memberId);
  const kept = old !== undefined && old.expireTimeMs > state.clusterTimeMs ? old.blocks : [];
  const firstContentId = state.nextContentId;
  state.nextContentId += idCount;
  const blocks =
    idCount === 0 ? kept : [...kept, { firstContentId, idCount }].slice(-WRITE_LEASE_BLOCK_COUNT_MAX);
  const expireTimeMs = state.clusterTimeMs + WRITE_LEASE_MS;
  context.put(leaseKey(memberId), leaseCodec.encode({ storeIncarnation, expireTimeMs, blocks }));
  return { kind: "write-lease", expireTimeMs, firstContentId, idCount };
}

/** Whether a content id lies in a block of a lease that has not expired. */
export function isLeased(lease: LeaseRecord | undefined, clusterTimeMs: number, contentId: number): boolean {
  if (lease === undefined || lease.expireTimeMs <= clusterTimeMs) return false;
  return lease.blocks.some(
    (block) => contentId >= block.firstContentId && contentId < block.firstContentId + block.idCount,
  );
}
