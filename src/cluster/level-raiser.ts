/**
 * When the feature level of the cluster is raised (drive/feature-levels.ts): to the newest one that every member supports, as
 * each of them said with its last heartbeat.
 *
 * Every member means whoever votes, learns, has registered (those without the tree too) or is being added. One that is not up has
 * not said what it runs now, so it holds the level back until it is back or removed. Heartbeats are asked and not the tree,
 * because an older version that a node was taken back to would not correct what the tree says of it. One that was taken back
 * within the last heartbeat stops when it meets the command, and says why: nothing is lost, and it has to be upgraded.
 */
import {
  commonLevel,
  FEATURE_LEVEL_REGISTERED,
  FEATURE_LEVELS_UNSAID,
  type FeatureLevels,
} from "../drive/feature-levels.ts";
import { featureLevel } from "../metadata/feature-level.ts";
import { openMembershipChange } from "../metadata/membership.ts";
import { clusterInfo, members } from "../metadata/view.ts";
import type { OrderedReader } from "../std/ordered-store.ts";
import type { FailureDetector } from "./failure-detector-port.ts";
import type { PlantedLevelFault } from "./planted-faults.ts";

/** What is looked at. */
export interface LevelView {
  readonly reader: OrderedReader;
  /** Members that have a part in consensus: voters of either configuration and learners. */
  readonly consensusIds: readonly number[];
  readonly detector: Pick<FailureDetector, "state">;
  /** What this node supports. */
  readonly own: FeatureLevels;
  /** A bug to show, in tests alone. */
  readonly plantedLevelFault?: PlantedLevelFault | undefined;
}

/** What a member supports, as it said of late; undefined while it is not known. */
function levelsOf(detector: Pick<FailureDetector, "state">, memberId: number): FeatureLevels | undefined {
  const { health, load } = detector.state(memberId);
  if (health !== "up" || load === undefined) return undefined;
  return load.featureLevels ?? FEATURE_LEVELS_UNSAID;
}

/** The level that the cluster can be raised to now; undefined when it stays. */
export function raisableLevel(view: LevelView): number | undefined {
  const { reader, consensusIds, detector, own } = view;
  const level = featureLevel(reader);
  if (level >= own.max || clusterInfo(reader) === undefined) return undefined;
  if (view.plantedLevelFault === "level-raised-early") return own.max;
  const change = openMembershipChange(reader);
  if (change?.kind === "add" || change?.kind === "replace") return undefined;
  const registered = members(reader);
  const ids = new Set([...consensusIds, ...registered.map(({ memberId }) => memberId)]);
  const ranges = [...ids].map((id) => levelsOf(detector, id));
  const known = ranges.filter((range) => range !== undefined);
  if (known.length < ranges.length) return undefined;
  const common = commonLevel([own, ...known]);
  if (common === undefined || common <= level) return undefined;
  // What the tree would refuse: a node that was just upgraded has not registered anew.
  const isKnown = registered.every(({ featureLevelMax = level }) => featureLevelMax >= common);
  return level < FEATURE_LEVEL_REGISTERED || isKnown ? common : undefined;
}
