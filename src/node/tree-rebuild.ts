/**
 * `netdisk rebuild`: founds a new cluster out of the chunk stores of an old one, when every voter's tree is lost.
 *
 *   newest whole snapshot -> raft.recovered and stores.recovered in every directory -> marks -> identities -> renames -> marks removed
 *
 * All directories given become voters of the new cluster. Until the first mark nothing that was there is touched, and running the
 * command again begins anew; from then on running it again finishes. Chunk stores are read, never changed; their index is made anew
 * when it is gone, as at any start.
 */
import {
  findIdentity,
  makeClusterId,
  storeIdentity,
  type ClusterProposal,
  type NodeIdentity,
} from "../cluster/bootstrap-identity.ts";
import type { BootstrapReport } from "../cluster/bootstrap-rule.ts";
import { DiskChunkStore } from "../chunks/disk-chunk-store.ts";
import { readSnapshot, type FoundSnapshot } from "../backup/found-contents.ts";
import { rebuildState, surveyStores, type RebuildReport, type StoreBounds } from "../backup/rebuild.ts";
import { beginLog, copyState } from "../consensus/new-cluster.ts";
import { ReplicatedStore } from "../consensus/replicated-store.ts";
import { DriveError, hasReason } from "../drive/errors.ts";
import type { CommandResult } from "../metadata/commands.ts";
import { findMember } from "../metadata/members.ts";
import { MetadataStateMachine } from "../metadata/state-machine.ts";
import { votersOnly } from "../raft/conf-change.ts";
import { must } from "../std/assert.ts";
import {
  makeDurableDirectory,
  readAtomicFile,
  writeAtomicFile,
  type AtomicFileName,
} from "../std/atomic-file.ts";
import { utf8 } from "../std/bytes.ts";
import { CheckedOrderedStoreProvider } from "../std/checked-ordered-store.ts";
import type { Clock } from "../std/clock.ts";
import { threadPoolDigester } from "../std/digest.ts";
import type { Disk } from "../std/disk.ts";
import { LmdbOrderedStoreProvider } from "../std/lmdb-ordered-store.ts";
import type { OrderedStoreProvider } from "../std/ordered-store.ts";
import type { Prng } from "../std/prng.ts";
import { lockDataDirectory, type DataLock } from "./data-lock.ts";

/** What rebuildTree() works with. */
export interface TreeRebuildOptions {
  /** Data directories of old voters, none of which runs. */
  readonly directories: readonly string[];
  readonly disk: Disk;
  readonly clock: Clock;
  readonly prng: Prng;
  /** What the node at an address says about itself; rejects when nobody answers. */
  readonly ask: (address: string) => Promise<BootstrapReport>;
  /** The id of the old cluster, as the operator has read it in the report; undefined: only report. */
  readonly confirmedClusterId: string | undefined;
}

/** What the operator must know before, and is told after. */
export interface TreeRebuildReport {
  readonly oldClusterId: string;
  /** Undefined while nothing was changed. */
  readonly newClusterId: string | undefined;
  readonly nodes: readonly {
    readonly directory: string;
    readonly nodeId: string;
    readonly memberId: number;
  }[];
  /** Undefined when an earlier run was finished. */
  readonly found:
    | (RebuildReport & {
        readonly snapshot: FoundSnapshot;
        /** Newer snapshots that are not whole. */
        readonly damagedSnapshotCount: number;
      })
    | undefined;
}

interface Opened {
  readonly directory: string;
  readonly identity: NodeIdentity;
  readonly cluster: ClusterProposal;
  readonly store: DiskChunkStore;
  readonly close: () => Promise<void>;
}

interface Mark {
  readonly oldClusterId: string;
  readonly identity: NodeIdentity;
}

/**
 * Reports what a rebuild would give, and does it when that is confirmed.
 * @throws DriveError DATA_DIRECTORY_IN_USE, DATA_CORRUPT, MEMBERSHIP_CHANGE_UNSAFE (a member answers, or a tree is there),
 *   CHUNK_LOST (no snapshot is whole), ARGUMENT_INVALID (the confirmation names another cluster, or a directory holds no member)
 */
