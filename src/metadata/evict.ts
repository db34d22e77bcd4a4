/**
 * Forgetting the copies at removed members, so that repair makes them elsewhere.
 *
 * There is no index from members to copies: it would cost every file a write for the sake of the rarest of operations. So the
 * contents are walked once in the order of their ids, a bounded number per command, and the cursor is part of the state. What
 * is created behind the cursor cannot name the member: its seals are refused since it was removed. Reads never ask a removed
 * member, so what the walk has not come to yet is only counted as better kept than it is; whoever asks is told that counting goes on.
 */
import { FEATURE_LEVEL_VOID_COPIES } from "../drive/feature-levels.ts";
import { MEMBER_COUNT_MAX } from "../drive/limits.ts";
import type { OrderedReader } from "../std/ordered-store.ts";
import type { ResultValue } from "./commands.ts";
import { forgetReplica } from "./contents.ts";
import { hasPrefix, scanPrefix, type ApplyContext } from "./context.ts";
import { contentKey, evictionKey, extentKey, makeKey, numberInKey, TABLE } from "./keys.ts";
import { contentCodec, evictionCodec, extentCodec, type EvictionRecord } from "./records.ts";

/** Whether an evict command has something to do. */
export function isEvictionDue(reader: OrderedReader): boolean {
  return hasPrefix(reader, makeKey(TABLE.eviction, []));
}

/** Removed members of whose copies some may still be in the tree. */
export function membersBeingForgotten(reader: OrderedReader): readonly number[] {
  const found = scanPrefix(reader, makeKey(TABLE.eviction, []), MEMBER_COUNT_MAX);
  return found.map(({ key }) => numberInKey(key, 0));
}

/** evict. */
export function evict(context: ApplyContext): ResultValue {
  const [first] = scanPrefix(context, makeKey(TABLE.eviction, []), 1);
  if (first === undefined) return { kind: "batch", itemCount: 0, more: false };
  const memberId = numberInKey(first.key, 0);
  const { batchItemCountMax } = context.limits;
  const listed = scanPrefix(context, makeKey(TABLE.dropList, [memberId]), batchItemCountMax);
  for (const { key } of listed) context.delete(key);
  const left = batchItemCountMax - listed.length;
  // Below the level the walk, which has nothing left to look at, could end before the drop list did.
  if (left === 0 && isExact(context)) return { kind: "batch", itemCount: listed.length, more: true };
  const { next, itemCount } = walk(context, memberId, evictionCodec.decode(first.value), left);
  if (next === undefined) context.delete(first.key);
  else context.put(evictionKey(memberId), evictionCodec.encode(next));
  return { kind: "batch", itemCount: listed.length + itemCount, more: isEvictionDue(context) };
}

// Below that level a cursor within a content that went meanwhile made the walk pass over the first extents of the one after it,
// and the copies there were recorded as verified for ever. The recount that comes with the level finds them.
function isExact(context: ApplyContext): boolean {
  return context.state.featureLevel >= FEATURE_LEVEL_VOID_COPIES;
}

/** Looks at up to `countMax` extents from the cursor on; `next` is undefined at the end. */
function walk(
  context: ApplyContext,
  memberId: number,
  cursor: EvictionRecord,
  countMax: number,
): { readonly next: EvictionRecord | undefined; readonly itemCount: number } {
  const { endContentId } = cursor;
  let itemCount = 0;
  let firstExtentIndex = cursor.extentIndex;
  const range = { from: contentKey(cursor.contentId), to: contentKey(endContentId), countMax: countMax + 1 };
  for (const { key, value } of [...context.range(range)]) {
    const contentId = numberInKey(key, 0);
    if (itemCount >= countMax) return { next: { contentId, extentIndex: 0, endContentId }, itemCount };
    if (isExact(context) && contentId !== cursor.contentId) firstExtentIndex = 0;
    const content = contentCodec.decode(value);
    itemCount += 1;
    if (content.extent !== undefined) {
      forgetReplica(context, { contentId, extentIndex: 0 }, content.extent, memberId);
    } else if (content.extentCount > 1) {
      const from = extentKey(contentId, firstExtentIndex);
      const to = extentKey(contentId, Number.MAX_SAFE_INTEGER);
      for (const row of [...context.range({ from, to, countMax: countMax - itemCount + 1 })]) {
        const extentIndex = numberInKey(row.key, 1);
        if (itemCount >= countMax) return { next: { contentId, extentIndex, endContentId }, itemCount };
        itemCount += 1;
        forgetReplica(context, { contentId, extentIndex }, extentCodec.decode(row.value), memberId);
      }
    }
    firstExtentIndex = 0;
  }
  return { next: undefined, itemCount };
}
