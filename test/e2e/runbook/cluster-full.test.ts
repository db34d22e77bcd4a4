// Goal: docs/RUNBOOK.md, "The cluster is full", works as written: uploads are refused before the reserve is touched, reads, deletes and
// the repair of damage go on, and without a restart uploads are taken again and every file has all its copies. Method: three real
// processes, each on a small file system of its own (a folder, where this process may make none); the commands are read from the
// document.
import { expect } from "chai";
import { mkdtempSync, rmSync, statfsSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { COMPACTION_RESERVE_SEGMENT_COUNT } from "../../../src/chunks/open-store.ts";
import { SEGMENT_SIZE_BYTES_DEFAULT } from "../../../src/segments/segment-log.ts";
import { must } from "../../../src/std/assert.ts";
import { SeededPrng } from "../../../src/std/prng.ts";
import { eventually } from "../../support/eventually.ts";
import { startCluster, type TestCluster } from "../../support/use-cluster.ts";
import { flipStoredBit, holdsStoredBytes } from "../../support/stored-bits.ts";
import { Volume } from "../../support/volume.ts";
import { ALL_COPIES, commandsOf, Operator } from "./runbook.ts";

const MIB = 1024 * 1024;
/** What is left to users of each disk when the drill begins. */
const USABLE_BYTES = 160 * MIB;
const FILE_BYTES = 8 * MIB;

const freeBytes = (path: string): number => {
  const { bavail, bsize } = statfsSync(path);
  return bavail * bsize;
};

/** What the store of a node keeps beside its reserve, for compaction alone. */
function keptForCompaction(path: string): number {
  const { blocks, bsize } = statfsSync(path);
  const twoSegments = COMPACTION_RESERVE_SEGMENT_COUNT * SEGMENT_SIZE_BYTES_DEFAULT;
  return Math.min(twoSegments, Math.floor((blocks * bsize) / 20));
}

describe("The runbook, when the cluster is full", function () {
  this.timeout(300_000);
  let directory = "";
  let volumes: readonly Volume[] = [];
  let cluster: TestCluster | undefined;
  let operator: Operator | undefined;
  let reserveBytes = 64 * MIB;

  before(() => {
    directory = mkdtempSync(join(tmpdir(), "netdisk-small-"));
    volumes = [1, 2, 3].map((at) => Volume.make(join(directory, `disk${at}`), true));
    const [first] = volumes;
    if (first?.isOwn === true) {
      for (const volume of volumes)
        volume.fill(reserveBytes + keptForCompaction(volume.directory) + USABLE_BYTES);
    } else reserveBytes = freeBytes(directory) - keptForCompaction(directory) - 3 * USABLE_BYTES;
  });
  after(async () => {
    await operator?.dispose();
    await cluster?.dispose();
    for (const volume of volumes) volume.dispose(false);
    rmSync(directory, { recursive: true, force: true });
  });

  it("refuses uploads and goes on with the rest, and takes them again when files were deleted, without a restart", async () => {
    const [status, remove, add, ...more] = commandsOf("The cluster is full").map((each) =>
      must(each, "a command"),
    );
    expect(more).to.deep.equal([]);
    const environment = { NETDISK_DATA_RESERVE_BYTES: String(reserveBytes) };
    cluster = await startCluster({ nodes: 3, stopped: true, environment });
    const { nodes } = cluster;
    const dataOf = (at: number): string => join(must(volumes[at], "a volume").directory, "data");
    for (const [at, node] of nodes.entries()) {
      node.start({ NETDISK_DATA_DIRECTORY: dataOf(at) });
    }
    await Promise.all(nodes.map((node) => node.ready()));
    const processes = nodes.map(({ pid }) => pid);
    operator = new Operator(cluster.addresses);
    const prng = new SeededPrng(17);
    const urlOf = (at: number): string => must(nodes[at % nodes.length], "a node").httpUrl;
    const put = async (at: number, path: string, bytes: Uint8Array): Promise<Response> =>
      fetch(`${urlOf(at)}/api/files/content?path=${path}`, { method: "PUT", body: Buffer.from(bytes) });

    const kept = Buffer.from(prng.bytes(FILE_BYTES));
    expect((await put(0, "/kept.bin", kept)).status).to.equal(201);
    let refused: Response | undefined;
    let count = 0;
    for (; refused === undefined; count += 1) {
      expect(count, "files until one is refused").to.be.below(100);
      const response = await put(count, `/old/${count}.bin`, prng.bytes(FILE_BYTES));
      if (response.ok) await response.arrayBuffer();
      else refused = response;
    }
    const refusal = await refused.text();
    expect(refusal, refusal).to.include('"NO_SPACE"');
    expect(refused.status).to.equal(507);
    for (const { directory: path } of volumes) {
      expect(freeBytes(path), "no byte of the reserve is touched").to.be.at.least(reserveBytes);
    }

    // What goes on: reads, folders, finding damage and repairing it.
    const made = await operator.run("netdisk mkdir /new");
    expect(made.stderr).to.equal("");
    const needle = kept.subarray(5 * MIB + 100, 5 * MIB + 164);
    flipStoredBit(dataOf(1), needle);
    await operator.succeed("netdisk cluster scrub");
    await eventually("the copy is made anew", async () => holdsStoredBytes(dataOf(1), needle), {
      withinMs: 90_000,
      everyMs: 500,
    });
    await operator.statusSays("3/3 verified", "netdisk stat /kept.bin");
    for (const { httpUrl } of nodes) {
      const response = await fetch(`${httpUrl}/api/download?path=/kept.bin&redirect=never`);
      expect(Buffer.from(await response.arrayBuffer()).equals(kept)).to.equal(true);
    }
    // The damaged copy was given back, so there may be room for something small again: it is taken first.
    const said = await eventually(
      "the command is refused, and the status says which nodes are full",
      async () => {
        for (; (await put(count, `/old/${count}.bin`, prng.bytes(MIB / 8))).status === 201; count += 1);
        const again = await must(operator, "the operator").run(`netdisk put /bin/sh /old/sh${count}.bin -q`);
        count += 1;
        const shown = await must(operator, "the operator").succeed(must(status, "a command"));
        const isRefused = again.stderr.includes("NO_SPACE") && shown.includes("up, full");
        return isRefused ? again.stderr : undefined;
      },
      { withinMs: 60_000 },
    );
    expect(said).to.include('"netdisk cluster status" shows what is free');

    expect(await operator.succeed(must(add, "a command"))).to.include("netdisk serve --join nds1.");
    await operator.succeed(must(remove, "a command"));
    await eventually(
      "uploads are taken again",
      async () => (await put(0, "/after.bin", kept.subarray(0, MIB))).status === 201,
      {
        withinMs: 120_000,
        everyMs: 500,
      },
    );
    expect(nodes.map(({ pid }) => pid)).to.deep.equal(processes);
    expect(nodes.every(({ running }) => running)).to.equal(true);
    expect(await operator.statusSays(ALL_COPIES, must(status, "a command"))).to.include("FREE");
  });
});
