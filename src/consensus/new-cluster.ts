/**
 * Makes, beside the data of one member that is not running, the data of a cluster that consists of this member alone: for when
 * the majority is lost for good.
 *
 * Everything in the member's log counts as committed from then on: some of it may never have been, but all that was ever
 * acknowledged and is known here is in it. The log itself begins anew behind the state.
 *
 * Nothing of the old data is changed: opening a log repairs its end and closing it marks what was promised, so both are done above
 * an overlay. The stores are the caller's: to leave them alone too they are those of lmdb-store-view.ts.
 */
import { DriveError } from "../drive/errors.ts";
import { changeConfig, votersOnly } from "../raft/conf-change.ts";
import { decodeConfChange } from "../raft/conf-change-codec.ts";
import type { ConfState, LogEntry } from "../raft/types.ts";
import { makeDurableDirectory } from "../std/atomic-file.ts";
import type { Clock } from "../std/clock.ts";
import type { Disk } from "../std/disk.ts";
import type {
  OrderedReader,
  OrderedStore,
  OrderedStoreProvider,
  OrderedTransaction,
} from "../std/ordered-store.ts";
import { OverlayDisk } from "../std/overlay-disk.ts";
import type { LogPosition } from "./codec.ts";
import { mergePromises, PromiseFile } from "./promises.ts";
import { FIRST_GENERATION_NAME, ReplicatedStore } from "./replicated-store.ts";
import { SegmentRaftLog } from "./segment-raft-log.ts";
import type { StateMachine } from "./state-machine.ts";

/** Records copied in one transaction. */
const COPY_COUNT = 1000;

/** Bytes of entries applied in one go. */
const APPLY_SIZE_BYTES = 4 * 1024 * 1024;

/** Where the data of a member lives. */
export interface MemberData {
  readonly directory: string;
  readonly stores: OrderedStoreProvider;
  readonly clusterId: string;
}

/** What is needed to look at a survivor, or to make its cluster. */
export interface SurvivorOptions<Result> {
  readonly disk: Disk;
  readonly clock: Clock;
  readonly memberId: number;
  readonly initialVoters: readonly number[];
  readonly stateMachine: StateMachine<Result>;
  readonly from: MemberData;
}

/** What a survivor knows. */
export interface Survivor {
  readonly term: number;
  /** The last entry in its log. */
  readonly last: LogPosition;
  /** How far it knows that entries were committed. What is behind may or may not have been acknowledged. */
  readonly commitIndex: number;
  readonly confState: ConfState;
}

interface Opened<Result> {
  readonly log: SegmentRaftLog;
  readonly store: ReplicatedStore<Result>;
  readonly survivor: Survivor;
}

/**
 * Looks at the data of a survivor.
 * @param look reads the state
 * @throws DriveError DATA_CORRUPT when any of it is damaged: another survivor is to be chosen
 */
export async function surveySurvivor<Result, Seen>(
  options: SurvivorOptions<Result>,
  look: (reader: OrderedReader) => Seen,
): Promise<Survivor & { readonly seen: Seen }> {
  const { log, store, survivor } = await openSurvivor(options);
  try {
    return { ...survivor, seen: look(store.reader()) };
  } finally {
    await store.close();
    await log.close();
  }
}

/**
 * Makes the data of the new cluster in `to`, which is empty.
 * @param edit changes the state, after everything in the log was applied
 * @throws as surveySurvivor(); errors of the disk
 */
export async function makeNewCluster<Result>(
  options: SurvivorOptions<Result> & { readonly to: MemberData },
  edit: (transaction: OrderedTransaction) => void,
): Promise<void> {
  const { disk, clock, memberId, to } = options;
  const { log, store, survivor } = await openSurvivor(options);
  try {
    await copyState(store.store, to.stores);
    await makeDurableDirectory(disk, to.directory);
    const made = await ReplicatedStore.adopt(
      storeOptions(options, { ...to, clusterId: options.from.clusterId }),
    );
    try {
      applyAll(log, made);
      made.refound(to.clusterId, votersOnly([memberId]), edit);
      await made.flush();
      made.verify();
    } finally {
      await made.close();
    }
    await beginLog({ disk, clock, memberId }, to, survivor.last, survivor.term + 1);
  } finally {
    await store.close();
    await log.close();
  }
}