export async function rebuildTree(options: TreeRebuildOptions): Promise<TreeRebuildReport> {
  const locks: DataLock[] = [];
  // Locking would make them, and a look at the wrong place must leave nothing there.
  for (const directory of options.directories) {
    if (!(await options.disk.exists(directory))) throw noStore(directory);
  }
  try {
    for (const directory of options.directories) locks.push(await lockDataDirectory(directory));
    return (await finishEarlier(options)) ?? (await rebuildLocked(options));
  } finally {
    for (const lock of locks) await lock.release();
  }
}

async function rebuildLocked(options: TreeRebuildOptions): Promise<TreeRebuildReport> {
  const { disk, directories, confirmedClusterId } = options;
  for (const directory of directories) await refuseTree(disk, directory);
  const opened: Opened[] = [];
  try {
    for (const directory of directories) opened.push(await openOld(options, directory));
    const { clusterId: oldClusterId } = must(opened[0], "at least one directory").cluster;
    if (opened.some(({ cluster }) => cluster.clusterId !== oldClusterId)) {
      throw new DriveError("ARGUMENT_INVALID", "The directories belong to different clusters.");
    }
    await refuseWhileOthersAnswer(options, opened, oldClusterId);
    if (confirmedClusterId !== undefined && confirmedClusterId !== oldClusterId) {
      throw new DriveError("ARGUMENT_INVALID", `The cluster is ${oldClusterId}, not ${confirmedClusterId}.`, {
        cluster_id: oldClusterId,
      });
    }
    const newClusterId = makeClusterId(options.prng);
    const made = await make(options, opened, newClusterId);
    const nodes = opened.map(({ directory, identity: { nodeId, memberId } }) => ({
      directory,
      nodeId,
      memberId,
    }));
    const report = { oldClusterId, nodes, found: made.found };
    if (confirmedClusterId === undefined) {
      for (const directory of directories) await removeUnfinished(disk, directory);
      return { ...report, newClusterId: undefined };
    }
    const path = `${must(directories[0], "a directory")}/rebuild-report.json`;
    await disk.remove(path);
    const file = await disk.open(path, "create");
    await file.write(0, [utf8(JSON.stringify({ ...report, newClusterId }, undefined, 2))]);
    await file.sync();
    await file.close();
    const cluster = { clusterId: newClusterId, members: made.members };
    for (const { directory, identity } of opened) {
      const mark: Mark = { oldClusterId, identity: { ...identity, phase: "started", cluster } };
      await writeAtomicFile(disk, markFile(directory), utf8(JSON.stringify(mark)));
    }
    for (const directory of directories) await finish(disk, directory);
    return { ...report, newClusterId };
  } finally {
    for (const { close } of opened) await close();
  }
}

/** Makes the new state in every directory, beside what is there. */
async function make(
  options: TreeRebuildOptions,
  opened: readonly Opened[],
  newClusterId: string,
): Promise<{
  readonly found: NonNullable<TreeRebuildReport["found"]>;
  readonly members: ClusterProposal["members"];
}> {
  const { disk, clock } = options;
  const stores = opened.map(({ store }) => store);
  const voterIds = opened.map(({ identity }) => identity.memberId);
  for (const { directory } of opened) await removeUnfinished(disk, directory);
  const bounds = await surveyStores(stores);
  const [first, ...others] = opened;
  const { directory } = must(first, "at least one directory");
  const { state, snapshot, damagedSnapshotCount } = await loadNewest(options, directory, stores, bounds);
  try {
    const rebuilding = { state, snapshot, stores, newClusterId, voterIds, wallTimeMs: clock.wallMs() };
    const found = await rebuildState(rebuilding, bounds);
    for (const other of others) {
      await makeDurableDirectory(disk, `${other.directory}/raft.recovered`);
      await disk.makeDirectory(`${other.directory}/stores.recovered`);
      const provider = storesOf(options, other.directory);
      await copyState(state.store, provider);
      const adopted = await ReplicatedStore.adopt(
        stateOptions(options, other.directory, provider, newClusterId),
      );
      await adopted.close();
    }
    const { appliedIndex: index, appliedTerm: term } = state.state;
    for (const { directory: each, identity } of opened) {
      const data = {
        directory: `${each}/raft.recovered`,
        stores: storesOf(options, each),
        clusterId: newClusterId,
      };
      await beginLog({ disk, clock, memberId: identity.memberId }, data, { index, term }, term + 1);
      await disk.syncDirectory(each);
    }
    const members = opened.map(({ identity, cluster }) => {
      const known = findMember(state.reader(), identity.memberId)?.address;
      const founding = cluster.members.find(({ memberId }) => memberId === identity.memberId)?.address;
      return { memberId: identity.memberId, address: known ?? founding ?? "" };
    });
    members.sort((a, b) => (a.address < b.address ? -1 : 1));
    return { found: { ...found, snapshot, damagedSnapshotCount }, members };
  } finally {
    await state.close();
  }
}

