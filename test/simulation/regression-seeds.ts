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
  // A process that was killed in the middle of a turn still sent what the rest of that turn made: nobody had seen that durable.
  82,
  // A sync of the vote that failed just before the healing ended its process just after, which nobody expected any more.
  60,
  // A page of the log that could not be read made a torn tail behind it pass for damage, and whole entries between for doubtful.
  50125,
  // A start that ended after the process had refused to run made the simulator look at it again, in the middle of a failed batch.
  70040,
  // What a process had acknowledged in the very turn in which it refused to run was not seen to be durable.
  70078,
  // The feature level was raised after a removal that the operator had not heard of yet: the check still asked the removed.
  70144,
  // What a leader had sent in the very turn in which it refused to run was not seen to be in its log.
  71015,
  // A segment of the chunk log got the file of another one, and its node refused to start: that file "belongs to another store".
  16,
  // A copy that the tree wanted no more was told to be damaged by one process and again by the next: the check took it for news.
  1241,
  // A transfer of leadership was asked for again under its request id while another led: that was taken for another change.
  4004,
];

/** Seeds of the whole-node simulation with storage-only nodes (`npm run simulate -- --storage --seed N`). */
export const STORAGE_REGRESSION_SEEDS: readonly number[] = [
  // A storage-only node that holds nothing syncs nothing: the run waited for its sync to fail.
  134,
  // A sync had failed as the healing began, and its process ended after that: the simulator had forgotten why.
  2164,
  // A page that could not be read, in a large extent that was not sealed yet, kept the node from starting.
  60025,
  // The file that a snapshot came in could not be removed: the loaded state was forgotten, and kept every later one out for ever.
  80103,
  // A member was replaced while it had the only good copy of a file, after the other one had been removed with its member.
  80155,
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
  // A write of two rounds, the second of which replaced entries of the first: the check of acknowledgements saw only the end.
  397313731,
  // Entries from before a snapshot were still being applied when the core took it: a change among them answered with its configuration.
  91290,
  // A leader applied its own removal and stepped down; the voter that stayed had not heard that it was committed, needed its vote
  // for ever, and was refused it, for the removed member's log was one entry longer: no leader.
  91180,
];
