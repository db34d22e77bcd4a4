/** Members of a real cluster come, go, are wiped and replaced while files are written; and what must be refused is. */
import { expect } from "chai";
import { cpSync, readFileSync, rmSync } from "node:fs";
import { must } from "../../src/std/assert.ts";
import { SystemClock, sleep } from "../../src/std/clock.ts";
import { eventually } from "../support/eventually.ts";
import { netdisk } from "../support/run-program.ts";
import { freePorts, startCluster, type ClusterNode, type TestCluster } from "../support/use-cluster.ts";

const clock = new SystemClock();

interface Status {
  readonly leaderId: string | null;
  readonly nodes: readonly { readonly nodeId: string; readonly role: string }[];
  readonly replicas: { readonly extentCount: number; readonly fullyReplicatedCount: number };
  readonly membership: { readonly isJoint: boolean; readonly members: readonly { readonly part: string }[] };
}

describe("The membership of a cluster", function () {
  this.timeout(300_000);
  let cluster: TestCluster;

  afterEach(async () => {
    await cluster.dispose();
  });

  /** gRPC addresses of the nodes that run. */
  const addresses = (): string =>
    cluster.nodes
      .filter((node) => node.running)
      .map((node) => node.grpcAddress)
      .join(",");

  /** Runs a command that must succeed, and returns its JSON lines. */
  async function command(...args: readonly string[]): Promise<Record<string, unknown>[]> {
    const { exitCode, stdout, stderr } = await netdisk([...args, "--json", "--nodes", addresses()]);
    expect(exitCode, `${args.join(" ")}: ${stderr}`).to.equal(0);
    return stdout
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line) as Record<string, unknown>);
  }

  async function token(...args: readonly string[]): Promise<string> {
    const [made] = await command("cluster", ...args);
    return String(must(made, "a line")["token"]);
  }

  async function status(): Promise<Status> {
    const [line] = await command("cluster", "status");
    return must(line, "a line") as unknown as Status;
  }

  /** Resolves when exactly these nodes vote, and nothing else is in the configuration. */
  async function voting(...nodes: readonly ClusterNode[]): Promise<Status> {
    const wanted = nodes.map(({ nodeId }) => nodeId).sort();
    const found = await eventually(
      `${wanted.join(", ")} vote`,
      async () => {
        const seen = await status();
        const isSteady =
          !seen.membership.isJoint && seen.membership.members.every(({ part }) => part === "voter");
        const names = seen.nodes.map(({ nodeId }) => nodeId).sort();
        return isSteady && names.join() === wanted.join() ? seen : undefined;
      },
      { withinMs: 60_000, everyMs: 250 },
    );
    return found;
  }

  async function put(node: ClusterNode, name: string): Promise<boolean> {
    try {
      const url = `${node.httpUrl}/api/files/content?path=/${name}&onConflict=replace`;
      return (await fetch(url, { method: "PUT", body: `content of ${name}` })).ok;
    } catch {
      return false;
    }
  }

  /** Writes files through whichever node takes them until end() is called; resolves to their names. */
  function startWriting(): { end(): Promise<readonly string[]> } {
    const names: string[] = [];
    let isEnding = false;
    const work = (async () => {
      while (!isEnding) {
        const name = `file-${names.length}.txt`;
        const running = cluster.nodes.filter((node) => node.running);
        const node = must(running[names.length % running.length], "a node runs");
        if (await put(node, name)) names.push(name);
        await sleep(clock, 10);
      }
    })();
    return {
      end: async () => {
        isEnding = true;
        await work;
        return names;
      },
    };
  }

  async function expectAllReadable(names: readonly string[], nodes: readonly ClusterNode[]): Promise<void> {
    await eventually(
      "every extent has three verified copies",
      async () => {
        const { replicas } = await status();
        return replicas.extentCount > 0 && replicas.fullyReplicatedCount === replicas.extentCount;
      },
      { withinMs: 120_000, everyMs: 500 },
    );
    for (const [at, name] of names.entries()) {
      const node = must(nodes[at % nodes.length], "a node");
      const response = await fetch(`${node.httpUrl}/api/download?path=/${name}&redirect=never`);
      expect(await response.text(), name).to.equal(`content of ${name}`);
    }
  }

  it("grows by a token under load, loses its leader, replaces a wiped node, and has every file in three copies", async () => {
    cluster = await startCluster({ nodes: 3 });
    const writing = startWriting();

    const added = await cluster.addNode();
    added.start({ NETDISK_CLUSTER_JOIN_TOKEN: await token("add") });
    await added.ready();
    await voting(...cluster.nodes);

    const leader = await cluster.leader();
    const ended = await command("cluster", "remove", leader.nodeId);
    expect(ended.at(-1)).to.include({ kind: "remove", phase: "done", formerNodeId: leader.nodeId });
    expect(await leader.ended(), leader.logTail()).to.equal(1);
    expect(leader.logTail()).to.include("MEMBER_REMOVED");
    leader.start();
    expect(await leader.ended(), "it never comes back under its id").to.equal(1);
    expect(leader.logTail()).to.include("MEMBER_REMOVED");
    const rest = cluster.nodes.filter((node) => node !== leader);
    await voting(...rest);

    const next = await cluster.leader();
    const wiped = must(
      rest.find((node) => node !== next),
      "a follower",
    );
    await wiped.kill();
    rmSync(wiped.dataDirectory, { recursive: true, force: true });
    wiped.start({ NETDISK_CLUSTER_JOIN_TOKEN: await token("replace", wiped.nodeId) });
    await wiped.ready(60_000);
    await voting(...rest);
    const names = await writing.end();

    expect(names.length).to.be.above(50);
    await expectAllReadable(names, rest);
  });

  it("grows from three to five and shrinks to three", async () => {
    cluster = await startCluster({ nodes: 3 });
    const writing = startWriting();
    for (let count = 0; count < 2; count += 1) {
      const added = await cluster.addNode();
      added.start({ NETDISK_CLUSTER_JOIN_TOKEN: await token("add") });
      await added.ready();
      await voting(...cluster.nodes);
    }
    for (const gone of cluster.nodes.slice(0, 2)) {
      await command("cluster", "remove", gone.nodeId);
      expect(await gone.ended()).to.equal(1);
      await eventually(
        "every extent has three verified copies",
        async () => {
          const { replicas } = await status();
          return replicas.fullyReplicatedCount === replicas.extentCount;
        },
        { withinMs: 60_000, everyMs: 500 },
      );
    }
    const rest = cluster.nodes.slice(2);
    await voting(...rest);
    await command("cluster", "transfer", must(rest[2], "a node").nodeId);
    expect((await cluster.leader()).nodeId).to.equal(rest[2]?.nodeId);
    const names = await writing.end();
    await expectAllReadable(names, rest);
  });

  it("refuses used tokens, data of another cluster, copied data and removals that would harm", async () => {
    cluster = await startCluster({ nodes: 3 });
    const used = await token("add");
    const added = await cluster.addNode();
    added.start({ NETDISK_CLUSTER_JOIN_TOKEN: used });
    await added.ready();
    await voting(...cluster.nodes);

    const second = await cluster.addNode({ NETDISK_CLUSTER_JOIN_TOKEN: used });
    second.start();
    expect(await second.ended()).to.equal(1);
    expect(second.logTail()).to.include("JOIN_TOKEN_INVALID");

    added.start({ NETDISK_CLUSTER_JOIN_TOKEN: "ndj1.another.0123456789abcdef0123456789abcdef" });
    expect(await added.ended()).to.equal(1);
    expect(readFileSync(added.logPath, "utf8")).to.match(/WRONG_CLUSTER|DATA_DIRECTORY_IN_USE/u);
  });

  it("stops the second of two processes that run on copies of one data directory", async () => {
    cluster = await startCluster({ nodes: 3 });
    const original = cluster.node(2);
    await original.signal("SIGTERM");
    const copy = await cluster.addNode();
    cpSync(original.dataDirectory, copy.dataDirectory, { recursive: true });
    original.start();
    await original.ready();
    copy.start();

    expect(await copy.ended(), copy.logTail()).to.equal(1);
    expect(copy.logTail()).to.include("MEMBER_DUPLICATED");
    expect(original.running).to.equal(true);
    expect(await put(original, "still.txt")).to.equal(true);
  });

  it("ends a node that was given an older copy of its data, and says what to do", async () => {
    cluster = await startCluster({ nodes: 3 });
    const leader = await cluster.leader();
    const old = must(
      cluster.nodes.find((node) => node !== leader),
      "a follower",
    );
    await old.signal("SIGTERM");
    const kept = `${old.dataDirectory}.kept`;
    cpSync(old.dataDirectory, kept, { recursive: true });
    old.start();
    await old.ready();
    for (let at = 0; at < 20; at += 1) expect(await put(leader, `acknowledged-${at}.txt`)).to.equal(true);
    await eventually(
      "the follower has them",
      async () => {
        const url = `${old.httpUrl}/api/stat?path=/acknowledged-19.txt&consistency=stale`;
        return (await fetch(url)).status === 200;
      },
      { withinMs: 30_000 },
    );
    await old.kill();
    rmSync(old.dataDirectory, { recursive: true });
    cpSync(kept, old.dataDirectory, { recursive: true });

    old.start();

    expect(await old.ended(), old.logTail()).to.equal(1);
    expect(old.logTail(5))
      .to.include("it runs on an older copy of its data")
      .and.include("netdisk cluster replace");
    for (const node of cluster.nodes.filter((each) => each !== old)) {
      const response = await fetch(`${node.httpUrl}/api/download?path=/acknowledged-19.txt&redirect=never`);
      expect(await response.text()).to.equal("content of acknowledged-19.txt");
    }
    rmSync(kept, { recursive: true });
  });

  it("finds nodes again at new addresses, one of them or all at once", async () => {
    cluster = await startCluster({ nodes: 3 });
    expect(await put(cluster.node(0), "before.txt")).to.equal(true);
    const ports = await freePorts(4);
    const moved = cluster.node(2);
    await moved.kill();
    moved.start({ NODE_ADDR: `127.0.0.1:${ports[0]}` });
    await moved.ready();

    await Promise.all(cluster.nodes.map((node) => node.kill()));
    const peers = ports.slice(1).map((port) => `127.0.0.1:${port}`);
    for (const [at, node] of cluster.nodes.entries()) {
      node.start({ NODE_ADDR: must(peers[at], "an address"), PEERS: peers.join(",") });
    }
    await Promise.all(cluster.nodes.map((node) => node.ready(60_000)));
    const response = await fetch(`${cluster.node(1).httpUrl}/api/download?path=/before.txt&redirect=never`);
    expect(await response.text()).to.equal("content of before.txt");
  });
});
