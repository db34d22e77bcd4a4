/**
 * Tasks and the projection at work in a real cluster: tasks a second from the request of the first to the end of the last, over the
 * queue in memory and over RabbitMQ, with what the nodes need for it; and how far PostgreSQL falls behind while small files come
 * in as fast as the cluster takes them.
 */
import { startOwnService } from "../../test/support/services/services.ts";
import { eventually } from "../../test/support/eventually.ts";
import { startCluster, type ClusterNode, type TestCluster } from "../../test/support/use-cluster.ts";
import { closedLoop, send } from "../http-load.ts";
import { NodeWatch, type PhaseUse } from "../node-watch.ts";
import { judgeAtLeast, judgeAtMost, type Row } from "../table.ts";

const CLIENT_COUNT = 32;
const UPLOAD_CLIENT_COUNT = 64;
const WITHIN_MS = 900_000;
const FILE_SIZE_BYTES = 4096;
/** A cluster keeps 1,000 prepared downloads. */
export const TASK_COUNT_MAX = 1000;
/** So far behind PostgreSQL is asked no more: catalog/postgres-projector.ts. */
const LAG_COUNT_MAX = 20_000;

async function must2xx(method: string, url: string, body?: string | Uint8Array): Promise<void> {
  const isText = typeof body === "string";
  const headers: Record<string, string> = isText ? { "content-type": "application/json" } : {};
  const answer = await send(method, url, isText ? Buffer.from(body) : body, headers);
  if (answer.status > 299) throw new Error(`${method} ${url}: ${answer.status} ${answer.body.toString()}`);
}

/** Calls `work` with 0 to `count` - 1, `clients` at once; returns how many seconds that took. */
async function each(
  count: number,
  clients: number,
  work: (serial: number) => Promise<void>,
): Promise<number> {
  const begunMs = performance.now();
  let next = 0;
  const client = async (): Promise<void> => {
    for (let serial = next++; serial < count; serial = next++) await work(serial);
  };
  await Promise.all(Array.from({ length: clients }, client));
  return (performance.now() - begunMs) / 1000;
}

/** The sum of a metric's values whose labels hold `labels`. */
async function metric(node: ClusterNode, name: string, labels = ""): Promise<number> {
  const { body } = await send("GET", `${node.httpUrl}/metrics`);
  let sum = 0;
  for (const line of body.toString().split("\n")) {
    const [, given = "", value] = new RegExp(`^${name}(?:\\{([^}]*)\\})? (\\S+)$`).exec(line) ?? [];
    if (value !== undefined && given.includes(labels)) sum += Number(value);
  }
  return sum;
}

async function doneCount(cluster: TestCluster): Promise<number> {
  let sum = 0;
  for (const node of cluster.nodes)
    sum += await metric(node, "netdisk_task_deliveries_total", 'kind="download",outcome="done"');
  return sum;
}

interface TaskFigures {
  readonly perSecond: number;
  readonly use: PhaseUse | undefined;
}

async function tasksThrough(
  environment: Readonly<Record<string, string>>,
  count: number,
): Promise<TaskFigures> {
  const cluster = await startCluster({ nodes: 3, environment });
  const watch = new NodeWatch(cluster);
  try {
    const url = (serial: number): string => cluster.node(serial % 3).httpUrl;
    await each(count, CLIENT_COUNT, (serial) =>
      must2xx(
        "PUT",
        `${url(serial)}/api/files/content?path=/t/${serial}/file.bin`,
        Buffer.from(`file ${serial}`),
      ),
    );
    watch.phase("tasks");
    const begunMs = performance.now();
    await each(count, CLIENT_COUNT, (serial) =>
      must2xx("POST", `${url(serial)}/api/downloads`, JSON.stringify({ path: `/t/${serial}` })),
    );
    await eventually("every task is done", async () => (await doneCount(cluster)) >= count, {
      withinMs: WITHIN_MS,
      everyMs: 100,
    });
    const seconds = (performance.now() - begunMs) / 1000;
    return { perSecond: count / seconds, use: watch.stop().at(-1) };
  } finally {
    watch.stop();
    await cluster.dispose();
  }
}

