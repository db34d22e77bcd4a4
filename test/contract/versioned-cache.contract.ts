/** What every cache of values with versions promises. */
import { expect } from "chai";
import { VALUE_SIZE_BYTES_MAX, type VersionedCache } from "../../src/cache/entry-cache.ts";
import { must } from "../../src/std/assert.ts";
import { SeededPrng } from "../../src/std/prng.ts";

/** Registers the tests. @param open makes an empty cache, seen by as many nodes as asked for */
export function versionedCacheContract(
  open: (nodeCount: number) => Promise<readonly VersionedCache[]>,
): void {
  const openOne = async (): Promise<VersionedCache> => must((await open(1))[0], "a cache");

  it("has nothing at first, then what was put", async () => {
    const cache = await openOne();

    expect(await cache.get("a")).to.equal(undefined);
    expect(await cache.putNewer("a", { version: 7, value: "seven" })).to.equal(true);

    expect(await cache.get("a")).to.deep.equal({ version: 7, value: "seven" });
    expect(await cache.get("b")).to.equal(undefined);
  });

  it("takes a later version, and neither the same nor an earlier one", async () => {
    const cache = await openOne();
    await cache.putNewer("a", { version: 7, value: "seven" });

    expect(await cache.putNewer("a", { version: 6, value: "six" })).to.equal(false);
    expect(await cache.putNewer("a", { version: 7, value: "other" })).to.equal(false);
    expect(await cache.get("a")).to.deep.equal({ version: 7, value: "seven" });

    expect(await cache.putNewer("a", { version: 8, value: "eight" })).to.equal(true);
    expect(await cache.get("a")).to.deep.equal({ version: 8, value: "eight" });
  });

  it("compares versions as numbers, up to the largest", async () => {
    const cache = await openOne();
    await cache.putNewer("a", { version: 9, value: "nine" });

    expect(await cache.putNewer("a", { version: 10, value: "ten" })).to.equal(true);
    await cache.putNewer("a", { version: Number.MAX_SAFE_INTEGER - 1, value: "almost" });
    expect(await cache.putNewer("a", { version: Number.MAX_SAFE_INTEGER, value: "most" })).to.equal(true);
    expect(await cache.get("a")).to.deep.equal({ version: Number.MAX_SAFE_INTEGER, value: "most" });
  });

  it("keeps any text in key and value", async () => {
    const cache = await openOne();
    const key = "path:/报告 {x}:*\n\0'";
    const value = "报告\0\n\"'\u{1f4a1}";

    await cache.putNewer(key, { version: 1, value });

    expect(await cache.get(key)).to.deep.equal({ version: 1, value });
  });

  it("keeps a value of the largest size, and not one a byte larger", async () => {
    const cache = await openOne();
    const value = "x".repeat(VALUE_SIZE_BYTES_MAX);

    expect(await cache.putNewer("a", { version: 1, value })).to.equal(true);
    expect(await cache.putNewer("b", { version: 1, value: `${value}x` })).to.equal(false);
    expect(await cache.get("b")).to.equal(undefined);
  });

  it("ends with the latest version, whoever writes in whatever order at once, and never goes back meanwhile", async () => {
    const nodes = await open(2);
    const prng = new SeededPrng(5);
    const versions = Array.from({ length: 200 }, (_, i) => i + 1).sort(() => prng.float() - 0.5);
    let isOver = false;
    const seen: number[] = [];
    const watching = (async () => {
      while (!isOver) {
        const held = await must(nodes[0], "a node").get("a");
        if (held !== undefined) {
          expect(held.value).to.equal(`value ${held.version}`);
          seen.push(held.version);
        }
        await new Promise((resolve) => setImmediate(resolve));
      }
    })();

    await Promise.all(
      versions.map((version, i) =>
        must(nodes[i % nodes.length], "a node").putNewer("a", { version, value: `value ${version}` }),
      ),
    );
    isOver = true;
    await watching;

    expect(seen).to.deep.equal([...seen].sort((a, b) => a - b));
    for (const node of nodes) expect(await node.get("a")).to.deep.equal({ version: 200, value: "value 200" });
  });
}
