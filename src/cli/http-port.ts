/**
 * Finds out whether an address of `--nodes` is that of HTTP instead of gRPC: a mistake easily made, since the URLs of the
 * HTTP port are what one has seen, and one that looks like a node that does not answer.
 */
import type { CliIo } from "./cli-io.ts";
import { UsageError } from "./exit-code.ts";
import { GRPC_PORT_DEFAULT } from "./up-layout.ts";

/** How long an address may take to answer, in milliseconds. */
const PROBE_TIMEOUT_MS = 2000;

/** The answer of GET `path` when the server at `address` speaks HTTP/1.1; undefined when it does not, or not in time. */
async function ask(io: CliIo, address: string, path: string): Promise<unknown> {
  const abort = new AbortController();
  const timer = io.clock.setTimer(PROBE_TIMEOUT_MS, () => abort.abort());
  try {
    const response = await fetch(`http://${address}${path}`, { signal: abort.signal, redirect: "manual" });
    return response.ok ? await response.json() : undefined;
  } catch (error) {
    // Nobody there, no HTTP/1.1, no JSON: not what is looked for, whatever it is.
    if (error instanceof Error) return undefined;
    throw error;
  } finally {
    timer.cancel();
  }
}

function field(value: unknown, name: string): unknown {
  return typeof value === "object" && value !== null
    ? (value as Readonly<Record<string, unknown>>)[name]
    : undefined;
}

/** The gRPC addresses that the node with its HTTP port at `address` knows. */
async function grpcAddresses(io: CliIo, address: string): Promise<readonly string[]> {
  const nodes = field(await ask(io, address, "/api/cluster?consistency=stale"), "nodes");
  if (!Array.isArray(nodes)) return [];
  const found = nodes.flatMap((node: unknown): readonly string[] => {
    const grpc = field(node, "address");
    return typeof grpc === "string" && grpc !== "" ? [grpc] : [];
  });
  return found.sort((a, b) => (a < b ? -1 : 1));
}

/** The mistake when one of `addresses` is the HTTP port of a node, with the ports to use instead; undefined when none is. */
export async function findHttpPort(io: CliIo, addresses: readonly string[]): Promise<UsageError | undefined> {
  for (const address of addresses) {
    const nodeId = field(await ask(io, address, "/version"), "nodeId");
    if (typeof nodeId !== "string") continue;
    const grpc = await grpcAddresses(io, address);
    const instead =
      grpc.length === 0
        ? `Name its gRPC port, ${GRPC_PORT_DEFAULT} by default.`
        : `Use --nodes ${grpc.join(",")}.`;
    return new UsageError(
      `${address} is the HTTP port of ${nodeId}, and the command line speaks gRPC. ${instead}`,
    );
  }
  return undefined;
}
