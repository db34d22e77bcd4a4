/**
 * Goal: the space of what was removed comes back, bounded and without touching what lives; nothing that was removed comes back
 * with it; damage is not carried along. Method: a store on a disk in memory with small segments; the index is lost and rebuilt
 * after compaction, because then the records alone say what there is.
 */
import { expect } from "chai";
import {
  COMPACTION_BYTES_IN_FLIGHT_MAX,
  COMPACTION_DEAD_SHARE_MIN,
  COMPACTION_LOOK_AGAIN_COUNT,
  COMPACTION_PACE_BYTES_MIN,
} from "../../../src/chunks/compaction.ts";
import type { DiskChunkStore } from "../../../src/chunks/disk-chunk-store.ts";
import type { ExtentKey } from "../../../src/drive/content.ts";
import { hasReason } from "../../../src/drive/errors.ts";
import { CHUNK_SIZE_BYTES } from "../../../src/drive/limits.ts";
import { sha256 } from "../../../src/std/digest.ts";
import { SeededPrng } from "../../../src/std/prng.ts";
import { extentKey, TEST_ORIGIN, testBytes } from "../../contract/chunk-store.contract.ts";
import { expectReason } from "../../support/expect-reason.ts";
import { StoreFixture } from "./store-fixture.ts";

const SEGMENT_BYTES = 200_000;
const SIZE_BYTES = 10_000;
const free = (): Promise<void> => Promise.resolve();

async function putSmall(
  store: DiskChunkStore,
  contentId: number,
  sizeBytes = SIZE_BYTES,
): Promise<ExtentKey> {
  const extent = extentKey(contentId);
  const bytes = testBytes(contentId, sizeBytes);
  await store.putSmall({ extent, bytes, digest: sha256(bytes), origin: TEST_ORIGIN });
  return extent;
}

async function putChunked(
  store: DiskChunkStore,
  contentId: number,
  sizeBytes = SIZE_BYTES,
): Promise<ExtentKey> {
  const extent = extentKey(contentId);
  const bytes = testBytes(contentId, sizeBytes);
  await store.openExtent(extent, sizeBytes);
  await store.writeChunk(extent, 0, bytes, sha256(bytes));
  await store.sealExtent({ extent, sizeBytes, origin: TEST_ORIGIN });
  return extent;
}

async function compactAll(store: DiskChunkStore): Promise<number> {
  let freedBytes = 0;
  for (let run = 0; run < 200; run += 1) {
    const result = await store.compact(free);
    if (result === undefined) return freedBytes;
    freedBytes += result.freedBytes;
  }
  throw new Error("compaction does not come to an end");
}

async function expectWhole(store: DiskChunkStore, contentId: number, sizeBytes = SIZE_BYTES): Promise<void> {
  const read = await store.readChunk(extentKey(contentId), 0, 0, sizeBytes);
  expect(Buffer.from(read).equals(testBytes(contentId, sizeBytes)), `content ${contentId}`).to.equal(true);
  await store.verifyExtent(extentKey(contentId));
}

const smallSegments = (): StoreFixture => new StoreFixture({ segmentSizeBytesMax: SEGMENT_BYTES });

