/**
 * A folder as a ZIP archive, from real processes. Goal: what people unpack is what was in the folder, although the node that served
 * died in the middle and files changed meanwhile. Method: curl against one node, SIGKILL, `curl -C -` against another, unzip.
 */
import { expect } from "chai";
import { createHash } from "node:crypto";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { SeededPrng } from "../../src/std/prng.ts";
import { eventually } from "../support/eventually.ts";
import { curl, netdisk, start } from "../support/run-program.ts";
import { needTool } from "../support/services/programs.ts";
import { useCluster } from "../support/use-cluster.ts";

const MIB = 1024 * 1024;
/** Larger than what sockets hold, so that a node can die while its bytes are on their way. */
const LARGE_SIZE_BYTES = 24 * MIB;
const SMALL_COUNT = 190;

const sha256 = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");
const bytesOf = (sizeBytes: number, seed: number): Buffer =>
  Buffer.from(new SeededPrng(seed).bytes(sizeBytes));

/** Files by their path in the folder, and the folders that are empty. */
function makeFiles(): ReadonlyMap<string, Buffer> {
  const files = new Map<string, Buffer>();
  for (let i = 0; i < SMALL_COUNT; i += 1) {
    const folder = i % 3 === 0 ? "文档/第一章" : `data/${i % 7}`;
    files.set(`${folder}/文件 ${i}.txt`, bytesOf((i * 37) % 3000, i));
  }
  files.set("空文件.txt", Buffer.alloc(0));
  files.set("五兆.bin", bytesOf(5 * MIB, 1001));
  files.set("large.bin", bytesOf(LARGE_SIZE_BYTES, 1002));
  return files;
}

function digestsBelow(folder: string, prefix = ""): Map<string, string> {
  const found = new Map<string, string>();
  for (const item of readdirSync(join(folder, prefix), { withFileTypes: true })) {
    const path = prefix === "" ? item.name : `${prefix}/${item.name}`;
    if (!item.isDirectory()) found.set(path, sha256(readFileSync(join(folder, path))));
    else for (const [name, digest] of digestsBelow(folder, path)) found.set(name, digest);
  }
  return found;
}

