/** The brake of collection: a node that finds too much of its store unknown to the tree removes nothing until somebody has looked. */

/** What a sweep over the chunk store found when it refused to remove anything. */
export interface CollectionBrake {
  /** Extents in the store. */
  readonly extentCount: number;
  /** Extents of contents that the tree does not know. */
  readonly orphanCount: number;
  /** Extents of contents that the tree has not given out yet: the tree is older than the store. */
  readonly futureCount: number;
}

/** What it means and how the brake is released, in one sentence for an operator. */
export function describeBrake(nodeId: string, brake: CollectionBrake): string {
  const { extentCount, orphanCount, futureCount } = brake;
  const group = (count: number): string => count.toLocaleString("en-US");
  if (futureCount > 0) {
    return (
      `${nodeId} collects no unknown chunks: ${group(futureCount)} of ${group(extentCount)} extents are younger than the tree. ` +
      "They are never removed: find out which backup or old copy of the tree was started (RUNBOOK, collection_braked)."
    );
  }
  return (
    `${nodeId} collects no unknown chunks: the tree does not know ${group(orphanCount)} of ${group(extentCount)} extents. ` +
    "Once you know why, start that node with data.orphanPercentMax 100 for half an hour (RUNBOOK, collection_braked)."
  );
}
