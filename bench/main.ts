/**
 * `npm run bench [-- --quick] [-- row ...]`: every row of the speed table that exists, each beside its limit or peer in the
 * same run. Prints the table and writes it to bench/out/latest.md; figures worth keeping go to bench/RESULTS.md by hand.
 *
 * `npm run bench -- scale [--entries N] [--keep DIR]`: N is 10,000,000 when absent; what it makes (1 GB for a million entries) is
 * kept in DIR for the next run. `npm run bench -- million [--files N]`: N is 1,000,000 when absent.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { startCluster, type TestCluster } from "../test/support/use-cluster.ts";
import { cacheRows } from "./rows/cache.ts";
import { catalogRows } from "./rows/catalog.ts";
import { completionAndMemory, largeFile, smallFiles } from "./rows/bytes.ts";
import { failover, listing, metadataWrites } from "./rows/metadata.ts";
import { manySmallFiles } from "./rows/million.ts";
import { drainRow } from "./rows/drain.ts";
import { repairRows } from "./rows/repair.ts";
import { lagRows, TASK_COUNT_MAX, taskRows } from "./rows/tasks.ts";
import { streamWithDelay } from "./rows/delayed-stream.ts";
import { scaleRows } from "./rows/scale.ts";
import { formatTable, hardware, type Row } from "./table.ts";

const GIB = 1024 ** 3;
const { values: settings, positionals: wanted } = parseArgs({
  allowPositionals: true,
  options: {
    quick: { type: "boolean" },
    entries: { type: "string" },
    files: { type: "string" },
    keep: { type: "string" },
    "make-only": { type: "boolean" },
  },
});
const quick = settings.quick === true;
const runs = quick ? 1 : 5;

async function withCluster(work: (cluster: TestCluster) => Promise<readonly Row[]>): Promise<readonly Row[]> {
  const cluster = await startCluster({ nodes: 3 });
  try {
    return await work(cluster);
  } finally {
    await cluster.dispose();
  }
}

const sections: Record<string, () => Promise<readonly Row[]>> = {
  large: () => withCluster((cluster) => largeFile(cluster, runs)),
  small: () => withCluster(async (cluster) => [await smallFiles(cluster, runs, quick ? 3000 : 8000)]),
  metadata: () => withCluster((cluster) => metadataWrites(cluster, runs, quick ? 3000 : 8000)),
  // Made by single requests; a cluster remembers at most two million of the last 15 minutes.
  list: () => withCluster(async (cluster) => [await listing(cluster, quick ? 20_000 : 995_000)]),
  complete: () => withCluster((cluster) => completionAndMemory(cluster, (quick ? 1 : 10) * GIB)),
  failover: async () => [await failover(quick ? 2 : 9)],
  catalog: () => catalogRows(quick ? 50_000 : 1_000_000),
  cache: () => cacheRows(quick ? 1 : 3, quick ? 2000 : 4000),
  tasks: () => taskRows(quick ? 200 : TASK_COUNT_MAX),
  lag: () => lagRows(quick ? 10_000 : 60_000),
  repair: () => repairRows((quick ? 1 : 4) * GIB, quick ? 1 : 3),
  drain: async () => [
    await drainRow(quick ? 2000 : 20_000, (line) => void process.stdout.write(`  ${line}\n`)),
  ],
  million: () =>
    withCluster((cluster) =>
      manySmallFiles(cluster, Number(settings.files ?? (quick ? 20_000 : 1_000_000)), (line) => {
        process.stdout.write(`  ${line}\n`);
      }),
    ),
  scale: () =>
    scaleRows({
      entryCount: Number(settings.entries ?? (quick ? 100_000 : 10_000_000)),
      keep: settings.keep,
      isMadeOnly: settings["make-only"] === true,
      log: (line) => void process.stdout.write(`  ${line}\n`),
    }),
  stream: () => withCluster((cluster) => streamWithDelay(cluster, runs)),
};

const rows: Row[] = [];
const head = `${new Date().toISOString().slice(0, 10)} · ${hardware(tmpdir())} · 3 nodes on one disk, fdatasync before every acknowledgement, 3 copies · ${runs} run(s), median (min-max)`;
process.stdout.write(`${head}\n`);
for (const [name, section] of Object.entries(sections)) {
  if (wanted.length > 0 && !wanted.includes(name)) continue;
  process.stdout.write(`${name} ...\n`);
  const found = await section();
  rows.push(...found);
  process.stdout.write(`${formatTable(found)}\n`);
}
const out = join(dirname(fileURLToPath(import.meta.url)), "out");
mkdirSync(out, { recursive: true });
writeFileSync(join(out, "latest.md"), `${head}\n\n${formatTable(rows)}\n`);
process.stdout.write(`\n${head}\n\n${formatTable(rows)}\n`);
// Connections of clients that were measured may still be open, and keep nothing that anybody waits for.
process.exit(0);
