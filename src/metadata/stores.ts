/**
 * The chunk stores of members: given up, back again, scrubbed, being emptied; and what that means for their copies.
 *
 * What becomes void with a store (known-stores.ts) is void at once. The records and counters of its extents follow in batches
 * (recount), because a member may hold millions.
 */
import type { ExtentKey } from "../drive/content.ts";
import type { OrderedReader } from "../std/ordered-store.ts";
import type { CommandBody, ResultValue } from "./commands.ts";
import { hasPrefix, refuse, scanPrefix, type ApplyContext } from "./context.ts";
import { afterPrefix, makeKey, numberInKey, recountKey, storeKey, TABLE } from "./keys.ts";
import { findStore, isVoid, KnownStores } from "./known-stores.ts";
import { findMember, startRecount } from "./members.ts";
import {
  contentCodec,
  extentCodec,
  recountCodec,
  storeCodec,
  type ExtentRecord,
  type MemberRecord,
  type RecountRecord,
  type StoreRecord,
} from "./records.ts";
import { CountedCopies, noteBad, settleCopies } from "./replicas.ts";

type Body<Kind extends CommandBody["kind"]> = Extract<CommandBody, { readonly kind: Kind }>;

function changeStore(context: ApplyContext, memberId: number, change: Partial<StoreRecord>): void {
  const store = { ...findStore(context, memberId), ...change };
  context.put(storeKey(memberId), storeCodec.encode(store));
}

function requireMember(context: ApplyContext, memberId: number): MemberRecord {
  const member = findMember(context, memberId);
  if (member !== undefined) return member;
  return refuse("ARGUMENT_INVALID", `Member ${memberId} is not registered.`, { member_id: String(memberId) });
}

/** declare-lost. Harmless for a member that came back with another store meanwhile. */
export function declareLost(context: ApplyContext, body: Body<"declare-lost">): void {
  const { memberId, storeIncarnation } = body;
  const member = requireMember(context, memberId);
  if (member.storeIncarnation !== storeIncarnation || findStore(context, memberId).lostTimeMs > 0) return;
  // Cluster time begins at 0, which means "not lost".
  changeStore(context, memberId, { lostTimeMs: Math.max(1, context.state.clusterTimeMs) });
  startRecount(context, memberId);
}

/** return-store. What the recount took away meanwhile comes back copy by copy, each verified anew by repair. */
export function returnStore(context: ApplyContext, body: Body<"return-store">): void {
  const { memberId, storeIncarnation } = body;
  const member = requireMember(context, memberId);
  if (member.storeIncarnation !== storeIncarnation) {
    refuse("SEAL_REJECTED", `Member ${memberId} has a new chunk store.`, { member_id: String(memberId) });
  }
  if (findStore(context, memberId).lostTimeMs > 0) changeStore(context, memberId, { lostTimeMs: 0 });
}

/** report-scrub. A report that is older than what is known changes nothing. */
export function reportScrub(context: ApplyContext, body: Body<"report-scrub">): void {
  const { memberId, storeIncarnation, pass } = body;
  const member = requireMember(context, memberId);
  if (member.storeIncarnation !== storeIncarnation) {
    refuse("SEAL_REJECTED", `Member ${memberId} has a new chunk store.`, { member_id: String(memberId) });
  }
  const { clusterTimeMs } = context.state;
  if (body.startTimeMs > clusterTimeMs) {
    refuse("ARGUMENT_INVALID", "A scrub pass cannot have begun in the future.", {
      start_time_ms: String(body.startTimeMs),
      cluster_time_ms: String(clusterTimeMs),
    });
  }
  const before = findStore(context, memberId);
  if (before.scrubbedIncarnation === storeIncarnation && pass <= before.scrubPass) return;
  changeStore(context, memberId, {
    scrubbedIncarnation: storeIncarnation,
    scrubPass: pass,
    scrubStartTimeMs: body.startTimeMs,
    scrubEndTimeMs: clusterTimeMs,
    scrubExtentCount: body.extentCount,
    scrubBytes: body.bytes,
    scrubDamagedCount: body.damagedCount,
  });
}

