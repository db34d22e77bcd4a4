/**
 * Data directories with very many entries, made without a network: a cluster is formed and stopped by the real program, then
 * put-small commands are applied to one member's state by the real state machine, through the real replicated store, as if
 * they had come from the log, and the log begins anew behind them. The commands carry no request ids: what is remembered
 * of those is gone after minutes in a cluster that runs.
 *
 * The copies are at three members that are registered and do not run: no bytes are stored, so that the tree alone is measured.
 */
import { fork } from "node:child_process";
import { once } from "node:events";
import { cp, rm } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { findIdentity } from "../src/cluster/bootstrap-identity.ts";
import { PromiseFile } from "../src/consensus/promises.ts";
import { ReplicatedStore } from "../src/consensus/replicated-store.ts";
import { SegmentRaftLog } from "../src/consensus/segment-raft-log.ts";
import { encodeCommand } from "../src/metadata/codec.ts";
import type { CommandBody, CommandResult } from "../src/metadata/commands.ts";
import { readState } from "../src/metadata/context.ts";
import { MetadataStateMachine } from "../src/metadata/state-machine.ts";
import type { LogEntry } from "../src/raft/types.ts";
import { must } from "../src/std/assert.ts";
import { CheckedOrderedStoreProvider } from "../src/std/checked-ordered-store.ts";
import { SystemClock } from "../src/std/clock.ts";
import { LmdbOrderedStoreProvider } from "../src/std/lmdb-ordered-store.ts";
import { SystemDisk } from "../src/std/system-disk.ts";
import type { EncodedBatch, EncoderSettings } from "./scale-encoder.ts";

/** Files of one folder. */
export const FILES_PER_FOLDER = 1000;

/** Members that hold the copies and do not run. */
const HOLDER_IDS = [301, 302, 303];

/** Batches of encoded commands that wait. */
const AHEAD_COUNT = 8;

/** Ids that one lease hands out. */
const LEASE_ID_COUNT = 65_536;

const clock = new SystemClock();
const disk = new SystemDisk();

/** What fill() did. */
export interface Filled {
  readonly seconds: number;
  /** Longest time that one batch of the replicated store took, in milliseconds. */
  readonly batchMsMax: number;
  readonly index: number;
}

async function openState(directory: string): Promise<ReplicatedStore<CommandResult>> {
  const identity = await findIdentity(disk, directory);
  const cluster = must(identity?.cluster, "the directory of a member of a cluster");
  const lmdb = new LmdbOrderedStoreProvider({ directory: `${directory}/stores`, clock, isSealed: true });
  const voters = cluster.members.map(({ memberId }) => memberId).sort((a, b) => a - b);
  return await ReplicatedStore.open({
    provider: new CheckedOrderedStoreProvider(lmdb, (error) => {
      throw error;
    }),
    disk,
    directory: `${directory}/raft`,
    clock,
    stateMachine: new MetadataStateMachine(),
    clusterId: cluster.clusterId,
    initialConfState: { voters, votersOutgoing: [], learners: [], learnersNext: [], autoLeave: false },
  });
}

/** Lets the log of a member begin behind what its state holds now. */
async function resetLog(directory: string): Promise<void> {
  const { memberId, cluster } = must(await findIdentity(disk, directory), "an identity");
  const store = await openState(directory);
  const { appliedIndex: index, appliedTerm: term } = store.state;
  await store.close();
  const promises = await PromiseFile.open(disk, `${directory}/raft`);
  const log = await SegmentRaftLog.open({
    ...{ disk, clock, memberId, clusterId: must(cluster, "a cluster").clusterId },
    directory: `${directory}/raft/log`,
    whenAbsent: "refuse",
    durable: promises.content?.durable,
    keepPromise: (hardState) => promises.promise(hardState),
    heldIndex: () => index,
    onUnreadable: () => undefined,
    onFatal: (error) => {
      throw error;
    },
  });
  const { hardState } = log;
  await log.reset({ index, term }, { ...hardState, commitIndex: index });
  await promises.promise(log.hardState);
  await log.close();
}

