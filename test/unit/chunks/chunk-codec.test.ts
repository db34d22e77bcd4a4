/**
 * Manifest heads as bytes: with a hint, without one as older versions wrote them, and moved ones, whose shares follow.
 */
import { expect } from "chai";
import {
  decodeManifestHead,
  decodeSealHead,
  decodeShares,
  encodeManifestHead,
  encodeMovedHead,
  KIND_MOVED_MANIFEST,
  type ManifestHead,
} from "../../../src/chunks/chunk-codec.ts";
import { ORIGIN_PATH_SIZE_BYTES_MAX } from "../../../src/drive/limits.ts";

const HEAD: ManifestHead = {
  extent: { contentId: 5, extentIndex: 1 },
  sizeBytes: 70,
  root: new Uint8Array(32).fill(0xab),
  ownSegmentId: 3,
  origin: { clusterId: "c1", entryId: 9, commitIndex: 258 },
};

/** HEAD as it was written before there were hints. */
const OLD_BYTES =
  "0500000000000000" +
  "01000000" +
  "03000000" +
  "4600000000000000" +
  "ab".repeat(32) +
  "0900000000000000" +
  "0201000000000000" +
  "02" +
  "6331";

function hinted(path: string): ManifestHead {
  const hint = { purpose: "tree-snapshot" as const, path, modifyTimeMs: 77, contentSizeBytes: 2 ** 40 };
  return { ...HEAD, origin: { ...HEAD.origin, hint } };
}

describe("the head of a manifest", () => {
  it("without a hint is the same bytes as ever", () => {
    expect(Buffer.from(encodeManifestHead(HEAD)).toString("hex")).to.equal(OLD_BYTES);
    expect(decodeManifestHead(Buffer.from(OLD_BYTES, "hex"))).to.deep.equal(HEAD);
  });

  it("keeps its hint, up to the longest path and not beyond", () => {
    for (const path of ["", "/目录/x", "p".repeat(ORIGIN_PATH_SIZE_BYTES_MAX)]) {
      expect(decodeManifestHead(encodeManifestHead(hinted(path)))).to.deep.equal(hinted(path));
    }
    expect(() => encodeManifestHead(hinted("p".repeat(ORIGIN_PATH_SIZE_BYTES_MAX + 1)))).to.throw("too long");
  });

  it("tells the shares of a moved one from its hint", () => {
    const shares = [{ segmentId: 4, sizeBytes: 70 }];
    for (const head of [HEAD, hinted("/a")]) {
      const moved = encodeMovedHead(head, shares);
      expect(decodeSealHead(KIND_MOVED_MANIFEST, moved)).to.deep.equal(head);
      expect(decodeShares(moved)).to.deep.equal(shares);
    }
  });
});
