// Goal: docs/RUNBOOK.md, "A node is lost", works as written: one node is removed after its copies were made elsewhere, the next is
// replaced, under load, and no file is lost. Method: real processes; the commands are read from the document.
import { expect } from "chai";
import { must } from "../../../src/std/assert.ts";
import { removeLocks, useCluster, type ClusterNode } from "../../support/use-cluster.ts";
import { ALL_COPIES, commandsOf, Operator, Users } from "./runbook.ts";

describe("The runbook, when a node is lost", function () {
  this.timeout(180_000);
  const environment = { NETDISK_CLUSTER_LOST_AFTER_MS: "6000", NETDISK_CLUSTER_DOWN_AFTER_MS: "5000" };
  const cluster = useCluster({ nodes: 4, environment });
  let operator: Operator;
  before(() => {
    operator = new Operator(cluster().addresses, environment);
  });
  after(async () => {
    await operator.dispose();
  });

  const running = (): readonly ClusterNode[] => cluster().nodes.filter((node) => node.running);

  it("has its copies made elsewhere, then removes it; and puts another in the place of the next", async () => {
    const [status, replace, remove, ...more] = commandsOf("A node is lost");
    expect(more).to.deep.equal([]);
    const leader = await cluster().leader();
    const followers = cluster().nodes.filter((node) => node !== leader);
    const [first, second] = [must(followers[0], "a node"), must(followers[1], "a node")];
    const users = new Users(() =>
      running()
        .filter((node) => node !== first && node !== second)
        .map((node) => node.httpUrl),
    );
    await users.begin();

    await first.kill();
    expect(await operator.statusSays("given up", must(status, "a command"))).to.include(first.nodeId);
    // Its copies are made at the three others before it is removed: nothing waits for the operator.
    await operator.succeed(must(remove, "a command"), { node3: first.nodeId });
    expect(await operator.statusSays(ALL_COPIES, must(status, "a command"))).to.not.include(first.nodeId);

    await second.kill();
    // Of three voters two are up: to remove the dead one is safe, another live one is not.
    const refused = await operator.run(must(remove, "a command"), { node3: leader.nodeId });
    expect(refused.exitCode).to.equal(1);
    expect(refused.stderr).to.include(`${leader.nodeId} cannot be removed now.`);
    expect(refused.stderr).to.include("MEMBERSHIP_CHANGE_UNSAFE");
    const printed = await operator.succeed(must(replace, "a command"), { node3: second.nodeId });
    const added = await operator.startPrinted(printed);
    expect(added).to.include({ nodeId: second.nodeId, grpcAddress: second.grpcAddress });
    await users.end(20);
    await operator.statusSays(ALL_COPIES, must(status, "a command"));
    await users.expectAll(added.httpUrl);
    await removeLocks(second.dataDirectory);
  });
});
