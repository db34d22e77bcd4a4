/**
 * Seeds that once failed, and what they found. Each always runs; the lists are never shortened.
 *
 * A seed means something only with the plans that are drawn from it. When those change, a bug worth keeping has a directed
 * test of its own beside the code that had it.
 */

/** Seeds of the whole-node simulation (`npm run simulate -- --seed N`). */
export const NODE_REGRESSION_SEEDS: readonly number[] = [
  // A record of the chunk log damaged on a node, which started without the extent and told nobody: copies stayed at two.
  31,
  // Two contents with the same bytes, the one in the index of equal bytes dropped: the tree's check asked for too much.
  112,
  // If-Match on a folder, together with "fail": the model did not know the folder's version.
  1083,
];

/** Seeds of the Raft cluster simulation (`npm run simulate -- --raft --seed N`). */
export const CLUSTER_REGRESSION_SEEDS: readonly number[] = [
  // A member was sent one snapshot after another while acknowledgements from before the first one came in: the virtual disk
  // answered for each piece of work alone, where the log writer answers for all of them together.
  18,
  // The end of a snapshot that a partition swallowed on its way was not reported, which the core asks of its driver.
  115,
  // A voter had a shorter log after a crash than when it was asked: the check of votes compared with the longer one.
  196,
  // Asking for a change of the membership again and again filled the log with the empty entries of those that were refused.
  685,
];
