/**
 * Goal: a drained member ends up without copies and every file keeps three verified ones all the time; a member that holds too
 * much gives to those that hold less; nobody is filled beyond the mark. Method: whole data planes over the real state machine,
 * repair and rebalancing under the test's clock.
 */
import { expect } from "chai";
import { CopyMaker } from "../../../src/replication/copy-maker.ts";
import { ExtentLocks } from "../../../src/replication/extent-locks.ts";
import { IMBALANCE_BYTES_MIN, MOVING_COUNT_MAX, Rebalancer } from "../../../src/replication/rebalancer.ts";
import { HIGH_WATER_SHARE } from "../../../src/replication/placement.ts";
import { LOST_AFTER_MS_DEFAULT, Repair } from "../../../src/replication/repair.ts";
import { ReplicaCopier } from "../../../src/replication/replica-copier.ts";
import { counters, dropList } from "../../../src/metadata/view.ts";
import { inlineDigester } from "../../../src/std/digest.ts";
import { idleLoad } from "../../support/fake-detector.ts";
import { registrationOf } from "../../support/memory-metadata-port.ts";
import { freePace, patternBytes, streamOf, TestDrives, uploadOf } from "../../support/use-drives.ts";

async function put(drives: TestDrives, count: number): Promise<void> {
  for (let i = 0; i < count; i += 1) {
    await drives.drive().putFile(uploadOf(`/f${i}`), streamOf(patternBytes(1000, i)));
    await drives.node(1).plane.chores.idle();
  }
}

function startLoops(drives: TestDrives, memberIds: readonly number[]): { stop(): Promise<void> }[] {
  return memberIds.flatMap((memberId) => {
    const { plane, assignments } = drives.node(memberId);
    const { clock, metadata, detector, placement, budget } = plane;
    const onBadReplica = plane.reports.reportBad.bind(plane.reports);
    const copier = new ReplicaCopier({
      ...freePace(clock),
      ...{ ports: drives.replicas, detector, digester: inlineDigester, budget, memberId, onBadReplica },
    });
    const locks = new ExtentLocks();
    const copies = new CopyMaker({ clock, metadata, assignments, placement, copier, locks });
    const repair = new Repair({ clock, metadata, detector, placement, copies });
    const rebalancer = new Rebalancer({ clock, metadata, detector, placement });
    repair.start();
    rebalancer.start();
    return [repair, rebalancer];
  });
}

async function stopAll(loops: readonly { stop(): Promise<void> }[]): Promise<void> {
  for (const loop of loops) await loop.stop();
}

async function copiesAt(drives: TestDrives, memberId: number, count: number): Promise<number> {
  let copies = 0;
  for (let i = 0; i < count; i += 1) {
    const { nodeIds } = await drives.drive().durability({ path: `/f${i}` });
    if (nodeIds.includes(`node-${memberId}`)) copies += 1;
  }
  return copies;
}

describe("Rebalancer", () => {
  it("empties a drained member, and no file ever has fewer than three verified copies meanwhile", async () => {
    const drives = new TestDrives(4);
    const count = MOVING_COUNT_MAX + 16;
    await put(drives, count);
    expect(await copiesAt(drives, 2, count)).to.be.greaterThan(0);
    let fewest = 3;
    let most = 0;
    drives.tree.onPropose = () => {
      const { replicas } = counters(drives.tree.store);
      if (replicas.underReplicatedCount > 0) fewest = 2;
      most = Math.max(most, replicas.movingCount);
    };

    await drives.drive().setDraining("node-2", true);
    const loops = startLoops(drives, [1, 2, 3, 4]);
    await drives.clock.advance(60_000);
    await stopAll(loops);

    expect(await copiesAt(drives, 2, count)).to.equal(0);
    expect(fewest).to.equal(3);
    expect(most).to.be.within(1, MOVING_COUNT_MAX);
    expect(counters(drives.tree.store).replicas).to.include({ fullyReplicatedCount: count, movingCount: 0 });
    expect(dropList(drives.tree.store, 2, 1000).length).to.be.greaterThan(0);
  });

  it("gives a drained member nothing new, until draining ends", async () => {
    const drives = new TestDrives(4);
    await drives.drive().setDraining("node-2", true);
    await put(drives, 8);
    expect(await copiesAt(drives, 2, 8)).to.equal(0);
    await drives.drive().setDraining("node-2", false);
    for (let i = 0; i < 8; i += 1) await drives.drive().remove({ path: `/f${i}` }, { recursive: false });
    await put(drives, 8);
    expect(await copiesAt(drives, 2, 8)).to.be.greaterThan(0);
  });

  it("leaves everything where it is while no other member can take it", async () => {
    const drives = new TestDrives(3);
    await put(drives, 3);
    await drives.drive().setDraining("node-2", true);
    const loops = startLoops(drives, [1, 2, 3]);
    await drives.clock.advance(30_000);
    await stopAll(loops);
    expect(await copiesAt(drives, 2, 3)).to.equal(3);
    expect(drives.tree.count("assign-replica")).to.equal(0);
  });

  it("moves copies from a member that holds much more to one that holds less, and never to a full one", async () => {
    for (const isFull of [false, true]) {
      const drives = new TestDrives(4);
      drives.kill(4);
      await put(drives, 6);
      drives.revive(4);
      for (const [memberId, liveBytes] of [
        [1, 2 * IMBALANCE_BYTES_MIN],
        [2, 8 * IMBALANCE_BYTES_MIN],
        [3, 2 * IMBALANCE_BYTES_MIN],
        [4, 0],
      ] as const) {
        const freeBytes = memberId === 4 && isFull ? 1e11 : 1e12;
        drives.detector.loads.set(memberId, idleLoad({ liveBytes, freeBytes }));
      }
      const loops = startLoops(drives, [1, 2, 3, 4]);
      await drives.clock.advance(30_000);
      await stopAll(loops);
      expect(await copiesAt(drives, 4, 6)).to.equal(isFull ? 0 : 6);
      expect(await copiesAt(drives, 2, 6)).to.equal(isFull ? 6 : 0);
    }
  });
});

