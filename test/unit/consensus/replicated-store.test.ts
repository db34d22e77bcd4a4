// Goal: the store's hash depends on its records alone; a snapshot file is refused for any damage; an install is all or nothing.
// Method: random writes against a hash computed from scratch; every byte of a small snapshot file flipped.
import { expect } from "chai";
import { ReplicatedStore } from "../../../src/consensus/replicated-store.ts";
import { SnapshotFileReader, SnapshotFileWriter } from "../../../src/consensus/snapshot-file.ts";
import type { StateMachine } from "../../../src/consensus/state-machine.ts";
import {
  RecordCache,
  REMEMBERED_VALUE_SIZE_BYTES_MAX,
  SLOT_COUNT,
} from "../../../src/consensus/record-cache.ts";
import { HashingTransaction, StateHashHistory } from "../../../src/consensus/state-hash.ts";
import type { LogEntry } from "../../../src/raft/types.ts";
import { AssertionError } from "../../../src/std/assert.ts";
import { toHex } from "../../../src/std/bytes.ts";
import { deferred } from "../../../src/std/deferred.ts";
import { MemoryOrderedStore, MemoryOrderedStoreProvider } from "../../../src/std/memory-ordered-store.ts";
import { StoreFullError } from "../../../src/std/ordered-store.ts";
import { SeededPrng } from "../../../src/std/prng.ts";
import { RecordSum } from "../../../src/std/record-sum.ts";
import { expectReason } from "../../support/expect-reason.ts";
import { FakeClock, settle } from "../../support/fake-clock.ts";
import { MemoryDisk } from "../../support/memory-disk.ts";

const CONF_STATE = {
  voters: [1, 2, 3],
  votersOutgoing: [],
  learners: [],
  learnersNext: [],
  autoLeave: false,
};

/** Puts the command's bytes under themselves; counts the commands it saw. */
class EchoMachine implements StateMachine<number> {
  count = 0;
  /** How long each command takes. */
  work: () => void = () => undefined;

  apply(
    transaction: Parameters<StateMachine<number>["apply"]>[0],
    command: { readonly data: Uint8Array },
  ): number {
    this.work();
    this.count += 1;
    transaction.put(command.data, command.data);
    return this.count;
  }
}

function entry(index: number, size = 5): LogEntry {
  const data = Buffer.alloc(size, 1);
  data.writeUInt32BE(index, size - 4);
  return { index, term: 1, kind: "normal", data };
}

interface Setup {
  readonly disk: MemoryDisk;
  readonly provider: MemoryOrderedStoreProvider;
  /** What the clock says. */
  readonly time: { nowMs: number };
  readonly machine: EchoMachine;
  readonly open: (clusterId?: string) => Promise<ReplicatedStore<number>>;
}

async function setUp(beforeFlush?: (storeName: string) => Promise<void>): Promise<Setup> {
  const disk = new MemoryDisk();
  await disk.makeDirectory("/s");
  const provider = new MemoryOrderedStoreProvider(beforeFlush === undefined ? {} : { beforeFlush });
  const time = { nowMs: 0 };
  const clock = Object.assign(new FakeClock(), { monotonicMs: () => time.nowMs });
  const machine = new EchoMachine();
  const open = (clusterId = "c"): Promise<ReplicatedStore<number>> =>
    ReplicatedStore.open({
      ...{ disk, provider, clock, clusterId },
      directory: "/s",
      stateMachine: machine,
      initialConfState: CONF_STATE,
    });
  return { disk, provider, time, machine, open };
}

const noConfChange = (): never => {
  throw new Error("no membership change here");
};

