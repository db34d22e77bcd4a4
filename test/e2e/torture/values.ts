/** What the clients write: small files no two of which are equal, so that whoever reads one knows who wrote it. */
import { must } from "../../../src/std/assert.ts";
import { toHex } from "../../../src/std/bytes.ts";
import { foldTreeHash, sha256 } from "../../../src/std/digest.ts";
import type { Prng } from "../../../src/std/prng.ts";

const SIZE_BYTES_MAX = 3_000;

/** All values that were ever written. */
export class Values {
  readonly #prng: Prng;
  readonly #byHash = new Map<string, string>();
  readonly #bytes = new Map<string, Uint8Array>();
  #next = 1;

  constructor(prng: Prng) {
    this.#prng = prng;
  }

  /** A new value; its bytes are kept for repeats of the request. */
  make(): string {
    const value = `v${this.#next}`;
    this.#next += 1;
    const bytes = Buffer.from(value.padEnd(16 + this.#prng.below(SIZE_BYTES_MAX), " ."));
    this.#byHash.set(hashOf(bytes), value);
    this.#bytes.set(value, bytes);
    return value;
  }

  bytesOf(value: string): Uint8Array {
    return must(this.#bytes.get(value), "a value that was made");
  }

  /** The value of a file with this tree hash. Throws when nobody ever made it. */
  byTreeHash(hash: string): string {
    const value = this.#byHash.get(hash);
    if (value === undefined) throw new Error(`a file with the tree hash ${hash}, which nobody wrote`);
    return value;
  }

  /** The value of these bytes. Throws when nobody ever made them. */
  byBytes(bytes: Uint8Array): string {
    return this.byTreeHash(hashOf(bytes));
  }
}

/** Tree hash of a file of one chunk, hexadecimal. */
function hashOf(bytes: Uint8Array): string {
  return toHex(foldTreeHash([sha256(bytes)]));
}
