/**
 * Opens the Raft log and the replicated store of one member together, and checks that they belong together.
 *
 *   directory/CURRENT, *.dump    replicated-store.ts, snapshots.ts
 *   directory/log/               segment-raft-log.ts
 *
 * The log is made first, then the store, and CURRENT last, so that a store without a log, or a log without a store, is loss
 * and not a beginning: it is refused with DATA_CORRUPT, because an empty node must not vote under an old name. When all of it
 * is gone, only somebody outside can know: the caller is told once it is made (onCreated), before anything is promised to
 * anybody, and says "refuse" from then on. Nothing is made, changed or removed when data is missing.
 */
import { DriveError } from "../drive/errors.ts";
import type { HardState } from "../raft/types.ts";
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
  readonly onFatal: (error: Error) => void;
}

/** Both, open. */
export interface Storage<Result> {
  readonly log: SegmentRaftLog;
  readonly store: ReplicatedStore<Result>;
}

/**
 * Opens log and store, making them when there are none and that may be; finishes an install that a crash interrupted.
 * @throws DriveError DATA_CORRUPT, WRONG_CLUSTER; errors of the disk
 */
export async function openStorage<Result>(options: OpenStorageOptions<Result>): Promise<Storage<Result>> {
  const { disk, clock, directory, clusterId, memberId } = options;
  const hasLog = await SegmentRaftLog.exists({ disk, directory: `${directory}/log` });
  const hasStore = await ReplicatedStore.exists({ disk, directory });
  await refuseLoss(options, hasLog, hasStore);
  await makeDurableDirectory(disk, directory);
  const log = await SegmentRaftLog.open({
    disk,
    clock,
    directory: `${directory}/log`,
    clusterId,
    memberId,
    whenAbsent: hasLog ? "refuse" : "create",
    onFatal: options.onFatal,
    cacheSizeBytesMax: options.logCacheSizeBytesMax,
    segmentSizeBytes: options.logSegmentSizeBytes,
  });
  let store: ReplicatedStore<Result> | undefined;
  try {
    if (!hasStore && (log.hardState.term > 0 || log.lastIndex() > 0)) {
      throw corrupt(`${directory}/CURRENT is gone, but there is a log`);
    }
    store = await ReplicatedStore.open({ ...options.store, disk, directory, clock, clusterId });
    await finishInstall(log, store, options.logger);
    checkTogether(log, store);
    if (options.whenAbsent === "create") await options.onCreated();
    return { log, store };
  } catch (error) {
    await store?.close();
    await log.close();
    throw error;
  }
}

/** What is absent must never have been there: else it is lost, and so is what this member promised. */
async function refuseLoss<Result>(
  options: OpenStorageOptions<Result>,
  hasLog: boolean,
  hasStore: boolean,
): Promise<void> {
  const { directory, store, whenAbsent } = options;
  if (hasLog && hasStore) return;
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