/** The newest snapshot that can be read and has the hash that it claims, as a state in the first directory. */
async function loadNewest(
  options: TreeRebuildOptions,
  directory: string,
  stores: readonly DiskChunkStore[],
  { snapshots }: StoreBounds,
): Promise<{
  readonly state: ReplicatedStore<CommandResult>;
  readonly snapshot: FoundSnapshot;
  readonly damagedSnapshotCount: number;
}> {
  const { disk } = options;
  const path = `${directory}/raft.recovered/tree.dump`;
  for (const [damagedSnapshotCount, snapshot] of snapshots.entries()) {
    await removeUnfinished(disk, directory);
    await makeDurableDirectory(disk, `${directory}/raft.recovered`);
    await disk.makeDirectory(`${directory}/stores.recovered`);
    try {
      await readSnapshot(snapshot, stores, { disk, path, digester: threadPoolDigester });
      const provider = storesOf(options, directory);
      const settings = stateOptions(options, directory, provider, snapshot.clusterId);
      const state = await ReplicatedStore.fromSnapshot(settings, path);
      await disk.remove(path);
      return { state, snapshot, damagedSnapshotCount };
    } catch (error) {
      if (!hasReason(error, "CHUNK_LOST", "DATA_CORRUPT", "WRONG_CLUSTER")) throw error;
    }
  }
  await removeUnfinished(disk, directory);
  throw new DriveError(
    "CHUNK_LOST",
    `No snapshot of the tree is whole in the chunk stores given (${snapshots.length} were found). Give the data directories of more nodes.`,
    { snapshot_count: String(snapshots.length) },
  );
}

function noStore(directory: string): DriveError {
  return new DriveError("ARGUMENT_INVALID", `${directory} holds no chunk store of a member of a cluster.`, {
    directory,
  });
}

async function openOld(options: TreeRebuildOptions, directory: string): Promise<Opened> {
  const { disk, clock, prng } = options;
  const identity = await findIdentity(disk, directory);
  if (identity?.cluster === undefined || !(await disk.exists(`${directory}/chunks`))) {
    throw noStore(directory);
  }
  const lmdb = new LmdbOrderedStoreProvider({ directory: `${directory}/index`, clock });
  const indexes = new CheckedOrderedStoreProvider(lmdb, () => undefined);
  if ((await indexes.check("chunks")).kind === "damaged") await indexes.remove("chunks");
  const index = await indexes.open("chunks");
  try {
    const store = await DiskChunkStore.open({
      ...{ disk, clock, prng, index, memberId: identity.memberId },
      digester: threadPoolDigester,
      directory: `${directory}/chunks`,
      onFatal: () => undefined,
      onDamage: () => undefined,
      onFault: () => undefined,
      onTrouble: () => undefined,
    });
    const close = async (): Promise<void> => {
      await store.close();
      await index.close();
    };
    return { directory, identity, cluster: identity.cluster, store, close };
  } catch (error) {
    await index.close();
    throw error;
  }
}

/** A directory with a tree is none that has lost it. */
async function refuseTree(disk: Disk, directory: string): Promise<void> {
  for (const name of ["raft", "stores"]) {
    const path = `${directory}/${name}`;
    if (!(await disk.exists(path)) || (await disk.list(path)).length === 0) continue;
    throw new DriveError(
      "MEMBERSHIP_CHANGE_UNSAFE",
      `${path} holds a member's tree: start the node, or use "netdisk recover". Move it away only when it is certainly of no use.`,
      { path },
    );
  }
}

