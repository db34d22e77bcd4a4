/** Goal: the running tree hash equals the one over all leaves, for every shape of the tree. */
import { expect } from "chai";
import { toHex } from "../../../src/std/bytes.ts";
import { foldTreeHash, sha256 } from "../../../src/std/digest.ts";
import { TreeHasher } from "../../../src/std/tree-hasher.ts";

describe("TreeHasher", () => {
  it("equals the fold over all leaves for 1 to 70 of them", () => {
    for (let count = 1; count <= 70; count += 1) {
      const leaves = Array.from({ length: count }, (_, i) => sha256(Buffer.from(`leaf ${i}`)));
      const hasher = new TreeHasher();
      for (const leaf of leaves) hasher.addLeaf(leaf);

      expect(toHex(hasher.root()), `${count} leaves`).to.equal(toHex(foldTreeHash(leaves)));
    }
  });

  it("is the SHA-256 of nothing without leaves", () => {
    expect(toHex(new TreeHasher().root())).to.equal(toHex(sha256(new Uint8Array(0))));
  });
});
