/**
 * What the failure detector tells the rest of the node about its peers: health by intervals and thresholds, and their load.
 * failure-detector.ts implements it over heartbeats; see there for the intervals.
 */
import type { CollectionBrake } from "../drive/collection-brake.ts";
import type { NodeHealth } from "../drive/drive-api.ts";
import type { FeatureLevels } from "../drive/feature-levels.ts";

/** Figures that a node reports about itself with each heartbeat. */
export interface NodeLoad {
  readonly freeBytes: number;
  readonly totalBytes: number;
  readonly liveBytes: number;
  /** True while its chunk store refuses writes. */
  readonly writesRefused: boolean;
  /** Bytes in flight through it now. */
  readonly inflightBytes: number;
  readonly appliedIndex: number;
  /** Bytes of copies that its repair made a second, of late. */
  readonly repairBytesPerSecond: number;
  /** Extents of its store in quarantine. */
  readonly quarantinedCount: number;
  /** How much of the scrub pass under way is done, 0 to 1; undefined when none is. */
  readonly scrubProgress: number | undefined;
  /** Why its collection removes nothing that the tree does not know; undefined while it would. */
  readonly collectionBrake: CollectionBrake | undefined;
  /** What it supports; absent of a version before there were levels. */
  readonly featureLevels?: FeatureLevels | undefined;
}

/** One peer as judged from here. This node itself is always "up". */
export interface PeerState {
  readonly memberId: number;
  readonly health: NodeHealth;
  /** Monotonic milliseconds for which it has been up; of one that is not, since it was last heard of. */
  readonly sinceMs: number;
  /** Newest load heard of; undefined before the first heartbeat. */
  readonly load: NodeLoad | undefined;
}

/** Asks a peer for its load; the answer is the heartbeat. Rejects when it does not answer in time. */
export interface HeartbeatPort {
  ping(memberId: number, signal: AbortSignal): Promise<NodeLoad>;
}

/** Judgement of every known peer. */
export interface FailureDetector {
  state(memberId: number): PeerState;
  /** All registered members, ascending by id. */
  states(): readonly PeerState[];
  /** An error or success on another path is evidence too: a refused connection makes a peer suspect at once. */
  report(memberId: number, outcome: "reached" | "unreachable"): void;
}

/**
 * Whether users move bytes at other members than `ownId`, as far as those say. What a member said before it was taken for down
 * does not count: it may have died in the middle of an upload, and everybody would yield to that for as long as it is away.
 */
export function isUsedElsewhere(detector: FailureDetector, ownId: number): boolean {
  return detector
    .states()
    .some(
      ({ memberId, health, load }) =>
        memberId !== ownId && health !== "down" && (load?.inflightBytes ?? 0) > 0,
    );
}
