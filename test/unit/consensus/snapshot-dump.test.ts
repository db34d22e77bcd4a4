// Goal: a snapshot that another process writes from the store's file holds exactly one flushed state, whatever is written meanwhile,
// and no damage gets into it.
// Method: real LMDB stores and real child processes; the file is loaded by the code that a follower loads it with.
import { mkdtemp, open, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { ReplicatedStore } from "../../../src/consensus/replicated-store.ts";
import { dumpAside } from "../../../src/consensus/snapshot-dump.ts";
import { Snapshots } from "../../../src/consensus/snapshots.ts";
import type { StateMachine } from "../../../src/consensus/state-machine.ts";
import {
  SnapshotTemporarilyUnavailableError,
  type ConfState,
  type Snapshot,
} from "../../../src/raft/types.ts";
import { must } from "../../../src/std/assert.ts";
import { toHex, utf8 } from "../../../src/std/bytes.ts";
import { CheckedOrderedStoreProvider } from "../../../src/std/checked-ordered-store.ts";
import { SystemClock } from "../../../src/std/clock.ts";
import { LmdbOrderedStoreProvider } from "../../../src/std/lmdb-ordered-store.ts";
import { MemoryOrderedStoreProvider } from "../../../src/std/memory-ordered-store.ts";
import { SystemDisk } from "../../../src/std/system-disk.ts";
import { silentLogger } from "../../../src/telemetry/logger.ts";
import { eventually } from "../../support/eventually.ts";
import { expectReason } from "../../support/expect-reason.ts";

/** Records of the first command; enough for several blocks of a snapshot. */
const RECORD_COUNT = 12_000;

const CONF_STATE: ConfState = {
  voters: [1],
  votersOutgoing: [],
  learners: [],
  learnersNext: [],
  autoLeave: false,
};

/** A command "from count" writes that many records, and one that is longer than a page. */
const machine: StateMachine<undefined> = {
  apply: (transaction, { index, data }) => {
    const [from = 0, count = 0] = Buffer.from(data).toString().split(" ").map(Number);
    for (let at = from; at < from + count; at += 1)
      transaction.put(
        utf8(`key ${String(at).padStart(6, "0")}`),
        utf8(`value ${at} of ${index} ${"-".repeat(40)}`),
      );
    transaction.put(utf8("large"), utf8(`${index}`.repeat(9000)));
    return undefined;
  },
};

describe("A snapshot written by another process", function () {
  this.timeout(120_000);
  const disk = new SystemDisk();
  const clock = new SystemClock();
  const limits = { clock, stallMs: 60_000, signal: new AbortController().signal };
  let directory: string;
  let store: ReplicatedStore<undefined>;

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), "snapshot-dump-"));
    const lmdb = new LmdbOrderedStoreProvider({
      directory: join(directory, "stores"),
      clock,
      isSealed: true,
    });
    const provider = new CheckedOrderedStoreProvider(lmdb, () => undefined);
    const options = {
      provider,
      disk,
      directory,
      clock,
      stateMachine: machine,
      clusterId: "c",
      initialConfState: CONF_STATE,
    };
    store = await ReplicatedStore.open(options);
    for (let from = 0; from < RECORD_COUNT; from += 1000) apply(from, 1000);
    await store.flush();
  });

  afterEach(async () => {
    await store.close();
    await rm(directory, { recursive: true, force: true });
  });

  function apply(from: number, count: number): void {
    const index = store.state.appliedIndex + 1;
    const entry = { index, term: 1, kind: "normal", data: utf8(`${from} ${count}`) } as const;
    store.applyBatch([entry], 0, () => CONF_STATE);
  }

  /** What a follower has after it took a snapshot file. */
  async function load(path: string): Promise<{ readonly index: number; readonly hash: string }> {
    const to = await mkdtemp(join(directory, "follower-"));
    const provider = new MemoryOrderedStoreProvider();
    const options = {
      provider,
      disk,
      directory: to,
      clock,
      stateMachine: machine,
      clusterId: "c",
      initialConfState: CONF_STATE,
    };
    const follower = await ReplicatedStore.open(options);
    try {
      await follower.commitInstall(await follower.prepareInstall(path));
      return { index: follower.state.appliedIndex, hash: toHex(follower.state.stateHash) };
    } finally {
      await follower.close();
    }
  }

  it("is of the state of a flush, though the store goes on being written to", async () => {
    const states = new Map([[store.state.appliedIndex, toHex(store.state.stateHash)]]);
    const frozen = must(store.store.frozenFile?.(), "a store in a file");
    const path = join(directory, "s.dump");
    const progress = { isOver: false };
    const dumping = dumpAside(frozen, path, limits).finally(() => (progress.isOver = true));
    let flushCount = 0;
    for (; !progress.isOver; flushCount += 1) {
      apply((flushCount * 37) % RECORD_COUNT, 200);
      states.set(store.state.appliedIndex, toHex(store.state.stateHash));
      await store.flush();
    }
    await dumping;
    const { index, hash } = await load(path);
    expect(flushCount).to.be.above(1);
    expect(hash).to.equal(states.get(index));
  });

  it("names every member of now: one that came after the last flush, and one that came after an earlier snapshot", async () => {
    const snapshots = makeSnapshots(60_000);
    const withLearners = (...learners: number[]): ConfState => ({ ...CONF_STATE, learners });
    for (const learners of [[2], [2, 3]]) {
      const index = store.state.appliedIndex + 1;
      const entry = { index, term: 1, kind: "conf-change", data: new Uint8Array(1) } as const;
      store.applyBatch([entry], 0, () => withLearners(...learners));
      const { metadata } = await made(snapshots);
      expect(metadata.index).to.be.at.least(index);
      expect(metadata.confState.learners).to.deep.equal(learners);
    }
    // One that has gone since is no reason for another.
    const index = store.state.appliedIndex + 1;
    const entry = { index, term: 1, kind: "conf-change", data: new Uint8Array(1) } as const;
    store.applyBatch([entry], 0, () => withLearners(3));
    expect((await made(snapshots)).metadata.confState.learners).to.deep.equal([2, 3]);
    await snapshots.stop();
  });

  it("is what a leader hands to its followers, under the name of its index", async () => {
    const snapshots = makeSnapshots(60_000);
    const snapshot = await made(snapshots);
    expect(snapshot.metadata.index).to.equal(store.state.appliedIndex);
    const path = join(directory, `snapshot-${snapshot.metadata.index}.dump`);
    expect(await load(path)).to.deep.equal({
      index: store.state.appliedIndex,
      hash: toHex(store.state.stateHash),
    });
    await snapshots.stop();
  });

  it("is given up when it does not get on, and leaves nothing behind", async () => {
    const warned: string[] = [];
    const snapshots = makeSnapshots(1, (reason) => warned.push(reason));
    expect(() => snapshots.current()).to.throw(SnapshotTemporarilyUnavailableError);
    await eventually("the dump is given up", () => warned.length > 0, { withinMs: 60_000 });
    expect(warned[0]).to.match(/made no progress for 1 ms/);
    expect((await readdir(directory)).filter((name) => name.endsWith(".dump"))).to.deep.equal([]);
    await snapshots.stop();
  });

  it("is refused when a record on its way is not what was written", async () => {
    const frozen = must(store.store.frozenFile?.(), "a store in a file");
    const bytes = await readFile(frozen.path);
    const at = bytes.lastIndexOf("value 7777 of");
    expect(at).to.be.above(0);
    const file = await open(frozen.path, "r+");
    await file.write(Buffer.from("w"), 0, 1, at);
    await file.close();
    const path = join(directory, "s.dump");
    const outcome = await dumpAside(frozen, path, limits).then(
      () => "done",
      (error: unknown) => String(error),
    );
    expect(outcome).to.match(/fails its checksum/);
  });

  it("of the tree shows all that was applied before, and is looked at as it is in the file", async () => {
    apply(RECORD_COUNT, 200);
    const { appliedIndex, stateHash } = store.state;
    const snapshots = makeSnapshots(60_000);
    const path = join(directory, "tree.dump");
    const large = utf8("large");
    const dumping = snapshots.dumpTo(path, (reader) => reader.get(large), limits.signal);
    await store.flush();
    apply(0, 200);
    const { metadata, seen } = await dumping;
    expect(metadata.index).to.equal(appliedIndex);
    expect(Buffer.from(must(seen, "the record")).toString()).to.equal(`${appliedIndex}`.repeat(9000));
    expect(await load(path)).to.deep.equal({ index: appliedIndex, hash: toHex(stateHash) });
    await snapshots.stop();
  });

  it("of the tree is refused, and nothing left behind, when the store is damaged", async () => {
    const frozen = must(store.store.frozenFile?.(), "a store in a file");
    const at = (await readFile(frozen.path)).lastIndexOf("value 7777 of");
    const file = await open(frozen.path, "r+");
    await file.write(Buffer.from("w"), 0, 1, at);
    await file.close();
    frozen.close();
    const snapshots = makeSnapshots(60_000);
    const path = join(directory, "tree.dump");
    const { message } = await expectReason("OVERLOADED", () =>
      snapshots.dumpTo(path, () => undefined, limits.signal),
    );
    expect(message).to.match(/fails its checksum/);
    expect(await disk.exists(path)).to.equal(false);
    await snapshots.stop();
  });

  it("of the tree is given up when it stands still, and leaves nothing behind", async () => {
    const snapshots = makeSnapshots(1);
    const path = join(directory, "tree.dump");
    const error = await expectReason("OVERLOADED", () =>
      snapshots.dumpTo(path, () => undefined, limits.signal),
    );
    expect(String(error)).to.match(/made no progress for 1 ms/);
    expect(await disk.exists(path)).to.equal(false);
    await snapshots.stop();
  });

  function makeSnapshots(
    dumpStallMs: number,
    onWarning: (reason: string) => void = () => undefined,
  ): Snapshots {
    return new Snapshots({
      ...{ store, disk, directory, clock, dumpStallMs },
      logger: { ...silentLogger, warn: (_, fields) => onWarning(String(fields?.["reason"])) },
      transport: {
        send: () => undefined,
        sendSnapshot: () => Promise.reject(new Error("nothing is sent here")),
      } as unknown as ConstructorParameters<typeof Snapshots>[0]["transport"],
      sendStallMs: 60_000,
      loadBytesPerSecond: 1_000_000,
      logStartIndex: () => 0,
      onSent: () => undefined,
    });
  }

  function made(snapshots: Snapshots): Promise<Snapshot> {
    return eventually(
      "the snapshot is made",
      () => {
        try {
          return snapshots.current();
        } catch (error) {
          if (error instanceof SnapshotTemporarilyUnavailableError) return undefined;
          throw error;
        }
      },
      { withinMs: 60_000 },
    );
  }
});
