/**
 * Goal: a segment log never loses a committed record, never hands out a wrong one, and tells damage from a torn tail.
 * Method: a disk in memory that loses and tears what was not synced; a crash before every operation of a workload, with
 * several outcomes each; and damage planted in the durable image.
 */
import { expect } from "chai";
import { must } from "../../../src/std/assert.ts";
import { utf8 } from "../../../src/std/bytes.ts";
import { SeededPrng, type Prng } from "../../../src/std/prng.ts";
import type { RecordLocation } from "../../../src/segments/record.ts";
import { IDLE_MARK_DELAY_MS } from "../../../src/segments/segment-appender.ts";
import { encodeSegmentHeader } from "../../../src/segments/segment-header.ts";
import { SegmentLog, segmentPath, type SegmentLogOptions } from "../../../src/segments/segment-log.ts";
import { expectReason } from "../../support/expect-reason.ts";
import { FakeClock } from "../../support/fake-clock.ts";
import { MemoryDisk } from "../../support/memory-disk.ts";

const KIND = 16;
const IDENTITY = utf8("cluster/member/store");
/** What MemoryDisk.spoilPage() makes unreadable. */
const PAGE_SIZE_BYTES = 4096;

interface Opened {
  readonly log: SegmentLog;
  /** What recovery handed out, as text. */
  readonly records: string[];
  readonly fatal: Error[];
}

async function open(disk: MemoryDisk, options: Partial<SegmentLogOptions> = {}): Promise<Opened> {
  const records: string[] = [];
  const fatal: Error[] = [];
  const log = await SegmentLog.open({
    disk: disk.process(),
    clock: new FakeClock(),
    directory: "/log",
    identity: IDENTITY,
    whenAbsent: "create",
    onFault: "refuse",
    onRecord: (record) => {
      records.push(Buffer.concat([record.head, record.body]).toString());
    },
    onFatal: (error) => {
      fatal.push(error);
    },
    segmentSizeBytesMax: 1024,
    ...options,
  });
  return { log, records, fatal };
}

function append(log: SegmentLog, text: string): RecordLocation {
  return log.append(KIND, utf8(text.slice(0, 2)), utf8(text.slice(2)));
}

async function put(log: SegmentLog, ...texts: readonly string[]): Promise<void> {
  for (const text of texts) append(log, text);
  await log.commit();
}

async function reopened(disk: MemoryDisk, options: Partial<SegmentLogOptions> = {}): Promise<Opened> {
  disk.crash(new SeededPrng(1));
  return await open(disk, options);
}

const texts = (count: number, length = 100): string[] =>
  Array.from({ length: count }, (_, i) => `record ${i} `.padEnd(length, "x"));

