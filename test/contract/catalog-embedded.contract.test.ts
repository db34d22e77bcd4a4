/** The contract of catalogs against each node's own catalog, and what that promises beyond it: it rebuilds itself. */
import { expect } from "chai";
import { EmbeddedCatalog } from "../../src/catalog/embedded-catalog.ts";
import { NameFollower } from "../../src/catalog/name-follower.ts";
import { MemoryOrderedStoreProvider } from "../../src/std/memory-ordered-store.ts";
import { StoreFullError, type OrderedStoreProvider } from "../../src/std/ordered-store.ts";
import { SystemClock } from "../../src/std/clock.ts";
import { SeededPrng } from "../../src/std/prng.ts";
import { expectReason } from "../support/expect-reason.ts";
import { CatalogDrive, describeCatalog, pathsOf } from "./catalog.contract.ts";

const NEWEST = { sort: "created", descending: true, countMax: 100 } as const;

function follow(
  drive: CatalogDrive,
  stores: OrderedStoreProvider = new MemoryOrderedStoreProvider(),
): { names: NameFollower; catalog: EmbeddedCatalog; rebuilds: string[]; caughtUp: () => Promise<void> } {
  const clock = new SystemClock();
  const port = drive.drives.tree.port(1);
  const rebuilds: string[] = [];
  const names = new NameFollower({ clock, port, stores, onRebuild: (why) => rebuilds.push(why) });
  const catalog = new EmbeddedCatalog({ clock, port, names });
  const caughtUp = async (): Promise<void> => {
    while ((await names.round()) === "busy") continue;
  };
  return { names, catalog, rebuilds, caughtUp };
}

describeCatalog("EmbeddedCatalog", async (drive) => {
  const { names, catalog, caughtUp } = follow(drive);
  await names.round();
  return { catalog, caughtUp, dispose: () => names.stop() };
});

