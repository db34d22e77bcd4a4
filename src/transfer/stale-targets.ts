/**
 * Targets chosen from a list of members that was a little old: the tree refuses one that was removed meanwhile. The caller
 * asked for nothing wrong, so others are chosen from the tree as it is now, before he hears of it.
 */
import { DriveError, hasReason } from "../drive/errors.ts";
import type { DataPlane } from "./data-plane.ts";

/** How often targets are chosen for one request. A further choice fails only when one more member is removed in that moment. */
export const TARGET_CHOICE_COUNT_MAX = 4;

/** Whether the tree refused a target because it is no member (any more). */
const isOfRemovedMember = (error: unknown): error is DriveError =>
  hasReason(error, "ARGUMENT_INVALID") && error.metadata["member_id"] !== undefined;

/**
 * Runs `work`, which chooses targets and proposes them and nothing else that names members, until they all are members.
 * @param work gets the number of the attempt, from 1
 * @throws DriveError as `work`; MEMBERSHIP_CHANGE_IN_PROGRESS after TARGET_CHOICE_COUNT_MAX choices
 */
export async function withLivingTargets<T>(
  plane: DataPlane,
  signal: AbortSignal | undefined,
  work: (attempt: number) => Promise<T>,
): Promise<T> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await work(attempt);
    } catch (error) {
      if (!isOfRemovedMember(error)) throw error;
      if (attempt >= TARGET_CHOICE_COUNT_MAX) {
        const message = "Members were being removed while nodes for the bytes were chosen.";
        throw new DriveError("MEMBERSHIP_CHANGE_IN_PROGRESS", message, error.metadata, error);
      }
      // The refusal may have come from another node that is ahead of this one.
      await plane.metadata.port.linearize({ signal });
      plane.directory.forget();
    }
  }
}