describe("SegmentLog", () => {
  describe("append() and commit()", () => {
    it("keeps committed records over a crash, in order, across segments", async () => {
      const disk = new MemoryDisk();
      const { log } = await open(disk);
      for (const text of texts(30)) await put(log, text);

      const after = await reopened(disk);

      expect(after.records).to.deep.equal(texts(30));
      expect(after.log.segmentIds.length).to.be.greaterThan(3);
      expect(after.log.recovery.faults).to.deep.equal([]);
    });

    it("covers all records of one turn with one write and one sync", async () => {
      const disk = new MemoryDisk();
      const { log } = await open(disk, { segmentSizeBytesMax: 1024 * 1024 });
      const before = { writes: disk.countOf("write"), syncs: disk.countOf("sync") };

      await Promise.all(texts(64).map((text) => put(log, text)));

      expect(disk.countOf("write") - before.writes).to.equal(1);
      expect(disk.countOf("sync") - before.syncs).to.equal(1);
    });

    it("gives those who come during a round the next one, together", async () => {
      const disk = new MemoryDisk();
      const { log } = await open(disk, { segmentSizeBytesMax: 1024 * 1024 });
      const before = disk.countOf("sync");

      const first = put(log, "first");
      await Promise.resolve();
      await Promise.resolve();
      await Promise.resolve();
      await Promise.all([first, ...texts(20).map((text) => put(log, text))]);

      expect(disk.countOf("sync") - before).to.equal(2);
    });

    it("resolves at once when everything is durable", async () => {
      const disk = new MemoryDisk();
      const { log } = await open(disk);
      await put(log, "a record");
      const before = disk.countOf("sync");

      await log.commit();

      expect(disk.countOf("sync")).to.equal(before);
    });

    it("starts a sync by itself when enough was written", async () => {
      const disk = new MemoryDisk();
      const { log } = await open(disk, { segmentSizeBytesMax: 1024 * 1024, syncPaceBytes: 1000 });
      const before = log.syncCount;

      for (const text of texts(5)) {
        append(log, text);
        await log.flush();
      }
      expect(log.syncCount).to.equal(before);
      for (const text of texts(5)) {
        append(log, text);
        await log.flush();
      }

      expect(log.syncCount).to.equal(before + 1);
    });
  });

  describe("read()", () => {
    it("returns what was appended, whole and in part", async () => {
      const { log } = await open(new MemoryDisk(), { segmentSizeBytesMax: 1024 * 1024 });
      const body = new SeededPrng(5).bytes(300_000);
      const location = log.append(KIND, utf8("head"), body);
      await log.commit();

      const whole = await log.read(location);
      const sizes = { headSizeBytes: 4, bodySizeBytes: body.length };
      const part = await log.readPart(location, { ...sizes, offset: 70_000, length: 10 });
      const tail = await log.readPart(location, { ...sizes, offset: 65_530, length: 234_470 });

      expect(Buffer.from(whole.body).equals(body)).to.equal(true);
      expect(Buffer.from(part.bytes).equals(body.subarray(70_000, 70_010))).to.equal(true);
      expect(Buffer.from(tail.bytes).equals(body.subarray(65_530))).to.equal(true);
      expect(Buffer.from(whole.head).toString()).to.equal("head");
      expect(must(log.readSync(location), "being written").body.length).to.equal(body.length);
    });

    it("refuses a body with a flipped bit, and only the blocks that it touches", async () => {
      const disk = new MemoryDisk();
      const { log } = await open(disk, { segmentSizeBytesMax: 1024 * 1024 });
      const body = new SeededPrng(5).bytes(300_000);
      const location = log.append(KIND, utf8("head"), body);
      await log.commit();
      disk.flipBit(segmentPath("/log", 1), location.offset + location.sizeBytes - 1);

      const sizes = { headSizeBytes: 4, bodySizeBytes: body.length };
      await expectReason("DATA_CORRUPT", () => log.read(location));
      await expectReason("DATA_CORRUPT", () =>
        log.readPart(location, { ...sizes, offset: 299_990, length: 1 }),
      );
      const good = await log.readPart(location, { ...sizes, offset: 0, length: 65_536 });

      expect(good.bytes.length).to.equal(65_536);
    });
  });

  describe("recovery", () => {
    it("cuts a tail that was never promised", async () => {
      const disk = new MemoryDisk();
      const { log } = await open(disk, { segmentSizeBytesMax: 1024 * 1024 });
      await put(log, "promised");
      append(log, "not promised");
      await log.flush();
      const path = segmentPath("/log", 1);
      const bytes = disk.contentOf(path);
      disk.overwrite(path, bytes.subarray(0, bytes.length - 3));

      const after = await open(disk);

      expect(after.records).to.deep.equal(["promised"]);
      expect(after.log.recovery.tornBytes).to.be.greaterThan(0);
      expect(disk.contentOf(path).length).to.equal(after.log.head.offset);
    });

    it("cuts a tail although later records of the same round survived", async () => {
      const disk = new MemoryDisk();
      const { log } = await open(disk, { segmentSizeBytesMax: 1024 * 1024 });
      await put(log, "promised");
      const torn = append(log, "torn".padEnd(1000, "n"));
      append(log, "whole, but behind the torn one");
      await log.flush();
      disk.kill();
      // A sector that never reached the disk.
      const path = segmentPath("/log", 1);
      disk.overwrite(path, disk.contentOf(path).fill(0, 512, 1024));
      expect(torn.offset).to.be.lessThan(512);

      const after = await open(disk);

      expect(after.records).to.deep.equal(["promised"]);
    });

    it("takes every flipped bit of the newest record for damage, promised a moment ago or not", async () => {
      const disk = new MemoryDisk();
      const { log } = await open(disk, { segmentSizeBytesMax: 1024 * 1024 });
      await put(log, "an older record");
      const newest = append(log, "the newest record, of a round of its own");
      await log.commit();
      disk.crash(new SeededPrng(1));
      const path = segmentPath("/log", 1);

      for (let offset = newest.offset; offset < newest.offset + newest.sizeBytes; offset += 1) {
        for (let bit = 0; bit < 8; bit += 1) {
          disk.flipBit(path, offset, bit);
          const error = await expectReason("DATA_CORRUPT", () => open(disk));
          expect(error.metadata["offset"]).to.equal(String(newest.offset));
          disk.flipBit(path, offset, bit);
        }
      }

      expect((await open(disk)).records).to.have.length(2);
    });

    it("cuts a newest record that ends behind the file, wherever the file ends", async () => {
      const disk = new MemoryDisk();
      const { log } = await open(disk, { segmentSizeBytesMax: 1024 * 1024 });
      await put(log, "promised");
      const newest = append(log, "the newest record, of which a part was written");
      await log.flush();
      disk.kill();
      const path = segmentPath("/log", 1);
      const bytes = disk.contentOf(path);

      for (let end = newest.offset + 1; end < bytes.length; end += 1) {
        disk.overwrite(path, bytes.subarray(0, end));
        expect((await open(disk)).records).to.deep.equal(["promised"]);
      }
    });

    it("reports damage in the middle of a segment as DATA_CORRUPT with the place", async () => {
      const disk = new MemoryDisk();
      const { log } = await open(disk, { segmentSizeBytesMax: 1024 * 1024 });
      await put(log, "first");
      const damaged = append(log, "second");
      await log.commit();
      await put(log, "third");
      disk.flipBit(segmentPath("/log", 1), damaged.offset + 45, 3);

      const error = await expectReason("DATA_CORRUPT", () => reopened(disk));

      expect(error.metadata["offset"]).to.equal(String(damaged.offset));
      expect(error.metadata["path"]).to.equal(segmentPath("/log", 1));
      expect(disk.contentOf(segmentPath("/log", 1)).length).to.be.greaterThan(damaged.offset);
    });

    it("goes on behind damage when told to report it, and takes new records", async () => {
      const disk = new MemoryDisk();
      const { log } = await open(disk, { segmentSizeBytesMax: 1024 * 1024 });
      await put(log, "first");
      const damaged = append(log, "second");
      await log.commit();
      await put(log, "third");
      disk.flipBit(segmentPath("/log", 1), damaged.offset + 12, 3);

      const after = await reopened(disk, { onFault: "report" });
      await put(after.log, "fourth");
      const again = await reopened(disk, { onFault: "report" });

      expect(after.records).to.deep.equal(["first", "third"]);
      expect(after.log.recovery.faults.map((fault) => [fault.kind, fault.offset])).to.deep.equal([
        ["damaged", damaged.offset],
      ]);
      expect(again.records).to.deep.equal(["first", "third", "fourth"]);
      expect(again.log.recovery.faults).to.have.length(1);
    });

    it("loses to a page that cannot be read only the records in it, and still cuts a torn tail behind it", async () => {
      const disk = new MemoryDisk();
      const { log } = await open(disk, { segmentSizeBytesMax: 1024 * 1024 });
      const places: RecordLocation[] = [];
      for (const text of texts(120)) {
        places.push(append(log, text));
        await log.commit();
      }
      const torn = append(log, "the newest record, of which nothing reached the disk");
      await log.flush();
      disk.kill();
      const path = segmentPath("/log", 1);
      disk.overwrite(path, disk.contentOf(path).fill(0, torn.offset));
      disk.spoilPage(path, 2 * PAGE_SIZE_BYTES);

      const after = await open(disk, { onFault: "report", segmentSizeBytesMax: 1024 * 1024 });

      const isReadable = ({ offset, sizeBytes }: RecordLocation): boolean =>
        offset >= 3 * PAGE_SIZE_BYTES || offset + sizeBytes <= 2 * PAGE_SIZE_BYTES;
      const readable = texts(120).filter((_, at) => isReadable(must(places[at], "a place for each")));
      expect(readable.length).to.be.within(60, 119);
      expect(after.records).to.deep.equal(readable);
      expect(after.log.recovery.faults.map(({ kind }) => kind)).to.deep.equal(["damaged"]);
      expect(after.log.recovery.tornBytes).to.equal(torn.sizeBytes);
      await put(after.log, "behind it");
      const again = await reopened(disk, { onFault: "report" });
      expect(again.records).to.deep.equal([...readable, "behind it"]);
    });

    it("cuts nothing off where a page behind cannot be read: what was there is not known", async () => {
      const disk = new MemoryDisk();
      const { log } = await open(disk, { segmentSizeBytesMax: 1024 * 1024 });
      await put(log, "promised");
      const torn = append(log, "torn".padEnd(3 * PAGE_SIZE_BYTES, "n"));
      await log.flush();
      disk.kill();
      const path = segmentPath("/log", 1);
      disk.overwrite(path, disk.contentOf(path).fill(0, 512, 1024));
      disk.spoilPage(path, 2 * PAGE_SIZE_BYTES);

      const after = await open(disk, { onFault: "report", segmentSizeBytesMax: 1024 * 1024 });

      expect(after.records).to.deep.equal(["promised"]);
      expect(after.log.recovery.tornBytes).to.equal(0);
      expect(after.log.recovery.faults.map(({ kind, offset }) => [kind, offset])).to.deep.equal([
        ["damaged", torn.offset],
      ]);
    });

    it("finds every flipped bit in records that were promised", async () => {
      const disk = new MemoryDisk();
      const { log } = await open(disk);
      for (const text of texts(12, 60)) await put(log, text);
      await log.close();
      const path = segmentPath("/log", 1);
      const size = disk.contentOf(path).length;

      for (let offset = 0; offset < size; offset += 1) {
        disk.flipBit(path, offset, offset % 8);
        await expectReason("DATA_CORRUPT", () => open(disk));
        disk.flipBit(path, offset, offset % 8);
      }

      expect((await open(disk)).records).to.deep.equal(texts(12, 60));
    });

    it("finds damage to the very last record after an orderly end, or once the log was idle", async () => {
      for (const how of ["close", "idle"]) {
        const disk = new MemoryDisk();
        const clock = new FakeClock();
        const { log } = await open(disk, { clock, segmentSizeBytesMax: 1024 * 1024 });
        const last = append(log, "the last record");
        await log.commit();
        if (how === "close") await log.close();
        else await clock.advance(IDLE_MARK_DELAY_MS);
        disk.kill();
        disk.flipBit(segmentPath("/log", 1), last.offset + last.sizeBytes - 1);

        await expectReason("DATA_CORRUPT", () => open(disk));
      }
    });

    it("finds that promised records are gone from the end", async () => {
      const disk = new MemoryDisk();
      const { log } = await open(disk);
      for (const text of texts(9)) await put(log, text);
      const first = segmentPath("/log", 1);
      disk.overwrite(first, disk.contentOf(first).subarray(0, -200));

      await expectReason("DATA_CORRUPT", () => reopened(disk));
    });

    it("finds a missing segment in the middle, at the end, and a missing table", async () => {
      for (const lost of [segmentPath("/log", 2), segmentPath("/log", 4), "/log/segments.table"]) {
        const disk = new MemoryDisk();
        const { log } = await open(disk);
        for (const text of texts(20)) await put(log, text);
        expect(log.segmentIds).to.deep.equal([1, 2, 3, 4]);
        disk.crash(new SeededPrng(1));
        disk.lose(lost);

        await expectReason("DATA_CORRUPT", () => open(disk));
      }
    });

    it("finds a segment in the place of another one, and one of another store", async () => {
      const disk = new MemoryDisk();
      const { log } = await open(disk);
      for (const text of texts(20)) await put(log, text);
      const second = disk.contentOf(segmentPath("/log", 2));
      disk.crash(new SeededPrng(1));
      disk.overwrite(segmentPath("/log", 3), second);

      await expectReason("DATA_CORRUPT", () => open(disk));
      await expectReason("DATA_CORRUPT", () => open(disk, { identity: utf8("another store") }));
    });

    it("takes a segment for missing when it has the file of another one, and goes on behind it where damage is reported", async () => {
      for (const victim of [1, 2, 4]) {
        const disk = new MemoryDisk();
        const { log } = await open(disk);
        for (const text of texts(20)) await put(log, text);
        expect(log.segmentIds).to.deep.equal([1, 2, 3, 4]);
        const bytes = disk.contentOf(segmentPath("/log", 3));
        disk.kill();
        disk.replace(segmentPath("/log", victim), bytes);

        const after = await open(disk, { onFault: "report" });
        await put(after.log, "a record behind it");

        const told = after.log.recovery.faults.map(({ kind, segmentId }) => ({ kind, segmentId }));
        expect(told[0]).to.deep.equal({ kind: "missing", segmentId: victim });
        disk.kill();
        const { records } = await open(disk, { onFault: "report" });
        expect(records).to.deep.equal([...after.records, "a record behind it"]);
        expect(records, "none is there twice").to.have.length(new Set(records).size);
      }
    });

    it("refuses a segment of another store in the place of one of its own, whatever is done with damage", async () => {
      const disk = new MemoryDisk();
      const { log } = await open(disk);
      for (const text of texts(20)) await put(log, text);
      const [identity, label] = [utf8("cluster/member/other"), utf8("")];
      disk.kill();
      disk.replace(
        segmentPath("/log", 2),
        encodeSegmentHeader({ segmentId: 2, chainSeed: 0, identity, label }),
      );

      await expectReason("DATA_CORRUPT", () => open(disk, { onFault: "report" }));
    });

    it("removes a segment that a crash left without records, also when it cannot be read", async () => {
      const disk = new MemoryDisk();
      const { log } = await open(disk);
      await put(log, "a record");
      disk.kill();
      const left = segmentPath("/log", 2);
      const header = encodeSegmentHeader({ segmentId: 2, chainSeed: 7, identity: IDENTITY, label: utf8("") });
      for (const isReadable of [true, false]) {
        const file = await disk.open(left, "create");
        await file.write(0, [header]);
        if (!isReadable) disk.spoilPage(left, 0);

        const after = await open(disk);

        expect(after.records).to.deep.equal(["a record"]);
        expect(disk.filesBelow("/log")).to.not.include(left);
        disk.kill();
      }
    });

    it("finds that its table is an old one by records beyond it, whatever is left of them", async () => {
      const damages: ((disk: MemoryDisk, path: string) => void)[] = [
        () => undefined,
        (disk, path) => disk.flipBit(path, 3),
        (disk, path) => disk.spoilPage(path, 0),
      ];
      for (const damage of damages) {
        const disk = new MemoryDisk();
        const { log } = await open(disk);
        await put(log, "a record");
        const table = disk.contentOf("/log/segments.table");
        for (const text of texts(9)) await put(log, text);
        expect(log.segmentIds).to.deep.equal([1, 2]);
        disk.kill();
        disk.overwrite("/log/segments.table", table);
        const newest = segmentPath("/log", 2);
        damage(disk, newest);

        await expectReason("DATA_CORRUPT", () => open(disk));
        expect(disk.filesBelow("/log")).to.include(newest);
      }
    });

    it("finds a record that was written to the wrong place", async () => {
      const disk = new MemoryDisk();
      const { log } = await open(disk, { segmentSizeBytesMax: 1024 * 1024 });
      const locations = texts(6).map((text) => append(log, text));
      await log.commit();
      await put(log, "the end");
      const path = segmentPath("/log", 1);
      const bytes = disk.contentOf(path);
      const [from, to] = [must(locations[1], "1"), must(locations[3], "3")];
      bytes.set(bytes.slice(from.offset, from.offset + from.sizeBytes), to.offset);
      disk.overwrite(path, bytes);

      await expectReason("DATA_CORRUPT", () => reopened(disk));
    });

    it("starts at a cursor without reading what is before it", async () => {
      const disk = new MemoryDisk();
      const { log } = await open(disk);
      for (const text of texts(10)) await put(log, text);
      const from = log.durable;
      for (const text of texts(3)) await put(log, `later ${text}`);

      const after = await reopened(disk, { from });

      expect(after.records).to.deep.equal(texts(3).map((text) => `later ${text}`));
    });
  });

  describe("removeSegments()", () => {
    it("removes whole segments for good and keeps the rest readable", async () => {
      const disk = new MemoryDisk();
      const { log } = await open(disk);
      for (const text of texts(20)) await put(log, text);

      await log.removeSegments([1, 3]);
      const after = await reopened(disk);

      expect(after.log.segmentIds).to.deep.equal([2, 4]);
      expect(after.records.length).to.be.within(6, 14);
      expect(disk.filesBelow("/log")).to.deep.equal([
        segmentPath("/log", 2),
        segmentPath("/log", 4),
        "/log/segments.table",
      ]);
    });
  });

  describe("a full disk", () => {
    it("undoes the write, says NO_SPACE, and goes on when there is space", async () => {
      const disk = new MemoryDisk();
      const { log, fatal } = await open(disk, { segmentSizeBytesMax: 1024 * 1024 });
      await put(log, "before");
      disk.capacityBytes = disk.usedBytes + 120;

      await expectReason("NO_SPACE", () => put(log, "x".repeat(500)));
      await put(log, "small");
      disk.capacityBytes = 1e9;
      await put(log, "after");

      expect((await reopened(disk)).records).to.deep.equal(["before", "small", "after"]);
      expect(fatal).to.deep.equal([]);
    });

    it("is told to everyone whose record was in the write, and to nobody else", async () => {
      const disk = new MemoryDisk();
      const { log } = await open(disk, { segmentSizeBytesMax: 1024 * 1024 });
      disk.failNext("write", /seg$/, "ENOSPC");

      const outcomes = await Promise.allSettled(texts(8).map((text) => put(log, text)));
      await put(log, "after");

      expect(outcomes.map((outcome) => outcome.status)).to.deep.equal(Array(8).fill("rejected"));
      expect((await reopened(disk)).records).to.deep.equal(["after"]);
    });

    it("does no harm when it strikes while a new segment is made, at any step", async () => {
      for (const operation of ["create", "write", "rename"] as const) {
        for (const pattern of [/0002\.seg$/, /segments\.table/]) {
          const disk = new MemoryDisk();
          const { log, fatal } = await open(disk);
          for (const text of texts(5)) await put(log, text);
          disk.failNext(operation, pattern, "ENOSPC");

          const outcomes = await Promise.allSettled(texts(5).map((text) => put(log, `more ${text}`)));
          disk.clearFailures();
          for (const text of texts(5)) await put(log, `later ${text}`);
          const { records } = await reopened(disk);

          const kept = texts(5).filter((_, i) => outcomes[i]?.status === "fulfilled");
          expect(fatal).to.deep.equal([]);
          expect(records).to.deep.equal([
            ...texts(5),
            ...kept.map((text) => `more ${text}`),
            ...texts(5).map((text) => `later ${text}`),
          ]);
        }
      }
    });
  });

  describe("a failing disk", () => {
    it("ends the log for good when a sync fails, and never syncs again", async () => {
      const disk = new MemoryDisk();
      const { log, fatal } = await open(disk);
      disk.failNext("sync", /seg$/, "EIO");

      const outcome = await put(log, "lost").catch((error: unknown) => error);
      const syncs = disk.countOf("sync");
      const next = await put(log, "refused").catch((error: unknown) => error);

      expect(fatal).to.have.length(1);
      expect(outcome).to.equal(fatal[0]);
      expect(next).to.equal(fatal[0]);
      expect(disk.countOf("sync")).to.equal(syncs);
    });

    it("ends the log when a write fails for another reason than space", async () => {
      const disk = new MemoryDisk();
      const { log, fatal } = await open(disk);
      disk.failNext("write", /seg$/, "EIO");

      await put(log, "lost").catch(() => undefined);

      expect(fatal).to.have.length(1);
    });
  });

  describe("a crash before any operation", () => {
    it("loses no committed record and invents none", async function () {
      this.timeout(20_000);
      const steps = await countOperations();
      expect(steps).to.be.greaterThan(60);

      for (let step = 1; step <= steps; step += 1) {
        for (let seed = 1; seed <= 4; seed += 1) await crashAt(step, new SeededPrng(step * 1000 + seed));
      }
    });
  });
});

