/**
 * Copies of extents: a member seals one, is asked for one, or one is found bad.
 *
 *   pending --seal--> verified --report--> suspect | corrupt | lost --seal--> verified
 *
 * A copy that was ever made stays on record, whatever is wrong with it, until three others are verified: it may be the last
 * that can give some chunk (reliability: K4). Then it goes to the drop list of its member. From FEATURE_LEVEL_VOID_COPIES on those
 * three are copies that count now: the record of one whose store was given up or replaced says verified until it is recounted.
 * Chooses no members: routing/ does.
 */
import type { ExtentKey, Seal } from "../drive/content.ts";
import { FEATURE_LEVEL_VOID_COPIES } from "../drive/feature-levels.ts";
import { REPLICA_COUNT } from "../drive/limits.ts";
import { bytesEqual } from "../std/bytes.ts";
import { DriveError } from "../drive/errors.ts";
import type { CommandBody, ResultValue } from "./commands.ts";
import { dropFrom } from "./contents.ts";
import { refuse, type ApplyContext } from "./context.ts";
import { findExtent, replaceExtent } from "./extents.ts";
import { dropListKey } from "./keys.ts";
import { isVoid, KnownStores } from "./known-stores.ts";
import { findMember } from "./members.ts";
import type { ExtentRecord, ReplicaRecord } from "./records.ts";
import { requireHeld } from "./tasks.ts";

type Body<Kind extends CommandBody["kind"]> = Extract<CommandBody, { readonly kind: Kind }>;

function getExtent(context: ApplyContext, key: ExtentKey): ExtentRecord {
  const extent = findExtent(context, key.contentId, key.extentIndex);
  if (extent !== undefined) return extent;
  return refuse("CHUNK_NOT_FOUND", `There is no extent ${key.extentIndex} of content ${key.contentId}.`, {
    content_id: String(key.contentId),
    extent_index: String(key.extentIndex),
  });
}

/** Which copies count, for one command that changes no store. */
export class CountedCopies {
  readonly #stores: KnownStores;
  readonly #believesRecords: boolean;

  constructor(context: ApplyContext) {
    this.#stores = new KnownStores(context);
    this.#believesRecords = context.state.featureLevel < FEATURE_LEVEL_VOID_COPIES;
  }

  /** Whether copies that do not count go as soon as three others do, whatever made them needless. */
  get endsNeedless(): boolean {
    return !this.#believesRecords;
  }

