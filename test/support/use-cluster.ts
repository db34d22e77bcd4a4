/**
 * A cluster of real processes on loopback, for tests: starts with the suite, ends with it, and can be killed and restarted in
 * between. The processes run the compiled program (`npm run build`), as users do. Logs are kept beside the data, and their
 * ends are shown when a node does not come up.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { createWriteStream, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { ALLOCATOR_ENVIRONMENT, NODE_ENVIRONMENT } from "../../src/cli/node-environment.ts";
import { must } from "../../src/std/assert.ts";
import { removeLock } from "../../src/std/lmdb-lock-file.ts";
import { eventually } from "./eventually.ts";

const ROOT = resolve(dirname(fileURLToPath(import.meta.url)), "../..");

/** The compiled program. */
export const PROGRAM = join(ROOT, "dist/src/main.js");

/** Removes what killed nodes left in memory for the stores under `dataDirectory`; before the directory goes. */
export async function removeLocks(dataDirectory: string): Promise<void> {
  for (const kind of ["stores", "index"]) {
    const directory = join(dataDirectory, kind);
    if (!existsSync(directory)) continue;
    for (const name of readdirSync(directory)) await removeLock(join(directory, name));
  }
}

/** Ports that nobody listens on now, all different. */
export async function freePorts(count: number): Promise<readonly number[]> {
  const servers = Array.from({ length: count }, () => createServer());
  const ports: number[] = [];
  for (const server of servers) {
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    const address = server.address();
    if (address === null || typeof address === "string") throw new Error("no port");
    ports.push(address.port);
  }
  await Promise.all(servers.map((server) => new Promise((closed) => server.close(closed))));
  return ports;
}

/** One node of the cluster. */
export class ClusterNode {
  readonly nodeId: string;
  readonly dataDirectory: string;
  readonly grpcAddress: string;
  readonly httpUrl: string;
  readonly #environment: Record<string, string>;
  #process: ChildProcess | undefined;

