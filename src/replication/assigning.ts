/**
 * Which member is to make a copy: for an extent that lacks one (repair), and for one that a member gives away (moves). Looks at the
 * tree, at who is up and at who has room; decides nothing for good, the tree has the last word.
 */
import type { FailureDetector } from "../cluster/failure-detector-port.ts";
import type { Extent, ExtentKey, Replica } from "../drive/content.ts";
import { REPLICA_COUNT } from "../drive/limits.ts";
import type { Assignment } from "../metadata/task-records.ts";
import { members, storeOf } from "../metadata/view.ts";
import type { OrderedReader } from "../std/ordered-store.ts";
import type { Placement } from "./placement.ts";

/** A copy expected of a member that has been down for this long is asked of another: longer than a restart takes. */
export const PENDING_GRACE_MS = 60_000;
/** A member gives copies away when it holds more than the mean by this share and by this many bytes. */
export const IMBALANCE_SHARE = 0.2;
export const IMBALANCE_BYTES_MIN = 1024 ** 3;

/** What is asked about members. */
export interface Assigner {
  readonly detector: FailureDetector;
  readonly placement: Placement;
}

/** Members that give copies away. */
export interface MoveSources {
  /** They give everything away. */
  readonly drained: ReadonlySet<number>;
  /** They hold much more than the mean, and those that hold less. */
  readonly heavy: ReadonlySet<number>;
  readonly light: ReadonlySet<number>;
}

/** Whether a member may yet make a copy that it was asked for. One that was given up, and has not come back, may not. */
export function isInReach(reader: OrderedReader, { memberId }: Replica, detector: FailureDetector): boolean {
  const { health, sinceMs } = detector.state(memberId);
  if (health !== "down") return true;
  return sinceMs < PENDING_GRACE_MS && storeOf(reader, memberId).lostTimeMs === 0;
}

/**
 * One more member for an extent that too few are expected to hold; undefined when enough are, or nobody has room. A copy that is yet
 * to be made at a member without room is expected of it only while no other member has some.
 */
export function missingCopy(
  reader: OrderedReader,
  key: ExtentKey,
  extent: Extent,
  { detector, placement }: Assigner,
): Assignment | undefined {
  const expected = extent.replicas.filter(
    (replica) => replica.state === "verified" || isInReach(reader, replica, detector),
  );
  const hasNoRoom = ({ memberId, state }: Replica): boolean =>
    state === "pending" && detector.state(memberId).load?.writesRefused === true;
  const isEnough = expected.length >= REPLICA_COUNT;
  const given = isEnough
    ? expected.find(hasNoRoom)
    : extent.replicas.find((replica) => !expected.includes(replica));
  if (isEnough && given === undefined) return undefined;
  const memberId = placement.chooseSpare(holdersOf(extent), "missing");
  if (memberId === undefined) return undefined;
  return { ...keyOf(key), memberId, replacesMemberId: given?.memberId ?? 0 };
}

/** The members that give copies away now. */
export function moveSources(reader: OrderedReader, detector: FailureDetector): MoveSources {
  const ids = members(reader).map(({ memberId }) => memberId);
  const drained = new Set(ids.filter((memberId) => storeOf(reader, memberId).drainTimeMs > 0));
  const held = ids
    .filter((memberId) => !drained.has(memberId) && detector.state(memberId).health === "up")
    .map((memberId) => ({ memberId, liveBytes: detector.state(memberId).load?.liveBytes }));
  // Without a word from everyone the mean is a guess.
  if (held.some(({ liveBytes }) => liveBytes === undefined)) {
    return { drained, heavy: new Set(), light: new Set() };
  }
  const meanBytes = held.reduce((sum, { liveBytes = 0 }) => sum + liveBytes, 0) / Math.max(1, held.length);
  const marginBytes = Math.max(IMBALANCE_BYTES_MIN, meanBytes * IMBALANCE_SHARE);
  const heavy = held.filter(({ liveBytes = 0 }) => liveBytes > meanBytes + marginBytes);
  const light = held.filter(({ liveBytes = 0 }) => liveBytes < meanBytes);
  return {
    drained,
    heavy: new Set(heavy.map(({ memberId }) => memberId)),
    light: new Set(light.map(({ memberId }) => memberId)),
  };
}

/** The member that gives a copy of an extent away; undefined when none does, or repair has to come first. */
export function moveSourceOf(
  reader: OrderedReader,
  { replicas }: Extent,
  { drained, heavy }: MoveSources,
  detector: FailureDetector,
): number | undefined {
  const verified = replicas.filter(({ state }) => state === "verified");
  const isUnderWay = replicas.some((copy) => copy.state === "pending" && isInReach(reader, copy, detector));
  if (verified.length < REPLICA_COUNT || isUnderWay) return undefined;
  const among = (ids: ReadonlySet<number>): number | undefined =>
    verified.find(({ memberId }) => ids.has(memberId))?.memberId;
  return among(drained) ?? among(heavy);
}

/** The member that gets a copy in the place of one at `fromMemberId`; undefined when nobody should. */
export function movedCopy(
  key: ExtentKey,
  extent: Extent,
  fromMemberId: number,
  { drained, light }: MoveSources,
  placement: Placement,
): Assignment | undefined {
  const memberId = placement.chooseSpare(holdersOf(extent), "moved");
  if (memberId === undefined) return undefined;
  // Balance is worth a move only towards a member that has less than its share.
  if (!drained.has(fromMemberId) && !light.has(memberId)) return undefined;
  return { ...keyOf(key), memberId, replacesMemberId: fromMemberId };
}

function holdersOf({ replicas }: Extent): number[] {
  return replicas.map(({ memberId }) => memberId);
}

function keyOf({ contentId, extentIndex }: ExtentKey): ExtentKey {
  return { contentId, extentIndex };
}
