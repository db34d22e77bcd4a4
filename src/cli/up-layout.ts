/**
 * Where the nodes of a local cluster live: names, ports and folders, kept in cluster.json of the data directory.
 *
 * The layout is decided once. Later starts reuse it, because the nodes know each other by these addresses. Those of its nodes that
 * run already are left alone: the rest are started beside them.
 */
import { readFile, rename, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { join } from "node:path";
import { PORT_MAX } from "../config/address.ts";
import { defaultConfig } from "../config/config.ts";
import { DriveError } from "../drive/errors.ts";
import type { DataIdentity } from "../node/data-identity.ts";
import { must } from "../std/assert.ts";
import { errnoOf } from "../std/disk.ts";
import { makeDirectories } from "../std/make-directories.ts";
import { UsageError } from "./exit-code.ts";

/** Nodes of a local cluster: for trying out, more only cost memory. */
export const LOCAL_NODE_COUNT_MAX = 9;

/** With --base-port N, gRPC takes N and up, HTTP this much higher. */
export const HTTP_PORT_OFFSET = 100;

/** Where a local cluster keeps its data unless told otherwise, from the working directory. */
export const DATA_DIRECTORY_DEFAULT = ".netdisk";

/** First ports of a cluster that was given none. */
export const GRPC_PORT_DEFAULT = Number(must(defaultConfig().node.address.split(":")[1], "a port"));
export const HTTP_PORT_DEFAULT = defaultConfig().http.port;

/** Where ports come from: the defaults, a first port given, or any that are free. */
export type PortChoice = "default" | "auto" | number;

/** One node of a local cluster. */
export interface LocalNode {
  readonly nodeId: string;
  readonly grpcPort: number;
  readonly httpPort: number;
}

const HOST = "127.0.0.1";
const FORMAT = 1;

/** The nodes of a local cluster, and which of them are not to be started. */
export interface Layout {
  readonly nodes: readonly LocalNode[];
  /** Those whose address a living node of the same cluster has: started by another command, or in the place of a former one. */
  readonly running: readonly LocalNode[];
  /** Those that the cluster removed, and whose ports something else has by now. */
  readonly removed: readonly LocalNode[];
  /** There was no cluster in the folder: its nodes found one. */
  readonly isNew: boolean;
}

/** What openLayout() has to find out about nodes. */
export interface LayoutQuestions {
  /** Who keeps its data in the folder; undefined: nobody yet, or it cannot be read. */
  identityIn(directory: string): Promise<DataIdentity | undefined>;
  /** The id of the cluster whose node answers at the gRPC address; undefined when none answers. */
  clusterAt(address: string): Promise<string | undefined>;
}

/**
 * The nodes of the cluster in `dataDirectory`: as it was laid out before, or a new layout.
 * @throws UsageError when what is asked for contradicts an earlier layout; DriveError ADDRESS_IN_USE when something that is not of
 *   the cluster has ports of it, or no node is left to start; DATA_CORRUPT
 */
export async function openLayout(
  dataDirectory: string,
  wanted: { readonly nodeCount: number | undefined; readonly ports: PortChoice },
  questions: LayoutQuestions,
): Promise<Layout> {
  const path = join(dataDirectory, "cluster.json");
  const existing = await readLayout(path);
  if (existing !== undefined) {
    if (wanted.nodeCount !== undefined && wanted.nodeCount !== existing.length) {
      throw new UsageError(
        `${dataDirectory} holds a cluster of ${existing.length} nodes; start it without --nodes, or choose another --data.`,
      );
    }
    if (typeof wanted.ports === "number" && existing[0]?.grpcPort !== wanted.ports) {
      throw new UsageError(
        `${dataDirectory} holds a cluster on ports ${existing[0]?.grpcPort ?? 0} and up; start it without --base-port, or choose another --data.`,
      );
    }
    return whoseNodesRun(existing, dataDirectory, questions);
  }
  const nodes = await layOut(wanted.nodeCount ?? 3, wanted.ports);
  const taken = (await Promise.all(nodes.map(takenPorts))).flat();
  if (taken.length > 0) {
    throw portsTaken(
      taken,
      ": stop what uses it, or choose others with --base-port 39001 or --base-port auto.",
    );
  }
  await makeDirectories(dataDirectory, 0o700);
  await writeFile(`${path}.new`, `${JSON.stringify({ format: FORMAT, nodes }, undefined, 2)}\n`);
  await rename(`${path}.new`, path);
  return { nodes, running: [], removed: [], isNew: true };
}

/** Which nodes of a layout run already, or are not wanted any more. @throws DriveError ADDRESS_IN_USE */
async function whoseNodesRun(
  nodes: readonly LocalNode[],
  dataDirectory: string,
  questions: LayoutQuestions,
): Promise<Layout> {
  const free: LocalNode[] = [];
  const running: LocalNode[] = [];
  const removed: LocalNode[] = [];
  const ownPorts: number[] = [];
  const foreignPorts: number[] = [];
  const identities = nodes.map(({ nodeId }) => questions.identityIn(join(dataDirectory, nodeId)));
  const known = (await Promise.all(identities)).filter((each) => each !== undefined);
  const clusterIds = new Set(known.flatMap(({ clusterId }) => clusterId ?? []));
  for (const node of nodes) {
    const taken = await takenPorts(node);
    if (taken.length === 0) {
      free.push(node);
      continue;
    }
    const clusterId = taken.includes(node.grpcPort)
      ? await questions.clusterAt(`${HOST}:${node.grpcPort}`)
      : undefined;
    if (clusterId !== undefined && clusterIds.has(clusterId)) {
      running.push(node);
      ownPorts.push(...taken);
    } else if (known.some(({ nodeId, isRemoved }) => isRemoved && nodeId === node.nodeId)) removed.push(node);
    else foreignPorts.push(...taken);
  }
  if (foreignPorts.length > 0) {
    throw portsTaken(
      foreignPorts,
      ", and no node of this cluster answers there. When this very cluster is starting or stopping elsewhere, wait for that; else stop what has them: the nodes of this cluster know each other by their ports.",
    );
  }
  if (free.length === 0) {
    throw portsTaken(
      ownPorts,
      ": this very cluster is running already. Use it, or stop it with Ctrl-C where it runs and start it again.",
    );
  }
  return { nodes, running, removed, isNew: false };
}

function portsTaken(taken: readonly number[], more: string): DriveError {
  const list = taken.join(", ");
  const subject = taken.length === 1 ? `port ${list} is` : `ports ${list} are`;
  return new DriveError("ADDRESS_IN_USE", `On ${HOST} ${subject} taken${more}`, { ports: list });
}

/** The ports of `node` on which something listens. */
async function takenPorts(node: LocalNode): Promise<readonly number[]> {
  const taken: number[] = [];
  for (const port of [node.grpcPort, node.httpPort]) if (!(await isFree(port))) taken.push(port);
  return taken;
}

async function layOut(nodeCount: number, ports: PortChoice): Promise<readonly LocalNode[]> {
  const free = ports === "auto" ? await freePorts(2 * nodeCount) : [];
  const grpcBase = typeof ports === "number" ? ports : GRPC_PORT_DEFAULT;
  const httpBase = typeof ports === "number" ? ports + HTTP_PORT_OFFSET : HTTP_PORT_DEFAULT;
  if (Math.max(grpcBase, httpBase) + nodeCount - 1 > PORT_MAX)
    throw new UsageError("--base-port is too high.");
  return Array.from({ length: nodeCount }, (_, i) => ({
    nodeId: `node${i + 1}`,
    grpcPort: free[2 * i] ?? grpcBase + i,
    httpPort: free[2 * i + 1] ?? httpBase + i,
  }));
}

/** Whether a server could listen on the port of loopback now. */
function isFree(port: number): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once("error", (error) => {
      if (errnoOf(error) === "EADDRINUSE") resolve(false);
      else reject(error);
    });
    server.listen({ host: HOST, port, exclusive: true }, () => server.close(() => resolve(true)));
  });
}

