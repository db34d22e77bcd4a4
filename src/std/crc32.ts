/** CRC-32 (IEEE 802.3, polynomial 0xEDB88320 reflected), the checksum that guards records on disk. */
import { crc32 as zlibCrc32 } from "node:zlib";

/**
 * The CRC-32 of `bytes` as an unsigned 32-bit integer.
 * @param seed the checksum of the bytes before these, to checksum a run in pieces; 0 for none
 */
export function crc32(bytes: Uint8Array, seed = 0): number {
  return zlibCrc32(bytes, seed);
}
