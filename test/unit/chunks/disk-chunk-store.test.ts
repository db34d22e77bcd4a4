/**
 * Goal: what the disk chunk store promises beyond the contract of the port: restarts, power failures, damage, full and
 * failing disks, the index, reclamation, and what operations cost.
 */
import { expect } from "chai";
import { ChunkIndex, indexesEqual } from "../../../src/chunks/chunk-index.ts";
import type { ChunkStoreStats } from "../../../src/chunks/chunk-store.ts";
import type { DiskChunkStore } from "../../../src/chunks/disk-chunk-store.ts";
import type { ExtentKey } from "../../../src/drive/content.ts";
import { hasReason } from "../../../src/drive/errors.ts";
import { CHUNK_SIZE_BYTES, DEDICATED_SEGMENT_SIZE_BYTES_MIN } from "../../../src/drive/limits.ts";
import { DigestMemory, sha256, type Digester } from "../../../src/std/digest.ts";
import { StoreFullError, type OrderedSnapshot } from "../../../src/std/ordered-store.ts";
import { SeededPrng } from "../../../src/std/prng.ts";
import { IDLE_MARK_DELAY_MS } from "../../../src/segments/segment-appender.ts";
import { extentKey, TEST_ORIGIN, testBytes, writeAll } from "../../contract/chunk-store.contract.ts";
import { expectReason } from "../../support/expect-reason.ts";
import { settle } from "../../support/fake-clock.ts";
import { StoreFixture } from "./store-fixture.ts";

async function putSmall(store: DiskChunkStore, contentId: number, sizeBytes = 4096): Promise<ExtentKey> {
  const bytes = testBytes(contentId, sizeBytes);
  const extent = extentKey(contentId);
  await store.putSmall({ extent, bytes, digest: sha256(bytes), origin: TEST_ORIGIN });
  return extent;
}

async function putLarge(
  store: DiskChunkStore,
  contentId: number,
  where: "shared" | "own",
  sizeBytes = CHUNK_SIZE_BYTES + 70_000,
): Promise<ExtentKey> {
  const extent = extentKey(contentId);
  await store.openExtent(extent, where === "own" ? undefined : sizeBytes);
  await writeAll(store, extent, testBytes(contentId, sizeBytes));
  await store.sealExtent({ extent, sizeBytes, origin: TEST_ORIGIN });
  return extent;
}

async function reopened(fixture: StoreFixture, seed = 1): Promise<DiskChunkStore> {
  fixture.crash(new SeededPrng(seed));
  return await fixture.open();
}

/** The index of a store that was closed, one that is made anew from the segments, and what the store says then. */
async function keptAndRebuilt(
  fixture: StoreFixture,
): Promise<[OrderedSnapshot, OrderedSnapshot, ChunkStoreStats]> {
  await fixture.closeIndex();
  const keptStore = await fixture.stores.open("chunks");
  const kept = keptStore.snapshot();
  await keptStore.close();
  await fixture.loseIndex();
  const again = await fixture.open();
  const stats = again.stats();
  await again.close();
  await fixture.closeIndex();
  return [kept, (await fixture.stores.open("chunks")).snapshot(), stats];
}

const OWN_PATH = "/chunks/extents/0000000001.seg";
const LOG_PATH = "/chunks/log/0000000001.seg";

