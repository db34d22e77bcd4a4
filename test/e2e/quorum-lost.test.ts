// Goal: when the majority is gone for good, one survivor founds a new cluster by an operator's word, and by nothing less.
// Method: three real processes, two of them lost; the command on the data directory of the third.
import { expect } from "chai";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { eventually } from "../support/eventually.ts";
import { netdisk, type RunResult } from "../support/run-program.ts";
import { ClusterNode, useCluster } from "../support/use-cluster.ts";

describe("A cluster that lost its majority for good", function () {
  this.timeout(180_000);
  const cluster = useCluster({ nodes: 3 });

  function recover(node: ClusterNode, ...more: string[]): Promise<RunResult> {
    return netdisk([
      "recover",
      ...["--data-directory", node.dataDirectory, "--node-address", node.grpcAddress],
      ...more,
    ]);
  }

  it("is founded anew from one survivor, which keeps the tree, and refuses what is left of the old one", async () => {
    const [survivor, lost, other] = [cluster().node(0), cluster().node(1), cluster().node(2)];
    const url = `${survivor.httpUrl}/api/files/content?path=/kept.txt`;
    expect((await fetch(url, { method: "PUT", body: "kept" })).ok).to.equal(true);
    await eventually(
      "the file has three copies",
      async () => {
        const status = await (await fetch(`${survivor.httpUrl}/api/cluster`)).json();
        const { replicas } = status as { replicas: { underReplicatedCount: number } };
        return replicas.underReplicatedCount === 0;
      },
      { withinMs: 60_000 },
    );
    await survivor.signal("SIGTERM");

    const refused = await recover(survivor);
    expect(refused.exitCode).to.equal(1);
    expect(refused.stderr).to.include("its cluster is not lost");

    await Promise.all([lost.kill(), other.kill()]);
    const report = await recover(survivor);
    expect(report.stderr).to.equal("");
    expect(report.stdout).to.include("WHAT MAY BE LOST");
    expect(report.stdout).to.include("last entry");
    expect(report.stdout).to.include(`no answer from ${lost.grpcAddress}`);
    const clusterId = /--confirm ([0-9a-f]{32})/.exec(report.stdout)?.[1] ?? "";
    expect((await recover(survivor, "--confirm", "another")).exitCode).to.not.equal(0);
    expect(readdirSync(survivor.dataDirectory).filter((name) => name.includes("replaced"))).to.deep.equal([]);

    const done = await recover(survivor, "--confirm", clusterId);
    expect(done.stderr).to.equal("");
    expect(done.exitCode).to.equal(0);
    expect(done.stdout).to.include("only member of the new cluster");
    expect(existsSync(join(survivor.dataDirectory, `raft.replaced-${clusterId}`))).to.equal(true);

    const alone = new ClusterNode({
      nodeId: survivor.nodeId,
      dataDirectory: survivor.dataDirectory,
      grpcPort: Number(survivor.grpcAddress.split(":")[1]),
      httpPort: Number(new URL(survivor.httpUrl).port),
      peers: [survivor.grpcAddress],
      environment: {},
    });
    alone.start();
    try {
      await alone.ready(60_000);
      const kept = await fetch(`${alone.httpUrl}/api/download?path=/kept.txt`);
      expect(await kept.text()).to.equal("kept");
      const made = await fetch(`${alone.httpUrl}/api/folders`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ path: "/new" }),
      });
      expect(made.ok, await made.text()).to.equal(true);

      // What is left of the old cluster is another cluster now.
      lost.start();
      await eventually("the old member is refused", () => !lost.running, { withinMs: 60_000 });
      expect(readFileSync(lost.logPath, "utf8")).to.include("WRONG_CLUSTER");

      // And it goes on over a restart.
      await alone.signal("SIGTERM");
      alone.start();
      await alone.ready(60_000);
      expect(await (await fetch(`${alone.httpUrl}/api/download?path=/kept.txt`)).text()).to.equal("kept");
    } finally {
      await alone.kill();
    }
  });
});
