/** Rows about the tree: writes against etcd, listings of long folders, fail-over. */
import { must } from "../../src/std/assert.ts";
import { startCluster, type TestCluster } from "../../test/support/use-cluster.ts";
import { startEtcd, type Etcd } from "../etcd.ts";
import { closedLoop, send } from "../http-load.ts";
import { NetdiskClient } from "../netdisk-client.ts";
import { judgeAtLeast, judgeAtMost, spread, summary, type Row } from "../table.ts";

/** Linearizable writes from 64 clients spread over all members, netdisk and etcd in turn. */
export async function metadataWrites(cluster: TestCluster, runs: number, durationMs: number): Promise<Row[]> {
  const etcd = await startEtcd();
  const clients = cluster.nodes.map((node) => new NetdiskClient(node.grpcAddress));
  const own: number[] = [];
  const reads: number[] = [];
  const peer: number[] = [];
  const ratios: number[] = [];
  const peerReads: number[] = [];
  const readRatios: number[] = [];
  const value = Buffer.alloc(64, 1);
  try {
    for (let client = 0; client < 64; client += 1)
      await must(clients[0], "a client").createDirectory(`/meta/c${client}`, true);
    // What a program that has just started does is a matter of its compiler.
    await closedLoop(64, durationMs, (client, sequence) =>
      must(clients[client % 3], "a client").createDirectory(`/meta/c${client}/warm-${sequence}`),
    );
    for (let run = 0; run < runs; run += 1) {
      const writes = await closedLoop(64, durationMs, (client, sequence) =>
        must(clients[client % 3], "a client").createDirectory(`/meta/c${client}/r${run}-${sequence}`),
      );
      own.push(writes.perSecond);
      const looked = await closedLoop(64, durationMs / 2, (client) =>
        must(clients[client % 3], "a client").stat(`/meta/c${client}`),
      );
      reads.push(looked.perSecond);
      if (etcd !== undefined) {
        const other = await closedLoop(64, durationMs, (client, sequence) =>
          etcd.put(client % 3, `/meta/c${client}/r${run}-${sequence}`, value),
        );
        peer.push(other.perSecond);
        ratios.push(writes.perSecond / other.perSecond);
        const otherReads = await closedLoop(64, durationMs / 2, (client) =>
          etcd.get(client % 3, `/meta/c${client}/r${run}-0`),
        );
        peerReads.push(otherReads.perSecond);
        readRatios.push(looked.perSecond / otherReads.perSecond);
      }
    }
  } finally {
    for (const client of clients) client.close();
    etcd?.dispose();
  }
  const ratio = summary(ratios).median;
  const readRatio = summary(readRatios).median;
  return [
    {
      work: "linearizable metadata writes, 64 clients",
      measured: `${spread(own)}/s`,
      compared: etcd === undefined ? "etcd: not installed" : `etcd 3.4, 3 members: ${spread(peer)}/s`,
      ratio: etcd === undefined ? "-" : ratio.toFixed(2),
      reach: ">= 2",
      verdict: etcd === undefined ? "not run" : judgeAtLeast(ratio, 2),
    },
    {
      work: "linearizable metadata reads, 64 clients",
      measured: `${spread(reads)}/s`,
      compared: etcd === undefined ? "etcd: not installed" : `etcd 3.4, 3 members: ${spread(peerReads)}/s`,
      ratio: etcd === undefined ? "-" : readRatio.toFixed(2),
      reach: ">= 1",
      verdict: etcd === undefined ? "not run" : judgeAtLeast(readRatio, 1),
    },
  ];
}

