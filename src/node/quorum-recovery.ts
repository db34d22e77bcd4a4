/**
 * `netdisk recover`: makes a cluster of one member out of a member that is left when the majority is gone for good.
 *
 *   marker -> raft.recovered, stores.recovered -> identity (the point of no return) -> renames -> marker removed
 *
 * The new cluster has an id of its own, so that whoever is left of the old one is refused from then on. A crash before the
 * identity is replaced leaves the old member as it was; after it, running the command again finishes the renames. The old data
 * stays in raft.replaced-* and stores.replaced-* until somebody removes it.
 *
 * Without a confirmation, and when it refuses, it changes nothing at all: survivors are compared by what it says, also by when they
 * were written last.
 */
import { existsSync, readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import type { BootstrapReport } from "../cluster/bootstrap-rule.ts";
import {
  findIdentity,
  makeClusterId,
  storeIdentity,
  type ClusterProposal,
  type NodeIdentity,
} from "../cluster/bootstrap-identity.ts";
import { makeNewCluster, surveySurvivor, type MemberData, type Survivor } from "../consensus/new-cluster.ts";
import { FEATURE_LEVELS } from "../drive/feature-levels.ts";
import { DriveError } from "../drive/errors.ts";
import type { CommandResult } from "../metadata/commands.ts";
import { checkSupported } from "../metadata/feature-level.ts";
import { CLUSTER_KEY } from "../metadata/keys.ts";
import { isRemoved } from "../metadata/members.ts";
import { clusterCodec } from "../metadata/records.ts";
import { MetadataStateMachine } from "../metadata/state-machine.ts";
import { clusterInfo, members } from "../metadata/view.ts";
import { must } from "../std/assert.ts";
import { readAtomicFile, writeAtomicFile, type AtomicFileName } from "../std/atomic-file.ts";
import { utf8 } from "../std/bytes.ts";
import { CheckedOrderedStoreProvider } from "../std/checked-ordered-store.ts";
import type { Clock } from "../std/clock.ts";
import type { Disk } from "../std/disk.ts";
import { LmdbOrderedStoreProvider } from "../std/lmdb-ordered-store.ts";
import { LmdbStoreViewProvider } from "../std/lmdb-store-view.ts";
import type { OrderedStoreProvider } from "../std/ordered-store.ts";
import type { Prng } from "../std/prng.ts";
import { lockDataDirectory } from "./data-lock.ts";

/** What recoverQuorum() works with. */
export interface QuorumRecoveryOptions {
  readonly directory: string;
  readonly disk: Disk;
  readonly clock: Clock;
  readonly prng: Prng;
  /** What the node at an address says about itself; rejects when nobody answers. */
  readonly ask: (address: string) => Promise<BootstrapReport>;
  /** The id of the old cluster, as the operator has read it in the report; undefined: only report. */
  readonly confirmedClusterId: string | undefined;
}

/** What the operator must know before, and is told after. */
export interface QuorumRecoveryReport {
  readonly nodeId: string;
  readonly memberId: number;
  readonly oldClusterId: string;
  /**
   * What became of it. "reported": nothing was changed. "unfinished": nor was anything, but an earlier run that was interrupted is
   * to be finished by a confirmation. "founded": the new cluster was founded. "replaced": an earlier run had done all of it.
   */
  readonly outcome: "reported" | "unfinished" | "founded" | "replaced";
  /** The cluster that this member belongs to instead; undefined while that is the old one. */
  readonly newClusterId: string | undefined;
  /** Undefined when an earlier run had made the new cluster. */
  readonly survivor: Survivor | undefined;
  /** The others that belonged to the cluster by what this member knows; none of them answered. */
  readonly others: readonly MemberAt[];
  /** When this member's log was written last: it heard from its leader not long before. Milliseconds since 1970. */
  readonly lastWriteMs: number | undefined;
}

/** A member and where it was. */
interface MemberAt {
  readonly memberId: number;
  readonly address: string;
}

interface Marker {
  readonly oldClusterId: string;
  readonly newClusterId: string;
}

/**
 * Reports on a survivor, and makes it a cluster of its own when that is confirmed.
 * @throws DriveError DATA_DIRECTORY_IN_USE, DATA_CORRUPT, VERSION_UNSUPPORTED, MEMBERSHIP_CHANGE_UNSAFE (others answer), ARGUMENT_INVALID (the
 *   confirmation names another cluster than that of the member, or one that it was taken out of before, or this node never took part in
 *   one)
 */
export async function recoverQuorum(options: QuorumRecoveryOptions): Promise<QuorumRecoveryReport> {
  // Locking would make it, and a look at the wrong place must leave nothing there.
  if (!(await options.disk.exists(options.directory))) throw noMember(options.directory);
  const lock = await lockDataDirectory(options.directory);
  try {
    return await recoverLocked(options);
  } finally {
    await lock.release();
  }
}

async function recoverLocked(options: QuorumRecoveryOptions): Promise<QuorumRecoveryReport> {
  const { disk, directory, prng, confirmedClusterId } = options;
  const identity = await findIdentity(disk, directory);
  if (identity?.cluster === undefined || identity.phase !== "started") {
    throw noMember(directory);
  }
  const { nodeId, memberId, cluster } = identity;
  const earlier = await recoverEarlier(options, cluster.clusterId);
  if (earlier !== undefined) {
    return { nodeId, memberId, ...earlier, survivor: undefined, others: [], lastWriteMs: undefined };
  }
  const lastWriteMs = newestWriteMs(`${directory}/raft/log`);
  const survivor = await surveySurvivor(survivorOptions(options, identity, cluster), (reader) => {
    checkSupported(reader, FEATURE_LEVELS);
    return {
      members: members(reader).map(({ memberId: id, address }) => ({ memberId: id, address })),
      removedFounders: cluster.members.filter(({ memberId: id }) => isRemoved(reader, id)),
    };
  });
  const others = othersOf(identity, cluster, survivor.seen);
  await refuseWhileOthersAnswer(options, cluster, others);
  const oldClusterId = cluster.clusterId;
  const report = { nodeId, memberId, oldClusterId, survivor, others, lastWriteMs };
  if (confirmedClusterId === undefined) return { ...report, outcome: "reported", newClusterId: undefined };
  if (confirmedClusterId !== oldClusterId) throw otherCluster(directory, oldClusterId, confirmedClusterId);
  await removeUnfinished(options);
  const newClusterId = makeClusterId(prng);
  await writeAtomicFile(disk, markerFile(directory), utf8(JSON.stringify({ oldClusterId, newClusterId })));
  const to = newData(options, newClusterId);
  await disk.makeDirectory(`${directory}/stores.recovered`);
  await makeNewCluster({ ...survivorOptions(options, identity, cluster), to }, (transaction) => {
    const record = clusterInfo(transaction);
    if (record === undefined) return;
    transaction.put(CLUSTER_KEY, clusterCodec.encode({ ...record, clusterId: newClusterId }));
  });
  await disk.syncDirectory(directory);
  await storeIdentity(disk, directory, { ...identity, cluster: foundedBy(identity, cluster, newClusterId) });
  await finish(options, { oldClusterId, newClusterId });
  return { ...report, outcome: "founded", newClusterId };
}

/**
 * Finishes an earlier run that had put the new identity in place, when that is confirmed, or finds that one was finished.
 * @param clusterId of the member's identity
 * @returns undefined when no earlier run got as far
 * @throws DriveError ARGUMENT_INVALID when the confirmation names another cluster than the run that is to be finished
 */
async function recoverEarlier(
  options: QuorumRecoveryOptions,
  clusterId: string,
): Promise<Pick<QuorumRecoveryReport, "oldClusterId" | "newClusterId" | "outcome"> | undefined> {
  const { disk, directory, confirmedClusterId } = options;
  const marker = await readMarker(options);
  if (marker?.newClusterId === clusterId) {
    if (confirmedClusterId === undefined) return { ...marker, outcome: "unfinished" };
    if (confirmedClusterId !== marker.oldClusterId) {
      throw otherCluster(directory, marker.oldClusterId, confirmedClusterId);
    }
    await finish(options, marker);
    return { ...marker, outcome: "founded" };
  }
  if (confirmedClusterId === undefined || confirmedClusterId === clusterId) return undefined;
  // Who ran the command until it was killed, right behind its last step too, may run it again.
  const isReplaced = (await disk.list(directory)).includes(replacedName("raft", confirmedClusterId));
  if (!isReplaced) return undefined;
  return { oldClusterId: confirmedClusterId, newClusterId: clusterId, outcome: "replaced" };
}

function otherCluster(directory: string, clusterId: string, confirmedClusterId: string): DriveError {
  return new DriveError(
    "ARGUMENT_INVALID",
    `The cluster of ${directory} is ${clusterId}, not ${confirmedClusterId}.`,
    { cluster_id: clusterId },
  );
}

/** Name of what an old cluster's data is kept as. */
function replacedName(name: "raft" | "stores", oldClusterId: string): string {
  return `${name}.replaced-${oldClusterId}`;
}

function noMember(directory: string): DriveError {
  return new DriveError("ARGUMENT_INVALID", `${directory} holds no member of a cluster.`, { directory });
}

/** Puts the new data in the place of the old. May have been done in part. */
async function finish({ disk, directory }: QuorumRecoveryOptions, { oldClusterId }: Marker): Promise<void> {
  for (const name of ["raft", "stores"] as const) {
    const path = `${directory}/${name}`;
    if (!(await disk.exists(`${path}.recovered`))) continue;
    if (await disk.exists(path)) await disk.rename(path, `${directory}/${replacedName(name, oldClusterId)}`);
    await disk.rename(`${path}.recovered`, path);
    await disk.syncDirectory(directory);
  }
  await disk.remove(`${directory}/${markerFile(directory).name}`);
  await disk.syncDirectory(directory);
}

async function removeUnfinished({ disk, directory }: QuorumRecoveryOptions): Promise<void> {
  for (const name of ["raft.recovered", "stores.recovered"]) await disk.remove(`${directory}/${name}`);
}

async function refuseWhileOthersAnswer(
  { ask }: QuorumRecoveryOptions,
  cluster: ClusterProposal,
  others: readonly { readonly address: string }[],
): Promise<void> {
  const answers = await Promise.allSettled(others.map(({ address }) => ask(address)));
  for (const [at, answer] of answers.entries()) {
    if (answer.status === "rejected" || answer.value.cluster?.clusterId !== cluster.clusterId) continue;
    const { address } = must(others[at], "one answer per address");
    throw new DriveError(
      "MEMBERSHIP_CHANGE_UNSAFE",
      `The member at ${address} answers: its cluster is not lost. Two clusters with one past would go separate ways.`,
      { address, cluster_id: cluster.clusterId },
    );
  }
}

function othersOf(
  identity: NodeIdentity,
  cluster: ClusterProposal,
  seen: { readonly members: readonly MemberAt[]; readonly removedFounders: readonly MemberAt[] },
): readonly MemberAt[] {
  const known = new Map(cluster.members.map((member) => [member.memberId, member.address]));
  for (const { memberId, address } of seen.members) known.set(memberId, address);
  // A member that was removed has nothing to lose, and its address may be that of another one now.
  for (const { memberId } of seen.removedFounders) known.delete(memberId);
  known.delete(identity.memberId);
  return [...known].map(([memberId, address]) => ({ memberId, address }));
}

function foundedBy(identity: NodeIdentity, cluster: ClusterProposal, clusterId: string): ClusterProposal {
  return { clusterId, members: cluster.members.filter(({ memberId }) => memberId === identity.memberId) };
}

function survivorOptions(
  options: QuorumRecoveryOptions,
  { memberId }: NodeIdentity,
  cluster: ClusterProposal,
): Parameters<typeof surveySurvivor<CommandResult, unknown>>[0] {
  const { disk, clock } = options;
  const initialVoters = cluster.members.map((member) => member.memberId);
  const from = oldData(options, cluster.clusterId);
  return { disk, clock, memberId, initialVoters, stateMachine: new MetadataStateMachine(), from };
}

/** What is there, to look at. */
function oldData({ directory, clock }: QuorumRecoveryOptions, clusterId: string): MemberData {
  const lmdb = new LmdbStoreViewProvider({ directory: `${directory}/stores`, clock, isSealed: true });
  return { directory: `${directory}/raft`, stores: checked(lmdb), clusterId };
}

/** What is made beside it. */
function newData({ directory, clock }: QuorumRecoveryOptions, clusterId: string): MemberData {
  const settings = { directory: `${directory}/stores.recovered`, clock, isSealed: true };
  const stores = checked(new LmdbOrderedStoreProvider(settings));
  return { directory: `${directory}/raft.recovered`, stores, clusterId };
}

function checked(stores: OrderedStoreProvider): OrderedStoreProvider {
  return new CheckedOrderedStoreProvider(stores, () => undefined);
}

function markerFile(directory: string): AtomicFileName {
  return { directory, name: "recovering", magic: "NDRECOV1" };
}

async function readMarker({ disk, directory }: QuorumRecoveryOptions): Promise<Marker | undefined> {
  const found = await readAtomicFile(disk, markerFile(directory));
  if (found.kind !== "intact") return undefined;
  return JSON.parse(Buffer.from(found.content).toString("utf8")) as Marker;
}

/** When a segment below was written last; undefined where there is none. */
function newestWriteMs(directory: string): number | undefined {
  // Whether a log must be there is for the survey to say.
  if (!existsSync(directory)) return undefined;
  const times = readdirSync(directory)
    .filter((name) => name.endsWith(".seg"))
    .map((name) => statSync(join(directory, name)).mtimeMs);
  return times.length === 0 ? undefined : Math.max(...times);
}
