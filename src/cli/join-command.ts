/** The whole command that starts a node which joins: a free name, and ports that fit the cluster's. Pure. */
import { findAddress, formatAddress, PORT_MAX } from "../config/address.ts";
import { GRPC_PORT_DEFAULT, HTTP_PORT_DEFAULT } from "./up-layout.ts";

/** What is known of a node. */
export interface KnownNode {
  readonly nodeId: string;
  /** host:port of gRPC. */
  readonly address: string;
  readonly httpUrl: string;
}

/** A command, and what a person has to put in. */
export interface JoinCommand {
  readonly command: string;
  /** What stands for something that nobody here knows; undefined when the command is complete. */
  readonly hint: string | undefined;
}

const isLoopback = (host: string): boolean =>
  host === "localhost" || host === "::1" || host.startsWith("127.");

function freeName(nodes: readonly KnownNode[]): string {
  const taken = new Set(nodes.map(({ nodeId }) => nodeId));
  let number = nodes.length + 1;
  while (taken.has(`node${number}`)) number += 1;
  return `node${number}`;
}

/** One above the highest, where nodes share a machine; undefined when there is none. */
function nextPort(ports: readonly number[]): number | undefined {
  const highest = Math.max(0, ...ports);
  return highest > 0 && highest < PORT_MAX ? highest + 1 : undefined;
}

/**
 * The command for a node that joins `nodes` with `token`, asking `peers` ("host:port,...") first.
 * @param replaced whose place it takes: it gets that one's name and address
 */
export function joinCommand(
  token: string,
  peers: string,
  nodes: readonly KnownNode[],
  replaced?: KnownNode,
): JoinCommand {
  if (replaced !== undefined && findAddress(replaced.address) !== undefined) {
    return inPlaceOf(replaced, token, peers);
  }
  const name = freeName(nodes);
  const addresses = nodes.flatMap(({ address }) => findAddress(address) ?? []);
  const oneMachine = addresses.length > 0 && addresses.every(({ host }) => isLoopback(host));
  const httpPorts = nodes.flatMap(({ httpUrl }) =>
    URL.canParse(httpUrl) ? Number(new URL(httpUrl).port) : [],
  );
  const grpcPort = oneMachine ? nextPort(addresses.map(({ port }) => port)) : addresses[0]?.port;
  const httpPort = oneMachine ? nextPort(httpPorts) : httpPorts[0];
  const host = oneMachine ? (addresses[0]?.host ?? "127.0.0.1") : "HOST";
  const parts = [
    `netdisk serve --join ${token} --cluster-peers ${peers}`,
    `--node-id ${name} --node-address ${formatAddress({ host, port: grpcPort ?? GRPC_PORT_DEFAULT })}`,
    `--http-port ${httpPort ?? HTTP_PORT_DEFAULT} --data-directory ./${name}`,
  ];
  return {
    command: parts.join(" "),
    hint: oneMachine ? undefined : "HOST stands for the new machine's address, as the other nodes reach it.",
  };
}

/** Nobody else may have the former node's name and address, and whoever looks for it there finds the new one. */
function inPlaceOf({ nodeId, address, httpUrl }: KnownNode, token: string, peers: string): JoinCommand {
  const host = findAddress(address)?.host ?? "";
  const httpPort = (URL.canParse(httpUrl) && Number(new URL(httpUrl).port)) || HTTP_PORT_DEFAULT;
  return {
    command:
      `netdisk serve --join ${token} --cluster-peers ${peers} --node-id ${nodeId} --node-address ${address}` +
      ` --http-port ${httpPort} --data-directory ./${nodeId}`,
    hint: isLoopback(host)
      ? undefined
      : `${host} is where ${nodeId} was: put the new machine's address in its place when it is another.`,
  };
}
