/**
 * Goal: a read through the cache is linearizable, whoever wrote to the cache when.
 * Method: two nodes that apply commands when they like read the same few entries while they are written, moved, replaced and deleted,
 * themselves and the folders above. Each answer must be what the tree said at some moment between the read's begin and end.
 */
import { expect } from "chai";
import { CachedStat } from "../../src/cache/cached-stat.ts";
import { ChangeWindow } from "../../src/cache/change-window.ts";
import type { VersionedCache } from "../../src/cache/entry-cache.ts";
import { TreeSource } from "../../src/cache/tree-source.ts";
import { MetadataClient } from "../../src/cluster/metadata-client.ts";
import type { EntryRef, PathEntry } from "../../src/drive/drive-api.ts";
import { DriveError } from "../../src/drive/errors.ts";
import { must } from "../../src/std/assert.ts";
import { SeededPrng } from "../../src/std/prng.ts";
import { TreeReads } from "../../src/transfer/tree-reads.ts";
import { LaggingTree } from "../support/lagging-tree.ts";

const PATHS = ["/a", "/b", "/a/c", "/b/c", "/a/c/d", "/b/c/d"];
const locator = (path: string): { baseId: number; path: readonly string[] } => ({
  baseId: 1,
  path: path.slice(1).split("/"),
});

/** What a read says, in one text. */
async function answerOf(read: Promise<PathEntry>): Promise<string> {
  try {
    const { entry, path } = await read;
    const { treeHash, sha256, ...rest } = entry;
    return JSON.stringify({ path, ...rest, treeHash: [...treeHash], sha256: [...sha256] });
  } catch (error) {
    if (!(error instanceof DriveError)) throw error;
    return error.reason;
  }
}

/** Runs the model; returns how often the cache answered. */
async function run(seed: number, caches: readonly VersionedCache[], stepCount: number): Promise<number> {
  const prng = new SeededPrng(seed);
  const tree = new LaggingTree(prng);
  const reads = new TreeReads(new MetadataClient(tree.truth.port(9), prng));
  const refs: readonly EntryRef[] = [
    ...PATHS.map((path) => ({ path })),
    ...[2, 3, 4, 5].map((entryId) => ({ entryId })),
  ];
  // What the truth says of each entry after each command.
  const said: string[][] = [];
  const note = async (): Promise<void> => {
    const answers = refs.map((ref) => answerOf(reads.stat(ref, { consistency: "stale" })));
    said.push(await Promise.all(answers));
  };
  await note();
  let hitCount = 0;
  const nodes = caches.map((cache, index) => {
    const port = tree.node(index + 1);
    const window = new ChangeWindow(port.appliedIndex(), 6);
    const own = new TreeReads(new MetadataClient(port, prng));
    const source = new TreeSource({ port, reads: own, window });
    return new CachedStat({
      cache,
      source,
      window,
      onRead: (outcome) => (hitCount += outcome === "hit" ? 1 : 0),
    });
  });
  let isOver = false;
  let readCount = 0;
  let failure: unknown;
  const readers = nodes.flatMap((node) =>
    [1, 2, 3].map(async () => {
      while (!isOver && failure === undefined) {
        const at = prng.below(refs.length);
        const began = said.length - 1;
        const answer = await answerOf(node.stat(must(refs[at], "an entry")));
        const possible = said.slice(began).map((answers) => answers[at]);
        if (!possible.includes(answer)) {
          failure = new Error(`seed=${seed}: ${JSON.stringify(refs[at])} was never ${answer} meanwhile`);
        }
        readCount += 1;
        await new Promise((resolve) => setImmediate(resolve));
      }
    }),
  );
  const precondition = {};
  for (let step = 0; step < stepCount; step += 1) {
    const path = must(PATHS[prng.below(PATHS.length)], "a path");
    const other = must(PATHS[prng.below(PATHS.length)], "a path");
    const kind = prng.below(10);
    if (kind < 4) {
      const attributes = { mode: prng.below(512) };
      tree.commit({
        kind: "create-directory",
        at: locator(path),
        createParents: true,
        existOk: true,
        attributes,
        precondition,
      });
    } else if (kind < 6) {
      tree.commit({
        kind: "update-entry",
        at: locator(path),
        attributes: { mode: prng.below(512) },
        precondition,
      });
    } else if (kind < 8) {
      const onConflict = prng.below(2) === 0 ? "replace" : "fail";
      tree.commit({
        kind: "move-entry",
        source: locator(path),
        to: locator(other),
        onConflict,
        precondition,
      });
    } else if (kind < 9)
      tree.commit({ kind: "delete-entry", at: locator(path), recursive: true, precondition });
    else tree.commit({ kind: "advance-clock", elapsedMs: 1 });
    await note();
    // Reads between changes, counted and not timed: a cache that answers slowly has as many of them. Now and then many.
    const until = readCount + (prng.below(10) === 0 ? 40 : prng.below(4));
    while (readCount < until && failure === undefined) await new Promise((resolve) => setImmediate(resolve));
    if (failure !== undefined) break;
  }
  isOver = true;
  await Promise.all(readers);
  if (failure instanceof Error) throw failure;
  return hitCount;
}

/** Registers the tests. @param open makes an empty cache, seen by as many nodes as asked for */
export function cachedStatContract(
  open: (nodeCount: number) => Promise<readonly VersionedCache[]>,
  settings: { readonly seeds: readonly number[]; readonly stepCount: number },
): void {
  for (const seed of settings.seeds) {
    it(`never answers what was not true during the read, two nodes and a writer, seed=${seed}`, async () => {
      const hitCount = await run(seed, await open(2), settings.stepCount);

      expect(hitCount, "the cache answered sometimes").to.be.greaterThan(0);
    });
  }
}