/** First page of a folder with very many entries against one with a thousand. */
export async function listing(cluster: TestCluster, entryCount: number): Promise<Row> {
  const clients = cluster.nodes.map((node) => new NetdiskClient(node.grpcAddress));
  const fill = async (folder: string, count: number): Promise<void> => {
    await must(clients[0], "a client").createDirectory(folder, true);
    let next = 0;
    await Promise.all(
      Array.from({ length: 256 }, async (_, worker) => {
        for (let index = next++; index < count; index = next++) {
          await must(clients[worker % 3], "a client").createDirectory(
            `${folder}/entry ${String(index).padStart(9, "0")}`,
          );
        }
      }),
    );
  };
  await fill("/list-small", 1000);
  await fill("/list-large", entryCount);
  for (const client of clients) client.close();
  const time = async (folder: string): Promise<number> => {
    const begun = performance.now();
    const answer = await send("GET", `${cluster.node(0).httpUrl}/api/files?path=${folder}&limit=1000`);
    if (answer.status !== 200) throw new Error(answer.body.toString());
    return performance.now() - begun;
  };
  const small: number[] = [];
  const large: number[] = [];
  for (let run = 0; run < 41; run += 1) {
    small.push(await time("/list-small"));
    large.push(await time("/list-large"));
  }
  const figure = summary(large).median;
  return {
    work: `list: first 1,000 of ${entryCount.toLocaleString("en")} entries`,
    measured: `${spread(large, 1)} ms`,
    compared: `same of 1,000 entries: ${spread(small, 1)} ms`,
    ratio: (figure / summary(small).median).toFixed(2),
    reach: "equal, <= 5 ms",
    verdict: judgeAtMost(figure, 5),
  };
}

/** Time from SIGKILL of the leader under load to the next acknowledged write, netdisk and etcd. */
export async function failover(runs: number): Promise<Row> {
  const own: number[] = [];
  const peer: number[] = [];
  for (let run = 0; run < runs; run += 1) {
    own.push(await netdiskFailover());
    const etcd = await startEtcd();
    if (etcd !== undefined) peer.push(await etcdFailover(etcd));
  }
  const figure = summary(own).median;
  return {
    work: "leader killed under load -> next write acknowledged",
    measured: `${spread(own)} ms`,
    compared: peer.length === 0 ? "etcd: not installed" : `etcd 3.4: ${spread(peer)} ms`,
    ratio: peer.length === 0 ? "-" : (figure / summary(peer).median).toFixed(2),
    reach: "<= 500 ms median, sooner than etcd",
    verdict: peer.length > 0 && figure > summary(peer).median ? "missed" : judgeAtMost(figure, 500),
  };
}

async function underLoad(
  survivors: readonly ((sequence: string) => Promise<void>)[],
  kill: () => void,
): Promise<number> {
  const state = { stopped: false, killedAt: 0, firstMs: 0 };
  const workers = survivors.flatMap((write, survivor) =>
    Array.from({ length: 8 }, async (_, worker) => {
      for (let sequence = 0; !state.stopped; sequence += 1) {
        const begun = performance.now();
        try {
          await write(`${survivor}-${worker}-${sequence}`);
          if (state.killedAt > 0 && begun >= state.killedAt && state.firstMs === 0) {
            state.firstMs = performance.now() - state.killedAt;
            state.stopped = true;
          }
        } catch {
          // The write was refused or lost while nobody led: the next one counts.
          await new Promise((resolve) => setTimeout(resolve, 5));
        }
      }
    }),
  );
  await new Promise((resolve) => setTimeout(resolve, 1500));
  kill();
  state.killedAt = performance.now();
  await Promise.all(workers);
  return state.firstMs;
}

async function netdiskFailover(): Promise<number> {
  const cluster = await startCluster({ nodes: 3 });
  try {
    const leader = await cluster.leader();
    const clients = cluster.nodes
      .filter((node) => node !== leader)
      .map((node) => new NetdiskClient(node.grpcAddress));
    const figure = await underLoad(
      clients.map((client) => (sequence) => client.createDirectory(`/load/${sequence}`)),
      () => void leader.kill(),
    );
    for (const client of clients) client.close();
    return figure;
  } finally {
    await cluster.dispose();
  }
}

async function etcdFailover(etcd: Etcd): Promise<number> {
  try {
    const leader = await etcd.leader();
    const value = Buffer.alloc(64, 1);
    return await underLoad(
      [0, 1, 2]
        .filter((index) => index !== leader)
        .map((index) => (sequence) => etcd.put(index, `/load/${sequence}`, value)),
      () => etcd.kill(leader),
    );
  } finally {
    etcd.dispose();
  }
}
