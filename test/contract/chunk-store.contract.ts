/**
 * What every ChunkStore must do, whatever it is made of: run by describeChunkStore() for each implementation.
 *
 * Tests the port as its users see it; crashes, damage and full disks belong to the tests of the implementation.
 */
import { expect } from "chai";
import type { ChunkStore } from "../../src/chunks/chunk-store.ts";
import type { ExtentKey, ManifestOrigin } from "../../src/drive/content.ts";
import {
  CHUNK_SIZE_BYTES,
  DEDICATED_SEGMENT_SIZE_BYTES_MIN,
  EXTENT_CHUNK_COUNT_MAX,
} from "../../src/drive/limits.ts";
import { foldTreeHash, sha256 } from "../../src/std/digest.ts";
import { SeededPrng } from "../../src/std/prng.ts";
import { expectReason } from "../support/expect-reason.ts";

/** Where test extents belong. */
export const TEST_ORIGIN: ManifestOrigin = {
  ...{ clusterId: "test-cluster", entryId: 7, commitIndex: 42 },
  hint: {
    ...{ purpose: "file", path: "/a/名.txt" },
    ...{ modifyTimeMs: 1_700_000_000_123, contentSizeBytes: 3_000_000 },
  },
};

/** The key of a test extent. */
export function extentKey(contentId: number, extentIndex = 0): ExtentKey {
  return { contentId, extentIndex };
}

/** Bytes that differ by `seed`. */
export function testBytes(seed: number, sizeBytes: number): Uint8Array {
  const pattern = new SeededPrng(seed).bytes(Math.min(sizeBytes, 4093));
  const bytes = new Uint8Array(sizeBytes);
  for (let at = 0; at < sizeBytes; at += pattern.length) {
    bytes.set(pattern.subarray(0, sizeBytes - at), at);
  }
  return bytes;
}

/** The chunks of an extent made of `bytes`. */
export function chunksOf(bytes: Uint8Array): Uint8Array[] {
  const chunks: Uint8Array[] = [];
  for (let at = 0; at < bytes.length; at += CHUNK_SIZE_BYTES) {
    chunks.push(bytes.subarray(at, at + CHUNK_SIZE_BYTES));
  }
  return chunks;
}

/** Writes all chunks of an extent, in order. */
export async function writeAll(store: ChunkStore, extent: ExtentKey, bytes: Uint8Array): Promise<void> {
  for (const [i, chunk] of chunksOf(bytes).entries()) await store.writeChunk(extent, i, chunk, sha256(chunk));
}

