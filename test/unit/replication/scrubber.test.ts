/**
 * Goal: every copy is read whole again and again, damage is in the tree before the pass that found it, the place is kept over
 * restarts, and users go first. Method: whole data planes over the real state machine under the test's clock; the file of the
 * place on a disk in memory.
 */
import { expect } from "chai";
import { BackgroundPace, PACE_WAIT_MS_MAX } from "../../../src/replication/background-pace.ts";
import { ScrubProgressFile } from "../../../src/replication/scrub-progress.ts";
import {
  SCRUB_BYTES_PER_SECOND_MIN,
  SCRUB_FIRST_WAIT_MS,
  SCRUB_PASS_MS,
  Scrubber,
  type ScrubberOptions,
} from "../../../src/replication/scrubber.ts";
import { CHUNK_SIZE_BYTES } from "../../../src/drive/limits.ts";
import { dropList, storeOf } from "../../../src/metadata/view.ts";
import { CopyLoops } from "../../support/copy-loops.ts";
import { expectReason } from "../../support/expect-reason.ts";
import { FakeClock } from "../../support/fake-clock.ts";
import { MemoryDisk } from "../../support/memory-disk.ts";
import { bytesOf, patternBytes, streamOf, TestDrives, uploadOf } from "../../support/use-drives.ts";

async function scrubOf(
  drives: TestDrives,
  disk: MemoryDisk,
  more: Partial<ScrubberOptions> = {},
): Promise<Scrubber> {
  const { clock, metadata } = drives.node(2).plane;
  const process = disk.process();
  await process.makeDirectory("/chunks");
  const progress = new ScrubProgressFile(process, "/chunks");
  return new Scrubber({
    clock,
    metadata,
    store: drives.replicas.store(2),
    progress,
    isBusy: () => false,
    ...more,
  });
}

async function put(drives: TestDrives, path: string, sizeBytes = 1000): Promise<number> {
  const { entry } = await drives.drive().putFile(uploadOf(path), streamOf(patternBytes(sizeBytes)));
  await drives.node(1).plane.chores.idle();
  return entry.contentId;
}

const passOf = (drives: TestDrives): number => storeOf(drives.tree.store, 2).scrubPass;

function advanceClusterTime(drives: TestDrives, elapsedMs: number): void {
  for (let left = elapsedMs; left > 0; left -= 10_000) {
    drives.tree.apply({ kind: "advance-clock", elapsedMs: Math.min(10_000, left) });
  }
}

