/**
 * Goal: what was found damaged is believed again once it reads well as a whole, and not before; a mark that goes is gone for good, and
 * takes nothing along. Method: bytes on the disk in memory are damaged, found, and put back; crashes and losses of the index between.
 */
import { expect } from "chai";
import { indexesEqual } from "../../../src/chunks/chunk-index.ts";
import type { DiskChunkStore } from "../../../src/chunks/disk-chunk-store.ts";
import type { ExtentKey } from "../../../src/drive/content.ts";
import { CHUNK_SIZE_BYTES } from "../../../src/drive/limits.ts";
import { sha256 } from "../../../src/std/digest.ts";
import { StoreFullError, type OrderedSnapshot } from "../../../src/std/ordered-store.ts";
import { SeededPrng } from "../../../src/std/prng.ts";
import { extentKey, TEST_ORIGIN, testBytes, writeAll } from "../../contract/chunk-store.contract.ts";
import { expectReason } from "../../support/expect-reason.ts";
import { StoreFixture } from "./store-fixture.ts";

const OWN_PATH = "/chunks/extents/0000000001.seg";
const LOG_PATH = "/chunks/log/0000000001.seg";
/** Three chunks, the last a short one. */
const SIZE_BYTES = 2 * CHUNK_SIZE_BYTES + 70_000;
const EXTENT = extentKey(1);
const now = (): Promise<void> => Promise.resolve();

async function putLarge(store: DiskChunkStore, where: "shared" | "own"): Promise<void> {
  await store.openExtent(EXTENT, where === "own" ? undefined : SIZE_BYTES);
  await writeAll(store, EXTENT, testBytes(1, SIZE_BYTES));
  await store.sealExtent({ extent: EXTENT, sizeBytes: SIZE_BYTES, origin: TEST_ORIGIN });
}

async function putSmall(store: DiskChunkStore, contentId: number, sizeBytes = 4096): Promise<ExtentKey> {
  const bytes = testBytes(contentId, sizeBytes);
  const extent = extentKey(contentId);
  await store.putSmall({ extent, bytes, digest: sha256(bytes), origin: TEST_ORIGIN });
  return extent;
}

/** A store with a large extent in a segment of its own, and that file's content. */
async function withOwn(): Promise<{
  readonly fixture: StoreFixture;
  readonly store: DiskChunkStore;
  readonly content: Uint8Array;
}> {
  const fixture = new StoreFixture();
  const store = await fixture.open();
  await putLarge(store, "own");
  return { fixture, store, content: fixture.disk.contentOf(OWN_PATH) };
}

async function expectWhole(store: DiskChunkStore, where = ""): Promise<void> {
  expect((await store.extentState(EXTENT)).kind, where).to.equal("sealed");
  expect(store.stats().quarantinedExtentCount, where).to.equal(0);
  const bytes = await store.readChunk(EXTENT, 1, 0, CHUNK_SIZE_BYTES);
  const wanted = testBytes(1, SIZE_BYTES).subarray(CHUNK_SIZE_BYTES, 2 * CHUNK_SIZE_BYTES);
  expect(Buffer.from(bytes).equals(wanted), where).to.equal(true);
}

/** The index of a store that was closed. */
async function indexOf(fixture: StoreFixture): Promise<OrderedSnapshot> {
  await fixture.closeIndex();
  const store = await fixture.stores.open("chunks");
  const snapshot = store.snapshot();
  await store.close();
  return snapshot;
}

