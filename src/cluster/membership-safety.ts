/**
 * Whether a change of the membership may be made: what would be left must have a live quorum, and no file may lose its last copy.
 *
 * The judgement is by the failure detector and the tree as one node sees them, so it can be wrong for a moment; it keeps operators
 * from harm and consensus does not depend on it. `isForced` in a change skips it.
 */
import { membersBeingForgotten } from "../metadata/evict.ts";
import type { MembershipChange } from "../metadata/membership.ts";
import { membersBeingRecounted } from "../metadata/stores.ts";
import { getExtent, members, storeOf, underReplicated, type UnderReplicated } from "../metadata/view.ts";
import type { Clock } from "../std/clock.ts";
import type { OrderedReader } from "../std/ordered-store.ts";
import { VOTER_COUNT_MAX } from "../drive/limits.ts";

/**
 * Extents with so few verified copies that one may be the last, which are looked at before a removal; with more, it is refused. As many
 * in all are looked at when some have one more on record, at a member that was given up.
 */
export const LAST_COPY_LOOK_COUNT_MAX = 10_000;
const TOO_MANY = `More than ${LAST_COPY_LOOK_COUNT_MAX} extents have hardly a copy: wait until repair has made the others.`;
/** Pause between looks for last copies while they hold a change back: one look at 10,000 extents takes 0.1 s and more. */
export const LAST_COPIES_IDLE_MS = 5000;
/** Extents read at once. */
const PAGE_COUNT = 500;

/**
 * Why these voters would be no good configuration; undefined when they are.
 * @param isLive whether a member is up and reachable
 */
export function findNoQuorum(
  voters: readonly number[],
  isLive: (memberId: number) => boolean,
): string | undefined {
  if (voters.length === 0) return "No voter would be left.";
  if (voters.length > VOTER_COUNT_MAX) {
    return `The cluster would have ${voters.length} voters; at most ${VOTER_COUNT_MAX} are allowed.`;
  }
  const live = voters.filter(isLive).length;
  const needed = Math.floor(voters.length / 2) + 1;
  if (live >= needed) return undefined;
  return `Of the ${voters.length} voters that would be left only ${live} are up, and ${needed} are needed.`;
}

/**
 * Why the tree would lose bytes with this member's copies; undefined when it would not. Copies at a member that was removed, which the
 * tree counts until they are forgotten, are none, nor are those at another that was given up.
 */
export function findLastCopies(reader: OrderedReader, memberId: number): string | undefined {
  const removedIds = membersBeingForgotten(reader);
  // An extent that is listed lacks a copy: more than one at removed members could hide that the last good one is here.
  if (removedIds.length > 1) return "Copies at removed members are still being forgotten: ask again later.";
  if (membersBeingRecounted(reader).some((id) => id !== memberId)) {
    return "Copies at members that were given up are still being counted: ask again later.";
  }
  // What a member sealed before it was given up may have been recorded afterwards, until the audit comes by.
  const givenUp = members(reader).filter(
    (member) => member.memberId !== memberId && storeOf(reader, member.memberId).lostTimeMs > 0,
  );
  const verifiedCountMax = 1 + removedIds.length;
  const recordedCountMax = verifiedCountMax + givenUp.length;
  let after: UnderReplicated | undefined;
  let looked = 0;
  let lastCount = 0;
  for (;;) {
    const page = underReplicated(reader, after, PAGE_COUNT);
    for (const key of page) {
      if (key.verifiedCount > recordedCountMax) return describe(lastCount);
      if (looked >= LAST_COPY_LOOK_COUNT_MAX) {
        // Such a record is rare and soon put right: no reason to hold up who has lost two of four nodes for good.
        return key.verifiedCount > verifiedCountMax ? describe(lastCount) : TOO_MANY;
      }
      looked += 1;
      const extent = getExtent(reader, key);
      const present = (extent?.replicas ?? []).filter((replica) => !removedIds.includes(replica.memberId));
      // A suspect copy is the last hope where no verified one is.
      const isHere = present.some((replica) => replica.memberId === memberId && replica.state !== "pending");
      const isElsewhere = present.some(
        (replica) => replica.memberId !== memberId && replica.state === "verified",
      );
      if (isHere && !isElsewhere) lastCount += 1;
    }
    after = page.at(-1);
    if (page.length < PAGE_COUNT) return describe(lastCount);
  }
}

/** Why the member that a change replaces may not go yet, by what it holds; what was found is good for LAST_COPIES_IDLE_MS. */
export class LastCopiesOfFormer {
  readonly #clock: Clock;
  readonly #reader: () => OrderedReader;
  /** What the last look found, unless that was nothing. */
  #found: { readonly changeId: number; readonly atMs: number; readonly reason: string } | undefined;

  constructor(clock: Clock, reader: () => OrderedReader) {
    this.#clock = clock;
    this.#reader = reader;
  }

  /** The reason in a sentence; undefined when it may go, or nobody is replaced. */
  find({ changeId, formerMemberId }: MembershipChange): string | undefined {
    if (formerMemberId === 0) return undefined;
    const atMs = this.#clock.monotonicMs();
    const known = this.#found;
    if (known?.changeId === changeId && atMs - known.atMs < LAST_COPIES_IDLE_MS) return known.reason;
    const reason = findLastCopies(this.#reader(), formerMemberId);
    this.#found = reason === undefined ? undefined : { changeId, atMs, reason };
    return reason;
  }
}

/**
 * Why the new member of a change may not vote in the place of its former one yet; undefined when it may.
 * @param isLive whether a member is up and reachable
 */
export function findHeldBack(
  change: MembershipChange,
  voters: readonly number[],
  isLive: (memberId: number) => boolean,
  lastCopies: LastCopiesOfFormer,
): string | undefined {
  const after = [...voters.filter((id) => id !== change.formerMemberId), change.memberId];
  return findNoQuorum(after, isLive) ?? lastCopies.find(change);
}

function describe(lastCount: number): string | undefined {
  return lastCount === 0
    ? undefined
    : `The only good copy of ${lastCount} extents is there: wait until repair has made the others.`;
}
