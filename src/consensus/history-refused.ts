/** What a node says when its log and its leader's cannot both be true. */
import { DriveError } from "../drive/errors.ts";
import { HistoryError } from "../raft/history-error.ts";

/** `error`, and for a HistoryError of the core the DriveError DATA_CORRUPT that tells an operator what to do. */
export function toldFatal(error: unknown): Error {
  if (!(error instanceof HistoryError)) return error as Error;
  const message =
    `${error.message} This node has stopped, and keeps what it has. When it was given an older copy, replace it by an empty one ` +
    "with `netdisk cluster replace`; when another node was, look at this one's files before it is replaced: it may hold what the others lost.";
  return new DriveError("DATA_CORRUPT", message, {}, error);
}
