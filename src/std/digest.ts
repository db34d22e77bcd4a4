/**
 * SHA-256 and the tree hash over it.
 *
 * The tree hash is the one published for Amazon S3 Glacier ("Computing Checksums"): SHA-256 of each 1 MiB leaf, then
 * SHA-256 of each concatenated pair, level by level; an odd node moves up unchanged. Up to one leaf it equals plain SHA-256.
 * A run of leaves whose count is a power of two and whose start is a multiple of it is a subtree, so the root of an extent
 * of 1,024 leaves is an inner node of the whole file's tree.
 */
import { createHash, hash, webcrypto, type Hash } from "node:crypto";
import { assert, must } from "./assert.ts";
import { bytesEqual } from "./bytes.ts";

/** Bytes in a SHA-256 digest. */
export const DIGEST_SIZE_BYTES = 32;

/** The SHA-256 of `bytes`: 32 bytes owned by the caller. Runs on the calling thread. */
export function sha256(bytes: Uint8Array): Uint8Array {
  return hash("sha256", bytes, "buffer");
}

/** A running SHA-256. */
export function sha256Stream(): Hash {
  return createHash("sha256");
}

/** Computes SHA-256 digests, possibly away from the calling thread. */
export interface Digester {
  /** The SHA-256 of `bytes`, which must not change before the promise settles. */
  sha256(bytes: Uint8Array): Promise<Uint8Array>;
}

/** Hashes on the thread pool, so that the event loop stays free for large inputs. */
export const threadPoolDigester: Digester = {
  async sha256(bytes) {
    // Below this size the hop to the pool and back costs more than the hash itself.
    if (bytes.length < 16 * 1024) return sha256(bytes);
    return new Uint8Array(await webcrypto.subtle.digest("SHA-256", bytes as Uint8Array<ArrayBuffer>));
  },
};

/** Hashes on the calling thread: deterministic, for the simulator. */
export const inlineDigester: Digester = { sha256: (bytes) => Promise.resolve(sha256(bytes)) };

/**
 * Digests that this process computed itself of arrays that it still holds, so that the next part they are handed to need not
 * compute them again. Keyed by the array as an object: a copy of the bytes is not known. Who remembers an array promises that its
 * bytes do not change any more.
 */
export class DigestMemory {
  readonly #digests = new WeakMap<Uint8Array, Uint8Array>();

  /** Takes note that `digest` is the SHA-256 of `bytes`, computed from them. */
  remember(bytes: Uint8Array, digest: Uint8Array): void {
    this.#digests.set(bytes, digest);
  }

  /** Whether `bytes` are known to have the SHA-256 `digest`; false says nothing. */
  knows(bytes: Uint8Array, digest: Uint8Array): boolean {
    const known = this.#digests.get(bytes);
    return known !== undefined && bytesEqual(known, digest);
  }
}

/**
 * Folds leaf digests (or the roots of equal, aligned, full subtrees, the last of which may be smaller) into the root.
 * @param nodes 32-byte digests in order; at least one
 */
export function foldTreeHash(nodes: readonly Uint8Array[]): Uint8Array {
  assert(
    nodes.length > 0,
    "a tree hash needs at least one node; an empty content has the SHA-256 of no bytes as its leaf",
  );
  let level = nodes;
  while (level.length > 1) {
    const next: Uint8Array[] = [];
    for (let i = 0; i + 1 < level.length; i += 2) {
      const pair = createHash("sha256");
      pair.update(must(level[i], "left of a pair"));
      pair.update(must(level[i + 1], "right of a pair"));
      next.push(pair.digest());
    }
    if (level.length % 2 === 1) next.push(must(level[level.length - 1], "odd node"));
    level = next;
  }
  return must(level[0], "the root");
}
