/**
 * Opens the Raft log and the replicated store of one member together, and checks that they belong together.
 *
 *   directory/PROMISES           promises.ts
 *   directory/CURRENT, *.dump    replicated-store.ts, snapshots.ts
 *   directory/log/               segment-raft-log.ts
 *
 * The log is made first, then the store, and CURRENT last, so that a store without a log, or a log without a store, is loss
 * and not a beginning: it is refused with DATA_CORRUPT, because an empty node must not vote under an old name. When all of it
 * is gone, only somebody outside can know: the caller is told once it is made (onCreated), before anything is promised to
 * anybody, and says "refuse" from then on. Nothing is made, changed or removed when data is missing.
 */
import { DriveError, hasReason } from "../drive/errors.ts";
import type { HardState } from "../raft/types.ts";
import { parseSegmentName } from "../segments/segment-log.ts";
import { makeDurableDirectory } from "../std/atomic-file.ts";
import type { Clock } from "../std/clock.ts";
import type { Disk } from "../std/disk.ts";
import type { Logger } from "../telemetry/logger.ts";
import {
  FIRST_GENERATION_NAME,
  needsLogReset,
  ReplicatedStore,
  type ReplicatedStoreOptions,
} from "./replicated-store.ts";
import { mend, rebuildState } from "./mend.ts";
import { PromiseFile } from "./promises.ts";
import { SegmentRaftLog } from "./segment-raft-log.ts";

/** Settings and dependencies of openStorage(). */
export interface OpenStorageOptions<Result> {
  readonly disk: Disk;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly directory: string;
  readonly clusterId: string;
  readonly memberId: number;
  /** See ConsensusOptions. */
  readonly whenAbsent: "create" | "refuse";
  readonly onCreated: () => Promise<void>;
  readonly store: Omit<ReplicatedStoreOptions<Result>, "disk" | "directory" | "clock" | "clusterId">;
  readonly logCacheSizeBytesMax?: number | undefined;
  readonly logSegmentSizeBytes?: number | undefined;
  /** See SegmentRaftLogOptions. */
  readonly onUnreadable: (index: number, error: Error) => void;
  readonly onFatal: (error: Error) => void;
}

/** All of it, open. */
export interface Storage<Result> {
  readonly log: SegmentRaftLog;
  readonly store: ReplicatedStore<Result>;
  readonly promises: PromiseFile;
  /** Set when the state is being made anew: what it had reached before, as far as that is known. */
  readonly rebuildIndex: number | undefined;
}

/**
 * Opens log and store, making them when there are none and that may be; finishes an install that a crash interrupted, and
 * repairs what can be repaired without the others. What cannot is begun here: see "Damage" in DESIGN.md.
 * @throws DriveError DATA_CORRUPT, WRONG_CLUSTER; errors of the disk
 */
export async function openStorage<Result>(options: OpenStorageOptions<Result>): Promise<Storage<Result>> {
  const { disk, clock, directory, clusterId, memberId } = options;
  const hasLog = await hasLogIn(options);
  const hasStore = await ReplicatedStore.exists({ disk, directory });
  await refuseLoss(options, hasLog, hasStore);
  await makeDurableDirectory(disk, directory);
  const promises = await PromiseFile.open(disk, directory);
  let store: ReplicatedStore<Result> | undefined;
  const log = await SegmentRaftLog.open({
    disk,
    clock,
    directory: `${directory}/log`,
    clusterId,
    memberId,
    whenAbsent: hasLog ? "refuse" : "create",
    durable: promises.content?.durable,
    keepPromise: (hardState) => promises.promise(hardState),
    heldIndex: () => store?.flushedIndex ?? 0,
    onUnreadable: options.onUnreadable,
    onFatal: options.onFatal,
    cacheSizeBytesMax: options.logCacheSizeBytesMax,
    segmentSizeBytes: options.logSegmentSizeBytes,
  });
  try {
    const isUsed = log.hardState.term > 0 || log.lastIndex() > 0 || log.damage !== undefined;
    const isLost = !hasStore && isUsed;
    if (isLost && options.whenAbsent === "create") {
      throw corrupt(`${directory}/CURRENT is gone, but there is a log`);
    }
    // The file comes before CURRENT, so that its absence beside a store is loss.
    if (!hasStore && !isLost) await promises.promise(log.hardState);
    const { commitIndex } = log.hardState;
    const state = { ...options.store, disk, directory, clock, clusterId };
    const { store: opened, isRebuilt } = await openState({ ...options, state }, { log, promises }, isLost);
    store = opened;
    await mend(options, { log, store, promises });
    await finishInstall(log, store, options.logger);
    checkTogether(log, store);
    if (options.whenAbsent === "create") await options.onCreated();
    // One that a crash interrupted is found empty.
    const isEmpty = store.state.appliedIndex === 0 && hasStore;
    return { log, store, promises, rebuildIndex: isRebuilt || isEmpty ? commitIndex : undefined };
  } catch (error) {
    await store?.close();
    await log.close();
    throw error;
  }
}

