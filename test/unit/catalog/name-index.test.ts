// Goal: the index of names finds every name that holds a text, whatever of its signatures is in memory.
// Method: random writes, removals and sweeps beside a plain map; each search in both directions, in slices of random size, with
// caches that hold everything, some blocks, or one.
import { expect } from "chai";
import { gramsToFind, signatureBit } from "../../../src/catalog/name-grams.ts";
import { BLOCK_ID_COUNT, NameIndex } from "../../../src/catalog/name-index.ts";
import { SignatureCache } from "../../../src/catalog/signature-cache.ts";
import { utf8 } from "../../../src/std/bytes.ts";
import { MemoryOrderedStore } from "../../../src/std/memory-ordered-store.ts";
import { SeededPrng } from "../../../src/std/prng.ts";

const STATE = { clusterId: "c", appliedIndex: 1, scan: undefined };

function search(index: NameIndex, text: string, descending: boolean, countMax: number): number[] {
  const bits = gramsToFind(text).map(signatureBit);
  const found: number[] = [];
  let from: number | undefined;
  for (;;) {
    const { blocks, examinedTo } = index.blocks({ bits, from, descending, countMax });
    for (const block of blocks) {
      const ids = index.idsIn(block, utf8(text));
      found.push(...(descending ? [...ids].reverse() : ids));
    }
    if (examinedTo === undefined || (descending && examinedTo === 0)) return found;
    from = descending ? examinedTo - 1 : examinedTo + 1;
  }
}

describe("NameIndex", function () {
  this.timeout(20_000);

  for (const cachedBlockCount of [1, 3, 1000]) {
    it(`finds what a plain map finds, with ${cachedBlockCount} blocks in memory`, () => {
      const seed = Number(process.env["SEED"] ?? Date.now() % 1_000_000);
      const prng = new SeededPrng(seed);
      const index = new NameIndex(new MemoryOrderedStore(), cachedBlockCount);
      const names = new Map<number, string>();
      const anId = (): number => 1 + prng.below(12 * BLOCK_ID_COUNT);
      const aName = (): string => Array.from({ length: 4 }, () => "abcdefgh"[prng.below(8)] ?? "").join("");
      for (let step = 0; step < 120; step += 1) {
        const changes = new Map<number, string | undefined>();
        for (let i = prng.below(40); i > 0; i -= 1)
          changes.set(anId(), prng.below(4) === 0 ? undefined : aName());
        index.apply(changes, STATE);
        for (const [entryId, name] of changes) {
          if (name === undefined) names.delete(entryId);
          else names.set(entryId, name);
        }
        if (step % 10 === 9) {
          const block = prng.below(12);
          const isKept = (entryId: number): boolean => entryId % 7 === 0;
          index.sweep(block, isKept);
          for (const entryId of [...names.keys()])
            if (Math.floor(entryId / BLOCK_ID_COUNT) === block && !isKept(entryId)) names.delete(entryId);
        }
        const text = aName().slice(0, 1 + prng.below(3));
        const descending = prng.below(2) === 0;
        const wanted = [...names].filter(([, name]) => name.includes(text)).map(([entryId]) => entryId);
        wanted.sort((a, b) => (descending ? b - a : a - b));
        const found = search(index, text, descending, 1 + prng.below(6));
        expect(found, `step ${step}, "${text}", SEED=${seed}`).to.deep.equal(wanted);
      }
    });
  }
});

describe("SignatureCache", () => {
  const signature = Uint8Array.of(0xff);
  const read = (...blocks: readonly number[]): [number, Uint8Array][] =>
    blocks.map((block) => [block, signature]);
  const all = { bits: [], from: undefined, descending: true, countMax: 100 };

  it("holds as many blocks as it may, and one more pushes the oldest out", () => {
    const cache = new SignatureCache(3);
    cache.extend(undefined, read(9, 8), false);
    cache.set(10, signature);
    expect(cache.count).to.equal(3);
    cache.set(11, signature);

    expect(cache.count).to.equal(3);
    expect(cache.blocks(all)).to.deep.equal({ blocks: [11, 10, 9], examinedTo: 9 });
  });

  it("answers for nothing that it has not seen", () => {
    const cache = new SignatureCache(3);
    cache.set(5, signature);
    expect(cache.blocks(all)).to.equal(undefined);
    cache.extend(4, read(4), false);
    expect(cache.blocks(all)).to.equal(undefined);
    cache.extend(undefined, read(9), false);

    expect(cache.blocks({ ...all, from: 8 })).to.equal(undefined);
    expect(cache.blocks({ ...all, from: 8, descending: false })).to.equal(undefined);
    expect(cache.blocks({ ...all, from: 9, descending: false })).to.deep.equal({
      blocks: [9],
      examinedTo: undefined,
    });
  });

  it("knows the end once everything was read", () => {
    const cache = new SignatureCache(3);
    cache.extend(undefined, read(9, 4), true);

    expect(cache.blocks(all)).to.deep.equal({ blocks: [9, 4], examinedTo: undefined });
  });
});
