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
  this.timeout(600_000);
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
      { withinMs: 300_000, everyMs: 500 },
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

  it("answer everyone who sends the same at once, and repeats of what a voter took", async () => {
    const [voter, , , storage] = cluster.nodes;
    const storageUrl = must(storage, "a storage-only node").httpUrl;
    const mib = 1024 * 1024;
    const begun = await fetch(`${storageUrl}/api/upload/init`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ path: "/", name: "at-once", size: 3 * mib }),
    });
    expect(begun.status, "init").to.equal(201);
    const { fileId } = (await begun.json()) as { fileId: string };
    const send = async (index: number): Promise<number> => {
      const url = `${storageUrl}/api/upload/chunk?fileId=${fileId}&index=${index}`;
      const signal = AbortSignal.timeout(10_000);
      return (await fetch(url, { method: "POST", body: new Uint8Array(mib).fill(index), signal })).status;
    };
    expect(await Promise.all([0, 0, 0, 1, 2].map(send))).to.deep.equal([200, 200, 200, 200, 200]);
    // An upload that stays open keeps its targets from becoming empty.
    const ended = await fetch(`${storageUrl}/api/upload/complete`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ fileId }),
    });
    expect(ended.status, await ended.text()).to.equal(200);

    const bytes = prng.bytes(2.5 * mib);
    const putTo = async (url: string, name: string): Promise<string> => {
      const answer = await fetch(`${url}/api/files/content?path=/${name}`, {
        method: "PUT",
        headers: { "Idempotency-Key": `key-${name}` },
        body: bytes,
        signal: AbortSignal.timeout(20_000),
      });
      return `${answer.status} ${answer.headers.get("etag")}`;
    };
    const voterUrl = must(voter, "a voter").httpUrl;
    for (const [name, first, second] of [
      ["voter-first", voterUrl, storageUrl],
      ["storage-first", storageUrl, voterUrl],
    ] as const) {
      const made = await putTo(first, name);
      expect(made).to.match(/^201 "/);
      expect(await putTo(second, name), name).to.equal(made);
    }
    const [one, other] = await Promise.all(["both", "both"].map((name) => putTo(storageUrl, name)));
    expect(other).to.equal(one);
    expect(one).to.match(/^201 "/);
  });

  it("refuse other bytes under a key that made a file, as voters do, and repeat the first answer for the same", async () => {
    const [voter, , , storage] = cluster.nodes;
    const urls = { voter: must(voter, "a voter").httpUrl, storage: must(storage, "a storage node").httpUrl };
    const bytes = prng.bytes(5 * 1024 * 1024 + 3);
    const others = Buffer.from(bytes);
    others.writeUInt8(others.readUInt8(others.length - 1) ^ 1, others.length - 1);
    const digestOf = (content: Uint8Array): Record<string, string> => ({
      "Content-Digest": `sha-256=:${createHash("sha256").update(content).digest("base64")}:`,
    });
    const local = join(directory, "repeat.bin");
    /** Sends with curl, which announces the length or not, and waits for "100 Continue" or not; tells status and reason or ETag. */
    const send = async (
      [url, key]: readonly [url: string, key: string],
      content: Uint8Array,
      headers: Readonly<Record<string, string>> = {},
    ): Promise<string> => {
      writeFileSync(local, content);
      const fields = Object.entries({ "Idempotency-Key": key, ...headers });
      const { exitCode, stdout, stderr } = await curl([
        ...["-sS", "--max-time", "30", "-T", local, "-w", "\n%{http_code} %header{etag}"],
        ...fields.flatMap(([name, value]) => ["-H", `${name}: ${value}`]),
        `${url}/api/files/content?path=/${key}`,
      ]);
      expect(exitCode, stderr).to.equal(0);
      const [body = "", status = ""] = stdout.split("\n");
      const { error } = JSON.parse(body) as { readonly error?: { readonly code: string } };
      return error === undefined ? status : `${status}${error.code}`;
    };
    for (const [first, second] of [
      ["voter", "voter"],
      ["voter", "storage"],
      ["storage", "voter"],
      ["storage", "storage"],
    ] as const) {
      const key = `repeat-${first}-${second}`;
      const made = await send([urls[first], key], bytes);
      expect(made, key).to.match(/^201 "/);
      const again = [urls[second], key] as const;
      for (const how of [{}, { "Transfer-Encoding": "chunked" }, { Expect: "100-continue" }]) {
        const what = `${key} ${JSON.stringify(how)}`;
        expect(await send(again, others, how), what).to.equal("422 REQUEST_ID_REUSED");
        expect(await send(again, others, { ...how, ...digestOf(others) }), what).to.equal(
          "422 REQUEST_ID_REUSED",
        );
        expect(await send(again, others, { ...how, ...digestOf(bytes) }), what).to.match(/DIGEST_MISMATCH$/);
        expect(await send(again, bytes, how), what).to.equal(made);
        expect(await send(again, bytes, { ...how, ...digestOf(bytes) }), what).to.equal(made);
      }
      const chunked = { "Transfer-Encoding": "chunked" };
      for (const length of [bytes.length - 1, 2 * 1024 * 1024]) {
        expect(await send(again, bytes.subarray(0, length), chunked), key).to.equal("422 REQUEST_ID_REUSED");
      }
      expect(await send(again, Buffer.concat([bytes, bytes]), chunked), key).to.equal(
        "422 REQUEST_ID_REUSED",
      );
      files.set(`/${key}`, createHash("sha256").update(bytes).digest("hex"));
      await expectEqual(cluster.node(0), `/${key}`);
    }
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
      { withinMs: 300_000, everyMs: 500 },
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
