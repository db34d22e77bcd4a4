/** Placement of extents and order of readers. */
import { expect } from "chai";
import { chooseTargets, rankReaders, type NodeCandidate } from "../../../src/routing/placement.ts";

const GIB = 1024 ** 3;

function node(memberId: number, overrides: Partial<NodeCandidate> = {}): NodeCandidate {
  return {
    memberId,
    zone: "",
    freeBytes: 100 * GIB,
    load: 0,
    health: "up",
    acceptsWrites: true,
    ...overrides,
  };
}

describe("chooseTargets()", () => {
  it("takes distinct zones before space and load", () => {
    const nodes = [
      node(1, { zone: "a", freeBytes: 900 * GIB }),
      node(2, { zone: "a", freeBytes: 800 * GIB }),
      node(3, { zone: "b", freeBytes: 10 * GIB, load: 9 }),
      node(4, { zone: "c", freeBytes: 20 * GIB }),
    ];

    expect(chooseTargets(nodes, { count: 3, seedForTies: 0 })).to.deep.equal([1, 4, 3]);
    expect(chooseTargets(nodes, { count: 4, seedForTies: 0 })).to.deep.equal([1, 4, 3, 2]);
  });

  it("avoids zones that hold copies already while there are others", () => {
    const nodes = [node(1, { zone: "a", freeBytes: 900 * GIB }), node(2, { zone: "b" })];

    expect(chooseTargets(nodes, { count: 1, usedZones: ["a"], seedForTies: 0 })).to.deep.equal([2]);
    expect(chooseTargets(nodes, { count: 1, usedZones: ["a", "b"], seedForTies: 0 })).to.deep.equal([1]);
  });

  it("prefers space, and load among nodes with about as much of it", () => {
    const nodes = [
      node(1, { load: 5 }),
      node(2, { freeBytes: 101 * GIB, load: 7 }),
      node(3, { freeBytes: 300 * GIB, load: 9 }),
    ];

    expect(chooseTargets(nodes, { count: 3, seedForTies: 0 })).to.deep.equal([3, 1, 2]);
  });

  it("never takes nodes that are down, refuse writes or are excluded", () => {
    const nodes = [node(1, { health: "down" }), node(2, { acceptsWrites: false }), node(3), node(4)];

    expect(chooseTargets(nodes, { count: 3, exclude: [4], seedForTies: 0 })).to.deep.equal([3]);
  });

  it("takes suspect nodes only when there are not enough others, even in a zone used twice", () => {
    const nodes = [node(1, { health: "suspect", zone: "b" }), node(2, { zone: "a" }), node(3, { zone: "a" })];

    expect(chooseTargets(nodes, { count: 2, seedForTies: 0 })).to.have.members([2, 3]);
    expect(chooseTargets(nodes, { count: 3, seedForTies: 0 }).at(-1)).to.equal(1);
  });

  it("spreads ties evenly over seeds, and repeats itself for one seed", () => {
    const nodes = [1, 2, 3, 4, 5].map((id) => node(id * 7_919_000_017));
    const counts = new Map<number, number>();
    for (let seed = 0; seed < 1000; seed += 1) {
      const first = chooseTargets(nodes, { count: 3, seedForTies: seed });
      expect(chooseTargets(nodes.toReversed(), { count: 3, seedForTies: seed })).to.deep.equal(first);
      for (const id of first) counts.set(id, (counts.get(id) ?? 0) + 1);
    }

    for (const count of counts.values()) expect(count).to.be.within(500, 700);
    expect(counts.size).to.equal(5);
  });
});

describe("rankReaders()", () => {
  const verified = (memberId: number) => ({ memberId, state: "verified" as const, checkTimeMs: 0 });

  it("asks itself first, then its zone, then the least loaded", () => {
    const nodes = [
      node(1, { zone: "a" }),
      node(2, { zone: "b", load: 1 }),
      node(3, { zone: "b" }),
      node(4, { zone: "a", load: 9 }),
    ];

    expect(rankReaders([2, 3, 4, 1].map(verified), nodes, 1)).to.deep.equal([1, 4, 3, 2]);
  });

  it("puts suspect nodes and copies behind, and those that are down or pending last", () => {
    const nodes = [node(1, { health: "down" }), node(2, { health: "suspect" }), node(3), node(4), node(5)];
    const replicas = [
      verified(1),
      verified(2),
      { memberId: 3, state: "suspect" as const, checkTimeMs: 0 },
      { memberId: 4, state: "pending" as const, checkTimeMs: 0 },
      verified(5),
      verified(99),
    ];

    expect(rankReaders(replicas, nodes, 0)).to.deep.equal([5, 2, 3, 4, 1]);
  });

  it("does not read its own damaged copy while another is good", () => {
    const replicas = [{ memberId: 1, state: "suspect" as const, checkTimeMs: 0 }, verified(2)];

    expect(rankReaders(replicas, [node(1), node(2)], 1)).to.deep.equal([2, 1]);
  });
});
