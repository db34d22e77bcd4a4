/**
 * A real cluster with Redis, which is killed, frozen, flushed, cut and full under load. What must hold: no request fails, each
 * read sees what was acknowledged before it, at whatever node, and the nodes say how Redis does.
 *
 * Entries are cached in Redis here, which is not the default, so that reads go through it while it fails.
 */
import { expect } from "chai";
import { Redis } from "ioredis";
import { must } from "../../src/std/assert.ts";
import { eventually } from "../support/eventually.ts";
import { netdisk } from "../support/run-program.ts";
import { startOwnService, type OwnService } from "../support/services/services.ts";
import { startCluster, type ClusterNode, type TestCluster } from "../support/use-cluster.ts";

interface ServiceJson {
  readonly name: string;
  readonly state: string;
  readonly since: string;
  readonly detail: string;
}

interface ReportedTaskJson {
  readonly taskId: string;
  readonly kind: string;
  readonly doneCount: number;
  readonly totalCount: number;
}

/** How a node says that Redis does. */
async function stateOf(node: ClusterNode): Promise<ServiceJson> {
  const { services } = (await (await fetch(`${node.httpUrl}/readyz?verbose`)).json()) as {
    services: readonly ServiceJson[];
  };
  return must(
    services.find(({ name }) => name === "redis"),
    "Redis among the services",
  );
}

/** Files that are written at one node and read at another, over and over; every answer is checked. */
class Load {
  readonly #cluster: TestCluster;
  readonly #running: Promise<void>[];
  #isOver = false;
  roundCount = 0;
  readonly wrong: string[] = [];

  constructor(cluster: TestCluster) {
    this.#cluster = cluster;
    this.#running = [0, 1].map((worker) => this.#work(worker));
  }

  /** Resolves after so many more rounds. */
  async go(rounds: number): Promise<void> {
    const before = this.roundCount;
    await eventually("the load goes on", () => this.roundCount >= before + rounds || this.wrong.length > 0, {
      withinMs: 60_000,
    });
  }