/** Whether there is a log. Once it was made, its segments show it even without their table. */
async function hasLogIn<Result>({
  disk,
  directory,
  whenAbsent,
}: OpenStorageOptions<Result>): Promise<boolean> {
  const log = `${directory}/log`;
  if (await SegmentRaftLog.exists({ disk, directory: log })) return true;
  if (whenAbsent === "create" || !(await disk.exists(log))) return false;
  return (await disk.list(log)).some((name) => parseSegmentName(name) !== undefined);
}

/** Opens the state, or begins to make it anew when it is damaged. */
async function openState<Result>(
  options: OpenStorageOptions<Result> & { readonly state: ReplicatedStoreOptions<Result> },
  opened: { readonly log: SegmentRaftLog; readonly promises: PromiseFile },
  isLost: boolean,
): Promise<{ readonly store: ReplicatedStore<Result>; readonly isRebuilt: boolean }> {
  try {
    if (isLost) throw corrupt(`${options.directory}/CURRENT is gone`);
    const store = await ReplicatedStore.open(options.state);
    await refuseOlder(store, opened);
    return { store, isRebuilt: false };
  } catch (error) {
    const isDamage = hasReason(error, "DATA_CORRUPT") && options.whenAbsent === "refuse";
    if (!isDamage) throw error;
    return { store: await rebuildState(options, opened, error), isRebuilt: true };
  }
}

/**
 * A state that ends before the log begins is an old copy: the log is cut only behind what was flushed. The empty one of a rebuilding
 * that a crash interrupted is not, and a log that is damaged itself is judged by mend().
 */
async function refuseOlder<Result>(
  store: ReplicatedStore<Result>,
  { log, promises }: { readonly log: SegmentRaftLog; readonly promises: PromiseFile },
): Promise<void> {
  const { appliedIndex } = store.state;
  const isEmptied = appliedIndex === 0 && promises.content?.isMending === true;
  if (log.damage !== undefined || appliedIndex >= log.start.index || isEmptied) return;
  await store.close();
  throw corrupt(`the state ends at ${appliedIndex}, but the log starts behind ${log.start.index}`);
}

/** What is absent must never have been there: else it is lost, and so is what this member promised. */
async function refuseLoss<Result>(
  options: OpenStorageOptions<Result>,
  hasLog: boolean,
  hasStore: boolean,
): Promise<void> {
  const { directory, store, whenAbsent } = options;
  if (hasLog && (hasStore || whenAbsent === "refuse")) return;
  const absent = [...(hasLog ? [] : [`${directory}/log`]), ...(hasStore ? [] : [`${directory}/CURRENT`])];
  const gone = `${absent.join(" and ")} ${absent.length > 1 ? "are" : "is"} gone`;
  if (whenAbsent === "refuse") {
    throw corrupt(`${gone}, and it has taken part in its cluster; it must not vote with an empty log`);
  }
  if (hasStore) throw corrupt(`${gone}, but there is a state`);
  // The log is made before the first store, and other generations come after CURRENT.
  const generations = await ReplicatedStore.generations(store.provider);
  const lost = hasLog ? generations.filter((name) => name !== FIRST_GENERATION_NAME) : generations;
  if (lost.length > 0) throw corrupt(`${gone}, but there is the store ${lost.join(", ")}`);
}

async function finishInstall<Result>(
  log: SegmentRaftLog,
  store: ReplicatedStore<Result>,
  logger: Logger,
): Promise<void> {
  const snapshot = store.installedSnapshot;
  if (!needsLogReset(snapshot, log.start)) return;
  if (store.state.appliedIndex !== snapshot.index) {
    throw corrupt(`the log starts at ${log.start.index}, before the installed snapshot of ${snapshot.index}`);
  }
  // The term that came with the snapshot may not have been stored: whatever is in the log is of a term the node knows.
  const { term, votedFor } = log.hardState;
  const isNewTerm = snapshot.term > term;
  const hardState: HardState = {
    term: isNewTerm ? snapshot.term : term,
    votedFor: isNewTerm ? 0 : votedFor,
    commitIndex: snapshot.index,
  };
  await log.reset(snapshot, hardState);
  logger.info("snapshot_install_finished", { index: snapshot.index });
}

function checkTogether<Result>(log: SegmentRaftLog, store: ReplicatedStore<Result>): void {
  const { appliedIndex, appliedTerm } = store.state;
  if (appliedIndex < log.start.index) {
    throw corrupt(`the store ends at ${appliedIndex}, but the log starts behind ${log.start.index}`);
  }
  if (appliedIndex > log.lastIndex()) {
    throw corrupt(`the log ends at ${log.lastIndex()}, but entries up to ${appliedIndex} were applied`);
  }
  if (appliedIndex > 0 && log.term(appliedIndex) !== appliedTerm) {
    throw corrupt(
      `entry ${appliedIndex} has term ${log.term(appliedIndex)}, but was applied with ${appliedTerm}`,
    );
  }
}

function corrupt(what: string): DriveError {
  return new DriveError("DATA_CORRUPT", `The data of this member is damaged: ${what}.`, { what });
}
