// Goal: the log on disk is, after any crash, what was promised or a prefix of what was being written; damage is refused.
// Method: a disk in memory that is crashed at every operation of a fixed history, compared with a model of the log.
import { expect } from "chai";
import {
  LOG_READ_ENTRY_COUNT_MAX,
  SegmentRaftLog,
  type LogAppend,
} from "../../../src/consensus/segment-raft-log.ts";
import { CompactedError, UnavailableError, type HardState, type LogEntry } from "../../../src/raft/types.ts";
import { SeededPrng } from "../../../src/std/prng.ts";
import { expectReason } from "../../support/expect-reason.ts";
import { FakeClock, settle } from "../../support/fake-clock.ts";
import { MemoryDisk } from "../../support/memory-disk.ts";

const DIRECTORY = "/log";

function open(
  disk: MemoryDisk,
  options: {
    readonly segmentSizeBytes?: number;
    readonly cacheSizeBytesMax?: number;
    readonly durable?: { readonly segmentId: number; readonly offset: number };
  } = {},
): Promise<SegmentRaftLog> {
  return SegmentRaftLog.open({
    disk,
    clock: new FakeClock(),
    directory: DIRECTORY,
    clusterId: "c",
    memberId: 1,
    whenAbsent: "create",
    keepPromise: () => Promise.resolve(),
    heldIndex: () => 0,
    onUnreadable: () => undefined,
    onFatal: () => undefined,
    ...options,
  });
}

function entry(index: number, term: number, sizeBytes = 20): LogEntry {
  return { index, term, kind: "normal", data: Buffer.alloc(sizeBytes, index % 256) };
}

function entriesOf(log: SegmentRaftLog): string {
  const entries = log.entries(log.firstIndex(), log.lastIndex() + 1, Number.MAX_SAFE_INTEGER);
  for (const { index, data } of entries) expect(data[0]).to.equal(index % 256);
  return `${log.start.index}.${log.start.term}|${entries.map(({ index, term }) => `${index}.${term}`).join(" ")}`;
}