describe("RecordCache", () => {
  it("asks the store once, for a record and for its absence", () => {
    const cache = new RecordCache();
    let asked = 0;
    const read = (key: Uint8Array): Uint8Array | undefined => {
      asked += 1;
      return key[0] === 1 ? Uint8Array.of(7) : undefined;
    };

    for (const first of [1, 2, 1, 2]) cache.get(Uint8Array.of(first), read);

    expect(asked).to.equal(2);
    expect(cache.get(Uint8Array.of(1), read)).to.deep.equal(Uint8Array.of(7));
    expect(cache.get(Uint8Array.of(2), read)).to.equal(undefined);
    cache.clear();
    cache.get(Uint8Array.of(1), read);
    expect(asked).to.equal(3);
  });

  it("answers for every key as the store does, however many push each other out", () => {
    const seed = 11;
    const prng = new SeededPrng(seed);
    const cache = new RecordCache();
    const store = new Map<string, Uint8Array>();
    const read = (key: Uint8Array): Uint8Array | undefined => store.get(toHex(key));
    for (let round = 0; round < 50_000; round += 1) {
      const key = Uint8Array.of(1, prng.below(256), prng.below((4 * SLOT_COUNT) / 256));
      if (prng.below(3) === 0) {
        const value = prng.below(4) === 0 ? undefined : Uint8Array.of(prng.below(256));
        if (value === undefined) store.delete(toHex(key));
        else store.set(toHex(key), value);
        cache.set(key, value);
      }
      expect(cache.get(key, read), `seed=${seed}`).to.equal(read(key));
    }
  });

  it("keeps a value of the largest size, and none above", () => {
    const cache = new RecordCache();
    let asked = 0;
    const read = (): undefined => {
      asked += 1;
      return undefined;
    };
    cache.set(Uint8Array.of(1), new Uint8Array(REMEMBERED_VALUE_SIZE_BYTES_MAX));
    cache.set(Uint8Array.of(2), new Uint8Array(REMEMBERED_VALUE_SIZE_BYTES_MAX + 1));

    cache.get(Uint8Array.of(1), read);
    expect(asked).to.equal(0);
    cache.get(Uint8Array.of(2), read);
    expect(asked).to.equal(1);
  });
});

describe("state hash", () => {
  it("never changes for the same records", () => {
    const bytes = Uint8Array.from({ length: 999 }, (_, at) => (at * 7) & 255);
    const sum = new RecordSum();
    for (let n = 0; n < 40; n += 1) sum.add(bytes.subarray(0, 1 + n), bytes.subarray(100, 100 + n * 11));
    sum.subtract(bytes.subarray(0, 3), bytes.subarray(9, 9));

    expect(toHex(sum.toBytes())).to.equal("3507beb466178bd3");
  });

  it("depends on the records alone, not on the order or number of writes", () => {
    const seed = 5;
    const prng = new SeededPrng(seed);
    const store = new MemoryOrderedStore();
    const sum = new RecordSum();
    const cache = new RecordCache();
    for (let round = 0; round < 2000; round += 1) {
      store.transaction((transaction) => {
        const hashing = new HashingTransaction(transaction, sum, cache);
        const key = Uint8Array.of(1 + prng.below(3), prng.below(20));
        const isThere = transaction.get(key) !== undefined;
        if (prng.below(3) === 0) hashing.delete(key);
        else if (isThere || prng.below(2) === 0) hashing.put(key, prng.bytes(prng.below(30)));
        else hashing.insert(key, prng.bytes(prng.below(30)));
      });
    }

    const fresh = new RecordSum();
    const records = [...store.range({ from: Uint8Array.of(0), to: Uint8Array.of(255), reverse: true })];
    for (const { key, value } of records) fresh.add(key, value);
    expect(toHex(sum.toBytes()), `seed=${seed}`).to.equal(toHex(fresh.toBytes()));
    for (const { key, value } of records) fresh.subtract(key, value);
    expect(toHex(fresh.toBytes())).to.equal("0000000000000000");
  });

  it("tells records apart whose bytes run together the same, and values that swap places", () => {
    const hashes = new Set<string>();
    const cases = [
      [["ab", "c"]],
      [["a", "bc"]],
      [["abc", ""]],
      [
        ["a", "x"],
        ["b", "y"],
      ],
      [
        ["a", "y"],
        ["b", "x"],
      ],
      [["a", "\0"]],
      [["a", "\0\0"]],
      [["a", ""]],
    ];
    for (const records of cases) {
      const sum = new RecordSum();
      for (const [key = "", value = ""] of records) sum.add(Buffer.from(key), Buffer.from(value));
      hashes.add(toHex(sum.toBytes()));
    }
    expect(hashes.size).to.equal(cases.length);
  });

  it("is the same for ever: it is compared with members of other versions", () => {
    const sum = new RecordSum();
    sum.add(Buffer.from("key"), Buffer.from("value"));
    expect(toHex(sum.toBytes())).to.equal("61fbe9613ec33745");
  });

  it("refuses keys that belong to consensus, and those beyond the range", () => {
    new MemoryOrderedStore().transaction((transaction) => {
      const hashing = new HashingTransaction(transaction, new RecordSum(), new RecordCache());
      for (const first of [0x00, 0xff]) {
        expect(() => hashing.put(Uint8Array.of(first), new Uint8Array(0))).to.throw(AssertionError);
      }
      for (const first of [0x01, 0xfe]) hashing.put(Uint8Array.of(first), new Uint8Array(0));
    });
  });

  it("is not fooled by an insert of what is there: the store in memory refuses it", () => {
    const store = new MemoryOrderedStore();
    const write = (): void =>
      store.transaction((transaction) => {
        transaction.insert(Uint8Array.of(1), Uint8Array.of(2));
      });
    write();
    expect(write).to.throw(AssertionError);
  });

  it("is known for the last entries and for no others", () => {
    const history = new StateHashHistory(4);
    for (let index = 1; index <= 6; index += 1) {
      history.record(index, 1, new RecordSum(new Uint8Array(8).fill(index)));
    }
    expect(history.find(2)).to.equal(undefined);
    expect(history.find(3)?.hash[0]).to.equal(3);
    expect(history.find(7)).to.equal(undefined);
    expect(history.find(0)).to.equal(undefined);
  });
});

