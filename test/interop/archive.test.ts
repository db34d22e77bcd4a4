/**
 * Archives in the hands of programs that people have. Goal: unzip and Python's zipfile find them good and unpack what went in.
 * Method: archives are put together from pieces; what needs gigabytes has files that are holes.
 */
import { expect } from "chai";
import { execFile } from "node:child_process";
import { mkdtemp, open, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import type { ArchiveEntry } from "../../src/archive/zip-records.ts";
import {
  ARCHIVE_TIME_MS,
  ArchiveSources,
  mixedSources,
  piecesOf,
  readLayout,
  wholeOf,
  writeLayout,
} from "../support/archives.ts";
import { needTool } from "../support/services/programs.ts";

const run = promisify(execFile);
const GIB = 1024 ** 3;

describe("Archives, as other programs see them", function () {
  // Other programs are started.
  this.timeout(60_000);
  let folder = "";
  before(async function () {
    this.timeout(300_000);
    await needTool("unzip", ["unzip"]);
    folder = await mkdtemp(join(tmpdir(), "netdisk-archive-"));
  });
  after(async () => {
    await rm(folder, { recursive: true, force: true });
  });

  async function python(program: string, ...values: string[]): Promise<string> {
    return (await run("python3", ["-c", program, ...values], { maxBuffer: 64 * 1024 * 1024 })).stdout;
  }

  it("gives an archive that unzip and Python find good, with names, modes and times", async () => {
    const sources = mixedSources();
    const path = join(folder, "mixed.zip");
    await writeFile(path, wholeOf(writeLayout(sources.entries), sources));

    await run("unzip", ["-tqq", path]);
    const list = JSON.parse(
      await python(
        `import sys, json, zipfile
z = zipfile.ZipFile(sys.argv[1]); assert z.testzip() is None
print(json.dumps([[i.filename, z.read(i).decode(), i.external_attr >> 16, list(i.date_time)] for i in z.infolist()]))`,
        path,
      ),
    ) as [string, string, number, number[]][];

    expect(list.map(([name, text, mode]) => [name, text, mode.toString(8)])).to.deep.equal([
      ["报告/", "", "40755"],
      ["报告/总结.txt", "完成\n", "100640"],
      ["报告/空.txt", "", "100644"],
      ["报告/空文件夹/", "", "40755"],
      ["run.sh", "#!/bin/sh\n", "100755"],
      ["old.txt", "x", "100644"],
      ["late.txt", "y", "100644"],
    ]);
    expect(list[1]?.[3]).to.deep.equal([2026, 11, 22, 19, 30, 14]);
    expect(list[5]?.[3]).to.deep.equal([1980, 1, 1, 0, 0, 0]);
    expect(list[6]?.[3]).to.deep.equal([2090, 6, 1, 0, 0, 0]);
  });

  it("unpacks to the very files, with their modes and their times to the second", async () => {
    const sources = mixedSources();
    const path = join(folder, "unpack.zip");
    await writeFile(path, wholeOf(writeLayout(sources.entries), sources));
    const target = join(folder, "unpacked");

    await run("unzip", ["-q", path, "-d", target], { env: { ...process.env, LC_ALL: "C.UTF-8" } });

    expect(await readFile(join(target, "报告/总结.txt"), "utf8")).to.equal("完成\n");
    const script = await stat(join(target, "run.sh"));
    expect((script.mode & 0o7777).toString(8)).to.equal("755");
    expect(script.mtimeMs).to.equal(ARCHIVE_TIME_MS);
    expect((await stat(join(target, "old.txt"))).mtimeMs).to.equal(Date.UTC(1975, 0, 1));
    expect((await stat(join(target, "报告/空文件夹"))).isDirectory()).to.equal(true);
  });

  it("is a good archive when there is nothing in it", async () => {
    const layout = writeLayout([]);
    const path = join(folder, "empty.zip");
    await writeFile(path, wholeOf(layout, new ArchiveSources()));

    expect(readLayout(layout).sizeBytes).to.equal(22);
    expect(
      await python("import sys, zipfile; print(zipfile.ZipFile(sys.argv[1]).namelist())", path),
    ).to.equal("[]\n");
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

    /** Writes an archive whose files are holes: gigabytes that take no space. Python reads its directory, not the bytes. */
    async function sparse(name: string, entries: readonly ArchiveEntry[]): Promise<string> {
      const layout = writeLayout(entries);
      const path = join(folder, name);
      const file = await open(path, "w");
      let at = 0;
      for (const piece of piecesOf(layout, 0, readLayout(layout).sizeBytes)) {
        if (piece.kind === "bytes") await file.write(piece.bytes, 0, piece.bytes.length, at);
        at += piece.kind === "bytes" ? piece.bytes.length : piece.length;
      }
      await file.close();
      expect(at).to.equal(readLayout(layout).sizeBytes);
      return path;
    }

    const LIST = `import sys, json, zipfile
z = zipfile.ZipFile(sys.argv[1])
print(json.dumps([[i.filename, i.file_size, i.header_offset, z.open(i).read(4).decode("latin1")] for i in z.infolist()]))`;

    it("takes files of 4 GiB, what comes after them, and a directory far away", async () => {
      const small = new ArchiveSources().add("small", Buffer.from("abcd")).entries;
      const below = 4 * GIB - 2;
      const entries = [
        zeros("below", below),
        zeros("mark", below + 1),
        zeros("large", 5 * GIB),
        ...small.map((each) => ({ ...each, sizeBytes: 0, crc32: 0 })),
      ];

      const list = JSON.parse(await python(LIST, await sparse("large.zip", entries))) as unknown[][];

      expect(list.map(([name, size]) => [name, size])).to.deep.equal(
        entries.map(({ path, sizeBytes }) => [path, sizeBytes]),
      );
      expect(list[2]?.[2]).to.be.above(8 * GIB - 10);
      expect(list[3]?.[3]).to.equal("");
    });

    for (const { count, is64 } of [
      { count: 65_534, is64: false },
      { count: 65_535, is64: true },
    ]) {
      it(`takes ${count} entries${is64 ? " with the longer end" : ""}`, async () => {
        const layout = writeLayout(Array.from({ length: count }, (_, i) => zeros(`f${i}`, 0)));
        const path = join(folder, `many-${count}.zip`);
        const archive = wholeOf(layout, new ArchiveSources());
        await writeFile(path, archive);

        expect(archive.includes(Buffer.from("PK\u0006\u0006"))).to.equal(is64);
        const counted = await python(
          "import sys, zipfile; z = zipfile.ZipFile(sys.argv[1]); print(len(z.infolist()), z.infolist()[-1].filename)",
          path,
        );
        expect(counted).to.equal(`${count} f${count - 1}\n`);
      });
    }
  });
});
