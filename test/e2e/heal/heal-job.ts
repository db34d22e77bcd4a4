/**
 * What happens to the bytes of a cluster in a bad month, in one run with real processes: five nodes hold some GiB and serve a
 * light load all the while. One node is killed and its data deleted, one bit is flipped in each of many records, one node is
 * drained and removed, one is added. In the end every file has three verified copies and reads back equal through every node,
 * and no request has failed. `npm run heal` runs the full size, the suite a small one.
 */
import {
  closeSync,
  openSync,
  readFileSync,
  readSync,
  readdirSync,
  rmSync,
  statSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { must } from "../../../src/std/assert.ts";
import { SystemClock, sleep } from "../../../src/std/clock.ts";
import { SeededPrng, type Prng } from "../../../src/std/prng.ts";
import { eventually } from "../../support/eventually.ts";
import { netdisk } from "../../support/run-program.ts";
import { removeLocks, startCluster, type ClusterNode, type TestCluster } from "../../support/use-cluster.ts";
import { StoredFiles, type RequestCounts } from "./stored-files.ts";

const MIB = 1024 * 1024;
/** Records flipped in one file lie at least so far apart: no two in one chunk. */
const FLIP_DISTANCE_BYTES = 3 * MIB;

/** With less than this no node holds so much more than the others that copies are moved to a new one. */
const REBALANCED_BYTES_MIN = 12 * 1024 * MIB;

/** A write that was tried again elsewhere may leave bytes that belong to no file, until two sweeps have seen them. */
const LEFTOVER_BYTES_MAX = 256 * 1024;

/** What to run. */
export interface HealJobOptions {
  /** Bytes of files before anything happens. */
  readonly totalBytes: number;
  readonly largeSizeBytes: number;
  readonly smallFileCount: number;
  readonly flipCount: number;
  readonly seed: number;
  readonly log: (line: string) => void;
}

/** What was found. */
export interface HealJobReport {
  readonly fileCount: number;
  readonly bytes: number;
  readonly uploads: RequestCounts;
  readonly downloads: RequestCounts;
  readonly flippedCount: number;
  /** Extents in which a flipped bit was found, by a user's read or by the scrub. */
  readonly foundDamagedCount: number;
  /** Those that a last scrub of every node still found. */
  readonly leftDamagedCount: number;
  readonly extentCount: number;
  readonly fullyReplicatedCount: number;
  readonly statusText: string;
}

interface NodeView {
  readonly nodeId: string;
  readonly memberId: string;
  readonly role: string;
  readonly liveBytes: number;
  readonly quarantinedCount: number;
  readonly scrub: { readonly pass: number; readonly damagedCount: number } | null;
  readonly scrubProgress: number | null;
}

interface Status {
  readonly nodes: readonly NodeView[];
  readonly replicas: Readonly<Record<string, number>> & { readonly recounting: boolean };
}

/** One run. */
class HealJob {
  readonly #options: HealJobOptions;
  readonly #cluster: TestCluster;
  readonly #clock = new SystemClock();
  readonly #beganMs = this.#clock.monotonicMs();
  readonly #prng: SeededPrng;
  readonly #files: StoredFiles;
  /** Nodes that clients do not go to: killed, leaving or not ready yet. */
  readonly #away = new Set<ClusterNode>();
  /** No step takes longer: three minutes, and as long as all bytes take at 8 MiB/s. */
  readonly #patienceMs: number;
  #isLoading = true;

  constructor(options: HealJobOptions, cluster: TestCluster) {
    this.#options = options;
    this.#cluster = cluster;
    this.#prng = new SeededPrng(options.seed);
    this.#patienceMs = 180_000 + (options.totalBytes / (8 * MIB)) * 1000;
    this.#files = new StoredFiles({ clock: this.#clock, nodes: () => this.#open() });
  }

  async run(): Promise<HealJobReport> {
    await this.#fill();
    const load = Array.from({ length: 4 }, (_, at) => this.#load(this.#prng.fork(), at < 2));
    await this.#loseNode();
    const flippedCount = await this.#flipBits();
    await this.#drainNode();
    await this.#addNode();
    this.#isLoading = false;
    await Promise.all(load);
    await this.#whole("after everything");
    const leftDamagedCount = await this.#scrub();
    await this.#whole("after a last scrub");
    await this.#readAll();
    const { replicas } = await this.#status();
    const shown = await netdisk(["cluster", "status", "--nodes", this.#addresses()]);
    return {
      fileCount: this.#files.files.length,
      bytes: this.#files.uploads.bytes,
      uploads: this.#files.uploads,
      downloads: this.#files.downloads,
      flippedCount,
      foundDamagedCount: this.#foundDamagedCount,
      leftDamagedCount,
      extentCount: replicas["extentCount"] ?? 0,
      fullyReplicatedCount: replicas["fullyReplicatedCount"] ?? 0,
      statusText: shown.stdout,
    };
  }

  #foundDamagedCount = 0;

  #log(line: string): void {
    const seconds = ((this.#clock.monotonicMs() - this.#beganMs) / 1000).toFixed(1);
    this.#options.log(`${seconds.padStart(7)} s  ${line}`);
  }

  #open(): readonly ClusterNode[] {
    return this.#cluster.nodes.filter((node) => node.running && !this.#away.has(node));
  }

  #addresses(): string {
    return this.#open()
      .map(({ grpcAddress }) => grpcAddress)
      .join(",");
  }

  /** A command of the user's, which must succeed; its first JSON line. */
  async #command(...words: readonly string[]): Promise<Record<string, unknown>> {
    const ended = await netdisk([...words, "--json", "--nodes", this.#addresses()]);
    if (ended.exitCode !== 0) throw new Error(`${words.join(" ")}: ${ended.stderr}`);
    return JSON.parse(ended.stdout.split("\n")[0] ?? "") as Record<string, unknown>;
  }

  async #status(): Promise<Status> {
    for (;;) {
      const node = must(this.#open()[0], "a node");
      const response = await fetch(`${node.httpUrl}/api/cluster`);
      const body = await response.text();
      if (response.ok) return JSON.parse(body) as Status;
      await sleep(this.#clock, 200);
    }
  }

  async #fill(): Promise<void> {
    const { totalBytes, largeSizeBytes, smallFileCount } = this.#options;
    const sizes: number[] = [];
    for (let bytes = 0; bytes < totalBytes; bytes += largeSizeBytes) sizes.push(largeSizeBytes);
    for (let at = 0; at < smallFileCount; at += 1) sizes.push(this.#prng.below(64 * 1024));
    await Promise.all(
      Array.from({ length: 8 }, async () => {
        const prng = this.#prng.fork();
        for (let size = sizes.pop(); size !== undefined; size = sizes.pop())
          await this.#files.put(prng, size);
      }),
    );
    await this.#whole("after filling");
    this.#log(`${this.#files.files.length} files are in, ${gib(this.#files.uploads.bytes)} GiB`);
  }

  /** Writes or reads files now and then. */
  async #load(prng: Prng, isWriter: boolean): Promise<void> {
    while (this.#isLoading) {
      const file = this.#files.files[prng.below(this.#files.files.length)];
      if (isWriter) await this.#files.put(prng, prng.below(prng.below(8) === 0 ? 4 * MIB : 100_000));
      else if (file !== undefined && file.sizeBytes < 256 * MIB) await this.#files.read(prng, file);
      await sleep(this.#clock, 200 + prng.below(400));
    }
  }

  /** A node dies with all its data; a new one takes its place. */
  async #loseNode(): Promise<void> {
    const victim = must(this.#cluster.nodes[this.#prng.below(this.#cluster.nodes.length)], "a node");
    const before = (await this.#status()).nodes.find(({ nodeId }) => nodeId === victim.nodeId)?.memberId;
    this.#away.add(victim);
    this.#log(`killing ${victim.nodeId} and deleting its data`);
    await victim.kill();
    await removeLocks(victim.dataDirectory);
    rmSync(victim.dataDirectory, { recursive: true, force: true });
    const { token } = await this.#command("cluster", "replace", victim.nodeId);
    victim.start({ NETDISK_CLUSTER_JOIN_TOKEN: String(token) });
    await victim.ready(120_000);
    await eventually(
      "the lost member is gone, and the new one votes",
      async () => {
        const { nodes } = await this.#status();
        const members = nodes.filter(({ nodeId }) => nodeId === victim.nodeId);
        return members.length === 1 && members[0]?.memberId !== before && members[0]?.role === "voter";
      },
      { withinMs: 120_000, everyMs: 200 },
    );
    this.#away.delete(victim);
    this.#log(`${victim.nodeId} is back, empty, as a new member`);
    await this.#whole("after a node was lost");
  }

  /**
   * Flips one bit in each of so many records of two nodes, so that every chunk keeps a good copy, then has every node read all
   * its copies.
   */
  async #flipBits(): Promise<number> {
    const nodes = [...this.#open()];
    const first = nodes.splice(this.#prng.below(nodes.length), 1);
    const second = nodes.splice(this.#prng.below(nodes.length), 1);
    const flippedNodes = [...first, ...second];
    const files = flippedNodes
      .flatMap(({ dataDirectory }) => chunkFiles(dataDirectory))
      .map((path) => ({ path, sizeBytes: statSync(path).size }))
      .filter(({ sizeBytes }) => sizeBytes > 2 * FLIP_DISTANCE_BYTES);
    // So many places of each file, which lie too far apart for one record: each record of a large file is as likely as another.
    const places = files.flatMap(({ path, sizeBytes }) => {
      const from = this.#prng.below(FLIP_DISTANCE_BYTES);
      const count = Math.floor((sizeBytes - from) / FLIP_DISTANCE_BYTES);
      return Array.from({ length: count }, (_, at) => ({ path, offset: from + at * FLIP_DISTANCE_BYTES }));
    });
    const count = Math.min(this.#options.flipCount, places.length);
    for (let flipped = 0; flipped < count; flipped += 1) {
      const [place] = places.splice(this.#prng.below(places.length), 1);
      const { path, offset } = must(place, "a place");
      flipBit(path, offset, this.#prng.below(8));
    }
    this.#log(`flipped one bit in each of ${count} records of two nodes`);
    const byScrub = await this.#scrub();
    const all = flippedNodes.reduce((sum, node) => sum + damagedExtentCount(node), 0);
    this.#foundDamagedCount = all;
    this.#log(`${all} extents were damaged: ${all - byScrub} of them were met by users' reads first`);
    await this.#whole("after bits were flipped");
    return count;
  }

  async #drainNode(): Promise<void> {
    const leader = await this.#cluster.leader();
    const victim = must(
      this.#open().find((node) => node !== leader),
      "a follower",
    );
    this.#log(`draining ${victim.nodeId}`);
    await this.#command("cluster", "drain", victim.nodeId);
    await eventually(
      "it gave its copies away",
      async () => {
        const { nodes, replicas } = await this.#status();
        const left = nodes.find(({ nodeId }) => nodeId === victim.nodeId)?.liveBytes;
        return (
          (left ?? 0) < LEFTOVER_BYTES_MAX && replicas["fullyReplicatedCount"] === replicas["extentCount"]
        );
      },
      { withinMs: this.#patienceMs, everyMs: 500 },
    );
    this.#log(`${victim.nodeId} gave its copies away; removing it`);
    this.#away.add(victim);
    await this.#command("cluster", "remove", victim.nodeId);
    await victim.ended();
    await removeLocks(victim.dataDirectory);
    rmSync(victim.dataDirectory, { recursive: true, force: true });
  }

  async #addNode(): Promise<void> {
    const added = await this.#cluster.addNode();
    this.#away.add(added);
    const { token } = await this.#command("cluster", "add");
    added.start({ NETDISK_CLUSTER_JOIN_TOKEN: String(token) });
    await added.ready(120_000);
    this.#away.delete(added);
    this.#log(`${added.nodeId} joined`);
    if (this.#options.totalBytes >= REBALANCED_BYTES_MIN) await this.#share(added);
    await this.#whole("after a node was added");
  }

  /** Waits until the others have given copies to a new node, and none is on its way any more. */
  async #share(added: ClusterNode): Promise<void> {
    const liveBytes = await eventually(
      "it holds a share",
      async () => {
        const { nodes, replicas } = await this.#status();
        const own = nodes.find(({ nodeId }) => nodeId === added.nodeId)?.liveBytes ?? 0;
        return own > 512 * MIB && replicas["movingCount"] === 0 ? own : undefined;
      },
      { withinMs: this.#patienceMs, everyMs: 500 },
    );
    this.#log(`${added.nodeId} was given ${gib(liveBytes)} GiB by the others`);
  }

  /** Waits until every extent has three verified copies and nothing is wrong. */
  async #whole(when: string): Promise<void> {
    await eventually(
      `three verified copies of everything ${when}`,
      async () => {
        const { replicas } = await this.#status();
        const bad = ["underReplicatedCount", "suspectCount", "corruptCount", "lostCount", "unverifiedCount"];
        if (replicas.recounting || bad.some((name) => replicas[name] !== 0)) return false;
        return replicas["fullyReplicatedCount"] === replicas["extentCount"];
      },
      { withinMs: this.#patienceMs, everyMs: 500 },
    );
    this.#log(`three verified copies of everything ${when}`);
  }

  /** Has every node read all its copies; answers how many extents were found damaged. */
  async #scrub(): Promise<number> {
    const passes = new Map(
      (await this.#status()).nodes.map(({ nodeId, scrub }) => [nodeId, scrub?.pass ?? 0]),
    );
    await this.#command("cluster", "scrub");
    const nodes = await eventually(
      "every node has read all its copies",
      async () => {
        const seen = (await this.#status()).nodes;
        const isDone = seen.every(
          ({ nodeId, scrub, scrubProgress }) =>
            scrubProgress === null && (scrub?.pass ?? 0) > (passes.get(nodeId) ?? 0),
        );
        return isDone ? seen : undefined;
      },
      { withinMs: this.#patienceMs, everyMs: 500 },
    );
    const found = nodes.reduce((sum, { scrub }) => sum + (scrub?.damagedCount ?? 0), 0);
    this.#log(`every node has read all its copies: ${found} damaged extents`);
    return found;
  }

  /** Reads every file, each through another node. */
  async #readAll(): Promise<void> {
    const files = [...this.#files.files.entries()];
    const nodes = this.#open();
    await Promise.all(
      Array.from({ length: 4 }, async () => {
        const prng = this.#prng.fork();
        for (let next = files.pop(); next !== undefined; next = files.pop()) {
          await this.#files.read(prng, next[1], must(nodes[next[0] % nodes.length], "a node"));
        }
      }),
    );
    this.#log(`read ${this.#files.files.length} files back`);
  }
}

/** Runs the job; throws when a step does not end, and reports everything else. */
export async function runHealJob(options: HealJobOptions): Promise<HealJobReport> {
  const cluster = await startCluster({ nodes: 5, environment: { NETDISK_CLUSTER_LOST_AFTER_MS: "5000" } });
  try {
    return await new HealJob(options, cluster).run();
  } catch (error) {
    const shown = await netdisk(["cluster", "status", "--nodes", cluster.addresses]);
    throw new Error(`${String(error)}\n${shown.stdout}`, { cause: error });
  } finally {
    await cluster.dispose();
  }
}

/** Whether nothing was lost, nothing failed and nothing is left to repair. */
export function isProven(report: HealJobReport): boolean {
  const { uploads, downloads } = report;
  return (
    uploads.failures.length === 0 &&
    downloads.failures.length === 0 &&
    report.leftDamagedCount === 0 &&
    report.fullyReplicatedCount === report.extentCount
  );
}

function chunkFiles(dataDirectory: string): readonly string[] {
  return ["extents", "log"].flatMap((folder) =>
    readdirSync(join(dataDirectory, "chunks", folder))
      .filter((name) => name.endsWith(".seg"))
      .map((name) => join(dataDirectory, "chunks", folder, name)),
  );
}

/** How many extents of its own a node has found damaged since it started, by its log. */
function damagedExtentCount({ logPath }: ClusterNode): number {
  const lines = readFileSync(logPath, "utf8").split("\n");
  const found = lines
    .filter((line) => line.includes('"chunks_damaged"'))
    .map((line) => {
      const { contentId, extentIndex } = JSON.parse(line) as Record<string, unknown>;
      return `${String(contentId)}/${String(extentIndex)}`;
    });
  return new Set(found).size;
}

function flipBit(path: string, offset: number, bit: number): void {
  const file = openSync(path, "r+");
  try {
    const byte = Buffer.alloc(1);
    readSync(file, byte, 0, 1, offset);
    byte[0] = (byte[0] ?? 0) ^ (1 << bit);
    writeSync(file, byte, 0, 1, offset);
  } finally {
    closeSync(file);
  }
}

function gib(bytes: number): string {
  return (bytes / 1024 ** 3).toFixed(2);
}