  /** Whether a copy is called verified at a store that does not stand for it any more. */
  isVoid(replica: ReplicaRecord): boolean {
    return isVoid(replica, this.#stores.of(replica.memberId));
  }

  /** Whether a copy is at a member of the cluster, whatever its state. */
  isAtMember({ memberId }: ReplicaRecord): boolean {
    return this.#stores.of(memberId).member !== undefined;
  }

  /** Whether a copy is verified and, as far as the cluster's level goes, at a store that still stands for it. */
  has(replica: ReplicaRecord): boolean {
    if (replica.state !== "verified") return false;
    return this.#believesRecords || !this.isVoid(replica);
  }
}

/**
 * The copy that a seal stands for: verified, or lost when its member was given up since. Refuses one of a member that is not
 * registered, or of a chunk store that the member no longer has.
 */
export function sealedReplica(context: ApplyContext, seal: Seal, counted: CountedCopies): ReplicaRecord {
  const { memberId, storeIncarnation } = seal;
  const member = findMember(context, memberId);
  if (member?.storeIncarnation === storeIncarnation) {
    const verifyTimeMs = context.state.clusterTimeMs;
    const { storeGeneration } = member;
    const replica = {
      memberId,
      state: "verified",
      replacesMemberId: 0,
      storeGeneration,
      verifyTimeMs,
    } as const;
    return counted.has(replica) ? replica : { ...replica, state: "lost" };
  }
  const known = member === undefined ? "is not registered" : "has a new chunk store";
  return refuse("SEAL_REJECTED", `Member ${seal.memberId} ${known}.`, { member_id: String(seal.memberId) });
}

/** A copy that a member is asked to make. */
export function pendingReplica(memberId: number, replacesMemberId: number): ReplicaRecord {
  return { memberId, state: "pending", replacesMemberId, storeGeneration: 0, verifyTimeMs: 0 };
}

/** add-replica. */
export function addReplica(context: ApplyContext, { seal }: Body<"add-replica">): void {
  add(context, seal, new CountedCopies(context));
}

function add(context: ApplyContext, seal: Seal, counted: CountedCopies): void {
  const before = getExtent(context, seal.extent);
  const verified = sealedReplica(context, seal, counted);
  if (verified.state === "lost") {
    refuse("SEAL_REJECTED", `Member ${seal.memberId} was given up and has not compared its copies since.`, {
      member_id: String(seal.memberId),
    });
  }
  if (seal.sizeBytes !== before.sizeBytes || !bytesEqual(seal.root, before.root)) {
    refuse("SEAL_REJECTED", "The sealed copy has other bytes than the extent.", {
      member_id: String(seal.memberId),
    });
  }
  const old = before.replicas.find((replica) => replica.memberId === seal.memberId);
  if (old?.state === "verified" && old.storeGeneration === verified.storeGeneration) return;
  const others = before.replicas.filter((replica) => replica.memberId !== seal.memberId);
  const all = [...others, verified];
  const replacedId = old?.replacesMemberId ?? 0;
  const isEnough =
    all.filter((each) => each.memberId !== replacedId && counted.has(each)).length >= REPLICA_COUNT;
  const replicas = isEnough
    ? all.filter((replica) => replica.memberId !== replacedId && isWanted(replica, all, counted))
    : withoutNeedless(all, counted);
  dropOthers(context, seal.extent, all, replicas);
  // A member that gets its copy back must not be told to drop it.
  context.delete(dropListKey(seal.memberId, seal.extent.contentId, seal.extent.extentIndex));
  replaceExtent(context, seal.extent, before, { ...before, replicas });
}

/** Copies without those that do not count, once three others do: nothing would ever make them good, or take them away. */
function withoutNeedless(all: readonly ReplicaRecord[], counted: CountedCopies): readonly ReplicaRecord[] {
  if (!counted.endsNeedless || all.filter((each) => counted.has(each)).length < REPLICA_COUNT) return all;
  return all.filter((replica) => isWanted(replica, all, counted));
}

function dropOthers(
  context: ApplyContext,
  key: ExtentKey,
  all: readonly ReplicaRecord[],
  replicas: readonly ReplicaRecord[],
): void {
  const kept = new Set(replicas.map(({ memberId }) => memberId));
  dropFrom(
    context,
    key,
    all.map(({ memberId }) => memberId).filter((memberId) => !kept.has(memberId)),
  );
}

/** Notes that a copy is bad; it goes at once when three others count and the cluster's level has it so. */
export function noteBad(
  context: ApplyContext,
  key: ExtentKey,
  before: ExtentRecord,
  bad: Pick<ReplicaRecord, "memberId" | "state">,
  counted: CountedCopies,
): void {
  const after = withState(before, bad.memberId, bad.state);
  const replicas = withoutNeedless(after.replicas, counted);
  dropOthers(context, key, after.replicas, replicas);
  replaceExtent(context, key, before, { ...after, replicas });
}

/**
 * Writes down what is known of all copies of an extent by now: those that are void are lost, those of members that are gone are
 * forgotten, and what is bad goes when three others count. For the recount: a store that was given up and returned makes a
 * fourth copy of one whose extent no command touched, and lower levels left such copies behind.
 */
export function settleCopies(
  context: ApplyContext,
  key: ExtentKey,
  before: ExtentRecord,
  counted: CountedCopies,
): void {
  const known = before.replicas
    .filter((replica) => counted.isAtMember(replica))
    .map((replica): ReplicaRecord => (counted.isVoid(replica) ? { ...replica, state: "lost" } : replica));
  const replicas = withoutNeedless(known, counted);
  if (
    replicas.length === before.replicas.length &&
    replicas.every((each, i) => each === before.replicas[i])
  ) {
    return;
  }
  dropOthers(context, key, known, replicas);
  replaceExtent(context, key, before, { ...before, replicas });
}

/** add-replicas. */
export function addReplicas(context: ApplyContext, { seals }: Body<"add-replicas">): ResultValue {
  const counted = new CountedCopies(context);
  return each(context, seals, (seal) => add(context, seal, counted));
}

/** assign-replicas. */
export function assignReplicas(context: ApplyContext, body: Body<"assign-replicas">): ResultValue {
  requireHeld(context, body.hold);
  return each(context, body.assignments, (item) =>
    assignReplica(context, { kind: "assign-replica", ...item }),
  );
}

// Whoever refuses an item does so before it has written anything: the others of the batch are not affected.
function each<Item>(
  { limits: { batchItemCountMax } }: ApplyContext,
  items: readonly Item[],
  work: (item: Item) => void,
): ResultValue {
  if (items.length > batchItemCountMax) {
    refuse("ARGUMENT_INVALID", `A batch has at most ${batchItemCountMax} items.`, {
      item_count: String(items.length),
    });
  }
  let itemCount = 0;
  for (const item of items) {
    try {
      work(item);
      itemCount += 1;
    } catch (error) {
      if (!(error instanceof DriveError)) throw error;
    }
  }
  return { kind: "batch", itemCount, more: false };
}

/** Whether a copy stays when three others count: a good one, or one that is on its way to take the place of another. */
function isWanted(replica: ReplicaRecord, all: readonly ReplicaRecord[], counted: CountedCopies): boolean {
  if (counted.has(replica)) return true;
  if (replica.state !== "pending") return false;
  return all.some((each) => each.memberId === replica.replacesMemberId && counted.has(each));
}

/** assign-replica. */
export function assignReplica(context: ApplyContext, body: Body<"assign-replica">): void {
  const { contentId, extentIndex, memberId, replacesMemberId } = body;
  const before = getExtent(context, body);
  if (findMember(context, memberId) === undefined) {
    refuse("ARGUMENT_INVALID", `Member ${memberId} is not registered.`, { member_id: String(memberId) });
  }
  const old = before.replicas.find((replica) => replica.memberId === memberId);
  if (old?.state === "verified") return;
  const pending = pendingReplica(memberId, replacesMemberId);
  let replicas = [...before.replicas.filter((replica) => replica.memberId !== memberId), pending];
  const replaced = replicas.find((replica) => replica.memberId === replacesMemberId && replica !== pending);
  // What was never made goes at once; anything else stays until there are three verified copies.
  if (replaced?.state === "pending") {
    replicas = replicas.filter((replica) => replica !== replaced);
    dropFrom(context, { contentId, extentIndex }, [replacesMemberId]);
  }
  context.delete(dropListKey(memberId, contentId, extentIndex));
  replaceExtent(context, { contentId, extentIndex }, before, { ...before, replicas });
}

/** report-replica. */
export function reportReplica(context: ApplyContext, body: Body<"report-replica">): void {
  const before = getExtent(context, body);
  const old = before.replicas.find((replica) => replica.memberId === body.memberId);
  // What is yet to be made cannot be bad, and what is known of a copy is not made less certain.
  if (old === undefined || old.state === "pending" || old.state === body.finding) return;
  if (old.state !== "verified" && body.finding === "suspect") return;
  const bad = { memberId: body.memberId, state: body.finding };
  noteBad(context, body, before, bad, new CountedCopies(context));
}

/** An extent with another state of one copy. */
function withState(extent: ExtentRecord, memberId: number, state: ReplicaRecord["state"]): ExtentRecord {
  const replicas = extent.replicas.map((replica): ReplicaRecord =>
    replica.memberId === memberId ? { ...replica, state } : replica,
  );
  return { ...extent, replicas };
}