async function refuseWhileOthersAnswer(
  { ask }: TreeRebuildOptions,
  opened: readonly Opened[],
  clusterId: string,
): Promise<void> {
  const addresses = new Set(opened.flatMap(({ cluster }) => cluster.members.map(({ address }) => address)));
  for (const address of addresses) {
    const answer = await ask(address).catch(() => undefined);
    if (answer?.cluster?.clusterId !== clusterId) continue;
    throw new DriveError(
      "MEMBERSHIP_CHANGE_UNSAFE",
      `The member at ${address} answers: its cluster is not lost. Two clusters with one past would go separate ways.`,
      { address, cluster_id: clusterId },
    );
  }
}

/** Finishes what an earlier run has begun; undefined when there is nothing of that. */
async function finishEarlier({
  disk,
  directories,
}: TreeRebuildOptions): Promise<TreeRebuildReport | undefined> {
  const marks = await Promise.all(directories.map((directory) => readMark(disk, directory)));
  const mark = marks.find((each) => each !== undefined);
  if (mark === undefined) return undefined;
  // Marks are written once everything is ready: whoever has none yet gets it, unless it is done.
  const nodes: { directory: string; nodeId: string; memberId: number }[] = [];
  for (const [at, directory] of directories.entries()) {
    const identity = marks[at]?.identity ?? (await findIdentity(disk, directory));
    if (identity === undefined) continue;
    if (marks[at] === undefined && (await disk.exists(`${directory}/raft.recovered`))) {
      const own: Mark = {
        ...mark,
        identity: { ...identity, phase: "started", cluster: must(mark.identity.cluster, "new") },
      };
      await writeAtomicFile(disk, markFile(directory), utf8(JSON.stringify(own)));
    }
    await finish(disk, directory);
    nodes.push({ directory, nodeId: identity.nodeId, memberId: identity.memberId });
  }
  const newClusterId = mark.identity.cluster?.clusterId;
  return { oldClusterId: mark.oldClusterId, newClusterId, nodes, found: undefined };
}

/** Puts the new data in its place. May have been done in part. */
async function finish(disk: Disk, directory: string): Promise<void> {
  const mark = await readMark(disk, directory);
  if (mark === undefined) return;
  await storeIdentity(disk, directory, mark.identity);
  for (const name of ["raft", "stores"]) {
    const path = `${directory}/${name}`;
    if (!(await disk.exists(`${path}.recovered`))) continue;
    // Empty, or it would have been refused.
    await disk.remove(path);
    await disk.rename(`${path}.recovered`, path);
    await disk.syncDirectory(directory);
  }
  await disk.remove(`${directory}/${markFile(directory).name}`);
  await disk.syncDirectory(directory);
}

async function removeUnfinished(disk: Disk, directory: string): Promise<void> {
  for (const name of ["raft.recovered", "stores.recovered"]) await disk.remove(`${directory}/${name}`);
}

function storesOf({ clock }: TreeRebuildOptions, directory: string): OrderedStoreProvider {
  const lmdb = new LmdbOrderedStoreProvider({ directory: `${directory}/stores.recovered`, clock });
  return new CheckedOrderedStoreProvider(lmdb, () => undefined);
}

function stateOptions(
  { disk, clock }: TreeRebuildOptions,
  directory: string,
  provider: OrderedStoreProvider,
  clusterId: string,
): Parameters<typeof ReplicatedStore.fromSnapshot<CommandResult>>[0] {
  const stateMachine = new MetadataStateMachine();
  const settings = { provider, disk, clock, stateMachine, clusterId };
  return { ...settings, directory: `${directory}/raft.recovered`, initialConfState: votersOnly([]) };
}

function markFile(directory: string): AtomicFileName {
  return { directory, name: "rebuilding", magic: "NDREBLD1" };
}

async function readMark(disk: Disk, directory: string): Promise<Mark | undefined> {
  const found = await readAtomicFile(disk, markFile(directory));
  if (found.kind !== "intact") return undefined;
  return JSON.parse(Buffer.from(found.content).toString("utf8")) as Mark;
}