describe("A prepared download of a real cluster", function () {
  this.timeout(180_000);
  const cluster = useCluster({ nodes: 3 });
  const files = makeFiles();
  let directory: string;
  before(async function () {
    this.timeout(300_000);
    await needTool("unzip", ["unzip"]);
    directory = mkdtempSync(join(tmpdir(), "netdisk-zip-"));
  });
  after(() => rmSync(directory, { recursive: true, force: true }));

  const url = (node: number, path: string): string => `${cluster().node(node).httpUrl}${path}`;
  const at = (path: string): string => `path=${encodeURIComponent(path)}`;

  async function putAll(): Promise<void> {
    const left = [...files];
    const putNext = async (): Promise<void> => {
      for (let next = left.pop(); next !== undefined; next = left.pop()) {
        const [path, body] = next;
        const answer = await fetch(url(left.length % 3, `/api/files/content?${at(`/资料/${path}`)}`), {
          method: "PUT",
          body: new Uint8Array(body),
        });
        expect(answer.status, `${path}: ${await answer.text()}`).to.be.within(200, 201);
      }
    };
    await Promise.all(Array.from({ length: 8 }, putNext));
    const made = await fetch(url(0, "/api/folders"), {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ path: "/资料/空文件夹" }),
    });
    expect(made.status, await made.text()).to.equal(201);
  }

  async function ready(id: string): Promise<Record<string, unknown>> {
    let state: Record<string, unknown> = {};
    await eventually(
      "the download is prepared",
      async () => {
        state = (await (await fetch(url(2, `/api/downloads/${id}`))).json()) as Record<string, unknown>;
        expect(state["state"], JSON.stringify(state)).to.not.be.oneOf(["failed", "cancelled"]);
        return state["state"] === "done";
      },
      { withinMs: 90_000 },
    );
    return state;
  }

  it("is resumed at another node after the serving one died, and unpacks to what was in the folder", async () => {
    await putAll();
    const asked = await fetch(url(0, "/api/downloads"), {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ path: "/资料" }),
    });
    const { downloadId } = (await asked.json()) as { downloadId: string };
    expect(asked.status).to.equal(202);
    const state = await ready(downloadId);
    // What was prepared does not change with the files.
    await fetch(url(1, `/api/files/content?${at("/资料/五兆.bin")}&onConflict=replace`), {
      method: "PUT",
      body: "new",
    });

    const target = join(directory, "archive.zip");
    const content = `/api/downloads/${downloadId}/content`;
    const first = start("curl", ["-sS", "-f", "--limit-rate", "1M", "-o", target, url(0, content)]);
    const received = (): number => (existsSync(target) ? statSync(target).size : 0);
    await eventually("a part has come", () => received() > MIB, { withinMs: 60_000 });
    await cluster().node(0).kill();
    const broken = await first.result;
    const sizeBytes = statSync(target).size;
    const resumed = await curl(["-f", "-C", "-", "-o", target, url(1, content)]);

    expect(broken.exitCode, "the first curl noticed").to.not.equal(0);
    expect(sizeBytes).to.be.below(LARGE_SIZE_BYTES);
    expect(resumed.exitCode, resumed.stderr).to.equal(0);
    expect(statSync(target).size).to.equal(state["size"]);
    const unpacked = join(directory, "unpacked");
    const tested = await start("unzip", ["-tqq", target]).result;
    expect(tested.exitCode, tested.stdout + tested.stderr).to.equal(0);
    const done = await start("env", ["LC_ALL=C.UTF-8", "unzip", "-q", target, "-d", unpacked]).result;
    expect(done.exitCode, done.stderr).to.equal(0);
    const expected = new Map([...files].map(([path, body]) => [`资料/${path}`, sha256(body)]));
    expect(digestsBelow(unpacked)).to.deep.equal(expected);
    expect(readdirSync(join(unpacked, "资料/空文件夹"))).to.deep.equal([]);
  });

  it("is fetched by the command line from the nodes that are left", async () => {
    const nodes = [1, 2].map((node) => cluster().node(node).grpcAddress).join(",");
    const target = join(directory, "cli.zip");

    const { exitCode, stdout, stderr } = await netdisk([
      "--nodes",
      nodes,
      "get",
      "--zip",
      "/资料/文档",
      target,
    ]);

    expect(exitCode, stdout + stderr).to.equal(0);
    expect((await start("unzip", ["-tqq", target]).result).exitCode).to.equal(0);
  });

  it("counts apart from users' files, and is given back when it is released", async () => {
    const nodes = [1, 2].map((node) => cluster().node(node).grpcAddress).join(",");
    const json = async (path: string): Promise<Record<string, unknown>> =>
      (await (await fetch(url(1, path))).json()) as Record<string, unknown>;
    const users = await json("/api/usage");
    const before = await json("/api/cluster");

    // The command line has released its own; the one that curl fetched is still kept.
    expect(before["preparedDownloads"]).to.include({ downloadCount: 1, fileCount: files.size + 1 });
    expect(before["fileCount"]).to.equal(users["fileCount"]);
    const listed = await netdisk(["--nodes", nodes, "tasks", "ls", "--kind", "download", "--json"]);
    const [, first] = listed.stdout
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as { taskId: string });
    const released = await netdisk(["--nodes", nodes, "tasks", "cancel", first?.taskId ?? ""]);

    expect(released.exitCode, released.stderr).to.equal(0);
    expect((await json("/api/cluster"))["preparedDownloads"]).to.equal(null);
    const gone = await fetch(url(2, `/api/downloads/${first?.taskId}/content`));
    expect(gone.status, await gone.text()).to.equal(410);
    expect((await json("/api/cluster"))["fileCount"]).to.equal(users["fileCount"]);
  });
});
