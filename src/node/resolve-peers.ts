/**
 * The configured peers as addresses to ask: each entry itself and, for a host name, every address that it has now. So one name
 * with several addresses (a headless service, a container service) leads to all of its nodes; asked anew it follows changes.
 */
import { lookup } from "node:dns/promises";
import { isIP } from "node:net";

/** Addresses of one name that are used; more would be asked in vain for long. */
export const ADDRESSES_PER_NAME_MAX = 64;

/** host:port of every node behind `peers`, each once, those of the list first. A name that cannot be resolved stays as it is. */
export async function resolvePeers(peers: readonly string[]): Promise<readonly string[]> {
  const resolved = await Promise.all(peers.map(resolveOne));
  return [...new Set([...peers, ...resolved.flat()])];
}

async function resolveOne(peer: string): Promise<readonly string[]> {
  const at = peer.lastIndexOf(":");
  const host = peer.slice(0, at).replace(/^\[|\]$/g, "");
  const port = peer.slice(at + 1);
  if (isIP(host) !== 0) return [];
  try {
    const found = await lookup(host, { all: true });
    return found
      .slice(0, ADDRESSES_PER_NAME_MAX)
      .map(({ address, family }) => (family === 6 ? `[${address}]:${port}` : `${address}:${port}`));
  } catch {
    // Not known yet: the name may appear later, and the connection itself reports what is wrong with it.
    return [];
  }
}
