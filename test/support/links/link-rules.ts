/**
 * What can be wrong with the links between the nodes of a cluster, and between its clients and them.
 *
 * A link is one direction between two places: what `from` sends to `to`, whoever opened the connection. TCP does not lose bytes
 * out of the middle of a stream, so a cut holds them back until it is mended, as retransmission would; "lost" bytes break their
 * connection when the link is mended, as a middlebox does that forgot it.
 */

/** A node's label, or CLIENT for everyone else. */
export type Place = string;

/** The place of everyone who is not a node. */
export const CLIENT: Place = "client";

/** How a link behaves. An absent field means that all is well in that respect. */
export interface LinkRule {
  /** Bytes, also the end of a stream, wait until the rule is taken away: a cut, a frozen peer. */
  readonly hold?: boolean;
  /** Bytes vanish; connections that lost some are reset when the rule is taken away. */
  readonly lose?: boolean;
  /** New connections are reset at once, and so are those that exist. Counts for who opens towards `to`. */
  readonly refuse?: boolean;
  /** Every piece is late by this, and by up to `jitterMs` more, but never overtakes. */
  readonly delayMs?: number;
  readonly jitterMs?: number;
}

/** Names a link in maps. */
export function linkKey(from: Place, to: Place): string {
  return `${from}>${to}`;
}

/** Where the proxy listens for connections to one node, and where it passes them on. */
export interface ProxyTarget {
  readonly place: Place;
  /** Ports: nodes connect to `peer`, clients to the other two. */
  readonly peerPort: number;
  readonly clientPort: number;
  readonly httpPort: number;
  readonly nodeGrpcPort: number;
  readonly nodeHttpPort: number;
}

/** What a proxy did to traffic since it was started. */
export interface LinkCounts {
  readonly connections: number;
  readonly bytes: number;
  readonly heldPieces: number;
  readonly lostPieces: number;
  readonly delayedPieces: number;
  readonly resets: number;
  readonly refused: number;
}

/** What the test asks of the proxy's process; every request is answered with its id. */
export type ProxyRequest =
  | { readonly id: number; readonly kind: "open"; readonly targets: readonly ProxyTarget[] }
  | { readonly id: number; readonly kind: "process"; readonly place: Place; readonly pid: number }
  | { readonly id: number; readonly kind: "rules"; readonly rules: Readonly<Record<string, LinkRule>> }
  | { readonly id: number; readonly kind: "reset"; readonly links: readonly string[] }
  | { readonly id: number; readonly kind: "counts" };

/** An answer of the proxy's process. */
export interface ProxyAnswer {
  readonly id: number;
  readonly counts?: LinkCounts;
  readonly error?: string;
}
