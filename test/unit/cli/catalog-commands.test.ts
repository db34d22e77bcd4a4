/** `netdisk search`, `usage`, `duplicates` and `catalog rebuild`. */
import { expect } from "chai";
import { DriveError } from "../../../src/drive/errors.ts";
import { FakeCatalog, foundFile } from "../../support/fake-catalog.ts";
import { MemoryDrive } from "../../support/memory-drive.ts";
import { netdisk } from "./run-cli.ts";

describe("The catalog on the command line", () => {
  let catalog: FakeCatalog;
  let drive: MemoryDrive;

  beforeEach(() => {
    catalog = new FakeCatalog();
    drive = new MemoryDrive();
    drive.catalog = catalog;
  });

  it("shows paths, folders with a slash", async () => {
    catalog.pages = [
      { entries: [foundFile("/a.txt"), foundFile("/docs", { kind: "directory" })], nextCursor: undefined },
    ];

    expect((await netdisk(["search", "a"], { drive })).out).to.equal("/a.txt\n/docs/\n");
    expect(catalog.queries[0]).to.include({ text: "a", sort: "created", descending: true, countMax: 100 });
  });

  it("asks for filters and order, over several pages, up to the limit", async () => {
    catalog.pages = [
      { entries: [foundFile("/1"), foundFile("/2")], nextCursor: "c" },
      { entries: [foundFile("/3")], nextCursor: "d" },
    ];

    const result = await netdisk(
      ["search", "--type", "image/", "--min-size", "5", "--sort", "size", "--ascending", "--limit", "3", "x"],
      { drive },
    );

    expect(result.out).to.equal("/1\n/2\n/3\n");
    expect(result.err).to.include("There are more");
    expect(catalog.queries.map(({ cursor, countMax }) => ({ cursor, countMax }))).to.deep.equal([
      { cursor: undefined, countMax: 3 },
      { cursor: "c", countMax: 1 },
    ]);
    expect(catalog.queries[0]).to.include({
      mediaType: "image/",
      sizeBytesMin: 5,
      sort: "size",
      descending: false,
    });
  });

  it("shows size, time and copies with -l, and JSON on demand", async () => {
    catalog.pages = [{ entries: [foundFile("/a.txt")], nextCursor: undefined }];
    const long = await netdisk(["search", "-l", "a"], { drive });
    catalog.pages = [{ entries: [foundFile("/a.txt")], nextCursor: undefined }];
    const json = await netdisk(["search", "--json", "a"], { drive });

    expect(long.out).to.match(/5 B\s+2023-11-14 22:13:20\s+3\/3\s+\/a\.txt/);
    expect(json.records()[0]).to.deep.include({ path: "/a.txt", sizeBytes: 5, copies: 3 });
  });

  it("shows what is used and what is equal", async () => {
    const used = await netdisk(["usage", "/a", "--by", "type"], { drive });
    const equal = await netdisk(["duplicates"], { drive });

    expect(used.out).to.include("2.0 KiB");
    expect(used.out).to.include("in 2 files and 1 folder, each file counted in full.");
    expect(catalog.usages).to.deep.equal([{ by: "type", under: "/a" }]);
    expect(equal.out).to.include("3 files of 10 B:\n  /a\n  /b\n  and 1 more\n");
  });

  for (const [text, bytes] of [
    ["5", 5],
    ["500k", 512_000],
    ["1M", 1_048_576],
    ["1.5 GiB", 1_610_612_736],
  ] as const) {
    it(`takes ${text} for ${bytes} bytes`, async () => {
      await netdisk(["search", "--min-size", text, "--max-size", text], { drive });

      expect(catalog.queries[0]).to.include({ sizeBytesMin: bytes, sizeBytesMax: bytes });
    });
  }

  for (const text of ["", "M", "-1", "1X", "1 M M", "9999999T"]) {
    it(`does not take ${JSON.stringify(text)} for a size`, async () => {
      const { code, err } = await netdisk(["search", `--min-size=${text}`], { drive });

      expect(code).to.equal(2);
      expect(err).to.include('"1.5 GiB"');
    });
  }

  it("says of the row of the folder itself that it counts the files directly in it", async () => {
    const usage = catalog.usage.bind(catalog);
    const rows = [
      { key: "/res", fileCount: 2, sizeBytes: 1024 },
      { key: "/res/a", fileCount: 1, sizeBytes: 5 },
    ];
    catalog.usage = async (by, under) => ({ ...(await usage(by, under)), rows });

    const { out } = await netdisk(["usage", "/res"], { drive });

    expect(out).to.match(/^1\.0 KiB +2 +\/res \(files directly in it\)$/m);
    expect(out).to.match(/^ +5 B +1 +\/res\/a$/m);
  });

  it("tells in its help what a search text with a slash finds", async () => {
    const { out } = await netdisk(["search", "--help"], { drive });

    expect(out).to.match(/^ +b\/ +folders whose name ends with "b"$/m);
    expect(out).to.match(/^ +a\/b +names that begin with "b", in folders whose name ends with "a"$/m);
  });

  it("lets the catalog be built anew", async () => {
    expect((await netdisk(["catalog", "rebuild"], { drive })).code).to.equal(0);
    expect(catalog.rebuildCount).to.equal(1);
  });

  it("fails with the reason", async () => {
    catalog.failure = new DriveError("PATH_NOT_FOUND", "There is nothing there.");

    const result = await netdisk(["usage", "/nowhere"], { drive });

    expect(result.code).to.equal(1);
    expect(result.err).to.include("There is nothing there.");
  });
});
