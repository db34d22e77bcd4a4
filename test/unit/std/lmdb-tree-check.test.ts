// Goal: an LMDB file that passes the check holds exactly the records that were written, and a lookup finds each of them.
// Method: real files of several levels, with values in pages of their own; what passes in spite of a flipped bit is read through LMDB.
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { toHex, utf8 } from "../../../src/std/bytes.ts";
import { CheckedOrderedStoreProvider } from "../../../src/std/checked-ordered-store.ts";
import { SystemClock } from "../../../src/std/clock.ts";
import { PAGE_FLAG, readMeta } from "../../../src/std/lmdb-pages.ts";
import { LmdbOrderedStoreProvider } from "../../../src/std/lmdb-ordered-store.ts";
import { checkTree, type TreePart } from "../../../src/std/lmdb-tree-check.ts";
import { SeededPrng } from "../../../src/std/prng.ts";
import { RecordSum } from "../../../src/std/record-sum.ts";

const SEED = 20;

describe("The check of an LMDB file", function () {
  this.timeout(120_000);
  let directory: string;
  let file: string;
  let whole: Buffer;
  const records = new Map<string, string>();

  function provider(path: string): CheckedOrderedStoreProvider {
    const lmdb = new LmdbOrderedStoreProvider({ directory: path, clock: new SystemClock(), isSealed: true });
    return new CheckedOrderedStoreProvider(lmdb, () => undefined);
  }

  function check(path: string, part = 0, partCount = 1): TreePart {
    return checkTree({ file: path, isSealed: true, part, partCount });
  }

  function sumOfRecords(): string {
    const sum = new RecordSum();
    for (const [key, value] of records) sum.add(utf8(key), utf8(value));
    return toHex(sum.toBytes());
  }

  before(async () => {
    directory = await mkdtemp(join(tmpdir(), "tree-check-"));
    const prng = new SeededPrng(SEED);
    const store = await provider(directory).open("s");
    for (let round = 0; round < 4; round += 1) {
      store.transaction((transaction) => {
        for (let at = 0; at < 1500; at += 1) {
          const key = `key ${prng.below(4000)} ${"long ".repeat(prng.below(12))}`;
          const value = "v".repeat(prng.below(100) === 0 ? 3000 + prng.below(9000) : prng.below(300));
          transaction.put(utf8(key), utf8(value));
          records.set(key, value);
        }
        for (const key of [...records.keys()].filter(() => prng.below(8) === 0)) {
          transaction.delete(utf8(key));
          records.delete(key);
        }
      });
      await store.flush();
    }
    await store.close();
    file = join(directory, "s", "data.mdb");
    whole = await readFile(file);
  });

  after(() => rm(directory, { recursive: true, force: true }));

  it("counts every record and gives their sum, in one part or in several", () => {
    const all = check(file);
    expect(all.recordCount).to.equal(records.size);
    expect(all.expected.recordCount).to.equal(records.size);
    expect(all.expected.depth).to.be.above(2);
    expect(all.overflowPageCount).to.be.above(10);
    expect(all.overflowPageCount).to.equal(all.expected.overflowPageCount);
    expect(all.leafPageCount).to.equal(all.expected.leafPageCount);
    expect(toHex(all.sum)).to.equal(sumOfRecords());
    const sum = new RecordSum();
    let count = 0;
    for (let part = 0; part < 5; part += 1) {
      const found = check(file, part, 5);
      sum.addSum(new RecordSum(found.sum));
      count += found.recordCount;
    }
    expect(count).to.equal(records.size);
    expect(toHex(sum.toBytes())).to.equal(sumOfRecords());
  });

  it("passes an empty store", async () => {
    const store = await provider(join(directory, "empty")).open("s");
    await store.close();
    const found = check(join(directory, "empty", "s", "data.mdb"));
    expect([found.recordCount, found.expected.recordCount]).to.deep.equal([0, 0]);
  });

  it("finds a flipped bit, unless the store reads as before", async () => {
    const prng = new SeededPrng(SEED + 1);
    let found = 0;
    const opened = { count: 0 };
    for (let round = 0; round < 100; round += 1) {
      const path = join(directory, `flipped-${round}`);
      await mkdir(join(path, "s"), { recursive: true });
      const bytes = Buffer.from(whole);
      const at = prng.below(bytes.length);
      bytes[at] = (bytes[at] ?? 0) ^ (1 << prng.below(8));
      const data = join(path, "s", "data.mdb");
      await writeFile(data, bytes);
      if (isFound(() => check(data), sumOfRecords(), records.size)) found += 1;
      else {
        await expectRecords(path, `seed=${SEED} round ${round} byte ${at}`);
        opened.count += 1;
      }
      await rm(path, { recursive: true });
    }
    expect(found, "flips that were found").to.be.above(12);
    expect(opened.count, "flips in bytes that mean nothing").to.be.above(10);
  });

  it("finds a key of a branch page that a lookup would go wrong by", async () => {
    const { tree } = readMeta(whole, 0);
    const size = tree.pageSizeBytes;
    let changed = 0;
    const path = join(directory, "separators.mdb");
    for (let number = 2; number < whole.length / size; number += 1) {
      const start = number * size;
      if (whole.readUInt16LE(start + 18) !== PAGE_FLAG.branch) continue;
      const keyAt = (at: number): number => start + 24 + whole.readUInt16LE(start + 24 + 2 * at) + 8;
      const count = whole.readUInt16LE(start + 20) >>> 1;
      const bytes = Buffer.from(whole);
      // The last key, one bit larger or smaller in a byte that tells it from its neighbours.
      const at = keyAt(count - 1) + 5;
      bytes[at] = (bytes[at] ?? 0) ^ 0x10;
      await writeFile(path, bytes);
      if (isFound(() => check(path), sumOfRecords(), records.size)) changed += 1;
    }
    expect(changed, "branch pages in use").to.be.above(1);
  });

  async function expectRecords(path: string, hint: string): Promise<void> {
    const store = await provider(path).open("s");
    try {
      const range = { from: utf8("a"), to: utf8("z") };
      const read = [...store.range(range)].map(({ key, value }) => [
        Buffer.from(key).toString(),
        Buffer.from(value).toString(),
      ]);
      expect(read.length, hint).to.equal(records.size);
      for (const [key = "", value] of read) expect(value, hint).to.equal(records.get(key));
      for (const [key, value] of records)
        expect(Buffer.from(store.get(utf8(key)) ?? []).toString(), hint).to.equal(value);
    } finally {
      await store.close();
    }
  }
});

/** Whether a check finds damage: by itself, or by what its owner compares. */
function isFound(check: () => TreePart, sum: string, recordCount: number): boolean {
  try {
    const { expected, ...found } = check();
    return (
      toHex(found.sum) !== sum ||
      found.recordCount !== recordCount ||
      expected.recordCount !== recordCount ||
      expected.leafPageCount !== found.leafPageCount ||
      expected.overflowPageCount !== found.overflowPageCount
    );
  } catch (error) {
    expect(error).to.have.property("name", "PageFault");
    return true;
  }
}
