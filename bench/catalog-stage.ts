/**
 * One stage of the benchmark of the catalogs, in a process of its own, so that its memory is its own. Started by
 * rows/catalog.ts, which hands over what earlier stages left and gets the rows back.
 */
import { join } from "node:path";
import { EmbeddedCatalog } from "../src/catalog/embedded-catalog.ts";
import { NameFollower } from "../src/catalog/name-follower.ts";
import { PostgresCatalog } from "../src/catalog/postgres-catalog.ts";
import type { Catalog } from "../src/drive/catalog.ts";
import { must } from "../src/std/assert.ts";
import { SystemClock } from "../src/std/clock.ts";
import { LmdbOrderedStoreProvider } from "../src/std/lmdb-ordered-store.ts";
import { SeededPrng } from "../src/std/prng.ts";
import { runSql } from "../test/support/services/postgres-kind.ts";
import { projectorOver, untilAvailable, type TestProjector } from "../test/support/projection.ts";
import { BigTree, FLUSH_TIMEOUT_MS, nameOf } from "./big-tree.ts";
import { anonymousBytes, judgeAtLeast, judgeAtMost, spread, summary, type Row } from "./table.ts";

/** What a stage is told. */
export interface StageOrder {
  readonly stage: "fill" | "embedded" | "postgres";
  readonly directory: string;
  /** Files that `fill` makes. */
  readonly count: number;
  /** Commands in the tree when the stage begins. */
  readonly index: number;
  readonly postgresUrl: string;
}

/** What a stage says at its end. */
export interface StageResult {
  readonly rows: readonly Row[];
  readonly index: number;
}

const MIB = 1024 * 1024;
const SEARCH_COUNT = 31;
const FED_COUNT = 20_000;

/** Texts of `length` characters that occur in names, anywhere in them: some in a third of all names, some in one. */
function textsOf(count: number, kind: "latin" | "chinese", length: number): readonly string[] {
  const prng = new SeededPrng(length);
  return Array.from({ length: SEARCH_COUNT }, () => {
    const name = Array.from(nameOf(prng.below(Math.floor(count / 2)) * 2 + (kind === "latin" ? 0 : 1)));
    // The ends of names are the same in all of them; Chinese names begin with at least four characters that tell something.
    const atMax = kind === "latin" ? name.length - 4 - length : 4 - length;
    const at = prng.below(atMax + 1);
    return name.slice(at, at + length).join("");
  });
}

async function searchRows(name: string, catalog: Catalog, count: number): Promise<readonly Row[]> {
  const rows: Row[] = [];
  for (const kind of ["latin", "chinese"] as const) {
    for (const length of [1, 2, 4]) {
      const times: number[] = [];
      for (const text of textsOf(count, kind, length)) {
        const beganMs = performance.now();
        await catalog.find({ text, sort: "created", descending: true, countMax: 50 });
        times.push(performance.now() - beganMs);
      }
      const measured = `${spread(times, 1)} ms`;
      rows.push({
        work: `search in ${count} names, ${name}, ${kind}, ${length} characters`,
        measured,
        compared: "-",
        ratio: measured,
        reach: "<= 50 ms",
        verdict: judgeAtMost(summary(times).median, 50),
      });
    }
  }
  return rows;
}

async function speedRow(work: string, count: number, unit: string, done: () => Promise<void>): Promise<Row> {
  const beganMs = performance.now();
  await done();
  const seconds = (performance.now() - beganMs) / 1000;
  const perSecond = Math.round(count / seconds);
  const measured = `${perSecond} ${unit}/s`;
  return {
    work,
    measured,
    compared: `${seconds.toFixed(1)} s in all`,
    ratio: measured,
    reach: ">= 2000/s",
    verdict: judgeAtLeast(perSecond, 2000),
  };
}