describe("ReplicatedStore", () => {
  it("has what was applied and flushed after a crash, and knows how far it got", async () => {
    const { open, provider } = await setUp();
    const store = await open();
    store.applyBatch([entry(1), entry(2)], 0, noConfChange);
    await store.flush();
    store.applyBatch([entry(3)], 0, noConfChange);
    expect([store.state.appliedIndex, store.flushedIndex]).to.deep.equal([3, 2]);

    provider.crash(new SeededPrng(1));
    const again = await open();

    expect(again.state.appliedIndex).to.be.within(2, 3);
    expect(again.state.confState).to.deep.equal(CONF_STATE);
  });

  it("applies at most 256 entries in a batch, and fewer when they take long", async () => {
    const { open, machine, time } = await setUp();
    const store = await open();
    const entries = Array.from({ length: 300 }, (_, at) => entry(at + 1));

    expect(store.applyBatch(entries, 0, noConfChange).count).to.equal(256);
    machine.work = () => {
      time.nowMs += 4;
    };
    expect(store.applyBatch(entries, 256, noConfChange).count).to.equal(3);
  });

  it("asserts that no entry is skipped or applied twice", async () => {
    const { open } = await setUp();
    const store = await open();
    store.applyBatch([entry(1)], 0, noConfChange);
    expect(() => store.applyBatch([entry(1)], 0, noConfChange)).to.throw(AssertionError);
    expect(() => store.applyBatch([entry(3)], 0, noConfChange)).to.throw(AssertionError);
  });

  it("refuses a damaged CURRENT, a store without its record, and another cluster's", async () => {
    const { open, disk, provider } = await setUp();
    await (await open()).close();
    await expectReason("WRONG_CLUSTER", () => open("other"));
    await provider.remove("state-1");
    await expectReason("DATA_CORRUPT", () => open());
    disk.flipBit("/s/CURRENT", 17);
    await expectReason("DATA_CORRUPT", () => open());
  });

  describe("a snapshot file", () => {
    async function writeFile(disk: MemoryDisk, counts: { readonly records: number }): Promise<void> {
      await disk.makeDirectory("/s");
      const sum = new RecordSum();
      const records = Array.from({ length: counts.records }, (_, at) => {
        const key = Buffer.from([1, at >> 8, at & 255]);
        sum.add(key, Buffer.alloc(40, at));
        return { key, value: Buffer.alloc(40, at) };
      });
      const file = await disk.open("/s/file", "create");
      const writer = new SnapshotFileWriter(file);
      const metadata = { index: 9, term: 2, confState: CONF_STATE };
      await writer.writeHeader({ clusterId: "c", metadata, stateHash: sum.toBytes() });
      for (const record of records) await writer.writeRecord(record);
      await writer.finish();
      await file.close();
    }

    it("is loaded into the next generation and takes over when that is committed", async () => {
      const { open, disk, provider } = await setUp();
      const store = await open();
      store.applyBatch([entry(1)], 0, noConfChange);
      await writeFile(disk, { records: 20_000 });

      const prepared = await store.prepareInstall("/s/file");
      expect(store.state.appliedIndex).to.equal(1);
      await store.commitInstall(prepared);

      expect([store.state.appliedIndex, store.state.appliedTerm, store.flushedIndex]).to.deep.equal([
        9, 2, 9,
      ]);
      expect(store.reader().get(Uint8Array.of(1, 1, 1))?.length).to.equal(40);
      expect(await provider.list()).to.deep.equal(["state-2"]);
      await store.close();
      expect((await open()).installedSnapshot).to.deep.equal({ index: 9, term: 2 });
    });

    it("takes over also when a flush of the old generation finds no space meanwhile", async () => {
      const space = deferred<void>();
      let isFull = false;
      const { open, disk, provider } = await setUp((name) =>
        isFull && name === "state-1" ? space.promise : Promise.resolve(),
      );
      const store = await open();
      store.applyBatch([entry(1)], 0, noConfChange);
      await writeFile(disk, { records: 3 });
      const prepared = await store.prepareInstall("/s/file");
      isFull = true;
      const flushing = store.flush().catch((error: unknown) => error);

      const committing = store.commitInstall(prepared);
      // The new generation counts by now; the old one waits for its flush.
      await settle();
      space.reject(new StoreFullError("/s/state-1"));
      await committing;

      expect(await flushing).to.be.instanceOf(StoreFullError);
      expect(store.flushedIndex).to.equal(9);
      expect(await provider.list()).to.deep.equal(["state-2"]);
    });

    it("leaves nothing behind when it is given up, or when the process dies before it is committed", async () => {
      const { open, disk, provider } = await setUp();
      const store = await open();
      await writeFile(disk, { records: 3 });
      await store.abandonInstall(await store.prepareInstall("/s/file"));
      expect(await provider.list()).to.deep.equal(["state-1"]);

      await store.prepareInstall("/s/file");
      provider.crash(new SeededPrng(1));
      expect((await open()).state.appliedIndex).to.equal(0);
      expect(await provider.list()).to.deep.equal(["state-1"]);
    });

    it("is refused for a flipped bit anywhere, for every way of being cut off, and for bytes behind it", async () => {
      const intact = new MemoryDisk();
      await writeFile(intact, { records: 5 });
      const bytes = intact.contentOf("/s/file");
      const { open, disk } = await setUp();
      const store = await open();
      const refuse = async (damaged: Uint8Array, name: string): Promise<void> => {
        await disk.remove("/s/file");
        await (await disk.open("/s/file", "create")).close();
        disk.overwrite("/s/file", damaged);
        const error = await expectReason("DATA_CORRUPT", () => store.prepareInstall("/s/file"));
        expect(error.message, name).to.contain("damaged");
      };
      for (let at = 0; at < bytes.length; at += 1) {
        const flipped = Uint8Array.from(bytes);
        flipped[at] = (flipped[at] ?? 0) ^ 1;
        await refuse(flipped, `bit at ${at}`);
        await refuse(bytes.subarray(0, at), `cut at ${at}`);
      }
      await refuse(Buffer.concat([bytes, Uint8Array.of(0)]), "one byte more");
    });

    it("is refused when its records do not have the hash that it claims", async () => {
      const { open, disk } = await setUp();
      const store = await open();
      const file = await disk.open("/s/file", "create");
      const writer = new SnapshotFileWriter(file);
      const metadata = { index: 9, term: 2, confState: CONF_STATE };
      await writer.writeHeader({ clusterId: "c", metadata, stateHash: new Uint8Array(8) });
      await writer.writeRecord({ key: Uint8Array.of(1), value: Uint8Array.of(2) });
      await writer.finish();

      await expectReason("DATA_CORRUPT", () => store.prepareInstall("/s/file"));
      const reader = new SnapshotFileReader(file);
      expect((await reader.readHeader()).metadata.index).to.equal(9);
    });
  });
});
