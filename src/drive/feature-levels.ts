/**
 * Feature levels: how a cluster of nodes of several versions never writes what one of them cannot read.
 *
 * Each version of the program supports a range of levels. The cluster has one level, in the replicated state; it is raised only
 * when every member supports the next one, by a command that every member applies at the same index, and is never lowered. What
 * needs a level is not written before the cluster has it. So nodes are upgraded one at a time, and one may go back to the version
 * before for as long as the level was not raised; after that the older version refuses to run and says so.
 *
 * All this holds from the first version with levels on (0.1.0): builds before it do not look at levels and are never mixed with it.
 *
 *   1  everything before there were levels; a state that names none has this one
 *   2  the tree remembers what each member supports (register-node)
 *   3  no copy goes, and no seal counts, on the strength of a chunk store that was given up or replaced (add-replica, uploads);
 *      a bad copy goes as soon as three others count, also when it is found bad after them; nothing of a removed member stays,
 *      whatever goes while its copies are being forgotten
 */
import { DriveError } from "./errors.ts";

/** The levels that a version of the program supports, both ends included. */
export interface FeatureLevels {
  /** At least 1. */
  readonly min: number;
  readonly max: number;
}

/** Level of a cluster whose state names none, and all that a node supports that names none. */
export const FEATURE_LEVEL_FIRST = 1;

/** From this level on a registration says what its member supports. */
export const FEATURE_LEVEL_REGISTERED = 2;

/** From this level on applying a command looks whether a copy that is called verified still counts. */
export const FEATURE_LEVEL_VOID_COPIES = 3;

/** What this version supports. */
export const FEATURE_LEVELS: FeatureLevels = { min: FEATURE_LEVEL_FIRST, max: FEATURE_LEVEL_VOID_COPIES };

/** What a node supports that does not say: it is of a version before there were levels. */
export const FEATURE_LEVELS_UNSAID: FeatureLevels = { min: FEATURE_LEVEL_FIRST, max: FEATURE_LEVEL_FIRST };

/** Whether a level lies in a range. */
export function supportsLevel({ min, max }: FeatureLevels, level: number): boolean {
  return min <= level && level <= max;
}

/** The newest level that all of these support, at least one; undefined when there is none. */
export function commonLevel(ranges: readonly FeatureLevels[]): number | undefined {
  const level = Math.min(...ranges.map(({ max }) => max));
  return ranges.every((range) => supportsLevel(range, level)) ? level : undefined;
}

/**
 * Refuses a level that a node does not support.
 * @throws DriveError VERSION_UNSUPPORTED, which says whether a newer or an older version is needed
 */
export function checkLevel(levels: FeatureLevels, level: number): void {
  if (!supportsLevel(levels, level)) throw versionUnsupported(levels, level);
}

/** The refusal of a version of the program that does not support the level of the cluster. */
export function versionUnsupported({ min, max }: FeatureLevels, level: number): DriveError {
  const supported = min === max ? `level ${min} alone` : `the levels ${min} to ${max}`;
  const advice =
    level > max
      ? "start it with the newer version that the other nodes run"
      : "start it with the version that the other nodes run, and upgrade once the cluster's level was raised";
  return new DriveError(
    "VERSION_UNSUPPORTED",
    `The cluster has feature level ${level}, and this version of netdisk supports ${supported}: ${advice}.`,
    { feature_level: String(level), supported_min: String(min), supported_max: String(max) },
  );
}

/** The refusal of what needs a level that the cluster does not have yet. */
export function levelTooLow(needed: number, level: number): DriveError {
  return new DriveError(
    "FEATURE_LEVEL_TOO_LOW",
    `This needs feature level ${needed}, and the cluster has ${level} until every node runs a version that supports more.`,
    { needed_level: String(needed), feature_level: String(level) },
  );
}