async function embedded(tree: BigTree, { directory, count }: StageOrder): Promise<readonly Row[]> {
  const clock = new SystemClock();
  const port = tree.port();
  const follower = new NameFollower({
    clock,
    port,
    stores: new LmdbOrderedStoreProvider({ directory, clock, flushTimeoutMs: FLUSH_TIMEOUT_MS }),
  });
  const rows: Row[] = [];
  const memory: number[] = [];
  const bareMib = anonymousBytes(process.pid) / MIB;
  const sampling = setInterval(() => memory.push(anonymousBytes(process.pid) / MIB), 100);
  try {
    const index = async (): Promise<void> => {
      while ((await follower.round()) === "busy") await new Promise((resolve) => setImmediate(resolve));
    };
    rows.push(await speedRow(`names into the index of a node, ${count}`, count, "names", index));
    rows.push(
      ...(await searchRows("embedded", new EmbeddedCatalog({ clock, port, names: follower }), count)),
    );
    const peakMib = summary(memory).max;
    rows.push({
      work: `memory of a process with tree and index of ${count} names`,
      measured: `${peakMib.toFixed(0)} MiB at most, ${(memory.at(-1) ?? 0).toFixed(0)} MiB at the end`,
      compared: `before it opens the index: ${bareMib.toFixed(0)} MiB`,
      ratio: `+${(peakMib - bareMib).toFixed(0)} MiB`,
      reach: "<= 300 MB",
      verdict: judgeAtMost(peakMib, 286),
    });
  } finally {
    clearInterval(sampling);
    await follower.stop();
  }
  return rows;
}

async function postgres(tree: BigTree, { count, postgresUrl }: StageOrder): Promise<readonly Row[]> {
  const replicas = { forMember: () => undefined };
  const projector: TestProjector = projectorOver({ port: tree.port(), replicas }, postgresUrl);
  const rows: Row[] = [];
  try {
    const build = `files into PostgreSQL, rebuild of ${count} (with 3 copies and a chunk each: 5 rows)`;
    rows.push(
      await speedRow(build, count, "files", () =>
        untilAvailable(() => projector.caughtUp()).then(() => undefined),
      ),
    );
    await tree.fill(count, count + FED_COUNT, "fed");
    const feed = `new files into PostgreSQL by the feed, ${FED_COUNT} at once`;
    rows.push(
      await speedRow(feed, FED_COUNT, "files", () =>
        untilAvailable(() => projector.caughtUp()).then(() => undefined),
      ),
    );
    rows.push(...(await searchRows("PostgreSQL", new PostgresCatalog(projector.client), count)));
    rows.push(await movedFolderRow(tree, projector, count, postgresUrl));
  } finally {
    await projector.stop();
  }
  return rows;
}

/** One command moves the folder with all files; every path below it is another then. */
async function movedFolderRow(
  tree: BigTree,
  projector: TestProjector,
  count: number,
  url: string,
): Promise<Row> {
  tree.move("data", "moved");
  const work = `paths in PostgreSQL below a folder of ${count} files that was moved`;
  const row = await speedRow(work, count, "paths", () =>
    untilAvailable(() => projector.caughtUp()).then(() => undefined),
  );
  const { rows } = await runSql(
    url,
    "SELECT count(*) FILTER (WHERE path LIKE '/moved/%') AS moved, count(*) FILTER (WHERE path LIKE '/data/%') AS left FROM files WHERE NOT is_directory",
  );
  if (Number(rows[0]?.moved) !== count || Number(rows[0]?.left) !== 0)
    throw new Error(`after the move: ${JSON.stringify(rows[0])}`);
  return row;
}

async function run(order: StageOrder): Promise<StageResult> {
  const tree = await BigTree.open(join(order.directory), order.index);
  try {
    if (order.stage === "embedded") return { rows: await embedded(tree, order), index: tree.index };
    if (order.stage === "postgres") return { rows: await postgres(tree, order), index: tree.index };
    const work = `commands into the tree of one node without a cluster, ${order.count} files`;
    const fill = (): Promise<void> => tree.fill(0, order.count, "data");
    return { rows: [await speedRow(work, order.count, "files", fill)], index: tree.index };
  } finally {
    await tree.close();
  }
}

// Timers of the clock do not keep a process alive.
const alive = setInterval(() => undefined, 1000);
const order = JSON.parse(must(process.argv[2], "an order")) as StageOrder;
const result = await run(order);
clearInterval(alive);
if (process.send === undefined) process.stdout.write(`${JSON.stringify(result, undefined, 1)}\n`);
else process.send(result, () => process.disconnect());
