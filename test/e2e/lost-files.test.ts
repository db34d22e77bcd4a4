// Goal: files of a chunk store that are removed, exchanged or cut short under a running node are noticed while it runs, their copies are
// made anew, and a restart finds nothing lost. Method: three real processes with small and large files; all segments of one node are
// unlinked, or cut and exchanged, those being written among them; then the status, the node's log and its metrics say it, and after the
// repair the node is restarted.
import { readdirSync, readFileSync, renameSync, statSync, truncateSync, unlinkSync } from "node:fs";
import { join } from "node:path";
import { expect } from "chai";
import { DEDICATED_SEGMENT_SIZE_BYTES_MIN } from "../../src/drive/limits.ts";
import { SeededPrng } from "../../src/std/prng.ts";
import { eventually } from "../support/eventually.ts";
import { useCluster, type ClusterNode } from "../support/use-cluster.ts";

const SMALL_COUNT = 40;
/** A look every 30 s, and a minute for the repair on a busy machine. */
const WITHIN_MS = 120_000;

interface Stored {
  readonly path: string;
  readonly bytes: Buffer;
}

interface Status {
  readonly replicas: { readonly extentCount: number; readonly fullyReplicatedCount: number };
}

async function put(node: ClusterNode, { path, bytes }: Stored): Promise<void> {
  const url = `${node.httpUrl}/api/files/content?path=${path}`;
  const response = await fetch(url, { method: "PUT", body: new Uint8Array(bytes) });
  expect(response.status, await response.text()).to.equal(201);
}

async function expectAll(node: ClusterNode, stored: readonly Stored[]): Promise<void> {
  for (const { path, bytes } of stored) {
    const response = await fetch(`${node.httpUrl}/api/download?path=${path}&redirect=never`);
    const found = Buffer.from(await response.arrayBuffer());
    expect(response.status, path).to.equal(200);
    expect(found.equals(bytes), path).to.equal(true);
  }
}

async function isWhole(node: ClusterNode): Promise<boolean> {
  const response = await fetch(`${node.httpUrl}/api/cluster`);
  const { replicas } = (await response.json()) as Status;
  return replicas.extentCount > 0 && replicas.fullyReplicatedCount === replicas.extentCount;
}

async function figureOf(node: ClusterNode, name: string): Promise<number> {
  const text = await (await fetch(`${node.httpUrl}/metrics`)).text();
  return Number(new RegExp(`^${name}(?:\\{[^}]*\\})? (\\S+)$`, "mu").exec(text)?.[1]);
}

/**
 * Waits until a node has dealt with all that is lost: a pass of the scrub begins with a look for lost files, which waits for one that is
 * under way. A file is told before what was in it is read, so neither its log nor its figures say by themselves that nothing is left.
 */
async function expectMended(node: ClusterNode): Promise<void> {
  const pass = await figureOf(node, "netdisk_scrub_pass");
  const asked = await fetch(`${node.httpUrl}/api/cluster/scrub`, { method: "POST" });
  expect(asked.status, await asked.text()).to.equal(202);
  const isRead = async (): Promise<boolean> => (await figureOf(node, "netdisk_scrub_pass")) > pass;
  await eventually("all its copies are read", isRead, { withinMs: WITHIN_MS, everyMs: 500 });
  const isMended = async (): Promise<boolean> =>
    (await figureOf(node, "netdisk_quarantined_extents")) === 0 && (await isWhole(node));
  await eventually("three copies of everything again", isMended, { withinMs: WITHIN_MS, everyMs: 500 });
}

/** Files of the segments of a node, oldest first. */
function segmentsOf(node: ClusterNode, folder: "log" | "extents"): string[] {
  const directory = join(node.dataDirectory, "chunks", folder);
  const names = readdirSync(directory).filter((name) => name.endsWith(".seg"));
  return names.sort().map((name) => join(directory, name));
}

/** What the records of the chunk store call the bytes of a file. */
async function contentIdOf(node: ClusterNode, path: string): Promise<string> {
  const response = await fetch(`${node.httpUrl}/netdisk.v1.MetadataService/Stat`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ ref: { path } }),
  });
  const { pathEntry } = (await response.json()) as {
    readonly pathEntry: { readonly entry: { readonly contentId: string } };
  };
  return pathEntry.entry.contentId;
}

/** How often an event is in the log of a node, from a place on. */
function countIn(node: ClusterNode, event: string, from = 0): number {
  return readFileSync(node.logPath, "utf8").slice(from).split(`"${event}"`).length - 1;
}