describe("Scrubber", function () {
  // Two of these pass days of virtual time.
  this.timeout(20_000);

  it("begins by itself, finds damage that nobody read, and reports it before the pass", async () => {
    const drives = new TestDrives(3);
    advanceClusterTime(drives, 1000);
    const contentId = await put(drives, "/bad");
    await put(drives, "/good");
    drives.replicas.store(2).rot({ contentId, extentIndex: 0 }, 0);
    const scrubber = await scrubOf(drives, new MemoryDisk());

    scrubber.start();
    await drives.clock.advance(SCRUB_FIRST_WAIT_MS - 10_000);
    expect(passOf(drives)).to.equal(0);
    await drives.clock.advance(20_000);
    await scrubber.stop();

    expect(storeOf(drives.tree.store, 2)).to.include({
      scrubPass: 1,
      scrubExtentCount: 2,
      scrubDamagedCount: 1,
    });
    expect((await drives.drive().durability({ path: "/bad" })).nodeIds).to.deep.equal(["node-1", "node-3"]);
    expect((await drives.drive().durability({ path: "/good" })).verifiedCount).to.equal(3);
    const kinds = drives.tree.applied.map(({ body }) => body.kind);
    expect(kinds.indexOf("report-replica")).to.be.lessThan(kinds.indexOf("report-scrub"));
  });

  it("has the files of the store looked for before it reads what is open", async () => {
    const drives = new TestDrives(3);
    await put(drives, "/f");
    const passes: number[] = [];
    const checkFiles = async (): Promise<void> => {
      passes.push(passOf(drives));
    };
    const scrubber = await scrubOf(drives, new MemoryDisk(), { checkFiles });

    scrubber.start();
    await drives.clock.advance(SCRUB_FIRST_WAIT_MS + 10_000);
    await scrubber.stop();

    expect(passes).to.deep.equal([0]);
    expect(passOf(drives)).to.equal(1);
  });

  it("reads what is quarantined again, and lets readers have what has come back", async () => {
    const drives = new TestDrives(3);
    advanceClusterTime(drives, 1000);
    const back = { contentId: await put(drives, "/back"), extentIndex: 0 };
    const bad = { contentId: await put(drives, "/bad"), extentIndex: 0 };
    const store = drives.replicas.store(2);
    for (const extent of [back, bad]) store.damage(extent, 0);
    store.restore(back, 0);
    await expectReason("CHUNK_CORRUPT", () => store.readChunk(back, 0, 0, 1));
    const scrubber = await scrubOf(drives, new MemoryDisk());

    scrubber.start();
    await drives.clock.advance(SCRUB_FIRST_WAIT_MS + 10_000);
    await scrubber.stop();

    expect((await store.extentState(back)).kind).to.equal("sealed");
    expect(await store.readChunk(back, 0, 0, 1000)).to.deep.equal(patternBytes(1000));
    expect((await store.extentState(bad)).kind).to.equal("quarantined");
    // What is still bad was not read whole.
    expect(storeOf(drives.tree.store, 2)).to.include({ scrubExtentCount: 1, scrubDamagedCount: 1 });
    expect(drives.tree.count("report-replica")).to.equal(1);
    expect((await drives.drive().durability({ path: "/bad" })).nodeIds).to.deep.equal(["node-1", "node-3"]);
  });

  it("brings a file back of which every copy was found damaged, when one was asked for and one copy reads well", async () => {
    const drives = new TestDrives(3);
    advanceClusterTime(drives, 1000);
    const extent = { contentId: await put(drives, "/f"), extentIndex: 0 };
    for (const memberId of [1, 2, 3]) {
      drives.replicas.store(memberId).damage(extent, 0);
      drives.tree.apply({ kind: "report-replica", ...extent, memberId, finding: "corrupt" });
    }
    const download = await drives.drive().openDownload({ path: "/f" });
    drives.replicas.store(2).restore(extent, 0);
    await expectReason("CHUNK_CORRUPT", () => drives.replicas.store(2).readChunk(extent, 0, 0, 1));
    const scrubber = await scrubOf(drives, new MemoryDisk());
    scrubber.start();
    await drives.drive().startScrub();
    advanceClusterTime(drives, 1000);
    await drives.clock.advance(20_000);
    await scrubber.stop();
    expect(passOf(drives)).to.equal(1);

    const bytes = await bytesOf(download.read(0, 1000));
    const loops = new CopyLoops(drives, [1, 2, 3]);
    await loops.pass(20_000);
    await loops.stop();

    expect(bytes.equals(patternBytes(1000))).to.equal(true);
    expect((await drives.drive().durability({ path: "/f" })).verifiedCount).to.equal(3);
  });

  it("does not ask for a copy back that was dropped because three others are verified", async () => {
    const drives = new TestDrives(4);
    advanceClusterTime(drives, 1000);
    drives.kill(4);
    const extent = { contentId: await put(drives, "/f"), extentIndex: 0 };
    drives.revive(4);
    drives.replicas.store(2).damage(extent, 0);
    drives.tree.apply({ kind: "report-replica", ...extent, memberId: 2, finding: "corrupt" });
    drives.tree.apply({ kind: "assign-replica", ...extent, memberId: 4, replacesMemberId: 2 });
    const makers = new CopyLoops(drives, [4]);
    await makers.pass(10_000);
    await makers.stop();
    drives.replicas.store(2).restore(extent, 0);

    const scrubber = await scrubOf(drives, new MemoryDisk());
    scrubber.start();
    await drives.clock.advance(SCRUB_FIRST_WAIT_MS + 10_000);
    await scrubber.stop();
    const loops = new CopyLoops(drives, [1, 2, 3, 4]);
    await loops.pass(10_000);
    await loops.stop();

    expect(passOf(drives)).to.equal(1);
    const { nodeIds } = await drives.drive().durability({ path: "/f" });
    expect(nodeIds).to.deep.equal(["node-1", "node-3", "node-4"]);
    expect(dropList(drives.tree.store, 2, 10)).to.deep.equal([extent]);
  });

  it("reports no pass while its findings cannot be reported", async () => {
    const drives = new TestDrives(3);
    const contentId = await put(drives, "/f");
    drives.replicas.store(2).rot({ contentId, extentIndex: 0 }, 0);
    drives.tree.onPropose = (body) => {
      if (body.kind === "report-replica") drives.tree.unavailable = true;
    };
    const scrubber = await scrubOf(drives, new MemoryDisk());
    scrubber.start();
    await drives.clock.advance(SCRUB_FIRST_WAIT_MS + 30_000);
    drives.tree.onPropose = undefined;
    drives.tree.unavailable = false;
    expect(passOf(drives)).to.equal(0);

    await drives.clock.advance(30_000);
    await scrubber.stop();

    expect(passOf(drives)).to.equal(1);
    expect(drives.tree.count("report-replica")).to.be.greaterThan(0);
  });

  it("begins at once when somebody asks, and once only", async () => {
    const drives = new TestDrives(3);
    await put(drives, "/f");
    advanceClusterTime(drives, 1000);
    const scrubber = await scrubOf(drives, new MemoryDisk());
    scrubber.start();
    await drives.clock.advance(SCRUB_FIRST_WAIT_MS + 10_000);
    expect(passOf(drives)).to.equal(1);
    await drives.drive().startScrub();
    advanceClusterTime(drives, 1000);
    await drives.clock.advance(20_000);
    expect(passOf(drives)).to.equal(2);
    advanceClusterTime(drives, 60_000);
    await drives.clock.advance(120_000);
    await scrubber.stop();
    expect(passOf(drives)).to.equal(2);
  });

  it("begins the next pass when the time for one has gone by", async () => {
    const drives = new TestDrives(3);
    await put(drives, "/f");
    advanceClusterTime(drives, 1000);
    const scrubber = await scrubOf(drives, new MemoryDisk());
    scrubber.start();
    await drives.clock.advance(SCRUB_FIRST_WAIT_MS + 20_000);
    expect(passOf(drives)).to.equal(1);
    advanceClusterTime(drives, SCRUB_PASS_MS);
    await drives.clock.advance(20_000);
    await scrubber.stop();
    expect(passOf(drives)).to.equal(2);
  });

  it("goes on after a restart where it was, and begins anew when the place is lost", async () => {
    for (const isKept of [true, false]) {
      const drives = new TestDrives(3);
      for (let i = 0; i < 40; i += 1) await put(drives, `/f${i}`, CHUNK_SIZE_BYTES);
      const disk = new MemoryDisk();
      const first = await scrubOf(drives, disk);
      const read: number[] = [];
      const store = drives.replicas.store(2);
      const verify = store.verifyExtent.bind(store);
      store.verifyExtent = (extent, beforeChunk) => {
        read.push(extent.contentId);
        return verify(extent, beforeChunk);
      };
      first.start();
      await drives.clock.advance(SCRUB_FIRST_WAIT_MS + 2500);
      await first.stop();
      const before = read.length;
      expect(before).to.be.within(3, 39);
      expect(passOf(drives)).to.equal(0);
      if (!isKept) await disk.process().remove("/chunks/scrub");

      const second = await scrubOf(drives, disk);
      second.start();
      await drives.clock.advance(SCRUB_FIRST_WAIT_MS + 30_000);
      await second.stop();

      expect(passOf(drives)).to.equal(1);
      // The extent in hand at the stop is read again.
      expect(read.length - before).to.be.within(isKept ? 40 - before : 40, isKept ? 41 - before : 40);
    }
  });

  it("goes on when its place cannot be kept", async () => {
    const drives = new TestDrives(3);
    await put(drives, "/f");
    const disk = new MemoryDisk();
    const scrubber = await scrubOf(drives, disk);
    disk.failNext("write", /scrub/, "ENOSPC");
    scrubber.start();
    await drives.clock.advance(SCRUB_FIRST_WAIT_MS + 20_000);
    await scrubber.stop();
    expect(passOf(drives)).to.equal(1);
  });

  it("keeps to the pace that a pass needs, and reads faster only when asked and nobody is busy", async () => {
    // More than it may read in this time at its pace.
    const seconds = 2;
    const fileCount = 40;
    for (const [asked, busy] of [
      [false, false],
      [true, true],
      [true, false],
    ] as const) {
      const drives = new TestDrives(3);
      for (let i = 0; i < fileCount; i += 1) await put(drives, `/f${i}`, CHUNK_SIZE_BYTES);
      const scrubber = await scrubOf(drives, new MemoryDisk(), { isBusy: () => busy });
      if (asked) await drives.drive().startScrub();
      advanceClusterTime(drives, 1000);
      scrubber.start();
      await drives.clock.advance((asked ? 0 : SCRUB_FIRST_WAIT_MS) + seconds * 1000);
      const done = (scrubber.progress() ?? 1) * fileCount * CHUNK_SIZE_BYTES;
      await scrubber.stop();
      if (asked && !busy) expect(done).to.equal(fileCount * CHUNK_SIZE_BYTES);
      else expect(done).to.be.at.most((seconds + 1) * SCRUB_BYTES_PER_SECOND_MIN);
    }
  });
});