describe("SegmentRaftLog", () => {
  it("has after a restart what was appended, with the hard state", async () => {
    const disk = new MemoryDisk();
    const hardState: HardState = { term: 2, votedFor: 3, commitIndex: 1 };
    const log = await open(disk);
    await log.append([{ entries: [entry(1, 1), entry(2, 2, 100_000)], hardState }]);
    await log.close();

    const again = await open(disk);

    expect(entriesOf(again)).to.equal("0.0|1.1 2.2");
    expect(again.hardState).to.deep.equal(hardState);
    expect([again.term(0), again.term(2)]).to.deep.equal([0, 2]);
  });

  it("replaces a conflicting suffix", async () => {
    const disk = new MemoryDisk();
    const log = await open(disk);
    await log.append([{ entries: [entry(1, 1), entry(2, 1), entry(3, 1)] }]);
    await log.append([{ entries: [entry(2, 2)] }, { entries: [entry(3, 2)] }]);
    expect(entriesOf(log)).to.equal("0.0|1.1 2.2 3.2");
    await log.close();

    expect(entriesOf(await open(disk))).to.equal("0.0|1.1 2.2 3.2");
  });

  it("does one sync for entries and hard state together", async () => {
    const log = await open(new MemoryDisk());
    const before = log.syncCount;

    const entries = Array.from({ length: 100 }, (_, at) => entry(at + 1, 1));
    await log.append([{ entries, hardState: { term: 1, votedFor: 1, commitIndex: 0 } }]);

    expect(log.syncCount - before).to.equal(1);
  });

  it("reads entries back that are no longer in memory", async () => {
    const disk = new MemoryDisk();
    const log = await open(disk, { segmentSizeBytes: 2000, cacheSizeBytesMax: 1000 });
    for (let index = 1; index <= 60; index += 1) await log.append([{ entries: [entry(index, 1, 100)] }]);

    expect(log.entries(1, 61, Number.MAX_SAFE_INTEGER).map(({ index }) => index)).to.deep.equal(
      Array.from({ length: 60 }, (_, at) => at + 1),
    );
    expect(log.entries(1, 61, 250).length).to.equal(2);
    expect(log.entries(5, 61, 1).length).to.equal(1);
    const before = entriesOf(log);
    await log.close();
    expect(entriesOf(await open(disk, { cacheSizeBytesMax: 1000 }))).to.equal(before);
  });

  it("keeps small entries in memory of their own, not in what they were cut from", async () => {
    const log = await open(new MemoryDisk());
    for (let index = 1; index <= 20; index += 1) {
      const message = new Uint8Array(8192).fill(index);
      await log.append([{ entries: [{ ...entry(index, 1), data: message.subarray(100, 200) }] }]);
    }

    for (const { index, data } of log.entries(1, 21, Number.MAX_SAFE_INTEGER)) {
      expect([...data]).to.deep.equal(Array.from({ length: 100 }, () => index));
      expect(data.buffer.byteLength).to.be.below(150);
    }
  });

  it(`reads ${LOG_READ_ENTRY_COUNT_MAX} entries at once and not one more`, async () => {
    const log = await open(new MemoryDisk());
    const entries = Array.from({ length: LOG_READ_ENTRY_COUNT_MAX + 1 }, (_, at) => entry(at + 1, 1));
    await log.append([{ entries }]);
    const count = (low: number): number =>
      log.entries(low, entries.length + 1, Number.MAX_SAFE_INTEGER).length;

    expect(count(1)).to.equal(LOG_READ_ENTRY_COUNT_MAX);
    expect(count(2)).to.equal(LOG_READ_ENTRY_COUNT_MAX);
    expect(count(3)).to.equal(LOG_READ_ENTRY_COUNT_MAX - 1);
  });

  it("refuses reads below and beyond", async () => {
    const log = await open(new MemoryDisk());
    await log.append([{ entries: [entry(1, 1), entry(2, 1), entry(3, 1)] }]);
    await log.compact(1);

    expect(() => log.entries(1, 2, 100)).to.throw(CompactedError);
    expect(() => log.entries(2, 5, 100)).to.throw(UnavailableError);
    expect(() => log.term(0)).to.throw(CompactedError);
    expect(log.term(1)).to.equal(1);
    expect(() => log.term(4)).to.throw(UnavailableError);
  });

  it("removes whole segments when the front is cut, and starts there after a restart", async () => {
    const disk = new MemoryDisk();
    const log = await open(disk, { segmentSizeBytes: 2000 });
    const hardState = { term: 1, votedFor: 2, commitIndex: 0 };
    await log.append([{ entries: [], hardState }]);
    for (let index = 1; index <= 60; index += 1) await log.append([{ entries: [entry(index, 1, 100)] }]);
    const before = disk.usedBytes;

    await log.compact(50);

    expect(disk.usedBytes).to.be.below(before / 2);
    await log.close();
    const again = await open(disk, { segmentSizeBytes: 2000 });
    expect(again.firstIndex()).to.equal(51);
    expect(again.lastIndex()).to.equal(60);
    expect(again.hardState).to.deep.equal(hardState);
  });

  it("goes on behind a snapshot", async () => {
    const disk = new MemoryDisk();
    const log = await open(disk, { segmentSizeBytes: 2000 });
    for (let index = 1; index <= 60; index += 1) await log.append([{ entries: [entry(index, 1, 100)] }]);

    await log.reset({ index: 500, term: 4 }, { term: 4, votedFor: 0, commitIndex: 500 });
    await log.append([{ entries: [entry(501, 4)] }]);
    await log.close();

    const again = await open(disk);
    expect(entriesOf(again)).to.equal("500.4|501.4");
    expect(again.hardState.commitIndex).to.equal(500);
  });

  it("always says where it starts, wherever the end of a segment falls", async () => {
    for (let segmentSizeBytes = 600; segmentSizeBytes < 800; segmentSizeBytes += 7) {
      const disk = new MemoryDisk();
      const log = await open(disk, { segmentSizeBytes });
      for (let index = 1; index <= 10; index += 1) await log.append([{ entries: [entry(index, 1)] }]);
      await log.compact(10);
      await log.append([{ entries: [entry(11, 1)] }]);
      await log.reset({ index: 50, term: 2 }, { term: 2, votedFor: 0, commitIndex: 50 });
      await log.append([{ entries: [entry(51, 2)] }]);
      await log.compact(51);
      await log.append([{ entries: [entry(52, 2)] }]);
      await log.close();

      expect(entriesOf(await open(disk, { segmentSizeBytes })), `segments of ${segmentSizeBytes}`).to.equal(
        "51.2|52.2",
      );
    }
  });

  it("keeps everything in order when the disk is full, and goes on when there is space", async () => {
    const disk = new MemoryDisk();
    const log = await open(disk);
    await log.append([{ entries: [entry(1, 1)] }]);
    disk.capacityBytes = disk.usedBytes + 100;

    await expectReason("NO_SPACE", () => log.append([{ entries: [entry(2, 1, 1000)] }]));
    expect(log.lastIndex()).to.equal(1);
    disk.capacityBytes = 1_000_000;
    await log.append([{ entries: [entry(2, 2)] }]);
    await log.close();

    expect(entriesOf(await open(disk))).to.equal("0.0|1.1 2.2");
  });

  describe("with damage", () => {
    /** Twenty entries of one record each, then the hard state; answers where the records of the entries lie. */
    async function written(disk: MemoryDisk): Promise<number[]> {
      const log = await open(disk);
      for (let index = 1; index <= 20; index += 1) await log.append([{ entries: [entry(index, 1)] }]);
      await log.append([{ entries: [], hardState: { term: 2, votedFor: 3, commitIndex: 9 } }]);
      await log.close();
      const bytes = Buffer.from(disk.contentOf(`${DIRECTORY}/0000000001.seg`));
      const places: number[] = [];
      for (let at = bytes.indexOf("NDR1"); at >= 0; at = bytes.indexOf("NDR1", at + 1)) places.push(at);
      return places;
    }

    it("says what is certain behind it, and goes on behind a state that covers it", async () => {
      const disk = new MemoryDisk();
      const places = await written(disk);
      disk.flipBit(`${DIRECTORY}/0000000001.seg`, (places[7] ?? 0) + 50);

      const log = await open(disk);
      expect(log.damage?.run).to.deep.equal({ firstIndex: 9, last: { index: 20, term: 1 } });
      expect(log.damage?.isHardStateKnown).to.equal(true);
      await log.mendBehind({ index: 8, term: 1 }, log.hardState);
      expect(log.damage).to.equal(undefined);
      const whole = "8.1|9.1 10.1 11.1 12.1 13.1 14.1 15.1 16.1 17.1 18.1 19.1 20.1";
      expect(entriesOf(log)).to.equal(whole);
      await log.close();

      const again = await open(disk);
      expect(again.damage).to.equal(undefined);
      expect(entriesOf(again)).to.equal(whole);
    });

    it("does not know its end, nor its hard state, when the last of them are damaged", async () => {
      const disk = new MemoryDisk();
      const places = await written(disk);
      for (const place of places.slice(19)) disk.flipBit(`${DIRECTORY}/0000000001.seg`, place + 30);

      const offset = disk.contentOf(`${DIRECTORY}/0000000001.seg`).length;
      const log = await open(disk, { durable: { segmentId: 1, offset } });

      expect(log.damage?.run).to.equal(undefined);
      expect(log.damage?.isHardStateKnown).to.equal(false);
    });

    it("begins anew behind a position, keeps the old segments until it is cut, and is whole ever after", async () => {
      const disk = new MemoryDisk();
      const places = await written(disk);
      disk.flipBit(`${DIRECTORY}/0000000001.seg`, (places[7] ?? 0) + 50);
      const log = await open(disk);

      await log.reset({ index: 4, term: 1 }, { term: 2, votedFor: 3, commitIndex: 4 });
      await log.append([{ entries: [entry(5, 2), entry(6, 2)] }]);
      await log.close();

      const again = await open(disk);
      expect(again.damage).to.equal(undefined);
      expect(entriesOf(again)).to.equal("4.1|5.2 6.2");
      expect(again.hardState).to.deep.equal({ term: 2, votedFor: 3, commitIndex: 4 });
    });

    it("does not believe that it starts where a record says when entries between are damaged", async () => {
      const disk = new MemoryDisk();
      await written(disk);
      const log = await open(disk);
      await log.compact(5);
      await log.close();
      const bytes = Buffer.from(disk.contentOf(`${DIRECTORY}/0000000001.seg`));
      disk.flipBit(`${DIRECTORY}/0000000001.seg`, bytes.indexOf("NDR1", bytes.length / 2) + 30);

      const again = await open(disk);

      expect(again.damage?.run?.firstIndex).to.be.above(6);
    });
  });

  it("refuses the log of another member", async () => {
    const disk = new MemoryDisk();
    await (await open(disk)).close();

    await expectReason("DATA_CORRUPT", () =>
      SegmentRaftLog.open({
        disk,
        clock: new FakeClock(),
        directory: DIRECTORY,
        clusterId: "c",
        memberId: 2,
        whenAbsent: "refuse",
        keepPromise: () => Promise.resolve(),
        heldIndex: () => 0,
        onUnreadable: () => undefined,
        onFatal: () => undefined,
      }),
    );
  });

  it("is, after a crash at any operation, what was promised or a prefix of what was being written", async function () {
    this.timeout(20_000);
    const seed = 11;
    let crashes = 0;
    for (let operation = 1; ; operation += 1) {
      const disk = new MemoryDisk({ afterCrash: "hang" });
      let count = 0;
      let isDead = false;
      disk.onOperation = () => {
        count += 1;
        if (count === operation) {
          isDead = true;
          disk.crash(new SeededPrng(seed * 1000 + operation));
        }
        return undefined;
      };
      const outcome = { promised: ["0.0|"], writing: undefined as string[] | undefined };
      void history(disk, outcome);
      while (!isDead && !outcome.promised.includes("done")) await settle();
      disk.onOperation = undefined;
      if (!isDead) break;
      crashes += 1;

      const log = await open(disk, { segmentSizeBytes: 700 });
      const found = entriesOf(log);
      const allowed = [...outcome.promised.slice(-1), ...(outcome.writing ?? [])];
      expect(allowed, `seed=${seed} operation=${operation}`).to.include(found);
      await log.append([{ entries: [entry(log.lastIndex() + 1, 9)] }]);
      expect(log.hardState.term).to.be.at.least(log.lastIndex() > 1 && log.start.index > 0 ? 1 : 0);
    }
    expect(crashes).to.be.above(50);
  });
});

