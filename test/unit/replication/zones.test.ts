/**
 * Goal: copies are in distinct zones, by space, and a whole zone may be lost. Method: whole data planes over the real state machine,
 * with all loops that make copies under the test's clock.
 */
import { expect } from "chai";
import { HIGH_WATER_SHARE } from "../../../src/drive/limits.ts";
import { LOST_AFTER_MS_DEFAULT } from "../../../src/replication/repair.ts";
import { CopyLoops } from "../../support/copy-loops.ts";
import { idleLoad } from "../../support/fake-detector.ts";
import { registrationOf } from "../../support/memory-metadata-port.ts";
import { copiesAt, putMany as put, TestDrives } from "../../support/use-drives.ts";

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
    const loops = new CopyLoops(drives, rest);
    await loops.pass(10_000);
    expect(drives.tree.count("declare-lost")).to.equal(gone.length);
    // What the leader's housekeeping does.
    for (const _ of gone) drives.tree.apply({ kind: "recount" });
    await loops.pass(120_000);
    await loops.stop();

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
