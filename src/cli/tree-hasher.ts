/**
 * The tree hash of bytes that come in order, in memory that grows with the logarithm of their length.
 *
 * Keeps the roots of full subtrees of falling size, as a binary counter keeps its bits: roots[i] covers levels[i] leaves, a
 * power of two, and levels fall strictly. Merging them from the right at the end gives what std/digest foldTreeHash() gives,
 * because there an odd node moves up unchanged.
 */
import { CHUNK_SIZE_BYTES } from "../drive/limits.ts";
import { foldTreeHash, sha256 } from "../std/digest.ts";

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

/**
 * Cuts a stream of pieces of any size into leaves of CHUNK_SIZE_BYTES, the last one smaller. Each is owned by the consumer;
 * a piece that is a leaf already is passed on without a copy.
 * @param sizeBytes how many bytes will come, when that is known: small files then take small buffers
 */
export async function* cutIntoChunks(
  pieces: AsyncIterable<Uint8Array>,
  sizeBytes?: number,
): AsyncGenerator<Uint8Array> {
  let leftBytes = sizeBytes ?? Infinity;
  let filling: Uint8Array | undefined;
  let filled = 0;
  for await (const piece of pieces) {
    for (let at = 0; at < piece.length;) {
      const leafSizeBytes = Math.max(1, Math.min(CHUNK_SIZE_BYTES, leftBytes));
      if (filled === 0 && piece.length - at >= leafSizeBytes) {
        yield piece.subarray(at, at + leafSizeBytes);
        at += leafSizeBytes;
        leftBytes -= leafSizeBytes;
        continue;
      }
      filling ??= Buffer.allocUnsafe(leafSizeBytes);
      const taken = Math.min(leafSizeBytes - filled, piece.length - at);
      filling.set(piece.subarray(at, at + taken), filled);
      filled += taken;
      at += taken;
      if (filled === leafSizeBytes) {
        yield filling;
        filling = undefined;
        filled = 0;
        leftBytes -= leafSizeBytes;
      }
    }
  }
  if (filling !== undefined) yield filling.subarray(0, filled);
}
