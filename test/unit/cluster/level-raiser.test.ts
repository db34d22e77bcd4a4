/** Goal: the level is raised when every member supports the next one, and for nobody less. Method: members as their heartbeats say. */
import { expect } from "chai";
import { Housekeeping } from "../../../src/cluster/housekeeping.ts";
import { raisableLevel } from "../../../src/cluster/level-raiser.ts";
import { MetadataClient } from "../../../src/cluster/metadata-client.ts";
import type { FeatureLevels } from "../../../src/drive/feature-levels.ts";
import { featureLevel } from "../../../src/metadata/feature-level.ts";
import { SeededPrng } from "../../../src/std/prng.ts";
import { FakeClock } from "../../support/fake-clock.ts";
import { FakeDetector, idleLoad } from "../../support/fake-detector.ts";
import { MemoryTree, registrationOf } from "../../support/memory-metadata-port.ts";

const NEW: FeatureLevels = { min: 1, max: 2 };

function setUp(memberIds: readonly number[] = [1, 2, 3]) {
  const clock = new FakeClock();
  const tree = new MemoryTree(clock);
  const detector = new FakeDetector(memberIds);
  for (const id of memberIds) {
    tree.apply({ kind: "register-node", node: registrationOf(id) });
    detector.loads.set(id, idleLoad({ featureLevels: NEW }));
  }
  const raisable = (consensusIds = memberIds, own = NEW): number | undefined =>
    raisableLevel({ reader: tree.store, consensusIds, detector, own });
  return { clock, tree, detector, raisable };
}

describe("raisableLevel()", () => {
  it("is the newest level when every member supports it", () => {
    expect(setUp().raisable()).to.equal(2);
  });

  it("is none when the cluster has it", () => {
    const { tree, raisable } = setUp();
    tree.apply({ kind: "raise-feature-level", level: 2 });

    expect(raisable()).to.equal(undefined);
  });

  for (const [what, member] of [
    ["a voter", 2],
    ["a storage-only member", 3],
  ] as const) {
    it(`is none while ${what} is of a version before there were levels`, () => {
      const { detector, raisable } = setUp();
      detector.loads.set(member, idleLoad());

      expect(raisable([1, 2])).to.equal(undefined);
    });
  }

  it("is none while a learner has not registered, or a member does not answer", () => {
    const { detector, raisable } = setUp();
    detector.health.set(4, "down");
    expect(raisable([1, 2, 3, 4])).to.equal(undefined);
    detector.health.delete(4);
    detector.health.set(3, "suspect");
    expect(raisable()).to.equal(undefined);
    detector.health.delete(3);
    expect(raisable()).to.equal(2);
  });

  it("is what the oldest of several versions supports", () => {
    const { detector, raisable } = setUp();
    detector.loads.set(2, idleLoad({ featureLevels: { min: 1, max: 3 } }));

    expect(raisable([1, 2, 3], { min: 1, max: 4 })).to.equal(2);
  });

  it("waits from the second level on until every registration says it too", () => {
    const { tree, detector, raisable } = setUp();
    const newest = { min: 1, max: 3 };
    tree.apply({ kind: "raise-feature-level", level: 2 });
    for (const id of [1, 2, 3]) detector.loads.set(id, idleLoad({ featureLevels: newest }));
    expect(raisable([1, 2, 3], newest)).to.equal(undefined);

    for (const id of [1, 2, 3]) {
      tree.apply({ kind: "register-node", node: registrationOf(id, { featureLevelMax: 3 }) });
    }

    expect(raisable([1, 2, 3], newest)).to.equal(3);
  });

  it("waits until a node that is being added belongs", () => {
    const { tree, raisable } = setUp();
    const tokenHash = new Uint8Array(32);
    tree.apply({ kind: "issue-join-token", tokenHash, lifetimeMs: 60_000, replacesMemberId: 0 });
    tree.apply({
      ...{ kind: "admit-member", tokenHash, memberId: 4, nodeId: "n4" },
      ...{ address: "d:1", isStorageOnly: true },
    });

    expect(raisable()).to.equal(undefined);
  });
});

describe("the leader", () => {
  it("raises the level within two seconds of the last upgrade, once, and nobody else does", async () => {
    const { clock, tree, detector, raisable } = setUp();
    detector.loads.set(3, idleLoad());
    const raised: number[] = [];
    const loops = [1, 2].map(
      (memberId) =>
        new Housekeeping({
          ...{ clock, prng: new SeededPrng(memberId), raisableLevel: () => raisable() },
          metadata: new MetadataClient(tree.port(memberId), new SeededPrng(memberId)),
          onRaised: (level) => raised.push(level),
        }),
    );
    for (const loop of loops) loop.start();
    await clock.advance(5_000);
    expect(featureLevel(tree.store)).to.equal(1);

    detector.loads.set(3, idleLoad({ featureLevels: NEW }));
    await clock.advance(2_000);
    for (const loop of loops) await loop.stop();

    expect(featureLevel(tree.store)).to.equal(2);
    expect(raised).to.deep.equal([2]);
    expect(tree.count("raise-feature-level")).to.equal(1);
  });
});
