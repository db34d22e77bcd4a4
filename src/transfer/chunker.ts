/**
 * Cuts a stream of byte arrays of any sizes into chunks of CHUNK_SIZE_BYTES, the last one smaller.
 *
 * A chunk that lies within one array is handed out as a view of it; otherwise its pieces are put together once. Holds at
 * most one chunk and one array of the source. Chunks are never empty; an empty stream gives none.
 */
import { CHUNK_SIZE_BYTES } from "../drive/limits.ts";

/** The chunks of `source`, in order. A failure of the source goes on; ending early ends the source. */
export async function* toChunks(
  source: AsyncIterable<Uint8Array>,
): AsyncGenerator<Uint8Array, void, undefined> {
  let pieces: Uint8Array[] = [];
  let size = 0;
  for await (const array of source) {
    for (let at = 0; at < array.length;) {
      const piece = array.subarray(at, at + CHUNK_SIZE_BYTES - size);
      pieces.push(piece);
      size += piece.length;
      at += piece.length;
      if (size < CHUNK_SIZE_BYTES) continue;
      yield join(pieces, size);
      pieces = [];
      size = 0;
    }
  }
  if (size > 0) yield join(pieces, size);
}

function join(pieces: readonly Uint8Array[], size: number): Uint8Array {
  const [only] = pieces;
  return pieces.length === 1 && only !== undefined ? only : Buffer.concat(pieces, size);
}