describe("The index of names of a node", function () {
  this.timeout(30_000);
  it("is being built at first, and says so", async () => {
    const drive = new CatalogDrive();
    await drive.put("/a", "1");
    const { catalog, names, caughtUp } = follow(drive);
    const search = (): Promise<readonly string[]> => pathsOf(catalog, { ...NEWEST, text: "a" });

    await expectReason("CATALOG_UNAVAILABLE", search);
    await names.round();
    await expectReason("CATALOG_UNAVAILABLE", search);
    await caughtUp();

    expect(await search()).to.deep.equal(["/a"]);
    expect(names.lagCount()).to.equal(0);
  });

  it("is not opened when it is damaged, but built again", async () => {
    const drive = new CatalogDrive();
    const stores = new MemoryOrderedStoreProvider();
    await drive.put("/a", "1");
    const first = follow(drive, stores);
    await first.caughtUp();
    stores.crash(new SeededPrng(1));
    expect(stores.spoil("names", "unreadable", new SeededPrng(1))).to.equal(true);

    const second = follow(drive, stores);
    await second.caughtUp();

    expect(second.rebuilds).to.have.length(1);
    expect(second.rebuilds[0]).to.match(/damaged/u);
    expect(await pathsOf(second.catalog, { ...NEWEST, text: "a" })).to.deep.equal(["/a"]);
  });

  it("answers, and can be asked for anew, while the disk is full, and is written when there is space", async () => {
    const drive = new CatalogDrive();
    let isFull = false;
    let flushes = 0;
    const stores = new MemoryOrderedStoreProvider({
      beforeFlush: () => {
        if (isFull) return Promise.reject(new StoreFullError("/index/names"));
        flushes += 1;
        return Promise.resolve();
      },
    });
    await drive.put("/a", "1");
    const first = follow(drive, stores);
    await first.caughtUp();
    isFull = true;
    first.names.rebuild();
    await first.caughtUp();
    await drive.put("/b", "2");
    await first.caughtUp();
    const found = await pathsOf(first.catalog, { ...NEWEST, text: "b" });
    await first.names.stop();
    isFull = false;
    const second = follow(drive, stores);
    await second.caughtUp();
    await second.names.stop();

    expect(first.rebuilds.at(-1)).to.equal("it was asked for");
    expect(found).to.deep.equal(["/b"]);
    expect(flushes).to.be.above(0);
  });

  it("misses no name that its store did not take while the disk was full", async () => {
    const drive = new CatalogDrive();
    const stores = new MemoryOrderedStoreProvider();
    let isFull = false;
    const refusing: OrderedStoreProvider = {
      check: (name) => stores.check(name),
      list: () => stores.list(),
      remove: (name) => stores.remove(name),
      open: async (name) => {
        const store = await stores.open(name);
        const transaction = store.transaction.bind(store);
        store.transaction = (work) => {
          if (isFull) throw new StoreFullError("/index/names");
          return transaction(work);
        };
        return store;
      },
    };
    await drive.put("/a", "1");
    const { names, catalog, caughtUp } = follow(drive, refusing);
    await caughtUp();
    await drive.put("/b", "2");
    isFull = true;
    const refused = await names.round().catch((error: unknown) => error);
    const lagWhileFull = names.lagCount();
    isFull = false;
    await caughtUp();

    expect(refused).to.be.instanceOf(StoreFullError);
    expect(lagWhileFull).to.be.above(0);
    expect(await pathsOf(catalog, { ...NEWEST, text: "b" })).to.deep.equal(["/b"]);
  });

  it("goes on where it was after a crash", async () => {
    const drive = new CatalogDrive();
    const stores = new MemoryOrderedStoreProvider();
    await drive.put("/before", "1");
    const first = follow(drive, stores);
    await first.caughtUp();
    await drive.put("/between", "1");

    stores.crash(new SeededPrng(1));
    const second = follow(drive, stores);
    await second.caughtUp();

    expect([...(await pathsOf(second.catalog, { ...NEWEST, text: "be" }))].sort()).to.deep.equal([
      "/before",
      "/between",
    ]);
  });

  it("keeps what a rename during the scan made of a name", async () => {
    const drive = new CatalogDrive();
    for (let i = 0; i < 900; i += 1) await drive.folder(`/d/n${String(i).padStart(4, "0")}`);
    const { names, catalog, caughtUp, rebuilds } = follow(drive);
    await names.round();
    await names.round();
    // From what the scan has not seen to what it has, and the other way round.
    await drive.move("/d/n0899", "/d/a-front");
    await drive.move("/d/n0000", "/d/z-back");
    await drive.remove("/d/n0001");
    await caughtUp();

    expect(rebuilds).to.deep.equal(["there is none yet"]);
    expect(await pathsOf(catalog, { ...NEWEST, text: "a-front" })).to.deep.equal(["/d/a-front"]);
    expect(await pathsOf(catalog, { ...NEWEST, text: "z-back" })).to.deep.equal(["/d/z-back"]);
    expect(await pathsOf(catalog, { ...NEWEST, text: "n000" })).to.have.length(8);
  });

  it("starts over when the changes it needs are not kept any more", async () => {
    const drive = new CatalogDrive({ changeCountMax: 10 });
    await drive.put("/first", "1");
    const { catalog, rebuilds, caughtUp } = follow(drive);
    await caughtUp();
    await drive.remove("/first");
    for (let i = 0; i < 40; i += 1) await drive.folder(`/later ${i}`);
    await caughtUp();

    expect(rebuilds).to.deep.equal(["there is none yet", "changes it needs are not kept any more"]);
    expect(await pathsOf(catalog, { ...NEWEST, text: "first" })).to.deep.equal([]);
    expect(await pathsOf(catalog, { ...NEWEST, text: "later" })).to.have.length(40);
  });

  it("starts over when it belongs to another cluster or is ahead of the tree", async () => {
    const stores = new MemoryOrderedStoreProvider();
    const ahead = new CatalogDrive();
    for (let i = 0; i < 5; i += 1) await ahead.folder(`/ahead ${i}`);
    const before = follow(ahead, stores);
    await before.caughtUp();
    await before.names.stop();

    const drive = new CatalogDrive();
    await drive.folder("/here");
    const { catalog, rebuilds, caughtUp } = follow(drive, stores);
    await caughtUp();

    expect(rebuilds).to.deep.equal(["it is ahead"]);
    expect(await pathsOf(catalog, NEWEST)).to.deep.equal(["/here"]);
  });

  it("forgets the names below a deleted folder", async () => {
    const drive = new CatalogDrive();
    for (let i = 0; i < 600; i += 1) await drive.folder(`/gone/n${i}`);
    await drive.folder("/kept");
    const { names, caughtUp } = follow(drive);
    await caughtUp();
    await drive.remove("/gone");
    await caughtUp();

    const { index } = names.ready();
    const { blocks } = index.blocks({ bits: [], from: undefined, descending: false, countMax: 100 });
    const ids = blocks.flatMap((block) => index.idsIn(block, new Uint8Array(0)));

    expect(ids).to.deep.equal([drive.entries().get("/kept")?.entryId]);
  });
});
