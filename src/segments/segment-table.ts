/**
 * The table of a segment log: one small file that says which segments exist, replaced as a whole.
 *
 * It makes absence meaningful: a segment that the table names and the directory lacks is lost, a file that the table does
 * not name is a leftover of a crash. It is replaced (std/atomic-file.ts) before the first record of a new segment is written
 * and before the file of a removed one is unlinked. FORMAT.md has the layout.
 */
import { readAtomicFile, writeAtomicFile } from "../std/atomic-file.ts";
import { asBuffer, bytesEqual } from "../std/bytes.ts";
import type { Disk } from "../std/disk.ts";
import type { Position } from "./record.ts";
import { corruptError, SyncError } from "./segment-error.ts";
import { FORMAT_VERSION, IDENTITY_SIZE_BYTES_MAX } from "./segment-header.ts";

/** Name of the table in the directory of a log. */
export const TABLE_NAME = "segments.table";

const TABLE_MAGIC = "NDTABLE1";
const FIXED_SIZE_BYTES = 20;

/** What the table says. */
export interface SegmentTable {
  readonly identity: Uint8Array;
  /** How far the log was durable when the table was written. */
  readonly durable: Position;
  /** Segments that exist, ascending. */
  readonly segmentIds: readonly number[];
}

/** Encodes a table; runs of consecutive ids take eight bytes. */
export function encodeTable(table: SegmentTable): Uint8Array {
  const runs: { first: number; last: number }[] = [];
  for (const id of table.segmentIds) {
    const run = runs.at(-1);
    if (run !== undefined && run.last + 1 === id) run.last = id;
    else runs.push({ first: id, last: id });
  }
  const bytes = Buffer.alloc(FIXED_SIZE_BYTES + table.identity.length + 8 * runs.length);
  bytes.writeUInt32LE(FORMAT_VERSION, 0);
  bytes.writeUInt32LE(table.durable.segmentId, 4);
  bytes.writeUInt32LE(table.durable.offset, 8);
  bytes.writeUInt32LE(table.identity.length, 12);
  bytes.writeUInt32LE(runs.length, 16);
  bytes.set(table.identity, FIXED_SIZE_BYTES);
  runs.forEach((run, i) => {
    const at = FIXED_SIZE_BYTES + table.identity.length + 8 * i;
    bytes.writeUInt32LE(run.first, at);
    bytes.writeUInt32LE(run.last, at + 4);
  });
  return bytes;
}

/** Decodes a table; undefined when it is of another version or not one. */
export function decodeTable(bytes: Uint8Array): SegmentTable | undefined {
  const buffer = asBuffer(bytes);
  if (buffer.length < FIXED_SIZE_BYTES || buffer.readUInt32LE(0) !== FORMAT_VERSION) return undefined;
  const identitySize = buffer.readUInt32LE(12);
  const runCount = buffer.readUInt32LE(16);
  if (identitySize > IDENTITY_SIZE_BYTES_MAX || runCount === 0) return undefined;
  if (buffer.length !== FIXED_SIZE_BYTES + identitySize + 8 * runCount) return undefined;
  const segmentIds: number[] = [];
  for (let i = 0; i < runCount; i += 1) {
    const at = FIXED_SIZE_BYTES + identitySize + 8 * i;
    const last = buffer.readUInt32LE(at + 4);
    for (let id = buffer.readUInt32LE(at); id <= last; id += 1) segmentIds.push(id);
  }
  return {
    identity: Uint8Array.from(buffer.subarray(FIXED_SIZE_BYTES, FIXED_SIZE_BYTES + identitySize)),
    durable: { segmentId: buffer.readUInt32LE(4), offset: buffer.readUInt32LE(8) },
    segmentIds,
  };
}

/**
 * Reads the table of a log; undefined when there is none.
 * Errors: DATA_CORRUPT when it is damaged or belongs to a log of another identity.
 */
export async function readTable(
  disk: Disk,
  directory: string,
  identity: Uint8Array,
): Promise<SegmentTable | undefined> {
  const path = `${directory}/${TABLE_NAME}`;
  const found = await readAtomicFile(disk, { directory, name: TABLE_NAME, magic: TABLE_MAGIC });
  if (found.kind === "absent") return undefined;
  const table = found.kind === "intact" ? decodeTable(found.content) : undefined;
  if (table === undefined) throw corruptError("the table of segments fails its checksum", path, 0);
  if (!bytesEqual(table.identity, identity)) {
    throw corruptError("the table of segments belongs to another store", path, 0);
  }
  return table;
}

/** Replaces the table durably. Errors: those of the disk; then the old table or the new one is there. */
export async function writeTable(disk: Disk, directory: string, table: SegmentTable): Promise<void> {
  await writeAtomicFile(disk, { directory, name: TABLE_NAME, magic: TABLE_MAGIC }, encodeTable(table));
}

/** Syncs a file; a failure is a SyncError. */
export async function syncFile(file: { readonly path: string; sync(): Promise<void> }): Promise<void> {
  try {
    await file.sync();
  } catch (error) {
    throw new SyncError(file.path, error);
  }
}

/** Syncs a directory; a failure is a SyncError. */
export async function syncDirectory(disk: Disk, path: string): Promise<void> {
  try {
    await disk.syncDirectory(path);
  } catch (error) {
    throw new SyncError(path, error);
  }
}
