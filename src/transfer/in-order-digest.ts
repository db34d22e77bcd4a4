/**
 * The plain SHA-256 of an upload by chunks, as far as this node can know it: when all chunks came through here, about in order.
 *
 * It is a by-product and never delays a chunk. What the chunks were is held against the tree hash at the end, so a chunk that was
 * sent again with other bytes, here or at another node, cannot make it wrong; it is then unknown, and a later read finds it.
 */
import { must } from "../std/assert.ts";
import { bytesEqual } from "../std/bytes.ts";
import { foldTreeHash, sha256Stream } from "../std/digest.ts";

/** Chunks that may come before their turn: twice what one stream has in work. More are not waited for. */
export const EARLY_CHUNK_COUNT_MAX = 16;

/** Chunks whose digests are kept (2 MiB of them); a file of more than 64 GiB gets its plain digest from a later read. */
export const LEAF_COUNT_MAX = 65_536;

/** Hashes the chunks of one upload in order. */
export class InOrderDigest {
  #plain: ReturnType<typeof sha256Stream> | undefined = sha256Stream();
  #leaves: Uint8Array[] = [];
  readonly #early = new Map<number, { readonly bytes: Uint8Array; readonly leaf: Uint8Array }>();

  /** Takes a chunk that was verified; `leaf` is its SHA-256. */
  take(chunkIndex: number, bytes: Uint8Array, leaf: Uint8Array): void {
    if (this.#plain === undefined || chunkIndex < this.#leaves.length) return;
    this.#early.set(chunkIndex, { bytes, leaf });
    for (
      let next = this.#early.get(this.#leaves.length);
      next !== undefined;
      next = this.#early.get(this.#leaves.length)
    ) {
      this.#early.delete(this.#leaves.length);
      this.#plain.update(next.bytes);
      this.#leaves.push(next.leaf);
    }
    if (this.#early.size > EARLY_CHUNK_COUNT_MAX || this.#leaves.length > LEAF_COUNT_MAX) this.#giveUp();
  }

  /** The SHA-256 of the content with `treeHash` and `chunkCount` chunks; undefined when it is not known. */
  digestOf(treeHash: Uint8Array, chunkCount: number): Uint8Array | undefined {
    if (this.#plain === undefined || chunkCount === 0 || this.#leaves.length !== chunkCount) return undefined;
    if (!bytesEqual(foldTreeHash(this.#leaves), treeHash)) return undefined;
    // A copy: completing may be tried again.
    return must(this.#plain, "it was not given up").copy().digest();
  }

  #giveUp(): void {
    this.#plain = undefined;
    this.#leaves = [];
    this.#early.clear();
  }
}
