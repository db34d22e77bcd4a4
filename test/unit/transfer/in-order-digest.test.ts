/** Goal: the plain digest of an upload by chunks is right or unknown, never wrong. Method: orders, repeats and bounds. */
import { expect } from "chai";
import { CHUNK_SIZE_BYTES } from "../../../src/drive/limits.ts";
import { foldTreeHash, sha256 } from "../../../src/std/digest.ts";
import {
  EARLY_CHUNK_COUNT_MAX,
  InOrderDigest,
  LEAF_COUNT_MAX,
} from "../../../src/transfer/in-order-digest.ts";
import { patternBytes, TestDrives, uploadOf } from "../../support/use-drives.ts";

const chunkOf = (index: number): Buffer => Buffer.from(`chunk ${index}`);

/** The digest known after the chunks of `order` came, for a content of `count` chunks. */
function digestAfter(order: readonly number[], count: number): Uint8Array | undefined {
  const digest = new InOrderDigest();
  for (const index of order) digest.take(index, chunkOf(index), sha256(chunkOf(index)));
  const leaves = Array.from({ length: count }, (_, index) => sha256(chunkOf(index)));
  return digest.digestOf(foldTreeHash(leaves), count);
}

const whole = (count: number): Uint8Array =>
  sha256(Buffer.concat(Array.from({ length: count }, (_, index) => chunkOf(index))));

describe("InOrderDigest", () => {
  it("knows the digest of chunks that came in order, a little out of it, or twice", () => {
    for (const order of [
      [0, 1, 2, 3],
      [1, 0, 3, 2],
      [0, 0, 2, 1, 1, 3, 2],
    ]) {
      expect(digestAfter(order, 4)).to.deep.equal(whole(4));
    }
  });

  it("waits for as many chunks as its bound, and for no more", () => {
    const late = (count: number): readonly number[] => [...Array.from({ length: count }, (_, i) => i + 1), 0];

    expect(digestAfter(late(EARLY_CHUNK_COUNT_MAX), EARLY_CHUNK_COUNT_MAX + 1)).to.deep.equal(
      whole(EARLY_CHUNK_COUNT_MAX + 1),
    );
    expect(digestAfter(late(EARLY_CHUNK_COUNT_MAX + 1), EARLY_CHUNK_COUNT_MAX + 2)).to.equal(undefined);
  });

  it("does not know it when a chunk went elsewhere, or has other bytes in the end", () => {
    expect(digestAfter([0, 2], 3)).to.equal(undefined);
    const digest = new InOrderDigest();
    digest.take(0, chunkOf(0), sha256(chunkOf(0)));

    expect(digest.digestOf(sha256(chunkOf(1)), 1)).to.equal(undefined);
    expect(digest.digestOf(sha256(chunkOf(0)), 1)).to.deep.equal(sha256(chunkOf(0)));
  });

  it("keeps the digests of as many chunks as its bound, and of no more", () => {
    const leaf = sha256(chunkOf(0));
    const known = (count: number): boolean => {
      const digest = new InOrderDigest();
      for (let index = 0; index < count; index += 1) digest.take(index, chunkOf(0), leaf);
      const treeHash = foldTreeHash(Array.from({ length: count }, () => leaf));
      return digest.digestOf(treeHash, count) !== undefined;
    };

    expect([known(LEAF_COUNT_MAX), known(LEAF_COUNT_MAX + 1)]).to.deep.equal([true, false]);
  });

  for (const nodes of ["one node", "two nodes"] as const) {
    it(`gives a file that was uploaded in chunks through ${nodes} its SHA-256 when it is known`, async () => {
      const drives = new TestDrives(3);
      const bytes = patternBytes(3 * CHUNK_SIZE_BYTES + 5);
      const { uploadId } = await drives.drive(1).initUpload(uploadOf("/f", { sizeBytes: bytes.length }));
      for (const index of [0, 2, 1, 3]) {
        const chunk = bytes.subarray(index * CHUNK_SIZE_BYTES, (index + 1) * CHUNK_SIZE_BYTES);
        const drive = drives.drive(nodes === "two nodes" && index === 2 ? 2 : 1);
        await drive.writeChunk(uploadId, index, chunk, undefined);
      }

      const { entry } = await drives.drive(1).completeUpload(uploadId, {});

      expect(entry.sha256).to.deep.equal(nodes === "one node" ? sha256(bytes) : new Uint8Array(0));
    });
  }
});
