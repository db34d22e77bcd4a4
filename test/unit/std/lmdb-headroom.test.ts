/** Room in the file of an LMDB store: how much a flush may need, and that it is there before LMDB is asked. */
import { expect } from "chai";
import { mkdtemp, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { utf8 } from "../../../src/std/bytes.ts";
import { SystemClock } from "../../../src/std/clock.ts";
import type { DiskFile } from "../../../src/std/disk.ts";
import { LmdbHeadroom, pagesAddedMax, type FlushSize } from "../../../src/std/lmdb-headroom.ts";
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
  const provider = (): LmdbOrderedStoreProvider =>
    new LmdbOrderedStoreProvider({ directory, clock: new SystemClock() });

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

        const added = after.pageCount - before.pageCount;
        expect(added).to.be.at.most(pagesAddedMax(before, { recordCount: count, sizeBytes }));
        const { size } = await stat(path);
        expect(size).to.be.at.least(Math.max(sizeBefore, after.pageCount * after.pageSizeBytes));
      }
      await store.close();
      expect((await provider().check("s")).kind).to.equal("verified");
    });
  }

  const small: FlushSize = { recordCount: 1, sizeBytes: 100 };

  it("makes the file longer by what is needed and a step, and a second time not", async () => {
    const before = await treeOf(file);
    const headroom = new LmdbHeadroom(file, new SystemClock(), 1000);
    await headroom.ensure(small);
    const first = await file.size();
    await headroom.ensure(small);

    const pages = before.pageCount + pagesAddedMax(before, small) + 64;
    expect(first).to.equal(pages * before.pageSizeBytes);
    expect(await file.size()).to.equal(first);
  });

  it("leaves the pages in use as they are", async () => {
    const store = await provider().open("s");
    store.transaction((transaction) => {
      for (let at = 0; at < 1000; at += 1) transaction.put(utf8(`key ${at}`), new Uint8Array(100).fill(at));
    });
    await store.close();
    const { pageCount, pageSizeBytes } = await treeOf(file);
    const before = Buffer.from(await file.read(0, pageCount * pageSizeBytes));

    await new LmdbHeadroom(file, new SystemClock(), 1000).ensure({ recordCount: 9000, sizeBytes: 9_000_000 });

    expect(before.equals(await file.read(0, pageCount * pageSizeBytes))).to.equal(true);
  });

  it("tells of a disk that takes no byte though there is room, and of one that does not answer", async () => {
    const headroom = new LmdbHeadroom(file, new SystemClock(), 1000);
    await headroom.ensure(small);
    const full = Object.assign(new Error("no space"), { code: "ENOSPC" });
    const failing = (write: () => Promise<void>): LmdbHeadroom => {
      const broken: Pick<DiskFile, "read" | "size" | "write" | "close"> = {
        read: (offset, length) => file.read(offset, length),
        size: () => file.size(),
        write,
        close: () => Promise.resolve(),
      };
      return new LmdbHeadroom(broken as DiskFile, new SystemClock(), 30);
    };
    const errorOf = (of: LmdbHeadroom): Promise<Error | undefined> =>
      of.ensure(small).then(
        () => undefined,
        (error: Error) => error,
      );

    expect(await errorOf(failing(() => Promise.reject(full)))).to.equal(full);
    const silent = await errorOf(failing(() => new Promise(() => undefined)));
    expect(silent?.message).to.equal("the disk did not answer within 30 ms");
  });
});
