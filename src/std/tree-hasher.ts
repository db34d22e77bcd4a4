/**
 * The tree hash of bytes that come in order, in memory that grows with the logarithm of their length.
 *
 * Keeps the roots of full subtrees of falling size, as a binary counter keeps its bits: roots[i] covers levels[i] leaves, a
 * power of two, and levels fall strictly. Merging them from the right at the end gives what foldTreeHash() gives,
 * because there an odd node moves up unchanged.
 */
import { foldTreeHash, sha256 } from "./digest.ts";

/** A running tree hash over leaf digests. */
export class TreeHasher {
  readonly #roots: { digest: Uint8Array; leafCount: number }[] = [];

  /** Adds the digest of the next leaf. */
  addLeaf(digest: Uint8Array): void {
    let node = { digest, leafCount: 1 };
    for (let last = this.#roots.at(-1); last?.leafCount === node.leafCount; last = this.#roots.at(-1)) {
      this.#roots.pop();
      node = { digest: foldTreeHash([last.digest, node.digest]), leafCount: 2 * node.leafCount };
    }
    this.#roots.push(node);
  }

  /** The root over all leaves so far; of no leaves it is the SHA-256 of no bytes. */
  root(): Uint8Array {
    let root: Uint8Array | undefined;
    for (const node of this.#roots.toReversed()) {
      root = root === undefined ? node.digest : foldTreeHash([node.digest, root]);
    }
    return root ?? sha256(new Uint8Array(0));
  }
}