/** Describes what `create` makes as a ChunkStore; `destroy` ends it. */
export function describeChunkStore(
  name: string,
  create: () => Promise<{ readonly store: ChunkStore; readonly destroy: () => Promise<void> }>,
): void {
  describe(`${name} as a ChunkStore`, function () {
    this.timeout(10_000);
    let store: ChunkStore;
    let destroy: () => Promise<void>;

    beforeEach(async () => {
      ({ store, destroy } = await create());
    });

    afterEach(() => destroy());

    for (const where of ["shared", "own"] as const) {
      const expectedSizeBytes = where === "shared" ? 3_000_000 : DEDICATED_SEGMENT_SIZE_BYTES_MIN;

      describe(`an extent in a segment that is ${where}`, () => {
        const extent = extentKey(1, 3);
        const bytes = testBytes(1, 2 * CHUNK_SIZE_BYTES + 12_345);
        const seal = { extent, sizeBytes: bytes.length, origin: TEST_ORIGIN };

        beforeEach(() => store.openExtent(extent, expectedSizeBytes));

        it("is open with its chunks, then sealed with the folded root", async () => {
          await writeAll(store, extent, bytes);
          const open = await store.extentState(extent);
          const sealed = await store.sealExtent(seal);

          const root = foldTreeHash(chunksOf(bytes).map((chunk) => sha256(chunk)));
          expect(open).to.deep.equal({ kind: "open", chunkIndexes: [0, 1, 2] });
          expect(Buffer.from(sealed.root).equals(root)).to.equal(true);
          expect({ ...sealed, root: "" }).to.deep.equal({
            extent,
            sizeBytes: bytes.length,
            root: "",
            memberId: store.memberId,
            storeIncarnation: store.storeIncarnation,
          });
          expect((await store.extentState(extent)).kind).to.equal("sealed");
        });

        it("takes chunks in any order and at the same time", async () => {
          const chunks = chunksOf(bytes);
          await Promise.all(
            [2, 0, 1].map((i) => {
              const chunk = chunks[i] ?? new Uint8Array(0);
              return store.writeChunk(extent, i, chunk, sha256(chunk));
            }),
          );

          await store.sealExtent(seal);

          const read = await Promise.all(
            chunks.map((chunk, i) => store.readChunk(extent, i, 0, chunk.length)),
          );
          expect(Buffer.concat(read).equals(bytes)).to.equal(true);
        });

        it("reads any range of a chunk, before and after the seal", async () => {
          await writeAll(store, extent, bytes);
          for (const sealed of [false, true]) {
            if (sealed) await store.sealExtent(seal);
            for (const [offset, length] of [
              [0, 1],
              [65_535, 2],
              [CHUNK_SIZE_BYTES - 1, 1],
              [100_000, 900_000],
              [500_000, 0],
            ] as const) {
              const read = await store.readChunk(extent, 1, offset, length);
              const expected = bytes.subarray(CHUNK_SIZE_BYTES + offset, CHUNK_SIZE_BYTES + offset + length);
              expect(Buffer.from(read).equals(expected)).to.equal(true);
            }
          }
        });

        it("refuses ranges beyond the chunk by one byte, and chunks that are not there", async () => {
          await writeAll(store, extent, bytes);
          await store.sealExtent(seal);

          await store.readChunk(extent, 2, 12_344, 1);
          await expectReason("RANGE_NOT_SATISFIABLE", () => store.readChunk(extent, 2, 12_344, 2));
          await expectReason("RANGE_NOT_SATISFIABLE", () => store.readChunk(extent, 2, -1, 1));
          await expectReason("CHUNK_NOT_FOUND", () => store.readChunk(extent, 3, 0, 1));
          await expectReason("CHUNK_NOT_FOUND", () => store.chunkInfo(extent, 3));
        });

        it("says which chunks are missing or of the wrong size, and can be completed", async () => {
          const chunks = chunksOf(bytes);
          const first = chunks[0] ?? bytes;
          await store.writeChunk(extent, 0, first, sha256(first));
          const short = bytes.subarray(0, 10);
          await store.writeChunk(extent, 2, short, sha256(short));

          const error = await expectReason("UPLOAD_INCOMPLETE", () => store.sealExtent(seal));
          await writeAll(store, extent, bytes);
          await store.sealExtent(seal);

          expect(error.metadata["missing"]).to.equal("1-2");
        });

        it("replaces a chunk before the seal, and refuses another one after it", async () => {
          const other = testBytes(9, CHUNK_SIZE_BYTES);
          await store.writeChunk(extent, 0, other, sha256(other));
          await writeAll(store, extent, bytes);
          const sealed = await store.sealExtent(seal);
          const first = bytes.subarray(0, CHUNK_SIZE_BYTES);

          await store.writeChunk(extent, 0, first, sha256(first));
          await expectReason("UPLOAD_FINISHED", () => store.writeChunk(extent, 0, other, sha256(other)));
          await expectReason("UPLOAD_FINISHED", () => store.writeChunk(extent, 3, other, sha256(other)));

          expect(await store.sealExtent(seal)).to.deep.equal(sealed);
          const read = await store.readChunk(extent, 0, 0, CHUNK_SIZE_BYTES);
          expect(Buffer.from(read).equals(first)).to.equal(true);
        });

        it("gives the manifest and the digests, and verifies", async () => {
          await writeAll(store, extent, bytes);
          const sealed = await store.sealExtent(seal);

          const manifest = await store.manifest(extent);
          const info = await store.chunkInfo(extent, 2);

          const digests = chunksOf(bytes).map((chunk) => sha256(chunk));
          expect(manifest.origin).to.deep.equal(TEST_ORIGIN);
          expect(manifest.sizeBytes).to.equal(bytes.length);
          expect(manifest.chunkDigests.map((digest) => Buffer.from(digest))).to.deep.equal(
            digests.map((digest) => Buffer.from(digest)),
          );
          expect(info.sizeBytes).to.equal(12_345);
          expect(Buffer.from(info.digest).equals(digests[2] ?? bytes)).to.equal(true);
          expect(await store.verifyExtent(extent)).to.deep.equal(sealed);
        });

        it("is absent once removed, open or sealed, and can be written again", async () => {
          for (const sealed of [false, true]) {
            await writeAll(store, extent, bytes);
            if (sealed) await store.sealExtent(seal);
            await store.removeExtent(extent);
            await store.removeExtent(extent);

            expect(await store.extentState(extent)).to.deep.equal({ kind: "absent" });
            await expectReason("CHUNK_NOT_FOUND", () => store.readChunk(extent, 0, 0, 1));
            await expectReason("CHUNK_NOT_FOUND", () => store.manifest(extent));
          }
          await writeAll(store, extent, bytes);
          await store.sealExtent(seal);

          expect((await store.readChunk(extent, 1, 5, 5)).length).to.equal(5);
        });
      });
    }

    describe("bounds", () => {
      const digest = sha256(new Uint8Array(0));

      it("takes chunks of 1 byte to one chunk, and nothing smaller or larger", async () => {
        for (const sizeBytes of [1, CHUNK_SIZE_BYTES]) {
          const bytes = testBytes(1, sizeBytes);
          await store.writeChunk(extentKey(1), 0, bytes, sha256(bytes));
          await store.putSmall({
            extent: extentKey(2, sizeBytes),
            bytes,
            digest: sha256(bytes),
            origin: TEST_ORIGIN,
          });
        }
        for (const sizeBytes of [0, CHUNK_SIZE_BYTES + 1]) {
          const bytes = new Uint8Array(sizeBytes);
          await expectReason("CHUNK_OUT_OF_RANGE", () => store.writeChunk(extentKey(1), 0, bytes, digest));
          await expectReason("CHUNK_OUT_OF_RANGE", () =>
            store.putSmall({ extent: extentKey(3), bytes, digest, origin: TEST_ORIGIN }),
          );
        }
      });

      it("takes the last chunk of a full extent and none behind it", async () => {
        const bytes = testBytes(1, 10);
        await store.writeChunk(extentKey(1), EXTENT_CHUNK_COUNT_MAX - 1, bytes, sha256(bytes));

        await expectReason("CHUNK_OUT_OF_RANGE", () =>
          store.writeChunk(extentKey(1), EXTENT_CHUNK_COUNT_MAX, bytes, sha256(bytes)),
        );
        await expectReason("CHUNK_OUT_OF_RANGE", () =>
          store.writeChunk(extentKey(1), -1, bytes, sha256(bytes)),
        );
      });

      it("refuses bytes that do not have their digest, and takes nothing", async () => {
        const bytes = testBytes(1, 100);
        for (const expected of [10, undefined]) {
          const extent = extentKey(1, expected ?? 0);
          await store.openExtent(extent, expected);
          await expectReason("DIGEST_MISMATCH", () => store.writeChunk(extent, 0, bytes, digest));
          expect((await store.extentState(extent)).kind).to.be.oneOf(["open", "absent"]);
          await expectReason("UPLOAD_INCOMPLETE", () =>
            store.sealExtent({ extent, sizeBytes: 100, origin: TEST_ORIGIN }),
          );
        }
        const small = { extent: extentKey(9), bytes, digest, origin: TEST_ORIGIN };
        await expectReason("DIGEST_MISMATCH", () => store.putSmall(small));
      });
    });

    describe("putSmall()", () => {
      it("is sealed and readable at once, and idempotent", async () => {
        const bytes = testBytes(4, 5000);
        const small = { extent: extentKey(5), bytes, digest: sha256(bytes), origin: TEST_ORIGIN };

        const [first, second] = await Promise.all([store.putSmall(small), store.putSmall(small)]);
        const third = await store.putSmall(small);

        expect(second).to.deep.equal(first);
        expect(third).to.deep.equal(first);
        expect(Buffer.from(first.root).equals(sha256(bytes))).to.equal(true);
        expect(Buffer.from(await store.readChunk(small.extent, 0, 0, 5000)).equals(bytes)).to.equal(true);
        expect((await store.manifest(small.extent)).origin).to.deep.equal(TEST_ORIGIN);
        expect(await store.verifyExtent(small.extent)).to.deep.equal(first);
        expect(store.stats().extentCount).to.equal(1);
      });

      it("refuses other bytes for the same extent", async () => {
        const bytes = testBytes(4, 5000);
        const other = testBytes(5, 5000);
        const extent = extentKey(5);
        await store.putSmall({ extent, bytes, digest: sha256(bytes), origin: TEST_ORIGIN });

        await expectReason("UPLOAD_FINISHED", () =>
          store.putSmall({ extent, bytes: other, digest: sha256(other), origin: TEST_ORIGIN }),
        );
      });

      it("takes the place of an extent that was begun", async () => {
        const bytes = testBytes(4, 5000);
        for (const expected of [5000, undefined]) {
          const extent = extentKey(6, expected ?? 0);
          await store.openExtent(extent, expected);
          await store.writeChunk(extent, 0, bytes, sha256(bytes));
          await store.putSmall({ extent, bytes, digest: sha256(bytes), origin: TEST_ORIGIN });
          expect((await store.extentState(extent)).kind).to.equal("sealed");
        }
        expect(store.stats().openExtentCount).to.equal(0);
      });
    });

    describe("listExtents()", () => {
      it("lists open and sealed extents in order, page by page", async () => {
        const bytes = testBytes(1, 10);
        for (const contentId of [3, 1, 200, 70_000]) {
          const extent = extentKey(contentId, contentId % 7);
          await store.putSmall({ extent, bytes, digest: sha256(bytes), origin: TEST_ORIGIN });
        }
        await store.writeChunk(extentKey(2), 0, bytes, sha256(bytes));

        const all = await store.listExtents(undefined, 100);
        const first = await store.listExtents(undefined, 2);
        const rest = await store.listExtents(first[1], 100);

        expect(all.map((extent) => extent.contentId)).to.deep.equal([1, 2, 3, 200, 70_000]);
        expect([...first, ...rest]).to.deep.equal(all);
      });
    });

    describe("stats()", () => {
      it("counts extents and live bytes", async () => {
        const bytes = testBytes(1, 1000);
        await store.putSmall({ extent: extentKey(1), bytes, digest: sha256(bytes), origin: TEST_ORIGIN });
        await store.writeChunk(extentKey(2), 0, bytes, sha256(bytes));

        const stats = store.stats();
        await store.removeExtent(extentKey(1));

        expect(stats.extentCount).to.equal(1);
        expect(stats.openExtentCount).to.equal(1);
        expect(stats.liveBytes).to.equal(2000);
        expect(stats.writesRefused).to.equal(false);
        expect(store.stats().liveBytes).to.equal(1000);
      });
    });
  });
}
