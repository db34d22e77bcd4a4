/**
 * Addresses as people write them: "host:port", with brackets around an IPv6 host.
 *
 * Only the form is checked; whether a name resolves is found out when it is used.
 */

/** A host and a TCP port. */
export interface Address {
  /** Name or IP address, without brackets. */
  readonly host: string;
  /** 1 to 65,535. */
  readonly port: number;
}

/** Highest TCP port. */
export const PORT_MAX = 65_535;

const HOST_NAME =
  /^(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62}[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,62}[A-Za-z0-9_])?)*\.?$/;
// A name of an interface may follow; in all no longer than a host name.
const IPV6 = /^(?=.{1,253}$)[0-9A-Fa-f:.]+(%[A-Za-z0-9_.-]+)?$/;
const WILDCARDS = new Set(["0.0.0.0", "::"]);

/** The address that `text` writes, or undefined when it is none. */
export function findAddress(text: string): Address | undefined {
  const match = /^(?:\[([^\]]+)\]|([^:[\]]+)):(\d{1,5})$/.exec(text);
  if (match === null) return undefined;
  const [, ipv6, name, digits] = match;
  const port = Number(digits);
  if (port < 1 || port > PORT_MAX) return undefined;
  if (ipv6 !== undefined) return IPV6.test(ipv6) && ipv6.includes(":") ? { host: ipv6, port } : undefined;
  if (name === undefined || !HOST_NAME.test(name)) return undefined;
  return { host: name, port };
}

/** Whether `text` is a host that a server can listen on: a name or an IP address, without port or brackets. */
export function isHost(text: string): boolean {
  return HOST_NAME.test(text) || (IPV6.test(text) && text.includes(":"));
}

/** Writes an address so that findAddress() reads it back. */
export function formatAddress(address: Address): string {
  return address.host.includes(":") ? `[${address.host}]:${address.port}` : `${address.host}:${address.port}`;
}

/** Whether the host stands for every interface, and so tells a peer nothing. */
export function isWildcard(host: string): boolean {
  return WILDCARDS.has(host);
}
