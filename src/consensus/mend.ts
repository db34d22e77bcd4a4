/**
 * What is done about a damaged log when a member starts.
 *
 *   vote known in neither copy                       refused: it must come back as a new member
 *   no other voter                                   refused: nobody else has what is missing
 *   damage only before the end of the flushed state  cut off there: the state holds what the entries did
 *   anything else                                    the log goes on empty behind the state, and the others have the rest
 *
 * In the last case PROMISES says so first, durably. From then on, however often it starts, the member is mending
 * (raft/mending.ts): nothing that it acknowledged counts as absent while any of it may be missing.
 */
import { DriveError } from "../drive/errors.ts";
import type { Logger } from "../telemetry/logger.ts";
import type { LogPosition } from "./codec.ts";
import { laterOf, mergePromises, voteLost, type PromiseFile } from "./promises.ts";
import { ReplicatedStore, type ReplicatedStoreOptions } from "./replicated-store.ts";
import type { LogDamage } from "./log-recovery.ts";
import type { SegmentRaftLog } from "./segment-raft-log.ts";

/** What is opened together. */
interface Opened<Result> {
  readonly log: SegmentRaftLog;
  readonly store: ReplicatedStore<Result>;
  readonly promises: PromiseFile;
}

/**
 * Brings term and vote together from both copies, and repairs the log as far as this member can alone.
 * @throws DriveError DATA_CORRUPT with the remedy; NO_SPACE and errors of the disk
 */
export async function mend<Result>(
  options: { readonly directory: string; readonly memberId: number; readonly logger: Logger },
  { log, store, promises }: Opened<Result>,
): Promise<void> {
  const damage = log.damage ?? shortOf(log, store, promises);
  if (promises.content === undefined && damage !== undefined && !damage.isHardStateKnown) {
    throw voteLost(`${options.directory}/PROMISES and the end of the log are both damaged`);
  }
  const hardState = mergePromises(promises.content, log.hardState);
  log.adopt(hardState);
  const { voters, votersOutgoing } = store.state.confState;
  const isAlone = votersOutgoing.length === 0 && voters.length === 1 && voters[0] === options.memberId;
  if (damage === undefined) {
    if (promises.content === undefined) await restorePromises(isAlone, options.logger, { log, promises });
    return;
  }
  for (const fault of damage.faults) options.logger.error("log_damaged", { fault });
  if (isAlone) throw refused(options.directory, damage);
  const { appliedIndex: index, appliedTerm: term } = store.state;
  const held: LogPosition = { index, term };
  if (isBehindState(log, damage, held) && promises.content !== undefined) {
    const commitIndex = Math.max(hardState.commitIndex, index);
    await log.mendBehind(held, { ...hardState, commitIndex });
    options.logger.warn("log_damage_cut_off", { index, last_index: log.lastIndex() });
    return;
  }
  const lastKnown = lastKnownOf(promises, damage.run?.last);
  await promises.beginMending(hardState, lastKnown);
  await log.reset(held, { ...hardState, commitIndex: index }, true);
  options.logger.error("log_mending", { from_index: index + 1, last_known: lastKnown });
}

/**
 * Puts an empty state in the place of a damaged one: it is made again from a log that is whole from its first entry, else the
 * log is emptied too, and the others send a snapshot.
 * @param damage what is wrong with the state
 * @throws DriveError DATA_CORRUPT when nobody has what is missing; NO_SPACE and errors of the disk
 */
export async function rebuildState<Result>(
  options: {
    readonly directory: string;
    readonly memberId: number;
    readonly logger: Logger;
    readonly state: ReplicatedStoreOptions<Result>;
  },
  { log, promises }: Omit<Opened<Result>, "store">,
  damage: DriveError,
): Promise<ReplicatedStore<Result>> {
  const { voters } = options.state.initialConfState;
  if (voters.length === 1 && voters[0] === options.memberId) throw damage;
  if (promises.content === undefined && log.damage !== undefined && !log.damage.isHardStateKnown) {
    throw voteLost(`${options.directory}/PROMISES and the end of the log are both damaged`);
  }
  options.logger.error("state_damaged", { reason: damage.message });
  const isComplete = log.damage === undefined && log.start.index === 0 && promises.content !== undefined;
  if (isComplete) return await ReplicatedStore.replace(options.state);
  const hardState = mergePromises(promises.content, log.hardState);
  const lastKnown = lastKnownOf(promises, log.damage === undefined ? endOf(log) : log.damage.run?.last);
  await promises.beginMending(hardState, lastKnown);
  const store = await ReplicatedStore.replace(options.state);
  await log.reset({ index: 0, term: 0 }, { ...hardState, commitIndex: 0 }, true);
  return store;
}

function endOf(log: SegmentRaftLog): LogPosition {
  return { index: log.lastIndex(), term: log.term(log.lastIndex()) };
}

/** The last entry that this member ever had, by what PROMISES and the log know. */
function lastKnownOf({ content }: PromiseFile, last: LogPosition | undefined): LogPosition | undefined {
  if (content === undefined) return undefined;
  return content.isMending ? laterOf(content.lastKnown, last) : last;
}

/** Damage that only the state shows: entries that it applied are not in the log, or are others, or it was made anew. */
function shortOf<Result>(
  log: SegmentRaftLog,
  store: ReplicatedStore<Result>,
  promises: PromiseFile,
): LogDamage | undefined {
  const { appliedIndex, appliedTerm } = store.state;
  if (appliedIndex < log.start.index) {
    // The rebuilding of the state ended between the state and the log.
    if (appliedIndex > 0 || promises.content?.isMending !== true) return undefined;
    return { faults: [], isHardStateKnown: true, run: { firstIndex: log.firstIndex(), last: endOf(log) } };
  }
  // An install of a snapshot that a crash interrupted looks the same, and ends by itself.
  if (appliedIndex === store.installedSnapshot.index) return undefined;
  if (appliedIndex <= log.lastIndex() && log.term(appliedIndex) === appliedTerm) return undefined;
  return { faults: [], isHardStateKnown: false, run: undefined };
}

/** Makes the file anew from a log that is whole. It may have said that entries were missing: so they are taken to be. */
async function restorePromises(
  isAlone: boolean,
  logger: Logger,
  { log, promises }: { readonly log: SegmentRaftLog; readonly promises: PromiseFile },
): Promise<void> {
  logger.error("promises_damaged", { term: log.hardState.term });
  if (isAlone) await promises.promise(log.hardState);
  else await promises.beginMending(log.hardState, undefined);
}

/** Whether all entries behind `held` are certainly there. */
function isBehindState(log: SegmentRaftLog, { run }: LogDamage, held: LogPosition): boolean {
  if (run === undefined || held.index + 1 < run.firstIndex || held.index > run.last.index) return false;
  return held.index < run.firstIndex || log.term(held.index) === held.term;
}

function refused(directory: string, { faults }: LogDamage): DriveError {
  const at = faults.map(({ path, offset }) => `${path} at byte ${offset}`).join(", ");
  return new DriveError(
    "DATA_CORRUPT",
    `The Raft log in ${directory}/log is damaged (${at}), and no other member has what is missing. ` +
      `Restore the data directory from a copy made while the node was stopped.`,
    { directory, damage: at },
  );
}
