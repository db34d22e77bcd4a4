/**
 * Goal: what is not known of a node is never shown as 0: "0 B left" is the sign to remove a node that was drained. Method: the figures
 * of a real status as the failure detector leaves them, over the wire, in the interfaces and on the command line.
 */
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { expect } from "chai";
import { ClusterStatusSchema } from "../../../gen/netdisk/v1/cluster_pb.ts";
import type { ClusterStatus, NodeStatus } from "../../../src/drive/drive-api.ts";
import { renderPage } from "../../../src/gateway/home-page.ts";
import { clusterViewSchema } from "../../../src/gateway/schemas.ts";
import { clusterView } from "../../../src/gateway/views.ts";
import { decodeClusterStatus, encodeClusterStatus } from "../../../src/rpc/transfer-codec.ts";
import { MemoryDrive } from "../../support/memory-drive.ts";
import { TestDrives } from "../../support/use-drives.ts";
import { netdisk } from "./run-cli.ts";

const UNHEARD = {
  freeBytes: undefined,
  totalBytes: undefined,
  appliedIndex: undefined,
  liveBytes: undefined,
} as const;

function overTheWire(status: ClusterStatus): ClusterStatus {
  const bytes = toBinary(ClusterStatusSchema, create(ClusterStatusSchema, encodeClusterStatus(status)));
  return decodeClusterStatus(fromBinary(ClusterStatusSchema, bytes));
}

/** A status of three nodes, of which the first is drained and in the state given. */
async function statusWith(change: Partial<NodeStatus>): Promise<ClusterStatus> {
  const status = await new MemoryDrive().cluster();
  const nodes = status.nodes.flatMap((node) => [
    { ...node, draining: true, ...change },
    { ...node, nodeId: "n2" },
    { ...node, nodeId: "n3" },
  ]);
  return { ...status, nodes };
}

async function shownOf(change: Partial<NodeStatus>): Promise<string> {
  const drive = new MemoryDrive();
  const status = overTheWire(await statusWith(change));
  drive.cluster = () => Promise.resolve(status);
  return (await netdisk(["cluster", "status"], { drive })).out;
}

describe("A node that was not heard of", () => {
  it("has no figures in the status of a node that was just started", async () => {
    const drives = new TestDrives(3);
    const { detector } = drives;
    const state = detector.state.bind(detector);
    detector.health.set(3, "down");
    detector.state = (memberId) =>
      memberId === 3 ? { ...state(memberId), load: undefined } : state(memberId);

    const { nodes } = overTheWire(await drives.drive().cluster());

    expect(nodes[2]).to.include(UNHEARD);
    expect(nodes[1]).to.include({ freeBytes: 1e12, totalBytes: 2e12, liveBytes: 0 });
  });

  it("has null for figures over HTTP, and no room on the page", async () => {
    const cluster = await statusWith({ health: "down", sinceMs: 13_000, ...UNHEARD });

    const [node] = clusterViewSchema.parse(clusterView(cluster)).nodes;
    const page = renderPage({ nodeId: "n2", version: "1", problems: [], cluster });

    expect(node).to.include({ freeBytes: null, totalBytes: null, appliedIndex: null, liveBytes: null });
    expect(page).to.include("<td>unknown</td>").and.not.include("0 B of 0 B");
  });

  it("is not said to have nothing left, and whom its drain waits for is said", async () => {
    const out = await shownOf({ health: "down", sinceMs: 13_000, ...UNHEARD });

    expect(out).to.include(
      "n1 gives its copies away: what is left is unknown, not heard of for 13 s. What has no other place waits: 2 of the 3",
    );
    expect(out).to.match(/n1 .* unknown {2,}unknown {2,}unknown/);
    expect(out).to.not.include("0 B left");
  });

  for (const health of ["suspect", "down"] as const) {
    it(`is not said to have nothing left when it said so before it was ${health}`, async () => {
      const out = await shownOf({ health, sinceMs: 13_000, liveBytes: 0 });

      expect(out).to.include("what is left is unknown, not heard of for 13 s (it said 0 B last).");
      expect(out).to.not.include("0 B left");
    });
  }

  it("has nothing left once it is up and says so", async () => {
    expect(await shownOf({ liveBytes: 0 })).to.include("n1 gives its copies away: 0 B left.\n");
  });
});