/** set-draining. */
export function setDraining(context: ApplyContext, { memberId, draining }: Body<"set-draining">): void {
  requireMember(context, memberId);
  if (findStore(context, memberId).drainTimeMs > 0 === draining) return;
  changeStore(context, memberId, { drainTimeMs: draining ? Math.max(1, context.state.clusterTimeMs) : 0 });
}

/** Whether copies of any member are still to be recounted. */
export function isRecounting(reader: OrderedReader): boolean {
  return hasPrefix(reader, makeKey(TABLE.recount, []));
}

/** Members whose copies are still to be recounted, ascending. */
export function membersBeingRecounted(reader: OrderedReader): readonly number[] {
  const all = scanPrefix(reader, makeKey(TABLE.recount, []), Number.POSITIVE_INFINITY);
  return all.map(({ key }) => numberInKey(key, 0));
}

/** recount. */
export function recount(context: ApplyContext): ResultValue {
  const { batchItemCountMax } = context.limits;
  const counted = new CountedCopies(context);
  let itemCount = 0;
  for (const { key, value } of scanPrefix(context, makeKey(TABLE.recount, []), batchItemCountMax)) {
    if (itemCount >= batchItemCountMax) break;
    itemCount += recountMember(
      context,
      numberInKey(key, 0),
      recountCodec.decode(value),
      batchItemCountMax - itemCount,
      counted,
    );
  }
  return { kind: "batch", itemCount, more: isRecounting(context) };
}

// Goes on with one member; returns how many extents it looked at, at least 1.
function recountMember(
  context: ApplyContext,
  memberId: number,
  from: RecountRecord,
  countMax: number,
  counted: CountedCopies,
): number {
  const known = new KnownStores(context).of(memberId);
  const page = extentsFrom(context, from, countMax);
  for (const { extent, ...extentKey } of page.extents) {
    if (counted.endsNeedless) {
      settleCopies(context, extentKey, extent, counted);
      continue;
    }
    const replica = extent.replicas.find((each) => each.memberId === memberId);
    if (replica !== undefined && isVoid(replica, known)) {
      noteBad(context, extentKey, extent, { memberId, state: "lost" }, counted);
    }
  }
  if (page.next === undefined) context.delete(recountKey(memberId));
  else context.put(recountKey(memberId), recountCodec.encode(page.next));
  return Math.max(1, page.itemCount);
}

interface KeyedRecord extends ExtentKey {
  readonly extent: ExtentRecord;
}

/** Extents of all contents from a place on; `next` is where to go on, undefined at the end. Looks at about `countMax` records. */
export function extentsFrom(
  reader: OrderedReader,
  from: RecountRecord,
  countMax: number,
): {
  readonly extents: readonly KeyedRecord[];
  readonly itemCount: number;
  readonly next: RecountRecord | undefined;
} {
  const extents: KeyedRecord[] = [];
  let itemCount = 0;
  const range = {
    from: makeKey(TABLE.content, [from.contentId]),
    to: afterPrefix(makeKey(TABLE.content, [])),
    countMax: countMax + 1,
  };
  for (const { key, value } of [...reader.range(range)]) {
    const contentId = numberInKey(key, 0);
    if (itemCount >= countMax) return { extents, itemCount, next: { contentId, extentIndex: 0 } };
    itemCount += 1;
    const content = contentCodec.decode(value);
    if (content.extent !== undefined) {
      extents.push({ contentId, extentIndex: 0, extent: content.extent });
      continue;
    }
    const start = contentId === from.contentId ? from.extentIndex : 0;
    const left = countMax - itemCount + 1;
    const rows = [
      ...reader.range({
        from: makeKey(TABLE.extent, [contentId, start]),
        to: afterPrefix(makeKey(TABLE.extent, [contentId])),
        countMax: left + 1,
      }),
    ];
    for (const row of rows.slice(0, left)) {
      extents.push({
        contentId,
        extentIndex: numberInKey(row.key, 1),
        extent: extentCodec.decode(row.value),
      });
    }
    itemCount += Math.min(rows.length, left);
    const beyond = rows[left];
    if (beyond !== undefined) {
      return { extents, itemCount, next: { contentId, extentIndex: numberInKey(beyond.key, 1) } };
    }
  }
  return { extents, itemCount, next: undefined };
}