describe("DiskChunkStore", function () {
  this.timeout(10_000);

  it("hashes what comes in, but for arrays whose digest this process computed itself", async () => {
    let hashed = 0;
    const digester: Digester = {
      sha256: (bytes) => {
        hashed += 1;
        return Promise.resolve(sha256(bytes));
      },
    };
    const memory = new DigestMemory();
    const store = await new StoreFixture({ digester, hashed: memory }).open();
    const bytes = testBytes(1, 100);
    const digest = sha256(bytes);
    const put = (contentId: number, of: Uint8Array, stated = digest) =>
      store.putSmall({ extent: extentKey(contentId), bytes: of, digest: stated, origin: TEST_ORIGIN });
    memory.remember(bytes, digest);

    await put(1, bytes);
    await store.writeChunk(extentKey(2), 0, bytes, digest);
    expect(hashed).to.equal(0);

    await put(3, Uint8Array.from(bytes));
    expect(hashed).to.equal(1);
    await expectReason("DIGEST_MISMATCH", () => put(4, bytes, sha256(testBytes(2, 100))));
  });

  describe("after power failed", () => {
    it("has every sealed extent, under many outcomes", async () => {
      for (let seed = 1; seed <= 20; seed += 1) {
        const fixture = new StoreFixture();
        const store = await fixture.open();
        const extents = [
          await putSmall(store, 1),
          await putLarge(store, 2, "shared"),
          await putLarge(store, 3, "own"),
        ];

        const after = await reopened(fixture, seed);

        for (const extent of extents) {
          expect((await after.verifyExtent(extent)).storeIncarnation).to.equal(store.storeIncarnation);
        }
      }
    });

    it("keeps chunks of open extents that reached the disk, and seals them after checking their digests", async () => {
      for (const expected of [2_000_000, undefined]) {
        let hashed = 0;
        const digester: Digester = {
          sha256: (bytes) => {
            hashed += 1;
            return Promise.resolve(sha256(bytes));
          },
        };
        const fixture = new StoreFixture({ digester });
        const store = await fixture.open();
        const bytes = testBytes(1, CHUNK_SIZE_BYTES + 10);
        const seal = { extent: extentKey(1), sizeBytes: bytes.length, origin: TEST_ORIGIN };
        await store.openExtent(extentKey(1), expected);
        await writeAll(store, extentKey(1), bytes);
        await store.close();

        const after = await fixture.open();
        const state = await after.extentState(extentKey(1));
        hashed = 0;
        await after.sealExtent(seal);
        const again = await reopened(fixture, 3);

        expect(state).to.deep.equal({ kind: "open", chunkIndexes: [0, 1] });
        expect(hashed).to.equal(2);
        expect((await again.verifyExtent(extentKey(1))).sizeBytes).to.equal(bytes.length);
      }
    });

    it("goes on writing to an extent of a former run", async () => {
      for (const expected of [3_000_000, undefined]) {
        const fixture = new StoreFixture();
        const store = await fixture.open();
        const bytes = testBytes(1, 2 * CHUNK_SIZE_BYTES + 10);
        const first = bytes.subarray(0, CHUNK_SIZE_BYTES);
        await store.openExtent(extentKey(1), expected);
        await store.writeChunk(extentKey(1), 0, first, sha256(first));
        await store.close();

        const after = await fixture.open();
        await writeAll(after, extentKey(1), bytes);
        await after.sealExtent({ extent: extentKey(1), sizeBytes: bytes.length, origin: TEST_ORIGIN });

        expect((await (await reopened(fixture)).verifyExtent(extentKey(1))).sizeBytes).to.equal(bytes.length);
      }
    });

    it("does not bring a removed extent back", async () => {
      for (let seed = 1; seed <= 10; seed += 1) {
        const fixture = new StoreFixture();
        const store = await fixture.open();
        const extents = [
          await putSmall(store, 1),
          await putLarge(store, 2, "shared"),
          await putLarge(store, 3, "own"),
        ];
        for (const extent of extents) await store.removeExtent(extent);

        fixture.crash(new SeededPrng(seed));
        if (seed % 2 === 0) await fixture.loseIndex();
        const after = await fixture.open();

        expect(await after.listExtents(undefined, 10)).to.deep.equal([]);
        expect(fixture.disk.filesBelow("/chunks/extents")).to.deep.equal([]);
      }
    });
  });

  describe("what it costs", () => {
    it("seals many small extents with one sync", async () => {
      const fixture = new StoreFixture();
      const store = await fixture.open();
      const before = store.syncCount;

      await Promise.all(Array.from({ length: 64 }, (_, i) => putSmall(store, i + 1)));

      expect(store.syncCount - before).to.be.at.most(2);
    });

    it("seals without reading or hashing what it saw arrive, however large", async () => {
      let hashed = 0;
      const digester: Digester = {
        sha256: (bytes) => {
          hashed += 1;
          return Promise.resolve(sha256(bytes));
        },
      };
      const fixture = new StoreFixture({ digester });
      const store = await fixture.open();
      const bytes = testBytes(1, 20 * CHUNK_SIZE_BYTES);
      await store.openExtent(extentKey(1), DEDICATED_SEGMENT_SIZE_BYTES_MIN);
      await writeAll(store, extentKey(1), bytes);
      const before = { hashed, reads: fixture.disk.countOf("read") };

      await store.sealExtent({ extent: extentKey(1), sizeBytes: bytes.length, origin: TEST_ORIGIN });

      expect(before.hashed).to.equal(20);
      expect(hashed).to.equal(20);
      expect(fixture.disk.countOf("read")).to.equal(before.reads);
    });

    it("syncs while chunks arrive, so that the seal has little left to wait for", async () => {
      const fixture = new StoreFixture({ syncPaceBytes: 4 * CHUNK_SIZE_BYTES });
      const store = await fixture.open();
      await store.openExtent(extentKey(1), undefined);
      const before = fixture.disk.countOf("sync");

      await writeAll(store, extentKey(1), testBytes(1, 20 * CHUNK_SIZE_BYTES));

      expect(fixture.disk.countOf("sync") - before).to.be.within(3, 6);
    });

    it("reads a whole chunk with one read", async () => {
      const fixture = new StoreFixture();
      const store = await fixture.open();
      const extent = await putLarge(store, 1, "own");
      await store.readChunk(extent, 1, 0, 1);
      const before = fixture.disk.countOf("read");

      await store.readChunk(extent, 0, 0, CHUNK_SIZE_BYTES);

      expect(fixture.disk.countOf("read") - before).to.equal(1);
    });

    it("holds no more bytes in memory than it was allowed", async () => {
      let inFlight = 0;
      let inFlightMax = 0;
      const digester: Digester = {
        sha256: async (bytes) => {
          inFlight += bytes.length;
          inFlightMax = Math.max(inFlightMax, inFlight);
          await Promise.resolve();
          inFlight -= bytes.length;
          return sha256(bytes);
        },
      };
      const fixture = new StoreFixture({ digester, bytesInFlightMax: 2 * CHUNK_SIZE_BYTES });
      const store = await fixture.open();
      const chunk = testBytes(1, CHUNK_SIZE_BYTES);

      await Promise.all(
        Array.from({ length: 12 }, (_, i) =>
          store.writeChunk(extentKey(1 + (i % 3)), i, chunk, sha256(chunk)),
        ),
      );

      expect(inFlightMax).to.be.at.most(2 * CHUNK_SIZE_BYTES);
    });
  });

  describe("damage", () => {
    for (const where of ["shared", "own"] as const) {
      it(`is CHUNK_CORRUPT and quarantined, never data and never absent (${where})`, async () => {
        const fixture = new StoreFixture();
        const store = await fixture.open();
        const extent = await putLarge(store, 1, where);
        const path = where === "own" ? OWN_PATH : LOG_PATH;
        await fixture.clock.advance(IDLE_MARK_DELAY_MS);
        fixture.disk.flipBit(path, 600_000, 4);

        await expectReason("CHUNK_CORRUPT", () => store.readChunk(extent, 0, 0, CHUNK_SIZE_BYTES));
        const state = await store.extentState(extent);
        await expectReason("CHUNK_CORRUPT", () => store.readChunk(extent, 0, 0, 10));
        const other = await store.readChunk(extent, 1, 0, 70_000);
        const after = await reopened(fixture);

        expect(state).to.deep.equal({
          kind: "quarantined",
          sizeBytes: CHUNK_SIZE_BYTES + 70_000,
          chunkIndexes: [0],
        });
        expect(other.length).to.equal(70_000);
        expect(fixture.damage[0]).to.deep.equal({ extent, chunkIndexes: [0] });
        expect(store.stats().quarantinedExtentCount).to.equal(1);
        await expectReason("CHUNK_CORRUPT", () => after.verifyExtent(extent));
      });
    }

    it("is found by verifyExtent() wherever it is", async () => {
      for (const offset of [300, 70_000, CHUNK_SIZE_BYTES + 200, CHUNK_SIZE_BYTES + 70_000]) {
        const fixture = new StoreFixture();
        const store = await fixture.open();
        const extent = await putLarge(store, 1, "own");
        fixture.disk.flipBit(OWN_PATH, offset, 1);

        await expectReason("CHUNK_CORRUPT", () => store.verifyExtent(extent));
        expect((await store.extentState(extent)).kind).to.equal("quarantined");
      }
    });

    it("to a manifest quarantines the whole extent", async () => {
      const fixture = new StoreFixture();
      const store = await fixture.open();
      const extent = await putLarge(store, 1, "own");
      await store.close();
      const size = fixture.disk.contentOf(LOG_PATH).length;
      const after = await fixture.open();
      fixture.disk.flipBit(LOG_PATH, size - 60, 1);

      await expectReason("CHUNK_CORRUPT", () => after.manifest(extent));
      expect(await after.extentState(extent)).to.deep.include({ kind: "quarantined", chunkIndexes: [0, 1] });
    });

    it("to a small extent is quarantined also when the index is rebuilt over it", async () => {
      const fixture = new StoreFixture();
      const store = await fixture.open();
      const extent = await putSmall(store, 1);
      await putSmall(store, 2);
      await store.close();
      await fixture.loseIndex();
      fixture.disk.flipBit(LOG_PATH, 2000, 1);

      const after = await fixture.open();

      expect(await after.extentState(extent)).to.deep.include({ kind: "quarantined", chunkIndexes: [0] });
      expect((await after.extentState(extentKey(2))).kind).to.equal("sealed");
      expect(fixture.faults).to.have.length(1);
    });

    it("by loss of a large extent's file is quarantined at the next start, not forgotten", async () => {
      for (const loseIndex of [false, true]) {
        const fixture = new StoreFixture();
        const store = await fixture.open();
        const extent = await putLarge(store, 1, "own");
        await store.close();
        fixture.disk.lose(OWN_PATH);
        if (loseIndex) await fixture.loseIndex();

        const after = await fixture.open();

        expect((await after.extentState(extent)).kind).to.equal("quarantined");
        expect(fixture.damage).to.have.length(1);
      }
    });

    it("while the store runs is found when a large extent's file is gone", async () => {
      const fixture = new StoreFixture();
      const store = await fixture.open();
      const extent = await putLarge(store, 1, "own");
      fixture.disk.lose(OWN_PATH);

      await expectReason("CHUNK_CORRUPT", () => store.readChunk(extent, 0, 0, 10));
    });

    it("is repaired by removing the extent and writing it anew", async () => {
      const fixture = new StoreFixture();
      const store = await fixture.open();
      const extent = await putLarge(store, 1, "own");
      fixture.disk.flipBit(OWN_PATH, 600_000, 4);
      await expectReason("CHUNK_CORRUPT", () => store.verifyExtent(extent));

      await store.removeExtent(extent);
      await putLarge(store, 1, "own");

      expect((await store.verifyExtent(extent)).sizeBytes).to.equal(CHUNK_SIZE_BYTES + 70_000);
      expect(store.stats().quarantinedExtentCount).to.equal(0);
    });

    for (const { what, path, segmentSizeBytesMax, keepBytes, lost, whole } of [
      {
        what: "the only segment of the log",
        path: LOG_PATH,
        keepBytes: 9000,
        lost: [3, 4, 5],
        whole: [1, 2],
      },
      {
        what: "an older segment of the log",
        path: LOG_PATH,
        segmentSizeBytesMax: 13_000,
        keepBytes: 9000,
        lost: [3],
        whole: [1, 2, 4, 5],
      },
      {
        what: "a segment of the log between others, to nothing",
        path: "/chunks/log/0000000002.seg",
        segmentSizeBytesMax: 9000,
        keepBytes: 0,
        lost: [3, 4],
        whole: [1, 2, 5],
      },
    ]) {
      it(`by cutting short ${what} is found at the next start, reported, and repaired like any other`, async () => {
        const fixture = new StoreFixture(segmentSizeBytesMax === undefined ? {} : { segmentSizeBytesMax });
        const store = await fixture.open();
        for (let i = 1; i <= 5; i += 1) await putSmall(store, i);
        await store.close();
        fixture.disk.overwrite(path, fixture.disk.contentOf(path).slice(0, keepBytes));

        const after = await fixture.open();

        expect(after.stats().quarantinedExtentCount).to.equal(lost.length);
        expect(fixture.damage.map(({ extent }) => extent.contentId)).to.deep.equal(lost);
        expect(fixture.faults.map(({ kind }) => kind)).to.include("lost-tail");
        for (const i of whole) await after.verifyExtent(extentKey(i));
        for (const i of lost) {
          expect((await after.extentState(extentKey(i))).kind).to.equal("quarantined");
          await after.removeExtent(extentKey(i));
          await putSmall(after, i);
        }
        expect(after.stats().quarantinedExtentCount).to.equal(0);
        await after.close();
        const again = await fixture.open();
        for (const i of [...lost, ...whole]) await again.verifyExtent(extentKey(i));
        expect(again.stats().quarantinedExtentCount).to.equal(0);
      });
    }

    it("by cutting short a large extent's file is found at the next start, chunk by chunk", async () => {
      for (const [cutBytes, damaged] of [
        [0, undefined],
        [1, [1]],
        [70_000 + CHUNK_SIZE_BYTES / 2, [0, 1]],
      ] as const) {
        const fixture = new StoreFixture();
        const store = await fixture.open();
        const extent = await putLarge(store, 1, "own");
        const other = await putLarge(store, 2, "own");
        await store.close();
        const content = fixture.disk.contentOf(OWN_PATH);
        fixture.disk.overwrite(OWN_PATH, content.slice(0, content.length - cutBytes));

        const after = await fixture.open();

        const state = await after.extentState(extent);
        expect(state.kind === "quarantined" ? state.chunkIndexes : undefined).to.deep.equal(damaged);
        await after.verifyExtent(other);
        if (damaged === undefined) continue;
        await after.removeExtent(extent);
        await putLarge(after, 1, "own");
        await after.verifyExtent(extent);
        expect(after.stats().quarantinedExtentCount).to.equal(0);
      }
    });

    for (const { where, offset, kept } of [
      { where: "the first page", offset: 0, kept: undefined },
      { where: "a page of a chunk's bytes", offset: CHUNK_SIZE_BYTES + 600_000, kept: [0] },
      { where: "the page with the end of the last chunk", offset: 2 * CHUNK_SIZE_BYTES + 9000, kept: [0, 1] },
    ]) {
      it(`to an extent that is not sealed costs chunks and no start when ${where} cannot be read`, async () => {
        const fixture = new StoreFixture();
        const store = await fixture.open();
        const extent = extentKey(1);
        const bytes = testBytes(1, 2 * CHUNK_SIZE_BYTES + 9000);
        await store.openExtent(extent, undefined);
        await writeAll(store, extent, bytes);
        const sealed = await putLarge(store, 2, "own");
        await store.close();
        fixture.disk.spoilPage(OWN_PATH, offset);

        const after = await fixture.open();

        const state = await after.extentState(extent);
        expect(state.kind === "open" ? state.chunkIndexes : undefined).to.deep.equal(kept);
        expect(fixture.faults.map(({ kind, path }) => [kind, path])).to.deep.equal([["damaged", OWN_PATH]]);
        await writeAll(after, extent, bytes);
        await after.sealExtent({ extent, sizeBytes: bytes.length, origin: TEST_ORIGIN });
        const again = await reopened(fixture);
        expect((await again.verifyExtent(extent)).sizeBytes).to.equal(bytes.length);
        await again.verifyExtent(sealed);
      });
    }

    it("by cutting short the log takes from a large extent in it only the chunks beyond the end", async () => {
      const fixture = new StoreFixture({ segmentSizeBytesMax: CHUNK_SIZE_BYTES + 100_000 });
      const store = await fixture.open();
      const extent = await putLarge(store, 1, "shared", CHUNK_SIZE_BYTES * 2);
      await store.close();
      const content = fixture.disk.contentOf(LOG_PATH);
      fixture.disk.overwrite(LOG_PATH, content.slice(0, content.length / 2));

      const after = await fixture.open();

      expect(await after.extentState(extent)).to.deep.include({ kind: "quarantined", chunkIndexes: [0] });
      expect((await after.readChunk(extent, 1, 0, 10)).length).to.equal(10);
    });

    it("to the identity, or its loss beside data, keeps the store closed", async () => {
      const fixture = new StoreFixture();
      const store = await fixture.open();
      await putSmall(store, 1);
      await store.close();

      fixture.disk.flipBit("/chunks/store", 20, 1);
      await expectReason("DATA_CORRUPT", () => fixture.open());
      fixture.disk.lose("/chunks/store");
      await expectReason("DATA_CORRUPT", () => fixture.open());
    });

    it("by loss of the whole log keeps the store closed", async () => {
      const fixture = new StoreFixture();
      const store = await fixture.open();
      await putSmall(store, 1);
      await store.close();
      fixture.disk.lose("/chunks/log");

      await expectReason("DATA_CORRUPT", () => fixture.open());
    });

    it("is what another member's store is", async () => {
      const fixture = new StoreFixture();
      await (await fixture.open()).close();
      const other = new StoreFixture({ memberId: 12, disk: fixture.disk });

      await expectReason("DATA_CORRUPT", () => other.open());
    });
  });

  describe("a full disk", () => {
    it("refuses writes before the reserve is touched, and takes them again by itself", async () => {
      const fixture = new StoreFixture({ reserveBytes: 1_000_000, compactionReserveBytes: 0 });
      fixture.disk.capacityBytes = 1_000_000 + 2 * 4096 + 2000;
      const store = await fixture.open();
      const extent = await putSmall(store, 1);

      await putSmall(store, 2);
      await expectReason("NO_SPACE", () => putSmall(store, 3));
      const refused = store.stats().writesRefused;
      const chunk = testBytes(1, 5000);
      await expectReason("NO_SPACE", () => store.writeChunk(extentKey(9), 0, chunk, sha256(chunk)));
      await expectReason("NO_SPACE", () => store.openExtent(extentKey(10), 5000));
      const read = await store.readChunk(extent, 0, 0, 4096);
      await store.removeExtent(extent);
      fixture.disk.capacityBytes += 2_000_000;
      await store.refreshSpace();
      await putSmall(store, 3);

      expect(refused).to.equal(true);
      expect(read.length).to.equal(4096);
      expect(store.stats().writesRefused).to.equal(false);
      expect((await store.extentState(extentKey(9))).kind).to.equal("absent");
    });

    it("still takes the copies that the node makes for the cluster", async () => {
      const fixture = new StoreFixture({ reserveBytes: 1_000_000, compactionReserveBytes: 0 });
      fixture.disk.capacityBytes = 900_000;
      const store = await fixture.open();
      const [extent, chunk] = [extentKey(1), testBytes(1, 5000)];
      await expectReason("NO_SPACE", () => store.openExtent(extent, chunk.length));
      await store.openExtent(extent, chunk.length, "copies");
      await store.writeChunk(extent, 0, chunk, sha256(chunk));
      const seal = await store.sealExtent({ extent, sizeBytes: chunk.length, origin: TEST_ORIGIN });

      expect(seal.sizeBytes).to.equal(chunk.length);
      await expectReason("NO_SPACE", () => store.writeChunk(extentKey(2), 0, chunk, sha256(chunk)));
    });

    it("with no room for the index ends nobody: it closes, opens and serves, and gives space back when there is some", async () => {
      const fixture = new StoreFixture({ segmentSizeBytesMax: 60_000 });
      let store = await fixture.open();
      for (let contentId = 1; contentId <= 60; contentId += 1) await putSmall(store, contentId);
      const segments = (): number => fixture.disk.filesBelow("/chunks/log").length;
      const before = segments();
      fixture.indexFlushError = new StoreFullError("/index/chunks");
      for (let contentId = 1; contentId <= 40; contentId += 1) await store.removeExtent(extentKey(contentId));
      await settle();
      const whileFull = segments();
      await store.close();
      store = await fixture.open();
      const kept = await store.readChunk(extentKey(50), 0, 0, 4096);
      const refused = fixture.trouble.map((error) => hasReason(error, "NO_SPACE"));

      fixture.indexFlushError = undefined;
      await store.removeExtent(extentKey(41));
      await settle();

      expect(fixture.fatal).to.deep.equal([]);
      expect(refused).to.include(true).and.not.include(false);
      expect(kept.length).to.equal(4096);
      expect(whileFull).to.be.at.least(before);
      expect(segments()).to.be.below(before);
      const extents = await (await reopened(fixture)).listExtents(undefined, 100);
      expect(extents.map((extent) => extent.contentId)).to.deep.equal(
        Array.from({ length: 19 }, (_, at) => 42 + at),
      );
    });

    it("that takes no new table keeps a segment that fell empty for the next removal", async () => {
      for (const isFull of [
        (fixture: StoreFixture) => fixture.disk.failNext("create", /segments\.table/u, "ENOSPC"),
        (fixture: StoreFixture) => fixture.disk.failNext("write", /segments\.table/u, "ENOSPC"),
      ]) {
        const fixture = new StoreFixture({ segmentSizeBytesMax: 60_000 });
        const store = await fixture.open();
        for (let contentId = 1; contentId <= 60; contentId += 1) await putSmall(store, contentId);
        const segments = (): readonly string[] =>
          fixture.disk.filesBelow("/chunks/log").filter((path) => path.endsWith(".seg"));
        const before = segments().length;
        // The second segment is left; the first one keeps the extents before it.
        for (let contentId = 10; contentId < 30; contentId += 1) {
          if (contentId === 10) isFull(fixture);
          await store.removeExtent(extentKey(contentId));
        }
        await settle();
        const whileFull = segments().length;
        await store.removeExtent(extentKey(50));
        await settle();

        expect(whileFull).to.be.at.least(before);
        expect(segments().length).to.be.below(whileFull);
        expect(fixture.fatal).to.deep.equal([]);
      }
    });

    it("in spite of the reserve undoes the write and loses nothing", async () => {
      const fixture = new StoreFixture();
      const store = await fixture.open();
      await putSmall(store, 1);
      fixture.disk.failNext("write", /log/, "ENOSPC");
      fixture.disk.failNext("write", /extents/, "ENOSPC");

      await expectReason("NO_SPACE", () => putSmall(store, 2));
      await expectReason("NO_SPACE", () => putLarge(store, 3, "own"));
      await putLarge(store, 4, "own");
      await putSmall(store, 5);
      const after = await reopened(fixture);

      const extents = await after.listExtents(undefined, 10);
      expect(extents.map((extent) => extent.contentId)).to.deep.equal([1, 4, 5]);
      expect(fixture.fatal).to.deep.equal([]);
    });

    // Goal: a record that was refused never counts, although the log itself puts a record without meaning into its place.
    // Method: a write fails once; the mark of an idle log, or the footer of a full segment, follows there, then a success.
    for (const [filler, idleMs, sizeBytes] of [
      ["the mark of an idle log", IDLE_MARK_DELAY_MS, 4096],
      ["the footer of a full segment", 0, 60_000],
    ] as const) {
      it(`refuses for good what it refused, when ${filler} takes its place`, async () => {
        const fixture = new StoreFixture({ segmentSizeBytesMax: 64 * 1024 });
        const store = await fixture.open();
        const old = await putSmall(store, 1);
        const removed = await putSmall(store, 2);
        fixture.disk.failNext("write", /log/, "ENOSPC");

        const outcomes = await Promise.allSettled([store.removeExtent(old), putSmall(store, 3)]);
        await fixture.clock.advance(idleMs);
        await putSmall(store, 4, sizeBytes);
        await store.removeExtent(removed);
        await store.verifyExtent(old);
        await store.verifyExtent(extentKey(4));
        const state = await store.extentState(extentKey(3));
        await store.close();
        const [kept, rebuilt] = await keptAndRebuilt(fixture);

        expect(outcomes.map(({ status }) => status)).to.deep.equal(["rejected", "rejected"]);
        expect(state.kind).to.equal("absent");
        expect(indexesEqual(kept, rebuilt)).to.equal(true);
        expect(fixture.damage).to.deep.equal([]);
        expect(fixture.fatal).to.deep.equal([]);
      });
    }
  });

  describe("a failing disk", () => {
    it("ends the store when a sync fails: the process must end", async () => {
      for (const pattern of [/log/, /extents/]) {
        const fixture = new StoreFixture();
        const store = await fixture.open();
        fixture.disk.failNext("sync", pattern, "EIO");

        await expectReason("INTERNAL", () => putLarge(store, 1, "own"));

        expect(fixture.fatal).to.have.length(1);
      }
    });
  });

  describe("the index", () => {
    it("equals, when rebuilt from the segments, the one that was kept", async () => {
      const fixture = new StoreFixture({ segmentSizeBytesMax: 100_000 });
      const store = await fixture.open();
      for (let i = 1; i <= 60; i += 1) await putSmall(store, i, 3000 + i);
      await putLarge(store, 100, "shared");
      await putLarge(store, 101, "own");
      const chunk = testBytes(7, 5000);
      await store.openExtent(extentKey(102), 5000);
      await store.writeChunk(extentKey(102), 0, chunk, sha256(chunk));
      for (let i = 10; i <= 50; i += 3) await store.removeExtent(extentKey(i));
      await store.close();

      const [kept, rebuilt, stats] = await keptAndRebuilt(fixture);

      expect(indexesEqual(kept, rebuilt)).to.equal(true);
      expect([...rebuilt.range({ from: Buffer.from("c"), to: Buffer.from("z") })].length).to.be.greaterThan(
        50,
      );
      expect(stats.extentCount).to.equal(60 - 14 + 2);
    });

    it("is made anew when an old copy is in its place, which ends in a segment that is gone", async () => {
      const fixture = new StoreFixture({ segmentSizeBytesMax: 50_000 });
      const store = await fixture.open();
      for (let i = 1; i <= 5; i += 1) await putSmall(store, i);
      await store.close();
      const second = await fixture.open();
      for (let i = 6; i <= 60; i += 1) await putSmall(second, i);
      for (let i = 1; i <= 50; i += 1) await second.removeExtent(extentKey(i));
      await second.close();
      await (await fixture.open()).close();
      await fixture.closeIndex();
      const firstSegment = fixture.disk.filesBelow("/chunks/log")[0];
      expect(fixture.stores.spoil("chunks", "older", new SeededPrng(1))).to.equal(true);

      const after = await fixture.open();

      expect(firstSegment).to.not.equal(LOG_PATH);
      expect(await after.listExtents(undefined, 100)).to.have.length(10);
      for (let i = 51; i <= 60; i += 1) {
        expect((await after.verifyExtent(extentKey(i))).sizeBytes).to.equal(4096);
      }
    });

    it("of another store is not believed", async () => {
      const fixture = new StoreFixture();
      const store = await fixture.open();
      await putSmall(store, 1);
      await store.close();
      await fixture.closeIndex();
      const other = await fixture.stores.open("chunks");
      ChunkIndex.open(other, "another incarnation").apply([], undefined);
      await other.close();

      const after = await fixture.open();

      expect((await after.extentState(extentKey(1))).kind).to.equal("sealed");
    });
  });

  describe("reclamation", () => {
    it("unlinks segments in which nothing is live, and the tombstones once nothing older is left", async () => {
      const fixture = new StoreFixture({ segmentSizeBytesMax: 50_000 });
      const store = await fixture.open();
      for (let i = 1; i <= 100; i += 1) await putSmall(store, i);
      const before = fixture.disk.filesBelow("/chunks/log").length;
      for (let i = 1; i <= 98; i += 1) await store.removeExtent(extentKey(i));
      await store.close();
      const after = await fixture.open();
      const left = fixture.disk.filesBelow("/chunks/log").length;

      expect(before).to.be.greaterThan(8);
      expect(left).to.be.at.most(4);
      expect((await after.verifyExtent(extentKey(99))).sizeBytes).to.equal(4096);
      expect(await after.listExtents(undefined, 10)).to.have.length(2);
    });
  });
});
