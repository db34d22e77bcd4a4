/**
 * What every catalog promises, run against a drive over the real state machine: the same questions, the same answers. What a
 * catalog should say is told by hand for small trees, and reckoned from the tree itself after random changes.
 */
import { expect } from "chai";
import type { Catalog, CatalogQuery } from "../../src/drive/catalog.ts";
import { DriveError } from "../../src/drive/errors.ts";
import type { Entry } from "../../src/drive/entry.ts";
import type { StateMachineLimits } from "../../src/metadata/context.ts";
import { formatPath } from "../../src/drive/path.ts";
import { SeededPrng } from "../../src/std/prng.ts";
import { expectReason } from "../support/expect-reason.ts";
import { entriesOf } from "../support/projection.ts";
import { streamOf, TestDrives, uploadOf } from "../support/use-drives.ts";

/** A catalog over a drive of three nodes. */
export interface CatalogUnderTest {
  readonly catalog: Catalog;
  /** Resolves when the catalog has everything that was applied. */
  caughtUp(): Promise<void>;
  dispose(): Promise<void>;
}

/** A drive with leases, and short ways to change it. */
export class CatalogDrive {
  readonly drives: TestDrives;

  constructor(limits: Partial<StateMachineLimits> = {}) {
    this.drives = new TestDrives(3, 3, limits);
    for (const memberId of [1, 2, 3]) this.drives.grantLease(memberId);
  }

  /** Writes a file. */
  async put(
    path: string,
    text: string,
    attributes: { mediaType?: string; modifyTimeMs?: number } = {},
  ): Promise<void> {
    const request = uploadOf(path, { attributes, onConflict: "replace" });
    await this.drives.drive().putFile(request, streamOf(Buffer.from(text)));
  }

  folder(path: string): Promise<unknown> {
    return this.drives.drive().createDirectory(path, { createParents: true, existOk: true, attributes: {} });
  }

  move(from: string, to: string): Promise<unknown> {
    return this.drives.drive().move({ path: from }, to, "fail");
  }

  copy(from: string, to: string): Promise<unknown> {
    return this.drives.drive().copy({ path: from }, to, "fail");
  }

  async remove(path: string): Promise<void> {
    await this.drives.drive().remove({ path }, { recursive: true });
  }

  /** Carries folder copies and what was deleted to their end, as the leader does by itself. */
  housekeeping(): void {
    for (let i = 0; i < 20; i += 1) {
      this.drives.tree.apply({ kind: "materialise", directoryId: 0, path: [] });
      this.drives.tree.apply({ kind: "reclaim" });
    }
  }

  /** Everything that is in the tree, by path. */
  entries(): ReadonlyMap<string, Entry> {
    return entriesOf(this.drives.tree.store);
  }
}

const NEWEST = { sort: "created", descending: true, countMax: 100 } as const;
const BY_NAME = { sort: "name", descending: false, countMax: 100 } as const;

/** The paths that a query gives, over all its pages. */
export async function pathsOf(catalog: Catalog, query: CatalogQuery): Promise<readonly string[]> {
  const paths: string[] = [];
  let cursor: string | undefined;
  do {
    const page = await catalog.find({ ...query, cursor });
    expect(page.entries.length).to.be.at.most(query.countMax);
    paths.push(...page.entries.map((entry) => entry.path));
    cursor = page.nextCursor;
  } while (cursor !== undefined);
  return paths;
}

/** A cursor as a client could make it up. */
const cursorOf = (parts: readonly unknown[]): string =>
  Buffer.from(JSON.stringify(parts)).toString("base64url");

