/**
 * Copies as tasks, in real processes. Goal: the node that works on a task of copies dies in the middle, and the task is neither lost
 * nor done twice in effect, over the queue in memory and over RabbitMQ. Method: five nodes, one of them drained of many small
 * files; the worker of a running task is killed, and started again later.
 */
import { expect } from "chai";
import { SeededPrng } from "../../src/std/prng.ts";
import { must } from "../../src/std/assert.ts";
import { eventually } from "../support/eventually.ts";
import { useOwnService } from "../support/services/services.ts";
import { startCluster, useCluster, type ClusterNode, type TestCluster } from "../support/use-cluster.ts";

const NODE_COUNT = 5;
const WITHIN_MS = 120_000;
const FILE_COUNT = 300;
const FILE_SIZE_BYTES = 2000;

interface TaskView {
  readonly taskId: string;
  readonly state: string;
  readonly attempts: number;
  readonly memberId: string | null;
  readonly parameters: { readonly purpose: string; readonly extents: readonly unknown[] };
  readonly result: { readonly doneCount: number; readonly leftCount: number } | null;
}

interface Status {
  readonly nodes: readonly {
    readonly nodeId: string;
    readonly memberId: string;
    readonly liveBytes: number;
  }[];
  readonly replicas: {
    readonly extentCount: number;
    readonly fullyReplicatedCount: number;
    readonly movingCount: number;
  };
}

/** What a node that runs answers. */
async function ask<T>(cluster: TestCluster, path: string, method = "GET"): Promise<T> {
  const { httpUrl } = must(
    cluster.nodes.find(({ running }) => running),
    "a node that runs",
  );
  const answer = await fetch(`${httpUrl}${path}`, { method });
  const body = await answer.text();
  if (!answer.ok) throw new Error(`${path}: ${answer.status} ${body}`);
  return (body === "" ? undefined : JSON.parse(body)) as T;
}

const statusOf = (cluster: TestCluster): Promise<Status> => ask<Status>(cluster, "/api/cluster");

async function drainsOf(cluster: TestCluster): Promise<readonly TaskView[]> {
  const { tasks } = await ask<{ readonly tasks: readonly TaskView[] }>(
    cluster,
    "/api/tasks?kind=replication",
  );
  return tasks.filter(({ parameters }) => parameters.purpose === "drain");
}

const bytesOf = (at: number): Buffer => Buffer.from(new SeededPrng(at + 1).bytes(FILE_SIZE_BYTES));
const pathOf = (at: number): string => encodeURIComponent(`/copies/${at}.bin`);
const contentUrl = ({ httpUrl }: ClusterNode, at: number): string =>
  `${httpUrl}/api/files/content?path=${pathOf(at)}`;

/** Work on every file, a few at once. */
async function each(work: (at: number) => Promise<void>): Promise<void> {
  let next = 0;
  const run = async (): Promise<void> => {
    for (let at = next++; at < FILE_COUNT; at = next++) await work(at);
  };
  await Promise.all(Array.from({ length: 12 }, run));
}

async function put(cluster: TestCluster): Promise<void> {
  await each(async (at) => {
    const url = contentUrl(cluster.node(at % NODE_COUNT), at);
    const answer = await fetch(url, { method: "PUT", body: new Uint8Array(bytesOf(at)) });
    expect(answer.status, await answer.text()).to.be.within(200, 201);
  });
  await eventually(
    "three verified copies of everything",
    async () => {
      const { extentCount, fullyReplicatedCount } = (await statusOf(cluster)).replicas;
      return extentCount >= FILE_COUNT && fullyReplicatedCount === extentCount;
    },
    { withinMs: WITHIN_MS },
  );
}

/** Kills the node that works on the first task of the drain; answers the task as it was. */
async function killWorker(
  cluster: TestCluster,
): Promise<{ readonly task: TaskView; readonly worker: ClusterNode }> {
  const { nodes } = await statusOf(cluster);
  const task = await eventually(
    "a node works on the drain",
    async () => (await drainsOf(cluster)).find(({ state }) => state === "running"),
    { withinMs: WITHIN_MS, everyMs: 5 },
  );
  const nodeId = nodes.find(({ memberId }) => memberId === task.memberId)?.nodeId;
  const worker = must(
    cluster.nodes.find((node) => node.nodeId === nodeId),
    "the worker",
  );
  await worker.kill();
  return { task, worker };
}

async function checkFiles(cluster: TestCluster, drained: ClusterNode): Promise<void> {
  await each(async (at) => {
    const { durability } = await ask<{ readonly durability: { readonly nodeIds: readonly string[] } }>(
      cluster,
      `/api/stat?path=${pathOf(at)}`,
    );
    // One copy was made in the place of the one that went, and none beside.
    expect(durability.nodeIds, `copies of file ${at}`).to.have.length(3);
    expect(durability.nodeIds).not.to.include(drained.nodeId);
    const { httpUrl } = cluster.node(at % NODE_COUNT);
    const answer = await fetch(`${httpUrl}/api/download?path=${pathOf(at)}`);
    expect(answer.status, `file ${at}`).to.equal(200);
    expect(Buffer.from(await answer.arrayBuffer()).equals(bytesOf(at)), `bytes of file ${at}`).to.equal(true);
  });
}

async function drainsThough(cluster: TestCluster): Promise<void> {
  await put(cluster);
  const leader = await cluster.leader();
  const drained = must(
    cluster.nodes.find((node) => node !== leader),
    "a follower",
  );
  await ask(cluster, `/api/cluster/nodes/${drained.nodeId}/draining`, "PUT");
  const { task, worker } = await killWorker(cluster);
  worker.start();
  await worker.ready(60_000);
  await eventually(
    "the drained node is empty, and no task is left",
    async () => {
      const { nodes, replicas } = await statusOf(cluster);
      const left = nodes.find(({ nodeId }) => nodeId === drained.nodeId)?.liveBytes;
      const open = (await drainsOf(cluster)).filter(({ state }) => state !== "done");
      return left === 0 && replicas.movingCount === 0 && open.length === 0;
    },
    { withinMs: WITHIN_MS },
  );

  const ended = await drainsOf(cluster);
  const first = ended.find(({ taskId }) => taskId === task.taskId);
  expect(first?.attempts, "the first worker's attempt counts").to.equal(task.attempts + 1);
  expect(first?.result).to.include({ leftCount: 0 });
  expect(first?.result?.doneCount).to.equal(task.parameters.extents.length);
  await checkFiles(cluster, drained);
}

describe("A task of copies in a real cluster, whose worker is killed", function () {
  this.timeout(300_000);

  describe("over the queue in memory", () => {
    const cluster = useCluster({ nodes: NODE_COUNT });

    it("is neither lost nor done twice in effect", () => drainsThough(cluster()));
  });

  describe("over RabbitMQ", () => {
    const broker = useOwnService("rabbitmq");
    let cluster: TestCluster | undefined;
    before(async () => {
      cluster = await startCluster({ nodes: NODE_COUNT, environment: { RABBITMQ_URL: broker.url } });
    });
    after(() => cluster?.dispose());

    it("is neither lost nor done twice in effect", () => drainsThough(must(cluster, "the cluster")));
  });
});
