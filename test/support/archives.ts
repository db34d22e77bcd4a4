/** Archives put together in memory: entries with their bytes, a layout written and read, ranges made of its pieces. */
import { expect } from "chai";
import { ArchiveLayout, LayoutWriter, type ArchivePiece } from "../../src/archive/layout.ts";
import { decodeTrailer, TRAILER_SIZE_BYTES } from "../../src/archive/layout-format.ts";
import type { ArchiveEntry } from "../../src/archive/zip-records.ts";
import { must } from "../../src/std/assert.ts";
import { crc32 } from "../../src/std/crc32.ts";

/** When the files of these archives were modified. */
export const ARCHIVE_TIME_MS = Date.UTC(2026, 10, 22, 19, 30, 15);

/** Files to archive: an entry and its bytes. */
export class ArchiveSources {
  readonly entries: ArchiveEntry[] = [];
  readonly #bytes = new Map<number, Uint8Array>();

  add(path: string, bytes: Uint8Array, attributes: Partial<ArchiveEntry> = {}): this {
    const contentId = this.entries.length + 1;
    this.#bytes.set(contentId, bytes);
    const file = { path, kind: "file" as const, sizeBytes: bytes.length, crc32: crc32(bytes), contentId };
    this.entries.push({ ...file, modifyTimeMs: ARCHIVE_TIME_MS, mode: undefined, ...attributes });
    return this;
  }

  addFolder(path: string): this {
    const nothing = { sizeBytes: 0, crc32: 0, contentId: 0, mode: undefined };
    this.entries.push({ path, kind: "directory", modifyTimeMs: ARCHIVE_TIME_MS, ...nothing });
    return this;
  }

  bytesOf(piece: ArchivePiece): Uint8Array {
    if (piece.kind === "bytes") return piece.bytes;
    const bytes = must(this.#bytes.get(piece.contentId), "a content");
    expect(bytes.length).to.equal(piece.contentSizeBytes);
    return bytes.subarray(piece.offset, piece.offset + piece.length);
  }
}

/** The stored layout of entries. */
export function writeLayout(entries: Iterable<ArchiveEntry>): Buffer {
  const writer = new LayoutWriter();
  const parts: Uint8Array[] = [];
  for (const entry of entries) parts.push(writer.add(entry));
  return Buffer.concat([...parts, writer.finish()]);
}

/** A stored layout, opened. */
export function readLayout(bytes: Uint8Array): ArchiveLayout {
  const trailer = must(decodeTrailer(bytes.subarray(-TRAILER_SIZE_BYTES)), "a trailer");
  const { offset, length } = ArchiveLayout.indexRange(trailer, bytes.length);
  return new ArchiveLayout(trailer, bytes.subarray(offset, offset + length), bytes.length);
}

/** The pieces of [from, to) of an archive. */
export function* piecesOf(bytes: Uint8Array, from: number, to: number): Generator<ArchivePiece> {
  const layout = readLayout(bytes);
  for (let at = from; at < to;) {
    const part = layout.partAt(at);
    const place = part.region === "end" ? { offset: 0, length: 0 } : layout.pageRange(part.page);
    const end = Math.min(to, part.to);
    yield* layout.pieces(part, bytes.subarray(place.offset, place.offset + place.length), at, end);
    at = end;
  }
}

/** The bytes of [from, to) of an archive. */
export function rangeOf(layout: Uint8Array, sources: ArchiveSources, from: number, to: number): Buffer {
  return Buffer.concat([...piecesOf(layout, from, to)].map((piece) => sources.bytesOf(piece)));
}

/** All bytes of an archive. */
export const wholeOf = (layout: Uint8Array, sources: ArchiveSources): Buffer =>
  rangeOf(layout, sources, 0, readLayout(layout).sizeBytes);

/** Files and folders of all kinds. */
export const mixedSources = (): ArchiveSources =>
  new ArchiveSources()
    .addFolder("报告")
    .add("报告/总结.txt", Buffer.from("完成\n"), { mode: 0o640 })
    .add("报告/空.txt", new Uint8Array(0))
    .addFolder("报告/空文件夹")
    .add("run.sh", Buffer.from("#!/bin/sh\n"), { mode: 0o4755 })
    .add("old.txt", Buffer.from("x"), { modifyTimeMs: Date.UTC(1975, 0, 1) })
    .add("late.txt", Buffer.from("y"), { modifyTimeMs: Date.UTC(2090, 5, 1) });

/** What an archive of stored files holds: names with bytes, a folder's being empty. Checks each checksum on the way. */
export function unpackStored(archive: Buffer): ReadonlyMap<string, Buffer> {
  const end = archive.length - 22;
  expect(archive.readUInt32LE(end), "the end of the archive").to.equal(0x06054b50);
  const files = new Map<string, Buffer>();
  let at = archive.readUInt32LE(end + 16);
  for (let left = archive.readUInt16LE(end + 10); left > 0; left -= 1) {
    expect(archive.readUInt32LE(at), "a record of the directory").to.equal(0x02014b50);
    const [nameLength, extraLength] = [archive.readUInt16LE(at + 28), archive.readUInt16LE(at + 30)];
    const name = archive.toString("utf8", at + 46, at + 46 + nameLength);
    const header = archive.readUInt32LE(at + 42);
    expect(archive.readUInt32LE(header), `the header of ${name}`).to.equal(0x04034b50);
    const bytesAt = header + 30 + archive.readUInt16LE(header + 26) + archive.readUInt16LE(header + 28);
    const bytes = archive.subarray(bytesAt, bytesAt + archive.readUInt32LE(at + 24));
    expect(crc32(bytes), `the checksum of ${name}`).to.equal(archive.readUInt32LE(at + 16));
    expect(files.has(name), `${name} is there twice`).to.equal(false);
    files.set(name, bytes);
    at += 46 + nameLength + extraLength;
  }
  expect(at).to.equal(end);
  return files;
}
