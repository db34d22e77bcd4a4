/** Whom to ask while a node leaves the cluster: it stops answering in the middle, and may be the only one that was named. Pure. */

/** What is known of a node. */
export interface AddressedNode {
  readonly nodeId: string;
  readonly memberId: number;
  /** host:port of gRPC. */
  readonly address: string;
  readonly health: string;
}

/** Whom to ask, as "host:port". */
export interface WatchingAddresses {
  /** Until the change has begun: all, those that were given first. */
  readonly before: readonly string[];
  /** From then on: without the one that leaves, unless nobody else is known. */
  readonly after: readonly string[];
}

/** The node of this name or member id; undefined when there is none. */
export function findNode<Node extends AddressedNode>(
  nodes: readonly Node[],
  name: string | undefined,
): Node | undefined {
  return nodes.find(({ nodeId, memberId }) => nodeId === name || String(memberId) === name);
}

/**
 * Whom to ask while `leaving` leaves.
 * @param given as the user named them: the way in from here, so they come first; they may be other names than the nodes have
 * @param seen the nodes, and which of them answered
 */
export function watchingAddresses(
  given: readonly string[],
  seen: { readonly nodeId: string; readonly nodes: readonly AddressedNode[] },
  leaving: string,
): WatchingAddresses {
  const node = findNode(seen.nodes, leaving);
  const isUp = ({ health }: AddressedNode): boolean => health === "up";
  const others = [...seen.nodes.filter(isUp), ...seen.nodes.filter((each) => !isUp(each))].filter(
    (each) => each !== node && each.address !== "",
  );
  // Where one address was given, whoever answered is behind it, under whatever name.
  const isOnlyLeaving = given.length === 1 && node !== undefined && seen.nodeId === node.nodeId;
  const kept = isOnlyLeaving ? [] : given.filter((address) => address !== node?.address);
  const known = others.map(({ address }) => address);
  const after = [...new Set([...kept, ...known])];
  return { before: [...new Set([...given, ...known])], after: after.length > 0 ? after : given };
}
