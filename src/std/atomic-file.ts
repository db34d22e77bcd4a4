/**
 * A small file that is replaced as a whole: after a crash it holds the old bytes or the new ones, never a mixture.
 *
 * Written to a temporary name, synced, renamed over the old one, and the directory synced. The content is guarded by a
 * checksum, so that damage is told apart from absence: damaged is never taken for "no file yet".
 *
 *   file = magic(8) length(4, big endian) crc32(4, over magic, length and content) content(length)
 */
import { assert } from "./assert.ts";
import { asBuffer } from "./bytes.ts";
import { crc32 } from "./crc32.ts";
import type { Disk } from "./disk.ts";

/** Bytes before the content. */
const HEADER_SIZE_BYTES = 16;

/** Content of such a file at most: they are read and written in one piece. */
export const ATOMIC_FILE_SIZE_BYTES_MAX = 1024 * 1024;

/** What readAtomicFile() found. */
export type AtomicFileContent =
  | { readonly kind: "absent" }
  /** The file exists and is not what was written: `reason` says how. */
  | { readonly kind: "damaged"; readonly reason: string }
  | { readonly kind: "intact"; readonly content: Uint8Array };

/** Where such a file lives. */
export interface AtomicFileName {
  readonly directory: string;
  /** Name inside the directory; `<name>.tmp` is used while writing. */
  readonly name: string;
  /** 8 ASCII characters that say what kind of file it is. */
  readonly magic: string;
}

/** Replaces the file; durable when the promise resolves. The directory must exist. At most ATOMIC_FILE_SIZE_BYTES_MAX. */
export async function writeAtomicFile(disk: Disk, file: AtomicFileName, content: Uint8Array): Promise<void> {
  assert(content.length <= ATOMIC_FILE_SIZE_BYTES_MAX, `${file.name} of ${content.length} bytes`);
  const header = headerOf(file, content);
  const path = `${file.directory}/${file.name}`;
  const temporary = `${path}.tmp`;
  await disk.remove(temporary);
  const handle = await disk.open(temporary, "create");
  try {
    await handle.write(0, [header, content]);
    await handle.sync();
  } catch (error) {
    // Best effort: a leftover only takes space until the next attempt removes it.
    await disk.remove(temporary).catch(() => undefined);
    throw error;
  } finally {
    await handle.close();
  }
  await disk.rename(temporary, path);
  await disk.syncDirectory(file.directory);
}

/** Makes the directory, durably: a file is not durable in a directory that a crash may take away. Its parent exists. */
export async function makeDurableDirectory(disk: Disk, directory: string): Promise<void> {
  await disk.makeDirectory(directory);
  const at = directory.lastIndexOf("/");
  await disk.syncDirectory(at < 0 ? "." : directory.slice(0, Math.max(1, at)));
}

/** Reads the file. Rejects only with errors of the disk. */
export async function readAtomicFile(disk: Disk, file: AtomicFileName): Promise<AtomicFileContent> {
  const path = `${file.directory}/${file.name}`;
  if (!(await disk.exists(path))) return { kind: "absent" };
  const handle = await disk.open(path, "read");
  try {
    const bytes = await handle.read(0, HEADER_SIZE_BYTES + ATOMIC_FILE_SIZE_BYTES_MAX + 1);
    return parseAtomicFile(file, bytes);
  } finally {
    await handle.close();
  }
}

function parseAtomicFile(file: AtomicFileName, bytes: Uint8Array): AtomicFileContent {
  if (bytes.length < HEADER_SIZE_BYTES) return { kind: "damaged", reason: `only ${bytes.length} bytes` };
  const content = bytes.subarray(HEADER_SIZE_BYTES);
  const buffer = asBuffer(bytes);
  const magic = buffer.toString("latin1", 0, 8);
  if (magic !== file.magic) return { kind: "damaged", reason: `magic ${JSON.stringify(magic)}` };
  const length = buffer.readUInt32BE(8);
  if (length !== content.length) return { kind: "damaged", reason: `${content.length} bytes, not ${length}` };
  if (!asBuffer(headerOf(file, content)).equals(buffer.subarray(0, HEADER_SIZE_BYTES))) {
    return { kind: "damaged", reason: "the checksum does not match" };
  }
  return { kind: "intact", content };
}

function headerOf(file: AtomicFileName, content: Uint8Array): Uint8Array {
  assert(/^[\x21-\x7e]{8}$/.test(file.magic), `magic ${file.magic} must be 8 printable characters`);
  const header = Buffer.alloc(HEADER_SIZE_BYTES);
  header.write(file.magic, 0, "latin1");
  header.writeUInt32BE(content.length, 8);
  header.writeUInt32BE(crc32(content, crc32(header.subarray(0, 12))), 12);
  return header;
}
