// Goal: no damage to the file of an LMDB store goes unnoticed, and none of it ends this process.
// Method: real files, cut short and with flipped bits, after an orderly end and after none.
import { cp, mkdtemp, open, readdir, readFile, rm, stat, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { describeError } from "../../src/cli/output.ts";
import { utf8 } from "../../src/std/bytes.ts";
import { CheckedOrderedStoreProvider, StoreDamageError } from "../../src/std/checked-ordered-store.ts";
import { SystemClock } from "../../src/std/clock.ts";
import { LmdbOrderedStoreProvider } from "../../src/std/lmdb-ordered-store.ts";
import { MemoryOrderedStoreProvider } from "../../src/std/memory-ordered-store.ts";
import { StoreCheckError } from "../../src/std/ordered-store.ts";
import { SeededPrng } from "../../src/std/prng.ts";

describe("A store that checks its records", () => {
  it("never hands out one that is not what was written, and says so", async () => {
    const plain = new MemoryOrderedStoreProvider();
    const damages: StoreDamageError[] = [];
    const checked = new CheckedOrderedStoreProvider(plain, (error) => damages.push(error));
    const store = await checked.open("s");
    store.transaction((transaction) => {
      for (const name of ["a", "b", "c"]) transaction.put(utf8(name), utf8(`value of ${name}`));
      transaction.insert(utf8("d"), utf8(""));
      transaction.delete(utf8("c"));
    });
    expect(Buffer.from(store.get(utf8("a")) ?? []).toString()).to.equal("value of a");
    expect(store.get(utf8("c"))).to.equal(undefined);
    expect(store.get(utf8("d"))?.length).to.equal(0);
    await store.flush();
    await store.close();
    expect(await checked.check("s")).to.deep.equal({ kind: "readable" });
    expect(await checked.check("t")).to.deep.equal({ kind: "absent" });

    const below = await plain.open("s");
    const value = Uint8Array.from(below.get(utf8("b")) ?? []);
    value[3] = (value[3] ?? 0) ^ 4;
    below.transaction((transaction) => transaction.put(utf8("b"), value));
    await below.close();

    expect((await checked.check("s")).kind).to.equal("damaged");
    const again = await checked.open("s");
    expect(() => again.get(utf8("b"))).to.throw(StoreDamageError);
    expect(() => [...again.range({ from: utf8("a"), to: utf8("z") })]).to.throw(StoreDamageError);
    expect(() => again.snapshot().get(utf8("b"))).to.throw(StoreDamageError);
    expect(damages.length).to.equal(3);
    expect(Buffer.from(again.get(utf8("a")) ?? []).toString()).to.equal("value of a");
    await again.close();
  });
});

describe("The file of an LMDB store", function () {
  this.timeout(120_000);
  let directory: string;
  let pristine: string;

  before(async () => {
    directory = await mkdtemp(join(tmpdir(), "damaged-store-"));
    pristine = join(directory, "pristine");
    const store = await provider(pristine).open("s");
    store.transaction((transaction) => {
      for (let at = 0; at < 2000; at += 1) transaction.put(utf8(`key ${at}`), utf8(`value ${at}`.repeat(8)));
    });
    await store.flush();
    await store.close();
  });

  after(() => rm(directory, { recursive: true, force: true }));

  function provider(path: string): CheckedOrderedStoreProvider {
    const lmdb = new LmdbOrderedStoreProvider({ directory: path, clock: new SystemClock(), isSealed: true });
    return new CheckedOrderedStoreProvider(lmdb, () => undefined);
  }

  /** A copy to be damaged; without its certificate it looks like one whose process was killed. */
  async function copy(name: string, isOrderly: boolean): Promise<string> {
    const path = join(directory, name);
    await cp(pristine, path, { recursive: true });
    if (!isOrderly) await rm(join(path, "s", "closed.crc"));
    return path;
  }

  it("is verified after an orderly end, and readable after none", async () => {
    expect((await provider(await copy("orderly", true)).check("s")).kind).to.equal("verified");
    expect((await provider(await copy("killed", false)).check("s")).kind).to.equal("readable");
    expect((await provider(directory).check("none")).kind).to.equal("absent");
  });

  it("is not verified once it was written to again", async () => {
    const path = await copy("again", true);
    const store = await provider(path).open("s");
    store.transaction((transaction) => transaction.put(utf8("key 1"), utf8("another")));
    await store.flush();
    expect((await stat(join(path, "s", "data.mdb"))).size).to.be.above(0);
    await store.close();
    expect((await provider(path).check("s")).kind).to.equal("verified");
  });

  describe("whose check is ended by the machine, as one is for which there is no memory,", () => {
    let marks: string;
    /** Lets that many processes that are started from now on end at once. */
    const endNext = async (count: number): Promise<void> => {
      await Promise.all(Array.from({ length: count }, (_, at) => writeFile(join(marks, String(at)), "")));
    };

    beforeEach(async () => {
      marks = await mkdtemp(join(directory, "marks-"));
      const code = `import { readdirSync, rmSync } from "node:fs";
        const [mark] = readdirSync(${JSON.stringify(marks)});
        if (mark !== undefined) { rmSync(${JSON.stringify(`${marks}/`)} + mark); process.kill(process.pid, "SIGKILL"); }`;
      process.env["NODE_OPTIONS"] = `--import=data:text/javascript,${encodeURIComponent(code)}`;
    });

    afterEach(() => {
      delete process.env["NODE_OPTIONS"];
    });

    it("is checked again", async () => {
      const path = await copy("ended-twice", false);
      await endNext(2);
      expect((await provider(path).check("s")).kind).to.equal("readable");
      expect(await readdir(marks)).to.deep.equal([]);
    });

    it("is neither damaged nor sound after three times, and stays as it is", async () => {
      const path = await copy("ended-thrice", false);
      const before = await readFile(join(path, "s", "data.mdb"));
      await endNext(3);
      const error = await provider(path)
        .check("s")
        .then(
          () => undefined,
          (reason: unknown) => reason,
        );

      expect(error).to.be.instanceOf(StoreCheckError);
      expect(describeError(error)).to.include({ code: "STORE_NOT_CHECKED", remedy: "" });
      expect(String(error)).to.include("SIGKILL").and.include("left as it is");
      expect(before.equals(await readFile(join(path, "s", "data.mdb")))).to.equal(true);
      expect((await provider(path).check("s")).kind).to.equal("readable");
    });
  });

  for (const isOrderly of [true, false]) {
    it(`is found cut short after ${isOrderly ? "an orderly end" : "none"}, at any length`, async () => {
      for (const part of isOrderly ? [0.99, 0.5] : [0.5, 0.02, 0]) {
        const path = await copy(`cut-${part}-${isOrderly}`, isOrderly);
        const file = join(path, "s", "data.mdb");
        await truncate(file, Math.floor((await stat(file)).size * part));
        expect((await provider(path).check("s")).kind, `cut to ${part}`).to.equal("damaged");
      }
    });
  }

  it("shows what it held, or is found damaged, whatever bits flip", async () => {
    const seed = 11;
    const prng = new SeededPrng(seed);
    const whole = await readFile(join(pristine, "s", "data.mdb"));
    let damaged = 0;
    for (let round = 0; round < 12; round += 1) {
      const path = await copy(`flipped-${round}`, false);
      const bytes = Buffer.from(whole);
      for (let count = 0; count < 8; count += 1) {
        const at = prng.below(bytes.length);
        bytes[at] = (bytes[at] ?? 0) ^ (1 << prng.below(8));
      }
      await writeFile(join(path, "s", "data.mdb"), bytes);
      const condition = await provider(path).check("s");
      if (condition.kind === "damaged") {
        damaged += 1;
        continue;
      }
      const store = await provider(path).open("s");
      let count = 0;
      for (const { key, value } of store.range({ from: utf8("a"), to: utf8("z") })) {
        const name = Buffer.from(key).toString().slice(4);
        expect(Buffer.from(value).toString(), `seed=${seed} round ${round}`).to.equal(
          `value ${name}`.repeat(8),
        );
        count += 1;
      }
      expect(count, `seed=${seed} round ${round}`).to.equal(2000);
      await store.close();
    }
    expect(damaged).to.be.above(6);
  });

  it("is found damaged when its first page is not one", async () => {
    const path = await copy("head", false);
    const file = await open(join(path, "s", "data.mdb"), "r+");
    await file.write(Buffer.alloc(8192, 0x5a), 0, 8192, 0);
    await file.close();
    expect((await provider(path).check("s")).kind).to.equal("damaged");
  });
});