/** A fixed history; notes what was promised, and what may be found while something is being written. */
async function history(
  disk: MemoryDisk,
  outcome: { promised: string[]; writing: string[] | undefined },
): Promise<void> {
  const log = await open(disk, { segmentSizeBytes: 700 });
  const act = async (
    work: () => Promise<void>,
    found: (part: number) => string,
    parts: number,
  ): Promise<void> => {
    outcome.writing = Array.from({ length: parts + 1 }, (_, part) => found(part));
    await work();
    outcome.promised.push(found(parts));
    outcome.writing = undefined;
  };
  const append = async (entries: readonly LogEntry[]): Promise<void> => {
    const before = log.entries(log.firstIndex(), log.lastIndex() + 1, Number.MAX_SAFE_INTEGER);
    const { start } = log;
    const found = (part: number): string => {
      const taken = entries.slice(0, part);
      const first = taken[0]?.index ?? Number.MAX_SAFE_INTEGER;
      const all = [...before.filter(({ index }) => index < first), ...taken];
      return `${start.index}.${start.term}|${all.map(({ index, term }) => `${index}.${term}`).join(" ")}`;
    };
    const appends: LogAppend[] = [{ entries, hardState: { term: 5, votedFor: 0, commitIndex: 0 } }];
    await act(() => log.append(appends), found, entries.length);
  };
  for (let index = 1; index <= 12; index += 2) await append([entry(index, 1), entry(index + 1, 1)]);
  await append([entry(9, 2), entry(10, 2), entry(11, 2)]);
  const tail = "9.2 10.2 11.2";
  const all = `1.1 2.1 3.1 4.1 5.1 6.1 7.1 8.1 ${tail}`;
  await act(
    () => log.compact(7),
    (part) => (part === 0 ? `0.0|${all}` : `7.1|8.1 ${tail}`),
    1,
  );
  await append([entry(12, 2)]);
  const position = { index: 100, term: 3 };
  const hardState = { term: 5, votedFor: 0, commitIndex: 100 };
  await act(
    () => log.reset(position, hardState),
    (part) => (part === 0 ? `7.1|8.1 ${tail} 12.2` : "100.3|"),
    1,
  );
  await append([entry(101, 3), entry(102, 3)]);
  await log.close();
  outcome.promised.push("done");
}