/** Applies `entryCount` files to the state of the stopped member in `directory`. */
export async function fill(
  directory: string,
  entryCount: number,
  onProgress: (count: number, seconds: number) => void,
): Promise<Filled> {
  const store = await openState(directory);
  const startMs = performance.now();
  let batchMsMax = 0;
  const { appliedTerm: term } = store.state;
  const applyAll = (commands: readonly Uint8Array[]): void => {
    const entries = commands.map((data, at): LogEntry => ({
      index: store.state.appliedIndex + 1 + at,
      term,
      kind: "normal",
      data,
    }));
    for (let offset = 0; offset < entries.length;) {
      const begun = performance.now();
      const { count, results } = store.applyBatch(entries, offset, () => store.state.confState);
      batchMsMax = Math.max(batchMsMax, performance.now() - begun);
      for (const result of results)
        if (result?.outcome === "rejected") throw new Error(`${result.reason}: ${result.message}`);
      offset += count;
    }
  };
  const apply = (body: CommandBody): void =>
    applyAll([encodeCommand({ requestId: "", deadlineMs: 0, wallTimeMs: 0, body })]);
  for (const memberId of HOLDER_IDS) {
    const urls = { httpUrl: "", publicUrl: "", zone: "", isStorageOnly: false };
    // A port that nobody listens on: these members never answer.
    const node = { ...urls, nodeId: `holder${memberId}`, address: "127.0.0.1:1", memberId };
    apply({ kind: "register-node", node: { ...node, storeIncarnation: `store-${memberId}` } });
  }
  const firstContentId = readState(store.reader()).nextContentId;
  const lease = (): void => {
    const memberId = must(HOLDER_IDS[0], "a member");
    apply({
      kind: "renew-write-lease",
      memberId,
      storeIncarnation: `store-${memberId}`,
      idCount: LEASE_ID_COUNT,
    });
  };
  const settings: EncoderSettings = {
    entryCount,
    filesPerFolder: FILES_PER_FOLDER,
    firstContentId,
    memberIds: HOLDER_IDS,
  };
  const encoder = fork(fileURLToPath(new URL("./scale-encoder.ts", import.meta.url)), {
    serialization: "advanced",
  });
  encoder.send(settings);
  for (let ahead = 0; ahead < AHEAD_COUNT; ahead += 1) encoder.send("next");
  const waiting: EncodedBatch[] = [];
  let wake = (): void => undefined;
  encoder.on("message", (batch: EncodedBatch) => {
    waiting.push(batch);
    wake();
  });
  let done = 0;
  let leased = 0;
  while (done < entryCount) {
    const batch = waiting.shift();
    if (batch === undefined) {
      await new Promise<void>((resolve) => (wake = resolve));
      continue;
    }
    encoder.send("next");
    const commands: Uint8Array[] = [];
    let at = 0;
    for (const size of batch.sizes) {
      commands.push(batch.bytes.subarray(at, at + size));
      at += size;
    }
    // Enough ids for the whole batch, and never more than a lease keeps.
    while (leased < done + commands.length) {
      lease();
      leased += LEASE_ID_COUNT;
    }
    applyAll(commands);
    done += commands.length;
    if (done % 100_000 < commands.length) onProgress(done, (performance.now() - startMs) / 1000);
    // The flush of the store needs its turn.
    await new Promise((resolve) => setImmediate(resolve));
  }
  const exited = once(encoder, "exit");
  encoder.kill();
  await exited;
  await store.flush();
  const seconds = (performance.now() - startMs) / 1000;
  const index = store.state.appliedIndex;
  await store.close();
  await resetLog(directory);
  return { seconds, batchMsMax, index };
}

/** Gives the stopped member in `to` the state of the one in `from`; its identity and promises stay its own. */
export async function copyState(from: string, to: string): Promise<void> {
  for (const path of ["stores", "raft/CURRENT", "index"]) {
    await rm(`${to}/${path}`, { recursive: true, force: true });
    await cp(`${from}/${path}`, `${to}/${path}`, {
      recursive: true,
      filter: (source) => !source.endsWith("lock.mdb") && !source.includes("/index/chunks"),
    });
  }
  await resetLog(to);
}
