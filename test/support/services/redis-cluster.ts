/** A Redis cluster of three masters for tests, with a replica of the last on request, each a process of its own; also over TLS. */
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
  /** That of the last master, where one was asked for. */
  readonly replica: OwnService | undefined;
  /** As REDIS_URL names them; with TLS by their ports for that. */
  readonly url: string;
}

/** How a cluster is to be. */
export interface RedisClusterOptions {
  /** Made before the suite begins: clients and masters then speak TLS with what these files say. */
  readonly tls?: () => Promise<{
    readonly certificatePath: string;
    readonly keyPath: string;
    readonly authorityPath: string;
  }>;
  /** Gives the last master a replica, which takes its place when it is gone. */
  readonly hasReplica?: boolean;
}

interface Member {
  readonly service: OwnService;
  readonly busPort: number;
  /** Where the others and clients find it. */
  readonly port: number;
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

async function meet(member: Member, others: readonly Member[]): Promise<void> {
  await withClient(member.service, async (client) => {
    for (const { port, busPort } of others) {
      if (busPort !== member.busPort) await client.call("CLUSTER", "MEET", "127.0.0.1", port, busPort);
    }
  });
}

async function form(masters: readonly Member[]): Promise<void> {
  const bound = (index: number): number => Math.floor((SLOT_COUNT * index) / masters.length);
  for (const [index, master] of masters.entries()) {
    await withClient(master.service, (client) =>
      client.call("CLUSTER", "ADDSLOTSRANGE", bound(index), bound(index + 1) - 1),
    );
    await meet(master, masters);
  }
  for (const master of masters) {
    await eventually(
      "every master knows of all slots",
      () =>
        withClient(master.service, async (client) =>
          String(await client.call("CLUSTER", "INFO")).includes("cluster_state:ok"),
        ),
      { withinMs: FORM_WITHIN_MS },
    );
  }
}

/** Makes `replica` follow `master`, and waits until it has what the master has. */
async function follow(replica: Member, master: Member, all: readonly Member[]): Promise<void> {
  await meet(replica, all);
  const masterId = await withClient(master.service, async (client) =>
    String(await client.call("CLUSTER", "MYID")),
  );
  // Once: each time it is told, it begins anew.
  await eventually(
    "the replica knows the master",
    () => withClient(replica.service, (client) => client.call("CLUSTER", "REPLICATE", masterId)),
    { withinMs: FORM_WITHIN_MS },
  );
  await eventually(
    "the replica follows",
    () =>
      withClient(replica.service, async (client) =>
        String(await client.call("INFO", "replication")).includes("master_link_status:up"),
      ),
    { withinMs: FORM_WITHIN_MS },
  );
  await eventually(
    "every master knows of the replica",
    async () => {
      const known = await Promise.all(
        all.map(({ service }) =>
          withClient(service, async (client) => String(await client.call("CLUSTER", "NODES"))),
        ),
      );
      return known.every((text) => new RegExp(`slave ${masterId}`).test(text));
    },
    { withinMs: FORM_WITHIN_MS },
  );
}

/** In a `describe`: a cluster of three masters, ready before the first test and removed after the last. */
export function useRedisCluster({ tls, hasReplica = false }: RedisClusterOptions = {}): RedisCluster {
  const members: Member[] = [];
  let directory: string | undefined;
  before(async function () {
    this.timeout(START_WITHIN_MS);
    directory = mkdtempSync(join(tmpdir(), "netdisk-redis-cluster-"));
    const files = await tls?.();
    const count = MASTER_COUNT + (hasReplica ? 1 : 0);
    const ports = await freePorts(count * 2);
    for (let at = 0; at < count; at += 1) {
      const [busPort, tlsPort] = [must(ports[at * 2], "a bus port"), must(ports[at * 2 + 1], "a port")];
      // A cluster of containers would need a network of its own: these are processes always.
      const folder = mkdtempSync(join(directory, "member-"));
      const settings = {
        ...{ "cluster-enabled": "yes", "cluster-port": String(busPort), "cluster-node-timeout": "2000" },
        ...(files !== undefined && {
          ...{ "tls-port": String(tlsPort), "tls-cluster": "yes", "tls-replication": "yes" },
          ...{ "tls-cert-file": files.certificatePath, "tls-key-file": files.keyPath },
          ...{ "tls-ca-cert-file": files.authorityPath, "tls-auth-clients": "no" },
        }),
      };
      const service = await startOwnService("redis", { settings, directory: folder });
      members.push({ service, busPort, port: files === undefined ? service.port : tlsPort });
    }
    const masters = members.slice(0, MASTER_COUNT);
    await form(masters);
    const replica = members[MASTER_COUNT];
    if (replica !== undefined) await follow(replica, must(masters.at(-1), "a master"), members);
  });
  after(async function () {
    this.timeout(60_000);
    for (const { service } of members) await service.dispose();
    if (directory !== undefined) rmSync(directory, { recursive: true, force: true });
  });
  return {
    get masters() {
      return members.slice(0, MASTER_COUNT).map(({ service }) => service);
    },
    get replica() {
      return members[MASTER_COUNT]?.service;
    },
    get url() {
      const addresses = members
        .slice(0, MASTER_COUNT)
        .map(({ port }) => `127.0.0.1:${port}`)
        .join(",");
      return tls === undefined ? addresses : `rediss://${addresses}`;
    },
  };
}
