/**
 * Opens the Raft log and the replicated store of one member together, and checks that they belong together.
 *
 *   directory/CURRENT, *.dump    replicated-store.ts, snapshots.ts
 *   directory/log/               segment-raft-log.ts
 *
 * The log is made first and CURRENT last, so that a store without a log, or a log without a store, is loss and not a
 * beginning: it is refused with DATA_CORRUPT, because an empty node must not vote under an old name.
 */
import { DriveError } from "../drive/errors.ts";
import type { HardState } from "../raft/types.ts";
import { makeDurableDirectory } from "../std/atomic-file.ts";
import type { Clock } from "../std/clock.ts";
import type { Disk } from "../std/disk.ts";
import type { Logger } from "../telemetry/logger.ts";
import { needsLogReset, ReplicatedStore, type ReplicatedStoreOptions } from "./replicated-store.ts";
import { SegmentRaftLog } from "./segment-raft-log.ts";

/** Settings and dependencies of openStorage(). */
export interface OpenStorageOptions<Result> {
  readonly disk: Disk;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly directory: string;
  readonly clusterId: string;
  readonly memberId: number;
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
 * Opens log and store, making them when there are none; finishes an install that a crash interrupted.
 * @throws DriveError DATA_CORRUPT, WRONG_CLUSTER; errors of the disk
 */
export async function openStorage<Result>(options: OpenStorageOptions<Result>): Promise<Storage<Result>> {
  const { disk, clock, directory, clusterId, memberId } = options;
  await makeDurableDirectory(disk, directory);
  const hasStore = await ReplicatedStore.exists({ disk, directory });
  const log = await SegmentRaftLog.open({
    disk,
    clock,
    directory: `${directory}/log`,
    clusterId,
    memberId,
    whenAbsent: hasStore ? "refuse" : "create",
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
    return { log, store };
  } catch (error) {
    await store?.close();
    await log.close();
    throw error;
  }
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
