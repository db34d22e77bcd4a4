/**
 * The catalogs with many names: how fast the projection into PostgreSQL goes, and how long searches take in both catalogs, for
 * Latin and Chinese texts of one, two and four characters. The tree is the real state machine over a store in memory.
 */
import { EmbeddedCatalog } from "../../src/catalog/embedded-catalog.ts";
import { NameFollower } from "../../src/catalog/name-follower.ts";
import { PostgresCatalog } from "../../src/catalog/postgres-catalog.ts";
import type { Catalog } from "../../src/drive/catalog.ts";
import { SystemClock } from "../../src/std/clock.ts";
import { must } from "../../src/std/assert.ts";
import { SeededPrng } from "../../src/std/prng.ts";
import { MemoryOrderedStoreProvider } from "../../src/std/memory-ordered-store.ts";
import { CatalogDrive } from "../../test/contract/catalog.contract.ts";
import { projectorOf } from "../../test/support/projection.ts";
import { createDatabase } from "../../test/support/services/postgres-kind.ts";
import { sharedService } from "../../test/support/services/services.ts";
import { judgeAtLeast, judgeAtMost, spread, summary, type Row } from "../table.ts";

const FOLDER_NAME_COUNT = 1000;
const SEARCH_COUNT = 15;
const LATIN = "invoice report budget summer photo holiday meeting draft final project contract minutes".split(
  " ",
);
const CHINESE_FIRST = 0x4e00;
const CHINESE_COUNT = 3000;

/** A name of the kind people give: words and a number, or four to eight Chinese characters. */
function nameOf(prng: SeededPrng, i: number): string {
  if (i % 2 === 0) {
    const words = Array.from({ length: 3 }, () => must(LATIN[prng.below(LATIN.length)], "a word"));
    return `${words.join(" ")} ${prng.below(1_000_000).toString(36)} ${i}.txt`;
  }
  // Some characters are far more frequent than others.
  const character = (): string =>
    String.fromCodePoint(CHINESE_FIRST + Math.floor(CHINESE_COUNT * prng.float() * prng.float()));
  return `${Array.from({ length: 4 + prng.below(5) }, character).join("")}${i}.docx`;
}

/** Texts of `length` characters that occur in names, some of them often and some once. */
function textsOf(
  names: readonly string[],
  kind: "latin" | "chinese",
  length: number,
  prng: SeededPrng,
): readonly string[] {
  const parity = kind === "latin" ? 0 : 1;
  return Array.from({ length: SEARCH_COUNT }, () => {
    const name = must(names[prng.below(Math.floor(names.length / 2)) * 2 + parity], "a name");
    const at = kind === "latin" ? prng.below(10) : 0;
    return (
      Array.from(name)
        .slice(at, at + length)
        .join("")
        .trim() || "a"
    );
  });
}

async function timesOf(catalog: Catalog, texts: readonly string[]): Promise<readonly number[]> {
  const times: number[] = [];
  for (const text of texts) {
    const beganMs = performance.now();
    await catalog.find({ text, sort: "created", descending: true, countMax: 50 });
    times.push(performance.now() - beganMs);
  }
  return times;
}

/** Runs the rows with `count` names. */
export async function catalogRows(count: number): Promise<readonly Row[]> {
  const prng = new SeededPrng(1);
  const drive = new CatalogDrive();
  const names: string[] = [];
  for (let i = 0; i < count; i += 1) {
    const name = nameOf(prng, i);
    names.push(name);
    drive.drives.tree.apply({
      kind: "create-directory",
      at: { baseId: 1, path: [`d${i % FOLDER_NAME_COUNT}`, name] },
      createParents: true,
      existOk: true,
      attributes: {},
      precondition: {},
    });
  }
  const clock = new SystemClock();
  const port = drive.drives.tree.port(1);
  const follower = new NameFollower({ clock, port, stores: new MemoryOrderedStoreProvider() });
  const { url } = await sharedService("postgres");
  const database = await createDatabase(url);
  const projector = projectorOf(drive, database.url);
  // Timers of the clock do not keep a process alive.
  const alive = setInterval(() => undefined, 1000);
  const rows: Row[] = [];
  const speed = (work: string, done: number, beganMs: number): void => {
    const perSecond = Math.round((done / (performance.now() - beganMs)) * 1000);
    const measured = `${perSecond}/s`;
    rows.push({
      work,
      measured,
      compared: "-",
      ratio: measured,
      reach: ">= 2000/s",
      verdict: judgeAtLeast(perSecond, 2000),
    });
  };
  try {
    let beganMs = performance.now();
    while ((await follower.round()) === "busy") continue;
    speed(`names into the index of a node, ${count}`, count, beganMs);
    beganMs = performance.now();
    await projector.caughtUp();
    speed(`rows into PostgreSQL, rebuild of ${count}`, count, beganMs);
    const eventCount = 20_000;
    for (let i = 0; i < eventCount; i += 1) {
      drive.drives.tree.apply({
        kind: "create-directory",
        at: { baseId: 1, path: ["fed", nameOf(prng, count + i)] },
        createParents: true,
        existOk: true,
        attributes: {},
        precondition: {},
      });
    }
    beganMs = performance.now();
    await projector.caughtUp();
    speed(`events into PostgreSQL, ${eventCount} at once`, eventCount, beganMs);
    await projector.client.bare((client) => client.query("ANALYZE files"));
    const catalogs = [
      ["embedded", new EmbeddedCatalog({ clock, port, names: follower })],
      ["PostgreSQL", new PostgresCatalog(projector.client)],
    ] as const;
    for (const [name, catalog] of catalogs) {
      for (const kind of ["latin", "chinese"] as const) {
        for (const length of [1, 2, 4]) {
          const times = await timesOf(catalog, textsOf(names, kind, length, prng));
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
    }
  } finally {
    clearInterval(alive);
    await projector.stop();
    await follower.stop();
    await database.drop();
  }
  return rows;
}
