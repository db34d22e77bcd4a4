/** Checks of what a client states about bytes against what came: sizes, chunks and hashes. Each error names both. */
import { chunkCount, chunkSizeBytes } from "../drive/content.ts";
import { DriveError } from "../drive/errors.ts";
import { CHUNK_SIZE_BYTES, CONTENT_SIZE_BYTES_MAX } from "../drive/limits.ts";
import { bytesEqual, toHex } from "../std/bytes.ts";
import { sha256 } from "../std/digest.ts";

/** The tree hash, and plain SHA-256, of no bytes. */
export const EMPTY_TREE_HASH = sha256(new Uint8Array(0));

/** Checks the size that an upload states; absent means unknown. @throws DriveError ARGUMENT_INVALID, PAYLOAD_TOO_LARGE */
export function checkSize(sizeBytes: number | undefined): void {
  if (sizeBytes === undefined) return;
  if (!Number.isSafeInteger(sizeBytes) || sizeBytes < 0) {
    throw new DriveError("ARGUMENT_INVALID", `A size is a whole number of bytes, not ${sizeBytes}.`, {
      size_bytes: String(sizeBytes),
    });
  }
  if (sizeBytes <= CONTENT_SIZE_BYTES_MAX) return;
  throw new DriveError("PAYLOAD_TOO_LARGE", `A file has at most ${CONTENT_SIZE_BYTES_MAX} bytes.`, {
    size_bytes: String(sizeBytes),
    size_bytes_max: String(CONTENT_SIZE_BYTES_MAX),
  });
}

/**
 * Checks the place and length of a chunk within a content of `sizeBytes` (undefined: unknown).
 * @throws DriveError CHUNK_OUT_OF_RANGE, PAYLOAD_TOO_LARGE, PAYLOAD_TRUNCATED
 */
export function checkChunk(sizeBytes: number | undefined, chunkIndex: number, lengthBytes: number): void {
  const count = chunkCount(sizeBytes ?? CONTENT_SIZE_BYTES_MAX);
  if (!Number.isSafeInteger(chunkIndex) || chunkIndex < 0 || chunkIndex >= count) {
    throw new DriveError(
      "CHUNK_OUT_OF_RANGE",
      `The upload has chunks 0 to ${count - 1}, not ${chunkIndex}.`,
      {
        chunk_index: String(chunkIndex),
        chunk_count: String(count),
      },
    );
  }
  const wanted = sizeBytes === undefined ? CHUNK_SIZE_BYTES : chunkSizeBytes(sizeBytes, chunkIndex);
  const least = sizeBytes === undefined ? 1 : wanted;
  if (lengthBytes >= least && lengthBytes <= wanted) return;
  throw new DriveError(
    lengthBytes > wanted ? "PAYLOAD_TOO_LARGE" : "PAYLOAD_TRUNCATED",
    `Chunk ${chunkIndex} has ${lengthBytes} bytes instead of ${wanted}.`,
    { chunk_index: String(chunkIndex), size_bytes: String(lengthBytes), wanted_size_bytes: String(wanted) },
  );
}

/** The size of an upload, from its start or stated at its end. @throws DriveError ARGUMENT_INVALID when neither or unlike */
export function agreedSize(known: number | undefined, stated: number | undefined): number {
  checkSize(stated);
  if (known !== undefined && stated !== undefined && known !== stated) {
    throw new DriveError("ARGUMENT_INVALID", `The upload was begun with ${known} bytes, not ${stated}.`, {
      size_bytes: String(known),
      stated_size_bytes: String(stated),
    });
  }
  const sizeBytes = known ?? stated;
  if (sizeBytes !== undefined) return sizeBytes;
  throw new DriveError("ARGUMENT_INVALID", "Completing an upload of unknown length states its size.", {});
}

/** Checks the tree hash of what was stored against the stated one, if any. @throws DriveError DIGEST_MISMATCH */
export function checkTreeHash(stated: Uint8Array | undefined, actual: Uint8Array): void {
  if (stated === undefined || stated.length === 0 || bytesEqual(stated, actual)) return;
  throw new DriveError("DIGEST_MISMATCH", "The bytes have another tree hash than stated.", {
    stated: toHex(stated),
    actual: toHex(actual),
  });
}

/** Checks the bytes that came of a stream so far against the stated size, if any. @throws DriveError PAYLOAD_TOO_LARGE */
export function checkSoFar(stated: number | undefined, sizeBytes: number): void {
  const max = stated ?? CONTENT_SIZE_BYTES_MAX;
  if (sizeBytes <= max) return;
  throw new DriveError("PAYLOAD_TOO_LARGE", `More than ${max} bytes came.`, { size_bytes_max: String(max) });
}

/** Checks the bytes of a stream that ended against the stated size, if any. @throws DriveError PAYLOAD_TRUNCATED */
export function checkWhole(stated: number | undefined, sizeBytes: number): void {
  if (stated === undefined || sizeBytes === stated) return;
  throw new DriveError("PAYLOAD_TRUNCATED", `Only ${sizeBytes} of ${stated} bytes came.`, {
    size_bytes: String(sizeBytes),
    stated_size_bytes: String(stated),
  });
}