describe("compaction", () => {
  for (const [how, put] of [
    ["small", putSmall],
    ["with chunks in the log", putChunked],
  ] as const) {
    it(`gives back the space of removed extents, ${how}, and keeps the others over a rebuild`, async () => {
      const fixture = smallSegments();
      const store = await fixture.open();
      for (let i = 1; i <= 100; i += 1) await put(store, i);
      for (let i = 1; i <= 100; i += 1) if (i % 3 !== 0) await store.removeExtent(extentKey(i));
      const before = store.stats().segmentBytes;

      const freed = await compactAll(store);

      expect(freed).to.be.greaterThan(400_000);
      expect(store.stats().segmentBytes).to.be.lessThan(before - 200_000);
      await store.close();
      for (const isLost of [false, true]) {
        if (isLost) await fixture.loseIndex();
        const after = await fixture.open();
        expect(await after.listExtents(undefined, 1000)).to.have.length(33);
        for (let i = 3; i <= 100; i += 3) await expectWhole(after, i);
        await after.close();
      }
      expect(fixture.damage).to.deep.equal([]);
      expect(fixture.faults).to.deep.equal([]);
    });
  }

  it("moves small extents by the hundred: they share the syncs of the disk", async function () {
    this.timeout(30_000);
    const fixture = new StoreFixture({ segmentSizeBytesMax: 2_000_000 });
    const store = await fixture.open();
    const count = 1500;
    for (let i = 1; i <= count; i += 1) await putSmall(store, i, 1000);
    await Promise.all(
      Array.from({ length: count }, (_, i) =>
        i % 2 === 0 ? store.removeExtent(extentKey(i + 1)) : Promise.resolve(),
      ),
    );
    // The rest of the log is closed by writing more than a segment holds.
    for (let i = 1; i <= 3; i += 1) await putSmall(store, count + i, 900_000);
    const before = store.syncCount;

    expect(await compactAll(store)).to.be.greaterThan(1_000_000);

    const movedCount = count / 2;
    expect(store.syncCount - before).to.be.below(movedCount / 30);
    for (let i = 2; i <= count; i += 2) await expectWhole(store, i, 1000);
    await store.close();
  });

  it("counts a small extent for what it costs, so that it yields to users by the file and not by the byte", async () => {
    const fixture = smallSegments();
    const store = await fixture.open();
    const sizes = [100, COMPACTION_PACE_BYTES_MIN - 1, COMPACTION_PACE_BYTES_MIN + 1];
    for (const [at, sizeBytes] of sizes.entries()) await putSmall(store, at + 1, sizeBytes);
    await putSmall(store, 9, SEGMENT_BYTES / 2);
    await putSmall(store, 10, SEGMENT_BYTES);
    await store.removeExtent(extentKey(9));
    const taken: number[] = [];

    await store.compact((sizeBytes) => {
      taken.push(sizeBytes);
      return Promise.resolve();
    });

    const least = COMPACTION_PACE_BYTES_MIN;
    expect(taken.sort((a, b) => a - b)).to.deep.equal([least, least, least + 1]);
    await store.close();
  });

  it("moves large extents some at a time: it holds no more of them in memory than its bound", async function () {
    this.timeout(30_000);
    const fixture = new StoreFixture({ segmentSizeBytesMax: 33_000_000 });
    const store = await fixture.open();
    const chunkBytes = CHUNK_SIZE_BYTES;
    for (let i = 1; i <= 36; i += 1) await putSmall(store, i, chunkBytes);
    for (let i = 1; i <= 36; i += 1) if (i % 2 === 0) await store.removeExtent(extentKey(i));
    let waiting = 0;
    let waitingMax = 0;
    const beforeBytes = async (sizeBytes: number): Promise<void> => {
      expect(sizeBytes).to.equal(chunkBytes);
      waiting += 1;
      waitingMax = Math.max(waitingMax, waiting);
      for (let turn = 0; turn < 100; turn += 1) await Promise.resolve();
      waiting -= 1;
    };

    const result = await store.compact(beforeBytes);

    expect(result?.freedBytes).to.be.greaterThan(15_000_000);
    expect(waitingMax).to.equal(COMPACTION_BYTES_IN_FLIGHT_MAX / chunkBytes);
    for (let i = 1; i <= 36; i += 2) await expectWhole(store, i, chunkBytes);
    await store.close();
  });

  it("bounds the garbage by its share of the log, whatever is written and removed", async function () {
    this.timeout(30_000);
    const fixture = smallSegments();
    const store = await fixture.open();
    const prng = new SeededPrng(5);
    const live = new Map<number, number>();
    let next = 1;
    let worst = 0;
    for (let step = 0; step < 1500; step += 1) {
      if (live.size < 60 || prng.below(2) === 0) {
        const sizeBytes = 1 + prng.below(8000);
        await putSmall(store, next, sizeBytes);
        live.set(next, sizeBytes);
        next += 1;
      } else {
        const [victim = 0] = [...live.keys()].slice(prng.below(live.size));
        await store.removeExtent(extentKey(victim));
        live.delete(victim);
      }
      if (step % 25 !== 24) continue;
      await compactAll(store);
      const { liveBytes, segmentBytes } = store.stats();
      worst = Math.max(worst, segmentBytes - liveBytes - 2 * SEGMENT_BYTES);
      // Dead bytes of each closed segment stay below the share; the head and the heads of records come on top.
      expect(segmentBytes * (1 - COMPACTION_DEAD_SHARE_MIN - 0.05)).to.be.at.most(
        liveBytes + 2 * SEGMENT_BYTES,
      );
    }
    expect(worst).to.be.greaterThan(-2 * SEGMENT_BYTES);
    for (const [contentId, sizeBytes] of live) await expectWhole(store, contentId, sizeBytes);
  });

  it("does not bring back what was removed, although tombstones were moved", async () => {
    const fixture = smallSegments();
    const store = await fixture.open();
    // The first segment lives on, so every tombstone behind it counts.
    for (let i = 1; i <= 15; i += 1) await putSmall(store, i);
    for (let i = 16; i <= 36; i += 1) await putSmall(store, i);
    for (let i = 10; i <= 36; i += 1) await store.removeExtent(extentKey(i));
    for (let i = 61; i <= 100; i += 1) await putSmall(store, i);
    for (let i = 61; i <= 100; i += 1) await store.removeExtent(extentKey(i));
    for (let i = 101; i <= 120; i += 1) await putSmall(store, i);
    await compactAll(store);
    await store.close();

    await fixture.loseIndex();
    const after = await fixture.open();

    const ids = (await after.listExtents(undefined, 1000)).map(({ contentId }) => contentId);
    const wanted = [...Array(9).keys()].map((i) => i + 1).concat([...Array(20).keys()].map((i) => i + 101));
    expect(ids).to.deep.equal(wanted);
  });

  it("keeps an extent that was removed and came back, although its tombstone was in the segment that goes", async () => {
    const fixture = smallSegments();
    const store = await fixture.open();
    for (let i = 1; i <= 15; i += 1) await putSmall(store, i);
    await putChunked(store, 500);
    for (let i = 16; i <= 32; i += 1) await putSmall(store, i);
    await store.removeExtent(extentKey(500));
    for (let i = 33; i <= 45; i += 1) await putSmall(store, i);
    await putChunked(store, 500);
    for (let i = 46; i <= 70; i += 1) await putSmall(store, i);
    for (let i = 16; i <= 45; i += 1) await store.removeExtent(extentKey(i));
    expect(await compactAll(store)).to.be.greaterThan(0);
    await store.close();

    await fixture.loseIndex();
    const after = await fixture.open();
    await expectWhole(after, 500);
    expect(fixture.damage).to.deep.equal([]);
  });

  it("never carries damage along: the segment stays until the extent is repaired", async () => {
    const fixture = smallSegments();
    const store = await fixture.open();
    for (let i = 1; i <= 40; i += 1) await putSmall(store, i);
    for (let i = 2; i <= 40; i += 1) if (i !== 15) await store.removeExtent(extentKey(i));
    fixture.disk.flipBit("/chunks/log/0000000001.seg", 5000);

    await compactAll(store);
    await expectReason("CHUNK_CORRUPT", () => store.verifyExtent(extentKey(1)));
    expect((await store.extentState(extentKey(1))).kind).to.equal("quarantined");
    await expectWhole(store, 15);
  });

  it("goes on with other segments when a page of one cannot be read", async () => {
    const fixture = smallSegments();
    const store = await fixture.open();
    for (let i = 1; i <= 60; i += 1) await putSmall(store, i);
    const [first] = fixture.disk.filesBelow("/chunks/log").filter((path) => path.endsWith(".seg"));
    for (let i = 1; i <= 60; i += 1) if (i % 6 !== 0) await store.removeExtent(extentKey(i));
    fixture.disk.spoilPage(first ?? "", 50_000);

    const freedBytes = await compactAll(store);

    expect(freedBytes).to.be.greaterThan(SEGMENT_BYTES);
    expect(fixture.fatal).to.deep.equal([]);
  });

  it("ends with the space that lives after a file was cut short and its extents were repaired", async () => {
    const fixture = smallSegments();
    const store = await fixture.open();
    for (let i = 1; i <= 36; i += 1) await putSmall(store, i);
    await store.close();
    const path = "/chunks/log/0000000001.seg";
    fixture.disk.overwrite(path, fixture.disk.contentOf(path).slice(0, 90_000));

    const cut = await fixture.open();
    const lost: number[] = [];
    for (let i = 1; i <= 36; i += 1) {
      if ((await cut.extentState(extentKey(i))).kind === "quarantined") lost.push(i);
    }
    expect(lost.length).to.be.within(5, 15);
    // Not repaired yet: the segment stays, and with it what is still good in it.
    await compactAll(cut);
    await expectWhole(cut, 1);
    for (const i of lost) {
      await cut.removeExtent(extentKey(i));
      await putSmall(cut, i);
    }
    const grownBytes = cut.stats().segmentBytes;
    await compactAll(cut);

    expect(cut.stats().segmentBytes).to.be.lessThan(grownBytes);
    const { liveBytes, segmentBytes } = cut.stats();
    expect(segmentBytes).to.be.at.most(liveBytes / (1 - COMPACTION_DEAD_SHARE_MIN) + 2 * SEGMENT_BYTES);
    await cut.close();
    fixture.faults.length = 0;
    const after = await fixture.open();
    expect(fixture.faults).to.deep.equal([]);
    for (let i = 1; i <= 36; i += 1) await expectWhole(after, i);
  });

  it("leaves the segment of an extent that is being written, and takes it once that is sealed", async () => {
    const fixture = smallSegments();
    const store = await fixture.open();
    const bytes = testBytes(900, SIZE_BYTES);
    await store.openExtent(extentKey(900), SIZE_BYTES);
    await store.writeChunk(extentKey(900), 0, bytes, sha256(bytes));
    for (let i = 1; i <= 40; i += 1) await putSmall(store, i);
    for (let i = 1; i <= 40; i += 1) await store.removeExtent(extentKey(i));
    await compactAll(store);
    await store.sealExtent({ extent: extentKey(900), sizeBytes: SIZE_BYTES, origin: TEST_ORIGIN });
    let freedBytes = 0;
    for (let i = 0; i <= COMPACTION_LOOK_AGAIN_COUNT + 2; i += 1) {
      freedBytes += (await store.compact(free))?.freedBytes ?? 0;
    }
    expect(freedBytes).to.be.greaterThan(0);
    await expectWhole(store, 900);
  });

  it("has a reserve of its own: a store that refuses writes can still be compacted, and takes writes again", async function () {
    this.timeout(60_000);
    const fixture = new StoreFixture({
      segmentSizeBytesMax: SEGMENT_BYTES,
      reserveBytes: 100_000,
      compactionReserveBytes: 2 * SEGMENT_BYTES,
    });
    fixture.disk.capacityBytes = 10_000_000;
    const store = await fixture.open();
    let count = 0;
    for (let isFull = false; !isFull;) {
      count += 1;
      await store.refreshSpace();
      isFull = await putSmall(store, count).then(
        () => false,
        (error: unknown) => hasReason(error, "NO_SPACE"),
      );
    }
    for (let i = 1; i < count - 1; i += 1) if (i % 10 !== 0) await store.removeExtent(extentKey(i));

    await compactAll(store);
    await store.refreshSpace();

    expect(store.stats().writesRefused).to.equal(false);
    await expectWhole(store, 10);
  });

  it("loses nothing to a power failure at any step", async function () {
    this.timeout(60_000);
    for (let step = 1; step <= 120; step += 3) {
      const fixture = smallSegments();
      const store = await fixture.open();
      for (let i = 1; i <= 45; i += 1) await (i % 2 === 0 ? putSmall : putChunked)(store, i);
      for (let i = 1; i <= 45; i += 1) if (i % 3 !== 0) await store.removeExtent(extentKey(i));
      let left = step;
      fixture.disk.onOperation = () => {
        left -= 1;
        if (left === 0) fixture.crash(new SeededPrng(step));
        return undefined;
      };
      await compactAll(store).catch((error: unknown) => {
        if (left > 0) throw error;
      });
      fixture.disk.onOperation = undefined;
      if (left > 0) fixture.crash(new SeededPrng(step));
      if (step % 2 === 0) await fixture.loseIndex();

      const after = await fixture.open();

      expect(await after.listExtents(undefined, 1000), `step ${step}`).to.have.length(15);
      for (let i = 3; i <= 45; i += 3) await expectWhole(after, i);
      await compactAll(after);
      for (let i = 3; i <= 45; i += 3) await expectWhole(after, i);
      expect(fixture.damage, `step ${step}`).to.deep.equal([]);
    }
  });
});
