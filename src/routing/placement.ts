/**
 * Which members hold an extent, and in which order a reader asks them. Pure: all that is known of the nodes comes in.
 *
 * Targets go to distinct zones first, then to the most free space, then to the least load. Space is compared in classes of an
 * eighth of a power of two, so that a few bytes more do not send every upload to one node; within a class load decides, then a
 * seeded shuffle. A node that is down or refuses writes is never chosen; a suspect one only when there are not enough others.
 */
import type { NodeHealth } from "../drive/drive-api.ts";
import type { Replica } from "../drive/content.ts";
import { assert } from "../std/assert.ts";

/** A node as placement sees it. */
export interface NodeCandidate {
  readonly memberId: number;
  /** "" when the operator named none: then every such node counts as a zone of its own. */
  readonly zone: string;
  readonly freeBytes: number;
  /** Work in hand, in any unit that is the same for all nodes; less is better. */
  readonly load: number;
  readonly health: NodeHealth;
  /** Whether its chunk store takes writes (space left, not draining). */
  readonly acceptsWrites: boolean;
}

/** What is to be chosen. */
export interface TargetRequest {
  /** How many members are wanted, at least 1. */
  readonly count: number;
  /** Members that must not be chosen: those that hold a copy already, or failed. */
  readonly exclude?: readonly number[] | undefined;
  /** Zones that hold copies already and are chosen only when no other is left. */
  readonly usedZones?: readonly string[] | undefined;
  /** Breaks ties; any safe integer. The same input and seed give the same choice. */
  readonly seedForTies: number;
}

/**
 * Chooses up to `count` members, best first; fewer when there are not enough.
 * @returns member ids, all different
 */
export function chooseTargets(nodes: readonly NodeCandidate[], request: TargetRequest): readonly number[] {
  assert(request.count >= 1, `${request.count} targets are wanted`);
  const excluded = new Set(request.exclude);
  const usable = nodes.filter(
    (node) => node.health !== "down" && node.acceptsWrites && !excluded.has(node.memberId),
  );
  const ranked = usable
    .map((node) => ({ node, tie: scramble(node.memberId, request.seedForTies) }))
    .sort((a, b) => compareCandidates(a.node, b.node) || a.tie - b.tie || a.node.memberId - b.node.memberId)
    .map(({ node }) => node);
  const zones = new Set(request.usedZones?.filter((zone) => zone !== ""));
  const chosen: NodeCandidate[] = [];
  // Trusted nodes in new zones, trusted nodes anywhere, then the suspect ones likewise.
  for (const health of ["up", "suspect"] as const) {
    for (const newZonesOnly of [true, false]) {
      for (const node of ranked) {
        if (chosen.length >= request.count) return chosen.map((each) => each.memberId);
        if (node.health !== health || chosen.includes(node)) continue;
        if (newZonesOnly && node.zone !== "" && zones.has(node.zone)) continue;
        chosen.push(node);
        zones.add(node.zone);
      }
    }
  }
  return chosen.map((each) => each.memberId);
}

function compareCandidates(a: NodeCandidate, b: NodeCandidate): number {
  return spaceClass(b.freeBytes) - spaceClass(a.freeBytes) || a.load - b.load;
}

function spaceClass(freeBytes: number): number {
  return Math.floor(8 * Math.log2(Math.max(1, freeBytes)));
}

// A number that depends on both in no visible way (the finaliser of MurmurHash3).
function scramble(memberId: number, seed: number): number {
  let x = (memberId ^ Math.floor(memberId / 0x100000000) ^ Math.imul(seed, 0x9e3779b1)) | 0;
  x = Math.imul(x ^ (x >>> 16), 0x85ebca6b);
  x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35);
  return (x ^ (x >>> 16)) >>> 0;
}

/**
 * Orders the members that hold a copy for a reader on member `self`: its own copy first, then healthy nodes by load, its own
 * zone before others; then suspect nodes and copies; pending copies and nodes that are down come last, for when nothing else
 * is left, because a failure detector may be wrong. Members that are not among `nodes` are left out.
 */
export function rankReaders(
  replicas: readonly Replica[],
  nodes: readonly NodeCandidate[],
  self: number,
): readonly number[] {
  const byId = new Map(nodes.map((node) => [node.memberId, node]));
  const zone = byId.get(self)?.zone ?? "";
  const rank = (replica: Replica, node: NodeCandidate): number => {
    const trust = { verified: 0, suspect: 4, corrupt: 5, lost: 6, pending: 8 }[replica.state];
    if (node.memberId === self) return trust;
    return trust + { up: 1, suspect: 2, down: 16 }[node.health];
  };
  return replicas
    .flatMap((replica) => {
      const node = byId.get(replica.memberId);
      return node === undefined
        ? []
        : [{ node, rank: rank(replica, node), far: zone !== "" && node.zone !== zone }];
    })
    .sort(
      (a, b) =>
        a.rank - b.rank ||
        Number(a.far) - Number(b.far) ||
        a.node.load - b.node.load ||
        a.node.memberId - b.node.memberId,
    )
    .map(({ node }) => node.memberId);
}
