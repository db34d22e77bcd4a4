// Goal: docs/RUNBOOK.md, "The majority is gone for good", works as written: one survivor founds a new cluster by an operator's word,
// and by nothing less, and becomes whole again with new nodes. Method: three real processes, two of them lost; the commands are read
// from the document.
import { expect } from "chai";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { must } from "../../../src/std/assert.ts";
import { directoryState } from "../../support/directory-state.ts";
import { eventually } from "../../support/eventually.ts";
import type { RunResult } from "../../support/run-program.ts";
import { useCluster } from "../../support/use-cluster.ts";
import { ALL_COPIES, commandsOf, Operator, SHOWN_ID, stop, Users } from "./runbook.ts";

describe("The runbook, when the majority is gone for good", function () {
  this.timeout(180_000);
  const cluster = useCluster({ nodes: 3 });
  const status = "netdisk cluster status";
  let operator: Operator;
  before(() => {
    operator = new Operator(cluster().addresses);
  });
  after(async () => {
    await operator.dispose();
  });

  it("has one survivor found a new cluster, which keeps every file, refuses the old one and grows to three nodes", async () => {
    const [look, confirm, remove, add, ...more] = commandsOf("The majority is gone for good");
    expect(more).to.deep.equal([]);
    const [survivor, lost, other] = [cluster().node(0), cluster().node(1), cluster().node(2)];
    const place = { "/var/lib/netdisk": survivor.dataDirectory, "node1:29001": survivor.grpcAddress };
    const recover = (id?: string): Promise<RunResult> =>
      id === undefined
        ? operator.run(must(look, "a command"), place)
        : operator.run(must(confirm, "a command"), { ...place, [SHOWN_ID]: id });

    const users = new Users(() =>
      cluster()
        .nodes.filter((node) => node.running)
        .map((node) => node.httpUrl),
    );
    await users.begin();
    await users.end(10);
    await operator.statusSays(ALL_COPIES, status);
    await stop(survivor);
    const refused = await recover();
    expect(refused.exitCode).to.equal(1);
    expect(refused.stderr).to.include("its cluster is not lost");

    await Promise.all([lost.kill(), other.kill()]);
    const before = directoryState(survivor.dataDirectory);
    const report = await recover();
    expect(directoryState(survivor.dataDirectory)).to.deep.equal(before);
    expect(report.stderr).to.equal("");
    expect(report.stdout).to.include("WHAT MAY BE LOST").and.include("last entry");
    expect(report.stdout).to.include(`no answer from ${lost.grpcAddress}`);
    const clusterId = /--confirm ([0-9a-f]{32})/.exec(report.stdout)?.[1] ?? "";
    expect((await recover("another")).exitCode).to.not.equal(0);
    expect(readdirSync(survivor.dataDirectory).filter((name) => name.includes("replaced"))).to.deep.equal([]);

    const done = await recover(clusterId);
    expect(done.stderr).to.equal("");
    expect(done.exitCode).to.equal(0);
    expect(done.stdout).to.include("only member of the new cluster");
    expect(existsSync(join(survivor.dataDirectory, `raft.replaced-${clusterId}`))).to.equal(true);
    const again = await recover(clusterId);
    expect(again.exitCode).to.equal(0);
    expect(again.stdout).to.include("This was done before");
    survivor.start({ PEERS: survivor.grpcAddress });
    await survivor.ready(60_000);
    operator.addresses = survivor.grpcAddress;
    await users.expectAll(survivor.httpUrl);
    // What is left of the old cluster is another cluster now.
    lost.start();
    await eventually("the old member is refused", () => !lost.running, { withinMs: 60_000 });
    expect(readFileSync(lost.logPath, "utf8")).to.include("WRONG_CLUSTER");

    for (const { nodeId } of [lost, other]) {
      await operator.succeed(must(remove, "a command"), { node2: nodeId });
    }
    const { stdout } = await operator.run(status);
    expect(stdout).to.include("with only one").and.not.include(lost.nodeId);
    for (let count = 0; count < 2; count += 1) {
      const printed = await operator.succeed(must(add, "a command"));
      await operator.startPrinted(printed);
      await operator.statusSays(`node${count + 2}`, status);
    }
    await operator.statusSays(ALL_COPIES, status);
    await users.begin();
    await users.end(20);

    // And it goes on over a restart.
    await stop(survivor);
    survivor.start({ PEERS: survivor.grpcAddress });
    await survivor.ready(60_000);
    await users.expectAll(survivor.httpUrl);
  });
});
