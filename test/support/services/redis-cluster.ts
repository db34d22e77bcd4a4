/** A Redis cluster of three masters for tests, each a process of its own. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Redis } from "ioredis";
import { must } from "../../../src/std/assert.ts";
import { eventually } from "../eventually.ts";
import { freePorts } from "../use-cluster.ts";
import { startOwnService, type OwnService } from "./services.ts";

const MASTER_COUNT = 3;
const SLOT_COUNT = 16_384;
const START_WITHIN_MS = 600_000;
const FORM_WITHIN_MS = 60_000;

/** The masters of a cluster. */
export interface RedisCluster {
  readonly masters: readonly OwnService[];
  /** As REDIS_URL names them. */
  readonly url: string;
}

async function withClient<T>(master: OwnService, work: (client: Redis) => Promise<T>): Promise<T> {
  const client = new Redis(master.url, { lazyConnect: true });
  try {
    await client.connect();
    return await work(client);
  } finally {
    client.disconnect();
  }
}

async function form(masters: readonly OwnService[], busPorts: readonly number[]): Promise<void> {
  const bound = (index: number): number => Math.floor((SLOT_COUNT * index) / masters.length);
  for (const [index, master] of masters.entries()) {
    await withClient(master, async (client) => {
      await client.call("CLUSTER", "ADDSLOTSRANGE", bound(index), bound(index + 1) - 1);
      for (const [other, { port }] of masters.entries()) {
        if (other !== index) {
          await client.call("CLUSTER", "MEET", "127.0.0.1", port, must(busPorts[other], "a bus port"));
        }
      }
    });
  }
  for (const master of masters) {
    await eventually(
      "every master knows of all slots",
      () =>
        withClient(master, async (client) =>
          String(await client.call("CLUSTER", "INFO")).includes("cluster_state:ok"),
        ),
      { withinMs: FORM_WITHIN_MS },
    );
  }
}

/** In a `describe`: a cluster of three masters, ready before the first test and removed after the last. */
export function useRedisCluster(): RedisCluster {
  const masters: OwnService[] = [];
  let directory: string | undefined;
  before(async function () {
    this.timeout(START_WITHIN_MS);
    directory = mkdtempSync(join(tmpdir(), "netdisk-redis-cluster-"));
    const busPorts = await freePorts(MASTER_COUNT);
    for (const busPort of busPorts) {
      // A cluster of containers would need a network of its own: these are processes always.
      const folder = mkdtempSync(join(directory, "master-"));
      const settings = {
        "cluster-enabled": "yes",
        "cluster-port": String(busPort),
        "cluster-node-timeout": "2000",
      };
      masters.push(await startOwnService("redis", { settings, directory: folder }));
    }
    await form(masters, busPorts);
  });
  after(async function () {
    this.timeout(60_000);
    for (const master of masters) await master.dispose();
    if (directory !== undefined) rmSync(directory, { recursive: true, force: true });
  });
  return {
    masters,
    get url() {
      return masters.map(({ port }) => `127.0.0.1:${port}`).join(",");
    },
  };
}