describe("Zones", () => {
  const ZONES = ["a", "b", "c"];
  const FILE_COUNT = 24;
  /** Members 1 to 3 vote, 4 to 7 are storage-only; by turns in zones a, b and c. */
  const MEMBERS = [1, 2, 3, 4, 5, 6, 7];
  const zoneOf = (memberId: number): string => ZONES[(memberId - 1) % 3] ?? "";

  /** Members whose disks are very unlike: zone a has nearly all of the space. */
  function setUp(): TestDrives {
    const drives = new TestDrives(MEMBERS.length);
    for (const memberId of MEMBERS) {
      const isStorageOnly = memberId > 3;
      const node = registrationOf(memberId, { zone: zoneOf(memberId), isStorageOnly });
      drives.tree.apply({ kind: "register-node", node });
      const freeBytes = zoneOf(memberId) === "a" ? 8e12 : 2e11 * memberId;
      drives.detector.loads.set(memberId, idleLoad({ freeBytes, totalBytes: 9e12 }));
    }
    return drives;
  }

  async function holdersOf(drives: TestDrives, at: number): Promise<readonly number[]> {
    const { nodeIds } = await drives.drive().durability({ path: `/f${at}` });
    return nodeIds.map((nodeId) => Number(nodeId.replace("node-", "")));
  }

  it("have one copy each, however uneven their space is, and every member takes part by its space", async () => {
    const drives = setUp();
    await put(drives, FILE_COUNT);
    for (let at = 0; at < FILE_COUNT; at += 1) {
      const holders = await holdersOf(drives, at);
      expect(new Set(holders.map(zoneOf)).size, `copies at ${holders.join()}`).to.equal(3);
    }
  });

  it("may be lost as a whole: the copies are made anew in the others, but never on a disk above its high-water mark", async () => {
    const drives = setUp();
    await put(drives, FILE_COUNT);
    const gone = MEMBERS.filter((memberId) => zoneOf(memberId) === "c");
    const rest = MEMBERS.filter((memberId) => zoneOf(memberId) !== "c");
    const fullId = 5;
    const before = await copiesAt(drives, fullId, FILE_COUNT);
    const full = idleLoad({ freeBytes: 9e12 * (1 - HIGH_WATER_SHARE) - 1, totalBytes: 9e12 });
    drives.detector.loads.set(fullId, full);
    for (const memberId of rest) {
      if (memberId !== fullId) {
        drives.detector.loads.set(memberId, idleLoad({ freeBytes: 8e12, totalBytes: 9e12 }));
      }
    }
    for (const memberId of gone) {
      drives.kill(memberId);
      drives.detector.sinceMs.set(memberId, LOST_AFTER_MS_DEFAULT);
    }
    const loops = startLoops(drives, rest);
    await drives.clock.advance(10_000);
    expect(drives.tree.count("declare-lost")).to.equal(gone.length);
    // What the leader's housekeeping does.
    for (const _ of gone) drives.tree.apply({ kind: "recount" });
    await drives.clock.advance(120_000);
    await stopAll(loops);

    for (let at = 0; at < FILE_COUNT; at += 1) {
      const holders = await holdersOf(drives, at);
      expect(
        holders.filter((memberId) => rest.includes(memberId)),
        `/f${at}`,
      ).to.have.length(3);
      expect([...new Set(holders.map(zoneOf))].sort()).to.deep.equal(["a", "b"]);
    }
    expect(await copiesAt(drives, fullId, FILE_COUNT)).to.equal(before);
  });
});
