// Goal: a snapshot becomes the store of a follower whole or not at all, in order of keys, with the checksum of each record, and a
// crash in between leaves nothing that counts.
// Method: real LMDB stores and real child processes; files of records that the test makes up.
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { ReplicatedStore } from "../../../src/consensus/replicated-store.ts";
import { SnapshotFileWriter } from "../../../src/consensus/snapshot-file.ts";
import { loadAside } from "../../../src/consensus/snapshot-load.ts";
import type { ConfState } from "../../../src/raft/types.ts";
import { must } from "../../../src/std/assert.ts";
import { compareBytes, toHex, utf8 } from "../../../src/std/bytes.ts";
import { CheckedOrderedStoreProvider } from "../../../src/std/checked-ordered-store.ts";
import { SystemClock } from "../../../src/std/clock.ts";
import { BULK_TRANSACTION_SIZE_BYTES } from "../../../src/std/lmdb-bulk-load.ts";
import { LmdbOrderedStoreProvider } from "../../../src/std/lmdb-ordered-store.ts";
import type { KeyValue, OrderedReader } from "../../../src/std/ordered-store.ts";
import { RecordSum } from "../../../src/std/record-sum.ts";
import { SystemDisk } from "../../../src/std/system-disk.ts";
import { expectReason } from "../../support/expect-reason.ts";

const CONF_STATE: ConfState = {
  voters: [1, 2],
  votersOutgoing: [],
  learners: [],
  learnersNext: [],
  autoLeave: false,
};
const APPLIED_INDEX = 77;

/** Several transactions of records, some longer than a page, one of the largest that there are. */
function makeRecords(): KeyValue[] {
  const records: KeyValue[] = [];
  let sizeBytes = 0;
  for (let at = 0; sizeBytes < 2.5 * BULK_TRANSACTION_SIZE_BYTES; at += 1) {
    const length = at === 500 ? 1024 * 1024 : at % 97 === 0 ? 9000 : at % 300;
    const key = utf8(`key ${String(at).padStart(7, "0")}${"x".repeat(at % 41)}`);
    records.push({ key, value: Buffer.alloc(length, at) });
    sizeBytes += key.length + length;
  }
  return records;
}

function sumOf(records: readonly KeyValue[]): Uint8Array {
  const sum = new RecordSum();
  for (const { key, value } of records) sum.add(key, value);
  return sum.toBytes();
}

describe("A snapshot loaded by another process", function () {
  this.timeout(120_000);
  const disk = new SystemDisk();
  const clock = new SystemClock();
  let directory: string;
  let damaged: string[];

  function options(clusterId = "c") {
    const lmdb = new LmdbOrderedStoreProvider({
      directory: join(directory, "stores"),
      clock,
      isSealed: true,
    });
    const provider = new CheckedOrderedStoreProvider(lmdb, (error) => damaged.push(error.message));
    const stateMachine = { apply: () => undefined };
    return { provider, disk, directory, clock, stateMachine, clusterId, initialConfState: CONF_STATE };
  }

  async function makeFile(records: readonly KeyValue[], stateHash = sumOf(records)): Promise<string> {
    const path = join(directory, "made.dump");
    await disk.remove(path);
    const file = await disk.open(path, "create");
    const writer = new SnapshotFileWriter(file);
    const metadata = { index: APPLIED_INDEX, term: 3, confState: CONF_STATE };
    await writer.writeHeader({ clusterId: "c", stateHash, metadata });
    for (const record of records) await writer.writeRecord(record);
    await writer.finish();
    await file.close();
    return path;
  }

  /** Whether the store holds just these records, in order. */
  function expectRecords(reader: OrderedReader, records: readonly KeyValue[]): void {
    let at = 0;
    for (const { key, value } of reader.range({ from: Uint8Array.of(1), to: Uint8Array.of(0xff) })) {
      const expected = must(records[at], `record ${at}`);
      if (compareBytes(key, expected.key) !== 0 || compareBytes(value, expected.value) !== 0)
        throw new Error(`record ${at} is ${toHex(key)}`);
      at += 1;
    }
    expect(at).to.equal(records.length);
  }

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), "snapshot-load-"));
    damaged = [];
  });

  afterEach(async () => {
    await rm(directory, { recursive: true, force: true });
  });

  it("holds every record, before and after a crash, and can be written to", async () => {
    const records = makeRecords();
    const path = await makeFile(records);
    const store = await ReplicatedStore.open(options());

    await store.commitInstall(await store.prepareInstall(path));

    expectRecords(store.reader(), records);
    const entry = { index: APPLIED_INDEX + 1, term: 3, kind: "normal", data: utf8("x") } as const;
    store.applyBatch([entry], 0, () => CONF_STATE);
    await store.close();
    // Without what closing leaves, every page and record is checked, as after a crash.
    await rm(join(directory, "stores", "state-2", "closed.crc"));
    const again = await ReplicatedStore.open(options());
    expect(again.state.appliedIndex).to.be.at.least(APPLIED_INDEX);
    expectRecords(again.reader(), records);
    expect(damaged).to.deep.equal([]);
    await again.close();
  });

  const refused: readonly { readonly name: string; readonly make: () => Promise<string> }[] = [
    {
      name: "whose records do not have the hash that it claims",
      make: () => makeFile(makeRecords().slice(0, 100), sumOf([])),
    },
    {
      name: "whose keys are out of order",
      make: () => makeFile([...makeRecords().slice(0, 100)].reverse()),
    },
    {
      name: "that holds a key twice",
      make: () => {
        const [record] = makeRecords();
        return makeFile([must(record, "a record"), must(record, "a record")]);
      },
    },
  ];
  for (const { name, make } of refused) {
    it(`refuses one ${name}, and leaves the state as it was`, async () => {
      const path = await make();
      const store = await ReplicatedStore.open(options());

      await expectReason("DATA_CORRUPT", () => store.prepareInstall(path));

      expect(await ReplicatedStore.generations(options().provider)).to.deep.equal(["state-1"]);
      expect(store.state.appliedIndex).to.equal(0);
      await store.close();
    });
  }

  it("is made anew after a load that was broken off", async () => {
    const records = makeRecords();
    const path = await makeFile(records);
    const { provider } = options();
    const target = must(provider.bulkTarget("state-2"), "stores in files");
    const abort = new AbortController();
    const loading = loadAside({ path, target, stateKey: Uint8Array.of(0, 1) }, abort.signal);
    await disk.makeDirectory(target.directory);
    abort.abort(new Error("broken off"));
    expect(await loading.catch((error: unknown) => String(error))).to.equal("Error: broken off");
    const store = await ReplicatedStore.open(options());

    await store.commitInstall(await store.prepareInstall(path));

    expectRecords(store.reader(), records);
    expect(await readdir(join(directory, "stores"))).to.deep.equal(["state-2"]);
    await store.close();
  });
});
