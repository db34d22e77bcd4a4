/**
 * The feature level as the tree records it (drive/feature-levels.ts), and the command that raises it.
 *
 * The level stands in the record of counters, where 0 means FEATURE_LEVEL_FIRST: so a state from before there were levels is read
 * as what it is, and is written byte for byte as before until the level was raised.
 */
import {
  checkLevel,
  FEATURE_LEVEL_FIRST,
  FEATURE_LEVEL_REGISTERED,
  FEATURE_LEVEL_VOID_COPIES,
  levelTooLow,
  type FeatureLevels,
} from "../drive/feature-levels.ts";
import { MEMBER_COUNT_MAX } from "../drive/limits.ts";
import type { OrderedReader } from "../std/ordered-store.ts";
import type { CommandBody } from "./commands.ts";
import { levelNeeded, setsLevel } from "./command-level.ts";
import { hasPrefix, peekState, readRecord, refuse, scanPrefix, type ApplyContext } from "./context.ts";
import { CLUSTER_KEY, evictionKey, makeKey, TABLE } from "./keys.ts";
import { findStore } from "./known-stores.ts";
import { startRecount } from "./members.ts";
import { openMembershipChange, removedMembers } from "./membership.ts";
import { clusterCodec, evictionCodec, memberCodec, type MemberRecord } from "./records.ts";

/** The cluster's level. */
export function featureLevel(reader: OrderedReader): number {
  return peekState(reader).featureLevel || FEATURE_LEVEL_FIRST;
}

/**
 * Refuses a state whose level a node does not support; anything goes before the cluster was founded.
 * @throws DriveError VERSION_UNSUPPORTED
 */
export function checkSupported(reader: OrderedReader, levels: FeatureLevels): void {
  const level = featureLevel(reader);
  if (level >= levels.min && level <= levels.max) return;
  if (readRecord(reader, CLUSTER_KEY, clusterCodec) === undefined) return;
  checkLevel(levels, level);
}

/**
 * Refuses to propose what the cluster cannot apply everywhere yet. A node that lags knows a lower level, never a higher one.
 * @throws DriveError FEATURE_LEVEL_TOO_LOW
 */
export function checkProposable(reader: OrderedReader, body: CommandBody): void {
  const needed = levelNeeded(body);
  if (needed === FEATURE_LEVEL_FIRST || setsLevel(body)) return;
  const level = featureLevel(reader);
  if (needed > level) throw levelTooLow(needed, level);
}

/**
 * raise-feature-level. Nothing happens at or above the level. At FEATURE_LEVEL_VOID_COPIES all copies are recounted, and what is
 * left of removed members goes. While a node is being added or replaced nobody knows what it supports.
 * From FEATURE_LEVEL_REGISTERED on every member's registration must say that it supports the level; below, whoever leads has
 * asked them all (cluster/level-raiser.ts).
 */
export function raiseFeatureLevel(
  context: ApplyContext,
  { level }: Extract<CommandBody, { readonly kind: "raise-feature-level" }>,
): void {
  const known = featureLevel(context);
  if (level <= known) return;
  const change = openMembershipChange(context);
  if (change?.kind === "add" || change?.kind === "replace") {
    refuse(
      "MEMBERSHIP_CHANGE_IN_PROGRESS",
      `The feature level is not raised while a node comes (${change.kind}).`,
      { change_id: String(change.changeId), kind: change.kind },
    );
  }
  const lagging = known < FEATURE_LEVEL_REGISTERED ? undefined : findLagging(context, level);
  if (lagging !== undefined) {
    refuse("VERSION_UNSUPPORTED", `Member ${lagging} does not support feature level ${level}.`, {
      member_id: String(lagging),
      feature_level: String(level),
    });
  }
  context.state.featureLevel = level;
  if (known < FEATURE_LEVEL_VOID_COPIES && level >= FEATURE_LEVEL_VOID_COPIES) {
    recountAll(context);
    endForgetting(context);
  }
}

function findLagging(context: ApplyContext, level: number): number | undefined {
  return allMembers(context).find(({ featureLevelMax = FEATURE_LEVEL_FIRST }) => featureLevelMax < level)
    ?.memberId;
}

// Below that level a seal that came late was recorded behind the recount of its member, and a bad fourth copy stayed. From it on
// a recount settles every copy of the extents that it comes to, so one member's is enough for what no recount is owed to.
function recountAll(context: ApplyContext): void {
  for (const [index, { memberId }] of allMembers(context).entries()) {
    if (index === 0 || findStore(context, memberId).lostTimeMs > 0) startRecount(context, memberId);
  }
}

// Below that level forgetting a removed member could end before its drop list did (evict.ts). No content is to be looked at for it.
function endForgetting(context: ApplyContext): void {
  for (const { memberId } of removedMembers(context, Number.POSITIVE_INFINITY)) {
    if (!hasPrefix(context, makeKey(TABLE.dropList, [memberId]))) continue;
    if (context.get(evictionKey(memberId)) !== undefined) continue;
    context.put(
      evictionKey(memberId),
      evictionCodec.encode({ contentId: 0, extentIndex: 0, endContentId: 0 }),
    );
  }
}

function allMembers(context: ApplyContext): readonly MemberRecord[] {
  return scanPrefix(context, makeKey(TABLE.member, []), MEMBER_COUNT_MAX).map(({ value }) =>
    memberCodec.decode(value),
  );
}
