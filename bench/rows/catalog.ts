/**
 * The catalogs with many names: how fast a node's own index and the projection into PostgreSQL are built, how long searches take
 * in both for Latin and Chinese texts of one, two and four characters, and what the index costs in memory. The tree is the real
 * state machine over LMDB; each stage is a process of its own.
 */
import { fork } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { startOwnService } from "../../test/support/services/services.ts";
import type { StageOrder, StageResult } from "../catalog-stage.ts";
import type { Row } from "../table.ts";

/** PostgreSQL's own defaults; the servers of tests have less. */
const SETTINGS = { shared_buffers: "128MB", max_wal_size: "1GB" };

async function runStage(order: StageOrder): Promise<StageResult> {
  const path = fileURLToPath(new URL("../catalog-stage.ts", import.meta.url));
  const child = fork(path, [JSON.stringify(order)], { execArgv: ["--import", "tsx"] });
  const ended = once(child, "exit") as Promise<[number | null]>;
  let result: StageResult | undefined;
  child.on("message", (message) => {
    result = message as StageResult;
  });
  const [code] = await ended;
  if (result === undefined)
    throw new Error(`the stage ${order.stage} ended with ${String(code)} and no result`);
  return result;
}

/** Runs the rows with `count` files. */
export async function catalogRows(count: number): Promise<readonly Row[]> {
  const directory = mkdtempSync(join(tmpdir(), "netdisk-bench-catalog-"));
  const postgres = await startOwnService("postgres", { settings: SETTINGS });
  const rows: Row[] = [];
  let index = 0;
  try {
    for (const stage of ["fill", "embedded", "postgres"] as const) {
      const done = await runStage({ stage, directory, count, index, postgresUrl: postgres.url });
      rows.push(...done.rows);
      ({ index } = done);
    }
  } finally {
    await postgres.dispose();
    rmSync(directory, { recursive: true, force: true });
  }
  return rows;
}
