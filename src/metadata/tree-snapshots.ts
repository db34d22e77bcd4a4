/**
 * Snapshots of the tree: contents that no file refers to, kept so that the tree can be rebuilt when every voter has lost it.
 *
 * A record holds the one reference of its content, so repair, scrub and collection treat it like a file's. The newest
 * TREE_SNAPSHOT_COUNT by the state that they show stay; the others are released by the command that records another one.
 */
import { TREE_SNAPSHOT_COUNT } from "../drive/limits.ts";
import type { OrderedReader } from "../std/ordered-store.ts";
import type { CommandBody } from "./commands.ts";
import { createContent, releaseContent } from "./contents.ts";
import { readState, refuse, scanPrefix, type ApplyContext } from "./context.ts";
import { afterPrefix, makeKey, numberInKey, TABLE, treeSnapshotKey } from "./keys.ts";
import { treeSnapshotCodec, type TreeSnapshotRecord } from "./records.ts";
import { leasedExtents } from "./uploads.ts";

/** A snapshot of the tree as the state knows it. */
export interface TreeSnapshot extends TreeSnapshotRecord {
  /** It shows the state after the command at this index. */
  readonly index: number;
}

/** The snapshots that are kept, oldest first. */
export function treeSnapshots(reader: OrderedReader): readonly TreeSnapshot[] {
  return scanPrefix(reader, makeKey(TABLE.treeSnapshot, []), Number.POSITIVE_INFINITY).map(
    ({ key, value }) => ({ index: numberInKey(key, 0), ...treeSnapshotCodec.decode(value) }),
  );
}

/** Index of the last event of the feed; 0 when there is none. */
export function lastEventIndex(reader: OrderedReader): number {
  const range = {
    ...{ from: makeKey(TABLE.change, []), to: afterPrefix(makeKey(TABLE.change, [])) },
    ...{ countMax: 1, reverse: true },
  };
  for (const { key } of reader.range(range)) return numberInKey(key, 0);
  return 0;
}

/** What the newest snapshot leaves out, as one node sees it. */
export interface SnapshotAge {
  /** The newest snapshot; undefined when there is none. */
  readonly newest: TreeSnapshot | undefined;
  /** Whether the tree has changed since. */
  readonly isBehind: boolean;
  /** Age of the newest while it is behind, in cluster time; 0 while it shows everything. Without any: the cluster's age. */
  readonly ageMs: number;
}

/** How old the newest snapshot is. */
export function snapshotAge(reader: OrderedReader): SnapshotAge {
  const newest = treeSnapshots(reader).at(-1);
  const isBehind = lastEventIndex(reader) > (newest?.eventIndex ?? 0);
  const ageMs = isBehind ? Math.max(0, readState(reader).clusterTimeMs - (newest?.clusterTimeMs ?? 0)) : 0;
  return { newest, isBehind, ageMs };
}

/** record-tree-snapshot. */
export function recordTreeSnapshot(
  context: ApplyContext,
  body: Extract<CommandBody, { readonly kind: "record-tree-snapshot" }>,
): void {
  const { contentId, sizeBytes, treeHash, index, eventIndex, clusterTimeMs } = body;
  if (index >= context.index || clusterTimeMs > context.state.clusterTimeMs || sizeBytes === 0) {
    refuse("ARGUMENT_INVALID", "A snapshot shows some state of the past.", { index: String(index) });
  }
  const extents = leasedExtents(context, body);
  const before = treeSnapshots(context);
  if (before.some((snapshot) => snapshot.index === index)) {
    refuse("SEAL_REJECTED", `There is a snapshot of index ${index} already.`, { index: String(index) });
  }
  createContent(context, {
    ...{ contentId, sizeBytes, treeHash, extents },
    sha256: new Uint8Array(0),
    isShareable: false,
  });
  const record = { contentId, sizeBytes, eventIndex, clusterTimeMs, wallTimeMs: context.wallTimeMs };
  context.put(treeSnapshotKey(index), treeSnapshotCodec.encode(record));
  const all = [...before, { index, contentId }].sort((a, b) => a.index - b.index);
  for (const old of all.slice(0, -TREE_SNAPSHOT_COUNT)) {
    context.delete(treeSnapshotKey(old.index));
    releaseContent(context, old.contentId);
  }
}