describe("Files of a chunk store that are lost under a running node", function () {
  this.timeout(400_000);
  const cluster = useCluster({ nodes: 3 });

  it("are told, their copies are made anew within two minutes, and a restart finds nothing lost", async () => {
    const prng = new SeededPrng(41);
    const node = cluster().node(0);
    const other = cluster().node(1);
    const stored: Stored[] = Array.from({ length: SMALL_COUNT }, (_, at) => ({
      path: `/small-${at}.bin`,
      bytes: Buffer.from(prng.bytes(1 + prng.below(30_000))),
    }));
    stored.push({ path: "/large.bin", bytes: Buffer.from(prng.bytes(DEDICATED_SEGMENT_SIZE_BYTES_MIN + 1)) });
    for (const file of stored) await put(node, file);
    await eventually("three copies of everything", () => isWhole(node), { withinMs: WITHIN_MS });
    await expectAll(node, stored);

    const segments = [...segmentsOf(node, "log"), ...segmentsOf(node, "extents")];
    expect(segments.length, "the log and a large file").to.be.at.least(2);
    for (const path of segments) unlinkSync(path);
    // Acknowledged at once, on this node into a file without a name.
    const late = { path: "/late.bin", bytes: Buffer.from(prng.bytes(10_000)) };
    stored.push(late);
    await put(node, late);

    await eventually("the files are missed", () => countIn(node, "segment_file_lost") >= segments.length, {
      withinMs: WITHIN_MS,
      everyMs: 200,
    });
    // Metrics are taken from the store at intervals.
    const isCounted = async (): Promise<boolean> =>
      (await figureOf(node, "netdisk_lost_files")) >= segments.length;
    await eventually("the metrics count them", isCounted, { withinMs: WITHIN_MS, everyMs: 200 });
    await expectAll(node, stored);
    await expectMended(node);
    await eventually("another node says so too", () => isWhole(other), { withinMs: WITHIN_MS });
    const after = { path: "/after.bin", bytes: Buffer.from(prng.bytes(10_000)) };
    stored.push(after);
    await put(node, after);

    const logLength = readFileSync(node.logPath, "utf8").length;
    await node.kill();
    node.start();
    await node.ready(60_000);
    await eventually("the status says so after the restart", () => isWhole(node), { withinMs: WITHIN_MS });
    await expectAll(node, stored);
    for (const event of ["copy_missing", "chunks_damaged", "segment_damaged", "segment_file_lost"]) {
      expect(countIn(node, event, logLength), event).to.equal(0);
    }
    expect(await figureOf(node, "netdisk_quarantined_extents")).to.equal(0);
    expect(await isWhole(node)).to.equal(true);
  });

  it("are told likewise when they are cut short, or exchanged before this process has opened them", async () => {
    const prng = new SeededPrng(43);
    const node = cluster().node(2);
    const stored: Stored[] = ["/large-a.bin", "/large-b.bin", "/large-c.bin", "/tiny.bin"].map((path) => ({
      path,
      bytes: Buffer.from(prng.bytes(path === "/tiny.bin" ? 20_000 : DEDICATED_SEGMENT_SIZE_BYTES_MIN + 1)),
    }));
    for (const file of stored) await put(node, file);
    await eventually("three copies of everything", () => isWhole(node), { withinMs: WITHIN_MS });
    await node.kill();
    node.start();
    await node.ready(60_000);
    await eventually("nothing is missed", () => isWhole(node), { withinMs: WITHIN_MS });

    const own = segmentsOf(node, "extents").slice(-3);
    const [first = "", second = "", third = ""] = own;
    renameSync(first, `${first}.kept`);
    renameSync(second, first);
    renameSync(`${first}.kept`, second);
    truncateSync(third, 0);
    const log = segmentsOf(node, "log");
    for (const path of log) truncateSync(path, Math.floor(statSync(path).size / 3));
    // Written behind what was cut off.
    const late = { path: "/late-2.bin", bytes: Buffer.from(prng.bytes(10_000)) };
    stored.push(late);
    await put(node, late);

    // A read may meet a large one before the look does, and then it is repaired already; what is exchanged is read at leisure.
    const large = stored.map(({ path }) => path).filter((path) => path.startsWith("/large-"));
    const contentIds = await Promise.all(large.map((path) => contentIdOf(node, path)));
    const isTold = (): boolean => {
      const lines = readFileSync(node.logPath, "utf8").split("\n");
      const damaged = lines.filter((line) => line.includes('"chunks_damaged"'));
      const isDamaged = (id: string): boolean => damaged.some((line) => line.includes(`"contentId":${id},`));
      return contentIds.every(isDamaged) && countIn(node, "cut-short") >= log.length;
    };
    await eventually("the files are missed", isTold, { withinMs: WITHIN_MS, everyMs: 200 });
    await expectMended(node);

    const logLength = readFileSync(node.logPath, "utf8").length;
    await node.kill();
    node.start();
    await node.ready(60_000);
    await eventually("the status says so after the restart", () => isWhole(node), { withinMs: WITHIN_MS });
    await expectAll(node, stored);
    for (const event of ["copy_missing", "chunks_damaged", "segment_file_lost"]) {
      expect(countIn(node, event, logLength), event).to.equal(0);
    }
  });
});