/** Appends in rounds of one to three records, over several segments, and removes a segment on the way. */
async function workload(disk: MemoryDisk, committed: string[], appended: string[]): Promise<void> {
  const { log } = await open(disk);
  const prng = new SeededPrng(7);
  for (let round = 0; round < 14; round += 1) {
    const batch = Array.from({ length: 1 + prng.below(3) }, (_, i) =>
      `round ${round} record ${i} `.padEnd(20 + prng.below(900), "y"),
    );
    appended.push(...batch);
    await put(log, ...batch);
    committed.push(...batch);
  }
  await log.close();
}

async function countOperations(): Promise<number> {
  const disk = new MemoryDisk();
  let count = 0;
  disk.onOperation = () => {
    count += 1;
    return undefined;
  };
  await workload(disk, [], []);
  return count;
}

async function crashAt(step: number, prng: Prng): Promise<void> {
  const disk = new MemoryDisk();
  const committed: string[] = [];
  const appended: string[] = [];
  let count = 0;
  disk.onOperation = () => {
    count += 1;
    if (count === step) disk.crash(prng);
    return undefined;
  };
  await workload(disk, committed, appended).catch(() => undefined);
  disk.onOperation = undefined;

  const { log, records } = await open(disk);
  await put(log, "after the crash");
  const again = await reopened(disk);

  const where = `seed=${step} of the crash before operation ${step}`;
  expect(records.length, where).to.be.at.least(committed.length);
  expect(records, where).to.deep.equal(appended.slice(0, records.length));
  expect(again.records, where).to.deep.equal([...records, "after the crash"]);
}