/** Runs the suite. `create` makes a catalog that follows the given drive. */
export function describeCatalog(
  name: string,
  create: (drive: CatalogDrive) => Promise<CatalogUnderTest>,
): void {
  describe(`${name} as a catalog`, function () {
    this.timeout(60_000);
    this.slow(5000);
    let drive: CatalogDrive;
    let tested: CatalogUnderTest;

    beforeEach(async () => {
      drive = new CatalogDrive();
      tested = await create(drive);
    });

    afterEach(() => tested.dispose());

    const search = async (text: string, more: Partial<CatalogQuery> = {}): Promise<readonly string[]> => {
      await tested.caughtUp();
      return [...(await pathsOf(tested.catalog, { ...NEWEST, text, ...more }))].sort();
    };

    describe("search", () => {
      it("finds a part of a name, whatever its case", async () => {
        await drive.put("/Reports/Annual REPORT.pdf", "a");
        await drive.put("/other.txt", "b");

        expect(await search("report")).to.deep.equal(["/Reports", "/Reports/Annual REPORT.pdf"]);
        expect(await search("nual rep")).to.deep.equal(["/Reports/Annual REPORT.pdf"]);
        expect(await search("absent")).to.deep.equal([]);
      });

      it("finds Chinese names by one, two and four characters", async () => {
        await drive.put("/文档/年度财务报告.docx", "a");
        await drive.put("/文档/照片.jpg", "b");
        await drive.put("/年会.txt", "c");

        expect(await search("年")).to.deep.equal(["/年会.txt", "/文档/年度财务报告.docx"]);
        expect(await search("报告")).to.deep.equal(["/文档/年度财务报告.docx"]);
        expect(await search("财务报告")).to.deep.equal(["/文档/年度财务报告.docx"]);
        expect(await search("告报")).to.deep.equal([]);
        expect(await search("年务")).to.deep.equal([]);
      });

      it("takes two ways to write a name for one", async () => {
        await drive.put("/Straße.txt", "a");
        await drive.put("/Café.txt", "b");
        await drive.put("/ΟΔΟΣ.txt", "c");
        await drive.put("/😀 smile.png", "d");

        expect(await search("STRASSE")).to.deep.equal(["/Straße.txt"]);
        expect(await search("cafe\u0301")).to.deep.equal(["/Café.txt"]);
        expect(await search("οδος")).to.deep.equal(["/ΟΔΟΣ.txt"]);
        expect(await search("😀")).to.deep.equal(["/😀 smile.png"]);
      });

      it("takes every character for itself", async () => {
        await drive.put("/100%_sure.txt", "a");
        await drive.put("/100 is not sure.txt", "b");
        await drive.put("/a'b\"c\\d{e},f.txt", "c");

        expect(await search("100%")).to.deep.equal(["/100%_sure.txt"]);
        expect(await search("%_s")).to.deep.equal(["/100%_sure.txt"]);
        expect(await search("'b\"c\\d{e},")).to.deep.equal(["/a'b\"c\\d{e},f.txt"]);
      });

      it("finds names of the greatest length by their ends", async () => {
        const long = `${"界".repeat(84)}end`;
        expect(Buffer.byteLength(long)).to.equal(255);
        await drive.put(`/${long}`, "a");
        await drive.put(`/${"x".repeat(255)}`, "b");

        expect(await search("界end")).to.deep.equal([`/${long}`]);
        expect(await search("x".repeat(255))).to.deep.equal([`/${"x".repeat(255)}`]);
        expect(await search("x".repeat(256))).to.deep.equal([]);
      });

      it("finds a part of a path that ends in the name", async () => {
        await drive.put("/office/docs/2024/plan.txt", "a");
        await drive.put("/home/docs/2025.txt", "b");
        await drive.put("/docs.txt", "c");

        expect(await search("docs/20")).to.deep.equal(["/home/docs/2025.txt", "/office/docs/2024"]);
        expect(await search("ocs/2024/pl")).to.deep.equal(["/office/docs/2024/plan.txt"]);
        expect(await search("/docs")).to.deep.equal(["/docs.txt", "/home/docs", "/office/docs"]);
        expect(await search("docs/")).to.deep.equal(["/home/docs", "/office/docs"]);
        expect(await search("/ocs/2024")).to.deep.equal([]);
      });

      it("looks only below a folder when asked to, and only for what the filters let through", async () => {
        await drive.put("/a/note.txt", "12", { mediaType: "text/plain", modifyTimeMs: 1000 });
        await drive.put("/a/b/note.png", "1234", { mediaType: "image/png", modifyTimeMs: 2000 });
        await drive.put("/c/note.jpg", "123456", { mediaType: "image/jpeg", modifyTimeMs: 3000 });
        await drive.folder("/a/notes");

        expect(await search("note", { under: "/a" })).to.deep.equal([
          "/a/b/note.png",
          "/a/note.txt",
          "/a/notes",
        ]);
        expect(await search("note", { kind: "directory" })).to.deep.equal(["/a/notes"]);
        expect(await search("note", { mediaType: "image/" })).to.deep.equal(["/a/b/note.png", "/c/note.jpg"]);
        expect(await search("note", { mediaType: "text/plain" })).to.deep.equal(["/a/note.txt"]);
        expect(await search("note", { sizeBytesMin: 3, sizeBytesMax: 5 })).to.deep.equal(["/a/b/note.png"]);
        expect(
          await search("note", { modifiedFromMs: 2000, modifiedToMs: 3000, kind: "file" }),
        ).to.deep.equal(["/a/b/note.png", "/c/note.jpg"]);
        await expectReason("PATH_NOT_FOUND", () => search("note", { under: "/nowhere" }));
        await expectReason("NOT_A_DIRECTORY", () => search("note", { under: "/a/note.txt" }));
      });

      it("refuses what it cannot mean", async () => {
        await tested.caughtUp();
        const wrong: Partial<CatalogQuery>[] = [
          { text: "" },
          { text: "/" },
          { text: "a//b" },
          { text: "x".repeat(1025) },
          { countMax: 0 },
          { countMax: 1001 },
          { cursor: "nonsense" },
          // What no name, type or number can be; PostgreSQL's text holds no NUL.
          { text: "a\u0000" },
          { text: "a\n" },
          { text: "\ud83d" },
          { text: "\ude00" },
          { mediaType: "text/\u0000" },
          { mediaType: "é" },
          { sizeBytesMin: 1.5 },
          { sizeBytesMax: Number.MAX_SAFE_INTEGER + 1 },
          { modifiedFromMs: Number.NaN },
          { modifiedToMs: Infinity },
          { sort: "name", cursor: cursorOf(["name", 1, "a\u0000", 1]) },
          { sort: "name", cursor: cursorOf(["name", 1, "", 1]) },
          { cursor: cursorOf(["created", 1, 1e300, 1]) },
          { cursor: cursorOf(["created", 1, 1, 1.5]) },
        ];
        for (const query of wrong) {
          await expectReason("ARGUMENT_INVALID", () =>
            tested.catalog.find({ ...NEWEST, text: "a", ...query }),
          );
        }
        expect(await search("x".repeat(1024))).to.deep.equal([]);
        const noEntry = cursorOf(["created", 1, -5, -5]);
        const { entries } = await tested.catalog.find({ ...NEWEST, text: "a", cursor: noEntry });
        expect(entries).to.deep.equal([]);
      });

      it("follows renames, moves and deletions", async () => {
        await drive.put("/old/deep/first name.txt", "a");
        await drive.put("/old/deep/other.txt", "b");
        await tested.caughtUp();
        await drive.move("/old/deep/first name.txt", "/old/deep/second name.txt");
        await drive.move("/old", "/new");

        expect(await search("first name")).to.deep.equal([]);
        expect(await search("second name")).to.deep.equal(["/new/deep/second name.txt"]);

        await drive.remove("/new/deep");

        expect(await search("name")).to.deep.equal([]);
        drive.housekeeping();
        expect(await search("other")).to.deep.equal([]);
        expect(await search("new")).to.deep.equal(["/new"]);
      });

      it("finds what a copied folder holds", async () => {
        await drive.put("/from/sub/thing.txt", "a");
        await drive.copy("/from", "/to");
        drive.housekeeping();

        expect(await search("thing")).to.deep.equal(["/from/sub/thing.txt", "/to/sub/thing.txt"]);
      });
    });

    describe("lists", () => {
      it("come in each order, both ways, page by page, without gaps and repeats", async () => {
        const sizes = [5, 3, 9, 3, 7, 1, 3];
        for (const [i, size] of sizes.entries()) {
          await drive.put(`/f/${"cabdegf"[i]}${i}`, "x".repeat(size), { modifyTimeMs: 1000 * (size % 4) });
        }
        await tested.caughtUp();
        const all = [...drive.entries()].filter(([, entry]) => entry.kind === "file");

        for (const sort of ["created", "name", "size", "modified"] as const) {
          for (const descending of [false, true]) {
            for (const countMax of [1, 2, 3, 100]) {
              const value = ([, entry]: (typeof all)[number]): number | string =>
                ({
                  created: entry.entryId,
                  name: entry.name,
                  size: entry.sizeBytes,
                  modified: entry.modifyTimeMs,
                })[sort];
              const sign = descending ? -1 : 1;
              const expected = [...all]
                .sort((a, b) => {
                  const [left, right] = [value(a), value(b)];
                  if (left !== right) return left < right ? -sign : sign;
                  return sign * (a[1].entryId - b[1].entryId);
                })
                .map(([path]) => path);

              const query = { sort, descending, countMax, kind: "file" } as const;

              expect(await pathsOf(tested.catalog, query), `${sort} ${descending} ${countMax}`).to.deep.equal(
                expected,
              );
              expect(await pathsOf(tested.catalog, { ...query, under: "/f" })).to.deep.equal(expected);
            }
          }
        }
      });

      it("tell of each entry what the tree says", async () => {
        await drive.put("/a/b.txt", "hello", { mediaType: "text/plain", modifyTimeMs: 1_700_000_000_123 });
        await drive.folder("/a/empty");
        await tested.caughtUp();

        const { entries } = await tested.catalog.find(BY_NAME);

        const tree = drive.entries();
        expect(entries).to.have.length(3);
        for (const entry of entries) {
          const row = tree.get(entry.path);
          expect({ ...entry, treeHash: Buffer.from(entry.treeHash).toString("hex") }).to.deep.equal({
            entryId: row?.entryId,
            path: entry.path,
            name: row?.name,
            kind: row?.kind,
            sizeBytes: row?.sizeBytes,
            treeHash: Buffer.from(row?.treeHash ?? []).toString("hex"),
            mediaType: row?.mediaType,
            modifyTimeMs: row?.modifyTimeMs,
            createTimeMs: row?.createTimeMs,
            copyCount: row?.kind === "file" ? 3 : undefined,
          });
        }
      });

      it("know which files lack copies, and when they have them again", async () => {
        drive.drives.kill(3);
        await drive.put("/lacking.txt", "two copies");
        drive.drives.revive(3);
        await drive.put("/whole.txt", "three copies");
        await tested.caughtUp();
        const query = { ...BY_NAME, underReplicated: true };
        expect(await pathsOf(tested.catalog, query)).to.deep.equal(["/lacking.txt"]);

        const lacking = drive.entries().get("/lacking.txt");
        const contentId = lacking?.contentId ?? 0;
        drive.drives.tree.apply({
          kind: "add-replica",
          seal: {
            extent: { contentId, extentIndex: 0 },
            sizeBytes: lacking?.sizeBytes ?? 0,
            root: lacking?.treeHash ?? new Uint8Array(0),
            memberId: 3,
            storeIncarnation: "store-3",
          },
        });
        await tested.caughtUp();

        expect(await pathsOf(tested.catalog, query)).to.deep.equal([]);
        const [found] = (await tested.catalog.find({ ...BY_NAME, text: "lacking" })).entries;
        expect(found?.copyCount).to.equal(3);
      });
    });

    describe("usage", () => {
      it("is counted by folder, by type and by node", async () => {
        await drive.put("/top.txt", "1", { mediaType: "text/plain" });
        await drive.put("/a/one.png", "22", { mediaType: "image/png" });
        await drive.put("/a/b/two.png", "333", { mediaType: "image/png" });
        await drive.put("/c/three", "4444");
        await tested.caughtUp();

        const folder = await tested.catalog.usage("folder", "/");
        const inside = await tested.catalog.usage("folder", "/a");
        const type = await tested.catalog.usage("type", "/");
        const node = await tested.catalog.usage("node", "/a");

        expect(folder.rows).to.deep.equal([
          { key: "/a", fileCount: 2, sizeBytes: 5 },
          { key: "/c", fileCount: 1, sizeBytes: 4 },
          { key: "/", fileCount: 1, sizeBytes: 1 },
        ]);
        expect(folder).to.include({ fileCount: 4, directoryCount: 3, sizeBytes: 10, truncated: false });
        expect(inside.rows).to.deep.equal([
          { key: "/a/b", fileCount: 1, sizeBytes: 3 },
          { key: "/a", fileCount: 1, sizeBytes: 2 },
        ]);
        expect(type.rows).to.deep.equal([
          { key: "image/png", fileCount: 2, sizeBytes: 5 },
          { key: "", fileCount: 1, sizeBytes: 4 },
          { key: "text/plain", fileCount: 1, sizeBytes: 1 },
        ]);
        expect(node.rows).to.deep.equal(
          [1, 2, 3].map((id) => ({ key: `node-${id}`, fileCount: 2, sizeBytes: 5 })),
        );
        await expectReason("PATH_NOT_FOUND", () => tested.catalog.usage("type", "/nowhere"));
      });

      it("is right after a folder was moved into another and a part deleted", async () => {
        await drive.put("/a/one", "1");
        await drive.put("/a/sub/two", "22");
        await drive.put("/b/three", "333");
        await tested.caughtUp();
        await drive.move("/a", "/b/a");
        await drive.remove("/b/a/sub");
        await tested.caughtUp();

        const report = await tested.catalog.usage("folder", "/");

        expect(report.rows).to.deep.equal([{ key: "/b", fileCount: 2, sizeBytes: 4 }]);
        expect(report).to.include({ fileCount: 2, directoryCount: 2, sizeBytes: 4 });
      });
    });

    describe("duplicates", () => {
      it("are grouped, those that take most bytes first", async () => {
        await drive.put("/small 1", "x");
        await drive.put("/small 2", "x");
        await drive.put("/large 1", "many bytes");
        await drive.put("/d/large 2", "many bytes");
        await drive.put("/d/large 3", "many bytes");
        await drive.put("/alone", "no other");
        await drive.put("/empty 1", "");
        await drive.put("/empty 2", "");
        await tested.caughtUp();

        const { groups } = await tested.catalog.duplicates(10);
        const first = await tested.catalog.duplicates(1);

        expect(
          groups.map(({ paths, fileCount, sizeBytes }) => ({ paths, fileCount, sizeBytes })),
        ).to.deep.equal([
          { paths: ["/large 1", "/d/large 2", "/d/large 3"], fileCount: 3, sizeBytes: 10 },
          { paths: ["/small 1", "/small 2"], fileCount: 2, sizeBytes: 1 },
        ]);
        expect(first.groups).to.have.length(1);
        await expectReason("ARGUMENT_INVALID", () => tested.catalog.duplicates(0));
      });
    });

    it("equals the tree after random changes", async () => {
      const seed = Number(process.env["SEED"] ?? Math.floor(Math.random() * 1e6));
      const prng = new SeededPrng(seed);
      const names = ["alpha", "Beta", "文件", "gamma 文", "δ", "e"];
      const pick = <T>(items: readonly T[]): T => items[prng.below(items.length)] as T;
      const anyPath = (): string => formatPath(Array.from({ length: 1 + prng.below(3) }, () => pick(names)));
      for (let step = 0; step < 150; step += 1) {
        const path = anyPath();
        const other = anyPath();
        const kind = prng.below(10);
        // What cannot be done (a folder in the way, nothing there) changes nothing, and that is tested too.
        const done =
          kind < 4
            ? drive.put(path, "x".repeat(prng.below(5)), {
                mediaType: pick(["text/plain", "image/png", ""]),
              })
            : kind < 5
              ? drive.folder(path)
              : kind < 7
                ? drive.move(path, other)
                : kind < 8
                  ? drive.copy(path, other)
                  : drive.remove(path);
        await done.catch((error: unknown) => {
          if (!(error instanceof DriveError)) throw error;
        });
        if (step % 40 === 20) {
          drive.housekeeping();
          await tested.caughtUp();
        }
      }
      drive.housekeeping();
      await tested.caughtUp();

      const tree = drive.entries();
      const context = `seed=${seed} (SEED=${seed} to run it again)`;
      expect([...(await pathsOf(tested.catalog, BY_NAME))].sort(), context).to.deep.equal(
        [...tree.keys()].sort(),
      );
      for (const text of ["a", "文", "文件", "alpha", "alpha/b"]) {
        const folded = text.toLowerCase();
        const expected = [...tree.keys()].filter((path) => {
          const [last = "", ...above] = path.toLowerCase().split("/").reverse();
          const wanted = folded.split("/").reverse();
          if (wanted.length === 1) return last.includes(folded);
          return (
            last.startsWith(wanted[0] ?? "") && (above[0] ?? "").endsWith(wanted[1] ?? "") && above.length > 1
          );
        });
        expect(await search(text), `${context} ${text}`).to.deep.equal(expected.sort());
      }
      const files = [...tree.values()].filter((entry) => entry.kind === "file");
      const usage = await tested.catalog.usage("type", "/");
      expect(usage.fileCount, context).to.equal(files.length);
      expect(usage.directoryCount, context).to.equal(tree.size - files.length);
      expect(usage.sizeBytes, context).to.equal(files.reduce((sum, entry) => sum + entry.sizeBytes, 0));
    });
  });
}
