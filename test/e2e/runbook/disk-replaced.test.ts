// Goal: docs/RUNBOOK.md, "A disk was replaced", works as written, for the chunks alone and for all of a node's data, under load.
// Method: real processes; the commands are read from the document.
import { expect } from "chai";
import { existsSync, rmSync } from "node:fs";
import { join } from "node:path";
import { must } from "../../../src/std/assert.ts";
import { eventually } from "../../support/eventually.ts";
import { removeLocks, useCluster } from "../../support/use-cluster.ts";
import { ALL_COPIES, commandsOf, Operator, stop, Users } from "./runbook.ts";

interface Status {
  readonly nodes: readonly { readonly nodeId: string; readonly memberId: string }[];
}

describe("The runbook, when a disk was replaced", function () {
  this.timeout(180_000);
  const cluster = useCluster({ nodes: 3 });
  let operator: Operator;
  before(() => {
    operator = new Operator(cluster().addresses);
  });
  after(async () => {
    await operator.dispose();
  });
  const status = "netdisk cluster status";

  async function memberId(nodeId: string): Promise<string> {
    const { nodes } = JSON.parse(await operator.succeed(`${status} --json`)) as Status;
    return must(
      nodes.find((node) => node.nodeId === nodeId),
      nodeId,
    ).memberId;
  }

  it("makes the chunk store of a node anew, and then the whole node under a new id", async () => {
    const [emptyChunks, ...rest] = commandsOf("The disk under one node's chunks was replaced");
    expect(rest).to.deep.equal([]);
    const [replace, ...more] = commandsOf("The disk under all of a node's data was replaced");
    expect(more).to.deep.equal([]);
    const leader = await cluster().leader();
    const node = must(
      cluster().nodes.find((each) => each !== leader),
      "a follower",
    );
    const users = new Users(() =>
      cluster()
        .nodes.filter((each) => each !== node)
        .map((each) => each.httpUrl),
    );
    await users.begin();
    const before = await memberId(node.nodeId);

    await stop(node);
    await operator.succeed(must(emptyChunks, "a command"), { "/var/lib/netdisk": node.dataDirectory });
    expect(existsSync(join(node.dataDirectory, "chunks"))).to.equal(false);
    node.start();
    await node.ready();
    await operator.statusSays(ALL_COPIES, status);
    expect(await memberId(node.nodeId)).to.equal(before);

    await node.kill();
    await removeLocks(node.dataDirectory);
    rmSync(node.dataDirectory, { recursive: true });
    node.start();
    await eventually(
      "the node says that its data is gone",
      async () => (await (await fetch(`${node.httpUrl}/readyz?verbose`)).text()).includes("wiped"),
      { withinMs: 30_000 },
    );
    await stop(node);
    const printed = await operator.succeed(must(replace, "a command"), { node3: node.nodeId });
    const again = await operator.startPrinted(printed);
    expect(again).to.include({ nodeId: node.nodeId, grpcAddress: node.grpcAddress, httpUrl: node.httpUrl });
    await users.end(20);
    await operator.statusSays(ALL_COPIES, status);
    expect(await memberId(node.nodeId)).to.not.equal(before);
    await users.expectAll(again.httpUrl);
  });
});
