/** What the nodes of a cluster hold once they have stopped: the state of one, and the manifests of all, read from their files. */
import { findIdentity } from "../../src/cluster/bootstrap-identity.ts";
import { DiskChunkStore } from "../../src/chunks/disk-chunk-store.ts";
import { surveySurvivor } from "../../src/consensus/new-cluster.ts";
import { MetadataStateMachine } from "../../src/metadata/state-machine.ts";
import { must } from "../../src/std/assert.ts";
import { CheckedOrderedStoreProvider } from "../../src/std/checked-ordered-store.ts";
import { SystemClock } from "../../src/std/clock.ts";
import { threadPoolDigester } from "../../src/std/digest.ts";
import { LmdbOrderedStoreProvider } from "../../src/std/lmdb-ordered-store.ts";
import { MemoryOrderedStore } from "../../src/std/memory-ordered-store.ts";
import type { OrderedReader } from "../../src/std/ordered-store.ts";
import { SeededPrng } from "../../src/std/prng.ts";
import { SystemDisk } from "../../src/std/system-disk.ts";
import type { ProjectedTruth } from "./projection.ts";

const clock = new SystemClock();

/** Keys begin with a small number. */
const EVERYTHING = { from: new Uint8Array(0), to: new Uint8Array([0xff]) };

/** A copy of a member's state as its log ends, in memory. */
async function stateOf(directory: string): Promise<OrderedReader> {
  const disk = new SystemDisk();
  const identity = must(await findIdentity(disk, directory), "a member's identity");
  const cluster = must(identity.cluster, "a member of a cluster");
  const lmdb = new LmdbOrderedStoreProvider({ directory: `${directory}/stores`, clock, isSealed: true });
  const copy = new MemoryOrderedStore();
  await surveySurvivor(
    {
      ...{ disk, clock, memberId: identity.memberId, stateMachine: new MetadataStateMachine() },
      initialVoters: cluster.members.map(({ memberId }) => memberId),
      from: {
        directory: `${directory}/raft`,
        stores: new CheckedOrderedStoreProvider(lmdb, () => undefined),
        clusterId: cluster.clusterId,
      },
    },
    (reader) =>
      copy.transaction((transaction) => {
        for (const { key, value } of reader.range(EVERYTHING)) transaction.put(key, value);
      }),
  );
  return copy;
}

interface OpenChunks {
  readonly memberId: number;
  readonly store: DiskChunkStore;
  readonly close: () => Promise<void>;
}

async function openChunks(directory: string): Promise<OpenChunks> {
  const disk = new SystemDisk();
  const { memberId } = must(await findIdentity(disk, directory), "a member's identity");
  const lmdb = new LmdbOrderedStoreProvider({ directory: `${directory}/index`, clock });
  const index = await new CheckedOrderedStoreProvider(lmdb, () => undefined).open("chunks");
  const store = await DiskChunkStore.open({
    ...{ disk, clock, prng: new SeededPrng(1), index, memberId, digester: threadPoolDigester },
    directory: `${directory}/chunks`,
    onFatal: (error) => {
      throw error;
    },
    onDamage: (extent) => {
      throw new Error(`a copy of ${JSON.stringify(extent)} is damaged`);
    },
    onFault: (fault) => {
      throw new Error(`a segment is damaged: ${JSON.stringify(fault)}`);
    },
    onTrouble: () => undefined,
  });
  const close = async (): Promise<void> => {
    await store.close();
    await index.close();
  };
  return { memberId, store, close };
}

/**
 * Hands what stopped nodes hold to `look`: the state of the first, the manifests of each.
 * @param directories data directories; no process uses them
 */
export async function withStoppedCluster(
  directories: readonly string[],
  look: (truth: ProjectedTruth) => Promise<void>,
): Promise<void> {
  const reader = await stateOf(must(directories[0], "a data directory"));
  const opened: OpenChunks[] = [];
  try {
    for (const directory of directories) opened.push(await openChunks(directory));
    const stores = new Map(opened.map(({ memberId, store }) => [memberId, store]));
    await look({
      reader,
      chunkDigests: async (memberId, extent) => (await stores.get(memberId)?.manifest(extent))?.chunkDigests,
    });
  } finally {
    for (const each of opened) await each.close();
  }
}
