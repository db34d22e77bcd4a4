/**
 * What a follower finds when its log and its leader's cannot both be true. Sound members on sound disks never get here: somebody
 * put an older copy of a data directory in the place of the newer one, or a disk lost what it had confirmed. Which of the two logs is
 * the true one cannot be told from here, so nothing is repaired.
 */
export class HistoryError extends Error {
  override readonly name = "HistoryError";
}

/** The leader counts on entries up to `commitIndex` that this member acknowledged and does not have. */
export function entriesLost(commitIndex: number, lastIndex: number): HistoryError {
  return new HistoryError(
    `The leader has it that this member acknowledged entries up to ${commitIndex}, and its log ends at ${lastIndex}: ` +
      "it runs on an older copy of its data, or its disk lost what it had confirmed.",
  );
}

/** The entry at `index` is committed here, of term `ownTerm`, and in the leader's log it is of `leaderTerm`. */
export function historiesDiffer(index: number, ownTerm: number, leaderTerm: number): HistoryError {
  return new HistoryError(
    `Entry ${index} is committed here as one of term ${ownTerm}, and the leader has one of term ${leaderTerm} in its place: ` +
      "this member or the ones that elected the leader run on an older copy of their data.",
  );
}
