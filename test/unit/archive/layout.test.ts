/**
 * The layout of ZIP archives. Goal: any range of an archive is the same bytes as that range of the whole, and sizes are exact
 * beyond 32 bits too. Method: small archives are cut at every offset; the records of large ones are read by hand. What other
 * programs make of them: test/interop/archive.test.ts.
 */
import { expect } from "chai";
import { ArchiveLayout } from "../../../src/archive/layout.ts";
import {
  decodePage,
  decodeTrailer,
  PAGE_ENTRY_COUNT,
  TRAILER_SIZE_BYTES,
} from "../../../src/archive/layout-format.ts";
import {
  archivedName,
  centralRecord,
  dosTime,
  localHeader,
  type ArchiveEntry,
} from "../../../src/archive/zip-records.ts";
import { must } from "../../../src/std/assert.ts";
import { asBuffer } from "../../../src/std/bytes.ts";
import { sha256 } from "../../../src/std/digest.ts";
import {
  ARCHIVE_TIME_MS,
  ArchiveSources,
  mixedSources,
  piecesOf,
  rangeOf,
  readLayout,
  wholeOf,
  writeLayout,
} from "../../support/archives.ts";

describe("The layout of an archive", function () {
  // A million entries are written.
  this.timeout(60_000);
  it("gives the same bytes for a range as for the whole, at every offset", () => {
    const sources = mixedSources();
    const layout = writeLayout(sources.entries);
    const whole = wholeOf(layout, sources);

    for (let from = 0; from < whole.length; from += 1) {
      for (const length of [1, 31, whole.length]) {
        const to = Math.min(whole.length, from + length);
        const range = rangeOf(layout, sources, from, to);
        if (!range.equals(whole.subarray(from, to))) expect.fail(`[${from}, ${to}) differs`);
      }
    }
  });

  it("gives the same bytes for ranges across pages", () => {
    const sources = new ArchiveSources();
    for (let i = 0; i < 3 * PAGE_ENTRY_COUNT + 1; i += 1) sources.add(`f${i}`, Buffer.from(`bytes of ${i}`));
    const layout = writeLayout(sources.entries);
    const whole = wholeOf(layout, sources);
    expect(decodeTrailer(layout.subarray(-TRAILER_SIZE_BYTES))?.pageCount).to.equal(4);

    for (let from = 0; from < whole.length; from += 1997) {
      const to = Math.min(whole.length, from + 30_000);
      const range = rangeOf(layout, sources, from, to);
      if (!range.equals(whole.subarray(from, to))) expect.fail(`[${from}, ${to}) differs`);
    }
  });

  it("ends a page of long names before it is large", () => {
    const entries = Array.from({ length: 100 }, (_, i) =>
      must(new ArchiveSources().add(`${"d/".repeat(2000)}${i}`, new Uint8Array(0)).entries[0], "an entry"),
    );

    const layout = writeLayout(entries);

    expect(decodeTrailer(layout.subarray(-TRAILER_SIZE_BYTES))?.pageCount).to.equal(6);
    expect(readLayout(layout).pageRange(0).length).to.be.below(80_000);
  });

  it("gives the same layout and the same archive for the same entries", () => {
    const [first, second] = [mixedSources(), mixedSources()];

    expect(sha256(writeLayout(first.entries))).to.deep.equal(sha256(writeLayout(second.entries)));
    expect(wholeOf(writeLayout(first.entries), first)).to.deep.equal(
      wholeOf(writeLayout(second.entries), second),
    );
  });

  it("keeps what an entry says when it is stored", () => {
    const [file] = new ArchiveSources().add("a/b", Buffer.from("1"), { mode: 0, contentId: 2 ** 40 }).entries;
    const early = { ...must(file, "a file"), path: "early", modifyTimeMs: -86_400_000, sizeBytes: 2 ** 52 };
    const entries = [must(file, "a file"), early];

    const layout = writeLayout(entries);
    const { offset, length } = readLayout(layout).pageRange(0);

    expect(decodePage(layout.subarray(offset, offset + length))).to.deep.equal(entries);
  });

  describe("beyond 32 bits", () => {
    const zeros = (path: string, sizeBytes: number): ArchiveEntry => ({
      path,
      kind: "file",
      sizeBytes,
      crc32: 0,
      contentId: 1,
      modifyTimeMs: ARCHIVE_TIME_MS,
      mode: undefined,
    });

    it("uses the longer form of a header exactly from 2^32-1 on", () => {
      const [below, mark] = [zeros("f", 0xfffffffe), zeros("f", 0xffffffff)];

      expect(localHeader(mark).length - localHeader(below).length).to.equal(20);
      expect(asBuffer(localHeader(below)).readUInt32LE(22)).to.equal(0xfffffffe);
      expect(asBuffer(localHeader(mark)).readUInt32LE(22)).to.equal(0xffffffff);
      const tiny = zeros("f", 1);
      expect(centralRecord(tiny, 0xffffffff).length - centralRecord(tiny, 0xfffffffe).length).to.equal(12);
      expect(centralRecord(mark, 0xffffffff).length - centralRecord(tiny, 0).length).to.equal(28);
    });

    it("finds any byte of an archive of 1,000,000 files with an index of 100 kB", () => {
      const count = 1_000_000;
      function* entries(): Generator<ArchiveEntry> {
        for (let i = 0; i < count; i += 1) yield { ...zeros(`folder/${i}.jpg`, 3_000_000), contentId: i + 1 };
      }
      const layout = writeLayout(entries());
      const trailer = must(decodeTrailer(layout.subarray(-TRAILER_SIZE_BYTES)), "a trailer");
      expect(ArchiveLayout.indexRange(trailer, layout.length).length).to.be.below(100_000);
      expect(layout.length / count).to.be.below(50);

      const at = 2_999_999_000_000;
      const [piece] = [...piecesOf(layout, at, at + 10)];
      const last = Buffer.concat(
        [...piecesOf(layout, readLayout(layout).sizeBytes - 98, readLayout(layout).sizeBytes)].map((each) =>
          each.kind === "bytes" ? each.bytes : expect.fail("no content there"),
        ),
      );

      expect(piece).to.include({ kind: "content", length: 10 });
      expect(last.readUInt32LE(0)).to.equal(0x06064b50);
      expect(Number(last.readBigUInt64LE(24))).to.equal(count);
    });
  });

  describe("names", () => {
    it("marks a folder by a slash at its end", () => {
      expect(archivedName({ path: "a/b", kind: "directory" })).to.equal("a/b/");
      expect(archivedName({ path: "a/b", kind: "file" })).to.equal("a/b");
    });

    for (const path of ["/etc/passwd", "../x", "a/../../x", "a//b", "", "./a", "a/"]) {
      it(`refuses ${JSON.stringify(path)}`, () => {
        expect(() => archivedName({ path, kind: "file" })).to.throw("no safe name");
      });
    }

    for (const [path, name] of [
      ["a\\b", "a\\b"],
      ["..\\..\\evil.exe", ".._.._evil.exe"],
      ["a\\..\\..\\x", "a_.._.._x"],
      ["\\server\\share", "_server_share"],
      ["C:\\x", "C__x"],
      ["notes: today", "notes: today"],
    ] as const) {
      it(`writes ${path} as ${name}`, () => {
        expect(archivedName({ path, kind: "file" })).to.equal(name);
      });
    }
  });

  it("gives DOS times within what they can say", () => {
    expect(dosTime(Date.UTC(1980, 0, 1))).to.deep.equal({ date: 0x21, time: 0 });
    expect(dosTime(-1)).to.deep.equal({ date: 0x21, time: 0 });
    expect(dosTime(Date.UTC(2300, 0, 1))).to.deep.equal({ date: 0xff9f, time: 0xbf7d });
  });
});