  async stop(): Promise<void> {
    this.#isOver = true;
    await Promise.all(this.#running);
  }

  async #work(worker: number): Promise<void> {
    for (let round = 1; !this.#isOver; round += 1) {
      const [writer, reader] = [this.#cluster.node(round % 3), this.#cluster.node((round + 1) % 3)];
      const path = `/load/${worker}/${round % 4}`;
      const body = "x".repeat(round);
      const put = await fetch(`${writer.httpUrl}/api/files/content?onConflict=replace&path=${path}`, {
        method: "PUT",
        body,
      });
      if (!put.ok) this.wrong.push(`PUT ${put.status}: ${await put.text()}`);
      for (const node of [reader, reader, writer]) {
        const stat = await fetch(`${node.httpUrl}/api/stat?path=${path}`);
        const text = await stat.text();
        const { size } = JSON.parse(text) as { size?: number };
        if (!stat.ok || size !== round) this.wrong.push(`GET ${stat.status} after ${round}: ${text}`);
      }
      this.roundCount += 1;
    }
  }
}

describe("A cluster with Redis", function () {
  this.timeout(180_000);
  this.slow(30_000);
  let redis: OwnService;
  let cluster: TestCluster;
  let load: Load;

  before(async function () {
    this.timeout(600_000);
    redis = await startOwnService("redis");
    const environment = { REDIS_URL: `127.0.0.1:${redis.port}`, NETDISK_CACHE_ENTRIES: "redis" };
    cluster = await startCluster({ nodes: 3, environment });
    await untilAll("up");
  });

  after(async function () {
    this.timeout(60_000);
    await cluster?.dispose();
    await redis?.dispose();
  });

  beforeEach(() => {
    load = new Load(cluster);
  });

  afterEach(() => load.stop());

  const untilAll = async (state: string): Promise<void> => {
    for (const node of cluster.nodes) {
      await eventually(
        `${node.nodeId} says that Redis is ${state}`,
        async () => (await stateOf(node)).state === state,
        {
          withinMs: 60_000,
        },
      );
    }
  };

  const command = async (...words: readonly string[]): Promise<void> => {
    const [name = "", ...rest] = words;
    const admin = new Redis(redis.url);
    try {
      await admin.call(name, ...rest);
    } finally {
      admin.disconnect();
    }
  };

  const expectWell = async (): Promise<void> => {
    await untilAll("up");
    await load.go(5);
    await load.stop();
    expect(load.wrong).to.deep.equal([]);
  };

  it("serves while it is killed and started again, and says so", async () => {
    await load.go(5);
    await redis.kill();
    await untilAll("degraded");
    await load.go(10);
    const { detail, since } = await stateOf(cluster.node(0));
    const status = await netdisk(["--nodes", cluster.addresses, "cluster", "status"]);
    await redis.start();

    await expectWell();
    expect(detail).to.match(/ECONNREFUSED|closed|reset/i);
    expect(Date.parse(since)).to.be.greaterThan(0);
    expect(status.stdout).to.match(/redis.*degraded/);
  });

  it("serves while it is frozen, and while it is full", async () => {
    await load.go(2);
    await redis.pause();
    try {
      await untilAll("degraded");
      await load.go(5);
    } finally {
      await redis.resume();
    }
    await untilAll("up");
    await command("SET", "filler", "x".repeat(1024 * 1024));
    await command("CONFIG", "SET", "maxmemory", "1mb");
    await untilAll("degraded");
    await load.go(5);
    await command("CONFIG", "SET", "maxmemory", "0");

    await expectWell();
  });

  it("serves while it is flushed and its connections are cut, again and again", async () => {
    for (let i = 0; i < 3; i += 1) {
      await load.go(2);
      await command("FLUSHALL");
      await load.go(2);
      await command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes");
    }

    await expectWell();
  });

  it("shows at every node which task another one works on, and how far it told to be", async () => {
    const reportedTasks = async (node: ClusterNode): Promise<readonly ReportedTaskJson[]> => {
      const { nodes } = (await (await fetch(`${node.httpUrl}/api/cluster`)).json()) as {
        nodes: readonly { report?: { tasks: readonly ReportedTaskJson[] } }[];
      };
      return nodes.flatMap(({ report }) => report?.tasks ?? []);
    };
    // Checks of small files go slowly while users read and write: with files pouring in, some node is at work when it tells.
    let fileCount = 0;
    const putSome = async (): Promise<void> => {
      const url = `${cluster.node(0).httpUrl}/api/files/content?path=/many`;
      const paths = Array.from({ length: 40 }, () => `/${(fileCount += 1)}`);
      const puts = paths.map((path) => fetch(url + path, { method: "PUT", body: path }));
      for (const put of await Promise.all(puts)) expect(put.status, await put.text()).to.equal(201);
    };
    const showsTask = async (node: ClusterNode): Promise<boolean> =>
      (await reportedTasks(node)).some(
        ({ kind, doneCount, totalCount }) => kind === "upload" && doneCount <= totalCount && totalCount > 1,
      );

    await eventually(
      "every node shows a task under way",
      async () => {
        await putSome();
        return (await Promise.all(cluster.nodes.map(showsTask))).every(Boolean);
      },
      { withinMs: 90_000 },
    );
    await expectWell();
  });

  it("shows what each node told of itself, and how Redis was used", async () => {
    await eventually(
      "all nodes have told",
      async () => {
        const { nodes } = (await (await fetch(`${cluster.node(0).httpUrl}/api/cluster`)).json()) as {
          nodes: readonly { report?: { source: string; ready: boolean } }[];
        };
        return nodes.length === 3 && nodes.every(({ report }) => report?.source === "redis" && report.ready);
      },
      { withinMs: 60_000 },
    );
    await eventually(
      "the metrics say that Redis is up, answered, and had an entry",
      async () => {
        const metrics = await (await fetch(`${cluster.node(0).httpUrl}/metrics`)).text();
        const wanted = [
          /netdisk_redis_up\{[^}]*\} 1/,
          /netdisk_redis_calls_total\{[^}]*call="cache_get",outcome="done"[^}]*\} [1-9]/,
          /netdisk_entry_cache_reads_total\{outcome="hit"[^}]*\} [1-9]/,
        ];
        return wanted.every((pattern) => pattern.test(metrics));
      },
      { withinMs: 60_000 },
    );
    await expectWell();
  });
});