describe("The mark of a damaged chunk", () => {
  for (const where of ["shared", "own"] as const) {
    it(`goes once the extent was read whole, and not before (${where})`, async () => {
      const mended: ExtentKey[] = [];
      const fixture = new StoreFixture({ onMended: (extent) => mended.push(extent) });
      const store = await fixture.open();
      await putLarge(store, where);
      const seal = await store.verifyExtent(EXTENT);
      const path = where === "own" ? OWN_PATH : LOG_PATH;
      fixture.disk.flipBit(path, CHUNK_SIZE_BYTES + 600_000, 4);
      await expectReason("CHUNK_CORRUPT", () => store.verifyExtent(EXTENT));
      fixture.disk.flipBit(path, CHUNK_SIZE_BYTES + 600_000, 4);

      await expectReason("CHUNK_CORRUPT", () => store.readChunk(EXTENT, 1, 0, 10));
      expect(mended).to.deep.equal([]);
      expect(await store.verifyExtent(EXTENT)).to.deep.equal(seal);

      await expectWhole(store);
      expect(mended).to.deep.equal([EXTENT]);
      fixture.crash(new SeededPrng(1));
      const after = await fixture.open();
      await expectWhole(after, "after power failed");
      await after.close();
      const kept = await indexOf(fixture);
      await fixture.loseIndex();
      await (await fixture.open()).close();
      expect(indexesEqual(kept, await indexOf(fixture)), "the index as a rebuild makes it").to.equal(true);
    });
  }

  it("goes of a small extent, and of one that compaction moved", async () => {
    const fixture = new StoreFixture({ segmentSizeBytesMax: 20_000 });
    const store = await fixture.open();
    for (let i = 2; i <= 9; i += 1) await putSmall(store, i);
    for (const i of [2, 4]) await store.removeExtent(extentKey(i));
    await store.compact(now);
    for (const i of [3, 9]) {
      const extent = extentKey(i);
      const wanted = Buffer.from(testBytes(i, 4096));
      const paths = fixture.disk.filesBelow("/chunks/log").filter((path) => path.endsWith(".seg"));
      const path = paths.find((each) =>
        Buffer.from(fixture.disk.contentOf(each)).includes(wanted.subarray(0, 64)),
      );
      const offset = Buffer.from(fixture.disk.contentOf(path ?? "")).indexOf(wanted.subarray(0, 64));
      fixture.disk.flipBit(path ?? "", offset + 100, 2);
      await expectReason("CHUNK_CORRUPT", () => store.verifyExtent(extent));
      fixture.disk.flipBit(path ?? "", offset + 100, 2);

      await store.verifyExtent(extent);

      expect(Buffer.from(await store.readChunk(extent, 0, 0, 4096)).equals(wanted)).to.equal(true);
    }
    expect(store.stats().quarantinedExtentCount).to.equal(0);
  });

  it("stays while one chunk of the extent is bad, and looking again costs no more than that chunk", async () => {
    const { fixture, store } = await withOwn();
    for (const chunk of [0, 1]) fixture.disk.flipBit(OWN_PATH, chunk * CHUNK_SIZE_BYTES + 600_000, 4);
    await expectReason("CHUNK_CORRUPT", () => store.verifyExtent(EXTENT));
    fixture.disk.flipBit(OWN_PATH, CHUNK_SIZE_BYTES + 600_000, 4);
    let chunks = 0;
    const count = async (): Promise<void> => {
      chunks += 1;
    };

    await expectReason("CHUNK_CORRUPT", () => store.verifyExtent(EXTENT, count));

    expect(chunks).to.equal(1);
    expect(await store.extentState(EXTENT)).to.deep.include({ kind: "quarantined", chunkIndexes: [0, 1] });
    await expectReason("CHUNK_CORRUPT", () => store.readChunk(EXTENT, 1, 0, 10));
    expect(fixture.damage, "told once").to.have.length(1);
  });

  it("stays when the marked chunk reads well and another one does not, which is marked too", async () => {
    const { fixture, store } = await withOwn();
    fixture.disk.flipBit(OWN_PATH, CHUNK_SIZE_BYTES + 600_000, 4);
    await expectReason("CHUNK_CORRUPT", () => store.verifyExtent(EXTENT));
    fixture.disk.flipBit(OWN_PATH, CHUNK_SIZE_BYTES + 600_000, 4);
    fixture.disk.flipBit(OWN_PATH, 600_000, 4);

    await expectReason("CHUNK_CORRUPT", () => store.verifyExtent(EXTENT));

    expect(await store.extentState(EXTENT)).to.deep.include({ kind: "quarantined", chunkIndexes: [0, 1] });
  });

  it("stays when a reader finds damage where the check has been already", async () => {
    const { fixture, store } = await withOwn();
    fixture.disk.flipBit(OWN_PATH, 600_000, 4);
    await expectReason("CHUNK_CORRUPT", () => store.verifyExtent(EXTENT));
    fixture.disk.flipBit(OWN_PATH, 600_000, 4);
    let chunks = 0;
    const spoil = async (): Promise<void> => {
      chunks += 1;
      if (chunks < 3) return;
      fixture.disk.flipBit(OWN_PATH, CHUNK_SIZE_BYTES + 600_000, 4);
      await expectReason("CHUNK_CORRUPT", () => store.readChunk(EXTENT, 1, 0, CHUNK_SIZE_BYTES));
    };

    await expectReason("CHUNK_CORRUPT", () => store.verifyExtent(EXTENT, spoil));

    expect(await store.extentState(EXTENT)).to.deep.include({ kind: "quarantined", chunkIndexes: [0, 1] });
  });

  it("is not taken from an extent that was removed under the check", async () => {
    const { fixture, store } = await withOwn();
    fixture.disk.flipBit(OWN_PATH, 600_000, 4);
    await expectReason("CHUNK_CORRUPT", () => store.verifyExtent(EXTENT));
    fixture.disk.flipBit(OWN_PATH, 600_000, 4);
    let chunks = 0;

    await expectReason("CHUNK_NOT_FOUND", () =>
      store.verifyExtent(EXTENT, async () => {
        chunks += 1;
        if (chunks === 3) await store.removeExtent(EXTENT);
      }),
    );

    expect((await store.extentState(EXTENT)).kind).to.equal("absent");
    expect(store.stats().quarantinedExtentCount).to.equal(0);
  });

  it("to a manifest goes when the manifest on the disk is good, whatever is in memory", async () => {
    const { fixture, store } = await withOwn();
    await store.close();
    const at = fixture.disk.contentOf(LOG_PATH).length - 60;
    const after = await fixture.open();
    fixture.disk.flipBit(LOG_PATH, at, 1);
    await expectReason("CHUNK_CORRUPT", () => after.manifest(EXTENT));
    await expectReason("CHUNK_CORRUPT", () => after.verifyExtent(EXTENT));
    fixture.disk.flipBit(LOG_PATH, at, 1);
    await after.verifyExtent(EXTENT);
    await expectWhole(after);

    fixture.disk.flipBit(OWN_PATH, 600_000, 4);
    await expectReason("CHUNK_CORRUPT", () => after.verifyExtent(EXTENT));
    fixture.disk.flipBit(OWN_PATH, 600_000, 4);
    fixture.disk.flipBit(LOG_PATH, at, 1);
    await expectReason("CHUNK_CORRUPT", () => after.verifyExtent(EXTENT));
    expect((await after.extentState(EXTENT)).kind).to.equal("quarantined");
  });

  it("is there or gone after power failed at any moment of the check, and goes with the next one", async () => {
    for (let at = 1; at <= 8; at += 1) {
      const { fixture, store } = await withOwn();
      fixture.disk.flipBit(OWN_PATH, CHUNK_SIZE_BYTES + 600_000, 4);
      await expectReason("CHUNK_CORRUPT", () => store.verifyExtent(EXTENT));
      await store.close();
      fixture.disk.flipBit(OWN_PATH, CHUNK_SIZE_BYTES + 600_000, 4);
      const second = await fixture.open();
      let left = at;
      fixture.disk.onOperation = () => {
        left -= 1;
        if (left === 0) fixture.crash(new SeededPrng(at));
        return undefined;
      };
      const answered = await second.verifyExtent(EXTENT).then(
        () => left > 0,
        () => false,
      );
      fixture.disk.onOperation = undefined;
      if (left > 0) fixture.crash(new SeededPrng(at));

      const after = await fixture.open();
      const { kind } = await after.extentState(EXTENT);
      if (answered) expect(kind, `${at}`).to.equal("sealed");
      else expect(["sealed", "quarantined"], `${at}`).to.include(kind);
      await after.verifyExtent(EXTENT);
      await expectWhole(after, `${at}`);
    }
  });

  it("is not said to be gone while the index cannot be made durable", async () => {
    const { fixture, store } = await withOwn();
    fixture.disk.flipBit(OWN_PATH, 600_000, 4);
    await expectReason("CHUNK_CORRUPT", () => store.verifyExtent(EXTENT));
    fixture.disk.flipBit(OWN_PATH, 600_000, 4);
    fixture.indexFlushError = new StoreFullError("index");
    await expectReason("NO_SPACE", () => store.verifyExtent(EXTENT));
    fixture.indexFlushError = undefined;
    fixture.crash(new SeededPrng(1));

    const after = await fixture.open();
    await after.verifyExtent(EXTENT);

    await expectWhole(after);
    expect(fixture.fatal).to.deep.equal([]);
  });

  for (const [what, path] of [
    ["its own segment", OWN_PATH],
    ["the log", LOG_PATH],
  ] as const) {
    it(`goes when the file of ${what} comes back, and the file is missed when it goes once more`, async () => {
      const fixture = new StoreFixture({ segmentSizeBytesMax: 4_000_000 });
      const store = await fixture.open();
      await putLarge(store, path === OWN_PATH ? "own" : "shared");
      const content = fixture.disk.contentOf(path);
      for (const round of [1, 2]) {
        fixture.disk.lose(path);
        await store.checkFiles(now);
        expect(await store.extentState(EXTENT), `${round}`).to.deep.include({
          kind: "quarantined",
          chunkIndexes: [0, 1, 2],
        });
        await expectReason("CHUNK_CORRUPT", () => store.verifyExtent(EXTENT));
        fixture.disk.replace(path, content);
        await store.verifyExtent(EXTENT);
        await expectWhole(store, `${round}`);
        await store.checkFiles(now);
        await expectWhole(store, `${round}, after a look`);
      }
      expect(fixture.lostFiles.filter(({ kind }) => kind === "missing")).to.have.length(2);
    });
  }

  it("leaves an extent whose segments stay, also when the index was rebuilt while a chunk could not be read", async () => {
    // The first chunk lies in a segment with a small extent and nothing else, the others behind it.
    const fixture = new StoreFixture({ segmentSizeBytesMax: 1_100_000 });
    const store = await fixture.open();
    const small = await putSmall(store, 2);
    await putLarge(store, "shared");
    await store.close();
    await fixture.loseIndex();
    const at = Buffer.from(fixture.disk.contentOf(LOG_PATH)).indexOf(testBytes(1, 64)) - 20;
    fixture.disk.flipBit(LOG_PATH, at, 1);
    const rebuilt = await fixture.open();
    expect(await rebuilt.extentState(EXTENT)).to.deep.include({ kind: "quarantined", chunkIndexes: [0] });
    fixture.disk.flipBit(LOG_PATH, at, 1);

    await rebuilt.verifyExtent(EXTENT);
    await rebuilt.removeExtent(small);
    while ((await rebuilt.compact(now)) !== undefined);

    await rebuilt.verifyExtent(EXTENT);
    await expectWhole(rebuilt);
    await rebuilt.removeExtent(EXTENT);
    await rebuilt.close();
    expect(fixture.fatal).to.deep.equal([]);
  });

  describe("is not there for records that could not be read when the index was rebuilt: their segment", () => {
    /** A store whose first segment, with four small extents, has nothing that can be read. */
    async function unread(): Promise<{
      readonly fixture: StoreFixture;
      readonly flip: (contentIds: readonly number[]) => void;
    }> {
      const fixture = new StoreFixture({ segmentSizeBytesMax: 20_000 });
      const store = await fixture.open();
      for (let contentId = 1; contentId <= 8; contentId += 1) await putSmall(store, contentId);
      await store.close();
      const segment = Buffer.from(fixture.disk.contentOf(LOG_PATH));
      const heads = FIRST.map((contentId) => segment.indexOf(testBytes(contentId, 64)) - 20);
      await fixture.loseIndex();
      const flip = (contentIds: readonly number[]): void => {
        for (const contentId of contentIds) fixture.disk.flipBit(LOG_PATH, heads[contentId - 1] ?? -1, 1);
      };
      return { fixture, flip };
    }
    const FIRST = [1, 2, 3, 4];

    async function expectBack(fixture: StoreFixture): Promise<void> {
      await fixture.loseIndex();
      const store = await fixture.open();
      for (const contentId of FIRST)
        expect((await store.verifyExtent(extentKey(contentId))).sizeBytes, `${contentId}`).to.equal(4096);
      await store.close();
      expect(fixture.fatal).to.deep.equal([]);
    }

    it("stays over compaction and restarts, and what it holds comes back with the next rebuild", async () => {
      const { fixture, flip } = await unread();
      flip(FIRST);
      for (let start = 0; start < 3; start += 1) {
        const store = await fixture.open();
        for (const contentId of FIRST)
          expect((await store.extentState(extentKey(contentId))).kind, `${contentId}`).to.equal("absent");
        while ((await store.compact(now)) !== undefined);
        await store.close();
      }
      flip(FIRST);
      await expectBack(fixture);
    });

    it("stays also when it reads well again before it is compacted", async () => {
      const { fixture, flip } = await unread();
      flip(FIRST);
      const store = await fixture.open();
      flip(FIRST);
      while ((await store.compact(now)) !== undefined);
      await store.close();
      await (await fixture.open()).close();
      await expectBack(fixture);
    });

    it("stays also when the only extent known in it was removed", async () => {
      const { fixture, flip } = await unread();
      flip([1, 2, 3]);
      const store = await fixture.open();
      await store.removeExtent(extentKey(4));
      while ((await store.compact(now)) !== undefined);
      await store.close();
      await (await fixture.open()).close();
      flip([1, 2, 3]);
      await fixture.loseIndex();
      const after = await fixture.open();
      for (const contentId of [1, 2, 3])
        expect((await after.verifyExtent(extentKey(contentId))).sizeBytes, `${contentId}`).to.equal(4096);
      expect((await after.extentState(extentKey(4))).kind).to.equal("absent");
      while ((await after.compact(now)) !== undefined);
      await after.close();
      expect(fixture.fatal).to.deep.equal([]);
    });
  });
});
