/**
 * Extents of contents as the state has them, the counters over their copies, and the index of extents that need work.
 *
 * countExtent() is the one place that adds an extent to the counters and the index and takes it out again; whoever changes an
 * extent goes through replaceExtent(). An extent needs work while it has fewer than REPLICA_COUNT verified copies, or a copy is
 * on its way from one member to another; the index orders by verified copies, fewest first.
 */
import type { ExtentKey } from "../drive/content.ts";
import { REPLICA_COUNT, SEAL_COUNT_MIN } from "../drive/limits.ts";
import { must } from "../std/assert.ts";
import type { OrderedReader } from "../std/ordered-store.ts";
import { readRecord, type ApplyContext } from "./context.ts";
import { contentKey, extentKey, NOTHING, underReplicatedKey } from "./keys.ts";
import {
  contentCodec,
  extentCodec,
  type ContentRecord,
  type ExtentRecord,
  type ReplicaRecord,
  type StateRecord,
} from "./records.ts";

/** A content by id. */
export function findContent(reader: OrderedReader, contentId: number): ContentRecord | undefined {
  return readRecord(reader, contentKey(contentId), contentCodec);
}

/** One extent of a content. */
export function findExtent(
  reader: OrderedReader,
  contentId: number,
  extentIndex: number,
  content: ContentRecord | undefined = findContent(reader, contentId),
): ExtentRecord | undefined {
  if (content === undefined) return undefined;
  if (content.extent !== undefined) return extentIndex === 0 ? content.extent : undefined;
  return readRecord(reader, extentKey(contentId, extentIndex), extentCodec);
}

/** How many copies of an extent are verified. */
export function verifiedCount(extent: ExtentRecord): number {
  let count = 0;
  for (const replica of extent.replicas) if (replica.state === "verified") count += 1;
  return count;
}

const has = (extent: ExtentRecord, state: ReplicaRecord["state"]): boolean =>
  extent.replicas.some((replica) => replica.state === state);

/** Whether repair or a move has something to do for an extent. */
export function needsWork(extent: ExtentRecord): boolean {
  return verifiedCount(extent) < REPLICA_COUNT || has(extent, "pending");
}

/** What one extent adds to the counters. */
export function tallyOf(extent: ExtentRecord): Partial<StateRecord> {
  const copyCount = verifiedCount(extent);
  const isFull = copyCount >= REPLICA_COUNT;
  const one = (condition: boolean): number => (condition ? 1 : 0);
  return {
    extentCount: 1,
    fullExtentCount: one(isFull),
    underExtentCount: one(!isFull),
    suspectExtentCount: one(has(extent, "suspect")),
    corruptExtentCount: one(has(extent, "corrupt")),
    lostExtentCount: one(has(extent, "lost")),
    pendingExtentCount: one(has(extent, "pending")),
    singleExtentCount: one(copyCount === 1),
    uncopiedExtentCount: one(copyCount === 0),
    missingCopyBytes: isFull ? 0 : (REPLICA_COUNT - copyCount) * extent.sizeBytes,
    movingExtentCount: one(isFull && has(extent, "pending")),
  };
}

/** Adds an extent to the counters and the index of those that need work (sign 1), or takes it out again (sign -1). */
export function countExtent(context: ApplyContext, key: ExtentKey, extent: ExtentRecord, sign: 1 | -1): void {
  const { state } = context;
  for (const [name, amount] of Object.entries(tallyOf(extent)) as [keyof StateRecord, number][]) {
    if (amount === 0) continue;
    // Counters that an older version did not keep begin at 0 and must not fall below it.
    state[name] = Math.max(0, state[name] + sign * amount);
  }
  if (!needsWork(extent)) return;
  const indexKey = underReplicatedKey(verifiedCount(extent), key.contentId, key.extentIndex);
  if (sign === 1) context.put(indexKey, NOTHING);
  else context.delete(indexKey);
}

/** Puts another record in the place of an extent's, with all that follows from it. */
export function replaceExtent(
  context: ApplyContext,
  key: ExtentKey,
  before: ExtentRecord,
  after: ExtentRecord,
): void {
  const { contentId, extentIndex } = key;
  context.emitCopies(contentId);
  countExtent(context, key, before, -1);
  countExtent(context, key, after, 1);
  const content = must(findContent(context, contentId), "the content of an extent");
  const weak = (extent: ExtentRecord): number => (verifiedCount(extent) < SEAL_COUNT_MIN ? 1 : 0);
  const weakExtentCount = content.weakExtentCount + weak(after) - weak(before);
  const inline = content.extent !== undefined;
  if (!inline) context.put(extentKey(contentId, extentIndex), extentCodec.encode(after));
  if (!inline && weakExtentCount === content.weakExtentCount) return;
  const record = { ...content, weakExtentCount, extent: inline ? after : undefined };
  context.put(contentKey(contentId), contentCodec.encode(record));
}