describe("BackgroundPace", () => {
  it("gives turns at its rate, at a trickle while users are busy, and never waits longer than its bound", async () => {
    const clock = new FakeClock();
    let busy = false;
    const pace = new BackgroundPace({
      clock,
      bytesPerSecond: () => 1000,
      busyBytesPerSecond: 100,
      isBusy: () => busy,
    });
    let turns = 0;
    const run = (async () => {
      for (let i = 0; i < 20; i += 1) {
        await pace.take(500);
        turns += 1;
      }
    })();
    await clock.advance(2000);
    expect(turns).to.equal(5);
    busy = true;
    await clock.advance(10_000);
    expect(turns).to.be.within(6, 8);
    busy = false;
    await clock.advance(PACE_WAIT_MS_MAX + 8000);
    await run;
    expect(turns).to.equal(20);
  });

  it("ends a wait when it is told to stop", async () => {
    const clock = new FakeClock();
    const pace = new BackgroundPace({
      clock,
      bytesPerSecond: () => 1,
      busyBytesPerSecond: 1,
      isBusy: () => false,
    });
    const stop = new AbortController();
    await pace.take(1);
    const waiting = pace.take(1, stop.signal).then(
      () => "went on",
      () => "stopped",
    );
    stop.abort();
    expect(await waiting).to.equal("stopped");
  });
});