const described = ({ perSecond, use }: TaskFigures): string =>
  `${perSecond.toFixed(0)}/s, ${((1000 * (use?.cpuSeconds ?? 0)) / (perSecond * (use?.seconds ?? 1))).toFixed(0)} ms of CPU each, ${((use?.peakBytes ?? 0) / 1e6).toFixed(0)} MB at most`;

/** Download tasks, each an archive of a folder with one file. @param count at most TASK_COUNT_MAX */
export async function taskRows(count: number): Promise<readonly Row[]> {
  const embedded = await tasksThrough({}, count);
  const broker = await startOwnService("rabbitmq");
  try {
    const external = await tasksThrough({ RABBITMQ_URL: broker.url }, count);
    const ratio = external.perSecond / embedded.perSecond;
    return [
      {
        work: `tasks, asked for over HTTP to done: ${count} archives of one file, over RabbitMQ`,
        measured: described(external),
        compared: `queue in memory: ${described(embedded)}`,
        ratio: ratio.toFixed(2),
        reach: ">= 0.5 of the queue in memory",
        verdict: judgeAtLeast(ratio, 0.5),
      },
    ];
  } finally {
    await broker.dispose();
  }
}

/** Small files at full speed while PostgreSQL follows. */
export async function lagRows(durationMs: number): Promise<readonly Row[]> {
  const postgres = await startOwnService("postgres", {
    settings: { shared_buffers: "128MB", max_wal_size: "1GB" },
  });
  const cluster = await startCluster({ nodes: 3, environment: { POSTGRES_URL: postgres.url } });
  try {
    const leader = await cluster.leader();
    const lag = (): Promise<number> => metric(leader, "netdisk_catalog_lag_commands", 'catalog="postgres"');
    const projected = async (): Promise<number> => metric(leader, "netdisk_catalog_projected_rows_total");
    await must2xx("PUT", `${leader.httpUrl}/api/files/content?path=/first`, Buffer.from("first"));
    await eventually("PostgreSQL follows", async () => (await lag()) === 0 && (await projected()) > 0, {
      withinMs: WITHIN_MS,
    });
    const before = await projected();
    const begunMs = performance.now();
    const lags: number[] = [];
    let isOver = false;
    const sampling = (async (): Promise<void> => {
      while (!isOver) {
        lags.push(await lag());
        await new Promise((resolve) => setTimeout(resolve, 500));
      }
    })();
    const body = Buffer.alloc(FILE_SIZE_BYTES, 7);
    const { perSecond } = await closedLoop(UPLOAD_CLIENT_COUNT, durationMs, async (client, sequence) => {
      const file = Buffer.from(body);
      file.writeUInt32LE(client, 0);
      file.writeUInt32LE(sequence, 4);
      const path = `/fed/${client}/${sequence}.bin`;
      await must2xx("PUT", `${cluster.node(client % 3).httpUrl}/api/files/content?path=${path}`, file);
    });
    const endMs = performance.now();
    isOver = true;
    await sampling;
    await eventually("PostgreSQL has everything", async () => (await lag()) === 0, {
      withinMs: WITHIN_MS,
      everyMs: 100,
    });
    const lateSeconds = (performance.now() - endMs) / 1000;
    const rowsPerSecond = ((await projected()) - before) / ((performance.now() - begunMs) / 1000);
    const highest = Math.max(...lags);
    return [
      {
        work: `PostgreSQL behind the tree while 4 KiB files come in for ${durationMs / 1000} s, ${UPLOAD_CLIENT_COUNT} clients`,
        measured: `${highest} commands at most, everything ${lateSeconds.toFixed(1)} s after the last file`,
        compared: `${perSecond.toFixed(0)} files/s came in, ${rowsPerSecond.toFixed(0)} changes/s went over`,
        ratio: `${highest} commands`,
        reach: `<= ${LAG_COUNT_MAX} commands`,
        verdict: judgeAtMost(highest, LAG_COUNT_MAX),
      },
    ];
  } finally {
    await cluster.dispose();
    await postgres.dispose();
  }
}
