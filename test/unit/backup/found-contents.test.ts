/**
 * Goal: chunk stores alone tell what there is, and which snapshot of the tree is the newest that is whole. Method: the stores of two
 * members on disks in memory, with contents that each has in part.
 */
import { expect } from "chai";
import { findCopies, listContents, readSnapshot } from "../../../src/backup/found-contents.ts";
import { surveyStores } from "../../../src/backup/rebuild.ts";
import type { DiskChunkStore } from "../../../src/chunks/disk-chunk-store.ts";
import type { ManifestOrigin } from "../../../src/drive/content.ts";
import { CHUNK_SIZE_BYTES } from "../../../src/drive/limits.ts";
import { must } from "../../../src/std/assert.ts";
import { inlineDigester, sha256 } from "../../../src/std/digest.ts";
import { testBytes } from "../../contract/chunk-store.contract.ts";
import { expectReason } from "../../support/expect-reason.ts";
import { MemoryDisk } from "../../support/memory-disk.ts";
import { StoreFixture } from "../chunks/store-fixture.ts";

const SNAPSHOT = testBytes(5, CHUNK_SIZE_BYTES + 1000);

function origin(commitIndex: number, purpose: "file" | "tree-snapshot", sizeBytes: number): ManifestOrigin {
  const hint = { purpose, path: "", modifyTimeMs: 1000 + commitIndex, contentSizeBytes: sizeBytes };
  return { clusterId: "c", entryId: 0, commitIndex, hint };
}

describe("what chunk stores tell without a tree", () => {
  let stores: DiskChunkStore[];

  beforeEach(async () => {
    stores = [
      await new StoreFixture({ memberId: 11 }).open(),
      await new StoreFixture({ memberId: 12 }).open(),
    ];
  });

  afterEach(async () => {
    for (const store of stores) await store.close();
  });

  const at = (index: number): DiskChunkStore => must(stores[index], "a store");

  async function small(store: DiskChunkStore, contentId: number): Promise<void> {
    const bytes = testBytes(contentId, 50);
    const extent = { contentId, extentIndex: 0 };
    await store.putSmall({ extent, bytes, digest: sha256(bytes), origin: origin(contentId, "file", 50) });
  }

  async function snapshot(
    store: DiskChunkStore,
    contentId: number,
    index: number,
    sizeBytes: number,
  ): Promise<void> {
    const extent = { contentId, extentIndex: 0 };
    for (const [chunkIndex, from] of [0, CHUNK_SIZE_BYTES].entries()) {
      const bytes = SNAPSHOT.subarray(from, from + CHUNK_SIZE_BYTES);
      await store.writeChunk(extent, chunkIndex, bytes, sha256(bytes));
    }
    const from = origin(index, "tree-snapshot", sizeBytes);
    await store.sealExtent({ extent, sizeBytes: SNAPSHOT.length, origin: from });
  }

  it("lists every content once, in order, whichever store has it", async () => {
    for (const contentId of [3, 5, 9]) await small(at(0), contentId);
    for (const contentId of [1, 5, 12]) await small(at(1), contentId);
    const ids: number[] = [];
    for await (const { contentId } of listContents(stores)) ids.push(contentId);
    expect(ids).to.deep.equal([1, 3, 5, 9, 12]);
    const copies = await findCopies(stores, { contentId: 5, extentIndex: 0 });
    expect(copies.map(({ memberId, state }) => `${memberId} ${state}`)).to.deep.equal([
      "11 sealed",
      "12 sealed",
    ]);
    expect(await findCopies(stores, { contentId: 12, extentIndex: 0 })).to.have.length(1);
  });

  it("names the snapshots, newest by what they show first, and how far ids went", async () => {
    await snapshot(at(0), 20, 700, SNAPSHOT.length);
    await snapshot(at(1), 30, 500, SNAPSHOT.length);
    await small(at(1), 800);
    const { snapshots, contentId, commitIndex, newestTimeMs } = await surveyStores(stores);
    expect(snapshots.map(({ index }) => index)).to.deep.equal([700, 500]);
    expect({ contentId, commitIndex, newestTimeMs }).to.deep.equal({
      ...{ contentId: 800, commitIndex: 800, newestTimeMs: 1700 },
    });
  });

  it("reads a snapshot from whoever has it, and says so when some of it is nowhere", async () => {
    await snapshot(at(1), 20, 700, SNAPSHOT.length);
    // Its second extent never came.
    await snapshot(at(0), 21, 900, 2 ** 30 + 5);
    const { snapshots } = await surveyStores(stores);
    const [broken, whole] = snapshots;
    const to = { disk: new MemoryDisk(), path: "tree.dump", digester: inlineDigester };
    await expectReason("CHUNK_LOST", () => readSnapshot(must(broken, "the newer"), stores, to));
    await readSnapshot(must(whole, "the older"), stores, to);
    const file = await to.disk.open(to.path, "read");
    expect(Buffer.from(await file.read(0, SNAPSHOT.length + 1)).equals(SNAPSHOT)).to.equal(true);
    await file.close();
  });
});