/** Ports that the system hands out, all held until the last is known, so that they differ. */
async function freePorts(count: number): Promise<readonly number[]> {
  const servers = Array.from({ length: count }, () => createServer());
  try {
    const ports: number[] = [];
    for (const server of servers) {
      await new Promise<void>((resolve, reject) => {
        server.once("error", reject);
        server.listen({ host: HOST, port: 0 }, resolve);
      });
      const address = server.address();
      if (typeof address === "object" && address !== null) ports.push(address.port);
    }
    return ports;
  } finally {
    await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
  }
}

async function readLayout(path: string): Promise<readonly LocalNode[] | undefined> {
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (error) {
    if (errnoOf(error) === "ENOENT") return undefined;
    throw error;
  }
  const nodes = parseLayout(text);
  if (nodes === undefined) {
    throw new DriveError("DATA_CORRUPT", `${path} is not a cluster layout of this version.`, { path });
  }
  return nodes;
}

function parseLayout(text: string): readonly LocalNode[] | undefined {
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch (error) {
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
  if (typeof parsed !== "object" || parsed === null || !("format" in parsed) || parsed.format !== FORMAT)
    return undefined;
  if (!("nodes" in parsed) || !Array.isArray(parsed.nodes)) return undefined;
  const nodes: unknown[] = parsed.nodes;
  const isPort = (value: unknown): value is number =>
    Number.isInteger(value) && Number(value) >= 1 && Number(value) <= PORT_MAX;
  const valid = nodes.filter(
    (node): node is LocalNode =>
      typeof node === "object" &&
      node !== null &&
      "nodeId" in node &&
      typeof node.nodeId === "string" &&
      /^node\d$/.test(node.nodeId) &&
      "grpcPort" in node &&
      isPort(node.grpcPort) &&
      "httpPort" in node &&
      isPort(node.httpPort),
  );
  return valid.length === nodes.length && valid.length >= 1 ? valid : undefined;
}
