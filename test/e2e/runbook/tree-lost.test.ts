// Goal: docs/RUNBOOK.md, "The tree is lost", works as written: the drive comes back from the chunk stores: what the newest snapshot shows with every byte,
// what came later apart, as a guess. Method: three real processes killed at once, raft/, stores/ and index/ of all of them deleted.
import { expect } from "chai";
import { createHash } from "node:crypto";
import { existsSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { patternBytes } from "../../support/use-drives.ts";
import { must } from "../../../src/std/assert.ts";
import { eventually } from "../../support/eventually.ts";
import { netdisk } from "../../support/run-program.ts";
import { removeLocks, useCluster } from "../../support/use-cluster.ts";
import { commandsOf, Operator, SHOWN_ID } from "./runbook.ts";

interface Report {
  readonly newClusterId?: string;
  readonly oldClusterId: string;
  readonly found: {
    readonly fileCount: number;
    readonly guessed: readonly { readonly path: string; readonly writtenFor: string }[];
    readonly unplaced: readonly unknown[];
    readonly withoutBytes: readonly string[];
    readonly perhapsDeleted: readonly string[];
  };
}

const hashOf = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");

describe("A cluster that lost the tree of every voter", function () {
  this.timeout(180_000);
  const cluster = useCluster({ nodes: 3 });
  let operator: Operator;
  before(() => {
    operator = new Operator(cluster().addresses);
  });
  after(async () => {
    await operator.dispose();
  });

  async function call(method: string, route: string, body?: unknown): Promise<Response> {
    const json = body !== undefined && !(body instanceof Uint8Array);
    const response = await fetch(`${cluster().node(0).httpUrl}${route}`, {
      method,
      ...(json && { headers: { "content-type": "application/json" } }),
      ...(body !== undefined && {
        body: body instanceof Uint8Array ? Buffer.from(body) : JSON.stringify(body),
      }),
    });
    expect(response.ok, `${method} ${route}: ${response.status}`).to.equal(true);
    return response;
  }

  const put = (path: string, bytes: Uint8Array): Promise<Response> =>
    call("PUT", `/api/files/content?onConflict=replace&path=${encodeURIComponent(path)}`, bytes);

  const run = (...args: string[]) => netdisk([...args]);

  async function digestOf(path: string): Promise<string> {
    const response = await call("GET", `/api/download?path=${encodeURIComponent(path)}`);
    return hashOf(new Uint8Array(await response.arrayBuffer()));
  }

  async function wholeCopies(): Promise<void> {
    await eventually(
      "every file has three copies",
      async () => {
        const { replicas } = (await (await call("GET", "/api/cluster")).json()) as {
          replicas: { underReplicatedCount: number };
        };
        return replicas.underReplicatedCount === 0;
      },
      { withinMs: 90_000 },
    );
  }

  it("is rebuilt from the newest snapshot, and says apart what it had to guess", async () => {
    const files = new Map<string, Buffer>();
    for (let i = 0; i < 12; i += 1) files.set(`/docs/small-${i}.txt`, patternBytes(100 + 50 * i, i + 1));
    files.set("/docs/large.bin", patternBytes(3_500_000, 99));
    files.set("/名 字.txt", Buffer.from("unicode"));
    for (const [path, bytes] of files) await put(path, bytes);
    const copied = await run("cp", "/docs/large.bin", "/shared.bin", "--nodes", cluster().addresses);
    expect(copied.stderr).to.equal("");
    files.set("/shared.bin", files.get("/docs/large.bin") ?? Buffer.alloc(0));

    const backup = await run("cluster", "backup", "--nodes", cluster().addresses);
    expect(backup.stderr).to.equal("");
    expect(backup.stdout).to.include("A snapshot of the tree");
    const status = (await (await call("GET", "/api/cluster")).json()) as {
      treeSnapshot: { behindMs: number };
    };
    expect(status.treeSnapshot.behindMs).to.equal(0);

    // What the snapshot does not show: moved, deleted, sharing a content, small, large, in a new folder.
    const nodes = ["--nodes", cluster().addresses];
    expect((await run("mv", "/docs/small-0.txt", "/moved.txt", ...nodes)).stderr).to.equal("");
    expect((await run("rm", "/docs/small-1.txt", ...nodes)).stderr).to.equal("");
    expect((await run("cp", "/docs/small-2.txt", "/copy-later.txt", ...nodes)).stderr).to.equal("");
    const later = new Map<string, Buffer>([
      ["/docs/small-3.txt", Buffer.from("a newer version")],
      ["/new/inner/small.txt", Buffer.from("small and new")],
      ["/new/large.bin", patternBytes(2_700_000, 123)],
    ]);
    for (const [path, bytes] of later) await put(path, bytes);
    await wholeCopies();

    await Promise.all(cluster().nodes.map((node) => node.kill()));
    const directories = cluster().nodes.map((node) => node.dataDirectory);
    const [look, confirm, ...more] = commandsOf("The tree is lost: no voter has its metadata");
    expect(more).to.deep.equal([]);
    const names = Object.fromEntries(directories.map((path, at) => [`/data/node${at + 1}`, path]));
    const rebuild = (extra = "") => operator.run(`${must(look, "a command")}${extra}`, names);
    const refused = await rebuild();
    expect(refused.exitCode).to.equal(1);
    expect(refused.stderr).to.include("holds a member's tree");
    for (const directory of directories) {
      await removeLocks(directory);
      for (const name of ["raft", "stores", "index"]) rmSync(join(directory, name), { recursive: true });
    }

    const checked = await rebuild(" --json");
    expect(checked.stderr).to.equal("");
    const { oldClusterId, newClusterId, found } = JSON.parse(checked.stdout) as Report;
    expect(newClusterId).to.equal(undefined);
    expect(existsSync(join(directories[0] ?? "", "raft"))).to.equal(false);
    expect(found.guessed.map(({ writtenFor }) => writtenFor).sort()).to.deep.equal([...later.keys()].sort());
    expect(found.unplaced).to.deep.equal([]);
    expect(found.withoutBytes).to.deep.equal([]);
    const shown = await rebuild();
    expect(shown.stdout).to.include("NOTHING WAS CHANGED");
    expect((await rebuild(" --confirm another")).exitCode).to.not.equal(0);

    const done = await operator.run(must(confirm, "a command"), { ...names, [SHOWN_ID]: oldClusterId });
    expect(done.stderr).to.equal("");
    expect(done.stdout).to.include("voters of the new cluster");
    const kept = JSON.parse(
      readFileSync(join(directories[0] ?? "", "rebuild-report.json"), "utf8"),
    ) as Report;
    expect(kept.found.guessed).to.have.length(later.size);

    for (const node of cluster().nodes) node.start();
    await Promise.all(cluster().nodes.map((node) => node.ready(90_000)));
    // Moved and deleted files are where the snapshot shows them.
    for (const [path, bytes] of files) expect(await digestOf(path), path).to.equal(hashOf(bytes));
    for (const { path, writtenFor } of kept.found.guessed) {
      expect(path).to.match(/^\/recovered-\d{4}-\d\d-\d\d\//u);
      expect(await digestOf(path), path).to.equal(hashOf(later.get(writtenFor) ?? Buffer.alloc(0)));
    }
    await wholeCopies();
    // It is a cluster like any other: it takes changes, and keeps them.
    await put("/after.txt", Buffer.from("after"));
    expect(await digestOf("/after.txt")).to.equal(hashOf(Buffer.from("after")));
    expect((await run("cluster", "backup", ...nodes)).stderr).to.equal("");

    // After a kill every record is compared with the hash of the state.
    await Promise.all(cluster().nodes.map((node) => node.kill()));
    for (const node of cluster().nodes) node.start();
    await Promise.all(cluster().nodes.map((node) => node.ready(90_000)));
    for (const [path, bytes] of files) expect(await digestOf(path), path).to.equal(hashOf(bytes));
    expect(await digestOf("/after.txt")).to.equal(hashOf(Buffer.from("after")));
    for (const node of cluster().nodes) expect(node.logTail()).to.not.include("DATA_CORRUPT");
  });
});
