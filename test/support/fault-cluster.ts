/**
 * A cluster of real processes whose links and disks are in the hands of the test: every node is reached by its peers and by the
 * clients through a proxy of its own (links/), and, where the test runs as root, has a disk of its own (volume.ts).
 */
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { must } from "../../src/std/assert.ts";
import { eventually } from "./eventually.ts";
import { Links } from "./links/links.ts";
import { ClusterNode, freePorts, PROGRAM, removeLocks } from "./use-cluster.ts";
import { Volume } from "./volume.ts";

/** Space that a node keeps free; a volume is filled below it. */
export const RESERVE_BYTES = 64 * 1024 * 1024;

/** A node, its disk and the addresses at which clients reach it through the proxy. */
export interface FaultNode {
  /** Its label, and its place among the links. */
  readonly place: string;
  readonly process: ClusterNode;
  readonly volume: Volume;
  readonly clientGrpcAddress: string;
  readonly clientHttpUrl: string;
}

/** What a node says about the cluster; the part that tests look at. */
export interface SeenStatus {
  readonly leaderId: string | null;
  readonly term: number;
  readonly appliedIndex: number;
  readonly fileCount: number;
  readonly nodes: readonly {
    readonly nodeId: string;
    readonly health: string;
    readonly appliedIndex: number;
  }[];
  readonly replicas: {
    readonly extentCount: number;
    readonly fullyReplicatedCount: number;
    readonly underReplicatedCount: number;
    readonly suspectCount: number;
  };
}

/** Settings of FaultCluster.start(). */
export interface FaultClusterOptions {
  readonly nodes: number;
  /** Gives every node a disk of its own where that is possible. */
  readonly ownDisks: boolean;
  readonly environment?: Readonly<Record<string, string>>;
}

/** The cluster. */
export class FaultCluster {
  readonly nodes: readonly FaultNode[];
  readonly links: Links;
  /** Data and logs of all nodes. */
  readonly directory: string;

  private constructor(nodes: readonly FaultNode[], links: Links, directory: string) {
    this.nodes = nodes;
    this.links = links;
    this.directory = directory;
  }

  /** Starts it and waits until every node is ready. */
  static async start(options: FaultClusterOptions): Promise<FaultCluster> {
    if (!existsSync(PROGRAM)) throw new Error(`${PROGRAM} is missing: run "npm run build" first`);
    const directory = mkdtempSync(join(tmpdir(), "netdisk-faults-"));
    const ports = await freePorts(options.nodes * 5);
    const port = (node: number, which: number): number => must(ports[node * 5 + which], "a port");
    const indexes = Array.from({ length: options.nodes }, (_, index) => index);
    const peers = indexes.map((index) => `127.0.0.1:${port(index, 2)}`);
    const nodes = indexes.map((index): FaultNode => {
      const place = `node${index + 1}`;
      const volume = Volume.make(join(directory, place), options.ownDisks);
      const process = new ClusterNode({
        nodeId: place,
        dataDirectory: volume.directory,
        grpcPort: port(index, 0),
        httpPort: port(index, 1),
        peers,
        environment: {
          ME: must(peers[index], "a peer"),
          NETDISK_DATA_RESERVE_BYTES: String(RESERVE_BYTES),
          ...options.environment,
        },
      });
      return {
        place,
        process,
        volume,
        clientGrpcAddress: `127.0.0.1:${port(index, 3)}`,
        clientHttpUrl: `http://127.0.0.1:${port(index, 4)}`,
      };
    });
    const links = await Links.start(
      indexes.map((index) => ({
        place: `node${index + 1}`,
        nodeGrpcPort: port(index, 0),
        nodeHttpPort: port(index, 1),
        peerPort: port(index, 2),
        clientPort: port(index, 3),
        httpPort: port(index, 4),
      })),
    );
    const cluster = new FaultCluster(nodes, links, directory);
    try {
      for (const node of nodes) await cluster.startNode(node);
      await Promise.all(nodes.map(({ process }) => process.ready(60_000)));
    } catch (error) {
      await cluster.dispose(false);
      throw error;
    }
    return cluster;
  }

  /** Starts a node's process, whose connections are its own from now on; does not wait until it is ready. */
  async startNode(node: FaultNode): Promise<void> {
    node.process.start();
    await this.links.setProcess(node.place, must(node.process.pid, "it was started"));
  }

  node(place: string): FaultNode {
    return must(
      this.nodes.find((each) => each.place === place),
      `the node ${place}`,
    );
  }

  /** What the node says, asked past the proxy. Throws when it does not answer in time. */
  async status(node: FaultNode, consistency: "stale" | "linearizable" = "stale"): Promise<SeenStatus> {
    const response = await fetch(`${node.process.httpUrl}/api/cluster?consistency=${consistency}`, {
      signal: AbortSignal.timeout(5_000),
    });
    if (!response.ok) throw new Error(`${node.place}: ${response.status} ${await response.text()}`);
    return (await response.json()) as SeenStatus;
  }

  /** The node that most nodes of the newest term follow. */
  leader(withinMs = 60_000): Promise<FaultNode> {
    return eventually(
      "a leader is known",
      async () => {
        const running = this.nodes.filter(({ process }) => process.running);
        const seen = await Promise.all(running.map((node) => this.status(node).catch(() => undefined)));
        const newest = seen.reduce<SeenStatus | undefined>(
          (best, each) => (each !== undefined && each.term > (best?.term ?? 0) ? each : best),
          undefined,
        );
        return running.find(({ place }) => place === newest?.leaderId);
      },
      { withinMs, everyMs: 50 },
    );
  }

  /** Lines of the nodes' logs that match, with the node's label. */
  logLines(pattern: RegExp): readonly string[] {
    return this.nodes.flatMap(({ place, process }) =>
      existsSync(process.logPath)
        ? readFileSync(process.logPath, "utf8")
            .split("\n")
            .filter((line) => pattern.test(line))
            .map((line) => `${place}: ${line}`)
        : [],
    );
  }

  /** Ends everything. @param keep leaves logs and data where they are */
  async dispose(keep: boolean): Promise<void> {
    for (const { volume } of this.nodes) volume.thaw();
    await Promise.all(
      this.nodes.map(async ({ process }) => {
        await process.signal("SIGCONT");
        await process.kill();
      }),
    );
    await this.links.dispose();
    for (const { volume } of this.nodes) {
      await removeLocks(volume.directory);
      volume.dispose(keep);
    }
    if (!keep) rmSync(this.directory, { recursive: true, force: true });
  }
}
