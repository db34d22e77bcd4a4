/** A log whose files are removed or replaced under it says which, and goes on where a restart finds what it acknowledges. */
import { expect } from "chai";
import { segmentPath, SegmentLog, type SegmentLogOptions } from "../../../src/segments/segment-log.ts";
import { utf8 } from "../../../src/std/bytes.ts";
import { SeededPrng } from "../../../src/std/prng.ts";
import { expectReason } from "../../support/expect-reason.ts";
import { FakeClock } from "../../support/fake-clock.ts";
import { MemoryDisk } from "../../support/memory-disk.ts";

const KIND = 100;
const now = (): Promise<void> => Promise.resolve();

interface Opened {
  readonly log: SegmentLog;
  readonly records: string[];
}

async function open(disk: MemoryDisk, options: Partial<SegmentLogOptions> = {}): Promise<Opened> {
  const records: string[] = [];
  const log = await SegmentLog.open({
    disk: disk.process(),
    clock: new FakeClock(),
    directory: "/log",
    identity: utf8("identity"),
    whenAbsent: "create",
    onFault: "report",
    onRecord: ({ head }) => void records.push(Buffer.from(head).toString()),
    onFatal: (error) => expect.fail(error.message),
    watchesFiles: true,
    segmentSizeBytesMax: 1000,
    ...options,
  });
  return { log, records };
}

async function put(log: SegmentLog, text: string): Promise<number> {
  const { segmentId } = log.append(KIND, utf8(text), new Uint8Array(400));
  await log.commit();
  return segmentId;
}

describe("SegmentLog.checkFiles()", () => {
  it("says nothing while all files are where they belong, and changes nothing", async () => {
    const disk = new MemoryDisk();
    const { log } = await open(disk);
    for (const text of ["a", "b", "c"]) await put(log, text);
    const { head } = log;

    expect(await log.checkFiles(now)).to.deep.equal([]);
    expect(log.head).to.deep.equal(head);
  });

  it("names segments that are missing, and leaves the one that is being written for a new one", async () => {
    const disk = new MemoryDisk();
    const { log } = await open(disk);
    const at = [await put(log, "a"), await put(log, "b"), await put(log, "c")];
    expect(at).to.deep.equal([1, 1, 2]);
    for (const segmentId of [1, 2]) disk.lose(segmentPath("/log", segmentId));

    // What waits for its write when the look comes goes where the log was.
    const waiting = put(log, "d");
    const found = await log.checkFiles(now);
    await waiting;

    expect(found.map(({ segmentId, kind }) => `${segmentId} ${kind}`)).to.deep.equal([
      "1 missing",
      "2 missing",
    ]);
    expect(await put(log, "e")).to.equal(3);
    disk.crash(new SeededPrng(1));
    expect((await open(disk)).records).to.deep.equal(["e"]);
  });

  it("leaves one that was replaced, and keeps to it when there is no room for a new one, until there is", async () => {
    const disk = new MemoryDisk();
    const { log } = await open(disk);
    await put(log, "a");
    disk.replace(segmentPath("/log", 1), disk.contentOf(segmentPath("/log", 1)));
    disk.failNext("create", /0002\.seg$/u, "ENOSPC");

    await expectReason("NO_SPACE", () => log.checkFiles(now));
    expect(log.head.segmentId).to.equal(1);
    const found = await log.checkFiles(now);

    expect(found.map(({ segmentId, kind }) => `${segmentId} ${kind}`)).to.deep.equal(["1 replaced"]);
    expect(await put(log, "b")).to.equal(2);
    disk.crash(new SeededPrng(1));
    expect((await open(disk)).records).to.deep.equal(["a", "b"]);
  });

  it("finds each again until it is told that it was looked at, though the file is closed by then", async () => {
    const disk = new MemoryDisk();
    const { log } = await open(disk);
    const at = [];
    for (const text of ["a", "b", "c", "d", "e"]) at.push(await put(log, text));
    expect(at).to.deep.equal([1, 1, 2, 2, 3]);
    for (const segmentId of [1, 2]) await log.scanSegment(segmentId, () => undefined);
    for (const segmentId of [1, 3]) {
      disk.replace(segmentPath("/log", segmentId), disk.contentOf(segmentPath("/log", segmentId)));
    }
    disk.failNext("create", /0004\.seg$/u, "ENOSPC");
    await expectReason("NO_SPACE", () => log.checkFiles(now));

    for (let look = 0; look < 2; look += 1) {
      const found = await log.checkFiles(now);
      expect(
        found.map(({ segmentId, kind }) => `${segmentId} ${kind}`),
        `look ${look}`,
      ).to.deep.equal(["1 replaced", "3 replaced"]);
    }
    log.settleMisplaced(1);
    disk.lose(segmentPath("/log", 3));
    expect((await log.checkFiles(now)).map(({ segmentId, kind }) => `${segmentId} ${kind}`)).to.deep.equal([
      "3 missing",
    ]);
  });

  it("names segments that were cut short, with what is left of those that are not written on", async () => {
    const disk = new MemoryDisk();
    const { log } = await open(disk);
    for (const text of ["a", "b", "c"]) await put(log, text);
    for (const segmentId of [1, 2]) disk.cut(segmentPath("/log", segmentId), 100);

    const found = await log.checkFiles(now);

    expect(found.map(({ segmentId, kind, leftBytes }) => ({ segmentId, kind, leftBytes }))).to.deep.equal([
      { segmentId: 1, kind: "cut-short", leftBytes: 100 },
      { segmentId: 2, kind: "cut-short", leftBytes: undefined },
    ]);
    for (const segmentId of [1, 2]) log.settleMisplaced(segmentId);
    expect(await put(log, "d")).to.equal(3);
    expect(await log.checkFiles(now), "told once").to.deep.equal([]);
  });

  it("lets others get on among many segments, and goes on anew when that ends it", async () => {
    const disk = new MemoryDisk();
    const { log } = await open(disk);
    for (let at = 0; at < 900; at += 1) await put(log, "a");
    disk.cut(segmentPath("/log", 1), 100);
    let count = 0;
    const stop = async (): Promise<void> => {
      count += 1;
      if (count === 2) throw new Error("stopped");
    };
    expect(
      await log.checkFiles(stop).then(
        () => "done",
        () => "stopped",
      ),
    ).to.equal("stopped");
    expect((await log.checkFiles(now)).map(({ segmentId, kind }) => `${segmentId} ${kind}`)).to.deep.equal([
      "1 cut-short",
    ]);
  });

  it("goes on after a restart with a log of which the newest segment holds nothing but its first mark", async () => {
    const disk = new MemoryDisk();
    const { log } = await open(disk);
    await put(log, "a");
    disk.lose(segmentPath("/log", 1));
    await log.checkFiles(now);
    disk.crash(new SeededPrng(1));

    const after = await open(disk);
    expect(await put(after.log, "b")).to.equal(2);
    disk.crash(new SeededPrng(2));
    expect((await open(disk)).records).to.deep.equal(["b"]);
  });
});