  constructor(options: {
    nodeId: string;
    dataDirectory: string;
    grpcPort: number;
    httpPort: number;
    peers: readonly string[];
    environment: Readonly<Record<string, string>>;
  }) {
    this.nodeId = options.nodeId;
    this.dataDirectory = options.dataDirectory;
    this.grpcAddress = `127.0.0.1:${options.grpcPort}`;
    this.httpUrl = `http://127.0.0.1:${options.httpPort}`;
    this.#environment = {
      NODE_ID: options.nodeId,
      NODE_ADDR: this.grpcAddress,
      PEERS: options.peers.join(","),
      NETDISK_HTTP_PORT: String(options.httpPort),
      NETDISK_DATA_DIRECTORY: options.dataDirectory,
      NETDISK_DATA_RESERVE_BYTES: String(64 * 1024 * 1024),
      ...NODE_ENVIRONMENT,
      ...ALLOCATOR_ENVIRONMENT,
      ...options.environment,
    };
  }

  /** Process id while it runs. */
  get pid(): number | undefined {
    return this.#process?.pid;
  }

  get running(): boolean {
    return (
      this.#process !== undefined && this.#process.exitCode === null && this.#process.signalCode === null
    );
  }

  /** Whether it ended by a signal, of anybody's or by a fault of the program. */
  get endedBySignal(): boolean {
    return (this.#process?.signalCode ?? null) !== null;
  }

  get logPath(): string {
    return `${this.dataDirectory}.log`;
  }

  /** The last lines of the log. */
  logTail(lineCount = 15): string {
    if (!existsSync(this.logPath)) return "(no log)";
    return readFileSync(this.logPath, "utf8").trimEnd().split("\n").slice(-lineCount).join("\n");
  }

  /**
   * Starts the process, with other settings than before for this time; does not wait until it is ready.
   * @param program what Node.js runs with "serve" behind it; the compiled program when absent
   */
  start(environment: Readonly<Record<string, string>> = {}, program: readonly string[] = [PROGRAM]): void {
    const { PATH = "", HOME = "" } = process.env;
    const child = spawn(process.execPath, [...program, "serve"], {
      env: { PATH, HOME, ...this.#environment, ...environment },
      stdio: ["ignore", "pipe", "pipe"],
      cwd: ROOT,
    });
    const log = createWriteStream(this.logPath, { flags: "a" });
    child.stdout.pipe(log, { end: false });
    child.stderr.pipe(log, { end: false });
    this.#process = child;
  }

  /** Resolves to the exit code once the process has ended by itself, or to the signal that ended it. */
  async ended(): Promise<number | NodeJS.Signals | null> {
    const child = must(this.#process, "the process was started");
    if (this.running) await once(child, "exit");
    return child.exitCode ?? child.signalCode;
  }

  /** Sends a signal and, when it ends the process, waits for the end. */
  async signal(signal: NodeJS.Signals): Promise<void> {
    const child = this.#process;
    if (child === undefined || !this.running) return;
    const exited = once(child, "exit");
    child.kill(signal);
    if (signal !== "SIGSTOP" && signal !== "SIGCONT") await exited;
  }

  /** Ends the process at once, as a power cut to it would. */
  kill(): Promise<void> {
    return this.signal("SIGKILL");
  }

  /** Resolves when /readyz says 200. */
  async ready(withinMs = 30_000): Promise<void> {
    try {
      await eventually(
        `${this.nodeId} is ready`,
        async () => {
          if (!this.running) throw new Error(`${this.nodeId} ended`);
          return (await fetch(`${this.httpUrl}/readyz`)).status === 200;
        },
        { withinMs },
      );
    } catch (error) {
      throw new Error(`${this.nodeId} did not become ready; its log ends with:\n${this.logTail()}`, {
        cause: error,
      });
    }
  }
}

/** A running cluster. */
export interface TestCluster {
  readonly nodes: readonly ClusterNode[];
  /** gRPC addresses, as `--nodes` takes them. */
  readonly addresses: string;
  /** The node that leads now, by its own status. */
  leader(): Promise<ClusterNode>;
  node(index: number): ClusterNode;
  /** A further node with an empty data directory, not started, that knows the first nodes as its peers. */
  addNode(environment?: Readonly<Record<string, string>>): Promise<ClusterNode>;
  /** Kills whatever runs and removes the data. */
  dispose(): Promise<void>;
}

/** Settings of startCluster(). */
export interface ClusterOptions {
  readonly nodes: number;
  readonly environment?: Readonly<Record<string, string>>;
  /** Does not start the processes. */
  readonly stopped?: boolean;
}

/** Starts a cluster and waits until every node is ready. */
export async function startCluster(options: ClusterOptions): Promise<TestCluster> {
  if (!existsSync(PROGRAM)) throw new Error(`${PROGRAM} is missing: run "npm run build" first`);
  const directory = mkdtempSync(join(tmpdir(), "netdisk-cluster-"));
  const ports = await freePorts(options.nodes * 2);
  const peers = ports.slice(0, options.nodes).map((port) => `127.0.0.1:${port}`);
  const nodes = peers.map(
    (_, index) =>
      new ClusterNode({
        nodeId: `node${index + 1}`,
        dataDirectory: join(directory, `node${index + 1}`),
        grpcPort: must(ports[index], "a port"),
        httpPort: must(ports[options.nodes + index], "a port"),
        peers,
        environment: options.environment ?? {},
      }),
  );
  const cluster: TestCluster = {
    nodes,
    addresses: peers.join(","),
    node: (index) => must(nodes[index], `node ${index}`),
    addNode: async (environment = {}) => {
      const [grpcPort = 0, httpPort = 0] = await freePorts(2);
      const nodeId = `node${nodes.length + 1}`;
      const dataDirectory = join(directory, nodeId);
      const settings = { ...options.environment, ...environment };
      const node = new ClusterNode({
        nodeId,
        dataDirectory,
        grpcPort,
        httpPort,
        peers,
        environment: settings,
      });
      nodes.push(node);
      return node;
    },
    leader: () =>
      eventually(
        "a leader is known",
        async () => {
          for (const node of nodes.filter((each) => each.running)) {
            const response = await fetch(`${node.httpUrl}/api/cluster?consistency=stale`);
            if (!response.ok) continue;
            const status = (await response.json()) as { leaderId?: string };
            const leader = nodes.find((each) => each.nodeId === status.leaderId);
            if (leader?.running === true) return leader;
          }
          return undefined;
        },
        { withinMs: 30_000 },
      ),
    dispose: async () => {
      await Promise.all(nodes.map((node) => node.kill()));
      for (const { dataDirectory } of nodes) await removeLocks(dataDirectory);
      rmSync(directory, { recursive: true, force: true });
    },
  };
  if (options.stopped !== true) {
    try {
      for (const node of nodes) node.start();
      await Promise.all(nodes.map((node) => node.ready()));
    } catch (error) {
      await cluster.dispose();
      throw error;
    }
  }
  return cluster;
}

/** Registers hooks that start a cluster before the suite and dispose of it afterwards; use the result inside tests. */
export function useCluster(options: ClusterOptions): () => TestCluster {
  let cluster: TestCluster | undefined;
  before(async function () {
    this.timeout(60_000);
    cluster = await startCluster(options);
  });
  after(async function () {
    this.timeout(30_000);
    await cluster?.dispose();
  });
  return () => must(cluster, "the cluster has been started");
}