/** Begins a member's log behind a state that is there, with a term in which it has not voted. */
export async function beginLog(
  member: { readonly disk: Disk; readonly clock: Clock; readonly memberId: number },
  { directory, clusterId }: MemberData,
  last: LogPosition,
  term: number,
): Promise<void> {
  const promises = await PromiseFile.open(member.disk, directory);
  const fresh = await SegmentRaftLog.open({
    ...{ ...member, clusterId, directory: `${directory}/log` },
    whenAbsent: "create",
    keepPromise: (hardState) => promises.promise(hardState),
    heldIndex: () => 0,
    onUnreadable: () => undefined,
    onFatal: () => undefined,
  });
  try {
    await fresh.reset(last, { term, votedFor: 0, commitIndex: last.index });
  } finally {
    await fresh.close();
  }
}

async function openSurvivor<Result>(options: SurvivorOptions<Result>): Promise<Opened<Result>> {
  const { clock, memberId, from } = options;
  const disk = new OverlayDisk(options.disk);
  const promises = await PromiseFile.open(disk, from.directory);
  if (promises.content === undefined || promises.content.isMending) {
    throw damaged(from.directory, "entries that it acknowledged may be missing from its log");
  }
  const log = await SegmentRaftLog.open({
    ...{ disk, clock, memberId, clusterId: from.clusterId, directory: `${from.directory}/log` },
    whenAbsent: "refuse",
    durable: promises.content.durable,
    keepPromise: () => Promise.resolve(),
    heldIndex: () => 0,
    onUnreadable: () => undefined,
    onFatal: () => undefined,
  });
  try {
    if (log.damage !== undefined) throw damaged(from.directory, "its log is damaged");
    const ofStore = storeOptions({ ...options, disk }, from);
    // One that is gone would be made anew, empty.
    if (!(await ReplicatedStore.exists(ofStore))) throw damaged(from.directory, "its state is gone");
    const store = await ReplicatedStore.open(ofStore);
    const { appliedIndex, confState } = store.state;
    if (appliedIndex < log.start.index || appliedIndex > log.lastIndex()) {
      await store.close();
      throw damaged(from.directory, "its log and its state do not fit");
    }
    const { term, commitIndex } = mergePromises(promises.content, log.hardState);
    const index = log.lastIndex();
    const last = { index, term: log.term(index) };
    return {
      log,
      store,
      survivor: { term, last, commitIndex: Math.max(commitIndex, appliedIndex), confState },
    };
  } catch (error) {
    await log.close();
    throw error;
  }
}

function storeOptions<Result>(
  { disk, clock, stateMachine, initialVoters }: SurvivorOptions<Result>,
  { directory, stores, clusterId }: MemberData,
): Parameters<typeof ReplicatedStore.open<Result>>[0] {
  const initialConfState = votersOnly(initialVoters);
  return { provider: stores, disk, directory, clock, stateMachine, clusterId, initialConfState };
}

/** Copies all records of a store into a new one. */
export async function copyState(from: OrderedStore, provider: OrderedStoreProvider): Promise<void> {
  const to = await provider.open(FIRST_GENERATION_NAME);
  try {
    let batch: { readonly key: Uint8Array; readonly value: Uint8Array }[] = [];
    const put = (): void => {
      to.transaction((transaction) => {
        for (const { key, value } of batch) transaction.put(key, value);
      });
      batch = [];
    };
    for (const { key, value } of from.range({ from: Uint8Array.of(0), to: Uint8Array.of(0xff, 0xff) })) {
      batch.push({ key: Uint8Array.from(key), value: Uint8Array.from(value) });
      if (batch.length < COPY_COUNT) continue;
      put();
      await to.flush();
    }
    put();
    await to.flush();
  } finally {
    await to.close();
  }
}

/** Applies everything in the log. */
function applyAll<Result>(log: SegmentRaftLog, store: ReplicatedStore<Result>): void {
  const nextConfig = (entry: LogEntry): ConfState => {
    const result = changeConfig(store.state.confState, decodeConfChange(entry.data));
    return result.ok ? result.config : store.state.confState;
  };
  while (store.state.appliedIndex < log.lastIndex()) {
    const entries = log.entries(store.state.appliedIndex + 1, log.lastIndex() + 1, APPLY_SIZE_BYTES);
    for (let offset = 0; offset < entries.length;)
      offset += store.applyBatch(entries, offset, nextConfig).count;
  }
}

function damaged(directory: string, what: string): DriveError {
  return new DriveError(
    "DATA_CORRUPT",
    `The member in ${directory} cannot found a new cluster: ${what}. Use another surviving member.`,
    { directory, what },
  );
}
