/** Small helpers over byte arrays that the standard library does not give. */

/** Lower-case hexadecimal of `bytes`. */
export function toHex(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("hex");
}

/** The bytes of a hexadecimal string, or undefined when it is not one (odd length, other characters). */
export function fromHex(text: string): Uint8Array | undefined {
  if (text.length % 2 !== 0 || !/^[0-9a-fA-F]*$/.test(text)) return undefined;
  return new Uint8Array(Buffer.from(text, "hex"));
}

/** Whether two byte arrays hold the same bytes. Not constant-time. */
export function bytesEqual(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && Buffer.compare(a, b) === 0;
}

/** Orders two byte arrays as unsigned bytes, shorter first on a tie: negative, zero or positive. */
export function compareBytes(a: Uint8Array, b: Uint8Array): number {
  return Buffer.compare(a, b);
}

/** UTF-8 bytes of `text`. */
export function utf8(text: string): Uint8Array {
  return Buffer.from(text, "utf8");
}

/** A Buffer that views the same memory as `bytes`; no copy. */
export function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** Small arrays are cut from blocks of this size; what keeps one of them keeps its block, so blocks are small too. */
const BLOCK_SIZE_BYTES = 8192;

/** Larger arrays get memory of their own. */
const BLOCK_SHARE_SIZE_BYTES_MAX = 1024;

let block = new ArrayBuffer(BLOCK_SIZE_BYTES);
let blockUsed = 0;

/**
 * A copy of the first `length` bytes of `source`. Small copies share blocks of memory: one block for each would cost more to
 * make, and to collect, than the copy itself. So the `buffer` of the result holds other bytes too.
 */
export function copyOfStart(source: Uint8Array, length: number): Uint8Array {
  // Not slice(): that of a Buffer is a view.
  if (length > BLOCK_SHARE_SIZE_BYTES_MAX) return new Uint8Array(source.subarray(0, length));
  if (blockUsed + length > BLOCK_SIZE_BYTES) {
    block = new ArrayBuffer(BLOCK_SIZE_BYTES);
    blockUsed = 0;
  }
  const copy = new Uint8Array(block, blockUsed, length);
  blockUsed += length;
  for (let at = 0; at < length; at += 1) copy[at] = source[at] as number;
  return copy;
}
