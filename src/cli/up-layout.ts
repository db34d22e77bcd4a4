/**
 * Where the nodes of a local cluster live: names, ports and folders, kept in cluster.json of the data directory.
 *
 * The layout is decided once. Later starts reuse it, because the nodes know each other by these addresses.
 */
import { mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { join } from "node:path";
import { PORT_MAX } from "../config/address.ts";
import { defaultConfig } from "../config/config.ts";
import { DriveError } from "../drive/errors.ts";
import { must } from "../std/assert.ts";
import { errnoOf } from "../std/disk.ts";
import { UsageError } from "./exit-code.ts";

/** Nodes of a local cluster: for trying out, more only cost memory. */
export const LOCAL_NODE_COUNT_MAX = 9;

/** With --base-port N, gRPC takes N and up, HTTP this much higher. */
export const HTTP_PORT_OFFSET = 100;

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

/**
 * The nodes of the cluster in `dataDirectory`: as it was laid out before, or a new layout.
 * @throws UsageError when what is asked for contradicts an earlier layout; DriveError ADDRESS_IN_USE, DATA_CORRUPT
 */
export async function openLayout(
  dataDirectory: string,
  wanted: { readonly nodeCount: number | undefined; readonly ports: PortChoice },
): Promise<readonly LocalNode[]> {
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
    await refuseTakenPorts(
      existing,
      "this very cluster seems to be running already: use it, or stop it with Ctrl-C where it runs and start it again, which starts all nodes. If something else has them, stop that; the nodes of this cluster know each other by their ports",
    );
    return existing;
  }
  const nodes = await layOut(wanted.nodeCount ?? 3, wanted.ports);
  await refuseTakenPorts(
    nodes,
    "stop what uses it, or choose others with --base-port 39001 or --base-port auto",
  );
  await mkdir(dataDirectory, { recursive: true, mode: 0o700 });
  await writeFile(`${path}.new`, `${JSON.stringify({ format: FORMAT, nodes }, undefined, 2)}\n`);
  await rename(`${path}.new`, path);
  return nodes;
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

async function refuseTakenPorts(nodes: readonly LocalNode[], remedy: string): Promise<void> {
  const taken: number[] = [];
  for (const node of nodes) {
    for (const port of [node.grpcPort, node.httpPort]) if (!(await isFree(port))) taken.push(port);
  }
  if (taken.length === 0) return;
  const list = taken.join(", ");
  throw new DriveError(
    "ADDRESS_IN_USE",
    `On ${HOST} ${taken.length === 1 ? `port ${list} is` : `ports ${list} are`} taken: ${remedy}.`,
    { ports: list },
  );
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
