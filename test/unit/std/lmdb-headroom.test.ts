/** Room in the file of an LMDB store: how much a flush may need, and that it is there before LMDB is asked. */
import { expect } from "chai";
import { mkdtemp, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { must } from "../../../src/std/assert.ts";
import { utf8 } from "../../../src/std/bytes.ts";
import { SystemClock } from "../../../src/std/clock.ts";
import type { DiskFile } from "../../../src/std/disk.ts";
import { LmdbHeadroom, pagesAddedMax, PLENTY_BYTES, type FlushSize } from "../../../src/std/lmdb-headroom.ts";
import { LmdbOrderedStoreProvider } from "../../../src/std/lmdb-ordered-store.ts";
import { META_SIZE_BYTES, newestTree, readMeta, type LmdbTree } from "../../../src/std/lmdb-pages.ts";
import { SeededPrng } from "../../../src/std/prng.ts";
import { SystemDisk } from "../../../src/std/system-disk.ts";

async function treeOf(file: DiskFile): Promise<LmdbTree> {
  const first = Buffer.from(await file.read(0, META_SIZE_BYTES));
  const second = Buffer.from(await file.read(readMeta(first, 0).tree.pageSizeBytes, META_SIZE_BYTES));
  return newestTree(first, second);
}

describe("LmdbHeadroom", function () {
  this.timeout(60_000);
  let directory: string;
  let path: string;
  let file: DiskFile;
  const provider = (freeBytes = 0): LmdbOrderedStoreProvider =>
    new LmdbOrderedStoreProvider({
      directory,
      clock: new SystemClock(),
      freeBytes: () => Promise.resolve(freeBytes),
    });
  const headroomWith = (
    freeBytes: number,
    of: Pick<DiskFile, "read" | "size" | "write"> = file,
    timeoutMs = 10_000,
  ): LmdbHeadroom =>
    new LmdbHeadroom({
      file: of as DiskFile,
      freeBytes: () => Promise.resolve(freeBytes),
      clock: new SystemClock(),
      timeoutMs,
    });

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), "headroom-"));
    path = join(directory, "s", "data.mdb");
    const store = await provider().open("s");
    await store.close();
    file = await new SystemDisk().open(path, "existing");
  });

  afterEach(async () => {
    await file.close();
    await rm(directory, { recursive: true, force: true });
  });

  for (const seed of [1, 2, 3, 4, 5, 6]) {
    it(`has asked for every page that LMDB then adds, seed ${seed}`, async () => {
      const prng = new SeededPrng(seed);
      const store = await provider().open("s");
      const largest = [40, 300, 2500, 9000, 70_000, 400][seed - 1] ?? 40;
      for (let round = 0; round < 40; round += 1) {
        const before = await treeOf(file);
        const count = 1 + prng.below(round % 8 === 7 ? 3000 : 60);
        let sizeBytes = 0;
        store.transaction((transaction) => {
          for (let at = 0; at < count; at += 1) {
            const key = utf8(`${prng.below(4000)}${"k".repeat(prng.below(80))}`);
            const value = new Uint8Array(prng.below(largest));
            if (prng.below(4) === 0) transaction.delete(key);
            else transaction.put(key, value);
            sizeBytes += key.length + value.length;
          }
        });
        const sizeBefore = (await stat(path)).size;
        await store.flush();
        const after = await treeOf(file);

        const addedMax = pagesAddedMax(before, { recordCount: count, sizeBytes });
        expect(after.pageCount - before.pageCount).to.be.at.most(addedMax);
        // What was asked for made the file as long as it is, and LMDB nothing beyond it. A key may have been written twice.
        const aimBytes = (before.pageCount + addedMax) * before.pageSizeBytes;
        expect((await stat(path)).size).to.be.at.most(Math.max(sizeBefore, aimBytes));
      }
      await store.close();
      expect((await provider().check("s")).kind).to.equal("verified");
    });
  }

  const inOrder = (count: number, keyLength: number, valueLength: number): [string, Uint8Array][] =>
    Array.from({ length: count }, (_, at) => [
      String(at * 7919)
        .padStart(8, "0")
        .padEnd(keyLength, "k"),
      new Uint8Array(valueLength).fill(at),
    ]);
  const hard: readonly [string, [string, Uint8Array][], [string, Uint8Array][]][] = [
    ["records that fill half a page each, in order", [], inOrder(8000, 12, 1500)],
    ["records of a third of a page", [], inOrder(4000, 20, 1340)],
    [
      "long keys in a deep tree that somebody reads",
      inOrder(12_000, 1000, 20),
      inOrder(12_000, 1000, 30).filter((_, at) => at % 8 === 0),
    ],
    [
      "keys as long as names, in a deep tree that somebody reads",
      inOrder(60_000, 259, 10),
      inOrder(60_000, 259, 12).filter((_, at) => at % 200 === 0),
    ],
  ];
  for (const [what, before, flushed] of hard) {
    it(`has asked for every page for ${what}`, async () => {
      const store = await provider().open("s");
      const put = async (records: readonly [string, Uint8Array][]): Promise<number> => {
        let sizeBytes = 0;
        store.transaction((transaction) => {
          for (const [key, value] of records) {
            transaction.put(utf8(key), value);
            sizeBytes += key.length + value.length;
          }
        });
        await store.flush();
        return sizeBytes;
      };
      if (before.length > 0) await put(before);
      const frozen = must(store.frozenFile?.(), "a store in a file");
      for (let round = 0; round < 3; round += 1) {
        const tree = await treeOf(file);
        const sizeBytes = await put(flushed);
        const added = (await treeOf(file)).pageCount - tree.pageCount;
        expect(added).to.be.at.most(pagesAddedMax(tree, { recordCount: flushed.length, sizeBytes }));
      }
      frozen.close();
      await store.close();
    });
  }

  const small: FlushSize = { recordCount: 1, sizeBytes: 100 };

  it("makes the file longer by what is needed where the disk has little space left, and a second time not", async () => {
    const before = await treeOf(file);
    const needed = pagesAddedMax(before, small) * before.pageSizeBytes;
    const headroom = headroomWith(needed + PLENTY_BYTES - 1);
    await headroom.ensure(small);
    const first = await file.size();
    await headroom.ensure(small);

    expect(first).to.equal(before.pageCount * before.pageSizeBytes + needed);
    expect(await file.size()).to.equal(first);
  });

  it("makes it longer by a page where there is plenty", async () => {
    const before = await treeOf(file);
    const needed = pagesAddedMax(before, small) * before.pageSizeBytes;
    await headroomWith(needed + PLENTY_BYTES).ensure(small);

    expect(await file.size()).to.equal((before.pageCount + 1) * before.pageSizeBytes);
  });

  it("leaves the pages in use as they are", async () => {
    const store = await provider().open("s");
    store.transaction((transaction) => {
      for (let at = 0; at < 1000; at += 1) transaction.put(utf8(`key ${at}`), new Uint8Array(100).fill(at));
    });
    await store.close();
    const { pageCount, pageSizeBytes } = await treeOf(file);
    const before = Buffer.from(await file.read(0, pageCount * pageSizeBytes));

    await headroomWith(0).ensure({ recordCount: 9000, sizeBytes: 9_000_000 });

    expect(before.equals(await file.read(0, pageCount * pageSizeBytes))).to.equal(true);
  });

  it("tells of a disk that takes no byte though there is room, and of one that does not answer", async () => {
    await headroomWith(0).ensure(small);
    const full = Object.assign(new Error("no space"), { code: "ENOSPC" });
    const errorWhen = (
      freeBytes: number,
      write: () => Promise<void>,
      timeoutMs: number,
    ): Promise<Error | undefined> =>
      headroomWith(
        freeBytes,
        { read: (offset, length) => file.read(offset, length), size: () => file.size(), write },
        timeoutMs,
      )
        .ensure(small)
        .then(
          () => undefined,
          (error: Error) => error,
        );

    for (const freeBytes of [0, 1e15]) {
      expect(await errorWhen(freeBytes, () => Promise.reject(full), 10_000)).to.equal(full);
      const silent = await errorWhen(freeBytes, () => new Promise(() => undefined), 30);
      expect(silent?.message).to.equal("the disk did not answer within 30 ms");
    }
  });
});
