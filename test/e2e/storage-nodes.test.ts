/**
 * Goal: storage-only nodes take their part: they join by a token, hold copies, serve every file at their own address, and come and
 * go, while voters alone keep the tree.
 * Method: three voters and four storage-only nodes, real processes on loopback, files written and read through all of them with curl
 * while nodes are killed, drained, removed and added, and the leader dies.
 */
import { expect } from "chai";
import { createHash } from "node:crypto";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { must } from "../../src/std/assert.ts";
import { SeededPrng } from "../../src/std/prng.ts";
import { eventually } from "../support/eventually.ts";
import { curl, netdisk } from "../support/run-program.ts";
import { startCluster, type ClusterNode, type TestCluster } from "../support/use-cluster.ts";

const STORAGE_COUNT = 4;
const ZONES = ["a", "b", "c"] as const;

interface Status {
  readonly leaderId: string | null;
  readonly nodes: readonly {
    readonly nodeId: string;
    readonly role: string;
    readonly zone: string;
    readonly liveBytes: number;
  }[];
  readonly replicas: { readonly extentCount: number; readonly fullyReplicatedCount: number };
}

describe("Storage-only nodes", function () {
  this.timeout(300_000);
  let cluster: TestCluster;
  let directory: string;
  const prng = new SeededPrng(7);
  /** Digests of what was acknowledged, by path. */
  const files = new Map<string, string>();

  before(async () => {
    directory = mkdtempSync(join(tmpdir(), "netdisk-storage-nodes-"));
    cluster = await startCluster({ nodes: 3, stopped: true });
    for (const [at, node] of cluster.nodes.entries()) node.start(zone(at));
    await Promise.all(cluster.nodes.map((node) => node.ready(60_000)));
  });

  after(async () => {
    await cluster.dispose();
    rmSync(directory, { recursive: true, force: true });
  });

  const zone = (at: number): Record<string, string> => ({ NETDISK_NODE_ZONE: ZONES[at % 3] ?? "" });
  const running = (): readonly ClusterNode[] => cluster.nodes.filter((node) => node.running);
  const addresses = (): string =>
    running()
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

  async function status(): Promise<Status> {
    return must((await command("cluster", "status"))[0], "a line") as unknown as Status;
  }

  /** Adds a storage-only node whose own URL clients can be sent to. */
  async function addStorage(): Promise<ClusterNode> {
    const [made] = await command("cluster", "add", "--storage-only");
    const node = await cluster.addNode();
    node.start({
      ...zone(cluster.nodes.length - 1),
      NETDISK_CLUSTER_JOIN_TOKEN: String(must(made, "a line")["token"]),
      NETDISK_HTTP_PUBLIC_URL: node.httpUrl,
    });
    await node.ready(60_000);
    return node;
  }

  /** Writes a file through a node; tried again until it is acknowledged, as a client would. */
  async function put(node: ClusterNode, path: string, sizeBytes: number): Promise<void> {
    const bytes = prng.bytes(sizeBytes);
    const local = join(directory, "upload.bin");
    writeFileSync(local, bytes);
    const url = `${node.httpUrl}/api/files/content?path=${path}&onConflict=replace`;
    await eventually(
      `${path} is written through ${node.nodeId}`,
      async () => (await curl(["-f", "--max-time", "60", "-T", local, url])).exitCode === 0,
      { withinMs: 60_000 },
    );
    files.set(path, createHash("sha256").update(bytes).digest("hex"));
  }

  /** Reads a file through a node as `curl -fLO` does, following redirects, and compares it. */
  async function expectEqual(node: ClusterNode, path: string): Promise<void> {
    const local = join(directory, `download-${path.slice(1)}`);
    const got = await curl([
      "-fL",
      "--max-time",
      "60",
      "-o",
      local,
      `${node.httpUrl}/api/download?path=${path}`,
    ]);
    expect(got.exitCode, `${path} through ${node.nodeId}: ${got.stderr}\n${node.logTail()}`).to.equal(0);
    const digest = createHash("sha256").update(readFileSync(local)).digest("hex");
    expect(digest, `${path} through ${node.nodeId}`).to.equal(files.get(path));
  }

  async function allFull(): Promise<void> {
    await eventually(
      "every extent has three verified copies",
      async () => {
        const { replicas } = await status();
        return replicas.extentCount > 0 && replicas.fullyReplicatedCount === replicas.extentCount;
      },
      { withinMs: 120_000, everyMs: 500 },
    );
  }

  it("join by a token, keep no tree, and take their share of what is written through any node", async () => {
    for (let at = 0; at < STORAGE_COUNT; at += 1) await addStorage();
    const { nodes } = await status();
    expect(nodes.map(({ role }) => role).filter((role) => role === "storage")).to.have.length(STORAGE_COUNT);
    for (const node of cluster.nodes.slice(3)) {
      expect(existsSync(join(node.dataDirectory, "raft")), "no log").to.equal(false);
      expect(existsSync(join(node.dataDirectory, "stores")), "no tree").to.equal(false);
    }

    // A large file at every second node: each takes some of both.
    for (const [at, node] of cluster.nodes.entries()) {
      await put(node, `/file-${at}`, at % 2 === 0 ? 2 * 1024 * 1024 + at : 1000 + at);
      await put(node, `/again-${at}`, 100_000);
    }
    await allFull();
    const held = (await status()).nodes;
    for (const { nodeId, liveBytes } of held) expect(liveBytes, nodeId).to.be.above(0);
  });

  it("serve every file to curl, and what they are redirected with allows that file alone", async () => {
    for (const node of cluster.nodes) {
      await Promise.all(
        [...files.keys()].filter((path) => path.startsWith("/file")).map((path) => expectEqual(node, path)),
      );
    }
    const voter = cluster.node(0);
    const targets = await Promise.all(
      [...files.keys()].map(async (path) => {
        const url = `${voter.httpUrl}/api/download?path=${path}&redirect=always`;
        return (await fetch(url, { redirect: "manual" })).headers.get("location");
      }),
    );
    const sent = targets.filter((target): target is string => target?.includes("ticket=") === true);
    expect(sent).to.have.length.above(1);
    const [first = "", other = ""] = sent;
    expect((await fetch(first)).status).to.equal(200);
    const ticketOf = (url: string): string => new URL(url).searchParams.get("ticket") ?? "";
    const swapped = new URL(first);
    swapped.searchParams.set("ticket", ticketOf(other));
    expect((await fetch(swapped)).status, "a ticket for another file").to.equal(403);
    const changed = new URL(first);
    changed.searchParams.set(
      "ticket",
      ticketOf(first).replace(/.$/, (last) => (last === "A" ? "B" : "A")),
    );
    expect((await fetch(changed)).status, "a changed ticket").to.equal(403);
  });

  it("come and go while files are written, and the leader dies: every file has three copies and reads back equal", async () => {
    const [, , , killed, leaving] = cluster.nodes;
    const victim = must(killed, "a storage-only node");
    await victim.kill();
    await put(cluster.node(3 + STORAGE_COUNT - 1), "/without-one", 200_000);
    await put(cluster.node(0), "/without-one-too", 2_000_000);
    victim.start({ ...zone(3), NETDISK_HTTP_PUBLIC_URL: victim.httpUrl });
    await victim.ready(60_000);

    const going = must(leaving, "another storage-only node");
    await command("cluster", "drain", going.nodeId);
    const added = await addStorage();
    await put(added, "/through-the-new-one", 2_000_000);
    await eventually(
      `${going.nodeId} holds nothing`,
      async () => (await status()).nodes.find(({ nodeId }) => nodeId === going.nodeId)?.liveBytes === 0,
      { withinMs: 120_000, everyMs: 500 },
    );
    const ended = await command("cluster", "remove", going.nodeId);
    expect(ended.at(-1)).to.include({ kind: "remove", phase: "done", formerNodeId: going.nodeId });
    expect(await going.ended(), going.logTail()).to.equal(1);
    expect(going.logTail()).to.include("MEMBER_REMOVED");

    const leader = await cluster.leader();
    await leader.kill();
    for (const [at, node] of running().slice(0, 4).entries())
      await put(node, `/without-leader-${at}`, 300_000);
    leader.start(zone(cluster.nodes.indexOf(leader)));
    await leader.ready(60_000);

    await allFull();
    for (const [at, path] of [...files.keys()].entries()) {
      await expectEqual(must(running()[at % running().length], "a node"), path);
    }
  });
});
