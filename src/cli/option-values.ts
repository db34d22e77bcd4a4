/** Values of options, as the command line gives them. */
import { InvalidArgumentError } from "commander";
import { findAddress } from "../config/address.ts";
import { LOCAL_NODE_COUNT_MAX, type PortChoice } from "./up-layout.ts";

/** Nodes that --nodes may name. */
export const NODE_COUNT_MAX = 64;

/** Addresses of nodes, "host:port,...", each once. @throws InvalidArgumentError */
export function parseNodes(text: string): readonly string[] {
  const addresses = text
    .split(",")
    .map((part) => part.trim())
    .filter((part) => part !== "");
  const wrong = addresses.find((address) => findAddress(address) === undefined);
  if (wrong !== undefined) throw new InvalidArgumentError(`${JSON.stringify(wrong)} is not host:port.`);
  if (addresses.length < 1 || addresses.length > NODE_COUNT_MAX) {
    throw new InvalidArgumentError(`1 to ${NODE_COUNT_MAX} addresses are needed.`);
  }
  return [...new Set(addresses)];
}

/** An integer in a range. @throws InvalidArgumentError */
export function parseInteger(text: string, min: number, max: number): number {
  const value = /^\d+$/.test(text) ? Number(text) : NaN;
  if (!(value >= min && value <= max))
    throw new InvalidArgumentError(`It must be an integer from ${min} to ${max}.`);
  return value;
}

const SIZE_UNITS = ["", "K", "M", "G", "T"];

/** Bytes: a number, or one with a binary unit as sizes are shown, "1M", "1.5 MiB". @throws InvalidArgumentError */
export function parseSize(text: string): number {
  const [, figure, unit = ""] = /^(\d+(?:\.\d+)?) ?([KMGT]?)(?:iB|B)?$/i.exec(text) ?? [];
  const bytes = Math.round(Number(figure) * 1024 ** SIZE_UNITS.indexOf(unit.toUpperCase()));
  if (!Number.isSafeInteger(bytes)) {
    throw new InvalidArgumentError(
      'It must be a number of bytes, or one with a unit: "500K", "1M", "1.5 GiB".',
    );
  }
  return bytes;
}

/** The number of nodes of `netdisk up`, and not the addresses that `--nodes` means elsewhere. @throws InvalidArgumentError */
export function parseNodeCount(text: string): number {
  if (!text.includes(":")) return parseInteger(text, 1, LOCAL_NODE_COUNT_MAX);
  throw new InvalidArgumentError(
    '"netdisk up" takes a number of nodes; addresses are for commands that talk to nodes.',
  );
}

/** The first port of `netdisk up`. @throws InvalidArgumentError */
export function parseBasePort(text: string): PortChoice {
  return text === "auto" ? "auto" : parseInteger(text, 1, 65_000);
}
