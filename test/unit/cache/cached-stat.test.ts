/** The cache of entries in this process: the contracts, and what is kept, refused and read again. */
import { expect } from "chai";
import { CachedStat, decodeFound, encodeFound, type FoundEntry } from "../../../src/cache/cached-stat.ts";
import { ChangeWindow } from "../../../src/cache/change-window.ts";
import { EmbeddedCache, type VersionedCache } from "../../../src/cache/entry-cache.ts";
import { FOLLOW_COMMAND_COUNT_MAX, TreeSource } from "../../../src/cache/tree-source.ts";
import type { PathEntry } from "../../../src/drive/drive-api.ts";
import { CHUNK_SIZE_BYTES } from "../../../src/drive/limits.ts";
import { must } from "../../../src/std/assert.ts";
import { SeededPrng } from "../../../src/std/prng.ts";
import { cachedStatContract } from "../../contract/cached-stat.contract.ts";
import { CatalogDrive } from "../../contract/catalog.contract.ts";
import { versionedCacheContract } from "../../contract/versioned-cache.contract.ts";
import { expectReason } from "../../support/expect-reason.ts";

/** One cache for all nodes that answers after a while, as one over a network does. */
function slowly(cache: VersionedCache, prng: SeededPrng): VersionedCache {
  const pause = async (): Promise<void> => {
    for (let i = prng.below(4); i > 0; i -= 1) await new Promise((resolve) => setImmediate(resolve));
  };
  return {
    get: async (key) => {
      await pause();
      const held = await cache.get(key);
      await pause();
      return held;
    },
    putNewer: async (key, versioned) => {
      await pause();
      return cache.putNewer(key, versioned);
    },
  };
}

describe("EmbeddedCache", () => {
  versionedCacheContract((nodeCount) => {
    const cache = new EmbeddedCache();
    return Promise.resolve(Array.from({ length: nodeCount }, () => cache));
  });

  it("keeps as many entries as its bound says", async () => {
    const cache = new EmbeddedCache(2);
    for (const key of ["a", "b", "c"]) await cache.putNewer(key, { version: 1, value: key });

    expect(await Promise.all(["a", "b", "c"].map((key) => cache.get(key)))).to.deep.equal([
      undefined,
      { version: 1, value: "b" },
      { version: 1, value: "c" },
    ]);
  });
});

describe("CachedStat", function () {
  this.timeout(30_000);
  cachedStatContract(
    (nodeCount) => {
      const cache = new EmbeddedCache();
      const prng = new SeededPrng(1);
      return Promise.resolve(Array.from({ length: nodeCount }, () => slowly(cache, prng)));
    },
    { seeds: [1, 2, 3, 4, 5], stepCount: 250 },
  );

  const open = (drive: CatalogDrive): { stat: CachedStat; outcomes: string[]; cache: EmbeddedCache } => {
    const port = drive.drives.tree.port(1);
    const window = new ChangeWindow(port.appliedIndex());
    const cache = new EmbeddedCache();
    const outcomes: string[] = [];
    const source = new TreeSource({ port, reads: drive.drives.drive(), window });
    const stat = new CachedStat({ cache, source, window, onRead: (outcome) => outcomes.push(outcome) });
    return { stat, outcomes, cache };
  };

  it("answers again from the cache until the entry or a folder above changes", async () => {
    const drive = new CatalogDrive();
    await drive.put("/docs/a.txt", "one");
    const { stat, outcomes } = open(drive);
    const read = (): Promise<PathEntry> => stat.stat({ path: "/docs/a.txt" });

    const first = await read();
    expect(await read()).to.deep.equal(first);
    await drive.put("/docs/b.txt", "beside it");
    expect(await read()).to.deep.equal(first);
    await drive.put("/docs/a.txt", "two!");
    expect((await read()).entry.sizeBytes).to.equal(4);
    expect((await read()).entry.sizeBytes).to.equal(4);
    await drive.move("/docs", "/papers");
    await expectReason("PATH_NOT_FOUND", read);

    expect(outcomes).to.deep.equal(["miss", "hit", "hit", "outdated", "hit", "outdated"]);
  });

  it("does not go by a value of another entry, or one that is none", async () => {
    const drive = new CatalogDrive();
    await drive.put("/a.txt", "one");
    await drive.put("/b.txt", "two");
    const { stat, outcomes, cache } = open(drive);
    const expected = await drive.drives.drive().stat({ path: "/a.txt" });
    await stat.stat({ path: "/b.txt" });
    const other = must(await cache.get("path:/b.txt"), "a value");

    for (const value of [
      other.value,
      "",
      "null",
      "{}",
      "[1]",
      other.value.slice(1),
      '{"path":"/a.txt","entry":{}}',
    ]) {
      const { version } = must(await cache.get("path:/a.txt").then((held) => held ?? other), "a value");
      await cache.putNewer("path:/a.txt", { version: version + 1, value });
      expect(await stat.stat({ path: "/a.txt" })).to.deep.equal(expected);
    }
    expect(outcomes.filter((outcome) => outcome === "hit")).to.deep.equal([]);
  });

  it("keeps no large file whose plain SHA-256 may yet be found, and one a byte smaller", async () => {
    const drive = new CatalogDrive();
    await drive.put("/large", "x".repeat(CHUNK_SIZE_BYTES));
    const base = await drive.drives.drive().stat({ path: "/large" });
    for (const [sizeBytes, isKept] of [
      [CHUNK_SIZE_BYTES, true],
      [CHUNK_SIZE_BYTES + 1, false],
    ] as const) {
      const found = { ...base, entry: { ...base.entry, sizeBytes, sha256: new Uint8Array(0) } };
      const cache = new EmbeddedCache();
      const window = new ChangeWindow(1);
      const source = {
        readIndex: () => Promise.resolve(1),
        read: () => Promise.resolve({ found, version: 1, ancestorIds: [1] }),
      };
      await new CachedStat({ cache, source, window }).stat({ path: "/large" });

      expect((await cache.get("path:/large")) !== undefined).to.equal(isKept);
    }
  });

  it("begins anew when it is too far behind to catch up, and is right all the same", async () => {
    const drive = new CatalogDrive();
    await drive.put("/a.txt", "one");
    const { stat, outcomes } = open(drive);
    await stat.stat({ path: "/a.txt" });
    for (let i = 0; i <= FOLLOW_COMMAND_COUNT_MAX; i += 1) {
      drive.drives.tree.apply({ kind: "request-scrub" });
    }

    await stat.stat({ path: "/a.txt" });
    await stat.stat({ path: "/a.txt" });

    expect(outcomes).to.deep.equal(["miss", "outdated", "hit"]);
  });

  it("writes a value so that it reads the same again", async () => {
    const drive = new CatalogDrive();
    await drive.put("/报告/a.txt", "one", { mediaType: "text/plain", modifyTimeMs: 5 });
    for (const path of ["/报告/a.txt", "/报告", "/"]) {
      const found = await drive.drives.drive().stat({ path });
      for (const ancestorIds of [[1, 2], undefined]) {
        const value: FoundEntry = { found, version: 9, ancestorIds };
        expect(decodeFound(9, encodeFound(value))).to.deep.equal(value);
      }
    }
  });
});
