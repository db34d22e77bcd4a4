/** The chunk files of a node, looked into and damaged as a disk does it: nobody is told. */
import { expect } from "chai";
import { closeSync, openSync, readdirSync, readSync, writeSync } from "node:fs";
import { join } from "node:path";

/** Bytes of a file that are looked at; a segment is no longer. */
const LOOKED_AT_BYTES = 64 * 1024 * 1024;

/** Whether `needle` stands in one of the node's chunk segments. */
export function holdsStoredBytes(dataDirectory: string, needle: Buffer): boolean {
  return find(join(dataDirectory, "chunks"), needle, () => undefined);
}

/** Finds `needle` in the node's chunk segments and flips one bit of it. */
export function flipStoredBit(dataDirectory: string, needle: Buffer): void {
  const isFlipped = find(join(dataDirectory, "chunks"), needle, (file, at, byte) => {
    writeSync(file, Buffer.of(byte ^ 0x10), 0, 1, at);
  });
  expect(isFlipped, "the bytes are stored on this node").to.equal(true);
}

function find(
  folder: string,
  needle: Buffer,
  use: (file: number, at: number, byte: number) => void,
): boolean {
  return readdirSync(folder, { withFileTypes: true }).some((item) => {
    const path = join(folder, item.name);
    if (item.isDirectory()) return find(path, needle, use);
    const file = openSync(path, "r+");
    try {
      const buffer = Buffer.alloc(LOOKED_AT_BYTES);
      const size = readSync(file, buffer, 0, buffer.length, 0);
      const at = buffer.subarray(0, size).indexOf(needle);
      if (at < 0) return false;
      use(file, at, buffer[at] ?? 0);
      return true;
    } finally {
      closeSync(file);
    }
  });
}
