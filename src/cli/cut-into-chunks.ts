/** Cuts what the command line sends and receives into the leaves of the tree hash. */
import { CHUNK_SIZE_BYTES } from "../drive/limits.ts";

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
