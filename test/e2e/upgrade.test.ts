/**
 * A cluster is upgraded one node at a time, as docs/RUNBOOK.md says: real processes, of which some support the first feature level
 * alone, as versions did before there were levels.
 */
import { expect } from "chai";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { FEATURE_LEVELS } from "../../src/drive/feature-levels.ts";
import { must } from "../../src/std/assert.ts";
import { eventually } from "../support/eventually.ts";
import { netdisk } from "../support/run-program.ts";
import { startCluster, type ClusterNode, type TestCluster } from "../support/use-cluster.ts";

const OLDER = ["--import", "tsx", fileURLToPath(new URL("versioned-node.ts", import.meta.url))];
const OLDER_LEVELS = { TEST_FEATURE_LEVELS: "1-1" };

interface Status {
  readonly featureLevel: number;
  readonly nodes: readonly {
    readonly nodeId: string;
    readonly health: string;
    readonly featureLevelMax: number | null;
  }[];
}

async function statusAt(node: ClusterNode): Promise<Status> {
  const response = await fetch(`${node.httpUrl}/api/cluster`);
  expect(response.status).to.equal(200);
  return (await response.json()) as Status;
}

const startOlder = (node: ClusterNode): void => node.start(OLDER_LEVELS, OLDER);

describe("A rolling upgrade", function () {
  this.timeout(180_000);
  let cluster: TestCluster;

  beforeEach(async () => {
    cluster = await startCluster({ nodes: 3, stopped: true });
  });

  afterEach(async () => {
    await cluster.dispose();
  });

  async function restart(node: ClusterNode, start: (node: ClusterNode) => void): Promise<void> {
    await node.signal("SIGTERM");
    start(node);
    await node.ready();
  }

  async function put(node: ClusterNode, name: string): Promise<void> {
    const url = `${node.httpUrl}/api/files/content?path=/${name}`;
    expect((await fetch(url, { method: "PUT", body: `content of ${name}` })).status).to.be.oneOf([200, 201]);
  }

  it("raises the feature level once the last node runs the new version, and lets none go back after that", async () => {
    const [one, two, three] = [cluster.node(0), cluster.node(1), cluster.node(2)];
    for (const node of cluster.nodes) startOlder(node);
    for (const node of cluster.nodes) await node.ready();
    await put(one, "before");
    expect((await statusAt(one)).featureLevel).to.equal(1);

    // Upgraded, taken back and upgraded again, while the others are of the older version.
    await restart(one, (node) => node.start());
    await restart(one, startOlder);
    await restart(one, (node) => node.start());
    await restart(two, (node) => node.start());
    await eventually(
      "the new version is known of two nodes",
      async () => {
        const { nodes } = await statusAt(two);
        const byName = nodes.toSorted((a, b) => (a.nodeId < b.nodeId ? -1 : 1));
        return (
          byName.map((node) => node.featureLevelMax).join() ===
          `${FEATURE_LEVELS.max},${FEATURE_LEVELS.max},1`
        );
      },
      { withinMs: 20_000 },
    );
    expect((await statusAt(two)).featureLevel).to.equal(1);
    const { stdout: mixed } = await netdisk(["cluster", "status", "--nodes", cluster.addresses]);
    expect(mixed).to.match(
      new RegExp(`Feature level 1; it is raised to ${FEATURE_LEVELS.max} once .*: node3\\.`),
    );

    await restart(three, (node) => node.start());
    for (const node of cluster.nodes) {
      await eventually(
        `${node.nodeId} has the newest level`,
        async () => (await statusAt(node)).featureLevel === FEATURE_LEVELS.max,
        { withinMs: 20_000 },
      );
    }
    const { stdout: json } = await netdisk(["cluster", "status", "--json", "--nodes", cluster.addresses]);
    expect((JSON.parse(json) as Status).featureLevel).to.equal(FEATURE_LEVELS.max);
    await eventually(
      "the metric follows",
      async () =>
        new RegExp(`netdisk_feature_level\\{[^}]*\\} ${FEATURE_LEVELS.max}`).test(
          await (await fetch(`${one.httpUrl}/metrics`)).text(),
        ),
      { withinMs: 5_000 },
    );
    await put(three, "after");

    // Too late.
    await three.signal("SIGTERM");
    startOlder(three);
    expect(await three.ended()).to.equal(1);
    const log = readFileSync(three.logPath, "utf8");
    expect(log).to.include("VERSION_UNSUPPORTED");
    expect(log).to.match(
      new RegExp(
        `The cluster has feature level ${FEATURE_LEVELS.max}, and this version of netdisk supports level 1 alone`,
      ),
    );
    three.start();
    await three.ready();
    for (const name of ["before", "after"]) {
      const response = await fetch(`${three.httpUrl}/api/download?path=/${name}&redirect=never`);
      expect(await response.text()).to.equal(`content of ${name}`);
    }
  });

  it("is not needed by a new cluster, which begins at the newest level and admits no older node", async () => {
    for (const node of cluster.nodes) node.start();
    for (const node of cluster.nodes) await node.ready();
    expect((await statusAt(cluster.node(0))).featureLevel).to.equal(FEATURE_LEVELS.max);
    const { stdout } = await netdisk(["cluster", "add", "--json", "--nodes", cluster.addresses]);
    const { token } = JSON.parse(must(stdout.split("\n")[0], "a line")) as { readonly token: string };

    const older = await cluster.addNode({ NETDISK_CLUSTER_JOIN_TOKEN: token });
    startOlder(older);

    expect(await older.ended()).to.equal(1);
    expect(older.logTail()).to.include("VERSION_UNSUPPORTED");
  });
});
